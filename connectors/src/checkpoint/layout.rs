//! Columns and Parquet settings of a checkpoint, and actions as rows of it.
//!
//! One nullable struct column per kind of action, of which each row has exactly one. The fields are those that isobar's
//! bodies have; readers take a column of the protocol that is missing for null.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, MapArray, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::record_batch::RecordBatch;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use super::encode_error;
use crate::Error;
use crate::delta::{Action, Add};

const WELL_FORMED: &str = "every batch has the checkpoint's schema";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    use DataType::{Boolean, Int32, Int64, Utf8};
    let format = [required("provider", Utf8), required("options", map())];
    Arc::new(Schema::new(vec![
        action("txn", [required("appId", Utf8), required("version", Int64), optional("lastUpdated", Int64)]),
        action(
            "add",
            [
                required("path", Utf8),
                required("partitionValues", map()),
                required("size", Int64),
                required("modificationTime", Int64),
                required("dataChange", Boolean),
                optional("stats", Utf8),
            ],
        ),
        action(
            "remove",
            [
                required("path", Utf8),
                optional("deletionTimestamp", Int64),
                required("dataChange", Boolean),
                optional("extendedFileMetadata", Boolean),
                optional("partitionValues", map()),
                optional("size", Int64),
            ],
        ),
        action(
            "metaData",
            [
                required("id", Utf8),
                optional("name", Utf8),
                optional("description", Utf8),
                required("format", DataType::Struct(format.into_iter().collect())),
                required("schemaString", Utf8),
                required("partitionColumns", list()),
                required("configuration", map()),
                optional("createdTime", Int64),
            ],
        ),
        action(
            "protocol",
            [
                required("minReaderVersion", Int32),
                required("minWriterVersion", Int32),
                optional("readerFeatures", list()),
                optional("writerFeatures", list()),
            ],
        ),
    ]))
});

fn action(name: &str, fields: impl IntoIterator<Item = Field>) -> Field {
    optional(name, DataType::Struct(fields.into_iter().collect()))
}

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// Text to text; the names are those of the Parquet format.
fn map() -> DataType {
    let entries = Fields::from(vec![required("key", DataType::Utf8), optional("value", DataType::Utf8)]);
    DataType::Map(Arc::new(required("key_value", DataType::Struct(entries))), false)
}

fn list() -> DataType {
    DataType::List(Arc::new(required("element", DataType::Utf8)))
}

/// The columns.
pub(super) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The Parquet settings. Fixed, because they decide the bytes:
///
/// - `created_by` is `isobar version 1 (build 1)`, where 1 counts changes of these settings, not releases;
/// - format version 1 with plain data pages V1 under zstd level 1; dictionaries only for partition values: paths and
///   statistics hardly repeat;
/// - statistics per column chunk: readers look up `protocol` and `metaData` by the row groups that have any;
/// - row groups end where [the encoder](super::encoder) ends them, not by the library's estimate.
pub(super) fn properties() -> WriterProperties {
    let fixed = WriterProperties::builder()
        .set_created_by("isobar version 1 (build 1)".into())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_dictionary_enabled(false)
        .set_dictionary_page_size_limit(1 << 20)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(20_000)
        .set_write_batch_size(1024)
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64));
    let partition_values = ["add", "remove"].into_iter().flat_map(|kind| {
        ["key", "value"].map(|leaf| {
            ColumnPath::from([kind, "partitionValues", "key_value", leaf].map(String::from).to_vec())
        })
    });
    partition_values.fold(fixed, |all, leaf| all.set_column_dictionary_enabled(leaf, true)).build()
}

/// Actions as rows. An action's JSON has the names and types of the columns, because both are Delta's.
pub(super) fn rows(actions: &[Action]) -> Result<RecordBatch, Error> {
    let mut decoder = ReaderBuilder::new(schema()).build_decoder().map_err(encode_error)?;
    decoder.serialize(actions).map_err(encode_error)?;
    let rows = decoder.flush().map_err(encode_error)?;
    Ok(rows.unwrap_or_else(|| RecordBatch::new_empty(schema())))
}

/// The `add` and `remove` actions of a batch.
pub(super) struct FileActions<'a> {
    adds: FileColumns<'a>,
    removes: FileColumns<'a>,
}

/// One `add` or `remove`.
pub(super) struct FileAction<'a> {
    /// The path, as in the log.
    pub(super) path: &'a str,
    /// Bytes of all its texts.
    pub(super) text_bytes: usize,
    /// Whether it is an `add`.
    pub(super) is_add: bool,
}

/// The `add` actions of a batch, in its order.
pub(super) fn adds(batch: &RecordBatch) -> impl Iterator<Item = Add> {
    let columns = FileColumns::of(batch, "add");
    let rows = columns.rows;
    let number = move |name: &str| rows.column_by_name(name).expect(WELL_FORMED).as_primitive::<Int64Type>();
    let (size, modification_time) = (number("size"), number("modificationTime"));
    (0..batch.num_rows()).filter(move |row| rows.is_valid(*row)).map(move |row| Add {
        path: columns.path.value(row).to_owned(),
        partition_values: map_entries(columns.partition_values, row),
        size: size.value(row),
        modification_time: modification_time.value(row),
        data_change: false,
        stats: columns.stats.filter(|stats| stats.is_valid(row)).map(|stats| stats.value(row).to_owned()),
        deletion_vector: None,
    })
}

/// One row's map.
fn map_entries(map: &MapArray, row: usize) -> BTreeMap<String, Option<String>> {
    let offsets = map.value_offsets();
    let entries = offsets[row] as usize..offsets[row + 1] as usize;
    let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
    let value = |at: usize| values.is_valid(at).then(|| values.value(at).to_owned());
    entries.map(|at| (keys.value(at).to_owned(), value(at))).collect()
}

#[derive(Clone, Copy)]
struct FileColumns<'a> {
    rows: &'a StructArray,
    path: &'a StringArray,
    partition_values: &'a MapArray,
    stats: Option<&'a StringArray>,
}

impl<'a> FileActions<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        Self { adds: FileColumns::of(batch, "add"), removes: FileColumns::of(batch, "remove") }
    }

    /// The file action of a row; `None` if the row is another action.
    pub(super) fn get(&self, row: usize) -> Option<FileAction<'a>> {
        self.adds.get(row, true).or_else(|| self.removes.get(row, false))
    }

    /// Whether the row is exactly one of `add` and `remove`.
    pub(super) fn is_one(&self, row: usize) -> bool {
        self.adds.rows.is_valid(row) != self.removes.rows.is_valid(row)
    }
}

impl<'a> FileColumns<'a> {
    fn of(batch: &'a RecordBatch, kind: &str) -> Self {
        let rows = batch.column_by_name(kind).expect(WELL_FORMED).as_struct();
        Self {
            rows,
            path: rows.column_by_name("path").expect(WELL_FORMED).as_string(),
            partition_values: rows.column_by_name("partitionValues").expect(WELL_FORMED).as_map(),
            stats: rows.column_by_name("stats").map(|stats| stats.as_string()),
        }
    }

    fn get(&self, row: usize, is_add: bool) -> Option<FileAction<'a>> {
        self.rows.is_valid(row).then(|| {
            let path = self.path.value(row);
            let stats =
                self.stats.filter(|stats| stats.is_valid(row)).map_or(0, |stats| stats.value(row).len());
            FileAction {
                path,
                text_bytes: path.len() + stats + map_bytes(self.partition_values, row),
                is_add,
            }
        })
    }
}

/// Bytes of the keys and values of one row's map.
fn map_bytes(map: &MapArray, row: usize) -> usize {
    if map.is_null(row) {
        return 0;
    }
    let offsets = map.value_offsets();
    let entries = offsets[row] as usize..offsets[row + 1] as usize;
    let bytes = |text: &StringArray, at: usize| if text.is_valid(at) { text.value(at).len() } else { 0 };
    let (keys, values) = (map.keys().as_string(), map.values().as_string());
    entries.map(|at| bytes(keys, at) + bytes(values, at)).sum()
}
