//! A query, planned once and run on chunk after chunk.
//!
//! The optimised physical plan is DataFusion's own. Each run takes a fresh copy of its nodes: `reset_plan_states` gives
//! them empty state and empty metrics and shares everything else, so that a plan that has run ten thousand times
//! holds no more memory than one that has never run.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};

use crate::checked::checked_plan;
use crate::error::Error;
use crate::normalize::{check_names, stored_type};
use crate::scan::ChunkSlot;
use crate::sql::SqlSession;

/// A compiled query over one chunk.
#[derive(Debug)]
pub(crate) struct Query {
    logical: LogicalPlan,
    physical: Arc<dyn ExecutionPlan>,
    slot: Arc<ChunkSlot>,
    context: Arc<TaskContext>,
    output_schema: SchemaRef,
}

impl Query {
    /// Compiles `sql`.
    pub(crate) fn compile(session: &SqlSession, sql: &str) -> Result<Self, Error> {
        let plan = session.plan(sql)?;
        check_names(plan.schema().fields().iter().map(|field| field.name().as_str()))?;
        let plan = as_stored(plan)?;
        let state = session.state_for(&plan)?;
        let state: &SessionState = &state;
        let logical = state.optimize(&plan).map_err(Error::invalid_sql)?;
        let physical = block_on(state.query_planner().create_physical_plan(&logical, state))
            .map_err(Error::invalid_sql)?;
        let physical = checked_plan(physical).map_err(Error::execution)?;
        let output_schema = output_schema(&logical);
        Ok(Self {
            logical,
            physical,
            slot: Arc::clone(session.slot()),
            context: session.task_context(),
            output_schema,
        })
    }

    /// The schema of the result.
    pub(crate) fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// The names of the source's columns that the query reads.
    pub(crate) fn columns_read(&self) -> BTreeSet<String> {
        let mut columns = BTreeSet::new();
        let walked = self.logical.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                columns.extend(scan.projected_schema.fields().iter().map(|field| field.name().clone()));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok(), "the closure returns no error");
        columns
    }

    /// The optimised logical plan with its schemas: what the result is, and nothing of how it is computed.
    pub(crate) fn canonical(&self) -> String {
        self.logical.display_indent_schema().to_string()
    }

    /// The optimised plans, for people.
    pub(crate) fn explain(&self) -> String {
        let physical = displayable(self.physical.as_ref()).indent(false).to_string();
        format!("logical plan\n{}\n\nphysical plan\n{physical}", self.logical.display_indent())
    }

    /// Runs the query on `chunk`.
    pub(crate) fn run(&self, chunk: RecordBatch) -> Result<RecordBatch, DataFusionError> {
        self.slot.put(chunk);
        let plan = reset_plan_states(Arc::clone(&self.physical))?;
        let mut batches = block_on(collect(plan, Arc::clone(&self.context)))?;
        let batch = match batches.len() {
            1 => batches.swap_remove(0),
            _ => concat_batches(&self.physical.schema(), &batches)?,
        };
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, columns, _) = batch.into_parts();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output_schema), columns, &options)?)
    }

    #[cfg(test)]
    pub(crate) fn physical(&self) -> &Arc<dyn ExecutionPlan> {
        &self.physical
    }

    /// How many metrics the nodes of the plan hold.
    #[cfg(test)]
    pub(crate) fn metrics_held(&self) -> usize {
        let mut held = 0;
        self.physical
            .apply(|node| {
                held += node.metrics().map_or(0, |metrics| metrics.iter().count());
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
        held
    }
}

/// `plan` with its columns cast to the types that are stored.
fn as_stored(plan: LogicalPlan) -> Result<LogicalPlan, Error> {
    let mut columns = Vec::new();
    for (qualifier, field) in plan.schema().iter() {
        let stored = stored_type(field.data_type())
            .map_err(|problem| Error::OutputColumn { column: field.name().clone(), problem })?;
        let column = Expr::Column(Column::from((qualifier, field)));
        let column = if &stored == field.data_type() { column } else { cast(column, stored) };
        columns.push(column.alias(field.name()));
    }
    LogicalPlanBuilder::from(plan)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(Error::invalid_sql)
}

/// The schema that batches get: that of the plan, but nullable wherever null is not plainly impossible. What is called
/// required in a table can never become nullable again without a change of its schema.
fn output_schema(plan: &LogicalPlan) -> SchemaRef {
    let fields = plan.schema().fields().iter().enumerate().map(|(index, field)| {
        Field::new(field.name(), field.data_type().clone(), !is_never_null(plan, index))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether column `index` of `plan` is, unchanged, a required column of the source, or a literal.
fn is_never_null(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => !scan.projected_schema.field(index).is_nullable(),
        LogicalPlan::Filter(filter) => is_never_null(&filter.input, index),
        LogicalPlan::SubqueryAlias(alias) => is_never_null(&alias.input, index),
        LogicalPlan::Projection(projection) => is_never_null_in(&projection.expr[index], &projection.input),
        _ => false,
    }
}

fn is_never_null_in(expression: &Expr, input: &LogicalPlan) -> bool {
    match expression {
        Expr::Alias(alias) => is_never_null_in(&alias.expr, input),
        // A cast either fails or keeps a value a value.
        Expr::Cast(cast) => is_never_null_in(&cast.expr, input),
        Expr::Literal(value, _) => !value.is_null(),
        Expr::Column(column) => {
            index_of(input.schema(), column).is_some_and(|index| is_never_null(input, index))
        }
        _ => false,
    }
}

fn index_of(schema: &DFSchema, column: &Column) -> Option<usize> {
    schema.maybe_index_of_column(column)
}

/// Waits for `future` on this thread. For futures of DataFusion that compute and never wait for anything outside; it
/// needs no runtime, and works inside of one.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
