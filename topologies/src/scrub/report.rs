//! What the scrubber says: JSON of a fixed shape for programs, text for people.
//!
//! ```json
//! { "format": 1, "well": false, "topology": "flights", "repair": true, "sample": 1.0,
//!   "clouds": [ { "cloud": "aws", "state": "member", "versions": 24, "files": 31, "files_hashed": 31,
//!                 "bytes_hashed": 24117248, "lingering": 0 } ],
//!   "tables": [ { "table": "flight_features", "head": 11, "evidence": "control" } ],
//!   "findings": [ { "cloud": "azure", "table": "flight_features", "kind": "entry_differs", "object": "datasets/…",
//!                   "detail": "…", "outcome": "repaired", "note": "set aside as control/…" } ] }
//! ```
//!
//! `well` is true when there is no finding, or every finding was repaired and what was repaired was read back. New
//! fields and kinds may be added; a change of meaning changes `format`.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::decided::Evidence;

/// Version of the JSON shape.
pub const REPORT_FORMAT: u32 = 1;

/// Findings shown to people per cloud and kind; JSON has all of them.
const SHOWN_MAX: usize = 10;

/// The outcome of a scrub.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// Whether everything is as it should be now.
    pub well: bool,
    /// The topology.
    pub topology: String,
    /// Whether repairs were asked for.
    pub repair: bool,
    /// The share of files whose bytes were read; of the others only presence and size were looked at.
    pub sample: f64,
    /// The cloud that was readmitted, and how often it has been.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readmitted: Option<Readmitted>,
    /// What was looked at, by cloud.
    pub clouds: Vec<CloudSummary>,
    /// What is decided, by table.
    pub tables: Vec<TableSummary>,
    /// Everything that was wrong.
    pub findings: Vec<Finding>,
}

/// A cloud that counts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readmitted {
    /// The cloud.
    pub cloud: String,
    /// How often it was readmitted, this time included.
    pub generation: u64,
    /// The epoch that decided it.
    pub epoch: u64,
}

/// What was looked at in one cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CloudSummary {
    /// The cloud.
    pub cloud: String,
    /// `member`, `lost` (no or an outdated identity), `foreign` (another group's identity), `silent`.
    pub state: &'static str,
    /// Versions compared.
    pub versions: u64,
    /// Files looked at.
    pub files: u64,
    /// Files whose bytes were read.
    pub files_hashed: u64,
    /// Bytes read for that.
    pub bytes_hashed: u64,
    /// Files that a VACUUM let go and that are still there. They do no harm.
    pub lingering: u64,
}

/// What is decided for one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TableSummary {
    /// The table.
    pub table: String,
    /// Its last decided version.
    pub head: Option<u64>,
    /// How that is known.
    pub evidence: Evidence,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The cloud does not answer.
    CloudSilent,
    /// The cloud has no identity, or was not readmitted after a loss: it counts in no majority.
    IdentityLost,
    /// The cloud carries another group's identity.
    IdentityForeign,
    /// A header says that logs are sealed here which are not there: the cloud was restored from a backup.
    ControlWentBack,
    /// A control record cannot be read or is missing between others.
    ControlDamaged,
    /// A decided version is not published here.
    EntryMissing,
    /// A version has other bytes than the decided ones.
    EntryDiffers,
    /// A version beyond the last decided one, which nobody decided.
    EntryBeyond,
    /// A version of which nothing can be proved.
    EntryUnproven,
    /// The decided bytes of a version are in no cloud.
    EntryNowhere,
    /// A live data file is not there.
    FileMissing,
    /// A live data file has other bytes or another size.
    FileDiffers,
    /// A live data file could not be read.
    FileUnread,
    /// The newest decided checkpoint of a table is not there.
    CheckpointMissing,
    /// The newest decided checkpoint of a table has other bytes or another size.
    CheckpointDiffers,
    /// `_last_checkpoint` does not name the newest decided checkpoint.
    LastCheckpointDiffers,
    /// An object in `_delta_log` that isobar does not write, or a checkpoint that is neither decided nor what it should be.
    UnknownObject,
}

impl Kind {
    /// Whether it is about a checkpoint, which saves readers time and which they can do without.
    pub(super) fn is_about_checkpoints(self) -> bool {
        matches!(self, Self::CheckpointMissing | Self::CheckpointDiffers | Self::LastCheckpointDiffers)
    }
}

/// What became of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was found; nothing was done.
    Found,
    /// It was repaired, and the repair was read back.
    Repaired,
    /// It could not be repaired; the note says why.
    NotRepaired,
}

/// One thing that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The cloud; `None` for something about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// The table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What is wrong.
    pub kind: Kind,
    /// The object's path in the cloud, or what else it is about.
    pub object: String,
    /// More about it.
    pub detail: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was done, or why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Report {
    /// The report as one JSON document with a final line break.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a report has string keys and no failing serializer");
        text.push('\n');
        text
    }

    /// The report for people.
    pub fn to_table(&self) -> String {
        let mut text = format!("{}\n\n", self.grid());
        for alike in self.by_place() {
            for finding in alike.iter().take(SHOWN_MAX) {
                write_finding(&mut text, finding);
            }
            if alike.len() > SHOWN_MAX {
                let _ = writeln!(
                    text,
                    "  and {} more of this kind",
                    HumanCount((alike.len() - SHOWN_MAX) as u64)
                );
            }
        }
        let _ = writeln!(text, "{}", self.verdict());
        text
    }

    fn by_place(&self) -> Vec<Vec<&Finding>> {
        let mut groups: std::collections::BTreeMap<_, Vec<&Finding>> = std::collections::BTreeMap::new();
        for finding in &self.findings {
            groups.entry((&finding.cloud, finding.kind)).or_default().push(finding);
        }
        groups.into_values().collect()
    }

    fn grid(&self) -> Table {
        let mut grid = Table::new();
        grid.load_preset(presets::ASCII_MARKDOWN);
        grid.set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header([
            "cloud",
            "state",
            "versions",
            "files",
            "hashed",
            "lingering",
            "findings",
            "repaired",
        ]);
        for summary in &self.clouds {
            let of_cloud =
                || self.findings.iter().filter(|finding| finding.cloud.as_ref() == Some(&summary.cloud));
            let repaired = of_cloud().filter(|finding| finding.outcome == Outcome::Repaired).count();
            grid.add_row([
                summary.cloud.clone(),
                summary.state.to_owned(),
                HumanCount(summary.versions).to_string(),
                HumanCount(summary.files).to_string(),
                HumanBytes(summary.bytes_hashed).to_string(),
                HumanCount(summary.lingering).to_string(),
                HumanCount(of_cloud().count() as u64).to_string(),
                HumanCount(repaired as u64).to_string(),
            ]);
        }
        grid
    }

    /// One line: whether all is well.
    pub fn verdict(&self) -> String {
        let open = self.findings.iter().filter(|finding| finding.outcome != Outcome::Repaired).count();
        let repaired = self.findings.len() - open;
        let count = |count: usize, what: &str| {
            format!("{} {what}{}", HumanCount(count as u64), if count == 1 { "" } else { "s" })
        };
        let readmitted = self.readmitted.as_ref().map_or(String::new(), |it| {
            format!(" {} counts again (readmission {}, epoch {}).", it.cloud, it.generation, it.epoch)
        });
        match (open, repaired) {
            (0, 0) => format!("ok: every cloud holds the decided bytes.{readmitted}"),
            (0, _) => format!("ok: {} repaired and read back.{readmitted}", count(repaired, "finding")),
            (_, 0) => format!("FAILED: {}.{readmitted}", count(open, "finding")),
            _ => format!(
                "FAILED: {} left, {repaired} repaired and read back.{readmitted}",
                count(open, "finding")
            ),
        }
    }
}

fn write_finding(text: &mut String, finding: &Finding) {
    let outcome = match finding.outcome {
        Outcome::Found => "found",
        Outcome::Repaired => "repaired",
        Outcome::NotRepaired => "NOT repaired",
    };
    let cloud = finding.cloud.as_deref().unwrap_or("all clouds");
    let _ = writeln!(text, "{outcome}: {cloud}: {}: {}", finding.object, finding.detail);
    if let Some(note) = &finding.note {
        let _ = writeln!(text, "    {note}");
    }
}
