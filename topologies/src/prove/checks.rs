//! The checks on logs: pure functions from plain data to a [`Tally`].
//!
//! Each check answers one question and leaves the others to their own check: where a version is missing or not
//! understood, the checks that need it start anew behind it, so that one break in a table is reported once, by the
//! check that is meant for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::evolution::{differences, not_succeeding};
use isobar_connectors::delta::path::decode_log_path;
use isobar_connectors::delta::{
    AcceptedGap, FileDigest, Maintenance, MaintenanceWork, Metadata, OffsetRange, Redrive, SchemaUpdate,
};
use isobar_schemas::RowCounts;

use super::log::{Before, Entry, Step, TableLog};
use super::tally::Tally;
use crate::commit::QUARANTINE_SUFFIX;

/// Every version can be read, is one that isobar wrote, and is of this table.
pub(crate) fn entries(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    for (version, found) in &log.versions {
        let problem = match &found.entry {
            Err(why) => Some(why.clone()),
            Ok(entry) => misplaced(log, *version, entry),
        };
        tally.look(format_args!("version {version}"), problem.as_slice());
    }
    tally
}

fn misplaced(log: &TableLog, version: u64, entry: &Entry) -> Option<String> {
    let written_for = &entry.commit.isobar.dataset;
    if *written_for != log.table {
        return Some(format!("written for {written_for}"));
    }
    (version == 0 && entry.metadata.is_none()).then(|| "no metaData, so the table has no schema".to_owned())
}

/// Versions run from 0 to the last without a gap.
pub(crate) fn versions(log: &TableLog) -> Tally {
    let mut tally = Tally { checked: log.versions.len() as u64, ..Tally::default() };
    let mut expected = 0;
    for version in log.versions.keys() {
        match version.saturating_sub(expected) {
            0 => {}
            1 => tally.fail(format!("version {expected} is missing")),
            missing => {
                tally.fail_many(missing, format!("versions {expected} to {} are missing", version - 1))
            }
        }
        expected = version.saturating_add(1);
    }
    tally
}

/// Every body names the SHA-256 of the body before it.
pub(crate) fn hash_chain(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    for step in log.steps() {
        let before = match step.before {
            Before::Beginning => NO_PREVIOUS_SHA256,
            Before::Body(version) => match &version.sha256 {
                Some(sha256) => sha256,
                None => continue,
            },
            Before::Missing => continue,
        };
        let stated = &step.entry.commit.isobar.previous_sha256;
        let problem = (stated != before)
            .then(|| format!("states {} as the SHA-256 before it, found {}", short(stated), short(before)));
        tally.look(format_args!("version {}", step.version), problem.as_slice());
    }
    tally
}

/// Along the versions, sequence numbers and in-commit timestamps rise and epochs never fall.
pub(crate) fn order(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    let mut last: Option<Step<'_>> = None;
    for step in log.steps() {
        let problems = last.map(|last| backwards(last.entry, step.entry)).unwrap_or_default();
        tally.look(format_args!("version {}", step.version), &problems);
        last = Some(step);
    }
    tally
}

fn backwards(before: &Entry, after: &Entry) -> Vec<String> {
    let mut problems = Vec::new();
    let (old, new) = (&before.commit.isobar, &after.commit.isobar);
    if new.sequence <= old.sequence {
        problems.push(format!("sequence {} after {}", new.sequence, old.sequence));
    }
    if new.epoch < old.epoch {
        problems.push(format!("epoch {} after {}", new.epoch, old.epoch));
    }
    let (old_ms, new_ms) = (before.commit.in_commit_timestamp_ms, after.commit.in_commit_timestamp_ms);
    if new_ms <= old_ms {
        problems.push(format!("in-commit timestamp {new_ms} after {old_ms}"));
    }
    problems
}

/// How far one Kafka partition is in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionSpan {
    /// The topic's name, as last seen.
    pub(crate) topic: String,
    /// First offset covered.
    pub(crate) first: i64,
    /// The next offset to read.
    pub(crate) next: i64,
    /// Records read.
    pub(crate) records: u64,
    /// Offsets that somebody decided to go on without.
    pub(crate) accepted_gaps: Vec<AcceptedGap>,
}

/// Spans by cluster, topic id and partition.
pub(crate) type Spans = BTreeMap<(String, String, i32), PartitionSpan>;

/// Per Kafka partition, the offset ranges lie end to end from the declared position to the last, and every `txn`
/// says where its range ends. Also how far each partition is.
pub(crate) fn offsets(log: &TableLog) -> (Tally, Spans) {
    let mut tally = Tally::default();
    let mut spans = Spans::new();
    // Partitions whose position is known from the versions before. Behind a missing version none is.
    let mut known: HashSet<(String, String, i32)> = HashSet::new();
    let mut from_beginning = true;
    for step in log.steps() {
        if !step.continues() {
            known.clear();
            from_beginning = false;
        }
        for range in &step.entry.commit.isobar.offsets {
            let key = (range.cluster.clone(), range.topic_id.clone(), range.partition);
            let position = spans.get(&key).filter(|_| known.contains(&key)).map(|span| span.next);
            let gap = step.entry.accepted_gap();
            let problem = breaks_tiling(range, position, from_beginning);
            let problem = problem.or_else(|| passes_over(range, gap.as_ref()));
            tally.look(named(step.version, range), problem.as_slice());
            known.insert(key.clone());
            let span = spans.entry(key).or_insert_with(|| PartitionSpan::beginning(range));
            span.next = range.end;
            span.topic.clone_from(&range.topic);
            span.records = span.records.saturating_add(range.records);
            span.accepted_gaps.extend(gap);
        }
        for problem in transactions_off(step.entry) {
            tally.fail(format!("version {}: {problem}", step.version));
        }
    }
    (tally, spans)
}

impl PartitionSpan {
    fn beginning(range: &OffsetRange) -> Self {
        let topic = range.topic.clone();
        Self { topic, first: range.start, next: range.end, records: 0, accepted_gaps: Vec::new() }
    }
}

fn named(version: u64, range: &OffsetRange) -> String {
    format!(
        "version {version}: {}[{}] offsets [{}, {})",
        range.topic, range.partition, range.start, range.end
    )
}

/// What is wrong with `range` where the partition stands at `position`, `None` before its first range.
fn breaks_tiling(range: &OffsetRange, position: Option<i64>, from_beginning: bool) -> Option<String> {
    let empty = range.start == range.end;
    match position {
        _ if range.start > range.end => Some("ends before it starts".to_owned()),
        None if empty || !from_beginning => None,
        None => Some("the partition's first position was not declared".to_owned()),
        Some(position) if empty => Some(format!("declares the partition again, it stands at {position}")),
        Some(position) if range.start > position => {
            Some(format!("a gap: offsets [{position}, {}) are in no version", range.start))
        }
        Some(position) if range.start < position => {
            let covered_twice = position.min(range.end);
            Some(format!("an overlap: offsets [{}, {covered_twice}) are in two versions", range.start))
        }
        Some(_) => None,
    }
}

/// What is wrong with `range` if it moves the position and read nothing: only an accepted gap, the same one, may do that.
fn passes_over(range: &OffsetRange, gap: Option<&AcceptedGap>) -> Option<String> {
    let named = gap.map(|gap| (&*gap.topic, gap.partition, gap.from, gap.to));
    let passed = (&*range.topic, range.partition, range.start, range.end);
    match named {
        Some(named) if named != passed || range.records > 0 => {
            Some("is not the gap that was accepted".into())
        }
        None if range.start < range.end && range.records == 0 => {
            Some("no record was read, and nobody accepted a gap".to_owned())
        }
        Some(_) | None => None,
    }
}

/// Differences between a version's ranges and its `txn` actions.
fn transactions_off(entry: &Entry) -> Vec<String> {
    let info = &entry.commit.isobar;
    let mut problems = Vec::new();
    let mut ends: BTreeMap<String, i64> = BTreeMap::new();
    for range in &info.offsets {
        if ends.insert(range.app_id(&info.topology), range.end).is_some() {
            problems.push(format!("two ranges of {}[{}]", range.topic, range.partition));
        }
    }
    for txn in &entry.txns {
        match ends.remove(&txn.app_id) {
            Some(end) if end == txn.version => {}
            Some(end) => {
                problems.push(format!("txn {} says {}, its range ends at {end}", txn.app_id, txn.version))
            }
            None => problems.push(format!("txn {} has no range, or is there twice", txn.app_id)),
        }
    }
    problems.extend(ends.into_keys().map(|app_id| format!("the range of {app_id} has no txn")));
    problems
}

/// Per commit: every record has one fate, the files hold what is counted out, and commitInfo and `add` actions name
/// the same files. Along the versions: no file is added twice, none is removed that was not there, whatever removes files
/// follows the last entry that did, maintenance removes as many rows as it adds, and a redrive takes out of the
/// quarantine, or puts back, every row of the files that it removes.
pub(crate) fn counts(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    let mut added: HashMap<&str, Option<u64>> = HashMap::new();
    let mut removed: HashSet<&str> = HashSet::new();
    let mut maintained = 0;
    let mut from_beginning = true;
    for step in log.steps() {
        from_beginning &= step.continues();
        let mut problems = rows_off(log, step.entry);
        problems.extend(files_off(step.entry));
        for path in &step.entry.removes {
            let unknown = from_beginning && !added.contains_key(path.as_str());
            if !removed.insert(path) || unknown {
                problems.push(format!("removes {path}, which is not in the table"));
            }
        }
        if let Some(after) = step.entry.planned_after() {
            if from_beginning {
                problems.extend(rows_moved_off(step.entry, &added));
            }
            if from_beginning && after != maintained {
                problems.push(format!("planned after version {after}, files were removed at {maintained}"));
            }
            maintained = step.version;
        } else if !step.entry.removes.is_empty() {
            problems
                .push("removes files, and is neither maintenance nor takes rows for a redrive".to_owned());
        }
        for add in &step.entry.adds {
            if added.insert(&add.path, add.rows).is_some() {
                problems.push(format!("adds {} a second time", add.path));
            }
        }
        tally.look(format_args!("version {}", step.version), &problems);
    }
    tally
}

/// What is wrong with the rows that an entry moves, given the rows of the files `added` before it.
fn rows_moved_off(entry: &Entry, added: &HashMap<&str, Option<u64>>) -> Option<String> {
    let rows = |path: &String| added.get(path.as_str()).copied().flatten().unwrap_or_default();
    let before = total(entry.removes.iter().map(rows));
    let after = total(entry.commit.isobar.files.iter().map(|file| file.rows));
    if let Some(Redrive::Taken { kept, rows: taken, .. }) = entry.redrive() {
        return (before != taken.saturating_add(kept))
            .then(|| format!("{before} rows in files removed, {taken} taken and {kept} kept"));
    }
    let moved = match entry.maintenance()?.work {
        MaintenanceWork::Optimize { rows } => rows,
        MaintenanceWork::Vacuum { .. } => 0,
    };
    (before != after || moved != after)
        .then(|| format!("{before} rows in files removed, {after} in files added, {moved} stated"))
}

fn rows_off(log: &TableLog, entry: &Entry) -> Vec<String> {
    if let Err(error) = Maintenance::of(&entry.commit) {
        return vec![error.to_string()];
    }
    let redrive = match Redrive::of(&entry.commit) {
        Ok(redrive) => redrive,
        Err(error) => return vec![error.to_string()],
    };
    if let Err(error) = AcceptedGap::of(&entry.commit) {
        return vec![error.to_string()];
    }
    let info = &entry.commit.isobar;
    let rows = &info.rows;
    let mut problems = Vec::new();
    if !rows.adds_up() {
        let (rejected, dropped) = (rows.rejected_total(), rows.dropped_total());
        let expanded = match rows.expanded {
            0 => String::new(),
            expanded => format!(" + {expanded} expanded"),
        };
        problems.push(format!(
            "{} in{expanded}, but {} out + {rejected} rejected + {dropped} dropped + {} filtered + {} late",
            rows.input, rows.output, rows.filtered, rows.late
        ));
    }
    let records = total(info.offsets.iter().map(|range| range.records));
    let is_quarantine = log.table.ends_with(QUARANTINE_SUFFIX);
    if !is_quarantine && redrive.is_none() && records != rows.input {
        problems.push(format!("{records} records in the offset ranges, {} rows in", rows.input));
    }
    problems.extend(redrive.and_then(|redrive| redrive_off(entry, &redrive, is_quarantine)));
    for range in &info.offsets {
        let width = range.end.checked_sub(range.start).and_then(|width| u64::try_from(width).ok());
        if width.is_some_and(|width| range.records > width) {
            let (topic, partition) = (&range.topic, range.partition);
            problems.push(format!(
                "{topic}[{partition}]: {} records in offsets [{}, {})",
                range.records, range.start, range.end
            ));
        }
    }
    let file_rows = total(info.files.iter().map(|file| file.rows));
    // Maintenance counts no rows: those of its files were counted when they came.
    let counted = match redrive {
        // Rows that were not selected only move.
        Some(Redrive::Taken { kept, .. }) => rows.output.saturating_add(kept),
        _ => entry.maintenance().map_or(rows.output, |_| file_rows),
    };
    if entry.maintenance().is_some() && (*rows != RowCounts::default() || !info.offsets.is_empty()) {
        problems.push("maintenance that reads or counts records".to_owned());
    }
    if file_rows != counted {
        problems.push(format!("{file_rows} rows in files, {counted} rows out"));
    }
    problems
}

/// What is wrong with one side of a redrive by itself.
fn redrive_off(entry: &Entry, redrive: &Redrive, is_quarantine: bool) -> Option<String> {
    let info = &entry.commit.isobar;
    if !info.offsets.is_empty() || !entry.txns.is_empty() {
        return Some("a redrive that moves positions".to_owned());
    }
    let (input, output) = (info.rows.input, info.rows.output);
    match redrive {
        Redrive::Landed { .. } if is_quarantine => Some("rows of a redrive land in a quarantine".to_owned()),
        Redrive::Landed { rows } => {
            (*rows != input).then(|| format!("{rows} rows redriven, {input} rows in"))
        }
        Redrive::Taken { .. } if !is_quarantine => Some("a redrive takes rows out of a dataset".to_owned()),
        Redrive::Taken { rows, .. } => (input != output || output > *rows)
            .then(|| format!("{rows} rows taken, {input} rejected again, {output} rows out")),
    }
}

/// A sum of numbers that nobody has checked yet.
fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn files_off(entry: &Entry) -> Vec<String> {
    let mut problems = Vec::new();
    let mut listed: HashMap<&str, &FileDigest> = HashMap::new();
    for file in &entry.commit.isobar.files {
        if listed.insert(&file.path, file).is_some() {
            problems.push(format!("{} is listed twice", file.path));
        }
    }
    for add in &entry.adds {
        let Some(file) = listed.remove(add.path.as_str()) else {
            problems.push(format!("{} is added but not listed in commitInfo", add.path));
            continue;
        };
        if u64::try_from(add.size) != Ok(file.size) {
            problems.push(format!("{}: {} bytes in add, {} in commitInfo", add.path, add.size, file.size));
        }
        if add.rows != Some(file.rows) {
            let rows = add.rows.map_or("no".to_owned(), |rows| rows.to_string());
            problems.push(format!("{}: {rows} rows in add, {} in commitInfo", add.path, file.rows));
        }
    }
    problems.extend(listed.into_keys().map(|path| format!("{path} is listed in commitInfo but not added")));
    problems
}

/// Every schema succeeds the one before: rows that fit the table go on to fit it. The entry that changes it follows the last
/// one that did, says what changes, and does nothing else.
pub(crate) fn schemas(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    // The last one and its version. Behind a missing version it is not known.
    let mut last: Option<(u64, &Metadata)> = None;
    for step in log.steps() {
        if !step.continues() {
            last = None;
        }
        let metadata = step.entry.metadata.as_deref();
        let is_update = step.entry.commit.operation == SchemaUpdate::OPERATION;
        if metadata.is_none() && !is_update {
            continue;
        }
        let problems = if step.version == 0 { Vec::new() } else { schema_off(step.entry, metadata, last) };
        tally.look(format_args!("version {}", step.version), &problems);
        last = metadata.map(|metadata| (step.version, metadata)).or(last);
    }
    tally
}

/// What is wrong with an entry that changes the schema, which was `last` before if that is known.
fn schema_off(entry: &Entry, metadata: Option<&Metadata>, last: Option<(u64, &Metadata)>) -> Vec<String> {
    let Some(metadata) = metadata else { return vec!["changes a schema to none".to_owned()] };
    let Some(update) = entry.schema_update() else {
        return vec![format!("{} changes the schema, or does not say how", entry.commit.operation)];
    };
    let info = &entry.commit.isobar;
    let mut problems = Vec::new();
    let has_files = !entry.adds.is_empty() || !entry.removes.is_empty() || !info.files.is_empty();
    if has_files || !entry.txns.is_empty() || !info.offsets.is_empty() || info.rows != RowCounts::default() {
        problems.push("changes more than the schema".to_owned());
    }
    let Some((version, older)) = last else { return problems };
    if update.after != version {
        problems.push(format!("planned on the schema of version {}, it was that of {version}", update.after));
    }
    problems.extend(not_succeeding(older, metadata));
    match differences(older, metadata) {
        Ok(found) if SchemaUpdate::new(update.after, &found) != update => {
            problems.push(format!("says that it {:?}, and does not", update.changes));
        }
        // What cannot be read does not succeed either.
        Ok(_) | Err(_) => {}
    }
    problems
}

/// Every file is named by a path that stays inside the table.
pub(crate) fn paths(log: &TableLog) -> Tally {
    let mut tally = Tally::default();
    for step in log.steps() {
        let added = step.entry.adds.iter().map(|add| &add.path);
        for path in added.chain(&step.entry.removes) {
            let problem = decode_log_path(path).err().map(|error| error.to_string());
            tally.look(format_args!("version {}", step.version), problem.as_slice());
        }
    }
    tally
}

/// A decision as one table shows it.
#[derive(Clone, Copy)]
struct Decided<'a> {
    commit_id: &'a str,
    rows: u64,
    /// Rows that a redrive takes out of the quarantine.
    redriven: u64,
}

/// Per decision, the quarantine gets exactly the records that the dataset counts as rejected, and loses exactly those that a
/// redrive brings to the dataset.
pub(crate) fn quarantine(dataset: &TableLog, quarantine: &TableLog) -> Tally {
    let rejected = by_sequence(dataset, |entry| entry.commit.isobar.rows.rejected_total());
    let held = by_sequence(quarantine, |entry| entry.commit.isobar.rows.output);
    let sequences: BTreeSet<u64> = rejected.keys().chain(held.keys()).copied().collect();
    let mut tally = Tally::default();
    for sequence in sequences {
        let problem = match (rejected.get(&sequence), held.get(&sequence)) {
            (None, _) if may_be_missing(dataset, sequence) => continue,
            (_, None) if may_be_missing(quarantine, sequence) => continue,
            (Some(rejected), Some(held)) if rejected.commit_id != held.commit_id => Some(format!(
                "commit {} in the dataset, {} in the quarantine",
                rejected.commit_id, held.commit_id
            )),
            (rejected, held) => {
                let numbers = |found: Option<&Decided<'_>>| found.map_or((0, 0), |it| (it.rows, it.redriven));
                let ((rejected, landed), (held, taken)) = (numbers(rejected), numbers(held));
                if rejected != held {
                    Some(format!("{rejected} records rejected, {held} in the quarantine"))
                } else {
                    (landed != taken).then(|| {
                        format!(
                            "{landed} rows redriven into the dataset, {taken} taken out of the quarantine"
                        )
                    })
                }
            }
        };
        tally.look(format_args!("decision {sequence}"), problem.as_slice());
    }
    tally
}

fn by_sequence<'a>(log: &'a TableLog, rows: impl Fn(&Entry) -> u64) -> BTreeMap<u64, Decided<'a>> {
    let decided = |entry: &'a Entry| Decided {
        commit_id: &entry.commit.isobar.commit_id,
        rows: rows(entry),
        redriven: entry.redrive().map_or(0, |redrive| redrive.rows()),
    };
    log.steps().map(|step| (step.entry.commit.isobar.sequence, decided(step.entry))).collect()
}

/// Whether the log may have had a version of decision `sequence` that is missing or not understood here. Another
/// check has reported that already.
fn may_be_missing(log: &TableLog, sequence: u64) -> bool {
    let mut last_understood = None;
    for step in log.steps() {
        if step.entry.commit.isobar.sequence > sequence {
            return !step.continues();
        }
        last_understood = Some(step.version);
    }
    log.newest_anywhere != last_understood
}

/// Every version has the same bytes in every cloud, and every cloud has the same last version. One tally per log,
/// which are of the same table in different clouds; `clouds` are their names.
pub(crate) fn replicas(clouds: &[&str], logs: &[&TableLog]) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); logs.len()];
    let versions: BTreeSet<u64> = logs.iter().flat_map(|log| log.versions.keys().copied()).collect();
    for version in versions {
        let hashes: Vec<Option<&String>> = logs
            .iter()
            .map(|log| log.versions.get(&version).and_then(|found| found.sha256.as_ref()))
            .collect();
        let agreed = most_common(&hashes);
        for ((tally, hash), _) in
            tallies.iter_mut().zip(&hashes).zip(clouds).filter(|((_, hash), _)| hash.is_some())
        {
            let differs = *hash != agreed;
            tally.look(
                format_args!("version {version}"),
                differs.then(|| others(clouds, &hashes, *hash)).as_slice(),
            );
        }
    }
    for (tally, log) in tallies.iter_mut().zip(logs) {
        report_behind(tally, log);
    }
    tallies
}

/// The hash that more than half of the clouds have which hold the version; with none, nobody is right.
fn most_common<'a>(hashes: &[Option<&'a String>]) -> Option<&'a String> {
    let holders = hashes.iter().flatten().count();
    hashes.iter().flatten().copied().find(|hash| {
        let agreeing = hashes.iter().flatten().filter(|other| other == &hash).count();
        agreeing * 2 > holders
    })
}

fn others(clouds: &[&str], hashes: &[Option<&String>], own: Option<&String>) -> String {
    let different = clouds.iter().zip(hashes).filter(|(_, hash)| hash.is_some() && **hash != own);
    let listed: Vec<String> =
        different.filter_map(|(cloud, hash)| Some(format!("{} in {cloud}", short(hash.as_ref()?)))).collect();
    format!("SHA-256 {} here, {}", own.map_or("unknown", |own| short(own)), listed.join(", "))
}

fn report_behind(tally: &mut Tally, log: &TableLog) {
    let (last, newest) = match (log.last(), log.newest_anywhere) {
        (_, None) => return,
        (None, Some(newest)) => {
            return tally
                .fail_many(newest.saturating_add(1), format!("no version here, others are at {newest}"));
        }
        (Some(last), Some(newest)) => (last, newest),
    };
    match newest.saturating_sub(last) {
        0 => {}
        1 => tally.fail(format!("1 version behind: at {last}, others at {newest}")),
        behind => tally.fail_many(behind, format!("{behind} versions behind: at {last}, others at {newest}")),
    }
}

/// Enough of a hash to compare by eye.
pub(crate) fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
