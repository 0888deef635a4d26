//! Maintenance: entries that change how a table is stored and not what it says.
//!
//! They are ordinary bodies with `dataChange` off, no offsets and no rows of their own. What they do stands where any
//! Delta reader shows it, in `operation` and `operationParameters`:
//!
//! | operation | parameters beside `after` | actions |
//! |---|---|---|
//! | `OPTIMIZE` | `rows`: how many were moved | `remove` of small files, `add` of files with the same rows |
//! | `VACUUM` | `through`: files removed up to this version may be deleted | none |
//!
//! `after` is the version of the maintenance entry before this one, 0 where there was none: whoever planned on another
//! state of the files cannot have written a body that follows. All values are text, in decimal digits.

use std::collections::BTreeMap;

use super::actions::CommitInfo;
use crate::Error;

const OPTIMIZE: &str = "OPTIMIZE";
const VACUUM: &str = "VACUUM";

/// What a maintenance entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// Version of the maintenance entry before this one, 0 where there was none.
    pub after: u64,
    /// The work.
    pub work: MaintenanceWork,
}

/// The kinds of maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaintenanceWork {
    /// Files are replaced by others that hold the same rows.
    Optimize {
        /// Rows in the files removed, and in those added.
        rows: u64,
    },
    /// Files that were removed may be deleted from the clouds; versions before `through` need them and can no longer be
    /// read.
    Vacuum {
        /// The last version, inclusive, whose `remove` actions are meant.
        through: u64,
    },
}

impl Maintenance {
    /// The name of the operation.
    pub fn operation(&self) -> &'static str {
        match self.work {
            MaintenanceWork::Optimize { .. } => OPTIMIZE,
            MaintenanceWork::Vacuum { .. } => VACUUM,
        }
    }

    /// The parameters of the operation.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let (name, value) = match self.work {
            MaintenanceWork::Optimize { rows } => ("rows", rows),
            MaintenanceWork::Vacuum { through } => ("through", through),
        };
        [("after", self.after), (name, value)]
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .into()
    }

    /// What a body with this `commitInfo` does, `None` for one that is no maintenance.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the parameters are not exactly those of the operation.
    pub fn of(info: &CommitInfo) -> Result<Option<Self>, Error> {
        let refuse = || Error::LogEntry(format!("parameters of {}", info.operation));
        let number = |name: &str| -> Result<u64, Error> {
            let value = info.operation_parameters.get(name).ok_or_else(refuse)?;
            value.parse().map_err(|_| refuse())
        };
        let work = match info.operation.as_str() {
            OPTIMIZE => MaintenanceWork::Optimize { rows: number("rows")? },
            VACUUM => MaintenanceWork::Vacuum { through: number("through")? },
            _ => return Ok(None),
        };
        let maintenance = Self { after: number("after")?, work };
        // One spelling, so that the same work is the same bytes.
        if maintenance.parameters() != info.operation_parameters {
            return Err(refuse());
        }
        Ok(Some(maintenance))
    }
}

/// Whether an operation of this name is maintenance.
pub(super) fn is_maintenance(operation: &str) -> bool {
    [OPTIMIZE, VACUUM].contains(&operation)
}
