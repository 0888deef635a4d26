//! What maintenance must know of a table's files, followed along its log.
//!
//! The log is read once, from version 0, and then only as far as it is new. Only small files are kept, by partition
//! values and in the order of their rows: of a run of large files no more than that there is one. So memory follows
//! the number of files that may still be combined, not the size of the table. Of files removed, only the versions that
//! did it are kept; their paths are read again when they are to be deleted.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::{self, CommitBody, FileDigest, Maintenance, MaintenanceWork};

use super::Failure;
use crate::commit::TableHead;
use crate::commit::format::{RECORD_BYTES_MAX, published_path};
use crate::spec::{CompactSpec, MaintenanceSpec};

/// Versions read at once.
const READS_IN_FLIGHT: u64 = 16;
/// Most files combined at a time, so that the entry stays far below the largest body.
const GROUP_FILES_MAX: usize = 4096;

/// About the most bytes that an entry says about the files it combines, far below the largest body.
const GROUP_LOG_BYTES_MAX: usize = 2 << 20;

/// A small file that is part of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SmallFile {
    /// As the log writes it.
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    /// SHA-256, lowercase hexadecimal.
    pub(super) sha256: String,
    /// Rows.
    pub(super) rows: u64,
    /// Values of the partition columns.
    pub(super) partition_values: BTreeMap<String, Option<String>>,
}

/// A place in the order of the rows of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Small(SmallFile),
    /// One or more files that are not small. Files on both sides are never combined: rows would change places.
    Large,
}

/// A version that removes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) version: u64,
    pub(super) sha256: String,
}

/// A decided VACUUM whose files may still be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vacuum {
    /// The decision.
    pub(super) sequence: u64,
    /// The versions whose removed files are let go.
    pub(super) removals: Vec<Removal>,
}

/// The next piece of maintenance of a table's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Files that were removed up to this version are let go.
    Vacuum {
        /// That version, inclusive.
        through: u64,
    },
    /// These files are combined, in this order of their rows.
    Compact(Vec<SmallFile>),
}

/// The files of one table, up to a published version.
#[derive(Debug)]
pub(super) struct TableFiles {
    table: String,
    /// Files below this size are small.
    small_bytes: u64,
    next_version: u64,
    /// SHA-256 of the version before.
    sha256: String,
    maintained: u64,
    directories: BTreeMap<BTreeMap<String, Option<String>>, Vec<Place>>,
    removals: VecDeque<Removal>,
    vacuum: Option<Vacuum>,
    /// The next version did not follow, or the last one is not the decided one: what was read is in doubt.
    is_in_doubt: bool,
}

impl TableFiles {
    pub(super) fn new(table: &str, small_bytes: u64) -> Self {
        Self {
            table: table.to_owned(),
            small_bytes,
            next_version: 0,
            sha256: NO_PREVIOUS_SHA256.to_owned(),
            maintained: 0,
            directories: BTreeMap::new(),
            removals: VecDeque::new(),
            vacuum: None,
            is_in_doubt: false,
        }
    }

    /// Reads on up to `head`, which is published in a majority; whether it was reached. Until then nothing may be
    /// planned or deleted: each version vouches for the one before it, and only the decided hash of the head for the
    /// last one.
    ///
    /// A version that is not the decided one may be noticed only by the next. So what was read is forgotten then, and
    /// everything is read again, from another cloud first.
    pub(super) async fn reach(&mut self, clouds: &[Cloud], head: &TableHead) -> Result<bool, Failure> {
        let mut clouds = clouds.to_vec();
        let mut reached = self.reach_from(&clouds, head).await;
        for _ in 1..clouds.len() {
            if self.is_in_doubt {
                self.start_over();
                clouds.rotate_left(1);
                reached = self.reach_from(&clouds, head).await;
            }
        }
        if self.is_in_doubt {
            self.start_over();
        }
        reached
    }

    async fn reach_from(&mut self, clouds: &[Cloud], head: &TableHead) -> Result<bool, Failure> {
        self.advance(clouds, head.version).await?;
        let is_there = self.next_version > head.version;
        self.is_in_doubt |= is_there && self.sha256 != head.sha256;
        match self.is_in_doubt {
            false => Ok(is_there),
            true => Err(format!("{} version {} is not the decided one", self.table, head.version)),
        }
    }

    fn start_over(&mut self) {
        *self = Self::new(&self.table, self.small_bytes);
    }

    /// The last entry up to here that removed files or let them go.
    pub(super) fn maintained(&self) -> u64 {
        self.maintained
    }

    /// The last VACUUM, until its files are deleted.
    pub(super) fn vacuum(&self) -> Option<&Vacuum> {
        self.vacuum.as_ref()
    }

    /// The files of the last VACUUM are deleted.
    pub(super) fn vacuum_finished(&mut self) {
        self.vacuum = None;
    }

    /// Reads on up to version `head`, from the first of `clouds` that has the next one. What no cloud has published yet
    /// is left for later.
    async fn advance(&mut self, clouds: &[Cloud], head: u64) -> Result<(), Failure> {
        let mut last = Ok(());
        for cloud in clouds {
            while self.next_version <= head {
                let before = self.next_version;
                last = self.advance_from(cloud, head).await;
                if self.next_version == before {
                    break;
                }
            }
        }
        if self.next_version > head { Ok(()) } else { last }
    }

    /// Reads some versions at once.
    async fn advance_from(&mut self, cloud: &Cloud, head: u64) -> Result<(), Failure> {
        let versions = self.next_version..=head.min(self.next_version + READS_IN_FLIGHT - 1);
        let paths: Vec<_> = versions.map(|version| published_path(&self.table, version)).collect();
        let reads = paths.iter().map(|path| read_register(&*cloud.control, path, RECORD_BYTES_MAX));
        for read in future::join_all(reads).await {
            let Some(bytes) = read.map_err(|error| crate::chain_of(&error))? else { return Ok(()) };
            self.apply(&bytes)?;
        }
        Ok(())
    }

    /// Takes the next version.
    fn apply(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        let version = self.next_version;
        let wrong = |what: String| format!("{} version {version}: {what}", self.table);
        let body = delta::parse_body(bytes).map_err(|error| wrong(error.to_string()))?;
        self.is_in_doubt = body.info.isobar.previous_sha256 != self.sha256;
        if self.is_in_doubt {
            return Err(wrong("it does not follow the version before".to_owned()));
        }
        let maintenance = Maintenance::of(&body.info).map_err(|error| wrong(error.to_string()))?;
        let fence = body.info.planned_after().map_err(|error| wrong(error.to_string()))?;
        self.sha256 = delta::sha256_hex(bytes);
        self.next_version += 1;
        if fence.is_some() {
            self.maintained = version;
        }
        self.replace_files(&body);
        if !body.removes.is_empty() {
            self.removals.push_back(Removal { version, sha256: self.sha256.clone() });
        }
        if let Some(Maintenance { work: MaintenanceWork::Vacuum { through }, .. }) = maintenance {
            let kept = self.removals.partition_point(|removal| removal.version <= through);
            let removals = self.removals.drain(..kept).collect();
            self.vacuum = Some(Vacuum { sequence: body.info.isobar.sequence, removals });
        }
        Ok(())
    }

    /// New files come last, but those of a compaction or a redrive take the place of the files they replace.
    fn replace_files(&mut self, body: &CommitBody) {
        let mut places: BTreeMap<&BTreeMap<String, Option<String>>, usize> = BTreeMap::new();
        for remove in &body.removes {
            let Some(values) = &remove.partition_values else { continue };
            let Some(directory) = self.directories.get_mut(values) else { continue };
            let is_it = |place: &Place| matches!(place, Place::Small(file) if file.path == remove.path);
            if let Some(at) = directory.iter().position(is_it) {
                directory.remove(at);
                let first = places.entry(values).or_insert(at);
                *first = at.min(*first);
            }
        }
        let digests: BTreeMap<&str, &FileDigest> =
            body.info.isobar.files.iter().map(|file| (file.path.as_str(), file)).collect();
        for add in &body.adds {
            // Every `add` has its digest, or the body would not have been read.
            let Some(digest) = digests.get(add.path.as_str()) else { continue };
            let directory = self.directories.entry(add.partition_values.clone()).or_default();
            let place = if digest.size < self.small_bytes {
                Place::Small(SmallFile {
                    path: add.path.clone(),
                    size: digest.size,
                    sha256: digest.sha256.clone(),
                    rows: digest.rows,
                    partition_values: add.partition_values.clone(),
                })
            } else {
                Place::Large
            };
            let at = match places.get_mut(&add.partition_values) {
                Some(next) => std::mem::replace(next, *next + 1),
                None => directory.len(),
            };
            directory.insert(at, place);
        }
        let touched = body.adds.iter().map(|add| &add.partition_values);
        for values in touched {
            if let Some(directory) = self.directories.get_mut(values) {
                directory.dedup_by(|a, b| (&*a, &*b) == (&Place::Large, &Place::Large));
            }
        }
    }

    /// What is due now that the table has reached version `head`. A VACUUM comes first: it uses up what compactions have
    /// removed, so there is none without one before, while with enough traffic there is always something to combine.
    pub(super) fn plan(&self, head: u64, spec: &MaintenanceSpec) -> Option<Plan> {
        let vacuum = spec.keep_versions.and_then(|keep| self.plan_vacuum(head, keep));
        let compaction = || spec.compact.and_then(|compact| self.plan_compaction(&compact));
        vacuum.map(|through| Plan::Vacuum { through }).or_else(|| compaction().map(Plan::Compact))
    }

    /// The files to combine next, in the order of their rows: of all groups that are worth it the one with the most
    /// files, the first by partition values among equals. Depends on the log up to here and on `options` alone.
    fn plan_compaction(&self, options: &CompactSpec) -> Option<Vec<SmallFile>> {
        let runs =
            self.directories.values().flat_map(|directory| directory.split(|place| *place == Place::Large));
        let groups = runs.filter_map(|run| {
            let run: Vec<&SmallFile> = run
                .iter()
                .filter_map(|place| match place {
                    Place::Small(file) => Some(file),
                    Place::Large => None,
                })
                .collect();
            first_group(&run, options)
        });
        // The first of the largest, where `max_by_key` would take the last.
        let largest = groups.reduce(|best, other| if other.len() > best.len() { other } else { best })?;
        Some(largest.into_iter().cloned().collect())
    }

    /// The version through which removed files are to be let go, so that `keep_versions` before `head` stay readable.
    /// One VACUUM after the other: not while files of the last one may still be there.
    fn plan_vacuum(&self, head: u64, keep_versions: u64) -> Option<u64> {
        let through = head.checked_sub(keep_versions)?;
        let first = self.removals.front()?;
        (self.vacuum.is_none() && first.version <= through).then_some(through)
    }
}

/// The first files of a run that are worth combining. A file that is larger than all that come after it is passed over
/// until more have come: otherwise each byte would be rewritten again and again on its way to the target.
fn first_group<'a>(run: &[&'a SmallFile], options: &CompactSpec) -> Option<Vec<&'a SmallFile>> {
    let mut rest: u64 = run.iter().map(|file| file.size).fold(0, u64::saturating_add);
    for start in 0..run.len() {
        rest = rest.saturating_sub(run[start].size);
        let (group, is_full) = fill(&run[start..], options.target_bytes);
        let is_enough = group.len() >= options.files_min || (is_full && group.len() >= 2);
        if is_enough && (is_full || run[start].size <= rest) {
            return Some(group.to_vec());
        }
    }
    None
}

/// About the bytes of the action that removes a file.
fn log_bytes(file: &SmallFile) -> usize {
    let value =
        |(column, value): (&String, &Option<String>)| column.len() + value.as_ref().map_or(0, String::len);
    256 + file.path.len() + file.partition_values.iter().map(value).sum::<usize>()
}

/// As many files as fit into the target and into an entry, and whether the next one would not.
fn fill<'a, 'r>(files: &'r [&'a SmallFile], target_bytes: u64) -> (&'r [&'a SmallFile], bool) {
    let (mut bytes, mut log) = (0u64, 0usize);
    let fits = |file: &&&SmallFile| {
        bytes = bytes.saturating_add(file.size);
        log = log.saturating_add(log_bytes(file));
        bytes <= target_bytes && log <= GROUP_LOG_BYTES_MAX
    };
    let count = files.iter().take_while(fits).count();
    (&files[..count.min(GROUP_FILES_MAX)], count < files.len() || count > GROUP_FILES_MAX)
}

#[cfg(test)]
mod tests;
