//! What a version of a model is made of: `models/<name>/<version>/manifest.json`, the same bytes in every cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use isobar_connectors::delta::is_sha256;
use serde::{Deserialize, Serialize};

use crate::commit::model::{FILES_MAX, is_file_name, is_model_name, require};
use crate::error::Error;

/// The name of a manifest's file.
pub(super) const MANIFEST: &str = "manifest.json";
/// Upper bound of a manifest.
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Characters that names in a manifest may have.
const NAME_CHARACTERS_MAX: usize = 1000;

/// What is known of one version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The model's name.
    pub model: String,
    /// The version: 1 is the first.
    pub version: u64,
    /// The model itself.
    pub onnx: Artifact,
    /// What goes in and comes out.
    pub signature: Signature,
    /// The columns that are the model's inputs, in the order of its inputs.
    pub features: Vec<Feature>,
    /// The datasets it was trained on, each at one version.
    pub data: Vec<DataVersion>,
    /// The digest of the training set's rows, as in the manifest of `isobar training-set`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_set_sha256: Option<String>,
    /// What was measured, by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// The revision of the code that trained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What the features looked like in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Artifact>,
    /// All other files: the model card, plots.
    #[serde(default)]
    pub files: Vec<Artifact>,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its path below the version's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, as 64 hexadecimal digits.
    pub sha256: String,
}

/// Inputs and outputs of the ONNX graph, by name, in the order of the graph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// What goes in.
    pub inputs: Vec<Tensor>,
    /// What comes out.
    pub outputs: Vec<Tensor>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements, as the Open Inference Protocol has it: `FP32`, `FP64`, `INT64`, `BOOL`, `BYTES`.
    pub datatype: String,
    /// Its dimensions, `null` where one is free, such as the rows of a batch.
    pub shape: Vec<Option<u64>>,
}

impl fmt::Display for Tensor {
    /// Type and shape, as in `FP32[*, 4]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = self.shape.iter().map(|size| size.map_or("*".to_owned(), |size| size.to_string()));
        write!(f, "{}[{}]", self.datatype, shape.collect::<Vec<_>>().join(", "))
    }
}

/// A column that goes into a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// The column's name in the training set.
    pub name: String,
    /// Its type, as in a specification.
    #[serde(rename = "type")]
    pub type_text: String,
    /// The dataset that it is from, if it is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The column of that dataset, where it is not called like the feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The version of that dataset's contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
}

impl Feature {
    /// What the column of its dataset is called.
    pub fn column(&self) -> &str {
        self.column.as_ref().unwrap_or(&self.name)
    }
}

/// A dataset at a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataVersion {
    /// The dataset.
    pub dataset: String,
    /// The version.
    pub version: u64,
    /// SHA-256 of the entry that made this version. It holds that of the entry before it, so that it stands for the whole table.
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("this is no manifest of a model: {error}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The file as text.
    pub(super) fn to_text(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|error| Error::Bug(format!("write a manifest: {error}")))
    }

    /// All files that it names.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        std::iter::once(&self.onnx).chain(&self.statistics).chain(&self.files)
    }

    /// What it says can be so.
    pub(super) fn check(&self) -> Result<(), String> {
        require(is_model_name(&self.model), || format!("model {:.100?}", self.model))?;
        require(self.version > 0, || "version 0".to_owned())?;
        let mut files = BTreeSet::from([MANIFEST]);
        for artifact in self.artifacts() {
            let file = &artifact.file;
            require(is_file_name(file) && is_sha256(&artifact.sha256), || format!("file {file:.100?}"))?;
            require(files.insert(file), || format!("two files are called {file}"))?;
        }
        require(files.len() <= FILES_MAX, || format!("more than {FILES_MAX} files"))?;
        let digests = self.data.iter().map(|data| &data.sha256).chain(&self.training_set_sha256);
        for digest in digests {
            require(is_sha256(digest), || format!("{digest:.100?} is no SHA-256"))?;
        }
        let tensors = self.signature.inputs.iter().chain(&self.signature.outputs);
        let names = tensors.flat_map(|tensor| [&tensor.name, &tensor.datatype]);
        let features = self.features.iter();
        let names =
            names
                .chain(features.clone().flat_map(|feature| [&feature.name, &feature.type_text]))
                .chain(features.flat_map(|feature| {
                    feature.dataset.iter().chain(&feature.column).chain(&feature.contract)
                }))
                .chain(self.data.iter().map(|data| &data.dataset))
                .chain(self.metrics.keys())
                .chain(&self.revision);
        for name in names {
            let is_plain = !name.is_empty()
                && name.chars().count() <= NAME_CHARACTERS_MAX
                && !name.chars().any(char::is_control);
            require(is_plain, || format!("the name {name:.100?}"))?;
        }
        let mut seen = BTreeSet::new();
        for feature in &self.features {
            require(seen.insert(&feature.name), || format!("two features are called {}", feature.name))?;
            let is_of_dataset = feature.dataset.is_some() || feature.column.is_none();
            require(is_of_dataset, || format!("the feature {} has a column of no dataset", feature.name))?;
        }
        require(self.metrics.values().all(|value| value.is_finite()), || "a metric is no number".to_owned())?;
        self.check_features()
    }

    /// As many features as the inputs take, where that can be told.
    fn check_features(&self) -> Result<(), String> {
        let (features, inputs) = (self.features.len() as u64, &self.signature.inputs);
        let taken = match inputs.as_slice() {
            [only] => match only.shape.as_slice() {
                [_, Some(columns)] => Some(*columns),
                _ => None,
            },
            several => Some(several.len() as u64),
        };
        match taken {
            Some(taken) if features > 0 && taken != features => {
                Err(format!("there are {features} features, and the inputs of the model take {taken}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A manifest of a model with two features.
    pub(in crate::models) fn example(version: u64) -> Manifest {
        let artifact = |file: &str| Artifact { file: file.into(), bytes: 7, sha256: "ab".repeat(32) };
        let tensor = |name: &str, datatype: &str, shape: &[Option<u64>]| Tensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
        };
        let feature = |name: &str| Feature {
            name: name.into(),
            type_text: "float64".into(),
            dataset: Some("flight_features".into()),
            column: None,
            contract: Some("1.2.0".into()),
        };
        Manifest {
            model: "late".into(),
            version,
            onnx: artifact("model.onnx"),
            signature: Signature {
                inputs: vec![tensor("features", "FP32", &[None, Some(2)])],
                outputs: vec![tensor("label", "INT64", &[None])],
            },
            features: vec![feature("distance"), feature("wind")],
            data: vec![DataVersion {
                dataset: "flight_features".into(),
                version: 42,
                sha256: "cd".repeat(32),
            }],
            training_set_sha256: Some("ef".repeat(32)),
            metrics: [("roc_auc".to_owned(), 0.71)].into(),
            revision: Some("4f2a".into()),
            statistics: Some(artifact("statistics.json")),
            files: vec![artifact("plots/roc.png")],
        }
    }

    #[test]
    fn a_manifest_survives_a_round_trip_and_unknown_fields_are_refused() {
        let manifest = example(3);
        let text = manifest.to_text().unwrap();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        let more = text.replacen('{', "{\"later\": 1,", 1);
        assert!(Manifest::parse(more.as_bytes()).unwrap_err().contains("later"));
        let mut renamed = manifest.clone();
        renamed.features[1].column = Some("wind_speed".into());
        let read = Manifest::parse(renamed.to_text().unwrap().as_bytes()).unwrap();
        assert_eq!(read, renamed);
        assert_eq!([read.features[0].column(), read.features[1].column()], ["distance", "wind_speed"]);
        let without = Manifest { statistics: None, training_set_sha256: None, revision: None, ..manifest };
        assert_eq!(Manifest::parse(without.to_text().unwrap().as_bytes()).unwrap(), without);
    }

    #[test]
    fn what_cannot_be_so_is_refused() {
        type Break = fn(&mut Manifest);
        let breaks: [(&str, Break); 11] = [
            ("model", |manifest| manifest.model = "../late".into()),
            ("version 0", |manifest| manifest.version = 0),
            ("file", |manifest| manifest.onnx.file = "../model.onnx".into()),
            ("two files", |manifest| manifest.files[0].file = "model.onnx".into()),
            ("two files", |manifest| manifest.files[0].file = "manifest.json".into()),
            ("SHA-256", |manifest| manifest.data[0].sha256 = "AB".repeat(32)),
            ("two features", |manifest| manifest.features[1].name = "distance".into()),
            ("no dataset", |manifest| {
                let feature = &mut manifest.features[1];
                (feature.dataset, feature.column) = (None, Some("speed".into()));
            }),
            ("name", |manifest| manifest.features[1].column = Some(String::new())),
            ("take 2", |manifest| drop(manifest.features.pop())),
            ("name", |manifest| manifest.revision = Some("a\u{1b}[2J".into())),
        ];
        for (reason, break_one) in breaks {
            let mut manifest = example(3);
            break_one(&mut manifest);
            let error = manifest.check().expect_err(reason);
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
    }
}
