//! Redrive: entries that move rows out of a quarantine, some of them into its dataset.
//!
//! One decision has two of them, both with the operation `REDRIVE`. Their parameters stand where any Delta reader
//! shows them; all values are text, in decimal digits:
//!
//! | body of | parameters | actions | `rows` of `commitInfo` |
//! |---|---|---|---|
//! | the dataset | `rows`: taken out of the quarantine | `add` | what became of them |
//! | the quarantine | `after`, `kept`, `rows` | `remove`, `add` | those rejected again, as in any commit |
//!
//! Files of the quarantine are replaced whole: the files removed hold `rows` and `kept` rows together, the files added
//! hold those kept and those rejected again. `after` is the fence of [`CommitInfo::planned_after`]: what makes it
//! impossible to take a row twice.

use std::collections::BTreeMap;

use super::actions::CommitInfo;
use crate::Error;

const REDRIVE: &str = "REDRIVE";

/// What one of the two entries of a redrive does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redrive {
    /// In the dataset: rows come from its quarantine.
    Landed {
        /// Rows taken out of the quarantine, whatever became of them.
        rows: u64,
    },
    /// In the quarantine: rows leave it.
    Taken {
        /// Version of the last entry before this one that removed files or let them go, 0 where there was none.
        after: u64,
        /// Rows that were not selected, and only move to another file.
        kept: u64,
        /// Rows taken out, those that are rejected again included.
        rows: u64,
    },
}

impl Redrive {
    /// The name of the operation.
    pub fn operation(&self) -> &'static str {
        REDRIVE
    }

    /// The parameters of the operation.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let numbers = match *self {
            Redrive::Landed { rows } => vec![("rows", rows)],
            Redrive::Taken { after, kept, rows } => vec![("after", after), ("kept", kept), ("rows", rows)],
        };
        numbers.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
    }

    /// What a body with this `commitInfo` does, `None` for one that is no redrive.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the parameters are not exactly those of one of the two entries.
    pub fn of(info: &CommitInfo) -> Result<Option<Self>, Error> {
        if info.operation != REDRIVE {
            return Ok(None);
        }
        let refuse = || Error::LogEntry(format!("parameters of {REDRIVE}"));
        let number = |name: &str| -> Result<u64, Error> {
            let value = info.operation_parameters.get(name).ok_or_else(refuse)?;
            value.parse().map_err(|_| refuse())
        };
        let redrive = match info.operation_parameters.contains_key("after") {
            true => Redrive::Taken { after: number("after")?, kept: number("kept")?, rows: number("rows")? },
            false => Redrive::Landed { rows: number("rows")? },
        };
        // One spelling, so that the same work is the same bytes.
        if redrive.parameters() != info.operation_parameters {
            return Err(refuse());
        }
        Ok(Some(redrive))
    }

    /// Rows taken out of the quarantine.
    pub fn rows(&self) -> u64 {
        match *self {
            Redrive::Landed { rows } | Redrive::Taken { rows, .. } => rows,
        }
    }
}
