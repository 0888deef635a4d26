//! Models for tests, and whether there is a library that runs them.

use std::path::PathBuf;

use super::LIBRARY_VARIABLE;

/// Whether there is ONNX Runtime; a test without it says so and does nothing.
pub(crate) fn has_library(test: &str) -> bool {
    let is_there = std::env::var_os(LIBRARY_VARIABLE).is_some_and(|path| !path.is_empty());
    if !is_there {
        eprintln!("{test}: skipped, because {LIBRARY_VARIABLE} is not set");
    }
    is_there
}

/// A file of `tests/golden/models`.
pub(crate) fn golden(file: &str) -> Vec<u8> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models"));
    std::fs::read(folder.join(file)).unwrap()
}
