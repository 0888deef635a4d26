//! What a folder has to be to become a version, and what people write to mean one.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::candidate::{Candidate, ONNX_BYTES_MAX};
use super::onnx::tests::small;
use super::{Reference, Which};
use crate::error::Error;

const MANIFEST: &str = r#"{
    "signature": {
        "inputs": [{ "name": "features", "datatype": "FP32", "shape": [null, 2] }],
        "outputs": [
            { "name": "label", "datatype": "INT64", "shape": [null] },
            { "name": "probabilities", "datatype": "FP32", "shape": [null, 2] }
        ]
    },
    "features": [
        { "name": "distance", "type": "float64", "dataset": "flight_features", "contract": "1.2.0" },
        { "name": "wind", "type": "float64" }
    ],
    "data": [],
    "metrics": { "roc_auc": 0.71 },
    "revision": "4f2a"
}"#;

/// A folder as a training writes it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "manifest.json", MANIFEST.as_bytes());
    write(folder.path(), "model.onnx", &small(2));
    write(folder.path(), "statistics.json", b"{}");
    write(folder.path(), "model_card.md", b"# late\n");
    write(folder.path(), "plots/roc.png", b"a plot");
    folder
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn read(folder: &Path) -> Result<Candidate, Error> {
    Candidate::read(folder, "late", ONNX_BYTES_MAX)
}

#[test]
fn a_folder_becomes_a_manifest_and_files() {
    let folder = folder();
    write(folder.path(), "notes.txt", b"left alone");
    let candidate = read(folder.path()).unwrap();
    let manifest = candidate.manifest(7).unwrap();
    assert_eq!((manifest.model.as_str(), manifest.version), ("late", 7));
    assert_eq!(manifest.onnx.bytes, small(2).len() as u64);
    assert_eq!(manifest.signature.inputs[0].shape, [None, Some(2)]);
    let mut names: Vec<&str> = manifest.artifacts().map(|artifact| artifact.file.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["model.onnx", "model_card.md", "plots/roc.png", "statistics.json"]);
    assert_eq!(candidate.files().len(), names.len());
}

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    let said = |text: &str, with: &str| MANIFEST.replacen(text, with, 1);
    let manifests = [
        ("not JSON", "no manifest".to_owned(), "{".to_owned()),
        ("a field that nobody knows", "later".to_owned(), said("\"data\"", "\"later\": 1, \"data\"")),
        ("a version", "versions are given".to_owned(), said("\"data\"", "\"version\": 3, \"data\"")),
        (
            "another model",
            "about the model `early`".to_owned(),
            said("\"data\"", "\"model\": \"early\", \"data\""),
        ),
        ("another type", "FP64[*, 2]".to_owned(), said("FP32", "FP64")),
        ("another shape", "FP32[*, 3]".to_owned(), said("[null, 2]", "[null, 3]")),
        ("another output", "outputs are [class,".to_owned(), said("\"label\"", "\"class\"")),
        ("a feature twice", "two features".to_owned(), said("\"wind\"", "\"distance\"")),
        (
            "another digest",
            "SHA-256".to_owned(),
            said("\"data\"", "\"onnx\": {\"file\": \"model.onnx\", \"sha256\": \"ab\"}, \"data\""),
        ),
        (
            "a file elsewhere",
            "no name of a file".to_owned(),
            said("\"data\"", "\"files\": [{\"file\": \"../../etc/passwd\"}], \"data\""),
        ),
        (
            "a file that is not there",
            "card.pdf".to_owned(),
            said("\"data\"", "\"files\": [{\"file\": \"card.pdf\"}], \"data\""),
        ),
    ];
    for (what, reason, manifest) in manifests {
        let folder = folder();
        write(folder.path(), "manifest.json", manifest.as_bytes());
        let error = read(folder.path()).expect_err(what);
        assert_eq!(error.exit_code(), 2, "{what}");
        assert!(error.to_string().contains(&reason), "{what}: expected {reason:?}, got {error}");
    }
}

#[test]
fn an_onnx_file_that_is_none_or_too_large_is_refused() {
    let folder = folder();
    for (bytes, reason) in
        [(&b"{}"[..], "no ONNX model"), (b"", "no ONNX model"), (&small(2)[..40], "cut short")]
    {
        write(folder.path(), "model.onnx", bytes);
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    write(folder.path(), "model.onnx", &small(2));
    let error = Candidate::read(folder.path(), "late", 10).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    fs::remove_file(folder.path().join("model.onnx")).unwrap();
    assert!(read(folder.path()).is_err());
    // As many features as the model takes.
    write(folder.path(), "model.onnx", &small(3));
    let error = read(folder.path()).unwrap_err();
    assert!(error.to_string().contains("FP32[*, 3]"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_not_followed() {
    let folder = folder();
    let secret = folder.path().join("secret");
    fs::write(&secret, b"secret").unwrap();
    std::os::unix::fs::symlink(&secret, folder.path().join("plots/more.png")).unwrap();
    let error = read(folder.path()).unwrap_err();
    assert!(error.to_string().contains("it is no file"), "{error}");
}

#[test]
fn names_of_models_are_checked() {
    let folder = folder();
    for name in ["", "Late", "../late", "a-b", "1a"] {
        assert!(Candidate::read(folder.path(), name, ONNX_BYTES_MAX).is_err(), "{name}");
    }
}

#[test]
fn a_folder_of_mlflow_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mlmodel = "artifact_path: model\nflavors:\n  onnx:\n    code: null\n    data: model.onnx\n    onnx_version: 1.16.0\n    \
                   providers:\n    - CUDAExecutionProvider\n  python_function:\n    data: model.onnx\n    loader_module: mlflow.onnx\n\
                   mlflow_version: 2.9.0\nmodel_uuid: 0123456789abcdef0123456789abcdef\nsignature:\n  inputs: '[{\"type\": \"double\", \
                   \"name\": \"distance\", \"required\": true}, {\"type\": \"long\", \"name\": \"seats\", \"required\": true}]'\n  outputs: \
                   '[{\"type\": \"tensor\", \"tensor-spec\": {\"dtype\": \"int64\", \"shape\": [-1]}}]'\n  params: null\n";
    write(folder.path(), "MLmodel", mlmodel.as_bytes());
    write(folder.path(), "model.onnx", &small(2));
    let manifest = read(folder.path()).unwrap().manifest(1).unwrap();
    let features: Vec<_> =
        manifest.features.iter().map(|it| (it.name.as_str(), it.type_text.as_str())).collect();
    assert_eq!(features, [("distance", "float64"), ("seats", "int64")]);

    write(folder.path(), "MLmodel", mlmodel.replacen("onnx:", "sklearn:", 1).as_bytes());
    let error = read(folder.path()).unwrap_err();
    assert!(error.to_string().contains("flavour `onnx`"), "{error}");
    write(folder.path(), "MLmodel", mlmodel.replace("data: model.onnx", "data: ../model.onnx").as_bytes());
    let error = read(folder.path()).unwrap_err();
    assert!(error.to_string().contains("no name of a file"), "{error}");
}

#[test]
fn a_version_is_written_as_a_number_or_an_alias() {
    let of = |text: &str| text.parse::<Reference>().map(|it| (it.model, it.which));
    assert_eq!(of("late"), Ok(("late".into(), Which::Newest)));
    assert_eq!(of("late@3"), Ok(("late".into(), Which::Version(3))));
    assert_eq!(of("late@champion"), Ok(("late".into(), Which::Alias("champion".into()))));
    for text in [
        "",
        "@3",
        "late@",
        "late@0",
        "late@-1",
        "late@3@4",
        "Late@3",
        "late@Champion",
        "late@99999999999999999999",
    ] {
        assert!(of(text).is_err(), "{text}");
    }
}
