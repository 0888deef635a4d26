//! Looking at one cloud: everything that a running topology does there, once, with a file that is removed again.

use std::time::Duration;

use futures::{TryStreamExt, future};
use isobar_connectors::clouds::{Cloud, Probe, probe};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};

use super::trouble::{Kind, Look, Trouble, within};
use crate::commit::Group;
use crate::commit::format::Identity;
use crate::pipeline::now_ms;

/// What the files of a look hold.
const CONTENT: &str = "written by `isobar doctor`, and of no use to anybody";

/// What was found in a cloud.
#[derive(Debug, Clone)]
pub(super) struct CloudFacts {
    pub(super) name: String,
    pub(super) url: String,
    /// Whether it could be opened, which asks nobody.
    pub(super) opened: Look<()>,
    /// What it let us do; `None` if it was not opened.
    pub(super) access: Option<Access>,
}

/// What a cloud let us do.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// Listing; whether a control log of the topology is there.
    pub(super) list: Look<bool>,
    /// Reading; the identity that is there.
    pub(super) identity: Look<Option<Identity>>,
    /// Everything that writes; `None` in a directory that a first start has not made ready.
    pub(super) writing: Option<Writing>,
}

/// What writing in a cloud came to.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    /// Whether it keeps its word about conditional writes.
    pub(super) conditional: Look<()>,
    /// Writing a file and reading it back; when it was written, by both clocks.
    pub(super) file: Look<Written>,
    /// Removing the file.
    pub(super) delete: Look<()>,
    /// Writing a file in parts.
    pub(super) multipart: Look<()>,
}

/// When a file was written, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// By this machine, before it was sent.
    pub(super) before_ms: i64,
    /// By this machine, when the store had it.
    pub(super) after_ms: i64,
    /// By the store.
    pub(super) stored_ms: i64,
}

impl CloudFacts {
    /// A cloud that could not be opened.
    pub(super) fn unopened(name: &str, url: &str, why: Trouble) -> Self {
        Self { name: name.to_owned(), url: url.to_owned(), opened: Err(why), access: None }
    }

    /// Whether it certainly has no control log of the topology: nothing was decided in it, ever.
    pub(super) fn is_blank(&self) -> bool {
        self.access.as_ref().is_some_and(|access| {
            // A directory that no start has made cannot be listed.
            access.list == Ok(false) || (access.writing.is_none() && access.list.is_err())
        })
    }

    /// What writing came to, if it was tried.
    pub(super) fn writing(&self) -> Option<&Writing> {
        self.access.as_ref()?.writing.as_ref()
    }
}

/// Looks at `cloud` of `group`. Files are written beside those of `dataset`, where a topology's credentials may delete.
pub(super) async fn look(cloud: &Cloud, group: &Group, dataset: &str, patience: Duration) -> CloudFacts {
    let (list, identity) = future::join(
        within(patience, has_log(cloud, group)),
        within(patience, async { Ok(group.read_identity(cloud).await?) }),
    )
    .await;
    let writing = match cloud.takes_writes() {
        true => Some(write(cloud, group, dataset, patience).await),
        false => None,
    };
    let access = Access { list, identity, writing };
    CloudFacts { name: cloud.name.clone(), url: cloud.url.clone(), opened: Ok(()), access: Some(access) }
}

async fn has_log(cloud: &Cloud, group: &Group) -> Look<bool> {
    let logs = group.keys().logs();
    Ok(cloud.control.list(Some(&logs)).try_next().await?.is_some())
}

async fn write(cloud: &Cloud, group: &Group, dataset: &str, patience: Duration) -> Writing {
    // Hidden from readers of the table by its underscore, and a leftover to `prove` if this process dies.
    let path =
        |suffix: &str| Path::from(format!("datasets/{dataset}/_isobar_doctor/{}{suffix}", group.incarnation));
    let (whole, parts) = (path(""), path("-parts"));
    let (conditional, (file, delete), multipart) = future::join3(
        within(patience, keeps_its_word(cloud, group)),
        write_and_delete(cloud, &whole, patience),
        within(patience, write_in_parts(&*cloud.data, &parts)),
    )
    .await;
    Writing { conditional, file, delete, multipart }
}

async fn keeps_its_word(cloud: &Cloud, group: &Group) -> Look<()> {
    match probe(&*cloud.control, &group.probe_prefix()).await {
        Probe::Passed => Ok(()),
        Probe::Refused { what } => Err(Trouble::new(Kind::Unsupported, what)),
        Probe::Denied { what } => Err(Trouble::new(Kind::Denied, what)),
        Probe::Unavailable(error) => Err(error.into()),
    }
}

/// Also removes what was written without our hearing of it.
async fn write_and_delete(cloud: &Cloud, path: &Path, patience: Duration) -> (Look<Written>, Look<()>) {
    let file = within(patience, write_and_read(&*cloud.data, path)).await;
    let delete = within(patience, async { Ok(cloud.data.delete(path).await?) }).await;
    // What was never written cannot be deleted, which says nothing about the permission.
    match (file, delete) {
        (Err(trouble), Err(Trouble { kind: Kind::Absent, .. })) => {
            let why = format!("nothing could be written to be deleted: {}", trouble.what);
            let unknown = Trouble::new(trouble.kind, why);
            (Err(trouble), Err(unknown))
        }
        outcome => outcome,
    }
}

async fn write_and_read(store: &dyn ObjectStore, path: &Path) -> Look<Written> {
    let before_ms = now_ms();
    store.put(path, CONTENT.into()).await?;
    let after_ms = now_ms();
    let found = store.get(path).await?;
    let stored_ms = found.meta.last_modified.timestamp_millis();
    if found.bytes().await? != CONTENT {
        let what = format!("{path} holds something else than was written a moment ago");
        return Err(Trouble::new(Kind::Failed, what));
    }
    Ok(Written { before_ms, after_ms, stored_ms })
}

async fn write_in_parts(store: &dyn ObjectStore, path: &Path) -> Look<()> {
    let mut upload = store.put_multipart(path).await?;
    let written = async {
        upload.put_part(CONTENT.into()).await?;
        upload.complete().await
    };
    if let Err(error) = written.await {
        // Best effort: a store removes parts that are never completed by a rule of its own.
        let _ = upload.abort().await;
        return Err(error.into());
    }
    // Whether that is allowed is found out with the other file.
    let _ = store.delete(path).await;
    Ok(())
}
