//! Blocks of data files on a local disk, so that what was read once is not asked of a cloud again.
//!
//! A data file never changes, so a block of it is right for ever. A block is named by the table's id, the path and size of the
//! file and its number in it; the file that holds it begins with a checksum over that name and the bytes. So whatever else lies
//! there, is torn, damaged, or of another block, is not used, but deleted.
//!
//! The folder has a bound; what was not used for longest goes first. It is known again after a restart by the times of the
//! files. Several processes may share a folder, each of which keeps to the bound for what it knows of. A disk that is full, or
//! cannot be written, only makes queries slower.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use crate::spec::CacheSpec;

/// Bytes of a block, but of the last one of a file.
const BLOCK_BYTES: u64 = 256 << 10;
/// Bytes of the checksum before it.
const SUM_BYTES: usize = 32;
/// What names of block files end with.
const ENDING: &str = ".block";
/// What names of files that are being written begin with.
const UNFINISHED: &str = ".unfinished-";
/// After this time nobody is writing one any more.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

type Key = [u8; SUM_BYTES];

/// The folder. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Blocks(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    directory: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    has_warned: AtomicBool,
}

/// What is in the folder, and when it was used.
#[derive(Debug, Default)]
struct Index {
    is_read: bool,
    /// Bytes on disk and last use of each block.
    blocks: HashMap<Key, (u64, u64)>,
    by_use: BTreeMap<u64, Key>,
    bytes: u64,
    uses: u64,
}

/// One block of a file.
#[derive(Debug, Clone)]
struct Block {
    key: Key,
    range: Range<u64>,
}

impl Blocks {
    /// The folder is not touched before it is needed.
    pub(super) fn new(cache: &CacheSpec) -> Self {
        Self(Arc::new(Folder {
            directory: cache.directory.clone(),
            bytes_max: cache.bytes_max,
            index: Mutex::default(),
            has_warned: AtomicBool::new(false),
        }))
    }

    /// `range` of the file at `path`, which has `size` bytes, of the table with the id `table`; and how many bytes of that were on
    /// the disk. What is not is asked of `fetch`, in whole blocks, and kept.
    pub(super) async fn read<F, Fetched>(
        &self,
        table: &str,
        path: &Path,
        size: u64,
        range: Range<u64>,
        fetch: F,
    ) -> object_store::Result<(Bytes, u64)>
    where
        F: Fn(Range<u64>) -> Fetched,
        Fetched: Future<Output = object_store::Result<Bytes>>,
    {
        let blocks = blocks_of(table, path, size, &range);
        let mut kept = self.load(blocks.clone()).await;
        kept.resize(blocks.len(), None);
        let found = kept.iter().zip(&blocks).filter(|(bytes, _)| bytes.is_some());
        let found: u64 = found.map(|(_, block)| overlap(&block.range, &range)).sum();
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < blocks.len() {
            if let Some(bytes) = kept[at].take() {
                pieces.push(bytes);
                at += 1;
                continue;
            }
            // Missing blocks side by side are one request.
            let missing = kept[at..].iter().take_while(|bytes| bytes.is_none()).count();
            let run = &blocks[at..at + missing];
            let bytes = fetch(run[0].range.start..run[missing - 1].range.end).await?;
            self.store(run.to_vec(), bytes.clone()).await;
            pieces.push(bytes);
            at += missing;
        }
        let Some(first) = blocks.first() else { return Ok((Bytes::new(), 0)) };
        let skipped = (range.start - first.range.start) as usize;
        let length = (range.end - range.start) as usize;
        let whole = if pieces.len() == 1 { pieces.remove(0) } else { joined(&pieces) };
        Ok((whole.slice(skipped..skipped + length), found))
    }

    /// Those of `blocks` that are on the disk.
    async fn load(&self, blocks: Vec<Block>) -> Vec<Option<Bytes>> {
        let folder = self.0.clone();
        let load = move || blocks.iter().map(|block| folder.get(block)).collect();
        tokio::task::spawn_blocking(load).await.unwrap_or_default()
    }

    /// Keeps `blocks`, whose bytes follow one another in `bytes`.
    async fn store(&self, blocks: Vec<Block>, bytes: Bytes) {
        let folder = self.0.clone();
        let store = move || {
            let mut rest = bytes;
            for block in blocks {
                let length = ((block.range.end - block.range.start) as usize).min(rest.len());
                folder.put(&block, &rest.split_to(length));
            }
        };
        // A block that could not be kept is read again.
        let _ = tokio::task::spawn_blocking(store).await;
    }
}

/// The blocks that cover `range`.
fn blocks_of(table: &str, path: &Path, size: u64, range: &Range<u64>) -> Vec<Block> {
    if range.is_empty() {
        return Vec::new();
    }
    let numbers = range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES;
    let block = |number: u64| {
        let mut name = Sha256::new();
        for part in [table.as_bytes(), path.as_ref().as_bytes()] {
            name.update((part.len() as u64).to_be_bytes());
            name.update(part);
        }
        name.update(size.to_be_bytes());
        name.update(BLOCK_BYTES.to_be_bytes());
        name.update(number.to_be_bytes());
        let start = number * BLOCK_BYTES;
        Block { key: name.finalize().into(), range: start..size.min(start + BLOCK_BYTES) }
    };
    numbers.map(block).collect()
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

fn joined(pieces: &[Bytes]) -> Bytes {
    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
    joined.freeze()
}

fn sum_of(key: &Key, bytes: &[u8]) -> Key {
    Sha256::new().chain_update(key).chain_update(bytes).finalize().into()
}

fn hexadecimal(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of a block file of that name.
fn key_of(name: &str) -> Option<Key> {
    let digits = name.strip_suffix(ENDING)?;
    if digits.len() != 2 * SUM_BYTES || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let mut key = [0; SUM_BYTES];
    for (byte, at) in key.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(key)
}

impl Folder {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, key: &Key) -> PathBuf {
        self.directory.join(hexadecimal(key) + ENDING)
    }

    /// The bytes of `block`, if they are on the disk and right.
    fn get(&self, block: &Block) -> Option<Bytes> {
        let path = self.path_of(&block.key);
        let length = (block.range.end - block.range.start) as usize;
        let bytes = match read_whole(&path, SUM_BYTES + length) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                debug!(path = %path.display(), %error, "a block is of no use");
                self.forget(&block.key);
                return None;
            }
        };
        let mut bytes = Bytes::from(bytes);
        let sum = bytes.split_to(SUM_BYTES);
        if sum != sum_of(&block.key, &bytes)[..] {
            debug!(path = %path.display(), "a block is damaged");
            self.forget(&block.key);
            return None;
        }
        self.read_index();
        self.lock().used(block.key, (SUM_BYTES + length) as u64);
        Some(bytes)
    }

    /// Keeps a block, if there is room for it.
    fn put(&self, block: &Block, bytes: &[u8]) {
        let on_disk = (SUM_BYTES + bytes.len()) as u64;
        let is_whole = bytes.len() as u64 == block.range.end - block.range.start;
        if !is_whole || on_disk > self.bytes_max {
            return;
        }
        self.read_index();
        let leaving = self.lock().make_room(on_disk, self.bytes_max);
        for key in leaving {
            // It may be gone already: another process keeps to its bound too.
            let _ = fs::remove_file(self.path_of(&key));
        }
        match self.write(block, bytes) {
            Ok(()) => self.lock().used(block.key, on_disk),
            Err(error) => {
                if !self.has_warned.swap(true, Ordering::Relaxed) {
                    let directory = self.directory.display();
                    warn!(%directory, %error, "blocks cannot be kept; queries read them from the clouds");
                }
            }
        }
    }

    fn write(&self, block: &Block, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        file.write_all(&sum_of(&block.key, bytes))?;
        file.write_all(bytes)?;
        file.persist(self.path_of(&block.key)).map_err(|error| error.error)?;
        Ok(())
    }

    fn forget(&self, key: &Key) {
        let _ = fs::remove_file(self.path_of(key));
        self.lock().remove(key);
    }

    /// Learns what is in the folder, once, and creates it if it is not there.
    fn read_index(&self) {
        let mut index = self.lock();
        if std::mem::replace(&mut index.is_read, true) {
            return;
        }
        if let Err(error) = self.fill(&mut index) {
            debug!(directory = %self.directory.display(), %error, "the folder of blocks cannot be read");
        }
    }

    fn fill(&self, index: &mut Index) -> io::Result<()> {
        create_private(&self.directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if let Some(key) = key_of(name) {
                found.push((modified, key, metadata.len()));
            } else if name.starts_with(UNFINISHED)
                && modified.elapsed().is_ok_and(|elapsed| elapsed > UNFINISHED_FOR)
            {
                // Of a process that died.
                let _ = fs::remove_file(entry.path());
            }
        }
        found.sort_unstable();
        found.into_iter().for_each(|(_, key, bytes)| index.used(key, bytes));
        Ok(())
    }
}

/// A folder for this user's eyes: what is in the blocks may not be for everyone.
fn create_private(directory: &std::path::Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(directory)
}

/// A file of exactly `length` bytes.
fn read_whole(path: &std::path::Path, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != length as u64 {
        return Err(io::Error::other("it has another length"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Index {
    /// The block is there, with so many bytes on disk, and was used just now.
    fn used(&mut self, key: Key, bytes: u64) {
        self.remove(&key);
        self.uses += 1;
        self.blocks.insert(key, (bytes, self.uses));
        self.by_use.insert(self.uses, key);
        self.bytes += bytes;
    }

    fn remove(&mut self, key: &Key) {
        if let Some((bytes, used)) = self.blocks.remove(key) {
            self.by_use.remove(&used);
            self.bytes -= bytes;
        }
    }

    /// Those that have to go before there is room for `bytes` more.
    fn make_room(&mut self, bytes: u64, bytes_max: u64) -> Vec<Key> {
        let mut leaving = Vec::new();
        while self.bytes + bytes > bytes_max
            && let Some((_, key)) = self.by_use.pop_first()
        {
            self.remove(&key);
            leaving.push(key);
        }
        leaving
    }
}

#[cfg(test)]
mod tests;
