//! Which files may hold rows that a query wants, by the statistics in the log.
//!
//! The log says of most columns of a file what their least and greatest values are, and how many nulls they have
//! (`docs/format.md`, "add and remove"). A file whose bounds rule out every row is not opened. What the log does not say, or says
//! in a way that is not exact beyond doubt, rules out nothing:
//!
//! | type | bound that is used |
//! |---|---|
//! | integers, dates, texts | as written |
//! | timestamps | a millisecond further out, which is how fine they are written |
//! | floats | the next number but one further out, since reading decimal text may round |
//! | anything else | none |

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use chrono::{DateTime, NaiveDate};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;
use tracing::debug;

/// Microseconds by which bounds of timestamps are widened.
const MILLISECOND_US: i64 = 1000;

/// What the log says of one file.
#[derive(Debug, Clone)]
pub(super) struct FileFacts {
    /// Rows.
    pub(super) rows: Option<u64>,
    /// The statistics, as JSON text.
    pub(super) statistics: Option<Arc<str>>,
    /// The values of partition columns, by their names.
    pub(super) partition: Vec<(String, ScalarValue)>,
}

/// What the log says of the files of a table, and what of that was understood so far.
#[derive(Debug)]
pub(super) struct Statistics {
    /// Columns of the table.
    schema: SchemaRef,
    files: Vec<FileFacts>,
    /// By column; read when a query first needs it.
    columns: Mutex<HashMap<String, Option<Arc<ColumnBounds>>>>,
}

/// The bounds of one column, one value per file; null where there is none.
#[derive(Debug)]
struct ColumnBounds {
    least: Option<ArrayRef>,
    greatest: Option<ArrayRef>,
    nulls: ArrayRef,
}

/// What the statistics of a file say of some columns; nothing of any other column is kept while they are read.
#[derive(Debug, Default)]
struct Written {
    /// Per column, in the order in which they were asked for.
    min_values: Vec<Option<Json>>,
    max_values: Vec<Option<Json>>,
    null_count: Vec<Option<Json>>,
}

/// Reads [`Written`] of these columns.
struct OfColumns<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for OfColumns<'_> {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, statistics: D) -> Result<Written, D::Error> {
        statistics.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OfColumns<'_> {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the statistics of a file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut written = Written::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "minValues" => written.min_values = map.next_value_seed(ValuesOf(self.0))?,
                "maxValues" => written.max_values = map.next_value_seed(ValuesOf(self.0))?,
                "nullCount" => written.null_count = map.next_value_seed(ValuesOf(self.0))?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(written)
    }
}

/// Reads the values of these columns from an object that has one per column.
struct ValuesOf<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for ValuesOf<'_> {
    type Value = Vec<Option<Json>>;

    fn deserialize<D: Deserializer<'de>>(self, values: D) -> Result<Self::Value, D::Error> {
        values.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ValuesOf<'_> {
    type Value = Vec<Option<Json>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value per column")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(name) = map.next_key::<String>()? {
            match self.0.iter().position(|column| *column == name) {
                Some(at) => values[at] = Some(map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(values)
    }
}

impl Written {
    /// Of the statistics in a log. What cannot be read was refused when the log was.
    fn of(text: &str, columns: &[&str]) -> Self {
        let mut text = serde_json::Deserializer::from_str(text);
        OfColumns(columns).deserialize(&mut text).unwrap_or_default()
    }
}

/// Which end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Least,
    Greatest,
}

impl Statistics {
    pub(super) fn new(schema: SchemaRef, files: Vec<FileFacts>) -> Self {
        Self { schema, files, columns: Mutex::default() }
    }

    /// Per file, whether it may hold a row for which `condition`, over the table's columns, is true.
    pub(super) fn may_match(&self, condition: Arc<dyn PhysicalExpr>) -> Vec<bool> {
        let all = || vec![true; self.files.len()];
        let builder = PruningPredicateBuilder::new().with_file_schema(self.schema.clone());
        let predicate = match builder.try_build(condition) {
            Ok(predicate) if !predicate.always_true() => predicate,
            Ok(_) => return all(),
            Err(error) => {
                debug!(%error, "a condition rules out no file");
                return all();
            }
        };
        match predicate.prune(self) {
            Ok(kept) if kept.len() == self.files.len() => kept,
            Ok(_) => all(),
            Err(error) => {
                debug!(%error, "a condition rules out no file");
                all()
            }
        }
    }

    /// Reads what the log says of these columns, unless it was read before: of all of them at once, because each file has one text
    /// for all its columns.
    pub(super) fn read(&self, columns: &BTreeSet<&str>) {
        let mut known = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = columns.iter().filter(|column| !known.contains_key(**column));
        let unknown: Vec<(&str, &DataType)> = unknown
            .filter_map(|column| Some((*column, self.schema.field_with_name(column).ok()?.data_type())))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let names: Vec<&str> = unknown.iter().map(|(name, _)| *name).collect();
        let partition = self.files.first().map(|file| file.partition.as_slice()).unwrap_or_default();
        let is_written = names.iter().any(|name| partition.iter().all(|(column, _)| column != name));
        let written = self.files.iter().map(|file| match &file.statistics {
            Some(text) if is_written => Written::of(text, &names),
            _ => Written::default(),
        });
        let written: Vec<Written> = written.collect();
        for (at, (name, data_type)) in unknown.into_iter().enumerate() {
            let bounds = self.bounds(name, data_type, &written, at);
            known.insert(name.to_owned(), bounds.map(Arc::new));
        }
    }

    /// What is known of a column of the table.
    fn column(&self, name: &str) -> Option<Arc<ColumnBounds>> {
        self.read(&BTreeSet::from([name]));
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        columns.get(name)?.clone()
    }

    /// The bounds of a column, which stands at `at` in `written`.
    fn bounds(
        &self,
        name: &str,
        data_type: &DataType,
        written: &[Written],
        at: usize,
    ) -> Option<ColumnBounds> {
        let none = ScalarValue::try_from(data_type).ok()?;
        let mut least = Vec::with_capacity(self.files.len());
        let mut greatest = Vec::with_capacity(self.files.len());
        let mut nulls = Vec::with_capacity(self.files.len());
        for (file, written) in self.files.iter().zip(written) {
            if let Some((_, value)) = file.partition.iter().find(|(column, _)| column == name) {
                // Null is no bound; what holds of it is judged by the partition values themselves.
                least.push(value.clone());
                greatest.push(value.clone());
                nulls.push(if value.is_null() { None } else { Some(0) });
                continue;
            }
            let bound = |values: &[Option<Json>], end| {
                let value = said(values, at).and_then(|value| bound_of(value, data_type, end));
                value.unwrap_or_else(|| none.clone())
            };
            least.push(bound(&written.min_values, End::Least));
            greatest.push(bound(&written.max_values, End::Greatest));
            nulls.push(said(&written.null_count, at).and_then(Json::as_u64));
        }
        let array = |values: Vec<ScalarValue>| {
            let is_known = values.iter().any(|value| !value.is_null());
            is_known.then(|| ScalarValue::iter_to_array(values).ok()).flatten()
        };
        let nulls = Arc::new(UInt64Array::from(nulls));
        Some(ColumnBounds { least: array(least), greatest: array(greatest), nulls })
    }
}

impl PruningStatistics for Statistics {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column.name())?.least.clone()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column.name())?.greatest.clone()
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.column(column.name())?.nulls.clone())
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.files.iter().map(|file| file.rows).collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// What is written of the column that stands at `at`.
fn said(values: &[Option<Json>], at: usize) -> Option<&Json> {
    values.get(at)?.as_ref()
}

/// A bound that holds for sure, as a value of `data_type`.
fn bound_of(written: &Json, data_type: &DataType, end: End) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int8 => ScalarValue::Int8(Some(written.as_i64()?.try_into().ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(written.as_i64()?.try_into().ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(written.as_i64()?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(written.as_i64()?)),
        DataType::Float32 => {
            let value = written.as_f64()? as f32;
            let wider = match end {
                End::Least => value.next_down().next_down(),
                End::Greatest => value.next_up().next_up(),
            };
            ScalarValue::Float32(Some(wider).filter(|wider| wider.is_finite()))
        }
        DataType::Float64 => {
            let value = written.as_f64()?;
            let wider = match end {
                End::Least => value.next_down().next_down(),
                End::Greatest => value.next_up().next_up(),
            };
            ScalarValue::Float64(Some(wider).filter(|wider| wider.is_finite()))
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(written.as_str()?.to_owned())),
        DataType::Date32 => {
            let date = NaiveDate::parse_from_str(written.as_str()?, "%Y-%m-%d").ok()?;
            let days = date.signed_duration_since(DateTime::UNIX_EPOCH.date_naive()).num_days();
            ScalarValue::Date32(Some(days.try_into().ok()?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let time = DateTime::parse_from_rfc3339(written.as_str()?).ok()?.timestamp_micros();
            let wider = match end {
                End::Least => time.checked_sub(MILLISECOND_US)?,
                End::Greatest => time.checked_add(MILLISECOND_US)?,
            };
            ScalarValue::TimestampMicrosecond(Some(wider), zone.clone())
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Which of `files` may match `sql`.
    fn kept(files: &[&str], sql: &str) -> Vec<usize> {
        let utc = Some("UTC".into());
        let schema = Arc::new(Schema::new(vec![
            Field::new("i", DataType::Int32, true),
            Field::new("f", DataType::Float64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("d", DataType::Date32, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, utc), true),
            Field::new("b", DataType::Boolean, true),
            Field::new("month", DataType::Utf8, true),
        ]));
        let fact = |(at, text): (usize, &&str)| FileFacts {
            rows: Some(10),
            statistics: (!text.is_empty()).then(|| (*text).into()),
            partition: vec![("month".to_owned(), ScalarValue::Utf8((at != 1).then(|| at.to_string())))],
        };
        let statistics = Statistics::new(schema.clone(), files.iter().enumerate().map(fact).collect());
        let context = SessionContext::new();
        let schema = DFSchema::try_from(schema).unwrap();
        let condition = context.parse_sql_expr(sql, &schema).unwrap();
        let condition = context.create_physical_expr(condition, &schema).unwrap();
        let kept = statistics.may_match(condition);
        kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(at, _)| at).collect()
    }

    #[test]
    fn files_without_a_matching_row_are_left_out_and_only_these() {
        let files = [
            r#"{"numRecords":10,"minValues":{"i":1,"f":0.1,"s":"a","d":"2026-01-01","t":"2026-01-01T00:00:00.000Z"},"maxValues":{"i":9,"f":0.3,"s":"c","d":"2026-01-31","t":"2026-01-01T00:00:00.001Z"},"nullCount":{"i":0,"f":0,"s":0,"d":0,"t":0,"b":0}}"#,
            r#"{"numRecords":10,"minValues":{"i":10,"f":-1.0,"s":"d"},"maxValues":{"i":20,"f":-0.5,"s":"d"},"nullCount":{"i":5,"f":10,"s":0}}"#,
            "",
            r#"{"numRecords":10,"nullCount":{"i":10}}"#,
        ];
        for (sql, expected) in [
            ("i = 5", vec![0, 2]),
            ("i > 9", vec![1, 2]),
            ("i >= 9", vec![0, 1, 2]),
            ("i IN (0, 30)", vec![2]),
            ("i <> 5", vec![0, 1, 2]),
            ("i IS NULL", vec![1, 2, 3]),
            ("i IS NOT NULL", vec![0, 1, 2]),
            // Half a millisecond after the greatest time as it is written.
            ("t = TIMESTAMP '2026-01-01T00:00:00.0015Z'", vec![0, 1, 2, 3]),
            ("t > TIMESTAMP '2026-01-02T00:00:00Z'", vec![1, 2, 3]),
            ("s = 'b' AND i < 100", vec![0, 2]),
            ("s LIKE 'd%'", vec![1, 2, 3]),
            ("d = DATE '2026-02-01'", vec![1, 2, 3]),
            ("f >= 0.3", vec![0, 2, 3]),
            ("f > 0.31", vec![2, 3]),
            ("b", vec![0, 1, 2, 3]),
            ("i = 5 OR s = 'd'", vec![0, 1, 2, 3]),
            // A partition column and one of the file; where the partition is null, nothing is known of it.
            ("month = '0' OR i = 15", vec![0, 1, 2]),
            ("month = '3' AND i > 0", vec![1]),
        ] {
            // A file stays unless something is known of it that no matching row could have.
            assert_eq!(kept(&files, sql), expected, "{sql}");
        }
    }

    #[test]
    fn columns_are_read_by_their_names_and_others_passed_over() {
        let text = r#"{"numRecords":2,"minValues":{"s":{"x":1},"i":1},"tightBounds":true,"maxValues":{"i":9,"t":[2]},"nullCount":{"t":1,"i":0}}"#;
        let written = Written::of(text, &["i", "absent", "t"]);
        assert_eq!(written.min_values, [Some(Json::from(1)), None, None]);
        assert_eq!(written.max_values, [Some(Json::from(9)), None, Some(Json::from(vec![2]))]);
        assert_eq!(written.null_count, [Some(Json::from(0)), None, Some(Json::from(1))]);
        for wrong in ["", "[]", r#"{"minValues":3}"#, r#"{"minValues":{"i":1}"#] {
            assert!(Written::of(wrong, &["i"]).min_values.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_never_inside_what_was_written() {
        let of = |json: &str, data_type, end| bound_of(&serde_json::from_str(json).unwrap(), &data_type, end);
        assert_eq!(
            of("9007199254740993", DataType::Int64, End::Least),
            Some(ScalarValue::Int64(Some(9_007_199_254_740_993)))
        );
        assert_eq!(of("300", DataType::Int8, End::Greatest), None);
        assert_eq!(of("1.5", DataType::Int32, End::Greatest), None);
        assert_eq!(of("\"x\"", DataType::Int32, End::Greatest), None);
        for value in [0.1_f64, -0.0, 1e300, -7.25] {
            let json = format!("{value:?}");
            let Some(ScalarValue::Float64(Some(least))) = of(&json, DataType::Float64, End::Least) else {
                panic!("{json}")
            };
            let Some(ScalarValue::Float64(Some(greatest))) = of(&json, DataType::Float64, End::Greatest)
            else {
                panic!("{json}")
            };
            assert!(least < value && value < greatest, "{json}: {least} {greatest}");
        }
        assert_eq!(
            of("1.7976931348623157e308", DataType::Float64, End::Greatest),
            Some(ScalarValue::Float64(None))
        );
        assert_eq!(of("1.5", DataType::Decimal128(5, 2), End::Least), None);
    }
}
