//! Records that a server writes to a topic of Kafka: what the log of queries and that of served vectors have in common.
//!
//! So much may be on its way. Whoever writes takes room for a record first, which is free again when it is known what became of
//! it. What is lost is counted and logged: when that begins, from time to time how many there were, and when it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isobar_connectors::kafka::RecordSender;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{info, warn};

use crate::error::Error;
use crate::metrics::register;
use crate::spec::Topology;
use crate::start::{Budget, kafka_config};

/// How long Kafka may take to store a record that nobody insists on.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(300);
/// How often it is logged that records are lost, at most.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct RecordLog {
    sender: Arc<RecordSender>,
    topic: String,
    room: Arc<Semaphore>,
    delivery: Arc<Delivery>,
}

/// The metrics of a log.
#[derive(Debug, Clone)]
pub(super) struct LogMetrics {
    records: IntCounterVec,
    waiting: IntGauge,
}

/// What became of records.
#[derive(Debug)]
struct Delivery {
    /// What the records are of, for people.
    of: &'static str,
    metrics: LogMetrics,
    is_losing: AtomicBool,
    losses: Mutex<Losses>,
}

/// Records that were lost.
#[derive(Debug, Default)]
struct Losses {
    /// When the last one was.
    last: Option<Instant>,
    /// When that was logged.
    said: Option<Instant>,
    /// How many were since then.
    unsaid: u64,
}

impl LogMetrics {
    /// Registers `<name>_records_total` and `<name>_records_waiting`, of the log that people call `log`.
    pub(super) fn new(registry: &Registry, name: &str, log: &str) -> Self {
        let records = Opts::new(
            format!("{name}_records_total"),
            format!("Records of {log} by what became of them: `stored` or `lost`."),
        );
        let waiting = IntGauge::new(
            format!("{name}_records_waiting"),
            format!("Records of {log} that Kafka has not stored yet."),
        );
        Self {
            records: register(registry, IntCounterVec::new(records, &["outcome"])),
            waiting: register(registry, waiting),
        }
    }
}

impl RecordLog {
    /// That of records `of` something to `topic`, with `room` for those on their way. Kafka is asked without end to store records
    /// that are `required`. Connects in the background.
    ///
    /// # Errors
    /// [`Error::Configuration`] for options of Kafka that are wrong or lead nowhere.
    pub(super) fn open(
        topology: &Topology,
        of: &'static str,
        topic: &str,
        required: bool,
        room: usize,
        metrics: LogMetrics,
    ) -> Result<Self, Error> {
        let config = kafka_config(topology, &Budget::new(topology.memory_bytes_max))?;
        let patience = (!required).then_some(DELIVERY_PATIENCE);
        let sender = RecordSender::start(&config, topic, patience)
            .map_err(|error| Error::connector(format!("open the log of {of}"), error))?;
        let (is_losing, losses) = (AtomicBool::new(false), Mutex::default());
        Ok(Self {
            sender: Arc::new(sender),
            topic: topic.to_owned(),
            room: Arc::new(Semaphore::new(room)),
            delivery: Arc::new(Delivery { of, metrics, is_losing, losses }),
        })
    }

    /// The room for records on their way.
    pub(super) fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    /// Sends a record, which has its place until it is known what became of it. `stored` is told if it is stored, and dropped if not.
    pub(super) fn send(
        &self,
        key: &str,
        record: &impl Serialize,
        place: OwnedSemaphorePermit,
        stored: Option<oneshot::Sender<()>>,
    ) {
        let payload = match serde_json::to_vec(record) {
            Ok(payload) => payload,
            Err(error) => return self.lost(1, &error.to_string()),
        };
        let delivery = self.delivery.clone();
        delivery.metrics.waiting.inc();
        let told = move |result: Result<(), String>| {
            delivery.metrics.waiting.dec();
            match result {
                Ok(()) => {
                    delivery.stored(Instant::now());
                    // Nobody may wait for it any more.
                    let _ = stored.map(|stored| stored.send(()));
                }
                Err(why) => delivery.lost(1, &why, Instant::now()),
            }
            drop(place);
        };
        self.sender.send(key.as_bytes(), &payload, Box::new(told));
    }

    /// So many records cannot be sent.
    pub(super) fn lost(&self, records: u64, why: &str) {
        self.delivery.lost(records, why, Instant::now());
    }

    /// Waits until what was sent is stored, no longer than `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        let sender = self.sender.clone();
        let flushed = tokio::task::spawn_blocking(move || sender.flush(patience)).await;
        if !flushed.unwrap_or(false) {
            let Delivery { of, metrics, .. } = &*self.delivery;
            let (records, topic) = (metrics.waiting.get(), &self.topic);
            warn!(records, topic, "not all records of {of} were stored before the end");
        }
    }
}

impl Delivery {
    fn stored(&self, now: Instant) {
        self.metrics.records.with_label_values(&["stored"]).inc();
        if !self.is_losing.load(Ordering::Relaxed) {
            return;
        }
        let mut losses = self.lock();
        // Not where some are stored and others are lost.
        if losses.last.is_some_and(|last| now.duration_since(last) >= SAID_EVERY) {
            let lost = losses.unsaid;
            *losses = Losses::default();
            self.is_losing.store(false, Ordering::Relaxed);
            info!(lost, "records of {} are stored again", self.of);
        }
    }

    fn lost(&self, records: u64, why: &str, now: Instant) {
        self.metrics.records.with_label_values(&["lost"]).inc_by(records);
        let mut losses = self.lock();
        losses.last = Some(now);
        losses.unsaid += records;
        self.is_losing.store(true, Ordering::Relaxed);
        if losses.said.is_none_or(|said| now.duration_since(said) >= SAID_EVERY) {
            let lost = std::mem::take(&mut losses.unsaid);
            losses.said = losses.last;
            warn!(lost, why, "records of {} are lost", self.of);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        let metrics = LogMetrics::new(&Registry::new(), "log", "the log of tests");
        Delivery { of: "tests", metrics, is_losing: AtomicBool::new(false), losses: Mutex::default() }
    }

    #[test]
    fn every_record_is_counted_and_what_is_lost_is_said_now_and_then() {
        let delivery = delivery();
        let unsaid = || delivery.lock().unsaid;
        let start = Instant::now();
        delivery.lost(3, "no room", start);
        assert_eq!(unsaid(), 0, "the first is said at once");
        for _ in 0..5 {
            delivery.lost(1, "no room", start);
            delivery.stored(start);
        }
        assert_eq!((unsaid(), delivery.is_losing.load(Ordering::Relaxed)), (5, true));
        let later = start + SAID_EVERY;
        delivery.lost(1, "no room", later);
        assert_eq!(unsaid(), 0);
        let over = later + SAID_EVERY;
        delivery.stored(over);
        assert!(!delivery.is_losing.load(Ordering::Relaxed), "it is over");
        delivery.lost(1, "no room", over);
        assert_eq!(unsaid(), 0, "the next time begins anew");
        let count = |outcome: &str| delivery.metrics.records.with_label_values(&[outcome]).get();
        assert_eq!((count("lost"), count("stored")), (10, 6));
    }
}
