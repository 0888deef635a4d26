//! Dead letters: the rejected records of a dataset, sent to a Kafka topic as well, for those whose tools watch topics.
//!
//! ```text
//! decided versions of the quarantine ─▶ those with new rows ─▶ messages, slice by slice ─▶ one transaction per slice:
//!         (log, backwards)                 (log)                     (letter)                the rows and the next row
//! ```
//!
//! What is sent is what the quarantine has: rows go only when their version is decided and published in a majority, read from
//! its files. All of it runs on a task of its own beside the pipeline, which it never holds up; a topic that takes nothing
//! shows in `isobar_dead_letter_versions_behind`.
//!
//! Guarantee: whoever reads committed records only sees every row once that was rejected since the first version sent,
//! however often leaders change, die or believe that they lead. The next row is stored in the transaction of the rows before
//! it ([`TransactionalProducer`]), a leader that begins fences the one before, and what is sent does not depend on who sends:
//! the same rows of the same files in the same order. What compaction and redrives move is not sent again. Rows whose files
//! a VACUUM has deleted before they were sent cannot be sent any more; they are counted and logged, and still in the table.
//! Failure: what goes wrong is a warning and tried again later, from where Kafka says that it is.

mod begun;
mod letter;
mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use futures::future;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::FileDigest;
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::kafka::{ClusterInfo, KafkaCluster, KafkaConfig, Sent, TransactionalProducer};
use object_store::ObjectStoreExt;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::begun::{BEGIN_ANEW, Next, Target};
use self::letter::{Concessions, Origin, Slice};
use self::log::{DecidedLog, Due};
use crate::backoff::Backoff;
use crate::chain_of;
use crate::commit::{Group, Leader, LeaderWatch, TableHead, quarantine_of};
use crate::error::Error;
use crate::maintain::Failure;
use crate::metrics::Metrics;
use crate::pipeline::now_ms;
use crate::prove::objects::object_path;
use crate::quarantine::StoredRows;
use crate::redrive::source::{LiveFile, Source, batches};
use crate::spec::{DeadLetterSpec, Topology};
use crate::topics::describe_named;

/// How often it is looked whether there is something to do, beside every decision.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause after sending has failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How often the progress is noted again while nothing is rejected: Kafka forgets it after a week.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// How long a run that ends when it has caught up waits until all is sent.
const FINISH_PATIENCE: Duration = Duration::from_secs(60);

/// Asks `cluster` about the topics that get dead letters.
///
/// # Errors
/// If one does not exist or may not be seen, or nobody answers.
pub(crate) async fn describe(topology: &Topology, cluster: &KafkaCluster) -> Result<ClusterInfo, Error> {
    let names: Vec<String> = topics(topology).into_iter().collect();
    if names.is_empty() {
        return Ok(ClusterInfo { cluster_id: None, topics: Vec::new() });
    }
    let described = describe_named(topology, cluster, &names).await;
    described.map_err(|error| Error::connector("ask Kafka about the topics of dead letters", error))
}

/// The topics that get dead letters.
pub(crate) fn topics(topology: &Topology) -> BTreeSet<String> {
    let specs = topology.datasets.iter().filter_map(|dataset| dataset.dead_letter.as_ref());
    specs.map(|spec| spec.topic.clone()).collect()
}

/// What is decided about the quarantines, as the leader last had it.
#[derive(Debug, Clone)]
struct Seen {
    sequence: u64,
    /// By dataset.
    heads: BTreeMap<String, TableHead>,
    watch: LeaderWatch,
}

/// Dead letters as the pipeline sees them.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    /// The datasets that have them.
    datasets: Vec<String>,
    seen: watch::Sender<Option<Seen>>,
    /// Up to which decision everything was sent.
    sent: watch::Receiver<u64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl DeadLetters {
    /// Begins to send the dead letters of `topology` to the topics that were `found`.
    pub(crate) fn start(
        topology: &Topology,
        group: &Group,
        kafka: &KafkaConfig,
        found: &ClusterInfo,
        metrics: &Metrics,
    ) -> Self {
        let outlet = |dataset: &str, spec: &DeadLetterSpec| Outlet {
            dataset: dataset.to_owned(),
            target: target(topology, spec, found),
            spec: spec.clone(),
            source: Source { clouds: group.clouds.clone(), table: quarantine_of(dataset) },
            group: group.clone(),
            kafka: kafka.clone(),
            metrics: metrics.clone(),
            concessions: Concessions::default(),
        };
        let deliveries: Vec<Delivery> = topology
            .datasets
            .iter()
            .filter_map(|dataset| Some(Delivery::new(outlet(&dataset.name, dataset.dead_letter.as_ref()?))))
            .collect();
        if deliveries.is_empty() {
            return Self::none();
        }
        let datasets = deliveries.iter().map(|delivery| delivery.outlet.dataset.clone()).collect();
        let (seen, sees) = watch::channel(None);
        let (tells, sent) = watch::channel(0);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(work(deliveries, sees, tells, stop.clone()));
        Self { datasets, seen, sent, stop, tasks }
    }

    /// No dead letters at all.
    pub(crate) fn none() -> Self {
        let (_, sent) = watch::channel(0);
        Self {
            datasets: Vec::new(),
            seen: watch::Sender::new(None),
            sent,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Shows the chain to the task.
    pub(crate) fn observe(&self, leader: &Leader) {
        if self.tasks.is_empty() {
            return;
        }
        let (sequence, epoch) = (leader.chain().sequence, leader.epoch());
        let is_news = |seen: &Option<Seen>| {
            seen.as_ref().is_none_or(|seen| seen.sequence != sequence || seen.watch.progress().epoch != epoch)
        };
        self.seen.send_if_modified(|seen| {
            let news = is_news(seen);
            if news {
                let tables = &leader.chain().tables;
                let heads = self.datasets.iter().filter_map(|dataset| {
                    Some((dataset.clone(), tables.get(&quarantine_of(dataset))?.clone()))
                });
                *seen = Some(Seen { sequence, heads: heads.collect(), watch: leader.watch() });
            }
            news
        });
    }

    /// Waits a while until all is sent that `leader` has decided, and ends. What is not sent by then is sent by the next run.
    pub(crate) async fn finish(&mut self, leader: &Leader) {
        if self.tasks.is_empty() {
            return;
        }
        self.observe(leader);
        let sequence = leader.chain().sequence;
        let all_sent = self.sent.wait_for(|sent| *sent >= sequence);
        if !matches!(tokio::time::timeout(FINISH_PATIENCE, all_sent).await, Ok(Ok(_))) {
            warn!("not all dead letters could be sent; the next run goes on where they were left");
        }
        self.stop().await;
    }

    /// Ends the task wherever it is; a transaction under way is given up.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn target(topology: &Topology, spec: &DeadLetterSpec, found: &ClusterInfo) -> Target {
    let topic = found.topics.iter().find(|topic| topic.name == spec.topic);
    let id = topic.and_then(|topic| topic.id.clone());
    let cluster = topology.kafka.cluster_id.clone().or_else(|| found.cluster_id.clone());
    Target {
        // A start without an id of the cluster is refused.
        cluster: cluster.unwrap_or_default(),
        topic: spec.topic.clone(),
        topic_id: id.unwrap_or_else(|| spec.topic.clone()),
        group: spec.group.clone(),
    }
}

/// Sends what is decided, one dataset after the other, until `stop`.
async fn work(
    mut deliveries: Vec<Delivery>,
    mut seen: watch::Receiver<Option<Seen>>,
    sent: watch::Sender<u64>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = send_all(&mut deliveries, &mut seen, &sent) => {}
        () = stop.cancelled() => {}
    }
    // Also gives up what is under way.
    let producers = deliveries.into_iter().filter_map(|delivery| delivery.connection);
    future::join_all(producers.map(|connection| connection.producer.close())).await;
}

async fn send_all(
    deliveries: &mut [Delivery],
    seen: &mut watch::Receiver<Option<Seen>>,
    sent: &watch::Sender<u64>,
) {
    loop {
        let now = seen.borrow_and_update().clone();
        // What is published in a majority can be read, and no later leader can take it back.
        if let Some(now) = now
            && !now.watch.is_superseded()
            && now.watch.published_in_majority(now.sequence).await
        {
            let mut is_all = true;
            for delivery in deliveries.iter_mut() {
                is_all &= delivery.look(&now).await;
            }
            if is_all {
                sent.send_replace(now.sequence);
            }
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// What is known while this process sends.
struct Connection {
    producer: TransactionalProducer,
    log: DecidedLog,
    next: Next,
    /// When Kafka was last told how far it is.
    noted: Instant,
}

/// The dead letters of one dataset, and how far they are.
struct Delivery {
    outlet: Outlet,
    /// `None` before the first look, and after every failure: then Kafka is asked how far it is.
    connection: Option<Connection>,
    /// The version that was to be sent next when there last was a connection.
    sent_before: Option<u64>,
    backoff: Backoff,
}

impl Delivery {
    fn new(outlet: Outlet) -> Self {
        Self { outlet, connection: None, sent_before: None, backoff: Backoff::new(BACKOFF) }
    }

    /// Sends what there is; whether that is everything.
    async fn look(&mut self, now: &Seen) -> bool {
        let Some(head) = now.heads.get(&self.outlet.dataset) else { return true };
        let is_sent = self.backoff.is_over() && self.try_to_send(head, now).await;
        if let Some(connection) = &self.connection {
            self.sent_before = Some(connection.next.version);
        }
        let next = self.sent_before.unwrap_or(self.outlet.spec.from_version);
        let behind = i64::try_from((head.version + 1).saturating_sub(next)).unwrap_or(i64::MAX);
        let Outlet { dataset, metrics, .. } = &self.outlet;
        metrics.dead_letter_versions_behind.with_label_values(&[dataset]).set(behind);
        is_sent
    }

    async fn try_to_send(&mut self, head: &TableHead, now: &Seen) -> bool {
        self.outlet.prefer_answering(&now.watch);
        match self.send_up_to(head, now).await {
            Ok(()) => {
                self.backoff.worked();
                true
            }
            Err(what) => {
                let Outlet { dataset, spec, metrics, .. } = &self.outlet;
                metrics.dead_letter_failures.with_label_values(&[dataset]).inc();
                let topic = &spec.topic;
                warn!(%dataset, %topic, what, "dead letters were not sent, trying again later");
                // The client leaves by itself. What became of its transaction, Kafka tells the next one.
                self.connection = None;
                // Whoever mends the topic lets it take more than before.
                self.outlet.concessions = Concessions::default();
                self.backoff.failed();
                false
            }
        }
    }

    /// Sends all up to `head`.
    async fn send_up_to(&mut self, head: &TableHead, now: &Seen) -> Result<(), Failure> {
        let outlet = &mut self.outlet;
        loop {
            // It stays in its place while something is sent, so that whoever ends this can close it.
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => none.insert(outlet.connect(now).await?),
            };
            let is_whole = connection.log.reach(&outlet.source.clouds, head).await?;
            if !outlet.send_due(connection).await? {
                if let Some(connection) = self.connection.take() {
                    connection.producer.close().await;
                }
                continue;
            }
            let (version, before) = (connection.log.next(), connection.log.before_next());
            if let Some(before) = before.filter(|_| version > connection.next.version) {
                // Nothing of them is to be sent. Kafka is told with what is sent next.
                connection.next = Next::version(version, before);
            }
            if connection.noted.elapsed() >= KEEP_ALIVE {
                let (nothing, next) = (Slice::from(connection.next.row), connection.next.clone());
                outlet.send(connection, nothing, next).await?;
            }
            if is_whole {
                return Ok(());
            }
        }
    }
}

/// The topic that gets the dead letters of one dataset.
struct Outlet {
    dataset: String,
    spec: DeadLetterSpec,
    target: Target,
    /// The quarantine.
    source: Source,
    group: Group,
    kafka: KafkaConfig,
    metrics: Metrics,
    concessions: Concessions,
}

impl Outlet {
    /// Clouds that are away are asked last.
    fn prefer_answering(&mut self, watch: &LeaderWatch) {
        let progress = watch.progress();
        let is_away = |cloud: &Cloud| {
            progress.clouds.iter().any(|progress| progress.away && progress.cloud == cloud.name)
        };
        self.source.clouds.sort_by_key(is_away);
    }

    /// Sends the versions that are due and known; false if another client is to go on.
    async fn send_due(&mut self, connection: &mut Connection) -> Result<bool, Failure> {
        while let Some(due) = connection.log.due_from(connection.next.version) {
            if !self.send_version(connection, &due).await? {
                return Ok(false);
            }
            if self.concessions.one_by_one() {
                // From here on in batches again.
                self.concessions.version_is_sent();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fences whoever sent before, and learns how far that one was.
    async fn connect(&self, now: &Seen) -> Result<Connection, Failure> {
        // One that leads without knowing that it is over would fence whoever follows it, again and again.
        if self.group.is_claimed_by_another(now.watch.progress().epoch).await {
            return Err("another process has claimed to lead: it sends them".to_owned());
        }
        let DeadLetterSpec { topic, group, from_version } = &self.spec;
        let one_by_one = self.concessions.one_by_one();
        let producer = TransactionalProducer::start(&self.kafka, topic, group, one_by_one);
        let producer = producer.map_err(|error| chain_of(&error))?;
        let (clouds, topology) = (&self.source.clouds, &self.group.topology);
        let next = match producer.begin().await.map_err(|error| chain_of(&error))? {
            Some(progress) => Next::read(&progress)?,
            None => {
                if self.target.has_begun(clouds, topology, &self.dataset).await? {
                    return Err(format!(
                        "Kafka has forgotten how far group {group} was, and to send everything again would be twice; {BEGIN_ANEW}"
                    ));
                }
                let first = Next::first(*from_version);
                match producer.send(Vec::new(), first.to_progress()).await {
                    Ok(Sent::Stored) => first,
                    Ok(Sent::Refused { .. }) => return Err("nothing was sent, and is refused".to_owned()),
                    Err(error) => return Err(chain_of(&error)),
                }
            }
        };
        // Also where there is progress: who noted it may have ended before it could leave the mark.
        self.target.begin(clouds, topology, &self.dataset).await?;
        info!(dataset = %self.dataset, topic, version = next.version, row = next.row, "sending dead letters");
        let log = DecidedLog::new(&self.source.table, next.version, next.after.as_deref());
        Ok(Connection { producer, log, next, noted: Instant::now() })
    }

    /// Sends what is left of a version; false if the topic did not take it, and another client is to try.
    async fn send_version(&mut self, connection: &mut Connection, due: &Due) -> Result<bool, Failure> {
        let rows = connection.log.rows_of(&self.source.clouds, due).await?;
        let version = due.version;
        if connection.next.version < version {
            connection.next = Next::version(version, rows.after.as_str());
        }
        let within = |row: u64| Next { version, row, after: Some(rows.after.clone()) };
        let total: u64 = rows.files.iter().map(|file| file.rows).sum();
        let mut slice = Slice::from(connection.next.row);
        let mut row = 0;
        for digest in &rows.files {
            let end = row + digest.rows;
            if end <= slice.next_row() {
                row = end;
                continue;
            }
            let Some(file) = self.fetch(connection, version, digest).await? else {
                let gone = end - slice.next_row().max(row);
                if !self.send(connection, slice, within(end)).await? {
                    return Ok(false);
                }
                self.count_gone(version, gone);
                (slice, row) = (Slice::from(end), end);
                continue;
            };
            let damaged = |why: String| format!("{} of version {version}: {why}", digest.path);
            let mut batches = batches(file).map_err(damaged)?;
            while let Some(batch) = block_in_place(|| batches.next()) {
                let batch = batch.map_err(|error| damaged(error.to_string()))?;
                let stored = StoredRows::new(&batch).map_err(|error| damaged(error.to_string()))?;
                for index in 0..stored.len() {
                    let number = row;
                    row += 1;
                    if number < slice.next_row() {
                        continue;
                    }
                    let origin = Origin { topology: &self.group.topology, dataset: &self.dataset, version };
                    let (record, is_whole) = self.concessions.letter(origin, number, &stored.row(index));
                    slice.push(record, is_whole);
                    if slice.is_full() && row < total {
                        let full = std::mem::replace(&mut slice, Slice::from(row));
                        if !self.send(connection, full, within(row)).await? {
                            return Ok(false);
                        }
                    }
                }
            }
            if row != end {
                return Err(damaged(format!("it has other rows than the {} of the log", digest.rows)));
            }
        }
        self.send(connection, slice, Next::version(version + 1, due.sha256.as_str())).await
    }

    /// Sends `slice`, after which `next` is sent; false if the topic does not take it as it is.
    async fn send(&mut self, connection: &mut Connection, slice: Slice, next: Next) -> Result<bool, Failure> {
        let Slice { first_row, records, whole, .. } = slice;
        let count = records.len() as u64;
        let sent = connection.producer.send(records, next.to_progress()).await;
        match sent.map_err(|error| chain_of(&error))? {
            Sent::Stored => {
                let rows = &self.metrics.dead_letter_rows;
                rows.with_label_values(&[self.dataset.as_str(), "sent"]).inc_by(whole);
                rows.with_label_values(&[self.dataset.as_str(), "sent_in_part"]).inc_by(count - whole);
                debug!(dataset = %self.dataset, rows = count, version = next.version, row = next.row, "dead letters sent");
                (connection.next, connection.noted) = (next, Instant::now());
                Ok(true)
            }
            Sent::Refused { records, refused } => {
                let (dataset, refusals) = (&self.dataset, refused.len());
                let first = refused.first();
                debug!(%dataset, refusals, ?first, "the topic does not take all records as they are");
                match self.concessions.note(&records, first_row, &refused, now_ms()) {
                    true => Ok(false),
                    false => Err(format!(
                        "the topic does not even take what isobar says of a record ({first:?}); see its `max.message.bytes`, and \
                         what it says about timestamps"
                    )),
                }
            }
        }
    }

    /// A file of `version`; `None` if it was deleted on purpose, in every cloud.
    async fn fetch(
        &self,
        connection: &Connection,
        version: u64,
        digest: &FileDigest,
    ) -> Result<Option<File>, Failure> {
        let error = match self.source.fetch(&LiveFile::added_as(digest)).await {
            Ok(file) => return Ok(Some(file)),
            Err(error) => chain_of(&error),
        };
        match connection.log.may_be_deleted(version) && self.is_nowhere(&digest.path).await {
            true => Ok(None),
            false => Err(error),
        }
    }

    /// Whether every cloud says that it does not have the file.
    async fn is_nowhere(&self, path: &str) -> bool {
        let path = decode_log_path(path).ok().and_then(|path| object_path(&self.source.table, &path));
        let Some(path) = path else { return false };
        for cloud in &self.source.clouds {
            if !matches!(cloud.data.head(&path).await, Err(object_store::Error::NotFound { .. })) {
                return false;
            }
        }
        true
    }

    fn count_gone(&self, version: u64, rows: u64) {
        self.metrics.dead_letter_rows.with_label_values(&[self.dataset.as_str(), "gone"]).inc_by(rows);
        let (dataset, topic) = (&self.dataset, &self.spec.topic);
        warn!(
            %dataset, %topic, version, rows,
            "rows were not sent before their file was deleted; they are in the quarantine, and not in the topic"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use isobar_connectors::kafka::TopicInfo;

    use super::*;
    use crate::spec::{self, CheckOptions};

    #[test]
    fn a_topic_of_the_same_name_and_another_id_is_another_target() {
        let text = spec::schema::EXAMPLE.replace(
            "    compression: zstd(1)\n",
            "    compression: zstd(1)\n    dead_letter: { topic: rejected }\n",
        );
        let topology = spec::check_text(&text, "t.yaml", Path::new("/specs"), CheckOptions::default());
        let topology = topology.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(topics(&topology), BTreeSet::from(["rejected".to_owned()]));
        let spec = topology.datasets[0].dead_letter.as_ref().unwrap();
        let found = |id: Option<&str>| {
            let topic = TopicInfo { name: "rejected".into(), id: id.map(str::to_owned), partitions: 1 };
            target(&topology, spec, &ClusterInfo { cluster_id: Some("c".into()), topics: vec![topic] })
        };
        let by_name = found(None);
        assert_eq!((by_name.cluster.as_str(), by_name.topic_id.as_str()), ("c", "rejected"));
        assert_ne!(found(Some("1")), found(Some("2")));
    }
}
