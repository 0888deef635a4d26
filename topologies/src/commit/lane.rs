//! A lane serves one cloud: it brings every record of the epoch there, in order, and publishes what is decided.
//!
//! The same few steps serve a healthy cloud and one that was away: files first, then the record, and once that is
//! decided, the bodies.
//! Checkpoints come last, after the versions that they hold (`checkpoint`).
//! A lane that meets an error waits a little and does the same step again with the same bytes; it never skips, and
//! it never holds up another cloud. It ends when the epoch is sealed in its cloud, or at shutdown.

mod checkpoint;
mod walk;

pub(crate) use checkpoint::{hint_of, hinted_version};
pub(crate) use walk::Walks;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, FuturesOrdered, StreamExt};
use isobar_connectors::clouds::{Cloud, PutOnce, put_once, read_register};
use isobar_connectors::copy::copy_file;
use isobar_connectors::delta::{self, CommitBody, FileDigest};
use isobar_connectors::failpoint::{self, Failpoint};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::chain::{Chain, TableHead};
use super::format::{
    Decision, Identity, MODELS_PREFIX, RECORD_BYTES_MAX, Record, TableBody, decode, published_path,
};
use super::model::ModelEntry;
use super::readmit::{files_of, is_readmitted};
use super::released::{Released, released_by};
use super::rules::{self, Occupant};
use super::state::{Shared, Slot, State};
use super::takeover::published_from;
use crate::error::Error;
use crate::throttle::Throttle;

/// First and longest pause after a failed step.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a process that seals this cloud may take to seal a majority before its take-over counts as failed. Too
/// short only costs an epoch.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(10);
/// How often a cloud is looked at while there is nothing to store: who was superseded must not go on saying that it
/// leads, and a cloud that left is missed before the next commit. One GET per cloud.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Versions that a cloud which is filled gets at the same time, and that are read at the same time to learn which. They are
/// published in order all the same.
const VERSIONS_AHEAD: usize = 8;
/// Versions after which it is kept what they let go, for the next epoch.
const RELEASED_KEPT_EVERY: u64 = 256;
/// Decided records of the epoch whose files a cloud that is behind gets ahead of their turn.
const RECORDS_AHEAD: u64 = 4;

fn unreachable(error: isobar_connectors::Error) -> Error {
    Error::connector("serve a cloud", error)
}

/// Why a lane stops serving its cloud.
enum End {
    /// A later leader closed this epoch there.
    Sealed,
    /// The cloud holds something that is not ours; a person must look. The other clouds go on.
    Foreign(String),
}

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    /// Index of the cloud this lane serves.
    pub(super) cloud: usize,
    /// Bounds how fast it is filled.
    pub(super) throttle: Throttle,
}

/// What files are copied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A decision may wait for them.
    Decide,
    /// The cloud is behind what is decided.
    Fill,
}

/// One step's outcome: done, or a reason to try it again.
type Step<T> = Result<T, Retry>;

enum Retry {
    Later(Error),
    Never(End),
}

impl From<Error> for Retry {
    fn from(error: Error) -> Self {
        Retry::Later(error)
    }
}

impl Lane {
    pub(super) async fn run(self) {
        let end = self.serve().await;
        match end {
            None => {}
            Some(End::Sealed) => {
                info!(cloud = %self.cloud().name, epoch = %self.shared.epoch, "epoch sealed here by a later leader");
                self.shared.update(|state| state.quorum.record_sealed(self.cloud));
                self.await_renewal().await;
            }
            Some(End::Foreign(what)) => {
                error!(cloud = %self.cloud().name, what, "cloud is set aside: it holds what isobar did not write");
                self.shared.update(|state| state.set_aside(self.cloud, what));
            }
        }
    }

    /// The cloud is sealed. Either this epoch is over soon, or a take-over failed half-way; then this cloud must wait
    /// for an epoch to come.
    async fn await_renewal(&self) {
        tokio::select! {
            biased;
            () = self.shared.shutdown.cancelled() => {}
            () = self.shared.environment.sleep(TAKEOVER_PATIENCE) => {
                self.shared.update(State::record_renewal_due);
            }
        }
    }

    /// Goes through the epoch's records until the end. `None` at shutdown.
    async fn serve(&self) -> Option<End> {
        // Who took no part in the take-over gets no uploads before it answers. A take-over had a majority.
        self.shared.uploads.set_away(&self.cloud().name, self.shared.is_away(self.cloud));
        if let Err(end) = self.insist(|| self.confirm_identity()).await? {
            return Some(end);
        }
        let base = self.shared.base.clone();
        if let Err(end) = self.insist(|| self.fill_to(&base)).await? {
            return Some(end);
        }
        // Publishing follows storing at its own pace: decisions go on while `_delta_log` is hard to reach.
        tokio::select! {
            biased;
            end = self.store_all() => end,
            end = self.publish_all() => end,
        }
    }

    /// Brings record after record here. `None` at shutdown.
    ///
    /// A cloud that is behind has many decided records before it, and their files are most of the work. So the files of
    /// the next ones are copied while a record is stored, `ahead`, in the order of the records.
    async fn store_all(&self) -> Option<End> {
        let (mut ahead, mut copied, mut next) = (FuturesOrdered::new(), VecDeque::new(), 0);
        for index in 0.. {
            let slot = match self.slot_while_looking(index).await? {
                Ok(slot) => slot,
                Err(end) => return Some(end),
            };
            let has_files = index < next && copied_ahead(&mut ahead, &mut copied).await;
            next = next.max(index + 1);
            // Whatever made an attempt fail, the next one looks at every file.
            let has_files = AtomicBool::new(has_files);
            let mut store =
                pin!(self.insist(|| self.store(index, &slot, has_files.swap(false, Ordering::Relaxed))));
            let stored = loop {
                tokio::select! {
                    biased;
                    stored = &mut store => break stored,
                    Some(is_copied) = ahead.next() => copied.push_back(is_copied),
                    () = self.shared.wait_until_fillable(self.cloud, next), if next <= index + RECORDS_AHEAD => {
                        ahead.push_back(self.copy_ahead(next));
                        next += 1;
                    }
                }
            };
            if let Err(end) = stored? {
                return Some(end);
            }
            self.shared.update(|state| state.quorum.record_stored(self.cloud, index));
        }
        None
    }

    /// Copies the files of a decided record here. False if that does not succeed: it is done again in turn.
    async fn copy_ahead(&self, index: u64) -> bool {
        match self.shared.slot(index).await {
            Some(slot) => self.bring_files_of(&slot, Purpose::Fill).await.is_ok(),
            None => false,
        }
    }

    /// Publishes what is stored here, with its files, and decided. `None` at shutdown.
    async fn publish_all(&self) -> Option<End> {
        for index in 0.. {
            self.shared.wait_until_publishable(self.cloud, index).await?;
            let slot = self.shared.slot(index).await?;
            if let Err(end) = self.insist(|| self.publish(&slot)).await? {
                return Some(end);
            }
            self.shared.update(|state| state.record_published(self.cloud, index));
        }
        None
    }

    /// The record at `index`; as long as there is none, the cloud is looked at now and then. `None` at shutdown.
    async fn slot_while_looking(&self, index: u64) -> Option<Result<Slot, End>> {
        loop {
            tokio::select! {
                biased;
                slot = self.shared.slot(index) => return slot.map(Ok),
                () = self.shared.environment.sleep(LOOK_INTERVAL) => {}
            }
            if let Err(end) = self.insist(|| self.confirm_free(index)).await? {
                return Some(Err(end));
            }
        }
    }

    /// Nobody else uses the register that is ours to write next.
    async fn confirm_free(&self, index: u64) -> Step<()> {
        let path = self.shared.keys.record(self.shared.epoch, index);
        let found = read_register(&self.cloud().control, &path, RECORD_BYTES_MAX).await;
        match found.map_err(unreachable)? {
            None => Ok(()),
            Some(held) => Err(self.end_by(&path, &held)),
        }
    }

    /// What it means for this lane that `path` holds bytes other than ours.
    fn end_by(&self, path: &Path, held: &[u8]) -> Retry {
        Retry::Never(match rules::judge_occupant(decode::<Record>(held).ok().as_ref()) {
            Occupant::Seal => End::Sealed,
            Occupant::Foreign => End::Foreign(format!("{path} holds other bytes")),
        })
    }

    fn cloud(&self) -> &Cloud {
        &self.shared.clouds[self.cloud]
    }

    fn reach(&self, point: &'static Failpoint) -> Step<()> {
        failpoint::hit(point, &self.cloud().name).map_err(|error| unreachable(error).into())
    }

    /// Repeats `step` until it is done or the lane must end; `None` at shutdown.
    async fn insist<T, F>(&self, step: impl Fn() -> F) -> Option<Result<T, End>>
    where
        F: Future<Output = Step<T>>,
    {
        let mut pause = BACKOFF.0;
        loop {
            let outcome = tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return None,
                outcome = step() => outcome,
            };
            let failure = match outcome {
                Ok(done) => {
                    self.report_back();
                    return Some(Ok(done));
                }
                Err(Retry::Never(end)) => return Some(Err(end)),
                Err(Retry::Later(failure)) => failure,
            };
            self.report_away(&failure);
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return None,
                () = self.shared.environment.sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
            }
            if let Err(end) = self.check_identity().await {
                return Some(Err(end));
            }
        }
    }

    fn report_away(&self, failure: &Error) {
        let (cloud, why) = (&self.cloud().name, crate::chain_of(failure));
        let (is_news, leaves_majority) = self
            .shared
            .update(|state| (state.mark_away(self.cloud, why.clone()), state.has_majority_at_hand()));
        if is_news {
            warn!(%cloud, error = %why, "cloud is away, going on without it");
        } else {
            debug!(%cloud, error = %why, "cloud is still away");
        }
        // What reaches fewer than a majority cannot be committed, so files are tried on the last majority all the same.
        if leaves_majority {
            self.shared.uploads.set_away(cloud, true);
        }
    }

    fn report_back(&self) {
        if self.shared.update(|state| state.mark_back(self.cloud)) {
            info!(cloud = %self.cloud().name, "cloud is back");
            self.shared.uploads.set_away(&self.cloud().name, false);
        }
    }

    /// A cloud that comes back without our identity was wiped or restored: it must not be counted.
    async fn check_identity(&self) -> Result<(), End> {
        match self.confirm_identity().await {
            Err(Retry::Never(end)) => Err(end),
            Ok(()) | Err(Retry::Later(_)) => Ok(()),
        }
    }

    async fn confirm_identity(&self) -> Step<()> {
        let path = self.shared.keys.identity();
        let found =
            read_register(&self.cloud().control, &path, RECORD_BYTES_MAX).await.map_err(unreachable)?;
        let found = found.and_then(|bytes| decode::<Identity>(&bytes).ok());
        if !rules::still_belongs(found.as_ref(), &self.shared.group_id) {
            return Err(Retry::Never(End::Foreign(format!("no identity of this group at {path}"))));
        }
        let shared = &self.shared;
        match is_readmitted(self.cloud(), &shared.keys, &shared.group_id, &shared.readmitted).await? {
            true => Ok(()),
            false => Err(Retry::Never(End::Foreign("it was lost and is not readmitted".to_owned()))),
        }
    }

    /// Brings every table to the versions of `base`, copying from other clouds what is missing here, and its newest
    /// checkpoint after them.
    async fn fill_to(&self, base: &Chain) -> Step<()> {
        for (dataset, head) in &base.tables {
            self.fill_versions(dataset, head).await?;
            if let Some(checkpoint) = &head.checkpoint {
                self.publish_checkpoint(dataset, checkpoint, &Slot::without_uploads()).await?;
            }
        }
        Ok(())
    }

    /// Brings one table to the version of `head`. Only bytes whose hash the decided head vouches for are published.
    async fn fill_versions(&self, dataset: &str, head: &TableHead) -> Step<()> {
        let path = published_path(dataset, head.version);
        let newest =
            read_register(&self.cloud().control, &path, RECORD_BYTES_MAX).await.map_err(unreachable)?;
        match newest {
            Some(body) if delta::sha256_hex(&body) == head.sha256 => {
                self.shared.walks.forget(self.cloud, dataset);
                return Ok(());
            }
            Some(_) => {
                return Err(Retry::Never(End::Foreign(format!("{path} differs from the decided bytes"))));
            }
            None => {}
        }
        let present = published_from(&self.cloud().control, dataset, 0).await;
        let present = present.map_err(|error| Error::store(self.cloud(), "list versions", error))?;
        let present = present.min(head.version + 1);
        let missing = self.settle_missing(dataset, head, present).await?;
        info!(cloud = %self.cloud().name, dataset, versions = missing.len(), "filling the cloud");
        let versions = stream::iter(0..missing.len());
        let brought =
            versions.map(|index| self.bring_version(dataset, present + index as u64, &missing[index]));
        let mut brought = pin!(brought.buffered(VERSIONS_AHEAD).enumerate());
        let mut released = None;
        while let Some((index, version)) = brought.next().await {
            let (body, nowhere) = version?;
            if !nowhere.is_empty() && released.is_none() {
                released = Some(self.released_after(&body, &missing[index + 1..]).await?);
            }
            refuse_missing(&nowhere, released.as_ref())?;
            self.publish_body(&body).await?;
            self.reach(&failpoint::FILL_AFTER_VERSION)?;
        }
        self.shared.walks.forget(self.cloud, dataset);
        info!(cloud = %self.cloud().name, dataset, versions = missing.len(), "cloud filled");
        Ok(())
    }

    /// The decided bytes of a version, after its files were brought here, and those of its files that are in no cloud.
    async fn bring_version(
        &self,
        dataset: &str,
        version: u64,
        sha256: &str,
    ) -> Step<(TableBody, Vec<String>)> {
        let body = self.read_version_elsewhere(dataset, version, sha256).await?;
        self.reach(&failpoint::FILL_BEFORE_VERSION)?;
        let nowhere = self.bring_files(&body, &Slot::without_uploads(), Purpose::Fill).await?;
        Ok((body, nowhere))
    }

    /// The SHA-256 of versions `present..=head.version`, in order. Only the head's is known to begin with: each version
    /// names the one before it, down to the last that is present here. No bodies are kept, however many are missing, and
    /// what an earlier epoch has learned is not read again ([`walk`]).
    async fn settle_missing(&self, dataset: &str, head: &TableHead, present: u64) -> Step<Vec<String>> {
        let (walks, cloud) = (&self.shared.walks, self.cloud);
        let top = (head.version, head.sha256.clone());
        match walks.last(cloud, dataset, head.version) {
            None => walks.begin(cloud, dataset, top),
            Some((last, known)) => {
                let mut above = vec![top.1.clone()];
                self.walk_down(dataset, top.clone(), last, |_, sha256| above.push(sha256)).await?;
                if above.pop() == Some(known) {
                    above.reverse();
                    walks.extend_above(cloud, dataset, last, above);
                } else {
                    walks.begin(cloud, dataset, top);
                }
            }
        }
        let low = present.saturating_sub(1);
        if let Some(lowest) = walks.first(cloud, dataset) {
            self.walk_down(dataset, lowest, low, |version, sha256| {
                walks.push_below(cloud, dataset, (version, sha256));
            })
            .await?;
        }
        let known = walks.hashes_from(cloud, dataset, low);
        let mut known = known.ok_or_else(|| Error::Bug(format!("no way from {dataset}'s head to {low}")))?;
        if present > 0 {
            let before = known.remove(0);
            let confirmed = self.confirm_version_before(dataset, present, &before).await;
            confirmed.inspect_err(|_| walks.forget(cloud, dataset))?;
        }
        Ok(known)
    }

    /// Reads the versions from `from` down to above `to`, and tells of each the version below it and its SHA-256.
    async fn walk_down(
        &self,
        dataset: &str,
        (from, sha256): (u64, String),
        to: u64,
        mut tell: impl FnMut(u64, String),
    ) -> Step<()> {
        let mut expected = sha256;
        let versions = stream::iter((to.saturating_add(1)..=from).rev());
        let read = versions.map(|version| self.look_elsewhere(dataset, version)).buffered(VERSIONS_AHEAD);
        let (mut read, mut version) = (pin!(read), from);
        while let Some(found) = read.next().await {
            expected = match found.filter(|(sha256, _)| *sha256 == expected) {
                Some((_, previous)) => previous,
                // The cloud that was asked first has other bytes, or none.
                None => self.version_before(dataset, version, &expected).await?,
            };
            version -= 1;
            tell(version, expected.clone());
        }
        Ok(())
    }

    /// The SHA-256 of what the first other cloud that answers holds as a version, and of what that names as the version
    /// before it.
    async fn look_elsewhere(&self, dataset: &str, version: u64) -> Option<(String, String)> {
        let path = published_path(dataset, version);
        for other in self.others() {
            let Ok(Some(bytes)) = read_register(&other.control, &path, RECORD_BYTES_MAX).await else {
                continue;
            };
            let previous = previous_of(dataset, &bytes).ok()?;
            return Some((delta::sha256_hex(&bytes), previous));
        }
        None
    }

    /// The SHA-256 of the version before `version`, whose own is known.
    async fn version_before(&self, dataset: &str, version: u64, sha256: &str) -> Step<String> {
        let body = self.read_version_elsewhere(dataset, version, sha256).await?;
        let previous = previous_of(dataset, body.body.as_bytes());
        Ok(previous.map_err(|what| Error::damaged(&format!("{dataset} version {version}"), what))?)
    }

    /// What is to be published at `version` follows what lies here before it.
    async fn confirm_version_before(&self, dataset: &str, version: u64, sha256: &str) -> Step<()> {
        let Some(before) = version.checked_sub(1) else { return Ok(()) };
        let path = published_path(dataset, before);
        let body = read_register(&self.cloud().control, &path, RECORD_BYTES_MAX).await;
        let body = body.map_err(unreachable)?;
        let body = body.ok_or_else(|| Error::damaged(path.as_ref(), "vanished while it was read"))?;
        if delta::sha256_hex(&body) == sha256 {
            return Ok(());
        }
        Err(Retry::Never(End::Foreign(format!("{path} differs from the decided bytes"))))
    }

    /// The decided bytes of a published version, by their hash, from any other cloud that holds them.
    async fn read_version_elsewhere(&self, dataset: &str, version: u64, sha256: &str) -> Step<TableBody> {
        let path = published_path(dataset, version);
        for other in self.others() {
            let Ok(Some(bytes)) = read_register(&other.control, &path, RECORD_BYTES_MAX).await else {
                continue;
            };
            if delta::sha256_hex(&bytes) != sha256 {
                warn!(cloud = %other.name, %path, "differs from the decided bytes, not copied");
                continue;
            }
            let body = String::from_utf8(bytes.to_vec());
            let body = body.map_err(|error| Error::damaged(path.as_ref(), error.to_string()))?;
            return Ok(TableBody { dataset: dataset.to_owned(), version, sha256: sha256.to_owned(), body });
        }
        let what = format!("no other cloud gives its decided bytes, SHA-256 {sha256}");
        Err(Error::damaged(path.as_ref(), what).into())
    }

    /// The other clouds; those that are away come last, because asking them takes a time-out each.
    fn others(&self) -> impl Iterator<Item = &Cloud> {
        let mut others: Vec<usize> =
            (0..self.shared.clouds.len()).filter(|other| *other != self.cloud).collect();
        others.sort_by_key(|other| self.shared.is_away(*other));
        others.into_iter().map(|other| &self.shared.clouds[other])
    }

    /// Files first, unless they are here, then the record; it counts only in a cloud that is still ours after that.
    async fn store(&self, index: u64, slot: &Slot, has_files: bool) -> Step<()> {
        if !has_files {
            let is_decided = self.shared.is_decided(index);
            self.bring_files_of(slot, if is_decided { Purpose::Fill } else { Purpose::Decide }).await?;
        }
        let path = self.shared.keys.record(self.shared.epoch, index);
        self.reach(&failpoint::DECIDE_BEFORE_PUT)?;
        match put_once(&self.cloud().control, &path, slot.bytes()).await {
            // A cloud that was wiped takes the record and has forgotten a SEAL, so it is asked who it is before it counts.
            PutOnce::Stored => {
                self.reach(&failpoint::DECIDE_AFTER_PUT)?;
                self.confirm_identity().await
            }
            PutOnce::Unknown(error) => Err(unreachable(error).into()),
            PutOnce::Occupied(held) => Err(self.end_by(&path, &held)),
        }
    }

    /// Makes sure that the files of a record are here, but for those that were let go.
    async fn bring_files_of(&self, slot: &Slot, purpose: Purpose) -> Step<()> {
        for table in slot.record.decisions().iter().flat_map(|decision| &decision.tables) {
            let nowhere = self.bring_files(table, slot, purpose).await?;
            if !nowhere.is_empty() {
                let released = released_by(slot.record.decisions());
                refuse_missing(&nowhere, released.get(table.dataset.as_str()))?;
            }
        }
        Ok(())
    }

    /// What the versions after `body`, whose hashes are known and which lie in other clouds, let go of files removed there.
    /// Versions before it count as well if an earlier epoch has looked through them: what was let go stays let go.
    async fn released_after(&self, body: &TableBody, hashes: &[String]) -> Step<Released> {
        let (walks, dataset) = (&self.shared.walks, &body.dataset);
        if dataset.starts_with(MODELS_PREFIX) {
            // Nothing of a model is ever let go.
            return Ok(Released::default());
        }
        let (mut noted, mut released) = walks.released(self.cloud, dataset, body.version);
        let looked_through =
            usize::try_from(noted.saturating_sub(body.version)).unwrap_or(usize::MAX).min(hashes.len());
        let ahead = stream::iter(looked_through..hashes.len());
        let version_of = |index: usize| body.version + 1 + index as u64;
        let read = ahead.map(|index| self.read_version_elsewhere(dataset, version_of(index), &hashes[index]));
        let mut read = pin!(read.buffered(VERSIONS_AHEAD));
        while let Some(next) = read.next().await {
            let next = next?;
            noted = next.version;
            released.note(noted, &parsed(&next)?);
            if noted.is_multiple_of(RELEASED_KEPT_EVERY) {
                walks.keep_released(self.cloud, dataset, (noted, released.clone()));
            }
        }
        walks.keep_released(self.cloud, dataset, (noted, released.clone()));
        Ok(released)
    }

    /// Makes sure that the files of `table` are here. The paths, as the log writes them, of those that are in no cloud.
    async fn bring_files(&self, table: &TableBody, slot: &Slot, purpose: Purpose) -> Step<Vec<String>> {
        let mut nowhere = Vec::new();
        for (path, file) in files_of(table)? {
            if slot.uploaded(&path, self.cloud).await {
                continue;
            }
            self.reach(&failpoint::FILL_BEFORE_FILE)?;
            if !self.copy_file(&path, &file, purpose).await? {
                nowhere.push(file.path);
            }
            self.reach(&failpoint::FILL_AFTER_FILE)?;
        }
        Ok(nowhere)
    }

    /// Brings one file here from the first cloud that answers and holds it whole. Which one answers is asked with the
    /// control client: it gives up within seconds, where the patient data client would hold up this lane. False if every
    /// cloud says that it does not have the file.
    async fn copy_file(&self, path: &str, file: &FileDigest, purpose: Purpose) -> Step<bool> {
        let location = Path::parse(path).map_err(|error| Error::damaged(path, error.to_string()))?;
        match self.cloud().control.head(&location).await {
            Ok(found) if found.size == file.size => return Ok(true),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(Error::store(self.cloud(), &format!("look for {path}"), error).into()),
        }
        let mut last = None;
        for other in self.others() {
            match other.control.head(&location).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => {
                    last = Some(Error::store(other, &format!("look for {path}"), error));
                    continue;
                }
            }
            if purpose == Purpose::Fill {
                self.wait_for_bandwidth(file.size).await;
            }
            let sources = std::slice::from_ref(&other.data);
            match copy_file(&self.cloud().data, sources, path, file.size, &file.sha256).await {
                Ok(()) => return Ok(true),
                Err(error) => last = Some(unreachable(error)),
            }
        }
        last.map_or(Ok(false), |error| Err(error.into()))
    }

    /// Waits until so many bytes may be copied to this cloud: not at all while nothing can be decided without it.
    async fn wait_for_bandwidth(&self, bytes: u64) {
        if self.shared.is_needed(self.cloud) {
            return;
        }
        let pause = self.throttle.grant(bytes, Instant::now());
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = self.shared.wait_until_needed(self.cloud) => {}
            () = self.shared.environment.sleep(pause) => {}
        }
    }

    async fn publish(&self, slot: &Slot) -> Step<()> {
        for Decision { tables, checkpoints, .. } in slot.record.decisions() {
            for table in tables {
                self.publish_body(table).await?;
            }
            for (dataset, checkpoint) in checkpoints {
                self.publish_checkpoint(dataset, checkpoint, slot).await?;
            }
        }
        Ok(())
    }

    /// Puts one version, whose files are here, into `_delta_log`.
    async fn publish_body(&self, table: &TableBody) -> Step<()> {
        let path = published_path(&table.dataset, table.version);
        self.reach(&failpoint::PUBLISH_BEFORE_PUT)?;
        match put_once(&self.cloud().control, &path, Bytes::from(table.body.clone())).await {
            PutOnce::Stored => self.reach(&failpoint::PUBLISH_AFTER_PUT),
            PutOnce::Unknown(error) => Err(unreachable(error).into()),
            PutOnce::Occupied(_) => {
                Err(Retry::Never(End::Foreign(format!("{path} differs from the decided bytes"))))
            }
        }
    }
}

fn parsed(table: &TableBody) -> Result<CommitBody, Error> {
    delta::parse_body(table.body.as_bytes()).map_err(|error| {
        Error::damaged(&format!("{} version {}", table.dataset, table.version), error.to_string())
    })
}

/// The SHA-256 that a version of a table, or an entry of a model's log, names as that of the one before it.
fn previous_of(table: &str, bytes: &[u8]) -> Result<String, String> {
    if table.starts_with(MODELS_PREFIX) {
        return Ok(ModelEntry::parse(bytes)?.previous_sha256);
    }
    let body = delta::parse_body(bytes).map_err(|error| error.to_string())?;
    Ok(body.info.isobar.previous_sha256)
}

/// A file that no cloud has can only be done without if it was let go.
fn refuse_missing(nowhere: &[String], released: Option<&Released>) -> Step<()> {
    let is_released = |path: &&String| released.is_some_and(|released| released.contains(path));
    match nowhere.iter().find(|path| !is_released(path)) {
        Some(path) => Err(Error::damaged(path, "no cloud holds this file").into()),
        None => Ok(()),
    }
}

/// Whether the files of the first record that was begun ahead and not stored since are here.
async fn copied_ahead(
    ahead: &mut FuturesOrdered<impl Future<Output = bool>>,
    copied: &mut VecDeque<bool>,
) -> bool {
    match copied.pop_front() {
        Some(is_copied) => is_copied,
        None => ahead.next().await.unwrap_or(false),
    }
}
