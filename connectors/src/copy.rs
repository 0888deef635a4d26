//! Brings a data file to a cloud that missed it, from any cloud that has it.
//!
//! The bytes are hashed on their way and compared with the digest the log states before the object becomes visible,
//! so that a rotten copy is never spread. Memory is bounded by one part, whatever the file's size.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::Error;

/// Size of a part; a file up to this size is stored by one put. S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Makes sure that `path` is in `to` with `size` bytes: leaves it if it is, else copies it from the first of `sources`
/// whose bytes have the digest `sha256` (lowercase hexadecimal). Names of data files are unique and objects appear
/// whole, so equal size means that an earlier attempt succeeded.
///
/// # Errors
/// [`Error::Store`] of the last attempt; retry.
pub async fn copy_file(
    to: &Arc<dyn ObjectStore>,
    sources: &[Arc<dyn ObjectStore>],
    path: &str,
    size: u64,
    sha256: &str,
) -> Result<(), Error> {
    let path = Path::parse(path).map_err(|error| failed(to, path, error.into()))?;
    match to.head(&path).await {
        Ok(found) if found.size == size => return Ok(()),
        Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(failed(to, path.as_ref(), error)),
    }
    replace(to, sources, &path, size, sha256).await
}

/// As [`copy_file`], but whatever lies at `path` is replaced: for a file of the right size whose bytes have rotted. Nothing
/// changes unless one of `sources` has the bytes with the digest `sha256`.
///
/// # Errors
/// [`Error::Store`] of the last attempt; retry.
pub async fn replace_file(
    to: &Arc<dyn ObjectStore>,
    sources: &[Arc<dyn ObjectStore>],
    path: &str,
    size: u64,
    sha256: &str,
) -> Result<(), Error> {
    let path = Path::parse(path).map_err(|error| failed(to, path, error.into()))?;
    replace(to, sources, &path, size, sha256).await
}

/// Whether `path` is in `store` with exactly these bytes, which are read for it. `sha256` is lowercase hexadecimal.
///
/// # Errors
/// [`Error::Store`] if the store does not answer; retry.
pub async fn holds_file(
    store: &Arc<dyn ObjectStore>,
    path: &str,
    size: u64,
    sha256: &str,
) -> Result<bool, Error> {
    let failed =
        |error| Error::Store { cloud: store.to_string(), action: format!("read {path}"), source: error };
    let location = Path::parse(path).map_err(|error| failed(error.into()))?;
    let found = match store.get(&location).await {
        Ok(found) if found.meta.size == size => found,
        Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let (mut pieces, mut check) = (found.into_stream(), Check { hasher: Sha256::new(), bytes: 0 });
    while let Some(piece) = pieces.next().await {
        check.update(&piece.map_err(failed)?);
    }
    Ok(check.finish(size, sha256).is_ok())
}

async fn replace(
    to: &Arc<dyn ObjectStore>,
    sources: &[Arc<dyn ObjectStore>],
    path: &Path,
    size: u64,
    sha256: &str,
) -> Result<(), Error> {
    let nowhere =
        object_store::Error::Generic { store: "copy", source: "no other cloud to copy it from".into() };
    let mut last = failed(to, path.as_ref(), nowhere);
    for from in sources {
        match copy_from(to, from, path, size, sha256).await {
            Ok(()) => return Ok(()),
            Err(error) => last = failed(to, &format!("{path} from {from}"), error),
        }
    }
    Err(last)
}

fn failed(to: &Arc<dyn ObjectStore>, what: &str, source: object_store::Error) -> Error {
    Error::Store { cloud: to.to_string(), action: format!("fill {what}"), source }
}

async fn copy_from(
    to: &Arc<dyn ObjectStore>,
    from: &Arc<dyn ObjectStore>,
    path: &Path,
    size: u64,
    sha256: &str,
) -> object_store::Result<()> {
    let mut bytes = from.get(path).await?.into_stream();
    let mut part = BytesMut::new();
    let mut check = Check { hasher: Sha256::new(), bytes: 0 };
    let mut upload: Option<Box<dyn MultipartUpload>> = None;
    while let Some(piece) = bytes.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => return abort(upload, error).await,
        };
        check.update(&piece);
        part.extend_from_slice(&piece);
        if part.len() >= PART_BYTES && check.bytes < size {
            let open = match &mut upload {
                Some(open) => open,
                None => upload.insert(to.put_multipart(path).await?),
            };
            if let Err(error) = open.put_part(part.split().freeze().into()).await {
                return abort(upload, error).await;
            }
        }
    }
    if let Err(error) = check.finish(size, sha256) {
        return abort(upload, error).await;
    }
    let rest: Bytes = part.freeze();
    let Some(mut open) = upload else {
        return to.put(path, rest.into()).await.map(|_| ());
    };
    if let Err(error) = open.put_part(rest.into()).await {
        return abort(Some(open), error).await;
    }
    open.complete().await.map(|_| ())
}

/// Leaves no unfinished upload behind, as far as the store still answers.
async fn abort(
    upload: Option<Box<dyn MultipartUpload>>,
    error: object_store::Error,
) -> object_store::Result<()> {
    if let Some(mut upload) = upload {
        // The upload has failed; that it cannot be aborted either changes nothing.
        let _ = upload.abort().await;
    }
    Err(error)
}

struct Check {
    hasher: Sha256,
    bytes: u64,
}

impl Check {
    fn update(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    fn finish(self, size: u64, sha256: &str) -> object_store::Result<()> {
        let found = hex::encode(self.hasher.finalize());
        if self.bytes == size && found == sha256 {
            return Ok(());
        }
        let bytes = self.bytes;
        let source =
            format!("it holds {bytes} bytes with SHA-256 {found}, the log says {size} and {sha256}").into();
        Err(object_store::Error::Generic { store: "copy", source })
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn store() -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    async fn put(store: &Arc<dyn ObjectStore>, bytes: &[u8]) {
        store.put(&Path::from("d/f.parquet"), bytes.to_vec().into()).await.unwrap();
    }

    async fn get(store: &Arc<dyn ObjectStore>) -> Vec<u8> {
        store.get(&Path::from("d/f.parquet")).await.unwrap().bytes().await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_rotten_copy_is_passed_over_and_a_good_one_arrives_whole() {
        let good: Vec<u8> = (0..3 * PART_BYTES + 17).map(|at| (at % 251) as u8).collect();
        for good in [&good[..], &good[..2 * PART_BYTES], &good[..100], &good[..0]] {
            let (to, rotten, empty, whole) = (store(), store(), store(), store());
            let mut bad = good.to_vec();
            bad.push(1);
            put(&rotten, &bad).await;
            put(&whole, good).await;
            let sha256 = hex::encode(Sha256::digest(good));
            let sources = [rotten.clone(), empty.clone()];
            let error = copy_file(&to, &sources, "d/f.parquet", good.len() as u64, &sha256).await;
            assert!(error.is_err());
            assert!(to.head(&Path::from("d/f.parquet")).await.is_err(), "nothing may appear");
            let sources = [rotten, empty, whole];
            copy_file(&to, &sources, "d/f.parquet", good.len() as u64, &sha256).await.unwrap();
            assert_eq!(get(&to).await, good);
        }
    }

    #[tokio::test]
    async fn a_rotten_file_of_the_right_size_is_replaced_and_only_by_good_bytes() {
        let good: Vec<u8> = (0..2 * PART_BYTES + 17).map(|at| (at % 251) as u8).collect();
        let mut bad = good.clone();
        bad[PART_BYTES] ^= 1;
        let (to, rotten, whole) = (store(), store(), store());
        for store in [&to, &rotten] {
            put(store, &bad).await;
        }
        put(&whole, &good).await;
        let (size, sha256) = (good.len() as u64, hex::encode(Sha256::digest(&good)));
        copy_file(&to, std::slice::from_ref(&whole), "d/f.parquet", size, &sha256).await.unwrap();
        assert_eq!(get(&to).await, bad, "its size is right, so a copy leaves it");
        let refused = replace_file(&to, std::slice::from_ref(&rotten), "d/f.parquet", size, &sha256).await;
        assert!(refused.is_err());
        assert_eq!(get(&to).await, bad, "nothing better was found");
        assert!(!holds_file(&to, "d/f.parquet", size, &sha256).await.unwrap());
        replace_file(&to, &[rotten, whole], "d/f.parquet", size, &sha256).await.unwrap();
        assert_eq!(get(&to).await, good);
        assert!(holds_file(&to, "d/f.parquet", size, &sha256).await.unwrap());
        assert!(!holds_file(&to, "d/f.parquet", size - 1, &sha256).await.unwrap());
        assert!(!holds_file(&to, "d/g.parquet", size, &sha256).await.unwrap());
    }
}
