//! What the messages of a client mean: statements, portals, transactions.

mod commands;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use pgwire::api::Type;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus};

use self::commands::columns_of;
use super::super::{Caller, Engine, PeerNames, Prepared, Protocol, Question, Refusal};
use super::catalog;
use super::failure::{Failure, Trouble, code};
use super::frontend::{Frontend, Target};
use super::parameters::{decode, null_of, type_with};
use super::rows::Rows;
use super::settings::Settings;
use super::statement::{Kind, Token, arrays, kind_of, name_of, parameters, split, tokens};
use super::types::{description, type_of};
use super::wire::Output;
use crate::query::TableVersion;

/// Most prepared statements of a session.
const STATEMENTS_MAX: usize = 1_000;
/// Most bytes of their texts.
const STATEMENTS_BYTES_MAX: usize = 4 << 20;
/// Most portals of a session.
const PORTALS_MAX: usize = 100;
/// Most bytes of the values in the portals of a session.
const VALUES_BYTES_MAX: usize = 16 << 20;
/// Most bytes of the name of a statement or portal.
const NAME_BYTES_MAX: usize = 1_000;

/// What shows who a client is. It may be valid for a limited time.
pub(super) struct Shown {
    pub(super) token: Option<String>,
    /// Those in its certificate.
    pub(super) names: PeerNames,
}

/// One client's.
pub(super) struct Session {
    engine: Engine,
    caller: Caller,
    shown: Shown,
    process: i32,
    settings: Settings,
    statements: HashMap<String, Arc<Statement>>,
    portals: HashMap<String, Portal>,
    transaction: Transaction,
    /// The plan of the statement that was prepared last, until the next command or `Sync`: most are run at once and then never
    /// again.
    fresh: Option<(Arc<Statement>, Prepared)>,
}

/// A statement that was prepared.
struct Statement {
    sql: String,
    /// `None`: it is empty.
    kind: Option<Kind>,
    /// Of the parameters.
    types: Vec<Type>,
    /// `None`: it gives no rows.
    columns: Option<Columns>,
}

/// Columns of an answer.
#[derive(Debug, Clone)]
struct Columns {
    schema: SchemaRef,
    /// What the client calls them.
    names: Vec<String>,
}

impl Columns {
    fn new(schema: SchemaRef) -> Self {
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Self { schema, names }
    }

    fn types(&self) -> Vec<Type> {
        self.schema.fields().iter().map(|field| type_of(field.data_type())).collect()
    }

    /// `binary` says of each column how it is sent.
    fn message(&self, binary: &[bool]) -> PgWireBackendMessage {
        let fields = self.schema.fields().iter().zip(&self.names).enumerate().map(|(at, (field, name))| {
            description(field, name, i16::from(binary.get(at).copied().unwrap_or(false)))
        });
        PgWireBackendMessage::RowDescription(RowDescription::new(fields.collect()))
    }
}

/// A statement with values.
struct Portal {
    statement: Arc<Statement>,
    values: Vec<ScalarValue>,
    /// Of the values, as they were sent.
    bytes: usize,
    binary: Vec<bool>,
    progress: Progress,
}

enum Progress {
    Ready,
    /// Some rows were sent.
    Suspended(Box<Rows>),
    Ended,
}

enum Transaction {
    None,
    Open(Open),
    /// After an error, nothing but its end is allowed.
    Failed(Open),
}

/// What a transaction holds on to.
#[derive(Default)]
struct Open {
    /// The versions at which tables were first seen.
    versions: BTreeMap<String, u64>,
    savepoints: Vec<String>,
    /// Those at its beginning, which come back if it is not committed.
    settings: Settings,
    /// What was set for the transaction only, with what was set before.
    local: BTreeMap<String, Option<String>>,
}

/// A query that runs.
struct Started {
    columns: Columns,
    stream: datafusion::execution::SendableRecordBatchStream,
    explain: fn(DataFusionError) -> Failure,
}

impl Session {
    pub(super) fn new(
        engine: Engine,
        caller: Caller,
        shown: Shown,
        process: i32,
        settings: Settings,
    ) -> Self {
        Self {
            engine,
            caller,
            shown,
            process,
            settings,
            statements: HashMap::new(),
            portals: HashMap::new(),
            transaction: Transaction::None,
            fresh: None,
        }
    }

    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        self.settings.statement_timeout()
    }

    pub(super) fn status(&self) -> TransactionStatus {
        match self.transaction {
            Transaction::None => TransactionStatus::Idle,
            Transaction::Open(_) => TransactionStatus::Transaction,
            Transaction::Failed(_) => TransactionStatus::Error,
        }
    }

    /// A message could not be answered.
    pub(super) fn failed(&mut self) {
        self.fresh = None;
        self.transaction = match std::mem::replace(&mut self.transaction, Transaction::None) {
            Transaction::Open(open) => Transaction::Failed(open),
            other => other,
        };
        // Nothing can be fetched from them any more, and their queries must not wait for the end.
        self.portals.clear();
    }

    /// Answers one message. If this is dropped on the way, the session can go on.
    pub(super) async fn answer(&mut self, message: Frontend, output: &mut Output) -> Result<(), Trouble> {
        if matches!(message, Frontend::Query(_) | Frontend::Parse { .. } | Frontend::Execute { .. }) {
            let Shown { token, names } = &self.shown;
            self.caller = self.engine.recognise(token.as_deref(), names)?;
        }
        match message {
            Frontend::Query(sql) => self.query(&sql, output).await,
            Frontend::Parse { statement, sql, types } => self.parse(statement, &sql, &types, output).await,
            Frontend::Bind { portal, statement, formats, values, result_formats } => {
                self.bind(portal, &statement, &formats, &values, &result_formats)?;
                output.put(&PgWireBackendMessage::BindComplete(BindComplete::new()));
                Ok(())
            }
            Frontend::Describe(target) => self.describe(&target, output),
            Frontend::Execute { portal, rows_max } => self.execute(&portal, rows_max, output).await,
            Frontend::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.statements.remove(&name)),
                    Target::Portal(name) => drop(self.portals.remove(&name)),
                }
                output.put(&PgWireBackendMessage::CloseComplete(CloseComplete::new()));
                Ok(())
            }
            Frontend::Flush => output.flush().await,
            Frontend::Sync => {
                self.fresh = None;
                self.ready(output).await
            }
            // What is left of a copy that was refused.
            Frontend::Copy | Frontend::Terminate => Ok(()),
            Frontend::Call => {
                Err(Failure::new(code::FEATURE_NOT_SUPPORTED, "calls of functions by number").into())
            }
            Frontend::Password(_) => Err(Failure::malformed("no password was asked for").into()),
        }
    }

    async fn ready(&mut self, output: &mut Output) -> Result<(), Trouble> {
        if matches!(self.transaction, Transaction::None) {
            // Each portal lives in a transaction, here in one of its own that ends now.
            self.portals.clear();
        }
        output.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(self.status())));
        output.flush().await
    }

    // ------------------------------------------------------------ at once

    /// Statements as text, answered as text.
    async fn query(&mut self, sql: &str, output: &mut Output) -> Result<(), Trouble> {
        self.check_length(sql)?;
        // As PostgreSQL does.
        self.statements.remove("");
        self.portals.remove("");
        let statements = split(sql);
        if statements.is_empty() {
            output.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
        }
        for sql in statements {
            let kind = kind_of(sql);
            self.allowed(&kind)?;
            if kind != Kind::Query {
                if let Some(columns) = columns_of(&kind) {
                    output.put(&columns.message(&[]));
                }
                self.command(&kind, output)?;
                continue;
            }
            if parameters(sql) > 0 {
                let message =
                    "there is no parameter $1: values for parameters come with a prepared statement";
                return Err(Failure::new(code::INDETERMINATE_TYPE, message).into());
            }
            let started = self.start(sql, Vec::new()).await?;
            output.put(&started.columns.message(&[]));
            let mut rows = Rows::new(started.stream, started.explain, Vec::new());
            let sent = rows.send(output, 0).await?;
            complete(output, &tag_of(sql, sent.rows));
        }
        self.ready(output).await
    }

    // ------------------------------------------------------------ prepared

    async fn parse(
        &mut self,
        name: String,
        sql: &str,
        types: &[u32],
        output: &mut Output,
    ) -> Result<(), Trouble> {
        check_name(&name)?;
        self.check_length(sql)?;
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Failure::new(code::DUPLICATE_STATEMENT, message).into());
        }
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(&name) {
            let message = format!("a session has at most {STATEMENTS_MAX} prepared statements: close some");
            return Err(Failure::new(code::CONFIGURED_LIMIT, message).into());
        }
        let others = self.statements.iter().filter(|(other, _)| **other != name);
        if others.map(|(_, statement)| statement.sql.len()).sum::<usize>() + sql.len() > STATEMENTS_BYTES_MAX
        {
            let message = format!(
                "the prepared statements of a session have at most {STATEMENTS_BYTES_MAX} bytes: close some"
            );
            return Err(Failure::new(code::CONFIGURED_LIMIT, message).into());
        }
        let declared = types.iter().map(|oid| type_with(*oid)).collect::<Result<Vec<_>, _>>()?;
        let statement = match split(sql).as_slice() {
            [] => (Statement { sql: String::new(), kind: None, types: Vec::new(), columns: None }, None),
            [sql] => {
                let kind = kind_of(sql);
                self.allowed(&kind)?;
                if kind == Kind::Query {
                    self.understand(sql, declared).await?
                } else {
                    let columns = columns_of(&kind);
                    let sql = (*sql).to_owned();
                    (Statement { sql, kind: Some(kind), types: Vec::new(), columns }, None)
                }
            }
            _ => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(Failure::new(code::SYNTAX_ERROR, message).into());
            }
        };
        let (statement, prepared) = statement;
        let statement = Arc::new(statement);
        self.fresh = prepared.map(|prepared| (statement.clone(), prepared));
        self.statements.insert(name, statement);
        output.put(&PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    /// What a query needs and gives, and its plan if that does not depend on values.
    async fn understand(
        &mut self,
        sql: &str,
        declared: Vec<Option<Type>>,
    ) -> Result<(Statement, Option<Prepared>), Failure> {
        let count = parameters(sql).max(declared.len());
        if count > usize::from(u16::MAX) {
            return Err(Failure::new(code::PROGRAM_LIMIT, "a statement has at most 65535 parameters"));
        }
        if let Some(planned) = self.of_catalog(sql).await? {
            let types = types_of(sql, count, declared, &planned.parameters());
            let columns = Columns { schema: planned.schema(), names: planned.names() };
            return Ok((statement(sql, types, columns), None));
        }
        let plain = self.question(sql, Vec::new());
        if count == 0 {
            let prepared = self.engine.prepare(&self.caller, plain).await?;
            self.pin(sql, prepared.versions());
            let columns = Columns::new(prepared.schema());
            return Ok((statement(sql, Vec::new(), columns), Some(prepared)));
        }
        let first = self.engine.explore(&self.caller, plain.clone()).await;
        let inferred = first.as_ref().map_or(&[][..], |first| first.parameters.as_slice());
        let types = types_of(sql, count, declared, inferred);
        // What the columns are may depend on the types of the values, which stand for themselves here without any.
        let nulls = types.iter().map(null_of).collect();
        let schema = match (self.engine.explore(&self.caller, self.question(sql, nulls)).await, first) {
            (Ok(explored), _) | (Err(_), Ok(explored)) => explored.schema,
            // Once more, as a question of the client's that is refused.
            (Err(_), Err(_)) => self.engine.prepare(&self.caller, plain).await?.schema(),
        };
        Ok((statement(sql, types, Columns::new(schema)), None))
    }

    fn bind(
        &mut self,
        portal: String,
        statement: &str,
        formats: &[i16],
        values: &[Option<Bytes>],
        result_formats: &[i16],
    ) -> Result<(), Failure> {
        let wrong = |message: String| Failure::new(code::PROTOCOL_VIOLATION, message);
        check_name(&portal)?;
        let statement = self.statement(statement)?.clone();
        let needed = statement.types.len();
        if values.len() != needed {
            return Err(wrong(format!(
                "bind message supplies {} parameters, but {needed} are required",
                values.len()
            )));
        }
        let binary = each(formats, needed).ok_or_else(|| {
            wrong(format!("bind message has {} parameter formats for {needed}", formats.len()))
        })?;
        let columns = statement.columns.as_ref().map_or(0, |columns| columns.names.len());
        let result_binary = each(result_formats, columns).ok_or_else(|| {
            wrong(format!("bind message has {} result formats for {columns}", result_formats.len()))
        })?;
        let bytes = values.iter().flatten().map(Bytes::len).sum::<usize>();
        let values = statement.types.iter().zip(values).zip(binary).enumerate();
        let values = values
            .map(|(at, ((data_type, value), is_binary))| decode(at + 1, data_type, is_binary, value.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if self.portals.len() >= PORTALS_MAX && !self.portals.contains_key(&portal) {
            let message = format!("a session has at most {PORTALS_MAX} portals: close some");
            return Err(Failure::new(code::CONFIGURED_LIMIT, message));
        }
        let others = self.portals.iter().filter(|(name, _)| **name != portal);
        if others.map(|(_, portal)| portal.bytes).sum::<usize>() + bytes > VALUES_BYTES_MAX {
            let message =
                format!("the portals of a session hold at most {VALUES_BYTES_MAX} bytes: close some");
            return Err(Failure::new(code::CONFIGURED_LIMIT, message));
        }
        let bound = Portal { statement, values, bytes, binary: result_binary, progress: Progress::Ready };
        self.portals.insert(portal, bound);
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<&Arc<Statement>, Failure> {
        self.statements.get(name).ok_or_else(|| {
            Failure::new(code::NO_STATEMENT, format!("prepared statement \"{name}\" does not exist"))
        })
    }

    fn describe(&self, target: &Target, output: &mut Output) -> Result<(), Trouble> {
        let (columns, binary) = match target {
            Target::Statement(name) => {
                let statement = self.statement(name)?;
                let types = statement.types.iter().map(Type::oid).collect();
                output.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(types)));
                (&statement.columns, &[][..])
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.statement.columns, &portal.binary[..])
            }
        };
        output.put(&match columns {
            Some(columns) => columns.message(binary),
            None => PgWireBackendMessage::NoData(NoData::new()),
        });
        Ok(())
    }

    async fn execute(&mut self, name: &str, rows_max: usize, output: &mut Output) -> Result<(), Trouble> {
        // If it is cancelled on the way, it is gone.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let statement = portal.statement.clone();
        let Some(kind) = &statement.kind else {
            output.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
            self.portals.insert(name.to_owned(), portal);
            return Ok(());
        };
        self.allowed(kind)?;
        if *kind != Kind::Query {
            self.command(kind, output)?;
            if !matches!(self.transaction, Transaction::None) {
                portal.progress = Progress::Ended;
                self.portals.insert(name.to_owned(), portal);
            }
            return Ok(());
        }
        let mut rows = match portal.progress {
            Progress::Ready => Box::new(self.start_portal(&statement, &portal.values, &portal.binary).await?),
            Progress::Suspended(rows) => rows,
            Progress::Ended => {
                complete(output, &tag_of(&statement.sql, 0));
                self.portals.insert(name.to_owned(), portal);
                return Ok(());
            }
        };
        let sent = rows.send(output, rows_max).await?;
        if sent.is_end {
            complete(output, &tag_of(&statement.sql, sent.rows));
            portal.progress = Progress::Ended;
        } else {
            output.put(&PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
            portal.progress = Progress::Suspended(rows);
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    async fn start_portal(
        &mut self,
        statement: &Arc<Statement>,
        values: &[ScalarValue],
        binary: &[bool],
    ) -> Result<Rows, Failure> {
        let started = match self.fresh.take() {
            Some((fresh, prepared)) if Arc::ptr_eq(&fresh, statement) => run(prepared).await?,
            _ => self.start(&statement.sql, values.to_vec()).await?,
        };
        let described = statement.columns.as_ref().map(Columns::types).unwrap_or_default();
        if started.columns.types() != described {
            // The table has other columns by now, and the client would misread them.
            let message = "cached plan must not change result type: the columns have changed since the statement was prepared";
            return Err(Failure::new(code::FEATURE_NOT_SUPPORTED, message));
        }
        Ok(Rows::new(started.stream, started.explain, binary.to_vec()))
    }

    // ------------------------------------------------------------ queries

    /// Runs a query, with values for its parameters.
    async fn start(&mut self, sql: &str, values: Vec<ScalarValue>) -> Result<Started, Failure> {
        if let Some(planned) = self.of_catalog(sql).await? {
            let columns = Columns { schema: planned.schema(), names: planned.names() };
            let stream = planned.run(values).await?;
            return Ok(Started { columns, stream, explain: Failure::from });
        }
        let prepared = self.engine.prepare(&self.caller, self.question(sql, values)).await?;
        self.pin(sql, prepared.versions());
        run(prepared).await
    }

    fn question(&self, sql: &str, values: Vec<ScalarValue>) -> Question {
        let versions = match &self.transaction {
            Transaction::Open(open) => open.versions.clone(),
            _ => BTreeMap::new(),
        };
        let parameters = (!values.is_empty()).then(|| ParamValues::from(values));
        Question {
            sql: sql.to_owned(),
            parameters,
            versions,
            protocol: Protocol::Postgres,
            ..Question::default()
        }
    }

    /// Keeps the versions that a query reads for the rest of the transaction, but not those that it names itself.
    fn pin(&mut self, sql: &str, versions: &[TableVersion]) {
        let Transaction::Open(open) = &mut self.transaction else { return };
        let named = named_with_a_version(sql);
        let mut newest: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for version in versions {
            let (newest, count) = newest.entry(&version.table).or_default();
            *newest = version.version.max(*newest);
            *count += 1;
        }
        for (table, (version, count)) in newest {
            let is_named = named.iter().any(|name| *name == table || *name == table.replace('.', "_"));
            // Of two, the one that was not named is the newest.
            if !is_named || count > 1 {
                open.versions.entry(table.to_owned()).or_insert(version);
            }
        }
    }

    /// The engine says the same of queries; this is for what does not reach it.
    fn check_length(&self, sql: &str) -> Result<(), Failure> {
        let bytes_max = self.caller.limits().sql_bytes;
        if sql.len() as u64 <= bytes_max {
            return Ok(());
        }
        Err(Failure::new(code::PROGRAM_LIMIT, format!("the text of a query has at most {bytes_max} bytes")))
    }

    /// The plan of a query that is about the catalog. Borrowed as what one thread has: the rows of portals are not for several.
    async fn of_catalog(&mut self, sql: &str) -> Result<Option<catalog::Planned>, Failure> {
        catalog::plan(&self.engine, &self.caller, self.process, &self.settings, sql).await
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(code::PROGRAM_LIMIT, format!("a name has at most {NAME_BYTES_MAX} bytes")))
}

fn statement(sql: &str, types: Vec<Type>, columns: Columns) -> Statement {
    Statement { sql: sql.to_owned(), kind: Some(Kind::Query), types, columns: Some(columns) }
}

/// Starts what was planned.
async fn run(prepared: Prepared) -> Result<Started, Failure> {
    let columns = Columns::new(prepared.schema());
    let (stream, _) = prepared.run(None).await?.into_parts();
    Ok(Started { columns, stream, explain: |error| Refusal::from(error).into() })
}

/// The types of `count` parameters: as the client says, otherwise as the query says, otherwise texts.
fn types_of(
    sql: &str,
    count: usize,
    declared: Vec<Option<Type>>,
    inferred: &[(String, Option<DataType>)],
) -> Vec<Type> {
    let inferred = |number: usize| {
        let name = format!("${number}");
        let (_, data_type) = inferred.iter().find(|(parameter, _)| *parameter == name)?;
        // What would be JSON is given as text.
        data_type.as_ref().map(type_of).filter(|data_type| *data_type != Type::JSON)
    };
    let arrays = arrays(sql);
    let otherwise = |number| if arrays.contains(&number) { Type::TEXT_ARRAY } else { Type::TEXT };
    let mut declared = declared.into_iter();
    (1..=count)
        .map(|number| {
            declared.next().flatten().or_else(|| inferred(number)).unwrap_or_else(|| otherwise(number))
        })
        .collect()
}

/// Whether each of `count` values is binary; `None` if there are neither none, nor one, nor so many formats.
fn each(formats: &[i16], count: usize) -> Option<Vec<bool>> {
    match formats {
        [] => Some(vec![false; count]),
        [all] => Some(vec![*all == 1; count]),
        formats if formats.len() == count => Some(formats.iter().map(|format| *format == 1).collect()),
        _ => None,
    }
}

/// The names that stand before `VERSION AS OF` or one of its forms.
fn named_with_a_version(sql: &str) -> Vec<String> {
    let tokens: Vec<Token<'_>> = tokens(sql).into_iter().map(|(token, _)| token).collect();
    let is = |at: usize, words: &[&str]| matches!(tokens.get(at), Some(Token::Word(word)) if words.iter().any(|known| word.eq_ignore_ascii_case(known)));
    let kinds = ["VERSION", "SYSTEM_VERSION", "TIMESTAMP", "SYSTEM_TIME"];
    let begins = (1..tokens.len()).filter(|at| is(*at, &kinds) && is(at + 1, &["AS"]) && is(at + 2, &["OF"]));
    let name = |at: usize| {
        let at = if is(at - 1, &["FOR"]) { at.checked_sub(2)? } else { at - 1 };
        name_of(tokens.get(at..=at)?)
    };
    begins.filter_map(name).collect()
}

fn tag_of(sql: &str, rows: usize) -> String {
    match tokens(sql).first() {
        Some((Token::Word(word), _)) if word.eq_ignore_ascii_case("explain") => "EXPLAIN".to_owned(),
        _ => format!("SELECT {rows}"),
    }
}

fn complete(output: &mut Output, tag: &str) {
    output.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.to_owned())));
}

fn no_portal(name: &str) -> Failure {
    Failure::new(code::NO_PORTAL, format!("portal \"{name}\" does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_named_with_a_version_are_found() {
        let sql = "SELECT 1 FROM a VERSION AS OF 3 JOIN \"B.c\" FOR TIMESTAMP AS OF '2026-01-01' AS x \
                   JOIN isobar.datasets.D SYSTEM_VERSION AS OF 1 JOIN e JOIN f AS version";
        assert_eq!(named_with_a_version(sql), ["a", "B.c", "d"]);
        // A table of this name would not be kept; nobody has one.
        assert_eq!(named_with_a_version("SELECT version AS of FROM a"), ["select"]);
        for plain in ["SELECT 'a VERSION AS OF 1'", "VERSION AS OF 1", ""] {
            assert!(named_with_a_version(plain).is_empty(), "{plain}");
        }
    }

    #[test]
    fn formats_are_none_one_or_all() {
        assert_eq!(each(&[], 2), Some(vec![false, false]));
        assert_eq!(each(&[1], 2), Some(vec![true, true]));
        assert_eq!(each(&[0, 1], 2), Some(vec![false, true]));
        assert_eq!(each(&[0, 1], 3), None);
        assert_eq!(each(&[1], 0), Some(vec![]));
    }

    #[test]
    fn parameters_have_the_type_that_is_known_best() {
        let inferred = [
            ("$1".to_owned(), Some(DataType::Int32)),
            ("$2".to_owned(), None),
            ("$3".to_owned(), Some(DataType::Int32)),
        ];
        let sql = "SELECT $1, $2, $3, $4 = ANY ($5)";
        let types = types_of(sql, 5, vec![None, None, Some(Type::FLOAT8)], &inferred);
        assert_eq!(types, [Type::INT4, Type::TEXT, Type::FLOAT8, Type::TEXT, Type::TEXT_ARRAY]);
    }
}
