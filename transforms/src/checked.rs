//! Integer arithmetic that fails when the result does not fit.
//!
//! DataFusion wraps around: 2147483647 + 1 is -2147483648, and nobody hears of it. Its expressions can also fail
//! instead, but no setting turns that on, so plans are rewritten once they are made. The row then goes to the
//! quarantine like any other that an expression fails on.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// `expression`, with every `+`, `-` and `*` in it checked.
pub(crate) fn checked_expression(expression: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    expression.transform_up(check_operator).data()
}

fn check_operator(part: Arc<dyn PhysicalExpr>) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
    let Some(binary) = part.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(part)) };
    if !matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply) {
        return Ok(Transformed::no(part));
    }
    let checked: Arc<dyn PhysicalExpr> = Arc::new(binary.clone().with_fail_on_overflow(true));
    Ok(Transformed::yes(checked))
}

/// `plan`, with the expressions of its projections and filters checked.
pub(crate) fn checked_plan(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(check_node).data()
}

fn check_node(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let mut columns = Vec::with_capacity(projection.expr().len());
        for column in projection.expr() {
            let expr = checked_expression(Arc::clone(&column.expr))?;
            columns.push(ProjectionExpr { expr, alias: column.alias.clone() });
        }
        let checked: Arc<dyn ExecutionPlan> =
            Arc::new(ProjectionExec::try_new(columns, Arc::clone(projection.input()))?);
        return Ok(Transformed::yes(checked));
    }
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let predicate = checked_expression(Arc::clone(filter.predicate()))?;
        let checked: Arc<dyn ExecutionPlan> =
            Arc::new(FilterExecBuilder::from(filter).with_predicate(predicate).build()?);
        return Ok(Transformed::yes(checked));
    }
    Ok(Transformed::no(node))
}
