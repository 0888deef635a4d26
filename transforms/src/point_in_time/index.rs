//! What is searched: per key and view, the rows that can be the answer, in the order in which they become available.
//!
//! A row may be used at a time `t` if it has happened by then and was known by then: if its *available* time, the later
//! of both, is at most `t`. Let the rows of a key be sorted by it. The answer at `t` is the highest, by event time,
//! known time and offset, of all rows up to the last available one. A row that is not higher than each row
//! before it is the answer to nothing and is left out. What is left rises in both: the last available row *is* the highest,
//! and one binary search finds it, whatever the known times are. A time to live needs no second search:
//! if the row with the newest event is too old, so is every other.
//!
//! Rows of all views lie together by key, so that the searches for one row of the spine are near each other in memory.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, downcast_primitive,
    new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::groups::{Groups, NO_GROUP, SLOT_BYTES_MAX};
use super::keys::{KeyEncoder, KeyValues, shard_of};
use super::time::{Bounds, ticks};
use super::view::{Address, Entry, ViewRows, evaluated, offset_at, unit_of, values_order};

/// Bytes of an index per row of a view, at most: the address in a shard's list, available and event time, the address,
/// and slots, as if each row had a key of its own. Rows on their way into the index need more for a moment, in a few shards.
pub(super) const ROW_BYTES_MAX: usize = 4 + 8 + 8 + 4 + SLOT_BYTES_MAX;

/// Where the answer lies: in which array of a column, and in which row there.
pub(super) type Place = (usize, usize);

/// No row: the first array of a column is one null.
const NOWHERE: Place = (0, 0);

/// How a row of the spine asks.
#[derive(Debug)]
pub(super) struct SpineColumns {
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) time: Arc<dyn PhysicalExpr>,
    pub(super) encoder: KeyEncoder,
}

impl SpineColumns {
    pub(super) fn read(&self, batch: &RecordBatch) -> Result<SpineRows> {
        let columns = self.keys.iter().map(|key| evaluated(key, batch)).collect::<Result<Vec<_>>>()?;
        let (keys, key_nulls) = self.encoder.encode(&columns, batch.num_rows())?;
        let times = evaluated(&self.time, batch)?;
        unit_of(times.data_type())?;
        let nulls = NullBuffer::union(key_nulls.as_ref(), times.nulls());
        Ok(SpineRows { hashes: keys.hashes(), keys, times: ticks(&times)?, nulls })
    }
}

/// Rows of the spine, ready to ask.
#[derive(Debug)]
pub(super) struct SpineRows {
    pub(super) keys: KeyValues,
    pub(super) hashes: Vec<u64>,
    pub(super) times: ScalarBuffer<i64>,
    /// Rows without a key or a time, which nothing belongs to.
    pub(super) nulls: Option<NullBuffer>,
}

impl SpineRows {
    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }
}

/// The part of an index with the keys of one shard.
#[derive(Debug)]
pub(super) struct Shard {
    groups: Groups,
    views: usize,
    /// The rows of group `g` in view `v` are those from `starts[g * views + v]` to the next start.
    starts: Vec<u32>,
    available: Vec<i64>,
    /// Event times, where they are not the available times.
    events: Vec<i64>,
    addresses: Vec<Address>,
}

impl Shard {
    /// The rows of `views` that are in `shard`.
    pub(super) fn build(views: &[ViewRows], shard: usize) -> Result<Self> {
        let mut groups = Groups::new();
        let mut groups_of = Vec::with_capacity(views.len());
        for view in views {
            let group_of = |address: &Address| {
                let keys = &view.chunks[address.chunk()].keys;
                groups.find_or_add(keys, address.row(), keys.hash(address.row()))
            };
            groups_of.push(view.shards[shard].iter().map(group_of).collect::<Vec<u32>>());
        }
        let rows: usize = groups_of.iter().map(Vec::len).sum();
        if u32::try_from(rows).is_err() {
            return Err(resources_datafusion_err!("{rows} rows of feature views are too many for one index"));
        }
        let starts = starts(&groups_of, groups.len());
        let entries = placed(views, shard, &groups_of, &starts);
        drop(groups_of);
        let needs_events = views.iter().any(|view| view.chunks.iter().any(|chunk| chunk.knowns.is_some()));
        let mut built = Self {
            groups,
            views: views.len(),
            starts,
            available: Vec::with_capacity(rows),
            events: Vec::with_capacity(if needs_events { rows } else { 0 }),
            addresses: Vec::with_capacity(rows),
        };
        built.keep_answers(views, entries, needs_events);
        Ok(built)
    }

    /// Takes the rows of `entries` that are the answer at some time.
    fn keep_answers(&mut self, views: &[ViewRows], mut entries: Vec<Entry>, needs_events: bool) {
        for group in 0..self.groups.len() {
            for (number, view) in views.iter().enumerate() {
                let cell = group * self.views + number;
                let rows = &mut entries[self.starts[cell] as usize..self.starts[cell + 1] as usize];
                // Rows mostly come in the order of time.
                if !rows.is_sorted_by(|left, right| view.order(left, right).is_le()) {
                    rows.sort_by(|left, right| view.order(left, right));
                }
                self.starts[cell] = self.addresses.len() as u32;
                let mut highest: Option<&Entry> = None;
                for row in rows.iter() {
                    if let Some(highest) = highest {
                        let order = view
                            .rank(row, highest)
                            .then_with(|| view.values_order(row.address, highest.address));
                        if order.is_le() {
                            continue;
                        }
                        if row.available == highest.available {
                            self.available.pop();
                            self.events.pop();
                            self.addresses.pop();
                        }
                    }
                    self.available.push(row.available);
                    self.addresses.push(row.address);
                    if needs_events {
                        self.events.push(row.event);
                    }
                    highest = Some(row);
                }
            }
        }
        if let Some(end) = self.starts.last_mut() {
            *end = self.addresses.len() as u32;
        }
        self.available.shrink_to_fit();
        self.events.shrink_to_fit();
        self.addresses.shrink_to_fit();
    }

    fn memory_bytes(&self) -> usize {
        self.groups.memory_bytes()
            + self.starts.capacity() * 4
            + (self.available.capacity() + self.events.capacity()) * 8
            + self.addresses.capacity() * size_of::<Address>()
    }

    /// The row of `view` that belongs to a row of the spine with the key of `group` at `time`.
    #[inline]
    fn answer(&self, group: u32, view: usize, bounds: &Bounds, time: i64) -> Option<Address> {
        let cell = group as usize * self.views + view;
        let (start, end) = (self.starts[cell] as usize, self.starts[cell + 1] as usize);
        let newest = bounds.newest(time)?;
        let count = self.available[start..end].partition_point(|available| *available <= newest);
        let last = start + count.checked_sub(1)?;
        if let Some(oldest) = bounds.oldest(time) {
            let event = self.events.get(last).unwrap_or(&self.available[last]);
            if i128::from(*event) < oldest {
                return None;
            }
        }
        Some(self.addresses[last])
    }
}

/// Where the rows of each group and view begin, and at last where all end.
fn starts(groups_of: &[Vec<u32>], groups: usize) -> Vec<u32> {
    let views = groups_of.len();
    let mut starts = vec![0; groups * views + 1];
    for (view, groups) in groups_of.iter().enumerate() {
        for group in groups {
            starts[*group as usize * views + view + 1] += 1;
        }
    }
    let mut end = 0;
    for start in &mut starts {
        end += *start;
        *start = end;
    }
    starts
}

/// The rows of `shard` by group and view, those of one of each in the order in which they came.
fn placed(views: &[ViewRows], shard: usize, groups_of: &[Vec<u32>], starts: &[u32]) -> Vec<Entry> {
    let mut next = starts.to_vec();
    let rows = starts.last().map_or(0, |end| *end as usize);
    let mut entries = vec![Entry::default(); rows];
    for (number, (view, groups)) in views.iter().zip(groups_of).enumerate() {
        for (address, group) in view.shards[shard].iter().zip(groups) {
            let next = &mut next[*group as usize * views.len() + number];
            entries[*next as usize] = view.entry(*address);
            *next += 1;
        }
    }
    entries
}

/// Of a view, what is left when its index is built.
#[derive(Debug)]
struct IndexedView {
    bounds: Bounds,
    /// Per column that is wanted, one null, and then the values of the chunks.
    columns: Vec<Vec<ArrayRef>>,
}

/// All shards, and the values of the views.
#[derive(Debug)]
pub(super) struct Index {
    shards: Vec<Shard>,
    views: Vec<IndexedView>,
}

impl Index {
    /// Puts together the `shards` of `views`; `fields` are the columns of each view's payload.
    pub(super) fn new(
        shards: Vec<Shard>,
        views: &[ViewRows],
        bounds: &[Bounds],
        fields: &[Vec<FieldRef>],
    ) -> Self {
        let indexed = views.iter().zip(bounds).zip(fields).map(|((rows, bounds), fields)| {
            let mut columns: Vec<Vec<ArrayRef>> =
                fields.iter().map(|field| vec![new_null_array(field.data_type(), 1)]).collect();
            for chunk in &rows.chunks {
                for (column, values) in columns.iter_mut().zip(&chunk.payload) {
                    column.push(values.clone());
                }
            }
            IndexedView { bounds: *bounds, columns }
        });
        Self { views: indexed.collect(), shards }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let shards: usize = self.shards.iter().map(Shard::memory_bytes).sum();
        let columns = self.views.iter().flat_map(|view| view.columns.iter().flatten());
        shards + columns.map(|column| column.get_array_memory_size()).sum::<usize>()
    }

    /// Rows that can be the answer to something.
    pub(super) fn rows(&self) -> usize {
        self.shards.iter().map(|shard| shard.addresses.len()).sum()
    }

    fn shard(&self, hash: u64) -> &Shard {
        match &self.shards[..] {
            [all] => all,
            shards => &shards[shard_of(hash)],
        }
    }

    /// For each view, where the rows lie that belong to the rows of the spine.
    ///
    /// In two passes, so that the processor can have many look-ups under way at a time: none waits for another.
    pub(super) fn places(&self, spine: &SpineRows) -> Vec<Vec<Place>> {
        let rows = spine.times.len();
        let mut groups = vec![NO_GROUP; rows];
        for (row, group) in groups.iter_mut().enumerate() {
            let hash = spine.hashes[row];
            *group = self.shard(hash).groups.find(&spine.keys, row, hash);
        }
        let mut places: Vec<Vec<Place>> = self.views.iter().map(|_| Vec::with_capacity(rows)).collect();
        for (row, group) in groups.into_iter().enumerate() {
            if group == NO_GROUP || spine.is_null(row) {
                places.iter_mut().for_each(|places| places.push(NOWHERE));
                continue;
            }
            let shard = self.shard(spine.hashes[row]);
            for (number, (view, places)) in self.views.iter().zip(&mut places).enumerate() {
                let answer = shard.answer(group, number, &view.bounds, spine.times[row]);
                places.push(answer.map_or(NOWHERE, |address| (1 + address.chunk(), address.row())));
            }
        }
        places
    }

    /// The columns of a view at `places`.
    pub(super) fn gathered(&self, view: usize, places: &[Place]) -> Result<Vec<ArrayRef>> {
        let found = BooleanBuffer::collect_bool(places.len(), |row| places[row] != NOWHERE);
        let found = Some(NullBuffer::new(found)).filter(|found| found.null_count() > 0);
        let columns = self.views[view].columns.iter();
        columns.map(|column| picked(column, places, found.as_ref())).collect()
    }

    /// As [`gathered`](Self::gathered), where `previous` holds what was found for the same rows of the spine among other rows of
    /// the view: the higher of both is taken. After the columns that are wanted there are those of `ranks`.
    pub(super) fn merged(
        &self,
        view: usize,
        places: &[Place],
        previous: &[ArrayRef],
        ranks: Ranks,
    ) -> Result<Vec<ArrayRef>> {
        let columns = &self.views[view].columns;
        let chosen: Vec<Place> = places
            .iter()
            .enumerate()
            .map(|(row, place)| {
                let is_higher = *place != NOWHERE && ranks.is_higher(columns, *place, previous, row);
                if is_higher { *place } else { (0, row) }
            })
            .collect();
        let merged = columns.iter().zip(previous).map(|(column, previous)| {
            let mut arrays = column.clone();
            arrays[0] = previous.clone();
            interleaved(&arrays, &chosen)
        });
        merged.collect()
    }
}

/// The values at `places`, of which those in the first array are null, as `found` says.
fn picked(arrays: &[ArrayRef], places: &[Place], found: Option<&NullBuffer>) -> Result<ArrayRef> {
    macro_rules! picked_numbers {
        ($number:ty) => {
            Ok(Arc::new(numbers::<$number>(arrays, places, found)))
        };
    }
    // One look at validity for all columns, where there are no nulls but those of rows without an answer.
    let has_nulls = arrays[1..].iter().any(|array| array.null_count() > 0);
    let data_type = if has_nulls { &DataType::Null } else { arrays[0].data_type() };
    downcast_primitive! {
        data_type => (picked_numbers),
        _ => interleaved(arrays, places)
    }
}

fn numbers<T: ArrowPrimitiveType>(
    arrays: &[ArrayRef],
    places: &[Place],
    found: Option<&NullBuffer>,
) -> PrimitiveArray<T> {
    let values: Vec<&[T::Native]> =
        arrays.iter().map(|array| &array.as_primitive::<T>().values()[..]).collect();
    let picked: Vec<T::Native> = places.iter().map(|(array, row)| values[*array][*row]).collect();
    PrimitiveArray::new(picked.into(), found.cloned()).with_data_type(arrays[0].data_type().clone())
}

fn interleaved(arrays: &[ArrayRef], places: &[Place]) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    Ok(interleave(&arrays, places)?)
}

/// Where in the payload of a view that was spilled the columns lie that rows are compared by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranks {
    /// Columns before them.
    pub(super) values: usize,
    pub(super) has_known: bool,
    pub(super) has_offset: bool,
}

impl Ranks {
    /// Whether the row at `place` in `columns` is higher than row `row` of `previous`.
    fn is_higher(self, columns: &[Vec<ArrayRef>], place: Place, previous: &[ArrayRef], row: usize) -> bool {
        let (array, found) = place;
        if previous[self.values].is_null(row) {
            return true;
        }
        let number = |column: &ArrayRef, row: usize| offset_at(column.as_primitive::<Int64Type>(), row);
        let count = 1 + usize::from(self.has_known) + usize::from(self.has_offset);
        let ranks = self.values..self.values + count;
        let left: Vec<Option<i64>> = ranks.clone().map(|rank| number(&columns[rank][array], found)).collect();
        let right: Vec<Option<i64>> = ranks.map(|rank| number(&previous[rank], row)).collect();
        let order = left.cmp(&right).then_with(|| {
            let values: Vec<ArrayRef> =
                columns[..self.values].iter().map(|column| column[array].clone()).collect();
            values_order(&values, found, &previous[..self.values], row)
        });
        order.is_gt()
    }
}
