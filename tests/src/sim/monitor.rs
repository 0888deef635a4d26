//! Sees every object that reaches a cloud, at the moment it does, and knows what must never happen.
//!
//! The monitor does not use the protocol's code to judge the protocol: it reads the objects as JSON and keeps its own
//! books. A record in a majority of clouds is decided; from then on there is one history, and everything else must
//! agree with it.
//!
//! | promise | when it is checked |
//! |---|---|
//! | a key under `control/` or `_delta_log/` never changes or vanishes | at every write and removal |
//! | records of a log come in order, after their files, and one value per place | when a record is stored |
//! | one decision per number, nothing decided is left out by a later epoch | when a record is in a majority |
//! | hash chain, versions, epochs, timestamps, offsets that tile, counts, every record once and in order | when it is decided |
//! | published bytes are the decided ones, in order, with their files, in every cloud | when a version is stored |
//! | what a worker is told is true | when it is told |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::TOPOLOGY;
use super::kafka::{Fate, Kafka};
use super::world::World;

type Judgement<T = ()> = Result<T, String>;

/// See the [module](self).
#[derive(Debug)]
pub struct Monitor {
    world: World,
    kafka: Arc<Kafka>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    clouds: Vec<CloudBook>,
    /// Per epoch and index, the one value a leader put there.
    records: BTreeMap<(u64, u64), Arc<Record>>,
    decided: BTreeMap<u64, Decided>,
    /// Per epoch whose header is decided, the last decision it knows of.
    reached: BTreeMap<u64, u64>,
    heads: BTreeMap<String, Head>,
    bodies: BTreeMap<(String, u64), String>,
    positions: BTreeMap<usize, i64>,
    files: BTreeMap<String, Bytes>,
}

#[derive(Debug, Default)]
struct CloudBook {
    keys: BTreeMap<String, String>,
    wiped: bool,
}

impl CloudBook {
    /// Whether it has the identity that makes it count.
    fn is_member(&self) -> bool {
        self.keys.contains_key(&format!("control/{TOPOLOGY}/identity"))
    }
}

#[derive(Debug)]
struct Record {
    sha256: String,
    json: Json,
    state: Mutex<RecordState>,
}

#[derive(Debug, Default)]
struct RecordState {
    /// Clouds that have stored it. One that was wiped since counts, because it is missing in every majority to come;
    /// what it stores after that does not, unless it was registered anew: then nothing had begun.
    holders: BTreeSet<usize>,
    is_decided: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Decided {
    commit_id: String,
    timestamp_ms: i64,
    bodies: Vec<(String, u64, String)>,
}

#[derive(Debug, Clone)]
struct Head {
    version: u64,
    sha256: String,
    epoch: u64,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn parse(bytes: &[u8]) -> Judgement<Json> {
    serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))
}

fn number(json: &Json) -> Judgement<u64> {
    json.as_u64().ok_or_else(|| format!("{json} is no number"))
}

fn text(json: &Json) -> Judgement<&str> {
    json.as_str().ok_or_else(|| format!("{json} is no text"))
}

fn list(json: &Json) -> Judgement<&[Json]> {
    json.as_array().map(Vec::as_slice).ok_or_else(|| format!("{json} is no list"))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Judgement {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The `isobar` object of a body's first line.
fn info_of(body: &str) -> Judgement<Json> {
    let first = body.lines().next().ok_or("an empty body")?;
    Ok(parse(first.as_bytes())?["commitInfo"]["isobar"].take())
}

impl Monitor {
    /// Watches `clouds` clouds into which `kafka` is brought.
    pub fn new(world: World, kafka: Arc<Kafka>, clouds: usize) -> Arc<Self> {
        let books = Books { clouds: (0..clouds).map(|_| CloudBook::default()).collect(), ..Books::default() };
        Arc::new(Self { world, kafka, books: Mutex::new(books) })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, what: &str, judgement: Judgement) {
        if let Err(error) = judgement {
            self.world.violated(format_args!("{what}: {error}"));
        }
    }

    /// An object was stored.
    pub fn stored(&self, cloud: usize, path: &str, bytes: &Bytes) {
        if path.contains("/probe/") {
            return;
        }
        let judgement = self.lock().stored(&self.world, &self.kafka, cloud, path, bytes);
        self.judge(&format!("cloud {cloud}, {path}"), judgement);
    }

    /// An object was removed by a request.
    pub fn deleted(&self, cloud: usize, path: &str) {
        if !path.contains("/probe/") {
            self.world.violated(format_args!("cloud {cloud}: {path} was deleted"));
        }
    }

    /// A cloud lost everything. It holds no promise any more, and nobody else may break one because of it.
    pub fn wiped(&self, cloud: usize) {
        let mut books = self.lock();
        books.clouds[cloud].wiped = true;
        books.clouds[cloud].keys.clear();
    }

    /// A worker was told that its commit is decided.
    pub fn told_committed(&self, sequence: u64, commit_id: &str) {
        let judgement = match self.lock().decided.get(&sequence) {
            Some(decided) if decided.commit_id == commit_id => Ok(()),
            Some(decided) => Err(format!("decision {sequence} is {}", decided.commit_id)),
            None => Err(format!("decision {sequence} is in no majority")),
        };
        self.judge(&format!("a worker was told that {commit_id} is committed"), judgement);
    }

    /// How large a data file is, if any cloud ever had it.
    pub fn file_size(&self, path: &str) -> Option<u64> {
        self.lock().files.get(path).map(|bytes| bytes.len() as u64)
    }

    /// Decisions so far.
    pub fn decisions(&self) -> u64 {
        self.lock().last_decision()
    }

    /// Whether a cloud lost everything at some time.
    pub fn is_wiped(&self, cloud: usize) -> bool {
        self.lock().clouds[cloud].wiped
    }

    /// What is missing until every record produced is decided, and published in every cloud that never lost
    /// anything and is not `lost`; `None` when nothing is.
    pub fn missing(&self, lost: Option<usize>) -> Option<String> {
        let books = self.lock();
        for partition in 0..self.kafka.partitions() {
            let (end, position) =
                (self.kafka.end(partition), books.positions.get(&partition).copied().unwrap_or(0));
            if position != end {
                return Some(format!("partition {partition} is decided up to {position} of {end}"));
            }
        }
        let is_due = |(index, cloud): &(usize, &CloudBook)| !cloud.wiped && Some(*index) != lost;
        for (index, cloud) in books.clouds.iter().enumerate().filter(is_due) {
            for (dataset, head) in &books.heads {
                if !cloud.keys.contains_key(&published_path(dataset, head.version)) {
                    return Some(format!("cloud {index} lacks {dataset} version {}", head.version));
                }
            }
        }
        None
    }
}

fn published_path(dataset: &str, version: u64) -> String {
    format!("datasets/{dataset}/_delta_log/{version:020}.json")
}

impl Books {
    fn last_decision(&self) -> u64 {
        self.decided.keys().next_back().copied().unwrap_or(0)
    }

    fn stored(&mut self, world: &World, kafka: &Kafka, cloud: usize, path: &str, bytes: &Bytes) -> Judgement {
        let digest = sha256(bytes);
        let before = self.clouds[cloud].keys.insert(path.to_owned(), digest.clone());
        ensure(before.as_ref().is_none_or(|before| *before == digest), || {
            "the bytes of a key have changed".into()
        })?;
        if let Some(log) = path.strip_prefix(&format!("control/{TOPOLOGY}/log/")) {
            let (epoch, index) = log.split_once('/').ok_or("no record's key")?;
            let place = (epoch.parse().map_err(|_| "no epoch")?, index.parse().map_err(|_| "no index")?);
            return self.record_stored(world, kafka, cloud, place, digest, bytes);
        }
        if let Some((dataset, version)) = path
            .strip_prefix("datasets/")
            .and_then(|rest| rest.strip_suffix(".json"))
            .and_then(|rest| rest.split_once("/_delta_log/"))
        {
            let version = version.parse().map_err(|_| "no version")?;
            return self.version_stored(cloud, dataset, version, bytes);
        }
        if path.starts_with("datasets/") {
            let known = self.files.entry(path.to_owned()).or_insert_with(|| bytes.clone());
            ensure(known == bytes, || "a data file differs from cloud to cloud".into())?;
        }
        Ok(())
    }

    fn record_stored(
        &mut self,
        world: &World,
        kafka: &Kafka,
        cloud: usize,
        place: (u64, u64),
        digest: String,
        bytes: &Bytes,
    ) -> Judgement {
        let known = self.records.get(&place).filter(|known| known.sha256 == digest).cloned();
        let record = match known {
            Some(known) => known,
            None => {
                let json = parse(bytes)?;
                if json["kind"] == "seal" {
                    return Ok(());
                }
                Arc::new(Record { sha256: digest, json, state: Mutex::default() })
            }
        };
        let first = self.records.entry(place).or_insert_with(|| record.clone()).clone();
        ensure(first.sha256 == record.sha256, || "two clouds hold different records at one place".into())?;
        if !self.clouds[cloud].wiped {
            self.check_order(cloud, place)?;
            for decision in decisions_of(&record.json)? {
                for table in list(&decision["tables"])? {
                    self.check_files(cloud, text(&table["dataset"])?, text(&table["body"])?)?;
                }
            }
        }
        let mut state = record.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.clouds[cloud].is_member() {
            state.holders.insert(cloud);
        }
        if state.holders.len() > self.clouds.len() / 2 && !state.is_decided {
            state.is_decided = true;
            world.note(format_args!("decided: record {} of epoch {}", place.1, place.0));
            self.record_decided(kafka, place.0, &record.json)?;
        }
        Ok(())
    }

    /// A record is stored after the one before it.
    fn check_order(&self, cloud: usize, (epoch, index): (u64, u64)) -> Judgement {
        let Some(before) = index.checked_sub(1) else { return Ok(()) };
        let path = format!("control/{TOPOLOGY}/log/{epoch:020}/{before:020}");
        let held = self.clouds[cloud].keys.get(&path);
        let expected = self.records.get(&(epoch, before)).map(|record| &record.sha256);
        ensure(held.is_some() && held == expected, || {
            format!("record {before} of epoch {epoch} is not there")
        })
    }

    /// Every file that `body` names is in the cloud, whole.
    fn check_files(&self, cloud: usize, dataset: &str, body: &str) -> Judgement {
        for file in list(&info_of(body)?["files"])? {
            let path = format!("datasets/{dataset}/{}", text(&file["path"])?);
            let held = self.clouds[cloud].keys.get(&path).map(String::as_str);
            ensure(held == file["sha256"].as_str(), || format!("its file {path} is not there, whole"))?;
        }
        Ok(())
    }

    fn record_decided(&mut self, kafka: &Kafka, epoch: u64, record: &Json) -> Judgement {
        if record["kind"] == "header" {
            let base = number(&record["base"]["sequence"])?;
            self.check_base(&record["base"])?;
            let last = base + list(&record["tail"])?.len() as u64;
            // A header that reaches its majority when a later epoch has gone on decides nothing new.
            let is_newest = self.reached.range(epoch + 1..).next().is_none();
            ensure(!is_newest || last >= self.last_decision(), || {
                format!("epoch {epoch} goes on from {last}, but {} is decided", self.last_decision())
            })?;
            self.reached.insert(epoch, last);
        }
        for decision in decisions_of(record)? {
            let sequence = number(&decision["sequence"])?;
            let later = self.reached.range(epoch + 1..).next();
            ensure(later.is_none_or(|(_, reached)| sequence <= *reached), || {
                format!("decision {sequence} in epoch {epoch}, which a later one left behind")
            })?;
            self.decide(kafka, decision)?;
        }
        Ok(())
    }

    /// A header's base is history, published in a majority.
    fn check_base(&self, base: &Json) -> Judgement {
        let tables = base["tables"].as_object().ok_or("a base without tables")?;
        ensure(number(&base["sequence"])? <= self.last_decision(), || "the base was never decided".into())?;
        for (dataset, head) in tables {
            let version = number(&head["version"])?;
            let body = self.bodies.get(&(dataset.clone(), version));
            let body = body.ok_or_else(|| format!("{dataset} version {version} of the base is unknown"))?;
            ensure(head["sha256"] == sha256(body.as_bytes()), || {
                format!("{dataset} version {version} of the base differs from history")
            })?;
            let path = published_path(dataset, version);
            let holders = self.clouds.iter().filter(|cloud| cloud.wiped || cloud.keys.contains_key(&path));
            ensure(holders.count() > self.clouds.len() / 2, || {
                format!("{dataset} version {version} of the base is published in no majority")
            })?;
        }
        Ok(())
    }

    fn decide(&mut self, kafka: &Kafka, decision: &Json) -> Judgement {
        let sequence = number(&decision["sequence"])?;
        let mut bodies = Vec::new();
        for table in list(&decision["tables"])? {
            let body = text(&table["body"])?;
            bodies.push((text(&table["dataset"])?.to_owned(), number(&table["version"])?, body.to_owned()));
        }
        let decided = Decided {
            commit_id: text(&decision["commit_id"])?.to_owned(),
            timestamp_ms: decision["timestamp_ms"].as_i64().ok_or("no timestamp")?,
            bodies,
        };
        if let Some(before) = self.decided.get(&sequence) {
            return ensure(*before == decided, || format!("decision {sequence} was decided differently"));
        }
        let last = self.last_decision();
        ensure(sequence == last + 1, || format!("decision {sequence} follows {last}"))?;
        if let Some(before) = self.decided.get(&last) {
            ensure(decided.timestamp_ms > before.timestamp_ms, || "time does not rise".into())?;
        }
        for (dataset, version, body) in &decided.bodies {
            self.decide_table(kafka, sequence, dataset, *version, body)?;
        }
        self.check_rows(kafka, &decided)?;
        self.decided.insert(sequence, decided);
        Ok(())
    }

    fn decide_table(
        &mut self,
        kafka: &Kafka,
        sequence: u64,
        dataset: &str,
        version: u64,
        body: &str,
    ) -> Judgement {
        let info = info_of(body)?;
        let epoch = number(&info["epoch"])?;
        ensure(info["sequence"] == sequence, || "a body names another decision".into())?;
        match self.heads.get(dataset) {
            Some(head) => {
                ensure(version == head.version + 1, || {
                    format!("{dataset} version {version} follows {}", head.version)
                })?;
                ensure(info["previous_sha256"] == head.sha256.as_str(), || {
                    "the hash chain is broken".into()
                })?;
                ensure(epoch >= head.epoch, || format!("epoch {epoch} follows {}", head.epoch))?;
            }
            None => ensure(version == 0, || format!("{dataset} begins with version {version}"))?,
        }
        for range in list(&info["offsets"])? {
            let partition = usize::try_from(number(&range["partition"])?).map_err(|_| "no partition")?;
            let (start, end) = (range["start"].as_i64(), range["end"].as_i64());
            let (Some(start), Some(end)) = (start, end) else { return Err("a range without ends".into()) };
            let position = self.positions.get(&partition).copied().unwrap_or(0);
            ensure(start == position && start <= end && end <= kafka.end(partition), || {
                format!("partition {partition}: [{start}, {end}) follows {position}")
            })?;
            self.positions.insert(partition, end);
        }
        let head = Head { version, sha256: sha256(body.as_bytes()), epoch };
        self.heads.insert(dataset.to_owned(), head);
        self.bodies.insert((dataset.to_owned(), version), body.to_owned());
        Ok(())
    }

    /// The files of a decision hold exactly the records of its offsets, in order, each where it belongs.
    fn check_rows(&self, kafka: &Kafka, decided: &Decided) -> Judgement {
        let mut due: BTreeMap<bool, Vec<(usize, i64)>> = BTreeMap::new();
        let mut found: BTreeMap<bool, Vec<(usize, i64)>> = BTreeMap::new();
        for (dataset, _, body) in &decided.bodies {
            let info = info_of(body)?;
            for range in list(&info["offsets"])? {
                let partition = number(&range["partition"])? as usize;
                for offset in range["start"].as_i64().unwrap_or(0)..range["end"].as_i64().unwrap_or(0) {
                    match kafka.fate(partition, offset) {
                        Fate::Accepted => due.entry(true).or_default().push((partition, offset)),
                        Fate::Rejected => due.entry(false).or_default().push((partition, offset)),
                        Fate::Absent | Fate::Filtered => {}
                    }
                }
            }
            for file in list(&info["files"])? {
                let path = format!("datasets/{dataset}/{}", text(&file["path"])?);
                let bytes = self.files.get(&path).ok_or_else(|| format!("{path} is nowhere"))?;
                let rows: Vec<(usize, i64)> =
                    serde_json::from_slice(bytes).map_err(|error| format!("{path}: {error}"))?;
                ensure(file["rows"] == rows.len(), || format!("{path} holds {} rows", rows.len()))?;
                found.entry(!dataset.ends_with(".quarantine")).or_default().extend(rows);
            }
        }
        ensure(due == found, || format!("rows {found:?} instead of {due:?}"))
    }

    fn version_stored(&self, cloud: usize, dataset: &str, version: u64, bytes: &Bytes) -> Judgement {
        let decided = self.bodies.get(&(dataset.to_owned(), version));
        let decided = decided.ok_or("published and not decided")?;
        ensure(decided.as_bytes() == bytes, || "published bytes differ from the decided ones".into())?;
        if self.clouds[cloud].wiped {
            return Ok(());
        }
        if let Some(before) = version.checked_sub(1) {
            ensure(self.clouds[cloud].keys.contains_key(&published_path(dataset, before)), || {
                format!("version {before} is not there")
            })?;
        }
        self.check_files(cloud, dataset, decided)
    }
}

fn decisions_of(record: &Json) -> Judgement<&[Json]> {
    match text(&record["kind"])? {
        "header" => list(&record["tail"]),
        "entry" => Ok(std::slice::from_ref(record)),
        other => Err(format!("{other} holds no decisions")),
    }
}
