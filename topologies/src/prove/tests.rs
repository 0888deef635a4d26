//! A good history is proved, and every way of breaking it is found by the check that is meant for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use isobar_connectors::clouds::{Cloud, Fault, FaultSwitch};
use isobar_connectors::delta::{MaintenanceWork, Remove, Txn};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::testing::{DATASET, History, QUARANTINE, encode, file_path, parquet, parquet_of};
use super::*;
use crate::commit::format::{checkpoint_path, last_checkpoint_path, published_path};

async fn audit(clouds: &[Cloud]) -> Report {
    prove(clouds, &[], None).await.unwrap()
}

/// The checks that do not hold, as `table check clouds`.
fn broken(report: &Report) -> Vec<String> {
    let mut broken: Vec<String> = Vec::new();
    for failed in report.failures() {
        let check = format!("{} {}", failed.table.as_deref().unwrap_or("-"), failed.check.name());
        match broken.last_mut().filter(|last| last.starts_with(&format!("{check} "))) {
            Some(last) => last.push_str(&failed.cloud),
            None => broken.push(format!("{check} {}", failed.cloud)),
        }
        assert!(!failed.examples.is_empty(), "{failed:?}");
    }
    assert_eq!(report.holds, broken.is_empty());
    broken
}

/// Breaks the history before it is stored anywhere; returns the checks that do not hold.
async fn break_history(break_it: impl FnOnce(&mut History)) -> Vec<String> {
    let mut history = History::good();
    break_it(&mut history);
    broken(&audit(&history.store(3).await).await)
}

/// Breaks cloud b; returns the checks that do not hold.
async fn break_cloud<F: Future<Output = ()>>(
    break_it: impl FnOnce(Arc<dyn ObjectStore>) -> F,
) -> Vec<String> {
    let clouds = History::good().store(3).await;
    break_it(clouds[1].data.clone()).await;
    broken(&audit(&clouds).await)
}

async fn change(store: &Arc<dyn ObjectStore>, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(path).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    store.put(path, bytes.into()).await.unwrap();
}

/// Changes one byte of a body without making it unreadable.
fn change_engine(body: &mut Vec<u8>) {
    let text = String::from_utf8(std::mem::take(body)).unwrap();
    assert!(text.contains("\"isobar/"));
    *body = text.replacen("\"isobar/", "\"isobaR/", 1).into_bytes();
}

fn log(version: u64) -> Path {
    published_path(DATASET, version)
}

#[tokio::test]
async fn a_good_history_is_proved_in_one_two_and_three_clouds() {
    for clouds in 1..=3 {
        let history = History::good();
        for body in history.tables.values().flatten() {
            body.to_bytes().expect("the history under test is one that isobar could have written");
        }
        let report = audit(&history.store(clouds).await).await;
        assert_eq!(broken(&report), [""; 0]);
        let bytes: u64 = history.files.values().map(|bytes| bytes.len() as u64).sum();
        let totals = Totals {
            clouds: clouds as u64,
            tables: 2,
            versions: 7,
            files: 6,
            rows: 15,
            quarantined_rows: 2,
            bytes_hashed: bytes * clouds as u64,
        };
        assert_eq!(report.totals, totals);
        let span = &report.tables[0].partitions[0];
        assert_eq!((span.first, span.next, span.records), (5, 40, 19));
        assert_eq!(report.checks.len(), clouds * (1 + 14 + 13));
    }
}

#[tokio::test]
async fn the_protocols_own_decisions_are_proved() {
    use crate::commit::{Chain, Epoch, Proposal, TableProposal};
    use isobar_connectors::delta::TableDefinition;
    use isobar_schemas::RowCounts;

    let good = History::good();
    let definition = |table: &str| {
        let metadata = good.tables[table][0].metadata.clone().unwrap();
        TableDefinition {
            id: metadata.id,
            name: table.into(),
            description: None,
            schema: Arc::new(isobar_connectors::delta::schema::to_arrow(&metadata.schema_string).unwrap()),
            partition_by: metadata.partition_columns,
            created_ms: 1,
        }
    };
    let proposal = |table: &str, version: usize| TableProposal {
        dataset: table.into(),
        create: (version == 0).then(|| definition(table)),
        plan: "p".into(),
        models: Vec::new(),
        offsets: good.tables[table][version].info.isobar.offsets.clone(),
        rows: if version == 0 {
            RowCounts::default()
        } else {
            good.tables[table][version].info.isobar.rows.clone()
        },
        files: Vec::new(),
    };
    let mut chain = Chain::default();
    let create =
        Proposal { commit_id: "c1".into(), tables: vec![proposal(DATASET, 0), proposal(QUARANTINE, 0)] };
    let mut nothing_out = proposal(DATASET, 2);
    nothing_out.offsets[0].start = 5;
    nothing_out.rows = RowCounts { input: 5, filtered: 5, ..RowCounts::default() };
    let advance = Proposal { commit_id: "c2".into(), tables: vec![nothing_out] };
    let clouds = History { tables: Default::default(), files: Default::default() }.store(2).await;
    for proposal in [create, advance] {
        chain.accept("t", &proposal).unwrap();
        let decision = chain.decide("t", Epoch(1), 1_000, &proposal).unwrap();
        chain.apply(&decision).unwrap();
        for (cloud, table) in
            clouds.iter().flat_map(|cloud| decision.tables.iter().map(move |table| (cloud, table)))
        {
            let path = published_path(&table.dataset, table.version);
            cloud.data.put(&path, table.body.clone().into_bytes().into()).await.unwrap();
        }
    }
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), [""; 0], "{}", report.to_text(Style { rich: false }));
    assert_eq!(report.tables[0].partitions[0].next, 30);
}

#[tokio::test]
async fn a_missing_version_is_found() {
    let missing = break_cloud(async |store| store.delete(&log(2)).await.unwrap()).await;
    assert_eq!(missing, ["flights versions b"]);
    let first = break_cloud(async |store| store.delete(&log(0)).await.unwrap()).await;
    assert_eq!(first, ["flights versions b"]);
    let of_quarantine =
        break_cloud(async |store| store.delete(&published_path(QUARANTINE, 1)).await.unwrap()).await;
    assert_eq!(of_quarantine, ["flights.quarantine versions b"]);
}

#[tokio::test]
async fn a_cloud_that_is_behind_is_found_and_says_how_far() {
    let clouds = History::good().store(3).await;
    for version in [2, 3] {
        clouds[2].data.delete(&log(version)).await.unwrap();
    }
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), ["flights replicas c"]);
    assert_eq!(report.failures().next().unwrap().examples, ["2 versions behind: at 1, others at 3"]);
    let empty = break_cloud(async |store| {
        for version in 0..4 {
            store.delete(&log(version)).await.unwrap();
        }
    });
    assert_eq!(empty.await, ["flights replicas b"]);
}

#[tokio::test]
async fn a_changed_byte_in_a_body_is_found() {
    // The last body: no later body vouches for it, but the other clouds do.
    let last = break_cloud(async |store| change(&store, &log(3), change_engine).await).await;
    assert_eq!(last, ["flights replicas b"]);
    // An earlier one contradicts both.
    let earlier = break_cloud(async |store| change(&store, &log(1), change_engine).await).await;
    assert_eq!(earlier, ["flights hash_chain b", "flights replicas b"]);
    // The same change in every cloud is left to the chain.
    let clouds = History::good().store(3).await;
    for cloud in &clouds {
        change(&cloud.data, &log(1), change_engine).await;
    }
    assert_eq!(broken(&audit(&clouds).await), ["flights hash_chain abc"]);
}

#[tokio::test]
async fn of_two_clouds_that_differ_neither_is_believed() {
    let clouds = History::good().store(2).await;
    change(&clouds[1].data, &log(3), change_engine).await;
    assert_eq!(broken(&audit(&clouds).await), ["flights replicas ab"]);
}

#[tokio::test]
async fn an_entry_of_someone_else_is_found() {
    let garbage = break_cloud(async |store| change(&store, &log(3), |body| body.truncate(100)).await).await;
    assert_eq!(garbage, ["flights entries b", "flights replicas b"]);
    let foreign =
        |body: &mut Vec<u8>| *body = br#"{"commitInfo":{"timestamp":1,"operation":"WRITE"}}"#.to_vec();
    let clouds = History::good().store(1).await;
    change(&clouds[0].data, &log(3), foreign).await;
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), ["flights entries a"]);
    let misplaced = break_history(|history| history.version(3).info.isobar.dataset = "other".into()).await;
    assert_eq!(misplaced, ["flights entries abc"]);
}

#[tokio::test]
async fn gaps_and_overlaps_of_offsets_are_found() {
    let offsets = ["flights offsets abc"];
    assert_eq!(break_history(|history| history.range(2).start = 21).await, offsets);
    assert_eq!(break_history(|history| history.range(2).start = 19).await, offsets);
    // A range of zero width declares a partition, once.
    let again = |history: &mut History| {
        let mut declared = history.range(0).clone();
        (declared.start, declared.end) = (40, 40);
        let mut body = history.version(0).clone();
        (body.protocol, body.metadata) = (None, None);
        body.info.isobar.sequence = 5;
        body.info.in_commit_timestamp_ms = 9_000;
        body.info.timestamp_ms = 9_000;
        body.info.isobar.epoch = 9;
        (body.txns[0].version, body.info.isobar.offsets[0]) = (40, declared);
        history.tables.get_mut(DATASET).unwrap().push(body);
    };
    assert_eq!(break_history(again).await, offsets);
    let undeclared = |history: &mut History| {
        history.version(0).info.isobar.offsets.clear();
        history.version(0).txns.clear();
    };
    assert_eq!(break_history(undeclared).await, offsets);
}

#[tokio::test]
async fn positions_that_differ_from_the_ranges_are_found() {
    let offsets = ["flights offsets abc"];
    assert_eq!(break_history(|history| history.version(2).txns[0].version = 31).await, offsets);
    assert_eq!(break_history(|history| history.version(2).txns.clear()).await, offsets);
    let stray = Txn { app_id: "t/k/id/7".into(), version: 1, last_updated: None };
    assert_eq!(break_history(|history| history.version(2).txns.push(stray)).await, offsets);
}

#[tokio::test]
async fn a_gap_is_no_loss_where_it_was_accepted_and_one_elsewhere() {
    let mut history = History::good();
    history.accept_gap(70);
    history.version(4).to_bytes().expect("the history under test is one that isobar could have written");
    let report = audit(&history.store(3).await).await;
    assert_eq!(broken(&report), [""; 0]);
    let partition = &report.tables[0].partitions[0];
    assert_eq!((partition.next, partition.accepted_gaps.len()), (70, 1));
    let text = report.to_text(Style { rich: false });
    assert!(
        text.contains("flights goes without flights[0] offsets [40, 70), accepted: outage of 3 May"),
        "{text}"
    );

    type Break = fn(&mut History);
    let breaks: [(Break, &[&str]); 4] = [
        // Nobody accepted it.
        (
            |history| {
                let info = &mut history.version(4).info;
                info.operation = "WRITE".into();
                info.operation_parameters = [("mode".to_owned(), "Append".to_owned())].into();
            },
            &["flights offsets abc"],
        ),
        // Another one was.
        (
            |history| (history.range(4).end, history.version(4).txns[0].version) = (80, 80),
            &["flights offsets abc"],
        ),
        // It was read nevertheless.
        (|history| history.range(4).records = 1, &["flights offsets abc", "flights counts abc"]),
        // Nobody says why.
        (
            |history| _ = history.version(4).info.operation_parameters.remove("reason"),
            &["flights offsets abc", "flights counts abc"],
        ),
    ];
    for (number, (break_one, found)) in breaks.into_iter().enumerate() {
        let mut broken_one = history.clone();
        break_one(&mut broken_one);
        assert_eq!(broken(&audit(&broken_one.store(3).await).await), found, "break {number}");
    }
}

#[tokio::test]
async fn the_order_of_decisions_is_checked() {
    let order = ["flights order abc"];
    assert_eq!(break_history(|history| history.version(3).info.isobar.epoch = 1).await, order);
    assert_eq!(break_history(|history| history.version(2).info.in_commit_timestamp_ms = 2_000).await, order);
    let sequence = break_history(|history| history.version(2).info.isobar.sequence = 2).await;
    assert_eq!(sequence[0], "flights order abc");
}

#[tokio::test]
async fn counts_that_do_not_add_up_are_found() {
    let counts = ["flights counts abc"];
    assert_eq!(break_history(|history| history.version(2).info.isobar.rows.filtered += 1).await, counts);
    assert_eq!(break_history(|history| history.range(2).records -= 1).await, counts);
    let too_many = |history: &mut History| {
        history.range(2).records = 11;
        history.version(2).info.isobar.rows.input = 11;
        history.version(2).info.isobar.rows.filtered = 6;
    };
    assert_eq!(break_history(too_many).await, counts);
    let one_more_out = |history: &mut History| {
        history.version(2).info.isobar.rows.output += 1;
        history.version(2).info.isobar.rows.input += 1;
        history.range(2).records += 1;
    };
    assert_eq!(break_history(one_more_out).await, counts);
    let statistics = Some("{\"numRecords\":6}".to_owned());
    assert_eq!(break_history(|history| history.version(2).adds[0].stats = statistics).await, counts);
    assert_eq!(break_history(|history| history.version(2).adds[0].stats = None).await, counts);
    let unlisted = |history: &mut History| history.version(2).info.isobar.files.clear();
    assert_eq!(break_history(unlisted).await, counts);
    assert_eq!(break_history(|history| history.version(2).adds.clear()).await, counts);
    let twice = |history: &mut History| {
        let add = history.version(1).adds[0].clone();
        let digest = history.version(1).info.isobar.files[0].clone();
        history.version(2).adds[0] = add;
        history.version(2).info.isobar.rows.output = digest.rows;
        history.version(2).info.isobar.rows.filtered = 5 - digest.rows;
        history.version(2).info.isobar.files[0] = digest;
    };
    assert_eq!(break_history(twice).await, counts);
    assert_eq!(
        break_history(|history| history.version(3).removes.push(removed("month=9/z.parquet"))).await,
        counts
    );
}

fn removed(path: &str) -> Remove {
    Remove {
        path: path.into(),
        deletion_timestamp: Some(1),
        data_change: true,
        extended_file_metadata: None,
        partition_values: None,
        size: None,
    }
}

fn evolved() -> History {
    let mut history = History::good();
    history.evolve();
    history
}

#[tokio::test]
async fn a_schema_that_grows_is_proved_with_the_rows_before_and_after() {
    let history = evolved();
    for body in history.tables.values().flatten() {
        body.to_bytes().expect("the history under test is one that isobar could have written");
    }
    let report = audit(&history.store(3).await).await;
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.totals.files, report.totals.rows), (7, 16));
    let of_dataset = |check: &&CheckResult| {
        check.check == Check::Schemas && check.table.as_deref() == Some(DATASET) && check.checked == 2
    };
    assert_eq!(report.checks.iter().filter(of_dataset).count(), 3);
}

#[tokio::test]
async fn schemas_that_do_not_succeed_or_are_not_as_stated_are_found() {
    type Break = fn(&mut History);
    let breaks: [Break; 9] = [
        |history| history.version(4).metadata.as_mut().unwrap().id = "another".into(),
        |history| {
            let schema = &mut history.version(4).metadata.as_mut().unwrap().schema_string;
            let (before, y) = schema.split_at(schema.find("\"y\"").unwrap());
            *schema = format!("{before}{}", y.replace("true", "false"));
        },
        |history| {
            let first = history.version(0).metadata.clone().unwrap().schema_string;
            history.version(4).metadata.as_mut().unwrap().schema_string = first;
        },
        |history| history.version(4).info.operation = "WRITE".into(),
        |history| history.version(4).info.operation_parameters.clear(),
        |history| history.version(5).metadata = history.version(4).metadata.clone(),
        |history| history.version(3).metadata = history.version(0).metadata.clone(),
        |history| history.version(4).info.operation_parameters.extend([("after".into(), "1".into())]),
        |history| {
            let changes = ("changes".into(), "adds column z: long".into());
            history.version(4).info.operation_parameters.extend([changes]);
        },
    ];
    for (number, break_one) in breaks.into_iter().enumerate() {
        let mut history = evolved();
        break_one(&mut history);
        let report = audit(&history.store(3).await).await;
        let found = broken(&report);
        assert!(found.contains(&"flights schemas abc".to_owned()), "break {number}: {found:?}");
    }
    let mut history = evolved();
    history.version(4).info.operation_parameters.insert("more".into(), "1".into());
    assert_eq!(broken(&audit(&history.store(3).await).await), ["flights schemas abc"]);
}

#[tokio::test]
async fn a_file_whose_structs_are_not_within_those_of_its_version_is_found() {
    for (names, holds) in [
        (&["a", "b"][..], true),
        (&["b"], true),
        (&["b", "a"], false),
        (&["a", "c"], false),
        (&["c", "a", "b"], false),
    ] {
        let mut history = History::good();
        history.nest();
        history.nested_file(100, names);
        let expected: &[&str] = if holds { &[] } else { &["flights footers abc"] };
        assert_eq!(broken(&audit(&history.store(3).await).await), expected, "{names:?}");
    }
}

#[tokio::test]
async fn a_file_with_columns_that_its_version_does_not_have_is_found() {
    for (version, columns, holds) in [
        (5, &["x"][..], true),
        (5, &["y"], true),
        (5, &["x", "z"], false),
        (5, &["x", "month"], false),
        // The column came one version later.
        (3, &["x", "y"], false),
        (3, &["x"], true),
    ] {
        let mut history = evolved();
        history.version(version).info.isobar.rows.output += 1;
        history.version(version).info.isobar.rows.input += 1;
        let range = history.range(version);
        (range.records, range.end) = (range.records + 1, range.end + 1);
        let end = history.range(version).end;
        history.version(version).txns[0].version = end;
        if version == 3 {
            history.range(5).start = end;
            history.range(5).end = end + 1;
            history.version(5).txns[0].version = end + 1;
        }
        history.file_of(DATASET, version, "month=1/z.parquet", "1", 1, parquet_of(columns));
        let expected: &[&str] = if holds { &[] } else { &["flights footers abc"] };
        let found = broken(&audit(&history.store(3).await).await);
        assert_eq!(found, expected, "version {version}, {columns:?}");
    }
}

/// A history with a compaction and a vacuum, and a commit after them.
fn maintained() -> History {
    let mut history = History::good();
    history.compact();
    history.maintain(4, MaintenanceWork::Vacuum { through: 4 });
    let mut next = history.version(2).clone();
    next.info.timestamp_ms = 9_000;
    next.info.in_commit_timestamp_ms = 9_000;
    let info = &mut next.info.isobar;
    (info.sequence, info.epoch, info.files) = (7, 9, Vec::new());
    (info.offsets[0].start, info.offsets[0].end) = (40, 50);
    (next.txns[0].version, next.adds) = (50, Vec::new());
    history.tables.get_mut(DATASET).unwrap().push(next);
    history.file(DATASET, 6, "month=1/f.parquet", "1", 15..20);
    history
}

#[tokio::test]
async fn offsets_go_on_over_maintenance_and_files_let_go_may_be_gone() {
    let history = maintained();
    for body in history.tables.values().flatten() {
        body.to_bytes().expect("the history under test is one that isobar could have written");
    }
    let clouds = history.store(3).await;
    for cloud in &clouds[..2] {
        cloud.data.delete(&file_path("month=2/b.parquet")).await.unwrap();
        cloud.data.delete(&file_path("month=2/c.parquet")).await.unwrap();
    }
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.totals.files, report.totals.rows), (6, 20));
    assert_eq!(report.tables[0].partitions[0].next, 50);
    let leftovers = report.checks.iter().filter(|check| check.check == Check::Leftovers && check.checked > 0);
    let leftovers: Vec<(&str, u64)> = leftovers.map(|check| (check.cloud.as_str(), check.checked)).collect();
    assert_eq!(leftovers, [("c", 2)], "what lingers is said, and is no failure");
}

#[tokio::test]
async fn maintenance_that_loses_rows_or_contradicts_itself_is_found() {
    type Break = fn(&mut History);
    let breaks: [Break; 6] = [
        // A file less, and one that has gone already.
        |history| _ = history.version(4).removes.pop(),
        |history| history.version(4).removes[1].path = "month=1/a.parquet".into(),
        |history| {
            let parameters = &mut history.version(4).info.operation_parameters;
            parameters.insert("rows".into(), "11".into());
        },
        |history| {
            let parameters = &mut history.version(5).info.operation_parameters;
            parameters.insert("after".into(), "0".into());
        },
        |history| history.version(5).info.operation_parameters.clear(),
        // Rows that leave with a commit are lost.
        |history| history.version(6).removes.push(removed("month=1/a.parquet")),
    ];
    for (number, break_one) in breaks.into_iter().enumerate() {
        let mut history = maintained();
        break_one(&mut history);
        let report = audit(&history.store(3).await).await;
        assert_eq!(broken(&report), ["flights counts abc"], "break {number}");
    }
}

#[tokio::test]
async fn a_quarantine_that_holds_something_else_is_found() {
    let more = |history: &mut History| {
        let quarantine = &mut history.tables.get_mut(QUARANTINE).unwrap()[1];
        quarantine.adds.clear();
        quarantine.info.isobar.files.clear();
        (quarantine.info.isobar.rows.input, quarantine.info.isobar.rows.output) = (2, 2);
        history.file(QUARANTINE, 1, "q1b.parquet", "", 0..2);
    };
    assert_eq!(break_history(more).await, ["flights quarantine abc"]);
    let nothing = |history: &mut History| {
        history.tables.get_mut(QUARANTINE).unwrap().truncate(2);
    };
    assert_eq!(break_history(nothing).await, ["flights quarantine abc"]);
    let another_commit = |history: &mut History| {
        history.tables.get_mut(QUARANTINE).unwrap()[2].info.isobar.commit_id = "other".into();
    };
    assert_eq!(break_history(another_commit).await, ["flights quarantine abc"]);
    let orphan = |history: &mut History| {
        history.tables.remove(DATASET);
    };
    assert_eq!(break_history(orphan).await, ["flights.quarantine quarantine abc"]);
}

/// A history with a redrive, and nothing after it.
fn redriven() -> History {
    let mut history = History::good();
    history.redrive();
    history
}

#[tokio::test]
async fn a_redrive_moves_rows_and_no_offsets() {
    let history = redriven();
    for body in history.tables.values().flatten() {
        body.to_bytes().expect("the history under test is one that isobar could have written");
    }
    let report = audit(&history.store(3).await).await;
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!((report.totals.rows, report.totals.quarantined_rows), (16, 1));
    assert_eq!((report.tables[0].partitions[0].next, report.tables[0].partitions[0].records), (40, 19));
}

#[tokio::test]
async fn a_redrive_that_loses_or_doubles_rows_is_found() {
    type Break = fn(&mut History);
    let parameter = |body: &mut isobar_connectors::delta::CommitBody, name: &str, value: &str| {
        body.info.operation_parameters.insert(name.into(), value.into());
    };
    let counts = "flights.quarantine counts abc";
    let by_position = "flights.quarantine redrives abc";
    let breaks: [(&[&str], Break); 9] = [
        // A row stays in the quarantine that has also landed.
        (&[counts, by_position], |history| _ = history.quarantine_version(3).removes.pop()),
        (&[counts, by_position], |history| {
            history.quarantine_version(3).removes[1].path = "q1.parquet".into();
        }),
        (&[counts], |history| history.quarantine_version(3).removes[1].path = "q9.parquet".into()),
        // Another row is put back than was there.
        (&[by_position], |history| {
            let body = history.quarantine_version(3);
            body.adds.clear();
            body.info.isobar.files.clear();
            history.file(QUARANTINE, 3, "q4.parquet", "", 7..8);
        }),
        // Another redrive of the same files.
        (&[counts], |history| {
            let again = history.quarantine_version(3).clone();
            let mut landed = history.version(4).clone();
            landed.adds.clear();
            landed.info.isobar.files.clear();
            landed.info.isobar.rows.output = 0;
            landed.info.isobar.rows.filtered = 1;
            for (table, mut body) in [(DATASET, landed), (QUARANTINE, again)] {
                body.info.isobar.sequence += 1;
                body.info.in_commit_timestamp_ms += 1;
                body.info.timestamp_ms += 1;
                history.tables.get_mut(table).unwrap().push(body);
            }
        }),
        // More lands than was taken.
        (&["flights counts abc"], |history| {
            history.version(4).info.isobar.rows.output = 2;
            history.version(4).info.isobar.rows.input = 3;
            history.file(DATASET, 4, "month=3/s.parquet", "3", 16..17);
        }),
        (&["flights quarantine abc"], |history| {
            history.version(4).info.isobar.rows.output = 2;
            history.version(4).info.isobar.rows.input = 3;
            history.version(4).info.operation_parameters.insert("rows".into(), "3".into());
            history.file(DATASET, 4, "month=3/s.parquet", "3", 16..17);
        }),
        // The quarantine loses a row, and the dataset knows nothing of it.
        (&["flights quarantine abc"], |history| _ = history.tables.get_mut(DATASET).unwrap().pop()),
        (&["flights counts abc", "flights quarantine abc"], |history| {
            history.version(4).info.operation = "WRITE".into();
        }),
    ];
    for (number, (found, break_one)) in breaks.into_iter().enumerate() {
        let mut history = redriven();
        break_one(&mut history);
        let report = audit(&history.store(3).await).await;
        assert_eq!(broken(&report), found, "break {number}");
    }
    for (name, value) in [("rows", "3"), ("kept", "1"), ("after", "2"), ("rows", "02")] {
        let mut history = redriven();
        parameter(history.quarantine_version(3), name, value);
        let report = audit(&history.store(3).await).await;
        assert!(broken(&report).contains(&counts.to_owned()), "{name} {value}: {:?}", broken(&report));
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_differs_in_one_cloud_is_found() {
    let files = ["flights files b"];
    let path = || file_path("month=1/a.parquet");
    assert_eq!(break_cloud(async |store| store.delete(&path()).await.unwrap()).await, files);
    let one_byte = |bytes: &mut Vec<u8>| bytes[10] ^= 1;
    assert_eq!(break_cloud(async |store| change(&store, &path(), one_byte).await).await, files);
    let shorter = |bytes: &mut Vec<u8>| bytes.truncate(20);
    assert_eq!(break_cloud(async |store| change(&store, &path(), shorter).await).await, files);
    let empty = |bytes: &mut Vec<u8>| bytes.clear();
    assert_eq!(break_cloud(async |store| change(&store, &path(), empty).await).await, files);
    let odd_name = file_path("month=a%2520b/d.parquet");
    assert_eq!(break_cloud(async |store| store.delete(&odd_name).await.unwrap()).await, files);
}

/// Replaces the bytes of a file before it is stored, as if they had been committed like this.
fn commit_instead(history: &mut History, bytes: Bytes) {
    let body = history.version(1);
    body.adds[0].size = bytes.len() as i64;
    let digest = &mut body.info.isobar.files[0];
    digest.size = bytes.len() as u64;
    digest.sha256 = isobar_connectors::delta::sha256_hex(&bytes);
    let path = format!("datasets/{DATASET}/{}", digest.path);
    assert!(history.files.insert(path, bytes).is_some());
}

#[tokio::test]
async fn a_footer_that_counts_other_rows_is_found() {
    let footers = ["flights footers abc"];
    assert_eq!(break_history(|history| commit_instead(history, parquet(0..4))).await, footers);
    assert_eq!(break_history(|history| commit_instead(history, "not a Parquet file".into())).await, footers);
    assert_eq!(break_history(|history| commit_instead(history, Bytes::new())).await, footers);
}

#[tokio::test]
async fn paths_that_leave_the_table_are_found() {
    for path in ["/etc/passwd", "s3://bucket/x.parquet", "../x.parquet", "%2e%2e/x.parquet"] {
        let outside = |history: &mut History| {
            history.version(1).adds[0].path = path.into();
            history.version(1).info.isobar.files[0].path = path.into();
        };
        assert_eq!(break_history(outside).await, ["flights paths abc"], "{path}");
    }
}

#[tokio::test]
async fn a_cloud_that_does_not_answer_is_named_and_the_others_are_audited() {
    let mut clouds = History::good().store(3).await;
    clouds[2].data.delete(&file_path("month=1/a.parquet")).await.unwrap();
    let switch = FaultSwitch::default();
    switch.set(Fault::RefuseAll);
    clouds[1] = clouds[1].clone().with_faults(&switch);
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), ["- answers b", "flights files c"]);
    let of_b = report.checks.iter().filter(|result| result.cloud == "b" && result.table.is_some());
    assert!(of_b.clone().count() > 0 && of_b.clone().all(|result| result.status == Status::NotJudged));
    for cloud in &mut clouds {
        *cloud = cloud.clone().with_faults(&switch);
    }
    let report = prove(&clouds, &[DATASET.to_owned()], None).await.unwrap();
    assert_eq!(broken(&report), ["- answers abc"].map(|all| all.to_owned()));
}

/// Goes away when the first file is being hashed.
struct GoAway(FaultSwitch);

impl ProveProgress for GoAway {
    fn to_hash(&self, _bytes: u64) {
        self.0.set(Fault::RefuseAll);
    }
}

#[tokio::test]
async fn a_cloud_that_goes_away_while_files_are_read_is_found() {
    let mut history = History::good();
    for file in 0..20 {
        history.file(DATASET, 3, &format!("month=9/{file}.parquet"), "9", 0..1);
    }
    history.version(3).info.isobar.rows.output += 20;
    history.version(3).info.isobar.rows.input += 20;
    history.range(3).end = 60;
    history.range(3).records += 20;
    history.version(3).txns[0].version = 60;
    let mut clouds = history.store(2).await;
    let switch = FaultSwitch::default();
    clouds[1] = clouds[1].clone().with_faults(&switch);
    let report = prove(&clouds, &[], Some(&GoAway(switch))).await.unwrap();
    let lost = ["flights files b", "flights checkpoints b"];
    assert_eq!(broken(&report)[..2], lost);
    assert_eq!(broken(&report)[2..], lost.map(|check| check.replace("flights", "flights.quarantine")));
    let files = report.failures().next().unwrap();
    assert_eq!((files.checked, files.failed), (8, 24), "the rest is not asked for, and not forgotten");
}

#[tokio::test]
async fn leftovers_are_counted_and_are_no_failure() {
    let clouds = History::good().store(2).await;
    let stray = format!("datasets/{DATASET}/month=3/stray.parquet");
    clouds[0].data.put(&Path::from(stray), Bytes::from_static(b"abc").into()).await.unwrap();
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), [""; 0]);
    let leftovers: Vec<_> = report.checks.iter().filter(|result| result.check == Check::Leftovers).collect();
    assert_eq!(leftovers.iter().map(|result| result.checked).collect::<Vec<_>>(), [1, 0, 0, 0]);
    assert_eq!(leftovers[0].examples, ["1 objects, 3 B"]);
    assert!(leftovers.iter().all(|result| result.status == Status::Information));
}

#[tokio::test]
async fn local_directories_are_audited_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
    for (path, bytes) in History::good().objects() {
        store.put(&path, bytes.into()).await.unwrap();
    }
    let clouds = [Cloud::new("local", store.clone(), store.clone())];
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), [""; 0], "{}", report.to_text(Style { rich: false }));
    let leftovers = report.checks.iter().filter(|result| result.check == Check::Leftovers);
    assert!(
        leftovers.clone().all(|result| result.checked == 0),
        "{leftovers:?}",
        leftovers = leftovers.collect::<Vec<_>>()
    );
    change(&store, &file_path("month=a%2520b/d.parquet"), |bytes| bytes[9] ^= 128).await;
    assert_eq!(broken(&audit(&clouds).await), ["flights files local"]);
}

#[tokio::test]
async fn no_flipped_bit_and_no_lost_object_goes_unnoticed() {
    let seed = 20_130_101;
    let mut random = StdRng::seed_from_u64(seed);
    let clouds = History::good().store(2).await;
    let store = &clouds[1].data;
    for (path, bytes) in History::good().objects() {
        for _ in 0..12 {
            let mut flipped = bytes.to_vec();
            let at = random.random_range(0..flipped.len());
            flipped[at] ^= 1 << random.random_range(0..8);
            store.put(&path, flipped.into()).await.unwrap();
            assert!(!audit(&clouds).await.holds(), "seed {seed}: {path}, byte {at}");
        }
        store.delete(&path).await.unwrap();
        assert!(!audit(&clouds).await.holds(), "seed {seed}: {path} lost");
        store.put(&path, bytes.into()).await.unwrap();
    }
    assert!(audit(&clouds).await.holds());
}

#[tokio::test]
async fn datasets_are_chosen_by_name() {
    let clouds = History::good().store(2).await;
    let tables = async |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        prove(&clouds, &names, None).await.map(|report| report.tables.len())
    };
    assert_eq!(tables(&[DATASET]).await.unwrap(), 2);
    assert_eq!(tables(&[QUARANTINE]).await.unwrap(), 2);
    assert_eq!(tables(&[DATASET, QUARANTINE]).await.unwrap(), 2);
    let unknown = tables(&[DATASET, "fligths"]).await.unwrap_err();
    assert_eq!(unknown.exit_code(), 2);
    assert_eq!(unknown.to_string(), "dataset fligths is in none of the clouds: did you mean flights?");
    assert!(tables(&["zzz"]).await.unwrap_err().to_string().ends_with("there are flights"));
    let empty = History { tables: Default::default(), files: Default::default() }.store(1).await;
    let nothing = prove(&empty, &[], None).await.unwrap_err();
    assert!(nothing.to_string().contains("nothing was committed"), "{nothing}");
    let stray = Path::from("datasets/begun/x.parquet");
    empty[0].data.put(&stray, Bytes::from_static(b"x").into()).await.unwrap();
    let begun = prove(&empty, &["begun".into()], None).await.unwrap_err();
    assert_eq!((begun.exit_code(), begun.to_string().as_str()), (2, "nothing was committed to begun yet"));
}

#[tokio::test]
async fn the_report_reads_as_documented() {
    let mut history = History::good();
    history.range(2).start = 21;
    let report = audit(&history.store(2).await).await;
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["holds"], false);
    assert_eq!(json["clouds"], serde_json::json!(["a", "b"]));
    assert_eq!(json["totals"]["rows"], 15);
    assert_eq!(json["tables"][0]["partitions"][0]["next"], 40);
    let offsets =
        json["checks"].as_array().unwrap().iter().find(|check| check["check"] == "offsets").unwrap();
    let expected = serde_json::json!({
        "table": "flights", "cloud": "a", "check": "offsets", "status": "failed", "checked": 4, "unit": "ranges",
        "failed": 1,
        "examples": ["version 2: flights[0] offsets [21, 30): a gap: offsets [20, 21) are in no version"],
    });
    assert_eq!(*offsets, expected);
    assert_eq!(
        json["checks"][0],
        serde_json::json!({
            "cloud": "a", "check": "answers", "status": "passed", "checked": 1, "unit": "listings", "failed": 0,
            "examples": [],
        })
    );
    let text = report.to_text(Style { rich: false });
    assert!(text.contains("FAILED 1 of 4"), "{text}");
    assert!(
        text.contains("FAILED flights in a, b: offsets without gap or overlap\n    version 2: "),
        "{text}"
    );
    assert!(
        text.lines().last().unwrap().starts_with("FAILED not proved, 2 checks failed: 15 rows"),
        "{text}"
    );
    assert!(text.is_ascii(), "{text}");
    let good = audit(&History::good().store(2).await).await;
    assert!(good.verdict(Style { rich: true }).starts_with("✓ proved: 15 rows and 2 in quarantine, 6 files"));
    let names: BTreeSet<&str> = good.checks.iter().map(|result| result.check.name()).collect();
    for result in &good.checks {
        assert_eq!(serde_json::to_value(result.check).unwrap(), result.check.name());
    }
    assert_eq!(names.len(), 15);
}

#[derive(Default)]
struct Hashed {
    expected: AtomicU64,
    done: AtomicU64,
}

impl ProveProgress for Hashed {
    fn to_hash(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    fn hashed(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn progress_reaches_its_end() {
    let progress = Hashed::default();
    let clouds = History::good().store(3).await;
    let report = prove(&clouds, &[], Some(&progress)).await.unwrap();
    assert_eq!(progress.done.load(Ordering::Relaxed), report.totals.bytes_hashed);
    assert_eq!(progress.expected.load(Ordering::Relaxed), report.totals.bytes_hashed);
}

#[test]
fn an_audit_can_run_on_any_thread() {
    fn is_send(_: impl Send) {}
    is_send(prove(&[], &[], None));
}

#[test]
fn the_careless_encoder_agrees_with_the_real_one() {
    // Else the broken bodies above would be broken in more ways than one.
    let body = &History::good().tables[DATASET][1];
    let mut broken = body.clone();
    broken.info.isobar.rows.filtered += 1;
    let text = String::from_utf8(encode(&broken).to_vec()).unwrap();
    assert_eq!(text.replacen("\"filtered\":1", "\"filtered\":0", 1).as_bytes(), body.to_bytes().unwrap());
}

/// Checkpoints, as far as an audit looks at them: `_last_checkpoint`, and a Parquet file with so many rows.
async fn put_checkpoint(store: &Arc<dyn ObjectStore>, version: u64, file: Bytes, rows: u64, files: u64) {
    let bytes = file.len();
    let hint = format!(
        "{{\"version\":{version},\"size\":{rows},\"sizeInBytes\":{bytes},\"numOfAddFiles\":{files}}}\n"
    );
    store.put(&checkpoint_path(DATASET, version), file.into()).await.unwrap();
    store.put(&last_checkpoint_path(DATASET), hint.into()).await.unwrap();
}

#[tokio::test]
async fn checkpoints_that_fit_the_log_hold_and_a_cloud_may_have_an_older_one_or_none() {
    let clouds = History::good().store(3).await;
    put_checkpoint(&clouds[0].data, 3, parquet(0..9), 9, 4).await;
    put_checkpoint(&clouds[1].data, 1, parquet(0..7), 7, 2).await;
    let report = audit(&clouds).await;
    assert_eq!(broken(&report), [""; 0]);
    let looked: Vec<u64> = report
        .checks
        .iter()
        .filter(|result| result.check == Check::Checkpoints && result.table.as_deref() == Some(DATASET))
        .map(|result| result.checked)
        .collect();
    assert_eq!(looked, [1, 1, 0]);
}

#[tokio::test]
async fn a_checkpoint_that_is_missing_or_does_not_fit_is_found() {
    let alone = ["flights checkpoints b"];
    let put = |version: u64, rows: u64, files: u64| {
        break_cloud(async move |store| put_checkpoint(&store, version, parquet(0..9), rows, files).await)
    };
    assert_eq!(put(3, 9, 4).await, [""; 0]);
    assert_eq!(put(4, 9, 4).await, alone, "there is no such version");
    assert_eq!(put(3, 8, 4).await, alone, "the footer counts others");
    assert_eq!(put(3, 9, 5).await, alone, "the log has other files");
    let lost = break_cloud(async |store| {
        put_checkpoint(&store, 3, parquet(0..9), 9, 4).await;
        store.delete(&checkpoint_path(DATASET, 3)).await.unwrap();
    });
    assert_eq!(lost.await, alone);
    let garbage = break_cloud(async |store| {
        store.put(&last_checkpoint_path(DATASET), "x".into()).await.unwrap();
    });
    assert_eq!(garbage.await, alone);
}

#[tokio::test]
async fn of_checkpoints_that_differ_most_clouds_are_believed() {
    let clouds = History::good().store(3).await;
    for cloud in &clouds {
        put_checkpoint(&cloud.data, 3, parquet(0..9), 9, 4).await;
    }
    assert_eq!(broken(&audit(&clouds).await), [""; 0]);
    // As many rows, and others.
    put_checkpoint(&clouds[2].data, 3, parquet(1..10), 9, 4).await;
    assert_eq!(broken(&audit(&clouds).await), ["flights checkpoints c"]);
    assert_eq!(broken(&audit(&clouds[1..]).await), ["flights checkpoints bc"]);
}
