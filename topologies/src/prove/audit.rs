//! Carries an audit out: asks all clouds at once, holds what they answered, and puts every check's result in its place.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use isobar_connectors::clouds::Cloud;
use object_store::ObjectStore;
use object_store::path::Path;

use super::checkpoints;
use super::checks::{self, Spans};
use super::log::{Bodies, DataFile, TableLog, list_versions};
use super::objects::{FileTallies, check_files, count_leftovers};
use super::redrives;
use super::report::{
    Check, CheckResult, GapSummary, PartitionSummary, REPORT_FORMAT, Report, Status, TableSummary, Totals,
};
use super::tally::Tally;
use super::{ProveProgress, dataset_of};
use crate::commit::{QUARANTINE_SUFFIX, quarantine_of};

/// How often logs are listed again to find a moment at which nothing was added.
const LISTINGS_MAX: usize = 5;

/// The checks of a table in the order of the report, without those of the whole cloud.
const TABLE_CHECKS: [Check; 15] = [
    Check::Entries,
    Check::Versions,
    Check::HashChain,
    Check::Order,
    Check::Offsets,
    Check::Counts,
    Check::Schemas,
    Check::Quarantine,
    Check::Redrives,
    Check::Replicas,
    Check::Paths,
    Check::Files,
    Check::Footers,
    Check::Checkpoints,
    Check::Leftovers,
];

/// Something asked of one cloud.
type Question<'q, T> = BoxFuture<'q, object_store::Result<T>>;

/// One cloud under audit.
struct Seat<'a> {
    cloud: &'a Cloud,
    /// Why the cloud is left out of everything else.
    failure: Option<String>,
    /// Versions listed, by table.
    listed: BTreeMap<String, Vec<u64>>,
    /// Its logs, by table.
    logs: BTreeMap<String, TableLog>,
}

impl Seat<'_> {
    fn answers(&self) -> bool {
        self.failure.is_none()
    }

    fn last_listed(&self, table: &str) -> Option<u64> {
        self.listed.get(table)?.last().copied()
    }
}

/// An audit under way.
pub(super) struct Audit<'a> {
    seats: Vec<Seat<'a>>,
    /// Tables with a version in some cloud.
    tables: Vec<String>,
    results: BTreeMap<(String, Check, usize), CheckResult>,
    /// Quarantines that rows were taken out of.
    redriven: BTreeSet<String>,
    /// How far the Kafka partitions are, by table, from the cloud that is furthest.
    spans: BTreeMap<String, Spans>,
    bytes_hashed: u64,
}

impl<'a> Audit<'a> {
    pub(super) fn new(clouds: &'a [Cloud]) -> Self {
        let seat = |cloud| Seat { cloud, failure: None, listed: BTreeMap::new(), logs: BTreeMap::new() };
        Self {
            seats: clouds.iter().map(seat).collect(),
            tables: Vec::new(),
            results: BTreeMap::new(),
            redriven: BTreeSet::new(),
            spans: BTreeMap::new(),
            bytes_hashed: 0,
        }
    }

    /// Whether there is a cloud left to audit.
    pub(super) fn someone_answers(&self) -> bool {
        self.seats.iter().any(Seat::answers)
    }

    /// The clouds that do not answer.
    pub(super) fn silent(&self) -> Vec<&'a str> {
        let silent = self.seats.iter().filter(|seat| !seat.answers());
        silent.map(|seat| seat.cloud.name.as_str()).collect()
    }

    /// The tables that have a version in some cloud.
    pub(super) fn tables(&self) -> &[String] {
        &self.tables
    }

    /// Waits for one answer of each cloud, asked of those that still answer. A cloud that fails is left out of the
    /// audit from here on.
    async fn hear<T>(&mut self, questions: Vec<Option<Question<'_, T>>>) -> Vec<Option<T>> {
        let answers = questions.into_iter().map(future::OptionFuture::from);
        let answers: Vec<Option<object_store::Result<T>>> = future::join_all(answers).await;
        let mut heard = Vec::with_capacity(answers.len());
        for (seat, answer) in self.seats.iter_mut().zip(answers) {
            heard.push(match answer {
                Some(Ok(answer)) => Some(answer),
                Some(Err(error)) => {
                    seat.failure = Some(crate::chain_of(&error));
                    None
                }
                None => None,
            });
        }
        heard
    }

    /// The datasets in any cloud that answers.
    pub(super) async fn find_datasets(&mut self) -> BTreeSet<String> {
        let questions =
            self.seats.iter().map(|seat| seat.answers().then(|| list_folders(seat.cloud).boxed()));
        let listings = self.hear(questions.collect()).await;
        let folders = listings.into_iter().flatten().flatten();
        folders.filter_map(|folder| folder.filename().map(|name| dataset_of(name).to_owned())).collect()
    }

    /// Reads the logs of `datasets` and of their quarantines in every cloud that answers.
    pub(super) async fn read_logs(&mut self, datasets: &BTreeSet<String>) {
        let tables: Vec<String> =
            datasets.iter().flat_map(|dataset| [dataset.clone(), quarantine_of(dataset)]).collect();
        self.list_logs(&tables).await;
        let bodies = Bodies::default();
        let mut questions = Vec::with_capacity(self.seats.len());
        for seat in &mut self.seats {
            let (cloud, listed) = (seat.cloud, std::mem::take(&mut seat.listed));
            questions.push(seat.answers().then(|| read_logs(cloud, listed, &bodies).boxed()));
        }
        let answers = self.hear(questions).await;
        let logs = answers.iter().flatten().flatten();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for (table, last) in logs.filter_map(|log| Some((&log.table, log.last()?))) {
            let known = newest.entry(table.clone()).or_insert(last);
            *known = last.max(*known);
        }
        for (seat, logs) in self.seats.iter_mut().zip(answers) {
            for log in logs.into_iter().flatten() {
                let newest_anywhere = newest.get(&log.table).copied();
                seat.logs.insert(log.table.clone(), TableLog { newest_anywhere, ..log });
            }
        }
        self.tables = newest.into_keys().collect();
    }

    /// Lists versions until a listing finds nothing new anywhere: then what was found is how all logs stood at one
    /// moment, although a pipeline may be running.
    async fn list_logs(&mut self, tables: &[String]) {
        for _ in 0..LISTINGS_MAX {
            let mut questions = Vec::with_capacity(self.seats.len());
            for seat in &self.seats {
                let last: Vec<(String, Option<u64>)> =
                    tables.iter().map(|table| (table.clone(), seat.last_listed(table))).collect();
                questions.push(seat.answers().then(|| list_new_versions(seat.cloud, last).boxed()));
            }
            let answers = self.hear(questions).await;
            let mut found_new = false;
            for (seat, new) in self.seats.iter_mut().zip(answers) {
                for (table, versions) in new.into_iter().flatten() {
                    found_new |= !versions.is_empty();
                    seat.listed.entry(table).or_default().extend(versions);
                }
            }
            if !found_new {
                return;
            }
        }
    }

    /// Runs the checks that need the logs alone.
    pub(super) fn check_logs(&mut self) {
        for table in self.tables.clone() {
            let answering: Vec<usize> =
                (0..self.seats.len()).filter(|index| self.seats[*index].answers()).collect();
            for index in &answering {
                self.check_log(&table, *index);
            }
            let names: Vec<&str> =
                answering.iter().map(|index| self.seats[*index].cloud.name.as_str()).collect();
            let logs: Vec<&TableLog> =
                answering.iter().map(|index| &self.seats[*index].logs[&table]).collect();
            let tallies = checks::replicas(&names, &logs);
            for (index, tally) in answering.iter().zip(tallies) {
                self.record(&table, Check::Replicas, *index, tally);
            }
        }
    }

    fn check_log(&mut self, table: &str, index: usize) {
        let seat = &self.seats[index];
        let log = &seat.logs[table];
        let (offsets, spans) = checks::offsets(log);
        if log.last() == log.newest_anywhere && !self.spans.contains_key(table) {
            self.spans.insert(table.to_owned(), spans);
        }
        let quarantined = self.judges_quarantine(table).then(|| {
            let dataset = dataset_of(table);
            checks::quarantine(&seat.logs[dataset], &seat.logs[&quarantine_of(dataset)])
        });
        let tallies = [
            (Check::Entries, checks::entries(log)),
            (Check::Versions, checks::versions(log)),
            (Check::HashChain, checks::hash_chain(log)),
            (Check::Order, checks::order(log)),
            (Check::Offsets, offsets),
            (Check::Counts, checks::counts(log)),
            (Check::Schemas, checks::schemas(log)),
            (Check::Paths, checks::paths(log)),
        ];
        let quarantined = quarantined.map(|tally| (Check::Quarantine, tally));
        for (check, tally) in tallies.into_iter().chain(quarantined) {
            self.record(table, check, index, tally);
        }
    }

    /// A dataset is held against its quarantine once: under its own name, unless only the quarantine is left.
    fn judges_quarantine(&self, table: &str) -> bool {
        let dataset = dataset_of(table);
        table == dataset || !self.tables.iter().any(|other| other == dataset)
    }

    /// Reads every data file in every cloud.
    pub(super) async fn check_files(&mut self, progress: &dyn ProveProgress) {
        let files: Vec<Vec<(String, Vec<DataFile>)>> =
            self.seats.iter().map(|seat| self.files_of(seat)).collect();
        let bytes = files.iter().flatten().flat_map(|(_, files)| files).map(|file| file.size);
        progress.to_hash(bytes.fold(0, u64::saturating_add));
        let reads =
            self.seats.iter().zip(files).map(|(seat, files)| check_all(seat.cloud, files, progress).boxed());
        let tallies: Vec<Vec<(String, FileTallies)>> = future::join_all(reads.collect::<Vec<_>>()).await;
        for (index, tables) in tallies.into_iter().enumerate() {
            for (table, tallies) in tables {
                self.bytes_hashed += tallies.bytes_hashed;
                self.record(&table, Check::Files, index, tallies.files);
                self.record(&table, Check::Footers, index, tallies.footers);
            }
        }
    }

    fn files_of(&self, seat: &Seat<'_>) -> Vec<(String, Vec<DataFile>)> {
        let answering = self.tables.iter().filter(|_| seat.answers());
        answering.map(|table| (table.clone(), seat.logs[table].files())).collect()
    }

    /// Reads the files that redrives took rows out of, in every cloud.
    pub(super) async fn check_redrives(&mut self) {
        for table in self.tables.clone() {
            let answering: Vec<usize> =
                (0..self.seats.len()).filter(|index| self.seats[*index].answers()).collect();
            let is_redriven = |index: &usize| redrives::has_any(&self.seats[*index].logs[&table]);
            if !answering.iter().any(is_redriven) {
                continue;
            }
            self.redriven.insert(table.clone());
            let looks = answering.iter().map(|index| {
                let seat = &self.seats[*index];
                redrives::check(seat.cloud, &seat.logs[&table])
            });
            let tallies = future::join_all(looks.collect::<Vec<_>>()).await;
            for (index, tally) in answering.into_iter().zip(tallies) {
                self.record(&table, Check::Redrives, index, tally);
            }
        }
    }

    /// Reads the newest checkpoint of every table in every cloud.
    pub(super) async fn check_checkpoints(&mut self) {
        for table in self.tables.clone() {
            let answering: Vec<usize> =
                (0..self.seats.len()).filter(|index| self.seats[*index].answers()).collect();
            let looks = answering.iter().map(|index| {
                let seat = &self.seats[*index];
                checkpoints::look(seat.cloud, &seat.logs[&table])
            });
            let looks = future::join_all(looks).await;
            let (mut places, mut found) = (Vec::new(), Vec::new());
            for (index, look) in answering.into_iter().zip(looks) {
                match look {
                    Some(look) => {
                        places.push(index);
                        self.bytes_hashed += look.bytes_hashed;
                        found.push((self.seats[index].cloud.name.clone(), look));
                    }
                    None => self.record(&table, Check::Checkpoints, index, Tally::default()),
                }
            }
            let tallies = checkpoints::judge(&found);
            for (index, tally) in places.into_iter().zip(tallies) {
                self.record(&table, Check::Checkpoints, index, tally);
            }
        }
    }

    /// Counts what no version names. Costs one listing, and is no reason to fail.
    pub(super) async fn find_leftovers(&mut self) {
        for table in self.tables.clone() {
            for index in 0..self.seats.len() {
                let seat = &self.seats[index];
                if !seat.answers() {
                    continue;
                }
                let named = seat.logs[&table].named_paths();
                let found = count_leftovers(seat.cloud, &table, &named).await;
                let (objects, said) = match found {
                    Ok(found) if found.objects == 0 => (0, Vec::new()),
                    Ok(found) => {
                        let bytes = indicatif::HumanBytes(found.bytes);
                        (
                            found.objects,
                            vec![format!("{} objects, {bytes}", indicatif::HumanCount(found.objects))],
                        )
                    }
                    Err(error) => (0, vec![format!("cannot be listed: {error}")]),
                };
                let tally = Tally { checked: objects, failed: 0, examples: said };
                let result = CheckResult::judged(Some(&table), &seat.cloud.name, Check::Leftovers, tally);
                self.results.insert(
                    (table.clone(), Check::Leftovers, index),
                    result.with_status(Status::Information),
                );
            }
        }
    }

    fn record(&mut self, table: &str, check: Check, index: usize, tally: Tally) {
        let result = CheckResult::judged(Some(table), &self.seats[index].cloud.name, check, tally);
        self.results.insert((table.to_owned(), check, index), result);
    }

    /// Everything found, in a fixed order.
    pub(super) fn report(mut self) -> Report {
        let clouds: Vec<String> = self.seats.iter().map(|seat| seat.cloud.name.clone()).collect();
        let mut checks: Vec<CheckResult> = self.seats.iter().map(answers).collect();
        for table in &self.tables {
            for check in TABLE_CHECKS {
                let is_asked = match check {
                    Check::Quarantine => self.judges_quarantine(table),
                    Check::Redrives => self.redriven.contains(table),
                    _ => true,
                };
                if !is_asked {
                    continue;
                }
                for (index, cloud) in clouds.iter().enumerate() {
                    let result = self.results.remove(&(table.clone(), check, index));
                    checks.push(result.unwrap_or_else(|| {
                        let unjudged = CheckResult::judged(Some(table), cloud, check, Tally::default());
                        unjudged.with_status(Status::NotJudged)
                    }));
                }
            }
        }
        let tables: Vec<TableSummary> = self.tables.iter().map(|table| self.summary(table)).collect();
        let holds = !checks.iter().any(|result| matches!(result.status, Status::Failed | Status::NotJudged));
        Report { format: REPORT_FORMAT, holds, totals: self.totals(&tables), clouds, tables, checks }
    }

    fn summary(&self, table: &str) -> TableSummary {
        let logs = self.seats.iter().filter_map(|seat| seat.logs.get(table));
        let furthest = logs.max_by_key(|log| log.last());
        let files = furthest.map(TableLog::files).unwrap_or_default();
        let spans = self.spans.get(table).into_iter().flatten();
        TableSummary {
            table: table.to_owned(),
            last_version: furthest.and_then(TableLog::last).unwrap_or_default(),
            rows: files.iter().filter_map(|file| file.rows).fold(0, u64::saturating_add),
            files: files.len() as u64,
            file_bytes: files.iter().map(|file| file.size).fold(0, u64::saturating_add),
            partitions: spans
                .map(|((cluster, topic_id, partition), span)| PartitionSummary {
                    cluster: cluster.clone(),
                    topic: span.topic.clone(),
                    topic_id: topic_id.clone(),
                    partition: *partition,
                    first: span.first,
                    next: span.next,
                    records: span.records,
                    accepted_gaps: span.accepted_gaps.iter().map(GapSummary::from).collect(),
                })
                .collect(),
        }
    }

    fn totals(&self, tables: &[TableSummary]) -> Totals {
        let versions = |table: &TableSummary| {
            let logs = self.seats.iter().filter_map(|seat| seat.logs.get(&table.table));
            logs.flat_map(|log| log.versions.keys()).collect::<BTreeSet<_>>().len() as u64
        };
        let mut totals =
            Totals { clouds: self.seats.len() as u64, tables: tables.len() as u64, ..Totals::default() };
        totals.bytes_hashed = self.bytes_hashed;
        for table in tables {
            totals.versions += versions(table);
            totals.files += table.files;
            let rows = if table.table.ends_with(QUARANTINE_SUFFIX) {
                &mut totals.quarantined_rows
            } else {
                &mut totals.rows
            };
            *rows = rows.saturating_add(table.rows);
        }
        totals
    }
}

fn answers(seat: &Seat<'_>) -> CheckResult {
    let mut tally = Tally::default();
    let problem = seat.failure.as_ref().map(|why| format!("left out of the audit: {why}"));
    tally.look(&seat.cloud.name, problem.as_slice());
    CheckResult::judged(None, &seat.cloud.name, Check::Answers, tally)
}

async fn check_all(
    cloud: &Cloud,
    files: Vec<(String, Vec<DataFile>)>,
    progress: &dyn ProveProgress,
) -> Vec<(String, FileTallies)> {
    let mut tallies = Vec::with_capacity(files.len());
    for (table, files) in files {
        let found = check_files(cloud, &table, &files, progress).await;
        tallies.push((table, found));
    }
    tallies
}

async fn list_folders(cloud: &Cloud) -> object_store::Result<Vec<Path>> {
    match cloud.data.list_with_delimiter(Some(&Path::from("datasets"))).await {
        Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
        listed => Ok(listed?.common_prefixes),
    }
}

/// Per table, the versions above the last one known.
async fn list_new_versions(
    cloud: &Cloud,
    last: Vec<(String, Option<u64>)>,
) -> object_store::Result<Vec<(String, Vec<u64>)>> {
    let mut new = Vec::with_capacity(last.len());
    for (table, last) in last {
        let versions = list_versions(cloud, &table, last).await?;
        new.push((table, versions));
    }
    Ok(new)
}

async fn read_logs(
    cloud: &Cloud,
    listed: BTreeMap<String, Vec<u64>>,
    bodies: &Bodies,
) -> object_store::Result<Vec<TableLog>> {
    let mut logs = Vec::with_capacity(listed.len());
    for (table, versions) in listed {
        logs.push(bodies.read_log(cloud, &table, &versions).await?);
    }
    Ok(logs)
}
