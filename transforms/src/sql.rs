//! The SQL that a stream can run, and nothing else.
//!
//! A query is one `SELECT` over one table, the source, with subqueries in `FROM` and plain `WITH`: projection and
//! filter, so that a row depends on its own record only. Everything else is refused with a reason, twice over: first
//! in the syntax tree, because DataFusion silently ignores parts of it (`VERSION AS OF`, `TABLESAMPLE`, `FOR UPDATE`),
//! then in the plan, because functions show only there what they are. Both lists name what is allowed; what a new
//! version of either library adds is refused until somebody looks at it.
//!
//! The session knows the source, and functions. It has no other tables, no files, no settings to change.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{SessionStateDefaults, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, Volatility};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    self, GroupByExpr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, Spanned, TableFactor,
    TableWithJoins, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use isobar_schemas::MetadataColumn;

use crate::error::{Error, Location};
use crate::headers::header_function;
use crate::query::block_on;
use crate::scan::{ChunkSlot, SourceTable};

const ONE_RECORD: &str =
    "records are transformed one by one as they come, so a row can depend on its own record only";
const ONE_TABLE: &str = "a query reads one table, the source, and that without arguments or modifiers";
const ONE_QUERY: &str = "a transform is one SELECT over the source";
const REPLAY: &str = "the same records must always give the same rows, also when they are read again later; \
                      the time of a record is in `_timestamp`";
const NO_MEANING: &str = "it has no meaning for a stream";

/// Plans SQL against one source.
#[derive(Debug)]
pub(crate) struct SqlSession {
    state: SessionState,
    source_name: String,
    source: Arc<SourceTable>,
    /// The source's columns, which checks can use with or without the source's name before them.
    columns: DFSchema,
    /// Names of the functions that were given.
    functions: Vec<String>,
}

impl SqlSession {
    /// A session whose only table is `source_name` with the columns `schema`.
    pub(crate) fn new(source_name: &str, schema: SchemaRef) -> Result<Self, Error> {
        Self::with_functions(source_name, schema, &[])
    }

    /// The same, with further functions.
    pub(crate) fn with_functions(
        source_name: &str,
        schema: SchemaRef,
        functions: &[Arc<ScalarUDF>],
    ) -> Result<Self, Error> {
        // Everything that the plan depends on is fixed here and not left to the machine.
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(8192)
            .with_information_schema(false)
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let mut scalar_functions = SessionStateDefaults::default_scalar_functions();
        scalar_functions.push(Arc::new(header_function()));
        scalar_functions.extend_from_slice(functions);
        // Aggregate and window functions are known so that they can be refused for what they are.
        let state = SessionStateBuilder::new()
            .with_session_id("isobar".to_owned())
            .with_config(config)
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(scalar_functions)
            .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .build();
        let table = TableReference::bare(source_name);
        let columns =
            DFSchema::try_from_qualified_schema(table.clone(), &schema).map_err(Error::execution)?;
        let source = Arc::new(SourceTable::new(schema));
        state
            .schema_for_ref(table)
            .and_then(|schema| schema.register_table(source_name.to_owned(), Arc::clone(&source) as _))
            .map_err(Error::execution)?;
        let functions = functions.iter().map(|function| function.name().to_owned()).collect();
        Ok(Self { state, source_name: source_name.to_owned(), source, columns, functions })
    }

    pub(crate) fn state(&self) -> &SessionState {
        &self.state
    }

    /// The state to optimise `plan` with. DataFusion would move the fields of a struct to where the struct is made, and call the
    /// function that makes it once for each: a function that was given is called once for all.
    pub(crate) fn state_for(&self, plan: &LogicalPlan) -> Result<Cow<'_, SessionState>, Error> {
        if !self.calls_given(plan).map_err(Error::invalid_sql)? {
            return Ok(Cow::Borrowed(&self.state));
        }
        let mut state = self.state.clone();
        state.config_mut().options_mut().optimizer.enable_leaf_expression_pushdown = false;
        Ok(Cow::Owned(state))
    }

    /// Whether `plan` calls one of the functions that were given.
    fn calls_given(&self, plan: &LogicalPlan) -> datafusion::error::Result<bool> {
        let is_given = |part: &Expr| match part {
            Expr::ScalarFunction(function) => self.functions.iter().any(|name| name == function.name()),
            _ => false,
        };
        let calls = |expression: &Expr| expression.exists(|part| Ok(is_given(part)));
        let mut found = false;
        plan.apply(|node| {
            for expression in node.expressions() {
                found |= calls(&expression)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }

    pub(crate) fn slot(&self) -> &Arc<ChunkSlot> {
        self.source.slot()
    }

    pub(crate) fn task_context(&self) -> Arc<TaskContext> {
        self.state.task_ctx()
    }

    /// The plan of `sql`, not yet optimised, once it is known to be possible.
    pub(crate) fn plan(&self, sql: &str) -> Result<LogicalPlan, Error> {
        let mut query = parse_query(sql)?;
        Confinement { source_name: &self.source_name, names: Vec::new() }.query(&mut query)?;
        let statement = Statement::Statement(Box::new(ast::Statement::Query(query)));
        let plan = block_on(self.state.statement_to_plan(statement)).map_err(Error::invalid_sql)?;
        check_plan(&plan)?;
        Ok(plan)
    }

    /// The condition `sql` over the columns of the source.
    pub(crate) fn condition(&self, sql: &str) -> Result<Expr, Error> {
        let condition = self.state.create_logical_expr(sql, &self.columns).map_err(Error::invalid_sql)?;
        check_expression(&condition)?;
        Ok(condition)
    }
}

/// Parses `sql` as one query.
fn parse_query(sql: &str) -> Result<Box<Query>, Error> {
    let statements = DFParserBuilder::new(sql)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(Error::invalid_sql)?;
    let count = statements.len();
    let mut statements = statements.into_iter();
    match (statements.next(), count) {
        (Some(Statement::Statement(statement)), 1) => match *statement {
            ast::Statement::Query(query) => Ok(query),
            other => Err(refuse(keyword_of(&other.to_string()), ONE_QUERY, other.span())),
        },
        (Some(other), 1) => Err(refuse(keyword_of(&other.to_string()), ONE_QUERY, Span::empty())),
        (Some(_), _) => Err(refuse(format!("a text of {count} statements"), ONE_QUERY, Span::empty())),
        (None, _) => Err(refuse("an empty text", ONE_QUERY, Span::empty())),
    }
}

/// The word a statement begins with.
fn keyword_of(statement: &str) -> String {
    statement.split_whitespace().next().unwrap_or_default().to_uppercase()
}

#[cold]
fn refuse(what: impl Into<String>, why: &'static str, span: Span) -> Error {
    Error::Refused { location: Location::known(span.start), what: what.into(), why }
}

/// Refuses the first of `parts` that is there.
fn refuse_any(parts: &[(bool, &str, &'static str)], span: Span) -> Result<(), Error> {
    match parts.iter().find(|(is_there, ..)| *is_there) {
        Some((_, what, why)) => Err(refuse(*what, why, span)),
        None => Ok(()),
    }
}

/// Checks a syntax tree, and hides the metadata columns from `*`: who wants them names them.
struct Confinement<'a> {
    source_name: &'a str,
    /// The names that `WITH` has given so far.
    names: Vec<String>,
}

impl Confinement<'_> {
    fn query(&mut self, query: &mut Query) -> Result<(), Error> {
        let span = query.span();
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        const ORDER: &str = "rows stay in the order of their records";
        if let Some(order_by) = order_by {
            return Err(refuse("ORDER BY", ORDER, order_by.span()));
        }
        refuse_any(
            &[
                (limit_clause.is_some(), "LIMIT or OFFSET", ONE_RECORD),
                (fetch.is_some(), "FETCH", ONE_RECORD),
                (!locks.is_empty(), "FOR UPDATE or FOR SHARE", NO_MEANING),
                (for_clause.is_some(), "FOR", NO_MEANING),
                (settings.is_some(), "SETTINGS", NO_MEANING),
                (format_clause.is_some(), "FORMAT", NO_MEANING),
                (!pipe_operators.is_empty(), "the pipe operator |>", "write the query with SELECT and WHERE"),
            ],
            span,
        )?;
        let names_outside = self.names.len();
        if let Some(with) = with {
            refuse_any(&[(with.recursive, "WITH RECURSIVE", ONE_RECORD)], span)?;
            for cte in &mut with.cte_tables {
                self.query(&mut cte.query)?;
                let name = normalized(&cte.alias.name);
                if name == self.source_name {
                    return Err(refuse(
                        format!("WITH {name}"),
                        "it is the name of the source",
                        cte.alias.name.span,
                    ));
                }
                self.names.push(name);
            }
        }
        match body.as_mut() {
            SetExpr::Select(select) => self.select(select)?,
            SetExpr::Query(query) => self.query(query)?,
            SetExpr::SetOperation { op, .. } => return Err(refuse(op.to_string(), ONE_TABLE, span)),
            other => return Err(refuse(keyword_of(&other.to_string()), ONE_QUERY, span)),
        }
        self.names.truncate(names_outside);
        Ok(())
    }

    fn select(&mut self, select: &mut Select) -> Result<(), Error> {
        let span = select.span();
        let Select {
            select_token: _,
            optimizer_hints,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection: _, // expressions are checked in the plan
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        let grouped = match group_by {
            GroupByExpr::All(_) => true,
            GroupByExpr::Expressions(expressions, modifiers) => {
                !expressions.is_empty() || !modifiers.is_empty()
            }
        };
        refuse_any(
            &[
                (!optimizer_hints.is_empty(), "an optimizer hint", NO_MEANING),
                (distinct.is_some(), "DISTINCT", ONE_RECORD),
                (select_modifiers.is_some(), "a modifier of SELECT", NO_MEANING),
                (top.is_some(), "TOP", ONE_RECORD),
                (exclude.is_some(), "EXCLUDE after the columns", "write it after the *, as in * EXCLUDE (a)"),
                (into.is_some(), "INTO", ONE_QUERY),
                (!lateral_views.is_empty(), "LATERAL VIEW", ONE_RECORD),
                (prewhere.is_some(), "PREWHERE", "write WHERE"),
                (!connect_by.is_empty(), "CONNECT BY", ONE_RECORD),
                (grouped, "GROUP BY", ONE_RECORD),
                (!cluster_by.is_empty(), "CLUSTER BY", NO_MEANING),
                (!distribute_by.is_empty(), "DISTRIBUTE BY", NO_MEANING),
                (!sort_by.is_empty(), "SORT BY", NO_MEANING),
                (having.is_some(), "HAVING", ONE_RECORD),
                (!named_window.is_empty(), "WINDOW", ONE_RECORD),
                (qualify.is_some(), "QUALIFY", ONE_RECORD),
                (value_table_mode.is_some(), "SELECT AS", NO_MEANING),
            ],
            span,
        )?;
        let [TableWithJoins { relation, joins }] = from.as_mut_slice() else {
            let what = if from.is_empty() { "SELECT without FROM" } else { "more than one table in FROM" };
            return Err(refuse(what, ONE_TABLE, span));
        };
        refuse_any(&[(!joins.is_empty(), "JOIN", ONE_TABLE)], relation.span())?;
        let is_source = self.table(relation)?;
        for item in projection {
            if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                refuse_any(&[(options.opt_ilike.is_some(), "* ILIKE", "name the columns")], span)?;
                if is_source {
                    hide_metadata(options);
                }
            }
        }
        Ok(())
    }

    /// Whether the table is the source itself.
    fn table(&mut self, table: &mut TableFactor) -> Result<bool, Error> {
        let span = table.span();
        let has_modifiers = match table {
            TableFactor::Derived { lateral, subquery, alias, sample } => {
                refuse_any(
                    &[(*lateral, "LATERAL", ONE_RECORD), (sample.is_some(), "TABLESAMPLE", REPLAY)],
                    span,
                )?;
                self.query(subquery)?;
                alias.as_ref().is_some_and(|alias| alias.at.is_some())
            }
            TableFactor::Table {
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
            } => {
                refuse_any(
                    &[
                        (args.is_some(), "a table function", ONE_TABLE),
                        (version.is_some(), "a version of a table", "a topic has no versions to choose from"),
                        (sample.is_some(), "TABLESAMPLE", REPLAY),
                    ],
                    span,
                )?;
                let renames =
                    alias.as_ref().is_some_and(|alias| alias.at.is_some() || !alias.columns.is_empty());
                if with_hints.is_empty()
                    && partitions.is_empty()
                    && index_hints.is_empty()
                    && json_path.is_none()
                    && !*with_ordinality
                    && !renames
                {
                    return self.is_source(name, span);
                }
                true
            }
            _ => true,
        };
        if has_modifiers {
            return Err(refuse(format!("FROM {table}"), ONE_TABLE, span));
        }
        Ok(false)
    }

    fn is_source(&self, name: &ObjectName, span: Span) -> Result<bool, Error> {
        let ident = match name.0.as_slice() {
            [part] => part.as_ident().map(normalized),
            _ => None,
        };
        match ident {
            Some(name) if self.names.contains(&name) => Ok(false),
            Some(name) if name == self.source_name => Ok(true),
            _ => Err(Error::InvalidSql {
                location: Location::known(span.start),
                message: format!(
                    "there is no table {name} here: the only one is the source, `{}`",
                    self.source_name
                ),
            }),
        }
    }
}

/// The name that an identifier stands for: without quotes, case does not count.
fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Leaves the metadata columns out of a `*`.
fn hide_metadata(options: &mut WildcardAdditionalOptions) {
    let mut excluded = match options.opt_exclude.take() {
        Some(ast::ExcludeSelectItem::Single(name)) => vec![name],
        Some(ast::ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let also_excluded: Vec<String> = match &options.opt_except {
        Some(except) => std::iter::once(&except.first_element)
            .chain(&except.additional_elements)
            .map(|ident| ident.value.clone())
            .collect(),
        None => Vec::new(),
    };
    for name in MetadataColumn::ALL.map(MetadataColumn::name) {
        let is_excluded = also_excluded.iter().any(|other| other == name)
            || excluded
                .iter()
                .any(|other| other.0.iter().any(|part| part.as_ident().is_some_and(|i| i.value == name)));
        if !is_excluded {
            excluded.push(ObjectName::from(vec![Ident::new(name)]));
        }
    }
    options.opt_exclude = Some(ast::ExcludeSelectItem::Multiple(excluded));
}

/// Refuses a plan with any node but projections and filters over the source.
fn check_plan(plan: &LogicalPlan) -> Result<(), Error> {
    let mut verdict = Ok(());
    let walked = plan.apply(|node| {
        verdict = check_node(node);
        Ok(if verdict.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    walked.map_err(Error::invalid_sql)?;
    verdict
}

fn check_node(node: &LogicalPlan) -> Result<(), Error> {
    let what = match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_) => {
            return node.expressions().iter().try_for_each(check_expression);
        }
        // The functions in them say more than the nodes.
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => {
            node.expressions().iter().try_for_each(check_expression)?;
            "an aggregation".to_owned()
        }
        LogicalPlan::Unnest(_) => "unnest".to_owned(),
        other => keyword_of(&other.display().to_string()).trim_end_matches(':').to_owned(),
    };
    Err(refuse(what, ONE_RECORD, Span::empty()))
}

/// Refuses an expression that does not depend on its row alone.
fn check_expression(expression: &Expr) -> Result<(), Error> {
    let mut verdict = Ok(());
    let walked = expression.apply(|part| {
        verdict = check_part(part);
        Ok(if verdict.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    walked.map_err(Error::invalid_sql)?;
    verdict
}

fn check_part(part: &Expr) -> Result<(), Error> {
    let (what, why) = match part {
        Expr::ScalarFunction(function) if function.func.signature().volatility != Volatility::Immutable => {
            (format!("the function {}()", function.name()), REPLAY)
        }
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::ScalarFunction(_)
        | Expr::InList(_) => return Ok(()),
        Expr::AggregateFunction(function) => {
            (format!("the aggregate function {}()", function.func.name()), ONE_RECORD)
        }
        Expr::WindowFunction(function) => {
            (format!("the window function {}()", function.fun.name()), ONE_RECORD)
        }
        Expr::Unnest(_) => ("unnest".to_owned(), ONE_RECORD),
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
            ("a subquery in an expression".to_owned(), ONE_RECORD)
        }
        Expr::Placeholder(placeholder) => {
            (format!("the placeholder {}", placeholder.id), "nothing would fill it")
        }
        other => (other.variant_name().to_owned(), ONE_RECORD),
    };
    Err(refuse(what, why, Span::empty()))
}
