//! `isobar query`: SQL over the datasets of a topology, in whichever cloud answers.
//!
//! Each dataset is a table at its newest version in the first cloud, in the order of the topology, that answers and
//! whose log is whole. Files, partition values and schema come from our own replay of that log; DataFusion reads the
//! Parquet files and nothing else.
//!
//! | table | holds |
//! |---|---|
//! | `flight_features` | the dataset |
//! | `flight_features_quarantine`, `"flight_features.quarantine"` | its rejected records |
//!
//! `ASOF JOIN` and `point_in_time(…)` find what was known at a time ([`asof`]).
//!
//! Queries only read: statements that define, change or set anything are refused, and so is a query that names a
//! version ([`sql`]), until versions can be read. There is no way to a file system or to an object outside the tables.
//! Memory is bounded by the budget of the topology; what does not fit is spilled to temporary files or fails.

mod asof;
mod output;
mod provider;
mod snapshot;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;

pub use self::output::{Answer, RowsFormat, TABLE_ROWS_MAX};
pub(crate) use self::snapshot::{PublishedTable, newest_tables};

use self::provider::{CloudStores, SnapshotTable};
use self::snapshot::{Snapshot, newest_snapshots};
use crate::commit::quarantine_of;
use crate::error::Error;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Catalog and schema that the tables are in, when a query spells them out.
const CATALOG: (&str, &str) = ("isobar", "datasets");

/// Where the rows of one table come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableVersion {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The version read.
    pub version: u64,
    /// The cloud it is read from.
    pub cloud: String,
}

/// Tables to ask, each pinned to a version when the catalog was opened.
pub struct Catalog {
    context: SessionContext,
    /// By the names that queries use.
    tables: BTreeMap<String, TableVersion>,
    /// Datasets that have no version yet.
    absent: BTreeSet<String>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("tables", &self.tables)
            .field("absent", &self.absent)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Finds the newest version of each of `datasets` and of their quarantines. `memory_bytes_max` bounds what
    /// queries hold in memory.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve a dataset; says of every cloud why.
    pub async fn open(clouds: &[Cloud], datasets: &[String], memory_bytes_max: u64) -> Result<Self, Error> {
        let tables: Vec<String> =
            datasets.iter().flat_map(|dataset| [dataset.clone(), quarantine_of(dataset)]).collect();
        let snapshots = newest_snapshots(clouds, &tables).await?;
        let mut catalog = Self {
            context: session(clouds, memory_bytes_max)?,
            tables: BTreeMap::new(),
            absent: datasets.iter().filter(|dataset| !snapshots.contains_key(*dataset)).cloned().collect(),
        };
        for snapshot in snapshots.into_values() {
            catalog.register(snapshot, datasets)?;
        }
        Ok(catalog)
    }

    fn register(&mut self, snapshot: Snapshot, datasets: &[String]) -> Result<(), Error> {
        let version = TableVersion {
            table: snapshot.table.clone(),
            version: snapshot.version,
            cloud: snapshot.cloud.clone(),
        };
        let plain = snapshot.table.replace('.', "_");
        let provider = Arc::new(SnapshotTable::new(snapshot)?);
        let mut names = BTreeSet::from([version.table.clone()]);
        // A dataset that has the name of another's quarantine keeps it.
        if !datasets.contains(&plain) {
            names.insert(plain);
        }
        for name in names {
            let registered =
                self.context.register_table(TableReference::bare(name.as_str()), provider.clone());
            registered.map_err(|error| Error::Configuration(format!("table {name}: {error}")))?;
            self.tables.insert(name, version.clone());
        }
        Ok(())
    }

    /// The tables by the names that queries use, and the version each is pinned to.
    pub fn tables(&self) -> &BTreeMap<String, TableVersion> {
        &self.tables
    }

    /// Plans one query and starts it.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the query is wrong, would change something, or names a version.
    pub async fn query(&self, sql: &str) -> Result<Answer, Error> {
        let state = self.context.state();
        let plan = sql::plan(&state, sql).await.map_err(|error| self.explain(&error))?;
        let from = self.read_by(&plan);
        let rows = execute(&state, plan).await.map_err(|error| failed(&from, error))?;
        Ok(Answer::new(rows, from))
    }

    /// What is wrong with a query, and which tables there are.
    fn explain(&self, error: &DataFusionError) -> Error {
        let text = error.strip_backtrace();
        if !text.contains("not found") {
            return Error::Configuration(text);
        }
        let mut known: Vec<&str> =
            self.tables.keys().map(String::as_str).filter(|name| !name.contains('.')).collect();
        known.sort_unstable();
        let mut explained = format!("{text}\nthe tables are: {}", known.join(", "));
        for dataset in self.absent.iter().filter(|dataset| text.contains(dataset.as_str())) {
            explained.push_str(&format!("\nnothing was committed to {dataset} yet"));
        }
        Error::Configuration(explained)
    }

    /// The tables that `plan` reads.
    fn read_by(&self, plan: &LogicalPlan) -> Vec<TableVersion> {
        let mut names = BTreeSet::new();
        let visited = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                names.insert(scan.table_name.table().to_owned());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(visited.is_ok(), "the closure does not fail");
        let mut versions: Vec<TableVersion> =
            names.iter().filter_map(|name| self.tables.get(name).cloned()).collect();
        versions.dedup();
        versions
    }
}

async fn execute(
    state: &SessionState,
    plan: LogicalPlan,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let frame = datafusion::dataframe::DataFrame::new(state.clone(), plan);
    frame.execute_stream().await
}

/// A session that knows the clouds' stores and no other, no file system either.
fn session(clouds: &[Cloud], memory_bytes_max: u64) -> Result<SessionContext, Error> {
    let memory_bytes_max = usize::try_from(memory_bytes_max).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(memory_bytes_max, 1.0)
        .with_object_store_registry(Arc::new(CloudStores::new(clouds)))
        .build_arc()
        .map_err(|error| Error::Configuration(format!("prepare to query: {error}")))?;
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG.0, CATALOG.1)
        .with_information_schema(true)
        // The order of a subquery is the order of a spine.
        .set_bool("datafusion.sql_parser.enable_subquery_sort_elimination", false);
    let state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    let session = SessionContext::new_with_state(asof::extended(state).build());
    session.register_udf(isobar_transforms::header_function());
    Ok(session)
}

/// A query that was planned and then failed: by a value that an expression cannot take, or by a store that stopped
/// answering, a damaged file or too little memory.
fn failed(from: &[TableVersion], error: DataFusionError) -> Error {
    if is_the_callers(&error) {
        return Error::Configuration(format!("the query failed: {}", error.strip_backtrace()));
    }
    let mut clouds: Vec<&str> = from.iter().map(|table| table.cloud.as_str()).collect();
    clouds.dedup();
    let cloud = if clouds.is_empty() { "none".to_owned() } else { clouds.join(", ") };
    let source = object_store::Error::Generic { store: "query", source: Box::new(error) };
    Error::Store { cloud, action: "run the query".to_owned(), source }
}

/// Whether another query would help, rather than trying this one again.
fn is_the_callers(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => matches!(
            **error,
            ArrowError::DivideByZero
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::CastError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::ParseError(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        DataFusionError::Execution(_) | DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => true,
        _ => false,
    }
}

/// Opens the clouds of `topology` and its datasets at their newest versions.
///
/// # Errors
/// [`Error::Configuration`] for a cloud that cannot be opened, and those of [`Catalog::open`].
pub async fn open_catalog(topology: &Topology) -> Result<Catalog, Error> {
    let clouds = open_clouds(topology)?;
    let datasets: Vec<String> = topology.datasets.iter().map(|dataset| dataset.name.clone()).collect();
    Catalog::open(&clouds, &datasets, topology.memory_bytes_max).await
}

/// Runs one query over the datasets of `topology` and returns all its rows.
///
/// # Errors
/// Those of [`open_catalog`] and [`Catalog::query`], and whatever stops the query.
pub async fn query_rows(topology: &Topology, sql: &str) -> Result<Vec<RecordBatch>, Error> {
    let answer = open_catalog(topology).await?.query(sql).await?;
    let (rows, from) = answer.into_parts();
    rows.try_collect().await.map_err(|error| failed(&from, error))
}

/// Runs one query over the datasets of `topology` and returns its rows as a table for people.
///
/// # Errors
/// As [`query_rows`].
pub async fn query_table(topology: &Topology, sql: &str) -> Result<String, Error> {
    let mut answer = open_catalog(topology).await?.query(sql).await?;
    let mut text = String::new();
    while let Some(piece) = answer.next_text(RowsFormat::Table).await? {
        text.push_str(&piece);
    }
    Ok(text)
}
