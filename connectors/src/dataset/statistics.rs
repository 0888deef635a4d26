//! Statistics of a file as the `add` action carries them, gathered while the file is encoded.
//!
//! Bounds come from the Parquet encoder, which computes them anyway; nothing is scanned twice but floats, for NaN.
//! A wrong bound makes readers skip rows that exist, so whatever is not certain is left out: a missing bound is
//! always valid. Per type:
//!
//! | type | bounds |
//! |---|---|
//! | integers, decimals | exact, as JSON numbers |
//! | floats | exact; none if any value is NaN (readers disagree where NaN sorts) or the bound is infinite (no JSON number); zero is -0.0 as a minimum and 0.0 as a maximum |
//! | strings | cut to 64 bytes; a cut maximum is rounded up; none if that needs more than 256 bytes |
//! | dates | `YYYY-MM-DD`; none outside the years 1 to 9999 |
//! | timestamps | UTC, to the millisecond as readers expect: minimum rounded down, maximum rounded up; none outside the years 1 to 9999 |
//! | booleans, binary, lists, maps | none |
//!
//! `nullCount` is exact for every column, and for the members of a struct: those of a null struct count as null.

use std::cmp::Ordering;
use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type, Schema};
use chrono::{DateTime, Datelike, SecondsFormat};
use parquet::file::statistics::Statistics;

/// Longest text bound written.
const TEXT_BYTES_MAX: usize = 256;

/// What the encoder says about one leaf column of one row group.
pub(super) type LeafStatistics = Option<Statistics>;

/// How a leaf's bounds are compared and written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Integer,
    Date,
    Timestamp,
    Float32,
    Float64,
    Decimal { scale: i8 },
    Text,
    Unbounded,
}

#[derive(Debug, Clone, PartialEq)]
enum Bound {
    Integer(i64),
    Float32(f32),
    Float64(f64),
    Decimal(i128),
    Text(String),
}

impl Bound {
    /// `None` for a NaN, which never is a bound.
    fn partial_cmp(&self, other: &Bound) -> Option<Ordering> {
        match (self, other) {
            (Bound::Integer(a), Bound::Integer(b)) => Some(a.cmp(b)),
            (Bound::Float32(a), Bound::Float32(b)) => a.partial_cmp(b),
            (Bound::Float64(a), Bound::Float64(b)) => a.partial_cmp(b),
            (Bound::Decimal(a), Bound::Decimal(b)) => Some(a.cmp(b)),
            (Bound::Text(a), Bound::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            _ => None,
        }
    }
}

/// One end of a leaf's range, over all row groups so far.
#[derive(Debug, Clone)]
enum End {
    /// No value yet that is not null.
    Empty,
    Known(Bound),
    /// There are values but no bound.
    Unknown,
}

impl End {
    /// Takes in one row group's bound; `keep` says which order makes the present bound the one to keep.
    fn merge(&mut self, bound: Option<Bound>, keep: Ordering) {
        *self = match (std::mem::replace(self, End::Unknown), bound) {
            (End::Empty, Some(bound)) => End::Known(bound),
            (End::Known(known), Some(bound)) => match known.partial_cmp(&bound) {
                Some(order) if order == keep || order == Ordering::Equal => End::Known(known),
                Some(_) => End::Known(bound),
                None => End::Unknown,
            },
            (End::Unknown, _) | (_, None) => End::Unknown,
        }
    }

    fn json(&self, kind: Kind, is_max: bool) -> Option<String> {
        match self {
            End::Known(bound) => bound_json(bound, kind, is_max),
            End::Empty | End::Unknown => None,
        }
    }
}

#[derive(Debug, Clone)]
enum Shape {
    Leaf {
        kind: Kind,
        nulls: u64,
        min: End,
        max: End,
    },
    Struct(Vec<(String, Shape)>),
    /// A list or map: rows where the whole is null, over this many leaves.
    Repeated {
        leaves: usize,
        nulls: u64,
    },
}

/// Gathers the statistics of one file.
#[derive(Debug)]
pub(super) struct FileStatistics {
    rows: u64,
    columns: Vec<(String, Shape)>,
}

impl FileStatistics {
    pub(super) fn new(file_schema: &Schema) -> Self {
        Self { rows: 0, columns: file_schema.fields().iter().map(named_shape).collect() }
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in the number of rows of one row group.
    pub(super) fn add_rows(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// Takes in one column of one row group: its values and what the encoder says of each of its leaves.
    pub(super) fn add_column(&mut self, column: usize, array: &dyn Array, leaves: Vec<LeafStatistics>) {
        observe(&mut self.columns[column].1, array, &mut leaves.into_iter());
    }

    /// The JSON text of the `add` action's `stats`.
    pub(super) fn to_json(&self) -> String {
        let min = |shape: &Shape| match shape {
            Shape::Leaf { kind, min, .. } => min.json(*kind, false),
            _ => None,
        };
        let max = |shape: &Shape| match shape {
            Shape::Leaf { kind, max, .. } => max.json(*kind, true),
            _ => None,
        };
        let nulls = |shape: &Shape| match shape {
            Shape::Leaf { nulls, .. } | Shape::Repeated { nulls, .. } => Some(nulls.to_string()),
            Shape::Struct(_) => None,
        };
        let object = |value: &dyn Fn(&Shape) -> Option<String>| {
            object_json(&self.columns, value).unwrap_or_else(|| "{}".into())
        };
        format!(
            r#"{{"numRecords":{},"minValues":{},"maxValues":{},"nullCount":{},"tightBounds":true}}"#,
            self.rows,
            object(&min),
            object(&max),
            object(&nulls)
        )
    }
}

fn named_shape(field: &FieldRef) -> (String, Shape) {
    (field.name().clone(), shape(field.data_type()))
}

fn shape(data_type: &DataType) -> Shape {
    let kind = match data_type {
        DataType::Struct(fields) => return Shape::Struct(fields.iter().map(named_shape).collect()),
        DataType::List(_) | DataType::Map(..) => {
            return Shape::Repeated { leaves: leaf_count(data_type), nulls: 0 };
        }
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Integer,
        DataType::Date32 => Kind::Date,
        DataType::Timestamp(..) => Kind::Timestamp,
        DataType::Float32 => Kind::Float32,
        DataType::Float64 => Kind::Float64,
        DataType::Decimal128(_, scale) => Kind::Decimal { scale: *scale },
        DataType::Utf8 => Kind::Text,
        _ => Kind::Unbounded,
    };
    Shape::Leaf { kind, nulls: 0, min: End::Empty, max: End::Empty }
}

fn leaf_count(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(field) | DataType::Map(field, _) => leaf_count(field.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| leaf_count(field.data_type())).sum(),
        _ => 1,
    }
}

fn observe(shape: &mut Shape, array: &dyn Array, statistics: &mut impl Iterator<Item = LeafStatistics>) {
    match shape {
        Shape::Struct(members) => {
            let children = array.as_struct().columns();
            for ((_, member), child) in members.iter_mut().zip(children) {
                observe(member, child.as_ref(), statistics);
            }
        }
        Shape::Repeated { leaves, nulls } => {
            *nulls += array.null_count() as u64;
            statistics.take(*leaves).for_each(drop);
        }
        Shape::Leaf { kind, nulls, min, max } => {
            let leaf = statistics.next().flatten();
            let leaf_nulls = leaf.as_ref().and_then(Statistics::null_count_opt);
            // The encoder counts the nulls of every leaf; without a count the array's own is right outside structs.
            let group_nulls = leaf_nulls.unwrap_or(array.null_count() as u64);
            *nulls += group_nulls;
            if group_nulls < array.len() as u64 {
                let bounds = if has_nan(array) { (None, None) } else { bounds(*kind, leaf.as_ref()) };
                min.merge(bounds.0, Ordering::Less);
                max.merge(bounds.1, Ordering::Greater);
            }
        }
    }
}

/// Whether any value that is not null is a NaN; `false` for arrays that are not of floats.
fn has_nan(array: &dyn Array) -> bool {
    match array.data_type() {
        DataType::Float32 if array.null_count() == 0 => {
            array.as_primitive::<Float32Type>().values().iter().any(|value| value.is_nan())
        }
        DataType::Float64 if array.null_count() == 0 => {
            array.as_primitive::<Float64Type>().values().iter().any(|value| value.is_nan())
        }
        DataType::Float32 => array.as_primitive::<Float32Type>().iter().flatten().any(f32::is_nan),
        DataType::Float64 => array.as_primitive::<Float64Type>().iter().flatten().any(f64::is_nan),
        _ => false,
    }
}

fn bounds(kind: Kind, statistics: Option<&Statistics>) -> (Option<Bound>, Option<Bound>) {
    let big_endian = |bytes: &[u8]| big_endian(bytes).map(Bound::Decimal);
    let text = |bytes: &[u8]| Some(Bound::Text(std::str::from_utf8(bytes).ok()?.to_string()));
    match (kind, statistics) {
        (Kind::Integer | Kind::Date, Some(Statistics::Int32(s))) => {
            let bound = |value: &i32| Bound::Integer(i64::from(*value));
            (s.min_opt().map(bound), s.max_opt().map(bound))
        }
        (Kind::Integer | Kind::Timestamp, Some(Statistics::Int64(s))) => {
            (s.min_opt().copied().map(Bound::Integer), s.max_opt().copied().map(Bound::Integer))
        }
        (Kind::Float32, Some(Statistics::Float(s))) => {
            (s.min_opt().copied().map(Bound::Float32), s.max_opt().copied().map(Bound::Float32))
        }
        (Kind::Float64, Some(Statistics::Double(s))) => {
            (s.min_opt().copied().map(Bound::Float64), s.max_opt().copied().map(Bound::Float64))
        }
        (Kind::Decimal { .. }, Some(Statistics::Int32(s))) => {
            let bound = |value: &i32| Bound::Decimal(i128::from(*value));
            (s.min_opt().map(bound), s.max_opt().map(bound))
        }
        (Kind::Decimal { .. }, Some(Statistics::Int64(s))) => {
            let bound = |value: &i64| Bound::Decimal(i128::from(*value));
            (s.min_opt().map(bound), s.max_opt().map(bound))
        }
        (Kind::Decimal { .. }, Some(Statistics::FixedLenByteArray(s))) => (
            s.min_opt().and_then(|value| big_endian(value.data())),
            s.max_opt().and_then(|value| big_endian(value.data())),
        ),
        (Kind::Text, Some(Statistics::ByteArray(s))) => (
            s.min_opt().and_then(|value| text(value.data())),
            s.max_opt().and_then(|value| text(value.data())),
        ),
        _ => (None, None),
    }
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first()? & 0x80 != 0;
    let mut full = [if negative { 0xff } else { 0 }; 16];
    full.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(full))
}

fn bound_json(bound: &Bound, kind: Kind, is_max: bool) -> Option<String> {
    match (bound, kind) {
        (Bound::Integer(value), Kind::Integer) => Some(value.to_string()),
        (Bound::Integer(days), Kind::Date) => {
            let date = DateTime::from_timestamp(days.checked_mul(86_400)?, 0)?.date_naive();
            (1..=9999).contains(&date.year()).then(|| format!("\"{date}\""))
        }
        (Bound::Integer(micros), Kind::Timestamp) => {
            let millis = micros.div_euclid(1000) + i64::from(is_max && micros.rem_euclid(1000) > 0);
            let time = DateTime::from_timestamp_millis(millis)?;
            let text = || format!("\"{}\"", time.to_rfc3339_opts(SecondsFormat::Millis, true));
            (1..=9999).contains(&time.year()).then(text)
        }
        // Rust prints the shortest text that reads back as the same number, in JSON's syntax.
        (Bound::Float32(value), _) => value.is_finite().then(|| format!("{value:?}")),
        (Bound::Float64(value), _) => value.is_finite().then(|| format!("{value:?}")),
        (Bound::Decimal(value), Kind::Decimal { scale }) => Some(decimal_json(*value, scale)),
        (Bound::Text(text), _) => {
            if text.len() <= TEXT_BYTES_MAX {
                serde_json::to_string(text).ok()
            } else {
                None
            }
        }
        _ => None,
    }
}

fn decimal_json(value: i128, scale: i8) -> String {
    let scale = usize::from(scale.unsigned_abs());
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// An object of the members that have a value; `None` if none has.
fn object_json(members: &[(String, Shape)], value: &dyn Fn(&Shape) -> Option<String>) -> Option<String> {
    let mut json = String::new();
    for (name, shape) in members {
        let member = match shape {
            Shape::Struct(members) => object_json(members, value),
            _ => value(shape),
        };
        if let Some(member) = member {
            let separator = if json.is_empty() { '{' } else { ',' };
            // Writing to a String cannot fail.
            let _ = write!(json, "{separator}{}:{member}", serde_json::Value::from(name.as_str()));
        }
    }
    (!json.is_empty()).then(|| json + "}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_plain_json_numbers() {
        for (value, scale, text) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (12_345, 3, "12.345"),
            (-12_345, 0, "-12345"),
            (i128::MIN, 38, "-1.70141183460469231731687303715884105728"),
        ] {
            assert_eq!(decimal_json(value, scale), text);
        }
        assert_eq!(big_endian(&[0xff, 0xfe]), Some(-2));
        assert_eq!(big_endian(&[0x01, 0x00]), Some(256));
        assert_eq!(big_endian(&i128::MIN.to_be_bytes()), Some(i128::MIN));
        assert_eq!(big_endian(&[]), None);
        assert_eq!(big_endian(&[0; 17]), None);
    }

    #[test]
    fn timestamps_widen_to_the_millisecond_and_odd_years_have_no_bound() {
        let bound = |micros, is_max| bound_json(&Bound::Integer(micros), Kind::Timestamp, is_max);
        assert_eq!(bound(1, false).unwrap(), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(bound(1, true).unwrap(), "\"1970-01-01T00:00:00.001Z\"");
        assert_eq!(bound(-1, false).unwrap(), "\"1969-12-31T23:59:59.999Z\"");
        assert_eq!(bound(-1, true).unwrap(), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(bound(2000, true).unwrap(), "\"1970-01-01T00:00:00.002Z\"");
        for micros in [i64::MIN, i64::MAX, 253_402_300_800_000_000] {
            assert_eq!(bound(micros, true), None);
            assert_eq!(bound(micros, false), None);
        }
        let date = |days| bound_json(&Bound::Integer(days), Kind::Date, false);
        assert_eq!(date(15_706).unwrap(), "\"2013-01-01\"");
        assert_eq!(date(i64::from(i32::MAX)), None);
        assert_eq!(date(-719_529), None);
    }

    #[test]
    fn one_unknown_row_group_makes_the_bound_unknown() {
        let mut end = End::Empty;
        end.merge(Some(Bound::Integer(5)), Ordering::Less);
        end.merge(Some(Bound::Integer(3)), Ordering::Less);
        end.merge(Some(Bound::Integer(4)), Ordering::Less);
        assert_eq!(end.json(Kind::Integer, false).unwrap(), "3");
        end.merge(None, Ordering::Less);
        end.merge(Some(Bound::Integer(1)), Ordering::Less);
        assert_eq!(end.json(Kind::Integer, false), None);
    }
}
