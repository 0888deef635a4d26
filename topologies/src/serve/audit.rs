//! The log of queries: every question becomes a record of a Kafka topic, and from there, by an ordinary topology
//! (`topologies/query_audit`), a row of a dataset in every cloud.
//!
//! ```text
//! best effort  question ───────────────────────────────────────▶ answer ─▶ `ended` ─▶ Kafka
//! required     question ─▶ `begun` ─▶ Kafka ─▶ it is stored ─▶ answer ─▶ `ended` ─▶ Kafka
//! ```
//!
//! A question is what was asked to be run, or was refused before. With `required`, no row of an answer leaves before it is stored
//! who asks what: a question that cannot be written down in time is refused, and of a server that died `begun` is left without
//! `ended`. Otherwise nobody waits for the log.
//!
//! **Bounds.** Texts are cut, and so many records may be on their way. With `required`, a question keeps places for both of its
//! records from the beginning, so that there is room for the second; otherwise a record for which there is none is lost.
//! Whatever is lost is counted (`isobar_serve_audit_records_total{outcome="lost"}`), and logged when that begins.
//!
//! Values of parameters are only written where the specification says so. The text of a query is written as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::common::{ParamValues, ScalarValue};
use isobar_connectors::kafka::RecordSender;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};
use uuid::Uuid;

use super::metrics::Metrics;
use super::{Caller, Question, Refusal};
use crate::error::Error;
use crate::query::TableVersion;
use crate::spec::Topology;
use crate::spec::serve::AuditSpec;
use crate::start::{Budget, kafka_config};

/// How long Kafka may take to store a record that nobody insists on.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(300);
/// Values of parameters that are written, at most.
const PARAMETERS_MAX: usize = 100;

/// Where records go.
#[derive(Debug)]
pub(super) struct Audit {
    sender: Arc<RecordSender>,
    spec: AuditSpec,
    topology: String,
    /// Tells this start of a server from all others.
    server: String,
    /// Of records on their way.
    places: Arc<Semaphore>,
    delivery: Arc<Delivery>,
}

/// What became of records.
#[derive(Debug)]
struct Delivery {
    metrics: Metrics,
    is_losing: AtomicBool,
}

/// Who asks what.
#[derive(Debug)]
pub(super) struct Subject {
    caller: String,
    role: String,
    protocol: &'static str,
    /// The beginning of it, if it is long.
    sql: String,
    sql_bytes: u64,
    parameters: Option<Vec<Option<String>>>,
}

/// A record as it is sent.
#[derive(Debug, Serialize)]
struct Record<'a> {
    id: String,
    event: &'static str,
    asked_at: String,
    topology: &'a str,
    server: &'a str,
    caller: &'a str,
    role: &'a str,
    protocol: &'a str,
    sql: &'a str,
    sql_bytes: u64,
    parameters: Option<&'a [Option<String>]>,
    versions: Vec<Version<'a>>,
    answer_rows: Option<u64>,
    answer_bytes: Option<u64>,
    milliseconds: Option<f64>,
    outcome: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Version<'a> {
    table: &'a str,
    version: u64,
    cloud: &'a str,
}

impl Audit {
    /// The log that `spec` of `topology` describes. Connects in the background.
    ///
    /// # Errors
    /// [`Error::Configuration`] for options of Kafka that are wrong or lead nowhere.
    pub(super) fn open(topology: &Topology, spec: &AuditSpec, metrics: &Metrics) -> Result<Arc<Self>, Error> {
        let config = kafka_config(topology, &Budget::new(topology.memory_bytes_max))?;
        let patience = (!spec.required).then_some(DELIVERY_PATIENCE);
        let sender = RecordSender::start(&config, &spec.topic, patience)
            .map_err(|error| Error::connector("open the log of queries", error))?;
        Ok(Arc::new(Self {
            sender: Arc::new(sender),
            places: Arc::new(Semaphore::new(spec.buffer)),
            spec: spec.clone(),
            topology: topology.name.clone(),
            server: Uuid::new_v4().to_string(),
            delivery: Arc::new(Delivery { metrics: metrics.clone(), is_losing: AtomicBool::new(false) }),
        }))
    }

    /// What is written of `question`.
    pub(super) fn subject(&self, caller: &Caller, question: &Question) -> Arc<Subject> {
        Arc::new(Subject {
            caller: caller.name.clone(),
            role: caller.role.name.clone(),
            protocol: question.protocol.word(),
            sql: cut(&question.sql, self.spec.sql_bytes).to_owned(),
            sql_bytes: question.sql.len() as u64,
            parameters: question.parameters.as_ref().and_then(|values| self.parameters(values)),
        })
    }

    /// The texts of values, if they may be written: together no longer than that of a query.
    fn parameters(&self, values: &ParamValues) -> Option<Vec<Option<String>>> {
        if !self.spec.parameters {
            return None;
        }
        let mut left = self.spec.sql_bytes;
        let mut text = |name: Option<&str>, value: &ScalarValue| {
            if value.is_null() && name.is_none() {
                return None;
            }
            let text = name.map_or_else(|| value.to_string(), |name| format!("{name}={value}"));
            let text = cut(&text, left).to_owned();
            left -= text.len();
            Some(text)
        };
        Some(match values {
            ParamValues::List(values) => {
                values.iter().take(PARAMETERS_MAX).map(|value| text(None, &value.value)).collect()
            }
            ParamValues::Map(values) => {
                let mut named: Vec<_> = values.iter().collect();
                named.sort_by_key(|(name, _)| *name);
                let named = named.into_iter().take(PARAMETERS_MAX);
                named.map(|(name, value)| text(Some(name.as_str()), &value.value)).collect()
            }
        })
    }

    /// A question that begins, of which `planned_in` was taken before.
    pub(super) fn entry(self: &Arc<Self>, subject: Arc<Subject>, planned_in: Duration) -> Entry {
        Entry {
            audit: self.clone(),
            id: Uuid::new_v4(),
            subject,
            parameters: None,
            versions: Vec::new(),
            asked_at: Utc::now(),
            since: Instant::now(),
            planned_in,
            rows: 0,
            bytes: 0,
            place: None,
            is_over: false,
        }
    }

    /// Waits until what is on its way is stored, no longer than `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        let sender = self.sender.clone();
        let flushed = tokio::task::spawn_blocking(move || sender.flush(patience)).await;
        if !flushed.unwrap_or(false) {
            let records = self.spec.buffer - self.places.available_permits();
            warn!(records, topic = self.spec.topic, "not all records of queries were stored before the end");
        }
    }

    /// Sends a record, which has a place until it is known what became of it.
    fn send(&self, record: &Record<'_>, place: OwnedSemaphorePermit, stored: Option<oneshot::Sender<()>>) {
        let payload = match serde_json::to_vec(record) {
            Ok(payload) => payload,
            Err(error) => return self.delivery.lost(&error.to_string()),
        };
        let delivery = self.delivery.clone();
        delivery.metrics.audit_begins();
        let told = move |result: Result<(), String>| {
            delivery.metrics.audit_ends();
            match result {
                Ok(()) => {
                    delivery.stored();
                    // Nobody may wait for it any more.
                    let _ = stored.map(|stored| stored.send(()));
                }
                Err(why) => delivery.lost(&why),
            }
            drop(place);
        };
        self.sender.send(record.id.as_bytes(), &payload, Box::new(told));
    }
}

impl Delivery {
    fn stored(&self) {
        self.metrics.audited("stored");
        if self.is_losing.swap(false, Ordering::Relaxed) {
            info!("records of queries are stored again");
        }
    }

    fn lost(&self, why: &str) {
        self.metrics.audited("lost");
        if !self.is_losing.swap(true, Ordering::Relaxed) {
            warn!(why, "records of queries are lost");
        }
    }
}

/// A question on its way into the log. One that is dropped before it has ended was cancelled.
#[derive(Debug)]
pub(super) struct Entry {
    audit: Arc<Audit>,
    id: Uuid,
    subject: Arc<Subject>,
    /// Those that were given when it was run.
    parameters: Option<Vec<Option<String>>>,
    versions: Vec<TableVersion>,
    asked_at: DateTime<Utc>,
    since: Instant,
    planned_in: Duration,
    rows: u64,
    bytes: u64,
    /// For the record of the end, if it was kept.
    place: Option<OwnedSemaphorePermit>,
    is_over: bool,
}

impl Entry {
    /// What is run, and at which versions.
    pub(super) fn of_run(mut self, parameters: Option<&ParamValues>, versions: &[TableVersion]) -> Self {
        self.parameters = parameters.and_then(|values| self.audit.parameters(values));
        self.versions = versions.to_vec();
        self
    }

    /// Returns when it is stored who asks what, if that is required.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if that cannot be done in time.
    pub(super) async fn begun(&mut self) -> Result<(), Refusal> {
        if !self.audit.spec.required {
            return Ok(());
        }
        let deadline = Instant::now() + self.audit.spec.patience;
        let unwritten = || {
            let why =
                "the log of queries cannot be written now, and no question is answered without: try again";
            Refusal::Unavailable(why.to_owned())
        };
        // One for each of its two records.
        let places = timeout_at(deadline, self.audit.places.clone().acquire_many_owned(2)).await;
        let mut places = places.map_err(|_| unwritten())?.map_err(|_| unwritten())?;
        self.place = places.split(1);
        let (stores, stored) = oneshot::channel();
        self.audit.send(&self.record("begun", None), places, Some(stores));
        timeout_at(deadline, stored).await.map_err(|_| unwritten())?.map_err(|_| unwritten())
    }

    /// Counts rows of the answer.
    pub(super) fn rows(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
    }

    /// It has ended so. Only the first word counts.
    pub(super) fn ended(&mut self, outcome: &str) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        match self.place.take().or_else(|| self.audit.places.clone().try_acquire_owned().ok()) {
            Some(place) => self.audit.send(&self.record("ended", Some(outcome)), place, None),
            None => self.audit.delivery.lost("too many are on their way"),
        }
    }

    /// Nothing is written of it.
    pub(super) fn forget(mut self) {
        self.is_over = true;
    }

    fn record<'a>(&'a self, event: &'static str, outcome: Option<&'a str>) -> Record<'a> {
        let Subject { caller, role, protocol, sql, sql_bytes, parameters } = &*self.subject;
        let versions = self.versions.iter().map(|version| Version {
            table: &version.table,
            version: version.version,
            cloud: &version.cloud,
        });
        let took = self.planned_in + self.since.elapsed();
        Record {
            id: self.id.to_string(),
            event,
            asked_at: self.asked_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            topology: &self.audit.topology,
            server: &self.audit.server,
            caller,
            role,
            protocol,
            sql,
            sql_bytes: *sql_bytes,
            parameters: self.parameters.as_deref().or(parameters.as_deref()),
            versions: versions.collect(),
            answer_rows: outcome.map(|_| self.rows),
            answer_bytes: outcome.map(|_| self.bytes),
            milliseconds: outcome.map(|_| took.as_micros() as f64 / 1000.0),
            outcome,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ended("cancelled");
    }
}

/// The beginning of `text`, of at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests;
