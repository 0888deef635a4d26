//! The point-in-time join as a part of a physical plan.
//!
//! The views are read first, several at a time, and put into indexes, a shard by each task. Then the spine streams by: its batches
//! are looked up in parallel and come out in their order. When the views outgrow the memory that there is, everything
//! goes on through files ([`spill`](super::spill)). Nothing is started before the first batch is asked for, and all
//! tasks end when the stream is dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{
    ColumnStatistics, Constraints, Statistics, internal_datafusion_err, internal_err, plan_datafusion_err,
    plan_err,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::ProjectionMapping;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, Gauge, MetricBuilder, MetricsSet, SpillMetrics, Time,
};
use datafusion::physical_plan::projection::{EmbeddedProjection, ProjectionExec, try_embed_projection};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions, StatisticsArgs, apply_expression_roots, execute_stream,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::index::{Index, Shard, SpineColumns};
use super::keys::{KeyEncoder, SHARDS};
use super::spill;
use super::time::{Bounds, Matching, Unit};
use super::view::{CHUNK_ROWS_MAX, ViewColumns, ViewRows, unit_of};

/// Batches of the spine that are read before they are asked for.
const SPINE_BATCHES_AHEAD: usize = 4;

/// Views that are read at a time. Each has a chunk that is not counted yet.
const VIEWS_AT_A_TIME_MAX: usize = 16;

/// Bytes of a chunk of a view at most, but for one batch more, if the memory is not limited.
const CHUNK_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// A chunk is at most this part of the memory that there is.
const CHUNK_SHARE: usize = 64;

/// A view, and how it is joined.
#[derive(Debug, Clone)]
pub struct JoinedView {
    /// Its rows, in any order.
    pub input: Arc<dyn ExecutionPlan>,
    /// Keys of the spine and of the view that must be equal, of equal types.
    pub on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// The time that a row of the spine asks for.
    pub spine_time: Arc<dyn PhysicalExpr>,
    /// When a row of the view happened.
    pub event_time: Arc<dyn PhysicalExpr>,
    /// Since when a row of the view is known; only with [`Matching::AtOrBefore`].
    pub known_time: Option<Arc<dyn PhysicalExpr>>,
    /// An integer that decides between rows with the same times.
    pub offset: Option<Arc<dyn PhysicalExpr>>,
    /// How much older than the spine's time a row may be; only with [`Matching::AtOrBefore`], and not with times that
    /// are numbers.
    pub ttl: Option<Duration>,
    /// Which rows of the view belong to a row of the spine.
    pub matching: Matching,
}

impl JoinedView {
    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let keys = self.on.iter().flat_map(|(spine, view)| [spine, view]);
        let times = [&self.spine_time, &self.event_time].into_iter();
        keys.chain(times).chain(&self.known_time).chain(&self.offset)
    }
}

impl fmt::Display for JoinedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let described = Described {
            on: &self.on,
            times: (&self.spine_time, &self.event_time),
            known_time: self.known_time.as_ref(),
            offset: self.offset.as_ref(),
            ttl: self.ttl,
            matching: self.matching,
        };
        described.fmt(f)
    }
}

/// How a view is joined, as plans show it.
pub(super) struct Described<'a, E> {
    pub(super) on: &'a [(E, E)],
    /// Of the spine, and of the view.
    pub(super) times: (&'a E, &'a E),
    pub(super) known_time: Option<&'a E>,
    pub(super) offset: Option<&'a E>,
    pub(super) ttl: Option<Duration>,
    pub(super) matching: Matching,
}

impl<E: fmt::Display> fmt::Display for Described<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.on.iter().map(|(spine, view)| format!("{spine} = {view}")).collect();
        let (spine_time, event_time) = self.times;
        let operator = self.matching.operator();
        write!(f, "{{on=[{}], match=[{spine_time} {operator} {event_time}", keys.join(", "))?;
        if let Some(known_time) = self.known_time {
            write!(f, ", {spine_time} >= {known_time}")?;
        }
        write!(f, "]")?;
        if let Some(ttl) = self.ttl {
            write!(f, ", ttl={ttl:?}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", offset={offset}")?;
        }
        write!(f, "}}")
    }
}

/// Where a column of the result comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Spine(usize),
    View { lookup: usize, view: usize, column: usize },
}

/// A view as it is looked up.
#[derive(Debug)]
pub(super) struct LookedUp {
    /// Which of all views it is.
    pub(super) number: usize,
    pub(super) columns: Arc<ViewColumns>,
    /// The columns that are wanted.
    pub(super) fields: Vec<FieldRef>,
    bounds: Bounds,
}

/// The views that are asked by the same keys and the same time of the spine, so that one look-up serves them all.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) spine: SpineColumns,
    pub(super) views: Vec<LookedUp>,
}

impl Lookup {
    /// Puts the index together; with `fields`, the columns of the payload.
    pub(super) fn index(&self, shards: Vec<Shard>, rows: &[ViewRows], fields: &[Vec<FieldRef>]) -> Index {
        let bounds: Vec<Bounds> = self.views.iter().map(|view| view.bounds).collect();
        Index::new(shards, rows, &bounds, fields)
    }
}

/// What is to be joined, worked out: which column is for what.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) schema: SchemaRef,
    pub(super) spine_schema: SchemaRef,
    pub(super) lookups: Vec<Lookup>,
    sources: Vec<Source>,
}

impl Join {
    fn new(spine: &SchemaRef, views: &[JoinedView], projection: Option<&[usize]>) -> Result<Self> {
        let all = all_fields(spine, views);
        let wanted = projection.map_or_else(|| (0..all.len()).collect(), <[usize]>::to_vec);
        let mut join = Self {
            schema: Arc::new(Schema::new(wanted.iter().map(|field| all[*field].clone()).collect::<Vec<_>>())),
            spine_schema: spine.clone(),
            lookups: Vec::new(),
            sources: Vec::with_capacity(wanted.len()),
        };
        let mut first = spine.fields().len();
        let mut places = Vec::with_capacity(views.len());
        for (number, view) in views.iter().enumerate() {
            let columns = first..first + view.input.schema().fields().len();
            first = columns.end;
            let payload = wanted.iter().filter(|field| columns.contains(field));
            let payload: Vec<usize> = payload.map(|field| field - columns.start).collect();
            let lookup = join.lookup_for(spine, view)?;
            places.push((columns, payload.clone(), lookup, join.lookups[lookup].views.len()));
            let looked_up = looked_up(number, spine, view, payload)?;
            join.lookups[lookup].views.push(looked_up);
        }
        for field in &wanted {
            let of_view = places.iter().find(|(columns, ..)| columns.contains(field));
            join.sources.push(match of_view {
                None => Source::Spine(*field),
                Some((columns, payload, lookup, view)) => {
                    let column = payload.iter().position(|column| columns.start + column == *field);
                    let column =
                        column.ok_or_else(|| internal_datafusion_err!("column {field} is missing"))?;
                    Source::View { lookup: *lookup, view: *view, column }
                }
            });
        }
        Ok(join)
    }

    /// The look-up that `view` shares with others, or a new one.
    fn lookup_for(&mut self, spine: &SchemaRef, view: &JoinedView) -> Result<usize> {
        let keys: Vec<_> = view.on.iter().map(|(spine, _)| spine.clone()).collect();
        let same = |lookup: &Lookup| lookup.spine.keys == keys && lookup.spine.time.eq(&view.spine_time);
        if let Some(lookup) = self.lookups.iter().position(same) {
            return Ok(lookup);
        }
        let spine = SpineColumns {
            encoder: KeyEncoder::new(&types(&keys, spine)?)?,
            keys,
            time: view.spine_time.clone(),
        };
        self.lookups.push(Lookup { spine, views: Vec::new() });
        Ok(self.lookups.len() - 1)
    }

    /// All views, in the order of the plan.
    pub(super) fn views(&self) -> Vec<&LookedUp> {
        let mut views: Vec<&LookedUp> = self.lookups.iter().flat_map(|lookup| &lookup.views).collect();
        views.sort_by_key(|view| view.number);
        views
    }

    /// A batch of the result: columns of the spine, and those of each look-up and view.
    pub(super) fn assembled(&self, spine: &RecordBatch, views: &[Vec<Vec<ArrayRef>>]) -> Result<RecordBatch> {
        let columns = self.sources.iter().map(|source| match *source {
            Source::Spine(column) => spine.column(column).clone(),
            Source::View { lookup, view, column } => views[lookup][view][column].clone(),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(spine.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns.collect(), &options)?)
    }

    fn joined(&self, spine: &RecordBatch, indexes: &[Indexed]) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.lookups.len());
        for (lookup, Indexed { index, .. }) in self.lookups.iter().zip(indexes) {
            let places = index.places(&lookup.spine.read(spine)?);
            let gathered = places.iter().enumerate().map(|(view, places)| index.gathered(view, places));
            columns.push(gathered.collect::<Result<Vec<_>>>()?);
        }
        self.assembled(spine, &columns)
    }
}

/// The columns of the spine, and those of the views, which can be null.
fn all_fields(spine: &SchemaRef, views: &[JoinedView]) -> Vec<FieldRef> {
    let mut fields = spine.fields().to_vec();
    for view in views {
        let schema = view.input.schema();
        fields
            .extend(schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))));
    }
    fields
}

fn types(expressions: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> Result<Vec<DataType>> {
    expressions.iter().map(|expression| expression.data_type(schema)).collect()
}

fn looked_up(number: usize, spine: &SchemaRef, view: &JoinedView, payload: Vec<usize>) -> Result<LookedUp> {
    let schema = view.input.schema();
    let (spine_keys, keys): (Vec<_>, Vec<_>) = view.on.iter().cloned().unzip();
    let (spine_types, key_types) = (types(&spine_keys, spine)?, types(&keys, &schema)?);
    if spine_types != key_types {
        return plan_err!(
            "the keys of a point-in-time join have the types {spine_types:?} and {key_types:?}"
        );
    }
    if view.matching != Matching::AtOrBefore && (view.ttl.is_some() || view.known_time.is_some()) {
        return plan_err!(
            "a time to live and a known time need the newest row at or before the spine's time"
        );
    }
    let spine_type = view.spine_time.data_type(spine)?;
    let event_type = view.event_time.data_type(&schema)?;
    let incomparable = |other: &DataType| {
        plan_datafusion_err!("times of type {event_type} cannot be compared with those of type {other}")
    };
    let spine_unit = unit_of(&spine_type)?;
    let mut unit = unit_of(&event_type)?;
    if let Some(known_time) = &view.known_time {
        let known_type = known_time.data_type(&schema)?;
        unit = unit.finest(unit_of(&known_type)?).ok_or_else(|| incomparable(&known_type))?;
    }
    spine_unit.finest(unit).ok_or_else(|| incomparable(&spine_type))?;
    if unit == Unit::Number && view.ttl.is_some() {
        return plan_err!("a time to live needs times, and {event_type} is none");
    }
    let fields = payload.iter().map(|column| {
        let field = schema.field(*column).clone();
        Arc::new(field.with_nullable(true))
    });
    Ok(LookedUp {
        number,
        fields: fields.collect(),
        bounds: Bounds::new(spine_unit, unit, view.matching, view.ttl),
        columns: Arc::new(ViewColumns {
            encoder: KeyEncoder::new(&key_types)?,
            keys,
            event_time: view.event_time.clone(),
            known_time: view.known_time.clone(),
            offset: view.offset.clone(),
            payload,
            unit,
            is_mirrored: view.matching.is_mirrored(),
        }),
    })
}

/// Joins a spine with feature views. See [`point_in_time`](super).
///
/// There is one partition of output. The partitions of the spine follow one another in it, unless something in the spine's plan
/// has dealt its rows out to partitions: then there is no order to keep, and they are taken as they come.
#[derive(Debug)]
pub struct PointInTimeJoinExec {
    spine: Arc<dyn ExecutionPlan>,
    views: Vec<JoinedView>,
    /// The order that the spine was planned with. The optimizer drops a sort that no operator asks for and that nothing
    /// above can see any more, and rows are to come in that order all the same.
    spine_order: Option<LexOrdering>,
    /// The columns that come out, of those of the spine and of all views one after the other.
    projection: Option<Vec<usize>>,
    join: Arc<Join>,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl PointInTimeJoinExec {
    /// Joins `spine` with `views`. The columns that come out are those of the spine and of the views, or of
    /// these the ones in `projection`.
    ///
    /// # Errors
    /// If types of keys or times do not fit each other, or have no exact equality or order.
    pub fn try_new(
        spine: Arc<dyn ExecutionPlan>,
        views: Vec<JoinedView>,
        projection: Option<Vec<usize>>,
    ) -> Result<Self> {
        let spine_order = spine.output_ordering().cloned();
        Self::with_order(spine, spine_order, views, projection)
    }

    fn with_order(
        spine: Arc<dyn ExecutionPlan>,
        spine_order: Option<LexOrdering>,
        views: Vec<JoinedView>,
        projection: Option<Vec<usize>>,
    ) -> Result<Self> {
        if views.is_empty() {
            return plan_err!("a point-in-time join needs a view");
        }
        let join = Arc::new(Join::new(&spine.schema(), &views, projection.as_deref())?);
        let properties = Arc::new(properties(&spine, &views, &join));
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { spine, views, spine_order, projection, join, metrics, properties })
    }

    /// The views, in the order of the plan.
    pub fn views(&self) -> &[JoinedView] {
        &self.views
    }
}

fn properties(spine: &Arc<dyn ExecutionPlan>, views: &[JoinedView], join: &Join) -> PlanProperties {
    let schema = join.schema.clone();
    let equivalences = if spine.output_partitioning().partition_count() == 1 {
        let spine_columns = join.sources.iter().enumerate().filter_map(|(target, source)| match source {
            Source::Spine(column) => Some((*column, target)),
            Source::View { .. } => None,
        });
        let mapping = spine_columns.map(|(column, target)| {
            let name = schema.field(target).name();
            let source = Arc::new(Column::new(name, column)) as Arc<dyn PhysicalExpr>;
            let target_column = Arc::new(Column::new(name, target)) as Arc<dyn PhysicalExpr>;
            (source, vec![(target_column, target)].into())
        });
        let mapping: ProjectionMapping = mapping.collect();
        let projected = spine.equivalence_properties().project(&mapping, schema);
        projected.with_constraints(Constraints::default())
    } else {
        EquivalenceProperties::new(schema)
    };
    let has_endless_view = views.iter().any(|view| view.input.boundedness().is_unbounded());
    let boundedness = if has_endless_view {
        Boundedness::Unbounded { requires_infinite_memory: true }
    } else {
        spine.boundedness()
    };
    PlanProperties::new(
        equivalences,
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        boundedness,
    )
}

impl EmbeddedProjection for PointInTimeJoinExec {
    fn with_projection(&self, projection: Option<Vec<usize>>) -> Result<Self> {
        let projection = match (projection, &self.projection) {
            (Some(columns), Some(before)) => Some(columns.into_iter().map(|column| before[column]).collect()),
            (projection, None) => projection,
            (None, Some(before)) => Some(before.clone()),
        };
        Self::with_order(self.spine.clone(), self.spine_order.clone(), self.views.clone(), projection)
    }
}

impl DisplayAs for PointInTimeJoinExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let views: Vec<String> = self.views.iter().map(ToString::to_string).collect();
        if let DisplayFormatType::TreeRender = format {
            return views.iter().try_for_each(|view| writeln!(f, "view={view}"));
        }
        write!(f, "PointInTimeJoinExec: views=[{}]", views.join(", "))?;
        if self.projection.is_some() {
            let columns = self.join.schema.fields().iter().map(|field| field.name().as_str());
            write!(f, ", projection=[{}]", columns.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for PointInTimeJoinExec {
    fn name(&self) -> &str {
        "PointInTimeJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        std::iter::once(&self.spine).chain(self.views.iter().map(|view| &view.input)).collect()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let mut required = vec![None; 1 + self.views.len()];
        required[0] = self.spine_order.clone().map(OrderingRequirements::from);
        required
    }

    /// The spine's order is kept, and that of views makes no difference.
    fn maintains_input_order(&self) -> Vec<bool> {
        let mut kept = vec![false; 1 + self.views.len()];
        kept[0] = self.spine.output_partitioning().partition_count() == 1;
        kept
    }

    /// Rows of the spine that are dealt out to partitions would lose their order; those of views have none.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        let mut benefits = vec![true; 1 + self.views.len()];
        benefits[0] = false;
        benefits
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.len() != 1 + self.views.len() {
            return internal_err!("{} inputs instead of {}", children.len(), 1 + self.views.len());
        }
        let mut children = children.into_iter();
        let spine = children.next().ok_or_else(|| internal_datafusion_err!("a join without a spine"))?;
        let views: Vec<JoinedView> = self
            .views
            .iter()
            .zip(children)
            .map(|(view, input)| JoinedView { input, ..view.clone() })
            .collect();
        Ok(match options.children_properties {
            ChildrenPropertiesMode::Keep => Arc::new(Self {
                spine,
                views,
                spine_order: self.spine_order.clone(),
                projection: self.projection.clone(),
                join: self.join.clone(),
                metrics: ExecutionPlanMetricsSet::new(),
                properties: self.properties.clone(),
            }),
            ChildrenPropertiesMode::Recompute => {
                Arc::new(Self::with_order(spine, self.spine_order.clone(), views, self.projection.clone())?)
            }
        })
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.views.iter().flat_map(JoinedView::expressions), f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("a point-in-time join has one partition, not a number {partition}");
        }
        let run = Run {
            join: self.join.clone(),
            spine: self.spine.clone(),
            views: self.views.iter().map(|view| view.input.clone()).collect(),
            reservation: MemoryConsumer::new("PointInTimeJoin")
                .with_can_spill(context.runtime_env().disk_manager.tmp_files_enabled())
                .register(context.memory_pool()),
            metrics: JoinMetrics::new(&self.metrics, partition),
            context,
        };
        let output = run.metrics.baseline.clone();
        let rows = stream::once(run.start()).try_flatten().inspect_ok(move |batch: &RecordBatch| {
            output.record_output(batch.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.join.schema.clone(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn child_stats_requests(&self, _partition: Option<usize>) -> Vec<ChildStats> {
        let mut requests = vec![ChildStats::Skip; 1 + self.views.len()];
        requests[0] = ChildStats::At(None);
        requests
    }

    /// One row for each of the spine, with its values; of views nothing is known.
    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _arguments: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let columns = self.join.sources.iter().map(|source| match source {
            Source::Spine(column) => inputs[0].column_statistics[*column].clone(),
            Source::View { .. } => ColumnStatistics::new_unknown(),
        });
        Ok(Arc::new(Statistics {
            num_rows: inputs[0].num_rows,
            total_byte_size: Precision::Absent,
            column_statistics: columns.collect(),
        }))
    }

    /// Columns that nobody wants are not looked up.
    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        try_embed_projection(projection, self)
    }
}

/// What is counted of one execution.
#[derive(Debug, Clone)]
pub(super) struct JoinMetrics {
    baseline: BaselineMetrics,
    pub(super) spill: SpillMetrics,
    /// Building indexes, summed over tasks.
    pub(super) build_time: Time,
    /// Rows of views that were read.
    pub(super) view_rows: Count,
    /// Of these, the rows that are the answer at some time.
    index_rows: Count,
    index_bytes: Gauge,
}

impl JoinMetrics {
    fn new(set: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let builder = || MetricBuilder::new(set);
        Self {
            baseline: BaselineMetrics::new(set, partition),
            spill: SpillMetrics::new(set, partition),
            build_time: builder().subset_time("build_time", partition),
            view_rows: builder().counter("view_rows", partition),
            index_rows: builder().counter("index_rows", partition),
            index_bytes: builder().gauge("index_bytes", partition),
        }
    }
}

/// An index, and the memory that is counted for it.
struct Indexed {
    index: Index,
    _reservation: MemoryReservation,
}

/// How large chunks may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkSize {
    pub(super) rows_max: usize,
    bytes_max: usize,
}

impl ChunkSize {
    /// So large that a few of them do not count in the memory that there is.
    fn within(limit: MemoryLimit) -> Self {
        let bytes_max = match limit {
            MemoryLimit::Finite(bytes) => (bytes / CHUNK_SHARE).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
            MemoryLimit::Infinite | MemoryLimit::Unknown => CHUNK_BYTES_MAX,
        };
        // Space for all rows of a chunk is taken before they come, so a chunk of few bytes must not be for many.
        Self { rows_max: (bytes_max / 64).min(CHUNK_ROWS_MAX), bytes_max }
    }
}

/// The batches of a stream, put together to chunks.
pub(super) struct Chunks {
    batches: SendableRecordBatchStream,
    coalescer: BatchCoalescer,
    size: ChunkSize,
    bytes: usize,
    has_ended: bool,
}

impl Chunks {
    pub(super) fn new(batches: SendableRecordBatchStream, size: ChunkSize) -> Self {
        let coalescer = BatchCoalescer::new(batches.schema(), size.rows_max);
        Self { batches, coalescer, size, bytes: 0, has_ended: false }
    }

    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(chunk) = self.coalescer.next_completed_batch() {
                return Ok(Some(chunk));
            }
            if self.has_ended {
                return Ok(None);
            }
            let Some(batch) = self.batches.try_next().await? else {
                self.has_ended = true;
                self.coalescer.finish_buffered_batch()?;
                continue;
            };
            self.bytes += bytes_of(&batch);
            self.coalescer.push_batch(batch)?;
            if self.bytes >= self.size.bytes_max {
                self.coalescer.finish_buffered_batch()?;
            }
            if self.coalescer.get_buffered_rows() == 0 {
                self.bytes = 0;
            }
        }
    }
}

/// Bytes of the values in `batch`, however large the buffers are that they are a part of.
fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(bytes).sum()
}

/// What was read of a view.
pub(super) struct Load {
    pub(super) rows: ViewRows,
    /// What was not read because the memory was used up.
    pub(super) rest: Option<Chunks>,
    pub(super) reservation: MemoryReservation,
}

/// One execution of the join.
pub(super) struct Run {
    pub(super) join: Arc<Join>,
    spine: Arc<dyn ExecutionPlan>,
    views: Vec<Arc<dyn ExecutionPlan>>,
    pub(super) context: Arc<TaskContext>,
    pub(super) reservation: MemoryReservation,
    pub(super) metrics: JoinMetrics,
}

impl Run {
    async fn start(self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let loads = self.load().await?;
        if loads.iter().any(|load| load.rest.is_some()) {
            return spill::join(self, loads).await;
        }
        let indexes = Arc::new(self.indexes(loads).await?);
        let spine = self.spine()?;
        let (parallel, elapsed) = (self.parallel(), self.metrics.baseline.elapsed_compute().clone());
        let join = self.join;
        let joined = spine.map(move |batch| {
            let (join, indexes, elapsed) = (join.clone(), indexes.clone(), elapsed.clone());
            async move {
                let batch = batch?;
                let task = SpawnedTask::spawn(async move {
                    let _timer = elapsed.timer();
                    join.joined(&batch, &indexes)
                });
                finished(task).await?
            }
        });
        Ok(joined.buffered(parallel).boxed())
    }

    fn parallel(&self) -> usize {
        self.context.session_config().target_partitions().max(1)
    }

    pub(super) fn chunk_size(&self) -> ChunkSize {
        ChunkSize::within(self.context.memory_pool().memory_limit())
    }

    /// Reads all views, until all are read or the memory is used up.
    async fn load(&self) -> Result<Vec<Load>> {
        let is_full = Arc::new(AtomicBool::new(false));
        let views: Vec<Arc<ViewColumns>> =
            self.join.views().into_iter().map(|view| view.columns.clone()).collect();
        let loads = views.into_iter().zip(&self.views).map(|(columns, view)| {
            let loader = Loader {
                columns,
                is_full: is_full.clone(),
                reservation: self.reservation.new_empty(),
                view_rows: self.metrics.view_rows.clone(),
                can_spill: self.reservation.consumer().can_spill(),
            };
            let (view, context, size) = (view.clone(), self.context.clone(), self.chunk_size());
            async move {
                let task = SpawnedTask::spawn(async move {
                    loader.load(Chunks::new(execute_stream(view, context)?, size)).await
                });
                finished(task).await?
            }
        });
        stream::iter(loads.collect::<Vec<_>>()).buffered(VIEWS_AT_A_TIME_MAX).try_collect().await
    }

    /// Builds the index of each look-up, a shard by each task.
    async fn indexes(&self, loads: Vec<Load>) -> Result<Vec<Indexed>> {
        let mut loads: Vec<Option<Load>> = loads.into_iter().map(Some).collect();
        let mut indexes = Vec::with_capacity(self.join.lookups.len());
        for lookup in &self.join.lookups {
            let mut rows = Vec::with_capacity(lookup.views.len());
            let mut reserved = 0;
            let mut reservations = Vec::with_capacity(lookup.views.len());
            for view in &lookup.views {
                let load = loads[view.number].take();
                let load = load.ok_or_else(|| internal_datafusion_err!("view {} is missing", view.number))?;
                rows.push(load.rows);
                reserved += load.reservation.size();
                reservations.push(load.reservation);
            }
            let rows = Arc::new(rows);
            let shards = (0..SHARDS).map(|shard| {
                let (rows, build_time) = (rows.clone(), self.metrics.build_time.clone());
                async move {
                    let task = SpawnedTask::spawn(async move {
                        let _timer = build_time.timer();
                        Shard::build(&rows, shard)
                    });
                    finished(task).await?
                }
            });
            let shards = stream::iter(shards.collect::<Vec<_>>()).buffered(self.parallel());
            let fields: Vec<Vec<FieldRef>> = lookup.views.iter().map(|view| view.fields.clone()).collect();
            let index = lookup.index(shards.try_collect().await?, &rows, &fields);
            drop(rows);
            self.metrics.index_rows.add(index.rows());
            self.metrics.index_bytes.add(index.memory_bytes());
            drop(reservations);
            let reservation = self.reservation.new_empty();
            // What was counted while it was built is never less, but for what allocators round up.
            reservation.grow(index.memory_bytes().min(reserved));
            indexes.push(Indexed { index, _reservation: reservation });
        }
        Ok(indexes)
    }

    /// The rows of the spine in their order, in batches of the usual size at most. Reading goes on while they are looked up.
    pub(super) fn spine(&self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (spine, context) = (self.spine.clone(), self.context.clone());
        let batch_rows = context.session_config().batch_size().max(1);
        let partitions = spine.output_partitioning().partition_count();
        let batches = if partitions > 1 && is_dealt_out(&spine)? {
            execute_stream(spine, context)?
        } else {
            let mut builder = RecordBatchReceiverStreamBuilder::new(spine.schema(), SPINE_BATCHES_AHEAD);
            let output = builder.tx();
            builder.spawn(async move {
                for partition in 0..partitions {
                    let mut batches = spine.execute(partition, context.clone())?;
                    while let Some(batch) = batches.try_next().await? {
                        if output.send(Ok(batch)).await.is_err() {
                            // Nobody listens any more.
                            return Ok(());
                        }
                    }
                }
                Ok(())
            });
            builder.build()
        };
        let cut = batches.map_ok(move |batch| {
            let starts = (0..batch.num_rows()).step_by(batch_rows);
            let parts: Vec<Result<RecordBatch>> = starts
                .map(|start| Ok(batch.slice(start, batch_rows.min(batch.num_rows() - start))))
                .collect();
            stream::iter(parts)
        });
        Ok(cut.try_flatten().boxed())
    }
}

/// Whether rows were dealt out to partitions somewhere in `plan`. Then they have no order, and its partitions must be read at
/// the same time: the others would fill up memory while one is read.
fn is_dealt_out(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| Ok(node.downcast_ref::<RepartitionExec>().is_some()))
}

/// The result of `task`; a panic in it goes on here.
async fn finished<T: Send + 'static>(task: SpawnedTask<T>) -> Result<T> {
    task.join_unwind().await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))
}

/// Reads one view.
struct Loader {
    columns: Arc<ViewColumns>,
    /// Whether the memory is used up, by whichever view.
    is_full: Arc<AtomicBool>,
    reservation: MemoryReservation,
    view_rows: Count,
    can_spill: bool,
}

impl Loader {
    async fn load(self, mut chunks: Chunks) -> Result<Load> {
        let mut rows = ViewRows::new(SHARDS);
        while !self.is_full.load(Ordering::Relaxed) {
            let Some(batch) = chunks.next().await? else {
                return Ok(Load { rows, rest: None, reservation: self.reservation });
            };
            self.view_rows.add(batch.num_rows());
            let chunk = self.columns.read(&batch)?;
            let grown = self.reservation.try_grow(chunk.memory_bytes());
            rows.push(chunk)?;
            if grown.is_err() || rows.is_full() {
                if !self.can_spill {
                    grown?;
                }
                self.is_full.store(true, Ordering::Relaxed);
            }
        }
        Ok(Load { rows, rest: Some(chunks), reservation: self.reservation })
    }
}
