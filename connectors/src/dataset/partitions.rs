//! Partition values: their exact text, their directories, and the split of a batch by them.
//!
//! A chunk usually has one combination of partition values, found by comparing each partition column with itself
//! shifted by one row; then nothing is copied. Otherwise the rows of each combination are gathered, in their order.
//!
//! The log holds the exact value. The directory is only a place: every byte outside `[A-Za-z0-9_.-]` becomes `%XX`,
//! null becomes [`NULL_DIRECTORY`], and a value too long for a path is cut and ends in a hash. The empty string is
//! stored as null, because the Delta protocol reads it as null.

use std::collections::HashMap;
use std::fmt::Write;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int8Array, Int16Array, Int32Array,
    Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{partition, take};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use chrono::{DateTime, SecondsFormat};
use sha2::{Digest, Sha256};

use super::layout::TableLayout;

/// Directory of rows whose partition value is null.
pub const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";
/// Longest encoded value in a directory's name, in bytes.
const ENCODED_BYTES_MAX: usize = 128;

/// One text per partition column; `None` is null.
pub(super) type Values = Vec<Option<String>>;

/// The directory of these partition values, such as `year=2013/month=7`; empty for a table without partition columns.
pub fn directory(columns: &[String], values: &[Option<String>]) -> String {
    let level = |(column, value): (&String, &Option<String>)| {
        format!(
            "{}={}",
            encode(column),
            value.as_deref().map_or_else(|| NULL_DIRECTORY.into(), directory_value)
        )
    };
    columns.iter().zip(values).map(level).collect::<Vec<_>>().join("/")
}

fn directory_value(value: &str) -> String {
    let encoded = encode(value);
    if encoded.len() <= ENCODED_BYTES_MAX {
        return encoded;
    }
    // Never cut inside `%XX`, so that the name can still be read.
    let mut end = 64;
    while encoded.as_bytes()[end - 2..end].contains(&b'%') {
        end -= 1;
    }
    format!("{}-{}", &encoded[..end], hex::encode(&Sha256::digest(value.as_bytes())[..16]))
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The rows of a batch that have the same partition values, without the partition columns.
pub(super) struct Group {
    pub(super) values: Values,
    pub(super) columns: Vec<ArrayRef>,
    pub(super) rows: usize,
}

/// Splits batches of one table by partition values.
pub(super) struct Splitter {
    partition_columns: Vec<usize>,
    file_columns: Vec<usize>,
    /// `None` for a table without partition columns.
    converter: Option<RowConverter>,
}

impl Splitter {
    pub(super) fn new(layout: &TableLayout) -> Result<Self, ArrowError> {
        let schema: &Schema = layout.schema();
        let sort_field = |index: &usize| SortField::new(schema.field(*index).data_type().clone());
        let fields: Vec<SortField> = layout.partition_columns.iter().map(sort_field).collect();
        Ok(Self {
            partition_columns: layout.partition_columns.clone(),
            file_columns: layout.file_columns.clone(),
            converter: if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) },
        })
    }

    /// The groups of a batch. Rows keep their order within a group; the order of the groups has no meaning.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<Group>, ArrowError> {
        let rows = batch.num_rows();
        let columns: Vec<ArrayRef> =
            self.file_columns.iter().map(|index| batch.column(*index).clone()).collect();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let Some(converter) = &self.converter else {
            return Ok(vec![Group { values: Vec::new(), columns, rows }]);
        };
        let keys: Vec<ArrayRef> =
            self.partition_columns.iter().map(|index| batch.column(*index).clone()).collect();
        let runs = partition(&keys)?.ranges();
        if runs.len() == 1 {
            return Ok(vec![Group { values: values_at(&keys, 0)?, columns, rows }]);
        }
        let groups = group_runs(converter, &keys, &runs)?;
        groups.into_iter().map(|(values, indices)| gather(values, indices, &columns)).collect()
    }
}

/// For each combination of values, the indices of its rows in rising order. Work per run, not per row.
fn group_runs(
    converter: &RowConverter,
    keys: &[ArrayRef],
    runs: &[std::ops::Range<usize>],
) -> Result<Vec<(Values, Vec<u32>)>, ArrowError> {
    let starts: UInt32Array = runs.iter().map(|run| run.start as u32).collect();
    let run_keys = keys.iter().map(|key| take(key, &starts, None)).collect::<Result<Vec<_>, _>>()?;
    let encoded = converter.convert_columns(&run_keys)?;
    let mut groups: Vec<(Values, Vec<u32>)> = Vec::new();
    let mut by_key = HashMap::new();
    // Two keys may have one text: null and the empty string.
    let mut by_values: HashMap<Values, usize> = HashMap::new();
    for (run, (key, range)) in encoded.iter().zip(runs).enumerate() {
        let group = match by_key.get(&key) {
            Some(group) => *group,
            None => {
                let values = values_at(&run_keys, run)?;
                let group = *by_values.entry(values.clone()).or_insert(groups.len());
                if group == groups.len() {
                    groups.push((values, Vec::new()));
                }
                by_key.insert(key, group);
                group
            }
        };
        groups[group].1.extend(range.start as u32..range.end as u32);
    }
    Ok(groups)
}

fn gather(values: Values, indices: Vec<u32>, columns: &[ArrayRef]) -> Result<Group, ArrowError> {
    let indices = UInt32Array::from(indices);
    let columns = columns.iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>()?;
    Ok(Group { values, columns, rows: indices.len() })
}

fn values_at(keys: &[ArrayRef], row: usize) -> Result<Values, ArrowError> {
    keys.iter().map(|key| value_text(key, row)).collect()
}

/// The text of a partition value as the Delta protocol serialises it; `None` for null and for the empty string.
fn value_text(array: &ArrayRef, row: usize) -> Result<Option<String>, ArrowError> {
    if array.is_null(row) {
        return Ok(None);
    }
    let out_of_range =
        || ArrowError::InvalidArgumentError("partition value: date or time out of range".into());
    let any = array.as_any();
    let text = match array.data_type() {
        DataType::Boolean => any.downcast_ref::<BooleanArray>().map(|a| a.value(row).to_string()),
        DataType::Int8 => any.downcast_ref::<Int8Array>().map(|a| a.value(row).to_string()),
        DataType::Int16 => any.downcast_ref::<Int16Array>().map(|a| a.value(row).to_string()),
        DataType::Int32 => any.downcast_ref::<Int32Array>().map(|a| a.value(row).to_string()),
        DataType::Int64 => any.downcast_ref::<Int64Array>().map(|a| a.value(row).to_string()),
        DataType::Utf8 => any.downcast_ref::<StringArray>().map(|a| a.value(row).to_string()),
        DataType::Decimal128(..) => any.downcast_ref::<Decimal128Array>().map(|a| a.value_as_string(row)),
        DataType::Date32 => {
            let days = any.downcast_ref::<Date32Array>().map(|a| i64::from(a.value(row)));
            let date = days.map(|days| DateTime::from_timestamp(days * 86_400, 0).ok_or_else(out_of_range));
            date.transpose()?.map(|date| date.date_naive().to_string())
        }
        DataType::Timestamp(..) => {
            let micros = any.downcast_ref::<TimestampMicrosecondArray>().map(|a| a.value(row));
            let time = micros.map(|micros| DateTime::from_timestamp_micros(micros).ok_or_else(out_of_range));
            time.transpose()?.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
        }
        _ => None,
    };
    let text = text.ok_or_else(|| {
        ArrowError::InvalidArgumentError(format!("partition value of type {}", array.data_type()))
    })?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, TimeUnit};

    use super::*;
    use crate::dataset::Compression;

    fn text(array: impl Array + 'static) -> Vec<Option<String>> {
        let array: ArrayRef = Arc::new(array);
        (0..array.len()).map(|row| value_text(&array, row).unwrap()).collect()
    }

    fn texts(values: &[Option<&str>]) -> Vec<Option<String>> {
        values.iter().map(|value| value.map(str::to_string)).collect()
    }

    #[test]
    fn values_are_written_as_the_protocol_says() {
        assert_eq!(text(BooleanArray::from(vec![Some(true), None])), texts(&[Some("true"), None]));
        assert_eq!(text(Int8Array::from(vec![-128])), texts(&[Some("-128")]));
        assert_eq!(text(Int64Array::from(vec![i64::MIN])), texts(&[Some("-9223372036854775808")]));
        assert_eq!(
            text(StringArray::from(vec![Some(""), None, Some(" é")])),
            texts(&[None, None, Some(" é")])
        );
        assert_eq!(
            text(Date32Array::from(vec![0, -1, 15_706])),
            texts(&[Some("1970-01-01"), Some("1969-12-31"), Some("2013-01-01")])
        );
        assert_eq!(
            text(TimestampMicrosecondArray::from(vec![0, -1]).with_timezone("UTC")),
            texts(&[Some("1970-01-01T00:00:00.000000Z"), Some("1969-12-31T23:59:59.999999Z")])
        );
        let decimal = Decimal128Array::from(vec![-12_345]).with_precision_and_scale(10, 3).unwrap();
        assert_eq!(text(decimal), texts(&[Some("-12.345")]));
    }

    #[test]
    fn directories_hold_only_plain_characters_and_stay_short() {
        let dir = |value: Option<&str>| directory(&["c".into()], &[value.map(str::to_string)]);
        assert_eq!(dir(Some("2013-01_a.B")), "c=2013-01_a.B");
        assert_eq!(dir(None), "c=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(dir(Some("a b/c=%é..")), "c=a%20b%2Fc%3D%25%C3%A9..");
        assert_eq!(dir(Some("..")), "c=..");
        assert_eq!(dir(Some("\0\n\\:*?")), "c=%00%0A%5C%3A%2A%3F");
        assert_eq!(dir(Some(&"x".repeat(128))), format!("c={}", "x".repeat(128)));
        assert_eq!(
            directory(&["a b".into(), "d".into()], &[Some("1".into()), None]),
            format!("a%20b=1/d={NULL_DIRECTORY}")
        );
        let (long, longer) = ("é".repeat(100), "é".repeat(101));
        assert_ne!(dir(Some(&long)), dir(Some(&longer)));
        for value in [
            long,
            longer,
            "x".repeat(100_000),
            format!("{}é", "x".repeat(127)),
            format!("x{}", "é".repeat(99)),
        ] {
            let dir = dir(Some(&value));
            assert!(dir.len() <= ENCODED_BYTES_MAX, "{dir}");
            let bytes = dir.as_bytes();
            for at in (0..bytes.len()).filter(|at| bytes[*at] == b'%') {
                assert!(bytes[at + 1..at + 3].iter().all(u8::is_ascii_hexdigit), "{dir}");
            }
        }
    }

    fn splitter(partition_by: &[&str]) -> (Splitter, Arc<Schema>) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
            Field::new("day", DataType::Date32, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        ]));
        let columns: Vec<String> = partition_by.iter().map(|c| c.to_string()).collect();
        let layout = TableLayout::new("t", schema.clone(), &columns, Compression::None).unwrap();
        (Splitter::new(&layout).unwrap(), schema)
    }

    fn batch(schema: &Arc<Schema>, strings: Vec<Option<&str>>, days: Vec<Option<i32>>) -> RecordBatch {
        let rows = strings.len();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            Arc::new(StringArray::from(strings)),
            Arc::new(Date32Array::from(days)),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(5); rows]).with_timezone("UTC")),
        ];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    }

    fn ids(group: &Group) -> Vec<i64> {
        group.columns[0].as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
    }

    #[test]
    fn one_combination_of_values_is_passed_through_without_copying() {
        let (splitter, schema) = splitter(&["s", "at"]);
        let batch = batch(&schema, vec![Some("x"); 3], vec![Some(1), None, Some(3)]);
        let groups = splitter.split(&batch).unwrap();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].values, texts(&[Some("x"), Some("1970-01-01T00:00:00.000005Z")]));
        assert_eq!(groups[0].columns.len(), 2);
        assert!(Arc::ptr_eq(&groups[0].columns[0], batch.column(0)));
    }

    #[test]
    fn alternating_rows_are_gathered_in_order_and_empty_text_joins_null() {
        let (splitter, schema) = splitter(&["s"]);
        let batch = batch(
            &schema,
            vec![Some("a"), None, Some("a"), Some(""), Some("b"), None, Some("a")],
            vec![None; 7],
        );
        let mut groups = splitter.split(&batch).unwrap();
        groups.sort_by(|a, b| a.values.cmp(&b.values));
        let found: Vec<_> = groups.iter().map(|group| (group.values[0].as_deref(), ids(group))).collect();
        assert_eq!(found, [(None, vec![1, 3, 5]), (Some("a"), vec![0, 2, 6]), (Some("b"), vec![4])]);
    }

    #[test]
    fn splitting_equals_a_row_by_row_oracle() {
        let (splitter, schema) = splitter(&["day", "s"]);
        let strings = [None, Some("a"), Some("b"), Some("")];
        for seed in 1..40u64 {
            let mut state = seed;
            let mut next = |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % n
            };
            let rows = next(60) as usize;
            let s: Vec<_> = (0..rows).map(|_| strings[next(4) as usize]).collect();
            let d: Vec<_> = (0..rows).map(|_| [None, Some(0), Some(1)][next(3) as usize]).collect();
            let mut expected: std::collections::BTreeMap<Values, Vec<i64>> = Default::default();
            for row in 0..rows {
                let day = d[row].map(|day| format!("1970-01-0{}", day + 1));
                let value = s[row].filter(|s| !s.is_empty()).map(str::to_string);
                expected.entry(vec![day, value]).or_default().push(row as i64);
            }
            let groups = splitter.split(&batch(&schema, s, d)).unwrap();
            let found: std::collections::BTreeMap<_, _> =
                groups.iter().map(|g| (g.values.clone(), ids(g))).collect();
            assert_eq!(found.len(), groups.len());
            assert_eq!(found, expected);
        }
    }
}
