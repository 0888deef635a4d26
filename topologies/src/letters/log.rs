//! Which versions of a table have rows that were not in it before, followed along its decided log.
//!
//! What was sent cannot be taken back, so only what is decided may be looked at. The head is known to be decided; each body
//! names the hash of the one before it. So the log is read backwards, from the head down to what is known already, and a
//! body is believed because the one after it vouches for it. Of every version only those that are due are remembered.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use futures::future;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::delta::{
    CommitBody, FileDigest, Maintenance, MaintenanceWork, Redrive, parse_body, sha256_hex,
};

use super::begun::BEGIN_ANEW;
use super::row::FolderValues;
use crate::commit::TableHead;
use crate::commit::format::{RECORD_BYTES_MAX, published_path};
use crate::maintain::{Failure, read_version};

/// Versions read at once.
const READS_IN_FLIGHT: u64 = 16;
/// Most versions remembered; the log is read again for those above.
const DUE_MAX: usize = 1 << 15;

/// A version with rows to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) version: u64,
    pub(super) sha256: String,
}

/// The rows that a version adds.
#[derive(Debug)]
pub(super) struct Rows {
    /// SHA-256 of the version before.
    pub(super) after: String,
    /// The files that hold them, in the order in which they are sent.
    pub(super) files: Vec<FileDigest>,
    /// By path, what the log says of the columns that all rows of a file have in common.
    pub(super) values: BTreeMap<String, FolderValues>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DecidedLog {
    table: String,
    /// The versions with rows to send, ascending, all below `next`.
    due: VecDeque<Due>,
    /// The first version that was not looked at.
    next: u64,
    /// SHA-256 of the version before that one, where it is known.
    before_next: Option<String>,
    /// Files that were removed up to this version may be deleted.
    vacuumed_through: Option<u64>,
    /// Whether the rows of a redrive are new to the table.
    redriven_are_new: bool,
    due_max: usize,
}

impl DecidedLog {
    /// The log of `table` from version `first` on, which comes after one with the hash `after`.
    pub(super) fn new(table: &str, first: u64, after: Option<&str>) -> Self {
        Self {
            table: table.to_owned(),
            due: VecDeque::new(),
            next: first,
            before_next: after.map(str::to_owned),
            vacuumed_through: None,
            redriven_are_new: false,
            due_max: DUE_MAX,
        }
    }

    /// The same log, of which it is known that a redrive brings rows into the table rather than moving those that it has.
    pub(super) fn with_redriven_rows(self) -> Self {
        Self { redriven_are_new: true, ..self }
    }

    /// Looks at all up to `head`, or as much of it as can be remembered; whether it was all. `head` must be published in a
    /// majority of `clouds`.
    ///
    /// # Errors
    /// Also if this is another history than the one that was looked at before.
    pub(super) async fn reach(&mut self, clouds: &[Cloud], head: &TableHead) -> Result<bool, Failure> {
        let mut expected = head.sha256.clone();
        let mut found = VecDeque::new();
        // What is below this was looked at, and what is above is remembered or left for later.
        let mut above = head.version + 1;
        if self.next > above {
            let (table, next, last) = (&self.table, self.next, head.version);
            return Err(format!(
                "{table} has {last} as its last version, and version {next} is to be sent next; {BEGIN_ANEW}"
            ));
        }
        let (mut end, mut vacuumed_through) = (above, self.vacuumed_through);
        while above > self.next {
            let lowest = self.next.max(above.saturating_sub(READS_IN_FLIGHT));
            let bodies = self.read(clouds, lowest..above, &expected).await?;
            for (version, sha256, body) in bodies {
                expected = body.info.isobar.previous_sha256.clone();
                vacuumed_through = vacuumed_through.max(vacuum_in(&body)?);
                if !is_due(&body, self.redriven_are_new)? {
                    continue;
                }
                if found.len() == self.due_max
                    && let Some(Due { version, .. }) = found.pop_back()
                {
                    end = version;
                }
                found.push_front(Due { version, sha256 });
            }
            above = lowest;
        }
        if self.before_next.as_ref().is_some_and(|known| *known != expected) {
            let (table, next) = (&self.table, self.next);
            return Err(format!(
                "{table} is another table than the one that was sent so far, as it is before version {next}; {BEGIN_ANEW}"
            ));
        }
        self.before_next = (end > head.version).then(|| head.sha256.clone());
        self.due.extend(found);
        self.next = self.next.max(end);
        self.vacuumed_through = vacuumed_through;
        Ok(self.next > head.version)
    }

    /// The bodies of `versions`, the newest first, which has the hash `newest`.
    async fn read(
        &self,
        clouds: &[Cloud],
        versions: Range<u64>,
        newest: &str,
    ) -> Result<Vec<(u64, String, CommitBody)>, Failure> {
        // All at once from one cloud, in the hope that it has them; what it does not is looked for in every cloud.
        let versions: Vec<u64> = versions.collect();
        let paths: Vec<_> = versions.iter().map(|version| published_path(&self.table, *version)).collect();
        let guesses: Vec<_> = match clouds.first() {
            Some(cloud) => {
                let reads = paths.iter().map(|path| read_register(&*cloud.control, path, RECORD_BYTES_MAX));
                future::join_all(reads).await
            }
            None => return Err("there is no cloud".to_owned()),
        };
        let mut expected = newest.to_owned();
        let mut bodies = Vec::with_capacity(paths.len());
        for (version, guess) in versions.into_iter().zip(guesses).rev() {
            let bytes = match guess {
                Ok(Some(bytes)) if sha256_hex(&bytes) == expected => bytes,
                _ => read_version(clouds, &self.table, version, &expected).await?,
            };
            let body = self.parse(version, &bytes)?;
            let before = body.info.isobar.previous_sha256.clone();
            bodies.push((version, std::mem::replace(&mut expected, before), body));
        }
        Ok(bodies)
    }

    fn parse(&self, version: u64, bytes: &[u8]) -> Result<CommitBody, Failure> {
        parse_body(bytes).map_err(|error| format!("{} version {version}: {error}", self.table))
    }

    /// The first version with rows to send from `version` on.
    pub(super) fn due_from(&mut self, version: u64) -> Option<Due> {
        while self.due.front().is_some_and(|due| due.version < version) {
            self.due.pop_front();
        }
        self.due.front().cloned()
    }

    /// The first version that was not looked at.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// SHA-256 of the version before that one, where it is known.
    pub(super) fn before_next(&self) -> Option<&str> {
        self.before_next.as_deref()
    }

    /// The rows of a version.
    pub(super) async fn rows_of(&self, clouds: &[Cloud], due: &Due) -> Result<Rows, Failure> {
        let bytes = read_version(clouds, &self.table, due.version, &due.sha256).await?;
        let body = self.parse(due.version, &bytes)?;
        let values = body.adds.into_iter().map(|add| (add.path, add.partition_values)).collect();
        let info = body.info.isobar;
        Ok(Rows { after: info.previous_sha256, files: info.files, values })
    }

    /// Whether a file that `version` added may have been deleted on purpose.
    pub(super) fn may_be_deleted(&self, version: u64) -> bool {
        self.vacuumed_through.is_some_and(|through| through > version)
    }
}

/// Whether a version has rows that were not in the table before. A compaction has the same rows in other files, and what a
/// redrive puts back into a quarantine was rejected before; what it brings into a dataset was not there.
fn is_due(body: &CommitBody, redriven_are_new: bool) -> Result<bool, Failure> {
    let redrive = Redrive::of(&body.info).map_err(|error| error.to_string())?;
    let is_moved = maintenance_in(body)?.is_some() || (redrive.is_some() && !redriven_are_new);
    Ok(!is_moved && !body.adds.is_empty())
}

fn maintenance_in(body: &CommitBody) -> Result<Option<Maintenance>, Failure> {
    Maintenance::of(&body.info).map_err(|error| error.to_string())
}

fn vacuum_in(body: &CommitBody) -> Result<Option<u64>, Failure> {
    Ok(match maintenance_in(body)? {
        Some(Maintenance { work: MaintenanceWork::Vacuum { through }, .. }) => Some(through),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use isobar_connectors::delta::body::{INFO_FORMAT, NO_PREVIOUS_SHA256};
    use isobar_connectors::delta::{CommitInfo, IsobarInfo, TableDefinition};
    use isobar_schemas::RowCounts;
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::*;

    const TABLE: &str = "d.quarantine";

    /// A log in clouds that is written version by version.
    struct Written {
        clouds: Vec<Cloud>,
        head: TableHead,
        versions: u64,
    }

    impl Written {
        async fn new() -> Self {
            let cloud = |name: &str| {
                let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                Cloud::new(name, store.clone(), store)
            };
            let head = TableHead { sha256: NO_PREVIOUS_SHA256.to_owned(), ..TableHead::default() };
            let mut written = Self { clouds: vec![cloud("a"), cloud("b")], head, versions: 0 };
            let definition = TableDefinition {
                id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
                name: TABLE.into(),
                description: None,
                schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
                partition_by: Vec::new(),
                created_ms: 0,
            };
            let info = written.info(0);
            let created = CommitBody::new(CommitInfo::new(CommitInfo::CREATE, 1, info));
            written.publish(&created.create(&definition).unwrap()).await;
            written
        }

        fn info(&self, rows: u64) -> IsobarInfo {
            IsobarInfo {
                format: INFO_FORMAT,
                topology: "t".into(),
                dataset: TABLE.into(),
                epoch: 1,
                sequence: self.versions + 1,
                commit_id: format!("c{}", self.versions),
                members: Vec::new(),
                previous_sha256: self.head.sha256.clone(),
                plan: "ab".repeat(32),
                models: Vec::new(),
                offsets: Vec::new(),
                rows: RowCounts { input: rows, output: rows, ..RowCounts::default() },
                files: Vec::new(),
            }
        }

        async fn publish(&mut self, body: &CommitBody) {
            let bytes = body.to_bytes().unwrap();
            for cloud in &self.clouds {
                let path = published_path(TABLE, self.versions);
                cloud.data.put(&path, bytes.clone().into()).await.unwrap();
            }
            (self.head.version, self.head.sha256) = (self.versions, sha256_hex(&bytes));
            self.versions += 1;
        }

        fn with_file(&self, info: CommitInfo, rows: u64) -> CommitBody {
            let mut body = CommitBody::new(info);
            let digest = FileDigest {
                path: format!("f{}.parquet", self.versions),
                size: 10,
                sha256: "5".repeat(64),
                rows,
            };
            body.add_file(digest, BTreeMap::new(), format!("{{\"numRecords\":{rows}}}"));
            body
        }

        fn timestamp_ms(&self) -> i64 {
            self.versions as i64 + 1
        }

        async fn rejected(&mut self, rows: u64) {
            let info = CommitInfo::new(CommitInfo::WRITE, self.timestamp_ms(), self.info(rows));
            self.publish(&self.with_file(info, rows)).await;
        }

        async fn maintained(&mut self, work: MaintenanceWork) {
            let maintenance = Maintenance { after: 0, work };
            let info = CommitInfo::maintaining(&maintenance, self.timestamp_ms(), self.info(0));
            let mut body = CommitBody::new(info);
            if let MaintenanceWork::Optimize { rows } = work {
                body = self.with_file(body.info, rows);
                body.remove_file("f1.parquet".into(), 10, BTreeMap::new());
            }
            self.publish(&body).await;
        }

        async fn redriven(&mut self) {
            let redrive = Redrive::Taken { after: 0, kept: 0, rows: 3 };
            let info = CommitInfo::redriving(&redrive, self.timestamp_ms(), self.info(2));
            let mut body = self.with_file(info, 2);
            body.remove_file("f2.parquet".into(), 10, BTreeMap::new());
            self.publish(&body).await;
        }

        async fn corrupt(&self, cloud: usize, version: u64) {
            let path = published_path(TABLE, version);
            self.clouds[cloud].data.put(&path, "other".into()).await.unwrap();
        }
    }

    /// Every version that is due, in order.
    fn all_due(log: &mut DecidedLog) -> Vec<u64> {
        let mut found = Vec::new();
        while let Some(due) = log.due_from(found.last().map_or(0, |last| last + 1)) {
            found.push(due.version);
        }
        found
    }

    #[tokio::test]
    async fn rejected_rows_are_due_once_and_what_maintenance_and_redrives_move_is_not() {
        let mut written = Written::new().await;
        written.rejected(3).await;
        written.rejected(3).await;
        written.maintained(MaintenanceWork::Optimize { rows: 3 }).await;
        written.redriven().await;
        written.rejected(1).await;
        let mut log = DecidedLog::new(TABLE, 0, None);
        assert!(log.reach(&written.clouds, &written.head).await.unwrap());
        assert!(!log.may_be_deleted(1));
        let due = log.due_from(0).unwrap();
        let rows = log.rows_of(&written.clouds, &due).await.unwrap();
        assert_eq!(
            rows.files.iter().map(|file| (file.path.as_str(), file.rows)).collect::<Vec<_>>(),
            [("f1.parquet", 3)]
        );
        assert_eq!(all_due(&mut log), [1, 2, 5]);

        // In a dataset, what a redrive brings is new.
        let mut of_dataset = DecidedLog::new(TABLE, 0, None).with_redriven_rows();
        assert!(of_dataset.reach(&written.clouds, &written.head).await.unwrap());
        assert_eq!(all_due(&mut of_dataset), [1, 2, 4, 5]);

        // It goes on where it was.
        written.maintained(MaintenanceWork::Vacuum { through: 3 }).await;
        for _ in 0..40 {
            written.rejected(1).await;
        }
        assert!(log.reach(&written.clouds, &written.head).await.unwrap());
        assert_eq!(all_due(&mut log), (7..47).collect::<Vec<_>>());
        assert!(log.may_be_deleted(2) && !log.may_be_deleted(3));
        assert_eq!(log.next(), 47);
        assert_eq!(log.before_next(), Some(written.head.sha256.as_str()));
        // And begins where it is told.
        let mut log = DecidedLog::new(TABLE, 44, None);
        assert!(log.reach(&written.clouds, &written.head).await.unwrap());
        assert_eq!(all_due(&mut log), [44, 45, 46]);
    }

    #[tokio::test]
    async fn progress_of_another_table_is_refused_wherever_it_is() {
        let (mut written, mut other) = (Written::new().await, Written::new().await);
        written.rejected(1).await;
        other.rejected(2).await;
        let reach = async |first, after: &str, to: &Written| {
            DecidedLog::new(TABLE, first, Some(after)).reach(&to.clouds, &to.head).await
        };
        let (ours, theirs) = (written.head.sha256.clone(), other.head.sha256.clone());
        assert_eq!(reach(2, &ours, &written).await, Ok(true));
        assert!(reach(2, &theirs, &written).await.unwrap_err().contains("another table"));
        written.rejected(1).await;
        assert_eq!(reach(2, &ours, &written).await, Ok(true));
        assert!(reach(2, &theirs, &written).await.unwrap_err().contains("another table"));
        assert_eq!(reach(0, NO_PREVIOUS_SHA256, &written).await, Ok(true));
        // Ahead of the table.
        assert!(reach(4, &ours, &written).await.unwrap_err().contains("last version"));
        // A table that is replaced while it is looked at.
        let mut log = DecidedLog::new(TABLE, 0, None);
        assert!(log.reach(&written.clouds, &written.head).await.unwrap());
        other.rejected(1).await;
        other.rejected(1).await;
        assert!(log.reach(&other.clouds, &other.head).await.unwrap_err().contains("another table"));
    }

    #[tokio::test]
    async fn a_body_that_is_not_the_decided_one_is_never_believed() {
        let mut written = Written::new().await;
        for _ in 0..5 {
            written.rejected(1).await;
        }
        written.corrupt(0, 3).await;
        let mut log = DecidedLog::new(TABLE, 0, None);
        assert!(log.reach(&written.clouds, &written.head).await.unwrap());
        assert_eq!(all_due(&mut log), [1, 2, 3, 4, 5]);
        written.corrupt(1, 3).await;
        let mut log = DecidedLog::new(TABLE, 0, None);
        let error = log.reach(&written.clouds, &written.head).await.unwrap_err();
        assert!(error.contains("isobar scrub"), "{error}");
        assert_eq!((all_due(&mut log), log.next()), (Vec::new(), 0));
    }

    #[tokio::test]
    async fn more_than_can_be_remembered_is_looked_at_part_by_part() {
        let mut written = Written::new().await;
        for _ in 0..20 {
            written.rejected(1).await;
        }
        let mut log = DecidedLog { due_max: 8, ..DecidedLog::new(TABLE, 0, None) };
        let (mut found, mut parts) = (Vec::new(), 0);
        while !log.reach(&written.clouds, &written.head).await.unwrap() {
            parts += 1;
            let from = log.next();
            while let Some(due) = log.due_from(found.last().map_or(0, |last| last + 1)) {
                found.push(due.version);
            }
            assert_eq!(found.last().map(|last| last + 1), Some(from), "nothing in between is passed over");
        }
        while let Some(due) = log.due_from(found.last().map_or(0, |last| last + 1)) {
            found.push(due.version);
        }
        assert_eq!((found, parts), ((1..=20).collect::<Vec<_>>(), 2));
    }
}
