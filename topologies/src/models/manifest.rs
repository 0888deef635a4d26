//! What a version of a model is made of: `models/<name>/<version>/manifest.json`, the same bytes in every cloud.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// The version of that dataset's contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
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
