//! A topic that gets the rows of one table, and how they are sent there.

use std::fs::File;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::FileDigest;
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::kafka::{KafkaConfig, OutgoingRecord, Refusal, Sent, TransactionalProducer};
use object_store::ObjectStoreExt;
use tokio::task::block_in_place;
use tracing::{debug, info, warn};

use super::begun::{BEGIN_ANEW, Next};
use super::delivery::Connection;
use super::found::Place;
use super::letter::{Concessions, Origin, Slice, bytes_of};
use super::log::{DecidedLog, Due};
use super::row::{FolderValues, RowLetters};
use super::{Kind, Meters, Seen};
use crate::chain_of;
use crate::commit::{Group, LeaderWatch};
use crate::maintain::Failure;
use crate::pipeline::now_ms;
use crate::prove::objects::object_path;
use crate::quarantine::StoredRows;
use crate::redrive::source::{LiveFile, Source, batches};

/// How often the progress is noted again while there is nothing that can be sent: Kafka forgets it after a week.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// Rows that are made messages at a time.
const ROWS_AT_A_TIME: usize = 256;

/// See the [module](self).
pub(crate) struct Outlet {
    pub(super) kind: Kind,
    pub(super) dataset: String,
    pub(super) topic: String,
    /// The group that keeps the progress, and the transactional id.
    pub(super) name: String,
    /// The version to begin with.
    pub(super) from_version: u64,
    pub(super) place: Place,
    /// How rows become messages; `None`: they are those of a quarantine, and become the records that they were.
    pub(super) rows: Option<RowLetters>,
    /// The table.
    pub(super) source: Source,
    pub(super) group: Group,
    pub(super) kafka: KafkaConfig,
    pub(super) meters: Meters,
    pub(super) concessions: Concessions,
    /// When this process last told Kafka how far it is.
    pub(super) noted: Option<Instant>,
}

impl Outlet {
    /// The table whose rows are sent.
    pub(super) fn table(&self) -> &str {
        &self.source.table
    }

    /// Whether the topic is of another cluster than the one that is read.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.place, Place::Elsewhere(_))
    }

    pub(super) fn clouds(&self) -> &[Cloud] {
        &self.source.clouds
    }

    /// Whoever mends the topic lets it take more than before.
    pub(super) fn forget_concessions(&mut self) {
        self.concessions.forget();
    }

    /// Whether Kafka is to be told again how far it is.
    pub(super) fn is_to_be_noted(&self) -> bool {
        self.noted.is_none_or(|noted| noted.elapsed() >= KEEP_ALIVE)
    }

    /// Says how many versions are not sent yet, of those up to `last`.
    pub(super) fn tell_behind(&self, next: u64, last: u64) {
        let behind = i64::try_from((last + 1).saturating_sub(next)).unwrap_or(i64::MAX);
        self.meters.versions_behind.with_label_values(&[&self.dataset]).set(behind);
    }

    /// Clouds that are away are asked last.
    pub(super) fn prefer_answering(&mut self, watch: &LeaderWatch) {
        let progress = watch.progress();
        let is_away = |cloud: &Cloud| {
            progress.clouds.iter().any(|progress| progress.away && progress.cloud == cloud.name)
        };
        self.source.clouds.sort_by_key(is_away);
    }

    /// Sends the versions that are due and known, of those up to `last`; false if another client is to go on.
    pub(super) async fn send_due(&mut self, connection: &mut Connection, last: u64) -> Result<bool, Failure> {
        while let Some(due) = connection.log.due_from(connection.next.version) {
            self.tell_behind(due.version, last);
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
    pub(super) async fn connect(&mut self, now: &Seen) -> Result<Connection, Failure> {
        let Self { dataset, topic, name, .. } = &*self;
        let target = match &self.place {
            Place::Found(target) => target.clone(),
            Place::Elsewhere(elsewhere) => elsewhere.find(&self.kafka, topic, name).await?,
        };
        // One that leads without knowing that it is over would fence whoever follows it, again and again.
        if self.group.is_claimed_by_another(now.watch.progress().epoch).await {
            return Err("another process has claimed to lead: it sends them".to_owned());
        }
        let one_by_one = self.concessions.one_by_one();
        let producer = TransactionalProducer::start(&self.kafka, topic, name, one_by_one);
        let producer = producer.map_err(|error| chain_of(&error))?;
        let (clouds, topology) = (&self.source.clouds, &self.group.topology);
        let progress = producer.begin().await.map_err(|error| chain_of(&error))?;
        let next = match &progress {
            Some(progress) => Next::read(progress)?,
            None => {
                if target.has_begun(clouds, topology, dataset).await? {
                    return Err(format!(
                        "Kafka has forgotten how far group {name} was, and to send everything again would be twice; {BEGIN_ANEW}"
                    ));
                }
                Next::first(self.from_version)
            }
        };
        // Also where there is progress: what comes next may be what the topic does not take, for longer than Kafka remembers.
        let is_noted = progress.is_none() || self.is_to_be_noted();
        if is_noted {
            match producer.send(Vec::new(), next.to_progress()).await {
                Ok(Sent::Stored) => {}
                Ok(Sent::Refused { .. }) => return Err("nothing was sent, and is refused".to_owned()),
                Err(error) => return Err(chain_of(&error)),
            }
        }
        // Also where there is progress: who noted it may have ended before it could leave the mark.
        target.begin(clouds, topology, dataset).await?;
        let sending = self.kind.words().sending;
        info!(%dataset, topic, version = next.version, row = next.row, "{sending}");
        let log = DecidedLog::new(&self.source.table, next.version, next.after.as_deref());
        let log = match self.kind {
            Kind::DeadLetters => log,
            Kind::Rows => log.with_redriven_rows(),
        };
        if is_noted {
            self.noted = Some(Instant::now());
        }
        Ok(Connection { producer, log, next })
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
            let values =
                rows.values.get(&digest.path).ok_or_else(|| damaged("the log does not add it".into()))?;
            while let Some(batch) = block_in_place(|| batches.next()) {
                let batch = batch.map_err(|error| damaged(error.to_string()))?;
                let sent_before = slice.next_row().saturating_sub(row).min(batch.num_rows() as u64);
                row += sent_before;
                // At most as many as there are rows in a batch.
                let mut at = sent_before as usize;
                while at < batch.num_rows() {
                    let piece = batch.slice(at, ROWS_AT_A_TIME.min(batch.num_rows() - at));
                    at += piece.num_rows();
                    let letters = block_in_place(|| self.letters(version, row, &piece, values));
                    for (record, is_whole) in letters.map_err(damaged)? {
                        row += 1;
                        slice.push(record, is_whole);
                        if slice.is_full() && row < total {
                            let full = std::mem::replace(&mut slice, Slice::from(row));
                            if !self.send(connection, full, within(row)).await? {
                                return Ok(false);
                            }
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

    /// The messages for `rows` of a file with these `values`, the first of which is row `first` of `version`, and whether each is
    /// all that it should be.
    fn letters(
        &self,
        version: u64,
        first: u64,
        rows: &RecordBatch,
        values: &FolderValues,
    ) -> Result<Vec<(OutgoingRecord, bool)>, Failure> {
        let origin = Origin { topology: &self.group.topology, dataset: &self.dataset, version };
        if let Some(letters) = &self.rows {
            let records = letters.letters(origin, rows, values)?;
            return Ok(records.into_iter().map(|record| (record, true)).collect());
        }
        let stored = StoredRows::new(rows).map_err(|error| error.to_string())?;
        let numbered = (first..).zip(0..stored.len());
        let letter = |(number, index)| self.concessions.letter(origin, number, &stored.row(index));
        Ok(numbered.map(letter).collect())
    }

    /// Sends `slice`, after which `next` is sent; false if the topic does not take it as it is.
    pub(super) async fn send(
        &mut self,
        connection: &mut Connection,
        slice: Slice,
        next: Next,
    ) -> Result<bool, Failure> {
        let Slice { first_row, records, whole, .. } = slice;
        let count = records.len() as u64;
        let sent = connection.producer.send(records, next.to_progress()).await;
        match sent.map_err(|error| chain_of(&error))? {
            Sent::Stored => {
                let (dataset, rows) = (self.dataset.as_str(), &self.meters.rows);
                rows.with_label_values(&[dataset, "sent"]).inc_by(whole);
                if self.concessions.are_possible() {
                    rows.with_label_values(&[dataset, "sent_in_part"]).inc_by(count - whole);
                }
                let sent = self.kind.words().sent;
                debug!(dataset, rows = count, version = next.version, row = next.row, "{sent}");
                (connection.next, self.noted) = (next, Some(Instant::now()));
                Ok(true)
            }
            Sent::Refused { records, refused } => {
                let (dataset, refusals) = (&self.dataset, refused.len());
                let first = refused.first();
                debug!(%dataset, refusals, ?first, "the topic does not take all records as they are");
                match self.concessions.note(&records, first_row, &refused, now_ms()) {
                    true => Ok(false),
                    false => {
                        Err(self.why_stuck(connection.next.version, &records, first_row, refused.first()))
                    }
                }
            }
        }
    }

    fn why_stuck(
        &self,
        version: u64,
        records: &[OutgoingRecord],
        first_row: u64,
        first: Option<&(usize, Refusal)>,
    ) -> Failure {
        if self.concessions.are_possible() {
            return format!(
                "the topic does not even take what isobar says of a record ({first:?}); see its `max.message.bytes`, and \
                 what it says about timestamps"
            );
        }
        let Some((place, refusal)) = first else { return "the topic does not take a row".to_owned() };
        let row = first_row + *place as u64;
        let bytes = records.get(*place).map_or(0, bytes_of);
        format!(
            "the topic does not take row {row} of version {version} ({refusal:?}: a message of {bytes} bytes), and rows are sent whole \
             and in their order; raise its `max.message.bytes`, or name fewer `columns`"
        )
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
        let (dataset, topic, gone) = (&self.dataset, &self.topic, self.kind.words().gone);
        self.meters.rows.with_label_values(&[dataset, "gone"]).inc_by(rows);
        warn!(%dataset, %topic, version, rows, "{gone}");
    }
}
