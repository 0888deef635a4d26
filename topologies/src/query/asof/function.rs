//! `point_in_time(spine, time, keys => …, view, view, …)`: a spine and any number of feature views, each with its settings.
//!
//! ```sql
//! SELECT * FROM point_in_time(
//!   orders, ordered_at, keys => customer_id,
//!   customer_features,
//!   view(weather, keys => city, time => observed_at, ttl => INTERVAL '6 hours'),
//!   view((SELECT * FROM clicks WHERE bot = false), prefix => 'clicks', known => NULL)
//! )
//! ```
//!
//! | setting of a view | default |
//! |---|---|
//! | `keys`: its columns that are equal to the keys of the spine, one after the other | the names of the spine's |
//! | `time`: when a row happened | `event_time` |
//! | `known`: since when it is known; `NULL` does not ask | `known_time`, if there is one |
//! | `offset`: decides between rows with the same times; `NULL` does not ask | `offset` or `_offset`, if there is one |
//! | `ttl`: how much older than the spine's time a row may be | no limit |
//! | `spine_keys`, `spine_time`: what this view is asked by | `keys` and the time of the spine |
//! | `prefix`: what its columns begin with | its name |
//!
//! A table is a name, a name in quotes, or a query in brackets. The result has the columns of the spine as they are and those of
//! each view but its keys as `<prefix>__<column>`.

use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, ScalarValue, plan_datafusion_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArguments, Ident, ObjectName,
    ObjectNamePart, Query, TableFactor, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use isobar_transforms::point_in_time::{FeatureView, Matching, PointInTimeJoin};

const FUNCTION: &str = "point_in_time";
const VIEW: &str = "view";

/// The names of the columns that are looked for in a view if nothing is said about them.
const EVENT_TIME: &str = "event_time";
const KNOWN_TIME: &str = "known_time";
const OFFSETS: [&str; 2] = ["offset", "_offset"];

const DAY_NANOSECONDS: i128 = 86_400 * 1_000_000_000;

/// Whether `name` is the function's.
pub(super) fn is_called(name: &ObjectName) -> bool {
    is_named(name, FUNCTION)
}

fn is_named(name: &ObjectName, wanted: &str) -> bool {
    let part = match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    };
    part.is_some_and(|name| match name.quote_style {
        Some(_) => name.value == wanted,
        None => name.value.eq_ignore_ascii_case(wanted),
    })
}

/// What an argument of the function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Spine,
    Time,
    Keys,
    View,
}

/// The arguments by what they are: the spine and its time come first unless they are named.
fn roles(arguments: &[FunctionArg]) -> Result<Vec<Role>> {
    let mut open = vec![Role::Time, Role::Spine];
    let mut roles = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let role = match argument {
            FunctionArg::Unnamed(_) => open.pop().unwrap_or(Role::View),
            FunctionArg::Named { name, .. } => match name.value.to_ascii_lowercase().as_str() {
                "spine" => Role::Spine,
                "time" => Role::Time,
                KEYS => Role::Keys,
                other => {
                    return plan_err!(
                        "{FUNCTION} has no argument {other}: there are spine, time and keys, and {VIEW}(…) for each view"
                    );
                }
            },
            FunctionArg::ExprNamed { name, .. } => return plan_err!("{FUNCTION} has no argument {name}"),
        };
        open.retain(|open| *open != role);
        roles.push(role);
    }
    Ok(roles)
}

const KEYS: &str = "keys";

fn expression_of(argument: FunctionArg) -> Result<SqlExpr> {
    let text = argument.to_string();
    match argument {
        FunctionArg::Named { arg: FunctionArgExpr::Expr(expression), .. }
        | FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
        _ => plan_err!("{FUNCTION}: `{text}` is no value"),
    }
}

fn expression_in(argument: &mut FunctionArg) -> Option<&mut SqlExpr> {
    match argument {
        FunctionArg::Named { arg: FunctionArgExpr::Expr(expression), .. }
        | FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    }
}

// ---------------------------------------------------------------- before planning

/// If `relation` is a call of the function: puts queries in the place of names of tables.
pub(super) fn name_tables(relation: &mut TableFactor) -> Result<()> {
    let TableFactor::Table { name, args: Some(arguments), .. } = relation else { return Ok(()) };
    if !is_called(name) {
        return Ok(());
    }
    let roles = roles(&arguments.args)?;
    for (argument, role) in arguments.args.iter_mut().zip(roles) {
        let Some(expression) = expression_in(argument) else { continue };
        match role {
            Role::Spine => *expression = table_query(expression)?.0,
            Role::View => name_table_of_view(expression)?,
            Role::Time | Role::Keys => (),
        }
    }
    Ok(())
}

/// Makes `view(query, prefix => 'name', …)` of `name` or of `view(name, …)`.
fn name_table_of_view(view: &mut SqlExpr) -> Result<()> {
    if !matches!(view, SqlExpr::Function(function) if is_named(&function.name, VIEW)) {
        // The table is put there as it is: text that is parsed again would have to be what was parsed before.
        let mut call = parsed(&format!("{VIEW}(NULL)"))?;
        *settings_in(&mut call)? = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(view.clone()))];
        *view = call;
    }
    let settings = settings_in(view)?;
    let Some(table) = settings.first_mut().and_then(expression_in) else {
        return plan_err!("{FUNCTION}: {VIEW}() is to begin with a table");
    };
    let (query, name) = table_query(table)?;
    *table = query;
    if let Some(name) = name {
        // What is named by the user comes later and wins.
        let prefix = FunctionArg::Named {
            name: Ident::new("prefix"),
            arg: FunctionArgExpr::Expr(SqlExpr::Value(Value::SingleQuotedString(name).into())),
            operator: FunctionArgOperator::RightArrow,
        };
        settings.insert(1, prefix);
    }
    Ok(())
}

fn settings_in(view: &mut SqlExpr) -> Result<&mut Vec<FunctionArg>> {
    match view {
        SqlExpr::Function(function) => match &mut function.args {
            FunctionArguments::List(list) => Ok(&mut list.args),
            _ => plan_err!("{FUNCTION}: {VIEW}() is to begin with a table, a query in brackets of its own"),
        },
        other => plan_err!("{FUNCTION}: {other} is no view"),
    }
}

/// The query that reads the table named by `table`, and its name without dots if it has one.
fn table_query(table: &SqlExpr) -> Result<(SqlExpr, Option<String>)> {
    let parts = match table {
        SqlExpr::Subquery(_) => return Ok((table.clone(), None)),
        SqlExpr::Identifier(name) => vec![name.clone()],
        SqlExpr::CompoundIdentifier(names) => names.clone(),
        SqlExpr::Value(value) => match &value.value {
            Value::SingleQuotedString(name) => vec![Ident::with_quote('"', name)],
            other => return plan_err!("{FUNCTION}: {other} is no table"),
        },
        other => return plan_err!("{FUNCTION}: {other} is no table: give a name, or a query in brackets"),
    };
    let last = parts.last().map(|name| name.value.replace('.', "_"));
    let name = ObjectName(parts.into_iter().map(ObjectNamePart::Identifier).collect());
    let query = parsed(&format!("(SELECT * FROM {name})"))?;
    Ok((query, last))
}

fn parsed(text: &str) -> Result<SqlExpr> {
    let parsed =
        Parser::new(&GenericDialect {}).try_with_sql(text).and_then(|mut parser| parser.parse_expr());
    parsed.map_err(|error| plan_datafusion_err!("{FUNCTION}: {text}: {error}"))
}

// ---------------------------------------------------------------- planning

/// Plans a call whose tables are queries.
pub(super) fn plan(
    arguments: Vec<FunctionArg>,
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan> {
    let roles = roles(&arguments)?;
    let (mut spine, mut time, mut keys, mut views) = (None, None, Vec::new(), Vec::new());
    for (argument, role) in arguments.into_iter().zip(roles) {
        let expression = expression_of(argument)?;
        match role {
            Role::Spine => spine = Some(aliased(expression, "spine", context)?),
            Role::Time => time = Some(name_of(&expression, context)?),
            Role::Keys => keys = names_of(&expression, context)?,
            Role::View => views.push(expression),
        }
    }
    let (Some(spine), Some(time)) = (spine, time) else {
        return plan_err!("{FUNCTION} is to begin with the spine and the name of its time");
    };
    if views.is_empty() {
        return plan_err!("{FUNCTION} needs a view after the spine and the name of its time");
    }
    let mut columns: Vec<Expr> = spine.schema().columns().into_iter().map(plain).collect();
    let mut joined = Vec::with_capacity(views.len());
    for (number, view) in views.into_iter().enumerate() {
        let settings = Settings::read(view, context)?;
        let view = settings.view(number, &spine, &time, &keys, context)?;
        let on: Vec<&Column> = view.on.iter().flat_map(|(_, key)| key.column_refs()).collect();
        let features = view.input.schema().columns().into_iter().filter(|column| !on.contains(&column));
        columns.extend(features.map(|column| {
            let name = match &settings.prefix {
                Some(prefix) => format!("{prefix}__{}", column.name),
                None => column.name.clone(),
            };
            Expr::Column(column).alias(name)
        }));
        joined.push(view);
    }
    let join = PointInTimeJoin::try_new(spine, joined)?.into_plan();
    LogicalPlanBuilder::from(join).project(columns)?.build()
}

/// A column without its table.
fn plain(column: Column) -> Expr {
    let name = column.name.clone();
    Expr::Column(column).alias(name)
}

/// The plan of a query, as a table of this name.
fn aliased(query: SqlExpr, name: &str, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let SqlExpr::Subquery(subquery) = query else { return plan_err!("{FUNCTION}: {query} is no table") };
    LogicalPlanBuilder::from(planned(subquery, context)?).alias(name)?.build()
}

fn planned(subquery: Box<Query>, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })
}

/// The name of a column: as it stands if it is a text.
fn name_of(expression: &SqlExpr, context: &dyn RelationPlannerContext) -> Result<String> {
    match expression {
        SqlExpr::Identifier(name) => Ok(context.normalize_ident(name.clone())),
        SqlExpr::Value(value) => match &value.value {
            Value::SingleQuotedString(name) => Ok(name.clone()),
            other => plan_err!("{FUNCTION}: {other} is no column"),
        },
        other => plan_err!("{FUNCTION}: {other} is no column"),
    }
}

/// One name, or several in brackets.
fn names_of(expression: &SqlExpr, context: &dyn RelationPlannerContext) -> Result<Vec<String>> {
    match expression {
        SqlExpr::Tuple(names) => names.iter().map(|name| name_of(name, context)).collect(),
        SqlExpr::Array(names) => names.elem.iter().map(|name| name_of(name, context)).collect(),
        SqlExpr::Nested(name) => names_of(name, context),
        name => Ok(vec![name_of(name, context)?]),
    }
}

/// A column that may be there.
#[derive(Debug, Clone, Default)]
enum Asked {
    /// If it has the usual name.
    #[default]
    IfThere,
    Never,
    Column(String),
}

impl Asked {
    fn read(expression: &SqlExpr, context: &dyn RelationPlannerContext) -> Result<Self> {
        match expression {
            SqlExpr::Value(value) if value.value == Value::Null => Ok(Asked::Never),
            name => name_of(name, context).map(Asked::Column),
        }
    }

    fn column(&self, schema: &DFSchema, usual: &[&str]) -> Result<Option<Expr>> {
        match self {
            Asked::Never => Ok(None),
            Asked::Column(name) => column(schema, name).map(Some),
            Asked::IfThere => {
                let there = usual.iter().find(|name| schema.has_column_with_unqualified_name(name));
                there.map(|name| column(schema, name)).transpose()
            }
        }
    }
}

/// What is said about a view.
struct Settings {
    query: SqlExpr,
    prefix: Option<String>,
    keys: Vec<String>,
    spine_keys: Vec<String>,
    time: Option<String>,
    spine_time: Option<String>,
    known: Asked,
    offset: Asked,
    ttl: Option<Duration>,
}

impl Settings {
    fn read(mut view: SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<Self> {
        let mut arguments = std::mem::take(settings_in(&mut view)?).into_iter();
        let Some(first) = arguments.next() else {
            return plan_err!("{FUNCTION}: {VIEW}() is to begin with a table");
        };
        let mut settings = Self {
            query: expression_of(first)?,
            prefix: None,
            keys: Vec::new(),
            spine_keys: Vec::new(),
            time: None,
            spine_time: None,
            known: Asked::default(),
            offset: Asked::default(),
            ttl: None,
        };
        for argument in arguments {
            let FunctionArg::Named { name, .. } = &argument else {
                return plan_err!("{FUNCTION}: `{argument}` of a view has no name: write name => value");
            };
            let name = name.value.to_ascii_lowercase();
            let value = expression_of(argument)?;
            match name.as_str() {
                "prefix" => settings.prefix = Some(name_of(&value, context)?),
                KEYS => settings.keys = names_of(&value, context)?,
                "spine_keys" => settings.spine_keys = names_of(&value, context)?,
                "time" => settings.time = Some(name_of(&value, context)?),
                "spine_time" => settings.spine_time = Some(name_of(&value, context)?),
                "known" => settings.known = Asked::read(&value, context)?,
                "offset" => settings.offset = Asked::read(&value, context)?,
                "ttl" => settings.ttl = Some(duration(value, context)?),
                other => {
                    return plan_err!(
                        "{FUNCTION}: a view has no setting {other}: there are keys, time, known, offset, ttl, spine_keys, \
                         spine_time and prefix"
                    );
                }
            }
        }
        Ok(settings)
    }

    fn view(
        &self,
        number: usize,
        spine: &LogicalPlan,
        time: &str,
        keys: &[String],
        context: &mut dyn RelationPlannerContext,
    ) -> Result<FeatureView> {
        let input = aliased(self.query.clone(), &format!("view_{number}"), context)?;
        let spine_keys = if self.spine_keys.is_empty() { keys } else { &self.spine_keys };
        let keys = if self.keys.is_empty() { spine_keys } else { &self.keys };
        if keys.is_empty() {
            return plan_err!("{FUNCTION}: say by which columns rows belong together: keys => …");
        }
        if keys.len() != spine_keys.len() {
            return plan_err!(
                "{FUNCTION}: {} keys of a view cannot be {} of the spine",
                keys.len(),
                spine_keys.len()
            );
        }
        let schema = input.schema();
        let pairs = spine_keys.iter().zip(keys);
        let on = pairs.map(|(left, right)| Ok((column(spine.schema(), left)?, column(schema, right)?)));
        Ok(FeatureView {
            on: on.collect::<Result<_>>()?,
            spine_time: column(spine.schema(), self.spine_time.as_deref().unwrap_or(time))?,
            event_time: column(schema, self.time.as_deref().unwrap_or(EVENT_TIME))?,
            known_time: self.known.column(schema, &[KNOWN_TIME])?,
            offset: self.offset.column(schema, &OFFSETS)?,
            ttl: self.ttl,
            matching: Matching::AtOrBefore,
            input,
        })
    }
}

/// The column of this name, with its table.
fn column(schema: &DFSchema, name: &str) -> Result<Expr> {
    let found = schema.columns().into_iter().find(|column| column.name == name);
    found.map(Expr::Column).ok_or_else(|| {
        let names: Vec<String> = schema.columns().into_iter().map(|column| column.name).collect();
        plan_datafusion_err!("{FUNCTION}: there is no column {name} among {}", names.join(", "))
    })
}

/// An interval of a fixed length.
fn duration(expression: SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<Duration> {
    let text = expression.to_string();
    let planned = context.sql_to_expr(expression, &DFSchema::empty())?;
    let nanoseconds = match &planned {
        Expr::Literal(value, _) => nanoseconds(value)?,
        _ => None,
    };
    let nanoseconds = nanoseconds.and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| {
        plan_datafusion_err!(
            "{FUNCTION}: ttl => {text} is to be an interval of days, hours or less, as INTERVAL '12 hours'"
        )
    })
}

/// The nanoseconds of an interval without months, which have no fixed length.
fn nanoseconds(interval: &ScalarValue) -> Result<Option<i128>, DataFusionError> {
    let months_days_nanoseconds =
        interval.cast_to(&DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano))?;
    Ok(match months_days_nanoseconds {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            Some(i128::from(interval.days) * DAY_NANOSECONDS + i128::from(interval.nanoseconds))
        }
        _ => None,
    })
}
