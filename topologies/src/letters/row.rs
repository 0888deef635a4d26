//! What a row of a dataset is as a message.
//!
//! The payload is the row as one JSON object, written as `isobar query --format json` writes it. Its members are the columns of
//! the file that has the row, and those whose values are in the log: what the table gained later, the row does not have. Which
//! dataset and version it is of stands in headers. A message is all of its row: one that a topic does not take is not sent without
//! some of it, since a message without payload deletes what a compacted topic has under its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::make_encoder;
use isobar_connectors::delta::TableDefinition;
use isobar_connectors::kafka::OutgoingRecord;

use super::letter::Origin;
use crate::query::{json_lines, json_options, partition_value};
use crate::spec::PublishSpec;

/// The values of columns that are the same in all rows of a file, as the log has them.
pub(super) type FolderValues = BTreeMap<String, Option<String>>;

/// How rows of one dataset become messages.
#[derive(Debug, Clone)]
pub(super) struct RowLetters {
    key: Vec<String>,
    /// `None`: all.
    columns: Option<Vec<String>>,
    /// The columns of the dataset as it is made now, in their order.
    fields: Vec<FieldRef>,
    /// Those of them whose values are in the log.
    partition_by: Vec<String>,
}

impl RowLetters {
    /// For rows of `table`.
    pub(super) fn new(spec: &PublishSpec, table: &TableDefinition) -> Self {
        Self {
            key: spec.key.clone(),
            columns: spec.columns.clone(),
            fields: table.schema.fields().iter().cloned().collect(),
            partition_by: table.partition_by.clone(),
        }
    }

    /// The messages for `rows`, which are of one file with these `values`.
    ///
    /// # Errors
    /// If the log lacks a value, or a column has no place in JSON; for people.
    pub(super) fn letters(
        &self,
        origin: Origin<'_>,
        rows: &RecordBatch,
        values: &FolderValues,
    ) -> Result<Vec<OutgoingRecord>, String> {
        let keys = self.keys(rows, values)?;
        let lines = json_lines(&self.sent(rows, values)?).map_err(|error| {
            format!("its rows have no place in JSON: {error}; name the other columns in `columns`")
        })?;
        let payloads: Vec<&str> = lines.split_terminator('\n').collect();
        if payloads.len() != rows.num_rows() {
            return Err(format!("{} rows became {} lines of JSON", rows.num_rows(), payloads.len()));
        }
        let header = |name: &str, value: String| (format!("isobar.{name}"), Some(value.into_bytes()));
        let letter = |(key, payload): (Option<Vec<u8>>, &str)| OutgoingRecord {
            key,
            payload: Some(payload.as_bytes().to_vec()),
            timestamp_ms: None,
            headers: vec![
                header("topology", origin.topology.to_owned()),
                header("dataset", origin.dataset.to_owned()),
                header("version", origin.version.to_string()),
            ],
        };
        Ok(keys.into_iter().zip(payloads).map(letter).collect())
    }

    /// What is sent of `rows`: the columns that are wanted, as far as these rows have them.
    fn sent(&self, rows: &RecordBatch, values: &FolderValues) -> Result<RecordBatch, String> {
        let names: Vec<&str> = match &self.columns {
            Some(columns) => columns.iter().map(String::as_str).collect(),
            None => {
                let now: Vec<&str> = self.fields.iter().map(|field| field.name().as_str()).collect();
                let stored = rows.schema_ref().fields().iter().map(|field| field.name().as_str());
                let no_longer: Vec<&str> = stored.filter(|name| !now.contains(name)).collect();
                [now, no_longer].concat()
            }
        };
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for name in names {
            if let Some((field, column)) = self.column(name, rows, values)? {
                fields.push(field);
                columns.push(column);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|error| error.to_string())
    }

    /// One column of `rows`; `None` if the table did not have it when they were written.
    fn column(
        &self,
        name: &str,
        rows: &RecordBatch,
        values: &FolderValues,
    ) -> Result<Option<(FieldRef, ArrayRef)>, String> {
        if !self.partition_by.iter().any(|column| column == name) {
            let stored = rows.schema_ref().index_of(name).ok();
            return Ok(
                stored.map(|index| (rows.schema_ref().fields()[index].clone(), rows.column(index).clone()))
            );
        }
        let wrong = |error: &dyn std::fmt::Display| format!("column {name}: {error}");
        let text = values.get(name).ok_or_else(|| wrong(&"the log has no value"))?;
        let field = self.fields.iter().find(|field| field.name() == name);
        let data_type = field.ok_or_else(|| wrong(&"its type is not known"))?.data_type();
        let value = partition_value(text.as_deref(), data_type);
        let column = value.and_then(|value| value.to_array_of_size(rows.num_rows()));
        let column = column.map_err(|error| wrong(&error))?;
        Ok(Some((Arc::new(Field::new(name, data_type.clone(), true)), column)))
    }

    /// The keys of the messages for `rows`.
    fn keys(&self, rows: &RecordBatch, values: &FolderValues) -> Result<Vec<Option<Vec<u8>>>, String> {
        let columns: Vec<Option<(FieldRef, ArrayRef)>> =
            self.key.iter().map(|name| self.column(name, rows, values)).collect::<Result<_, _>>()?;
        match &columns[..] {
            [] | [None] => Ok(vec![None; rows.num_rows()]),
            [Some((field, column))] => texts(field, column),
            several => arrays(several, rows.num_rows()),
        }
    }
}

/// The values of a column as texts, nulls as none: texts and bytes as they are, others as in JSON, without its quotes.
fn texts(field: &FieldRef, column: &ArrayRef) -> Result<Vec<Option<Vec<u8>>>, String> {
    if matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        || matches!(column.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    {
        let column = cast(column, &DataType::Binary).map_err(|error| error.to_string())?;
        return Ok(column.as_binary::<i32>().iter().map(|bytes| bytes.map(<[u8]>::to_vec)).collect());
    }
    let options = json_options();
    let mut encoder = make_encoder(field, column, &options).map_err(|error| error.to_string())?;
    let text = |row: usize| {
        if encoder.is_null(row) {
            return None;
        }
        let mut text = Vec::new();
        encoder.encode(row, &mut text);
        // Dates, times and the numbers that JSON has none for: nothing in them is escaped.
        let unquoted = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        Some(unquoted.map(<[u8]>::to_vec).unwrap_or(text))
    };
    Ok((0..column.len()).map(text).collect())
}

/// The values of several columns, row by row, as JSON arrays; null stands for a column that the rows do not have.
fn arrays(columns: &[Option<(FieldRef, ArrayRef)>], rows: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
    let options = json_options();
    let encoders = columns.iter().map(|column| match column {
        Some((field, column)) => make_encoder(field, column, &options).map(Some),
        None => Ok(None),
    });
    let mut encoders: Vec<_> =
        encoders.collect::<Result<_, ArrowError>>().map_err(|error| error.to_string())?;
    let array = |row: usize| {
        let mut text = Vec::new();
        for (index, encoder) in encoders.iter_mut().enumerate() {
            text.push(if index == 0 { b'[' } else { b',' });
            match encoder {
                Some(encoder) if !encoder.is_null(row) => encoder.encode(row, &mut text),
                _ => text.extend_from_slice(b"null"),
            }
        }
        text.push(b']');
        Some(text)
    };
    Ok((0..rows).map(array).collect())
}

#[cfg(test)]
mod tests;
