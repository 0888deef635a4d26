//! Accepted gaps: offsets that Kafka lost before they were read, and that a person has decided to go on without.
//!
//! An ordinary body with one offset range of no records. Who reads the table's history sees it: `operation` is
//! `ACCEPT GAP`, and `operationParameters` holds `topic`, `partition`, `from`, `to` (the next offset to read) and `reason`,
//! all text, numbers in decimal digits.

use std::collections::BTreeMap;

use super::actions::CommitInfo;
use crate::Error;

const ACCEPT_GAP: &str = "ACCEPT GAP";

/// Longest reason, bytes.
pub const REASON_BYTES_MAX: usize = 1000;

/// Offsets `[from, to)` of a partition that are in no version, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedGap {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first offset that is missing.
    pub from: i64,
    /// The next offset to read.
    pub to: i64,
    /// Why somebody went on without them, in their words.
    pub reason: String,
}

impl AcceptedGap {
    /// The name of the operation.
    pub const OPERATION: &'static str = ACCEPT_GAP;

    /// The parameters of the operation.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        [
            ("topic", self.topic.clone()),
            ("partition", self.partition.to_string()),
            ("from", self.from.to_string()),
            ("to", self.to.to_string()),
            ("reason", self.reason.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The gap that a body with this `commitInfo` accepts, `None` for one that accepts none.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the parameters are not exactly those of the operation.
    pub fn of(info: &CommitInfo) -> Result<Option<Self>, Error> {
        if info.operation != ACCEPT_GAP {
            return Ok(None);
        }
        let refuse = || Error::LogEntry(format!("parameters of {ACCEPT_GAP}"));
        let text = |name: &str| info.operation_parameters.get(name).ok_or_else(refuse);
        let number = |name: &str| text(name)?.parse::<i64>().map_err(|_| refuse());
        let gap = Self {
            topic: text("topic")?.clone(),
            partition: text("partition")?.parse().map_err(|_| refuse())?,
            from: number("from")?,
            to: number("to")?,
            reason: text("reason")?.clone(),
        };
        // One spelling, so that the same gap is the same bytes.
        if gap.parameters() != info.operation_parameters || gap.from >= gap.to || !is_reason(&gap.reason) {
            return Err(refuse());
        }
        Ok(Some(gap))
    }
}

/// Whether `text` can be the reason of a gap: something, on one line, that fits.
pub fn is_reason(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= REASON_BYTES_MAX && !text.chars().any(char::is_control)
}
