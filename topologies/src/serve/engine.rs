//! What all protocols share: who asks, what is asked, and the answer.
//!
//! A question is prepared first: parsed, each of its tables pinned to a version, and planned. From then on newer versions change
//! nothing for it. Every question has a catalog of its own with the tables that its caller may see, each behind its guard, so
//! that there is nothing else to be found by whatever a statement says. Then it runs: with memory of its own, for a limited time,
//! and as long as somebody takes its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use isobar_connectors::clouds::Cloud;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::access::{Access, Caller};
use super::audit::{Audit, Entry, Subject};
use super::certificate::PeerNames;
use super::gate::{Counted, Early, Gate};
use super::inference::Inference;
use super::metrics::Metrics;
use crate::commit::quarantine_of;
use crate::error::Error;
use crate::online::OnlineViews;
use crate::query::{
    Answer, Asked, CATALOG, CallableModels, Guard, Names, Pin, PinnedTable, QueryLimits, Reading, Replicas,
    SnapshotCache, SnapshotTable, TableVersion, Watch, Workers, check_plan, limit_of, read_by, session,
    start,
};
use crate::spec::{LimitsOfQueries, Topology};

/// Parts that a query is divided into, at most: each of them needs memory of its own.
const PARTITIONS_MAX: usize = 4;
/// Part of a query's memory that a sort keeps back, for each part, to be able to spill.
const SPILL_RESERVE: u64 = 16;
/// What a sort keeps back unless that is too much.
const SPILL_RESERVE_BYTES_MAX: u64 = 10 << 20;
/// How long a look answers whether tables can be read at all.
const READY_FOR: Duration = Duration::from_secs(5);

/// The tables, who may read what of them, and the limits. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    topology: String,
    /// Functions and settings; no tables.
    base: SessionState,
    replicas: Arc<Replicas>,
    models: CallableModels,
    cache: SnapshotCache,
    access: Access,
    refresh: Duration,
    /// The places of all whose roles have none of their own.
    gate: Gate,
    metrics: Metrics,
    /// Models that answer.
    inference: Inference,
    /// Rows that are looked up by key, where there are any.
    look_ups: OnceLock<OnlineViews>,
    /// Where it is written who asks what.
    audit: Option<Arc<Audit>>,
    /// What is said of tables.
    comments: BTreeMap<String, String>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("topology", &self.0.topology).finish_non_exhaustive()
    }
}

/// One question.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// One statement that only reads.
    pub sql: String,
    /// Values for its placeholders `$1`, …; may also be given when it is run.
    pub parameters: Option<ParamValues>,
    /// Versions of tables, by name: what a ticket carries from planning to fetching. A table not named here, nor pinned by
    /// the query itself, is at its newest version.
    pub versions: BTreeMap<String, u64>,
    /// By table, the version that it must have reached.
    pub min_version: BTreeMap<String, u64>,
    /// How old the last look for newer versions may be: the answer is of versions that were the newest so long ago, or later.
    pub max_staleness: Option<Duration>,
    /// How it came here.
    pub protocol: Protocol,
}

/// How a question came to the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// From the same process.
    #[default]
    Process,
    /// By HTTP.
    Http,
    /// By PostgreSQL's protocol.
    Postgres,
    /// By Flight SQL.
    Flight,
    /// By the inference protocol.
    Inference,
}

impl Protocol {
    /// One word for it, in the log of queries.
    pub fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Http => "http",
            Self::Postgres => "postgres",
            Self::Flight => "flight",
            Self::Inference => "inference",
        }
    }
}

impl Question {
    /// The statement `sql`, at the newest versions.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), ..Self::default() }
    }
}

/// A table that a caller may read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TableInfo {
    /// Its name in queries.
    pub name: String,
    /// Its newest version that is known here, and the cloud that it is read from.
    pub version: TableVersion,
    /// Its columns, as the caller sees them.
    pub schema: SchemaRef,
    /// What is said about it.
    pub comment: Option<String>,
}

/// A question that was parsed, planned and pinned to versions; no row was read. A clone of it can be run again.
#[derive(Clone)]
pub struct Prepared {
    engine: Engine,
    caller: Caller,
    state: SessionState,
    plan: LogicalPlan,
    schema: SchemaRef,
    versions: Vec<TableVersion>,
    /// Ends it from elsewhere.
    stop: CancellationToken,
    /// What is written of it when it is run, and how long it took to plan.
    subject: Option<Arc<Subject>>,
    planned_in: Duration,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("versions", &self.versions).finish_non_exhaustive()
    }
}

/// What is known of a question before it is asked.
pub(super) struct Explored {
    /// Columns of the answer.
    pub(super) schema: SchemaRef,
    /// Its placeholders, as [`Prepared::parameters`] has them.
    pub(super) parameters: Vec<(String, Option<DataType>)>,
}

/// Which versions a question wants, by table.
struct Wanted {
    versions: BTreeMap<String, u64>,
    min_version: BTreeMap<String, u64>,
    age_max: Duration,
}

impl Wanted {
    /// The question names this version itself. Where it names none of the same table, that one is no older: the newest version that is
    /// known here may be.
    fn reach(&mut self, named: &TableVersion) {
        if !self.versions.contains_key(&named.table) {
            let least = self.min_version.entry(named.table.clone()).or_default();
            *least = (*least).max(named.version);
        }
    }
}

impl Engine {
    /// That of `topology`, which reads from `clouds`. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] for callers and roles that are wrong, and if there is no place for temporary files.
    pub fn open(topology: &Topology, clouds: &[Cloud]) -> Result<Self, Error> {
        let names = Names::of(&topology.dataset_names());
        let spec = &topology.serve;
        let access = Access::open(spec, &names, rand::random())?;
        let replicas = Arc::new(Replicas::new(clouds, &Reading::of(topology.query.clone()))?);
        let context = session(&replicas, topology.memory_bytes_max)?;
        let partitions = std::thread::available_parallelism().map_or(1, usize::from).min(PARTITIONS_MAX);
        let mut base = context.state();
        if let Some(workers) = Workers::of(topology)? {
            base.config_mut().set_extension(workers);
        }
        base.config_mut().options_mut().execution.target_partitions = partitions;
        let cache = SnapshotCache::new(replicas.clone(), names.tables().into_iter().map(str::to_owned));
        let metrics = Metrics::new(&topology.name);
        let audit =
            spec.audit.as_ref().map(|spec| Audit::open(topology, spec, metrics.audit.clone())).transpose()?;
        let mut comments = BTreeMap::new();
        for dataset in &topology.datasets {
            comments.extend(dataset.description.clone().map(|text| (dataset.name.clone(), text)));
            comments.insert(
                quarantine_of(&dataset.name),
                format!("Records that {} rejected, as they came.", dataset.name),
            );
        }
        let models = CallableModels::of(topology, clouds);
        let inference = Inference::new(topology, models.store())?;
        Ok(Self(Arc::new(Inner {
            topology: topology.name.clone(),
            base,
            replicas,
            models,
            inference,
            cache,
            access,
            refresh: spec.refresh,
            gate: Gate::new(&spec.limits),
            metrics,
            audit,
            look_ups: OnceLock::new(),
            comments,
        })))
    }

    /// The name of the topology.
    pub fn topology(&self) -> &str {
        &self.0.topology
    }

    /// Whether everybody may read everything, without a token.
    pub fn is_open(&self) -> bool {
        self.0.access.is_open()
    }

    /// Whether somebody whose certificate has these names has to show a token.
    pub(super) fn needs_token(&self, names: &PeerNames) -> bool {
        !self.is_open() && !self.0.access.has_named(names.as_slice())
    }

    /// The metrics as text.
    pub fn metrics(&self) -> String {
        let look_ups = self.look_ups().map(OnlineViews::metrics);
        let workers = self.0.base.config().get_extension::<Workers>().map(|workers| workers.metrics());
        let inference = self.0.inference.metrics();
        self.0.metrics.render() + &inference + &look_ups.unwrap_or_default() + &workers.unwrap_or_default()
    }

    /// Rows that are looked up by key here.
    pub(super) fn look_ups(&self) -> Option<&OnlineViews> {
        self.0.look_ups.get()
    }

    /// Models that answer here.
    pub(super) fn inference(&self) -> &Inference {
        &self.0.inference
    }

    /// What `caller` asks on its way into the log, where there is one: for what is answered by other means than a query.
    pub(super) fn entry(&self, caller: &Caller, question: &Question) -> Option<Entry> {
        let audit = self.0.audit.as_ref()?;
        Some(audit.entry(audit.subject(caller, question), Duration::ZERO))
    }

    /// From now on rows are looked up by key here.
    pub(super) fn look_up_in(&self, views: OnlineViews) {
        self.0.look_ups.get_or_init(|| views);
    }

    /// Who shows `token`: a bearer token, or the password of the PostgreSQL protocol.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] if it is none; [`Refusal::Forbidden`] if its claims name no role.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        self.recognise(token, &PeerNames::default())
    }

    /// Who shows `token`, or a certificate with the names of a caller, or both of the same one.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub(super) fn recognise(&self, token: Option<&str>, names: &PeerNames) -> Result<Caller, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let caller = self.0.access.recognise(token, names.as_slice(), now.as_secs());
        caller.inspect_err(|refusal| self.0.metrics.refused(refusal.outcome()))
    }

    /// Parses and plans `question`, pinned to versions. Reads no row.
    ///
    /// # Errors
    /// [`Refusal`], for every reason there is.
    pub async fn prepare(&self, caller: &Caller, question: Question) -> Result<Prepared, Refusal> {
        let audit = self.0.audit.as_ref();
        let subject = audit.map(|audit| audit.subject(caller, &question));
        let entry = audit.zip(subject.clone()).map(|(audit, subject)| audit.entry(subject, Duration::ZERO));
        let since = Instant::now();
        match self.prepared(caller, question).await {
            Ok(prepared) => {
                // It is written when it is run.
                entry.into_iter().for_each(Entry::forget);
                Ok(Prepared { subject, planned_in: since.elapsed(), ..prepared })
            }
            Err(refusal) => {
                self.refused(&refusal, entry);
                Err(refusal)
            }
        }
    }

    /// What a question would be, for a protocol that has to say so before it is asked. Nothing is counted or written of it, and it
    /// cannot be run.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub(super) async fn explore(&self, caller: &Caller, question: Question) -> Result<Explored, Refusal> {
        let prepared = self.prepared(caller, question).await?;
        Ok(Explored { schema: prepared.schema(), parameters: prepared.parameters() })
    }

    fn refused(&self, refusal: &Refusal, entry: Option<Entry>) {
        self.0.metrics.refused(refusal.outcome());
        entry.into_iter().for_each(|mut entry| entry.ended(refusal.outcome()));
    }

    /// Waits until what is written about questions and of models is stored, no longer than `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        let questions = async {
            if let Some(audit) = &self.0.audit {
                audit.close(patience).await;
            }
        };
        tokio::join!(questions, self.0.inference.close(patience));
    }

    async fn prepared(&self, caller: &Caller, question: Question) -> Result<Prepared, Refusal> {
        let limits = of_query(caller.limits());
        let watch = Watch::start(&limits);
        let _place = self.place(caller).await?;
        watch.within(self.plan(caller, question, &limits, &watch)).await?
    }

    /// A place among the queries that run, of the role's own or of everybody's.
    async fn place(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, Refusal> {
        let gate = caller.role.gate.as_ref().unwrap_or(&self.0.gate);
        gate.enter(Instant::now() + caller.limits().time).await
    }

    async fn plan(
        &self,
        caller: &Caller,
        question: Question,
        limits: &QueryLimits,
        watch: &Watch,
    ) -> Result<Prepared, Refusal> {
        let names = &caller.role.names;
        let mut wanted = self.wanted(names, &question)?;
        let (mut state, tables) = self.own_session(limits).map_err(|error| cannot_set_up(&error))?;
        let called = self.0.models.offer(&mut state).map_err(|error| cannot_set_up(&error))?;
        state.mark_start_execution();
        let asked = match Asked::parse(&state, names, &question.sql, limits, watch).await {
            Ok(asked) => asked,
            Err(error) => return Err(self.explained(caller, error).await),
        };
        let mut pinned = Vec::with_capacity(asked.pinned.len());
        for (_, pin, table) in &asked.pinned {
            let found = self.0.cache.pinned(table, *pin).await?;
            wanted.reach(found.version());
            pinned.push(self.guarded(caller, found, &state).await?);
        }
        // All at once: the first query after the start waits for the slowest log, not for all of them.
        let looks: Vec<_> = asked.newest.iter().map(|table| self.at_wanted(table, &wanted)).collect();
        let found = futures::future::try_join_all(looks).await?;
        for (table, found) in asked.newest.iter().zip(found) {
            let Some(found) = found else { continue };
            let guarded = self.guarded(caller, found, &state).await?;
            for name in names.of_table(table) {
                let registered = tables.register_table(name.to_owned(), guarded.provider.clone());
                registered.map_err(|error| cannot_set_up(&error))?;
            }
        }
        let (mut state, plan) = match asked.plan(state, pinned, limits, watch).await {
            Ok(planned) => planned,
            Err(error) => return Err(self.explained(caller, error).await),
        };
        if let Some(model) = called.models().into_iter().find(|model| !caller.may_ask(model)) {
            return Err(Refusal::Wrong(format!("there is no model `{model}`")));
        }
        self.0.models.bind(&called, &mut state).await?;
        let plan = match question.parameters {
            Some(values) => with_values(plan, values, limits)?,
            None => plan,
        };
        let versions = read_by(&plan);
        let schema = Arc::new(plan.schema().as_arrow().clone());
        Ok(Prepared {
            engine: self.clone(),
            caller: caller.clone(),
            state,
            plan,
            schema,
            versions,
            subject: None,
            planned_in: Duration::ZERO,
            stop: CancellationToken::new(),
        })
    }

    /// The versions that a question wants, by table instead of by name.
    fn wanted(&self, names: &Names, question: &Question) -> Result<Wanted, Refusal> {
        let by_table = |by_name: &BTreeMap<String, u64>| -> Result<BTreeMap<String, u64>, Refusal> {
            let tables = by_name.iter().map(|(name, version)| match names.get(name) {
                Some(table) => Ok((table.to_owned(), *version)),
                None => Err(no_table(name)),
            });
            tables.collect()
        };
        Ok(Wanted {
            versions: by_table(&question.versions)?,
            min_version: by_table(&question.min_version)?,
            age_max: question.max_staleness.unwrap_or(self.0.refresh),
        })
    }

    /// `table` as a question wants it; `None` if nothing was committed to it yet.
    async fn at_wanted(&self, table: &str, wanted: &Wanted) -> Result<Option<Arc<SnapshotTable>>, Refusal> {
        let cache = &self.0.cache;
        let least = wanted.min_version.get(table).copied();
        if let Some(version) = wanted.versions.get(table) {
            if let Some(least) = least.filter(|least| version < least) {
                return Err(Refusal::Wrong(format!(
                    "{table} is asked for at version {version} and at version {least} or later"
                )));
            }
            return Ok(Some(cache.pinned(table, Pin::Version(*version)).await?));
        }
        let found = cache.newest(table, wanted.age_max).await?;
        let Some(least) = least else { return Ok(found) };
        let is_there = |found: &Option<Arc<SnapshotTable>>| {
            found.as_ref().is_some_and(|found| found.version().version >= least)
        };
        if is_there(&found) {
            return Ok(found);
        }
        let found = cache.newest(table, Duration::ZERO).await?;
        if is_there(&found) {
            return Ok(found);
        }
        // A cloud that is behind does not hide what others have.
        if let Some(further) = cache.furthest(table, least).await? {
            return Ok(Some(further));
        }
        let there_is = match found {
            Some(found) => format!("version {}", found.version().version),
            None => "no version".to_owned(),
        };
        Err(Refusal::Unavailable(format!(
            "{table} has not reached version {least}: there is {there_is}; try again"
        )))
    }

    /// `table` as `caller` may see it.
    async fn guarded(
        &self,
        caller: &Caller,
        table: Arc<SnapshotTable>,
        state: &SessionState,
    ) -> Result<PinnedTable, Refusal> {
        let name = table.version().table.clone();
        let Some(guard) = caller.role.guard(&name) else { return Ok(table.into()) };
        // A column that is not in an old version may be in the newest; one that is in neither is misspelt.
        let newest = self.0.cache.newest(&name, Duration::MAX).await?;
        let unknown = guard.unknown_columns(newest.as_deref().unwrap_or(&table));
        let guarded = match unknown.is_empty() {
            true => guard.around(table, state).map_err(|error| error.strip_backtrace()),
            false => Err(format!("the table has no column {}", unknown.join(", "))),
        };
        guarded.map_err(|why| {
            let role = &caller.role.name;
            tracing::error!(%role, table = %name, why, "what the role may see of the table is not clear, so it sees nothing");
            Refusal::Internal(format!("{name} cannot be shown: what the role may see of it is not clear; the server's log says why"))
        })
    }

    /// A session without tables, and where to put them.
    fn own_session(
        &self,
        limits: &QueryLimits,
    ) -> Result<(SessionState, Arc<MemorySchemaProvider>), DataFusionError> {
        let tables = Arc::new(MemorySchemaProvider::new());
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(CATALOG.1, tables.clone())?;
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.0.to_owned(), Arc::new(catalog));
        let mut state = SessionStateBuilder::new_from_existing(self.0.base.clone())
            .with_catalog_list(Arc::new(catalogs))
            .build();
        let reserve = (limits.memory_bytes_max / SPILL_RESERVE).min(SPILL_RESERVE_BYTES_MAX);
        let options = state.config_mut().options_mut();
        options.execution.sort_spill_reservation_bytes = usize::try_from(reserve).unwrap_or(usize::MAX);
        Ok((state, tables))
    }

    /// What is wrong with a question, and which tables the caller could have meant.
    async fn explained(&self, caller: &Caller, error: DataFusionError) -> Refusal {
        if limit_of(&error).is_some() {
            return error.into();
        }
        let text = error.strip_backtrace();
        if !text.contains("not found") {
            return Refusal::Wrong(text);
        }
        let names = &caller.role.names;
        let mut existing = BTreeSet::new();
        for table in names.tables() {
            if matches!(self.0.cache.newest(table, Duration::MAX).await, Ok(Some(_))) {
                existing.insert(table);
            }
        }
        Refusal::Wrong(names.explain(text, |table| existing.contains(table)))
    }

    /// The tables that `caller` may read and that something was committed to, by name.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if no cloud can serve one.
    pub async fn tables(&self, caller: &Caller) -> Result<Vec<TableInfo>, Refusal> {
        let names = caller.role.names.tables();
        let looks: Vec<_> = names.into_iter().map(|table| self.described(caller, table)).collect();
        let found = futures::future::try_join_all(looks).await?;
        let mut tables: Vec<TableInfo> = found.into_iter().flatten().collect();
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tables)
    }

    /// The table that `caller` means by `name`; `None` if there is none that it may read, or nothing was committed to it yet.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if no cloud can serve it.
    pub async fn table(&self, caller: &Caller, name: &str) -> Result<Option<TableInfo>, Refusal> {
        match caller.role.names.get(name) {
            Some(table) => self.described(caller, table).await,
            None => Ok(None),
        }
    }

    async fn described(&self, caller: &Caller, table: &str) -> Result<Option<TableInfo>, Refusal> {
        let Some(found) = self.0.cache.newest(table, self.0.refresh).await? else { return Ok(None) };
        let PinnedTable { version, provider } = self.guarded(caller, found, &self.0.base).await?;
        // The name that needs no quotes.
        let name = caller.role.names.of_table(table).find(|name| !name.contains('.')).map(str::to_owned);
        let comment = self.0.comments.get(table).cloned();
        Ok(name.map(|name| TableInfo { name, version, schema: provider.schema(), comment }))
    }

    /// Whether the first of the tables can be looked for: what `/readyz` says.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if no cloud answers.
    pub async fn is_ready(&self) -> Result<(), Refusal> {
        if let Some(table) = self.0.cache.tables().next() {
            self.0.cache.newest(table, READY_FOR.max(self.0.refresh)).await?;
        }
        Ok(())
    }

    /// Holds what roles may see against the tables, as far as those can be read now: a condition that does not fit is better
    /// found at the start.
    ///
    /// # Errors
    /// [`Error::Configuration`] names the role and what is wrong.
    pub(super) async fn check_roles(&self) -> Result<(), Error> {
        for role in self.0.access.roles() {
            for (table, guard) in role.guards() {
                let found = match self.0.cache.newest(table, Duration::MAX).await {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    Err(error) => {
                        let error = crate::chain_of(&error);
                        tracing::warn!(%table, error, "what roles may see of the table is checked when it can be read");
                        continue;
                    }
                };
                check_guard(guard, found, &self.0.base).map_err(|why| {
                    Error::Configuration(format!("serve.roles.{}.datasets.{table}: {why}", role.name))
                })?;
            }
        }
        Ok(())
    }
}

fn check_guard(guard: &Guard, table: Arc<SnapshotTable>, state: &SessionState) -> Result<(), String> {
    let unknown = guard.unknown_columns(&table);
    if !unknown.is_empty() {
        return Err(format!("the table has no column {}", unknown.join(", ")));
    }
    guard.around(table, state).map(|_| ()).map_err(|error| error.strip_backtrace())
}

/// What cannot happen because of a question.
fn cannot_set_up(error: &DataFusionError) -> Refusal {
    Error::Bug(format!("prepare to query: {}", error.strip_backtrace())).into()
}

fn no_table(name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no table {name}; `GET /v1/datasets` or `SHOW TABLES` lists them"))
}

/// `plan` with values for its placeholders, within `limits`.
fn with_values(plan: LogicalPlan, values: ParamValues, limits: &QueryLimits) -> Result<LogicalPlan, Refusal> {
    let plan = plan.with_param_values(values).map_err(|error| Refusal::Wrong(error.strip_backtrace()))?;
    match check_plan(&plan, limits) {
        Ok(()) => Ok(plan),
        Err(error) if limit_of(&error).is_some() => Err(error.into()),
        Err(error) => Err(Refusal::Wrong(error.strip_backtrace())),
    }
}

impl Prepared {
    /// Columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The placeholders, `$1` first, and their types where the query says them.
    pub fn parameters(&self) -> Vec<(String, Option<DataType>)> {
        let found = self.plan.get_parameter_types().unwrap_or_default();
        let mut parameters: Vec<(String, Option<DataType>)> = found.into_iter().collect();
        let number = |name: &str| name.trim_start_matches('$').parse::<u32>().unwrap_or(u32::MAX);
        parameters.sort_by(|(one, _), (other, _)| (number(one), one).cmp(&(number(other), other)));
        parameters
    }

    /// The versions that the answer will be of.
    pub fn versions(&self) -> &[TableVersion] {
        &self.versions
    }

    /// The same, which ends when `stop` is cancelled, whether anybody asks for its rows or not.
    pub(super) fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Starts it. Dropping the answer, or this future, cancels it.
    ///
    /// # Errors
    /// [`Refusal`], as far as it is known before the first row.
    pub async fn run(self, parameters: Option<ParamValues>) -> Result<Answer, Refusal> {
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        let audit = engine.0.audit.as_ref().zip(self.subject.clone());
        let entry = audit.map(|(audit, subject)| audit.entry(subject, self.planned_in));
        let mut entry = entry.map(|entry| entry.of_run(parameters.as_ref(), &self.versions));
        match self.started(parameters, entry.as_mut()).await {
            Ok((answer, place, watch)) => {
                let running = engine.0.metrics.begin().written(entry);
                let early = early(watch, stop);
                Ok(answer.wrapped(|rows| Box::pin(Counted::new(rows, running, place, early))))
            }
            Err(refusal) => {
                engine.refused(&refusal, entry);
                Err(refusal)
            }
        }
    }

    async fn started(
        self,
        parameters: Option<ParamValues>,
        entry: Option<&mut Entry>,
    ) -> Result<(Answer, OwnedSemaphorePermit, Arc<Watch>), Refusal> {
        let inner = &self.engine.0;
        let limits = of_query(self.caller.limits());
        let plan = match parameters {
            Some(values) => with_values(self.plan, values, &limits)?,
            None => self.plan,
        };
        let mut missing: Vec<String> = plan.get_parameter_names().unwrap_or_default().into_iter().collect();
        if !missing.is_empty() {
            missing.sort();
            return Err(Refusal::Wrong(format!("there is no value for {}", missing.join(", "))));
        }
        let watch = Watch::start(&limits);
        let place = self.engine.place(&self.caller).await?;
        if let Some(entry) = entry {
            watch.within(entry.begun()).await??;
        }
        tracing::debug!(caller = %self.caller.name, versions = ?self.versions, "a query runs");
        let mut state = self.state.clone();
        state.mark_start_execution();
        let answer = start(state, plan, &inner.replicas, &limits, watch.clone()).await?;
        Ok((answer, place, watch))
    }
}

/// What ends a query before its last row.
async fn early(watch: Arc<Watch>, stop: CancellationToken) -> Early {
    tokio::select! {
        over = watch.over() => ("too_much", over),
        () = stop.cancelled() => {
            ("cancelled", DataFusionError::Execution("the query was cancelled".to_owned()))
        }
    }
}

/// What one query may cost.
fn of_query(limits: &LimitsOfQueries) -> QueryLimits {
    QueryLimits {
        time: Some(limits.time),
        memory_bytes_max: limits.memory_bytes,
        spill_bytes_max: limits.disk_bytes,
        rows_max: limits.rows,
        bytes_max: limits.bytes,
        sql_bytes_max: usize::try_from(limits.sql_bytes).unwrap_or(usize::MAX),
        ..QueryLimits::served()
    }
}

#[cfg(test)]
mod tests;
