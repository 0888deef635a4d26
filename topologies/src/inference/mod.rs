//! Models that answer: ONNX graphs on ONNX Runtime.
//!
//! ```text
//! columns ─▶ matrix (or one tensor per feature) ─▶ ONNX Runtime ─▶ a value per row and, of classifiers, a label
//! ```
//!
//! The library is loaded from a path of the configuration; nothing of it is linked or downloaded. A model is bytes from the
//! [registry](crate::models): what they claim is checked and bounded before ONNX Runtime sees them, and what they answer is
//! checked against their signature. An error names the model's part that is wrong; none of them ends the process.
//!
//! In SQL a model is the function `predict(…)`: [`Predictors`] has the models that a query calls and says which of them answer,
//! [`ModelStore`] brings them from the registry. [`docs/predict.md`](../../../docs/predict.md) is for users.

mod answers;
mod claims;
mod function;
mod identity;
mod idle;
mod matrix;
mod outputs;
mod predictors;
mod reference;
mod runtime;
mod session;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod watch;
mod watchdog;

use std::time::Duration;

use arrow::array::{Float64Array, Int64Array};

use crate::models::onnx::describe;
use crate::models::{ONNX_BYTES_MAX, Signature};

pub(crate) use self::matrix::{Elements, shape_text};
pub(crate) use self::outputs::{Output, is_given};
pub use self::predictors::{Bindings, Predictors};
pub use self::reference::{CHAMPION, Reference};
pub use self::runtime::{LIBRARY_VARIABLE, Runtime};
pub use self::session::{Prepared, Session};
pub(crate) use self::store::Bound;
pub use self::store::ModelStore;
pub(crate) use self::watch::{ModelWatch, bind_once};

/// What a model may cost, and what it may be given.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceLimits {
    /// Longest time for one call of [`Session::run`]. ONNX Runtime looks at it between the operators of a graph and between
    /// [`rows_per_run`](Self::rows_per_run), so an operator that has begun is finished.
    pub time_max: Duration,
    /// Largest ONNX file, and largest sum of the tensors that it holds or makes of nothing, in bytes.
    pub model_bytes_max: u64,
    /// Threads of one run.
    pub threads: usize,
    /// Runs of a model at the same time; each has the model in memory for itself.
    pub sessions: usize,
    /// Most rows that ONNX Runtime is given at a time.
    pub rows_per_run: usize,
    /// What a feature that is NULL means.
    pub nulls: Nulls,
    /// Whether a feature may be NaN.
    pub nan_allowed: bool,
}

impl Default for InferenceLimits {
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(10),
            model_bytes_max: ONNX_BYTES_MAX,
            threads: 1,
            sessions: 1,
            rows_per_run: 4096,
            nulls: Nulls::Refuse,
            nan_allowed: false,
        }
    }
}

/// What a feature that is NULL means.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Nulls {
    /// The row cannot be scored.
    #[default]
    Refuse,
    /// It is this value.
    Fill(f64),
    /// It is NaN, for models that know what to make of it.
    Nan,
}

/// What a model says of the rows given, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Of a classifier with two classes the probability of the second, with more classes that of the label; otherwise the
    /// value. Never null; a model that answers with float32 is widened.
    pub values: Float64Array,
    /// The class of each row, if the graph says it.
    pub labels: Option<Int64Array>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// ONNX Runtime is not there: install it and name its path.
    #[error("{0}")]
    Library(String),
    /// The file is no model that can be used: register another version.
    #[error("{0}")]
    Model(String),
    /// A row cannot be scored: mend the row, or say what NULL and NaN mean.
    #[error("{message}")]
    Row {
        /// Its index among the rows given, from 0.
        row: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The columns are not the features: fix the call.
    #[error("{0}")]
    Features(String),
    /// It took too long: ask for fewer rows, or raise the limit.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// ONNX Runtime failed: see what it says.
    #[error("{0}")]
    Run(String),
}

/// The inputs and outputs of an ONNX file, as a registry would say them.
///
/// # Errors
/// [`Error::Model`] if it is none that can be used.
pub fn signature_of(onnx: &[u8]) -> Result<Signature, Error> {
    describe(onnx).map(|described| described.signature).map_err(Error::Model)
}

#[cfg(test)]
mod tests;
