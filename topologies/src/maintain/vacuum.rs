//! Files that a decided VACUUM lets go are deleted in every cloud.
//!
//! What to delete is read from the log each time: the paths in the `remove` actions of the versions that the VACUUM
//! means, from bodies whose hashes were checked when the log was followed. Names of files are unique, so a path that
//! was removed is never added again. Deleting what is gone already is no error; whoever leads after a crash deletes the
//! files of the last VACUUM once more.

use futures::future;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta;
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::failpoint;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::files::{Removal, Vacuum};
use super::{Failure, read_version};
use crate::chain_of;
use crate::prove::objects::object_path;

/// Deletes the files of `vacuum` in every one of `clouds`, all of which have published it; how many files these are.
pub(super) async fn delete(clouds: &[Cloud], table: &str, vacuum: &Vacuum) -> Result<u64, Failure> {
    let mut files = 0;
    for removal in &vacuum.removals {
        let paths = removed_by(clouds, table, removal).await?;
        files += paths.len() as u64;
        let deletions = clouds.iter().map(|cloud| delete_in(cloud, &paths));
        // Every cloud goes as far as it can before a failure of one is reported.
        for deletion in future::join_all(deletions).await {
            deletion?;
        }
    }
    Ok(files)
}

/// The objects that a version removed.
async fn removed_by(clouds: &[Cloud], table: &str, removal: &Removal) -> Result<Vec<Path>, Failure> {
    let bytes = read_version(clouds, table, removal.version, &removal.sha256).await?;
    let body = delta::parse_body(&bytes).map_err(|error| chain_of(&error))?;
    let object = |remove: &delta::Remove| {
        let decoded = decode_log_path(&remove.path).map_err(|error| chain_of(&error))?;
        object_path(table, &decoded).ok_or_else(|| format!("{decoded} is no path of an object"))
    };
    body.removes.iter().map(object).collect()
}

async fn delete_in(cloud: &Cloud, paths: &[Path]) -> Result<(), Failure> {
    let reach = |point| failpoint::hit(point, &cloud.name).map_err(|error| chain_of(&error));
    for path in paths {
        reach(&failpoint::MAINTAIN_BEFORE_DELETE)?;
        match cloud.data.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(format!("{}: delete {path}: {}", cloud.name, chain_of(&error))),
        }
        reach(&failpoint::MAINTAIN_AFTER_DELETE)?;
    }
    Ok(())
}
