//! Why there is no answer, in the words of no protocol.

use crate::error::Error;

/// Why a question has no answer. Each protocol has its own codes for these; the message is for the person who asks, and
/// names neither secrets nor what the caller may not know of.
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

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let text = crate::chain_of(&error);
        match error {
            Error::Configuration(_) => Self::Wrong(text),
            Error::NoMajority { .. } | Error::Store { .. } | Error::Connector { .. } => {
                Self::Unavailable(text)
            }
            _ => Self::Internal(text),
        }
    }
}
