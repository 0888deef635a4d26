//! `… ASOF JOIN … MATCH_CONDITION (…) [ON … | USING (…)]`, as Snowflake documents it.
//!
//! - Every row of the left side comes out once; where the right side has no match, its columns are null.
//! - `MATCH_CONDITION` names the left side first and has one of the operators `>=`, `>`, `<=` and `<`. The match is the nearest row
//!   in time: the newest for the first two, the oldest for the others.
//! - `ON` is a list of equalities; with `USING`, the columns of the right side that are named are no columns of the result.
//! - The right side cannot be `LATERAL`.
//!
//! Where several rows of the right side are equally near, Snowflake takes any; here it is the one whose values are highest, in the
//! order of its columns, so that the answer is the same each time.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, JoinType, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr as SqlExpr, JoinConstraint, JoinOperator, ObjectName, TableFactor, TableWithJoins,
};
use isobar_transforms::point_in_time::{FeatureView, Matching, PointInTimeJoin};

/// Plans a table with as-of joins, and no others.
pub(super) fn plan(table: TableWithJoins, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let spine = context.plan(table.relation)?;
    let mut chain = Chain { spine, views: Vec::new(), hidden: Vec::new() };
    for join in table.joins {
        let JoinOperator::AsOf { match_condition, constraint } = join.join_operator else {
            return internal_err!("a join that is none as of a time");
        };
        let view = chain.view(join.relation, match_condition, constraint, context)?;
        chain.push(view)?;
    }
    chain.finish()
}

/// A spine, and the views to be joined with it at once.
struct Chain {
    spine: LogicalPlan,
    views: Vec<FeatureView>,
    /// Columns that `USING` leaves out.
    hidden: Vec<Column>,
}

impl Chain {
    /// The columns that the next join can name.
    fn visible(&self) -> Result<DFSchema> {
        let mut schema = self.spine.schema().as_ref().clone();
        for view in &self.views {
            schema = build_join_schema(&schema, view.input.schema(), &JoinType::Left)?;
        }
        if self.hidden.is_empty() {
            return Ok(schema);
        }
        let is_visible = |column: &Column| !self.hidden.contains(column);
        let fields = schema.iter().filter(|field| is_visible(&Column::from(*field)));
        let fields = fields.map(|(table, field)| (table.cloned(), field.clone())).collect();
        DFSchema::new_with_metadata(fields, schema.metadata().clone())
    }

    fn view(
        &mut self,
        relation: TableFactor,
        match_condition: SqlExpr,
        constraint: JoinConstraint,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<FeatureView> {
        if let TableFactor::Derived { lateral: true, .. } | TableFactor::Function { lateral: true, .. } =
            relation
        {
            return plan_err!("the right side of ASOF JOIN cannot be LATERAL");
        }
        let input = context.plan(relation)?;
        let (left, right) = (self.visible()?, input.schema().clone());
        let sides = Sides { all: left.join(&right)?, left: &left, right: &right };
        let (spine_time, matching, event_time) = sides.match_condition(match_condition, context)?;
        let on = match constraint {
            JoinConstraint::None => Vec::new(),
            JoinConstraint::On(condition) => sides.equalities(condition, context)?,
            JoinConstraint::Using(columns) => {
                let keys = columns.into_iter().map(|column| sides.using(column, context));
                let keys = keys.collect::<Result<Vec<_>>>()?;
                self.hidden.extend(keys.iter().flat_map(|(_, key)| key.column_refs()).cloned());
                keys
            }
            JoinConstraint::Natural => {
                return plan_err!("ASOF JOIN cannot be NATURAL: name the keys in USING");
            }
        };
        Ok(FeatureView {
            input,
            on,
            spine_time,
            event_time,
            known_time: None,
            offset: None,
            ttl: None,
            matching,
        })
    }

    /// Joins `view` at once with the others if it asks for columns of the spine, and after them if it needs theirs.
    fn push(&mut self, view: FeatureView) -> Result<()> {
        let spine = self.spine.schema();
        let asked = view.on.iter().map(|(left, _)| left).chain([&view.spine_time]);
        let is_of_spine = asked.flat_map(Expr::column_refs).all(|column| spine.has_column(column));
        if !is_of_spine {
            self.spine = self.joined()?;
        }
        self.views.push(view);
        Ok(())
    }

    fn joined(&mut self) -> Result<LogicalPlan> {
        let views = std::mem::take(&mut self.views);
        Ok(PointInTimeJoin::try_new(self.spine.clone(), views)?.into_plan())
    }

    fn finish(mut self) -> Result<LogicalPlan> {
        let joined = self.joined()?;
        if self.hidden.is_empty() {
            return Ok(joined);
        }
        let columns = joined.schema().columns();
        let kept = columns.into_iter().filter(|column| !self.hidden.contains(column)).map(Expr::Column);
        LogicalPlanBuilder::from(joined).project(kept.collect::<Vec<_>>())?.build()
    }
}

/// What the expressions of a join can name.
struct Sides<'a> {
    left: &'a DFSchema,
    right: &'a DFSchema,
    all: DFSchema,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Sides<'_> {
    /// Plans `expression`, and says from which side its columns are.
    fn resolved(
        &self,
        expression: SqlExpr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<(Expr, Side)> {
        let text = expression.to_string();
        let planned = context.sql_to_expr(expression, &self.all)?;
        let columns = planned.column_refs();
        let is_of = |schema: &DFSchema| columns.iter().all(|column| schema.has_column(column));
        let side = match (is_of(self.left), is_of(self.right)) {
            (true, false) => Side::Left,
            (false, true) => Side::Right,
            _ => return plan_err!("`{text}` in ASOF JOIN is to name columns of one side"),
        };
        Ok((planned, side))
    }

    fn match_condition(
        &self,
        condition: SqlExpr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<(Expr, Matching, Expr)> {
        let text = condition.to_string();
        let (left, op, right) = match without_brackets(condition) {
            SqlExpr::BinaryOp { left, op, right } => (left, op, right),
            _ => return plan_err!("MATCH_CONDITION ({text}) is to compare two times"),
        };
        let matching = match op {
            BinaryOperator::GtEq => Matching::AtOrBefore,
            BinaryOperator::Gt => Matching::Before,
            BinaryOperator::LtEq => Matching::AtOrAfter,
            BinaryOperator::Lt => Matching::After,
            _ => return plan_err!("MATCH_CONDITION ({text}) needs one of the operators >=, >, <= and <"),
        };
        let (left, left_side) = self.resolved(*left, context)?;
        let (right, right_side) = self.resolved(*right, context)?;
        if (left_side, right_side) != (Side::Left, Side::Right) {
            return plan_err!(
                "MATCH_CONDITION ({text}) is to name the left table first, and then the right one"
            );
        }
        Ok((as_time(left, self.left)?, matching, as_time(right, self.right)?))
    }

    /// Pairs of keys from `a = b AND c = d …`.
    fn equalities(
        &self,
        condition: SqlExpr,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Vec<(Expr, Expr)>> {
        let text = condition.to_string();
        let mut open = vec![condition];
        let mut keys = Vec::new();
        while let Some(part) = open.pop() {
            match without_brackets(part) {
                SqlExpr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([*right, *left]),
                SqlExpr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                    let (left, left_side) = self.resolved(*left, context)?;
                    let (right, right_side) = self.resolved(*right, context)?;
                    keys.push(match (left_side, right_side) {
                        (Side::Left, Side::Right) => (left, right),
                        (Side::Right, Side::Left) => (right, left),
                        _ => {
                            return plan_err!(
                                "ON ({text}) in ASOF JOIN is to compare one side with the other"
                            );
                        }
                    });
                }
                _ => {
                    return plan_err!("ON ({text}) in ASOF JOIN is to be a list of equalities joined by AND");
                }
            }
        }
        Ok(keys)
    }

    fn using(&self, name: ObjectName, context: &mut dyn RelationPlannerContext) -> Result<(Expr, Expr)> {
        let column = match name.0.as_slice() {
            [part] => part.as_ident().cloned().map(SqlExpr::Identifier),
            _ => None,
        };
        let Some(column) = column else {
            return plan_err!("USING ({name}) is to name a column without its table");
        };
        Ok((context.sql_to_expr(column.clone(), self.left)?, context.sql_to_expr(column, self.right)?))
    }
}

fn without_brackets(expression: SqlExpr) -> SqlExpr {
    match expression {
        SqlExpr::Nested(inner) => without_brackets(*inner),
        other => other,
    }
}

/// Times of day and whole decimal numbers as integers; what else there is can be compared as it is, or is refused later.
fn as_time(expression: Expr, schema: &DFSchema) -> Result<Expr> {
    match expression.get_type(schema)? {
        DataType::Time32(_) | DataType::Time64(_) => {
            let precise = expression.cast_to(&DataType::Time64(TimeUnit::Nanosecond), schema)?;
            precise.cast_to(&DataType::Int64, schema)
        }
        DataType::Decimal128(precision, 0) if precision <= 18 => expression.cast_to(&DataType::Int64, schema),
        _ => Ok(expression),
    }
}
