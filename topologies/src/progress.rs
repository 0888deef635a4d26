//! What a running topology has done so far, for progress bars, summaries and tests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isobar_schemas::{RowCounts, TopicPartition};
use tokio::sync::watch;

/// Numbers that rise while a topology runs.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    records: AtomicU64,
    bytes: AtomicU64,
    committed: Mutex<Committed>,
    positions: watch::Sender<BTreeMap<TopicPartition, i64>>,
}

/// What has been decided.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Commits decided by this process.
    pub commits: u64,
    /// The last decision's sequence number.
    pub sequence: u64,
    /// Row counts by dataset, over this process's commits.
    pub rows: BTreeMap<String, RowCounts>,
    /// Files and bytes of Parquet committed.
    pub files: u64,
    /// Bytes of Parquet committed.
    pub file_bytes: u64,
    /// Longest time between two decisions, or since the start.
    pub longest_pause: Duration,
    last_commit: Option<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            committed: Mutex::new(Committed::default()),
            positions: watch::channel(BTreeMap::new()).0,
        }
    }
}

impl Progress {
    /// Records and bytes were consumed.
    pub fn consumed(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A commit was decided.
    pub fn committed(&self, change: impl FnOnce(&mut Committed)) {
        let mut committed = self.committed.lock().expect("no code panics while it holds the counts");
        change(&mut committed);
        committed.commits += 1;
        let now = Instant::now();
        let pause = now - committed.last_commit.replace(now).unwrap_or(self.started);
        committed.longest_pause = committed.longest_pause.max(pause);
    }

    /// The next offsets to read, as decided.
    pub fn moved_to(&self, positions: BTreeMap<TopicPartition, i64>) {
        self.positions.send_modify(|known| known.extend(positions));
    }

    /// Follows the decided positions.
    pub fn positions(&self) -> watch::Receiver<BTreeMap<TopicPartition, i64>> {
        self.positions.subscribe()
    }

    /// Kafka records consumed.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of keys and payloads consumed.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A copy of what has been decided.
    pub fn snapshot(&self) -> Committed {
        self.committed.lock().expect("no code panics while it holds the counts").clone()
    }
}
