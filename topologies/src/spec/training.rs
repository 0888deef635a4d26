//! Training sets: files that say which rows are wanted, and which features beside them.
//!
//! Such a file is YAML and goes the way of a spec: a tree with places, held against its JSON Schema ([`raw`]), resolved. All that is wrong
//! with it is reported at once, in its own lines. What only the tables can tell, such as whether a column is there, is said when
//! a set is made. See `docs/training-sets.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::check::{Finding, Place};
use super::document::DocumentText;
use super::encoding::read_bounded;
use super::problem::SpecErrors;
use super::suggest::did_you_mean;
use super::yaml::{self, Document, pointer_to};
use super::{Topology, schema};

pub mod raw;
#[cfg(test)]
mod tests;

/// Most features of one training set: each is a column in memory.
const FEATURES_MAX: usize = 10_000;

/// What stands between the prefix of a view and the name of a feature.
const SEPARATOR: &str = "__";

/// A checked training set.
#[derive(Debug, Clone)]
pub struct TrainingSet {
    /// What is asked for.
    pub request: Request,
    /// The topology whose datasets are read.
    pub topology: Topology,
    /// Where a spine in a file lies: [`SpineSource::File`] has only its name.
    pub spine_file: Option<PathBuf>,
}

/// What a training set asks for, whatever the versions, and wherever the files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Its name: `[a-z_][a-z0-9_]{0,63}`.
    pub training_set: String,
    /// The name of the topology.
    pub topology: String,
    /// The rows.
    pub spine: Spine,
    /// The views, in the order of the file. At least one; names are unique.
    pub views: Vec<View>,
}

/// The rows of a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spine {
    /// Where they come from.
    pub source: SpineSource,
    /// The column with the time that a row asks about.
    pub time: String,
    /// The columns that say which entity a row is about. At least one; all different.
    pub keys: Vec<String>,
    /// Columns kept beside time and keys; `None`: all.
    pub labels: Option<Vec<String>>,
    /// Which rows.
    #[serde(rename = "where")]
    pub condition: Option<String>,
}

/// Where the rows of a training set come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpineSource {
    /// A dataset of the topology.
    Dataset(String),
    /// A query over its datasets.
    Query(String),
    /// A Parquet or CSV file, by its name.
    File(String),
}

/// A dataset as a feature view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The dataset.
    pub dataset: String,
    /// The version that is read, if it is not that of all.
    pub at: Option<At>,
    /// Its columns that are equal to `spine_keys`, one after the other. At least one.
    pub keys: Vec<String>,
    /// The columns of the spine that it is asked by, as many.
    pub spine_keys: Vec<String>,
    /// When a row happened.
    pub time: String,
    /// Since when a row is known.
    pub known_time: KnownTime,
    /// What decides between rows with the same times; `None`: a column of the usual name, if there is one.
    pub offset: Option<String>,
    /// How much older than the time of the spine a row may be, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Which rows.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// The columns that get into the training set. At least one; their names are unique among all views.
    pub features: Vec<Feature>,
}

/// A version of one dataset, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// This one.
    Version(u64),
    /// The newest one that was committed by then: milliseconds since the Unix epoch.
    TimeMs(i64),
}

/// Since when a row of a view is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownTime {
    /// By the column `known_time`, if there is one.
    IfThere,
    /// By this column.
    Column(String),
    /// That is not asked.
    Ignored,
}

/// A column of a view in the training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// The column.
    pub column: String,
    /// What it is called there.
    pub name: String,
}

/// Reads and checks the training set at `path`, and the topology that it names.
///
/// # Errors
/// Everything that is wrong with either of them.
pub fn load(path: &Path) -> Result<TrainingSet, SpecErrors> {
    let file = path.display().to_string();
    let bytes = read_bounded(path, yaml::TEXT_BYTES_MAX as u64).map_err(|problem| {
        let help = "`isobar schema training-set` prints what a training set may hold, with an example";
        SpecErrors::of_file(&file, format!("the training set cannot be read: {problem}"), Some(help.into()))
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| SpecErrors::of_file(&file, "the training set is not UTF-8", None))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let raw = parse(&text, &file)?;
    let topology = super::load(&folder.join(&raw.topology))?;
    let spine_file = raw.spine.file.as_ref().map(|file| folder.join(file));
    let request = resolve(&raw, &topology, &text, &file)?;
    Ok(TrainingSet { request, topology, spine_file })
}

fn document<'a>(text: &'a str, file: &'a str) -> DocumentText<'a> {
    DocumentText { text, file, document: Document::TrainingSet, data: &["/spine", "/views"] }
}

/// The text of a training set in the right shape.
fn parse(text: &str, file: &str) -> Result<raw::TrainingSet, SpecErrors> {
    document(text, file).parse(&schema::training_set_json_schema())
}

fn resolve(
    raw: &raw::TrainingSet,
    topology: &Topology,
    text: &str,
    file: &str,
) -> Result<Request, SpecErrors> {
    let mut resolver = Resolver { topology, findings: Vec::new(), features: BTreeSet::new() };
    let spine = resolver.spine(&raw.spine);
    let views: Vec<View> =
        raw.views.0.iter().map(|(name, view)| resolver.view(name, view, &spine.keys)).collect();
    if resolver.features.len() > FEATURES_MAX {
        let message = format!("{} features are more than {FEATURES_MAX}", resolver.features.len());
        resolver.report("/views", Place::Key, message, None);
    }
    if resolver.findings.is_empty() {
        let training_set = raw.training_set.clone();
        return Ok(Request { training_set, topology: topology.name.clone(), spine, views });
    }
    Err(document(text, file).refused(resolver.findings))
}

struct Resolver<'a> {
    topology: &'a Topology,
    findings: Vec<Finding>,
    /// What the features so far are called.
    features: BTreeSet<String>,
}

impl Resolver<'_> {
    fn report(&mut self, pointer: &str, place: Place, message: impl Into<String>, help: Option<String>) {
        let finding =
            Finding { pointer: pointer.to_owned(), place, message: message.into(), suggestion: help };
        self.findings.push(finding);
    }

    fn spine(&mut self, raw: &raw::Spine) -> Spine {
        let sources: Vec<SpineSource> = [
            raw.dataset.clone().map(SpineSource::Dataset),
            raw.query.clone().map(SpineSource::Query),
            raw.file.as_deref().map(|file| SpineSource::File(file_name(file))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if sources.len() != 1 {
            let message = match sources.is_empty() {
                true => "the spine says nothing about where its rows come from",
                false => "the rows of the spine cannot come from several places",
            };
            self.report(
                "/spine",
                Place::Key,
                message,
                Some("write one of `dataset`, `query` and `file`".into()),
            );
        }
        if let Some(dataset) = &raw.dataset {
            self.check_dataset("/spine/dataset", Place::Value, dataset);
        }
        if let Some(file) = &raw.file
            && !is_readable(file)
        {
            let message =
                format!("`{}` is neither a Parquet nor a CSV file by its ending", file.escape_debug());
            self.report(
                "/spine/file",
                Place::Value,
                message,
                Some("name a `.parquet` or a `.csv` file".into()),
            );
        }
        if raw.query.as_deref().is_some_and(|query| query.trim().is_empty()) {
            self.report("/spine/query", Place::Value, "the query is empty", None);
        }
        self.check_columns("/spine/keys", &raw.keys);
        if let Some(labels) = &raw.labels {
            self.check_names("/spine/labels", labels);
        }
        let source = sources.into_iter().next().unwrap_or_else(|| SpineSource::Query(String::new()));
        Spine {
            source,
            time: raw.time.clone(),
            keys: raw.keys.clone(),
            labels: raw.labels.clone(),
            condition: raw.condition.clone(),
        }
    }

    fn view(&mut self, name: &str, raw: &raw::View, spine_keys: &[String]) -> View {
        let pointer = pointer_to("/views", name);
        let dataset = raw.dataset.clone().unwrap_or_else(|| name.to_owned());
        match &raw.dataset {
            Some(dataset) => self.check_dataset(&format!("{pointer}/dataset"), Place::Value, dataset),
            None => self.check_dataset(&pointer, Place::Key, name),
        }
        let own_spine_keys = raw.spine_keys.as_deref().unwrap_or(spine_keys);
        if let Some(keys) = &raw.spine_keys {
            self.check_columns(&format!("{pointer}/spine_keys"), keys);
        }
        let keys = raw.keys.as_deref().unwrap_or(own_spine_keys);
        if let Some(keys) = &raw.keys {
            self.check_columns(&format!("{pointer}/keys"), keys);
        }
        if keys.len() != own_spine_keys.len() {
            let message =
                format!("{} keys of the view cannot be {} of the spine", keys.len(), own_spine_keys.len());
            let at = if raw.keys.is_some() { "keys" } else { "spine_keys" };
            let help = "`keys` are columns of the view, `spine_keys` those of the spine they are equal to";
            self.report(&format!("{pointer}/{at}"), Place::Key, message, Some(help.into()));
        }
        View {
            name: name.to_owned(),
            dataset,
            at: self.at(&pointer, raw),
            keys: keys.to_vec(),
            spine_keys: own_spine_keys.to_vec(),
            time: raw.time.clone().unwrap_or_else(|| "event_time".to_owned()),
            known_time: self.known_time(&pointer, raw),
            offset: raw.offset.clone(),
            ttl_ms: raw.ttl.map(|ttl| u64::try_from(ttl.0.as_millis()).unwrap_or(u64::MAX)),
            condition: raw.condition.clone(),
            features: self.features(&pointer, name, keys, raw),
        }
    }

    fn at(&mut self, pointer: &str, raw: &raw::View) -> Option<At> {
        match (raw.version, &raw.at) {
            (Some(_), Some(_)) => {
                let help = Some("remove one of `version` and `at`".to_owned());
                self.report(
                    &format!("{pointer}/at"),
                    Place::Key,
                    "the view names a version and a time",
                    help,
                );
                None
            }
            (Some(version), None) => Some(At::Version(version)),
            (None, Some(text)) => {
                let time = crate::query::time_ms(text);
                if time.is_none() {
                    let message = format!("`{}` is no time", text.escape_debug());
                    let help = Some("write `2026-05-01T00:00:00Z` or `2026-05-01`, for example".to_owned());
                    self.report(&format!("{pointer}/at"), Place::Value, message, help);
                }
                time.map(At::TimeMs)
            }
            (None, None) => None,
        }
    }

    fn known_time(&mut self, pointer: &str, raw: &raw::View) -> KnownTime {
        match (&raw.known_time, raw.ignore_known_time) {
            (Some(_), true) => {
                let message = "the view names its known time, and says that it does not count";
                let help = Some("remove one of `known_time` and `ignore_known_time`".to_owned());
                self.report(&format!("{pointer}/ignore_known_time"), Place::Key, message, help);
                KnownTime::Ignored
            }
            (Some(column), false) => KnownTime::Column(column.clone()),
            (None, true) => KnownTime::Ignored,
            (None, false) => KnownTime::IfThere,
        }
    }

    fn features(&mut self, pointer: &str, name: &str, keys: &[String], raw: &raw::View) -> Vec<Feature> {
        let at = format!("{pointer}/features");
        self.check_columns(&at, &raw.features);
        for (column, _) in &raw.rename.0 {
            if !raw.features.contains(column) {
                let message = format!("`{}` is no feature of the view", column.escape_debug());
                let help = did_you_mean(column, raw.features.iter().map(String::as_str));
                self.report(&pointer_to(&format!("{pointer}/rename"), column), Place::Key, message, help);
            }
        }
        let prefix = match raw.prefix.as_deref().unwrap_or(name) {
            "" => String::new(),
            prefix => format!("{prefix}{SEPARATOR}"),
        };
        let mut features = Vec::with_capacity(raw.features.len());
        for (index, column) in raw.features.iter().enumerate() {
            let here = format!("{at}/{index}");
            if keys.contains(column) {
                let message = format!("`{}` is a key of the view", column.escape_debug());
                let help = Some("the spine has it already".to_owned());
                self.report(&here, Place::Value, message, help);
            }
            let renamed = raw.rename.0.iter().find(|(from, _)| from == column).map(|(_, to)| to);
            let feature = format!("{prefix}{}", renamed.unwrap_or(column));
            if !self.features.insert(feature.clone()) {
                let message = format!("there is a feature `{}` already", feature.escape_debug());
                let help = Some(
                    "give the view another `prefix`, or the feature another name by `rename`".to_owned(),
                );
                self.report(&here, Place::Value, message, help);
            }
            features.push(Feature { column: column.clone(), name: feature });
        }
        features
    }

    fn check_dataset(&mut self, pointer: &str, place: Place, name: &str) {
        let datasets = self.topology.datasets.iter().map(|dataset| dataset.name.as_str());
        if !datasets.clone().any(|dataset| dataset == name) {
            let topology = &self.topology.name;
            let message = format!("the topology {topology} has no dataset `{}`", name.escape_debug());
            let help = did_you_mean(name, datasets);
            self.report(pointer, place, message, help);
        }
    }

    /// Names of columns, at least one.
    fn check_columns(&mut self, pointer: &str, columns: &[String]) {
        if columns.is_empty() {
            self.report(pointer, Place::Key, "name a column at least", None);
        }
        self.check_names(pointer, columns);
    }

    /// Names of columns, all different.
    fn check_names(&mut self, pointer: &str, columns: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, column) in columns.iter().enumerate() {
            if !seen.insert(column) {
                let message = format!("`{}` is named twice", column.escape_debug());
                self.report(&format!("{pointer}/{index}"), Place::Value, message, None);
            }
        }
    }
}

/// The last part of a path: a file may lie elsewhere and be the same.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Whether a file can be read, by its ending.
pub(crate) fn is_readable(path: &str) -> bool {
    let ending = Path::new(path).extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ending == "parquet" || ending == "csv")
}
