//! Readmission: how a cloud that lost what it held comes to count again.
//!
//! `docs/protocol-readmission.md` has the protocol and the argument. In short: a majority **of the other clouds**
//! shares a cloud with every majority there ever was and will be, and it is not the lost one. So the others take over
//! by themselves, their header says that the lost cloud counts from here on (its *generation* rises), and only when
//! that header is decided does the lost cloud get the key by which every later process recognises it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future;
use isobar_connectors::clouds::{Cloud, Probe, PutOnce, probe, read_register};
use isobar_connectors::copy::copy_file;
use isobar_connectors::delta;
use isobar_connectors::failpoint::{self, Failpoint};
use object_store::ObjectStore;
use object_store::path::Path;
use tracing::{info, warn};

use super::Epoch;
use super::choose::{Chosen, SealedLog, choose, rebase};
use super::format::{
    Content, Decision, FORMAT, Header, Identity, Keys, MODELS_PREFIX, RECORD_BYTES_MAX, Readmission, Record,
    TableBody, decode, encode, published_path, table_folder,
};
use super::leader::encode_to_store;
use super::model::ModelEntry;
use super::released::released_by;
use super::rules;
use super::takeover::{Group, most_common};
use crate::error::Error;

/// The logs that a take-over read, by index of the cloud.
pub(super) type Logs = Vec<(usize, Vec<SealedLog>)>;

/// A readmission that the others have decided, and that the lost cloud does not know of yet.
#[derive(Debug)]
pub(crate) struct DecidedReadmission {
    lost: Cloud,
    others: Group,
    header: Record,
    group_id: String,
    generation: u64,
}

/// Whether `cloud` holds the key of its current generation and was not readmitted since; to be asked after its identity
/// was read. A cloud that was never readmitted needs no key.
pub(crate) async fn is_readmitted(
    cloud: &Cloud,
    keys: &Keys,
    group_id: &str,
    readmitted: &BTreeMap<String, u64>,
) -> Result<bool, Error> {
    let generation = readmitted.get(&cloud.name).copied().unwrap_or_default();
    let read = |generation: u64| async move {
        let key = read_register(&cloud.control, &keys.readmission(generation), RECORD_BYTES_MAX).await;
        let key = key.map_err(|error| Error::connector("look for a readmission", error))?;
        Ok::<_, Error>(key.and_then(|bytes| decode::<Readmission>(&bytes).ok()))
    };
    let current = async { if generation == 0 { Ok(None) } else { read(generation).await } };
    let (found, next) = future::try_join(current, read(generation + 1)).await?;
    Ok(rules::is_current(found.as_ref(), next.as_ref(), group_id, &cloud.name, generation))
}

/// How often each cloud was readmitted, by the newest header among `logs`.
fn readmitted_in(logs: &Logs) -> BTreeMap<String, u64> {
    let newest = rules::newest_header(logs.iter().flat_map(|(_, logs)| logs));
    newest.map(|header| header.readmitted.clone()).unwrap_or_default()
}

impl Group {
    /// The logs of the clouds that count. To be asked **after** the logs were read: a cloud that was wiped while they
    /// were read has no identity any more, and one that was wiped earlier does not hold the key of its generation.
    pub(super) async fn keep_members(&self, logs: Logs, group_id: &str) -> Result<Logs, Error> {
        let readmitted = readmitted_in(&logs);
        let read: Vec<usize> = logs.iter().map(|(index, _)| *index).collect();
        let looks =
            self.ask(&read, "read the identity", |cloud| self.is_member(cloud, group_id, &readmitted)).await;
        let (mut members, mut reasons) = (Vec::new(), Vec::new());
        for ((index, log), (_, look)) in logs.into_iter().zip(looks) {
            let cloud = &self.clouds[index].name;
            match look {
                Ok(true) => members.push((index, log)),
                Ok(false) => {
                    warn!(%cloud, "cloud was wiped or restored and is not readmitted; it is left out");
                    reasons.push(format!("{cloud}: it was lost and is not readmitted"));
                }
                Err(error) => reasons.push(format!("{cloud}: {}", crate::chain_of(&error))),
            }
        }
        if members.len() < self.majority() {
            return Err(Error::no_majority("take over", self.majority(), self.clouds.len(), reasons));
        }
        Ok(members)
    }

    async fn is_member(
        &self,
        cloud: &Cloud,
        group_id: &str,
        readmitted: &BTreeMap<String, u64>,
    ) -> Result<bool, Error> {
        let identity = self.read_identity(cloud).await?;
        Ok(rules::is_member(identity.as_ref(), &self.identity(cloud, group_id))
            && is_readmitted(cloud, &self.keys(), group_id, readmitted).await?)
    }

    /// The first half of readmitting the cloud named `lost`: the others decide. Supersedes a leader that is running.
    /// Nothing more is decided below the epoch of the header then; what the others have published, and the header's tail,
    /// is all that a leader of before may still publish in the lost cloud.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a cloud that cannot be readmitted, [`Error::NoMajority`] when too few of the
    /// others answer or another process took over meanwhile. Nothing was lost then; it can be tried again.
    pub(crate) async fn decide_readmission(&self, lost: &str) -> Result<DecidedReadmission, Error> {
        let (lost, others, group_id, members) = self.prepare(lost).await?;
        let (epoch, header, sealed) = self.take_over_without(lost, &others, &group_id, &members).await?;
        let generation = header.readmitted.get(&lost.name).copied().unwrap_or_default();
        let tail = header.tail.clone();
        let header = Record::new(epoch, 0, Content::Header(header));
        encode_to_store(&header, self.clouds.len())?;
        others.decide_header(&header, &tail, &sealed).await?;
        reach(&failpoint::READMIT_AFTER_DECIDE, lost)?;
        Ok(DecidedReadmission { lost: lost.clone(), others, header, group_id, generation })
    }

    /// Whether `lost` could be readmitted now. Makes its place ready to be filled, and changes nothing else.
    ///
    /// # Errors
    /// As [`decide_readmission`](Self::decide_readmission).
    pub async fn check_readmission(&self, lost: &str) -> Result<(), Error> {
        self.prepare(lost).await.map(|_| ())
    }

    /// The lost cloud, the group of the others, the group's id, and which of the others take part.
    async fn prepare(&self, lost: &str) -> Result<(&Cloud, Group, String, Vec<usize>), Error> {
        let Some(lost) = self.clouds.iter().find(|cloud| cloud.name == lost) else {
            return Err(Error::Configuration(format!("topology {} has no cloud {lost}", self.topology)));
        };
        let others = self.without(lost);
        if others.clouds.is_empty() {
            let what = format!("{} is the only cloud: there is no other that could readmit it", lost.name);
            return Err(Error::Configuration(what));
        }
        let (group_id, members) = self.identify_others(&others).await?;
        self.prepare_lost(lost, &group_id).await?;
        Ok((lost, others, group_id, members))
    }

    /// The group of all clouds but `lost`. Its majority is the majority of the others.
    fn without(&self, lost: &Cloud) -> Self {
        let clouds = self.clouds.iter().filter(|cloud| cloud.name != lost.name).cloned().collect();
        Self { clouds, ..self.clone() }
    }

    /// The group's id, and which of the others answer, honour preconditions and belong to it.
    async fn identify_others(&self, others: &Group) -> Result<(String, Vec<usize>), Error> {
        let prefix = self.probe_prefix();
        let looks = others.clouds.iter().map(|cloud| async {
            match probe(&cloud.control, &prefix).await {
                Probe::Passed => self.read_identity(cloud).await,
                Probe::Refused { what } | Probe::Denied { what } => {
                    Err(Error::Configuration(format!("cloud {}: {what}", cloud.name)))
                }
                Probe::Unavailable(error) => Err(Error::connector("readmit", error)),
            }
        });
        let (mut found, mut reasons): (Vec<(usize, Identity)>, _) = (Vec::new(), Vec::new());
        for (index, look) in future::join_all(looks).await.into_iter().enumerate() {
            let cloud = &others.clouds[index].name;
            match look {
                Ok(Some(identity)) => found.push((index, identity)),
                Ok(None) => reasons.push(format!("{cloud}: it has no identity either")),
                Err(error) => reasons.push(format!("{cloud}: {}", crate::chain_of(&error))),
            }
        }
        let Some(known) = most_common(found.iter().map(|(_, identity)| identity)) else {
            return Err(others.too_few("readmit a cloud", reasons));
        };
        let group_id = known.group;
        found.retain(|(index, identity)| {
            let cloud = &others.clouds[*index];
            let is_ours = *identity == self.identity(cloud, &group_id);
            if !is_ours {
                reasons.push(format!("{}: it belongs to another group or to other clouds", cloud.name));
            }
            is_ours
        });
        if found.len() < others.majority() {
            return Err(others.too_few("readmit a cloud", reasons));
        }
        Ok((group_id, found.into_iter().map(|(index, _)| index).collect()))
    }

    fn too_few(&self, action: &str, reasons: Vec<String>) -> Error {
        Error::no_majority(action, self.majority(), self.clouds.len(), reasons)
    }

    /// The lost cloud must answer, honour preconditions, and not belong to anybody else.
    async fn prepare_lost(&self, lost: &Cloud, group_id: &str) -> Result<(), Error> {
        lost.create_root().await.map_err(|error| Error::connector("readmit", error))?;
        match probe(&lost.control, &self.probe_prefix()).await {
            Probe::Passed => {}
            Probe::Refused { what } | Probe::Denied { what } => {
                return Err(Error::Configuration(format!("cloud {}: {what}", lost.name)));
            }
            Probe::Unavailable(error) => return Err(Error::connector("readmit", error)),
        }
        let identity = self.read_identity(lost).await?;
        if identity.is_some_and(|found| found != self.identity(lost, group_id)) {
            let what = format!(
                "cloud {} carries the identity of another group: remove its {} first if nothing there is needed",
                lost.name,
                self.keys().identity()
            );
            return Err(Error::Configuration(what));
        }
        Ok(())
    }

    /// Wins an epoch among the others. Its number, its header, and which of the others are sealed and count: only those
    /// may decide it.
    async fn take_over_without(
        &self,
        lost: &Cloud,
        others: &Group,
        group_id: &str,
        members: &[usize],
    ) -> Result<(Epoch, Header, Vec<usize>), Error> {
        let (epoch, holders) = others.claim_epoch(members).await?;
        let (logs, sealed_before) = others.seal_and_read(epoch, &holders).await?;
        let logs = self.keep_members_of(others, logs, group_id).await?;
        let chosen = choose(logs.iter().flat_map(|(_, logs)| logs))
            .map_err(|what| Error::damaged("control log", what))?;
        let Some(chosen) = chosen else {
            return Err(Error::Configuration("nothing was ever decided: start the topology".to_owned()));
        };
        if chosen.header.clouds != self.names() {
            return Err(Error::other_clouds(&self.topology, &chosen.header.clouds, &self.names()));
        }
        let read: Vec<usize> = logs.iter().map(|(index, _)| *index).collect();
        let sealed_now =
            read.iter().map(|index| others.clouds[*index].name.as_str()).chain([lost.name.as_str()]);
        let sealed = rules::sealed_clouds(Some(&chosen), sealed_before, sealed_now, epoch);
        let readmitted = rules::readmitting(&chosen.header, &lost.name);
        let (base, tail) = self.rebase_on(others, chosen, &read).await?;
        info!(%epoch, cloud = %lost.name, tail = tail.len(), "epoch claimed to readmit a cloud");
        let incarnation = self.incarnation.clone();
        let header = Header { clouds: self.names(), incarnation, base, sealed, readmitted, tail };
        Ok((epoch, header, read))
    }

    /// As [`keep_members`](Self::keep_members), for logs of `others` and with their majority.
    async fn keep_members_of(&self, others: &Group, logs: Logs, group_id: &str) -> Result<Logs, Error> {
        let readmitted = readmitted_in(&logs);
        let read: Vec<usize> = logs.iter().map(|(index, _)| *index).collect();
        let looks = others
            .ask(&read, "read the identity", |cloud| self.is_member(cloud, group_id, &readmitted))
            .await;
        let (mut members, mut reasons) = (Vec::new(), Vec::new());
        for ((index, log), (_, look)) in logs.into_iter().zip(looks) {
            let cloud = &others.clouds[index].name;
            match look {
                Ok(true) => members.push((index, log)),
                Ok(false) => reasons.push(format!("{cloud}: it was lost as well and is not readmitted")),
                Err(error) => reasons.push(format!("{cloud}: {}", crate::chain_of(&error))),
            }
        }
        if members.len() < others.majority() {
            return Err(others.too_few("readmit a cloud", reasons));
        }
        Ok(members)
    }

    /// Base and tail by what the others have published; a majority is one of all registered clouds.
    async fn rebase_on(
        &self,
        others: &Group,
        chosen: Chosen,
        read: &[usize],
    ) -> Result<(super::Chain, Vec<Decision>), Error> {
        let published = others.published_versions(&chosen, read).await?;
        let damaged = |what: String| Error::damaged("control log", what);
        let (base, tail) = rebase(chosen, self.clouds.len(), &published).map_err(damaged)?;
        // As a leader does: what does not follow must not be decided once more.
        let mut chain = base.clone();
        tail.iter().try_for_each(|decision| chain.apply(decision)).map_err(damaged)?;
        Ok((base, tail))
    }

    /// Stores the header in these clouds, files first. Done when a majority of them holds it.
    async fn decide_header(
        &self,
        record: &Record,
        tail: &[Decision],
        members: &[usize],
    ) -> Result<(), Error> {
        let stores = members.iter().map(|index| async {
            let cloud = &self.clouds[*index];
            bring_files(tail, cloud, &self.clouds).await?;
            reach(&failpoint::READMIT_BEFORE_HEADER, cloud)?;
            self.store_record(cloud, record).await?;
            reach(&failpoint::READMIT_AFTER_HEADER, cloud)
        });
        let mut reasons = Vec::new();
        for outcome in future::join_all(stores).await {
            if let Err(error) = outcome {
                reasons.push(crate::chain_of(&error));
            }
        }
        if members.len() - reasons.len() < self.majority() {
            return Err(self.too_few("decide a readmission", reasons));
        }
        Ok(())
    }

    async fn store_record(&self, cloud: &Cloud, record: &Record) -> Result<(), Error> {
        let path = self.keys().record(record.epoch, record.index);
        match self.settle(cloud, &path, encode(record)).await? {
            PutOnce::Occupied(_) => {
                let what = "another process took over meanwhile; try again";
                Err(Error::damaged(&format!("{}: {path}", cloud.name), what))
            }
            _ => Ok(()),
        }
    }

    /// The second half: writes to the lost cloud what makes it count; the identity comes
    /// last. What the others have published must be there before.
    ///
    /// # Errors
    /// As [`decide_readmission`](Self::decide_readmission).
    pub(crate) async fn admit(&self, decided: DecidedReadmission) -> Result<Readmission, Error> {
        let DecidedReadmission { lost, others, header, group_id, generation } = &decided;
        bring_files(header.decisions(), lost, &others.clouds).await?;
        self.publish_tail(lost, header.decisions()).await?;
        reach(&failpoint::READMIT_BEFORE_RECORD, lost)?;
        self.store_record(lost, header).await?;
        reach(&failpoint::READMIT_AFTER_RECORD, lost)?;
        let readmission = |generation: u64| Readmission {
            format: FORMAT,
            group: group_id.clone(),
            cloud: lost.name.clone(),
            generation,
            epoch: header.epoch,
        };
        // A leader that slept through several losses looks for the key of the generation after its own. Where there is
        // one, it is from that readmission: either will do.
        for older in 1..*generation {
            let _ = self.store_key(lost, &readmission(older)).await?;
        }
        let readmission = readmission(*generation);
        let key = self.store_key(lost, &readmission).await?;
        must_be_ours(lost, &self.keys().readmission(*generation), &key)?;
        // The identity last: whoever sees it sees the keys as well, and so a leader of before knows that it is too late.
        let identity = self.store_identity(lost, group_id).await?;
        must_be_ours(lost, &self.keys().identity(), &identity)?;
        info!(cloud = %lost.name, generation, epoch = %header.epoch, "cloud readmitted");
        Ok(readmission)
    }

    async fn store_key(&self, lost: &Cloud, readmission: &Readmission) -> Result<PutOnce, Error> {
        reach(&failpoint::READMIT_BEFORE_KEY, lost)?;
        let path = self.keys().readmission(readmission.generation);
        let settled = self.settle(lost, &path, encode(readmission)).await?;
        reach(&failpoint::READMIT_AFTER_KEY, lost)?;
        Ok(settled)
    }

    async fn store_identity(&self, lost: &Cloud, group_id: &str) -> Result<PutOnce, Error> {
        reach(&failpoint::READMIT_BEFORE_IDENTITY, lost)?;
        let identity = encode(&self.identity(lost, group_id));
        let settled = self.settle(lost, &self.keys().identity(), identity).await?;
        reach(&failpoint::READMIT_AFTER_IDENTITY, lost)?;
        Ok(settled)
    }

    /// Puts the decided bodies into the lost cloud, whose files are there: a leader of before may publish any of them.
    async fn publish_tail(&self, lost: &Cloud, tail: &[Decision]) -> Result<(), Error> {
        for table in tail.iter().flat_map(|decision| &decision.tables) {
            let path = published_path(&table.dataset, table.version);
            reach(&failpoint::READMIT_BEFORE_BODY, lost)?;
            if let PutOnce::Occupied(_) = self.settle(lost, &path, table.body.clone().into()).await? {
                let what = "it differs from the decided bytes";
                return Err(Error::damaged(&format!("{}: {path}", lost.name), what));
            }
            reach(&failpoint::READMIT_AFTER_BODY, lost)?;
        }
        Ok(())
    }
}

fn must_be_ours(lost: &Cloud, path: &Path, settled: &PutOnce) -> Result<(), Error> {
    match settled {
        PutOnce::Occupied(_) => {
            let what = "it holds other bytes; another readmission was faster, try again";
            Err(Error::damaged(&format!("{}: {path}", lost.name), what))
        }
        _ => Ok(()),
    }
}

fn reach(point: &'static Failpoint, cloud: &Cloud) -> Result<(), Error> {
    failpoint::hit(point, &cloud.name).map_err(|error| Error::connector("readmit", error))
}

/// Makes sure that `to` has every file that `decisions` name and do not let go.
async fn bring_files(decisions: &[Decision], to: &Cloud, from: &[Cloud]) -> Result<(), Error> {
    let sources: Vec<Arc<dyn ObjectStore>> =
        from.iter().filter(|cloud| cloud.name != to.name).map(|cloud| cloud.data.clone()).collect();
    let released = released_by(decisions);
    for table in decisions.iter().flat_map(|decision| &decision.tables) {
        let released = released.get(table.dataset.as_str());
        for (path, file) in files_of(table)? {
            if released.is_some_and(|released| released.contains(&file.path)) {
                continue;
            }
            copy_file(&to.data, &sources, &path, file.size, &file.sha256)
                .await
                .map_err(|error| Error::connector("bring files", error))?;
        }
    }
    Ok(())
}

/// The files that a body names, with the paths of their objects.
pub(super) fn files_of(table: &TableBody) -> Result<Vec<(String, delta::FileDigest)>, Error> {
    let name = || format!("{} version {}", table.dataset, table.version);
    let damaged = |error: isobar_connectors::Error| Error::damaged(&name(), error.to_string());
    let folder = table_folder(&table.dataset);
    if table.dataset.starts_with(MODELS_PREFIX) {
        let entry = ModelEntry::parse(table.body.as_bytes()).map_err(|what| Error::damaged(&name(), what))?;
        let files = entry.action.files().iter();
        return Ok(files.map(|file| (format!("{folder}/{}", file.path), file.digest())).collect());
    }
    let body = delta::parse_body(table.body.as_bytes()).map_err(damaged)?;
    let files = body.info.isobar.files.into_iter().map(|file| {
        let path = delta::path::decode_log_path(&file.path).map_err(damaged)?;
        Ok((format!("{folder}/{path}"), file))
    });
    files.collect()
}
