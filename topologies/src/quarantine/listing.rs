//! What lies in quarantines, for people and programs: how many rows and why ([`summaries`]), and the rows themselves
//! ([`show`]).
//!
//! Everything is read through [`query`](crate::query): from the first cloud that can tell, at its newest version, within the
//! memory of the topology, and with no way to change anything. A condition is an expression over single rows
//! ([`Condition`]), the same here and in a redrive, so that what is shown is what would be taken.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, SecondsFormat};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use futures::TryStreamExt;
use indicatif::HumanCount;
use isobar_schemas::metadata::headers_type;
use isobar_transforms::Condition;
use isobar_transforms::condition::in_brackets;
use serde::Serialize;

use super::schema;
use crate::commit::{QUARANTINE_SUFFIX, quarantine_of};
use crate::error::Error;
use crate::query::{Catalog, open_catalog};
use crate::spec::Topology;
use crate::start;

/// Most rows shown at a time.
pub const SHOWN_MAX: u32 = 10_000;
/// Characters of a key or a payload that people are shown; programs get all.
const TEXT_CHARS_MAX: usize = 2000;
/// The name of the table in a condition.
const TABLE: &str = "quarantine";

/// What the quarantine of one dataset holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuarantineSummary {
    /// The dataset.
    pub dataset: String,
    /// Rows in its quarantine.
    pub rows: u64,
    /// The same by reason, most rows first.
    pub reasons: Vec<ReasonSummary>,
}

/// The rows that are in a quarantine for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReasonSummary {
    /// Why: `undecodable`, `wrong_type`, …, or `expectation`.
    pub reason: String,
    /// The expectation that failed, if one did.
    pub rule: Option<String>,
    /// Rows.
    pub rows: u64,
    /// The earliest Kafka timestamp among them, RFC 3339; `None` where no record has one.
    pub first: Option<String>,
    /// The latest.
    pub last: Option<String>,
}

/// One row of a quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShownRow {
    /// Kafka topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// Kafka offset.
    pub offset: i64,
    /// Kafka timestamp, RFC 3339.
    pub timestamp: Option<String>,
    /// Why it is here.
    pub reason: String,
    /// The expectation that failed, if one did.
    pub rule: Option<String>,
    /// What exactly was wrong.
    pub message: String,
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The payload; of a tombstone neither is there.
    #[serde(flatten)]
    pub payload: Payload,
    /// The headers, where the quarantine keeps them and they could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<ShownHeader>>,
}

/// A key: as text where it is UTF-8, else in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Key {
    /// As text.
    pub key: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hex: Option<String>,
}

/// A payload, as [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Payload {
    /// As text.
    pub payload: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShownHeader {
    /// Its name.
    pub key: String,
    /// Its value, as text where it is UTF-8; a header without a value has neither.
    pub value: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_hex: Option<String>,
}

/// Compiles a condition on the rows of a quarantine that `keeps_headers`, or of one that does not.
///
/// # Errors
/// [`Error::Configuration`] saying what is wrong with it.
pub(crate) fn condition(sql: &str, keeps_headers: bool) -> Result<Condition, Error> {
    let schema = schema(keeps_headers);
    Condition::compile(TABLE, &schema, sql).map_err(|error| {
        let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        Error::Configuration(format!("--where {sql:?}: {error}; the columns are {}", columns.join(", ")))
    })
}

/// That the topology has no such dataset.
pub(crate) fn unknown_dataset(topology: &Topology, name: &str) -> Error {
    let known: Vec<&str> = topology.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    Error::Configuration(format!("the topology has no dataset {name}: it has {}", known.join(", ")))
}

/// What the quarantines of `topology` hold, dataset by dataset in the order of the specification. Those that nothing was
/// committed to yet are left out.
///
/// # Errors
/// Those of [`open_catalog`], and whatever stops a query.
pub async fn summaries(topology: &Topology) -> Result<Vec<QuarantineSummary>, Error> {
    let catalog = open_catalog(topology)?;
    let tables = catalog.tables().await?;
    let mut summaries = Vec::new();
    for dataset in &topology.datasets {
        let table = quarantine_of(&dataset.name);
        if tables.contains_key(&table) {
            summaries.push(summary(&catalog, &dataset.name, &table).await?);
        }
    }
    Ok(summaries)
}

async fn summary(catalog: &Catalog, dataset: &str, table: &str) -> Result<QuarantineSummary, Error> {
    let sql = format!(
        "SELECT reason, rule, count(*) AS rows, min(\"timestamp\") AS first, max(\"timestamp\") AS last FROM \"{table}\" \
         GROUP BY reason, rule ORDER BY rows DESC, reason, rule"
    );
    let (mut batches, _) = catalog.query(&sql).await?.into_parts();
    let mut reasons = Vec::new();
    while let Some(batch) = batches.try_next().await.map_err(|error| unreadable(table, &error))? {
        let columns = Columns(&batch);
        for row in 0..batch.num_rows() {
            reasons.push(ReasonSummary {
                reason: columns.text(0, row)?.unwrap_or_default(),
                rule: columns.text(1, row)?,
                rows: u64::try_from(columns.number(2, row)?).unwrap_or_default(),
                first: columns.time(3, row)?,
                last: columns.time(4, row)?,
            });
        }
    }
    let rows = reasons.iter().map(|reason| reason.rows).sum();
    Ok(QuarantineSummary { dataset: dataset.to_owned(), rows, reasons })
}

/// Gives `each` the rows in the quarantine of `dataset` for which `condition` holds, all where there is none, in the order of
/// topic, partition and offset, at most `rows_max` and [`SHOWN_MAX`] of them.
///
/// # Errors
/// [`Error::Configuration`] for a dataset or a condition that does not fit; those of [`open_catalog`]; what `each` returns.
pub async fn show<E: From<Error>>(
    topology: &Topology,
    dataset: &str,
    condition: Option<&str>,
    rows_max: u32,
    mut each: impl FnMut(ShownRow) -> Result<(), E>,
) -> Result<(), E> {
    let dataset = dataset.strip_suffix(QUARANTINE_SUFFIX).unwrap_or(dataset);
    let plans = start::compile(topology)?;
    let plan = plans.iter().find(|plan| plan.name == dataset);
    let keeps_headers = plan.ok_or_else(|| unknown_dataset(topology, dataset))?.keeps_headers();
    if let Some(sql) = condition {
        // As a redrive compiles it: what is no condition on single rows gets no further.
        self::condition(sql, keeps_headers)?;
    }
    let table = quarantine_of(dataset);
    let sql = format!(
        "SELECT topic, partition, \"offset\", \"timestamp\", reason, rule, message, \"key\", payload{} FROM \"{table}\" AS {TABLE} \
         WHERE {} ORDER BY topic, partition, \"offset\" LIMIT {}",
        if keeps_headers { ", headers" } else { "" },
        in_brackets(condition.unwrap_or("true")),
        rows_max.min(SHOWN_MAX)
    );
    let (mut batches, _) = open_catalog(topology)?.query(&sql).await?.into_parts();
    while let Some(batch) = batches.try_next().await.map_err(|error| unreadable(&table, &error))? {
        let columns = Columns(&batch);
        for row in 0..batch.num_rows() {
            each(columns.shown(row)?)?;
        }
    }
    Ok(())
}

fn unreadable(table: &str, error: &datafusion::error::DataFusionError) -> Error {
    Error::Configuration(format!("{table} cannot be read: {}", error.strip_backtrace()))
}

/// The columns of a result, whatever variant of text and bytes the engine chose.
struct Columns<'b>(&'b RecordBatch);

impl Columns<'_> {
    fn column(&self, index: usize, data_type: &DataType, row: usize) -> Result<Option<ArrayRef>, Error> {
        let column = self.0.column(index).slice(row, 1);
        let column = cast(&column, data_type);
        let column = column.map_err(|error| Error::damaged("the quarantine", error.to_string()))?;
        Ok(column.is_valid(0).then_some(column))
    }

    fn text(&self, index: usize, row: usize) -> Result<Option<String>, Error> {
        let column = self.column(index, &DataType::Utf8, row)?;
        Ok(column.map(|column| column.as_string::<i32>().value(0).to_owned()))
    }

    fn number(&self, index: usize, row: usize) -> Result<i64, Error> {
        let column = self.column(index, &DataType::Int64, row)?;
        Ok(column.map_or(0, |column| column.as_primitive::<Int64Type>().value(0)))
    }

    fn time(&self, index: usize, row: usize) -> Result<Option<String>, Error> {
        let column = self.column(index, &DataType::Timestamp(TimeUnit::Microsecond, None), row)?;
        let micros = column.map(|column| column.as_primitive::<TimestampMicrosecondType>().value(0));
        let time = micros.and_then(DateTime::from_timestamp_micros);
        Ok(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)))
    }

    /// As text, or else in hexadecimal.
    fn bytes(&self, index: usize, row: usize) -> Result<(Option<String>, Option<String>), Error> {
        let column = self.column(index, &DataType::Binary, row)?;
        Ok(text_or_hexadecimal(column.as_ref().map(|column| column.as_binary::<i32>().value(0))))
    }

    fn headers(&self, index: usize, row: usize) -> Result<Option<Vec<ShownHeader>>, Error> {
        if index >= self.0.num_columns() {
            return Ok(None);
        }
        let column = self.column(index, &headers_type(), row)?;
        Ok(column.map(|column| {
            let headers = super::headers_in(column.as_list(), 0).into_iter().flatten();
            let shown = headers.map(|(key, value)| {
                let (value, value_hex) = text_or_hexadecimal(value);
                ShownHeader { key: key.to_owned(), value, value_hex }
            });
            shown.collect()
        }))
    }

    fn shown(&self, row: usize) -> Result<ShownRow, Error> {
        let (key, key_hex) = self.bytes(7, row)?;
        let (payload, payload_hex) = self.bytes(8, row)?;
        let partition = self.column(1, &DataType::Int32, row)?;
        Ok(ShownRow {
            topic: self.text(0, row)?.unwrap_or_default(),
            partition: partition.map_or(0, |column| column.as_primitive::<Int32Type>().value(0)),
            offset: self.number(2, row)?,
            timestamp: self.time(3, row)?,
            reason: self.text(4, row)?.unwrap_or_default(),
            rule: self.text(5, row)?,
            message: self.text(6, row)?.unwrap_or_default(),
            key: Key { key, key_hex },
            payload: Payload { payload, payload_hex },
            headers: self.headers(9, row)?,
        })
    }
}

fn text_or_hexadecimal(bytes: Option<&[u8]>) -> (Option<String>, Option<String>) {
    match bytes.map(std::str::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(_)) => (None, bytes.map(hex::encode)),
    }
}

/// Summaries as a table for people.
pub fn to_table(summaries: &[QuarantineSummary]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["DATASET", "REASON", "RULE", "ROWS", "FIRST", "LAST"]);
    for summary in summaries {
        let total = HumanCount(summary.rows).to_string();
        table.add_row([summary.dataset.as_str(), "", "", &total, "", ""]);
        for reason in &summary.reasons {
            let rows = HumanCount(reason.rows).to_string();
            table.add_row([
                "",
                &visible(&reason.reason),
                &visible(reason.rule.as_deref().unwrap_or_default()),
                &rows,
                reason.first.as_deref().unwrap_or("-"),
                reason.last.as_deref().unwrap_or("-"),
            ]);
        }
    }
    if let Some(rows) = table.column_mut(3) {
        rows.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

impl ShownRow {
    /// The row for people: a line that says where it is from, and one for each part of it. Control characters are
    /// written as escapes, so that nothing in a record can act on a terminal.
    pub fn to_text(&self) -> String {
        let time = self.timestamp.as_deref().unwrap_or("no timestamp");
        let mut text =
            format!("{}[{}] offset {}  {time}\n", visible(&self.topic), self.partition, self.offset);
        let rule = self.rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
        let why = format!("{}{rule}: {}", self.reason, self.message);
        let key = as_text(self.key.key.as_deref(), self.key.key_hex.as_deref());
        let payload = as_text(self.payload.payload.as_deref(), self.payload.payload_hex.as_deref());
        for (name, value) in [("reason", visible(&why)), ("key", key), ("payload", payload)] {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<8} {value}");
        }
        for header in self.headers.iter().flatten() {
            let value = as_text(header.value.as_deref(), header.value_hex.as_deref());
            let _ = writeln!(text, "  header   {}: {value}", visible(&header.key));
        }
        text
    }
}

fn as_text(text: Option<&str>, hexadecimal: Option<&str>) -> String {
    match (text, hexadecimal) {
        (Some(""), _) => "(empty)".to_owned(),
        (Some(text), _) => shortened(text, visible),
        (None, Some(digits)) => format!("0x{}", shortened(digits, str::to_owned)),
        (None, None) => "(none)".to_owned(),
    }
}

/// The first [`TEXT_CHARS_MAX`] characters, written by `write`, and how many more there are.
fn shortened(text: &str, write: impl Fn(&str) -> String) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => write(text),
        Some((end, _)) => {
            format!("{} … ({} bytes in all)", write(&text[..end]), HumanCount(text.len() as u64))
        }
    }
}

/// `text` with control characters, and those that change the direction of what follows, written as escapes.
fn visible(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(payload: Option<&str>, payload_hex: Option<&str>) -> ShownRow {
        ShownRow {
            topic: "events".into(),
            partition: 3,
            offset: 41,
            timestamp: Some("2013-01-01T00:00:00.000Z".into()),
            reason: "expectation".into(),
            rule: Some("has_amount".into()),
            message: "not met".into(),
            key: Key { key: Some(String::new()), key_hex: None },
            payload: Payload {
                payload: payload.map(str::to_owned),
                payload_hex: payload_hex.map(str::to_owned),
            },
            headers: None,
        }
    }

    #[test]
    fn nothing_in_a_record_reaches_the_terminal_as_a_command() {
        let text = row(Some("{\"a\":\"\u{1b}[2J\u{9b}31m\r\n\u{202e}é\"}"), None).to_text();
        assert!(text.contains(r#"{"a":"\u{1b}[2J\u{9b}31m\r\n\u{202e}é"}"#), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.starts_with(
            "events[3] offset 41  2013-01-01T00:00:00.000Z\n  reason   expectation has_amount: not met\n"
        ));
        assert!(text.contains("  key      (empty)\n"), "{text}");
        assert!(row(None, Some("00ff")).to_text().contains("payload  0x00ff"));
        assert!(row(None, None).to_text().contains("payload  (none)"));
        let long = "é".repeat(TEXT_CHARS_MAX + 1);
        assert!(row(Some(&long), None).to_text().contains("é … (4,002 bytes in all)"));
        let header = |key: &str, bytes| {
            let (value, value_hex) = text_or_hexadecimal(bytes);
            ShownHeader { key: key.to_owned(), value, value_hex }
        };
        let headers =
            vec![header("a\u{1b}", Some(&b"\r1"[..])), header("b", Some(b"\xff")), header("c", None)];
        let text = ShownRow { headers: Some(headers), ..row(None, None) }.to_text();
        let shown = "  header   a\\u{1b}: \\r1\n  header   b: 0xff\n  header   c: (none)\n";
        assert!(text.ends_with(shown), "{text}");
    }

    #[test]
    fn programs_get_all_of_a_row() {
        let json = serde_json::to_value(row(None, Some("00ff"))).unwrap();
        assert_eq!(json["payload"], serde_json::Value::Null);
        assert_eq!((json["payload_hex"].as_str(), json["key"].as_str()), (Some("00ff"), Some("")));
        assert!(json.get("key_hex").is_none());
    }

    #[test]
    fn conditions_name_the_columns_of_the_quarantine() {
        condition("rule = 'has_amount' AND partition = 3 AND \"offset\" > 4 AND \"timestamp\" >= '2013-01-01T00:00:00Z'", false).unwrap();
        let refused = condition("colour = 'red'", false).unwrap_err().to_string();
        assert!(refused.contains("colour") && refused.contains("payload"), "{refused}");
        let by_header = "CAST(header(headers, 'source') AS VARCHAR) = 'web'";
        condition(by_header, true).unwrap();
        assert!(condition(by_header, false).is_err());
    }
}
