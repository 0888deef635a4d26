//! Why there is no answer, in the words of no protocol.

use std::error::Error as StdError;

use datafusion::error::DataFusionError;
use tracing::warn;

use crate::error::Error;
use crate::query::{LimitReached, failed};

/// Why a question has no answer. Each protocol has its own codes for these. The message is for the person who asks; it names
/// neither secrets, nor places in a cloud, nor what the caller may not know of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No token, or one that is not valid here: show another.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller is known and may not do this: ask whoever gives out roles.
    #[error("{0}")]
    Forbidden(String),
    /// The question is wrong: change it.
    #[error("{0}")]
    Wrong(String),
    /// What is asked for does not exist, or the caller may not know that it does.
    #[error("{0}")]
    NotFound(String),
    /// A limit was reached: ask for less, or later.
    #[error("{message}")]
    TooMuch {
        /// The limit, by its name in the specification.
        limit: &'static str,
        /// What it is and what would help.
        message: String,
    },
    /// No cloud can answer now, or not with a version that new: try again.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours, or of what is stored: report it.
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// One word for it, for metrics and logs.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Forbidden(_) => "forbidden",
            Self::Wrong(_) => "wrong",
            Self::NotFound(_) => "not_found",
            Self::TooMuch { .. } => "too_much",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }
}

/// What the metrics call a query that ended so.
pub(super) fn outcome_of(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => "too_much",
        DataFusionError::External(cause) if cause.is::<LimitReached>() => "too_much",
        DataFusionError::Plan(_) | DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => "wrong",
        _ => "unavailable",
    }
}

impl From<LimitReached> for Refusal {
    fn from(LimitReached { limit, message }: LimitReached) -> Self {
        Self::TooMuch { limit, message }
    }
}

/// What stopped a query among its rows.
impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Self {
        failed(&[], error).into()
    }
}

/// What is the caller's is said to the caller; the rest is logged, and said in general.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if is_of_memory(&error) {
            let message =
                "the query needs more memory than it may have: select fewer columns or rows, or aggregate";
            return Self::TooMuch { limit: "memory", message: message.to_owned() };
        }
        match error {
            Error::Configuration(text) => Self::Wrong(text),
            Error::Limit { limit, message } => Self::TooMuch { limit, message },
            Error::NoMajority { ref action, .. } => {
                warn!(error = crate::chain_of(&error), "a question cannot be answered");
                Self::Unavailable(format!("no cloud can {action} now; try again"))
            }
            Error::Store { ref action, .. } => {
                warn!(error = crate::chain_of(&error), "a question cannot be answered");
                Self::Unavailable(format!("no cloud could {action}; try again"))
            }
            error => {
                tracing::error!(error = crate::chain_of(&error), "a question cannot be answered");
                Self::Internal("the server cannot answer this; its log says why".to_owned())
            }
        }
    }
}

/// Whether a query was not given the memory or the disk that it asked for.
fn is_of_memory(error: &Error) -> bool {
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(error) = cause {
        if let Some(DataFusionError::ResourcesExhausted(_)) = error.downcast_ref::<DataFusionError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_callers_is_said_in_general() {
        let secret = "https://bucket.example/?sig=hunter2";
        let source = object_store::Error::Generic { store: "s3", source: secret.into() };
        let store = Error::Store { cloud: "aws".into(), action: "run the query".into(), source };
        let away = Error::no_majority("read table d", 1, 1, vec![secret.to_owned()]);
        let damaged = Error::damaged("the log", secret);
        for error in [store, away, damaged] {
            let refusal = Refusal::from(error);
            assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
            assert!(["unavailable", "internal"].contains(&refusal.outcome()), "{refusal:?}");
        }
        let wrong = Refusal::from(Error::Configuration("no column x".into()));
        assert_eq!(wrong, Refusal::Wrong("no column x".into()));
    }

    #[test]
    fn limits_are_told_from_faults() {
        let reached = LimitReached { limit: "rows", message: "too many".into() };
        let error = DataFusionError::External(Box::new(reached)).context("while sending");
        assert_eq!(outcome_of(&error), "too_much");
        assert_eq!(Refusal::from(error), Refusal::TooMuch { limit: "rows", message: "too many".into() });
        let memory = DataFusionError::ResourcesExhausted("12 bytes of a pool".into()).context("sorting");
        assert!(matches!(Refusal::from(memory), Refusal::TooMuch { limit: "memory", .. }));
        let division = arrow::error::ArrowError::DivideByZero;
        assert!(matches!(Refusal::from(DataFusionError::from(division)), Refusal::Wrong(_)));
    }
}
