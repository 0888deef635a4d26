//! Rows of tables, sent to Kafka topics as well, for those whose tools watch topics: dead letters, which are the rejected records
//! of a dataset, and published rows, which are those of the dataset itself.
//!
//! ```text
//! decided versions of the table ─▶ those with new rows ─▶ messages, slice by slice ─▶ one transaction per slice:
//!        (log, backwards)                (log)           (letter of a record, row)        the rows and the next row
//! ```
//!
//! What is sent is what the table has: rows go only when their version is decided and published in a majority, read from
//! its files. All of it runs on tasks of its own beside the pipeline, which it never holds up; a topic that takes nothing
//! shows in `isobar_dead_letter_versions_behind` or `isobar_publish_versions_behind`.
//!
//! Guarantee: whoever reads committed records only sees every row once that was added since the first version sent,
//! however often leaders change, die or believe that they lead. The next row is stored in the transaction of the rows before
//! it ([`TransactionalProducer`](isobar_connectors::kafka::TransactionalProducer)), a leader that begins fences the one before,
//! and which rows are sent does not depend on who sends: the same rows of the same files in the same order. What compaction
//! moves is not sent again, nor what redrives move within a quarantine; what they bring into a dataset is new there. Rows whose
//! files a VACUUM has deleted before they were sent cannot be sent any more; they are counted and logged, and still in the table.
//! Failure: what goes wrong is a warning and tried again later, from where Kafka says that it is.

mod begun;
mod delivery;
mod found;
mod letter;
mod log;
mod outlet;
mod row;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future;
use prometheus::{IntCounterVec, IntGaugeVec};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub(crate) use self::found::{dead_letter_topics, find, outlets, published_topics};
pub(crate) use self::outlet::Outlet;

use self::delivery::Delivery;
use crate::commit::{Leader, LeaderWatch, TableHead, quarantine_of};
use crate::metrics::Metrics;

/// How often it is looked whether there is something to do, beside every decision.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a run that ends when it has caught up waits until all is sent.
const FINISH_PATIENCE: Duration = Duration::from_secs(60);

/// What is sent of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The records that it has rejected, as they came.
    DeadLetters,
    /// Its rows.
    Rows,
}

/// What is said of a kind in the log.
struct Words {
    sending: &'static str,
    sent: &'static str,
    unsent: &'static str,
    gone: &'static str,
}

/// What is counted of a kind, all of it by dataset.
#[derive(Debug, Clone)]
struct Meters {
    versions_behind: IntGaugeVec,
    /// By outcome too.
    rows: IntCounterVec,
    failures: IntCounterVec,
}

impl Kind {
    /// The table of `dataset` whose rows are sent.
    fn table_of(self, dataset: &str) -> String {
        match self {
            Self::DeadLetters => quarantine_of(dataset),
            Self::Rows => dataset.to_owned(),
        }
    }

    fn words(self) -> &'static Words {
        match self {
            Self::DeadLetters => &Words {
                sending: "sending dead letters",
                sent: "dead letters sent",
                unsent: "dead letters were not sent, trying again later",
                gone: "rows were not sent before their file was deleted; they are in the quarantine, and not in the topic",
            },
            Self::Rows => &Words {
                sending: "publishing rows",
                sent: "rows published",
                unsent: "rows were not published, trying again later",
                gone: "rows were not published before their file was deleted; they are in the dataset, and not in the topic",
            },
        }
    }

    fn meters(self, metrics: &Metrics) -> Meters {
        let (versions_behind, rows, failures) = match self {
            Self::DeadLetters => (
                &metrics.dead_letter_versions_behind,
                &metrics.dead_letter_rows,
                &metrics.dead_letter_failures,
            ),
            Self::Rows => {
                (&metrics.publish_versions_behind, &metrics.publish_rows, &metrics.publish_failures)
            }
        };
        Meters { versions_behind: versions_behind.clone(), rows: rows.clone(), failures: failures.clone() }
    }
}

/// What is decided about the tables, as the leader last had it.
#[derive(Debug, Clone)]
struct Seen {
    sequence: u64,
    /// By table.
    heads: BTreeMap<String, TableHead>,
    watch: LeaderWatch,
}

/// What is sent to topics, as the pipeline sees it.
#[derive(Debug)]
pub(crate) struct Letters {
    /// The tables of which something is sent.
    tables: Vec<String>,
    seen: watch::Sender<Option<Seen>>,
    /// Up to which decision everything was sent, by task.
    sent: Vec<watch::Receiver<u64>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Letters {
    /// Begins to send through `outlets`. Dead letters and rows have a task each, since a dataset that is sent from its beginning
    /// takes its time; and so has another cluster than the one that is read, which may be away.
    pub(crate) fn start(outlets: Vec<Outlet>) -> Self {
        let tables = outlets.iter().map(|outlet| outlet.table().to_owned()).collect();
        let (elsewhere, here): (Vec<Outlet>, Vec<Outlet>) =
            outlets.into_iter().partition(Outlet::is_elsewhere);
        let (letters, rows): (Vec<Outlet>, Vec<Outlet>) =
            here.into_iter().partition(|outlet| outlet.kind == Kind::DeadLetters);
        let shares = elsewhere.into_iter().map(|outlet| vec![outlet]).chain([letters, rows]);
        let (seen, stop) = (watch::Sender::new(None), CancellationToken::new());
        let (mut sent, mut tasks) = (Vec::new(), JoinSet::new());
        for share in shares.filter(|share| !share.is_empty()) {
            let (tells, told) = watch::channel(0);
            let deliveries = share.into_iter().map(Delivery::new).collect();
            tasks.spawn(work(deliveries, seen.subscribe(), tells, stop.clone()));
            sent.push(told);
        }
        Self { tables, seen, sent, stop, tasks }
    }

    /// Nothing is sent at all.
    pub(crate) fn none() -> Self {
        Self::start(Vec::new())
    }

    /// Shows the chain to the tasks.
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
                let heads =
                    self.tables.iter().filter_map(|table| Some((table.clone(), tables.get(table)?.clone())));
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
        // What is waited for is not held: whoever tells would have to wait.
        let waits = self
            .sent
            .iter_mut()
            .map(|sent| async move { sent.wait_for(|sent| *sent >= sequence).await.is_ok() });
        let all_sent = future::join_all(waits);
        let are_sent = tokio::time::timeout(FINISH_PATIENCE, all_sent).await;
        if !are_sent.is_ok_and(|sent| sent.into_iter().all(|is_sent| is_sent)) {
            warn!(
                "not all dead letters and published rows could be sent; the next run goes on where they were left"
            );
        }
        self.stop().await;
    }

    /// Ends the tasks wherever they are; a transaction under way is given up.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Sends what is decided, one table after the other, until `stop`.
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
    future::join_all(deliveries.into_iter().map(Delivery::close)).await;
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
