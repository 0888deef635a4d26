//! Records that lie in a file, a line each.
//!
//! Line by line they go to the partitions in turn and without a key, so that the same file means the same offsets in every run.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use isobar_connectors::kafka::EmbeddedBroker;

use super::replay::{Feed, FeedRecord, PARTITIONS};
use crate::error::Error;

/// Longest record: what a broker takes of a producer without being told to take more.
const RECORD_BYTES_MAX: usize = 1_000_000;
/// Bytes per partition that may be produced ahead of the last commit: the broker keeps all of them, however badly they compress.
const AHEAD_BYTES_MAX: u64 = EmbeddedBroker::PARTITION_BYTES_MAX as u64 * 3 / 5;

/// A file, and the topic that its lines are replayed into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFile {
    /// The topic.
    pub topic: String,
    /// The file.
    pub path: PathBuf,
}

/// All of `file`, to be replayed. It is read twice, so that it is known how much there is.
pub(super) fn feed(file: &TopicFile) -> Result<Feed, Error> {
    let mut lines = Lines::open(&file.path)?;
    while lines.next_line()?.is_some() {}
    let records = lines.number;
    if records == 0 {
        return Err(Error::Configuration(format!("{}: there is no record in it", file.path.display())));
    }
    let mut lines = Lines::open(&file.path)?;
    let mut partitions = (0..PARTITIONS).cycle();
    let next = move || {
        // What has been added since is not of this replay.
        if lines.number == records {
            return Ok(None);
        }
        let payload = lines.next_line()?.ok_or_else(|| lines.shorter(records))?;
        let partition = partitions.next().expect("partitions are taken in turn without end");
        Ok(Some(FeedRecord { partition, key: None, payload }))
    };
    Ok(Feed { topic: file.topic.clone(), records, ahead_bytes_max: AHEAD_BYTES_MAX, next: Box::new(next) })
}

/// The lines of a file, one at a time.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// How many were given out.
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path)
            .map_err(|error| Error::Configuration(format!("cannot open {}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), number: 0 })
    }

    fn next_line(&mut self) -> Result<Option<String>, Error> {
        let mut line = Vec::new();
        // One byte more for its end.
        let longest = RECORD_BYTES_MAX as u64 + 1;
        let read = self.reader.by_ref().take(longest).read_until(b'\n', &mut line);
        read.map_err(|error| Error::Configuration(format!("cannot read {}: {error}", self.path.display())))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > RECORD_BYTES_MAX {
            return Err(self.wrong(&format!("is longer than {RECORD_BYTES_MAX} bytes")));
        }
        String::from_utf8(line).map(Some).map_err(|_| self.wrong("is not UTF-8"))
    }

    /// There were as many as `records` before.
    fn shorter(&self, records: u64) -> Error {
        let (path, number) = (self.path.display(), self.number);
        Error::Configuration(format!(
            "{path} had {records} lines, and {number} when it was read again: write them into a file that stays"
        ))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Configuration(format!("line {} of {} {what}", self.number, self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, TopicFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines.json");
        std::fs::write(&path, content).unwrap();
        (directory, TopicFile { topic: "lines".to_owned(), path })
    }

    fn refusal(content: &[u8]) -> String {
        let (_directory, file) = file(content);
        feed(&file).err().unwrap().to_string()
    }

    #[test]
    fn lines_go_to_the_partitions_in_turn_and_the_last_one_needs_no_end() {
        let (_directory, file) = file("{}\n\né\n4\n5".as_bytes());
        let mut feed = feed(&file).unwrap();
        assert_eq!(feed.records, 5);
        let mut records = Vec::new();
        while let Some(record) = (feed.next)().unwrap() {
            records.push((record.partition, record.payload));
        }
        let expected = [(0, "{}"), (1, ""), (2, "é"), (3, "4"), (0, "5")];
        assert_eq!(records, expected.map(|(partition, payload)| (partition, payload.to_owned())));
    }

    #[test]
    fn what_is_added_later_is_not_replayed_and_what_is_gone_is_missed() {
        let (_directory, file) = file(b"1\n2\n");
        let (mut longer, mut shorter) = (feed(&file).unwrap(), feed(&file).unwrap());
        std::fs::write(&file.path, "1\n2\n3\n").unwrap();
        let payload = |feed: &mut Feed| (feed.next)().unwrap().map(|record| record.payload);
        assert_eq!(
            [payload(&mut longer), payload(&mut longer)],
            [Some("1".to_owned()), Some("2".to_owned())]
        );
        assert_eq!(payload(&mut longer), None);
        std::fs::write(&file.path, "1\n").unwrap();
        assert_eq!(payload(&mut shorter), Some("1".to_owned()));
        assert!((shorter.next)().err().unwrap().to_string().contains("had 2 lines, and 1 when"));
    }

    #[test]
    fn what_is_no_record_is_named() {
        let longest = vec![b'x'; RECORD_BYTES_MAX];
        let (_directory, file) = file(&[longest.clone(), b"\n".to_vec(), longest.clone()].concat());
        assert_eq!(feed(&file).unwrap().records, 2);
        assert!(refusal(&[b"1\n".to_vec(), longest, b"x\n".to_vec()].concat()).contains("line 2 of"));
        assert!(refusal(b"1\n2\n\xff\n").contains("lines.json is not UTF-8"));
        assert!(refusal(b"").contains("no record"));
        let absent = TopicFile { topic: "lines".to_owned(), path: "/nowhere/lines.json".into() };
        assert!(feed(&absent).err().unwrap().to_string().contains("/nowhere/lines.json"));
    }
}
