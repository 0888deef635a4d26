//! Records that cannot become a row: which one, why, and in words.

/// A record of a chunk that did not become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Index of the record in its chunk.
    pub record: u32,
    /// Why, as a fixed set that can be counted and queried.
    pub reason: RejectReason,
    /// Why, in words: the field, what was expected and what kind of value was found. Holds no text of the record
    /// but names of fields and short numbers, and is a function of the payload and the
    /// schemas alone.
    pub message: String,
}

/// Why a record did not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectReason {
    /// The record has no payload.
    Tombstone,
    /// The payload has no bytes.
    EmptyPayload,
    /// The payload is larger than the limit, or would become far more than it is.
    Oversize,
    /// The payload is not one whole value in its format, such as bad syntax, bad UTF-8, nested too deeply, cut short,
    /// or with more behind it.
    Undecodable,
    /// A value is of another kind than its field, such as a string where a number belongs.
    WrongType,
    /// A number does not fit its field's type.
    OutOfRange,
    /// A value of the right kind has no meaning in its field's type, such as the date `2013-02-30`.
    InvalidValue,
    /// A required field is missing.
    MissingField,
    /// A required field is null.
    NullField,
    /// The record has a field that the schema does not.
    UnknownField,
    /// The record has the same field twice.
    DuplicateField,
    /// The record names a schema that the registry does not have, or names none where it must.
    UnknownSchema,
    /// The record names a schema that cannot be read as the one wanted.
    IncompatibleSchema,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [RejectReason; 13] = [
        RejectReason::Tombstone,
        RejectReason::EmptyPayload,
        RejectReason::Oversize,
        RejectReason::Undecodable,
        RejectReason::WrongType,
        RejectReason::OutOfRange,
        RejectReason::InvalidValue,
        RejectReason::MissingField,
        RejectReason::NullField,
        RejectReason::UnknownField,
        RejectReason::DuplicateField,
        RejectReason::UnknownSchema,
        RejectReason::IncompatibleSchema,
    ];

    /// The reason's name in quarantine tables, metrics and commits. Never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Tombstone => "tombstone",
            RejectReason::EmptyPayload => "empty_payload",
            RejectReason::Oversize => "oversize",
            RejectReason::Undecodable => "undecodable",
            RejectReason::WrongType => "wrong_type",
            RejectReason::OutOfRange => "out_of_range",
            RejectReason::InvalidValue => "invalid_value",
            RejectReason::MissingField => "missing_field",
            RejectReason::NullField => "null_field",
            RejectReason::UnknownField => "unknown_field",
            RejectReason::DuplicateField => "duplicate_field",
            RejectReason::UnknownSchema => "unknown_schema",
            RejectReason::IncompatibleSchema => "incompatible_schema",
        }
    }
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with one record, on its way up from the value to the object around it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) reason: RejectReason,
    /// The field, from the outermost object down: `address.zip`, `tags[]`; empty for the record itself.
    path: String,
    problem: String,
}

/// The result of reading a part of a record. Boxed, so that the way of good records stays narrow.
pub(crate) type Parsed<T> = Result<T, Box<Fault>>;

/// Longest part of a name or number that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// Longest part of what a compiler of schemas says that a message repeats, in characters.
const EXCERPT_CHARS_MAX: usize = 200;

impl Fault {
    #[cold]
    pub(crate) fn new(reason: RejectReason, problem: impl Into<String>) -> Box<Self> {
        Box::new(Self { reason, path: String::new(), problem: problem.into() })
    }

    /// The fault seen from the object that holds the field `name`.
    #[cold]
    pub(crate) fn within(mut self: Box<Self>, name: &str) -> Box<Self> {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{}{separator}{}", shortened(name), self.path);
        self
    }

    /// The fault seen from the list that holds the element.
    #[cold]
    pub(crate) fn within_element(mut self: Box<Self>) -> Box<Self> {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[]{separator}{}", self.path);
        self
    }

    /// The fault with something more to know about it.
    pub(crate) fn noted(mut self: Box<Self>, note: &str) -> Box<Self> {
        self.problem = format!("{} ({note})", self.problem);
        self
    }

    /// The field and the problem.
    pub(crate) fn into_message(self) -> String {
        match self.path.as_str() {
            "" => self.problem,
            path => format!("field `{path}`: {}", self.problem),
        }
    }

    pub(crate) fn into_reject(self, record: u32) -> Reject {
        Reject { record, reason: self.reason, message: self.into_message() }
    }
}

/// `text`, cut to what a message may repeat.
pub(crate) fn shortened(text: &str) -> String {
    beginning(text, QUOTED_CHARS_MAX)
}

/// The beginning of what a compiler of schemas says, which may repeat a whole schema: with each record that names it.
pub(crate) fn excerpt(text: &str) -> String {
    beginning(text, EXCERPT_CHARS_MAX)
}

fn beginning(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
