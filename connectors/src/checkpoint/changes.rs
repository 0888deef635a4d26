//! What the bodies change: read once, in order, and kept small.

use std::collections::{HashMap, VecDeque};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::head::Head;
use super::layout::{self, FileActions};
use super::{encode_error, encoder};
use crate::Error;
use crate::delta::path::decode_log_path;
use crate::delta::{Action, CommitBody, parse_body};

/// See the [module](self).
pub(super) struct Changes {
    /// The newest of what is not files.
    pub(super) head: Head,
    /// Which rows count.
    pub(super) newest: NewestRows,
    /// All file actions of all bodies, oldest first.
    pub(super) rows: Rows,
}

impl Changes {
    /// Reads the bodies; `from_creation` says that the first of them must create the table.
    pub(super) fn collect(
        bodies: impl IntoIterator<Item = Result<Bytes, Error>>,
        from_creation: bool,
    ) -> Result<Self, Error> {
        let mut changes =
            Self { head: Head::default(), newest: NewestRows::default(), rows: Rows::default() };
        let mut before: Option<(Bytes, CommitBody)> = None;
        for bytes in bodies {
            let bytes = bytes?;
            let body = parse_body(&bytes)?;
            match &before {
                Some((bytes, previous)) => body.check_follows(Some((bytes, previous)))?,
                None if from_creation => body.check_follows(None)?,
                None => {}
            }
            changes.apply(&body, bytes.len())?;
            before = Some((bytes, body));
        }
        changes.rows.seal()?;
        Ok(changes)
    }

    fn apply(&mut self, body: &CommitBody, body_bytes: usize) -> Result<(), Error> {
        self.head.update(Head {
            protocol: body.protocol.clone(),
            metadata: body.metadata.clone(),
            txns: body.txns.iter().map(|txn| (txn.app_id.clone(), txn.clone())).collect(),
        });
        // The protocol: in a checkpoint `dataChange` is false, because reading it brings nothing new.
        for add in &body.adds {
            self.newest.push(&add.path)?;
            let mut add = add.clone();
            add.data_change = false;
            self.rows.open.push(Action::Add(add));
        }
        for remove in &body.removes {
            self.newest.push(&remove.path)?;
            let mut remove = remove.clone();
            remove.data_change = false;
            self.rows.open.push(Action::Remove(remove));
        }
        self.rows.grown_by(body_bytes)
    }
}

/// The first half of the SHA-256 of a decoded path: nobody can make two paths collide.
type PathDigest = [u8; 16];

/// The number of the newest row on each path that the bodies touch. Never iterated: its order is random.
#[derive(Default)]
pub(super) struct NewestRows {
    by_path: HashMap<PathDigest, u64>,
    rows: u64,
}

impl NewestRows {
    /// Counts one more row, on `path`.
    fn push(&mut self, path: &str) -> Result<(), Error> {
        self.by_path.insert(digest(path)?, self.rows);
        self.rows += 1;
        Ok(())
    }

    /// The rows of a previous checkpoint on which no body acts.
    pub(super) fn survivors_of_previous(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        filter(batch, |_, path| Ok(!self.by_path.contains_key(&digest(path)?)))
    }

    /// The rows of the bodies that are the newest on their path; `first_row` is the number of the batch's first.
    pub(super) fn survivors(&self, batch: &RecordBatch, first_row: u64) -> Result<RecordBatch, Error> {
        filter(batch, |row, path| Ok(self.by_path.get(&digest(path)?) == Some(&(first_row + row as u64))))
    }
}

/// Paths are compared once decoded, as in the rules of a body.
fn digest(path: &str) -> Result<PathDigest, Error> {
    let whole = Sha256::digest(decode_log_path(path)?);
    let mut digest = PathDigest::default();
    digest.copy_from_slice(&whole[..size_of::<PathDigest>()]);
    Ok(digest)
}

fn filter(
    batch: &RecordBatch,
    survives: impl Fn(usize, &str) -> Result<bool, Error>,
) -> Result<RecordBatch, Error> {
    let files = FileActions::of(batch);
    let mask = (0..batch.num_rows())
        .map(|row| files.get(row).map_or(Ok(false), |file| survives(row, file.path)))
        .collect::<Result<Vec<bool>, Error>>()?;
    if mask.iter().all(|survives| *survives) {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, &BooleanArray::from(mask)).map_err(encode_error)
}

/// Rows in compressed batches, in memory; iterating gives them back, and frees each.
#[derive(Default)]
pub(super) struct Rows {
    sealed: VecDeque<Box<[u8]>>,
    open: Vec<Action>,
    /// Bytes of the bodies that the open rows came from.
    open_bytes: usize,
}

impl Rows {
    fn grown_by(&mut self, body_bytes: usize) -> Result<(), Error> {
        self.open_bytes += body_bytes;
        let full = self.open.len() >= encoder::BATCH_ROWS || self.open_bytes >= encoder::BATCH_BYTES;
        if full { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<(), Error> {
        self.open_bytes = 0;
        if !self.open.is_empty() {
            let batch = layout::rows(&std::mem::take(&mut self.open))?;
            self.sealed.push_back(compress(&batch).map_err(encode_error)?);
        }
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.sealed.pop_front().map(|bytes| expand(&bytes).map_err(encode_error))
    }
}

fn compress(batch: &RecordBatch) -> Result<Box<[u8]>, ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options)?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into_boxed_slice())
}

fn expand(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    reader.next().unwrap_or_else(|| Ok(RecordBatch::new_empty(layout::schema())))
}
