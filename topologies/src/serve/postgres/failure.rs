//! Why a message has no answer, in the words of PostgreSQL: a code of five characters (SQLSTATE) and a message.

use datafusion::error::DataFusionError;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::ErrorResponse;

use super::super::Refusal;
use crate::error::Error;
use crate::query::limit_of;

/// Codes of <https://www.postgresql.org/docs/16/errcodes-appendix.html>.
pub(super) mod code {
    pub(crate) const CONNECTION_FAILURE: &str = "08006";
    pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
    pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub(crate) const DATA_EXCEPTION: &str = "22000";
    pub(crate) const OUT_OF_RANGE: &str = "22003";
    pub(crate) const DATETIME_OVERFLOW: &str = "22008";
    pub(crate) const DIVISION_BY_ZERO: &str = "22012";
    pub(crate) const INVALID_PARAMETER_VALUE: &str = "22023";
    pub(crate) const NOT_IN_REPERTOIRE: &str = "22021";
    pub(crate) const INVALID_TEXT: &str = "22P02";
    pub(crate) const INVALID_BINARY: &str = "22P03";
    pub(crate) const UNTRANSLATABLE: &str = "22P05";
    pub(crate) const ACTIVE_TRANSACTION: &str = "25001";
    pub(crate) const READ_ONLY: &str = "25006";
    pub(crate) const NO_TRANSACTION: &str = "25P01";
    pub(crate) const FAILED_TRANSACTION: &str = "25P02";
    pub(crate) const NO_STATEMENT: &str = "26000";
    pub(crate) const NOT_AUTHORIZED: &str = "28000";
    pub(crate) const WRONG_PASSWORD: &str = "28P01";
    pub(crate) const NO_PORTAL: &str = "34000";
    pub(crate) const NO_SAVEPOINT: &str = "3B001";
    pub(crate) const SYNTAX_OR_ACCESS: &str = "42000";
    pub(crate) const FORBIDDEN: &str = "42501";
    pub(crate) const SYNTAX_ERROR: &str = "42601";
    pub(crate) const AMBIGUOUS_COLUMN: &str = "42702";
    pub(crate) const UNDEFINED_COLUMN: &str = "42703";
    pub(crate) const UNDEFINED_OBJECT: &str = "42704";
    pub(crate) const GROUPING: &str = "42803";
    pub(crate) const UNDEFINED_FUNCTION: &str = "42883";
    pub(crate) const UNDEFINED_TABLE: &str = "42P01";
    pub(crate) const DUPLICATE_STATEMENT: &str = "42P05";
    pub(crate) const INDETERMINATE_TYPE: &str = "42P18";
    pub(crate) const OUT_OF_MEMORY: &str = "53200";
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(crate) const CONFIGURED_LIMIT: &str = "53400";
    pub(crate) const PROGRAM_LIMIT: &str = "54000";
    pub(crate) const CANCELED: &str = "57014";
    pub(crate) const SHUTDOWN: &str = "57P01";
    pub(crate) const IDLE: &str = "57P05";
    pub(crate) const INTERNAL: &str = "XX000";
}

/// What the client is told instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The connection ends with it.
    pub(super) is_fatal: bool,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), is_fatal: false }
    }

    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self { is_fatal: true, ..Self::new(code, message) }
    }

    /// A message that is not what it must be; where the next one begins may be unknown.
    pub(super) fn malformed(what: &str) -> Self {
        Self::fatal(code::PROTOCOL_VIOLATION, format!("malformed message: {what}"))
    }

    pub(super) fn message(self) -> PgWireBackendMessage {
        let severity = if self.is_fatal { "FATAL" } else { "ERROR" };
        PgWireBackendMessage::ErrorResponse(ErrorResponse::new(vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.code.to_owned()),
            // Texts end at their first NUL here.
            (b'M', self.message.replace('\0', "\u{fffd}")),
        ]))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated(message) => Self::fatal(code::WRONG_PASSWORD, message),
            Refusal::Forbidden(message) => Self::new(code::FORBIDDEN, message),
            Refusal::NotFound(message) => Self::new(code::UNDEFINED_TABLE, message),
            Refusal::Wrong(message) => Self::new(code_of(&message), message),
            Refusal::TooMuch { limit, message } => Self::new(code_of_limit(limit), message),
            Refusal::Unavailable(message) => Self::new(code::CONNECTION_FAILURE, message),
            Refusal::Internal(message) => Self::new(code::INTERNAL, message),
        }
    }
}

/// A query of the catalog; those of tables go through [`Refusal`].
impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        if let Some(Error::Limit { limit, message }) = limit_of(&error) {
            return Self::new(code_of_limit(limit), message);
        }
        let message = error.strip_backtrace();
        Self::new(code_of(&message), message)
    }
}

/// What is wrong with a query, as closely as the text says. Programs see the code, people the message, which says it all.
fn code_of(message: &str) -> &'static str {
    let has = |text: &str| message.contains(text);
    if has("only queries are allowed") {
        code::READ_ONLY
    } else if has("ParserError") || has("TokenizerError") {
        code::SYNTAX_ERROR
    } else if message.starts_with("the query failed") {
        code_of_value(message)
    } else if has("Ambiguous reference") {
        code::AMBIGUOUS_COLUMN
    } else if has("must be in GROUP BY") {
        code::GROUPING
    } else if has("No field named") {
        code::UNDEFINED_COLUMN
    } else if has("Invalid function") {
        code::UNDEFINED_FUNCTION
    } else if has("not found") {
        code::UNDEFINED_TABLE
    } else {
        code::SYNTAX_OR_ACCESS
    }
}

/// What is wrong with a value, as arrow says it.
fn code_of_value(message: &str) -> &'static str {
    if message.contains("Divide by zero") {
        code::DIVISION_BY_ZERO
    } else if message.contains("Arithmetic overflow") {
        code::OUT_OF_RANGE
    } else if message.contains("Cannot cast string") {
        code::INVALID_TEXT
    } else {
        code::DATA_EXCEPTION
    }
}

/// Limits are named as in the specification.
fn code_of_limit(limit: &str) -> &'static str {
    match limit {
        "time" => code::CANCELED,
        "memory" => code::OUT_OF_MEMORY,
        "running" | "waiting" => code::CONFIGURED_LIMIT,
        _ => code::PROGRAM_LIMIT,
    }
}

/// Why the work on a message ended early.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The client can be told.
    Failed(Failure),
    /// It cannot.
    Gone(std::io::Error),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "{}: {}", failure.code, failure.message),
            Self::Gone(error) => write!(f, "{error}"),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Gone(error)
    }
}
