//! Becoming the leader: register, claim an epoch, seal what is older, read it, and say where to go on.
//!
//! Every step needs a majority of the registered clouds and tolerates the rest being away. Nothing here trusts a
//! clock or a lock: a process that is overtaken meets a SEAL and stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt, future};
use isobar_connectors::clouds::{Cloud, Probe, PutOnce, probe, put_once, read_register};
use isobar_connectors::delta;
use isobar_connectors::failpoint::{self, Failpoint};
use object_store::ObjectStore;
use object_store::path::Path;
use tracing::{debug, info, warn};

use super::Epoch;
use super::ask::{Patience, ask, silence};
use super::choose::{Chosen, PublishedVersions, SealedLog, choose};
use super::environment::{Environment, System, random_id};
use super::format::{
    Claim, Content, Decision, FORMAT, Header, Identity, Keys, RECORD_BYTES_MAX, Record, decode, encode,
    log_folder, number_of, published_path, published_version,
};
use super::lane::Walks;
use super::numbers::{highest_claim, highest_log};
use super::quorum::majority;
use super::rules::{self, Claimed};
use crate::chain_of;
use crate::error::Error;

/// Attempts at one register before a cloud is given up for this take-over.
const ATTEMPTS_MAX: u32 = 5;
/// Lost races for an epoch before giving up.
const CLAIMS_MAX: u32 = 20;
/// Epochs count from this one.
const FIRST_EPOCH: Epoch = Epoch(1);
/// Control objects read at once from one cloud.
const READS_IN_FLIGHT: usize = 16;

/// A topology's control group: its name and its registered clouds in claim order.
#[derive(Debug, Clone)]
pub struct Group {
    /// The topology.
    pub topology: String,
    /// Its clouds.
    pub clouds: Vec<Cloud>,
    /// Random id of this run of this process.
    pub incarnation: String,
    /// Where this process answers `GET /v1/leader`, `host:port`, if it does: written into its claims.
    pub address: Option<String>,
    /// Where pauses, chance and tasks come from.
    pub environment: Arc<dyn Environment>,
    /// How long clouds are waited for that are not needed.
    pub patience: Patience,
    /// Bytes per second of files copied to a cloud that is behind, at most; `None`: no bound.
    pub fill_bytes_per_second: Option<u64>,
    /// The epoch that this process led last, if it takes over from itself.
    pub(crate) own_log: Option<Arc<OwnLog>>,
    /// What this process knows of clouds that it fills, whatever the epoch.
    pub(crate) walks: Arc<Walks>,
}

/// What a leader knows of its own epoch without asking: it stored these records, and a register never changes.
///
/// A listing takes the longer the more a store holds, and commits wait for a renewal: it makes none where all of this is
/// known.
#[derive(Debug, Clone)]
pub(crate) struct OwnLog {
    pub(super) epoch: Epoch,
    pub(super) records: Vec<Arc<Record>>,
    /// Per cloud, how many of them it stored there.
    pub(super) stored: Vec<u64>,
    /// Per cloud, how many of them it published there.
    pub(super) published: Vec<u64>,
    /// Whether no later epoch was claimed yet for all that is known here.
    pub(super) is_newest: bool,
}

/// A won epoch and what to write as its header.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) epoch: Epoch,
    pub(super) header: Header,
    pub(super) group_id: String,
    /// Indexes of the clouds that were sealed and read; the others did not answer, or are not ours.
    pub(super) reached: Vec<usize>,
}

impl Group {
    /// A group with a fresh incarnation.
    pub fn new(topology: impl Into<String>, clouds: Vec<Cloud>) -> Self {
        Self::in_environment(topology, clouds, Arc::new(System))
    }

    /// A group with a fresh incarnation that takes time and chance from `environment`: for the simulator.
    pub fn in_environment(
        topology: impl Into<String>,
        clouds: Vec<Cloud>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let incarnation = random_id(&*environment);
        let (topology, patience) = (topology.into(), Patience::START);
        Self {
            topology,
            clouds,
            incarnation,
            address: None,
            environment,
            patience,
            fill_bytes_per_second: None,
            own_log: None,
            walks: Arc::default(),
        }
    }

    /// The claim of the highest epoch that any cloud which answers has seen: of whoever leads, or did last. Good for
    /// finding that process, never for deciding anything.
    pub async fn newest_claim(&self) -> Option<Claim> {
        let looks = self.clouds.iter().map(|cloud| async {
            let path = self.keys().claim(highest_claim(cloud, &self.keys()).await.ok()??);
            decode::<Claim>(&self.read(cloud, &path).await.ok()??).ok()
        });
        future::join_all(looks).await.into_iter().flatten().max_by_key(|claim| claim.epoch)
    }

    /// Whether a cloud that answers knows of another process that claimed an epoch after `epoch`.
    pub(crate) async fn is_claimed_by_another(&self, epoch: Epoch) -> bool {
        let newest = self.newest_claim().await;
        newest.is_some_and(|claim| claim.epoch > epoch && claim.incarnation != self.incarnation)
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(&self.topology)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.clouds.iter().map(|cloud| cloud.name.clone()).collect()
    }

    pub(crate) fn majority(&self) -> usize {
        majority(self.clouds.len())
    }

    pub(crate) fn identity(&self, cloud: &Cloud, group_id: &str) -> Identity {
        Identity {
            format: FORMAT,
            topology: self.topology.clone(),
            group: group_id.to_owned(),
            cloud: cloud.name.clone(),
            clouds: self.names(),
        }
    }

    /// Wins a new epoch and reads what older ones decided, with the clouds at these indexes: all, or a majority of them.
    pub(super) async fn take_over(&self, among: &[usize]) -> Result<Takeover, Error> {
        let is_first_start = self.own_log.is_none() && !self.has_history().await?;
        if is_first_start {
            for cloud in &self.clouds {
                cloud.create_root().await.map_err(|error| Error::connector("register", error))?;
            }
        }
        let (answering, silent) = self.probe_clouds(among, is_first_start).await?;
        reach(&failpoint::ELECT_AFTER_PROBE, "")?;
        let (group_id, members) = self.identify(&answering, &silent, is_first_start).await?;
        let (epoch, holders) = self.claim_epoch(&members).await?;
        let (logs, sealed_before) = self.seal_and_read(epoch, &holders).await?;
        let logs = self.keep_members(logs, &group_id).await?;
        let chosen = choose(logs.iter().flat_map(|(_, logs)| logs))
            .map_err(|what| Error::damaged("control log", what))?;
        let readmitted = chosen.as_ref().map(|chosen| chosen.header.readmitted.clone()).unwrap_or_default();
        let sealed_now: Vec<usize> = logs.iter().map(|(cloud, _)| *cloud).collect();
        let sealed_names = sealed_now.iter().map(|cloud| self.clouds[*cloud].name.as_str());
        let sealed = rules::sealed_clouds(chosen.as_ref(), sealed_before, sealed_names, epoch);
        let mut published = PublishedVersions::new();
        if let Some(chosen) = &chosen {
            if !rules::are_same_clouds(&chosen.header.clouds, &self.names()) {
                return Err(Error::other_clouds(&self.topology, &chosen.header.clouds, &self.names()));
            }
            published = self.published_versions(chosen, &sealed_now).await?;
        }
        let (base, tail) = rules::base_and_tail(chosen, self.clouds.len(), &published)
            .map_err(|what| Error::damaged("control log", what))?;
        info!(%epoch, sequence = base.sequence, tail = tail.len(), "epoch claimed");
        let incarnation = self.incarnation.clone();
        let header = Header { clouds: self.names(), incarnation, base, sealed, readmitted, tail };
        Ok(Takeover { epoch, header, group_id, reached: sealed_now })
    }

    /// A new one each time: what an earlier probe of this process sent may still arrive, or lie there where nothing may be
    /// deleted.
    pub(crate) fn probe_prefix(&self) -> Path {
        self.keys().probe(&self.incarnation).join(random_id(&*self.environment))
    }

    /// Which clouds `among` these answer and honour preconditions, and why the others do not answer. A cloud that ignores
    /// preconditions stops the start.
    async fn probe_clouds(
        &self,
        among: &[usize],
        is_first_start: bool,
    ) -> Result<(Vec<usize>, Vec<String>), Error> {
        let prefix = self.probe_prefix();
        let probes = among.iter().map(|index| async {
            match probe(&self.clouds[*index].control, &prefix).await {
                Probe::Passed => Ok(()),
                failed => Err(failed),
            }
        });
        let mut answering = Vec::new();
        let mut reasons = Vec::new();
        let Patience { grace, .. } = self.patience;
        let outcomes = ask(&*self.environment, self.majority(), grace, probes.collect()).await;
        for (index, outcome) in among.iter().copied().zip(outcomes) {
            let cloud = &self.clouds[index].name;
            match outcome.unwrap_or_else(|| Err(unanswered_probe(cloud, grace))) {
                Ok(()) | Err(Probe::Passed) => answering.push(index),
                Err(Probe::Denied { what }) if !is_first_start => {
                    warn!(%cloud, what, "cloud does not let us in, starting without it");
                    reasons.push(format!("{cloud}: {what}"));
                }
                Err(Probe::Refused { what } | Probe::Denied { what }) => {
                    return Err(Error::Configuration(format!("cloud {cloud}: {what}")));
                }
                Err(Probe::Unavailable(error)) => {
                    warn!(%cloud, %error, "cloud does not answer, starting without it");
                    reasons.push(format!("{cloud}: {}", chain_of(&error)));
                }
            }
        }
        if answering.len() < self.majority() {
            return Err(Error::no_majority("start", self.majority(), self.clouds.len(), reasons));
        }
        Ok((answering, reasons))
    }

    /// The group's id and the clouds among `answering` that belong to it. Registers clouds that nobody has used.
    async fn identify(
        &self,
        answering: &[usize],
        silent: &[String],
        is_first_start: bool,
    ) -> Result<(String, Vec<usize>), Error> {
        let mut found: Vec<(usize, Option<Identity>)> = Vec::new();
        let mut reasons = silent.to_vec();
        let looks = self.ask(answering, "read the identity", |cloud| self.read_identity(cloud)).await;
        for (index, look) in looks {
            let cloud = &self.clouds[index].name;
            match look {
                Ok(identity) => found.push((index, identity)),
                Err(error) => {
                    warn!(%cloud, %error, "cloud does not tell its identity");
                    reasons.push(format!("{cloud}: {}", chain_of(&error)));
                }
            }
        }
        // Not told is not absent: only a majority that answers can say that there is no identity.
        if found.len() < self.majority() {
            return Err(Error::no_majority("identify", self.majority(), self.clouds.len(), reasons));
        }
        let known = most_common(found.iter().filter_map(|(_, identity)| identity.as_ref()));
        if let Some(identity) =
            known.as_ref().filter(|identity| !rules::are_same_clouds(&identity.clouds, &self.names()))
        {
            return Err(Error::other_clouds(&self.topology, &identity.clouds, &self.names()));
        }
        // A cloud that does not tell may not be registered yet: another first start may be half-way through. Going on
        // without it would make history, and in its eyes it was wiped.
        let registered = found.iter().filter(|(_, identity)| identity.is_some()).count();
        if is_first_start && registered < self.clouds.len() {
            return self.register(answering, silent, known).await;
        }
        let group_id =
            known.ok_or_else(|| Error::damaged("control", "no cloud has an identity, but logs exist"))?.group;
        let mut members = Vec::new();
        for (index, identity) in found {
            let cloud = &self.clouds[index];
            match identity {
                identity if rules::is_member(identity.as_ref(), &self.identity(cloud, &group_id)) => {
                    members.push(index);
                }
                Some(_) => {
                    warn!(cloud = %cloud.name, "cloud carries another group's identity and is left out")
                }
                None => {
                    warn!(cloud = %cloud.name, "cloud lost its identity (wiped or restored?) and is left out")
                }
            }
        }
        if members.len() < self.majority() {
            reasons.push("clouds that are present carry no or another identity".to_owned());
            return Err(Error::no_majority("identify", self.majority(), self.clouds.len(), reasons));
        }
        Ok((group_id, members))
    }

    pub(super) async fn read(&self, cloud: &Cloud, path: &Path) -> Result<Option<bytes::Bytes>, Error> {
        let bytes = read_register(&cloud.control, path, RECORD_BYTES_MAX).await;
        bytes.map_err(|error| Error::connector("take over", error))
    }

    pub(crate) async fn read_identity(&self, cloud: &Cloud) -> Result<Option<Identity>, Error> {
        let path = self.keys().identity();
        let bytes = self.read(cloud, &path).await?;
        bytes
            .map(|bytes| {
                decode(&bytes).map_err(|what| Error::damaged(&format!("{}: {path}", cloud.name), what))
            })
            .transpose()
    }

    /// Whether any cloud has a log of this topology: then a missing identity means a lost cloud. The first that has one
    /// settles it. "None has" takes every cloud that says so: a first start writes new identities.
    async fn has_history(&self) -> Result<bool, Error> {
        let logs = self.keys().logs();
        let looks = self.clouds.iter().map(|cloud| async {
            // A directory that was never made cannot be listed, and has no history.
            if !cloud.has_root() {
                return Ok(false);
            }
            let found = cloud.control.list(Some(&logs)).try_next().await;
            found
                .map(|found| found.is_some())
                .map_err(|error| format!("{}: {}", cloud.name, chain_of(&error)))
        });
        let mut looks: FuturesUnordered<_> = looks.collect();
        let mut reasons = Vec::new();
        while let Some(look) = looks.next().await {
            match look {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            return Ok(false);
        }
        reasons
            .push("no other cloud has a log, and a first start needs the answer of every cloud".to_owned());
        Err(Error::no_majority("look for earlier runs", self.clouds.len(), self.clouds.len(), reasons))
    }

    /// First start: writes the identity into every cloud. The first cloud's register decides the group's id, so two
    /// first starts at once agree.
    async fn register(
        &self,
        answering: &[usize],
        silent: &[String],
        known: Option<Identity>,
    ) -> Result<(String, Vec<usize>), Error> {
        if answering.len() < self.clouds.len() {
            let mut reasons = silent.to_vec();
            reasons.push("the first start registers every cloud, so all of them must answer once".to_owned());
            return Err(Error::no_majority("register", self.clouds.len(), self.clouds.len(), reasons));
        }
        let mut group_id = known.map_or_else(|| random_id(&*self.environment), |identity| identity.group);
        for cloud in &self.clouds {
            let ours = self.identity(cloud, &group_id);
            reach(&failpoint::ELECT_BEFORE_REGISTER, &cloud.name)?;
            match self.settle(cloud, &self.keys().identity(), encode(&ours)).await? {
                PutOnce::Occupied(bytes) => {
                    let theirs: Identity = decode(&bytes)
                        .map_err(|what| Error::damaged(&format!("{}: identity", cloud.name), what))?;
                    if theirs.clouds != ours.clouds
                        || theirs.topology != ours.topology
                        || theirs.cloud != ours.cloud
                    {
                        return Err(Error::other_clouds(&self.topology, &theirs.clouds, &ours.clouds));
                    }
                    group_id = theirs.group;
                }
                _ => info!(cloud = %cloud.name, "cloud registered"),
            }
            reach(&failpoint::ELECT_AFTER_REGISTER, &cloud.name)?;
        }
        Ok((group_id, answering.to_vec()))
    }

    /// Repeats the same bytes until the register holds them or another value; an error after [`ATTEMPTS_MAX`].
    pub(super) async fn settle(
        &self,
        cloud: &Cloud,
        path: &Path,
        bytes: bytes::Bytes,
    ) -> Result<PutOnce, Error> {
        for attempt in 1.. {
            match put_once(&cloud.control, path, bytes.clone()).await {
                PutOnce::Unknown(error) if attempt < ATTEMPTS_MAX => {
                    debug!(cloud = %cloud.name, %path, %error, "no answer, asking again");
                    self.environment.sleep(Duration::from_millis(50 << attempt)).await;
                }
                PutOnce::Unknown(error) => return Err(Error::connector(format!("write {path}"), error)),
                settled => return Ok(settled),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Claims the next free epoch: owned when our own claim lies in a majority. Also the clouds that hold it.
    pub(super) async fn claim_epoch(&self, members: &[usize]) -> Result<(Epoch, Vec<usize>), Error> {
        // Whoever has claimed a later epoch than the next one seals that, so it does no harm to own it. What this process
        // may have written under a claim of its own it must not write again.
        let newest = match self.own_log.as_ref().filter(|own| own.is_newest) {
            Some(own) => own.epoch,
            None => self.highest_epoch(members).await?,
        };
        let mut epoch = rules::epoch_to_claim(newest, None);
        for _ in 0..CLAIMS_MAX {
            let claim = Claim {
                format: FORMAT,
                epoch,
                incarnation: self.incarnation.clone(),
                holder: format!("process {}", std::process::id()),
                address: self.address.clone(),
            };
            let (mut holders, mut reasons) = (Vec::new(), Vec::new());
            let mut contested = false;
            for index in members {
                let cloud = &self.clouds[*index];
                let offered = self.within(cloud, self.patience.claim, self.offer_claim(cloud, epoch, &claim));
                match offered.await {
                    Ok(PutOnce::Stored) => holders.push(*index),
                    Ok(_) => contested = true,
                    Err(error) => {
                        warn!(cloud = %cloud.name, %error, "cloud does not take the claim");
                        reasons.push(format!("{}: {}", cloud.name, chain_of(&error)));
                    }
                }
            }
            match rules::judge_claim(holders.len(), contested, self.clouds.len()) {
                Claimed::Owned => return Ok((epoch, holders)),
                Claimed::NoMajority => {
                    let (needed, clouds) = (self.majority(), self.clouds.len());
                    return Err(Error::no_majority("claim an epoch", needed, clouds, reasons));
                }
                Claimed::Contested => {}
            }
            let pause_ms = 50 + self.environment.random() % 450;
            debug!(%epoch, pause_ms, "epoch contested, trying a higher one");
            self.environment.sleep(Duration::from_millis(pause_ms)).await;
            epoch = rules::epoch_to_claim(self.highest_epoch(members).await?, Some(epoch));
        }
        Err(Error::no_majority(
            "claim an epoch against competing processes",
            self.majority(),
            self.clouds.len(),
            vec![],
        ))
    }

    /// The outcome of `work` in `cloud`, an error if it takes longer than `patience`.
    async fn within<T>(
        &self,
        cloud: &Cloud,
        patience: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.environment.sleep(patience) => {
                let source = format!("no answer within {} s", patience.as_secs_f32()).into();
                let source = object_store::Error::Generic { store: "isobar", source };
                Err(Error::store(cloud, "take over", source))
            }
        }
    }

    async fn offer_claim(&self, cloud: &Cloud, epoch: Epoch, claim: &Claim) -> Result<PutOnce, Error> {
        reach(&failpoint::ELECT_BEFORE_CLAIM, &cloud.name)?;
        let settled = self.settle(cloud, &self.keys().claim(epoch), encode(claim)).await?;
        reach(&failpoint::ELECT_AFTER_CLAIM, &cloud.name)?;
        Ok(settled)
    }

    /// The highest epoch any of these clouds has seen, claimed or logged.
    async fn highest_epoch(&self, members: &[usize]) -> Result<Epoch, Error> {
        let mut highest = Epoch(0);
        let mut reasons = Vec::new();
        for (index, look) in self.ask(members, "list epochs", |cloud| self.highest_epoch_in(cloud)).await {
            match look {
                Ok(epoch) => highest = highest.max(epoch),
                Err(error) => reasons.push(format!("{}: {}", self.clouds[index].name, chain_of(&error))),
            }
        }
        // An owned epoch lies in a majority, so any majority shows it.
        if members.len() - reasons.len() < self.majority() {
            return Err(Error::no_majority("list epochs", self.majority(), self.clouds.len(), reasons));
        }
        Ok(highest)
    }

    async fn highest_epoch_in(&self, cloud: &Cloud) -> Result<Epoch, Error> {
        let claimed = highest_claim(cloud, &self.keys()).await?;
        // A cloud that was away for a claim may have got the log.
        let logged = highest_log(cloud, &self.keys(), claimed).await?;
        Ok(logged.max(claimed).unwrap_or_default())
    }

    /// The numbers of the objects in a folder, ascending.
    pub(crate) async fn numbers_in(&self, cloud: &Cloud, folder: &Path) -> Result<Vec<u64>, Error> {
        let listed = cloud.control.list(Some(folder)).map_ok(|object| number_of(&object.location));
        let numbers: Vec<Option<u64>> = listed
            .try_collect()
            .await
            .map_err(|error| Error::store(cloud, &format!("list {folder}"), error))?;
        let mut numbers: Vec<u64> = numbers.into_iter().flatten().collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(crate) async fn logged_epochs(&self, cloud: &Cloud) -> Result<Vec<Epoch>, Error> {
        let listed = cloud.control.list_with_delimiter(Some(&self.keys().logs())).await;
        let listed = listed.map_err(|error| Error::store(cloud, "list control logs", error))?;
        let mut epochs: Vec<Epoch> = listed.common_prefixes.iter().filter_map(number_of).map(Epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Seals every older log in the clouds that hold the claim, and reads them. A cloud that fails drops out, as long
    /// as a majority remains. Also what earlier headers say about sealed clouds.
    #[allow(clippy::type_complexity, reason = "two results of one pass, named by the caller")]
    pub(super) async fn seal_and_read(
        &self,
        epoch: Epoch,
        holders: &[usize],
    ) -> Result<(Vec<(usize, Vec<SealedLog>)>, BTreeMap<String, Epoch>), Error> {
        let seals = |cloud| self.seal_and_read_cloud(epoch, cloud);
        let outcomes = self.ask(holders, "seal older epochs", seals).await;
        let mut logs = Vec::new();
        let mut reasons = Vec::new();
        let mut sealed = BTreeMap::new();
        for (index, outcome) in outcomes {
            match outcome {
                Ok((cloud_logs, sealed_before)) => {
                    logs.push((index, cloud_logs));
                    for (cloud, up_to) in sealed_before {
                        let known = sealed.entry(cloud).or_insert(up_to);
                        *known = (*known).max(up_to);
                    }
                }
                Err(error) => reasons.push(format!("{}: {}", self.clouds[index].name, chain_of(&error))),
            }
        }
        if logs.len() < self.majority() {
            return Err(Error::no_majority("seal older epochs", self.majority(), self.clouds.len(), reasons));
        }
        Ok((logs, sealed))
    }

    async fn seal_and_read_cloud(
        &self,
        epoch: Epoch,
        cloud: &Cloud,
    ) -> Result<(Vec<SealedLog>, BTreeMap<String, Epoch>), Error> {
        let newest_header = self.newest_header(cloud, epoch).await?;
        let sealed = newest_header.as_ref().map(|(_, header)| header.sealed.clone()).unwrap_or_default();
        let newest = newest_header.as_ref().map(|(_, header)| header);
        for older in rules::epochs_to_seal(&cloud.name, newest, epoch) {
            reach(&failpoint::ELECT_BEFORE_SEAL, &cloud.name)?;
            self.seal(cloud, Epoch(older), epoch).await?;
            reach(&failpoint::ELECT_AFTER_SEAL, &cloud.name)?;
        }
        // Only now are the logs closed, so only now is what they hold final: a late header may have landed. Every one from
        // the newest header on has its SEAL, because no header says that its own log is sealed, or a later one.
        let oldest = newest_header.map_or(FIRST_EPOCH, |(at, _)| at);
        let mut logs = Vec::new();
        for older in (oldest.0..epoch.0).map(Epoch) {
            logs.push(SealedLog { epoch: older, records: self.read_log(cloud, older).await? });
        }
        Ok((logs, sealed))
    }

    /// The newest header below `epoch` in a cloud. Epochs are asked for it one after the other instead of being listed:
    /// those without one are sealed next, which costs more.
    async fn newest_header(&self, cloud: &Cloud, epoch: Epoch) -> Result<Option<(Epoch, Header)>, Error> {
        for older in (FIRST_EPOCH.0..epoch.0).rev().map(Epoch) {
            let first = self.read_record(cloud, older, 0).await?;
            if let Some(Record { content: Content::Header(header), .. }) = first {
                return Ok(Some((older, header)));
            }
        }
        Ok(None)
    }

    /// Puts a SEAL above the highest index in use.
    async fn seal(&self, cloud: &Cloud, older: Epoch, by: Epoch) -> Result<(), Error> {
        let last = match self.own_stored(cloud, older) {
            // What was stored without an answer is met below.
            Some(stored) => Some((stored - 1, false)),
            None => self.last_record(cloud, older).await?,
        };
        let Some(mut index) = rules::seal_index(last) else { return Ok(()) };
        loop {
            let seal = encode(&Record::new(older, index, Content::Seal { by }));
            match self.settle(cloud, &self.keys().record(older, index), seal).await? {
                PutOnce::Occupied(bytes) => {
                    let record: Record = decode(&bytes).map_err(|what| {
                        Error::damaged(&format!("{}: log {older}/{index}", cloud.name), what)
                    })?;
                    if record.is_seal() {
                        return Ok(());
                    }
                    index += 1;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The highest index in use of a log, and whether its record is a SEAL.
    async fn last_record(&self, cloud: &Cloud, epoch: Epoch) -> Result<Option<(u64, bool)>, Error> {
        let indexes = self.numbers_in(cloud, &self.keys().log(epoch)).await?;
        let Some(last) = indexes.last() else { return Ok(None) };
        let record = self.read_record(cloud, epoch, *last).await?;
        Ok(Some((*last, record.is_some_and(|record| record.is_seal()))))
    }

    /// The records of a log that is sealed.
    async fn read_log(&self, cloud: &Cloud, epoch: Epoch) -> Result<Vec<Record>, Error> {
        let damaged = |what| Error::damaged(&format!("{}: log of epoch {epoch}", cloud.name), what);
        let mut records = Vec::new();
        if let Some(stored) = self.own_stored(cloud, epoch) {
            for index in 0.. {
                let record = self.read_record(cloud, epoch, index).await?;
                let record = record.ok_or_else(|| damaged("it has no SEAL".to_owned()))?;
                let is_seal = record.is_seal();
                records.push(record);
                if is_seal {
                    break;
                }
            }
            debug_assert!(records.len() as u64 > stored, "the SEAL is above what was stored");
        } else {
            let indexes = self.numbers_in(cloud, &self.keys().log(epoch)).await?;
            for indexes in indexes.chunks(READS_IN_FLIGHT) {
                let reads = indexes.iter().map(|index| self.read_record(cloud, epoch, *index));
                records.extend(future::try_join_all(reads).await?.into_iter().flatten());
            }
        }
        rules::records_until_seal(epoch, records).map_err(damaged)
    }

    /// What this process knows of `epoch` and `cloud`, if it led the one and knows the other.
    fn own(&self, cloud: &Cloud, epoch: Epoch) -> Option<(&OwnLog, usize)> {
        let own = self.own_log.as_ref().filter(|own| own.epoch == epoch)?;
        Some((own, self.clouds.iter().position(|other| other.name == cloud.name)?))
    }

    /// How many records of `epoch` this process stored in `cloud`, if it did any.
    fn own_stored(&self, cloud: &Cloud, epoch: Epoch) -> Option<u64> {
        let (own, place) = self.own(cloud, epoch)?;
        Some(own.stored[place]).filter(|stored| *stored > 0)
    }

    /// A record that this process stored in `cloud`.
    fn own_record(&self, cloud: &Cloud, epoch: Epoch, index: u64) -> Option<Record> {
        let (own, place) = self.own(cloud, epoch)?;
        let record = own.records.get(usize::try_from(index).ok()?)?;
        (index < own.stored[place]).then(|| Record::clone(record))
    }

    /// The decisions of `chosen` that this process published in `cloud`, the first of them, if `chosen` is of its own epoch.
    fn own_published<'c>(&self, cloud: &Cloud, chosen: &'c Chosen) -> Option<&'c [Decision]> {
        let own = self.own_log.as_ref()?;
        let (_, place) = self.own(cloud, own.epoch)?;
        let published = usize::try_from(own.published[place]).ok()?;
        let records = own.records.get(..published)?;
        let is_chosen = |first: &&Arc<Record>| matches!(&first.content, Content::Header(header) if *header == chosen.header);
        records.first().filter(is_chosen)?;
        chosen.decisions.get(..records.iter().map(|record| record.decisions().len()).sum())
    }

    async fn read_record(&self, cloud: &Cloud, epoch: Epoch, index: u64) -> Result<Option<Record>, Error> {
        if let Some(record) = self.own_record(cloud, epoch, index) {
            return Ok(Some(record));
        }
        let path = self.keys().record(epoch, index);
        let bytes = self.read(cloud, &path).await?;
        bytes
            .map(|bytes| {
                decode(&bytes).map_err(|what| Error::damaged(&format!("{}: {path}", cloud.name), what))
            })
            .transpose()
    }

    /// How far the given clouds have published the tables that the chosen decisions touch. Fails if fewer than a majority
    /// tell: all that they leave open would have to be proposed again, an epoch's worth of it.
    pub(super) async fn published_versions(
        &self,
        chosen: &Chosen,
        clouds: &[usize],
    ) -> Result<PublishedVersions, Error> {
        let looks =
            self.ask(clouds, "list what is published", |cloud| self.published_in(cloud, chosen)).await;
        let (mut published, mut reasons) = (PublishedVersions::new(), Vec::new());
        for (index, look) in looks {
            match look {
                Ok(versions) => published.push(versions),
                Err(error) => reasons.push(format!("{}: {}", self.clouds[index].name, chain_of(&error))),
            }
        }
        if published.len() < self.majority() {
            let (needed, clouds) = (self.majority(), self.clouds.len());
            return Err(Error::no_majority("list what is published", needed, clouds, reasons));
        }
        Ok(published)
    }

    /// How far one cloud has published; asked again when it does not answer.
    async fn published_in(&self, cloud: &Cloud, chosen: &Chosen) -> Result<BTreeMap<String, u64>, Error> {
        let bases = &chosen.header.base.tables;
        let tables = chosen.decisions.iter().flat_map(|decision| &decision.tables);
        let mut decided: BTreeMap<&str, BTreeMap<u64, &str>> =
            bases.keys().map(|dataset| (dataset.as_str(), BTreeMap::new())).collect();
        for table in tables {
            decided.entry(&table.dataset).or_default().insert(table.version, &table.sha256);
        }
        let own = self.own_published(cloud, chosen);
        let mut published = BTreeMap::new();
        for (dataset, decided) in decided {
            let first = bases.get(dataset).map_or(0, |head| head.version + 1);
            let known = own.map(|decisions| {
                let bodies = decisions.iter().flat_map(|decision| &decision.tables);
                let versions = bodies.filter(|body| body.dataset == dataset).map(|body| body.version + 1);
                versions.max().unwrap_or(first)
            });
            let mut attempt = 1;
            let present = loop {
                match self.published_table(cloud, dataset, first, known, &decided).await {
                    Err(error) if attempt < ATTEMPTS_MAX => {
                        debug!(cloud = %cloud.name, dataset, %error, "not listed, asking again");
                        self.environment.sleep(Duration::from_millis(50 << attempt)).await;
                        attempt += 1;
                    }
                    listed => break listed?,
                }
            };
            published.insert(dataset.to_owned(), present);
        }
        Ok(published)
    }

    /// How far one cloud has published one table: listed, unless it is `known`. The last version counts only with its decided
    /// bytes: what others wrote under the names of versions is not published. Nothing of ours lies above it, because lanes
    /// stop at it.
    async fn published_table(
        &self,
        cloud: &Cloud,
        dataset: &str,
        first: u64,
        known: Option<u64>,
        decided: &BTreeMap<u64, &str>,
    ) -> Result<u64, Error> {
        let listed = match known {
            Some(known) => known,
            None => published_from(&cloud.control, dataset, first)
                .await
                .map_err(|error| Error::store(cloud, "list versions", error))?,
        };
        for (version, sha256) in decided.range(first..listed.max(first)).rev() {
            let body = self.read(cloud, &published_path(dataset, *version)).await?;
            if body.is_some_and(|body| delta::sha256_hex(&body) == *sha256) {
                return Ok(version + 1);
            }
        }
        Ok(first)
    }
}

/// What a probe without an answer comes to.
fn unanswered_probe(cloud: &str, grace: Duration) -> Probe {
    let action = "probe".to_owned();
    Probe::Unavailable(isobar_connectors::Error::Store {
        cloud: cloud.to_owned(),
        action,
        source: silence(grace),
    })
}

fn reach(point: &'static Failpoint, cloud: &str) -> Result<(), Error> {
    failpoint::hit(point, cloud).map_err(|error| Error::connector("take over", error))
}

/// The identity that most clouds carry, apart from their own names.
pub(crate) fn most_common<'a>(identities: impl Iterator<Item = &'a Identity> + Clone) -> Option<Identity> {
    let votes =
        |identity: &Identity| identities.clone().filter(|other| other.group == identity.group).count();
    identities.clone().max_by_key(|identity| votes(identity)).cloned()
}

/// Versions `0..n` of `dataset` are in the store, given that `0..first` were seen there or are not asked about.
pub(crate) async fn published_from(
    store: &Arc<dyn ObjectStore>,
    dataset: &str,
    first: u64,
) -> object_store::Result<u64> {
    let folder = log_folder(dataset);
    let listed = match first.checked_sub(1) {
        Some(before) => store.list_with_offset(Some(&folder), &published_path(dataset, before)),
        None => store.list(Some(&folder)),
    };
    let objects: Vec<object_store::ObjectMeta> = listed.try_collect().await?;
    let versions = objects.iter().filter_map(|object| published_version(&object.location));
    let mut versions: Vec<u64> = versions.filter(|version| *version >= first).collect();
    versions.sort_unstable();
    let dense = versions.iter().zip(first..).take_while(|(found, expected)| **found == *expected).count();
    Ok(first + dense as u64)
}
