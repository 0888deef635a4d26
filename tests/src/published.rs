//! What a topic must have that the rows of a dataset are published to: each row once, as JSON says it.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value as Json;

use crate::delta::Table;
use crate::events::{Row, Value};
use crate::letters::Letter;

/// The columns that tell the rows of most datasets apart.
pub const BY_POSITION: [&str; 2] = ["kafka_partition", "kafka_offset"];

/// The row that a message holds.
///
/// # Panics
/// If it holds none.
pub fn row_of(letter: &Letter) -> Json {
    let payload = letter.payload.as_deref().unwrap_or_else(|| panic!("a row has a payload: {letter:?}"));
    let row: Json = serde_json::from_slice(payload).unwrap_or_else(|error| panic!("{error}: {letter:?}"));
    assert!(row.is_object(), "{row}");
    row
}

/// `letters` are the rows of `table`, each once and as it is there; the columns `by`, whole numbers, tell them apart.
///
/// # Panics
/// If they are not; says which.
pub fn assert_are_rows_of(letters: &[Letter], table: &Table, by: &[&str]) {
    let mut due: BTreeMap<Vec<i64>, &Row> = BTreeMap::new();
    for row in table.rows() {
        let numbers = by.iter().map(|name| match &row[*name] {
            Value::Int(number) => *number,
            other => panic!("{name} is {other:?}"),
        });
        assert!(due.insert(numbers.collect(), row).is_none(), "two rows are alike in {by:?}: {row:?}");
    }
    for letter in letters {
        let sent = row_of(letter);
        let number = |name: &&str| sent[*name].as_i64().unwrap_or_else(|| panic!("{name} of {sent}"));
        let numbers: Vec<i64> = by.iter().map(number).collect();
        let row = due.remove(&numbers);
        let row = row.unwrap_or_else(|| panic!("not in the dataset, or sent twice: {letter:?}"));
        assert_says(&sent, row);
    }
    let missing: Vec<_> = due.keys().take(5).collect();
    assert!(due.is_empty(), "{} rows were not sent, among them those at {missing:?} of {by:?}", due.len());
}

/// `sent` is `row`: of columns that it does not have, the row has no value.
fn assert_says(sent: &Json, row: &Row) {
    for name in sent.as_object().into_iter().flat_map(|members| members.keys()) {
        assert!(row.contains_key(name), "{name} is no column: {sent}");
    }
    for (name, value) in row {
        let is_said = match sent.get(name) {
            None => *value == Value::Null,
            Some(json) => says(json, value),
        };
        assert!(is_said, "{name} is {value:?}, and not so in {sent}");
    }
}

fn says(json: &Json, value: &Value) -> bool {
    let is_text = |text: &str| json.as_str() == Some(text);
    match value {
        Value::Null => json.is_null(),
        Value::Bool(value) => json.as_bool() == Some(*value),
        Value::Int(value) => json.as_i64() == Some(*value),
        Value::Float(value) => is_float(json, *value),
        Value::Text(text) => is_text(text),
        Value::Bytes(bytes) => is_text(&hex::encode(bytes)),
        Value::Micros(micros) => {
            let time = DateTime::from_timestamp_micros(*micros).expect("times of tests can be represented");
            is_text(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        }
        Value::List(values) => json.as_array().is_some_and(|list| {
            list.len() == values.len() && list.iter().zip(values).all(|(json, value)| says(json, value))
        }),
        Value::Struct(fields) => {
            fields.iter().all(|(name, value)| json.get(name).is_some_and(|json| says(json, value)))
        }
        Value::Map(_) | Value::Other(_) => panic!("no test publishes {value:?}"),
    }
}

/// What reads JSON may round the last bit of a number.
fn is_float(json: &Json, value: f64) -> bool {
    match json.as_f64() {
        Some(number) => (number - value).abs() <= f64::EPSILON * value.abs(),
        None => {
            let name = match value {
                f64::INFINITY => "Infinity",
                f64::NEG_INFINITY => "-Infinity",
                _ => "NaN",
            };
            !value.is_finite() && json.as_str() == Some(name)
        }
    }
}
