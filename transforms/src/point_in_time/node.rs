//! The point-in-time join as a part of a logical plan, and how it becomes a physical one.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DFSchemaRef, JoinType, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::binary::comparison_coercion;
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::exec::{Described, JoinedView, PointInTimeJoinExec};
use super::time::Matching;

/// A view, and how it is joined. Expressions are over the columns of the spine, or of the view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub struct FeatureView {
    /// Its rows.
    pub input: LogicalPlan,
    /// Keys of the spine and of the view that must be equal.
    pub on: Vec<(Expr, Expr)>,
    /// The time that a row of the spine asks for.
    pub spine_time: Expr,
    /// When a row of the view happened.
    pub event_time: Expr,
    /// Since when a row of the view is known; only with [`Matching::AtOrBefore`].
    pub known_time: Option<Expr>,
    /// An integer that decides between rows with the same times.
    pub offset: Option<Expr>,
    /// How much older than the spine's time a row may be; only with [`Matching::AtOrBefore`].
    pub ttl: Option<Duration>,
    /// Which rows of the view belong to a row of the spine.
    pub matching: Matching,
}

impl FeatureView {
    fn expressions(&self) -> impl Iterator<Item = &Expr> {
        let keys = self.on.iter().flat_map(|(spine, view)| [spine, view]);
        let times = [&self.spine_time, &self.event_time].into_iter();
        keys.chain(times).chain(&self.known_time).chain(&self.offset)
    }

    /// The same view with other expressions, in the order of [`expressions`](Self::expressions), and another input.
    fn rebuilt(&self, expressions: &mut impl Iterator<Item = Expr>, input: LogicalPlan) -> Option<Self> {
        let mut on = Vec::with_capacity(self.on.len());
        for _ in &self.on {
            on.push((expressions.next()?, expressions.next()?));
        }
        let (spine_time, event_time) = (expressions.next()?, expressions.next()?);
        let known_time = if self.known_time.is_some() { Some(expressions.next()?) } else { None };
        let offset = if self.offset.is_some() { Some(expressions.next()?) } else { None };
        Some(Self {
            input,
            on,
            spine_time,
            event_time,
            known_time,
            offset,
            ttl: self.ttl,
            matching: self.matching,
        })
    }

    /// The same view, its keys brought to one type each.
    fn coerced(mut self, spine: &DFSchema) -> Result<Self> {
        let view = self.input.schema().clone();
        for (left, right) in &mut self.on {
            let (left_type, right_type) = (left.get_type(spine)?, right.get_type(&view)?);
            let Some(common) = common_key_type(&left_type, &right_type) else {
                return plan_err!(
                    "{left} of type {left_type} cannot be compared with {right} of type {right_type}"
                );
            };
            *left = left.clone().cast_to(&common, spine)?;
            *right = right.clone().cast_to(&common, &view)?;
        }
        Ok(self)
    }
}

impl fmt::Display for FeatureView {
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

/// The type in which keys of two types are compared. Instants are compared as such, whatever the time zones.
fn common_key_type(left: &DataType, right: &DataType) -> Option<DataType> {
    let (left, right) = (plain(left), plain(right));
    match (&left, &right) {
        (DataType::Timestamp(left_unit, left_zone), DataType::Timestamp(right_unit, right_zone))
            if left_unit != right_unit || left_zone != right_zone =>
        {
            let finer = if ticks_per_second(*left_unit) > ticks_per_second(*right_unit) {
                *left_unit
            } else {
                *right_unit
            };
            Some(DataType::Timestamp(finer, Some("UTC".into())))
        }
        (left, right) if left == right => Some(left.clone()),
        (left, right) => comparison_coercion(left, right).map(|common| plain(&common)),
    }
}

/// The type of the values, whatever they are stored as.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}

fn ticks_per_second(unit: TimeUnit) -> u64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Joins a spine with feature views. Its columns are those of the spine, and then those of the views, which can be
/// null. See [`point_in_time`](super).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PointInTimeJoin {
    spine: LogicalPlan,
    views: Vec<FeatureView>,
    schema: DFSchemaRef,
}

impl PointInTimeJoin {
    /// Joins `spine` with `views`, whose keys are cast to common types where they differ.
    ///
    /// # Errors
    /// If there is no view, if keys cannot be compared, or if two columns have the same name and table.
    pub fn try_new(spine: LogicalPlan, views: Vec<FeatureView>) -> Result<Self> {
        if views.is_empty() {
            return plan_err!("a point-in-time join needs a view");
        }
        let views = views.into_iter().map(|view| view.coerced(spine.schema())).collect::<Result<Vec<_>>>()?;
        let mut schema = spine.schema().as_ref().clone();
        for view in &views {
            schema = build_join_schema(&schema, view.input.schema(), &JoinType::Left)?;
        }
        Ok(Self { spine, views, schema: Arc::new(schema) })
    }

    /// The plan that this is the root of.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialOrd for PointInTimeJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = (&self.spine, &self.views).partial_cmp(&(&other.spine, &other.views));
        order.filter(|order| *order != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for PointInTimeJoin {
    fn name(&self) -> &str {
        "PointInTimeJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        std::iter::once(&self.spine).chain(self.views.iter().map(|view| &view.input)).collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.views.iter().flat_map(FeatureView::expressions).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let views: Vec<String> = self.views.iter().map(ToString::to_string).collect();
        write!(f, "PointInTimeJoin: views=[{}]", views.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut inputs = inputs.into_iter();
        let mut exprs = exprs.into_iter();
        let spine = inputs.next();
        let views: Option<Vec<FeatureView>> =
            self.views.iter().map(|view| view.rebuilt(&mut exprs, inputs.next()?)).collect();
        match (spine, views) {
            (Some(spine), Some(views)) => Self::try_new(spine, views),
            _ => internal_err!("a point-in-time join with too few inputs or expressions"),
        }
    }

    /// The columns that are wanted, each from the input it comes from; those in expressions are added by the caller.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut first: usize = 0;
        let inputs = UserDefinedLogicalNodeCore::inputs(self).into_iter().map(|input| {
            let columns = first..first + input.schema().fields().len();
            first = columns.end;
            let wanted = output_columns.iter().filter(|column| columns.contains(column));
            wanted.map(|column| column - columns.start).collect()
        });
        Some(inputs.collect())
    }
}

/// DataFusion's planner, which knows [`PointInTimeJoin`] too.
#[derive(Debug, Default)]
pub struct PointInTimePlanner;

#[async_trait]
impl QueryPlanner for PointInTimePlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Joins)]);
        planner.create_physical_plan(plan, session).await
    }
}

/// Plans [`PointInTimeJoin`] as [`PointInTimeJoinExec`].
struct Joins;

#[async_trait]
impl ExtensionPlanner for Joins {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(join) = node.as_any().downcast_ref::<PointInTimeJoin>() else { return Ok(None) };
        let Some((spine, inputs)) = physical_inputs.split_first() else {
            return internal_err!("a point-in-time join without a spine");
        };
        let of_spine =
            |expr: &Expr| planner.create_physical_expr(expr, join.spine.schema(), session, context);
        let mut views = Vec::with_capacity(join.views.len());
        for (view, input) in join.views.iter().zip(inputs) {
            let of_view =
                |expr: &Expr| planner.create_physical_expr(expr, view.input.schema(), session, context);
            let keys = view.on.iter().map(|(left, right)| Ok((of_spine(left)?, of_view(right)?)));
            views.push(JoinedView {
                input: input.clone(),
                on: keys.collect::<Result<_>>()?,
                spine_time: of_spine(&view.spine_time)?,
                event_time: of_view(&view.event_time)?,
                known_time: view.known_time.as_ref().map(of_view).transpose()?,
                offset: view.offset.as_ref().map(of_view).transpose()?,
                ttl: view.ttl,
                matching: view.matching,
            });
        }
        Ok(Some(Arc::new(PointInTimeJoinExec::try_new(spine.clone(), views, None)?)))
    }
}
