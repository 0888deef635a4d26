//! Data contracts: files that say what a dataset holds, what its columns mean, and who answers for it.
//!
//! A contract is YAML and goes the way of the spec: a tree with places, held against its JSON Schema, resolved. What is wrong with it
//! is shown in its own lines. Then the columns of the query are held against it: the same names, each of the type that
//! the contract says, and never null where it says so. So a topology whose query is not what its readers were promised does not start.
//!
//! What a contract says in words is for people. It becomes the comments of the table's columns and the table's description, and is
//! part of no file and of no fingerprint: changing a word changes the table's schema entry and nothing else. See
//! `docs/contracts.md`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use isobar_connectors::delta::schema::{DESCRIPTION, UNIT};
use isobar_schemas::fields::type_name;
use isobar_schemas::{Error as SchemaError, FieldSpec, FieldType, Fields};
use isobar_transforms::Expectation;
use serde_json::Value as Json;

use super::check::{CheckOptions, Finding, Place, find_secrets, mask, mask_lines, of_text};
use super::encoding::read_bounded;
use super::problem::Problem;
use super::raw::Owner;
use super::resolve::{Resolver, is_child};
use super::structure::describe_place;
use super::suggest::nearest;
use super::units::ByteSize;
use super::yaml::{self, Document, Location, Node, TextProblem, pointer_to};
use super::{SourceSpec, schema, sql, structure};

/// Largest contract, in bytes, and most bytes of words in it: an alias repeats a text that is written once.
const CONTRACT_BYTES_MAX: usize = yaml::TEXT_BYTES_MAX;
/// Longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 4000;
/// Longest name, version or contact, in characters.
const NAME_CHARACTERS_MAX: usize = 200;
/// Longest unit, in characters.
const UNIT_CHARACTERS_MAX: usize = 100;

/// What the readers of a dataset are promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Its name.
    pub name: String,
    /// Its version, as its owners count.
    pub version: String,
    /// Who answers for the dataset.
    pub owners: Vec<Owner>,
    /// All columns of the dataset, in the order of the contract.
    pub columns: Fields,
}

impl Contract {
    /// What is said about a column.
    pub fn column(&self, name: &str) -> Option<&FieldSpec> {
        self.columns.0.iter().find(|(column, _)| column == name).map(|(_, spec)| spec)
    }

    /// `schema` with what is said about its columns, as a table shows it. Names, types and nullability are those of `schema`.
    pub fn documented(&self, schema: &Schema) -> SchemaRef {
        let documented = schema.fields().iter().map(|field| {
            let words = self.column(field.name()).map(documentation).unwrap_or_default();
            field.as_ref().clone().with_metadata(words)
        });
        Arc::new(Schema::new(documented.collect::<Vec<Field>>()))
    }
}

/// The description of a column with its unit, which most readers show nowhere else, and the unit by itself.
fn documentation(column: &FieldSpec) -> HashMap<String, String> {
    let comment = match (&column.description, &column.unit) {
        (Some(description), Some(unit)) => Some(format!("{description} [{unit}]")),
        (Some(description), None) => Some(description.clone()),
        (None, Some(unit)) => Some(format!("[{unit}]")),
        (None, None) => None,
    };
    let comment = comment.map(|comment| (DESCRIPTION.to_owned(), comment));
    let unit = column.unit.clone().map(|unit| (UNIT.to_owned(), unit));
    comment.into_iter().chain(unit).collect()
}

/// The problems of a contract.
pub(super) struct WrongContract {
    /// The file, as messages name it.
    pub(super) file: String,
    /// Its text, with what may be a secret masked.
    pub(super) masked_text: String,
    /// What is wrong with it. At least one.
    pub(super) problems: Vec<Problem>,
}

/// The contract that a dataset names, as far as it is right.
pub(super) struct Promise {
    file: ContractFile,
    contract: Option<Contract>,
    description: Option<String>,
    /// In the order of the file, each with its index.
    pub(super) expectations: Vec<(usize, Expectation)>,
    /// Whether these are all expectations that it has.
    pub(super) is_whole: bool,
}

impl Promise {
    fn read(file: ContractFile, folder: &Path, options: CheckOptions) -> Self {
        let mut promise =
            Self { file, contract: None, description: None, expectations: Vec::new(), is_whole: false };
        if promise.file.root.is_none() {
            return promise;
        }
        let mut resolver = promise.file.resolver(folder, options);
        let name = resolver.words("/name", NAME_CHARACTERS_MAX);
        let version = resolver.words("/version", NAME_CHARACTERS_MAX);
        let description = resolver.words("/description", DESCRIPTION_CHARACTERS_MAX);
        let owners = resolver.owners();
        let columns = resolver.columns_promised();
        let (expectations, are_complete) = resolver.expectations("/expect");
        promise.contract = name
            .zip(version)
            .zip(owners)
            .zip(columns)
            .map(|(((name, version), owners), columns)| Contract { name, version, owners, columns });
        promise.description = description;
        promise.expectations = expectations;
        promise.is_whole = are_complete;
        promise
    }

    /// Holds the expectations against the source of the dataset at `pointer` of the spec, and the `columns` of its query, if it
    /// compiles, against those promised.
    pub(super) fn check(
        &mut self,
        spec: &mut Resolver<'_>,
        pointer: &str,
        input: &SourceSpec,
        columns: Option<&Schema>,
    ) {
        let (folder, options) = (spec.folder, spec.options);
        let resolver = &mut self.file.resolver(folder, options);
        sql::check_expectations(resolver, "/expect", input, &self.expectations);
        if let (Some(contract), Some(columns)) = (&self.contract, columns) {
            for (name, column) in &contract.columns.0 {
                resolver.check_promised(&describe_place(pointer), name, column, columns);
            }
            let file = resolver.file;
            let unpromised = columns.fields().iter().filter(|field| contract.column(field.name()).is_none());
            for field in unpromised {
                spec.report_unpromised(pointer, file, field);
            }
        }
    }
}

/// A contract as far as it can be read.
struct ContractFile {
    /// Its path, as messages name it.
    file: String,
    text: String,
    root: Option<Node>,
    /// The parts that have the right shape.
    value: Json,
    locations: BTreeMap<String, Location>,
    unreadable: Vec<String>,
    text_problems: Vec<TextProblem>,
    findings: Vec<Finding>,
}

impl ContractFile {
    fn parse(file: String, text: String) -> Self {
        let parsed = yaml::parse_as(&text, Document::Contract);
        let (value, findings) = match &parsed.root {
            Some(root) => structure::walk(&schema::contract_json_schema(), root, Document::Contract),
            None => (Json::Null, Vec::new()),
        };
        let locations = parsed.root.as_ref().map(Node::locations).unwrap_or_default();
        let unreadable = parsed.problems.iter().map(|problem| problem.pointer.clone()).collect();
        Self {
            file,
            text,
            root: parsed.root,
            value,
            locations,
            unreadable,
            text_problems: parsed.problems,
            findings,
        }
    }

    /// What resolves the parts of this file.
    fn resolver<'f>(&'f mut self, folder: &'f Path, options: CheckOptions) -> Resolver<'f> {
        Resolver {
            value: &self.value,
            text: &self.text,
            file: &self.file,
            locations: &self.locations,
            unreadable: &self.unreadable,
            folder,
            options,
            findings: &mut self.findings,
            secret_places: Vec::new(),
            wrong_contracts: Vec::new(),
        }
    }

    /// What is wrong with it, if anything is.
    fn into_wrong(self) -> Option<WrongContract> {
        let Self { file, text, root, locations, text_problems, findings, .. } = self;
        let in_text = text_problems.into_iter().map(|problem| of_text(problem, &file));
        let found = findings.into_iter().map(|finding| finding.into_problem(&file, &locations));
        let problems: Vec<Problem> = in_text.chain(found).collect();
        if problems.is_empty() {
            return None;
        }
        let masked_text = match &root {
            Some(root) => {
                let mut places = Vec::new();
                find_secrets(root, "", &["/columns"], &mut places);
                mask(&text, root, &places)
            }
            None => mask_lines(&text),
        };
        Some(WrongContract { file, masked_text, problems })
    }
}

/// The text of a contract, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, CONTRACT_BYTES_MAX as u64)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("it is not UTF-8: line {line} holds other bytes")
    })
}

/// Of the spec.
impl Resolver<'_> {
    /// The contract that the dataset at `pointer` names, if it can be read. `own` are the expectations that the dataset has beside.
    pub(super) fn promise(&mut self, pointer: &str, own: &[(usize, Expectation)]) -> Option<Promise> {
        let at = format!("{pointer}/contract");
        let written = self.typed::<Option<String>>(&at).flatten()?;
        let text = match read(&self.folder.join(&written)) {
            Ok(text) => text,
            Err(problem) => {
                let message = format!("`{}` cannot be read: {problem}", written.escape_debug());
                self.report(at, Place::Value, message, Some("paths are relative to the spec".into()));
                return None;
            }
        };
        let file = ContractFile::parse(self.beside(&written), text);
        let promise = Promise::read(file, self.folder, self.options);
        for (index, expectation) in own {
            let name = &expectation.name;
            if promise.expectations.iter().any(|(_, promised)| promised.name == *name) {
                let message = format!("the contract has an expectation `{name}` too");
                let suggestion = "remove this one, or rename it: rows are counted by this name";
                let at = format!("{pointer}/expect/{index}/name");
                self.report(at, Place::Value, message, Some(suggestion.into()));
            }
        }
        Some(promise)
    }

    /// The path of a file that the spec names, as messages name it.
    fn beside(&self, written: &str) -> String {
        let folder = Path::new(self.file).parent().unwrap_or(Path::new(""));
        folder.join(written.trim_start_matches("./")).display().to_string()
    }

    fn report_unpromised(&mut self, pointer: &str, file: &str, field: &Field) {
        let (name, found_type) = (field.name(), type_name(field.data_type()));
        let column = match field.is_nullable() {
            true if found_type.contains(' ') => format!("\"{found_type}\""),
            true => found_type.clone(),
            false => format!("{{ type: \"{found_type}\", nullable: false }}"),
        };
        let message = format!("the contract has no column `{name}`, of type {found_type}");
        let suggestion =
            format!("add `{name}: {column}` to `columns` of {file}, or leave it out of the query");
        self.report(format!("{pointer}/sql"), Place::Value, message, Some(suggestion));
    }

    /// Takes the problems of a contract up, and what it says; its description takes the place of the dataset's own.
    pub(super) fn settle(
        &mut self,
        pointer: &str,
        own_description: Option<String>,
        promise: Promise,
    ) -> (Option<String>, Option<Contract>) {
        if own_description.is_some() && promise.description.is_some() {
            let message = format!("the contract describes {} already", describe_place(pointer));
            let suggestion = "remove this description, or the one there";
            self.report(format!("{pointer}/description"), Place::Key, message, Some(suggestion.into()));
        }
        self.wrong_contracts.extend(promise.file.into_wrong());
        (promise.description.or(own_description), promise.contract)
    }
}

/// Of a contract.
impl Resolver<'_> {
    /// A text for people at `pointer`: of bounded length, and with nothing in it that could drive a terminal. What is wrong with it
    /// is reported.
    fn words(&mut self, pointer: &str, characters_max: usize) -> Option<String> {
        let written = self.typed::<Option<String>>(pointer).flatten()?;
        let text = written.trim();
        let name = describe_place(pointer);
        let characters = text.chars().count();
        let is_out_of_place = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
        let problem = if text.is_empty() {
            format!("{name} is empty")
        } else if characters > characters_max {
            format!("{name} has {characters} characters; at most {characters_max} are possible")
        } else if let Some(c) = text.chars().find(is_out_of_place) {
            format!("{name} has the control character {c:?} in it")
        } else {
            return Some(text.to_owned());
        };
        self.report(pointer, Place::Value, problem, None);
        None
    }

    /// The owners, if all are right.
    fn owners(&mut self) -> Option<Vec<Owner>> {
        let count = self.value.pointer("/owners").and_then(Json::as_array).map_or(0, Vec::len);
        let found_before = self.found();
        let owner = |index: usize| {
            let at = format!("/owners/{index}");
            let name = self.words(&format!("{at}/name"), NAME_CHARACTERS_MAX)?;
            Some(Owner { name, contact: self.words(&format!("{at}/contact"), NAME_CHARACTERS_MAX) })
        };
        let owners: Option<Vec<Owner>> = (0..count).map(owner).collect();
        owners.filter(|_| self.found() == found_before)
    }

    /// The columns, if all are right: a query is not held against a part of them.
    fn columns_promised(&mut self) -> Option<Fields> {
        let mut columns: Vec<(String, FieldSpec)> = Vec::new();
        for name in self.names("/columns") {
            let at = pointer_to("/columns", &name);
            let Some(mut column) = self.required::<FieldSpec>(&at) else { continue };
            let found_before = self.found();
            if let Err(source) = FieldType::from_str(&column.type_text) {
                self.report_field(&at, SchemaError::InvalidType { field: name.clone(), source });
            }
            column.description = self.words(&format!("{at}/description"), DESCRIPTION_CHARACTERS_MAX);
            column.unit = self.words(&format!("{at}/unit"), UNIT_CHARACTERS_MAX);
            if self.found() == found_before {
                columns.push((name, column));
            }
        }
        let texts = columns.iter().flat_map(|(_, column)| [&column.description, &column.unit]).flatten();
        if texts.map(String::len).sum::<usize>() > CONTRACT_BYTES_MAX {
            let most = ByteSize(CONTRACT_BYTES_MAX as u64);
            let message = format!("descriptions and units are larger than {most} together");
            self.report("/columns", Place::Key, message, None);
            return None;
        }
        let written = self.locations.keys().filter(|key| is_child("/columns", key)).count();
        (self.unreadable.is_empty() && columns.len() == written).then_some(Fields(columns))
    }

    /// Holds the columns of a dataset's query against one that is promised. `dataset` is its name, quoted.
    fn check_promised(&mut self, dataset: &str, name: &str, promised: &FieldSpec, columns: &Schema) {
        let at = pointer_to("/columns", name);
        let Ok(field) = columns.field_with_name(name) else {
            let names = columns.fields().iter().map(|field| field.name().as_str());
            let meant = nearest(name, names).map(|meant| format!("did you mean `{meant}`?"));
            let suggestion = meant.unwrap_or_else(|| "select it in the query, or remove it here".to_owned());
            let message = format!("the query of {dataset} has no column `{name}`");
            return self.report(at, Place::Key, message, Some(suggestion));
        };
        // A type that is wrong in itself was reported.
        let Ok(promised_type) = FieldType::from_str(&promised.type_text) else { return };
        let found_type = type_name(field.data_type());
        if found_type != promised_type.to_string() {
            let long_form = format!("{at}/type");
            let at_type = if self.value.pointer(&long_form).is_some() { long_form } else { at.clone() };
            let message = format!("`{name}` is {found_type} in the query of {dataset}, not {promised_type}");
            let suggestion = format!("cast it in the query, or write `{found_type}` here");
            self.report(at_type, Place::Value, message, Some(suggestion));
        }
        if !promised.nullable && field.is_nullable() {
            let message = format!("`{name}` may be null in the query of {dataset}");
            let suggestion = "write `nullable: true`, and an expectation for what should not be: never null for certain are fields of the \
                              source with `nullable: false`, as they are or cast, literals, and metadata such as `_offset`";
            self.report(format!("{at}/nullable"), Place::Value, message, Some(suggestion.into()));
        }
    }
}

#[cfg(test)]
mod tests;
