//! Are clouds equal?
//!
//! Two questions. After a run that nothing disturbed, everything outside `control/` must be equal, empty folders and
//! stray files included: [`of_folder`] and [`of_store`], which is `diff -r`. After kills and outages a cloud may hold files that no
//! log names; then everything that the logs name must be equal: [`reachable`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;

use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::delta::{Log, read_object, sha256};

/// What is not compared.
const CONTROL: &str = "control";

/// Paths and what lies there: size and SHA-256 of an object, or that it is a folder.
pub type Tree = BTreeMap<String, String>;

fn describe(bytes: &[u8]) -> String {
    format!("{} bytes, {}", bytes.len(), sha256(bytes))
}

/// Every object of a store outside `control/`.
///
/// # Panics
/// If the store does not answer.
pub async fn of_store(store: &dyn ObjectStore) -> Tree {
    let listed: Vec<_> =
        store.list(None).try_collect().await.unwrap_or_else(|error| panic!("list {store}: {error}"));
    let mut tree = Tree::new();
    for object in listed {
        if object.location.parts().next().is_some_and(|part| part.as_ref() != CONTROL) {
            tree.insert(object.location.to_string(), describe(&read_object(store, &object.location).await));
        }
    }
    tree
}

/// Everything below a folder outside `control/`: files, also hidden and half-written ones, and folders.
///
/// # Panics
/// If it cannot be read.
pub fn of_folder(folder: &FilePath) -> Tree {
    let mut tree = Tree::new();
    add_folder(folder, "", &mut tree);
    tree
}

fn add_folder(folder: &FilePath, prefix: &str, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display())) {
        let entry = entry.expect("an entry of a folder can be read");
        let name = entry.file_name().into_string().expect("names are UTF-8");
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            if path != CONTROL {
                tree.insert(format!("{path}/"), "folder".to_owned());
                add_folder(&entry.path(), &format!("{path}/"), tree);
            }
        } else {
            tree.insert(path, describe(&fs::read(entry.path()).expect("a file can be read")));
        }
    }
}

/// Copies a folder with everything in it; `to` must not exist yet.
///
/// # Panics
/// If that is not possible.
pub fn copy_folder(from: &FilePath, to: &FilePath) {
    fs::create_dir(to).unwrap_or_else(|error| panic!("create {}: {error}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("read {}: {error}", from.display())) {
        let entry = entry.expect("an entry of a folder can be read");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target);
        } else {
            fs::copy(source, target).expect("a file can be copied");
        }
    }
}

/// What the logs of `datasets` name in a store.
///
/// # Panics
/// If something is missing.
pub async fn reachable(store: &dyn ObjectStore, datasets: &[&str]) -> Tree {
    let mut tree = Tree::new();
    for dataset in datasets {
        for path in Log::read(store, dataset).await.reachable() {
            tree.insert(path.to_string(), describe(&read_object(store, &path).await));
        }
    }
    tree
}

/// What differs between two trees.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differing = paths.into_iter().filter(|path| left.get(*path) != right.get(*path));
    differing.map(|path| format!("{path}: {:?} and {:?}", left.get(path), right.get(path))).collect()
}

/// All trees are equal and not empty.
///
/// # Panics
/// If they are not.
pub fn assert_all_equal(trees: &[(String, Tree)]) {
    let [(first, reference), others @ ..] = trees else { return };
    assert!(!reference.is_empty(), "{first} is empty");
    for (name, tree) in others {
        let differences = differences(reference, tree);
        assert!(differences.is_empty(), "{first} and {name} differ:\n  {}", differences.join("\n  "));
    }
}
