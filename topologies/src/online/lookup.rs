//! What is asked of a view, and the answer.
//!
//! An answer is of one version of the dataset, which it states, and has a result for each key in the order asked. No query is
//! planned and no cloud is asked: a look-up reads one key after the other from the store and decodes the rows found, all at once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch,
    StringArray,
};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use chrono::{DateTime, NaiveDate};

use super::View;
use super::layout::Layout;
use super::store::{Applied, Reader};

/// Most keys of one request.
pub const KEYS_MAX: usize = 1000;

/// Why there is no answer, in the words of no protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The request is wrong: change it.
    #[error("{0}")]
    Wrong(String),
    /// More is asked for than one answer holds: ask for less at a time.
    #[error("{0}")]
    TooMuch(String),
    /// There is no online view of the dataset: add one to the specification, or ask for another.
    #[error("there is no online view of {0}")]
    NotFound(String),
    /// The view is not built yet: try again.
    #[error("the online view of {0} is being built; try again")]
    NotReady(String),
    /// The view has not reached the version asked for: try again.
    #[error("{dataset} is at version {version} here, and {min_version} is asked for; try again")]
    Behind {
        /// The dataset.
        dataset: String,
        /// The version that is there.
        version: u64,
        /// The version asked for.
        min_version: u64,
    },
    /// The store cannot be read: see the logs.
    #[error("{0}")]
    Internal(String),
}

/// What is asked of one view beside the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The least version of the dataset that the answer may be of.
    pub min_version: Option<u64>,
    /// How old a row may be; at most what the view allows.
    pub ttl: Option<Duration>,
    /// The features wanted, by name and in this order; all of them if `None`.
    pub features: Option<Vec<String>>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is a row, in this place of [`Answer::rows`].
    Row(usize),
    /// There is one, which is older than the time to live.
    Expired,
    /// There is none.
    Nothing,
}

/// The answer for some keys.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The dataset.
    pub dataset: String,
    /// Its version whose rows these are.
    pub applied: Applied,
    /// The newest version that the clouds had when they were last asked.
    pub newest_version: u64,
    /// Milliseconds since that version was committed, by the clock of this machine.
    pub age_ms: u64,
    /// A result for each key, in the order asked.
    pub found: Vec<Found>,
    /// When each row of `rows` happened, microseconds since the Unix epoch.
    pub event_times: Vec<i64>,
    /// The features of the rows found.
    pub rows: RecordBatch,
}

impl View {
    /// Looks up the rows of `keys`, which are columns of the view's key without nulls. `now_ms` is the time, in milliseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn look_up(&self, keys: &[ArrayRef], options: &Options, now_ms: i64) -> Result<Answer, LookupError> {
        let reader = self.reader()?;
        self.answer(&reader, keys, options, now_ms)
    }

    /// The same from one reader, whose columns the keys are of.
    pub(crate) fn answer(
        &self,
        reader: &Reader,
        keys: &[ArrayRef],
        options: &Options,
        now_ms: i64,
    ) -> Result<Answer, LookupError> {
        let applied = reader.applied().clone();
        if let Some(min_version) = options.min_version.filter(|least| *least > applied.version) {
            let dataset = self.spec.dataset.clone();
            return Err(LookupError::Behind { dataset, version: applied.version, min_version });
        }
        let count = keys.first().map_or(0, |column| column.len());
        if count > KEYS_MAX {
            return Err(LookupError::TooMuch(format!("{count} keys; one request takes {KEYS_MAX}")));
        }
        let ttl = self.ttl(options.ttl)?;
        let wanted = wanted(reader.layout(), options.features.as_deref())?;
        let (places, values) = reader.get(keys)?;
        let times = event_times(&values)?;
        let oldest = ttl.map(|ttl| {
            let ttl_micros = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
            now_ms.saturating_mul(1000).saturating_sub(ttl_micros)
        });
        let is_alive = |place: usize| oldest.is_none_or(|oldest| times[place] >= oldest);
        let mut alive: Vec<usize> = Vec::with_capacity(values.num_rows());
        let found = places.into_iter().map(|place| match place {
            None => Found::Nothing,
            Some(place) if is_alive(place) => {
                alive.push(place);
                Found::Row(alive.len() - 1)
            }
            Some(_) => Found::Expired,
        });
        let found: Vec<Found> = found.collect();
        let internal = |error: arrow::error::ArrowError| LookupError::Internal(error.to_string());
        let rows = values.project(&wanted).map_err(internal)?;
        let rows = if alive.len() == rows.num_rows() {
            rows
        } else {
            let places = alive.iter().map(|place| *place as u64).collect::<PrimitiveArray<UInt64Type>>();
            take_record_batch(&rows, &places).map_err(internal)?
        };
        let event_times = alive.into_iter().map(|place| times[place]).collect();
        let age_ms = u64::try_from(now_ms.saturating_sub(applied.committed_ms)).unwrap_or(0);
        let newest_version = self.newest_version().max(applied.version);
        self.count(&found);
        Ok(Answer {
            dataset: self.spec.dataset.clone(),
            applied,
            newest_version,
            age_ms,
            found,
            event_times,
            rows,
        })
    }

    /// The time to live of one request. A longer one than the view's would show rows that the view holds back.
    fn ttl(&self, asked: Option<Duration>) -> Result<Option<Duration>, LookupError> {
        match (asked, self.spec.ttl) {
            (Some(asked), Some(most)) if asked > most => {
                let most = crate::spec::units::HumanDuration(most);
                Err(LookupError::Wrong(format!(
                    "the ttl of {} is {most}, and can only be made shorter",
                    self.spec.dataset
                )))
            }
            (asked, most) => Ok(asked.or(most)),
        }
    }

    fn count(&self, found: &[Found]) {
        let count = |status: &str, is_it: fn(&Found) -> bool| {
            let count = found.iter().filter(|found| is_it(found)).count() as u64;
            if count > 0 {
                let labels = [self.spec.dataset.as_str(), status];
                self.metrics.keys_looked_up.with_label_values(&labels).inc_by(count);
            }
        };
        count("found", |found| matches!(found, Found::Row(_)));
        count("expired", |found| matches!(found, Found::Expired));
        count("not_found", |found| matches!(found, Found::Nothing));
    }
}

/// The places of the wanted features among the columns of values.
fn wanted(layout: &Layout, features: Option<&[String]>) -> Result<Vec<usize>, LookupError> {
    let before = layout.order().len();
    let Some(features) = features else {
        return Ok((before..before + layout.features().len()).collect());
    };
    if features.is_empty() || features.len() > layout.features().len() {
        let (dataset, count) = (layout.dataset(), layout.features().len());
        return Err(LookupError::Wrong(format!(
            "`features` has to name 1 to {count} of those of {dataset}, each once"
        )));
    }
    let mut places = Vec::with_capacity(features.len());
    for name in features {
        let place = layout.features().iter().position(|field| field.name() == name);
        let place = place.map(|place| before + place);
        match place {
            Some(place) if !places.contains(&place) => places.push(place),
            Some(_) => return Err(LookupError::Wrong(format!("the feature {name} is asked for twice"))),
            None => {
                let known: Vec<&str> = layout.features().iter().map(|field| field.name().as_str()).collect();
                let (dataset, known) = (layout.dataset(), known.join(", "));
                return Err(LookupError::Wrong(format!("{dataset} has no feature {name}; it has {known}")));
            }
        }
    }
    Ok(places)
}

/// The event times of decoded values, in microseconds.
pub(super) fn event_times(values: &RecordBatch) -> Result<Vec<i64>, LookupError> {
    let internal = |error: arrow::error::ArrowError| LookupError::Internal(error.to_string());
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let time = values.column(0);
    // A timestamp and its zone are the same numbers without it.
    let times = match time.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => time.clone(),
        _ => cast(time, &micros).map_err(internal)?,
    };
    Ok(times.as_primitive::<TimestampMicrosecondType>().values().to_vec())
}

/// A column of keys from texts: one value of the column for each, written as in the answers of a query. Whole numbers in
/// decimal digits, `true` and `false`, days as `2026-05-03`, times as in RFC 3339 with a zone, bytes in hexadecimal.
///
/// # Errors
/// [`LookupError::Wrong`] naming the column and the text that is no value of it.
pub fn key_column(field: &Field, texts: &[&str]) -> Result<ArrayRef, LookupError> {
    let wrong = |text: &str, what: &str| {
        let shown: String = text.chars().take(64).collect();
        LookupError::Wrong(format!("key {}: `{shown}` is no {what}", field.name()))
    };
    fn each<T>(
        texts: &[&str],
        parse: impl Fn(&str) -> Option<T>,
        refuse: impl Fn(&str) -> LookupError,
    ) -> Result<Vec<T>, LookupError> {
        texts.iter().map(|text| parse(text).ok_or_else(|| refuse(text))).collect()
    }
    fn numbers<T: ArrowPrimitiveType>(values: Vec<T::Native>) -> PrimitiveArray<T> {
        PrimitiveArray::from_iter_values(values)
    }
    let number = |text: &str| wrong(text, "whole number that fits");
    Ok(match field.data_type() {
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(texts)),
        DataType::Int8 => Arc::new(numbers::<Int8Type>(each(texts, |text| text.parse().ok(), number)?)),
        DataType::Int16 => Arc::new(numbers::<Int16Type>(each(texts, |text| text.parse().ok(), number)?)),
        DataType::Int32 => Arc::new(numbers::<Int32Type>(each(texts, |text| text.parse().ok(), number)?)),
        DataType::Int64 => Arc::new(numbers::<Int64Type>(each(texts, |text| text.parse().ok(), number)?)),
        DataType::Boolean => {
            let parse = |text: &str| text.parse::<bool>().ok();
            let values = each(texts, parse, |text| wrong(text, "`true` or `false`"))?;
            Arc::new(BooleanArray::from(values))
        }
        DataType::Binary => {
            let values = each(texts, |text| hex::decode(text).ok(), |text| wrong(text, "hexadecimal text"))?;
            Arc::new(BinaryArray::from_iter_values(values))
        }
        DataType::Date32 => {
            let days = each(texts, day, |text| wrong(text, "day, such as 2026-05-03"))?;
            Arc::new(numbers::<Date32Type>(days))
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            let what = "time in whole microseconds, such as 2026-05-03T10:00:00Z";
            let micros = each(texts, micros, |text| wrong(text, what))?;
            Arc::new(numbers::<TimestampMicrosecondType>(micros).with_timezone(zone.clone()))
        }
        DataType::Decimal128(precision, scale) => {
            let what = format!("decimal number of {precision} digits, {scale} of them after the point");
            let values = each(texts, |text| decimal(text, *precision, *scale), |text| wrong(text, &what))?;
            let values = numbers::<Decimal128Type>(values).with_precision_and_scale(*precision, *scale);
            Arc::new(values.map_err(|error| LookupError::Internal(error.to_string()))?)
        }
        other => {
            let (name, other) = (field.name(), other);
            return Err(LookupError::Internal(format!("key {name}: {other} is no type of keys")));
        }
    })
}

/// Days since the Unix epoch.
fn day(text: &str) -> Option<i32> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from(day.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// Microseconds since the Unix epoch; a time between two of them is none.
fn micros(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    (time.timestamp_subsec_nanos() % 1000 == 0).then(|| time.timestamp_micros())
}

/// A decimal number in units of its last digit; one that has more digits is none.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let scale = usize::try_from(scale).ok()?;
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > scale {
        return None;
    }
    let value: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    let bound = 10i128.checked_pow(precision.into())?;
    (value < bound).then_some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data_type: DataType, text: &str) -> Result<ArrayRef, LookupError> {
        key_column(&Field::new("k", data_type, true), &[text])
    }

    #[test]
    fn keys_are_read_exactly_or_refused() {
        let utc = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let number = column(DataType::Int64, "-9007199254740993").unwrap();
        assert_eq!(number.as_primitive::<Int64Type>().value(0), -9_007_199_254_740_993);
        let time = column(utc(), "1970-01-01T02:00:00.000007+02:00").unwrap();
        assert_eq!(time.as_primitive::<TimestampMicrosecondType>().value(0), 7);
        assert_eq!(time.data_type(), &utc());
        let day = column(DataType::Date32, "1970-01-03").unwrap();
        assert_eq!(day.as_primitive::<Date32Type>().value(0), 2);
        let money = column(DataType::Decimal128(5, 2), "-123.4").unwrap();
        assert_eq!(money.as_primitive::<Decimal128Type>().value(0), -12_340);
        let bytes = column(DataType::Binary, "00ff").unwrap();
        assert_eq!(bytes.as_binary::<i32>().value(0), [0, 255]);
        assert_eq!(column(DataType::Utf8, "").unwrap().as_string::<i32>().value(0), "");
        for (data_type, text) in [
            (DataType::Int8, "128"),
            (DataType::Int64, "1.0"),
            (DataType::Int64, " 1"),
            (DataType::Boolean, "yes"),
            (DataType::Date32, "2026-02-30"),
            (utc(), "2026-05-03T10:00:00"),
            (utc(), "2026-05-03T10:00:00.0000001Z"),
            (DataType::Decimal128(5, 2), "1.234"),
            (DataType::Decimal128(5, 2), "1000.00"),
            (DataType::Decimal128(5, 2), "1e2"),
            (DataType::Decimal128(5, 2), "-"),
            (DataType::Binary, "0g"),
            (DataType::Float64, "1"),
        ] {
            assert!(column(data_type.clone(), text).is_err(), "{text} as {data_type}");
        }
    }
}
