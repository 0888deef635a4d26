//! Where a training set is written to: a folder of this machine, or one under `training/` in a cloud of the topology.
//!
//! Files are named after the set and the first digits of a hash of all that the manifest says. So another set has another name, the same
//! set finds itself there, and nothing is ever overwritten by something else. The manifest comes last: a set that has one is
//! complete.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use isobar_connectors::clouds::{Cloud, PutOnce, put_once};
use isobar_connectors::delta::sha256_hex;
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use tempfile::NamedTempFile;

use super::hashed;
use crate::aside::new_file;
use crate::error::Error;

/// The scheme of a cloud of the topology: `cloud://aws/training/…`.
const SCHEME: &str = "cloud://";

/// The folder of a cloud that training sets lie in. Beside it are `datasets` and `control`, which are the topology's own.
const FOLDER: &str = "training";

/// Bytes of a part of a large file.
const PART_BYTES: usize = 8 << 20;

/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// A folder for training sets.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    /// Of this machine.
    Local(PathBuf),
    /// Of a cloud.
    Cloud(Cloud, Path),
}

impl Destination {
    /// What `text` means: `cloud://NAME/training/…`, the same as a URL below that of a cloud, or a path.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no such cloud, or the folder is not below `training`.
    pub(super) fn parse(text: &str, clouds: &[Cloud]) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix(SCHEME) {
            let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
            let cloud = clouds.iter().find(|cloud| cloud.name == name).ok_or_else(|| {
                let names: Vec<&str> = clouds.iter().map(|cloud| cloud.name.as_str()).collect();
                let name = name.escape_debug();
                Error::Configuration(format!("there is no cloud `{name}`: there are {}", names.join(", ")))
            })?;
            return Self::in_cloud(cloud, folder);
        }
        if let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            let below = |cloud: &&Cloud| {
                text.strip_prefix(cloud.url.as_str()).is_some_and(|rest| rest.starts_with('/'))
            };
            let cloud = clouds.iter().find(below).ok_or_else(|| {
                Error::Configuration(format!(
                    "the {scheme} URL lies in no cloud of the topology: write `{SCHEME}NAME/{FOLDER}/…`"
                ))
            })?;
            return Self::in_cloud(cloud, text[cloud.url.len()..].trim_start_matches('/'));
        }
        let path = match text.strip_prefix("file://") {
            None => PathBuf::from(text),
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            Some(_) => {
                return Err(Error::Configuration(format!(
                    "{text}: write a path, or `file:///absolute/path`"
                )));
            }
        };
        Ok(Self::Local(path))
    }

    fn in_cloud(cloud: &Cloud, folder: &str) -> Result<Self, Error> {
        let wrong =
            |problem: String| Error::Configuration(format!("{SCHEME}{}/{folder}: {problem}", cloud.name));
        let path = Path::parse(folder.trim_end_matches('/')).map_err(|error| wrong(error.to_string()))?;
        if path.parts().next().is_none_or(|first| first.as_ref() != FOLDER) {
            let problem =
                format!("training sets lie in `{FOLDER}`: write `{SCHEME}{}/{FOLDER}/…`", cloud.name);
            return Err(wrong(problem));
        }
        Ok(Self::Cloud(cloud.clone(), path))
    }

    /// A file to write to, in the same file system if the destination is local.
    pub(super) fn temporary(&self) -> Result<NamedTempFile, Error> {
        match self {
            Self::Local(folder) => std::fs::create_dir_all(folder)
                .and_then(|()| new_file(folder, ".isobar-training-set-"))
                .map_err(|source| local(format!("write to {}", folder.display()), source)),
            // Its rows are nobody else's business on the way.
            Self::Cloud(..) => tempfile::Builder::new()
                .prefix("isobar-training-set-")
                .tempfile()
                .map_err(|source| local("write a temporary file".to_owned(), source)),
        }
    }

    /// Puts a complete file of this size and hash there under `name`, and says where that is.
    ///
    /// # Errors
    /// [`Error::LocalFile`], [`Error::Store`] if it cannot be written; [`Error::Damaged`] if other bytes are there under this name.
    pub(super) async fn put_file(
        &self,
        file: NamedTempFile,
        name: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<String, Error> {
        match self {
            Self::Local(folder) => {
                let path = folder.join(name);
                let action = || format!("write {}", path.display());
                file.as_file().sync_all().map_err(|source| local(action(), source))?;
                match file.persist_noclobber(&path) {
                    Ok(_) => {}
                    Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                        let found = hashed(&path).await?;
                        if found != (sha256.to_owned(), bytes) {
                            return Err(Error::damaged(&path.display().to_string(), OTHER_BYTES));
                        }
                    }
                    Err(error) => return Err(local(action(), error.error)),
                }
                Ok(path.display().to_string())
            }
            Self::Cloud(cloud, folder) => {
                let path = folder.clone().join(name);
                match cloud.data.head(&path).await {
                    // Its name stands for its hash, and an object is there whole or not at all.
                    Ok(found) if found.size == bytes => {}
                    Ok(_) => return Err(Error::damaged(&shown(cloud, &path), OTHER_BYTES)),
                    Err(object_store::Error::NotFound { .. }) => upload(cloud, &path, &file).await?,
                    Err(error) => return Err(Error::store(cloud, &format!("look for {path}"), error)),
                }
                Ok(shown(cloud, &path))
            }
        }
    }

    /// Puts a small text there under `name`, and says where that is.
    ///
    /// # Errors
    /// As [`Destination::put_file`].
    pub(super) async fn put_text(&self, name: &str, text: String) -> Result<String, Error> {
        match self {
            Self::Local(_) => {
                let mut file = self.temporary()?;
                let action = || format!("write {name}");
                file.write_all(text.as_bytes()).map_err(|source| local(action(), source))?;
                self.put_file(file, name, text.len() as u64, &sha256_hex(text.as_bytes())).await
            }
            Self::Cloud(cloud, folder) => {
                let path = folder.clone().join(name);
                match put_once(&*cloud.data, &path, Bytes::from(text)).await {
                    PutOnce::Stored => Ok(shown(cloud, &path)),
                    PutOnce::Occupied(_) => Err(Error::damaged(&shown(cloud, &path), OTHER_BYTES)),
                    PutOnce::Unknown(error) => Err(Error::connector(format!("write {path}"), error)),
                }
            }
        }
    }
}

const OTHER_BYTES: &str =
    "it has the name of this training set and other bytes; move it away, and run this again";

fn shown(cloud: &Cloud, path: &Path) -> String {
    format!("{SCHEME}{}/{path}", cloud.name)
}

fn local(action: String, source: std::io::Error) -> Error {
    Error::LocalFile { action, source }
}

async fn upload(cloud: &Cloud, path: &Path, file: &NamedTempFile) -> Result<(), Error> {
    let action = format!("write {path}");
    let failed = |source| Error::store(cloud, &action, source);
    let mut opened = File::open(file.path()).map_err(|source| local(action.clone(), source))?;
    let upload = cloud.data.put_multipart(path).await.map_err(failed)?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    loop {
        let mut part = Vec::with_capacity(PART_BYTES);
        let read = Read::by_ref(&mut opened).take(PART_BYTES as u64).read_to_end(&mut part);
        let sent = match read {
            Ok(0) => break,
            Ok(_) => {
                upload.put(part.into());
                upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(failed)
            }
            Err(source) => Err(local(action.clone(), source)),
        };
        if let Err(error) = sent {
            // The parts are of no use; if they cannot be removed, the store's own rules remove them.
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await.map(drop).map_err(failed)
}
