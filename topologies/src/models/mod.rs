//! Models beside the data: `models/<name>/<version>/` in every cloud.
//!
//! ```text
//! folder ─▶ candidate ─▶ reserve ─▶ files to every cloud ─▶ register ─▶ models/<name>/_log/<entry>.json in every cloud
//!           (checked)    (entry)    models/<name>/<v>/…     (entry)
//! ```
//!
//! A model has a log like a table has one, decided by the same protocol (`docs/protocol.md`) in a control group of its own:
//! one for all models of these clouds, led by whichever command has something to decide, for that moment. A version exists
//! when the entry that registers it is decided, which is after its files are in a majority of clouds; aliases are derived from the
//! log ([`history`]), so that they switch with one entry. [`Registry`] reads, [`Writer`] decides, [`verify`](fn@verify) compares
//! every byte in every cloud. `docs/models.md` is for users.

mod candidate;
mod history;
mod manifest;
mod mlflow;
pub(crate) mod onnx;
mod registry;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use self::candidate::{Candidate, ONNX_BYTES_MAX};
pub use self::manifest::{Artifact, DataVersion, Feature, Manifest, Signature, Tensor};
pub use self::mlflow::export;
pub use self::registry::Registry;
pub use self::verify::{Finding, FindingKind, Verified, readmit, verify};
pub use self::writer::Writer;

use crate::commit::model::{is_alias, is_model_name};
use crate::error::Error;

/// The folder of models, beside `datasets` and `control`.
const FOLDER: &str = "models";
/// The control group of all models. No topology has a dot in its name.
const GROUP: &str = "models.registry";

/// Refuses what cannot be the name of a model.
fn check_model_name(name: &str) -> Result<(), Error> {
    if is_model_name(name) {
        return Ok(());
    }
    let name = name.escape_debug();
    let rule = "lower-case letters, digits and `_`, no digit first, at most 64 characters";
    Err(Error::Configuration(format!("`{name}` is no name of a model: {rule}")))
}

/// All versions and aliases of a model, as of one decided entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// All versions.
    pub versions: BTreeMap<u64, Manifest>,
    /// Which version each alias means.
    pub aliases: BTreeMap<String, u64>,
    /// The number of the newest entry, from 0.
    pub entry: u64,
}

impl Model {
    /// The version that is meant.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no such version or alias.
    pub fn version(&self, which: &Which) -> Result<&Manifest, Error> {
        let version = match which {
            Which::Version(version) => Some(*version),
            Which::Alias(alias) => self.aliases.get(alias).copied(),
            Which::Newest => self.versions.keys().next_back().copied(),
        };
        let manifest = version.and_then(|version| self.versions.get(&version));
        manifest.ok_or_else(|| Error::Configuration(format!("the model {} has no {which}", self.name)))
    }
}

/// Which version of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The one that was registered last.
    Newest,
    /// This one.
    Version(u64),
    /// The one that an alias means.
    Alias(String),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("version"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Alias(alias) => write!(f, "alias {alias}"),
        }
    }
}

/// A version of a model as people write it: `late`, `late@3` or `late@champion`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The model.
    pub model: String,
    /// The version.
    pub which: Which,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, which) = match text.split_once('@') {
            None => (text, Which::Newest),
            Some((model, which)) => {
                let version = which.parse::<u64>().ok().filter(|version| *version > 0);
                let alias = || is_alias(which).then(|| Which::Alias(which.to_owned()));
                let which = version.map(Which::Version).or_else(alias);
                (
                    model,
                    which
                        .ok_or_else(|| format!("`{text}` names neither a version nor an alias after `@`"))?,
                )
            }
        };
        if !is_model_name(model) {
            return Err(format!(
                "`{model}` is no name of a model: write `NAME`, `NAME@3` or `NAME@champion`"
            ));
        }
        Ok(Self { model: model.to_owned(), which })
    }
}
