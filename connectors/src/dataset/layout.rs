//! Where a table lies, its columns, and the Parquet settings of its files.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Encoding, LogicalType, Type as PhysicalType, ZstdLevel};
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterPropertiesPtr, WriterVersion,
};
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor};

use crate::Error;
use crate::delta::schema;

/// Most partition columns of a table. With the bounds on names and values this keeps every path under 900 bytes of the
/// 1,024 that S3 and Azure allow, before the table's own path.
const PARTITION_COLUMNS_MAX: usize = 5;
/// Most bytes of the names of all partition columns together; encoding triples them at worst.
const PARTITION_NAMES_BYTES_MAX: usize = 60;

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard at this level, 1 to 22. Level 1 is the default.
    Zstd(i32),
    /// Snappy.
    Snappy,
    /// Not at all.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl FromStr for Compression {
    type Err = String;

    /// Reads `zstd`, `zstd(3)`, `snappy` or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is no compression: use zstd(1) to zstd(22), snappy or none");
        match text.trim() {
            "snappy" => Ok(Self::Snappy),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::default()),
            other => {
                let level = other
                    .strip_prefix("zstd(")
                    .and_then(|rest| rest.strip_suffix(')'))
                    .ok_or_else(problem)?;
                let level = level.trim().parse().map_err(|_| problem())?;
                if (1..=22).contains(&level) { Ok(Self::Zstd(level)) } else { Err(problem()) }
            }
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd({level})"),
            Self::Snappy => f.write_str("snappy"),
            Self::None => f.write_str("none"),
        }
    }
}

/// Where a table lies, its columns, and how its files are encoded. Checked once; shared by all writers of the table.
#[derive(Debug)]
pub struct TableLayout {
    path: String,
    schema: SchemaRef,
    partition_by: Vec<String>,
    /// Indices of the partition columns in `schema`, in the order of `partition_by`.
    pub(super) partition_columns: Vec<usize>,
    /// Indices of the columns stored in files.
    pub(super) file_columns: Vec<usize>,
    pub(super) file_schema: SchemaRef,
    pub(super) parquet_schema: SchemaDescPtr,
    pub(super) properties: WriterPropertiesPtr,
    compression: Compression,
}

impl TableLayout {
    /// A table at `path` in every cloud (such as `datasets/flight_features`), with the columns of `schema`, one
    /// directory level per column of `partition_by`.
    ///
    /// # Errors
    /// [`Error::Schema`] if a column cannot be stored, a partition column does not exist, is repeated or has a type
    /// that has no exact text (floats, binary, nested), there are too many of them, or no other column is left.
    pub fn new(
        path: &str,
        schema: SchemaRef,
        partition_by: &[String],
        compression: Compression,
    ) -> Result<Arc<Self>, Error> {
        schema::to_delta(&schema)?;
        object_store::path::Path::parse(path)
            .map_err(|error| Error::Schema(format!("table path {path:?}: {error}")))?;
        let partition_columns = partition_columns(&schema, partition_by)?;
        let file_columns: Vec<usize> =
            (0..schema.fields().len()).filter(|index| !partition_columns.contains(index)).collect();
        if file_columns.is_empty() {
            return Err(Error::Schema("no column is left beside the partition columns".into()));
        }
        let file_schema: Schema =
            schema.project(&file_columns).map_err(|error| Error::Schema(error.to_string()))?;
        let parquet_schema = ArrowSchemaConverter::new()
            .with_coerce_types(true)
            .schema_root("schema")
            .convert(&file_schema)
            .map_err(|error| Error::Schema(error.to_string()))?;
        Ok(Arc::new(Self {
            path: path.trim_matches('/').to_string(),
            partition_by: partition_by.to_vec(),
            schema,
            partition_columns,
            file_columns,
            file_schema: Arc::new(file_schema),
            properties: Arc::new(writer_properties(&parquet_schema, compression)),
            parquet_schema: Arc::new(parquet_schema),
            compression,
        }))
    }

    /// This table with other columns.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_schema(&self, schema: SchemaRef) -> Result<Arc<Self>, Error> {
        Self::new(&self.path, schema, &self.partition_by, self.compression)
    }

    /// The Parquet settings of this table's files. Fixed but for the compression, because they decide the bytes:
    ///
    /// - `created_by` is `isobar version 1 (build 1)`, where 1 counts changes of these settings, not releases;
    /// - format version 1 with data pages V1, which every reader knows; a new page after 20,000 rows or 1 MiB;
    /// - dictionaries up to 1 MiB, then plain; for integers, dates and timestamps up to 32 KiB, then delta
    ///   (`DELTA_BINARY_PACKED`): offsets and times have no repeats worth a dictionary and hardly any size as deltas
    ///   (flights with their offsets: 13 % smaller than with plain);
    /// - statistics per page and per column chunk, with column and offset index; text bounds cut at 64 bytes;
    /// - types that are portable: no Arrow schema in the metadata, lists and maps named as the Parquet format says.
    pub fn properties(&self) -> &WriterProperties {
        &self.properties
    }

    /// The table's path in every cloud.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// All columns, partition columns included.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Names of the partition columns, outermost directory first.
    pub fn partition_by(&self) -> &[String] {
        &self.partition_by
    }

    /// Checks that a batch has this table's columns: the same names and types in the same order, and no null in a
    /// column that has none.
    pub(super) fn check(&self, rows: &RecordBatch) -> Result<(), Error> {
        let refuse = |detail: String| Err(Error::Batch { table: self.path.clone(), detail });
        let (columns, given) = (self.schema.fields(), rows.schema_ref().fields());
        if columns.len() != given.len() {
            return refuse(format!("{} columns where the table has {}", given.len(), columns.len()));
        }
        for (index, (column, given)) in columns.iter().zip(given).enumerate() {
            if column.name() != given.name() || !schema::same_type(column.data_type(), given.data_type()) {
                return refuse(format!(
                    "column {} {} where the table has {} {}",
                    given.name(),
                    given.data_type(),
                    column.name(),
                    column.data_type()
                ));
            }
            if !column.is_nullable() && rows.column(index).null_count() > 0 {
                return refuse(format!("null in column {}, which has none", column.name()));
            }
        }
        Ok(())
    }
}

fn writer_properties(schema: &SchemaDescriptor, compression: Compression) -> WriterProperties {
    let compression = match compression {
        // The level was checked when it was read; an impossible one falls back to the default.
        Compression::Zstd(level) => {
            parquet::basic::Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default())
        }
        Compression::Snappy => parquet::basic::Compression::SNAPPY,
        Compression::None => parquet::basic::Compression::UNCOMPRESSED,
    };
    let fixed = WriterProperties::builder()
        .set_created_by("isobar version 1 (build 1)".into())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(compression)
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(1 << 20)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(20_000)
        .set_write_batch_size(1024)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_coerce_types(true);
    let integers = schema.columns().iter().filter(|leaf| {
        let integer = matches!(leaf.physical_type(), PhysicalType::INT32 | PhysicalType::INT64);
        integer && !matches!(leaf.logical_type_ref(), Some(LogicalType::Decimal(_)))
    });
    let delta = |properties: WriterPropertiesBuilder, leaf: &ColumnDescPtr| {
        properties
            .set_column_encoding(leaf.path().clone(), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_page_size_limit(leaf.path().clone(), 32 << 10)
    };
    integers.fold(fixed, delta).build()
}

fn partition_columns(schema: &Schema, partition_by: &[String]) -> Result<Vec<usize>, Error> {
    let name_bytes: usize = partition_by.iter().map(String::len).sum();
    if partition_by.len() > PARTITION_COLUMNS_MAX || name_bytes > PARTITION_NAMES_BYTES_MAX {
        return Err(Error::Schema(format!(
            "{} partition columns with names of {name_bytes} bytes: paths would be too long; at most \
             {PARTITION_COLUMNS_MAX} columns and {PARTITION_NAMES_BYTES_MAX} bytes",
            partition_by.len()
        )));
    }
    let mut columns = Vec::with_capacity(partition_by.len());
    for name in partition_by {
        let index = schema
            .index_of(name)
            .map_err(|_| Error::Schema(format!("partition column {name} is not among the columns")))?;
        if columns.contains(&index) {
            return Err(Error::Schema(format!("partition column {name} is repeated")));
        }
        let data_type = schema.field(index).data_type();
        let has_exact_text = matches!(
            data_type,
            DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Utf8
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, Some(_))
                | DataType::Decimal128(..)
        );
        if !has_exact_text {
            return Err(Error::Schema(format!(
                "partition column {name}: type {data_type} cannot name a directory"
            )));
        }
        columns.push(index);
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn compression_reads_what_it_prints() {
        for text in ["zstd(1)", "zstd(22)", "snappy", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse::<Compression>().unwrap(), Compression::default());
        for text in ["", "gzip", "zstd(0)", "zstd(23)", "zstd(", "zstd(x)", "ZSTD(1)"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_layout_that_cannot_work_is_refused_by_column() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("score", DataType::Float64, true),
            Field::new("month", DataType::Int32, true),
        ]));
        let layout = |columns: &[&str]| {
            let columns: Vec<String> = columns.iter().map(|c| c.to_string()).collect();
            TableLayout::new("datasets/t", schema.clone(), &columns, Compression::default())
        };
        assert_eq!(layout(&["month"]).unwrap().file_columns, [0, 1]);
        assert_eq!(layout(&["month", "id"]).unwrap().partition_columns, [2, 0]);
        for (columns, named) in
            [(vec!["year"], "year"), (vec!["month", "month"], "month"), (vec!["score"], "score")]
        {
            let error = layout(&columns).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
        let six: Vec<Field> = (0..7).map(|i| Field::new(format!("c{i}"), DataType::Int8, true)).collect();
        let columns: Vec<String> = (0..6).map(|i| format!("c{i}")).collect();
        assert!(TableLayout::new("t", Arc::new(Schema::new(six)), &columns, Compression::None).is_err());
        let only = Arc::new(Schema::new(vec![Field::new("month", DataType::Int32, true)]));
        assert!(TableLayout::new("t", only, &["month".into()], Compression::None).is_err());
    }
}
