//! A model in a folder of this machine, as it may become a version: everything about it is checked before anything is written.
//!
//! | file | |
//! |---|---|
//! | `manifest.json` | what is known of the model: features, data, metrics; a [`Draft`], without version and digests |
//! | `model.onnx` | the model, or the file that the manifest names |
//! | `statistics.json`, `model_card.md`, `plots/` | kept beside it, where they are there |
//!
//! Or a folder of MLflow's with the flavour `onnx` ([`super::mlflow`]). Other files are left alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use isobar_connectors::delta::sha256_hex;
use serde::Deserialize;
use tracing::{debug, warn};

use super::manifest::{
    Artifact, DataVersion, Feature, MANIFEST, MANIFEST_BYTES_MAX, Manifest, Signature, Tensor,
};
use super::{check_model_name, mlflow, onnx};
use crate::commit::model::{FILES_MAX, is_file_name};
use crate::error::Error;
use crate::spec::read_bounded;
use crate::spec::units::ByteSize;

/// How large an ONNX file may be, where nothing else is said.
pub const ONNX_BYTES_MAX: u64 = 1 << 30;
/// How large any other file may be.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How large all others may be together.
const FILES_BYTES_MAX: u64 = 256 << 20;
/// How deep folders of plots may be.
const FOLDERS_DEEP_MAX: usize = 4;

pub(super) const ONNX: &str = "model.onnx";
const STATISTICS: &str = "statistics.json";
const CARD: &str = "model_card.md";
const PLOTS: &str = "plots";

/// What whoever trained a model knows of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    #[serde(default)]
    pub(super) model: Option<String>,
    /// Nothing: a registration gives it.
    #[serde(default)]
    pub(super) version: Option<u64>,
    #[serde(default)]
    pub(super) onnx: Option<DraftFile>,
    #[serde(default)]
    pub(super) signature: Option<Signature>,
    #[serde(default)]
    pub(super) features: Vec<Feature>,
    #[serde(default)]
    pub(super) data: Vec<DataVersion>,
    #[serde(default)]
    pub(super) training_set_sha256: Option<String>,
    #[serde(default)]
    pub(super) metrics: BTreeMap<String, f64>,
    #[serde(default)]
    pub(super) revision: Option<String>,
    #[serde(default)]
    pub(super) statistics: Option<DraftFile>,
    #[serde(default)]
    pub(super) files: Vec<DraftFile>,
}

/// A file as a draft names it. What is said of its bytes must be so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DraftFile {
    pub(super) file: String,
    #[serde(default)]
    pub(super) bytes: Option<u64>,
    #[serde(default)]
    pub(super) sha256: Option<String>,
}

impl DraftFile {
    /// A file of which nothing is said but its name.
    pub(super) fn named(file: &str) -> Self {
        Self { file: file.to_owned(), bytes: None, sha256: None }
    }
}

/// A file of a version, in memory.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path below the version's folder.
    pub(super) name: String,
    pub(super) bytes: Bytes,
    pub(super) sha256: String,
}

impl File {
    pub(super) fn new(name: &str, bytes: Bytes) -> Self {
        let sha256 = sha256_hex(&bytes);
        Self { name: name.to_owned(), bytes, sha256 }
    }

    fn artifact(&self) -> Artifact {
        let (file, sha256) = (self.name.clone(), self.sha256.clone());
        Artifact { file, bytes: self.bytes.len() as u64, sha256 }
    }
}

/// A model that can be registered. Its files are in memory.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Of version 1, whichever it becomes.
    manifest: Manifest,
    files: Vec<File>,
}

impl Candidate {
    /// Reads and checks the model in `folder`, which is to be called `model`. `onnx_bytes_max` bounds its ONNX file.
    ///
    /// # Errors
    /// [`Error::Configuration`] with what is wrong with it.
    pub fn read(folder: &Path, model: &str, onnx_bytes_max: u64) -> Result<Self, Error> {
        check_model_name(model)?;
        let (draft, root) = match folder.join(mlflow::MLMODEL).is_file() {
            true => mlflow::read(folder)?,
            false => (read_draft(&folder.join(MANIFEST))?, folder.to_owned()),
        };
        Self::of(draft, &root, folder, model, onnx_bytes_max)
    }

    /// `root` is the folder of everything but the ONNX file, which lies in `folder`.
    fn of(draft: Draft, root: &Path, folder: &Path, model: &str, onnx_bytes_max: u64) -> Result<Self, Error> {
        let manifest_path = root.join(MANIFEST);
        let wrong = |what: String| Error::Configuration(format!("{}: {what}", manifest_path.display()));
        if let Some(other) = draft.model.as_ref().filter(|other| *other != model) {
            let other = other.escape_debug();
            return Err(wrong(format!("it is about the model `{other}`, not `{model}`")));
        }
        if let Some(version) = draft.version {
            return Err(wrong(format!(
                "it names version {version}: versions are given when a model is registered"
            )));
        }
        let onnx_name = draft.onnx.as_ref().map_or(ONNX, |onnx| onnx.file.as_str());
        let onnx = read_file(folder, onnx_name, onnx_bytes_max)?;
        check_said(draft.onnx.as_ref(), &onnx).map_err(&wrong)?;
        let described = onnx::describe(&onnx.bytes)
            .map_err(|what| Error::Configuration(format!("{}: {what}", folder.join(onnx_name).display())))?;
        debug!(opset = described.opset, "the model was read");
        if let Some(said) = &draft.signature {
            check_signature(said, &described.signature).map_err(&wrong)?;
        }
        let statistics_name = draft.statistics.as_ref().map_or(STATISTICS, |file| file.file.as_str());
        let statistics = match draft.statistics.is_some() || root.join(STATISTICS).exists() {
            true => Some(read_file(root, statistics_name, FILE_BYTES_MAX)?),
            false => None,
        };
        if let Some(file) = &statistics {
            check_said(draft.statistics.as_ref(), file).map_err(&wrong)?;
        }
        let mut names = beside(root)?;
        names.extend(draft.files.iter().map(|said| said.file.clone()));
        names.sort_unstable();
        names.dedup();
        names.retain(|name| name != onnx_name && name != statistics_name);
        if names.len() + 3 > FILES_MAX {
            return Err(wrong(format!("the model has more than {FILES_MAX} files")));
        }
        let mut files = Vec::with_capacity(names.len());
        let mut left = FILES_BYTES_MAX;
        for name in &names {
            let file = read_file(root, name, FILE_BYTES_MAX.min(left))?;
            left -= file.bytes.len() as u64;
            check_said(draft.files.iter().find(|said| said.file == *name), &file).map_err(&wrong)?;
            files.push(file);
        }
        let manifest = Manifest {
            model: model.to_owned(),
            version: 1,
            onnx: onnx.artifact(),
            signature: described.signature,
            features: draft.features,
            data: draft.data,
            training_set_sha256: draft.training_set_sha256,
            metrics: draft.metrics,
            revision: draft.revision,
            statistics: statistics.as_ref().map(File::artifact),
            files: files.iter().map(File::artifact).collect(),
        };
        manifest.check().map_err(&wrong)?;
        if manifest.to_text()?.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(wrong(format!("it is larger than {}", ByteSize(MANIFEST_BYTES_MAX))));
        }
        files.extend(statistics);
        files.push(onnx);
        Ok(Self { manifest, files })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.manifest.model
    }

    /// What its manifest is as this version.
    pub(super) fn manifest(&self, version: u64) -> Result<Manifest, Error> {
        let manifest = Manifest { version, ..self.manifest.clone() };
        manifest.check().map_err(Error::Bug)?;
        Ok(manifest)
    }

    /// All its files but the manifest.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }
}

/// Reads the draft of a manifest.
pub(super) fn read_draft(path: &Path) -> Result<Draft, Error> {
    let wrong = |what: String| Error::Configuration(format!("{}: {what}", path.display()));
    let bytes = read_bounded(path, MANIFEST_BYTES_MAX).map_err(wrong)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("this is no manifest of a model: {error}; see docs/models.md")))
}

/// Reads a file below `folder`.
fn read_file(folder: &Path, name: &str, bytes_max: u64) -> Result<File, Error> {
    if !is_file_name(name) {
        let rule = "letters, digits, `_`, `-` and `.`, no dot first, in folders with such names";
        return Err(Error::Configuration(format!(
            "`{}` is no name of a file here: {rule}",
            name.escape_debug()
        )));
    }
    let path = folder.join(name);
    let wrong = |what: String| Error::Configuration(format!("{}: {what}", path.display()));
    // A link may lead anywhere.
    let found = fs::symlink_metadata(&path).map_err(|error| wrong(error.to_string()))?;
    if !found.is_file() {
        return Err(wrong("it is no file".to_owned()));
    }
    let bytes = read_bounded(&path, bytes_max).map_err(wrong)?;
    Ok(File::new(name, bytes.into()))
}

/// The names of the card and the plots that lie in `root`.
fn beside(root: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    if root.join(CARD).exists() {
        names.push(CARD.to_owned());
    }
    if root.join(PLOTS).is_dir() {
        list_files(root, PLOTS, 1, &mut names)?;
    }
    let is_known = |name: &str| [MANIFEST, ONNX, STATISTICS, CARD, PLOTS, mlflow::MLMODEL].contains(&name);
    let entries = fs::read_dir(root).map_err(|error| unreadable(root, &error))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_known(&name) && !root.join(mlflow::MLMODEL).exists() {
            warn!(name, "it is no part of the model and is left alone, unless the manifest names it");
        }
    }
    Ok(names)
}

fn list_files(root: &Path, folder: &str, depth: usize, names: &mut Vec<String>) -> Result<(), Error> {
    let path = root.join(folder);
    let failed = |error: std::io::Error| unreadable(&path, &error);
    for entry in fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(failed)?.is_dir() {
            if depth >= FOLDERS_DEEP_MAX {
                let what = format!("{name}: folders are more than {FOLDERS_DEEP_MAX} deep");
                return Err(Error::Configuration(what));
            }
            list_files(root, &name, depth + 1, names)?;
        } else {
            names.push(name);
        }
        if names.len() > FILES_MAX {
            return Err(Error::Configuration(format!("{}: more than {FILES_MAX} files", path.display())));
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Configuration(format!("{}: {error}", path.display()))
}

/// What a draft says of a file's bytes is so.
fn check_said(said: Option<&DraftFile>, file: &File) -> Result<(), String> {
    let Some(said) = said else { return Ok(()) };
    let bytes = file.bytes.len() as u64;
    if said.bytes.is_some_and(|said| said != bytes) {
        return Err(format!("{} has {bytes} bytes, not as many as it says", file.name));
    }
    if said.sha256.as_ref().is_some_and(|said| *said != file.sha256) {
        return Err(format!("{} has the SHA-256 {}, not the one that it says", file.name, file.sha256));
    }
    Ok(())
}

/// The signature in a manifest is that of the graph.
fn check_signature(said: &Signature, found: &Signature) -> Result<(), String> {
    let sides = [("input", &said.inputs, &found.inputs), ("output", &said.outputs, &found.outputs)];
    for (what, said, found) in sides {
        let names = |tensors: &[Tensor]| {
            tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        if names(said) != names(found) {
            return Err(format!(
                "its {what}s are [{}], those of the ONNX file are [{}]",
                names(said),
                names(found)
            ));
        }
        for (said, found) in said.iter().zip(found) {
            if said != found {
                let name = &said.name;
                return Err(format!("the {what} `{name}` is {said} in it, and {found} in the ONNX file"));
            }
        }
    }
    Ok(())
}
