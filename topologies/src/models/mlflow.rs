//! MLflow's folders: a version written as one, and one read as a candidate.
//!
//! ```text
//! MLmodel                                   what it is: flavours `onnx` and `python_function`, and the signature
//! model.onnx                                the model
//! conda.yaml, python_env.yaml, requirements.txt
//! isobar/manifest.json, isobar/…            what isobar knows of it, and its other files: MLflow keeps them and does not look at them
//! ```
//!
//! A folder of MLflow's own has no `isobar/`. Then the signature says what the features are, where it names columns, and nothing is
//! known of data and metrics: MLflow has those in runs.

use std::fs;
use std::path::Path;

use isobar_connectors::delta::sha256_hex;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::candidate::{Draft, DraftFile, ONNX, read_draft};
use super::manifest::{Feature, MANIFEST, Manifest, Tensor};
use super::registry::Registry;
use crate::error::Error;
use crate::spec::read_bounded;
use crate::spec::yaml::{self, Document};

/// The file that makes a folder one of MLflow's.
pub(super) const MLMODEL: &str = "MLmodel";
/// What isobar keeps in such a folder.
const FOLDER: &str = "isobar";
const REQUIREMENTS: &str = "mlflow\nnumpy\nonnx\nonnxruntime\npandas\n";
const PYTHON_ENV: &str = "python: \"3.12\"\ndependencies:\n- -r requirements.txt\n";
const CONDA: &str = "name: mlflow-env\nchannels:\n- conda-forge\ndependencies:\n- python=3.12\n- pip\n- pip:\n  - mlflow\n  - numpy\n  \
                     - onnx\n  - onnxruntime\n  - pandas\n";

/// Types of elements, as the Open Inference Protocol and numpy call them.
const DATATYPES: [(&str, &str); 13] = [
    ("FP32", "float32"),
    ("FP64", "float64"),
    ("FP16", "float16"),
    ("INT8", "int8"),
    ("INT16", "int16"),
    ("INT32", "int32"),
    ("INT64", "int64"),
    ("UINT8", "uint8"),
    ("UINT16", "uint16"),
    ("UINT32", "uint32"),
    ("UINT64", "uint64"),
    ("BOOL", "bool"),
    ("BYTES", "str"),
];

/// Writes a version as a folder of MLflow's, which must not exist, or be empty.
///
/// # Errors
/// [`Error::Configuration`] if something is there; [`Error::LocalFile`]; those of reading the files.
pub async fn export(registry: &Registry, manifest: &Manifest, folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path, source: std::io::Error| Error::LocalFile {
        action: format!("write {}", path.display()),
        source,
    };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut found = fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    if found.next().is_some() {
        let what =
            format!("{} is not empty, and nothing is overwritten: name another folder", folder.display());
        return Err(Error::Configuration(what));
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, bytes)).map_err(|error| failed(&path, error))
    };
    for artifact in manifest.artifacts() {
        let bytes = registry.artifact(&manifest.model, manifest.version, artifact).await?;
        let is_model = artifact.file == manifest.onnx.file;
        write(&if is_model { ONNX.to_owned() } else { format!("{FOLDER}/{}", artifact.file) }, &bytes)?;
    }
    write(&format!("{FOLDER}/{MANIFEST}"), manifest.to_text()?.as_bytes())?;
    write("requirements.txt", REQUIREMENTS.as_bytes())?;
    write("python_env.yaml", PYTHON_ENV.as_bytes())?;
    write("conda.yaml", CONDA.as_bytes())?;
    // Last: a folder that has it is complete.
    write(MLMODEL, mlmodel(manifest)?.as_bytes())
}

/// The text of `MLmodel`.
fn mlmodel(manifest: &Manifest) -> Result<String, Error> {
    let quoted = |value: &Json| {
        // A JSON text in double quotes is one of YAML's.
        let text = serde_json::to_string(value).and_then(|text| serde_json::to_string(&text));
        text.map_err(|error| Error::Bug(format!("write a signature: {error}")))
    };
    let mut text = format!(
        "flavors:\n  onnx:\n    code: null\n    data: {ONNX}\n    onnx_session_options: null\n    providers:\n    - CPUExecutionProvider\n  \
         python_function:\n    data: {ONNX}\n    env:\n      conda: conda.yaml\n      virtualenv: python_env.yaml\n    \
         loader_module: mlflow.onnx\nmodel_uuid: \"{}\"\n",
        // The same version is the same model, wherever it is written.
        sha256_hex(format!("{} {} {}", manifest.model, manifest.version, manifest.onnx.sha256).as_bytes())
            .split_at(32)
            .0
    );
    let (inputs, outputs) = (tensors(&manifest.signature.inputs), tensors(&manifest.signature.outputs));
    if let (Some(inputs), Some(outputs)) = (inputs, outputs) {
        let (inputs, outputs) = (quoted(&inputs)?, quoted(&outputs)?);
        text.push_str(&format!("signature:\n  inputs: {inputs}\n  outputs: {outputs}\n  params: null\n"));
    }
    Ok(text)
}

/// Tensors as MLflow describes them; `None` if it has no word for a type.
fn tensors(tensors: &[Tensor]) -> Option<Json> {
    let described = tensors.iter().map(|tensor| {
        let (_, dtype) = DATATYPES.iter().find(|(datatype, _)| *datatype == tensor.datatype)?;
        let shape: Vec<Json> = tensor.shape.iter().map(|size| size.map_or(json!(-1), |size| json!(size))).collect();
        Some(json!({ "type": "tensor", "tensor-spec": { "dtype": dtype, "shape": shape }, "name": tensor.name }))
    });
    described.collect::<Option<Vec<Json>>>().map(Json::Array)
}

/// What a column or tensor of MLflow's signature says.
#[derive(Debug, Deserialize)]
struct Described {
    #[serde(rename = "type")]
    kind: Json,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "tensor-spec")]
    tensor: Option<TensorSpec>,
}

#[derive(Debug, Deserialize)]
struct TensorSpec {
    dtype: String,
    shape: Vec<i64>,
}

/// What the folder says of its model, and where everything but the ONNX file lies.
///
/// # Errors
/// [`Error::Configuration`] if it is none of MLflow's, or has no ONNX model.
pub(super) fn read(folder: &Path) -> Result<(Draft, std::path::PathBuf), Error> {
    let path = folder.join(MLMODEL);
    let wrong = |what: String| Error::Configuration(format!("{}: {what}", path.display()));
    let bytes = read_bounded(&path, yaml::TEXT_BYTES_MAX as u64).map_err(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    let parsed = yaml::parse_as(&text, Document::MlModel);
    if let Some(problem) = parsed.problems.first() {
        return Err(wrong(problem.message.clone()));
    }
    let root = parsed.root.ok_or_else(|| wrong("it is empty".to_owned()))?.to_json();
    let data = root.pointer("/flavors/onnx/data").and_then(Json::as_str);
    let data = data.ok_or_else(|| {
        wrong("it has no flavour `onnx`: log the model with `mlflow.onnx.log_model`".to_owned())
    })?;
    let own = folder.join(FOLDER);
    let (mut draft, root_folder) = match own.join(MANIFEST).is_file() {
        true => (read_draft(&own.join(MANIFEST))?, own),
        false => (Draft::default(), folder.to_owned()),
    };
    // It becomes a version of whatever model it is registered as.
    (draft.model, draft.version) = (None, None);
    let said = draft.onnx.take();
    draft.onnx = Some(match said {
        Some(said) => DraftFile { file: data.to_owned(), ..said },
        None => DraftFile::named(data),
    });
    if draft.features.is_empty() {
        draft.features = features(root.pointer("/signature/inputs")).map_err(wrong)?;
    }
    check_tensors(root.pointer("/signature/inputs"), draft.signature.as_ref()).map_err(wrong)?;
    Ok((draft, root_folder))
}

fn described(signature: Option<&Json>) -> Result<Vec<Described>, String> {
    let Some(text) = signature.and_then(Json::as_str) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| format!("its signature is not understood: {error}"))
}

/// The columns that a signature names; none for one of tensors.
fn features(signature: Option<&Json>) -> Result<Vec<Feature>, String> {
    let columns = described(signature)?.into_iter().filter_map(|column| {
        let type_text = match column.kind.as_str()? {
            "boolean" => "boolean",
            "integer" => "int32",
            "long" => "int64",
            "float" => "float32",
            "double" => "float64",
            "string" => "string",
            "datetime" => "timestamp",
            _ => return None,
        };
        Some(Feature {
            name: column.name?,
            type_text: type_text.to_owned(),
            dataset: None,
            column: None,
            contract: None,
        })
    });
    Ok(columns.collect())
}

/// Tensors of MLflow's signature are those of isobar's, where there are both.
fn check_tensors(signature: Option<&Json>, ours: Option<&super::Signature>) -> Result<(), String> {
    let Some(ours) = ours else { return Ok(()) };
    for theirs in described(signature)? {
        let (Some(name), Some(spec)) = (theirs.name, theirs.tensor) else { continue };
        let found = ours.inputs.iter().find(|tensor| tensor.name == name);
        let is_same = found.is_some_and(|tensor| {
            let dtype = DATATYPES.iter().find(|(datatype, _)| *datatype == tensor.datatype);
            let shape =
                tensor.shape.iter().map(|size| size.map_or(Some(-1), |size| i64::try_from(size).ok()));
            dtype.is_some_and(|(_, dtype)| *dtype == spec.dtype)
                && shape.collect::<Option<Vec<i64>>>().is_some_and(|shape| shape == spec.shape)
        });
        if !is_same {
            return Err(format!("the input `{name}` of its signature is not that of {FOLDER}/{MANIFEST}"));
        }
    }
    Ok(())
}
