//! Models beside the data: `models/<name>/<version>/` in every cloud.

mod manifest;

pub use self::manifest::{Artifact, DataVersion, Feature, Manifest, Signature, Tensor};

use std::collections::BTreeMap;

use bytes::Bytes;
use isobar_connectors::clouds::Cloud;

use crate::error::Error;

/// All versions and aliases of a model, as of one decided entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// All versions.
    pub versions: BTreeMap<u64, Manifest>,
    /// Which version each alias means.
    pub aliases: BTreeMap<String, u64>,
    /// The sequence number of the newest entry.
    pub entry: u64,
}

/// The models of a topology's clouds, for reading.
#[derive(Debug, Clone)]
pub struct Registry {
    clouds: Vec<Cloud>,
}

impl Registry {
    /// The models that lie in `clouds`.
    pub fn new(clouds: Vec<Cloud>) -> Self {
        Self { clouds }
    }

    /// The names of all models, in order.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if too few clouds answer.
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        Err(Error::Bug(format!("the registry of {} clouds cannot be read yet", self.clouds.len())))
    }

    /// A model as of its newest entry.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is none of this name; [`Error::NoMajority`] if too few clouds answer.
    pub async fn model(&self, name: &str) -> Result<Model, Error> {
        Err(Error::Bug(format!("the model {name} cannot be read yet")))
    }

    /// The bytes of a file, with the size and SHA-256 that the manifest names, from the first cloud that has them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if no cloud has these bytes.
    pub async fn artifact(&self, model: &str, version: u64, artifact: &Artifact) -> Result<Bytes, Error> {
        Err(Error::Bug(format!("{} of {model} version {version} cannot be read yet", artifact.file)))
    }
}
