//! A snapshot as a DataFusion table: a plain Parquet scan over the files that the log names.
//!
//! Files whose partition values or statistics cannot match a query's conditions are left out when the query is planned, before
//! any byte of them is read ([`pruning`](super::pruning)). Of the others DataFusion reads the footers, which it keeps for the
//! next query, and by them, page indexes and bloom filters only the pages that may match. The number of rows is known from the
//! log, so `count(*)` reads no file. Whatever is read comes from any cloud that has it ([`replicas`](super::replicas)).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, ScalarValue, Statistics, exec_datafusion_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::ObjectStore;
use parquet::arrow::async_reader::AsyncFileReader;
use url::Url;

use super::TableVersion;
use super::names::PinnedTable;
use super::nested::FilledColumns;
use super::pruning::{FileFacts, Statistics as FileStatistics};
use super::replicas::{Replicas, ReplicatedFile};
use super::snapshot::Snapshot;
use super::usage::Meter;
use crate::error::Error;
use crate::prove::log::DataFile;
use crate::prove::objects::object_path;

/// Scheme of the URLs under which DataFusion knows our clouds: `isobar://<cloud>/`.
const SCHEME: &str = "isobar";

fn store_url(cloud: &str) -> String {
    format!("{SCHEME}://{cloud}/")
}

/// The stores of the clouds, and no other: whatever else a plan might name does not exist. A URL names the cloud that is asked
/// first.
#[derive(Debug)]
pub(super) struct CloudStores(Arc<Replicas>);

impl CloudStores {
    pub(super) fn new(replicas: Arc<Replicas>) -> Self {
        Self(replicas)
    }
}

impl ObjectStoreRegistry for CloudStores {
    fn register_store(&self, _url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        // Nobody may add a store; handing it back says that it was not taken.
        Some(store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let first = place_of(url, &self.0)?;
        Ok(Arc::new(ReplicatedFile::any(self.0.clone(), Some(first))))
    }
}

/// The place of the cloud that `url` names.
fn place_of(url: &Url, replicas: &Replicas) -> Result<usize> {
    let cloud = url.host_str().filter(|_| url.scheme() == SCHEME);
    let place = cloud.and_then(|cloud| replicas.place(cloud));
    place.ok_or_else(|| exec_datafusion_err!("{}: only the clouds of the topology can be read", url.scheme()))
}

/// Makes readers of data files of one table, for one query.
#[derive(Debug)]
struct Readers {
    replicas: Arc<Replicas>,
    first: Option<usize>,
    /// `None` where it is not known.
    table_id: Option<Arc<str>>,
    meter: Arc<Meter>,
    footers: Arc<FileMetadataCache>,
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let (table, size, meter) = (self.table_id.clone(), file.object_meta.size, self.meter.clone());
        let store = ReplicatedFile::of_table(self.replicas.clone(), self.first, table, size, meter)
            .shown_in(metrics, partition_index);
        let readers = CachedParquetFileReaderFactory::new(Arc::new(store), self.footers.clone());
        readers.create_reader(partition_index, file, metadata_size_hint, metrics)
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
    /// What the log says of these files, in the same order.
    statistics: FileStatistics,
    store: ObjectStoreUrl,
    replicas: Arc<Replicas>,
    /// Tells its files from those of any other table.
    table_id: Arc<str>,
}

impl SnapshotTable {
    /// A table that reads `snapshot` from the cloud it was found in, or from another one of `replicas`.
    pub(super) fn new(snapshot: &Snapshot, replicas: Arc<Replicas>) -> std::result::Result<Self, Error> {
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
        let files = files.collect::<std::result::Result<Vec<ScannedFile>, String>>().map_err(damaged)?;
        let facts = files.iter().zip(&snapshot.files);
        let facts = facts.map(|(scanned, file)| facts_of(scanned, file, &partition_fields)).collect();
        let statistics = FileStatistics::new(snapshot.schema.clone(), facts);
        let store =
            ObjectStoreUrl::parse(store_url(&snapshot.cloud)).map_err(|error| damaged(error.to_string()))?;
        let file_schema = Arc::new(Schema::new(stored));
        Ok(Self {
            version: snapshot.table_version(),
            file_schema,
            partition_fields,
            places,
            files,
            statistics,
            store,
            replicas,
            table_id: snapshot.metadata.id.as_str().into(),
            schema: snapshot.schema.clone(),
        })
    }

    /// Table, version and cloud.
    pub(crate) fn version(&self) -> &TableVersion {
        &self.version
    }

    /// How many files the version has.
    pub(super) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The files whose partition values and statistics do not rule out that a row passes `filters`.
    fn matching_files(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&ScannedFile>> {
        let mut kept = self.with_matching_values(state, filters)?;
        let schema = DFSchema::try_from(self.schema.as_ref().clone())?;
        let columns = filters.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        self.statistics.read(&columns.collect());
        for filter in filters.iter().filter(|filter| !filter.is_volatile()) {
            // A condition that cannot be judged here is judged where the rows are.
            let Ok(condition) = state.create_physical_expr(strip_qualifiers(filter.clone())?, &schema) else {
                continue;
            };
            let may_match = self.statistics.may_match(condition);
            kept.iter_mut().zip(may_match).for_each(|(kept, may_match)| *kept &= may_match);
        }
        let files = self.files.iter().zip(kept).filter(|(_, is_kept)| *is_kept);
        Ok(files.map(|(file, _)| file).collect())
    }

    /// Per file, whether its partition values leave it open that a row passes `filters`.
    fn with_matching_values(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<bool>> {
        let known = |expr: &&Expr| {
            let columns = expr.column_refs();
            let of_partitions =
                columns.iter().all(|column| self.partition_fields.iter().any(|f| f.name() == &column.name));
            !columns.is_empty() && of_partitions && !expr.is_volatile()
        };
        let Some(condition) = conjunction(filters.iter().filter(known).cloned()) else {
            return Ok(vec![true; self.files.len()]);
        };
        let values = self.partition_values()?;
        let schema = DFSchema::try_from(values.schema().as_ref().clone())?;
        let condition = state.create_physical_expr(strip_qualifiers(condition)?, &schema)?;
        let matches = condition.evaluate(&values)?.into_array(values.num_rows())?;
        let matches = matches.as_boolean();
        // As in WHERE, a condition that is null does not hold.
        Ok(matches.iter().map(|matches| matches == Some(true)).collect())
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

/// What the log says of a file.
fn facts_of(scanned: &ScannedFile, file: &DataFile, partition_fields: &[FieldRef]) -> FileFacts {
    let names = partition_fields.iter().map(|field| field.name().clone());
    let partition = names.zip(scanned.file.partition_values.iter().cloned()).collect();
    FileFacts { rows: scanned.rows, statistics: file.statistics.clone(), partition }
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
        let value = partition_value(text.as_deref(), field.data_type());
        value.map_err(|error| format!("{}: {}: {error}", file.path, field.name()))
    });
    let mut scanned = PartitionedFile::new(String::new(), file.size);
    scanned.object_meta.location = path;
    let values = values.collect::<std::result::Result<_, String>>()?;
    Ok(ScannedFile { file: scanned.with_partition_values(values), rows: file.rows })
}

/// The value of a partition column that the log writes as `text`.
///
/// # Errors
/// If it is none of the type.
pub(crate) fn partition_value(text: Option<&str>, data_type: &DataType) -> Result<ScalarValue> {
    match text {
        // The protocol reads an empty text as null.
        Some(text) if !text.is_empty() => ScalarValue::try_from_string(text.to_owned(), data_type),
        _ => ScalarValue::try_from(data_type),
    }
}

/// The scan that came in a plan, of files in `replicas`. How they are read, and what older ones lack, does not come with it.
///
/// # Errors
/// If it names a cloud that there is not.
pub(super) fn scan_of_a_plan(
    scan: &FileScanConfig,
    source: &ParquetSource,
    replicas: &Arc<Replicas>,
    footers: &Arc<FileMetadataCache>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let readers = Readers {
        first: Some(place_of(scan.object_store_url.as_ref(), replicas)?),
        replicas: replicas.clone(),
        table_id: None,
        meter: Arc::new(replicas.meter()),
        footers: footers.clone(),
    };
    let source = with_readers(source.clone(), readers);
    let config = FileScanConfigBuilder::from(scan.clone())
        .with_source(Arc::new(source))
        .with_expr_adapter(Some(Arc::new(FilledColumns)))
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn with_readers(source: ParquetSource, readers: Readers) -> ParquetSource {
    let hint = source.table_parquet_options().global.metadata_size_hint;
    let source = match hint {
        Some(hint) => source.with_metadata_size_hint(hint),
        None => source,
    };
    source.with_parquet_file_reader_factory(Arc::new(readers))
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
        let readers = Readers {
            replicas: self.replicas.clone(),
            first: self.replicas.place(&self.version.cloud),
            table_id: Some(self.table_id.clone()),
            meter: state.config().get_extension().unwrap_or_else(|| Arc::new(self.replicas.meter())),
            footers: state.runtime_env().cache_manager.get_file_metadata_cache(),
        };
        // By default everything that lets pages be left out is on.
        let source = with_readers(ParquetSource::new(table_schema), readers);
        let config = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(group.split_files(state.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(Some(places))?
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(FilledColumns)))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
