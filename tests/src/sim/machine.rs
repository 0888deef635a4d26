//! A machine and the process on it: a worker that stages commits, and a leader when it is its turn.
//!
//! Leading is the product's own code: [`Leader::start`], [`Leader::commit`], the lanes. What is around it is as simple
//! and as careless as a real system may be: workers find the leader in an address book that may be out of date, their
//! messages are late, lost or repeated, the leader's answers too; a process that hears no heartbeat tries to lead, and
//! sometimes one tries although all is well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::{FileDigest, OffsetRange, TableDefinition, sha256_hex};
use isobar_connectors::upload::{UploadHandle, UploadStatus};
use isobar_schemas::RowCounts;
use isobar_topologies::Error;
use isobar_topologies::commit::{
    CommitOutcome, Environment, Group, Leader, NewFile, Proposal, Refusal, Staged, TableProposal, Task,
    quarantine_of,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::{mpsc, oneshot};

use super::broken::{Broken, Habits};
use super::cloud::{Client, SimCloud, SimStore};
use super::kafka::{Fate, Kafka};
use super::monitor::Monitor;
use super::world::{NATURE, Process, Surroundings, World};
use super::{DATASET, TOPOLOGY};
use crate::lab::uploads_to;

/// Wall-clock time at the beginning of a run, milliseconds since the Unix epoch.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Everything the machines share.
#[derive(Debug)]
pub struct Site {
    /// Time and chance.
    pub world: World,
    /// The clouds, in claim order.
    pub clouds: Vec<Arc<SimCloud>>,
    /// The judge.
    pub monitor: Arc<Monitor>,
    /// Where records come from.
    pub kafka: Arc<Kafka>,
    /// The rule that is broken in this run, if one is.
    pub broken: Option<Broken>,
    /// Who is believed to lead.
    pub book: AddressBook,
    /// How many of a hundred messages between processes are lost or repeated.
    pub bad_network_percent: Mutex<u64>,
    /// Offsets a batch takes from one partition at most.
    pub batch_offsets_max: u64,
    /// Whether processes campaign and step down although all is well.
    pub unrest: Mutex<bool>,
}

/// Who is believed to lead, and when it was last heard of.
#[derive(Debug, Default)]
pub struct AddressBook(Mutex<Option<Address>>);

#[derive(Debug, Clone)]
struct Address {
    process: Process,
    mailbox: mpsc::UnboundedSender<Message>,
    heard_us: u64,
}

impl AddressBook {
    fn lock(&self) -> MutexGuard<'_, Option<Address>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, process: Process, now_us: u64) {
        if let Some(address) = self.lock().as_mut().filter(|address| address.process == process) {
            address.heard_us = now_us;
        }
    }

    fn names(&self, process: Process) -> bool {
        self.lock().as_ref().is_some_and(|address| address.process == process)
    }

    fn strike_out(&self, process: Process) {
        let mut address = self.lock();
        if address.as_ref().is_some_and(|address| address.process == process) {
            *address = None;
        }
    }
}

/// What a worker sends to a leader.
#[derive(Debug)]
enum Message {
    Stage { proposal: Proposal, uploads: Vec<(String, Vec<UploadHandle>)>, answer: oneshot::Sender<Answer> },
    Positions { answer: oneshot::Sender<BTreeMap<usize, i64>> },
}

#[derive(Debug)]
enum Answer {
    Committed { sequence: u64 },
    ReadAgain,
}

/// One run of a process.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What it shares with the others.
    pub site: Arc<Site>,
    /// Its place; stays when the process is restarted.
    pub number: usize,
    /// This run.
    pub process: Process,
    /// How far its wall clock is off.
    pub clock_skew_ms: i64,
}

impl Machine {
    fn world(&self) -> &World {
        &self.site.world
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { world: self.world().clone(), process: self.process }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.world().note(format_args!("process {}: {what}", self.process.0));
    }

    fn now_ms(&self) -> i64 {
        EPOCH_MS + (self.world().now_us() / 1000) as i64 + self.clock_skew_ms
    }

    async fn pause_ms(&self, from: u64, to: u64) {
        let pause = self.world().draw_ms(from, to);
        self.world().sleep(pause).await;
    }

    fn chance(&self, percent: u64) -> bool {
        self.world().draw(|prng| prng.chance(percent))
    }

    fn has_unrest(&self) -> bool {
        *self.site.unrest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process's clients to all clouds.
    fn clouds(&self) -> Vec<Cloud> {
        let habits = Arc::new(Habits::new(self.site.broken));
        let open = |cloud: &Arc<SimCloud>| {
            let store = |client| -> Arc<dyn ObjectStore> {
                Arc::new(SimStore {
                    cloud: cloud.clone(),
                    process: self.process,
                    machine: self.number,
                    client,
                    habits: habits.clone(),
                })
            };
            Cloud::new(cloud.name.clone(), store(Client::Control), store(Client::Data))
        };
        self.site.clouds.iter().map(open).collect()
    }

    /// The life of the process, until it is killed or gives up by itself.
    pub async fn run(self) {
        let clouds = self.clouds();
        let group = Group::in_environment(TOPOLOGY, clouds.clone(), Arc::new(self.surroundings()));
        let worker = Worker { machine: self.clone(), clouds: clouds.clone() };
        let _worker = self.surroundings().spawn(Box::pin(worker.run()));
        let mut failures = 0;
        loop {
            self.pause_ms(300, 1500).await;
            if !self.wants_to_lead() {
                continue;
            }
            let ended = self.lead(&group, &clouds).await;
            self.site.book.strike_out(self.process);
            match ended {
                Ok(()) => {
                    failures = 0;
                    self.note("stepped down");
                }
                Err(error) => {
                    self.note(format_args!("leads no more: {}", chain_of(&error)));
                    self.judge(&error);
                    if self.chance(50) {
                        return;
                    }
                    failures += 1;
                    self.pause_ms(500, 2000 << failures.min(3)).await;
                }
            }
        }
    }

    /// No error that says our own books are wrong may ever be met.
    fn judge(&self, error: &Error) {
        // A cloud that loses everything may do so while it is being tried out.
        let any_wiped = (0..self.site.clouds.len()).any(|cloud| self.site.monitor.is_wiped(cloud));
        if matches!(error, Error::Bug(_) | Error::Damaged { .. })
            || matches!(error, Error::Configuration(_) if !any_wiped)
        {
            let what = chain_of(error);
            self.world().violated(format_args!("process {} met: {what}", self.process.0));
        }
    }

    fn wants_to_lead(&self) -> bool {
        let patience_us = self.world().draw_ms(4000, 9000).as_micros() as u64;
        let silent = match &*self.site.book.lock() {
            // Not all at once: a take-over needs a moment in which nobody else tries.
            None => self.chance(10),
            Some(address) => address.heard_us + patience_us < self.world().now_us(),
        };
        silent || (self.has_unrest() && self.chance(2))
    }

    /// Takes over and leads until something ends it.
    async fn lead(&self, group: &Group, clouds: &[Cloud]) -> Result<(), Error> {
        self.note("wants to lead");
        let uploads = uploads_to(clouds);
        let mut leader = Leader::start(group, uploads.clone()).await?;
        self.note(format_args!("leads epoch {} from decision {}", leader.epoch(), leader.chain().sequence));
        self.declare(&mut leader).await?;
        let (mailbox, mut messages) = mpsc::unbounded_channel();
        let address =
            Address { process: self.process, mailbox: mailbox.clone(), heard_us: self.world().now_us() };
        *self.site.book.lock() = Some(address);
        let _heart = self.surroundings().spawn(Box::pin(self.clone().beat()));
        let mut _watch = self.watch(&leader);
        let records_max = 2 + self.world().draw(|prng| prng.below(60));
        loop {
            let message = self.world().within(Duration::from_secs(2), messages.recv()).await.flatten();
            match message {
                // Somebody else is asked now. It may take a while until this one notices.
                None if !self.site.book.names(self.process) && self.chance(20) => return Ok(()),
                None => {}
                Some(Message::Positions { answer }) => {
                    // A worker that has died needs none.
                    let _ = answer.send(self.positions(&leader));
                }
                Some(Message::Stage { proposal, uploads, answer }) => {
                    let _ = answer.send(self.decide(&mut leader, proposal, uploads).await?);
                }
            }
            if leader.records() > records_max || leader.renewal_due() {
                if self.has_unrest() && self.chance(30) {
                    leader.finish(Duration::from_secs(1)).await;
                    return Ok(());
                }
                self.note("renews its epoch");
                leader = leader.renew(group).await?;
                self.note(format_args!("leads epoch {}", leader.epoch()));
                _watch = self.watch(&leader);
            }
        }
    }

    /// Lets everybody know that this process lives, as long as it does.
    async fn beat(self) {
        loop {
            self.pause_ms(400, 800).await;
            self.site.book.heard(self.process, self.world().now_us());
        }
    }

    /// Notes in the log when a cloud is set aside, or served again.
    fn watch(&self, leader: &Leader) -> Task {
        let (machine, watch) = (self.clone(), leader.watch());
        self.surroundings().spawn(Box::pin(async move {
            let mut before = Vec::new();
            loop {
                let clouds = watch.progress().clouds;
                let states: Vec<_> = clouds.into_iter().map(|cloud| (cloud.away, cloud.set_aside)).collect();
                if states != before {
                    machine.note(format_args!("clouds away and set aside: {states:?}"));
                    before = states;
                }
                machine.pause_ms(500, 1000).await;
            }
        }))
    }

    fn positions(&self, leader: &Leader) -> BTreeMap<usize, i64> {
        let position = |partition| {
            let app_id = range(partition, 0, 0, 0).app_id(TOPOLOGY);
            Some((partition, leader.chain().position(DATASET, &app_id)?))
        };
        (0..self.site.kafka.partitions()).filter_map(position).collect()
    }

    async fn decide(
        &self,
        leader: &mut Leader,
        mut proposal: Proposal,
        uploads: Vec<(String, Vec<UploadHandle>)>,
    ) -> Result<Answer, Error> {
        if self.site.broken == Some(Broken::PositionsRebased) {
            self.rebase(leader, &mut proposal);
        }
        let commit_id = proposal.commit_id.clone();
        let outcome = leader.commit(Staged { proposal, uploads }, self.now_ms()).await?;
        Ok(match outcome {
            CommitOutcome::Committed { sequence } => {
                self.note(format_args!("committed {commit_id} as decision {sequence}"));
                self.site.monitor.told_committed(sequence, &commit_id);
                Answer::Committed { sequence }
            }
            CommitOutcome::Stale(Refusal::Stale { partition, start, chain, .. }) => {
                self.note(format_args!("{commit_id} is stale: {partition} at {start}, chain at {chain}"));
                Answer::ReadAgain
            }
            CommitOutcome::Stale(other) => {
                self.world().violated(format_args!("stale means {other}"));
                Answer::ReadAgain
            }
            CommitOutcome::NotStored(what) => {
                self.note(format_args!("{commit_id} is not stored: {what}"));
                Answer::ReadAgain
            }
        })
    }

    /// The mistake of [`Broken::PositionsRebased`]: the batch is declared to be what comes next.
    fn rebase(&self, leader: &Leader, proposal: &mut Proposal) {
        for range in proposal.tables.iter_mut().flat_map(|table| &mut table.offsets) {
            if let Some(position) = leader.chain().position(DATASET, &range.app_id(TOPOLOGY)) {
                let width = range.end - range.start;
                (range.start, range.end) = (position, position + width);
            }
        }
    }

    /// Creates the tables and declares the first positions, where that has not been decided.
    async fn declare(&self, leader: &mut Leader) -> Result<(), Error> {
        if leader.chain().tables.contains_key(DATASET) {
            return Ok(());
        }
        let partitions = 0..self.site.kafka.partitions();
        let create = |dataset: &str, offsets: Vec<OffsetRange>| TableProposal {
            create: Some(definition(dataset)),
            ..table(dataset, offsets)
        };
        let tables = vec![
            create(DATASET, partitions.map(|partition| range(partition, 0, 0, 0)).collect()),
            create(&quarantine_of(DATASET), Vec::new()),
        ];
        let proposal = Proposal { commit_id: self.new_id("create"), tables };
        match leader.commit(Staged { proposal, uploads: Vec::new() }, self.now_ms()).await? {
            CommitOutcome::Committed { .. } => Ok(()),
            other => Err(Error::Bug(format!("{other:?}"))),
        }
    }

    fn new_id(&self, what: &str) -> String {
        let bits = self.world().draw(crate::prng::Prng::next_u64);
        format!("{what}-{}-{bits:016x}", self.process.0)
    }
}

fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.replace('\n', " ")
}

fn definition(dataset: &str) -> TableDefinition {
    let fields = vec![Field::new("offset", DataType::Int64, true)];
    TableDefinition {
        id: "00000000-0000-4000-8000-000000000000".into(),
        name: dataset.into(),
        description: None,
        schema: Arc::new(Schema::new(fields)),
        partition_by: Vec::new(),
        created_ms: 1,
    }
}

fn range(partition: usize, start: i64, end: i64, records: u64) -> OffsetRange {
    OffsetRange {
        cluster: "cluster".into(),
        topic: "events".into(),
        topic_id: "topic-id".into(),
        partition: partition as i32,
        start,
        end,
        records,
        last_fingerprint: (records > 0).then(|| "ef".repeat(32)),
    }
}

fn table(dataset: &str, offsets: Vec<OffsetRange>) -> TableProposal {
    TableProposal {
        dataset: dataset.into(),
        create: None,
        plan: "cd".repeat(32),
        models: Vec::new(),
        offsets,
        rows: RowCounts::default(),
        files: Vec::new(),
    }
}

/// The part of a process that reads Kafka and stages commits.
struct Worker {
    machine: Machine,
    clouds: Vec<Cloud>,
}

/// What was read of the partitions, by what becomes of it.
#[derive(Default)]
struct Batch {
    ranges: Vec<OffsetRange>,
    accepted: Vec<(usize, i64)>,
    rejected: Vec<(usize, i64)>,
    filtered: u64,
}

impl Worker {
    async fn run(self) {
        let machine = &self.machine;
        let mut positions: BTreeMap<usize, i64> = BTreeMap::new();
        let mut generation = None;
        loop {
            machine.pause_ms(50, 800).await;
            let (assigned, current) = machine.site.kafka.assigned(machine.number, machine.world().now_us());
            if generation != Some(current) {
                generation = Some(current);
                positions.clear();
            }
            if assigned.is_empty() {
                continue;
            }
            if positions.is_empty() {
                positions = self.ask_positions().await.unwrap_or_default();
                continue;
            }
            let batch = self.read(&assigned, &positions);
            if batch.ranges.is_empty() {
                continue;
            }
            let ends: Vec<(usize, i64)> =
                batch.ranges.iter().map(|range| (range.partition as usize, range.end)).collect();
            match self.stage(batch).await {
                Some(Answer::Committed { .. }) => positions.extend(ends),
                // Not known, or stale: the chain says where to go on.
                Some(Answer::ReadAgain) | None => positions.clear(),
            }
        }
    }

    fn read(&self, assigned: &[usize], positions: &BTreeMap<usize, i64>) -> Batch {
        let Site { kafka, world, batch_offsets_max, .. } = &*self.machine.site;
        let mut batch = Batch::default();
        for partition in assigned {
            let Some(start) = positions.get(partition).copied() else { continue };
            // In peace a backlog is not what is tested.
            let offsets_max = if self.machine.has_unrest() { *batch_offsets_max } else { 5000 };
            let wanted = 1 + world.draw(|prng| prng.below(offsets_max)) as i64;
            let end = kafka.end(*partition).min(start + wanted);
            if end <= start {
                continue;
            }
            let mut records = 0;
            for offset in start..end {
                let fate = kafka.fate(*partition, offset);
                records += u64::from(fate != Fate::Absent);
                match fate {
                    Fate::Absent => {}
                    Fate::Accepted => batch.accepted.push((*partition, offset)),
                    Fate::Rejected => batch.rejected.push((*partition, offset)),
                    Fate::Filtered => batch.filtered += 1,
                }
            }
            batch.ranges.push(range(*partition, start, end, records));
        }
        batch
    }

    /// Writes the files and has the leader decide; `None` when nobody knows what became of it.
    async fn stage(&self, batch: Batch) -> Option<Answer> {
        let machine = &self.machine;
        let commit_id = machine.new_id("c");
        let (accepted, rejected) = (batch.accepted.len() as u64, batch.rejected.len() as u64);
        let mut uploads = Vec::new();
        let mut main = table(DATASET, batch.ranges);
        main.rows = RowCounts {
            input: accepted + rejected + batch.filtered,
            output: accepted,
            filtered: batch.filtered,
            ..RowCounts::default()
        };
        if rejected > 0 {
            main.rows.rejected.insert("rule".into(), rejected);
        }
        self.add_file(&mut main, &commit_id, &batch.accepted, &mut uploads);
        let mut tables = vec![main];
        if rejected > 0 {
            let mut quarantine = table(&quarantine_of(DATASET), Vec::new());
            quarantine.rows = RowCounts { input: rejected, output: rejected, ..RowCounts::default() };
            self.add_file(&mut quarantine, &commit_id, &batch.rejected, &mut uploads);
            tables.push(quarantine);
        }
        machine.note(format_args!("stages {commit_id}"));
        let proposal = Proposal { commit_id: commit_id.clone(), tables };
        let repeat = machine.chance(10).then(|| (proposal.clone(), uploads.clone()));
        let (send, receive) = oneshot::channel();
        self.send(Message::Stage { proposal, uploads, answer: send });
        if let Some((proposal, uploads)) = repeat {
            // Nobody listens to this answer; whatever it is, the first one counts.
            let (send, _) = oneshot::channel();
            self.send(Message::Stage { proposal, uploads, answer: send });
        }
        let patience = machine.world().draw_ms(2000, 40_000);
        let answer = machine.world().within(patience, receive).await?.ok()?;
        machine.pause_ms(1, 50).await;
        if self.is_lost() {
            return None;
        }
        if let Answer::Committed { sequence } = &answer {
            machine.note(format_args!("knows that {commit_id} is decision {sequence}"));
        }
        Some(answer)
    }

    /// Writes a file of `rows` for `table` and sends it to every cloud.
    fn add_file(
        &self,
        table: &mut TableProposal,
        commit_id: &str,
        rows: &[(usize, i64)],
        uploads: &mut Vec<(String, Vec<UploadHandle>)>,
    ) {
        if rows.is_empty() {
            return;
        }
        let bytes = Bytes::from(serde_json::to_vec(rows).expect("numbers can be written"));
        let name = format!("part-{commit_id}-00000.parquet");
        let digest = FileDigest {
            path: name.clone(),
            size: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            rows: rows.len() as u64,
        };
        let stats = format!("{{\"numRecords\":{}}}", rows.len());
        table.files.push(NewFile { digest, partition_values: BTreeMap::new(), stats });
        let path = format!("datasets/{}/{name}", table.dataset);
        let handles = self.clouds.iter().map(|cloud| self.upload(cloud, &path, bytes.clone())).collect();
        uploads.push((path, handles));
    }

    fn upload(&self, cloud: &Cloud, path: &str, bytes: Bytes) -> UploadHandle {
        let handle = UploadHandle::new(cloud.name.as_str().into());
        let guard = SettleOnDrop(handle.clone());
        let (store, path) = (cloud.data.clone(), Path::from(path));
        let machine = self.machine.clone();
        machine.world().spawn(machine.process, async move {
            let status = match store.put(&path, bytes.into()).await {
                Ok(_) => UploadStatus::Done,
                Err(error) => UploadStatus::Failed(error.to_string().into()),
            };
            guard.0.settle(status);
        });
        handle
    }

    async fn ask_positions(&self) -> Option<BTreeMap<usize, i64>> {
        let (send, receive) = oneshot::channel();
        self.send(Message::Positions { answer: send });
        let patience = Duration::from_secs(2);
        let answer = self.machine.world().within(patience, receive).await?.ok()?;
        self.machine.pause_ms(1, 50).await;
        (!self.is_lost()).then_some(answer)
    }

    fn is_lost(&self) -> bool {
        let percent = *self.machine.site.bad_network_percent.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.chance(percent)
    }

    /// Sends to whoever is believed to lead. What is sent travels on, even if the sender dies.
    fn send(&self, message: Message) {
        let Some(address) = self.machine.site.book.lock().clone() else { return };
        if self.is_lost() {
            return;
        }
        let world = self.machine.world().clone();
        let is_late = self.machine.has_unrest() && self.machine.chance(5);
        let delay = if is_late { world.draw_ms(50, 20_000) } else { world.draw_ms(1, 50) };
        self.machine.world().spawn(NATURE, async move {
            world.sleep(delay).await;
            // A leader that is gone receives nothing.
            let _ = address.mailbox.send(message);
        });
    }
}

/// An upload whose process dies has failed, as far as anybody knows.
struct SettleOnDrop(UploadHandle);

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.0.give_up("the process that sent it is gone");
    }
}
