//! `isobar drift`: whether a model still sees what it learnt from, saw what the datasets say, and answers as well as it did.
//!
//! ```text
//! models/…/statistics.json ─▶ bins ─┐
//! rows at pinned versions ─▶ source ┴▶ check: counts by day ─▶ judge (pure) ─▶ report ─▶ table, JSON, page, metrics, trigger
//! log of served vectors ──────────────▶ skew: value by value against the point-in-time join
//! answers and labels ─────────────────▶ performance: AUC and calibration with intervals
//! ```
//!
//! What a distance is by chance comes from the reference's own windows, so that rows of a day may depend on each other
//! ([`judge`]); the whole run has one stated rate of false alarms. A feature that cannot be judged says why, and is never taken for well.
//! Nothing is written to any cloud. `docs/drift.md` has the formulae and their sources.

mod bins;
mod check;
mod distances;
mod judge;
mod metrics;
mod page;
mod performance;
mod skew;
mod source;
mod special;
mod trigger;

pub use self::check::{
    BinReport, Check, DistanceReport, DriftReport, FeatureReport, Minimum, ReferenceDays, WindowReport, check,
};
pub use self::distances::Distance;
pub use self::metrics::write_metrics;
pub use self::page::write_page;
pub use self::performance::{Interval, Performance, PerformanceReport, PerformanceWindow, performance};
pub use self::skew::{FeatureSkew, Skew, SkewExample, SkewReport, skew};
pub(crate) use self::source::DAY_MS;
pub use self::source::RowsOf;
pub use self::trigger::{Triggered, trigger};

use std::path::Path;

use crate::aside::new_file;
use crate::error::Error;

/// Writes a file that appears whole, in the place of the one that is there.
fn replace_file(path: &Path, content: &[u8], what: &str) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = new_file(folder, ".isobar-drift-")?;
        std::io::Write::write_all(&mut file, content)?;
        file.persist(path).map_err(|error| error.error)
    };
    let written = write();
    written
        .map(drop)
        .map_err(|source| Error::LocalFile { action: format!("write {what} to {}", path.display()), source })
}
