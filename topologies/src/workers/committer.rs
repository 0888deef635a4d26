//! Who has a pipeline's batches decided: the leader in this process, or one elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{future, stream};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta;
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use isobar_schemas::TopicPartition;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::sync::watch;

use super::client::Client;
use super::desk::OpenDesk;
use super::wire::{Answer, Share};
use crate::commit::chain::NewFile;
use crate::commit::quorum::majority;
use crate::commit::{
    CommitOutcome, Epoch, Leader, Proposal, Redrive, Staged, files_in_majority, quarantine_of,
};
use crate::error::Error;
use crate::maintain::Work;
use crate::pipeline::now_ms;
use crate::stage::PartitionIdentity;
use crate::topics::Topics;

/// Files of workers that are looked for at the same time.
const LOOKS_IN_FLIGHT: usize = 16;
/// How long a worker waits for clouds beyond the majority before it sends a commit: what they have by then, the leader
/// need not copy.
const LAST_CLOUDS_PATIENCE: Duration = Duration::from_millis(500);

/// See the [module](self).
pub(crate) enum Committer {
    /// This process leads.
    Own(Box<Own>),
    /// Another one does.
    Remote(Box<Remote>),
}

/// Leads, and decides for workers as well if it has a desk.
pub(crate) struct Own {
    pub(crate) leader: Leader,
    pub(crate) clouds: Vec<Cloud>,
    pub(crate) desk: Option<OpenDesk>,
}

/// Sends commits to the leader.
pub(crate) struct Remote {
    client: Arc<Client>,
    clouds: usize,
    /// What the leader told last, as far as it was taken up.
    share: Share,
    shares: watch::Receiver<Option<Share>>,
    /// Per dataset and partition, the highest position that a leader has told.
    positions: BTreeMap<(String, TopicPartition), i64>,
}

/// What a process is to read.
pub(crate) struct Reads {
    /// These.
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// And these, once it sees them in Kafka itself: the leader was told of them earlier.
    pub(crate) unseen: BTreeSet<TopicPartition>,
}

impl Committer {
    /// Has `staged` decided, if there is anything, and what workers have sent. The outcome of `staged`.
    pub(crate) async fn commit(&mut self, staged: Option<Staged>) -> Result<Option<CommitOutcome>, Error> {
        match self {
            Self::Own(own) => own.commit(staged).await,
            Self::Remote(remote) => match staged {
                Some(staged) => remote.commit(staged).await.map(Some),
                None => Ok(None),
            },
        }
    }

    /// Has maintenance decided, whose files `uploads` brings. `None` where another process leads: maintenance is the
    /// leader's.
    pub(crate) async fn maintain(
        &mut self,
        work: &Work,
        uploads: Vec<(String, Vec<UploadHandle>)>,
    ) -> Result<Option<CommitOutcome>, Error> {
        match self {
            Self::Own(own) => own.maintain(work, uploads).await.map(Some),
            Self::Remote(_) => Ok(None),
        }
    }

    /// Whether a decision of this id is known here.
    pub(crate) fn knows(&self, commit_id: &str) -> bool {
        matches!(self, Self::Own(own) if own.leader.chain().sequence_of(commit_id).is_some())
    }

    /// Has a redrive decided whose files somebody else has stored. `None` where another process leads.
    pub(crate) async fn redrive(&mut self, redrive: &Redrive) -> Result<Option<CommitOutcome>, Error> {
        match self {
            Self::Own(own) => own.redrive(redrive).await.map(Some),
            Self::Remote(_) => Ok(None),
        }
    }

    /// The partitions of `topics` that this process is to read now.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the leader means others than this worker sees.
    pub(crate) fn reads(&self, topics: &Topics) -> Result<Reads, Error> {
        match self {
            Self::Own(own) => {
                let share = own.desk.as_ref().and_then(|desk| desk.own_share());
                let partitions = share.unwrap_or_else(|| topics.identities.keys().cloned().collect());
                Ok(Reads { partitions, unseen: BTreeSet::new() })
            }
            Self::Remote(remote) => remote.reads(topics),
        }
    }

    /// These are the topics now, and every partition has its first position: workers are given them too.
    pub(crate) fn announce(&self, topics: &Topics) {
        if let Self::Own(own) = self
            && let Some(desk) = &own.desk
        {
            desk.grow(topics.clone());
        }
    }

    /// The next offset to read: the chain's, as far as it is known here.
    pub(crate) fn position(&self, dataset: &str, partition: &TopicPartition, app_id: &str) -> Option<i64> {
        match self {
            Self::Own(own) => own.leader.chain().position(dataset, app_id),
            Self::Remote(remote) => remote.positions.get(&(dataset.to_owned(), partition.clone())).copied(),
        }
    }

    /// Takes up what the leader has told meanwhile.
    pub(crate) fn listen(&mut self) {
        if let Self::Remote(remote) = self {
            remote.listen();
        }
    }
}

impl Own {
    async fn maintain(
        &mut self,
        work: &Work,
        uploads: Vec<(String, Vec<UploadHandle>)>,
    ) -> Result<CommitOutcome, Error> {
        let outcome = match work {
            Work::Upkeep(upkeep) => self.leader.maintain(upkeep, uploads, now_ms()).await?,
            Work::Checkpoint(checkpoint) => self.leader.checkpoint(checkpoint, uploads, now_ms()).await?,
        };
        if let Some(desk) = &self.desk {
            desk.moved(self.leader.epoch(), self.leader.chain());
        }
        Ok(outcome)
    }

    async fn redrive(&mut self, redrive: &Redrive) -> Result<CommitOutcome, Error> {
        let quarantine = quarantine_of(&redrive.dataset);
        let accepted = redrive.accepted.iter().map(|file| (redrive.dataset.as_str(), file));
        let looks: Vec<Look> = accepted
            .chain(redrive.stays.iter().map(|file| (quarantine.as_str(), file)))
            .map(|(table, file)| {
                let (path, handles) = unsettled(&self.clouds, table, file);
                (path, file.digest.size, handles)
            })
            .collect();
        let uploads = looks.iter().map(|(path, _, handles)| (path.clone(), handles.clone())).collect();
        let looking = look_for_files(&self.clouds, looks);
        let (outcome, ()) = future::join(self.leader.redrive(redrive, uploads, now_ms()), looking).await;
        let outcome = outcome?;
        if let Some(desk) = &self.desk {
            desk.moved(self.leader.epoch(), self.leader.chain());
        }
        Ok(outcome)
    }

    async fn commit(&mut self, staged: Option<Staged>) -> Result<Option<CommitOutcome>, Error> {
        let Some(desk) = &self.desk else {
            let Some(staged) = staged else { return Ok(None) };
            return self.leader.commit(staged, now_ms()).await.map(Some);
        };
        let guests = desk.take_guests();
        if !guests.is_empty() {
            reach(&failpoint::GROUP_AFTER_RECEIVE)?;
        }
        let has_own = staged.is_some();
        let members: Vec<Staged> =
            guests.iter().map(|guest| stage(&self.clouds, &guest.proposal)).chain(staged).collect();
        desk.grouped(members.len());
        let looks: Vec<Look> = members[..guests.len()].iter().flat_map(looks_for).collect();
        let looking = look_for_files(&self.clouds, looks);
        let (outcomes, ()) = future::join(self.leader.commit_group(members, now_ms()), looking).await;
        // Without an outcome nobody is answered: the desk is closed with the pipeline, and workers ask the next leader.
        let mut outcomes = outcomes?;
        let own = if has_own { outcomes.pop().transpose()? } else { None };
        desk.moved(self.leader.epoch(), self.leader.chain());
        if !guests.is_empty() {
            reach(&failpoint::GROUP_BEFORE_ANSWER)?;
        }
        for (guest, outcome) in guests.into_iter().zip(outcomes) {
            desk.answer(guest, outcome);
        }
        Ok(own)
    }
}

/// A worker's proposal with uploads that are settled when its files are found.
fn stage(clouds: &[Cloud], proposal: &Proposal) -> Staged {
    let tables = proposal.tables.iter();
    let files = tables.flat_map(|table| table.files.iter().map(|file| (table.dataset.as_str(), file)));
    let uploads = files.map(|(dataset, file)| unsettled(clouds, dataset, file));
    Staged { proposal: proposal.clone(), uploads: uploads.collect() }
}

/// A file of `table` that somebody else has stored: its object path, and uploads that nobody has looked for yet.
fn unsettled(clouds: &[Cloud], table: &str, file: &NewFile) -> (String, Vec<UploadHandle>) {
    let handles = clouds.iter().map(|cloud| UploadHandle::new(cloud.name.as_str().into()));
    // The path was decoded when the file was received; one that could not be is found nowhere.
    let path = delta::path::decode_log_path(&file.digest.path).unwrap_or_default();
    (format!("datasets/{table}/{path}"), handles.collect())
}

/// A file to look for: its object path, its bytes, and the upload to be settled per cloud.
type Look = (String, u64, Vec<UploadHandle>);

fn looks_for(staged: &Staged) -> Vec<Look> {
    let sizes = staged.proposal.tables.iter().flat_map(|table| &table.files).map(|file| file.digest.size);
    let looks = staged.uploads.iter().zip(sizes);
    looks.map(|((path, handles), size)| (path.clone(), size, handles.clone())).collect()
}

/// Settles the uploads of files that somebody else has stored.
async fn look_for_files(clouds: &[Cloud], looks: Vec<Look>) {
    let looks = stream::iter(looks).map(|(path, size, handles)| look_for_file(clouds, path, size, handles));
    looks.buffer_unordered(LOOKS_IN_FLIGHT).collect::<()>().await;
}

/// Asks every cloud for a file until a majority has it. Of the others nothing is known: their lanes look again, and copy
/// it there, as they do after a take-over.
async fn look_for_file(clouds: &[Cloud], path: String, size: u64, handles: Vec<UploadHandle>) {
    let location = Path::from(path);
    let mut looks: FuturesUnordered<_> = clouds
        .iter()
        .zip(&handles)
        .map(|(cloud, handle)| {
            let location = &location;
            async move {
                match cloud.control.head(location).await {
                    Ok(found) if found.size == size => handle.settle(UploadStatus::Done),
                    Ok(found) => {
                        handle.give_up(&format!("has {} bytes instead of {size}", found.size));
                        false
                    }
                    Err(error) => {
                        handle.give_up(&error.to_string());
                        false
                    }
                }
            }
        })
        .collect();
    let mut found = 0;
    while found < majority(clouds.len()) {
        match looks.next().await {
            Some(is_there) => found += usize::from(is_there),
            None => break,
        }
    }
    for handle in &handles {
        handle.give_up("not looked for any longer");
    }
}

impl Remote {
    /// A committer that sends through `client`, to clouds of this number, and begins with `share`.
    pub(super) fn new(client: Arc<Client>, clouds: usize, share: Share) -> Self {
        let shares = client.shares();
        let empty = Share { partitions: Vec::new(), ..share.clone() };
        let mut remote = Self { client, clouds, shares, share: empty, positions: BTreeMap::new() };
        remote.learn(share);
        remote
    }

    /// Tells the leader that this worker stops.
    pub(crate) async fn leave(&self) {
        self.client.leave().await;
    }

    /// The epoch of the leader that was heard last.
    pub(crate) fn epoch(&self) -> Epoch {
        self.share.epoch
    }

    /// Commits of other partitions than the leader's would be stale for ever, and nobody would read what is missing here.
    fn reads(&self, topics: &Topics) -> Result<Reads, Error> {
        let all = &topics.identities;
        let mut reads = Reads { partitions: BTreeSet::new(), unseen: BTreeSet::new() };
        for shared in &self.share.partitions {
            let partition = TopicPartition::new(shared.topic.as_str(), shared.partition);
            let theirs =
                PartitionIdentity { cluster: shared.cluster.clone(), topic_id: shared.topic_id.clone() };
            // Every topic has a first partition, and all partitions of a topic have the same ids.
            match all.get(&TopicPartition { partition: 0, ..partition.clone() }) {
                Some(ours) if *ours == theirs => {}
                None if topics.awaits(&partition.topic) => {}
                Some(_) | None => return Err(other_partition(&partition, &theirs)),
            }
            let to = if all.contains_key(&partition) { &mut reads.partitions } else { &mut reads.unseen };
            to.insert(partition);
        }
        Ok(reads)
    }

    fn listen(&mut self) {
        if self.shares.has_changed().unwrap_or(false) {
            let share = self.shares.borrow_and_update().clone();
            share.into_iter().for_each(|share| self.learn(share));
        }
    }

    /// Positions only rise: what was told last may have been said before what was told first.
    fn learn(&mut self, share: Share) {
        for shared in &share.partitions {
            let partition = TopicPartition::new(shared.topic.as_str(), shared.partition);
            for (dataset, position) in &shared.positions {
                self.reached(dataset, &partition, *position);
            }
        }
        self.share = share;
    }

    fn reached(&mut self, dataset: &str, partition: &TopicPartition, position: i64) {
        let known = self.positions.entry((dataset.to_owned(), partition.clone())).or_insert(position);
        *known = (*known).max(position);
    }

    async fn commit(&mut self, staged: Staged) -> Result<CommitOutcome, Error> {
        if let Err(what) = files_in_majority(&staged.uploads, self.clouds).await {
            return Ok(CommitOutcome::NotStored(what));
        }
        let others = future::join_all(
            staged.uploads.iter().flat_map(|(_, handles)| handles).map(UploadHandle::settled),
        );
        // Not the whole majority's affair: a slow cloud is filled by the leader.
        let _ = tokio::time::timeout(LAST_CLOUDS_PATIENCE, others).await;
        match self.client.commit(&staged.proposal).await? {
            Answer::Committed { sequence } => {
                for table in &staged.proposal.tables {
                    for range in &table.offsets {
                        let partition = TopicPartition::new(range.topic.as_str(), range.partition);
                        self.reached(&table.dataset, &partition, range.end);
                    }
                }
                Ok(CommitOutcome::Committed { sequence })
            }
            Answer::Stale { refusal, share } => {
                self.learn(share);
                Ok(CommitOutcome::Stale(refusal))
            }
            Answer::NotStored { reason, share } => {
                self.learn(share);
                Ok(CommitOutcome::NotStored(reason))
            }
            Answer::Refused { reason } => Err(Error::Bug(reason)),
        }
    }
}

fn other_partition(partition: &TopicPartition, theirs: &PartitionIdentity) -> Error {
    let PartitionIdentity { cluster, topic_id } = theirs;
    Error::Configuration(format!(
        "the leader reads {partition} as topic {topic_id} of cluster {cluster}, and this worker sees another one: point both to the same Kafka \
         cluster, with the same kafka.cluster_id and kafka.topic_identity"
    ))
}

fn reach(point: &'static Failpoint) -> Result<(), Error> {
    failpoint::hit(point, "").map_err(|error| Error::connector("decide for workers", error))
}
