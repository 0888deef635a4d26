//! Finding the rows that an expression fails on.
//!
//! DataFusion evaluates an expression on whole batches, so one bad row fails them all. [`isolate`] evaluates ever
//! smaller parts until each part is good or is a single row. A row's fate is then what the row gives by itself, however
//! rows were cut into batches: a part that succeeds gives each of its rows the value it has alone.

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;

use crate::error::Error;

/// Parts of this many rows or fewer are not halved again, but evaluated row by row.
const PART_ROWS_MIN: usize = 8;

/// Evaluates `batch`, and ever smaller parts of it where that fails. Calls `found` with each part, by its first row
/// and its number of rows, and its result, in the order of rows; a part that failed is one row.
///
/// Costs at most about `log2(rows)` evaluations of the whole batch, and two per row of overhead, if every row fails.
///
/// # Errors
/// If an evaluation fails for a reason that is not in the rows.
pub(crate) fn isolate<T>(
    batch: &RecordBatch,
    evaluate: &mut impl FnMut(RecordBatch) -> Result<T, DataFusionError>,
    found: &mut impl FnMut(usize, usize, Result<T, DataFusionError>),
) -> Result<(), Error> {
    // Parts still to be evaluated, the next one last.
    let mut parts = vec![(0, batch.num_rows())];
    while let Some((start, rows)) = parts.pop() {
        if rows == 0 {
            continue;
        }
        match evaluate(batch.slice(start, rows)) {
            Err(error) if !is_in_a_row(&error) => return Err(Error::execution(error)),
            Err(_) if rows > PART_ROWS_MIN => {
                let half = rows / 2;
                parts.extend([(start + half, rows - half), (start, half)]);
            }
            Err(_) if rows > 1 => parts.extend((start..start + rows).rev().map(|row| (row, 1))),
            result => found(start, rows, result),
        }
    }
    Ok(())
}

/// Whether an error can come from what is in a row. The others would come again with every row, or not come again.
pub(crate) fn is_in_a_row(error: &DataFusionError) -> bool {
    !matches!(
        error.find_root(),
        DataFusionError::ResourcesExhausted(_)
            | DataFusionError::IoError(_)
            | DataFusionError::ExecutionJoin(_)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch(values: Vec<i32>) -> RecordBatch {
        RecordBatch::try_from_iter([("v", Arc::new(Int32Array::from(values)) as _)]).unwrap()
    }

    /// Fails on any batch with a negative value, otherwise sums.
    fn evaluate(batch: RecordBatch) -> Result<i32, DataFusionError> {
        let values = batch.column(0).as_primitive::<Int32Type>().values();
        match values.iter().find(|value| **value < 0) {
            Some(value) => Err(DataFusionError::Execution(value.to_string())),
            None => Ok(values.iter().sum()),
        }
    }

    #[test]
    fn every_row_is_in_one_part_and_every_failed_part_is_one_row() {
        for rows in [0, 1, 2, 7, 8, 9, 100, 1000] {
            for every in [1, 2, 3, 50, 10_000] {
                let values: Vec<i32> =
                    (0..rows).map(|row| if row % every == every - 1 { -row - 1 } else { row }).collect();
                let (mut next, mut sum, mut failed) = (0, 0, Vec::new());
                isolate(&batch(values.clone()), &mut evaluate, &mut |start, rows, result| {
                    assert_eq!(start, next);
                    next += rows;
                    match result {
                        Ok(part) => sum += part,
                        Err(error) => {
                            assert_eq!(rows, 1);
                            failed.push((start, error.message().into_owned()));
                        }
                    }
                })
                .unwrap();
                assert_eq!(next, rows as usize);
                assert_eq!(sum, values.iter().filter(|value| **value >= 0).sum::<i32>());
                let bad = values.iter().enumerate().filter(|(_, value)| **value < 0);
                assert_eq!(failed, bad.map(|(row, value)| (row, value.to_string())).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_cost_of_nothing_but_garbage_is_bounded() {
        let (mut calls, mut rows_seen) = (0, 0);
        let count = &mut |batch: RecordBatch| {
            calls += 1;
            rows_seen += batch.num_rows();
            evaluate(batch)
        };
        isolate(&batch(vec![-1; 8192]), count, &mut |_, _, _| {}).unwrap();
        assert!(calls <= 2 * 8192, "{calls}");
        assert!(rows_seen <= 13 * 8192, "{rows_seen}");
    }

    #[test]
    fn an_error_that_is_not_in_a_row_stops() {
        let fail = &mut |_| Err::<(), _>(DataFusionError::ResourcesExhausted("memory".into()));
        assert!(isolate(&batch(vec![1, 2]), fail, &mut |_, _, _| panic!("not a row's fate")).is_err());
    }
}
