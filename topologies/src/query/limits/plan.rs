//! What a plan asks for, before the optimiser sees it.
//!
//! The optimiser puts expressions in the place of the columns that they define: a condition on `c` over
//! `SELECT b + b AS c FROM (SELECT a + a AS b FROM …)` becomes one on `(a + a) + (a + a)`. Every level doubles it, so
//! that a text of a few lines stands for more than any memory holds. How large each column can become is known
//! beforehand by adding up.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, plan_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::survey::{TELLING_FUNCTIONS, hidden};
use super::{QueryLimits, exceeded};

/// Expressions that stand for one column when all of them are put into one another.
const WEIGHT_MAX: u64 = 20_000;
/// Of these, in one another.
const DEPTH_MAX: u64 = 800;
/// Columns of one operator.
const COLUMNS_MAX: usize = 10_000;
/// Centroids of an approximate percentile: each group may have all of them.
const CENTROIDS_MAX: u64 = 10_000;

/// Refuses a plan that would grow, or that shows what is not to be shown.
pub(crate) fn check(plan: &LogicalPlan, limits: &QueryLimits) -> Result<()> {
    sizes(plan)?;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && !limits.reveals
            && scan.table_name.schema() == Some("information_schema")
            && scan.table_name.table() == "df_settings"
        {
            return Err(plan_datafusion_err!("settings are not shown here"));
        }
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                check_expression(expression, limits)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    visited.map(|_| ())
}

fn check_expression(expression: &Expr, limits: &QueryLimits) -> Result<()> {
    match expression {
        Expr::ScalarFunction(call) if !limits.reveals && TELLING_FUNCTIONS.contains(&call.name()) => {
            Err(hidden(call.name()))
        }
        Expr::HigherOrderFunction(_) | Expr::Lambda(_) => {
            Err(plan_datafusion_err!("functions cannot be given to functions here"))
        }
        Expr::AggregateFunction(call) if call.func.name() == "approx_percentile_cont" => {
            check_centroids(call.params.args.get(2))
        }
        Expr::AggregateFunction(call) if call.func.name() == "approx_percentile_cont_with_weight" => {
            check_centroids(call.params.args.get(3))
        }
        _ => Ok(()),
    }
}

fn check_centroids(centroids: Option<&Expr>) -> Result<()> {
    let Some(centroids) = centroids else { return Ok(()) };
    let count = match centroids {
        Expr::Literal(value, _) => value.cast_to(&DataType::UInt64).ok(),
        _ => None,
    };
    match count {
        Some(ScalarValue::UInt64(Some(count))) if count <= CENTROIDS_MAX => Ok(()),
        _ => Err(exceeded(
            "centroids",
            format!("the centroids of an approximate percentile are to be a number up to {CENTROIDS_MAX}"),
        )),
    }
}

/// How large an expression is.
#[derive(Debug, Clone, Copy)]
struct Size {
    weight: u64,
    depth: u64,
}

impl Size {
    const COLUMN: Self = Self { weight: 1, depth: 1 };

    fn larger(self, other: Self) -> Self {
        Self { weight: self.weight.max(other.weight), depth: self.depth.max(other.depth) }
    }
}

/// The sizes of the columns of a plan, in their order. Those of subqueries in it are looked at too.
fn sizes(plan: &LogicalPlan) -> Result<Vec<Size>> {
    let columns = plan.schema().fields().len();
    if columns > COLUMNS_MAX {
        return Err(exceeded(
            "columns",
            format!("a part of the query has {columns} columns, more than {COLUMNS_MAX}"),
        ));
    }
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        inputs.push((input.schema(), sizes(input)?));
    }
    subqueries(plan)?;
    let by_column = |schema: &DFSchema, sizes: &[Size]| -> Vec<(Column, Size)> {
        schema.columns().into_iter().zip(sizes.iter().copied()).collect()
    };
    let known: HashMap<Column, Size> =
        inputs.iter().flat_map(|(schema, sizes)| by_column(schema, sizes)).collect();
    let mut of_expressions = Vec::new();
    plan.apply_expressions(|expression| {
        let size = measure(expression, &known)?;
        if size.weight > WEIGHT_MAX || size.depth > DEPTH_MAX {
            return Err(exceeded(
                "expressions",
                format!(
                    "expressions that build upon each other stand for more than {WEIGHT_MAX} expressions, or {DEPTH_MAX} in one another"
                ),
            ));
        }
        of_expressions.push(size);
        Ok(TreeNodeRecursion::Continue)
    })?;
    let concatenated: Vec<Size> = inputs.iter().flat_map(|(_, sizes)| sizes).copied().collect();
    let largest = concatenated.iter().chain(&of_expressions).copied().fold(Size::COLUMN, Size::larger);
    let mut sizes = match plan {
        LogicalPlan::Projection(_) if of_expressions.len() == columns => of_expressions,
        // Conditions on keys of groups move below the groups; nothing else does.
        LogicalPlan::Aggregate(aggregate)
            if !aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) =>
        {
            of_expressions.into_iter().take(aggregate.group_expr.len()).collect()
        }
        LogicalPlan::Window(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::SubqueryAlias(_)
            if concatenated.len() <= columns =>
        {
            concatenated
        }
        _ => vec![largest; columns],
    };
    // Results of aggregates and windows: nothing is put into their place.
    sizes.resize(columns, Size::COLUMN);
    Ok(sizes)
}

/// Looks at the plans in the expressions of a node.
fn subqueries(plan: &LogicalPlan) -> Result<()> {
    let visited = plan.apply_subqueries(|subquery| {
        sizes(subquery)?;
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map(|_| ())
}

/// The size of `expression` when each column is as large as `known` says.
fn measure(expression: &Expr, known: &HashMap<Column, Size>) -> Result<Size> {
    if let Expr::Column(column) = expression {
        return Ok(known.get(column).copied().unwrap_or(Size::COLUMN));
    }
    let mut size = Size { weight: 1, depth: 0 };
    expression.apply_children(|child| {
        let child = measure(child, known)?;
        size.weight = size.weight.saturating_add(child.weight);
        size.depth = size.depth.max(child.depth);
        Ok(TreeNodeRecursion::Continue)
    })?;
    size.depth += 1;
    // A list of literals is as large as the query itself says.
    if let Expr::InList(list) = expression
        && list.list.iter().all(|item| matches!(item, Expr::Literal(..)))
    {
        size.weight = size.weight.saturating_sub(list.list.len() as u64);
    }
    Ok(size)
}
