//! Small files are read, written as one, and uploaded.

use bytes::Bytes;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::dataset::FileRewriter;
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::delta::sha256_hex;
use isobar_connectors::upload::{FanOut, UploadHandle};
use object_store::ObjectStoreExt;

use super::files::SmallFile;
use super::{Failure, Table, Worker, off_thread, settle_in_majority};
use crate::chain_of;
use crate::commit::chain::NewFile;
use crate::commit::{Change, RemovedFile, Upkeep};
use crate::prove::objects::object_path;

/// Writes the files of `group`, which have the same partition values, as one file to every cloud. What to decide then,
/// and the uploads, a majority of which is done.
pub(super) async fn compact(
    worker: &Worker,
    table: &Table,
    clouds: &[Cloud],
    after: u64,
    group: Vec<SmallFile>,
) -> Result<(Upkeep, Vec<(String, Vec<UploadHandle>)>), Failure> {
    let change = Change::Compact { removed: group.iter().map(removed).collect(), added: Vec::new() };
    let mut upkeep = worker.upkeep(table, after, change);
    let values = &group.first().ok_or("nothing to combine")?.partition_values;
    let mut rewriter =
        FileRewriter::new(table.layout.clone(), &worker.uploads, &upkeep.commit_id, values).map_err(said)?;
    for file in &group {
        let bytes = fetch(clouds, &table.name, file).await?;
        rewriter = rewrite(rewriter, bytes, &worker.uploads).await?;
    }
    let staged = off_thread(move || rewriter.finish().map_err(said)).await?;
    if let Change::Compact { added, .. } = &mut upkeep.change {
        added.push(NewFile {
            digest: staged.digest(),
            partition_values: staged.partition_values.clone(),
            stats: staged.stats.clone(),
        });
    }
    settle_in_majority(&staged.path, &staged.uploads).await?;
    Ok((upkeep, vec![(staged.object_path.to_string(), staged.uploads)]))
}

fn removed(file: &SmallFile) -> RemovedFile {
    RemovedFile {
        path: file.path.clone(),
        size: file.size,
        rows: file.rows,
        partition_values: file.partition_values.clone(),
    }
}

fn said(error: isobar_connectors::Error) -> Failure {
    chain_of(&error)
}

/// A file's bytes, from the first cloud that has those of the log.
async fn fetch(clouds: &[Cloud], table: &str, file: &SmallFile) -> Result<Bytes, Failure> {
    let path = decode_log_path(&file.path).map_err(said)?;
    let path = object_path(table, &path).ok_or_else(|| format!("{path} is no path of an object"))?;
    let mut last = format!("{path} is in no cloud");
    for cloud in clouds {
        let read = async { cloud.data.get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) if bytes.len() as u64 == file.size && sha256_hex(&bytes) == file.sha256 => {
                return Ok(bytes);
            }
            Ok(_) => last = format!("{}: {path} differs from the log; see `isobar scrub`", cloud.name),
            Err(error) => last = format!("{}: read {path}: {}", cloud.name, chain_of(&error)),
        }
    }
    Err(last)
}

/// Takes all rows of one file, at the pace of the uploads.
async fn rewrite(mut rewriter: FileRewriter, file: Bytes, uploads: &FanOut) -> Result<FileRewriter, Failure> {
    let mut pending = rewriter.open(file).map_err(said)?;
    loop {
        uploads.ready().await;
        let is_more;
        (rewriter, pending, is_more) = off_thread(move || {
            let is_more = rewriter.take(&mut pending).map_err(said)?;
            Ok((rewriter, pending, is_more))
        })
        .await?;
        if !is_more {
            return Ok(rewriter);
        }
    }
}
