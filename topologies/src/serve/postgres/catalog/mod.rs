//! `pg_catalog` and `information_schema`, as far as psql, drivers and BI tools need them.
//!
//! Clients learn what there is from queries of PostgreSQL's own tables. Those queries are answered here, from tables in memory
//! ([`contents`]): those that a query names are made anew for it out of what the caller may see, in a session that has nothing
//! else: no data, no files, no settings. What the planner does not know of PostgreSQL is put in other words first
//! ([`rewrite`]), and questions about what there never is here (indexes, policies, triggers, …) are answered without planning
//! them ([`nothing`]).
//!
//! A statement belongs here if all its tables do, or, when it names none, if it calls a function about the server, such as
//! `version()`. Everything else is the engine's.

mod contents;
mod functions;
mod nothing;
mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use futures::{TryStreamExt, stream};
use tokio::sync::Semaphore;

use self::contents::Contents;
use super::super::{Caller, Engine};
use super::failure::{Failure, code};
use super::settings::Settings;
use super::statement::{Token, tokens};
use crate::query::{
    BoundedDialect, CATALOG, QueryLimits, Watch, aside, bound, check_plan, check_statement, limit_of,
    started, too_nested,
};

/// The schema of PostgreSQL's own tables, and the standard's.
const OWN: &str = "pg_catalog";
const STANDARD: &str = "information_schema";
/// How deep queries and brackets may be nested.
const DEPTH_MAX: usize = 50;
/// Memory of one query.
const MEMORY_BYTES: usize = 64 << 20;
/// Longest time of one query.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Most rows of an answer.
const ROWS_MAX: u64 = 1_000_000;
/// Queries of the catalog that run at the same time.
static PLACES: Semaphore = Semaphore::const_new(4);

/// A query of the catalog that was planned.
pub(super) struct Planned {
    schema: SchemaRef,
    names: Vec<String>,
    plan: Plan,
}

enum Plan {
    /// There is nothing to find.
    Nothing,
    Some(Box<(SessionState, LogicalPlan)>),
}

/// Plans `sql`, one statement, if it is about the catalog. `process` is the number of the connection, `settings` are its own.
pub(super) async fn plan(
    engine: &Engine,
    caller: &Caller,
    process: i32,
    settings: &Settings,
    sql: &str,
) -> Result<Option<Planned>, Failure> {
    if !may_be_about(sql) {
        return Ok(None);
    }
    let watch = Watch::start(&limits());
    let (engine, caller) = (engine.clone(), caller.clone());
    let (settings, sql) = (settings.all(), sql.to_owned());
    let planned = async move { Ok(plan_for(&engine, &caller, process, settings, &sql).await) };
    let _place = watch.within(PLACES.acquire()).await?;
    // How deep a statement is nested is known after it was parsed, which needs a stack for any depth.
    aside(&watch, planned).await?
}

async fn plan_for(
    engine: &Engine,
    caller: &Caller,
    process: i32,
    settings: BTreeMap<String, String>,
    sql: &str,
) -> Result<Option<Planned>, Failure> {
    let statement = match parse(sql) {
        Ok(statement) => statement,
        // The engine has a dialect of its own, and the last word on what it does not understand.
        Err(_) if !names_a_relation(sql) => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = Relations::of(&statement);
    if !found.is_about_the_catalog() {
        return Ok(None);
    }
    let tables = if found.is_none() && !sql.to_ascii_lowercase().contains("regclass") {
        Vec::new()
    } else {
        engine.tables(caller).await?
    };
    let contents = Contents::new(&caller.name, tables).in_session(process, settings);
    planned(statement, &contents).await.map(Some)
}

/// What one query of the catalog may cost. It is bounded as any other: there are few tables, and no bound to what can be asked of
/// them.
fn limits() -> QueryLimits {
    QueryLimits {
        time: Some(TIME_MAX),
        memory_bytes_max: MEMORY_BYTES as u64,
        spill_bytes_max: MEMORY_BYTES as u64,
        rows_max: ROWS_MAX,
        bytes_max: MEMORY_BYTES as u64,
        // Nothing tells of the machine here: what is said of versions and settings is made up.
        reveals: true,
        ..QueryLimits::served()
    }
}

async fn planned(mut statement: Statement, contents: &Contents) -> Result<Planned, Failure> {
    let Statement::Query(query) = &mut statement else {
        return Err(Failure::new(code::READ_ONLY, "the catalog can only be queried"));
    };
    if nothing::is_empty(query) {
        let names = nothing::names(query);
        let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        return Ok(Planned { schema: Arc::new(Schema::new(fields)), names, plan: Plan::Nothing });
    }
    rewrite::rewrite(query, contents)?;
    let state = session(contents, &Relations::of(&statement).own)?;
    let parsed = Parsed::Statement(Box::new(statement));
    // It is larger now.
    check_statement(&parsed, &limits())?;
    let plan = state.statement_to_plan(parsed).await.map_err(explained)?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan)?;
    check_plan(&plan, &limits())?;
    let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
    let names = schema.fields().iter().map(|field| rewrite::shown(field.name()).to_owned()).collect();
    Ok(Planned { schema, names, plan: Plan::Some(Box::new((state, plan))) })
}

/// What the planner does not understand, in a way that says whose limit it is.
fn explained(error: DataFusionError) -> Failure {
    let is_a_limit = limit_of(&error).is_some();
    let failure = Failure::from(error);
    if is_a_limit {
        return failure;
    }
    let message =
        format!("{}\nonly what psql, drivers and BI tools ask of the catalog is there", failure.message);
    Failure { message, ..failure }
}

impl Planned {
    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// What the client calls the columns.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// The placeholders and their types, as far as the query says them.
    pub(super) fn parameters(&self) -> Vec<(String, Option<DataType>)> {
        match &self.plan {
            Plan::Nothing => Vec::new(),
            Plan::Some(plan) => plan.1.get_parameter_types().unwrap_or_default().into_iter().collect(),
        }
    }

    /// All rows at once; there are not many.
    pub(super) async fn run(self, values: Vec<ScalarValue>) -> Result<SendableRecordBatchStream, Failure> {
        let batches = match self.plan {
            Plan::Nothing => {
                let columns = self.schema.fields().iter().map(|field| new_empty_array(field.data_type()));
                RecordBatch::try_new(self.schema.clone(), columns.collect()).into_iter().collect()
            }
            Plan::Some(plan) => {
                let (state, plan) = *plan;
                let limits = limits();
                let watch = Watch::start(&limits);
                let plan = if values.is_empty() {
                    plan
                } else {
                    let plan = plan.with_param_values(ParamValues::from(values))?;
                    check_plan(&plan, &limits)?;
                    plan
                };
                let _place = watch.within(PLACES.acquire()).await?;
                let (rows, _) = started(state, plan, &limits, watch).await?;
                rows.try_collect::<Vec<RecordBatch>>().await?
            }
        };
        let schema = batches.first().map_or_else(|| self.schema.clone(), RecordBatch::schema);
        let rows = stream::iter(batches.into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// The statement that `sql` is, if it asks for no more than may be asked.
fn parse(sql: &str) -> Result<Statement, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new(code::SYNTAX_ERROR, error.to_string());
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| wrong(&error))?;
    let dialect = BoundedDialect::of(PostgreSqlDialect {}, tokens.len());
    let parser = Parser::new(&dialect).with_recursion_limit(DEPTH_MAX);
    let parsed = parser.with_tokens_with_locations(tokens).parse_statements();
    if dialect.is_exhausted() {
        return Err(too_nested().into());
    }
    let mut statements = parsed.map_err(|error| wrong(&error))?;
    let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
        return Err(wrong(&"one statement is expected"));
    };
    let parsed = Parsed::Statement(Box::new(statement));
    // Before anything looks through it that does not expect any depth.
    check_statement(&parsed, &limits())?;
    match parsed {
        Parsed::Statement(statement) => Ok(*statement),
        _ => Err(wrong(&"a query is expected")),
    }
}

/// Whether some word of `sql` is one of the catalog's. Most queries are told apart here, without parsing them.
fn may_be_about(sql: &str) -> bool {
    let tokens = tokens(sql);
    tokens.iter().enumerate().any(|(at, (token, _))| match token {
        Token::Word(word) => {
            let word = word.to_ascii_lowercase();
            let is_call = matches!(tokens.get(at + 1), Some((Token::Sign('('), _)));
            word == OWN
                || word == STANDARD
                || contents::is_relation(&word)
                || is_call && functions::is_known(&word)
                || functions::is_variable(&word)
        }
        Token::Quoted(word) => *word == OWN || *word == STANDARD,
        _ => false,
    })
}

/// Whether some word of `sql` can only be the catalog's.
fn names_a_relation(sql: &str) -> bool {
    tokens(sql).iter().any(|(token, _)| match token {
        Token::Word(word) => {
            let word = word.to_ascii_lowercase();
            word == OWN || word == STANDARD || contents::is_relation(&word)
        }
        _ => false,
    })
}

/// The tables that a statement names.
#[derive(Default)]
struct Relations {
    /// In the catalog, by schema and name.
    own: BTreeSet<(&'static str, &'static str)>,
    /// Elsewhere.
    others: Vec<String>,
    /// Queries that the statement gives names to.
    named: Vec<String>,
}

impl Relations {
    fn of(statement: &Statement) -> Self {
        let mut relations = Self::default();
        let _ = statement.visit(&mut relations);
        let named = std::mem::take(&mut relations.named);
        relations.others.retain(|other| !named.contains(other));
        relations
    }

    fn is_none(&self) -> bool {
        self.own.is_empty() && self.others.is_empty()
    }

    fn is_about_the_catalog(&self) -> bool {
        self.others.is_empty()
    }
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.named.extend(named.map(|named| named.alias.name.value.to_ascii_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        match contents::relation_of(relation) {
            Some(own) => _ = self.own.insert(own),
            None => {
                // The functions that stand for tables are there everywhere.
                let name = rewrite::last(relation);
                if !matches!(name.as_str(), "generate_series" | "unnest" | "string_to_array") {
                    self.others.push(name);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A session with these tables of the catalog and nothing else.
fn session(
    contents: &Contents,
    relations: &BTreeSet<(&'static str, &'static str)>,
) -> Result<SessionState, Failure> {
    let catalog = MemoryCatalogProvider::new();
    for schema in [OWN, STANDARD] {
        let provider = MemorySchemaProvider::new();
        for (_, name) in relations.iter().filter(|(own, _)| *own == schema) {
            let Some(rows) = contents.relation((schema, *name))? else { continue };
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
            provider.register_table((*name).to_owned(), Arc::new(table))?;
        }
        catalog.register_schema(schema, Arc::new(provider))?;
    }
    // A list of catalogs of its own: that of the base is shared by all its clones.
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.0.to_owned(), Arc::new(catalog));
    let mut state =
        SessionStateBuilder::new_from_existing(BASE.clone()).with_catalog_list(Arc::new(catalogs)).build();
    for function in functions::all(contents) {
        state.register_udf(Arc::new(function))?;
    }
    Ok(state)
}

/// Functions and settings of all sessions; no tables.
static BASE: LazyLock<SessionState> = LazyLock::new(|| {
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG.0, OWN)
        .with_create_default_catalog_and_schema(false)
        .with_target_partitions(1);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY_BYTES, 1.0);
    let runtime = runtime.build_arc().expect("nothing is opened for it");
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    let session = SessionContext::new_with_state(state.with_default_features().build());
    bound(&session);
    session.state()
});
