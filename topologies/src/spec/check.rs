//! From the text of a spec to a [`Topology`], or to everything that is wrong with it.
//!
//! ```no_run
//! # use std::path::Path;
//! match isobar_topologies::spec::load(Path::new("topology.yaml")) {
//!     Ok(topology) => println!("{} clouds", topology.clouds.len()),
//!     Err(errors) => eprint!("{}", errors.render(isobar_topologies::spec::Colour::None)),
//! }
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::location::has_credentials;
use super::problem::{Position, Problem, SpecErrors};
use super::resolve::Resolved;
use super::yaml::{self, Document, Location, Node, TextProblem, Value};
use super::{Topology, resolve, schema, secret, structure};

/// How thoroughly to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Look up every `${env:…}` and `${file:…}`, and report those that lead nowhere. Off by default, so that a spec
    /// can be checked where its secrets are not.
    pub resolve_secrets: bool,
}

/// Reads and checks the spec at `path`.
pub fn load(path: &Path) -> Result<Topology, SpecErrors> {
    load_with(path, CheckOptions::default())
}

/// Reads and checks the spec at `path`, as thoroughly as `options` say.
pub fn load_with(path: &Path, options: CheckOptions) -> Result<Topology, SpecErrors> {
    let file = path.display().to_string();
    let text = read(path, &file)?;
    let folder = std::path::absolute(path).map_err(|error| {
        SpecErrors::of_file(&file, format!("the folder of the spec is not known: {error}"), None)
    })?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    check_text(&text, &file, folder, options)
}

/// Checks the text of a spec. `file` is its name in messages; relative locations start at `folder`, which must be
/// absolute.
pub fn check_text(
    text: &str,
    file: &str,
    folder: &Path,
    options: CheckOptions,
) -> Result<Topology, SpecErrors> {
    let parsed = yaml::parse(text);
    let Some(root) = parsed.root else {
        let problems = parsed.problems.into_iter().map(|problem| of_text(problem, file)).collect();
        return Err(sorted(file, problems, [(file.to_owned(), mask_lines(text))].into()));
    };
    let (value, mut findings) = structure::walk(&schema::json_schema(), &root, Document::Spec);
    let locations = root.locations();
    let unreadable: Vec<String> = parsed.problems.iter().map(|problem| problem.pointer.clone()).collect();
    let resolver = resolve::Resolver {
        value: &value,
        text,
        file,
        locations: &locations,
        unreadable: &unreadable,
        folder,
        options,
        findings: &mut findings,
        secret_places: Vec::new(),
        wrong_contracts: Vec::new(),
    };
    let Resolved { topology, mut secret_places, wrong_contracts } = resolver.resolve();
    let is_sound = findings.is_empty() && parsed.problems.is_empty() && wrong_contracts.is_empty();
    match topology {
        Some(topology) if is_sound => Ok(topology),
        _ => {
            find_secrets(&root, "", &["/sources", "/datasets"], &mut secret_places);
            let mut masked_texts = BTreeMap::new();
            let mut problems: Vec<Problem> =
                parsed.problems.into_iter().map(|problem| of_text(problem, file)).collect();
            problems.extend(findings.into_iter().map(|finding| finding.into_problem(file, &locations)));
            for contract in wrong_contracts {
                problems.extend(contract.problems);
                masked_texts.insert(contract.file, contract.masked_text);
            }
            masked_texts.insert(file.to_owned(), mask(text, &root, &secret_places));
            if problems.is_empty() {
                // A spec without a finding resolves; if ours does not, say so rather than run it.
                let message = "this spec could not be understood, please report it".to_owned();
                let problem = TextProblem {
                    position: root.position,
                    pointer: String::new(),
                    message,
                    suggestion: None,
                };
                problems.push(of_text(problem, file));
            }
            Err(sorted(file, problems, masked_texts))
        }
    }
}

fn read(path: &Path, file: &str) -> Result<String, SpecErrors> {
    let mut bytes = Vec::new();
    let bound = yaml::TEXT_BYTES_MAX as u64 + 1;
    File::open(path).and_then(|opened| opened.take(bound).read_to_end(&mut bytes)).map_err(|error| {
        let suggestion = match error.kind() {
            std::io::ErrorKind::NotFound => {
                Some("`isobar schema` prints what a spec may hold, with an example")
            }
            std::io::ErrorKind::IsADirectory => Some("name the YAML file in it"),
            _ => None,
        };
        SpecErrors::of_file(file, format!("the spec cannot be read: {error}"), suggestion.map(str::to_owned))
    })?;
    // A text cut off at the bound may end inside a character; it is refused for its size either way.
    if bytes.len() > yaml::TEXT_BYTES_MAX {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        SpecErrors::of_file(file, format!("the spec is not UTF-8: line {line} holds other bytes"), None)
    })
}

/// Where a [`Finding`] lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the key that leads to the value.
    Key,
    /// At the value.
    Value,
    /// At a place inside the value.
    At(Position),
}

/// Something wrong, by its JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) pointer: String,
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
}

impl Finding {
    pub(super) fn into_problem(self, file: &str, locations: &BTreeMap<String, Location>) -> Problem {
        let start = (Position { line: 1, column: 1 }, 1);
        let location = locations.get(&self.pointer);
        let (position, width) = match (self.place, location) {
            (Place::At(position), _) => (position, 1),
            (_, None) => start,
            (Place::Key, Some(location)) => location.key.unwrap_or(location.value),
            (Place::Value, Some(location)) => location.value,
        };
        // A missing field of the whole document: the caret under its first letter is enough.
        let width = if self.pointer.is_empty() { 1 } else { width };
        Problem {
            file: file.to_owned(),
            line: position.line,
            column: position.column,
            pointer: self.pointer,
            message: self.message,
            suggestion: self.suggestion,
            width,
        }
    }
}

pub(super) fn of_text(problem: TextProblem, file: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: problem.position.line,
        column: problem.position.column,
        pointer: problem.pointer,
        message: problem.message,
        suggestion: problem.suggestion,
        width: 1,
    }
}

/// The problems of `file`, in the order of its text, then those of other files.
fn sorted(file: &str, mut problems: Vec<Problem>, masked_texts: BTreeMap<String, String>) -> SpecErrors {
    let place =
        |problem: &Problem| (problem.file != file, problem.file.clone(), problem.line, problem.column);
    problems.sort_by(|a, b| match place(a).cmp(&place(b)) {
        Ordering::Equal => a.message.cmp(&b.message),
        order => order,
    });
    problems.dedup();
    SpecErrors { file: file.to_owned(), problems, masked_texts }
}

/// Adds the pointers of values that may be secrets: those under a name that says so, wherever a reference is not.
/// What lies below the pointers `data`, such as fields of sources and datasets, is data, whatever it is called.
pub(super) fn find_secrets(node: &Node, pointer: &str, data: &[&str], places: &mut Vec<String>) {
    match &node.value {
        Value::Map(entries) if !data.contains(&pointer) => {
            for entry in entries {
                let below = yaml::pointer_to(pointer, &entry.key);
                let is_referred = matches!(&entry.value.value, Value::Text(text) if is_reference(text));
                if secret::is_secret_name(&entry.key) && !is_referred {
                    places.push(below);
                } else {
                    find_secrets(&entry.value, &below, data, places);
                }
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                find_secrets(item, &format!("{pointer}/{index}"), data, places);
            }
        }
        Value::Text(text) if has_credentials(text) => places.push(pointer.to_owned()),
        _ => {}
    }
}

/// Whether a text is a reference rather than a secret, as far as that shows.
fn is_reference(text: &str) -> bool {
    (text.starts_with("${env:") || text.starts_with("${file:")) && text.ends_with('}')
}

/// `text` with the values at `places` hidden, character for character, so that columns stay.
pub(super) fn mask(text: &str, root: &Node, places: &[String]) -> String {
    let mut ranges = Vec::new();
    collect_ranges(root, "", places, &mut ranges);
    let mut masked = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        for (column, character) in line.chars().enumerate() {
            let here = Position { line: index + 1, column: column + 1 };
            let is_hidden = ranges.iter().any(|(start, end)| (*start..*end).contains(&here));
            masked.push(if is_hidden && !character.is_whitespace() { '*' } else { character });
        }
    }
    masked
}

fn collect_ranges(node: &Node, pointer: &str, places: &[String], ranges: &mut Vec<(Position, Position)>) {
    if places.iter().any(|place| place == pointer) {
        ranges.push((node.position, node.end));
        return;
    }
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                collect_ranges(&entry.value, &yaml::pointer_to(pointer, &entry.key), places, ranges);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_ranges(item, &format!("{pointer}/{index}"), places, ranges);
            }
        }
        _ => {}
    }
}

/// `text`, which is no YAML, with everything hidden that follows a secret's name: the rest of its line and the lines
/// indented below it. It hides too much rather than too little.
pub(super) fn mask_lines(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut hidden_below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let is_blank = line.trim().is_empty();
        hidden_below = hidden_below.filter(|outer| is_blank || indent > *outer);
        let hidden_from = match hidden_below {
            Some(_) => Some(0),
            None => end_of_secret_name(line),
        };
        if hidden_from.is_some() && hidden_below.is_none() {
            hidden_below = Some(indent);
        }
        for (at, character) in line.char_indices() {
            let is_hidden = hidden_from.is_some_and(|from| at >= from) && !character.is_whitespace();
            masked.push(if is_hidden { '*' } else { character });
        }
    }
    masked
}

/// Where in `line` the value of a secret starts, unless it is a reference.
fn end_of_secret_name(line: &str) -> Option<usize> {
    if has_credentials(line) {
        return line.find("://");
    }
    line.match_indices(':').find_map(|(colon, _)| {
        let before = line[..colon].trim_end_matches(['"', '\'', ' ']);
        let is_outside = |c: char| !(c.is_alphanumeric() || "._-".contains(c));
        let name = before.rsplit(is_outside).next().unwrap_or_default();
        let value = line[colon + 1..].trim_matches([' ', '"', '\'', '\n', '\r']);
        (secret::is_secret_name(name) && !is_reference(value)).then_some(colon + 1)
    })
}
