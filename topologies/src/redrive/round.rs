//! One round: rows of some files of a quarantine go through the topology, and what comes of them is staged.
//!
//! ```text
//! file ─▶ batches ─▶ selected? ──no──▶ kept ────────────────────────┐
//!                        └─yes─▶ record ─▶ decode, expectations, SQL ─▶ rejected again ─▶ files of the quarantine
//!                                                      └─▶ accepted ─▶ files of the dataset
//! ```
//!
//! Nothing is visible to a reader until the round is decided. A round that is dropped leaves at most unreferenced
//! files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use isobar_connectors::dataset::{DatasetWriter, StagedFile};
use isobar_connectors::upload::{FanOut, UploadHandle};
use isobar_schemas::RowCounts;
use isobar_transforms::Condition;

use super::source::LiveFile;
use crate::commit::redrive::Redrive;
use crate::decoding::Decoding;
use crate::error::Error;
use crate::quarantine::{Rejected, Staying, StoredRows};
use crate::spec::SourceTopics;
use crate::stage::{DatasetPlan, to_new_file};

/// Files of a quarantine that one decision takes rows out of, and about the most bytes of them: entries, temporary files
/// and what has to be done again after a refusal stay small.
pub(super) const FILES_MAX: usize = 256;
const BYTES_MAX: u64 = 256 << 20;

/// What gives a record of the quarantine its fate: the topology as it is now.
pub(super) struct Judge {
    pub(super) plan: DatasetPlan,
    pub(super) decoding: Decoding,
    /// The topics that the dataset is made of.
    pub(super) topics: SourceTopics,
    /// `None`: every row is selected.
    pub(super) condition: Option<Condition>,
}

impl Judge {
    /// Whether each row of `batch` is selected.
    fn selects(&self, batch: &RecordBatch) -> Result<Vec<bool>, Error> {
        let Some(condition) = &self.condition else { return Ok(vec![true; batch.num_rows()]) };
        let matches = condition
            .matches(batch)
            .map_err(|error| Error::Configuration(format!("the condition fails on a row: {error}")))?;
        Ok((0..batch.num_rows()).map(|row| matches.value(row)).collect())
    }

    /// Whether any row of a file is selected.
    pub(super) fn selects_any(&self, file: std::fs::File, path: &str) -> Result<bool, Error> {
        if self.condition.is_none() {
            return Ok(true);
        }
        for batch in super::source::batches(file).map_err(|why| Error::damaged(path, why))? {
            let rows = read(batch, path)?;
            if self.selects(rows.batch())?.contains(&true) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The rows of a batch of the file at `path`.
pub(super) fn read<E: std::fmt::Display>(
    batch: Result<RecordBatch, E>,
    path: &str,
) -> Result<StoredRows, Error> {
    let batch = batch.map_err(|error| Error::damaged(path, error.to_string()))?;
    StoredRows::new(&batch).map_err(|error| Error::damaged(path, error.to_string()))
}

/// Where rows go: nowhere in a dry run.
struct Writers {
    accepted: DatasetWriter,
    stays: DatasetWriter,
}

/// See the [module](self).
pub(super) struct Round {
    commit_id: String,
    writers: Option<Writers>,
    taken_from: Vec<LiveFile>,
    bytes: u64,
    kept: u64,
    counts: RowCounts,
    /// Whether some row leaves the quarantine, or stays for another reason.
    changes: bool,
}

/// A round to be decided, and the uploads of its files.
pub(super) struct Staged {
    pub(super) redrive: Redrive,
    pub(super) uploads: Vec<(String, Vec<UploadHandle>)>,
}

impl Round {
    /// An empty round that writes files of `plan` to `uploads`; without them, one that only counts.
    pub(super) fn begin(plan: &DatasetPlan, uploads: Option<&Arc<FanOut>>) -> Result<Self, Error> {
        let commit_id = uuid::Uuid::new_v4().to_string();
        let open = |layout: &Arc<_>, uploads: &Arc<FanOut>| {
            DatasetWriter::new(Arc::clone(layout), uploads.clone(), &commit_id).map_err(cannot_write)
        };
        let writers = uploads.map(|uploads| {
            Ok::<_, Error>(Writers {
                accepted: open(&plan.layout, uploads)?,
                stays: open(&plan.quarantine_layout, uploads)?,
            })
        });
        let writers = writers.transpose()?;
        let (counts, taken_from) = (RowCounts::default(), Vec::new());
        Ok(Self { commit_id, writers, taken_from, bytes: 0, kept: 0, counts, changes: false })
    }

    /// The files that rows were taken out of.
    pub(super) fn taken_from(&self) -> &[LiveFile] {
        &self.taken_from
    }

    /// What became of the rows taken.
    pub(super) fn counts(&self) -> &RowCounts {
        &self.counts
    }

    /// Whether deciding it would change anything.
    pub(super) fn changes(&self) -> bool {
        self.changes
    }

    /// Whether another file may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.taken_from.len() < FILES_MAX && self.bytes < BYTES_MAX
    }

    /// A file whose rows are going to be taken. All of them must be, or the round dropped.
    pub(super) fn open(&mut self, file: &LiveFile) {
        self.bytes += file.size;
        self.taken_from.push(file.clone());
    }

    /// Takes the next rows of the file opened last. CPU work only.
    pub(super) fn take(
        &mut self,
        judge: &mut Judge,
        rows: &StoredRows,
        rows_bytes: usize,
    ) -> Result<(), Error> {
        let selected = judge.selects(rows.batch())?;
        for run in rows.runs() {
            self.take_run(judge, rows, run, &selected)?;
        }
        self.shrink_to(rows_bytes)
    }

    /// Takes consecutive rows of one Kafka partition.
    fn take_run(
        &mut self,
        judge: &mut Judge,
        rows: &StoredRows,
        run: std::ops::Range<usize>,
        selected: &[bool],
    ) -> Result<(), Error> {
        let from = rows.topic_partition(run.start);
        let taken: Vec<usize> = run.clone().filter(|row| selected[*row]).collect();
        let mut fates: BTreeMap<usize, Option<&Rejected>> = taken.iter().map(|row| (*row, None)).collect();
        let judged;
        if !taken.is_empty() {
            if !judge.topics.contains(&from.topic) {
                return Err(other_topic(&judge.plan.name, &from.topic));
            }
            if judge.plan.keeps_headers() && !rows.keep_headers() {
                let what = format!("rows of {} have no headers, and the dataset uses them", judge.plan.name);
                return Err(Error::Bug(what));
            }
            let chunk = rows.records(&taken, from.clone());
            let decoded = judge.decoding.decode_blocking(judge.plan.source, &chunk)?;
            judged = judge.plan.judge(&chunk, &decoded, 0)?;
            self.counts.add(&judged.counts);
            let still: Vec<(usize, &Rejected)> =
                judged.rejected.iter().map(|rejected| (taken[rejected.record as usize], rejected)).collect();
            let is_other = |(row, rejected): &(usize, &Rejected)| !rows.has_reason(*row, rejected);
            self.changes |= still.len() < taken.len() || still.iter().any(is_other);
            fates.extend(still.into_iter().map(|(row, rejected)| (row, Some(rejected))));
            if let Some(writers) = &mut self.writers {
                writers.accepted.write(&from, judged.rows.clone()).map_err(cannot_write)?;
            }
        }
        self.kept += (run.len() - taken.len()) as u64;
        let Some(writers) = &mut self.writers else { return Ok(()) };
        let fate = |row: usize| match fates.get(&row) {
            None => Staying::Kept,
            Some(Some(rejected)) => Staying::Rejected(rejected),
            Some(None) => Staying::Gone,
        };
        let stays = rows.staying(run, fate);
        let stays = stays.map_err(|error| Error::damaged("quarantined rows", error.to_string()))?;
        writers.stays.write(&from, stays).map_err(cannot_write)
    }

    /// Encodes rows when more than `bytes_max` are held.
    fn shrink_to(&mut self, bytes_max: usize) -> Result<(), Error> {
        let Some(Writers { accepted, stays }) = &mut self.writers else { return Ok(()) };
        if accepted.buffered_bytes() + stays.buffered_bytes() <= bytes_max {
            return Ok(());
        }
        accepted.flush(bytes_max / 4).and_then(|()| stays.flush(bytes_max / 4)).map_err(cannot_write)
    }

    /// Ends all files, and says what to decide about them; `after` is the fence of the files taken from. CPU work only.
    pub(super) fn close(self, plan: &DatasetPlan, after: u64) -> Result<Staged, Error> {
        let Some(Writers { accepted, stays }) = self.writers else {
            return Err(Error::Bug("a dry run is not to be decided".to_owned()));
        };
        let (accepted, stays) =
            (accepted.close().map_err(cannot_write)?, stays.close().map_err(cannot_write)?);
        let uploads = |file: &StagedFile| (file.object_path.to_string(), file.uploads.clone());
        Ok(Staged {
            uploads: accepted.iter().chain(&stays).map(uploads).collect(),
            redrive: Redrive {
                commit_id: self.commit_id,
                dataset: plan.name.clone(),
                plan: plan.transform.fingerprint().to_owned(),
                models: plan.models.in_use(),
                after,
                removed: self.taken_from.iter().map(LiveFile::removed).collect(),
                kept: self.kept,
                stays: stays.iter().map(to_new_file).collect(),
                accepted: accepted.iter().map(to_new_file).collect(),
                rows: self.counts,
            },
        })
    }
}

fn cannot_write(error: isobar_connectors::Error) -> Error {
    Error::connector("write redriven rows", error)
}

fn other_topic(dataset: &str, found: &str) -> Error {
    Error::Configuration(format!(
        "dataset {dataset} is not made of topic {found} any more, and its quarantine has records of it: leave them out with \
         --where \"topic <> '{found}'\""
    ))
}
