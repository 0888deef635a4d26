//! A table as somebody may see it who may not see all of it: some rows only, some columns hidden or hashed.
//!
//! The restriction is part of the scan, and the scan is closed: it is planned by itself, and to the plan around it it is a leaf
//! without statistics, metrics or files. So nothing of a query reaches a row or a value that was left out: no condition is
//! evaluated before the rows are chosen, an error in an expression says nothing of a hidden row, `count(*)` counts what
//! is seen, and `EXPLAIN` shows neither the condition nor the files. Conditions of the query that compare a column, which is
//! seen as it is, with constants are taken along, because they cannot fail and leave out files.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, Result, plan_err};
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, lit,
};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::TableVersion;
use super::names::PinnedTable;
use super::provider::{SnapshotTable, strip_qualifiers};

/// What somebody may see of a table.
#[derive(Clone, Default)]
pub(crate) struct Guard {
    /// A condition on its rows, in SQL; as in WHERE, one that is null does not hold.
    pub(crate) rows: Option<String>,
    /// Columns that are null.
    pub(crate) hidden: BTreeSet<String>,
    /// Columns whose values are shown as hashes.
    pub(crate) hashed: BTreeSet<String>,
    /// What the hashes are keyed with, so that values cannot be found by trying.
    pub(crate) key: [u8; 32],
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, hidden, hashed, key: _ } = self;
        f.debug_struct("Guard").field("rows", rows).field("hidden", hidden).field("hashed", hashed).finish()
    }
}

/// How a column is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    AsItIs,
    Hidden,
    Hashed,
}

/// A table behind a [`Guard`].
#[derive(Debug)]
pub(crate) struct GuardedTable {
    table: Arc<SnapshotTable>,
    rows: Option<Expr>,
    /// Per column of the table.
    shown: Arc<[Shown]>,
    schema: SchemaRef,
    key: [u8; 32],
}

impl GuardedTable {
    /// `table` as `guard` allows. `state` knows the functions of its condition.
    ///
    /// # Errors
    /// If the condition does not fit to the columns.
    pub(crate) fn new(table: Arc<SnapshotTable>, guard: &Guard, state: &SessionState) -> Result<Self> {
        let whole = table.schema();
        let rows = match &guard.rows {
            Some(sql) => Some(condition(sql, &whole, state)?),
            None => None,
        };
        let shown: Arc<[Shown]> = whole.fields().iter().map(|field| guard.shows(field.name())).collect();
        let fields: Vec<Arc<Field>> = whole.fields().iter().zip(shown.iter()).map(as_shown).collect();
        Ok(Self { table, rows, shown, schema: Arc::new(Schema::new(fields)), key: guard.key })
    }

    /// Table, version and cloud.
    pub(super) fn version(&self) -> &TableVersion {
        self.table.version()
    }

    /// Whether a condition of a query compares columns that are seen as they are with constants, and nothing else.
    fn is_taken_along(&self, condition: &Expr) -> bool {
        let is_seen = |expr: &Expr| match expr {
            Expr::Column(Column { name, .. }) => {
                self.schema.index_of(name).is_ok_and(|column| self.shown[column] == Shown::AsItIs)
            }
            _ => false,
        };
        let is_constant = |expr: &Expr| matches!(expr, Expr::Literal(..));
        match condition {
            Expr::IsNull(column) | Expr::IsNotNull(column) => is_seen(column),
            Expr::Between(between) => {
                is_seen(&between.expr) && is_constant(&between.low) && is_constant(&between.high)
            }
            Expr::InList(list) => is_seen(&list.expr) && list.list.iter().all(is_constant),
            Expr::BinaryExpr(binary) => match binary.op {
                Operator::And | Operator::Or => {
                    self.is_taken_along(&binary.left) && self.is_taken_along(&binary.right)
                }
                Operator::Eq
                | Operator::NotEq
                | Operator::Lt
                | Operator::LtEq
                | Operator::Gt
                | Operator::GtEq => {
                    is_seen(&binary.left) && is_constant(&binary.right)
                        || is_constant(&binary.left) && is_seen(&binary.right)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Guard {
    /// Whether it leaves out nothing.
    pub(crate) fn is_open(&self) -> bool {
        self.rows.is_none() && self.hidden.is_empty() && self.hashed.is_empty()
    }

    /// Columns that it is about and that `table` does not have.
    pub(crate) fn unknown_columns(&self, table: &SnapshotTable) -> Vec<&str> {
        let schema = table.schema();
        let columns = self.hidden.union(&self.hashed).map(String::as_str);
        columns.filter(|column| schema.index_of(column).is_err()).collect()
    }

    /// `table` behind this guard, for one query.
    ///
    /// # Errors
    /// As [`GuardedTable::new`].
    pub(crate) fn around(&self, table: Arc<SnapshotTable>, state: &SessionState) -> Result<PinnedTable> {
        if self.is_open() {
            return Ok(table.into());
        }
        let version = table.version().clone();
        let provider = Arc::new(GuardedTable::new(table, self, state)?);
        Ok(PinnedTable { version, provider })
    }

    /// A column that is in both sets is hidden.
    fn shows(&self, column: &str) -> Shown {
        match () {
            () if self.hidden.contains(column) => Shown::Hidden,
            () if self.hashed.contains(column) => Shown::Hashed,
            () => Shown::AsItIs,
        }
    }
}

/// The condition `sql` over the columns of `schema`.
fn condition(sql: &str, schema: &Schema, state: &SessionState) -> Result<Expr> {
    let columns = DFSchema::try_from(schema.clone())?;
    let condition = state.create_logical_expr(sql, &columns)?;
    if condition.is_volatile() {
        return plan_err!("the condition on rows is another one each time");
    }
    if condition.get_type(&columns)? != DataType::Boolean {
        return plan_err!("the condition on rows is neither true nor false");
    }
    Ok(condition)
}

fn as_shown((field, shown): (&Arc<Field>, &Shown)) -> Arc<Field> {
    match shown {
        Shown::AsItIs => field.clone(),
        Shown::Hidden => Arc::new(field.as_ref().clone().with_nullable(true)),
        Shown::Hashed => Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable())),
    }
}

#[async_trait]
impl TableProvider for GuardedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let supports = |filter: &&Expr| match self.is_taken_along(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(supports).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let read: Vec<usize> =
            wanted.iter().copied().filter(|column| self.shown[*column] != Shown::Hidden).collect();
        let whole = self.table.schema();
        let column = |at: &usize| Expr::Column(Column::new_unqualified(whole.field(*at).name()));
        let mut read_columns: Vec<Expr> = read.iter().map(column).collect();
        if read_columns.is_empty() {
            // Something that says how many rows there are.
            read_columns.push(lit(true).alias("row"));
        }
        let mut inside = LogicalPlanBuilder::scan("guarded", provider_as_source(self.table.clone()), None)?;
        if let Some(rows) = &self.rows {
            inside = inside.filter(rows.clone())?;
        }
        let along = filters.iter().filter(|filter| self.is_taken_along(filter)).cloned();
        if let Some(along) = conjunction(along) {
            inside = inside.filter(strip_qualifiers(along)?)?;
        }
        let inside = state.create_physical_plan(&inside.project(read_columns)?.build()?).await?;
        let columns = wanted.iter().map(|column| {
            let place = read.iter().position(|other| other == column).unwrap_or_default();
            (self.shown[*column], place)
        });
        let schema = Arc::new(self.schema.project(&wanted)?);
        Ok(Arc::new(GuardedExec::new(inside, columns.collect(), schema, self.key)))
    }
}

/// The rows that may be seen. What is inside is nobody's business.
struct GuardedExec {
    inside: Arc<dyn ExecutionPlan>,
    /// Per column of the output, how it is shown and which column inside it is.
    columns: Arc<[(Shown, usize)]>,
    properties: Arc<PlanProperties>,
    key: [u8; 32],
}

impl std::fmt::Debug for GuardedExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedExec").finish_non_exhaustive()
    }
}

impl GuardedExec {
    fn new(
        inside: Arc<dyn ExecutionPlan>,
        columns: Arc<[(Shown, usize)]>,
        schema: SchemaRef,
        key: [u8; 32],
    ) -> Self {
        let partitions = inside.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            inside.pipeline_behavior(),
            inside.boundedness(),
        );
        Self { inside, columns, properties: Arc::new(properties), key }
    }
}

impl DisplayAs for GuardedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuardedExec")
    }
}

impl ExecutionPlan for GuardedExec {
    fn name(&self) -> &'static str {
        "GuardedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            // It is no child of this plan, so that whoever resets those does not come by.
            inside: reset_plan_states(self.inside.clone())?,
            columns: self.columns.clone(),
            properties: self.properties.clone(),
            key: self.key,
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.inside.execute(partition, context)?;
        let (columns, key, schema) = (self.columns.clone(), self.key, self.schema());
        let shown = schema.clone();
        let rows = rows.map(move |batch| show(&batch?, &columns, &shown, &key));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// A batch as it is shown.
fn show(
    batch: &RecordBatch,
    columns: &[(Shown, usize)],
    schema: &SchemaRef,
    key: &[u8; 32],
) -> Result<RecordBatch> {
    let shown = columns.iter().zip(schema.fields()).map(|((shown, place), field)| match shown {
        Shown::AsItIs => Ok(batch.column(*place).clone()),
        Shown::Hidden => Ok(new_null_array(field.data_type(), batch.num_rows())),
        Shown::Hashed => hashed(batch.column(*place), key),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), shown.collect::<Result<_>>()?, &options)?)
}

/// Each value as a keyed hash, in hexadecimal. The same value has the same hash, whatever its column; null stays null.
fn hashed(values: &ArrayRef, key: &[u8; 32]) -> Result<ArrayRef> {
    let options = FormatOptions::default();
    let texts = ArrayFormatter::try_new(values.as_ref(), &options)?;
    let mut hashes = StringBuilder::with_capacity(values.len(), 64 * values.len());
    for row in 0..values.len() {
        if values.is_null(row) {
            hashes.append_null();
            continue;
        }
        let text = texts.value(row).try_to_string()?;
        // The outer hash is of fixed length, so that nothing can be appended to what was hashed.
        let inner = Sha256::new().chain_update(key).chain_update(text.as_bytes()).finalize();
        let hash = Sha256::new().chain_update(key).chain_update(inner).finalize();
        hashes.append_value(hex::encode(hash));
    }
    Ok(Arc::new(hashes.finish()))
}

#[cfg(test)]
mod tests;
