//! Pure work on Arrow batches: SQL, expectations and the point-in-time join. No clock, no randomness, and no I/O but for the
//! temporary files of a join that does not fit into memory, which DataFusion opens: the same rows give the same bytes
//! whenever and wherever they run.

mod checked;
pub mod condition;
pub mod error;
pub mod expectations;
pub mod floats;
pub mod headers;
mod normalize;
pub mod point_in_time;
mod query;
mod rows;
pub mod rule;
mod scan;
mod sql;
pub mod transform;

pub use condition::Condition;
pub use error::{Error, Location};
pub use expectations::{Action, Expectation};
pub use headers::header_function;
pub use rule::{PREDICT_ERROR, PREDICT_TIMEOUT, RULES_OF_SQL, RuleError, SQL_ERROR};
pub use transform::{DatasetTransform, FailedRow, RowReject, TransformOutcome, TransformSpec};
