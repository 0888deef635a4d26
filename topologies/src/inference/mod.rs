//! Models that answer: ONNX graphs on ONNX Runtime.
//!
//! ```text
//! columns ─▶ matrix (or one tensor per feature) ─▶ ONNX Runtime ─▶ a value per row and, of classifiers, a label
//! ```
//!
//! The library is loaded from a path of the configuration; nothing of it is linked or downloaded. A model is bytes from the
//! [registry](crate::models): what they claim is checked and bounded before ONNX Runtime sees them, and what they answer is
//! checked against their signature. An error names the model's part that is wrong; none of them ends the process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Float64Array, Int64Array, RecordBatch};

use crate::models::Signature;

/// The environment variable with the path of ONNX Runtime's library, where the specification has none.
pub const LIBRARY_VARIABLE: &str = "ISOBAR_ONNXRUNTIME";

/// The library, loaded once per process: every further one is the first.
#[derive(Clone)]
pub struct Runtime {
    path: PathBuf,
}

/// What a model may cost.
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

/// One model, ready to answer. Cheap to clone. [`run`](Self::run) may be called from many threads, and belongs on one that
/// may be blocked.
#[derive(Clone)]
pub struct Session {
    signature: Signature,
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
#[derive(Debug, thiserror::Error)]
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

impl Runtime {
    /// Loads the library from `path`, or else from [`LIBRARY_VARIABLE`].
    ///
    /// # Errors
    /// [`Error::Library`] if it is not there, is no ONNX Runtime, or too old.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let _ = path;
        Err(Error::Library("not written yet".to_owned()))
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Session {
    /// Loads `onnx`, whose inputs and outputs must be those of `signature`.
    ///
    /// # Errors
    /// [`Error::Model`] if the file is damaged, claims more than `limits` allow, or has other inputs and outputs.
    pub fn new(
        runtime: &Runtime,
        onnx: &[u8],
        signature: &Signature,
        limits: &InferenceLimits,
    ) -> Result<Self, Error> {
        let _ = (runtime, onnx, signature, limits);
        Err(Error::Model("not written yet".to_owned()))
    }

    /// Scores `features`: one column per feature, in the order of the manifest, one row per element.
    ///
    /// # Errors
    /// [`Error::Features`] for other columns, [`Error::Row`] for the first row that cannot be scored, [`Error::TimedOut`] and
    /// [`Error::Run`].
    pub fn run(&self, features: &RecordBatch) -> Result<Predictions, Error> {
        let _ = (features, &self.signature);
        Err(Error::Run("not written yet".to_owned()))
    }
}
