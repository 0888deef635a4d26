//! The point-in-time join in SQL: `ASOF JOIN`, and `point_in_time(…)` for feature views with their settings.
//!
//! DataFusion parses `ASOF JOIN` and cannot plan it, but it asks a [`RelationPlanner`] about every table in a `FROM`, and a
//! join in brackets is one. So the syntax tree is rewritten before it is planned:
//!
//! ```text
//! FROM a JOIN b ON … ASOF JOIN c … ASOF JOIN d … JOIN e ON …
//! FROM ((a JOIN b ON …) ASOF JOIN c … ASOF JOIN d …) JOIN e ON …
//! ```
//!
//! Brackets with nothing but as-of joins in them are planned here ([`join`]), several joins as one if they ask for the same
//! spine. The function needs settings per view that the syntax of joins has no place for; it is no table function of
//! DataFusion's, because these get values and no tables, but planned in the same way ([`function`]): names of tables in it
//! become queries in the syntax tree, so that they are found like any other, common table expressions included.

mod function;
mod join;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Join, JoinOperator, Select, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use isobar_transforms::point_in_time::PointInTimePlanner;

/// A session that can plan point-in-time joins.
pub(super) fn extended(session: SessionStateBuilder) -> SessionStateBuilder {
    session.with_query_planner(Arc::new(PointInTimePlanner)).with_relation_planners(vec![Arc::new(Relations)])
}

/// Brackets around as-of joins, and queries for names of tables in [`function`]s, everywhere in `statement`.
pub(super) fn rewrite(statement: &mut Statement) -> Result<()> {
    let flow = match statement {
        Statement::Statement(statement) => statement.visit(&mut Rewrite),
        Statement::Explain(explain) => return rewrite(&mut explain.statement),
        // None of these is a query.
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => return Ok(()),
    };
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = DataFusionError;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataFusionError> {
        select.from.iter_mut().for_each(bracket);
        ControlFlow::Continue(())
    }

    /// Before what is in it is visited, so that this is visited too.
    fn pre_visit_table_factor(&mut self, relation: &mut TableFactor) -> ControlFlow<DataFusionError> {
        match function::name_tables(relation) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_table_factor(&mut self, relation: &mut TableFactor) -> ControlFlow<DataFusionError> {
        match relation {
            TableFactor::NestedJoin { table_with_joins, .. } if !is_chain(table_with_joins) => {
                bracket(table_with_joins);
            }
            _ => (),
        }
        ControlFlow::Continue(())
    }
}

fn is_as_of(join: &Join) -> bool {
    matches!(join.join_operator, JoinOperator::AsOf { .. })
}

/// Whether there are as-of joins and no others in `table`.
fn is_chain(table: &TableWithJoins) -> bool {
    !table.joins.is_empty() && table.joins.iter().all(is_as_of)
}

/// Puts brackets around each run of as-of joins with what stands before it.
fn bracket(table: &mut TableWithJoins) {
    if !table.joins.iter().any(is_as_of) {
        return;
    }
    let mut relation = table.relation.clone();
    let mut run: Vec<Join> = Vec::new();
    let mut is_run_as_of = false;
    for join in std::mem::take(&mut table.joins) {
        if is_as_of(&join) != is_run_as_of {
            relation = bracketed(relation, std::mem::take(&mut run));
            is_run_as_of = !is_run_as_of;
        }
        run.push(join);
    }
    if is_run_as_of {
        relation = bracketed(relation, std::mem::take(&mut run));
    }
    *table = TableWithJoins { relation, joins: run };
}

fn bracketed(relation: TableFactor, joins: Vec<Join>) -> TableFactor {
    if joins.is_empty() {
        return relation;
    }
    let table_with_joins = Box::new(TableWithJoins { relation, joins });
    TableFactor::NestedJoin { table_with_joins, alias: None }
}

/// Plans what [`rewrite`] has prepared.
#[derive(Debug)]
struct Relations;

impl RelationPlanner for Relations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (plan, alias) = match relation {
            TableFactor::NestedJoin { table_with_joins, alias } if is_chain(&table_with_joins) => {
                (join::plan(*table_with_joins, context)?, alias)
            }
            TableFactor::Table { name, args: Some(arguments), alias, .. } if function::is_called(&name) => {
                (function::plan(arguments.args, context)?, alias)
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}
