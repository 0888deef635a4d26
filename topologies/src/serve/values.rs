//! Values that a query makes much longer than what it reads.
//!
//! The engine makes a value whole before anybody can count it, and some functions make one of any length of a number: with
//! `repeat('x', 2000000000)` or `range(1, 10000000000)` a single row would take the process down. So these numbers have to be
//! constants, and small ones. It is no bound on what a query can build in several steps: that is what the
//! operating system's limits are for.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan};

use super::Refusal;

/// The largest such number.
const LENGTH_MAX: i128 = 10_000;

/// How the arguments of a function say how long its value becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// The second one is the length, or how often the first is repeated.
    Second,
    /// It is from the first to the second, in steps of the third.
    Span,
}

fn length_of(function: &str) -> Option<Length> {
    match function {
        "repeat" | "lpad" | "rpad" | "array_repeat" | "array_resize" => Some(Length::Second),
        "range" | "generate_series" => Some(Length::Span),
        _ => None,
    }
}

/// Refuses a plan that makes a long value of a number.
///
/// # Errors
/// [`Refusal::TooMuch`] names the function.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), Refusal> {
    let mut refused = None;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                refused = refused.take().or_else(|| refuse(part));
                Ok(match refused {
                    Some(_) => TreeNodeRecursion::Stop,
                    None => TreeNodeRecursion::Continue,
                })
            })
        })
    });
    match (refused, visited) {
        (Some(function), _) => Err(too_long(&function)),
        (None, Ok(_)) => Ok(()),
        (None, Err(error)) => Err(Refusal::Wrong(error.strip_backtrace())),
    }
}

/// The function that makes too much of `expr`, if it is one.
fn refuse(expr: &Expr) -> Option<String> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let length = match length_of(func.name())? {
        Length::Second => args.get(1).and_then(number),
        Length::Span => span(args),
    };
    let is_short = length.is_some_and(|length| length <= LENGTH_MAX);
    (!is_short || args.iter().any(makes_long_values)).then(|| func.name().to_owned())
}

/// Whether such a function is in `expr`: their lengths would be multiplied.
fn makes_long_values(expr: &Expr) -> bool {
    let found = expr.exists(|part| match part {
        Expr::ScalarFunction(function) => Ok(length_of(function.func.name()).is_some()),
        _ => Ok(false),
    });
    found.unwrap_or(true)
}

/// How many numbers there are between constants.
fn span(args: &[Expr]) -> Option<i128> {
    let numbers: Vec<i128> = args.iter().map(number).collect::<Option<_>>()?;
    let (start, stop, step) = match numbers.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] if *step != 0 => (*start, *stop, *step),
        _ => return None,
    };
    Some((stop - start).abs() / step.abs() + 1)
}

/// The whole number that a constant is.
fn number(expr: &Expr) -> Option<i128> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(number) => Some(i128::from(number.unwrap_or_default())),
            _ => None,
        },
        Expr::Negative(inner) => number(inner).map(|number| -number),
        Expr::Cast(Cast { expr, .. }) => number(expr),
        Expr::Alias(alias) => number(&alias.expr),
        _ => None,
    }
}

fn too_long(function: &str) -> Refusal {
    let message = format!(
        "`{function}` makes a value of any length of a number: that number has to be a constant of at most {LENGTH_MAX}, not in another \
         such function; rows of numbers come from `generate_series` in FROM"
    );
    Refusal::TooMuch { limit: "memory", message }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn checked(sql: &str) -> Result<(), Refusal> {
        let plan = SessionContext::new().state().create_logical_plan(sql).await;
        check(&plan.unwrap_or_else(|error| panic!("{sql}: {error}")))
    }

    #[tokio::test]
    async fn lengths_are_small_constants() {
        for sql in [
            "SELECT repeat('x', 10000)",
            "SELECT lpad('x', 10), rpad('x', 10, 'y')",
            "SELECT range(1, 10001), range(5), range(10, -5, -1)",
            "SELECT array_resize([1], 3), array_repeat(1, CAST(3 AS BIGINT))",
            "SELECT value FROM generate_series(1, 10000000000)",
            "SELECT repeat('x', NULL)",
        ] {
            checked(sql).await.unwrap_or_else(|refusal| panic!("{sql}: {refusal}"));
        }
        for sql in [
            "SELECT repeat('x', 2000000000)",
            "SELECT repeat('x', 10001)",
            "SELECT repeat('x', value) FROM generate_series(1, 3)",
            "SELECT repeat('x', 1000 * 1000 * 1000)",
            "SELECT repeat(repeat('x', 10000), 10000)",
            "SELECT lpad('x', 10000 + 1)",
            "SELECT rpad('x', 20000, 'y')",
            "SELECT range(1, 10000000000)",
            "SELECT generate_series(1, 10000000000)",
            "SELECT range(-9223372036854775807, 9223372036854775807)",
            "SELECT array_repeat(1, 1000000000), 1",
            "SELECT array_resize([1], 1000000000)",
            "SELECT 1 WHERE length(repeat('x', 2000000000)) > 0",
            "SELECT (SELECT max(length(repeat('x', 2000000000))))",
            "EXPLAIN SELECT repeat('x', 2000000000)",
            "SELECT count(*) FROM generate_series(1, 3) AS a JOIN generate_series(1, 3) AS b ON repeat('x', 20000) = ''",
        ] {
            let refused = checked(sql).await.expect_err(sql);
            assert!(matches!(refused, Refusal::TooMuch { limit: "memory", .. }), "{sql}: {refused:?}");
        }
    }
}
