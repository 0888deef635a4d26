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
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::common::{ParamValues, ScalarValue};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::record_log::{LogMetrics, RecordLog};
use super::{Caller, Question, Refusal};
use crate::error::Error;
use crate::query::TableVersion;
use crate::spec::Topology;
use crate::spec::serve::AuditSpec;

/// Values of parameters that are written, at most.
const PARAMETERS_MAX: usize = 100;

/// Where records go.
#[derive(Debug)]
pub(super) struct Audit {
    /// With a place for each record on its way.
    log: RecordLog,
    spec: AuditSpec,
    topology: String,
    /// Tells this start of a server from all others.
    server: String,
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
    pub(super) fn open(
        topology: &Topology,
        spec: &AuditSpec,
        metrics: LogMetrics,
    ) -> Result<Arc<Self>, Error> {
        let log = RecordLog::open(topology, "queries", &spec.topic, spec.required, spec.buffer, metrics)?;
        Ok(Arc::new(Self {
            log,
            spec: spec.clone(),
            topology: topology.name.clone(),
            server: Uuid::new_v4().to_string(),
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
        self.log.close(patience).await;
    }

    /// Sends a record, which has a place until it is known what became of it.
    fn send(&self, record: &Record<'_>, place: OwnedSemaphorePermit, stored: Option<oneshot::Sender<()>>) {
        self.log.send(&record.id, record, place, stored);
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
        let places = timeout_at(deadline, self.audit.log.room().clone().acquire_many_owned(2)).await;
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
        match self.place.take().or_else(|| self.audit.log.room().clone().try_acquire_owned().ok()) {
            Some(place) => self.audit.send(&self.record("ended", Some(outcome)), place, None),
            None => self.audit.log.lost(1, "too many are on their way"),
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
