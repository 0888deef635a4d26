//! What a statement asks for, as far as its syntax tree tells.
//!
//! Sizes are those after every name that `WITH` gives was replaced by its query, which is how the planner sees them: in
//! `WITH a AS (SELECT 1), b AS (SELECT * FROM a, a), c AS (SELECT * FROM b, b) …` each name doubles what is behind it.

use std::ops::ControlFlow;

use datafusion::common::plan_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    GroupByWithModifier, Ident, Query, Select, SetExpr, Statement as SqlStatement, TableFactor, Value, Visit,
    Visitor,
};

use super::{QueryLimits, exceeded};

/// Tables, subqueries and parts of a `UNION`, of the whole statement.
const RELATIONS_MAX: u64 = 500;
/// Tables that one `FROM` joins: each adds its columns to those of all before it.
const JOINED_MAX: usize = 64;
/// Expressions that are no literals.
const EXPRESSIONS_MAX: u64 = 20_000;
const LITERALS_MAX: u64 = 100_000;
/// Expressions in one another: `a + a + a` is two in one another. Evaluating them needs a stack as deep.
const DEPTH_MAX: usize = 400;
/// Columns that one query lists, also of `VALUES`.
const COLUMNS_MAX: usize = 2_000;
/// Sets that a `GROUP BY` stands for.
const GROUPING_SETS_MAX: u64 = 1_024;
/// Elements of lists of a fixed length: each row has all of them, even if it is null.
const FIXED_SIZE_MAX: u64 = 1_024;
/// Types in one another.
const TYPE_DEPTH_MAX: usize = 64;

/// Functions that tell about the machine and what lies there.
pub(super) const TELLING_FUNCTIONS: [&str; 3] = ["version", "input_file_name", "file_row_index"];

/// Refuses a statement that asks for too much, or that is no query.
pub(crate) fn check(statement: &Statement, limits: &QueryLimits) -> Result<()> {
    let statement = match statement {
        Statement::Statement(statement) => statement,
        Statement::Explain(explain) => return check(&explain.statement, limits),
        Statement::CreateExternalTable(_) => return Err(no_query("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => return Err(no_query("COPY")),
        Statement::Reset(_) => return Err(no_query("RESET")),
    };
    let mut survey = Survey::new(limits);
    if let ControlFlow::Break(error) = statement.as_ref().visit(&mut survey) {
        return Err(error);
    }
    // Last: the text of a statement of any depth could not be written.
    match statement.as_ref() {
        SqlStatement::Query(_)
        | SqlStatement::Explain { .. }
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowCreate { .. }
        | SqlStatement::ShowFunctions { .. } => Ok(()),
        SqlStatement::ShowVariable { .. } if limits.reveals => Ok(()),
        SqlStatement::ShowVariable { .. } => Err(plan_datafusion_err!("settings are not shown here")),
        other => {
            let text = other.to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            Err(no_query(&words.join(" ")))
        }
    }
}

fn no_query(words: &str) -> DataFusionError {
    plan_datafusion_err!("only queries are allowed here: `{words}` is none")
}

/// How much there is behind a query.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    relations: u64,
    expressions: u64,
    literals: u64,
}

impl Size {
    fn add(&mut self, other: Size) {
        self.relations = self.relations.saturating_add(other.relations);
        self.expressions = self.expressions.saturating_add(other.expressions);
        self.literals = self.literals.saturating_add(other.literals);
    }

    fn check(&self) -> Result<()> {
        let large = [
            ("relations", self.relations, RELATIONS_MAX),
            ("expressions", self.expressions, EXPRESSIONS_MAX),
            ("literals", self.literals, LITERALS_MAX),
        ];
        match large.into_iter().find(|(_, size, max)| size > max) {
            Some((what, _, max)) => Err(exceeded(
                what,
                format!(
                    "the query has more than {max} {what}, where each name of a WITH counts as the query behind it"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// A query that is being visited.
struct Frame {
    /// What it gives names to by `WITH`, in the order in which they are visited: before anything else of it.
    names: Vec<String>,
    /// How large these are; those that were visited.
    sizes: Vec<Size>,
    size: Size,
}

struct Survey<'a> {
    limits: &'a QueryLimits,
    /// The queries around, outermost first. The first one is the statement.
    frames: Vec<Frame>,
    depth: usize,
}

impl<'a> Survey<'a> {
    fn new(limits: &'a QueryLimits) -> Self {
        let statement = Frame { names: Vec::new(), sizes: Vec::new(), size: Size::default() };
        Self { limits, frames: vec![statement], depth: 0 }
    }

    fn add(&mut self, size: Size) -> Result<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        frame.size.add(size);
        frame.size.check()
    }

    /// The size of the query that a name of `WITH` stands for here.
    fn named(&self, name: &str) -> Option<Size> {
        self.frames.iter().rev().find_map(|frame| {
            let visited = frame.names.iter().zip(&frame.sizes);
            visited.into_iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
        })
    }

    fn leave_query(&mut self) -> Result<()> {
        let Some(left) = self.frames.pop() else { return Ok(()) };
        let Some(around) = self.frames.last_mut() else { return Ok(()) };
        if around.sizes.len() < around.names.len() {
            around.sizes.push(left.size);
            return Ok(());
        }
        self.add(left.size)
    }

    fn select(&mut self, select: &Select) -> Result<()> {
        if select.into.is_some() {
            return Err(no_query("SELECT … INTO"));
        }
        check_columns(select.projection.len())?;
        let joined: usize = select.from.iter().map(|table| 1 + table.joins.len()).sum();
        check_joined(joined)?;
        let sets = grouping_sets(&select.group_by);
        if sets > GROUPING_SETS_MAX {
            return Err(exceeded(
                "grouping_sets",
                format!("GROUP BY stands for {sets} sets, more than {GROUPING_SETS_MAX}"),
            ));
        }
        self.add(Size { relations: 1, ..Size::default() })
    }

    fn expression(&mut self, expression: &Expr) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(exceeded(
                "depth",
                format!(
                    "more than {DEPTH_MAX} expressions are in one another; a list of values can be tested with IN"
                ),
            ));
        }
        match expression {
            Expr::Value(_) => return self.add(Size { literals: 1, ..Size::default() }),
            Expr::Cast { data_type, .. } | Expr::Convert { data_type: Some(data_type), .. } => {
                check_type(data_type)?;
            }
            Expr::TypedString(typed) => check_type(&typed.data_type)?,
            Expr::Function(function) => self.function(function)?,
            Expr::Lambda(_) => {
                return Err(plan_datafusion_err!("functions cannot be given to functions here"));
            }
            _ => (),
        }
        self.add(Size { expressions: 1, ..Size::default() })
    }

    fn function(&self, function: &Function) -> Result<()> {
        let name = function.name.0.last().and_then(|part| part.as_ident());
        let Some(name) = name.map(|name| name.value.to_ascii_lowercase()) else { return Ok(()) };
        if !self.limits.reveals && TELLING_FUNCTIONS.contains(&name.as_str()) {
            return Err(hidden(&name));
        }
        if name == "arrow_cast" || name == "arrow_try_cast" {
            return check_arrow_cast(&name, &function.args);
        }
        Ok(())
    }
}

/// The refusal of a function that tells about the machine.
pub(super) fn hidden(name: &str) -> DataFusionError {
    plan_datafusion_err!("the function {name} is not available here")
}

fn check_columns(columns: usize) -> Result<()> {
    if columns <= COLUMNS_MAX {
        return Ok(());
    }
    Err(exceeded("columns", format!("a query lists {columns} columns, more than {COLUMNS_MAX}")))
}

fn check_joined(joined: usize) -> Result<()> {
    if joined <= JOINED_MAX {
        return Ok(());
    }
    Err(exceeded("joined", format!("a FROM joins {joined} tables, more than {JOINED_MAX}")))
}

/// The sets that a `GROUP BY` stands for: as many as the product of what each of its parts stands for.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    let subsets =
        |count: usize| 1_u64.checked_shl(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
    let (expressions, modifiers) = match group_by {
        GroupByExpr::All(modifiers) => (&[][..], modifiers),
        GroupByExpr::Expressions(expressions, modifiers) => (expressions.as_slice(), modifiers),
    };
    let of_expressions = expressions.iter().map(|expression| match expression {
        Expr::Cube(sets) => subsets(sets.len()),
        Expr::Rollup(sets) => sets.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    });
    let of_modifiers = modifiers.iter().map(|modifier| match modifier {
        GroupByWithModifier::Cube => subsets(expressions.len()),
        GroupByWithModifier::Rollup => expressions.len() as u64 + 1,
        GroupByWithModifier::Totals | GroupByWithModifier::GroupingSets(_) => 1,
    });
    of_expressions.chain(of_modifiers).fold(1, u64::saturating_mul)
}

/// Refuses lists of a fixed length that is large, such as `INT[1000000000]`, also in the fields of a struct.
fn check_type(data_type: &DataType) -> Result<()> {
    shape(data_type, 0)?.check()
}

/// What every row has of a type, even if it is null.
#[derive(Default)]
struct Shape {
    values: u64,
    /// Whether there are lists of a fixed length in it.
    has_lengths: bool,
}

impl Shape {
    fn check(&self) -> Result<()> {
        if !self.has_lengths || self.values <= FIXED_SIZE_MAX {
            return Ok(());
        }
        let values = self.values;
        Err(exceeded(
            "fixed_size",
            format!("a list of {values} elements in every row is longer than {FIXED_SIZE_MAX}"),
        ))
    }
}

fn shape(data_type: &DataType, depth: usize) -> Result<Shape> {
    if depth > TYPE_DEPTH_MAX {
        return Err(exceeded("depth", format!("more than {TYPE_DEPTH_MAX} types are in one another")));
    }
    let inner = |data_type: &DataType| shape(data_type, depth + 1);
    match data_type {
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, Some(length))) => {
            // In one another, lengths multiply.
            if matches!(**element, DataType::Array(_)) {
                inner(element)?;
                return Err(plan_datafusion_err!("`{data_type}`: leave out the length"));
            }
            let values = inner(element)?.values.saturating_mul(*length);
            Ok(Shape { values, has_lengths: true })
        }
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(element, None)
            | ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::Parenthesis(element),
        ) => of_elements(inner(element)?),
        DataType::Map(key, value) => of_elements(together([inner(key), inner(value)])?),
        DataType::Struct(fields, _) | DataType::Tuple(fields) => {
            together(fields.iter().map(|field| inner(&field.field_type)))
        }
        DataType::Union(fields) => together(fields.iter().map(|field| inner(&field.field_type))),
        DataType::Nullable(of) | DataType::LowCardinality(of) => inner(of),
        _ => Ok(Shape { values: 1, has_lengths: false }),
    }
}

/// The shape of a list that need not have any of its elements.
fn of_elements(element: Shape) -> Result<Shape> {
    element.check()?;
    Ok(Shape { values: 1, has_lengths: false })
}

fn together(fields: impl IntoIterator<Item = Result<Shape>>) -> Result<Shape> {
    fields.into_iter().try_fold(Shape::default(), |sum, field| {
        let field = field?;
        Ok(Shape {
            values: sum.values.saturating_add(field.values),
            has_lengths: sum.has_lengths || field.has_lengths,
        })
    })
}

/// The type of `arrow_cast` is a text; those that have a length are refused.
fn check_arrow_cast(name: &str, arguments: &FunctionArguments) -> Result<()> {
    let FunctionArguments::List(list) = arguments else { return Ok(()) };
    let data_type = match list.args.get(1) {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        None => return Ok(()),
        Some(_) => None,
    };
    match data_type {
        Some(text) if !text.to_ascii_lowercase().contains("fixed") => Ok(()),
        Some(text) => {
            Err(plan_datafusion_err!("{name}: `{text}` has a fixed size, which is not available here"))
        }
        None => Err(plan_datafusion_err!("{name}: the type is to be a text in quotes")),
    }
}

/// A name as the planner compares it.
fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn flow(result: Result<()>) -> ControlFlow<DataFusionError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for Survey<'_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<DataFusionError> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = named.map(|table| normalized(&table.alias.name)).collect();
        self.frames.push(Frame { names, sizes: Vec::new(), size: Size::default() });
        match query.body.as_ref() {
            SetExpr::Values(values) => flow(check_columns(values.rows.first().map_or(0, |row| row.len()))),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                ControlFlow::Break(no_query("a change"))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<DataFusionError> {
        flow(self.leave_query())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<DataFusionError> {
        flow(self.select(select))
    }

    fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<DataFusionError> {
        let size = match relation {
            TableFactor::Table { name, args: None, .. } => match name.0.as_slice() {
                [part] => part.as_ident().and_then(|name| self.named(&normalized(name))),
                _ => None,
            },
            TableFactor::NestedJoin { table_with_joins, .. } => {
                if let Err(error) = check_joined(1 + table_with_joins.joins.len()) {
                    return ControlFlow::Break(error);
                }
                None
            }
            _ => None,
        };
        flow(self.add(size.unwrap_or(Size { relations: 1, ..Size::default() })))
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<DataFusionError> {
        flow(self.expression(expression))
    }

    fn post_visit_expr(&mut self, _expression: &Expr) -> ControlFlow<DataFusionError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}
