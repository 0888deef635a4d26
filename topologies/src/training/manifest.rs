//! What a training set was made of, and what it is: a JSON file beside it.
//!
//! It holds nothing that is not the same wherever and whenever the set is made: no cloud, no path, no time. So the same request over the same
//! versions gives the same manifest, and a set can be made and compared again from it.

use std::collections::BTreeMap;
use std::path::Path;

use isobar_connectors::delta::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::spec::training::Request;

/// What stands in the field `format`.
pub(super) const FORMAT: &str = "isobar training set 1";

/// Digits of a hash in the name of a file.
const NAME_DIGITS: usize = 16;

/// Upper bound of a manifest.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// The manifest of a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What this file is, and by which rules: `isobar training set 1`.
    pub format: String,
    /// The name of the set.
    pub training_set: String,
    /// The name of the topology.
    pub topology: String,
    /// What was asked for: the file, with all defaults, and without anything that does not change the result.
    pub request: serde_json::Value,
    /// SHA-256 of `request` as compact JSON.
    pub request_sha256: String,
    /// The versions that datasets were read at where the request names none.
    pub versions: BTreeMap<String, u64>,
    /// What was read.
    pub inputs: Vec<Input>,
    /// The digest of the rows, by the definition in `docs/training-sets.md`.
    pub digest: String,
    /// How many rows there are.
    pub rows: u64,
    /// The columns, in their order.
    pub columns: Vec<Column>,
    /// The file.
    pub file: SetFile,
}

/// Something that a training set was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// A dataset at a version.
    Table {
        /// The dataset, or its quarantine.
        table: String,
        /// The version.
        version: u64,
        /// SHA-256 of the entry that made this version. It holds that of the entry before it, so that it stands for the whole table.
        sha256: String,
    },
    /// A file.
    File {
        /// Its name.
        file: String,
        /// Its size.
        bytes: u64,
        /// SHA-256 of its bytes.
        sha256: String,
    },
}

/// A column of a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as in digests.
    #[serde(rename = "type")]
    pub type_text: String,
    /// What it is: `time`, `key`, `label` or `feature`.
    pub role: String,
    /// The digest of its values.
    pub sha256: String,
}

/// The file of a training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFile {
    /// Its name, beside the manifest.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// How many row groups it has.
    pub row_groups: u64,
    /// By which settings it was encoded. Others may give other bytes for the same rows, and never another digest of the rows.
    pub encoding: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Error::Configuration`] if it cannot be read, or is none that is understood.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Configuration(format!("{}: {problem}", path.display()));
        let bytes = crate::spec::read_bounded(path, MANIFEST_BYTES_MAX).map_err(wrong)?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("this is no manifest of a training set: {error}")))?;
        if manifest.format != FORMAT {
            let format = manifest.format.escape_debug();
            return Err(wrong(format!("the format `{format}` is not understood, only `{FORMAT}`")));
        }
        Ok(manifest)
    }

    /// The file as text.
    pub(super) fn to_text(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|error| Error::Bug(format!("write a manifest: {error}")))
    }

    /// The names of the file and of the manifest: the same only for the same request, inputs and bytes.
    pub(super) fn names(&self) -> Result<(String, String), Error> {
        let mut nameless = self.clone();
        nameless.file.name.clear();
        let digest = sha256_hex(nameless.to_text()?.as_bytes());
        let stem = format!("{}-{}", self.training_set, &digest[..NAME_DIGITS]);
        Ok((format!("{stem}.parquet"), format!("{stem}.json")))
    }

    /// What differs between two sets of the same request, the reason first. Nothing if they are the same.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.request_sha256 != other.request_sha256 {
            differences
                .push("the request is another one: the file that describes the set was changed".to_owned());
        }
        for input in self.inputs.iter().filter(|input| !other.inputs.contains(input)) {
            differences.push(match input {
                Input::Table { table, version, .. } => {
                    format!("{table} at version {version} is not what it was, or no longer an input")
                }
                Input::File { file, .. } => format!("the file {file} is not what it was"),
            });
        }
        for input in other.inputs.iter().filter(|input| !self.inputs.contains(input)) {
            if let Input::Table { table, version, .. } = input {
                differences.push(format!("{table} at version {version} is an input now"));
            }
        }
        if self.rows != other.rows {
            differences.push(format!("there were {} rows, and are {}", self.rows, other.rows));
        }
        for column in &self.columns {
            match other.columns.iter().find(|now| now.name == column.name) {
                None => differences.push(format!("the column {} is gone", column.name)),
                Some(now) if now.type_text != column.type_text => {
                    let (was, is) = (&column.type_text, &now.type_text);
                    differences.push(format!("the column {} was {was}, and is {is}", column.name));
                }
                Some(now) if now.sha256 != column.sha256 => {
                    differences.push(format!("values of the column {} differ", column.name));
                }
                Some(_) => {}
            }
        }
        if self.digest != other.digest && differences.is_empty() {
            differences.push("the columns differ in their order, or there are others".to_owned());
        }
        let is_encoded_alike = self.file.encoding == other.file.encoding;
        if self.digest == other.digest && is_encoded_alike && self.file.sha256 != other.file.sha256 {
            differences.push("the rows are the same, and the bytes of the file are not".to_owned());
        }
        differences
    }
}

/// SHA-256 of what a set asks for.
pub(super) fn request_sha256(request: &Request) -> Result<(serde_json::Value, String), Error> {
    let bug = |error: serde_json::Error| Error::Bug(format!("write a request: {error}"));
    let value = serde_json::to_value(request).map_err(bug)?;
    let text = serde_json::to_string(&value).map_err(bug)?;
    Ok((value, sha256_hex(text.as_bytes())))
}
