//! A data file of a table on this machine, as the log states it.
//!
//! It goes to a temporary file, and is believed when it has the size and, where the log says one, the SHA-256 that it was
//! committed with. So memory does not depend on its size, and a cloud that dies in the middle costs one file read again.
//! Hashing and writing leave the async threads.

use std::fs::File;
use std::io::{self, Seek, Write};

use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::digesting::Digesting;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::task::spawn_blocking;

use crate::chain_of;
use crate::prove::objects::object_path;

/// What the log states of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stated<'a> {
    /// Relative to the table, decoded.
    pub(crate) path: &'a str,
    /// Bytes.
    pub(crate) size: u64,
    /// In hexadecimal, where there is one.
    pub(crate) sha256: Option<&'a str>,
}

/// Why there is no file.
#[derive(Debug)]
pub(crate) struct Unfetched {
    /// Whether every cloud answered that it has none: a vacuum let go of it.
    pub(crate) is_gone: bool,
    /// Per cloud, why.
    pub(crate) reasons: Vec<String>,
}

/// `file` of `table`, from the first of `clouds` that has it as the log states it, to be read from its beginning.
///
/// # Errors
/// [`Unfetched`] if none has.
pub(crate) async fn fetch(clouds: &[Cloud], table: &str, file: Stated<'_>) -> Result<File, Unfetched> {
    let Some(path) = object_path(table, file.path) else {
        let why = format!("{}: not a path that an object can have", file.path);
        return Err(Unfetched { is_gone: false, reasons: vec![why] });
    };
    let mut unfetched = Unfetched { is_gone: true, reasons: Vec::new() };
    for cloud in clouds {
        match fetch_from(cloud, &path, file).await {
            Ok(fetched) => return Ok(fetched),
            Err((is_gone, why)) => {
                unfetched.is_gone &= is_gone;
                unfetched.reasons.push(format!("{}: {}: {why}", cloud.name, file.path));
            }
        }
    }
    Err(unfetched)
}

/// A file, or whether it is not there and why.
async fn fetch_from(cloud: &Cloud, path: &Path, file: Stated<'_>) -> Result<File, (bool, String)> {
    let other = |why: String| (false, why);
    let temporary = |error: io::Error| (false, format!("a temporary file: {error}"));
    let found = cloud
        .data
        .get(path)
        .await
        .map_err(|error| (matches!(error, object_store::Error::NotFound { .. }), chain_of(&error)))?;
    let mut pieces = found.into_stream();
    let mut fetched = Digesting::new(tempfile::tempfile().map_err(temporary)?);
    let mut size = 0;
    while let Some(piece) = pieces.try_next().await.map_err(|error| other(chain_of(&error)))? {
        size += piece.len() as u64;
        if size > file.size {
            break;
        }
        let write = move || fetched.write_all(&piece).map(|()| fetched);
        let written = spawn_blocking(write).await.map_err(|died| other(died.to_string()))?;
        fetched = written.map_err(temporary)?;
    }
    let (mut fetched, sha256, _) = fetched.finish().map_err(temporary)?;
    if size != file.size || file.sha256.is_some_and(|stated| stated != sha256) {
        return Err(other("differs from the log; see `isobar scrub`".to_owned()));
    }
    fetched.rewind().map_err(temporary)?;
    Ok(fetched)
}
