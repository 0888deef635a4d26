//! The part of a batch that belongs to one dataset: from decoded records to staged files.
//!
//! A stage takes the chunks of its source, gives every record its one fate, writes accepted rows and rejected
//! records to their tables, and adds up what it saw. Closing it gives the table proposals of one commit. Nothing is
//! visible to a reader until that commit is decided; dropping a stage leaves at most unreferenced files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use isobar_connectors::dataset::{DatasetWriter, StagedFile, TableLayout};
use isobar_connectors::delta::{self, OffsetRange, ScoredBy, TableDefinition};
use isobar_connectors::upload::FanOut;
use isobar_schemas::decode::{DecodeLimits, Decoded, Reject, RejectReason};
use isobar_schemas::metadata::with_metadata;
use isobar_schemas::{MetadataColumn, RecordChunk, RowCounts, TopicPartition};
use isobar_transforms::{DatasetTransform, RowReject, TransformOutcome};

use crate::commit::chain::NewFile;
use crate::commit::{TableProposal, quarantine_of};
use crate::error::Error;
use crate::inference::Predictors;
use crate::quarantine::{self, Rejected};

/// How a Kafka partition is named in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionIdentity {
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The topic's id, or its name where the broker has no ids.
    pub topic_id: String,
}

/// What a dataset is, apart from any one batch.
#[derive(Debug)]
pub struct DatasetPlan {
    /// Its name.
    pub name: String,
    /// Index of its source in the topology.
    pub source: usize,
    /// Expectations and SQL, compiled.
    pub transform: DatasetTransform,
    /// The models that these call.
    pub models: Arc<Predictors>,
    /// Where and how its rows are written.
    pub layout: Arc<TableLayout>,
    /// The same with all columns of its table, which may have more than its rows: for files that are rewritten.
    pub table_layout: Arc<TableLayout>,
    /// Where and how its rejected records are written.
    pub quarantine_layout: Arc<TableLayout>,
    /// How its table begins.
    pub table: TableDefinition,
    /// How its quarantine begins.
    pub quarantine_table: TableDefinition,
}

/// Progress within one Kafka partition since the last commit.
#[derive(Debug, Clone)]
struct Range {
    start: i64,
    end: i64,
    records: u64,
    last_fingerprint: Option<String>,
}

/// One dataset's part of the batch being read.
pub struct DatasetStage {
    rows: DatasetWriter,
    rejected: DatasetWriter,
    counts: RowCounts,
    ranges: BTreeMap<TopicPartition, Range>,
    /// The models that score its rows: they change between two stages only.
    models: Vec<ScoredBy>,
}

/// A closed stage: proposals, and the files with their uploads.
#[derive(Debug)]
pub struct StagedTables {
    /// The dataset's own table first, its quarantine after it when it has rows.
    pub tables: Vec<TableProposal>,
    /// Their files.
    pub files: Vec<StagedFile>,
}

impl DatasetStage {
    /// An empty stage whose files are named after `commit_id`.
    pub fn new(plan: &DatasetPlan, commit_id: &str, uploads: &Arc<FanOut>) -> Result<Self, Error> {
        let writer = |layout: &Arc<TableLayout>| {
            DatasetWriter::new(layout.clone(), uploads.clone(), commit_id)
                .map_err(|error| Error::connector(format!("open files of {}", layout.path()), error))
        };
        Ok(Self {
            rows: writer(&plan.layout)?,
            rejected: writer(&plan.quarantine_layout)?,
            counts: RowCounts::default(),
            ranges: BTreeMap::new(),
            models: plan.models.in_use(),
        })
    }

    /// Takes a chunk of the dataset's source. `position` is where the dataset stands in the chunk's partition, as
    /// far as this stage and its predecessors have read; records below it are already in and are left out.
    pub fn absorb(
        &mut self,
        plan: &mut DatasetPlan,
        topic_id: &str,
        chunk: &RecordChunk,
        decoded: &Decoded,
        position: i64,
    ) -> Result<(), Error> {
        let first = chunk.offsets().partition_point(|offset| *offset < position);
        if first == chunk.len() {
            return Ok(());
        }
        let judged = plan.judge(chunk, decoded, first)?;
        self.counts.add(&judged.counts);
        self.advance(topic_id, chunk, first, position);
        let from = chunk.topic_partition();
        if !judged.rejected.is_empty() {
            self.rejected
                .write(from, quarantine::rows(chunk, &judged.rejected, plan.keeps_headers()))
                .map_err(|error| self.cannot_write(error))?;
        }
        self.rows.write(from, judged.rows).map_err(|error| self.cannot_write(error))
    }

    fn cannot_write(&self, error: isobar_connectors::Error) -> Error {
        Error::connector("write rows", error)
    }

    fn advance(&mut self, topic_id: &str, chunk: &RecordChunk, first: usize, position: i64) {
        let range = self.ranges.entry(chunk.topic_partition().clone());
        let range =
            range.or_insert(Range { start: position, end: position, records: 0, last_fingerprint: None });
        let last = chunk.len() - 1;
        range.end = chunk.offsets()[last] + 1;
        range.records += (chunk.len() - first) as u64;
        range.last_fingerprint = Some(delta::record_fingerprint(
            topic_id,
            chunk.topic_partition().partition,
            chunk.offsets()[last],
            chunk.timestamps_ms()[last],
            chunk.key(last),
            chunk.payload(last),
        ));
    }

    /// Bytes of rows held in memory.
    pub fn buffered_bytes(&self) -> usize {
        self.rows.buffered_bytes() + self.rejected.buffered_bytes()
    }

    /// Encodes row groups until at most `bytes` are held.
    pub fn flush(&mut self, bytes: usize) -> Result<(), Error> {
        self.rejected
            .flush(bytes / 2)
            .and_then(|()| self.rows.flush(bytes / 2))
            .map_err(|error| self.cannot_write(error))
    }

    /// Whether nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The next offset to read per partition, after this stage.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.ranges.iter().map(|(partition, range)| (partition, range.end))
    }

    /// Finishes all files and says what to decide about them.
    pub fn close(
        self,
        plan: &DatasetPlan,
        identities: &BTreeMap<TopicPartition, PartitionIdentity>,
    ) -> Result<StagedTables, Error> {
        let finish = |writer: DatasetWriter| {
            writer.close().map_err(|error| Error::connector(format!("finish files of {}", plan.name), error))
        };
        let rows = finish(self.rows)?;
        let rejected = finish(self.rejected)?;
        let offsets = self.ranges.into_iter().map(|(partition, range)| {
            let identity = &identities[&partition];
            OffsetRange {
                cluster: identity.cluster.clone(),
                topic: partition.topic.to_string(),
                topic_id: identity.topic_id.clone(),
                partition: partition.partition,
                start: range.start,
                end: range.end,
                records: range.records,
                last_fingerprint: range.last_fingerprint,
            }
        });
        let rejected_rows = self.counts.rejected_total();
        let mut tables = vec![TableProposal {
            dataset: plan.name.clone(),
            create: None,
            plan: plan.transform.fingerprint().to_owned(),
            models: self.models,
            offsets: offsets.collect(),
            rows: self.counts,
            files: rows.iter().map(to_new_file).collect(),
        }];
        if rejected_rows > 0 {
            tables.push(TableProposal {
                dataset: quarantine_of(&plan.name),
                create: None,
                plan: plan.transform.fingerprint().to_owned(),
                models: Vec::new(),
                offsets: Vec::new(),
                rows: RowCounts { input: rejected_rows, output: rejected_rows, ..RowCounts::default() },
                files: rejected.iter().map(to_new_file).collect(),
            });
        }
        Ok(StagedTables { tables, files: rows.into_iter().chain(rejected).collect() })
    }
}

pub(crate) fn to_new_file(file: &StagedFile) -> NewFile {
    NewFile {
        digest: file.digest(),
        partition_values: file.partition_values.clone(),
        stats: file.stats.clone(),
    }
}

/// What became of the records of a chunk.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Rows of the dataset, in the order of their records.
    pub(crate) rows: RecordBatch,
    /// Records for the quarantine, in order.
    pub(crate) rejected: Vec<Rejected>,
    /// The fates of all records judged.
    pub(crate) counts: RowCounts,
}

impl DatasetPlan {
    /// Whether the dataset uses the headers of records, so that its quarantine keeps them.
    pub(crate) fn keeps_headers(&self) -> bool {
        self.transform.uses(MetadataColumn::Headers)
    }

    /// Gives every record of `chunk` from index `first` on its one fate, by what the decoder made of it, the expectations
    /// and the SQL: the same for records from Kafka and for those that are redriven.
    ///
    /// # Errors
    /// [`Error::ExpectationFailed`] at the first record that an expectation with the action `fail` stops at.
    pub(crate) fn judge(
        &mut self,
        chunk: &RecordChunk,
        decoded: &Decoded,
        first: usize,
    ) -> Result<Judged, Error> {
        let kept = decoded.records.partition_point(|record| (*record as usize) < first);
        let records = &decoded.records[kept..];
        let batch = decoded.batch.slice(kept, decoded.batch.num_rows() - kept);
        let without_headers = self.without_headers(chunk, records)?;
        let left_out: HashSet<u32> = without_headers.iter().map(|reject| reject.record).collect();
        let (records, batch) = leave_out(records, batch, &left_out)?;
        let records = &records[..];
        let outcome = self.transform_whole(chunk, records, batch)?;
        if let Some(failed) = outcome.failed {
            let offset = chunk.offsets()[records[failed.row as usize] as usize];
            let record = format!("{} offset {offset}", chunk.topic_partition());
            return Err(Error::ExpectationFailed { dataset: self.name.clone(), rule: failed.rule, record });
        }
        let undecodable = decoded.rejects.iter().filter(|reject| reject.record as usize >= first);
        let mut rejected: Vec<Rejected> =
            undecodable.chain(&without_headers).map(Rejected::undecodable).collect();
        let mut counts = outcome.counts;
        counts.input += rejected.len() as u64;
        let left_out = decoded.left_out.iter().filter(|record| **record as usize >= first).count() as u64;
        counts.input += left_out;
        counts.filtered += left_out;
        for reject in &rejected {
            *counts.rejected.entry(reject.label().to_owned()).or_default() += 1;
        }
        rejected.extend(outcome.rejects.into_iter().map(|reject| Rejected::by_rule(records, reject)));
        rejected.sort_by_key(|reject| reject.record);
        Ok(Judged { rows: outcome.rows, rejected, counts })
    }

    /// Those of `records` whose headers the dataset uses and cannot be given.
    fn without_headers(&self, chunk: &RecordChunk, records: &[u32]) -> Result<Vec<Reject>, Error> {
        if !self.keeps_headers() {
            return Ok(Vec::new());
        }
        if !chunk.has_headers() {
            return Err(Error::Bug(format!("records of {} came without headers", chunk.topic_partition())));
        }
        let rows_of_records = records.chunk_by(|row, next| row == next);
        Ok(rows_of_records.filter_map(|rows| wrong_headers(chunk, rows[0])).collect())
    }

    /// Transforms the rows of `records`, of which some may hold several. Such a record is rejected as a whole, for the
    /// first of its rows that is; the counts are those of records.
    fn transform_whole(
        &mut self,
        chunk: &RecordChunk,
        records: &[u32],
        batch: RecordBatch,
    ) -> Result<TransformOutcome, Error> {
        let of_one_record = |row: &[u32]| row[0] == row[1];
        if !records.windows(2).any(of_one_record) {
            return self.transform(chunk, records, batch);
        }
        let mut outcome = self.transform(chunk, records, batch.clone())?;
        if outcome.failed.is_some() {
            return Ok(outcome);
        }
        let mut left = Cow::Borrowed(records);
        let mut rejects: Vec<RowReject> = Vec::new();
        let mut rejected: HashSet<u32> = HashSet::new();
        let record_of = |reject: &RowReject| records[reject.row as usize];
        while !outcome.rejects.is_empty() {
            // Only a model can have no time for rows that it had time for before.
            if !rejects.is_empty() && self.models.is_empty() {
                return Err(Error::Bug(format!("rows of {} have another fate the second time", self.name)));
            }
            let places: Vec<u32> = (0..)
                .zip(records)
                .filter(|(_, record)| !rejected.contains(*record))
                .map(|(row, _)| row)
                .collect();
            let mut more = std::mem::take(&mut outcome.rejects);
            more.iter_mut().for_each(|reject| reject.row = places[reject.row as usize]);
            more.dedup_by_key(|reject| record_of(reject));
            rejected.extend(more.iter().map(record_of));
            rejects.append(&mut more);
            let (rest, batch) = leave_out(records, batch.clone(), &rejected)?;
            outcome = self.transform(chunk, &rest, batch)?;
            if outcome.failed.is_some() {
                return Err(Error::Bug(format!("rows of {} have another fate the second time", self.name)));
            }
            left = rest;
        }
        rejects.sort_by_key(|reject| reject.row);
        for reject in &rejects {
            *outcome.counts.rejected.entry(reject.rule.clone()).or_default() += 1;
        }
        outcome.counts.input += rejects.len() as u64;
        outcome.rejects = rejects;
        let expanded = left.windows(2).filter(|row| of_one_record(row)).count() as u64;
        outcome.counts.input -= expanded;
        outcome.counts.expanded = expanded;
        Ok(outcome)
    }

    fn transform(
        &mut self,
        chunk: &RecordChunk,
        records: &[u32],
        batch: RecordBatch,
    ) -> Result<TransformOutcome, Error> {
        let batch = with_metadata(&batch, chunk, records, self.transform.metadata_columns())
            .map_err(|error| Error::damaged("decoded batch", error.to_string()))?;
        self.models.begin_batch();
        self.transform.run(batch).map_err(|source| {
            let action =
                format!("transform records of {} for dataset {}", chunk.topic_partition(), self.name);
            Error::Transform { action, source }
        })
    }
}

/// What is wrong with the headers of a record. Together with its payload they must stay within the bound of a payload.
fn wrong_headers(chunk: &RecordChunk, record: u32) -> Option<Reject> {
    let index = record as usize;
    let bytes_max = DecodeLimits::default().payload_bytes_max;
    let header_bytes = chunk.header_bytes(index);
    let bytes = header_bytes + chunk.payload(index).map_or(0, <[u8]>::len);
    let (reason, message) = if !chunk.has_headers_of(index) {
        (RejectReason::Undecodable, "the headers cannot be read".to_owned())
    } else if bytes > bytes_max {
        let problem =
            format!("{bytes} bytes, {header_bytes} of them headers, more than the limit of {bytes_max}");
        (RejectReason::Oversize, problem)
    } else {
        return None;
    };
    Some(Reject { record, reason, message })
}

/// `records` and their rows in `batch`, without those `left_out`.
fn leave_out<'r>(
    records: &'r [u32],
    batch: RecordBatch,
    left_out: &HashSet<u32>,
) -> Result<(Cow<'r, [u32]>, RecordBatch), Error> {
    if left_out.is_empty() {
        return Ok((Cow::Borrowed(records), batch));
    }
    let stays: Vec<bool> = records.iter().map(|record| !left_out.contains(record)).collect();
    let records = records.iter().copied().filter(|record| !left_out.contains(record)).collect();
    let batch = filter_record_batch(&batch, &BooleanArray::from(stays))
        .map_err(|error| Error::damaged("decoded batch", error.to_string()))?;
    Ok((Cow::Owned(records), batch))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn records_whose_headers_cannot_be_given_are_left_out_with_a_reason() {
        let bytes_max = DecodeLimits::default().payload_bytes_max;
        let large = vec![b'x'; bytes_max - 10];
        let mut chunk = RecordChunk::with_headers(TopicPartition::new("t", 0));
        chunk.push_with_headers(0, None, None, Some(&large), Some([("name", Some(&b"123456"[..]))]));
        chunk.push_with_headers(1, None, None, Some(&large), Some([("name", Some(&b"1234567"[..]))]));
        chunk.push_with_headers(2, None, None, None, None::<[(&str, Option<&[u8]>); 0]>);
        chunk.push(3, None, None, Some(b"x"));
        let wrong: Vec<Reject> = (0..4).filter_map(|record| wrong_headers(&chunk, record)).collect();
        let reasons: Vec<_> = wrong.iter().map(|reject| (reject.record, reject.reason)).collect();
        assert_eq!(reasons, [(1, RejectReason::Oversize), (2, RejectReason::Undecodable)]);
        assert!(wrong[0].message.contains("11 of them headers"), "{}", wrong[0].message);

        let rows = Arc::new(Int32Array::from(vec![30, 20, 0]));
        let batch = RecordBatch::try_from_iter([("a", rows as _)]).unwrap();
        let left_out = wrong.iter().map(|reject| reject.record).collect();
        let (records, left) = leave_out(&[3, 2, 0], batch.clone(), &left_out).unwrap();
        assert_eq!(&records[..], [3, 0]);
        assert_eq!(left.column(0).as_primitive::<Int32Type>().values(), &[30, 0]);
        assert_eq!(
            leave_out(&[3, 2, 0], batch.clone(), &HashSet::new()).unwrap(),
            (Cow::Borrowed(&[3, 2, 0][..]), batch)
        );
    }
}
