//! From text to a plan that only reads.
//!
//! **Versions.** A table in `FROM` or `JOIN` may name one, in any of these ways; the time is in UTC where it names no zone:
//!
//! ```text
//! flights VERSION AS OF 42                flights FOR VERSION AS OF 42             SYSTEM_VERSION
//! flights TIMESTAMP AS OF '2013-07-01'    flights FOR TIMESTAMP AS OF '…'          SYSTEM_TIME
//! ```
//!
//! The session's dialect knows none of them, and DataFusion passes over what other dialects make of them: it would read the
//! newest version. So the tokens of a clause are replaced, before the one and only parser sees them, by what only a table's
//! name can have behind it, arguments, with a name that nobody can write ([`MARK`]). A clause that stands elsewhere is then a
//! syntax error, or found when the marks in the statement are counted. [`Pins`] plans the tables that have one, and refuses
//! whatever else of a table DataFusion would pass over.
//!
//! **Anything but a query** is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::{TableReference, not_impl_err, plan_datafusion_err, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Query, Statement as SqlStatement, TableFactor, TableFunctionArgs,
    Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::history::Pin;
use super::limits::{self, BoundedDialect, QueryLimits};
use super::names::PinnedTable;
use super::{TableVersion, asof};

/// What the names of marks begin with. It cannot be typed, and a query that holds it is refused.
const MARK: char = '\u{1}';
/// A number follows.
const VERSION: &str = "\u{1}version";
/// A time follows.
const TIMESTAMP: &str = "\u{1}timestamp";

/// Most versions that one query names: each of them is a list of files in memory.
const PINS_MAX: usize = 100;

/// One statement, and the tables that it names.
pub(super) struct Parsed {
    statement: Statement,
    /// Tables that it names with a version.
    pub(super) pinned: BTreeSet<(TableReference, Pin)>,
    /// Tables that it names without one; `None` if it asks what tables there are.
    pub(super) newest: Option<BTreeSet<TableReference>>,
}

/// Parses `sql`, which must be one statement that asks for no more than `limits` allow.
pub(super) fn parse(state: &SessionState, sql: &str, limits: &QueryLimits) -> Result<Parsed> {
    if sql.contains(MARK) {
        return plan_err!("the query holds a control character");
    }
    let options = &state.config().options().sql_parser;
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| plan_datafusion_err!("{error}"))?;
    let names_a_version = looks_like_a_clause(&tokens);
    let (tokens, clauses) = mark(&tokens);
    let dialect = BoundedDialect::new(tokens.len());
    let parser = DFParserBuilder::new(tokens).with_dialect(&dialect);
    let parsed = parser.with_recursion_limit(options.recursion_limit.get()).build();
    let parsed = parsed.and_then(|mut parser| parser.parse_statements());
    if dialect.is_exhausted() {
        return Err(limits::too_nested());
    }
    let mut statements = parsed.map_err(|error| explain(error, names_a_version))?;
    if statements.len() > 1 {
        return not_impl_err!("only a single statement at a time");
    }
    let mut statement =
        statements.pop_front().ok_or_else(|| plan_datafusion_err!("No SQL: the query is empty"))?;
    // Before anything looks through it that does not expect any depth.
    limits::check_statement(&statement, limits)?;
    // The tables that it names in its own ways are seen below.
    asof::rewrite(&mut statement)?;
    // Tables in the arguments of functions are queries now, and count as what is behind them.
    limits::check_statement(&statement, limits)?;

    let mut collected = Collect::new(options.enable_ident_normalization);
    collected.statement(&statement)?;
    // Display writes everything that there is, wherever it stands.
    let marks = if clauses > 0 { statement.to_string().matches(MARK).count() } else { 0 };
    if marks != collected.marks || marks != clauses {
        return plan_err!("a version can be asked of a table only, behind its name in FROM or JOIN");
    }
    if collected.pinned.len() > PINS_MAX {
        return Err(limits::exceeded(
            "versions",
            format!("the query names {} versions, more than {PINS_MAX}", collected.pinned.len()),
        ));
    }
    let newest = match asks_for_tables(&statement) {
        true => None,
        false => newest(&state.resolve_table_references(&statement)?, &collected),
    };
    Ok(Parsed { statement, pinned: collected.pinned, newest })
}

/// Plans what was parsed, with the snapshots for its versions.
pub(super) async fn plan(state: &mut SessionState, parsed: Parsed, pins: Pins) -> Result<LogicalPlan> {
    state.register_relation_planner(Arc::new(pins))?;
    let plan = state.statement_to_plan(parsed.statement).await?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let verified = read_only.verify_plan(&plan);
    verified.map_err(|error| {
        plan_datafusion_err!("only queries are allowed here: {}", error.strip_backtrace())
    })?;
    Ok(plan)
}

/// Whether a statement is about the tables rather than their rows.
fn asks_for_tables(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => !matches!(**statement, SqlStatement::Query(_)),
        Statement::Explain(explain) => asks_for_tables(&explain.statement),
        // None of these passes the check of the plan.
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => true,
    }
}

/// The references that are not, or not only, to a version; `None` if one of them lists the tables.
fn newest(references: &[TableReference], collected: &Collect) -> Option<BTreeSet<TableReference>> {
    let is_pinned =
        |reference: &TableReference| collected.pinned.iter().any(|(pinned, _)| pinned == reference);
    let is_needed =
        |reference: &&TableReference| !is_pinned(reference) || collected.plain.contains(*reference);
    if references.iter().any(|reference| reference.schema() == Some("information_schema")) {
        return None;
    }
    Some(references.iter().filter(is_needed).cloned().collect())
}

/// A syntax error, without marks, and with what a clause looks like if there seems to be one.
fn explain(error: DataFusionError, names_a_version: bool) -> DataFusionError {
    if !names_a_version {
        return error;
    }
    plan_datafusion_err!(
        "{}\na version stands behind the name of a table, before its alias: `VERSION AS OF 42`, or \
         `TIMESTAMP AS OF '2026-05-01T00:00:00Z'`",
        error.strip_backtrace().replace(MARK, "")
    )
}

/// Whether there is the heart of a clause among tokens, whatever follows.
fn looks_like_a_clause(tokens: &[TokenWithSpan]) -> bool {
    let words: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_blank(token)).collect();
    let is_heart = |words: &[&TokenWithSpan]| {
        kind_of(words[0]).is_some() && is_word(words[1], "AS") && is_word(words[2], "OF")
    };
    words.windows(3).any(is_heart)
}

fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

fn is_word(token: &TokenWithSpan, text: &str) -> bool {
    matches!(&token.token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(text))
}

/// The mark for the first word of a clause.
fn kind_of(token: &TokenWithSpan) -> Option<&'static str> {
    let is = |word: &&str| is_word(token, word);
    if ["VERSION", "SYSTEM_VERSION"].iter().any(is) {
        return Some(VERSION);
    }
    ["TIMESTAMP", "SYSTEM_TIME"].iter().any(is).then_some(TIMESTAMP)
}

/// Replaces every clause by `("<mark>" => '<value>')`, and says how many there were. Behind `VERSION AS OF` a value makes it one:
/// without, it may be a column with the alias `of`.
fn mark(tokens: &[TokenWithSpan]) -> (Vec<TokenWithSpan>, usize) {
    let words: Vec<usize> = (0..tokens.len()).filter(|at| !is_blank(&tokens[*at])).collect();
    let mut marked = Vec::with_capacity(tokens.len());
    let (mut next, mut clauses) = (0, 0);
    for (at, word) in words.iter().enumerate() {
        if *word < next {
            continue;
        }
        let rest: Vec<&TokenWithSpan> = words[at..].iter().take(6).map(|at| &tokens[*at]).collect();
        let Some((kind, value, length)) = clause(&rest) else { continue };
        marked.extend_from_slice(&tokens[next..*word]);
        let span = tokens[*word].span;
        let name = Word { value: kind.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
        let arguments = [
            Token::LParen,
            Token::Word(name),
            Token::RArrow,
            Token::SingleQuotedString(value),
            Token::RParen,
        ];
        marked.extend(arguments.map(|token| TokenWithSpan::new(token, span)));
        next = words[at + length - 1] + 1;
        clauses += 1;
    }
    marked.extend_from_slice(&tokens[next..]);
    (marked, clauses)
}

/// The mark and the value of the clause that these tokens begin with, and of how many of them it is.
fn clause(tokens: &[&TokenWithSpan]) -> Option<(&'static str, String, usize)> {
    let begin = usize::from(is_word(tokens.first()?, "FOR"));
    let [kind, as_, of, rest @ ..] = tokens.get(begin..)? else { return None };
    let kind = kind_of(kind)?;
    if !is_word(as_, "AS") || !is_word(of, "OF") {
        return None;
    }
    // `TIMESTAMP AS OF TIMESTAMP '…'`.
    let has_type = rest.len() > 1 && (is_word(rest[0], "TIMESTAMP") || is_word(rest[0], "DATE"));
    let value = match &rest.get(usize::from(has_type))?.token {
        Token::SingleQuotedString(value) => value.clone(),
        number @ Token::Number(..) if !has_type => number.to_string(),
        _ => return None,
    };
    Some((kind, value, begin + 4 + usize::from(has_type)))
}

/// The version that a mark stands for.
fn pin(mark: &str, value: &str) -> Result<Pin> {
    if mark == VERSION {
        let version = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
        return version.and_then(|version| version.parse().ok()).map(Pin::Version).ok_or_else(|| {
            plan_datafusion_err!("`VERSION AS OF {value}`: a version is a whole number, such as 42")
        });
    }
    time_ms(value).map(Pin::Time).ok_or_else(|| {
        plan_datafusion_err!(
            "`TIMESTAMP AS OF {value}`: write the time in quotes, such as '2026-05-01T00:00:00Z' or '2026-05-01'"
        )
    })
}

/// Milliseconds since the Unix epoch: of a time with a zone, of one in UTC, or of the beginning of a day in UTC.
pub(crate) fn time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let text = match text.split_once(' ') {
        Some((date, time)) if date.len() == 10 => format!("{date}T{}", time.trim_start()),
        _ => text.to_owned(),
    };
    let zoned = || DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_millis());
    let plain = || NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").ok();
    let short = || NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M").ok();
    let day = || NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let utc = || plain().or_else(short).or_else(day).map(|time| time.and_utc().timestamp_millis());
    zoned().or_else(utc)
}

/// Mark and value behind the name of a table.
fn marked(arguments: &TableFunctionArgs) -> Option<(&str, &str)> {
    let [FunctionArg::Named { name, arg: FunctionArgExpr::Expr(Expr::Value(value)), .. }] =
        arguments.args.as_slice()
    else {
        return None;
    };
    match &value.value {
        Value::SingleQuotedString(text) if name.value.starts_with(MARK) => Some((&name.value, text)),
        _ => None,
    }
}

/// Finds the tables of a statement.
struct Collect {
    normalize: bool,
    /// The queries around, outermost first.
    scopes: Vec<Scope>,
    pinned: BTreeSet<(TableReference, Pin)>,
    plain: BTreeSet<TableReference>,
    marks: usize,
}

/// The names that a query gives to others by `WITH`.
struct Scope {
    names: Vec<TableReference>,
    is_recursive: bool,
    /// How many of the named queries are behind; the next one is about to be visited, or is being.
    done: usize,
}

impl Scope {
    fn names_in_force(&self) -> &[TableReference] {
        let known = if self.is_recursive { self.done + 1 } else { self.done };
        &self.names[..known.min(self.names.len())]
    }
}

impl Collect {
    fn new(normalize: bool) -> Self {
        Self { normalize, scopes: Vec::new(), pinned: BTreeSet::new(), plain: BTreeSet::new(), marks: 0 }
    }

    fn statement(&mut self, statement: &Statement) -> Result<()> {
        match statement {
            Statement::Statement(statement) => match statement.as_ref().visit(self) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(error) => Err(error),
            },
            Statement::Explain(explain) => self.statement(&explain.statement),
            Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => Ok(()),
        }
    }

    fn table(&mut self, table: &TableFactor) -> Result<()> {
        let TableFactor::Table { name, args, version, .. } = table else { return Ok(()) };
        if let Some(version) = version {
            return plan_err!("`{version}` is no way to ask for a version");
        }
        let mark = args.as_ref().and_then(marked);
        if args.is_some() && mark.is_none() {
            return Ok(());
        }
        let reference = object_name_to_table_reference(name.clone(), self.normalize)?;
        let is_named_here = self.scopes.iter().any(|scope| scope.names_in_force().contains(&reference));
        let Some((mark, value)) = mark else {
            self.plain.extend((!is_named_here).then_some(reference));
            return Ok(());
        };
        if is_named_here {
            return plan_err!("{reference} is the name of a query here, which has no versions");
        }
        self.marks += 1;
        self.pinned.insert((reference, pin(mark, value)?));
        Ok(())
    }
}

impl Visitor for Collect {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<DataFusionError> {
        let mut scope = Scope { names: Vec::new(), is_recursive: false, done: 0 };
        if let Some(with) = &query.with {
            scope.is_recursive = with.recursive;
            for named in &with.cte_tables {
                match object_name_to_table_reference(vec![named.alias.name.clone()].into(), self.normalize) {
                    Ok(name) => scope.names.push(name),
                    Err(error) => return ControlFlow::Break(error),
                }
            }
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<DataFusionError> {
        self.scopes.pop();
        // The queries after WITH are visited before all others in the same query.
        if let Some(around) = self.scopes.last_mut() {
            around.done += usize::from(around.done < around.names.len());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<DataFusionError> {
        match self.table(table) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// The snapshots for the versions of one query; plans the tables that have one.
#[derive(Debug, Default)]
pub(super) struct Pins(BTreeMap<(TableReference, Pin), PinnedTable>);

impl Pins {
    /// `table` is what `pin` of `reference` means.
    pub(super) fn insert(&mut self, reference: TableReference, pin: Pin, table: PinnedTable) {
        self.0.insert((reference, pin), table);
    }
}

impl RelationPlanner for Pins {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        if let TableFactor::Derived { sample: Some(_), .. } = &relation {
            return not_impl_err!("`{relation}`: only an alias can stand behind a query");
        }
        let TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } = &relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if let Some(version) = version {
            return plan_err!("`{version}` has not become a snapshot");
        }
        // The planner would pass over these without a word.
        let is_plain = with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
        if !is_plain || *with_ordinality || json_path.is_some() || sample.is_some() {
            return not_impl_err!("`{relation}`: only an alias can stand behind a table");
        }
        let Some((mark, value)) = args.as_ref().and_then(marked) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let reference = context.object_name_to_table_reference(name.clone())?;
        let Some(table) = self.0.get(&(reference.clone(), pin(mark, value)?)) else {
            return plan_err!("a version of {reference} has not become a snapshot");
        };
        // Plans are compared by the names of the tables that they scan, so that each version must have its own.
        let TableVersion { table: name, version, .. } = &table.version;
        let scanned = TableReference::bare(format!("{name} VERSION AS OF {version}"));
        let scan = LogicalPlanBuilder::scan(scanned, provider_as_source(table.provider.clone()), None)?;
        let plan = if alias.is_some() { scan } else { scan.alias(reference)? }.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

#[cfg(test)]
mod tests;
