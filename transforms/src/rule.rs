//! Names under which isobar itself rejects rows.

use datafusion::error::DataFusionError;

use crate::error::message_of;

/// The rule of rows that an expression of the query, or the check of an expectation, failed on.
pub const SQL_ERROR: &str = "sql_error";
/// The rule of rows that a model could not score.
pub const PREDICT_ERROR: &str = "predict_error";
/// The rule of rows that a model had no answer for in time.
pub const PREDICT_TIMEOUT: &str = "predict_timeout";

/// Rules that no expectation may have the name of, beside the reasons of a decoder.
pub const RULES_OF_SQL: [&str; 3] = [SQL_ERROR, PREDICT_ERROR, PREDICT_TIMEOUT];

/// The error of a function that says itself under which rule its row is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuleError {
    /// The rule, one of [`RULES_OF_SQL`].
    pub rule: &'static str,
    /// Why, in words.
    pub message: String,
}

/// The rule of a row that failed with `error`, and why it did.
pub(crate) fn rule_of(error: &DataFusionError) -> (&'static str, String) {
    let rule = match error.find_root() {
        DataFusionError::External(source) => source.downcast_ref::<RuleError>().map(|error| error.rule),
        _ => None,
    };
    (rule.unwrap_or(SQL_ERROR), message_of(error))
}
