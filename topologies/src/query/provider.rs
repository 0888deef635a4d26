//! A snapshot as a DataFusion table: a plain Parquet scan over the files that the log names.
//!
//! Files whose partition values cannot match a query's conditions are left out when the query is planned, before any
//! byte of them is read. The number of rows is known from the log, so `count(*)` reads no file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, ScalarValue, Statistics, exec_datafusion_err};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use isobar_connectors::clouds::Cloud;
use object_store::ObjectStore;
use url::Url;

use super::TableVersion;
use super::names::PinnedTable;
use super::nested::FilledColumns;
use super::snapshot::Snapshot;
use crate::error::Error;
use crate::prove::log::DataFile;
use crate::prove::objects::object_path;

/// Scheme of the URLs under which DataFusion knows our clouds: `isobar://<cloud>/`.
const SCHEME: &str = "isobar";

fn store_url(cloud: &str) -> String {
    format!("{SCHEME}://{cloud}/")
}

/// The stores of the clouds, and no other: whatever else a plan might name does not exist.
#[derive(Debug)]
pub(super) struct CloudStores(HashMap<String, Arc<dyn ObjectStore>>);

impl CloudStores {
    pub(super) fn new(clouds: &[Cloud]) -> Self {
        Self(clouds.iter().map(|cloud| (cloud.name.clone(), cloud.data.clone())).collect())
    }
}

impl ObjectStoreRegistry for CloudStores {
    fn register_store(&self, _url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        // Nobody may add a store; handing it back says that it was not taken.
        Some(store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let cloud = url.host_str().filter(|_| url.scheme() == SCHEME);
        let store = cloud.and_then(|cloud| self.0.get(cloud)).cloned();
        store.ok_or_else(|| {
            exec_datafusion_err!("{}: only the clouds of the topology can be read", url.scheme())
        })
    }
}

/// One file as DataFusion wants it, and its rows by the log.
#[derive(Debug, Clone)]
struct ScannedFile {
    file: PartitionedFile,
    rows: Option<u64>,
}

/// A table at one version.
#[derive(Debug)]
pub(crate) struct SnapshotTable {
    /// What is read.
    version: TableVersion,
    /// Columns in the table's own order.
    schema: SchemaRef,
    /// Columns stored in files.
    file_schema: SchemaRef,
    /// Columns whose values are in the log.
    partition_fields: Vec<FieldRef>,
    /// Per column of `schema`, its place in a scan, which has the columns of files first.
    places: Vec<usize>,
    files: Vec<ScannedFile>,
    store: ObjectStoreUrl,
}

impl SnapshotTable {
    /// A table that reads `snapshot` from the cloud it was found in.
    pub(super) fn new(snapshot: Snapshot) -> std::result::Result<Self, Error> {
        let damaged = |detail: String| Error::damaged(&format!("the log of {}", snapshot.table), detail);
        let is_partition = |field: &&FieldRef| snapshot.metadata.partition_columns.contains(field.name());
        let stored: Vec<FieldRef> =
            snapshot.schema.fields().iter().filter(|field| !is_partition(field)).cloned().collect();
        let mut partition_fields = Vec::with_capacity(snapshot.metadata.partition_columns.len());
        for column in &snapshot.metadata.partition_columns {
            let found =
                snapshot.schema.field_with_name(column).map_err(|error| damaged(error.to_string()))?;
            partition_fields.push(Arc::new(found.clone()));
        }
        let scanned: Vec<&FieldRef> = stored.iter().chain(&partition_fields).collect();
        let place = |field: &FieldRef| scanned.iter().position(|other| other.name() == field.name());
        let places: Option<Vec<usize>> = snapshot.schema.fields().iter().map(place).collect();
        let places = places.ok_or_else(|| damaged("a column is missing".to_owned()))?;
        let files = snapshot.files.iter().map(|file| scanned_file(&snapshot.table, file, &partition_fields));
        let files = files.collect::<std::result::Result<_, String>>().map_err(damaged)?;
        let store =
            ObjectStoreUrl::parse(store_url(&snapshot.cloud)).map_err(|error| damaged(error.to_string()))?;
        let file_schema = Arc::new(Schema::new(stored));
        let version =
            TableVersion { table: snapshot.table, version: snapshot.version, cloud: snapshot.cloud };
        Ok(Self { version, file_schema, partition_fields, places, files, store, schema: snapshot.schema })
    }

    /// Table, version and cloud.
    pub(crate) fn version(&self) -> &TableVersion {
        &self.version
    }

    /// How many files the version has.
    pub(super) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The files whose partition values do not rule out that a row passes `filters`.
    fn matching_files(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&ScannedFile>> {
        let known = |expr: &&Expr| {
            let columns = expr.column_refs();
            let of_partitions =
                columns.iter().all(|column| self.partition_fields.iter().any(|f| f.name() == &column.name));
            !columns.is_empty() && of_partitions && !expr.is_volatile()
        };
        let Some(condition) = conjunction(filters.iter().filter(known).cloned()) else {
            return Ok(self.files.iter().collect());
        };
        let values = self.partition_values()?;
        let schema = DFSchema::try_from(values.schema().as_ref().clone())?;
        let condition = state.create_physical_expr(strip_qualifiers(condition)?, &schema)?;
        let matches = condition.evaluate(&values)?.into_array(values.num_rows())?;
        let matches = matches.as_boolean();
        // As in WHERE, a condition that is null does not hold.
        let kept = self
            .files
            .iter()
            .enumerate()
            .filter(|(row, _)| !arrow::array::Array::is_null(matches, *row) && matches.value(*row));
        Ok(kept.map(|(_, file)| file).collect())
    }

    /// One row per file: its partition values.
    fn partition_values(&self) -> Result<RecordBatch> {
        let column = |index: usize, field: &FieldRef| -> Result<ArrayRef> {
            if self.files.is_empty() {
                return Ok(arrow::array::new_empty_array(field.data_type()));
            }
            ScalarValue::iter_to_array(
                self.files.iter().map(|file| file.file.partition_values[index].clone()),
            )
        };
        let columns = self.partition_fields.iter().enumerate().map(|(index, field)| column(index, field));
        let fields: Vec<Field> =
            self.partition_fields.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.files.len()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(schema, columns.collect::<Result<_>>()?, &options)?)
    }

    fn statistics_of(&self, files: &[&ScannedFile]) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.scan_schema());
        let rows: Option<u64> = files.iter().map(|file| file.rows).sum();
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        statistics.num_rows = rows.map_or(Precision::Absent, Precision::Exact);
        statistics
    }

    fn scan_schema(&self) -> Schema {
        let fields = self.file_schema.fields().iter().chain(&self.partition_fields);
        Schema::new(fields.cloned().collect::<Vec<FieldRef>>())
    }
}

impl From<Arc<SnapshotTable>> for PinnedTable {
    fn from(table: Arc<SnapshotTable>) -> Self {
        Self { version: table.version.clone(), provider: table }
    }
}

/// Conditions arrive with the table's name before each column; partition values have none.
pub(super) fn strip_qualifiers(condition: Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let stripped = condition.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) => {
                Transformed::yes(Expr::Column(datafusion::common::Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    });
    Ok(stripped?.data)
}

fn scanned_file(
    table: &str,
    file: &DataFile,
    partition_fields: &[FieldRef],
) -> std::result::Result<ScannedFile, String> {
    let path = object_path(table, &file.path).ok_or_else(|| format!("{}: not a path", file.path))?;
    let values = partition_fields.iter().map(|field| {
        let text = file
            .partition_values
            .get(field.name())
            .ok_or_else(|| format!("{}: no value for {}", file.path, field.name()))?;
        let value = match text {
            // The protocol reads an empty text as null.
            Some(text) if !text.is_empty() => ScalarValue::try_from_string(text.clone(), field.data_type()),
            _ => ScalarValue::try_from(field.data_type()),
        };
        value.map_err(|error| format!("{}: {}: {error}", file.path, field.name()))
    });
    let mut scanned = PartitionedFile::new(String::new(), file.size);
    scanned.object_meta.location = path;
    let values = values.collect::<std::result::Result<_, String>>()?;
    Ok(ScannedFile { file: scanned.with_partition_values(values), rows: file.rows })
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Conditions only help to leave out files; DataFusion applies them to the rows.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let files = self.matching_files(state, filters)?;
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&columns)?))));
        }
        let table_schema = TableSchema::builder(self.file_schema.clone())
            .with_table_partition_cols(self.partition_fields.clone())
            .build();
        let statistics = self.statistics_of(&files);
        let group = FileGroup::new(files.into_iter().map(|file| file.file.clone()).collect());
        let places: Vec<usize> = columns.iter().map(|column| self.places[*column]).collect();
        let config =
            FileScanConfigBuilder::new(self.store.clone(), Arc::new(ParquetSource::new(table_schema)))
                .with_file_groups(group.split_files(state.config().target_partitions()))
                .with_statistics(statistics)
                .with_projection_indices(Some(places))?
                .with_limit(limit)
                .with_expr_adapter(Some(Arc::new(FilledColumns)))
                .build();
        ParquetFormat::default().create_physical_plan(state, config).await
    }
}
