//! Rows of a view as they are kept in memory: cut into chunks, with what they are compared by beside their values.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, make_comparator};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::common::{internal_datafusion_err, plan_datafusion_err};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::index::ROW_BYTES_MAX;
use super::keys::{KeyEncoder, KeyValues, rows_by_shard};
use super::time::{Unit, mirrored, rescaled, ticks};

const ROW_BITS: u32 = 16;

/// Rows of a chunk at most.
pub(super) const CHUNK_ROWS_MAX: usize = 1 << ROW_BITS;

/// Chunks of a view in memory at most; with more of them, a view counts as one that does not fit.
const CHUNKS_MAX: usize = 1 << (u32::BITS - ROW_BITS);

/// Where a row lies, in 32 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Address(u32);

impl Address {
    fn new(chunk: usize, row: usize) -> Self {
        debug_assert!(chunk < CHUNKS_MAX && row < CHUNK_ROWS_MAX);
        Self((chunk as u32) << ROW_BITS | row as u32)
    }

    #[inline]
    pub(super) fn chunk(self) -> usize {
        (self.0 >> ROW_BITS) as usize
    }

    #[inline]
    pub(super) fn row(self) -> usize {
        self.0 as usize & (CHUNK_ROWS_MAX - 1)
    }
}

/// What the columns of a view are for.
#[derive(Debug)]
pub(super) struct ViewColumns {
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) event_time: Arc<dyn PhysicalExpr>,
    pub(super) known_time: Option<Arc<dyn PhysicalExpr>>,
    pub(super) offset: Option<Arc<dyn PhysicalExpr>>,
    /// The columns that are wanted, as they are numbered in the view.
    pub(super) payload: Vec<usize>,
    pub(super) encoder: KeyEncoder,
    /// The unit of all ticks of the view.
    pub(super) unit: Unit,
    pub(super) is_mirrored: bool,
}

impl ViewColumns {
    pub(super) fn read(&self, batch: &RecordBatch) -> Result<Chunk> {
        let rows = batch.num_rows();
        let columns = self.keys.iter().map(|key| evaluated(key, batch)).collect::<Result<Vec<_>>>()?;
        let (keys, key_nulls) = self.encoder.encode(&columns, rows)?;
        let (mut events, event_nulls) = self.ticks_of(&self.event_time, batch)?;
        if self.is_mirrored {
            events = events.iter().map(|tick| mirrored(*tick)).collect();
        }
        let known = self.known_time.as_ref().map(|time| self.ticks_of(time, batch)).transpose()?;
        let (knowns, known_nulls) = known.map_or((None, None), |(ticks, nulls)| (Some(ticks), nulls));
        let offsets = match &self.offset {
            Some(offset) => {
                let offsets = cast(&evaluated(offset, batch)?, &DataType::Int64)?;
                Some(offsets.as_primitive::<Int64Type>().clone())
            }
            None => None,
        };
        let nulls = NullBuffer::union_many([key_nulls.as_ref(), event_nulls.as_ref(), known_nulls.as_ref()]);
        let payload = self.payload.iter().map(|column| batch.column(*column).clone()).collect();
        Ok(Chunk { keys, events, knowns, offsets, payload, nulls })
    }

    fn ticks_of(
        &self,
        time: &Arc<dyn PhysicalExpr>,
        batch: &RecordBatch,
    ) -> Result<(ScalarBuffer<i64>, Option<NullBuffer>)> {
        let array = evaluated(time, batch)?;
        let unit = unit_of(array.data_type())?;
        let nulls = array.nulls().cloned();
        Ok((rescaled(ticks(&array)?, nulls.as_ref(), unit, self.unit)?, nulls))
    }

    /// The columns of a file with rows of this view: those that rows are compared by, then `payload`.
    pub(super) fn spilled_schema(&self, payload: &[FieldRef]) -> SchemaRef {
        let mut fields =
            vec![Arc::new(Field::new("key", KeyValues::data_type(self.encoder.is_bytes()), false))];
        fields.extend(self.rank_fields());
        fields.extend(payload.iter().cloned());
        Arc::new(Schema::new(fields))
    }

    /// Event time, known time and offset as whole numbers, as far as the view has them.
    pub(super) fn rank_fields(&self) -> Vec<FieldRef> {
        let field = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
        let mut fields = vec![field("event_tick")];
        fields.extend(self.known_time.iter().map(|_| field("known_tick")));
        fields.extend(self.offset.iter().map(|_| field("offset")));
        fields
    }

    /// What a file with [`spilled_schema`](Self::spilled_schema) holds. The ranks are a part of the payload then,
    /// after the columns that are wanted.
    pub(super) fn read_spilled(&self, batch: &RecordBatch) -> Result<Chunk> {
        let ranks = self.rank_fields().len();
        let number = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        let has_known = self.known_time.is_some();
        let columns = batch.columns();
        let payload = columns[1 + ranks..].iter().chain(&columns[1..1 + ranks]).cloned().collect();
        Ok(Chunk {
            keys: KeyValues::from_array(batch.column(0))?,
            events: number(1).values().clone(),
            knowns: has_known.then(|| number(2).values().clone()),
            offsets: self.offset.is_some().then(|| number(ranks).clone()),
            payload,
            nulls: None,
        })
    }
}

/// What `expression` is for the rows of `batch`.
pub(super) fn evaluated(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(batch)?.into_array(batch.num_rows())
}

/// The unit of the times in a column of this type.
pub(super) fn unit_of(data_type: &DataType) -> Result<Unit> {
    Unit::of(data_type).ok_or_else(|| {
        plan_datafusion_err!(
            "{data_type} cannot be compared as a time: cast it to a timestamp, a date or an integer"
        )
    })
}

/// Some rows of a view, at most [`CHUNK_ROWS_MAX`].
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) keys: KeyValues,
    pub(super) events: ScalarBuffer<i64>,
    pub(super) knowns: Option<ScalarBuffer<i64>>,
    pub(super) offsets: Option<Int64Array>,
    pub(super) payload: Vec<ArrayRef>,
    /// Rows without a key or a time, which belong to no row of any spine.
    pub(super) nulls: Option<NullBuffer>,
}

impl Chunk {
    pub(super) fn rows(&self) -> usize {
        self.events.len()
    }

    /// Bytes held, and those of the index over these rows, at most: what has to be there before there is one.
    pub(super) fn memory_bytes(&self) -> usize {
        let payload: usize = self.payload.iter().map(|column| column.get_array_memory_size()).sum();
        let offsets = self.offsets.as_ref().map_or(0, Array::get_array_memory_size);
        let ticks = self.rows() * 8 * (1 + usize::from(self.knowns.is_some()));
        payload + self.keys.memory_bytes() + ticks + offsets + self.rows() * ROW_BYTES_MAX
    }

    /// The rows that can belong to a row of a spine, by the shard of their keys.
    pub(super) fn rows_by_shard(&self) -> Vec<Vec<u32>> {
        rows_by_shard(&self.keys, self.nulls.as_ref())
    }

    /// These rows as a file with [`ViewColumns::spilled_schema`] holds them.
    pub(super) fn spilled(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let number = |ticks: &ScalarBuffer<i64>| Arc::new(Int64Array::new(ticks.clone(), None)) as ArrayRef;
        let mut columns = vec![self.keys.array(), number(&self.events)];
        columns.extend(self.knowns.iter().map(number));
        columns.extend(self.offsets.iter().map(|offsets| Arc::new(offsets.clone()) as ArrayRef));
        columns.extend(self.payload.iter().cloned());
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

/// A row on its way into the index.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    /// From this tick on the row may be used: it has happened and is known. The later of both times.
    pub(super) available: i64,
    pub(super) event: i64,
    pub(super) address: Address,
}

/// All rows of a view that are in memory, or those of one shard.
#[derive(Debug)]
pub(super) struct ViewRows {
    pub(super) chunks: Vec<Chunk>,
    /// Per shard, the rows in it.
    pub(super) shards: Vec<Vec<Address>>,
}

impl ViewRows {
    pub(super) fn new(shards: usize) -> Self {
        Self { chunks: Vec::new(), shards: vec![Vec::new(); shards] }
    }

    /// Whether rows cannot be counted in 32 bits any more.
    pub(super) fn is_full(&self) -> bool {
        self.chunks.len() == CHUNKS_MAX
    }

    pub(super) fn push(&mut self, chunk: Chunk) -> Result<()> {
        if self.is_full() || chunk.rows() > CHUNK_ROWS_MAX {
            return Err(internal_datafusion_err!("{} rows are no chunk", chunk.rows()));
        }
        let number = self.chunks.len();
        match &mut self.shards[..] {
            [all] => all.extend((0..chunk.rows()).map(|row| Address::new(number, row))),
            shards => {
                for (shard, rows) in shards.iter_mut().zip(chunk.rows_by_shard()) {
                    shard.extend(rows.into_iter().map(|row| Address::new(number, row as usize)));
                }
            }
        }
        self.chunks.push(chunk);
        Ok(())
    }

    pub(super) fn entry(&self, address: Address) -> Entry {
        let (chunk, row) = (&self.chunks[address.chunk()], address.row());
        let event = chunk.events[row];
        let available = chunk.knowns.as_ref().map_or(event, |knowns| event.max(knowns[row]));
        Entry { available, event, address }
    }

    /// The order in which rows become available; of those that do so together, the one that is to win comes last,
    /// unless only their values differ.
    pub(super) fn order(&self, left: &Entry, right: &Entry) -> Ordering {
        left.available.cmp(&right.available).then_with(|| self.rank(left, right))
    }

    /// By event time, known time and offset. A row without an offset comes before those with one.
    pub(super) fn rank(&self, left: &Entry, right: &Entry) -> Ordering {
        left.event.cmp(&right.event).then_with(|| {
            let known = |entry: &Entry| {
                let (chunk, row) = (&self.chunks[entry.address.chunk()], entry.address.row());
                let offset = chunk.offsets.as_ref().and_then(|offsets| offset_at(offsets, row));
                (chunk.knowns.as_ref().map(|knowns| knowns[row]), offset)
            };
            known(left).cmp(&known(right))
        })
    }

    /// By the values of the columns that are wanted, one after the other.
    pub(super) fn values_order(&self, left: Address, right: Address) -> Ordering {
        let of = |address: Address| &self.chunks[address.chunk()].payload;
        values_order(of(left), left.row(), of(right), right.row())
    }
}

pub(super) fn offset_at(offsets: &Int64Array, row: usize) -> Option<i64> {
    offsets.is_valid(row).then(|| offsets.value(row))
}

/// Compares a row of `left` with one of `right`. Types that have no order are passed over.
pub(super) fn values_order(
    left: &[ArrayRef],
    left_row: usize,
    right: &[ArrayRef],
    right_row: usize,
) -> Ordering {
    let orders = left.iter().zip(right).map(|(left, right)| {
        match make_comparator(left, right, SortOptions::default()) {
            Ok(compare) => compare(left_row, right_row),
            Err(_) => Ordering::Equal,
        }
    });
    orders.fold(Ordering::Equal, Ordering::then)
}
