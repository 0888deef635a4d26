//! How far the rows of one table are that are sent, and what is done when sending fails.

use std::time::Duration;

use isobar_connectors::kafka::TransactionalProducer;
use tracing::warn;

use super::Seen;
use super::begun::Next;
use super::letter::Slice;
use super::log::DecidedLog;
use super::outlet::Outlet;
use crate::backoff::Backoff;
use crate::commit::TableHead;
use crate::maintain::Failure;

/// First and longest pause after sending has failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What is known while this process sends.
pub(super) struct Connection {
    pub(super) producer: TransactionalProducer,
    pub(super) log: DecidedLog,
    pub(super) next: Next,
}

/// See the [module](self).
pub(super) struct Delivery {
    outlet: Outlet,
    /// `None` before the first look, and after every failure: then Kafka is asked how far it is.
    connection: Option<Connection>,
    /// The version that was to be sent next when there last was a connection.
    sent_before: Option<u64>,
    backoff: Backoff,
}

impl Delivery {
    pub(super) fn new(outlet: Outlet) -> Self {
        Self { outlet, connection: None, sent_before: None, backoff: Backoff::new(BACKOFF) }
    }

    /// Leaves, and gives up what is under way.
    pub(super) async fn close(self) {
        if let Some(connection) = self.connection {
            connection.producer.close().await;
        }
    }

    /// Sends what there is; whether that is everything.
    pub(super) async fn look(&mut self, now: &Seen) -> bool {
        let Some(head) = now.heads.get(self.outlet.table()) else { return true };
        let is_sent = self.backoff.is_over() && self.try_to_send(head, now).await;
        if let Some(connection) = &self.connection {
            self.sent_before = Some(connection.next.version);
        }
        let next = self.sent_before.unwrap_or(self.outlet.from_version);
        self.outlet.tell_behind(next, head.version);
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
                let Outlet { dataset, topic, meters, kind, .. } = &self.outlet;
                meters.failures.with_label_values(&[dataset]).inc();
                let unsent = kind.words().unsent;
                warn!(%dataset, %topic, what, "{unsent}");
                // The client leaves by itself. What became of its transaction, Kafka tells the next one.
                self.connection = None;
                // Whoever mends the topic lets it take more than before.
                self.outlet.forget_concessions();
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
            let is_whole = connection.log.reach(outlet.clouds(), head).await?;
            if !outlet.send_due(connection, head.version).await? {
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
            if outlet.is_to_be_noted() {
                let (nothing, next) = (Slice::from(connection.next.row), connection.next.clone());
                outlet.send(connection, nothing, next).await?;
            }
            if is_whole {
                return Ok(());
            }
        }
    }
}
