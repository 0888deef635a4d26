//! Which file answered, as columns: the same in every row.

use std::sync::Mutex;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::error::Result;

use super::predictors::locked;

/// Rows up to which columns are kept: what DataFusion has in a batch.
const ROWS_KEPT_MAX: usize = 8192;

/// What is said of a model in each row. Rows are written once for all batches of about the same size. A part of many more rows than
/// asked for would be counted as the memory of all of them.
#[derive(Debug)]
pub(super) struct Identity {
    values: [ScalarValue; 4],
    kept: Mutex<Option<Columns>>,
}

/// `model`, `version`, `sha256` and `features`.
pub(super) type Columns = [ArrayRef; 4];

impl Identity {
    pub(super) fn new(model: &str, version: u64, sha256: &str, features: Option<&str>) -> Self {
        let values = [
            ScalarValue::from(model),
            ScalarValue::Int64(i64::try_from(version).ok()),
            ScalarValue::from(sha256),
            ScalarValue::Utf8(features.map(str::to_owned)),
        ];
        Self { values, kept: Mutex::new(None) }
    }

    /// The columns for `rows` rows.
    pub(super) fn columns(&self, rows: usize) -> Result<Columns> {
        if rows > ROWS_KEPT_MAX {
            return self.written(rows);
        }
        let mut kept = locked(&self.kept);
        let columns = match kept.take() {
            Some(columns) if (rows..=rows.saturating_mul(2)).contains(&columns[0].len()) => columns,
            _ => self.written(rows)?,
        };
        let columns = kept.insert(columns);
        Ok(columns.each_ref().map(|column| column.slice(0, rows)))
    }

    fn written(&self, rows: usize) -> Result<Columns> {
        let [model, version, sha256, features] = &self.values;
        let written = |value: &ScalarValue| value.to_array_of_size(rows);
        Ok([written(model)?, written(version)?, written(sha256)?, written(features)?])
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn every_row_says_the_same_whatever_was_asked_before() {
        let identity = Identity::new("delay", 3, "c0ffee", None);
        for rows in [2, 5, 1, 0, ROWS_KEPT_MAX + 1, 3] {
            let [model, version, sha256, features] = identity.columns(rows).unwrap();
            assert_eq!([model.len(), version.len(), sha256.len(), features.len()], [rows; 4]);
            assert!(model.as_string::<i32>().iter().all(|said| said == Some("delay")));
            assert!(version.as_primitive::<Int64Type>().iter().all(|said| said == Some(3)));
            assert!(sha256.as_string::<i32>().iter().all(|said| said == Some("c0ffee")));
            assert_eq!(features.null_count(), rows);
        }
    }
}
