//! Which parts of a plan may run on workers.
//!
//! A part is sent as bytes and made into a plan again. That is the same plan only if all of it can be written down, and not all that
//! DataFusion writes down is the same afterwards: of windows, conditions and `IGNORE NULLS` are lost, and limits are cut to 32 bits. So
//! there is a list of nodes that were looked at, over scans of our Parquet files, of which the worker adds what is not written
//! down; a part with any other node stays here. A plan that comes to a worker is held against the same list.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DesiredTaskCountHandler, DistributedExec,
    DistributedLeafExec, MaybeEncoded, NetworkBoundaryExt, Stage,
};

use crate::query::limits::unnamed_functions;

/// Nodes that mean the same on a worker; the last two are of the crate that divides plans.
const NODES: [&str; 22] = [
    "AggregateExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnionExec",
    "BroadcastExec",
    "ChildrenIsolatorUnionExec",
];
/// How many nodes and expressions may be in one another: more cannot be read from bytes.
const DEPTH_MAX: usize = 40;
/// Bytes of the plans of one query.
pub(super) const PLAN_BYTES_MAX: usize = 32 << 20;

/// The scan in a node, if it is one of Parquet files.
pub(super) fn parquet_scan(plan: &dyn ExecutionPlan) -> Option<(&FileScanConfig, &ParquetSource)> {
    let scan: &FileScanConfig = plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()?;
    Some((scan, scan.file_source().downcast_ref()?))
}

/// Whether everything in `plan` may run on a worker, as far as the plan of the next stage. `is_function` says whether a worker
/// finds a function by this name.
pub(super) fn is_for_workers(
    plan: &Arc<dyn ExecutionPlan>,
    is_function: &dyn Fn(&str) -> bool,
) -> Result<bool> {
    fits(plan, is_function, 1)
}

fn fits(plan: &Arc<dyn ExecutionPlan>, is_function: &dyn Fn(&str) -> bool, depth: usize) -> Result<bool> {
    if plan.is_network_boundary() {
        return Ok(true);
    }
    if let Some(leaf) = plan.downcast_ref::<DistributedLeafExec>() {
        return fits(leaf.original(), is_function, depth);
    }
    let name = plan.name();
    let scan = parquet_scan(plan.as_ref());
    if !NODES.contains(&name) || (name == "DataSourceExec" && scan.is_none()) {
        return Ok(false);
    }
    let scanned = scan.and_then(|(scan, _)| scan.limit);
    let skipped = plan.downcast_ref::<GlobalLimitExec>().map(GlobalLimitExec::skip);
    if [plan.fetch(), scanned, skipped].into_iter().flatten().any(|rows| u32::try_from(rows).is_err()) {
        return Ok(false);
    }
    let mut do_fit = true;
    plan.apply_expressions(&mut |expression| {
        do_fit = do_fit && fits_expression(expression, is_function, depth);
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !do_fit || depth > DEPTH_MAX {
        return Ok(false);
    }
    for child in plan.children() {
        if !fits(child, is_function, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fits_expression(
    expression: &Arc<dyn PhysicalExpr>,
    is_function: &dyn Fn(&str) -> bool,
    depth: usize,
) -> bool {
    let function = expression.downcast_ref::<ScalarFunctionExpr>();
    depth < DEPTH_MAX
        && function.is_none_or(|function| is_function(function.name()))
        && expression.children().into_iter().all(|child| fits_expression(child, is_function, depth + 1))
}

/// Whether parts of `plan` run on workers, and all of these can.
pub(super) fn is_divided(plan: &Arc<dyn ExecutionPlan>, state: &SessionState) -> Result<bool> {
    if !plan.is::<DistributedExec>() {
        return Ok(false);
    }
    let context = Arc::new(TaskContext::from(state));
    let unnamed = unnamed_functions();
    let is_function = |name: &str| {
        state.scalar_functions().contains_key(name) || unnamed.iter().any(|function| function.name() == name)
    };
    let mut is_divided = true;
    let mut bytes = 0;
    plan.apply(|node| {
        let Some(Stage::Local(stage)) = node.as_network_boundary().map(|boundary| boundary.input_stage())
        else {
            return Ok(TreeNodeRecursion::Continue);
        };
        is_divided = are_for_workers(&stage.plan, &is_function)?;
        if is_divided {
            // Not all that is in expressions can be written down, so that it is tried. The stages below are in it.
            bytes += MaybeEncoded::Decoded(of_one_task(stage.plan.clone())?).encode(&context)?.len();
            is_divided = bytes <= PLAN_BYTES_MAX;
        }
        Ok(if is_divided { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Stop })
    })?;
    Ok(is_divided)
}

/// Whether the plan of a stage and those of all stages below may run on workers.
fn are_for_workers(plan: &Arc<dyn ExecutionPlan>, is_function: &dyn Fn(&str) -> bool) -> Result<bool> {
    let mut are = is_for_workers(plan, is_function)?;
    plan.apply(|node| {
        if let Some(Stage::Local(stage)) = node.as_network_boundary().map(|boundary| boundary.input_stage()) {
            are = are && is_for_workers(&stage.plan, is_function)?;
        }
        Ok(if are { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(are)
}

/// The plan of a stage as the first of its tasks gets it, as far as scans are concerned.
fn of_one_task(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let of_one = plan.transform_down(|node| {
        let first = node.downcast_ref::<DistributedLeafExec>().and_then(|leaf| leaf.variants().first());
        Ok(match first.cloned() {
            Some(first) => Transformed::yes(first),
            None => Transformed::no(node),
        })
    });
    of_one.data()
}

/// Keeps together what must not be divided: nodes that need all rows, or all of a key, in one place and have them there only because
/// there is one partition; and nodes that cannot be sent anyway.
#[derive(Debug)]
pub(super) struct Together;

#[async_trait]
impl DesiredTaskCountHandler for Together {
    async fn handle(
        &self,
        event: DesiredTaskCountEvent<'_>,
    ) -> Option<Result<DesiredTaskCountEventResponse>> {
        is_together(event.plan).then(|| Ok(DesiredTaskCountEventResponse::maximum(1)))
    }
}

fn is_together(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let name = plan.name();
    let is_known = NODES.contains(&name) || name == "DistributedLeafExec" || plan.is_network_boundary();
    if !is_known {
        return true;
    }
    let wanted = plan.input_distribution_requirements().into_per_child();
    plan.children().into_iter().zip(wanted).any(|(child, wanted)| {
        // Below these, a stage begins, whose rows all come here.
        let is_gathered = child.is::<CoalescePartitionsExec>() || child.is::<SortPreservingMergeExec>();
        let is_alone = child.output_partitioning().partition_count() == 1;
        !matches!(wanted, Distribution::UnspecifiedDistribution) && is_alone && !is_gathered
    })
}
