//! Looks, and changes nothing: what is decided, what every cloud holds, and where the two differ.
//!
//! The order matters while a leader is running. Identities first; then the tables; then the control logs, which are
//! therefore at least as new as the tables, so that a version which they exclude was never decided. A version that is
//! decided and not yet published everywhere gets a little time to arrive before it is called missing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future, stream};
use isobar_connectors::clouds::Cloud;
use object_store::ObjectStore;
use tokio::time::Instant;

use super::checkpoints;
use super::control::{ControlLog, Damage, Knowledge, learn, read_logs, search_bodies};
use super::decided::{Decided, Evidence, settle};
use super::files::{Look, look};
use super::report::{CloudSummary, Finding, Kind, Outcome};
use crate::chain_of;
use crate::commit::format::{CheckpointRef, Identity, log_folder, published_path, published_version};
use crate::commit::{Chain, Epoch, Group, is_readmitted, most_common};
use crate::error::Error;
use crate::prove::log::{Bodies, DataFile, Entry, TableLog, list_versions};
use crate::prove::objects::{count_among, object_path};
use crate::throttle::Throttle;

/// Why nothing is done about what another cloud may know of.
const NOT_ALL_ANSWER: &str = "a cloud that may settle it does not answer: run it again when it does";
/// Files looked at together in one cloud.
const FILES_IN_FLIGHT: usize = 8;
/// Files in a row that a cloud fails to serve before the rest is not asked for.
const FAILURES_IN_A_ROW_MAX: usize = 8;
/// How often a cloud that is behind is looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What checkpoints of tables must be, by version, or why that cannot be told.
type Rebuilt = BTreeMap<(String, u64), Result<CheckpointRef, String>>;

/// What is to be looked at.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) group: &'a Group,
    /// Datasets and their quarantines.
    pub(super) tables: Vec<String>,
    /// Whether to look into a cloud, by index. Every cloud is asked for what is decided.
    pub(super) looks_into: Vec<bool>,
    /// A cloud that is about to be readmitted: what it says counts for nothing, and yet it is looked into.
    pub(super) readmitting: Option<usize>,
    /// The share of files whose bytes are read.
    pub(super) sample: f64,
    /// Decides with [`sample`](Self::sample) which files these are.
    pub(super) seed: String,
    /// How long a cloud may take to publish what is decided.
    pub(super) patience: Duration,
    pub(super) throttle: Throttle,
}

/// How a cloud stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It counts.
    Member,
    /// It lost its identity, or the key of its readmission.
    Lost(String),
    /// It carries another group's identity.
    Foreign(String),
    /// It does not answer.
    Silent(String),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Member => "member",
            State::Lost(_) => "lost",
            State::Foreign(_) => "foreign",
            State::Silent(_) => "silent",
        }
    }
}

/// One cloud as found.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) state: State,
    pub(super) logs: BTreeMap<String, TableLog>,
    /// Objects in `_delta_log` that are no versions.
    unknown: Vec<(String, String)>,
    pub(super) summary: CloudSummary,
}

/// What a repair would work on.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// A decided version is missing or has other bytes here.
    Entry { table: String, version: u64 },
    /// A version beyond the head, with these bytes.
    Beyond { table: String, version: u64, sha256: Option<String> },
    /// A file is missing or has other bytes here.
    File { table: String, file: DataFile },
    /// The newest checkpoint of a table, or what names it, is missing or has other bytes here.
    Checkpoint { table: String },
    /// Nothing that can be repaired, and why.
    BeyondRepair(&'static str),
}

/// One difference.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The cloud, `None` for something about all of them.
    pub(super) cloud: Option<usize>,
    pub(super) fault: Fault,
    pub(super) finding: Finding,
}

/// How a topology stands: what its clouds are to each other, and what they have decided.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// By index of the cloud.
    pub(crate) states: Vec<State>,
    /// What is decided; `None` if nothing ever was, or too few clouds tell.
    pub(crate) chain: Option<Chain>,
    /// The newest epoch whose log some cloud has.
    pub(crate) epoch: Option<Epoch>,
    /// Damaged records of control logs, for people.
    pub(crate) damaged: Vec<String>,
}

/// Asks the clouds of `group` how they stand. Nothing is written, and no table is read.
///
/// # Errors
/// If decided bytes do not follow each other.
pub(crate) async fn standing(group: &Group) -> Result<Standing, Error> {
    let scope = Scope {
        group,
        tables: Vec::new(),
        looks_into: vec![true; group.clouds.len()],
        readmitting: None,
        sample: 0.0,
        seed: group.incarnation.clone(),
        patience: Duration::ZERO,
        throttle: Throttle::new(None),
    };
    let mut seats = identify(&scope).await;
    let (logs, knowledge) = consult_control(&scope, &mut seats).await;
    let chain = knowledge.base().cloned().map(|mut chain| {
        for decision in &knowledge.decided {
            chain.apply(decision).map_err(|what| Error::damaged("control log", what))?;
        }
        Ok(chain)
    });
    let place = |damage: &Damage| {
        let object = group.keys().record(damage.epoch, damage.index);
        format!("{}: {object}: {}", group.clouds[damage.cloud].name, damage.what)
    };
    Ok(Standing {
        states: seats.into_iter().map(|seat| seat.state).collect(),
        chain: chain.transpose()?,
        epoch: logs.iter().filter_map(|log| log.highest).max(),
        damaged: knowledge.damaged.iter().map(place).collect(),
    })
}

/// Everything that a look gave.
#[derive(Debug)]
pub(super) struct Inspection {
    pub(super) seats: Vec<Seat>,
    pub(super) decided: BTreeMap<String, Decided>,
    pub(super) found: Vec<Found>,
}

impl Scope<'_> {
    fn cloud(&self, index: usize) -> &Cloud {
        &self.group.clouds[index]
    }

    /// How many clouds have a say. A cloud that is to be readmitted has none: what a majority of the others holds is what
    /// they will go by (`docs/protocol-readmission.md`).
    pub(super) fn voters(&self) -> usize {
        self.group.clouds.len() - usize::from(self.readmitting.is_some())
    }

    fn is_looked_into(&self, index: usize, state: &State) -> bool {
        self.looks_into[index] && (*state == State::Member || self.readmitting == Some(index))
    }
}

/// Looks at everything in `scope`.
pub(super) async fn inspect(scope: &Scope<'_>) -> Inspection {
    let mut seats = identify(scope).await;
    read_tables(scope, &mut seats).await;
    let (logs, knowledge) = consult_control(scope, &mut seats).await;
    let decided = settle_tables(scope, &seats, &knowledge).await;
    wait_for_tails(scope, &mut seats, &decided).await;
    let mut inspection = Inspection { seats, decided, found: Vec::new() };
    inspection.report_clouds(scope);
    inspection.report_control(scope, &logs, &knowledge);
    inspection.report_entries(scope, &knowledge);
    inspection.report_unknown(scope).await;
    inspection.check_files(scope).await;
    inspection.check_checkpoints(scope).await;
    inspection
}

/// Who belongs to the group.
async fn identify(scope: &Scope<'_>) -> Vec<Seat> {
    let reads = scope.group.clouds.iter().map(|cloud| scope.group.read_identity(cloud));
    let reads = future::join_all(reads).await;
    let known = most_common(reads.iter().flatten().flatten());
    let state = |index: usize, read: &Result<Option<Identity>, crate::Error>| match read {
        Err(error) => State::Silent(chain_of(error)),
        Ok(None) => State::Lost("it has no identity: wiped, or never registered".to_owned()),
        Ok(Some(_)) if scope.readmitting == Some(index) => State::Lost("it is to be readmitted".to_owned()),
        Ok(Some(found)) => {
            let cloud = scope.cloud(index);
            let group = known.as_ref().map(|known| known.group.as_str()).unwrap_or_default();
            if *found == scope.group.identity(cloud, group) {
                State::Member
            } else {
                State::Foreign(format!("it belongs to group {} as cloud {}", found.group, found.cloud))
            }
        }
    };
    let seats = reads.iter().enumerate().map(|(index, read)| Seat {
        state: state(index, read),
        logs: BTreeMap::new(),
        unknown: Vec::new(),
        summary: CloudSummary { cloud: scope.cloud(index).name.clone(), ..CloudSummary::default() },
    });
    seats.collect()
}

/// Reads the logs of all tables in the clouds that count and in the one to be readmitted.
async fn read_tables(scope: &Scope<'_>, seats: &mut [Seat]) {
    let bodies = Bodies::default();
    let reads = seats.iter().enumerate().map(|(index, seat)| {
        let bodies = &bodies;
        async move {
            if seat.state != State::Member && scope.readmitting != Some(index) {
                return None;
            }
            Some(read_cloud(scope.cloud(index), &scope.tables, bodies).await)
        }
    });
    let reads = future::join_all(reads).await;
    for (index, (seat, read)) in seats.iter_mut().zip(reads).enumerate() {
        match read {
            None => {}
            Some(Ok((logs, unknown))) => (seat.logs, seat.unknown) = (logs, unknown),
            Some(Err(error)) => {
                seat.state = State::Silent(format!("{}: {}", scope.cloud(index).name, chain_of(&error)));
            }
        }
    }
}

type CloudTables = (BTreeMap<String, TableLog>, Vec<(String, String)>);

async fn read_cloud(cloud: &Cloud, tables: &[String], bodies: &Bodies) -> object_store::Result<CloudTables> {
    let (mut logs, mut unknown) = (BTreeMap::new(), Vec::new());
    for table in tables {
        let listed: Vec<_> = match cloud.data.list(Some(&log_folder(table))).try_collect().await {
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            listed => listed?,
        };
        let mut versions = Vec::new();
        for object in listed {
            // Only directly in the folder are names versions.
            let version = published_version(&object.location);
            match version.filter(|version| published_path(table, *version) == object.location) {
                Some(version) => versions.push(version),
                None => unknown.push((table.clone(), object.location.to_string())),
            }
        }
        versions.sort_unstable();
        logs.insert(table.clone(), bodies.read_log(cloud, table, &versions).await?);
    }
    Ok((logs, unknown))
}

/// What the control logs of the clouds that count say; a cloud that was not readmitted is found out here.
async fn consult_control(scope: &Scope<'_>, seats: &mut [Seat]) -> (Vec<ControlLog>, Knowledge) {
    let registered = scope.voters();
    let (mut logs, failures) = read_logs(scope.group, registered, &members(seats)).await;
    for (index, why) in failures {
        seats[index].state = State::Silent(why);
    }
    let knowledge = learn(registered, &logs);
    let Some(header) = &knowledge.header else { return (logs, knowledge) };
    let mut has_outdated = false;
    for index in members(seats) {
        let cloud = scope.cloud(index);
        let keys = scope.group.keys();
        let look = match scope.group.read_identity(cloud).await {
            Ok(Some(identity)) => is_readmitted(cloud, &keys, &identity.group, &header.readmitted).await,
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        let state = match look {
            Ok(true) => continue,
            Ok(false) => State::Lost("it was lost and is not readmitted".to_owned()),
            Err(error) => State::Silent(chain_of(&error)),
        };
        seats[index].state = state;
        logs.retain(|log| log.cloud != index);
        has_outdated = true;
    }
    let knowledge = if has_outdated { learn(registered, &logs) } else { knowledge };
    (logs, knowledge)
}

pub(super) fn members(seats: &[Seat]) -> Vec<usize> {
    let members = seats.iter().enumerate().filter(|(_, seat)| seat.state == State::Member);
    members.map(|(index, _)| index).collect()
}

/// The decided versions of every table.
async fn settle_tables(
    scope: &Scope<'_>,
    seats: &[Seat],
    knowledge: &Knowledge,
) -> BTreeMap<String, Decided> {
    let members = members(seats);
    let settle_all = |found: &BTreeMap<String, bytes::Bytes>| -> BTreeMap<String, Decided> {
        let settled = scope.tables.iter().map(|table| {
            let logs: Vec<&TableLog> =
                members.iter().filter_map(|index| seats[*index].logs.get(table)).collect();
            (table.clone(), settle(table, scope.voters(), knowledge, &logs, found))
        });
        settled.collect()
    };
    let mut found = BTreeMap::new();
    loop {
        let decided = settle_all(&found);
        let wanted: BTreeSet<_> = decided.values().flat_map(Decided::wanted).collect();
        let missing: BTreeSet<_> =
            wanted.into_iter().filter(|(.., sha256)| !found.contains_key(sha256)).collect();
        if missing.is_empty() {
            return decided;
        }
        // A body found names the one before it, which may have to be looked for as well.
        let more = search_bodies(scope.group, &members, &missing).await;
        if more.is_empty() {
            return decided;
        }
        found.extend(more);
    }
}

/// The newest decided version, or one in its place, that a cloud holds.
fn last_held(log: &TableLog, head: u64) -> Option<u64> {
    log.versions.range(..=head).next_back().map(|(version, _)| *version)
}

/// Reads versions that arrive while we look, until every cloud has everything decided or patience ends.
async fn wait_for_tails(scope: &Scope<'_>, seats: &mut [Seat], decided: &BTreeMap<String, Decided>) {
    let deadline = Instant::now() + scope.patience;
    let bodies = Bodies::default();
    loop {
        let mut is_behind = false;
        for (index, seat) in seats.iter_mut().enumerate() {
            if seat.state != State::Member || !scope.looks_into[index] {
                continue;
            }
            for (table, log) in &mut seat.logs {
                let Some(head) = decided.get(table).and_then(|decided| decided.head) else { continue };
                let last = last_held(log, head);
                if last == Some(head) {
                    continue;
                }
                is_behind |=
                    read_tail(scope.cloud(index), table, log, last, head, &bodies).await != Some(head);
            }
        }
        if !is_behind || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Adds to `log` what is new up to `head`; the last version held then. A cloud that fails now is behind.
async fn read_tail(
    cloud: &Cloud,
    table: &str,
    log: &mut TableLog,
    last: Option<u64>,
    head: u64,
    bodies: &Bodies,
) -> Option<u64> {
    let mut new = list_versions(cloud, table, last).await.ok()?;
    new.retain(|version| *version <= head);
    let more = bodies.read_log(cloud, table, &new).await.ok()?;
    log.versions.extend(more.versions);
    last_held(log, head)
}

impl Inspection {
    fn find(
        &mut self,
        scope: &Scope<'_>,
        cloud: Option<usize>,
        fault: Fault,
        (kind, table, object, detail): (Kind, Option<&str>, String, String),
    ) {
        let finding = Finding {
            cloud: cloud.map(|index| scope.cloud(index).name.clone()),
            table: table.map(str::to_owned),
            kind,
            object,
            detail,
            outcome: Outcome::Found,
            note: None,
        };
        self.found.push(Found { cloud, fault, finding });
    }

    fn report_clouds(&mut self, scope: &Scope<'_>) {
        for index in 0..self.seats.len() {
            let state = self.seats[index].state.clone();
            self.seats[index].summary.state = state.name();
            if !scope.looks_into[index] || scope.readmitting == Some(index) {
                continue;
            }
            let (kind, detail, why_not) = match state {
                State::Member => continue,
                State::Silent(why) => (Kind::CloudSilent, why, "the cloud must answer first"),
                State::Lost(why) => (
                    Kind::IdentityLost,
                    why,
                    "it counts in no majority until it is readmitted: see --readmit",
                ),
                State::Foreign(why) => {
                    (Kind::IdentityForeign, why, "what belongs to another group is not touched")
                }
            };
            let object = scope.group.keys().identity().to_string();
            self.find(scope, Some(index), Fault::BeyondRepair(why_not), (kind, None, object, detail));
        }
    }

    fn report_control(&mut self, scope: &Scope<'_>, logs: &[ControlLog], knowledge: &Knowledge) {
        const WRITTEN_ONCE: &str = "control records are written once; take-overs leave this cloud's log out";
        for damage in knowledge.damaged.iter().filter(|damage| scope.looks_into[damage.cloud]) {
            let object = scope.group.keys().record(damage.epoch, damage.index).to_string();
            let what = (Kind::ControlDamaged, None, object, damage.what.clone());
            self.find(scope, Some(damage.cloud), Fault::BeyondRepair(WRITTEN_ONCE), what);
        }
        let Some(header) = &knowledge.header else { return };
        for log in logs.iter().filter(|log| scope.looks_into[log.cloud]) {
            let sealed = header.sealed.get(&scope.cloud(log.cloud).name).copied().unwrap_or_default();
            if log.highest.unwrap_or_default() < sealed {
                let object = scope.group.keys().log(sealed).to_string();
                let detail = format!(
                    "a decided header says that logs are sealed here up to epoch {sealed}, and there are none: \
                     restored from a backup?"
                );
                let why_not = "records that it acknowledged are lost: readmit it with --readmit";
                let what = (Kind::ControlWentBack, None, object, detail);
                self.find(scope, Some(log.cloud), Fault::BeyondRepair(why_not), what);
            }
        }
    }

    /// Holds every version in every cloud against the decided ones.
    fn report_entries(&mut self, scope: &Scope<'_>, knowledge: &Knowledge) {
        let decided = std::mem::take(&mut self.decided);
        for table in decided.values() {
            for (version, sha256) in &table.unknown {
                let detail = match sha256 {
                    Some(sha256) => format!("no cloud holds the decided bytes, SHA-256 {sha256}"),
                    None => "no majority holds the same bytes, and the version after it is lost".to_owned(),
                };
                let object = published_path(&table.table, *version).to_string();
                let what = (Kind::EntryNowhere, Some(table.table.as_str()), object, detail);
                self.find(scope, None, Fault::BeyondRepair("there is nothing to restore it from"), what);
            }
            for index in 0..self.seats.len() {
                if scope.is_looked_into(index, &self.seats[index].state) {
                    self.compare_log(scope, knowledge, table, index);
                }
            }
        }
        self.decided = decided;
    }

    /// Reports what lies in the logs of the tables and is not isobar's.
    async fn report_unknown(&mut self, scope: &Scope<'_>) {
        let mut rebuilt = Rebuilt::new();
        for index in 0..self.seats.len() {
            let unknown = std::mem::take(&mut self.seats[index].unknown);
            if !scope.is_looked_into(index, &self.seats[index].state) {
                continue;
            }
            for (table, object) in unknown {
                let Some(detail) = self.look_at_unknown(scope, index, &table, &object, &mut rebuilt).await
                else {
                    continue;
                };
                let why_not = match self.is_any_silent() {
                    true => NOT_ALL_ANSWER,
                    false => "nothing can be proved about it; remove it if it is not needed",
                };
                let what = (Kind::UnknownObject, Some(table.as_str()), object, detail);
                self.find(scope, Some(index), Fault::BeyondRepair(why_not), what);
            }
        }
    }

    /// What is wrong with `object`, which is no version. Nothing is, if it is a checkpoint that nobody decided but that
    /// is the one which any leader makes of its version: a leader that ended before the decision left it.
    async fn look_at_unknown(
        &self,
        scope: &Scope<'_>,
        index: usize,
        table: &str,
        object: &str,
        rebuilt: &mut Rebuilt,
    ) -> Option<String> {
        const UNKNOWN: &str = "isobar writes no such object, and readers may believe it";
        let Some(decided) = self.decided.get(table) else { return Some(UNKNOWN.to_owned()) };
        if checkpoints::is_known(decided, object) {
            return None;
        }
        let Some(version) = checkpoints::undecided_version(decided, object) else {
            return Some(UNKNOWN.to_owned());
        };
        let place = (table.to_owned(), version);
        if !rebuilt.contains_key(&place) {
            let expected = checkpoints::expected(&self.answering(scope), decided, version).await;
            rebuilt.insert(place.clone(), expected);
        }
        match &rebuilt[&place] {
            Ok(expected) => {
                checkpoints::difference(scope.cloud(index), table, expected, &scope.throttle).await
            }
            Err(why) => {
                Some(format!("whether it is the checkpoint of version {version} cannot be told: {why}"))
            }
        }
    }

    /// The clouds that answer.
    fn answering(&self, scope: &Scope<'_>) -> Vec<Cloud> {
        let seats = self.seats.iter().enumerate();
        let answering = seats.filter(|(_, seat)| !matches!(seat.state, State::Silent(_)));
        answering.map(|(index, _)| scope.cloud(index).clone()).collect()
    }

    fn is_any_silent(&self) -> bool {
        self.seats.iter().any(|seat| matches!(seat.state, State::Silent(_)))
    }

    fn compare_log(&mut self, scope: &Scope<'_>, knowledge: &Knowledge, decided: &Decided, index: usize) {
        let table = decided.table.clone();
        let log = self.seats[index].logs.remove(&table).unwrap_or_default();
        self.seats[index].summary.versions += log.versions.len() as u64;
        if decided.evidence == Evidence::None && !log.versions.is_empty() {
            let detail = format!("nothing is known about its {} versions", log.versions.len());
            let fault = Fault::BeyondRepair(match self.is_any_silent() {
                true => NOT_ALL_ANSWER,
                false => "neither the control logs nor a majority of the clouds settles it",
            });
            let what = (Kind::EntryUnproven, Some(table.as_str()), log_folder(&table).to_string(), detail);
            return self.find(scope, Some(index), fault, what);
        }
        for (version, settled) in &decided.versions {
            let fault = Fault::Entry { table: table.clone(), version: *version };
            let object = published_path(&table, *version).to_string();
            match log.versions.get(version) {
                Some(found) if found.sha256.as_ref() == Some(&settled.sha256) => {}
                Some(found) => {
                    let detail = describe(&found.entry, decided);
                    let what = (Kind::EntryDiffers, Some(table.as_str()), object, detail);
                    self.find(scope, Some(index), fault, what);
                }
                None => {
                    let detail = "a decided version is not there".to_owned();
                    let what = (Kind::EntryMissing, Some(table.as_str()), object, detail);
                    self.find(scope, Some(index), fault, what);
                }
            }
        }
        let above =
            log.versions.iter().filter(|(version, _)| decided.head.is_none_or(|head| **version > head));
        for (version, found) in above {
            let sha256 = found.sha256.clone();
            let object = published_path(&table, *version).to_string();
            let detail = describe(&found.entry, decided);
            if knowledge.excludes(&table, *version, sha256.as_deref()) {
                let fault = Fault::Beyond { table: table.clone(), version: *version, sha256 };
                let detail = format!("nobody decided this version; {detail}");
                self.find(
                    scope,
                    Some(index),
                    fault,
                    (Kind::EntryBeyond, Some(table.as_str()), object, detail),
                );
            } else {
                let detail = format!("the control logs that can be read do not settle it; {detail}");
                let fault = Fault::BeyondRepair("it is left alone until a majority shows its control logs");
                self.find(
                    scope,
                    Some(index),
                    fault,
                    (Kind::EntryUnproven, Some(table.as_str()), object, detail),
                );
            }
        }
        self.seats[index].logs.insert(table, log);
    }

    /// Looks at the live files of what each cloud has published. Files of versions that are missing at the end of a
    /// log are looked at when those are filled.
    async fn check_files(&mut self, scope: &Scope<'_>) {
        let tables = &self.decided;
        let checks = self.seats.iter().enumerate().map(|(index, seat)| async move {
            let mut checked = Vec::new();
            if scope.is_looked_into(index, &seat.state) {
                for decided in tables.values() {
                    checked.push((decided.table.clone(), check_table(scope, index, seat, decided).await));
                }
            }
            checked
        });
        let checked: Vec<_> = future::join_all(checks).await;
        for (index, tables) in checked.into_iter().enumerate() {
            for (table, checked) in tables {
                let summary = &mut self.seats[index].summary;
                summary.files += checked.files;
                summary.files_hashed += checked.hashed;
                summary.bytes_hashed += checked.bytes;
                summary.lingering += checked.lingering;
                for (file, look) in checked.bad {
                    self.report_file(scope, index, &table, file, look);
                }
            }
        }
    }

    /// Looks at the newest checkpoint of every table in each cloud.
    async fn check_checkpoints(&mut self, scope: &Scope<'_>) {
        let deadline = Instant::now() + scope.patience;
        let tables = &self.decided;
        let looks = self.seats.iter().enumerate().map(|(index, seat)| async move {
            let mut wrong = Vec::new();
            if scope.is_looked_into(index, &seat.state) {
                for decided in tables.values() {
                    let look = checkpoints::look_at(scope.cloud(index), decided, &scope.throttle, deadline);
                    wrong.extend(look.await.map(|wrong| (decided.table.clone(), wrong)));
                }
            }
            wrong
        });
        let looks: Vec<_> = future::join_all(looks).await;
        for (index, wrong) in looks.into_iter().enumerate() {
            for (table, (kind, object, detail)) in wrong {
                let fault = match kind {
                    Kind::FileUnread => Fault::BeyondRepair("it must be readable first"),
                    _ => Fault::Checkpoint { table: table.clone() },
                };
                self.find(scope, Some(index), fault, (kind, Some(&table), object, detail));
            }
        }
    }

    fn report_file(&mut self, scope: &Scope<'_>, index: usize, table: &str, file: DataFile, look: Look) {
        let object =
            object_path(table, &file.path).map_or_else(|| file.path.clone(), |path| path.to_string());
        let (kind, detail) = match look {
            Look::Good => return,
            Look::Missing => (Kind::FileMissing, "a live data file is not there".to_owned()),
            Look::Rotten(what) => (Kind::FileDiffers, what),
            Look::Unread(why) => (Kind::FileUnread, why),
        };
        let fault = match kind {
            Kind::FileUnread => Fault::BeyondRepair("it must be readable first"),
            _ => Fault::File { table: table.to_owned(), file },
        };
        self.find(scope, Some(index), fault, (kind, Some(table), object, detail));
    }
}

/// What lies in the place of a decided version, for people.
fn describe(entry: &Result<Arc<Entry>, String>, decided: &Decided) -> String {
    match entry {
        Err(why) => format!("not an entry of isobar: {why}"),
        Ok(entry) => {
            let info = &entry.commit.isobar;
            format!(
                "an entry with other bytes, commit {} of epoch {}; {}",
                info.commit_id,
                info.epoch,
                decided.coverage(entry)
            )
        }
    }
}

#[derive(Debug, Default)]
struct CheckedFiles {
    files: u64,
    hashed: u64,
    bytes: u64,
    lingering: u64,
    bad: Vec<(DataFile, Look)>,
}

/// Files that a VACUUM let go and that are still there: room that is wasted, and nothing else. A cloud that cannot be
/// listed is found out by the looks at its files.
async fn count_lingering(cloud: &Cloud, table: &str, released: &HashSet<String>) -> u64 {
    if released.is_empty() {
        return 0;
    }
    count_among(cloud, table, |path| released.contains(path)).await.map_or(0, |found| found.objects)
}

async fn check_table(scope: &Scope<'_>, index: usize, seat: &Seat, decided: &Decided) -> CheckedFiles {
    let mut checked = CheckedFiles::default();
    let log = seat.logs.get(&decided.table);
    let last = decided.head.and_then(|head| last_held(log?, head));
    let Some(last) = last else { return checked };
    let cloud = scope.cloud(index);
    let released = decided.released();
    // A cloud whose log went back to before a VACUUM may not have these, and does not need them to be filled.
    let mut files = decided.log_up_to(last).files();
    files.retain(|file| !released.contains(&file.path));
    checked.lingering = count_lingering(cloud, &decided.table, &released).await;
    let count = files.len();
    let mut looks = stream::iter(files)
        .map(|file| async move {
            let hashes = is_sampled(&file.path, &scope.seed, scope.sample);
            let (look, bytes) = look(cloud, &decided.table, &file, hashes, &scope.throttle).await;
            (file, look, hashes, bytes)
        })
        .buffered(FILES_IN_FLIGHT);
    let mut failures = 0;
    while let Some((file, look, hashes, bytes)) = looks.next().await {
        checked.files += 1;
        checked.hashed += u64::from(hashes && bytes == file.size);
        checked.bytes += bytes;
        failures = if matches!(look, Look::Unread(_)) { failures + 1 } else { 0 };
        if failures == FAILURES_IN_A_ROW_MAX {
            let rest = count as u64 - checked.files;
            let why = format!("the cloud stopped answering; {rest} more files were not looked at");
            checked.bad.push((file, Look::Unread(why)));
            break;
        }
        if look != Look::Good {
            checked.bad.push((file, look));
        }
    }
    checked
}

/// Whether the bytes of this file are read. Another seed gives another choice, so that in time all are.
fn is_sampled(path: &str, seed: &str, ratio: f64) -> bool {
    let digest = isobar_connectors::delta::sha256_hex(format!("{seed}/{path}").as_bytes());
    let place = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
    ratio >= 1.0 || f64::from(place) < ratio * f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_about_the_share_asked_for_and_all_means_all() {
        let count = |ratio: f64, seed: &str| {
            (0..1000).filter(|file| is_sampled(&format!("m=1/{file}.parquet"), seed, ratio)).count()
        };
        assert_eq!((count(1.0, "a"), count(0.0, "a")), (1000, 0));
        assert!((200..300).contains(&count(0.25, "a")));
        let chosen = |seed: &str| -> Vec<bool> {
            (0..100).map(|file| is_sampled(&file.to_string(), seed, 0.5)).collect()
        };
        assert_ne!(chosen("a"), chosen("b"));
    }
}
