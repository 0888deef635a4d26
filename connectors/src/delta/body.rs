//! Whole `_delta_log` bodies: building one, writing its exact bytes, reading one back with full validation.
//!
//! [`CommitBody::to_bytes`] and [`parse_body`] run the same checks, so a body that breaks a rule is neither written
//! nor believed: commitInfo first; every offset range has its `txn` at its end; every `add` has its digest and the two
//! agree on size and rows; the row counts add up; paths stay inside the table; nothing occurs twice. Within a body
//! actions are sorted (`txn` by appId, files by path), so the bytes depend on the content alone.
//!
//! ```
//! use isobar_connectors::delta::{CommitBody, CommitInfo, IsobarInfo, OffsetRange, parse_body};
//! use isobar_schemas::RowCounts;
//!
//! let isobar = IsobarInfo {
//!     format: 1, topology: "flights".into(), dataset: "features".into(), epoch: 1, sequence: 7,
//!     commit_id: "c7".into(), members: vec![], previous_sha256: "ab".repeat(32), plan: "cd".repeat(32),
//!     models: vec![], offsets: vec![],
//!     rows: RowCounts { input: 2, filtered: 2, ..RowCounts::default() }, files: vec![],
//! };
//! let mut body = CommitBody::new(CommitInfo::new(CommitInfo::WRITE, 1_700_000_000_000, isobar));
//! body.advance(OffsetRange {
//!     cluster: "k".into(), topic: "flights".into(), topic_id: "id".into(), partition: 0, start: 5, end: 7,
//!     records: 2, last_fingerprint: Some("ef".repeat(32)),
//! });
//! let bytes = body.to_bytes()?;
//! assert_eq!(parse_body(&bytes)?.txns[0].version, 7);
//! # Ok::<(), isobar_connectors::Error>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use isobar_schemas::RowCounts;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::actions::{
    Action, Add, CommitInfo, FileDigest, Format, IsobarInfo, Metadata, OffsetRange, Protocol, Remove,
    ScoredBy, Txn,
};
use super::evolution::SchemaUpdate;
use super::gap::AcceptedGap;
use super::maintenance::{Maintenance, MaintenanceWork, is_maintenance};
use super::path::decode_log_path;
use super::redrive::Redrive;
use super::schema;
use crate::Error;

/// Largest body accepted, in bytes. A commit adds at most some hundred files of about a kilobyte of log each.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// `previous_sha256` of a table's first body.
pub const NO_PREVIOUS_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Layout version of [`IsobarInfo`].
pub const INFO_FORMAT: u32 = 1;

/// Most models of one commit, and the longest text about the features of one.
const MODELS_MAX: usize = 100;
const FEATURES_BYTES_MAX: usize = 10_000;

const IN_COMMIT_TIMESTAMP: &str = "inCommitTimestamp";
const ENABLE_IN_COMMIT_TIMESTAMPS: &str = "delta.enableInCommitTimestamps";

/// One version of a table: what its `_delta_log` object says.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitBody {
    /// What the commit is.
    pub info: CommitInfo,
    /// What readers and writers must understand; only where it is set or changed.
    pub protocol: Option<Protocol>,
    /// Schema and partitioning; only where they are set or changed.
    pub metadata: Option<Metadata>,
    /// Positions of the Kafka partitions that advanced.
    pub txns: Vec<Txn>,
    /// Files that are part of the table from here on.
    pub adds: Vec<Add>,
    /// Files that are no longer part of it.
    pub removes: Vec<Remove>,
}

/// What a table is when it is created.
#[derive(Debug, Clone)]
pub struct TableDefinition {
    /// A UUID, the same in every cloud.
    pub id: String,
    /// The dataset's name.
    pub name: String,
    /// The dataset's description.
    pub description: Option<String>,
    /// Columns, partition columns included.
    pub schema: SchemaRef,
    /// Names of the partition columns, outermost directory first.
    pub partition_by: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

impl TableDefinition {
    /// The `protocol` action of every isobar table: any reader may read, and a writer must know in-commit timestamps.
    pub fn protocol() -> Protocol {
        Protocol {
            min_reader_version: 1,
            min_writer_version: 7,
            reader_features: None,
            writer_features: Some(vec![IN_COMMIT_TIMESTAMP.into()]),
        }
    }

    /// The `metaData` action.
    ///
    /// # Errors
    /// [`Error::Schema`] if a column cannot be stored or a partition column does not exist.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        Ok(Metadata {
            id: self.id.clone(),
            name: Some(self.name.clone()),
            description: self.description.clone(),
            format: Format::default(),
            schema_string: schema::to_delta(&self.schema)?,
            partition_columns: self.partition_by.clone(),
            configuration: BTreeMap::from([(ENABLE_IN_COMMIT_TIMESTAMPS.into(), "true".into())]),
            created_time: Some(self.created_ms),
        })
    }
}

impl CommitInfo {
    /// Operation of the body that creates a table.
    pub const CREATE: &'static str = "CREATE TABLE";
    /// Operation of a body that appends rows, or that only moves positions.
    pub const WRITE: &'static str = "WRITE";

    /// A commit at `timestamp_ms`, which must be above that of the version before: see [`next_commit_timestamp_ms`].
    pub fn new(operation: &str, timestamp_ms: i64, isobar: IsobarInfo) -> Self {
        let parameters: &[(&str, &str)] = if operation == Self::WRITE { &[("mode", "Append")] } else { &[] };
        Self {
            timestamp_ms,
            in_commit_timestamp_ms: timestamp_ms,
            operation: operation.into(),
            operation_parameters: parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            engine_info: concat!("isobar/", env!("CARGO_PKG_VERSION")).into(),
            txn_id: isobar.commit_id.clone(),
            isobar,
        }
    }

    /// The acceptance of `gap` at `timestamp_ms`.
    pub fn accepting(gap: &AcceptedGap, timestamp_ms: i64, isobar: IsobarInfo) -> Self {
        let info = Self::new(AcceptedGap::OPERATION, timestamp_ms, isobar);
        Self { operation_parameters: gap.parameters(), ..info }
    }

    /// A change of the table's schema at `timestamp_ms`.
    pub fn evolving(update: &SchemaUpdate, timestamp_ms: i64, isobar: IsobarInfo) -> Self {
        let info = Self::new(SchemaUpdate::OPERATION, timestamp_ms, isobar);
        Self { operation_parameters: update.parameters(), ..info }
    }

    /// A maintenance entry at `timestamp_ms`.
    pub fn maintaining(maintenance: &Maintenance, timestamp_ms: i64, isobar: IsobarInfo) -> Self {
        let info = Self::new(maintenance.operation(), timestamp_ms, isobar);
        Self { operation_parameters: maintenance.parameters(), ..info }
    }

    /// One of the two entries of a redrive, at `timestamp_ms`.
    pub fn redriving(redrive: &Redrive, timestamp_ms: i64, isobar: IsobarInfo) -> Self {
        let info = Self::new(redrive.operation(), timestamp_ms, isobar);
        Self { operation_parameters: redrive.parameters(), ..info }
    }

    /// The fence that an entry passes which removes files or lets them go: the version of the last such entry before it, 0
    /// where there was none. Whoever planned on another state of the files cannot have written a body that follows. `None`
    /// for entries without a fence, which remove nothing.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the parameters are not those of the operation.
    pub fn planned_after(&self) -> Result<Option<u64>, Error> {
        if let Some(maintenance) = Maintenance::of(self)? {
            return Ok(Some(maintenance.after));
        }
        Ok(match Redrive::of(self)? {
            Some(Redrive::Taken { after, .. }) => Some(after),
            Some(Redrive::Landed { .. }) | None => None,
        })
    }
}

impl CommitBody {
    /// A body without actions.
    pub fn new(info: CommitInfo) -> Self {
        Self { info, protocol: None, metadata: None, txns: vec![], adds: vec![], removes: vec![] }
    }

    /// Makes this the body that creates `table`.
    ///
    /// # Errors
    /// Those of [`TableDefinition::metadata`].
    pub fn create(mut self, table: &TableDefinition) -> Result<Self, Error> {
        self.protocol = Some(TableDefinition::protocol());
        self.metadata = Some(table.metadata()?);
        Ok(self)
    }

    /// Records that the offsets of `range` were read: the range in commitInfo and the `txn` at its end.
    pub fn advance(&mut self, range: OffsetRange) {
        let app_id = range.app_id(&self.info.isobar.topology);
        self.set_position(app_id, range.end);
        self.info.isobar.offsets.push(range);
    }

    /// Sets a position without reading anything, as for the first position of a new partition.
    pub fn set_position(&mut self, app_id: String, next_offset: i64) {
        let last_updated = Some(self.info.timestamp_ms);
        self.txns.push(Txn { app_id, version: next_offset, last_updated });
    }

    /// Adds a file: the `add` action and its digest in commitInfo.
    pub fn add_file(
        &mut self,
        digest: FileDigest,
        partition_values: BTreeMap<String, Option<String>>,
        stats: String,
    ) {
        self.adds.push(Add {
            path: digest.path.clone(),
            partition_values,
            size: i64::try_from(digest.size).unwrap_or(i64::MAX),
            modification_time: self.info.timestamp_ms,
            data_change: !is_maintenance(&self.info.operation),
            stats: Some(stats),
            deletion_vector: None,
        });
        self.info.isobar.files.push(digest);
    }

    /// Removes the file at `path`, as the log writes it; `size` is in bytes.
    pub fn remove_file(
        &mut self,
        path: String,
        size: u64,
        partition_values: BTreeMap<String, Option<String>>,
    ) {
        self.removes.push(Remove {
            path,
            deletion_timestamp: Some(self.info.timestamp_ms),
            data_change: !is_maintenance(&self.info.operation),
            extended_file_metadata: Some(true),
            partition_values: Some(partition_values),
            size: Some(i64::try_from(size).unwrap_or(i64::MAX)),
        });
    }

    /// The exact bytes to publish: one action per line, each line ended by a newline.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the body breaks a rule of the format; that is a bug of the caller, and nothing has been
    /// written.
    pub fn to_bytes(&self) -> Result<Bytes, Error> {
        let mut body = self.clone();
        body.sort();
        body.check()?;
        let mut bytes = Vec::with_capacity(1024 * (2 + body.adds.len()));
        for action in body.into_actions() {
            serde_json::to_writer(&mut bytes, &action).map_err(|error| Error::LogEntry(error.to_string()))?;
            bytes.push(b'\n');
        }
        if bytes.len() > BODY_BYTES_MAX {
            return Err(Error::LogEntry(format!("{} bytes, more than {BODY_BYTES_MAX}", bytes.len())));
        }
        Ok(bytes.into())
    }

    /// Checks that this body may be the version after `previous`, whose bytes are `previous_bytes`; `None` stands for
    /// a table that does not exist yet.
    ///
    /// # Errors
    /// [`Error::LogEntry`] naming the first rule broken: the hash chain, the in-commit timestamp, the decision's
    /// number, or a position that goes backwards from one body to the next.
    pub fn check_follows(&self, previous: Option<(&[u8], &CommitBody)>) -> Result<(), Error> {
        let info = &self.info.isobar;
        let Some((previous_bytes, previous)) = previous else {
            require(info.previous_sha256 == NO_PREVIOUS_SHA256, || "version 0 names a previous body".into())?;
            return require(self.protocol.is_some() && self.metadata.is_some(), || {
                "version 0 creates no table".into()
            });
        };
        let expected = sha256_hex(previous_bytes);
        require(info.previous_sha256 == expected, || {
            format!(
                "hash chain broken: previous body is {expected}, commitInfo says {}",
                info.previous_sha256
            )
        })?;
        require(self.info.in_commit_timestamp_ms > previous.info.in_commit_timestamp_ms, || {
            "inCommitTimestamp does not rise".into()
        })?;
        require(info.sequence > previous.info.isobar.sequence, || "sequence does not rise".into())?;
        require(info.epoch >= previous.info.isobar.epoch, || "epoch goes backwards".into())?;
        let positions: BTreeMap<&str, i64> =
            previous.txns.iter().map(|t| (t.app_id.as_str(), t.version)).collect();
        for txn in &self.txns {
            let before = positions.get(txn.app_id.as_str());
            require(before.is_none_or(|before| txn.version >= *before), || {
                format!("position of {} goes backwards to {}", txn.app_id, txn.version)
            })?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.txns.sort_by(|a, b| a.app_id.cmp(&b.app_id));
        self.adds.sort_by(|a, b| a.path.cmp(&b.path));
        self.removes.sort_by(|a, b| a.path.cmp(&b.path));
        let info = &mut self.info.isobar;
        info.files.sort_by(|a, b| a.path.cmp(&b.path));
        info.offsets.sort_by(|a, b| {
            (&a.cluster, &a.topic, &a.topic_id, a.partition, a.start).cmp(&(
                &b.cluster,
                &b.topic,
                &b.topic_id,
                b.partition,
                b.start,
            ))
        });
    }

    fn into_actions(self) -> impl Iterator<Item = Action> {
        std::iter::once(Action::CommitInfo(self.info))
            .chain(self.protocol.map(Action::Protocol))
            .chain(self.metadata.map(Action::MetaData))
            .chain(self.txns.into_iter().map(Action::Txn))
            .chain(self.adds.into_iter().map(Action::Add))
            .chain(self.removes.into_iter().map(Action::Remove))
    }

    fn check(&self) -> Result<(), Error> {
        check_info(&self.info)?;
        self.check_table()?;
        self.check_positions()?;
        self.check_files()?;
        self.check_maintenance()?;
        self.check_redrive()?;
        self.check_gap()?;
        self.check_schema_update()
    }

    /// A change of the schema does nothing else, and nothing else changes a schema once the table is there. Whether the
    /// schema may follow the one before, this body alone does not say: see
    /// [`not_succeeding`](super::evolution::not_succeeding).
    fn check_schema_update(&self) -> Result<(), Error> {
        let info = &self.info.isobar;
        let creates = info.previous_sha256 == NO_PREVIOUS_SHA256;
        let Some(_) = SchemaUpdate::of(&self.info)? else {
            return require(creates || (self.protocol.is_none() && self.metadata.is_none()), || {
                format!("{} changes the table's protocol or metaData", self.info.operation)
            });
        };
        let operation = SchemaUpdate::OPERATION;
        let has_schema = self.metadata.is_some() && self.protocol.is_none();
        require(!creates && has_schema, || format!("{operation} that creates a table, or has no metaData"))?;
        let has_files = !self.adds.is_empty() || !self.removes.is_empty();
        let reads = !self.txns.is_empty() || !info.offsets.is_empty();
        require(!has_files && !reads && info.rows == RowCounts::default(), || {
            format!("{operation} changes more than the schema")
        })
    }

    /// A redrive reads nothing from Kafka, and its files hold the rows that it counts. How many rows the files hold that
    /// it removes, this body alone does not say.
    fn check_redrive(&self) -> Result<(), Error> {
        let Some(redrive) = Redrive::of(&self.info)? else { return Ok(()) };
        let (operation, info) = (redrive.operation(), &self.info.isobar);
        let is_plain = self.protocol.is_none() && self.metadata.is_none() && self.txns.is_empty();
        require(is_plain && info.offsets.is_empty(), || format!("{operation} changes more than files"))?;
        let mut changes = self.adds.iter().map(|add| add.data_change);
        require(changes.all(|changes| changes), || format!("{operation} without dataChange"))?;
        let mut changes = self.removes.iter().map(|remove| remove.data_change);
        require(changes.all(|changes| changes), || format!("{operation} without dataChange"))?;
        let rows = &info.rows;
        let (counted, held) = match redrive {
            Redrive::Landed { rows: taken } => {
                require(self.removes.is_empty(), || format!("{operation} removes files of a dataset"))?;
                (rows.input == taken, Some(rows.output))
            }
            Redrive::Taken { kept, rows: taken, .. } => {
                require(!self.removes.is_empty(), || format!("{operation} takes rows out of no file"))?;
                let is_rejected = rows.input == rows.output && rows.output <= taken;
                (is_rejected, kept.checked_add(rows.output))
            }
        };
        require(counted, || format!("{operation} of {} rows counts {rows:?}", redrive.rows()))?;
        let added = info.files.iter().map(|file| file.rows).try_fold(0, u64::checked_add);
        require(held.is_some() && added == held, || {
            format!("{operation} adds files of {added:?} rows, not {held:?}")
        })
    }

    /// Accepting a gap moves one position over offsets of which nothing was read, and does nothing else.
    fn check_gap(&self) -> Result<(), Error> {
        let Some(gap) = AcceptedGap::of(&self.info)? else { return Ok(()) };
        let is_plain = self.protocol.is_none() && self.metadata.is_none() && self.txns.len() == 1;
        let has_files = !self.adds.is_empty() || !self.removes.is_empty();
        let info = &self.info.isobar;
        require(is_plain && !has_files && info.rows == RowCounts::default(), || {
            "an accepted gap changes more than a position".into()
        })?;
        let is_it = |range: &OffsetRange| {
            (&range.topic, range.partition, range.start, range.end, range.records)
                == (&gap.topic, gap.partition, gap.from, gap.to, 0)
        };
        require(info.offsets.len() == 1 && info.offsets.iter().all(is_it), || {
            "an accepted gap is not the range of its body".into()
        })
    }

    /// Maintenance reads nothing, counts nothing, and says so of every file.
    fn check_maintenance(&self) -> Result<(), Error> {
        let Some(maintenance) = Maintenance::of(&self.info)? else { return Ok(()) };
        let (operation, info) = (maintenance.operation(), &self.info.isobar);
        let is_plain = self.protocol.is_none() && self.metadata.is_none() && self.txns.is_empty();
        require(is_plain && info.offsets.is_empty() && info.rows == RowCounts::default(), || {
            format!("{operation} changes more than files")
        })?;
        let changes = self.adds.iter().map(|add| add.data_change);
        let mut changes = changes.chain(self.removes.iter().map(|remove| remove.data_change));
        require(!changes.any(|changes| changes), || format!("{operation} with dataChange"))?;
        match maintenance.work {
            MaintenanceWork::Optimize { rows } => {
                require(!self.adds.is_empty() && !self.removes.is_empty(), || {
                    format!("{operation} replaces nothing")
                })?;
                let added = info.files.iter().map(|file| file.rows).try_fold(0, u64::checked_add);
                require(added == Some(rows), || format!("{operation} of {rows} rows adds {added:?}"))
            }
            MaintenanceWork::Vacuum { .. } => {
                require(self.adds.is_empty() && self.removes.is_empty(), || {
                    format!("{operation} adds or removes files")
                })
            }
        }
    }

    fn check_table(&self) -> Result<(), Error> {
        if let Some(protocol) = &self.protocol {
            check_protocol(protocol)?;
        }
        if let Some(metadata) = &self.metadata {
            check_metadata(metadata)?;
        }
        let creates = self.info.isobar.previous_sha256 == NO_PREVIOUS_SHA256;
        require(!creates || (self.protocol.is_some() && self.metadata.is_some()), || {
            "the first body has no protocol and metaData".into()
        })
    }

    /// Every `txn` is unique and in range; every offset range has its `txn` at its end.
    fn check_positions(&self) -> Result<(), Error> {
        let mut positions = BTreeMap::new();
        for txn in &self.txns {
            require(txn.version >= 0, || format!("txn {}: version {}", txn.app_id, txn.version))?;
            require(positions.insert(txn.app_id.as_str(), txn.version).is_none(), || {
                format!("txn {} occurs twice", txn.app_id)
            })?;
        }
        let mut ranges = BTreeSet::new();
        for range in &self.info.isobar.offsets {
            check_range(range)?;
            let app_id = range.app_id(&self.info.isobar.topology);
            require(positions.get(app_id.as_str()) == Some(&range.end), || {
                format!("offsets of {app_id} end at {}, but no txn says so", range.end)
            })?;
            require(ranges.insert(app_id), || {
                format!("two offset ranges of {} {}", range.topic, range.partition)
            })?;
        }
        Ok(())
    }

    /// Every path is unique and inside the table; every `add` agrees with its digest.
    fn check_files(&self) -> Result<(), Error> {
        let mut paths = BTreeSet::new();
        for path in
            self.adds.iter().map(|add| &add.path).chain(self.removes.iter().map(|remove| &remove.path))
        {
            require(paths.insert(decode_log_path(path)?), || format!("file {path} occurs twice"))?;
        }
        let digests: BTreeMap<&str, &FileDigest> =
            self.info.isobar.files.iter().map(|file| (file.path.as_str(), file)).collect();
        require(digests.len() == self.info.isobar.files.len(), || "a file digest occurs twice".into())?;
        require(digests.len() == self.adds.len(), || {
            format!("{} files added, {} digests", self.adds.len(), digests.len())
        })?;
        for add in &self.adds {
            let digest = digests.get(add.path.as_str());
            check_add(add, digest.copied())?;
        }
        for remove in &self.removes {
            require(remove.size.is_none_or(|size| size >= 0), || format!("remove {}: size", remove.path))?;
        }
        Ok(())
    }
}

/// Reads a body.
///
/// # Errors
/// [`Error::LogEntry`] saying which rule of the format is broken: a foreign writer, another version of isobar or bit
/// rot. Nothing of such a body may be relied upon.
pub fn parse_body(bytes: &[u8]) -> Result<CommitBody, Error> {
    require(bytes.len() <= BODY_BYTES_MAX, || format!("{} bytes, more than {BODY_BYTES_MAX}", bytes.len()))?;
    let text = std::str::from_utf8(bytes).map_err(|_| Error::LogEntry("not UTF-8".into()))?;
    let lines = text.strip_suffix('\n').ok_or_else(|| Error::LogEntry("no newline at the end".into()))?;
    let mut body: Option<CommitBody> = None;
    for (number, line) in lines.split('\n').enumerate() {
        let action: Action = serde_json::from_str(line)
            .map_err(|error| Error::LogEntry(format!("line {}: {error}", number + 1)))?;
        match (&mut body, action) {
            (None, Action::CommitInfo(info)) => body = Some(CommitBody::new(info)),
            (None, _) => return Err(Error::LogEntry("commitInfo is not the first action".into())),
            (Some(body), action) => body.push(action)?,
        }
    }
    let body = body.ok_or_else(|| Error::LogEntry("empty".into()))?;
    body.check()?;
    Ok(body)
}

impl CommitBody {
    fn push(&mut self, action: Action) -> Result<(), Error> {
        let repeated = match action {
            Action::CommitInfo(_) => true,
            Action::Protocol(protocol) => self.protocol.replace(protocol).is_some(),
            Action::MetaData(metadata) => self.metadata.replace(metadata).is_some(),
            Action::Txn(txn) => {
                self.txns.push(txn);
                false
            }
            Action::Add(add) => {
                self.adds.push(add);
                false
            }
            Action::Remove(remove) => {
                self.removes.push(remove);
                false
            }
        };
        require(!repeated, || "an action that may occur once occurs twice".into())
    }
}

/// SHA-256 of a body (or of any bytes), in lowercase hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The timestamp for the next commit: the clock's, or one above the previous commit's where the clock is behind.
pub fn next_commit_timestamp_ms(now_ms: i64, previous_ms: Option<i64>) -> i64 {
    previous_ms.map_or(now_ms, |previous| now_ms.max(previous.saturating_add(1))).max(0)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::LogEntry(otherwise())) }
}

fn check_info(info: &CommitInfo) -> Result<(), Error> {
    let isobar = &info.isobar;
    require(isobar.format == INFO_FORMAT, || format!("commitInfo.isobar has format {}", isobar.format))?;
    require(info.timestamp_ms >= 0 && info.in_commit_timestamp_ms == info.timestamp_ms, || {
        "timestamp and inCommitTimestamp differ or are negative".into()
    })?;
    require(info.txn_id == isobar.commit_id && is_name(&isobar.commit_id), || {
        "commit id missing or odd".into()
    })?;
    require(is_member_list(&isobar.members), || "members are no list of several commit ids".into())?;
    require(is_name(&isobar.topology), || format!("topology {:.100?}", isobar.topology))?;
    require(is_name(&isobar.dataset), || format!("dataset {:.100?}", isobar.dataset))?;
    require(isobar.epoch.max(isobar.sequence) <= i64::MAX as u64, || {
        "epoch or sequence out of range".into()
    })?;
    require(is_sha256(&isobar.previous_sha256), || "previous_sha256 is no SHA-256".into())?;
    require(isobar.plan.len() <= 256, || "plan fingerprint too long".into())?;
    require(are_models(&isobar.models), || "models are no list of models".into())?;
    require(adds_up(&isobar.rows), || format!("row counts do not add up: {:?}", isobar.rows))
}

/// Few enough to be read by people, each above the one before.
fn are_models(models: &[ScoredBy]) -> bool {
    let is_model = |model: &ScoredBy| {
        is_name(&model.model)
            && is_sha256(&model.sha256)
            && model.version <= i64::MAX as u64
            && model.features.as_ref().is_none_or(|features| features.len() <= FEATURES_BYTES_MAX)
    };
    models.len() <= MODELS_MAX
        && models.iter().all(is_model)
        && models.windows(2).all(|pair| pair[0] < pair[1])
}

/// Nothing, or several names, each above the one before.
fn is_member_list(members: &[String]) -> bool {
    members.len() != 1
        && members.iter().all(|member| is_name(member))
        && members.windows(2).all(|pair| pair[0] < pair[1])
}

/// [`RowCounts::adds_up`], but without overflow on counts that nobody can have counted.
fn adds_up(rows: &RowCounts) -> bool {
    let fates =
        rows.rejected.values().chain(rows.dropped.values()).chain([&rows.output, &rows.filtered, &rows.late]);
    fates.copied().try_fold(0, u64::checked_add).is_some() && rows.adds_up()
}

pub(crate) fn check_protocol(protocol: &Protocol) -> Result<(), Error> {
    require(*protocol == TableDefinition::protocol(), || format!("protocol not supported: {protocol:?}"))
}

pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), Error> {
    require(metadata.format == Format::default(), || format!("format {:.100?}", metadata.format))?;
    let enabled =
        metadata.configuration.get(ENABLE_IN_COMMIT_TIMESTAMPS).is_some_and(|value| value == "true");
    require(enabled, || "in-commit timestamps are off".into())?;
    let columns = schema::to_arrow(&metadata.schema_string)?;
    let mut seen = BTreeSet::new();
    for name in &metadata.partition_columns {
        let exists = columns.fields().iter().any(|field| field.name() == name);
        require(exists && seen.insert(name), || {
            format!("partition column {name:.100?} missing or repeated")
        })?;
    }
    require(seen.len() < columns.fields().len(), || "no column is left beside the partition columns".into())
}

fn check_range(range: &OffsetRange) -> Result<(), Error> {
    let place = || format!("offsets of {:.100}[{}]", range.topic, range.partition);
    require(range.partition >= 0, place)?;
    require(0 <= range.start && range.start <= range.end, || {
        format!("{}: [{}, {})", place(), range.start, range.end)
    })?;
    require(range.records <= (range.end - range.start) as u64, || {
        format!("{}: {} records in [{}, {})", place(), range.records, range.start, range.end)
    })?;
    let fingerprint_fits = match &range.last_fingerprint {
        Some(fingerprint) => range.records > 0 && is_sha256(fingerprint),
        None => range.records == 0,
    };
    require(fingerprint_fits, || format!("{}: fingerprint and records do not fit", place()))?;
    let parts = [&range.cluster, &range.topic, &range.topic_id];
    require(parts.iter().all(|part| !part.is_empty() && part.len() <= 256 && !part.contains('/')), || {
        format!("{}: cluster, topic or topic id", place())
    })
}

fn check_add(add: &Add, digest: Option<&FileDigest>) -> Result<(), Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NumRecords {
        num_records: u64,
    }
    require(add.deletion_vector.is_none(), || {
        format!("add {}: deletion vectors are not supported", add.path)
    })?;
    let digest = digest.ok_or_else(|| Error::LogEntry(format!("add {}: no digest", add.path)))?;
    require(is_sha256(&digest.sha256), || format!("add {}: digest is no SHA-256", add.path))?;
    require(u64::try_from(add.size) == Ok(digest.size), || {
        format!("add {}: size and digest differ", add.path)
    })?;
    let stats: NumRecords = serde_json::from_str(add.stats.as_deref().unwrap_or_default())
        .map_err(|error| Error::LogEntry(format!("add {}: statistics: {error}", add.path)))?;
    require(stats.num_records == digest.rows, || format!("add {}: numRecords and digest differ", add.path))
}

/// Whether `text` is a SHA-256 as the log writes it: 64 digits of lowercase hexadecimal.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names of topologies, datasets and commits: they become parts of object names.
fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use serde_json::{Value, json};

    use super::*;
    use crate::delta::evolution;

    fn info(sequence: u64, previous_sha256: &str, rows: RowCounts) -> IsobarInfo {
        IsobarInfo {
            format: 1,
            topology: "flight_delays".into(),
            dataset: "flight_features".into(),
            epoch: 3,
            sequence,
            commit_id: format!("0000000000000003-{sequence:016}"),
            members: vec![],
            previous_sha256: previous_sha256.into(),
            plan: "11".repeat(32),
            models: Vec::new(),
            offsets: vec![],
            rows,
            files: vec![],
        }
    }

    fn create() -> CommitBody {
        let schema = Schema::new(vec![
            Field::new("carrier", DataType::Utf8, true)
                .with_metadata([("description".to_string(), "two-letter code".to_string())].into()),
            Field::new("scheduled", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("arr_delay", DataType::Int32, true),
            Field::new("month", DataType::Utf8, true),
        ]);
        let table = TableDefinition {
            id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
            name: "flight_features".into(),
            description: Some("One row per departed flight.".into()),
            schema: Arc::new(schema),
            partition_by: vec!["month".into()],
            created_ms: 1_700_000_000_000,
        };
        let isobar = info(1, NO_PREVIOUS_SHA256, RowCounts::default());
        let info = CommitInfo::new(CommitInfo::CREATE, 1_700_000_000_000, isobar);
        let mut body = CommitBody::new(info).create(&table).unwrap();
        body.info.engine_info = "isobar/0.1.0".into();
        body.set_position("flight_delays/prod-1/zdq3QKZNTvWtGS1kHnFRcg/0".into(), 0);
        body
    }

    fn range(partition: i32, start: i64, end: i64) -> OffsetRange {
        OffsetRange {
            cluster: "prod-1".into(),
            topic: "flights".into(),
            topic_id: "zdq3QKZNTvWtGS1kHnFRcg".into(),
            partition,
            start,
            end,
            records: (end - start) as u64,
            last_fingerprint: (end > start).then(|| "22".repeat(32)),
        }
    }

    fn write(previous: &[u8]) -> CommitBody {
        let rows = RowCounts {
            input: 12,
            output: 9,
            rejected: [("arrival_known".to_string(), 1)].into(),
            dropped: [("departed".to_string(), 2)].into(),
            ..RowCounts::default()
        };
        let isobar = info(2, &sha256_hex(previous), rows);
        let mut body = CommitBody::new(CommitInfo::new(CommitInfo::WRITE, 1_700_000_010_000, isobar));
        body.info.engine_info = "isobar/0.1.0".into();
        // Out of order on purpose: the bytes must not depend on it.
        body.advance(range(1, 0, 2));
        body.advance(range(0, 0, 10));
        for (number, month, rows) in [(1, Some("10"), 4), (0, None, 3), (2, Some("a b/ü"), 2)] {
            let directory =
                ["month=__HIVE_DEFAULT_PARTITION__", "month=10", "month=a%2520b%252F%25C3%25BC"][number];
            let digest = FileDigest {
                path: format!("{directory}/part-0000000000000003-0000000000000002-{number:05}.parquet"),
                size: 1000 + number as u64,
                sha256: format!("{number:064}"),
                rows,
            };
            let values = [("month".to_string(), month.map(str::to_string))].into();
            let stats = format!(
                r#"{{"numRecords":{rows},"minValues":{{"arr_delay":-7}},"maxValues":{{"arr_delay":99}},"nullCount":{{"arr_delay":0}},"tightBounds":true}}"#
            );
            body.add_file(digest, values, stats);
        }
        body
    }

    fn sorted(body: &CommitBody) -> CommitBody {
        let mut body = body.clone();
        body.sort();
        body
    }

    #[test]
    fn golden_bodies_are_reproduced_byte_for_byte() {
        let created = create().to_bytes().unwrap();
        let written = write(&created).to_bytes().unwrap();
        let golden: [(&[u8], &[u8]); 2] = [
            (&created, include_bytes!("../../../tests/golden/delta/00000000000000000000.json")),
            (&written, include_bytes!("../../../tests/golden/delta/00000000000000000001.json")),
        ];
        for (bytes, golden) in golden {
            assert_eq!(std::str::from_utf8(bytes).unwrap(), std::str::from_utf8(golden).unwrap());
        }
    }

    #[test]
    fn bodies_survive_a_round_trip() {
        let created = create();
        let bytes = created.to_bytes().unwrap();
        assert_eq!(parse_body(&bytes).unwrap(), created);
        let written = write(&bytes);
        let written_bytes = written.to_bytes().unwrap();
        let read = parse_body(&written_bytes).unwrap();
        assert_eq!(read, sorted(&written));
        assert_eq!(read.to_bytes().unwrap(), written_bytes);
        read.check_follows(Some((&bytes, &created))).unwrap();
        created.check_follows(None).unwrap();
    }

    fn maintaining(work: MaintenanceWork) -> CommitBody {
        let isobar = info(3, &"44".repeat(32), RowCounts::default());
        let maintenance = Maintenance { after: 4, work };
        CommitBody::new(CommitInfo::maintaining(&maintenance, 1_700_000_020_000, isobar))
    }

    fn optimize() -> CommitBody {
        let mut body = maintaining(MaintenanceWork::Optimize { rows: 7 });
        let values: BTreeMap<String, Option<String>> = [("month".to_string(), Some("10".to_string()))].into();
        body.remove_file("month=10/part-b-00000.parquet".into(), 100, values.clone());
        body.remove_file("month=10/part-a-00000.parquet".into(), 90, values.clone());
        let path = "month=10/part-c-00000.parquet".to_string();
        let digest = FileDigest { path, size: 150, sha256: "55".repeat(32), rows: 7 };
        body.add_file(digest, values, r#"{"numRecords":7}"#.into());
        body
    }

    fn accepting() -> CommitBody {
        let isobar = info(3, &"44".repeat(32), RowCounts::default());
        let (topic, reason) = ("flights".to_owned(), "outage of 3 May".to_owned());
        let gap = AcceptedGap { topic: topic.clone(), partition: 0, from: 5, to: 9, reason };
        let mut body = CommitBody::new(CommitInfo::accepting(&gap, 1_700_000_020_000, isobar));
        body.advance(OffsetRange {
            cluster: "k".into(),
            topic,
            topic_id: "id".into(),
            partition: 0,
            start: 5,
            end: 9,
            records: 0,
            last_fingerprint: None,
        });
        body
    }

    #[test]
    fn an_accepted_gap_survives_a_round_trip_with_fixed_bytes_and_does_nothing_else() {
        let bytes = accepting().to_bytes().unwrap();
        let read = parse_body(&bytes).unwrap();
        assert_eq!(read, accepting());
        let gap = AcceptedGap::of(&read.info).unwrap().unwrap();
        assert_eq!((gap.from, gap.to, &*gap.reason), (5, 9, "outage of 3 May"));
        let expected = r#""operation":"ACCEPT GAP","operationParameters":{"from":"5","partition":"0","reason":"outage of 3 May","to":"9","topic":"flights"}"#;
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains(expected), "{text}");

        type Break = fn(&mut CommitBody);
        let breaks: [Break; 7] = [
            |body| body.info.isobar.offsets[0].partition = 1,
            |body| (body.info.isobar.offsets[0].end, body.txns[0].version) = (10, 10),
            |body| body.set_position("t/k/id/7".into(), 1),
            |body| body.info.isobar.rows = RowCounts { input: 1, filtered: 1, ..RowCounts::default() },
            |body| _ = body.info.operation_parameters.remove("reason"),
            |body| _ = body.info.operation_parameters.insert("from".into(), "05".into()),
            |body| _ = body.info.operation_parameters.insert("more".into(), "1".into()),
        ];
        for (number, break_one) in breaks.into_iter().enumerate() {
            let mut broken = accepting();
            break_one(&mut broken);
            assert!(broken.to_bytes().is_err(), "break {number}");
        }
    }

    /// A column is appended to the table of [`create`].
    fn evolving() -> CommitBody {
        let before = create().metadata.unwrap();
        let mut wanted = before.clone();
        let new = r#",{"name":"score","type":"double","nullable":true,"metadata":{}}]}"#;
        wanted.schema_string = format!("{}{new}", before.schema_string.strip_suffix("]}").unwrap());
        let found = evolution::differences(&before, &wanted).unwrap();
        let isobar = info(3, &"44".repeat(32), RowCounts::default());
        let update = SchemaUpdate::new(0, &found);
        let mut body = CommitBody::new(CommitInfo::evolving(&update, 1_700_000_020_000, isobar));
        body.info.engine_info = "isobar/0.1.0".into();
        body.metadata = Some(evolution::evolved(&before, &wanted).unwrap());
        body
    }

    #[test]
    fn a_golden_change_of_schema_is_reproduced_and_survives_a_round_trip() {
        let bytes = evolving().to_bytes().unwrap();
        let golden: &[u8] = include_bytes!("../../../tests/golden/delta/update_schema.json");
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), std::str::from_utf8(golden).unwrap());
        let read = parse_body(&bytes).unwrap();
        assert_eq!(read, evolving());
        let update = SchemaUpdate::of(&read.info).unwrap().unwrap();
        assert_eq!((update.after, &*update.changes), (0, "adds column score: double"));
        assert_eq!(SchemaUpdate::of(&write(b"previous").info).unwrap(), None);
        assert_eq!(read.info.planned_after().unwrap(), None);
    }

    #[test]
    fn a_change_of_schema_does_nothing_else_and_nothing_else_changes_a_schema() {
        type Break = fn(&mut CommitBody);
        let breaks: [(&str, Break); 10] = [
            ("no metaData", |b| b.metadata = None),
            ("creates a table", |b| b.protocol = Some(TableDefinition::protocol())),
            ("no protocol", |b| b.info.isobar.previous_sha256 = NO_PREVIOUS_SHA256.into()),
            ("changes more", |b| b.set_position("a/b/c/0".into(), 4)),
            ("changes more", |b| b.advance(range(0, 4, 4))),
            ("changes more", |b| b.remove_file("a.parquet".into(), 1, BTreeMap::new())),
            ("changes more", |b| {
                b.info.isobar.rows = RowCounts { input: 1, filtered: 1, ..RowCounts::default() };
            }),
            ("parameters", |b| _ = b.info.operation_parameters.insert("after".into(), "00".into())),
            ("parameters", |b| _ = b.info.operation_parameters.insert("more".into(), "1".into())),
            ("in-commit", |b| b.metadata.as_mut().unwrap().configuration.clear()),
        ];
        for (reason, break_one) in breaks {
            let mut body = evolving();
            break_one(&mut body);
            let error = body.to_bytes().expect_err(reason).to_string();
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
        for mut body in [write(b"previous"), optimize(), accepting()] {
            body.metadata = create().metadata;
            assert!(body.to_bytes().is_err());
        }
        let mut body = write(b"previous");
        body.metadata = create().metadata;
        let error = body.to_bytes().unwrap_err().to_string();
        assert!(error.contains("WRITE changes the table's protocol or metaData"), "{error}");
    }

    #[test]
    fn maintenance_survives_a_round_trip_with_fixed_bytes() {
        let bytes = optimize().to_bytes().unwrap();
        let read = parse_body(&bytes).unwrap();
        assert_eq!(read, sorted(&optimize()));
        let work = MaintenanceWork::Optimize { rows: 7 };
        assert_eq!(Maintenance::of(&read.info).unwrap(), Some(Maintenance { after: 4, work }));
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.contains(r#""operation":"OPTIMIZE","operationParameters":{"after":"4","rows":"7"}"#),
            "{text}"
        );
        let removed = "{\"remove\":{\"path\":\"month=10/part-a-00000.parquet\",\"deletionTimestamp\":1700000020000,\
                       \"dataChange\":false,\"extendedFileMetadata\":true,\"partitionValues\":{\"month\":\"10\"},\
                       \"size\":90}}";
        assert_eq!(text.lines().nth(2), Some(removed));
        let vacuum = maintaining(MaintenanceWork::Vacuum { through: 12 });
        let read = parse_body(&vacuum.to_bytes().unwrap()).unwrap();
        assert_eq!(read, vacuum);
        assert_eq!(read.info.operation, "VACUUM");
        let written = parse_body(&write(b"previous").to_bytes().unwrap()).unwrap();
        assert_eq!(Maintenance::of(&written.info).unwrap(), None);
    }

    #[test]
    fn maintenance_that_changes_what_a_table_says_is_refused() {
        type Break = fn(&mut CommitBody);
        let breaks: [(&str, Break); 9] = [
            ("changes more", |b| b.set_position("a/b/c/0".into(), 4)),
            ("changes more", |b| b.info.isobar.rows.filtered = 7),
            ("changes more", |b| b.protocol = Some(TableDefinition::protocol())),
            ("dataChange", |b| b.adds[0].data_change = true),
            ("dataChange", |b| b.removes[1].data_change = true),
            ("replaces nothing", |b| b.removes.clear()),
            ("adds Some(7)", |b| _ = b.info.operation_parameters.insert("rows".into(), "8".into())),
            ("parameters", |b| _ = b.info.operation_parameters.insert("rows".into(), "07".into())),
            ("parameters", |b| _ = b.info.operation_parameters.insert("more".into(), "1".into())),
        ];
        for (reason, break_one) in breaks {
            let mut body = optimize();
            break_one(&mut body);
            // Row counts that hold together, so that only the rule in question is broken.
            body.info.isobar.rows.input = body.info.isobar.rows.filtered;
            let error = body.to_bytes().expect_err(reason).to_string();
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
        let mut vacuum = optimize();
        let work = MaintenanceWork::Vacuum { through: 3 };
        let isobar = vacuum.info.isobar.clone();
        vacuum.info = CommitInfo::maintaining(&Maintenance { after: 4, work }, 1_700_000_020_000, isobar);
        assert!(vacuum.to_bytes().unwrap_err().to_string().contains("adds or removes"));
    }

    /// The two entries of a redrive of 5 rows: 3 are accepted, 1 is dropped, 1 is rejected again, and 4 were not selected.
    fn redriven() -> [CommitBody; 2] {
        let rows = RowCounts {
            input: 5,
            output: 3,
            rejected: [("arrival_known".to_string(), 1)].into(),
            dropped: [("departed".to_string(), 1)].into(),
            ..RowCounts::default()
        };
        let rejected = RowCounts { input: 1, output: 1, ..RowCounts::default() };
        let body = |redrive: Redrive, dataset: &str, rows: RowCounts| {
            let mut isobar = info(3, &"44".repeat(32), rows);
            isobar.dataset = dataset.into();
            let mut body = CommitBody::new(CommitInfo::redriving(&redrive, 1_700_000_020_000, isobar));
            body.info.engine_info = "isobar/0.1.0".into();
            body
        };
        let file = |directory: &str, rows: u64| FileDigest {
            path: format!("{directory}part-0000000000000003-0000000000000003-00000.parquet"),
            size: 150,
            sha256: "55".repeat(32),
            rows,
        };
        let mut landed = body(Redrive::Landed { rows: 5 }, "flight_features", rows);
        let values = [("month".to_string(), Some("10".to_string()))].into();
        landed.add_file(file("month=10/", 3), values, r#"{"numRecords":3}"#.into());
        let redrive = Redrive::Taken { after: 2, kept: 4, rows: 5 };
        let mut taken = body(redrive, "flight_features.quarantine", rejected);
        taken.remove_file("part-b-00000.parquet".into(), 100, BTreeMap::new());
        taken.remove_file("part-a-00000.parquet".into(), 90, BTreeMap::new());
        taken.add_file(file("", 5), BTreeMap::new(), r#"{"numRecords":5}"#.into());
        [landed, taken]
    }

    #[test]
    fn golden_redrives_are_reproduced_and_survive_a_round_trip() {
        let [landed, taken] = redriven();
        let golden: [(&CommitBody, &[u8]); 2] = [
            (&landed, include_bytes!("../../../tests/golden/delta/redrive.dataset.json")),
            (&taken, include_bytes!("../../../tests/golden/delta/redrive.quarantine.json")),
        ];
        for (body, golden) in golden {
            let bytes = body.to_bytes().unwrap();
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), std::str::from_utf8(golden).unwrap());
            assert_eq!(parse_body(&bytes).unwrap(), sorted(body));
        }
        assert_eq!(Redrive::of(&landed.info).unwrap(), Some(Redrive::Landed { rows: 5 }));
        assert_eq!(landed.info.planned_after().unwrap(), None);
        assert_eq!(taken.info.planned_after().unwrap(), Some(2));
        assert_eq!(optimize().info.planned_after().unwrap(), Some(4));
        assert_eq!(write(b"previous").info.planned_after().unwrap(), None);
    }

    #[test]
    fn redrives_that_do_not_add_up_are_refused() {
        type Break = fn(&mut CommitBody);
        let parameter = |body: &mut CommitBody, name: &str, value: &str| {
            body.info.operation_parameters.insert(name.into(), value.into());
        };
        let of_the_dataset: [(&str, Break); 6] = [
            ("changes more", |b| b.set_position("a/b/c/0".into(), 4)),
            ("changes more", |b| b.protocol = Some(TableDefinition::protocol())),
            ("without dataChange", |b| b.adds[0].data_change = false),
            ("removes files of", |b| b.remove_file("a.parquet".into(), 1, BTreeMap::new())),
            ("adds files of", |b| {
                b.info.isobar.rows.output = 2;
                b.info.isobar.rows.filtered = 1;
            }),
            ("adds files of", |b| {
                b.adds.clear();
                b.info.isobar.files.clear();
            }),
        ];
        let of_the_quarantine: [(&str, Break); 5] = [
            ("changes more", |b| b.set_position("a/b/c/0".into(), 4)),
            ("without dataChange", |b| b.removes[1].data_change = false),
            ("out of no file", |b| b.removes.clear()),
            ("counts", |b| {
                b.info.isobar.rows.output = 0;
                b.info.isobar.rows.filtered = 1;
            }),
            ("adds files of", |b| {
                b.info.isobar.rows.output = 2;
                b.info.isobar.rows.input = 2;
            }),
        ];
        let breaks = of_the_dataset.map(|it| (0, it)).into_iter().chain(of_the_quarantine.map(|it| (1, it)));
        for (body, (reason, break_one)) in breaks {
            let mut broken = redriven()[body].clone();
            break_one(&mut broken);
            let error = broken.to_bytes().expect_err(reason).to_string();
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
        for (body, name, value, reason) in [
            (0, "rows", "6", "counts"),
            (0, "rows", "05", "parameters"),
            (0, "kept", "4", "parameters"),
            (1, "kept", "3", "adds files of"),
            (1, "rows", "0", "counts"),
            (1, "rows", "-1", "parameters"),
            (1, "more", "1", "parameters"),
        ] {
            let mut broken = redriven()[body].clone();
            parameter(&mut broken, name, value);
            let error = broken.to_bytes().expect_err(reason).to_string();
            assert!(error.contains(reason), "{name} {value}: expected {reason:?}, got {error:?}");
        }
    }

    #[test]
    fn a_body_that_does_not_follow_is_found() {
        let created = create();
        let bytes = created.to_bytes().unwrap();
        let previous = Some((&bytes[..], &created));
        let good = write(&bytes);
        assert!(good.check_follows(None).is_err());
        let breaks: [fn(&mut CommitBody); 4] = [
            |body| body.info.isobar.previous_sha256 = "33".repeat(32),
            |body| body.info.in_commit_timestamp_ms = 1_700_000_000_000,
            |body| body.info.isobar.sequence = 1,
            |body| body.info.isobar.epoch = 2,
        ];
        for break_one in breaks {
            let mut body = good.clone();
            break_one(&mut body);
            assert!(matches!(body.check_follows(previous), Err(Error::LogEntry(_))));
        }
        let mut ahead = created.clone();
        ahead.txns[0].version = 11;
        assert!(good.check_follows(Some((&bytes, &ahead))).unwrap_err().to_string().contains("backwards"));
    }

    /// Applies `change` to the JSON of line `line` of a good body and expects it to be refused for the reason given.
    fn refuse(line: usize, reason: &str, change: impl Fn(&mut Value)) {
        let bytes = write(b"previous").to_bytes().unwrap();
        let mut lines: Vec<Value> = bytes
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        change(&mut lines[line]);
        let changed: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let error = parse_body(changed.as_bytes()).expect_err(reason).to_string();
        assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
    }

    #[test]
    fn every_rule_is_enforced_on_reading() {
        let isobar = |value: &mut Value, key: &str, new: Value| value["commitInfo"]["isobar"][key] = new;
        refuse(0, "format 2", |v| isobar(v, "format", json!(2)));
        let model = |name: &str, sha256: &str| json!({"model": name, "version": 1, "sha256": sha256});
        let sha256 = "ab".repeat(32);
        refuse(0, "list of models", |v| isobar(v, "models", json!([model("a/b", &sha256)])));
        refuse(0, "list of models", |v| isobar(v, "models", json!([model("a", "ab")])));
        refuse(0, "list of models", |v| {
            isobar(v, "models", json!([model("b", &sha256), model("a", &sha256)]));
        });
        let mut scored = write(b"previous");
        scored.info.isobar.models = [("a", false), ("a", true), ("b", false)]
            .map(|(model, shadow)| ScoredBy {
                model: model.into(),
                version: 7,
                sha256: sha256.clone(),
                features: Some("flights@1.2.0".into()),
                shadow,
            })
            .to_vec();
        let bytes = scored.to_bytes().unwrap();
        assert_eq!(parse_body(&bytes).unwrap().info.isobar.models, scored.info.isobar.models);
        assert!(
            !String::from_utf8(write(b"previous").to_bytes().unwrap().to_vec()).unwrap().contains("models")
        );
        refuse(0, "commit id", |v| v["commitInfo"]["txnId"] = json!("other"));
        refuse(0, "commit id", |v| {
            v["commitInfo"]["txnId"] = json!("a/b");
            isobar(v, "commit_id", json!("a/b"));
        });
        refuse(0, "members", |v| isobar(v, "members", json!(["a"])));
        refuse(0, "members", |v| isobar(v, "members", json!(["b", "a"])));
        refuse(0, "members", |v| isobar(v, "members", json!(["a", "b/c"])));
        refuse(0, "topology", |v| isobar(v, "topology", json!("../x")));
        refuse(0, "dataset", |v| isobar(v, "dataset", json!("")));
        refuse(0, "previous_sha256", |v| isobar(v, "previous_sha256", json!("AB".repeat(32))));
        refuse(0, "no protocol", |v| isobar(v, "previous_sha256", json!(NO_PREVIOUS_SHA256)));
        refuse(0, "out of range", |v| isobar(v, "epoch", json!(u64::MAX)));
        refuse(0, "line 1", |v| isobar(v, "sequence", json!(-1)));
        refuse(0, "inCommitTimestamp", |v| v["commitInfo"]["inCommitTimestamp"] = json!(5));
        refuse(0, "line 1", |v| v["commitInfo"]["inCommitTimestamp"] = json!(1e300));
        refuse(0, "add up", |v| v["commitInfo"]["isobar"]["rows"]["out"] = json!(10));
        refuse(0, "add up", |v| {
            v["commitInfo"]["isobar"]["rows"]["rejected"] = json!({"a": u64::MAX, "b": u64::MAX});
        });
        let offset =
            |value: &mut Value, key: &str, new: Value| value["commitInfo"]["isobar"]["offsets"][0][key] = new;
        refuse(0, "no txn says so", |v| offset(v, "end", json!(11)));
        refuse(0, "no txn says so", |v| offset(v, "topic_id", json!("another")));
        refuse(0, "[11, 10)", |v| offset(v, "start", json!(11)));
        refuse(0, "[-1, 10)", |v| offset(v, "start", json!(-1)));
        refuse(0, "11 records", |v| offset(v, "records", json!(11)));
        refuse(0, "fingerprint", |v| offset(v, "last_fingerprint", Value::Null));
        refuse(0, "fingerprint", |v| offset(v, "records", json!(0)));
        refuse(0, "topic id", |v| offset(v, "cluster", json!("a/b")));
        refuse(0, "two offset ranges", |v| {
            let first = v["commitInfo"]["isobar"]["offsets"][0].clone();
            v["commitInfo"]["isobar"]["offsets"].as_array_mut().unwrap().push(first);
        });
        refuse(0, "digests", |v| isobar(v, "files", json!([])));
        refuse(0, "no SHA-256", |v| v["commitInfo"]["isobar"]["files"][0]["sha256"] = json!("zz"));
        refuse(0, "numRecords", |v| v["commitInfo"]["isobar"]["files"][0]["rows"] = json!(1));
        refuse(1, "version -1", |v| v["txn"]["version"] = json!(-1));
        refuse(1, "twice", |v| v["txn"]["appId"] = json!("flight_delays/prod-1/zdq3QKZNTvWtGS1kHnFRcg/1"));
        refuse(3, "size", |v| v["add"]["size"] = json!(7));
        refuse(3, "line 4", |v| v["add"]["size"] = json!(1.5));
        refuse(3, "relative", |v| v["add"]["path"] = json!("s3://bucket/x.parquet"));
        refuse(3, "absolute", |v| v["add"]["path"] = json!("/x.parquet"));
        refuse(3, "segment", |v| v["add"]["path"] = json!("%2e%2e/x.parquet"));
        refuse(3, "no digest", |v| v["add"]["path"] = json!("x.parquet"));
        refuse(3, "statistics", |v| v["add"]["stats"] = json!("{}"));
        refuse(3, "statistics", |v| v["add"]["stats"] = Value::Null);
        refuse(3, "deletion", |v| v["add"]["deletionVector"] = json!({"storageType": "u"}));
        refuse(3, "line 4", |v| *v = json!({"domainMetadata": {}}));
    }

    #[test]
    fn the_table_actions_are_checked_too() {
        type Break = fn(&mut CommitBody);
        let breaks: [(&str, Break); 7] = [
            ("protocol", |b| b.protocol.as_mut().unwrap().min_reader_version = 3),
            ("protocol", |b| {
                b.protocol.as_mut().unwrap().writer_features = Some(vec!["deletionVectors".into()])
            }),
            ("no protocol", |b| b.metadata = None),
            ("format", |b| b.metadata.as_mut().unwrap().format.provider = "orc".into()),
            ("in-commit", |b| b.metadata.as_mut().unwrap().configuration.clear()),
            ("partition column", |b| b.metadata.as_mut().unwrap().partition_columns = vec!["nope".into()]),
            ("schemaString", |b| b.metadata.as_mut().unwrap().schema_string = "{".into()),
        ];
        for (reason, break_one) in breaks {
            let mut body = create();
            break_one(&mut body);
            let error = body.to_bytes().expect_err(reason).to_string();
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_broken_framing_is_not() {
        let bytes = create().to_bytes().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        let more = text.replacen("{\"commitInfo\":{", "{\"commitInfo\":{\"later\":[1,{}],", 1);
        assert_eq!(parse_body(more.as_bytes()).unwrap(), create());
        let lines: Vec<&str> = text.lines().collect();
        let swapped = format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2]);
        let twice = format!("{}\n{text}", lines[0]);
        for broken in [
            "",
            "\n",
            &twice,
            text.trim_end(),
            &text.replacen('\n', "\n\n", 1),
            &swapped,
            "{}\n",
            "[]\n",
            &lines[0][..50],
        ] {
            assert!(matches!(parse_body(broken.as_bytes()), Err(Error::LogEntry(_))), "{broken:.80}");
        }
        assert!(parse_body(b"\xff\n").is_err());
        assert!(parse_body(&vec![b' '; BODY_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn no_prefix_of_a_body_is_mistaken_for_one() {
        let bytes = write(b"previous").to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(parse_body(&bytes[..end]).is_err(), "prefix of {end} bytes");
        }
    }

    #[test]
    fn commit_timestamps_rise_even_if_the_clock_does_not() {
        assert_eq!(next_commit_timestamp_ms(100, None), 100);
        assert_eq!(next_commit_timestamp_ms(100, Some(50)), 100);
        assert_eq!(next_commit_timestamp_ms(100, Some(100)), 101);
        assert_eq!(next_commit_timestamp_ms(-5, Some(i64::MAX)), i64::MAX);
        assert_eq!(next_commit_timestamp_ms(-5, None), 0);
    }
}
