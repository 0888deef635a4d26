//! What the doctor says: JSON of a fixed shape for programs, a table for people.
//!
//! ```json
//! { "format": 1, "well": false, "topology": "flights", "isobar": "0.1.0", "problems": 1, "warnings": 1,
//!   "checks": [ { "id": "topic.position", "group": "topic", "subject": "flights", "status": "problem",
//!                 "found": "partition 3 stands at offset 1200, and its log begins at 1850", "way_out": "isobar accept-gap …" } ] }
//! ```
//!
//! `group` is `isobar`, `kafka`, `topic`, `registry`, `cloud`, `clock` or `together`; a `topic` and a `cloud` have a
//! `subject`, their name. `status` is `ok`, `warning`, `problem` or `skipped`. `docs/doctor.md` lists the ids. New fields,
//! groups and ids may be added; a change of meaning changes `format`.

use std::fmt::Write;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::prove::Style;

/// Version of the JSON shape.
pub const REPORT_FORMAT: u32 = 1;

/// Lines of a cell in the table, in characters, where the terminal does not say how wide it is.
const WIDTH: u16 = 140;

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// Whether there is no problem.
    pub well: bool,
    /// The topology.
    pub topology: String,
    /// The version of isobar.
    pub isobar: &'static str,
    /// How many problems there are.
    pub problems: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// What was found, by group.
    pub checks: Vec<Finding>,
}

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: the same in every version of isobar.
    pub id: &'static str,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
    /// How that is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it, in a sentence. Left out where there is nothing to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

/// What a check is about, in the order of the report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "group", content = "subject", rename_all = "snake_case")]
#[non_exhaustive]
pub enum About {
    /// The program and the specification.
    Isobar,
    /// The cluster.
    Kafka,
    /// A topic.
    Topic(String),
    /// The schema registry.
    Registry,
    /// A cloud.
    Cloud(String),
    /// The time on this machine, on others, and in records and commits.
    Clock,
    /// The clouds together: what they have decided, and whether a start could go on from it.
    Together,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Well.
    Ok,
    /// It works, and may not under load, after an outage, or for all records.
    Warning,
    /// A start would be refused, or what runs would stop or cannot reach it.
    Problem,
    /// Not known, because something else is in the way; or not asked for.
    Skipped,
}

impl Status {
    /// The word in JSON and in the table.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
            Status::Skipped => "skipped",
        }
    }

    fn colour(self) -> Option<Color> {
        match self {
            Status::Ok => Some(Color::Green),
            Status::Warning => Some(Color::Yellow),
            Status::Problem => Some(Color::Red),
            Status::Skipped => None,
        }
    }
}

impl About {
    fn title(&self) -> String {
        match self {
            About::Isobar => "isobar".to_owned(),
            About::Kafka => "Kafka".to_owned(),
            About::Topic(name) => format!("topic {name}"),
            About::Registry => "registry".to_owned(),
            About::Cloud(name) => format!("cloud {name}"),
            About::Clock => "clock".to_owned(),
            About::Together => "clouds together".to_owned(),
        }
    }
}

impl Finding {
    /// All is well.
    pub(super) fn ok(id: &'static str, about: &About, found: impl Into<String>) -> Self {
        Self { id, about: about.clone(), status: Status::Ok, found: found.into(), way_out: None }
    }

    /// A reason to worry, and the way out.
    pub(super) fn warning(
        id: &'static str,
        about: &About,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { status: Status::Warning, way_out: Some(way_out.into()), ..Self::ok(id, about, found) }
    }

    /// Something that does not work, and the way out.
    pub(super) fn problem(
        id: &'static str,
        about: &About,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { status: Status::Problem, way_out: Some(way_out.into()), ..Self::ok(id, about, found) }
    }

    /// Nothing is known, and why.
    pub(super) fn skipped(id: &'static str, about: &About, why: impl Into<String>) -> Self {
        Self { status: Status::Skipped, ..Self::ok(id, about, why) }
    }
}

impl Report {
    /// The report on `topology`: `findings` in the order of their groups, clouds in the order given.
    pub(super) fn new(topology: &str, clouds: &[String], mut findings: Vec<Finding>) -> Self {
        let place = |about: &About| {
            let cloud = match about {
                About::Cloud(name) => clouds.iter().position(|cloud| cloud == name),
                _ => None,
            };
            let kind = match about {
                About::Isobar => 0,
                About::Kafka => 1,
                About::Topic(_) => 2,
                About::Registry => 3,
                About::Cloud(_) => 4,
                About::Clock => 5,
                About::Together => 6,
            };
            (kind, cloud, about.clone())
        };
        // Stable: the checks of a group keep their order.
        findings.sort_by_key(|finding| place(&finding.about));
        let count = |status| findings.iter().filter(|finding| finding.status == status).count();
        let (problems, warnings) = (count(Status::Problem), count(Status::Warning));
        Self {
            format: REPORT_FORMAT,
            well: problems == 0,
            topology: topology.to_owned(),
            isobar: env!("CARGO_PKG_VERSION"),
            problems,
            warnings,
            checks: findings,
        }
    }

    /// Whether nothing is wrong; with `strict`, nothing to worry about either.
    pub fn is_well(&self, strict: bool) -> bool {
        self.problems == 0 && !(strict && self.warnings > 0)
    }

    /// The report as one JSON document with a final line break.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("a report has string keys and no failing serializer");
        text.push('\n');
        text
    }

    /// The report for people, as standard output can show it; see [`to_text`](Self::to_text).
    pub fn to_table(&self) -> String {
        self.to_text(Style::of_stdout())
    }

    /// The report for people: a row per check, then the verdict.
    pub fn to_text(&self, style: Style) -> String {
        let mut grid = Table::new();
        grid.load_preset(if style.rich { presets::UTF8_BORDERS_ONLY } else { presets::ASCII_MARKDOWN });
        grid.set_content_arrangement(ContentArrangement::Dynamic);
        if !style.rich {
            grid.set_width(WIDTH);
        }
        grid.set_header(["what", "check", "", "found, and the way out"]);
        for alike in self.checks.chunk_by(|a, b| a.about == b.about) {
            for (row, finding) in alike.iter().enumerate() {
                let title = if row == 0 { finding.about.title() } else { String::new() };
                let mut mark = Cell::new(finding.status.word());
                if let Some(colour) = finding.status.colour().filter(|_| style.rich) {
                    mark = mark.fg(colour);
                }
                let found = printable(&finding.found);
                let text = match &finding.way_out {
                    Some(way_out) => format!("{found}\n-> {}", printable(way_out)),
                    None => found,
                };
                grid.add_row([Cell::new(printable(&title)), Cell::new(finding.id), mark, Cell::new(text)]);
            }
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{grid}\n\n{}", self.verdict());
        text
    }

    /// One line: how it is.
    pub fn verdict(&self) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let skipped = self.checks.iter().filter(|check| check.status == Status::Skipped).count();
        let unknown = if skipped == 0 { String::new() } else { format!(", {skipped} not known") };
        let (problems, warnings) = (count(self.problems, "problem"), count(self.warnings, "warning"));
        match (self.problems, self.warnings) {
            (0, 0) => format!("ok: {}{unknown}", count(self.checks.len(), "check")),
            (0, _) => format!("ok, with {warnings}{unknown}"),
            _ => format!("{problems}, {warnings}{unknown}"),
        }
    }
}

/// `text` without control characters: names of topics, and what others answer, are not ours. Line breaks stay.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cloud = |name: &str| About::Cloud(name.to_owned());
        Report::new(
            "t",
            &["b".to_owned(), "a".to_owned()],
            vec![
                Finding::problem("cloud.write", &cloud("a"), "not allowed\u{1b}[2J", "allow it"),
                Finding::ok("isobar.version", &About::Isobar, "1"),
                Finding::ok("cloud.list", &cloud("a"), "fine"),
                Finding::skipped("cloud.list", &cloud("b"), "no answer"),
                Finding::warning("topic.retention", &About::Topic("x".into()), "short", "lengthen it"),
            ],
        )
    }

    #[test]
    fn findings_stand_by_group_and_clouds_in_the_order_of_the_spec() {
        let report = report();
        let order: Vec<_> = report.checks.iter().map(|finding| (finding.id, finding.about.title())).collect();
        let expected = [
            ("isobar.version", "isobar"),
            ("topic.retention", "topic x"),
            ("cloud.list", "cloud b"),
            ("cloud.write", "cloud a"),
            ("cloud.list", "cloud a"),
        ];
        assert_eq!(order, expected.map(|(id, title)| (id, title.to_owned())));
        assert_eq!((report.problems, report.warnings, report.well), (1, 1, false));
        assert_eq!(report.verdict(), "1 problem, 1 warning, 1 not known");
    }

    #[test]
    fn json_has_flat_checks_and_leaves_out_what_is_not_there() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["format"], 1);
        let checks = json["checks"].as_array().unwrap();
        assert_eq!(checks[0]["group"], "isobar");
        assert!(checks[0].get("subject").is_none() && checks[0].get("way_out").is_none());
        let topic = &checks[1];
        assert_eq!((&topic["group"], &topic["subject"]), (&"topic".into(), &"x".into()));
        assert_eq!((&topic["status"], &topic["way_out"]), (&"warning".into(), &"lengthen it".into()));
    }

    #[test]
    fn the_table_names_a_group_once_and_shows_no_control_characters() {
        let text = report().to_text(Style { rich: false });
        assert_eq!(text.matches("cloud a").count(), 1, "{text}");
        assert!(text.contains("-> allow it") && !text.contains('\u{1b}'), "{text}");
        assert!(text.trim_end().ends_with("1 problem, 1 warning, 1 not known"), "{text}");
    }

    #[test]
    fn warnings_count_only_where_they_are_asked_to() {
        let warned = Report::new("t", &[], vec![Finding::warning("a", &About::Kafka, "x", "y")]);
        assert!(warned.is_well(false) && !warned.is_well(true) && warned.well);
        assert!(!report().is_well(false));
    }
}
