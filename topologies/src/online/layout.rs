//! The columns of a view, and rows of them as bytes.
//!
//! A row is two texts of bytes in Arrow's row format, whose order is that of the values: its **key**, the entity key, and its
//! **value**: event time, known time, sequence and features, in this order. Of two rows with the same key the one with the
//! greater value counts. So the order that decides and the row that is answered are the same bytes, and what is kept depends
//! on which rows there are, never on when each arrived, how often, or in which file.
//!
//! Rows without a time, or with a null in their key, are in no view.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use isobar_connectors::delta::sha256_hex;

use crate::spec::OnlineSpec;

/// Version of what a store holds. Together with that of Arrow, whose format it is.
const FORMAT: u32 = 1;
/// Most bytes of one row. A transaction and an answer hold some of them at a time.
pub(super) const ROW_BYTES_MAX: usize = 16 << 20;

/// See the [module](self).
#[derive(Debug)]
pub struct Layout {
    /// The dataset.
    dataset: String,
    /// Key columns, and then those of the value.
    columns: Vec<FieldRef>,
    /// How many of `columns` are the key.
    keys: usize,
    /// How many of `columns` come after the key and before the features; the first is the time.
    order: usize,
    key_rows: RowConverter,
    value_rows: RowConverter,
    parser: RowParser,
    fingerprint: String,
}

/// Rows as bytes.
pub(super) struct EncodedRows {
    keys: Rows,
    values: Rows,
    /// Those of them that the view keeps, one per key, in the order of keys.
    kept: Vec<usize>,
}

impl EncodedRows {
    /// Keys and values, in the order of keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.kept.iter().map(|row| (self.keys.row(*row).data(), self.values.row(*row).data()))
    }
}

impl Layout {
    /// The columns of the view `spec` in a table with the columns of `table`.
    ///
    /// # Errors
    /// What does not fit, for people.
    pub fn new(spec: &OnlineSpec, table: &Schema) -> Result<Self, String> {
        let find = |name: &String| match table.column_with_name(name) {
            Some((_, field)) => Ok(Arc::new(field.clone().with_nullable(true))),
            None => Err(format!("{} has no column {name}", spec.dataset)),
        };
        let order: Vec<&String> = [&spec.time].into_iter().chain(&spec.known).chain(&spec.sequence).collect();
        let is_named = |name: &String| spec.keys.contains(name) || order.contains(&name);
        let features: Vec<String> = match &spec.features {
            Some(features) => features.clone(),
            None => {
                let others = table.fields().iter().map(|field| field.name());
                others.filter(|name| !is_named(name)).cloned().collect()
            }
        };
        let named = spec.keys.iter().chain(order.iter().copied()).chain(&features);
        let columns: Vec<FieldRef> = named.map(find).collect::<Result<_, String>>()?;
        let (keys, order) = (spec.keys.len(), order.len());
        check(&spec.dataset, &columns, keys, order)?;
        let converter = |columns: &[FieldRef]| {
            let fields = columns.iter().map(|field| SortField::new(field.data_type().clone()));
            RowConverter::new(fields.collect()).map_err(|error| format!("{}: {error}", spec.dataset))
        };
        let (key_rows, value_rows) = (converter(&columns[..keys])?, converter(&columns[keys..])?);
        let parser = value_rows.parser();
        let fingerprint = fingerprint(&spec.dataset, &columns, keys, order);
        let dataset = spec.dataset.clone();
        Ok(Self { dataset, columns, keys, order, key_rows, value_rows, parser, fingerprint })
    }

    /// The dataset.
    pub(super) fn dataset(&self) -> &str {
        &self.dataset
    }

    /// Stands for the columns, their types and the format of bytes: what a store must have been made with.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// All columns: those of the key, and then those of the value.
    pub fn columns(&self) -> &[FieldRef] {
        &self.columns
    }

    /// The columns of the key.
    pub fn keys(&self) -> &[FieldRef] {
        &self.columns[..self.keys]
    }

    /// The columns that say which row is the newest, the most important first.
    pub(super) fn order(&self) -> &[FieldRef] {
        &self.columns[self.keys..][..self.order]
    }

    /// The features.
    pub fn features(&self) -> &[FieldRef] {
        &self.columns[self.keys + self.order..]
    }

    /// Rows as bytes; `columns` are those of [`columns`](Self::columns). Of rows with the same key the newest is kept.
    ///
    /// # Errors
    /// Columns of other types, or a row that is too large; for people.
    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedRows, String> {
        let wrong = |error: ArrowError| format!("{}: {error}", self.dataset);
        let keys = self.key_rows.convert_columns(&columns[..self.keys]).map_err(wrong)?;
        let values = self.value_rows.convert_columns(&columns[self.keys..]).map_err(wrong)?;
        // The time is the first column after the key.
        let needed = &columns[..=self.keys];
        let mut kept: Vec<usize> =
            (0..keys.num_rows()).filter(|row| needed.iter().all(|column| column.is_valid(*row))).collect();
        if let Some(row) = kept.iter().find(|row| values.row(**row).data().len() > ROW_BYTES_MAX) {
            let bytes = values.row(*row).data().len();
            return Err(format!(
                "{}: a row has {bytes} bytes, and an online view takes {ROW_BYTES_MAX}; name the features without the large ones",
                self.dataset
            ));
        }
        kept.sort_unstable_by(|a, b| {
            keys.row(*a).cmp(&keys.row(*b)).then_with(|| values.row(*b).cmp(&values.row(*a)))
        });
        kept.dedup_by(|a, b| keys.row(*a) == keys.row(*b));
        Ok(EncodedRows { keys, values, kept })
    }

    /// Keys as bytes; `columns` are those of [`keys`](Self::keys), without nulls.
    ///
    /// # Errors
    /// Columns of other types.
    pub(super) fn encode_keys(&self, columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
        self.key_rows.convert_columns(columns)
    }

    /// Values, from their bytes: the columns of [`order`](Self::order) and then the features.
    ///
    /// # Errors
    /// Bytes that are no values of these columns.
    pub(super) fn decode<'a>(
        &self,
        values: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ArrowError> {
        let fields = &self.columns[self.keys..];
        let rows = values.len();
        let columns = match rows {
            0 => fields.iter().map(|field| new_empty_array(field.data_type())).collect(),
            _ => self.value_rows.convert_rows(values.map(|bytes| self.parser.parse(bytes)))?,
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.value_schema(), columns, &options)
    }

    /// The columns of a key, from its bytes.
    ///
    /// # Errors
    /// Bytes that are no key of these columns.
    pub(super) fn decode_key(&self, key: &[u8]) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.key_rows.parser();
        self.key_rows.convert_rows([parser.parse(key)])
    }

    fn value_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns[self.keys..].to_vec()))
    }
}

/// Whether columns can be what they are to be. The same rules hold for a specification, before there is a table.
///
/// # Errors
/// The first that cannot, for people.
fn check(dataset: &str, columns: &[FieldRef], keys: usize, order: usize) -> Result<(), String> {
    for (index, field) in columns.iter().enumerate() {
        let problem = match index {
            _ if index < keys => not_a_key(field.data_type()),
            _ if index == keys => not_a_time(field.data_type()),
            _ if index < keys + order => not_a_key(field.data_type()),
            _ => not_a_feature(field.data_type()),
        };
        if let Some(problem) = problem {
            return Err(format!("column {} of {dataset} {problem}", field.name()));
        }
    }
    if columns.len() == keys + order {
        return Err(format!("{dataset} has no column left for features"));
    }
    Ok(())
}

/// Why values of `data_type` cannot be entity keys, or put rows in order.
pub(crate) fn not_a_key(data_type: &DataType) -> Option<&'static str> {
    let is_plain = matches!(
        data_type,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, Some(_))
            | DataType::Decimal128(..)
    );
    (!is_plain).then_some(
        "cannot be compared for equality; choose whole numbers, texts, bytes, booleans, decimals or times",
    )
}

/// Why values of `data_type` are no times.
pub(crate) fn not_a_time(data_type: &DataType) -> Option<&'static str> {
    let is_time = matches!(data_type, DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, Some(_)));
    (!is_time).then_some("is no time; choose a timestamp or a date")
}

/// Why values of `data_type` cannot be features.
pub(crate) fn not_a_feature(data_type: &DataType) -> Option<&'static str> {
    has_map(data_type).then_some("is a map, and maps have no order; name the features without it")
}

fn has_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::List(element) => has_map(element.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        _ => false,
    }
}

fn fingerprint(dataset: &str, columns: &[FieldRef], keys: usize, order: usize) -> String {
    let column = |field: &FieldRef| {
        let field: &Field = field;
        [field.name().clone(), field.data_type().to_string()]
    };
    let columns: Vec<[String; 2]> = columns.iter().map(column).collect();
    let text = serde_json::json!([FORMAT, arrow::ARROW_VERSION, dataset, columns, keys, order]);
    sha256_hex(text.to_string().as_bytes())
}
