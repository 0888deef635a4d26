//! Data files: are the bytes in this cloud those of the log, and if not, bringing them from a cloud where they are.

use std::sync::Arc;

use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::copy::replace_file;
use isobar_connectors::failpoint::{self, Failpoint};
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::chain_of;
use crate::prove::log::DataFile;
use crate::prove::objects::object_path;
use crate::throttle::Throttle;

/// What a look at a file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// It has the size and, where asked for, the SHA-256 of the log.
    Good,
    /// It is not there.
    Missing,
    /// Its bytes are others.
    Rotten(String),
    /// The cloud does not say.
    Unread(String),
}

/// Looks at `file` in `cloud`. With `hashes` its bytes are read, otherwise only its size is asked for. Also the bytes
/// read.
pub(super) async fn look(
    cloud: &Cloud,
    table: &str,
    file: &DataFile,
    hashes: bool,
    throttle: &Throttle,
) -> (Look, u64) {
    let Some(path) = object_path(table, &file.path) else {
        return (Look::Unread("not a path that an object can have".to_owned()), 0);
    };
    let head = match cloud.data.head(&path).await {
        Ok(head) => head,
        Err(object_store::Error::NotFound { .. }) => return (Look::Missing, 0),
        Err(error) => return (Look::Unread(chain_of(&error)), 0),
    };
    if head.size != file.size {
        return (Look::Rotten(format!("{} bytes here, {} in the log", head.size, file.size)), 0);
    }
    let Some(stated) = file.sha256.as_ref().filter(|_| hashes) else { return (Look::Good, 0) };
    throttle.pay(file.size).await;
    match hash(cloud, &path).await {
        Ok((sha256, bytes)) if sha256 == *stated => (Look::Good, bytes),
        Ok((sha256, bytes)) => {
            (Look::Rotten(format!("SHA-256 {:.8}… here, {stated:.8}… in the log", sha256)), bytes)
        }
        Err(object_store::Error::NotFound { .. }) => (Look::Missing, 0),
        Err(error) => (Look::Unread(chain_of(&error)), 0),
    }
}

/// SHA-256 and size of an object, read in pieces.
async fn hash(cloud: &Cloud, path: &object_store::path::Path) -> object_store::Result<(String, u64)> {
    let mut pieces = cloud.data.get(path).await?.into_stream();
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = pieces.try_next().await? {
        hasher.update(&piece);
        bytes += piece.len() as u64;
    }
    Ok((hex::encode(hasher.finalize()), bytes))
}

/// Puts `file` into `cloud` from the first of `sources` that has its bytes, and reads it back. It is written between the
/// two steps `around` it.
///
/// # Errors
/// Why that did not work, for people.
pub(super) async fn restore(
    cloud: &Cloud,
    sources: &[Cloud],
    table: &str,
    file: &DataFile,
    around: [&'static Failpoint; 2],
    throttle: &Throttle,
) -> Result<(), String> {
    let Some(sha256) = &file.sha256 else {
        return Err("the log states no SHA-256, so nothing can be proved about its bytes".to_owned());
    };
    let Some(path) = object_path(table, &file.path) else {
        return Err("not a path that an object can have".to_owned());
    };
    let sources: Vec<Arc<dyn ObjectStore>> = sources.iter().map(|source| source.data.clone()).collect();
    throttle.pay(file.size).await;
    let [before, after] = around;
    let replaced = async {
        failpoint::hit(before, &cloud.name)?;
        replace_file(&cloud.data, &sources, path.as_ref(), file.size, sha256).await?;
        failpoint::hit(after, &cloud.name)
    }
    .await;
    // Whatever the answer was, what is there now decides.
    match (look(cloud, table, file, true, throttle).await.0, replaced) {
        (Look::Good, _) => Ok(()),
        (_, Err(error)) => Err(chain_of(&error)),
        (other, Ok(())) => Err(format!("it was written and is not right when read back: {other:?}")),
    }
}
