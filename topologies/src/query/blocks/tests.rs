//! What is kept is right, whatever happens to the folder.

use std::sync::atomic::AtomicU64;

use super::*;

const SIZE: u64 = 3 * BLOCK_BYTES + 100;

/// A file whose bytes differ from block to block, and how often it was asked for.
#[derive(Debug, Default)]
struct Origin {
    requests: AtomicU64,
}

fn byte_at(at: u64) -> u8 {
    (at % 251) as u8
}

fn content(range: Range<u64>) -> Bytes {
    range.map(byte_at).collect::<Vec<u8>>().into()
}

impl Origin {
    async fn fetch(&self, range: Range<u64>) -> object_store::Result<Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(content(range))
    }

    /// Reads a range, which must be right, and says how many bytes were on disk and how many requests were made.
    async fn read(&self, blocks: &Blocks, range: Range<u64>) -> (u64, u64) {
        let before = self.requests.load(Ordering::Relaxed);
        let path = Path::from("datasets/t/a.parquet");
        let read = blocks.read("id", &path, SIZE, range.clone(), |range| self.fetch(range)).await;
        let (bytes, found) = read.unwrap();
        assert!(bytes == content(range.clone()), "{range:?}");
        (found, self.requests.load(Ordering::Relaxed) - before)
    }
}

fn blocks_in(directory: &tempfile::TempDir, bytes_max: u64) -> Blocks {
    Blocks::new(&CacheSpec { directory: directory.path().join("cache"), bytes_max })
}

fn files(directory: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path().join("cache")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_was_read_is_not_asked_for_again_not_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 1 << 30));
    assert_eq!(origin.read(&blocks, 10..20).await, (0, 1));
    assert_eq!(origin.read(&blocks, 5..BLOCK_BYTES).await, (BLOCK_BYTES - 5, 0));
    // The first block is there, the two others are one request.
    assert_eq!(origin.read(&blocks, 10..2 * BLOCK_BYTES + 1).await, (BLOCK_BYTES - 10, 1));
    assert_eq!(origin.read(&blocks, SIZE - 1..SIZE).await, (0, 1));
    assert_eq!(origin.read(&blocks, 0..SIZE).await, (SIZE, 0));
    assert_eq!(origin.read(&blocks, 7..7).await, (0, 0));
    let again = blocks_in(&directory, 1 << 30);
    assert_eq!(origin.read(&again, 0..SIZE).await, (SIZE, 0));
}

#[tokio::test]
async fn missing_blocks_on_both_sides_of_one_that_is_there_are_two_requests() {
    let directory = tempfile::tempdir().unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 1 << 30));
    assert_eq!(origin.read(&blocks, BLOCK_BYTES..BLOCK_BYTES + 1).await, (0, 1));
    assert_eq!(origin.read(&blocks, 0..SIZE).await, (BLOCK_BYTES, 2));
}

#[tokio::test]
async fn torn_damaged_and_exchanged_files_give_no_wrong_byte() {
    let directory = tempfile::tempdir().unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 1 << 30));
    origin.read(&blocks, 0..SIZE).await;
    let names = files(&directory);
    assert_eq!(names.len(), 4);
    let whole: Vec<Vec<u8>> = names.iter().map(|name| fs::read(name).unwrap()).collect();
    let longest = whole.iter().map(Vec::len).max().unwrap();
    let full: Vec<usize> = (0..4).filter(|at| whole[*at].len() == longest).collect();
    for broken in [whole[full[0]][..1000].to_vec(), Vec::new(), whole[full[1]].clone(), vec![7; longest]] {
        fs::write(&names[full[0]], broken).unwrap();
        assert_eq!(origin.read(&blocks, 0..SIZE).await.1, 1);
        assert_eq!(origin.read(&blocks, 0..SIZE).await, (SIZE, 0));
    }
    for at in [0, SUM_BYTES, longest - 1] {
        let mut flipped = whole[full[0]].clone();
        flipped[at] ^= 1;
        fs::write(&names[full[0]], flipped).unwrap();
        assert_eq!(origin.read(&blocks, 0..SIZE).await.1, 1, "{at}");
    }
}

#[tokio::test]
async fn other_tables_files_and_sizes_are_other_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 1 << 30));
    let others = [
        ("id", "a", SIZE),
        ("other", "a", SIZE),
        ("id", "b", SIZE),
        ("id", "a", SIZE + 1),
        ("ida", "", SIZE),
    ];
    for (table, path, size) in others {
        let path = Path::from(path);
        let read = blocks.read(table, &path, size, 0..1, |range| origin.fetch(range)).await;
        assert_eq!(read.unwrap().1, 0, "{table} {path} {size}");
    }
    assert_eq!(files(&directory).len(), others.len());
}

#[tokio::test]
async fn the_folder_keeps_to_its_bound_and_to_what_was_used_last() {
    let directory = tempfile::tempdir().unwrap();
    // Room for two blocks.
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 2 * (BLOCK_BYTES + 32)));
    origin.read(&blocks, 0..1).await;
    origin.read(&blocks, BLOCK_BYTES..BLOCK_BYTES + 1).await;
    assert_eq!(origin.read(&blocks, 0..1).await, (1, 0));
    origin.read(&blocks, 2 * BLOCK_BYTES..2 * BLOCK_BYTES + 1).await;
    assert_eq!(files(&directory).len(), 2);
    assert_eq!(origin.read(&blocks, 0..1).await, (1, 0));
    assert_eq!(origin.read(&blocks, BLOCK_BYTES..BLOCK_BYTES + 1).await, (0, 1));
    assert_eq!(files(&directory).len(), 2);
    // One that knows nothing yet keeps to it too.
    let again = blocks_in(&directory, BLOCK_BYTES + 32);
    origin.read(&again, SIZE - 1..SIZE).await;
    assert_eq!(files(&directory).len(), 1);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cache"), "a file").unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, 1 << 30));
    assert_eq!(origin.read(&blocks, 0..SIZE).await, (0, 1));
    assert_eq!(origin.read(&blocks, 0..SIZE).await, (0, 1));
}

#[tokio::test]
async fn what_else_lies_there_is_left_alone_and_an_error_is_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("cache");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("notes.block"), "mine").unwrap();
    let (origin, blocks) = (Origin::default(), blocks_in(&directory, BLOCK_BYTES + 32));
    origin.read(&blocks, 0..SIZE).await;
    assert_eq!(fs::read(folder.join("notes.block")).unwrap(), b"mine");
    let broken = |_| async { Err(object_store::Error::NotSupported { source: "broken".into() }) };
    let read = blocks.read("id", &Path::from("other"), SIZE, 0..1, broken).await;
    assert!(read.unwrap_err().to_string().contains("broken"));
}
