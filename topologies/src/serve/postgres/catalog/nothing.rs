//! Queries that have no rows, because a relation that never has one must be in each of them: there are no indexes, constraints,
//! policies, triggers, functions and the like here. Clients ask for them in ways that the planner often does not know; it need
//! not.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, JoinOperator, Query, Select, SelectItem,
    SetExpr, SetOperator, TableFactor, TableWithJoins, Visit, Visitor,
};

use super::contents::{is_always_null, is_empty as is_empty_relation, relation_of};
use super::rewrite::{folded, item_name, last};

/// Functions of many rows that have a result for none.
const AGGREGATES: [&str; 14] = [
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "max",
    "min",
    "string_agg",
    "sum",
];

/// Whether `query` cannot have a row. False where that is not sure.
pub(super) fn is_empty(query: &Query) -> bool {
    // A name that the query gives could be that of a relation.
    query.with.is_none() && is_empty_body(&query.body)
}

fn is_empty_body(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => is_empty_select(select),
        SetExpr::Query(query) => is_empty(query),
        SetExpr::SetOperation { left, op: SetOperator::Union, right, .. } => {
            is_empty_body(left) && is_empty_body(right)
        }
        SetExpr::SetOperation { left, op: SetOperator::Except, .. } => is_empty_body(left),
        SetExpr::SetOperation { left, op: SetOperator::Intersect, right, .. } => {
            is_empty_body(left) || is_empty_body(right)
        }
        _ => false,
    }
}

fn is_empty_select(select: &Select) -> bool {
    let is_grouped =
        matches!(&select.group_by, GroupByExpr::Expressions(by, more) if !by.is_empty() && more.is_empty());
    let is_aggregate = !is_grouped && (select.having.is_some() || has_aggregate(select));
    !is_aggregate
        && (select.from.iter().any(is_empty_table) || select.selection.as_ref().is_some_and(never_holds))
}

/// Whether a condition asks for a value of a column that never has one.
fn never_holds(condition: &Expr) -> bool {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => never_holds(left) || never_holds(right),
        Expr::Nested(inner) => never_holds(inner),
        Expr::IsNotNull(column) => is_null_column(column),
        _ => false,
    }
}

fn is_null_column(column: &Expr) -> bool {
    match column {
        Expr::Identifier(name) => is_always_null(&folded(name)),
        Expr::CompoundIdentifier(names) => names.last().is_some_and(|name| is_always_null(&folded(name))),
        _ => false,
    }
}

fn is_empty_table(table: &TableWithJoins) -> bool {
    let (mut is_empty, mut joins) = (is_empty_factor(&table.relation), table.joins.iter());
    joins.all(|join| {
        let right = is_empty_factor(&join.relation);
        match &join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => is_empty |= right,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => {}
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => is_empty = right,
            JoinOperator::FullOuter(_) => is_empty &= right,
            _ => {
                is_empty = false;
                return false;
            }
        }
        true
    });
    is_empty
}

fn is_empty_factor(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => relation_of(name).is_some_and(is_empty_relation),
        TableFactor::Table { name, args: Some(arguments), .. } => {
            let mut columns = arguments.args.iter().map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(column)) => is_null_column(column),
                _ => false,
            });
            last(name) == "unnest" && columns.all(|is_null| is_null)
        }
        TableFactor::UNNEST { array_exprs, .. } => array_exprs.iter().all(is_null_column),
        TableFactor::Derived { subquery, .. } => is_empty(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => is_empty_table(table_with_joins),
        _ => false,
    }
}

/// Whether the rows are taken together to one; what inner queries do with theirs is their own affair.
fn has_aggregate(select: &Select) -> bool {
    struct Find {
        depth: usize,
    }
    impl Visitor for Find {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            match expression {
                Expr::Function(function)
                    if self.depth == 0 && AGGREGATES.contains(&last(&function.name).as_str()) =>
                {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    select.projection.visit(&mut Find { depth: 0 }).is_break()
}

/// The names of the columns of `query`. Those of all columns of a relation are left out.
pub(super) fn names(query: &Query) -> Vec<String> {
    let mut body = &*query.body;
    loop {
        match body {
            SetExpr::Select(select) => {
                let named = select.projection.iter().filter(|item| {
                    !matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
                });
                return named.map(item_name).collect();
            }
            SetExpr::Query(inner) => body = &*inner.body,
            SetExpr::SetOperation { left, .. } => body = &**left,
            _ => return Vec::new(),
        }
    }
}
