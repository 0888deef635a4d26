//! How far the rows of a table are that are sent, as Kafka keeps it, and the mark that tells "nothing was sent yet" from "nobody
//! knows any more".
//!
//! Kafka forgets the progress of a group that has committed nothing for a week (`offsets.retention.minutes`), and people
//! delete groups. To begin anew then would send everything twice. So the clouds keep a mark per topic and name, written once
//! there is progress and before the first row is sent: where there is a mark and no progress, a person must say how to go on.
//! A topic that was deleted and created again is another topic, and begins anew.

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::{Cloud, PutOnce, put_once, read_register};
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::{is_sha256, sha256_hex};
use isobar_connectors::kafka::Progress;
use object_store::path::Path;
use serde::Serialize;

use super::Kind;
use crate::chain_of;
use crate::commit::format::{FORMAT, Keys, encode};
use crate::commit::quorum::majority;
use crate::maintain::Failure;

/// Largest mark that is read, in bytes.
const MARK_BYTES_MAX: u64 = 64 << 10;
/// Attempts at one mark in one cloud.
const ATTEMPTS_MAX: u32 = 3;
/// In the place of a hash that is not known.
const UNKNOWN: &str = "-";
/// The way out when Kafka's progress cannot be gone by.
pub(super) const BEGIN_ANEW: &str = "to go on give the topic another `group` in the specification, and with `from_version` the first version \
     to be sent under it: `isobar.version` in the newest messages says how far it was";

/// The row that is sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    /// The version of the table.
    pub(super) version: u64,
    /// The row of that version, in the order of its files.
    pub(super) row: u64,
    /// SHA-256 of the version before, zeros before the first one: which table it is. `None` where that is not known.
    pub(super) after: Option<String>,
}

impl Next {
    /// The beginning of a version that comes after one of this hash.
    pub(super) fn version(version: u64, after: impl Into<String>) -> Self {
        Self { version, row: 0, after: Some(after.into()) }
    }

    /// The beginning of a version, where nothing was sent before.
    pub(super) fn first(version: u64) -> Self {
        let after = (version == 0).then(|| NO_PREVIOUS_SHA256.to_owned());
        Self { version, row: 0, after }
    }

    /// As Kafka keeps it: the version as an offset, for people, and all of it in the note.
    pub(super) fn to_progress(&self) -> Progress {
        let Self { version, row, after } = self;
        let next = i64::try_from(*version).unwrap_or(i64::MAX);
        let after = after.as_deref().unwrap_or(UNKNOWN);
        Progress { next, note: format!("version={version} row={row} after={after}") }
    }

    /// Reads what [`to_progress`](Self::to_progress) has written.
    ///
    /// # Errors
    /// If somebody else has written it, such as a tool that resets offsets: what that means for rows nobody can know.
    pub(super) fn read(progress: &Progress) -> Result<Self, Failure> {
        let parsed = || {
            let (version, rest) = progress.note.strip_prefix("version=")?.split_once(" row=")?;
            let (row, after) = rest.split_once(" after=")?;
            let after = (after != UNKNOWN).then(|| after.to_owned());
            Some(Self { version: version.parse().ok()?, row: row.parse().ok()?, after })
        };
        let is_hash = |after: &String| is_sha256(after);
        let is_ours =
            |next: &Self| next.after.as_ref().is_none_or(is_hash) && next.to_progress() == *progress;
        parsed().filter(is_ours).ok_or_else(|| {
            format!("the progress of the group was set by somebody else, to {}; {BEGIN_ANEW}", progress.next)
        })
    }
}

/// Where rows go, and under which name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Target {
    /// What is sent there. The place of the mark says it.
    #[serde(skip)]
    pub(super) kind: Kind,
    /// The Kafka cluster's id.
    pub(super) cluster: String,
    /// The topic.
    pub(super) topic: String,
    /// Its id, or its name where the topology identifies topics by name.
    pub(super) topic_id: String,
    /// The group, which is the transactional id as well.
    pub(super) group: String,
}

/// What a mark says.
#[derive(Debug, Serialize)]
struct Mark {
    format: u32,
    #[serde(flatten)]
    target: Target,
}

impl Target {
    /// Where the mark lies.
    fn path(&self, topology: &str, dataset: &str) -> Path {
        let Self { kind, cluster, topic, topic_id, group } = self;
        let name = sha256_hex(format!("{cluster}\n{topic}\n{topic_id}\n{group}").as_bytes());
        match kind {
            Kind::DeadLetters => Keys::new(topology).dead_letter(dataset, &name),
            Kind::Rows => Keys::new(topology).publish(dataset, &name),
        }
    }

    /// Whether something was sent there before.
    ///
    /// # Errors
    /// If no cloud has the mark, and too few say so.
    pub(super) async fn has_begun(
        &self,
        clouds: &[Cloud],
        topology: &str,
        dataset: &str,
    ) -> Result<bool, Failure> {
        let path = self.path(topology, dataset);
        let looks = clouds.iter().map(|cloud| read_register(&*cloud.control, &path, MARK_BYTES_MAX));
        let (mut absent, mut reasons) = (0, Vec::new());
        for look in future::join_all(looks).await {
            match look {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => absent += 1,
                Err(error) => reasons.push(chain_of(&error)),
            }
        }
        if absent >= majority(clouds.len()) {
            return Ok(false);
        }
        Err(format!("too few clouds tell whether something was sent before: {}", reasons.join("; ")))
    }

    /// Notes that something was sent there.
    ///
    /// # Errors
    /// If too few clouds take it.
    pub(super) async fn begin(&self, clouds: &[Cloud], topology: &str, dataset: &str) -> Result<(), Failure> {
        let path = self.path(topology, dataset);
        let mark = Mark { format: FORMAT, target: self.clone() };
        let bytes = encode(&mark);
        let writes = clouds.iter().map(|cloud| write(cloud, &path, &bytes));
        let reasons: Vec<String> = future::join_all(writes).await.into_iter().flatten().collect();
        if clouds.len() - reasons.len() >= majority(clouds.len()) {
            return Ok(());
        }
        Err(format!("too few clouds take the mark that something was sent: {}", reasons.join("; ")))
    }
}

/// Why it is not written.
async fn write(cloud: &Cloud, path: &Path, bytes: &Bytes) -> Option<String> {
    let mut why = None;
    for _ in 0..ATTEMPTS_MAX {
        match put_once(&*cloud.control, path, bytes.clone()).await {
            // A mark of another version of isobar is as good.
            PutOnce::Stored | PutOnce::Occupied(_) => return None,
            PutOnce::Unknown(error) => why = Some(chain_of(&error)),
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isobar_connectors::clouds::{Fault, FaultSwitch};
    use object_store::ObjectStore;
    use object_store::memory::InMemory;

    use super::*;

    fn target(topic_id: &str, group: &str) -> Target {
        let [cluster, topic, topic_id, group] = ["c", "dead", topic_id, group].map(str::to_owned);
        Target { kind: Kind::DeadLetters, cluster, topic, topic_id, group }
    }

    fn clouds() -> (Vec<Cloud>, Vec<FaultSwitch>) {
        let cloud = |name: &str| {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let switch = FaultSwitch::default();
            (Cloud::new(name, store.clone(), store).with_faults(&switch), switch)
        };
        ["a", "b", "c"].map(cloud).into_iter().unzip()
    }

    #[test]
    fn progress_is_read_back_and_what_a_tool_has_set_is_not_believed() {
        let hash = "ab".repeat(32);
        let in_between = Next { row: 10_000, ..Next::version(17, hash.as_str()) };
        for next in [Next::first(0), Next::first(5), Next::version(17, hash.as_str()), in_between] {
            assert_eq!(Next::read(&next.to_progress()), Ok(next));
        }
        let ours = Next::version(17, hash.as_str()).to_progress();
        assert_eq!(ours.next, 17);
        for note in [
            "",
            "version=17",
            "version=17 row=0",
            "version=17 row= after=-",
            "version=18 row=0 after=-",
            "version=017 row=0 after=-",
            "version=17 row=-1 after=-",
            "version=17 row=0 after=",
            "version=17 row=0 after=abc",
        ] {
            let progress = Progress { note: note.into(), ..ours.clone() };
            assert!(Next::read(&progress).unwrap_err().contains("another `group`"), "{note:?}");
        }
        assert!(Next::read(&Progress { next: 16, ..ours }).is_err());
    }

    #[tokio::test]
    async fn a_mark_is_of_one_dataset_topic_and_name_and_is_found_with_one_cloud_away() {
        let (clouds, switches) = clouds();
        let first = target("1", "g");
        assert_eq!(first.has_begun(&clouds, "t", "d").await, Ok(false));
        first.begin(&clouds, "t", "d").await.unwrap();
        first.begin(&clouds, "t", "d").await.unwrap();
        for switch in &switches {
            switch.set(Fault::RefuseAll);
            assert_eq!(first.has_begun(&clouds, "t", "d").await, Ok(true));
            assert_eq!(target("2", "g").has_begun(&clouds, "t", "d").await, Ok(false));
            assert_eq!(target("1", "h").has_begun(&clouds, "t", "d").await, Ok(false));
            assert_eq!(first.has_begun(&clouds, "t", "e").await, Ok(false));
            let of_rows = Target { kind: Kind::Rows, ..first.clone() };
            assert_eq!(of_rows.has_begun(&clouds, "t", "d").await, Ok(false));
            switch.set(Fault::Off);
        }
    }

    #[tokio::test]
    async fn with_too_few_clouds_nothing_is_begun_and_nothing_is_known() {
        let (clouds, switches) = clouds();
        switches[0].set(Fault::RefuseAll);
        switches[2].set(Fault::RefuseAll);
        let error = target("1", "g").begin(&clouds, "t", "d").await.unwrap_err();
        assert!(error.contains("too few clouds"), "{error}");
        // One cloud has it, which is enough to know.
        assert_eq!(target("1", "g").has_begun(&clouds, "t", "d").await, Ok(true));
        let error = target("2", "g").has_begun(&clouds, "t", "d").await.unwrap_err();
        assert!(error.contains("too few clouds"), "{error}");
    }
}
