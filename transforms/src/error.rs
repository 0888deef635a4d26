//! What can go wrong with a transform before the first row, and the few things that can go wrong later.
//!
//! A row that an expression fails on is not among them: it is a value
//! ([`RowReject`](crate::transform::RowReject)).

use std::fmt;

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer;

/// A place in a SQL text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl Location {
    /// The place sqlparser means, if it is one: it marks unknown places with zeros.
    pub(crate) fn known(location: tokenizer::Location) -> Option<Self> {
        (location.line > 0).then_some(Self { line: location.line, column: location.column })
    }
}

/// Shows as `line 2, column 7: `, or as nothing if the place is not known.
struct At(Option<Location>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Location { line, column }) => write!(f, "line {line}, column {column}: "),
            None => Ok(()),
        }
    }
}

/// An error of this crate. Each variant says who can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fix the SQL: it cannot be parsed, or uses a name or a type that does not fit.
    #[error("{}{message}", At(*location))]
    InvalidSql {
        /// Where, if known.
        location: Option<Location>,
        /// What is wrong.
        message: String,
    },
    /// Fix the SQL: it is valid, but not possible here.
    #[error("{}{what} is not possible here: {why}", At(*location))]
    Refused {
        /// Where, if known.
        location: Option<Location>,
        /// The part of the SQL that is refused.
        what: String,
        /// Why, and where there is one, the way out.
        why: &'static str,
    },
    /// Fix the SQL: a column of the result cannot be a column of a Delta table.
    #[error("output column `{column}`: {problem}")]
    OutputColumn {
        /// The column's name.
        column: String,
        /// Why not, and the way out.
        problem: String,
    },
    /// Fix the expectation: its name cannot be used.
    #[error("expectation `{name}`: {problem}")]
    ExpectationName {
        /// The name.
        name: String,
        /// Why not.
        problem: String,
    },
    /// Fix the expectation: its check is wrong.
    #[error("expectation `{name}`: check: {source}")]
    ExpectationCheck {
        /// The name.
        name: String,
        /// What is wrong with the check; places are counted from the beginning of the check.
        source: Box<Error>,
    },
    /// Report a bug: a batch has other columns than the transform was compiled for.
    #[error("a batch has the columns {found}, but the transform was compiled for {expected}")]
    ForeignBatch {
        /// The columns of the batch.
        found: String,
        /// The columns that the transform takes.
        expected: String,
    },
    /// Stop: running the plan failed for a reason that is not in a row, such as a lack of memory.
    #[error("run the plan")]
    Execution(#[source] Box<DataFusionError>),
}

impl Error {
    /// Where in the SQL, or in the check of an expectation, the error is.
    pub fn location(&self) -> Option<Location> {
        match self {
            Error::InvalidSql { location, .. } | Error::Refused { location, .. } => *location,
            Error::ExpectationCheck { source, .. } => source.location(),
            _ => None,
        }
    }

    pub(crate) fn execution(error: DataFusionError) -> Self {
        Error::Execution(Box::new(error))
    }

    /// An error of parsing or planning, with the place it speaks of.
    pub(crate) fn invalid_sql(error: DataFusionError) -> Self {
        if let DataFusionError::SQL(parser_error, _) = error.find_root() {
            return Self::syntax(parser_error);
        }
        let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
        let location = span.map(|span| Location { line: span.start.line, column: span.start.column });
        Error::InvalidSql { location, message: message_of(&error) }
    }

    /// sqlparser writes the place of an error at the end of its message, and only there.
    fn syntax(error: &ParserError) -> Self {
        let message = match error {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
            ParserError::RecursionLimitExceeded => "nested too deeply",
        };
        let (message, location) = match message.rsplit_once(" at Line: ") {
            Some((before, place)) => (before, parse_place(place)),
            None => (message, None),
        };
        Error::InvalidSql { location, message: message.to_owned() }
    }
}

/// Parses `1, Column: 8`.
fn parse_place(place: &str) -> Option<Location> {
    let (line, column) = place.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.parse().ok()? })
}

/// What DataFusion says, without the layers and the backtrace around it.
pub(crate) fn message_of(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::Collection(errors) if !errors.is_empty() => message_of(&errors[0]),
        DataFusionError::Diagnostic(_, inner) => message_of(inner),
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        root => {
            root.message().split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default().trim().to_owned()
        }
    }
}
