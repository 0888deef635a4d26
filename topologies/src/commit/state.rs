//! What leader and lanes share about one epoch: what is proposed, how far each cloud is, and how each of them is doing.
//!
//! One lock, held for moments and never across I/O. Whoever changes the state wakes all who wait for a change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::upload::{FanOut, UploadHandle, UploadStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Epoch;
use super::chain::Chain;
use super::environment::Environment;
use super::format::{Content, Keys, Record, encode};
use super::lane::Walks;
use super::quorum::{CloudState, Quorum, majority};
use super::rules::{self, CloudStanding, Standing};
use super::takeover::{Group, OwnLog, Takeover};

/// Records kept with their bytes and uploads, for clouds that are a little behind. For a cloud further behind a record
/// is encoded anew, and its files are looked for.
const SLOTS_KEPT: usize = 32;

/// A record of the epoch together with what is known about its files.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) record: Arc<Record>,
    /// `None` where they are not kept.
    bytes: Option<Bytes>,
    uploads: Arc<Vec<FileUploads>>,
}

/// A staged file's object path and its upload per cloud, in the order of the group's clouds.
pub(crate) type FileUploads = (String, Vec<UploadHandle>);

impl Slot {
    /// `bytes` are those of `record`.
    pub(super) fn new(record: Record, bytes: Bytes, uploads: Vec<FileUploads>) -> Self {
        Self { record: Arc::new(record), bytes: Some(bytes), uploads: Arc::new(uploads) }
    }

    /// A slot that knows of no upload, so that every file is looked for.
    pub(super) fn without_uploads() -> Self {
        let seal = Record::new(Epoch(0), 0, Content::Seal { by: Epoch(0) });
        Self { record: Arc::new(seal), bytes: None, uploads: Arc::default() }
    }

    /// The bytes of the record, the same at every call: it never changes, and one value has one encoding.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone().unwrap_or_else(|| encode(&*self.record))
    }

    /// Keeps nothing but the record.
    fn trim(&mut self) {
        if self.bytes.take().is_some() {
            self.uploads = Arc::default();
        }
    }

    /// Waits for the upload of `path` to `cloud`; false when there is none or it failed.
    pub(super) async fn uploaded(&self, path: &str, cloud: usize) -> bool {
        match self
            .uploads
            .iter()
            .find(|(uploaded, _)| uploaded == path)
            .and_then(|(_, handles)| handles.get(cloud))
        {
            Some(handle) => handle.settled().await == UploadStatus::Done,
            None => false,
        }
    }
}

/// What lanes and leader share about one epoch.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoch: Epoch,
    pub(super) keys: Keys,
    pub(super) group_id: String,
    pub(super) clouds: Vec<Cloud>,
    pub(super) base: Chain,
    /// The last decision that the header stands for; record `i` is the `i`-th one after it.
    header_sequence: u64,
    /// The clouds that were readmitted, as in the header.
    pub(super) readmitted: BTreeMap<String, u64>,
    pub(super) uploads: Arc<FanOut>,
    /// What is known of clouds that are filled, also from earlier epochs.
    pub(super) walks: Arc<Walks>,
    pub(super) environment: Arc<dyn Environment>,
    pub(super) shutdown: CancellationToken,
    state: Mutex<State>,
    pub(super) changed: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) quorum: Quorum,
    /// Every record proposed, by its index: for clouds that are behind, and so that a renewal need not read them.
    /// Bounded like the epoch; the older ones are trimmed.
    slots: Vec<Slot>,
    /// Bytes of all entries proposed.
    entry_bytes: u64,
    pub(super) away: Vec<bool>,
    /// Why each cloud is away, if it is.
    failures: Vec<String>,
    pub(super) set_aside: Vec<Option<String>>,
    /// Decisions in the header's tail.
    tail: u64,
    /// A cloud was sealed by a process that has not taken over since.
    pub(super) renewal_due: bool,
}

impl State {
    fn new(clouds: usize, takeover: &Takeover) -> Self {
        Self {
            quorum: Quorum::new(clouds),
            slots: Vec::new(),
            entry_bytes: 0,
            failures: vec!["it took no part in the take-over".to_owned(); clouds],
            away: (0..clouds).map(|cloud| !takeover.reached.contains(&cloud)).collect(),
            set_aside: vec![None; clouds],
            tail: takeover.header.tail.len() as u64,
            renewal_due: false,
        }
    }

    /// Proposes the record of `slot`, which must be the next one. Its index.
    pub(super) fn propose(&mut self, slot: Slot) -> u64 {
        let index = self.quorum.propose();
        assert_eq!(index, slot.record.index, "a leader proposes one record at a time");
        self.entry_bytes += if index == 0 { 0 } else { slot.bytes().len() as u64 };
        self.slots.push(slot);
        index
    }

    /// Whether this epoch's log is long enough.
    pub(super) fn is_full(&self) -> bool {
        rules::is_epoch_full(self.quorum.proposed(), self.entry_bytes)
    }

    /// Notes that a cloud failed; true if that is news.
    pub(super) fn mark_away(&mut self, cloud: usize, why: String) -> bool {
        self.failures[cloud] = why;
        !std::mem::replace(&mut self.away[cloud], true)
    }

    /// Whether the other clouds that serve this epoch are fewer than a majority.
    fn is_needed(&self, cloud: usize) -> bool {
        let serves = |other: usize| {
            let CloudState { stored, sealed, .. } = *self.quorum.cloud(other);
            stored > 0 && !sealed && !self.away[other] && self.set_aside[other].is_none()
        };
        let others = (0..self.away.len()).filter(|other| *other != cloud && serves(*other)).count();
        others < majority(self.away.len())
    }

    /// Notes that a cloud answered; true if that is news.
    pub(super) fn mark_back(&mut self, cloud: usize) -> bool {
        std::mem::replace(&mut self.away[cloud], false)
    }

    /// Whether a majority of clouds is not away.
    pub(super) fn has_majority_at_hand(&self) -> bool {
        self.at_hand().len() >= self.quorum.majority()
    }

    /// The clouds that are not away.
    fn at_hand(&self) -> Vec<usize> {
        (0..self.away.len()).filter(|cloud| !self.away[*cloud]).collect()
    }

    /// The clouds that a renewal needs: a majority that has published all, if there is one, else whoever answers.
    pub(super) fn needed_to_renew(&self) -> Vec<usize> {
        let decided = self.quorum.decided();
        let at_hand = self.at_hand();
        let is_up_to_date = |cloud: &usize| self.quorum.cloud(*cloud).published == decided;
        let up_to_date: Vec<usize> = at_hand.iter().copied().filter(is_up_to_date).collect();
        if up_to_date.len() >= self.quorum.majority() { up_to_date } else { at_hand }
    }

    pub(super) fn own_log(&self, epoch: Epoch) -> OwnLog {
        let clouds = (0..self.away.len()).map(|cloud| self.quorum.cloud(cloud));
        let (stored, published) = clouds.map(|cloud| (cloud.stored, cloud.published)).unzip();
        let records = self.slots.iter().map(|slot| slot.record.clone()).collect();
        OwnLog { epoch, records, stored, published, is_newest: true }
    }

    /// What can still come of this epoch.
    pub(super) fn standing(&self) -> Standing {
        let clouds = (0..self.away.len()).map(|cloud| CloudStanding {
            sealed: self.quorum.cloud(cloud).sealed,
            set_aside: self.set_aside[cloud].is_some(),
            away: self.away[cloud],
        });
        rules::judge_epoch(&clouds.collect::<Vec<_>>(), self.renewal_due)
    }

    /// Why nothing can be decided with a cloud, `None` if something can.
    pub(super) fn hindrance(&self, cloud: usize) -> Option<String> {
        if let Some(what) = &self.set_aside[cloud] {
            return Some(what.clone());
        }
        if self.quorum.cloud(cloud).sealed {
            return Some("a later process closed this epoch there".to_owned());
        }
        self.away[cloud].then(|| format!("away, {}", self.failures[cloud]))
    }

    /// Decisions not yet published in a majority, those taken over in the header included.
    pub(super) fn unpublished(&self) -> u64 {
        let published = self.quorum.published();
        let taken_over = if published == 0 { self.tail } else { 0 };
        self.quorum.decided() - published + taken_over
    }

    /// Notes that whoever sealed a cloud has left it at that.
    pub(super) fn record_renewal_due(&mut self) {
        self.renewal_due = true;
    }

    pub(super) fn set_aside(&mut self, cloud: usize, what: String) {
        self.away[cloud] = true;
        self.set_aside[cloud] = Some(what);
    }

    pub(super) fn record_published(&mut self, cloud: usize, index: u64) {
        self.quorum.record_published(cloud, index);
        let published = usize::try_from(self.quorum.published()).unwrap_or(usize::MAX);
        let old = self.slots.len().saturating_sub(SLOTS_KEPT).min(published);
        self.slots[..old].iter_mut().for_each(Slot::trim);
    }
}

impl Shared {
    /// An epoch that nothing is proposed in. Its header stands for decision `header_sequence` and all before it.
    pub(super) fn new(
        group: &Group,
        takeover: &Takeover,
        header_sequence: u64,
        uploads: Arc<FanOut>,
    ) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            epoch: takeover.epoch,
            keys: group.keys(),
            group_id: takeover.group_id.clone(),
            clouds: group.clouds.clone(),
            base: takeover.header.base.clone(),
            header_sequence,
            readmitted: takeover.header.readmitted.clone(),
            uploads,
            walks: group.walks.clone(),
            environment: group.environment.clone(),
            shutdown: CancellationToken::new(),
            state: Mutex::new(State::new(group.clouds.len(), takeover)),
            changed,
        }
    }

    /// Changes the state and wakes whoever waits for a change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().expect("no code panics while it holds the state"));
        self.changed.send_replace(());
        result
    }

    /// Whether the first `records` records of the epoch stand for decision `sequence` and all before it.
    pub(super) fn reaches(&self, records: u64, sequence: u64) -> bool {
        records.checked_sub(1).is_some_and(|last| self.header_sequence + last >= sequence)
    }

    /// Whether the cloud's last request failed.
    pub(super) fn is_away(&self, cloud: usize) -> bool {
        self.read(|state| state.away[cloud])
    }

    /// Whether record `index` is decided.
    pub(super) fn is_decided(&self, index: u64) -> bool {
        self.read(|state| index < state.quorum.decided())
    }

    /// Waits until record `index` is decided while the last request to `cloud` succeeded. For ever at shutdown: whoever
    /// asks ends then.
    pub(super) async fn wait_until_fillable(&self, cloud: usize, index: u64) {
        let is_fillable =
            |state: &State| (index < state.quorum.decided() && !state.away[cloud]).then_some(());
        if self.wait_for(is_fillable).await.is_none() {
            std::future::pending().await
        }
    }

    /// Whether nothing can be decided without `cloud`.
    pub(super) fn is_needed(&self, cloud: usize) -> bool {
        self.read(|state| state.is_needed(cloud))
    }

    /// Waits until nothing can be decided without `cloud`. For ever at shutdown: whoever asks ends then.
    pub(super) async fn wait_until_needed(&self, cloud: usize) {
        if self.wait_for(|state| state.is_needed(cloud).then_some(())).await.is_none() {
            std::future::pending().await
        }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().expect("no code panics while it holds the state"))
    }

    /// Waits until `look` finds something; `None` at shutdown.
    pub(super) async fn wait_for<T>(&self, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.read(&look) {
                return Some(found);
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                _ = changes.changed() => {}
            }
        }
    }

    /// The record at `index` once it is proposed; `None` at shutdown.
    pub(super) async fn slot(&self, index: u64) -> Option<Slot> {
        self.wait_for(|state| state.slots.get(usize::try_from(index).ok()?).cloned()).await
    }

    /// Waits until the record is decided, and stored in `cloud`: then its files are there as well.
    pub(super) async fn wait_until_publishable(&self, cloud: usize, index: u64) -> Option<()> {
        self.wait_for(|state| rules::is_publishable(&state.quorum, cloud, index).then_some(())).await
    }
}
