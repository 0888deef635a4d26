//! The values that the model's registers hold: real records, decisions and chains of the product, each known to the
//! states by a small number.
//!
//! A state is hashed and copied millions of times, a decision is encoded once. So every call of the product's pure
//! functions is made here, on real values, and remembered: the same question has the same answer, because the
//! functions are pure. Numbers are given in the order in which values are first met; they mean nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::commit::chain::NewFile;
use crate::commit::choose::{Chosen, SealedLog, choose};
use crate::commit::format::{Content, Decision, Header, Identity, Readmission, Record, encode};
use crate::commit::{Chain, Epoch, Proposal, Refusal, TableProposal, rules};
use crate::counts::RowCounts;
use crate::delta::{FileDigest, OffsetRange, TableDefinition};

use super::state::{CLOUDS, EPOCHS, GENERATIONS, INDEXES, Permutation};
use super::variant::Variant;

/// A decision, and at the same time the chain that ends with it: a chain's hash names its last decision. 0 is the
/// chain before the first decision.
pub(super) type ChainId = u16;
/// A record of a log; 0 is none.
pub(super) type RecordId = u16;
/// What a take-over read in one cloud; 0 is nothing yet.
pub(super) type ReadId = u16;

/// Names of the clouds, in claim order.
pub(super) const NAMES: [&str; CLOUDS] = ["a", "b", "c"];
const TABLE: &str = "events";
const TOPOLOGY: &str = "model";
/// The group's id, as a leader knows it.
pub(super) const GROUP: &str = "group";
/// Distinct values of one kind that a run may meet.
const VALUES_MAX: usize = 1 << 16;

/// What the states need to know of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The chain before it.
    pub(super) previous: ChainId,
    /// Its place in the history, from 1.
    pub(super) sequence: u8,
    /// The commit decided.
    pub(super) commit: u8,
    /// Offsets `[start, end)` that it reads.
    pub(super) start: u8,
    pub(super) end: u8,
    /// The epoch in its bytes.
    pub(super) epoch: u8,
}

/// What the states need to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    /// The chain before the record's decisions, and after them.
    pub(super) base: ChainId,
    pub(super) end: ChainId,
    /// The same record whatever it says about sealed clouds: what is left when clouds are renamed.
    pub(super) nameless: RecordId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Entry,
    Seal,
}

/// One cloud's logs as the states hold them: record by epoch (from 1) and index.
pub(super) type Logs = [[RecordId; INDEXES]; EPOCHS];

/// What a take-over read in one cloud.
#[derive(Debug, Clone)]
struct Read {
    logs: Vec<SealedLog>,
    sealed_before: BTreeMap<String, Epoch>,
}

/// All values met in a run, and the answers of the product's functions about them.
#[derive(Debug)]
pub(super) struct Values {
    links: Vec<AtomicU64>,
    shapes: Vec<AtomicU64>,
    /// Per header, the generations of the clouds: one byte each.
    generations: Vec<AtomicU64>,
    /// By cloud, generation and whether the keys of that generation and of the next were found.
    readmissions: [[[[bool; 2]; 2]; GENERATIONS + 1]; CLOUDS],
    identities: [Identity; CLOUDS],
    known: Mutex<Known>,
}

/// Epoch, process, the cloud that it readmits, what was read in each cloud, and the versions that each had published.
type HeaderKey = (u8, u8, Option<usize>, [ReadId; CLOUDS], [u8; CLOUDS]);

#[derive(Debug, Default)]
struct Known {
    decisions: Vec<Decision>,
    chains: Vec<Chain>,
    chain_ids: HashMap<Vec<u8>, ChainId>,
    records: Vec<Record>,
    record_ids: HashMap<Vec<u8>, RecordId>,
    reads: Vec<Read>,
    read_ids: HashMap<Vec<u8>, ReadId>,
    decided: HashMap<(ChainId, u8, u8, u8), Result<ChainId, Refused>>,
    entries: HashMap<(u8, u8, ChainId), RecordId>,
    headers: HashMap<HeaderKey, Result<RecordId, Damage>>,
    generations_read: HashMap<[ReadId; CLOUDS], [u8; CLOUDS]>,
    logs_read: HashMap<(u8, Logs), Result<ReadId, Damage>>,
    renamed_records: HashMap<(RecordId, Permutation), RecordId>,
    renamed_reads: HashMap<(ReadId, Permutation), ReadId>,
}

/// A proposal that the chain does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Stale,
    DoesNotAddUp,
}

/// Who takes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taker {
    pub(super) process: u8,
    pub(super) epoch: u8,
    /// The cloud that it readmits.
    pub(super) lost: Option<usize>,
}

/// What only damaged or contradicting logs can cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage;

impl Values {
    pub(super) fn new() -> Self {
        let table = || (0..VALUES_MAX).map(|_| AtomicU64::new(0)).collect();
        let known = Known { chains: vec![Chain::default()], ..Known::default() };
        Self {
            links: table(),
            shapes: table(),
            generations: table(),
            readmissions: readmissions(),
            identities: [0, 1, 2].map(identity),
            known: Mutex::new(known),
        }
    }

    /// The identity that a registered cloud carries.
    pub(super) fn identity(&self, cloud: usize) -> &Identity {
        &self.identities[cloud]
    }

    /// A decision's facts.
    pub(super) fn link(&self, chain: ChainId) -> Link {
        let packed = self.links[usize::from(chain)].load(Ordering::Acquire);
        let byte = |at: u32| (packed >> (16 + 8 * at)) as u8;
        Link {
            previous: packed as u16,
            sequence: byte(0),
            commit: byte(1),
            start: byte(2),
            end: byte(3),
            epoch: byte(4),
        }
    }

    /// A record's facts.
    pub(super) fn shape(&self, record: RecordId) -> Shape {
        let packed = self.shapes[usize::from(record)].load(Ordering::Acquire);
        let kind = match packed & 3 {
            1 => Kind::Header,
            2 => Kind::Entry,
            _ => Kind::Seal,
        };
        let word = |at: u32| (packed >> (16 * at)) as u16;
        Shape { kind, base: word(1), end: word(2), nameless: word(3) }
    }

    /// How often each cloud was readmitted, by a header.
    pub(super) fn generations(&self, header: RecordId) -> [u8; CLOUDS] {
        unpacked(self.generations[usize::from(header)].load(Ordering::Acquire))
    }

    /// How often each cloud was readmitted, by the newest header among what was read.
    pub(super) fn generations_read(&self, reads: [ReadId; CLOUDS]) -> [u8; CLOUDS] {
        let mut known = self.known.lock().expect("no thread panics here");
        if let Some(answer) = known.generations_read.get(&reads) {
            return *answer;
        }
        let read = reads.iter().filter(|read| **read != 0);
        let logs = read.flat_map(|read| &known.reads[usize::from(*read) - 1].logs);
        let answer = rules::newest_header(logs).map_or([0; CLOUDS], generations_of);
        known.generations_read.insert(reads, answer);
        answer
    }

    /// [`rules::is_current`] for a cloud that holds the key of `generation` or not, and of the generation after it.
    pub(super) fn is_readmitted(
        &self,
        cloud: usize,
        generation: u8,
        holds_key: bool,
        holds_next: bool,
    ) -> bool {
        self.readmissions[cloud][usize::from(generation)][usize::from(holds_key)][usize::from(holds_next)]
    }

    /// Decisions in a chain, 0 for the empty one.
    pub(super) fn length(&self, chain: ChainId) -> u8 {
        if chain == 0 { 0 } else { self.link(chain).sequence }
    }

    /// The chain up to and including its decision `sequence`; 0 if it does not reach so far or begins later.
    pub(super) fn at(&self, mut chain: ChainId, sequence: u8) -> ChainId {
        while chain != 0 && self.link(chain).sequence > sequence {
            chain = self.link(chain).previous;
        }
        if self.length(chain) == sequence { chain } else { 0 }
    }

    /// The next offset to read, `None` before the first decision.
    pub(super) fn position(&self, chain: ChainId) -> Option<u8> {
        (chain != 0).then(|| self.link(chain).end)
    }

    /// [`Chain::accept`], and if it accepts, [`Chain::decide`] and [`Chain::apply`].
    pub(super) fn decide(
        &self,
        variant: Variant,
        chain: ChainId,
        epoch: u8,
        commit: u8,
        start: Option<u8>,
    ) -> Result<ChainId, Refused> {
        let mut known = self.known.lock().expect("no thread panics here");
        let key = (chain, epoch, commit, start.unwrap_or(u8::MAX));
        if let Some(answer) = known.decided.get(&key) {
            return *answer;
        }
        let before = known.chains[usize::from(chain)].clone();
        let proposal = proposal(commit, start);
        let answer = match before.accept(TOPOLOGY, &proposal) {
            Err(Refusal::Stale { .. }) if variant != Variant::PositionCheckSkipped => Err(Refused::Stale),
            Err(Refusal::DoesNotAddUp { .. }) => Err(Refused::DoesNotAddUp),
            _ => {
                let decision = before
                    .decide(TOPOLOGY, Epoch(epoch.into()), 0, &proposal)
                    .expect("the model's proposals can be encoded");
                Ok(self.append(&mut known, chain, decision))
            }
        };
        known.decided.insert(key, answer);
        answer
    }

    /// The chain after `decision`, which follows `previous`.
    fn append(&self, known: &mut Known, previous: ChainId, decision: Decision) -> ChainId {
        let mut chain = known.chains[usize::from(previous)].clone();
        chain.apply(&decision).expect("a decision follows the chain it was made for");
        let key = encode(&chain).to_vec();
        if let Some(id) = known.chain_ids.get(&key) {
            return *id;
        }
        let id = next(known.chains.len());
        let body = crate::delta::parse_body(decision.tables[0].body.as_bytes())
            .expect("a decision's body can be read");
        let range = &body.info.isobar.offsets[0];
        let fields = [
            decision.sequence,
            decision.commit_id[1..].parse().expect("commit ids are a letter and a number"),
            range.start as u64,
            range.end as u64,
            body.info.isobar.epoch,
        ];
        let packed = fields
            .iter()
            .zip(0..)
            .fold(u64::from(previous), |packed, (field, at)| packed | field << (16 + 8 * at));
        self.links[usize::from(id)].store(packed, Ordering::Release);
        known.chains.push(chain);
        known.decisions.push(decision);
        known.chain_ids.insert(key, id);
        id
    }

    /// The record of epoch `epoch` at `index` that proposes the last decision of `chain`.
    pub(super) fn entry(&self, epoch: u8, index: u8, chain: ChainId) -> RecordId {
        let mut known = self.known.lock().expect("no thread panics here");
        if let Some(id) = known.entries.get(&(epoch, index, chain)) {
            return *id;
        }
        let decision = known.decisions[usize::from(chain) - 1].clone();
        let record = Record::new(Epoch(epoch.into()), index.into(), Content::Entry(decision));
        let id = self.intern(&mut known, record);
        known.entries.insert((epoch, index, chain), id);
        id
    }

    /// A SEAL of epoch `epoch` at `index`, put there by the leader of epoch `by`.
    pub(super) fn seal(&self, epoch: u8, index: u8, by: u8) -> RecordId {
        let record = Record::new(Epoch(epoch.into()), index.into(), Content::Seal { by: Epoch(by.into()) });
        self.intern(&mut self.known.lock().expect("no thread panics here"), record)
    }

    /// A header with the chain `base` and no tail, as the first leader of a run has written it.
    pub(super) fn first_header(&self, epoch: u8, base: ChainId) -> RecordId {
        let mut known = self.known.lock().expect("no thread panics here");
        let header = Header {
            clouds: names(),
            incarnation: incarnation(0),
            base: known.chains[usize::from(base)].clone(),
            sealed: BTreeMap::new(),
            readmitted: BTreeMap::new(),
            tail: Vec::new(),
        };
        let record = Record::new(Epoch(epoch.into()), 0, Content::Header(header));
        self.intern(&mut known, record)
    }

    /// The epochs to seal in `cloud`, by [`rules::epochs_to_seal`], after looking for the newest header below `epoch`.
    pub(super) fn epochs_to_seal(&self, cloud: usize, epoch: u8, logs: &Logs) -> std::ops::Range<u64> {
        let known = self.known.lock().expect("no thread panics here");
        let newest = newest_header(&known, epoch, logs).map(|(_, header)| header);
        rules::epochs_to_seal(NAMES[cloud], newest, Epoch(epoch.into()))
    }

    /// What the leader of `epoch` reads in `cloud` once the logs below are sealed there.
    pub(super) fn read_logs(&self, epoch: u8, logs: &Logs) -> Result<ReadId, Damage> {
        let mut known = self.known.lock().expect("no thread panics here");
        let key = (epoch, below(epoch, logs));
        if let Some(answer) = known.logs_read.get(&key) {
            return answer.clone();
        }
        let answer = read_logs(&known, epoch, logs).map(|read| intern_read(&mut known, read));
        known.logs_read.insert(key, answer.clone());
        answer
    }

    /// The header of a take-over from what was read (`0` where nothing was) and which versions each cloud has published,
    /// one bit each: [`choose`], [`rules::base_and_tail`], [`rules::sealed_clouds`], [`rules::readmitting`].
    pub(super) fn header(
        &self,
        variant: Variant,
        taker: Taker,
        reads: [ReadId; CLOUDS],
        published: [u8; CLOUDS],
    ) -> Result<RecordId, Damage> {
        let mut known = self.known.lock().expect("no thread panics here");
        let key = (taker.process, taker.epoch, taker.lost, reads, published);
        if let Some(answer) = known.headers.get(&key) {
            return answer.clone();
        }
        let answer = self.make_header(variant, &mut known, taker, reads, published);
        known.headers.insert(key, answer.clone());
        answer
    }

    fn make_header(
        &self,
        variant: Variant,
        known: &mut Known,
        taker: Taker,
        reads: [ReadId; CLOUDS],
        published: [u8; CLOUDS],
    ) -> Result<RecordId, Damage> {
        let clouds: Vec<usize> = (0..CLOUDS).filter(|cloud| reads[*cloud] != 0).collect();
        let epoch = Epoch(taker.epoch.into());
        let mut logs = Vec::new();
        let mut sealed_before = BTreeMap::<String, Epoch>::new();
        for cloud in &clouds {
            let read = &known.reads[usize::from(reads[*cloud]) - 1];
            logs.extend(read.logs.iter().cloned());
            for (name, up_to) in &read.sealed_before {
                let known = sealed_before.entry(name.clone()).or_insert(*up_to);
                *known = (*known).max(*up_to);
            }
        }
        variant.change_logs(&mut logs);
        let chosen = choose(&logs).map_err(|_| Damage)?;
        let sealed_now = clouds.iter().copied().chain(taker.lost).map(|cloud| NAMES[cloud]);
        let sealed = rules::sealed_clouds(chosen.as_ref(), sealed_before, sealed_now, epoch);
        let readmitted = match (&chosen, taker.lost) {
            (None, Some(_)) => return Err(Damage),
            (None, None) => BTreeMap::new(),
            (Some(chosen), None) => chosen.header.readmitted.clone(),
            (Some(_), Some(lost)) if variant == Variant::GenerationNotRaised => {
                BTreeMap::from([(NAMES[lost].to_owned(), 1)])
            }
            (Some(chosen), Some(lost)) => rules::readmitting(&chosen.header, NAMES[lost]),
        };
        let versions = clouds.iter().map(|cloud| published_versions(chosen.as_ref(), published[*cloud]));
        let versions = versions.collect();
        let (base, mut tail) = rules::base_and_tail(chosen, CLOUDS, &versions).map_err(|_| Damage)?;
        variant.change_tail(&mut tail, taker.epoch);
        let mut chain = known.chain_ids.get(&encode(&base).to_vec()).copied().unwrap_or(0);
        for decision in &tail {
            chain = self.append(known, chain, decision.clone());
        }
        let incarnation = incarnation(taker.process);
        let header = Header { clouds: names(), incarnation, base, sealed, readmitted, tail };
        Ok(self.intern(known, Record::new(epoch, 0, Content::Header(header))))
    }

    fn intern(&self, known: &mut Known, record: Record) -> RecordId {
        let key = encode(&record).to_vec();
        if let Some(id) = known.record_ids.get(&key) {
            return *id;
        }
        let (kind, base, end) = match &record.content {
            Content::Header(header) => {
                let base = known.chain_ids.get(&encode(&header.base).to_vec()).copied().unwrap_or(0);
                let end = header
                    .tail
                    .iter()
                    .fold(base, |chain, decision| self.append(known, chain, decision.clone()));
                (1, base, end)
            }
            Content::Entry(decision) => {
                let id =
                    known.decisions.iter().position(|other| other == decision).map_or(0, |at| next(at + 1));
                (2, self.link(id).previous, id)
            }
            Content::Seal { .. } => (3, 0, 0),
        };
        let nameless = nameless(&record);
        let nameless = if nameless == record { None } else { Some(self.intern(known, nameless)) };
        let id = next(known.records.len() + 1);
        let words = [base, end, nameless.unwrap_or(id)];
        let packed =
            words.iter().zip(1..).fold(kind, |packed, (word, at)| packed | u64::from(*word) << (16 * at));
        self.shapes[usize::from(id)].store(packed, Ordering::Release);
        if let Content::Header(header) = &record.content {
            self.generations[usize::from(id)].store(packed_bytes(generations_of(header)), Ordering::Release);
        }
        known.records.push(record);
        known.record_ids.insert(key, id);
        id
    }

    /// What it means to find `held` where another record was to be stored.
    pub(super) fn judge_occupant(&self, held: RecordId) -> rules::Occupant {
        let known = self.known.lock().expect("no thread panics here");
        rules::judge_occupant(known.records.get(usize::from(held) - 1))
    }

    /// The record after the clouds were renamed.
    pub(super) fn rename_record(&self, record: RecordId, names: Permutation) -> RecordId {
        if record == 0 || self.shape(record).nameless == record {
            return record;
        }
        let mut known = self.known.lock().expect("no thread panics here");
        self.rename_known_record(&mut known, record, names)
    }

    fn rename_known_record(&self, known: &mut Known, record: RecordId, names: Permutation) -> RecordId {
        if let Some(renamed) = known.renamed_records.get(&(record, names)) {
            return *renamed;
        }
        let renamed = rename(known.records[usize::from(record) - 1].clone(), names);
        let renamed = self.intern(known, renamed);
        known.renamed_records.insert((record, names), renamed);
        renamed
    }

    /// What was read, after the clouds were renamed.
    pub(super) fn rename_read(&self, read: ReadId, names: Permutation) -> ReadId {
        if read == 0 {
            return 0;
        }
        let mut known = self.known.lock().expect("no thread panics here");
        if let Some(renamed) = known.renamed_reads.get(&(read, names)) {
            return *renamed;
        }
        let mut renamed = known.reads[usize::from(read) - 1].clone();
        renamed.sealed_before = rename_map(&renamed.sealed_before, names);
        for log in &mut renamed.logs {
            log.records = log.records.drain(..).map(|record| rename(record, names)).collect();
        }
        let renamed = intern_read(&mut known, renamed);
        known.renamed_reads.insert((read, names), renamed);
        renamed
    }
}

fn generations_of(header: &Header) -> [u8; CLOUDS] {
    NAMES.map(|name| {
        let generation = header.readmitted.get(name).copied().unwrap_or_default();
        u8::try_from(generation).expect("a run has few readmissions")
    })
}

fn packed_bytes(bytes: [u8; CLOUDS]) -> u64 {
    bytes.iter().rev().fold(0, |packed, byte| packed << 8 | u64::from(*byte))
}

fn unpacked(packed: u64) -> [u8; CLOUDS] {
    [0, 8, 16].map(|shift| (packed >> shift) as u8)
}

fn readmissions() -> [[[[bool; 2]; 2]; GENERATIONS + 1]; CLOUDS] {
    let key = |cloud: usize, generation: u64, is_there: bool| {
        is_there.then(|| Readmission {
            format: crate::commit::format::FORMAT,
            group: GROUP.into(),
            cloud: NAMES[cloud].into(),
            generation,
            epoch: Epoch(1),
        })
    };
    let ask = |cloud: usize, generation: u64, holds_key: bool, holds_next: bool| {
        let found = key(cloud, generation, holds_key);
        let next = key(cloud, generation + 1, holds_next);
        rules::is_current(found.as_ref(), next.as_ref(), GROUP, NAMES[cloud], generation)
    };
    let both = [false, true];
    [0, 1, 2].map(|cloud| {
        [0, 1, 2].map(|generation| both.map(|key| both.map(|next| ask(cloud, generation, key, next))))
    })
}

/// As `published_versions` in `takeover.rs`: versions in a row from the one after the chosen header's base.
fn published_versions(chosen: Option<&Chosen>, published: u8) -> BTreeMap<String, u64> {
    let base = chosen.and_then(|chosen| chosen.header.base.tables.get(TABLE));
    let first = base.map_or(0, |head| head.version + 1);
    let dense = (first..).take_while(|version| published & 1 << version != 0).count();
    BTreeMap::from([(TABLE.to_owned(), first + dense as u64)])
}

/// The identity that every registered cloud of the model carries.
fn identity(cloud: usize) -> Identity {
    Identity {
        format: crate::commit::format::FORMAT,
        topology: TOPOLOGY.into(),
        group: GROUP.into(),
        cloud: NAMES[cloud].into(),
        clouds: names(),
    }
}

/// All names of clouds.
pub(super) fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

fn incarnation(process: u8) -> String {
    format!("process-{process}")
}

/// The number of the value that is the `count`-th.
fn next(count: usize) -> u16 {
    assert!(count < VALUES_MAX, "the run meets more values than numbers exist");
    count as u16
}

/// The logs of epochs below `epoch`, which are all that its take-over reads.
fn below(epoch: u8, logs: &Logs) -> Logs {
    let mut below = Logs::default();
    for older in 1..epoch {
        below[usize::from(older) - 1] = logs[usize::from(older) - 1];
    }
    below
}

fn newest_header<'a>(known: &'a Known, epoch: u8, logs: &Logs) -> Option<(u8, &'a Header)> {
    (1..epoch).rev().find_map(|older| {
        let first = logs[usize::from(older) - 1][0];
        match &known.records.get(usize::from(first).checked_sub(1)?)?.content {
            Content::Header(header) => Some((older, header)),
            _ => None,
        }
    })
}

/// The reading half of `seal_and_read_cloud`.
fn read_logs(known: &Known, epoch: u8, logs: &Logs) -> Result<Read, Damage> {
    let newest = newest_header(known, epoch, logs);
    let sealed_before = newest.map(|(_, header)| header.sealed.clone()).unwrap_or_default();
    let oldest = newest.map_or(1, |(at, _)| at);
    let mut read = Read { logs: Vec::new(), sealed_before };
    for older in oldest..epoch {
        let present = logs[usize::from(older) - 1].iter().filter(|record| **record != 0);
        let records: Vec<Record> =
            present.map(|record| known.records[usize::from(*record) - 1].clone()).collect();
        if !records.is_empty() {
            let epoch = Epoch(older.into());
            let records = rules::records_until_seal(epoch, records).map_err(|_| Damage)?;
            read.logs.push(SealedLog { epoch, records });
        }
    }
    Ok(read)
}

fn intern_read(known: &mut Known, read: Read) -> ReadId {
    let records: Vec<&Record> = read.logs.iter().flat_map(|log| &log.records).collect();
    let epochs: Vec<(Epoch, usize)> = read.logs.iter().map(|log| (log.epoch, log.records.len())).collect();
    let key = encode(&(records, epochs, &read.sealed_before)).to_vec();
    if let Some(id) = known.read_ids.get(&key) {
        return *id;
    }
    let id = next(known.reads.len() + 1);
    known.reads.push(read);
    known.read_ids.insert(key, id);
    id
}

/// The record without what it says about single clouds.
fn nameless(record: &Record) -> Record {
    let mut nameless = record.clone();
    if let Content::Header(header) = &mut nameless.content {
        header.sealed = BTreeMap::new();
        header.readmitted = BTreeMap::new();
    }
    nameless
}

fn rename(mut record: Record, names: Permutation) -> Record {
    if let Content::Header(header) = &mut record.content {
        header.sealed = rename_map(&header.sealed, names);
        header.readmitted = rename_map(&header.readmitted, names);
    }
    record
}

fn rename_map<T: Copy>(by_cloud: &BTreeMap<String, T>, names: Permutation) -> BTreeMap<String, T> {
    let renamed = |name: &str| {
        let cloud = NAMES.iter().position(|other| *other == name).expect("the model's clouds are three");
        NAMES[usize::from(names[cloud])].to_owned()
    };
    by_cloud.iter().map(|(name, value)| (renamed(name), *value)).collect()
}

/// Commit number `commit`: it reads one record at `start`, into one file. Without a start it creates the table and
/// declares the first position.
fn proposal(commit: u8, start: Option<u8>) -> Proposal {
    let records = u64::from(start.is_some());
    let start_offset = i64::from(start.unwrap_or(0));
    let range = OffsetRange {
        cluster: "cluster".into(),
        topic: "events".into(),
        topic_id: "topic".into(),
        partition: 0,
        start: start_offset,
        end: start_offset + records as i64,
        records,
        last_fingerprint: start.map(|_| "ef".repeat(32)),
    };
    let file = NewFile {
        digest: FileDigest {
            path: format!("part-c{commit}-00000.parquet"),
            size: 1,
            sha256: "ab".repeat(32),
            rows: 1,
        },
        partition_values: BTreeMap::new(),
        stats: r#"{"numRecords":1,"minValues":{},"maxValues":{},"nullCount":{},"tightBounds":true}"#.into(),
    };
    let create = start.is_none().then(|| TableDefinition {
        id: "00000000-0000-4000-8000-000000000000".into(),
        name: TABLE.into(),
        description: None,
        schema: std::sync::Arc::new(arrow_schema::Schema::new(vec![arrow_schema::Field::new(
            "id",
            arrow_schema::DataType::Int64,
            true,
        )])),
        partition_by: Vec::new(),
        created_ms: 1,
    });
    let table = TableProposal {
        dataset: TABLE.into(),
        create,
        plan: "cd".repeat(32),
        models: Vec::new(),
        offsets: vec![range],
        rows: RowCounts { input: records, output: records, ..RowCounts::default() },
        files: start.map(|_| file).into_iter().collect(),
    };
    Proposal { commit_id: format!("c{commit}"), tables: vec![table] }
}

impl Values {
    /// How many values were met, for people.
    pub(super) fn count(&self) -> String {
        let known = self.known.lock().expect("no thread panics here");
        format!(
            "{} decisions, {} records, {} readings",
            known.decisions.len(),
            known.records.len(),
            known.reads.len()
        )
    }
}
