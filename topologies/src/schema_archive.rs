//! What the registry has said, kept beside the topology's history in every cloud: a start needs no registry then.
//!
//! The archive is an aid and no part of what is decided. It is written after a commit whose records named a schema that it
//! did not have, to every cloud that takes it, one write replacing the one before; of what the clouds have, the fullest is
//! read. A process that dies in between, or two workers that write at once, cost a question to the registry and nothing else.
//! `docs/registry.md` says what is believed of it.

use std::time::Duration;

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::registry::{ARCHIVE_BYTES_MAX, SchemaArchive};
use object_store::{ObjectStoreExt, PutPayload};
use tracing::{debug, warn};

use crate::chain_of;
use crate::commit::format::Keys;

/// How long a cloud may take: a start goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The archive of `topology`, if a cloud has one; and whether every cloud has that one.
pub(crate) async fn recall(clouds: &[Cloud], topology: &str) -> Option<(SchemaArchive, bool)> {
    let found = future::join_all(clouds.iter().map(|cloud| read(cloud, topology))).await;
    let fullest = found.iter().flatten().max_by_key(|archive| archive.len())?;
    let is_everywhere = found.iter().all(|archive| archive.as_ref() == Some(fullest));
    Some((fullest.clone(), is_everywhere))
}

async fn read(cloud: &Cloud, topology: &str) -> Option<SchemaArchive> {
    let path = Keys::new(topology).schema_archive();
    let reading = read_register(&*cloud.control, &path, ARCHIVE_BYTES_MAX as u64);
    let why = match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(None)) => return None,
        Ok(Ok(Some(bytes))) => match SchemaArchive::from_bytes(&bytes) {
            Ok(archive) => return Some(archive),
            Err(error) => chain_of(&error),
        },
        Ok(Err(error)) => chain_of(&error),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    debug!(cloud = cloud.name, why, "the archive of schemas is not read here");
    None
}

/// Writes `archive` to every cloud that takes it. One that does not gets it after the next start.
pub(crate) async fn record(clouds: &[Cloud], topology: &str, archive: SchemaArchive) {
    let bytes = match archive.to_bytes() {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            warn!(error = %chain_of(&error), "the archive of schemas is not written");
            return;
        }
    };
    let path = Keys::new(topology).schema_archive();
    let written = clouds.iter().map(async |cloud| {
        let putting = cloud.control.put(&path, PutPayload::from_bytes(bytes.clone()));
        let why = match tokio::time::timeout(PATIENCE, putting).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => chain_of(&error),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        debug!(cloud = cloud.name, why, "the archive of schemas is not written here");
    });
    future::join_all(written).await;
}
