//! Checks between the operators of a plan.
//!
//! - An operator that multiplies rows, and every scan, is asked before each batch whether the query may go on ([`Watch`]): a
//!   condition above a cross join can look through billions of rows within one poll, in which no task can be aborted. A join that
//!   looks for pairs by a condition asks each time it evaluates the condition.
//! - Functions of windows over whole partitions keep all rows, which DataFusion does not count. What goes into them is counted
//!   here, against the memory of the query.
//! - Joins and `unnest` copy a row as often as it has partners. Rows that are too long for that are refused.

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
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::{Watch, batch_bytes, exceeded};

/// Bytes of a row that may have many partners: so many rows of this size are one batch of a join.
const COPIED_ROW_BYTES_MAX: usize = 64 << 10;

/// `plan`, with checks in it.
pub(in crate::query) fn watched(
    plan: Arc<dyn ExecutionPlan>,
    watch: &Arc<Watch>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let checked = plan.transform_up(|plan| {
        let is_leaf = plan.children().is_empty();
        if is_leaf {
            return Ok(Transformed::yes(Checked::over(plan, watch, Check::Time)));
        }
        let below = if multiplies(plan.as_ref()) {
            Some(Check::Rows)
        } else if keeps_all(plan.as_ref()) {
            Some(Check::Memory)
        } else {
            None
        };
        let Some(below) = below else { return Ok(Transformed::no(plan)) };
        let children = plan.children().into_iter().map(|child| Checked::over(child.clone(), watch, below));
        let children: Vec<Arc<dyn ExecutionPlan>> = children.collect();
        let plan = with_checked_condition(plan.with_new_children(children)?, watch)?;
        Ok(Transformed::yes(Checked::over(plan, watch, Check::Time)))
    });
    checked.data()
}

/// Whether rows of an input can come out many times.
fn multiplies(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<RecursiveQueryExec>()
}

/// Whether all rows of a partition are kept before the first one comes out.
fn keeps_all(plan: &dyn ExecutionPlan) -> bool {
    let is_unsorted = |window: &BoundedWindowAggExec| window.input_order_mode != InputOrderMode::Sorted;
    plan.is::<WindowAggExec>() || plan.downcast_ref::<BoundedWindowAggExec>().is_some_and(is_unsorted)
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
    /// Also how long rows are.
    Rows,
    /// Also how much has passed, all of which is kept by whoever takes it.
    Memory,
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
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(datafusion::physical_plan::ChildrenPropertiesMode::Recompute),
        )
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
                Check::Rows => check_rows(&batch)?,
                Check::Memory => kept.try_grow(batch_bytes(&batch))?,
            }
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.input.schema(), batches)))
    }
}

fn check_rows(batch: &RecordBatch) -> Result<()> {
    let mean = batch_bytes(batch) / batch.num_rows().max(1);
    if mean <= COPIED_ROW_BYTES_MAX {
        return Ok(());
    }
    Err(exceeded(
        "row_bytes",
        format!(
            "rows of {mean} bytes are too long to be joined or unnested: leave out long columns, or cut them with left()"
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
