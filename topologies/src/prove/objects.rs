//! The checks on data files: what the log states about an object is held against its bytes, in every cloud.
//!
//! Bytes are read once, in pieces, and hashed as they come; the end of each file is kept, because a Parquet file's
//! footer lies there. Memory is bounded by files in flight times a piece and a tail, whatever the files' size.

use std::collections::HashSet;
use std::io::Read;

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{StreamExt, TryStreamExt};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::Metadata;
use isobar_connectors::delta::evolution::not_fitting;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, ParquetMetaDataReader};
use sha2::{Digest, Sha256};

use super::ProveProgress;
use super::checks::short;
use super::log::DataFile;
use super::tally::Tally;

/// Files read at once from one cloud.
const FILES_IN_FLIGHT: usize = 8;
/// Files in a row that a cloud fails to serve before the rest is not asked for.
const FAILURES_IN_A_ROW_MAX: u64 = 8;
/// Bytes of a local file read and hashed in one go off the async threads.
const PIECE_BYTES: usize = 1024 * 1024;
/// Bytes kept of the end of each file. A footer that is longer is read again.
const TAIL_BYTES: usize = 128 * 1024;

/// What the data files of one table look like in one cloud.
#[derive(Debug, Default)]
pub(crate) struct FileTallies {
    /// Files that are there with the size and SHA-256 of the log.
    pub(crate) files: Tally,
    /// Files whose footer counts the rows of the log, and has columns of the table only.
    pub(crate) footers: Tally,
    /// Bytes read and hashed.
    pub(crate) bytes_hashed: u64,
}

/// Objects in a table's folder that no version names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Reads every file of `files` from `cloud` and holds it against the log.
pub(crate) async fn check_files(
    cloud: &Cloud,
    table: &str,
    files: &[DataFile],
    progress: &dyn ProveProgress,
) -> FileTallies {
    let mut tallies = FileTallies::default();
    // In order, so that the first counter-examples are the same in every run.
    let mut in_flight = FuturesOrdered::new();
    let mut to_start = files.iter();
    let mut failures_in_a_row = 0;
    for file in files {
        in_flight.extend(
            to_start
                .by_ref()
                .take(FILES_IN_FLIGHT - in_flight.len())
                .map(|next| examine(cloud, table, next, progress)),
        );
        let Some(found) = in_flight.next().await else { break };
        tallies.bytes_hashed += found.bytes_hashed;
        failures_in_a_row = if found.refused { failures_in_a_row + 1 } else { 0 };
        tallies.files.look(&file.path, found.problem.as_slice());
        if let Some(footer) = found.footer {
            tallies.footers.look(&file.path, footer.as_slice());
        }
        if failures_in_a_row == FAILURES_IN_A_ROW_MAX {
            let rest = files.len() as u64 - tallies.files.checked;
            tallies.files.fail_many(
                rest,
                format!("{} stopped answering, {rest} more files were not read", cloud.name),
            );
            break;
        }
    }
    tallies
}

/// One file as found.
pub(super) struct Examined {
    pub(super) bytes_hashed: u64,
    /// Whether the cloud failed to serve it, other than by not having it.
    refused: bool,
    /// What is wrong with the bytes.
    pub(super) problem: Option<String>,
    /// Their SHA-256, where nothing is.
    pub(super) sha256: Option<String>,
    /// What is wrong with the footer; not judged where the bytes are not those of the log.
    pub(super) footer: Option<Option<String>>,
}

impl Examined {
    fn unread(problem: String) -> Self {
        Self { bytes_hashed: 0, refused: false, problem: Some(problem), sha256: None, footer: None }
    }

    fn refused(problem: String) -> Self {
        Self { refused: true, ..Self::unread(problem) }
    }
}

/// Reads one file, and holds it against what is stated about it.
pub(super) async fn examine(
    cloud: &Cloud,
    table: &str,
    file: &DataFile,
    progress: &dyn ProveProgress,
) -> Examined {
    let Some(path) = object_path(table, &file.path) else {
        return Examined::unread("not a path that an object can have".to_owned());
    };
    let found = match cloud.data.get(&path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Examined::unread("is not there".to_owned()),
        Err(error) => return Examined::refused(format!("cannot be read: {error}")),
    };
    let size = found.meta.size;
    if size != file.size {
        return Examined::unread(format!("{size} bytes here, {} in the log", file.size));
    }
    let summary = match summarise(found.payload, progress).await {
        Ok(summary) => summary,
        Err(why) => return Examined::refused(format!("cannot be read to its end: {why}")),
    };
    let bytes_hashed = summary.bytes;
    let sha256 = hex::encode(summary.hasher.finalize());
    if bytes_hashed != file.size {
        let problem = format!("{bytes_hashed} bytes read, {} in the log", file.size);
        return Examined { bytes_hashed, ..Examined::unread(problem) };
    }
    if let Some(stated) = file.sha256.as_ref().filter(|stated| **stated != sha256) {
        let problem = format!("SHA-256 {} here, {} in the log", short(&sha256), short(stated));
        return Examined { bytes_hashed, ..Examined::unread(problem) };
    }
    let footer = footer_problem(cloud, &path, summary.tail.into(), file).await;
    Examined { bytes_hashed, refused: false, problem: None, sha256: Some(sha256), footer: Some(footer) }
}

/// Where a file of `table` lies in a cloud. `relative` is decoded already; a key is those very characters.
pub(crate) fn object_path(table: &str, relative: &str) -> Option<Path> {
    Path::parse(format!("datasets/{table}/{relative}")).ok()
}

/// What is kept of an object while its bytes go by.
#[derive(Default)]
struct Summary {
    hasher: Sha256,
    bytes: u64,
    tail: Vec<u8>,
}

impl Summary {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        // Cut only now and then: cutting moves bytes.
        if self.tail.len() > 2 * TAIL_BYTES {
            self.cut_tail();
        }
    }

    fn cut_tail(&mut self) {
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
    }
}

async fn summarise(payload: GetResultPayload, progress: &dyn ProveProgress) -> Result<Summary, String> {
    let mut summary = match payload {
        GetResultPayload::File(file, _) => {
            summarise_file(file, progress).await.map_err(|error| error.to_string())?
        }
        GetResultPayload::Stream(mut pieces) => {
            let mut summary = Summary::default();
            while let Some(piece) = pieces.try_next().await.map_err(|error| error.to_string())? {
                summary.update(&piece);
                progress.hashed(piece.len() as u64);
            }
            summary
        }
    };
    summary.cut_tail();
    Ok(summary)
}

/// Reads and hashes a local file off the async threads, a piece at a time.
async fn summarise_file(mut file: std::fs::File, progress: &dyn ProveProgress) -> std::io::Result<Summary> {
    let mut summary = Summary::default();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        let step = move || -> std::io::Result<_> {
            piece.clear();
            (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            summary.update(&piece);
            Ok((file, piece, summary))
        };
        (file, piece, summary) = tokio::task::spawn_blocking(step).await.map_err(std::io::Error::other)??;
        if piece.is_empty() {
            return Ok(summary);
        }
        progress.hashed(piece.len() as u64);
    }
}

async fn footer_problem(cloud: &Cloud, path: &Path, tail: Bytes, file: &DataFile) -> Option<String> {
    let footer = match footer_of(cloud, path, tail, file.size).await {
        Ok(footer) => footer,
        Err(why) => return Some(format!("footer: {why}")),
    };
    if file.rows != u64::try_from(footer.num_rows()).ok() {
        let stated = file.rows.map_or("no number".to_owned(), |stated| stated.to_string());
        return Some(format!("{} rows in the footer, {stated} in the log", footer.num_rows()));
    }
    file.metadata.as_ref().and_then(|metadata| columns_problem(metadata, &footer))
}

/// What is wrong with a file's columns in a table that is `metadata` at its version.
fn columns_problem(metadata: &Metadata, footer: &FileMetaData) -> Option<String> {
    let problems = parquet_to_arrow_schema(footer.schema_descr(), None)
        .map_err(|error| error.to_string())
        .and_then(|columns| not_fitting(metadata, &columns).map_err(|error| error.to_string()));
    match problems {
        Ok(problems) => (!problems.is_empty()).then(|| problems.join("; ")),
        Err(why) => Some(format!("columns: {why}")),
    }
}

/// What a Parquet footer says, which lies in the last bytes of a file.
async fn footer_of(cloud: &Cloud, path: &Path, mut tail: Bytes, size: u64) -> Result<FileMetaData, String> {
    let mut reader = ParquetMetaDataReader::new();
    let mut parsed = reader.try_parse_sized(&tail, size);
    if let Err(ParquetError::NeedMoreData(needed)) = parsed {
        let start = size.checked_sub(needed as u64).ok_or("longer than the file")?;
        tail = cloud.data.get_range(path, start..size).await.map_err(|error| error.to_string())?;
        parsed = reader.try_parse_sized(&tail, size);
    }
    parsed.map_err(|error| error.to_string())?;
    let metadata = reader.finish().map_err(|error| error.to_string())?;
    Ok(metadata.file_metadata().clone())
}

/// Counts the objects in the table's folder, outside its log, that are not among `named`.
pub(crate) async fn count_leftovers(
    cloud: &Cloud,
    table: &str,
    named: &HashSet<String>,
) -> Result<Leftovers, object_store::Error> {
    count_among(cloud, table, |path| !named.contains(path)).await
}

/// Counts the objects in the table's folder, outside its log, whose paths relative to it `counts` wants.
pub(crate) async fn count_among(
    cloud: &Cloud,
    table: &str,
    counts: impl Fn(&str) -> bool,
) -> Result<Leftovers, object_store::Error> {
    let folder = Path::from(format!("datasets/{table}"));
    let inside = format!("{folder}/");
    let mut leftovers = Leftovers::default();
    let mut objects = cloud.data.list(Some(&folder));
    while let Some(object) = objects.try_next().await? {
        let relative = object.location.as_ref().strip_prefix(&inside);
        if relative.is_some_and(|path| !path.starts_with("_delta_log/") && counts(path)) {
            leftovers.objects += 1;
            leftovers.bytes += object.size;
        }
    }
    Ok(leftovers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::testing::{History, file_path};

    #[test]
    fn the_tail_is_the_end_of_the_file_however_it_comes() {
        let bytes: Vec<u8> = (0..5 * TAIL_BYTES as u32).map(|byte| (byte % 251) as u8).collect();
        for piece_bytes in [1000, TAIL_BYTES - 1, TAIL_BYTES + 1, bytes.len()] {
            let mut summary = Summary::default();
            for piece in bytes.chunks(piece_bytes) {
                summary.update(piece);
                assert!(summary.tail.len() <= 2 * TAIL_BYTES);
            }
            summary.cut_tail();
            assert_eq!(summary.bytes, bytes.len() as u64);
            assert_eq!(summary.tail, bytes[bytes.len() - TAIL_BYTES..]);
            assert_eq!(hex::encode(summary.hasher.finalize()), isobar_connectors::delta::sha256_hex(&bytes));
        }
    }

    #[tokio::test]
    async fn a_footer_longer_than_the_tail_is_read_again() {
        let clouds = History::good().store(1).await;
        let path = file_path("month=1/a.parquet");
        let bytes = clouds[0].data.get(&path).await.unwrap().bytes().await.unwrap();
        let size = bytes.len() as u64;
        for kept in [8, 9, 40, bytes.len()] {
            let tail = bytes.slice(bytes.len() - kept..);
            let footer = footer_of(&clouds[0], &path, tail, size).await.unwrap();
            assert_eq!(footer.num_rows(), 3, "{kept} bytes kept");
        }
        for kept in [0, 1, 7] {
            let tail = bytes.slice(bytes.len() - kept..);
            // Fewer than any footer has; never kept of a file that is longer.
            let _ = footer_of(&clouds[0], &path, tail, size).await;
        }
    }
}
