//! Checks between the operators of a plan.
//!
//! - An operator that multiplies rows, and every scan, is asked before each batch whether the query may go on ([`Watch`]): a
//!   condition above a cross join can look through billions of rows within one poll, in which no task can be aborted. A join that
//!   looks for pairs by a condition asks each time it evaluates the condition.
//! - Functions of windows over whole partitions keep all rows, which DataFusion does not count. What goes into them is counted
//!   here, against the memory of the query.
//! - Joins and `unnest` copy a row as often as it has partners, and a constant stands beside every row. What is too long for that
//!   is refused.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::sizes::{batch_bytes, byte_lengths, value_bytes};
use super::{Watch, exceeded};

/// `plan`, with checks in it. A row or a constant that is copied has at most `copied_bytes_max`.
pub(in crate::query) fn watched(
    plan: Arc<dyn ExecutionPlan>,
    watch: &Arc<Watch>,
    copied_bytes_max: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.apply(|plan| {
        check_constants(plan, copied_bytes_max)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    let checked = plan.transform_up(|plan| {
        if plan.children().is_empty() {
            return Ok(Transformed::yes(Checked::over(plan, watch, Check::Time)));
        }
        let children = plan.children().into_iter().enumerate();
        let below: Vec<Option<Check>> =
            children.map(|(input, _)| check_below(plan.as_ref(), input, copied_bytes_max)).collect();
        if below.iter().all(Option::is_none) {
            return Ok(Transformed::no(plan));
        }
        let children = plan.children().into_iter().zip(below).map(|(child, check)| match check {
            Some(check) => Checked::over(child.clone(), watch, check),
            None => child.clone(),
        });
        let children: Vec<Arc<dyn ExecutionPlan>> = children.collect();
        let plan = with_checked_condition(plan.replace_children(children, options())?, watch)?;
        Ok(Transformed::yes(Checked::over(plan, watch, Check::Time)))
    });
    checked.data()
}

fn options() -> ReplaceChildrenOptions {
    ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute)
}

/// What is to be checked of the batches that go into a plan by its input of this number.
fn check_below(plan: &dyn ExecutionPlan, input: usize, copied_bytes_max: usize) -> Option<Check> {
    // Their values may come out beside every row.
    let repeats_rows = plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<RecursiveQueryExec>()
        || plan.is::<ScalarSubqueryExec>() && input > 0;
    if repeats_rows {
        return Some(Check::Rows(copied_bytes_max));
    }
    let window = plan.downcast_ref::<BoundedWindowAggExec>();
    if window.is_some_and(|window| window.input_order_mode == InputOrderMode::Sorted) {
        return Some(Check::Rows(copied_bytes_max));
    }
    (window.is_some() || plan.is::<WindowAggExec>()).then_some(Check::RowsAndMemory(copied_bytes_max))
}

/// Refuses long constants beside rows: every row of a batch would have a copy.
fn check_constants(plan: &Arc<dyn ExecutionPlan>, bytes_max: usize) -> Result<()> {
    let is_one_row = |plan: &Arc<dyn ExecutionPlan>| plan.is::<PlaceholderRowExec>();
    if is_one_row(plan) || plan.children().into_iter().any(is_one_row) {
        return Ok(());
    }
    let visited = plan.apply_expressions(&mut |expression| {
        expression.apply(|expression| {
            let Some(literal) = expression.downcast_ref::<Literal>() else {
                return Ok(TreeNodeRecursion::Continue);
            };
            let bytes = value_bytes(&literal.value().to_array()?);
            if bytes <= bytes_max {
                return Ok(TreeNodeRecursion::Continue);
            }
            Err(exceeded(
                "row_bytes",
                format!(
                    "a constant of {bytes} bytes is too long to stand beside every row, more than {bytes_max}"
                ),
            ))
        })
    });
    visited.map(|_| ())
}

/// A join whose condition is checked; any other plan as it is.
fn with_checked_condition(
    plan: Arc<dyn ExecutionPlan>,
    watch: &Arc<Watch>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let checked = |filter: &JoinFilter| {
        let condition = Condition { inner: filter.expression().clone(), watch: watch.clone() };
        JoinFilter::new(Arc::new(condition), filter.column_indices().to_vec(), filter.schema().clone())
    };
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        let Some(filter) = join.filter().map(checked) else { return Ok(plan) };
        return Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?));
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let Some(filter) = join.filter().map(checked) else { return Ok(plan) };
        return Ok(Arc::new(join.builder().with_filter(Some(filter)).build()?));
    }
    Ok(plan)
}

/// What is checked of the batches that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Whether the query may go on.
    Time,
    /// Also that no row has more bytes.
    Rows(usize),
    /// Also how much has passed, all of which is kept by whoever takes it.
    RowsAndMemory(usize),
}

/// Passes batches on, and checks each.
#[derive(Debug)]
struct Checked {
    input: Arc<dyn ExecutionPlan>,
    watch: Arc<Watch>,
    check: Check,
}

impl Checked {
    fn over(input: Arc<dyn ExecutionPlan>, watch: &Arc<Watch>, check: Check) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, watch: watch.clone(), check })
    }
}

impl DisplayAs for Checked {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedExec: {:?}", self.check)
    }
}

impl ExecutionPlan for Checked {
    fn name(&self) -> &str {
        "CheckedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Self::over(input, &self.watch, self.check)),
            _ => internal_err!("a check has one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, options())
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let kept = MemoryConsumer::new("rows that a window keeps").register(context.memory_pool());
        let (watch, check) = (self.watch.clone(), self.check);
        // Given back when the stream is dropped, which is when whoever took the rows is done.
        let batches = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            watch.check()?;
            match check {
                Check::Time => (),
                Check::Rows(bytes_max) => check_rows(&batch, batch_bytes(&batch), bytes_max)?,
                Check::RowsAndMemory(bytes_max) => {
                    let bytes = batch_bytes(&batch);
                    check_rows(&batch, bytes, bytes_max)?;
                    kept.try_grow(bytes)?;
                }
            }
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.input.schema(), batches)))
    }
}

/// `bytes` are those of all rows of the batch.
fn check_rows(batch: &RecordBatch, bytes: usize, bytes_max: usize) -> Result<()> {
    // No row is longer than all of them.
    if bytes <= bytes_max {
        return Ok(());
    }
    // What the columns have in every row, and what the others have.
    let mut fixed = 0_u64;
    let mut rows = vec![0_u64; batch.num_rows()];
    for column in batch.columns() {
        match column.data_type().primitive_width() {
            Some(width) => fixed += width as u64,
            None => {
                rows.iter_mut()
                    .zip(byte_lengths(column))
                    .for_each(|(row, bytes)| *row = row.saturating_add(bytes));
            }
        }
    }
    let longest = rows.into_iter().max().map_or(0, |row| row.saturating_add(fixed));
    if longest <= bytes_max as u64 {
        return Ok(());
    }
    Err(exceeded(
        "row_bytes",
        format!(
            "a row of {longest} bytes is too long to be repeated by a join, unnest or a window: leave out long columns, or \
             cut them with left()"
        ),
    ))
}

/// A condition that is not evaluated any more when the query may not go on.
#[derive(Debug)]
struct Condition {
    inner: Arc<dyn PhysicalExpr>,
    watch: Arc<Watch>,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

impl PhysicalExpr for Condition {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        self.watch.check()?;
        self.inner.evaluate(rows)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Self { inner, watch: self.watch.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
