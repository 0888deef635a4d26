//! What is asked and answered, in the words of neither HTTP nor gRPC.

use super::keys::EntityKeys;
use super::tensor::Tensor;

/// The parameter with the keys of entities.
pub(super) const ENTITY_KEYS: &str = "entity_keys";
/// The parameter that says that a tensor lies in memory that is shared.
pub(super) const SHARED_MEMORY: &str = "shared_memory_region";
/// The parameter that asks for classes instead of an output.
pub(super) const CLASSIFICATION: &str = "classification";
/// Most tensors of a request.
pub(super) const TENSORS_MAX: usize = 10_000;

/// A request.
#[derive(Debug, Clone, Default)]
pub(super) struct InferRequest {
    /// The model.
    pub(super) model: String,
    /// A number or an alias; empty: the champion.
    pub(super) version: String,
    /// What the answer repeats.
    pub(super) id: String,
    /// Keys of entities, one per row.
    pub(super) entity_keys: Option<EntityKeys>,
    pub(super) inputs: Vec<Tensor>,
    /// The outputs wanted; all if there are none here.
    pub(super) outputs: Vec<String>,
}

impl InferRequest {
    /// How many rows it has, as the first that has rows says.
    pub(super) fn rows(&self) -> usize {
        let of_keys = self.entity_keys.as_ref().map(|keys| keys.rows);
        of_keys.or_else(|| self.inputs.first().map(Tensor::rows)).unwrap_or_default()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InferAnswer {
    pub(super) model: String,
    pub(super) version: u64,
    pub(super) id: String,
    /// What the answer is of, by name.
    pub(super) parameters: Vec<(String, Parameter)>,
    pub(super) outputs: Vec<Tensor>,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parameter {
    Number(i64),
    Text(String),
}

impl Parameter {
    /// A number that is never negative.
    pub(super) fn count(count: u64) -> Self {
        Self::Number(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
