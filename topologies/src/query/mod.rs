//! `isobar query`: SQL over the datasets of a topology, in whichever cloud answers.
//!
//! A table is at its newest version in the first cloud, in the order of the topology, that answers and whose log is whole; or at
//! the version that the query names ([`sql`]), in the first cloud that has it. Files, partition values and schema come
//! from our own replay of that log ([`snapshot`]); DataFusion reads the Parquet files and nothing else. Only the logs of
//! tables that a query names are read, and only as far as it needs.
//!
//! | table | holds |
//! |---|---|
//! | `flight_features` | the dataset |
//! | `flight_features_quarantine`, `"flight_features.quarantine"` | its rejected records |
//!
//! `ASOF JOIN` and `point_in_time(…)` find what was known at a time ([`asof`]).
//!
//! Queries only read: statements that define, change or set anything are refused. There is no way to a file system or to an
//! object outside the tables. Memory is bounded by the budget of the topology; what does not fit is spilled to temporary
//! files or fails.

mod asof;
mod cache;
mod diff;
mod guard;
mod history;
mod listing;
mod names;
mod nested;
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
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use tokio::sync::Mutex;

pub(crate) use self::cache::SnapshotCache;
pub use self::diff::{
    DIFF_ROWS_MAX, Diff, FileChange, PartitionChange, VersionEnd, diff, diff_in, diff_rows, diff_rows_in,
};
pub(crate) use self::guard::Guard;
pub(crate) use self::history::Pin;
pub use self::listing::{SnapshotSummary, Snapshots, snapshots, snapshots_in};
pub(crate) use self::names::{Asked, Names, PinnedTable};
pub(crate) use self::output::LimitReached;
pub use self::output::{Answer, RowsFormat, Scanned, TABLE_ROWS_MAX};
pub(crate) use self::provider::SnapshotTable;
pub(crate) use self::snapshot::{PublishedTable, newest_tables};

use self::guard::GuardedTable;
use self::history::pinned_snapshot;
use self::provider::CloudStores;
use self::snapshot::{Snapshot, newest_snapshots};
use crate::error::Error;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Catalog and schema that the tables are in, when a query spells them out.
pub(crate) const CATALOG: (&str, &str) = ("isobar", "datasets");

/// Where the rows of one table come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct TableVersion {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The version read.
    pub version: u64,
    /// The cloud it is read from.
    pub cloud: String,
}

/// Tables to ask. Each stays at the version that was its newest when it was first named, unless a query says otherwise.
pub struct Catalog {
    context: SessionContext,
    clouds: Vec<Cloud>,
    /// The tables that may exist.
    names: Names,
    /// Those that were looked for and exist, by the same names. Held while others are looked for.
    newest: Mutex<BTreeMap<String, TableVersion>>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Catalog {
    /// The tables of `datasets` and of their quarantines. No cloud is asked before a query names one of them.
    /// `memory_bytes_max` bounds what queries hold in memory.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no place for temporary files.
    pub fn new(clouds: &[Cloud], datasets: &[String], memory_bytes_max: u64) -> Result<Self, Error> {
        let names = Names::of(datasets);
        let context = session(clouds, memory_bytes_max)?;
        Ok(Self { context, clouds: clouds.to_vec(), names, newest: Mutex::default() })
    }

    /// The tables that exist, by the names that queries use, and the version that each is at.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve one; says of every cloud why.
    pub async fn tables(&self) -> Result<BTreeMap<String, TableVersion>, Error> {
        self.find(&self.names.tables()).await?;
        Ok(self.newest.lock().await.clone())
    }

    /// Looks for the newest versions of those of `tables` that are not known yet.
    async fn find(&self, tables: &BTreeSet<&str>) -> Result<(), Error> {
        let mut newest = self.newest.lock().await;
        let is_unknown = |table: &&&str| !newest.values().any(|known| known.table == **table);
        let unknown: Vec<String> =
            tables.iter().filter(is_unknown).map(|table| (*table).to_owned()).collect();
        for snapshot in newest_snapshots(&self.clouds, &unknown).await?.into_values() {
            self.register(snapshot, &mut newest)?;
        }
        Ok(())
    }

    fn register(&self, snapshot: Snapshot, newest: &mut BTreeMap<String, TableVersion>) -> Result<(), Error> {
        let provider = Arc::new(SnapshotTable::new(snapshot)?);
        let version = provider.version().clone();
        for name in self.names.of_table(&version.table) {
            let registered = self.context.register_table(TableReference::bare(name), provider.clone());
            registered.map_err(|error| Error::Configuration(format!("table {name}: {error}")))?;
            newest.insert(name.to_owned(), version.clone());
        }
        Ok(())
    }

    /// Plans one query and starts it.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the query is wrong, would change something, or names a version that there is not or that
    /// can no longer be read. [`Error::NoMajority`] if no cloud can serve a table; says of every cloud why.
    pub async fn query(&self, sql: &str) -> Result<Answer, Error> {
        let mut state = self.context.state();
        let asked = match Asked::parse(&state, &self.names, sql) {
            Ok(asked) => asked,
            Err(error) => return Err(self.explain(&error).await),
        };
        self.find(&asked.newest.iter().map(String::as_str).collect()).await?;
        let mut pinned = Vec::with_capacity(asked.pinned.len());
        for (_, pin, table) in &asked.pinned {
            let snapshot = pinned_snapshot(&self.clouds, table, *pin).await?;
            pinned.push(SnapshotTable::new(snapshot).map(Arc::new)?.into());
        }
        let plan = match asked.plan(&mut state, pinned).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.explain(&error).await),
        };
        start(&state, plan).await
    }

    /// What is wrong with a query, and which tables there are.
    async fn explain(&self, error: &DataFusionError) -> Error {
        let text = error.strip_backtrace();
        if !text.contains("not found") {
            return Error::Configuration(text);
        }
        let Ok(tables) = self.tables().await else { return Error::Configuration(text) };
        let exists = |table: &str| tables.values().any(|known| known.table == table);
        Error::Configuration(self.names.explain(text, exists))
    }
}

/// Starts a query that was planned.
pub(crate) async fn start(state: &SessionState, plan: LogicalPlan) -> Result<Answer, Error> {
    let from = read_by(&plan);
    let started = async {
        let frame = datafusion::dataframe::DataFrame::new(state.clone(), plan);
        let plan = frame.create_physical_plan().await?;
        Ok::<_, DataFusionError>((execute_stream(plan.clone(), state.task_ctx())?, plan))
    };
    match started.await {
        Ok((rows, plan)) => Ok(Answer::new(rows, plan, from)),
        Err(error) => Err(failed(&from, error)),
    }
}

/// The tables that `plan` reads, and their versions.
pub(crate) fn read_by(plan: &LogicalPlan) -> Vec<TableVersion> {
    let mut versions = BTreeSet::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
        {
            versions.extend(version_of(provider.as_ref()).cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the closure does not fail");
    versions.into_iter().collect()
}

/// The version of one of our tables, guarded or not.
fn version_of(provider: &dyn TableProvider) -> Option<&TableVersion> {
    if let Some(guarded) = provider.downcast_ref::<GuardedTable>() {
        return Some(guarded.version());
    }
    provider.downcast_ref::<SnapshotTable>().map(SnapshotTable::version)
}

/// A session that knows the clouds' stores and no other, no file system either.
pub(crate) fn session(clouds: &[Cloud], memory_bytes_max: u64) -> Result<SessionContext, Error> {
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
pub(crate) fn failed(from: &[TableVersion], error: DataFusionError) -> Error {
    if let DataFusionError::External(reached) = error.find_root()
        && let Some(LimitReached { limit, message }) = reached.downcast_ref()
    {
        return Error::Limit { limit, message: message.clone() };
    }
    if is_the_callers(&error) {
        return Error::Configuration(format!("the query failed: {}", error.strip_backtrace()));
    }
    let mut clouds: Vec<&str> = from.iter().map(|table| table.cloud.as_str()).collect();
    clouds.dedup();
    let cloud = if clouds.is_empty() { "none".to_owned() } else { clouds.join(", ") };
    let action = match is_of_a_file_that_is_gone(&error) {
        true => {
            "run the query, a file of which is gone; a vacuum may have let go of it meanwhile, see `isobar snapshots`"
        }
        false => "run the query",
    };
    let source = object_store::Error::Generic { store: "query", source: Box::new(error) };
    Error::Store { cloud, action: action.to_owned(), source }
}

/// Whether an object was not there. Of an answer to a request for a footer DataFusion keeps the text only.
fn is_of_a_file_that_is_gone(error: &DataFusionError) -> bool {
    let said = error.to_string();
    said.split_once("Object at location ").is_some_and(|(_, rest)| rest.contains(" not found"))
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

/// Opens the clouds of `topology`; no dataset is read yet.
///
/// # Errors
/// [`Error::Configuration`] for a cloud that cannot be opened, and those of [`Catalog::new`].
pub fn open_catalog(topology: &Topology) -> Result<Catalog, Error> {
    catalog_in(topology, &open_clouds(topology)?)
}

/// The same in `clouds`.
///
/// # Errors
/// Those of [`Catalog::new`].
pub fn catalog_in(topology: &Topology, clouds: &[Cloud]) -> Result<Catalog, Error> {
    let datasets: Vec<String> = topology.datasets.iter().map(|dataset| dataset.name.clone()).collect();
    Catalog::new(clouds, &datasets, topology.memory_bytes_max)
}

/// Runs one query over the datasets of `topology` and returns all its rows.
///
/// # Errors
/// Those of [`open_catalog`] and [`Catalog::query`], and whatever stops the query.
pub async fn query_rows(topology: &Topology, sql: &str) -> Result<Vec<RecordBatch>, Error> {
    let answer = open_catalog(topology)?.query(sql).await?;
    let (rows, from) = answer.into_parts();
    rows.try_collect().await.map_err(|error| failed(&from, error))
}

/// Runs one query over the datasets of `topology` and returns its rows as a table for people.
///
/// # Errors
/// As [`query_rows`].
pub async fn query_table(topology: &Topology, sql: &str) -> Result<String, Error> {
    let mut answer = open_catalog(topology)?.query(sql).await?;
    let mut text = String::new();
    while let Some(piece) = answer.next_text(RowsFormat::Table).await? {
        text.push_str(&piece);
    }
    Ok(text)
}
