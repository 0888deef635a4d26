//! Pure work on Arrow batches: SQL and expectations. No I/O, no clock, no randomness: the same rows give the same
//! bytes whenever and wherever they run.

mod checked;
pub mod condition;
pub mod error;
pub mod expectations;
pub mod headers;
mod normalize;
mod query;
mod rows;
mod scan;
mod sql;
pub mod transform;

pub use condition::Condition;
pub use error::{Error, Location};
pub use expectations::{Action, Expectation};
pub use headers::header_function;
pub use transform::{DatasetTransform, FailedRow, RowReject, SQL_ERROR, TransformOutcome, TransformSpec};
