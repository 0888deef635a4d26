//! What is shown to whoever asks over the network.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use datafusion::error::Result;

/// A plan as text, without the names of files.
pub(super) fn without_files(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>().iter();
            let redacted: StringArray = texts.map(|text| text.map(without_file_names)).collect();
            Arc::new(redacted) as ArrayRef
        }
        _ => column.clone(),
    });
    Ok(RecordBatch::try_new(batch.schema(), columns.collect())?)
}

/// What plans write before the files of a scan, and before the file that a metric is of.
const FILES: &str = "file_groups={";
const FILE: &str = "filename=";

/// `text` with the names of files in plans left out.
pub(super) fn without_file_names(text: &str) -> String {
    // `2 groups: [[a, b], [c]]}`: no name of a file holds the end.
    let without_groups = without(text, FILES, |files| {
        let count = files.split_once(':').map_or("", |(count, _)| count);
        (count, files.find("]}").map_or("", |end| &files[end + 1..]))
    });
    without(&without_groups, FILE, |name| {
        ("", name.find([',', '}', ']', ' ']).map_or("", |end| &name[end..]))
    })
}

/// `text`, where behind each `mark` only what `kept` says is left: a part of it, and all that follows.
fn without<'a>(text: &'a str, mark: &str, kept: impl Fn(&'a str) -> (&'a str, &'a str)) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(mark) {
        let (part, follows) = kept(behind);
        redacted.push_str(before);
        redacted.push_str(mark);
        redacted.push_str(part);
        rest = follows;
    }
    redacted.push_str(rest);
    redacted
}
