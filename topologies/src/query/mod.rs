//! `isobar query`: SQL over the datasets of a topology, in whichever cloud answers.
//!
//! A table is at its newest version in the first cloud that answers and whose log is whole; or at the version that the query
//! names ([`sql`]), in the first cloud that has it. Which one is asked first, and which ones are left alone for a while, is
//! said in [`route`]. Files, partition values and schema come from our own replay of that log ([`snapshot`]); DataFusion reads
//! the Parquet files and nothing else, from whichever cloud has them ([`replicas`]). Only the logs of tables that a query names
//! are read, and only as far as it needs.
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
//! files or fails. What one query may cost, and what it may show, is in [`limits`].

mod asof;
mod blocks;
mod cache;
mod callable;
mod diff;
mod distributed;
mod freshness;
mod guard;
mod history;
mod json;
mod kept;
mod limits;
mod listing;
mod names;
mod nested;
mod output;
mod pinning;
mod provider;
mod pruning;
mod replicas;
mod route;
mod snapshot;
mod sql;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use futures::future::try_join_all;
use isobar_connectors::clouds::Cloud;
use tokio::sync::{Mutex, RwLock};

pub(crate) use self::cache::SnapshotCache;
pub(crate) use self::callable::CallableModels;
pub use self::diff::{
    DIFF_ROWS_MAX, Diff, FileChange, PartitionChange, VersionEnd, diff, diff_in, diff_rows, diff_rows_in,
};
pub use self::distributed::Workers;
pub(crate) use self::distributed::{TaskMetrics, secret_of_workers, worker_of};
pub use self::freshness::Freshness;
pub(crate) use self::guard::Guard;
pub(crate) use self::history::{Pin, shown};
pub(crate) use self::json::{json_lines, json_options, json_problem};
pub use self::limits::QueryLimits;
pub(crate) use self::limits::{
    BoundedDialect, Watch, aside, batch_bytes, bound, check_plan, check_statement, limit_of, started,
    too_nested,
};
pub(crate) use self::listing::known_table;
pub use self::listing::{SnapshotSummary, Snapshots, snapshots, snapshots_in};
pub(crate) use self::names::{Asked, Names, PinnedTable, quoted};
pub use self::output::{Answer, RowsFormat, Scanned, TABLE_ROWS_MAX};
pub(crate) use self::pinning::refuse_unrepeatable;
pub(crate) use self::provider::{SnapshotTable, partition_value};
pub(crate) use self::replicas::Replicas;
pub use self::replicas::{ANSWER_WITHIN, Reading};
pub(crate) use self::snapshot::{PublishedTable, Snapshot, newest_snapshots, newest_tables};
pub(crate) use self::sql::time_ms;
pub use self::usage::{CloudUsage, Metered, Usage};

use self::distributed::Query;
use self::guard::GuardedTable;
use self::kept::KeptTables;
use self::pinning::Known;
use self::provider::CloudStores;
use self::snapshot::fresh_snapshots;
use crate::error::Error;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Catalog and schema that the tables are in, when a query spells them out.
pub(crate) const CATALOG: (&str, &str) = ("isobar", "datasets");
/// Most bytes of footers that are kept for later queries.
const FOOTER_BYTES_MAX: usize = 64 << 20;

/// Where the rows of one table come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct TableVersion {
    /// The dataset, or its quarantine.
    pub table: String,
    /// The version read.
    pub version: u64,
    /// The cloud that its log was read from, and its files are unless that cloud fails.
    pub cloud: String,
    /// When the version was committed, in milliseconds since the Unix epoch.
    pub committed_ms: i64,
    /// SHA-256 of the version's entry in the log. Entries are chained by their hashes, so that it stands for all the table held.
    pub sha256: String,
}

impl TableVersion {
    /// When the version was committed, for people.
    pub fn committed(&self) -> String {
        history::shown(self.committed_ms)
    }
}

/// Tables to ask. Each stays at the version that was its newest when it was first named, unless a query says otherwise or has
/// to have a newer one, or the catalog is [`following`](Self::following).
pub struct Catalog {
    context: SessionContext,
    replicas: Arc<Replicas>,
    models: CallableModels,
    /// The tables that may exist.
    names: Names,
    /// Those that were looked for and exist, by the same names.
    newest: Mutex<BTreeMap<String, TableVersion>>,
    /// Held while others are looked for, so that nothing is looked for twice. Who needs none of them does not wait.
    looking: Mutex<()>,
    /// Those at versions that queries name.
    kept: KeptTables,
    known: std::sync::Mutex<Known>,
    /// Held by whoever plans a query, so that no table is exchanged under its hands.
    planning: RwLock<()>,
    /// What newest means, if it is not now: milliseconds since the Unix epoch.
    newest_at_ms: Option<i64>,
    /// The clouds that decide which version a time means, if not those that are read.
    deciding: Option<Vec<Cloud>>,
    /// Where every query looks for newer versions; `None`: tables stay where they are.
    following: Option<SnapshotCache>,
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
        Self::reading(clouds, datasets, memory_bytes_max, &Reading::default())
    }

    /// The same, read as `reading` says.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Configuration`] if `reading` names a cloud that there is not, or prefers the cheapest
    /// cloud where one has no price.
    pub fn reading(
        clouds: &[Cloud],
        datasets: &[String],
        memory_bytes_max: u64,
        reading: &Reading,
    ) -> Result<Self, Error> {
        let replicas = Arc::new(Replicas::new(clouds, reading)?);
        let context = session(&replicas, memory_bytes_max)?;
        if let Some(workers) = &reading.workers {
            context.state_ref().write().config_mut().set_extension(workers.clone());
        }
        Ok(Self {
            context,
            replicas,
            models: CallableModels::default(),
            names: Names::of(datasets),
            newest: Mutex::default(),
            looking: Mutex::default(),
            kept: KeptTables::default(),
            known: std::sync::Mutex::default(),
            planning: RwLock::default(),
            newest_at_ms: None,
            deciding: None,
            following: None,
        })
    }

    /// The same, but every query looks for newer versions of its tables. Of logs that are known only what is new is read.
    #[must_use]
    pub fn following(mut self) -> Self {
        let tables: Vec<String> = self.names.tables().into_iter().map(str::to_owned).collect();
        self.following = Some(SnapshotCache::new(self.replicas.clone(), tables.into_iter()));
        self
    }

    /// The tables that exist, by the names that queries use, and the version that each is at.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve one; says of every cloud why.
    pub async fn tables(&self) -> Result<BTreeMap<String, TableVersion>, Error> {
        self.find(&self.names.tables(), &Freshness::default()).await?;
        Ok(self.newest.lock().await.clone())
    }

    /// Looks for the newest versions of those of `tables` that are not known yet, or not new enough.
    async fn find(&self, tables: &BTreeSet<&str>, freshness: &Freshness) -> Result<(), Error> {
        if let Some(cache) = &self.following {
            return self.follow(cache, tables, freshness).await;
        }
        if self.unknown(tables, freshness).await.is_empty() {
            return Ok(());
        }
        let _alone = self.looking.lock().await;
        // Another may have found them meanwhile.
        let unknown = self.unknown(tables, freshness).await;
        let Some(first) = unknown.first() else { return Ok(()) };
        let mut found = Vec::with_capacity(unknown.len());
        if let Some(at_ms) = self.newest_at_ms {
            for table in &unknown {
                found.push(self.pinned(table, Pin::Time(at_ms)).await?);
            }
        } else {
            let clouds = self.replicas.in_order(Some(first)).await;
            for snapshot in fresh_snapshots(&clouds, &unknown, freshness).await?.values() {
                found.push(Arc::new(SnapshotTable::new(snapshot, self.replicas.clone())?));
            }
        }
        self.register(&found).await
    }

    /// Brings `tables` to their newest versions.
    async fn follow(
        &self,
        cache: &SnapshotCache,
        tables: &BTreeSet<&str>,
        freshness: &Freshness,
    ) -> Result<(), Error> {
        let _alone = self.looking.lock().await;
        // All at once: whoever waits does so for the slowest log, not for all of them.
        let looks: Vec<_> = tables.iter().map(|table| cache.fresh(table, freshness)).collect();
        let mut news: Vec<Arc<SnapshotTable>> = try_join_all(looks).await?.into_iter().flatten().collect();
        let newest = self.newest.lock().await;
        news.retain(|found| !newest.values().any(|known| known == found.version()));
        drop(newest);
        if news.is_empty() { Ok(()) } else { self.register(&news).await }
    }

    /// Those of `tables` that are not known yet, or not new enough.
    async fn unknown(&self, tables: &BTreeSet<&str>, freshness: &Freshness) -> Vec<String> {
        let newest = self.newest.lock().await;
        let is_enough = |known: &TableVersion| {
            freshness.lacking(&known.table, known.version, known.committed_ms).is_none()
        };
        let is_unknown =
            |table: &&&str| !newest.values().any(|known| known.table == **table && is_enough(known));
        tables.iter().filter(is_unknown).map(|table| (*table).to_owned()).collect()
    }

    /// Where a query does not say otherwise, tables are at the versions of `found`.
    async fn register(&self, found: &[Arc<SnapshotTable>]) -> Result<(), Error> {
        let _alone = self.planning.write().await;
        let mut newest = self.newest.lock().await;
        for table in found {
            let version = table.version();
            self.note(version);
            for name in self.names.of_table(&version.table) {
                if newest.remove(name).is_some() {
                    let gone = self.context.deregister_table(TableReference::bare(name));
                    gone.map_err(|error| Error::Configuration(format!("table {name}: {error}")))?;
                }
                let registered = self.context.register_table(TableReference::bare(name), table.clone());
                registered.map_err(|error| Error::Configuration(format!("table {name}: {error}")))?;
                newest.insert(name.to_owned(), version.clone());
            }
        }
        Ok(())
    }

    /// Plans one query and starts it, within the limits of somebody who holds the topology.
    ///
    /// # Errors
    /// Those of [`query_within`](Self::query_within).
    pub async fn query(&self, sql: &str) -> Result<Answer, Error> {
        self.query_within(sql, &QueryLimits::default(), &Freshness::default()).await
    }

    /// Plans one query and starts it.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the query is wrong, would change something, or names a version that there is not or that
    /// can no longer be read, and for a table in `freshness` that there is not. [`Error::Limit`] if it asks for more than `limits`
    /// allow, also later, among its rows. [`Error::NoMajority`] if no cloud can serve a table, or none that answers has a
    /// version that is new enough, which may be there a moment later; says of every cloud why.
    pub async fn query_within(
        &self,
        sql: &str,
        limits: &QueryLimits,
        freshness: &Freshness,
    ) -> Result<Answer, Error> {
        let watch = Watch::start(limits);
        let (state, plan) = self.plan_within(sql, limits, freshness, &watch).await?;
        start(state, plan, &self.replicas, limits, watch).await
    }

    /// As [`query`](Self::query), for a plan that `check` has nothing against.
    ///
    /// # Errors
    /// Those of [`query`](Self::query), and [`Error::Configuration`] with what `check` says.
    pub(crate) async fn query_checked(
        &self,
        sql: &str,
        check: impl Fn(&LogicalPlan) -> Result<(), DataFusionError>,
    ) -> Result<Answer, Error> {
        let limits = QueryLimits::default();
        let watch = Watch::start(&limits);
        let (state, plan) = self.plan_within(sql, &limits, &Freshness::default(), &watch).await?;
        check(&plan).map_err(|error| Error::Configuration(error.strip_backtrace()))?;
        start(state, plan, &self.replicas, &limits, watch).await
    }

    /// Names and types of the columns of a query. No row is read.
    ///
    /// # Errors
    /// Those of [`query`](Self::query).
    pub(crate) async fn columns(&self, sql: &str) -> Result<SchemaRef, Error> {
        let limits = QueryLimits::default();
        let watch = Watch::start(&limits);
        let (_, plan) = self.plan_within(sql, &limits, &Freshness::default(), &watch).await?;
        Ok(Arc::new(plan.schema().as_arrow().clone()))
    }

    async fn plan_within(
        &self,
        sql: &str,
        limits: &QueryLimits,
        freshness: &Freshness,
        watch: &Watch,
    ) -> Result<(SessionState, LogicalPlan), Error> {
        match self.planned(sql, limits, freshness, watch).await {
            Ok(planned) => Ok(planned),
            Err(Stopped::Ours(error)) => Err(error),
            Err(Stopped::Planning(error)) => Err(self.explain(&error).await),
        }
    }

    async fn planned(
        &self,
        sql: &str,
        limits: &QueryLimits,
        freshness: &Freshness,
        watch: &Watch,
    ) -> Result<(SessionState, LogicalPlan), Stopped> {
        let freshness = self.by_table(freshness)?;
        let mut state = self.context.state();
        let called = self.models.offer(&mut state)?;
        let asked = Asked::parse(&state, &self.names, sql, limits, watch).await?;
        let newest = asked.newest.iter().map(String::as_str).collect();
        watch.within(self.find(&newest, &freshness)).await??;
        let mut pinned = Vec::with_capacity(asked.pinned.len());
        for (_, pin, table) in &asked.pinned {
            pinned.push(watch.within(self.pinned(table, *pin)).await??.into());
        }
        let planning = self.planning.read().await;
        let (mut state, plan) = asked.plan(state, pinned, limits, watch).await?;
        drop(planning);
        watch.within(self.models.bind(&called, &mut state)).await??;
        Ok((state, plan))
    }

    /// The same for tables by their own names, where queries may use others.
    fn by_table(&self, freshness: &Freshness) -> Result<Freshness, Error> {
        let mut min_versions = BTreeMap::new();
        for (name, least) in &freshness.min_versions {
            let Some(table) = self.names.get(name) else {
                let known = self.names.unquoted(|_| true).join(", ");
                return Err(Error::Configuration(format!(
                    "there is no table {name}; the tables are: {known}"
                )));
            };
            min_versions.insert(table.to_owned(), *least);
        }
        Ok(Freshness { min_versions, max_age: freshness.max_age })
    }

    /// What is wrong with a query, and which tables there are.
    async fn explain(&self, error: &DataFusionError) -> Error {
        if let Some(error) = limits::limit_of(error) {
            return error;
        }
        let text = error.strip_backtrace();
        if !text.contains("not found") {
            return Error::Configuration(text);
        }
        let Ok(tables) = self.tables().await else { return Error::Configuration(text) };
        let exists = |table: &str| tables.values().any(|known| known.table == table);
        Error::Configuration(self.names.explain(text, exists))
    }
}

/// Why there is no plan.
enum Stopped {
    Planning(DataFusionError),
    Ours(Error),
}

impl From<DataFusionError> for Stopped {
    fn from(error: DataFusionError) -> Self {
        Self::Planning(error)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// Starts a query that was planned.
pub(crate) async fn start(
    mut state: SessionState,
    plan: LogicalPlan,
    replicas: &Replicas,
    limits: &QueryLimits,
    watch: Arc<Watch>,
) -> Result<Answer, Error> {
    let meter = Arc::new(replicas.meter());
    state.config_mut().set_extension(meter.clone());
    let from = read_by(&plan);
    let runtime = limits::runtime_of(state.runtime_env(), limits).map_err(|error| failed(&from, error))?;
    let query = Query { state, plan: plan.clone(), runtime, limits: limits.clone(), watch: watch.clone() };
    let started = async {
        let (rows, physical) = query.start().await?;
        Ok::<_, DataFusionError>((limits::limited(rows, &plan, limits, watch)?, physical))
    };
    match started.await {
        Ok((rows, physical)) => Ok(Answer::new(rows, physical, from, meter)),
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
pub(crate) fn session(replicas: &Arc<Replicas>, memory_bytes_max: u64) -> Result<SessionContext, Error> {
    let memory_bytes_max = usize::try_from(memory_bytes_max).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(memory_bytes_max, 1.0)
        .with_metadata_cache_limit(FOOTER_BYTES_MAX.min(memory_bytes_max / 8))
        .with_object_store_registry(Arc::new(CloudStores::new(replicas.clone())))
        .build_arc()
        .map_err(|error| Error::Configuration(format!("prepare to query: {error}")))?;
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG.0, CATALOG.1)
        .with_information_schema(true)
        // A file for each batch that is spilled between partitions. DataFusion 55 waits for ever where two such files are open and
        // the older one has no more batches (apache/datafusion#24883).
        .set_u64("datafusion.execution.max_spill_file_size_bytes", 1)
        // The order of a subquery is the order of a spine.
        .set_bool("datafusion.sql_parser.enable_subquery_sort_elimination", false);
    let state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    let session = SessionContext::new_with_state(asof::extended(state).build());
    session.register_udf(isobar_transforms::header_function());
    limits::bound(&session);
    Ok(session)
}

/// A query that was planned and then failed: by a value that an expression cannot take, or by a store that stopped
/// answering, a damaged file or too little memory.
pub(crate) fn failed(from: &[TableVersion], error: DataFusionError) -> Error {
    if let Some(error) = limits::limit_of(&error) {
        return error;
    }
    if is_the_callers(&error) {
        return Error::Configuration(format!("the query failed: {}", error.strip_backtrace()));
    }
    // In order of the tables, of which several may be in one cloud, not one after the other.
    let mut clouds: Vec<&str> = Vec::new();
    for table in from {
        if !clouds.contains(&table.cloud.as_str()) {
            clouds.push(&table.cloud);
        }
    }
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
        DataFusionError::External(source) => source.is::<isobar_transforms::RuleError>(),
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

/// The same, read as `reading` says instead of the topology.
///
/// # Errors
/// Those of [`open_catalog`] and [`Catalog::reading`].
pub fn open_catalog_reading(topology: &Topology, reading: &Reading) -> Result<Catalog, Error> {
    catalog_reading(topology, &open_clouds(topology)?, reading)
}

/// The same in `clouds`.
///
/// # Errors
/// Those of [`Catalog::new`].
pub fn catalog_in(topology: &Topology, clouds: &[Cloud]) -> Result<Catalog, Error> {
    catalog_reading(topology, clouds, &Reading::of(topology.query.clone()))
}

/// The same in `clouds`, read as `reading` says instead of the topology.
///
/// # Errors
/// Those of [`Catalog::reading`].
pub fn catalog_reading(topology: &Topology, clouds: &[Cloud], reading: &Reading) -> Result<Catalog, Error> {
    catalog_of(topology, clouds, reading, &[])
}

/// The same as [`catalog_in`] with `further` datasets, which another topology writes into these clouds.
///
/// # Errors
/// Those of [`Catalog::new`].
pub(crate) fn catalog_with(
    topology: &Topology,
    clouds: &[Cloud],
    further: &[String],
) -> Result<Catalog, Error> {
    catalog_of(topology, clouds, &Reading::of(topology.query.clone()), further)
}

fn catalog_of(
    topology: &Topology,
    clouds: &[Cloud],
    reading: &Reading,
    further: &[String],
) -> Result<Catalog, Error> {
    let mut datasets = topology.dataset_names();
    datasets.extend_from_slice(further);
    let catalog = Catalog::reading(clouds, &datasets, topology.memory_bytes_max, reading)?;
    Ok(Catalog { models: CallableModels::of(topology, clouds), ..catalog })
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
