//! A condition that selects rows of a table, as in `WHERE`.
//!
//! It is an expression of what a stream can run ([`sql`](crate::sql)): one row at a time, the same rows whenever it runs,
//! no subqueries and no other tables. So it cannot do anything but select, and costs no more than the rows it is given.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::PhysicalExpr;

use crate::checked::checked_expression;
use crate::error::{Error, message_of};
use crate::rows::is_in_a_row;
use crate::sql::SqlSession;

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    expression: Arc<dyn PhysicalExpr>,
}

impl Condition {
    /// Compiles `sql`, a condition over the columns `schema` of `table`.
    ///
    /// # Errors
    /// If `sql` is no condition, or needs more than one row.
    pub fn compile(table: &str, schema: &SchemaRef, sql: &str) -> Result<Self, Error> {
        let session = SqlSession::new(table, schema.clone())?;
        // By itself first, because of the places in what is said about it. Then in brackets, as it is used.
        session.condition(sql)?;
        let condition = session.condition(&in_brackets(sql))?;
        let columns = DFSchema::try_from_qualified_schema(table, schema).map_err(Error::execution)?;
        let expression = session
            .state()
            .create_physical_expr(condition, &columns)
            .and_then(checked_expression)
            .map_err(Error::invalid_sql)?;
        let data_type = expression.data_type(schema).map_err(Error::invalid_sql)?;
        if data_type != DataType::Boolean {
            let message = format!("a condition is wanted, but `{sql}` is of type {data_type}");
            return Err(Error::InvalidSql { location: None, message });
        }
        Ok(Self { expression })
    }

    /// Whether each row of `batch` is selected. A row for which the condition is NULL is not.
    ///
    /// # Errors
    /// [`Error::InvalidSql`] if the condition fails on a row: nothing may be selected by it then.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, Error> {
        let evaluated =
            self.expression.evaluate(batch).and_then(|values| values.into_array(batch.num_rows())).map_err(
                |error| match is_in_a_row(&error) {
                    true => Error::InvalidSql { location: None, message: message_of(&error) },
                    false => Error::execution(error),
                },
            )?;
        let matches = as_boolean_array(&evaluated).map_err(Error::execution)?;
        // The function takes no array without nulls.
        Ok(if matches.null_count() > 0 { prep_null_mask_filter(matches) } else { matches.clone() })
    }
}

/// The condition `sql` as a part of a larger text: brackets end a comment, and keep its operators together.
pub fn in_brackets(sql: &str) -> String {
    format!("({sql}\n)")
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("rule", Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("a")])) as _),
            ("offset", Arc::new(Int64Array::from(vec![1, 2, 3, 4])) as _),
            (
                "payload",
                Arc::new(BinaryArray::from_opt_vec(vec![Some(b"x"), None, Some(b"\xff"), None])) as _,
            ),
        ])
        .unwrap()
    }

    fn selected(sql: &str) -> Result<Vec<usize>, Error> {
        let batch = batch();
        let matches = Condition::compile("q", &batch.schema(), sql)?.matches(&batch)?;
        assert_eq!(matches.null_count(), 0);
        Ok((0..matches.len()).filter(|row| matches.value(*row)).collect())
    }

    #[test]
    fn rows_are_selected_as_in_where() {
        assert_eq!(selected("rule = 'a'").unwrap(), [0, 3]);
        assert_eq!(selected("rule <> 'a'").unwrap(), [2]);
        assert_eq!(selected("\"offset\" >= 3 AND q.rule IS NOT NULL -- a comment").unwrap(), [2, 3]);
        assert_eq!(selected("offset BETWEEN 2 AND 3 OR rule IN ('a')").unwrap(), [0, 1, 2, 3]);
        assert_eq!(selected("payload IS NULL").unwrap(), [1, 3]);
        assert_eq!(selected("true").unwrap().len(), 4);
        assert_eq!(selected("NULL").unwrap_or_default(), [0; 0]);
    }

    #[test]
    fn what_is_no_condition_on_single_rows_is_refused() {
        for sql in [
            "",
            "rule",
            "nothing = 1",
            "rule = 'a' LIMIT 1",
            "rule = 'a'; DROP TABLE q",
            "rule IN (SELECT rule FROM q)",
            "EXISTS (SELECT 1)",
            "count(*) > 1",
            "row_number() OVER () > 1",
            "random() < 0.5",
            "true) UNION SELECT (true",
        ] {
            assert!(selected(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn a_condition_that_fails_on_a_row_selects_nothing() {
        assert!(matches!(selected("10 / (\"offset\" - 3) > 1"), Err(Error::InvalidSql { .. })));
        assert!(matches!(selected("CAST(rule AS BIGINT) = 1"), Err(Error::InvalidSql { .. })));
    }
}
