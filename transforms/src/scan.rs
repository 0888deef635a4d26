//! The one table a query can read: the chunk at hand.
//!
//! A query is planned once, against [`SourceTable`]. The leaf of its physical plan, [`ChunkScanExec`], hands out
//! whatever batch lies in the [`ChunkSlot`] they share when the plan is executed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::project_schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

/// Where the chunk to be read lies.
#[derive(Debug, Default)]
pub(crate) struct ChunkSlot(Mutex<Option<RecordBatch>>);

impl ChunkSlot {
    /// Puts a chunk there for the next execution.
    pub(crate) fn put(&self, chunk: RecordBatch) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunk);
    }

    fn take(&self) -> Option<RecordBatch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The source as a table: its fields, then all metadata columns.
#[derive(Debug)]
pub(crate) struct SourceTable {
    schema: SchemaRef,
    slot: Arc<ChunkSlot>,
}

impl SourceTable {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        Self { schema, slot: Arc::default() }
    }

    pub(crate) fn slot(&self) -> &Arc<ChunkSlot> {
        &self.slot
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        Ok(Arc::new(ChunkScanExec::new(schema, Arc::clone(&self.slot))))
    }
}

/// Reads columns of the chunk in the slot, found by their names: a chunk carries only the metadata columns wanted.
#[derive(Debug)]
struct ChunkScanExec {
    slot: Arc<ChunkSlot>,
    properties: Arc<PlanProperties>,
}

impl ChunkScanExec {
    fn new(schema: SchemaRef, slot: Arc<ChunkSlot>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        // One batch and it is done: there is nothing to give way to. This also keeps DataFusion from counting the
        // batches against the budget of whatever task a run happens to be in.
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { slot, properties: Arc::new(properties) }
    }
}

impl DisplayAs for ChunkScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "ChunkScanExec: [{}]", columns.join(", "))
    }
}

impl ExecutionPlan for ChunkScanExec {
    fn name(&self) -> &str {
        "ChunkScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let no_chunk = || DataFusionError::Internal("a plan was executed without a chunk".to_owned());
        let chunk = self.slot.take().ok_or_else(no_chunk)?;
        let schema = self.schema();
        let indices = schema
            .fields()
            .iter()
            .map(|field| chunk.schema_ref().index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()?;
        let columns = chunk.project(&indices)?;
        Ok(Box::pin(MemoryStream::try_new(vec![columns], schema, None)?))
    }
}
