//! Models: folders as a training writes them, and whether there is a library that runs them.

use std::env;
use std::fs;
use std::path::Path;

use isobar_topologies::inference::LIBRARY_VARIABLE;
use tempfile::TempDir;

/// Whether there is ONNX Runtime; a test without it says so and does nothing.
pub fn has_library(test: &str) -> bool {
    let is_there = env::var_os(LIBRARY_VARIABLE).is_some_and(|path| !path.is_empty());
    if !is_there {
        eprintln!("{test}: skipped, because {LIBRARY_VARIABLE} is not set");
    }
    is_there
}

/// A field of a Protocol Buffers message: bytes of that length.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(content);
    message
}

fn number(field: u8, value: u8) -> Vec<u8> {
    assert!(value < 0x80, "one byte is enough");
    vec![field << 3, value]
}

/// An input (11) or output (12) with rows of `columns`.
fn value(field: u8, name: &str, columns: u8) -> Vec<u8> {
    let free = bytes(1, &bytes(2, b"N"));
    let shape = bytes(2, &[free, bytes(1, &number(1, columns))].concat());
    let tensor = bytes(1, &[number(1, 1), shape].concat());
    bytes(field, &[bytes(1, name.as_bytes()), bytes(2, &tensor)].concat())
}

/// An ONNX model that adds two numbers of its own to the two of each row: `features` in, `prediction` out.
pub fn onnx(own: [f32; 2]) -> Vec<u8> {
    onnx_of(&own)
}

/// The same with as many numbers as there are in `own`, below 128.
pub fn onnx_of(own: &[f32]) -> Vec<u8> {
    let columns = u8::try_from(own.len()).expect("there are fewer than 128 columns");
    let data: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
    let weights = [number(1, columns), number(2, 1), bytes(8, b"own"), bytes(9, &data)].concat();
    let add = [bytes(1, b"features"), bytes(1, b"own"), bytes(2, b"prediction"), bytes(4, b"Add")].concat();
    let graph = [
        bytes(1, &add),
        bytes(2, b"graph"),
        bytes(5, &weights),
        value(11, "features", columns),
        value(12, "prediction", columns),
    ];
    [number(1, 8), bytes(7, &graph.concat()), bytes(8, &[bytes(1, b""), number(2, 13)].concat())].concat()
}

/// A folder with a model of these features, names and types, and what they looked like in training, if that is known.
///
/// # Panics
/// If it cannot be written.
pub fn folder_of(features: &[(&str, &str)], statistics: Option<&serde_json::Value>) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let feature = |(name, kind): &(&str, &str)| serde_json::json!({ "name": name, "type": kind });
    let manifest = serde_json::json!({
        "features": features.iter().map(feature).collect::<Vec<_>>(),
        "metrics": { "auc": 0.8 }
    });
    write(folder.path(), "manifest.json", manifest.to_string().as_bytes());
    write(folder.path(), "model.onnx", &onnx_of(&vec![0.0; features.len()]));
    if let Some(statistics) = statistics {
        write(folder.path(), "statistics.json", statistics.to_string().as_bytes());
    }
    folder
}

/// A folder with the model [`onnx`], its manifest, statistics, card and a plot.
///
/// # Panics
/// If it cannot be written.
pub fn folder(own: [f32; 2]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let manifest = serde_json::json!({
        "signature": {
            "inputs": [{ "name": "features", "datatype": "FP32", "shape": [null, 2] }],
            "outputs": [{ "name": "prediction", "datatype": "FP32", "shape": [null, 2] }]
        },
        "features": [
            { "name": "distance", "type": "float64", "dataset": "flight_features", "contract": "1.2.0" },
            { "name": "wind", "type": "float64", "dataset": "flight_features", "contract": "1.2.0" }
        ],
        "data": [{ "dataset": "flight_features", "version": 42, "sha256": "cd".repeat(32) }],
        "training_set_sha256": "ef".repeat(32),
        "metrics": { "roc_auc": 0.7125 },
        "revision": "4f2a"
    });
    write(folder.path(), "manifest.json", manifest.to_string().as_bytes());
    write(folder.path(), "model.onnx", &onnx(own));
    write(folder.path(), "statistics.json", b"{\"distance\":{\"mean\":812.5}}\n");
    write(folder.path(), "model_card.md", b"# A model\n");
    write(folder.path(), "plots/roc.png", b"not really a plot");
    folder
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    let parent = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(parent).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}
