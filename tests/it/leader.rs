//! The commit protocol by itself: a leader, three clouds, and proposals that read records without keeping a row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use isobar_connectors::clouds::{Cloud, Fault};
use isobar_connectors::delta::{OffsetRange, TableDefinition};
use isobar_connectors::upload::UploadStatus;
use isobar_schemas::RowCounts;
use isobar_tests::delta::{Log, latest_version, read_object};
use isobar_tests::lab::{Lab, uploads_to};
use isobar_tests::prng::Seed;
use isobar_tests::script::{Kind, Request, Verdict};
use isobar_tests::trees;
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::commit::format::ENTRY_BYTES_MAX;
use isobar_topologies::commit::{
    Chain, CommitOutcome, Group, Leader, Proposal, Refusal, Staged, TableProposal, UNPUBLISHED_MAX,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value as Json;

/// The table of these tests.
pub(crate) const TABLE: &str = "events";
/// The topology of these tests.
pub(crate) const TOPOLOGY: &str = "protocol";

pub(crate) async fn lead(clouds: &[Cloud]) -> Result<Leader, Error> {
    let uploads = uploads_to(clouds);
    in_time("a take-over", Leader::start(&Group::new(TOPOLOGY, clouds.to_vec()), uploads)).await
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange {
        cluster: "cluster".into(),
        topic: "events".into(),
        topic_id: "topic-id".into(),
        partition: 0,
        start,
        end,
        records: (end - start) as u64,
        last_fingerprint: (end > start).then(|| "ef".repeat(32)),
    }
}

fn table(start: i64, end: i64) -> TableProposal {
    let records = (end - start) as u64;
    TableProposal {
        dataset: TABLE.into(),
        create: None,
        plan: "cd".repeat(32),
        models: Vec::new(),
        offsets: vec![range(start, end)],
        rows: RowCounts { input: records, filtered: records, ..RowCounts::default() },
        files: Vec::new(),
    }
}

fn staged(tables: Vec<TableProposal>) -> Staged {
    let proposal = Proposal { commit_id: uuid::Uuid::new_v4().to_string(), tables };
    Staged { proposal, uploads: Vec::new() }
}

/// Reads the records `[start, end)`.
pub(crate) fn reading(start: i64, end: i64) -> Staged {
    staged(vec![table(start, end)])
}

/// Creates the table and declares that partition 0 starts at 0.
pub(crate) fn creating() -> Staged {
    let fields = arrow_fields();
    let definition = TableDefinition {
        id: "00000000-0000-4000-8000-000000000000".into(),
        name: TABLE.into(),
        description: None,
        schema: fields,
        partition_by: Vec::new(),
        created_ms: 1,
    };
    staged(vec![TableProposal { create: Some(definition), ..table(0, 0) }])
}

fn arrow_fields() -> arrow::datatypes::SchemaRef {
    let field = arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, true);
    Arc::new(arrow::datatypes::Schema::new(vec![field]))
}

pub(crate) async fn commit(leader: &mut Leader, staged: Staged) -> Result<CommitOutcome, Error> {
    in_time("a commit", leader.commit(staged, 1_700_000_000_000)).await
}

/// Commits what must be accepted; its sequence number.
pub(crate) async fn must_commit(leader: &mut Leader, staged: Staged) -> u64 {
    match commit(leader, staged).await.unwrap() {
        CommitOutcome::Committed { sequence } => sequence,
        other => panic!("{other:?}"),
    }
}

/// A lab whose table exists and has read `records` records, and its leader.
pub(crate) async fn begun(records: i64) -> (Lab, Leader) {
    let lab = Lab::in_memory();
    let mut leader = lead(&lab.opened()).await.unwrap();
    must_commit(&mut leader, creating()).await;
    if records > 0 {
        must_commit(&mut leader, reading(0, records)).await;
    }
    (lab, leader)
}

pub(crate) fn position(leader: &Leader) -> Option<i64> {
    leader.chain().position(TABLE, &format!("{TOPOLOGY}/cluster/topic-id/0"))
}

pub(crate) async fn wait_published(lab: &Lab, version: u64) {
    until("every cloud has published the version", async || {
        lab.versions(TABLE).await.iter().all(|latest| *latest == Some(version))
    })
    .await;
}

/// Control records of one cloud, by path.
pub(crate) async fn control_records(store: &dyn ObjectStore) -> BTreeMap<String, Json> {
    let folder = Path::from(format!("control/{TOPOLOGY}/log"));
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    let mut records = BTreeMap::new();
    for object in listed {
        let bytes = read_object(store, &object.location).await;
        records.insert(object.location.to_string(), serde_json::from_slice(&bytes).unwrap());
    }
    records
}

/// Everything outside `control/` is equal in all clouds, and every log is in order.
pub(crate) async fn assert_equal_and_right(lab: &Lab) {
    lab.assert_trees_equal().await;
    for cloud in &lab.clouds {
        let problems = Log::read(&*cloud.store(), TABLE).await.problems();
        assert!(problems.is_empty(), "{}: {problems:?}", cloud.name);
    }
}

pub(crate) fn publishes(request: &Request<'_>) -> bool {
    request.kind == Kind::Write && request.path.contains("/_delta_log/")
}

pub(crate) fn stores_a_record(request: &Request<'_>) -> bool {
    request.kind == Kind::Write && request.path.starts_with(&format!("control/{TOPOLOGY}/log/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_does_not_start_where_the_chain_ends_is_stale_and_leaves_no_trace() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    let before = control_records(&*lab.clouds[0].store()).await;
    for (start, end) in [(0, 10), (9, 20), (11, 20), (20, 20), (0, 0)] {
        let outcome = commit(&mut leader, reading(start, end)).await.unwrap();
        let CommitOutcome::Stale(Refusal::Stale { dataset, chain, start: said, .. }) = outcome else {
            panic!("[{start}, {end}): {outcome:?}")
        };
        assert_eq!((dataset.as_str(), chain, said), (TABLE, 10, start));
    }
    assert_eq!(control_records(&*lab.clouds[0].store()).await.len(), before.len());
    assert_eq!(position(&leader), Some(10));
    must_commit(&mut leader, reading(10, 12)).await;
    wait_published(&lab, 2).await;
    assert_equal_and_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_does_not_add_up_is_refused_as_a_bug_and_leaves_no_trace() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    let before = control_records(&*lab.clouds[0].store()).await;
    let change = |change: &dyn Fn(&mut TableProposal)| {
        let mut table = table(10, 15);
        change(&mut table);
        staged(vec![table])
    };
    let rejected = |table: &mut TableProposal| {
        table.rows.filtered -= 1;
        table.rows.rejected.insert("undecodable".into(), 1);
    };
    let wrong: Vec<(&str, Staged)> = vec![
        ("a record without a fate", change(&|table| table.rows.input += 1)),
        ("a fate without a record", change(&|table| table.rows.filtered += 1)),
        ("rows out without a file", change(&|table| (table.rows.filtered, table.rows.output) = (4, 1))),
        (
            "more records than offsets",
            change(&|table| {
                table.offsets[0].records += 1;
                (table.rows.input, table.rows.filtered) = (6, 6);
            }),
        ),
        ("records that are not counted", change(&|table| (table.rows.input, table.rows.filtered) = (4, 4))),
        ("a range that ends before it starts", change(&|table| table.offsets[0].end = 9)),
        ("rejected, but not in the quarantine", change(&rejected)),
        ("created again", change(&|table| table.create = creating().proposal.tables.remove(0).create)),
        ("a table that does not exist", change(&|table| table.dataset = "other".into())),
    ];
    for (what, staged) in wrong {
        match commit(&mut leader, staged).await {
            Err(Error::Bug(_)) | Ok(CommitOutcome::Stale(_)) => {}
            outcome => panic!("{what}: {outcome:?}"),
        }
    }
    assert_eq!(control_records(&*lab.clouds[0].store()).await.len(), before.len());
    must_commit(&mut leader, reading(10, 15)).await;
    wait_published(&lab, 2).await;
    assert_equal_and_right(&lab).await;
}

#[test]
fn a_proposal_that_names_a_table_twice_does_not_add_up() {
    let twice = [creating(), creating()].into_iter().flat_map(|staged| staged.proposal.tables).collect();
    let refused = Chain::default().accept(TOPOLOGY, &staged(twice).proposal);
    assert!(
        matches!(&refused, Err(Refusal::DoesNotAddUp { dataset, .. }) if dataset == TABLE),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_too_large_to_be_read_back_is_refused_before_it_is_proposed() {
    let lab = Lab::in_memory();
    let mut leader = lead(&lab.opened()).await.unwrap();
    let mut large = creating();
    let definition = large.proposal.tables[0].create.as_mut().unwrap();
    definition.description = Some("x".repeat(ENTRY_BYTES_MAX as usize));
    let refused = commit(&mut leader, large).await;
    let Err(error @ Error::Configuration(_)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("commit size"), "{error}");
    for cloud in &lab.clouds {
        let records = control_records(&*cloud.store()).await;
        assert!(records.values().all(|record| record["kind"] != "entry"), "{}", cloud.name);
    }
    must_commit(&mut leader, creating()).await;
    must_commit(&mut leader, reading(0, 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_and_not_published_survives_a_take_over_with_its_bytes_unchanged() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.script.set(|request| if publishes(request) { Verdict::Refuse } else { Verdict::Pass });
    for start in [10, 20, 30] {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    assert_eq!(lab.versions(TABLE).await, [Some(1); 3]);
    let mut decided: BTreeMap<u64, String> = BTreeMap::new();
    for record in
        control_records(&*lab.clouds[0].store()).await.values().filter(|record| record["kind"] == "entry")
    {
        for table in record["tables"].as_array().unwrap() {
            decided.insert(table["version"].as_u64().unwrap(), table["body"].as_str().unwrap().to_owned());
        }
    }
    drop(leader);

    // Twice, because the second header carries what the first one did.
    let mut leader = lead(&lab.opened()).await.unwrap();
    assert_eq!((position(&leader), leader.chain().sequence), (Some(40), 5));
    assert_eq!(lab.versions(TABLE).await, [Some(1); 3]);
    drop(leader);
    leader = lead(&lab.opened()).await.unwrap();
    assert_eq!(position(&leader), Some(40));
    lab.script.clear();
    wait_published(&lab, 4).await;
    for cloud in &lab.clouds {
        for version in Log::read(&*cloud.store(), TABLE).await.versions {
            let body = String::from_utf8(version.bytes.to_vec()).unwrap();
            assert_eq!(
                decided.get(&version.number),
                Some(&body),
                "{} version {}",
                cloud.name,
                version.number
            );
        }
    }
    must_commit(&mut leader, reading(40, 50)).await;
    wait_published(&lab, 5).await;
    assert_equal_and_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_two_clouds_decided_survives_the_loss_of_any_one() {
    for missing in 0..3 {
        for lost in (0..3).filter(|lost| *lost != missing) {
            let (lab, mut leader) = begun(10).await;
            wait_published(&lab, 1).await;
            // One cloud is away while it is decided, and nobody publishes it.
            lab.clouds[missing].switch.set(Fault::RefuseAll);
            lab.script.set(|request| if publishes(request) { Verdict::Refuse } else { Verdict::Pass });
            must_commit(&mut leader, reading(10, 20)).await;
            drop(leader);
            // Another one is away when the next leader starts.
            lab.clouds[missing].switch.set(Fault::Off);
            lab.clouds[lost].switch.set(Fault::RefuseAll);
            lab.script.clear();
            let mut leader = lead(&lab.opened()).await.unwrap();
            assert_eq!(position(&leader), Some(20), "decided without {missing}, lost with {lost}");
            must_commit(&mut leader, reading(20, 30)).await;
            lab.clouds[lost].switch.set(Fault::Off);
            wait_published(&lab, 3).await;
            assert_equal_and_right(&lab).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_cloud_stored_is_kept_or_forgotten_but_never_both() {
    for holder in 0..3 {
        for is_seen in [true, false] {
            let (lab, mut leader) = begun(10).await;
            wait_published(&lab, 1).await;
            let name = lab.clouds[holder].name.clone();
            let stored_there = name.clone();
            lab.script.set(move |request| {
                if stores_a_record(request) && request.cloud != stored_there {
                    Verdict::Refuse
                } else {
                    Verdict::Pass
                }
            });
            let attempt =
                tokio::spawn(async move { leader.commit(reading(10, 20), 1_700_000_000_000).await.is_ok() });
            let store = lab.clouds[holder].store();
            until("one cloud has stored the record", async || {
                control_records(&*store).await.values().filter(|record| record["kind"] == "entry").count()
                    == 3
            })
            .await;
            attempt.abort();
            let _ = attempt.await;
            lab.script.clear();
            if !is_seen {
                lab.clouds[holder].switch.set(Fault::RefuseAll);
            }
            let mut leader = lead(&lab.opened()).await.unwrap();
            // A leader that sees it keeps it; one that does not cannot.
            let due = if is_seen { 20 } else { 10 };
            assert_eq!(position(&leader), Some(due), "stored in {name}, seen: {is_seen}");
            must_commit(&mut leader, reading(due, 40)).await;
            let version = latest_decided(&leader);
            lab.clouds[holder].switch.set(Fault::Off);
            wait_published(&lab, version).await;
            drop(leader);
            // The cloud that held it is back: nobody takes it up again.
            let mut leader = lead(&lab.opened()).await.unwrap();
            assert_eq!(position(&leader), Some(40));
            must_commit(&mut leader, reading(40, 50)).await;
            wait_published(&lab, version + 1).await;
            assert_equal_and_right(&lab).await;
        }
    }
}

fn latest_decided(leader: &Leader) -> u64 {
    leader.chain().tables[TABLE].version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_was_away_during_a_take_over_receives_header_records_and_versions() {
    for away in 0..3 {
        let (lab, leader) = begun(10).await;
        wait_published(&lab, 1).await;
        drop(leader);
        lab.clouds[away].switch.set(Fault::RefuseAll);
        let mut leader = lead(&lab.opened()).await.unwrap();
        // More than the leader keeps the bytes of, for clouds that are behind.
        for start in (10..410).step_by(10) {
            must_commit(&mut leader, reading(start, start + 10)).await;
        }
        let watch = leader.watch();
        assert!(watch.progress().clouds[away].away);
        lab.clouds[away].switch.set(Fault::Off);
        wait_published(&lab, latest_decided(&leader)).await;
        until("nobody is away or behind", async || {
            watch.progress().clouds.iter().all(|cloud| !cloud.away && cloud.decisions_behind == 0)
        })
        .await;
        assert_equal_and_right(&lab).await;
        let epoch = format!("/{:020}/", leader.epoch().0);
        let mut records = Vec::new();
        for cloud in &lab.clouds {
            let mut of_cloud = control_records(&*cloud.store()).await;
            of_cloud.retain(|path, _| path.contains(&epoch));
            assert_eq!(of_cloud.len(), 41, "header and entries of the epoch in {}", cloud.name);
            records.push(of_cloud);
        }
        assert!(records.iter().all(|of_cloud| *of_cloud == records[0]));
    }
}

pub(crate) async fn wipe(store: &dyn ObjectStore) {
    let locations = store.list(None).map_ok(|object| object.location).boxed();
    let wiped: Vec<Path> = store.delete_stream(locations).try_collect().await.unwrap();
    assert!(!wiped.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_cloud_counts_in_no_majority() {
    for wiped in 0..3 {
        for away in (0..3).filter(|away| *away != wiped) {
            let (lab, leader) = begun(10).await;
            wait_published(&lab, 1).await;
            drop(leader);
            wipe(&*lab.clouds[wiped].store()).await;

            // With one of the others away, one cloud is left that knows anything: that is not a majority.
            lab.clouds[away].switch.set(Fault::RefuseAll);
            let refused = lead(&lab.opened()).await;
            assert!(matches!(refused, Err(Error::NoMajority { .. })), "{refused:?}");

            // With both others there, it goes on without the wiped one.
            lab.clouds[away].switch.set(Fault::Off);
            let mut leader = lead(&lab.opened()).await.unwrap();
            must_commit(&mut leader, reading(10, 20)).await;

            // And the wiped one still does not count when one of the others goes away.
            lab.clouds[away].switch.set(Fault::RefuseAll);
            let watch = leader.watch();
            let attempt =
                tokio::spawn(async move { leader.commit(reading(20, 30), 1_700_000_000_000).await });
            until("the wiped cloud is set aside, or counted", async || {
                attempt.is_finished() || watch.progress().clouds[wiped].set_aside.is_some()
            })
            .await;
            if attempt.is_finished() {
                let outcome = attempt.await.unwrap();
                let (other, wiped) = (&lab.clouds[3 - wiped - away].name, &lab.clouds[wiped].name);
                panic!("{outcome:?} stands on {other} and on {wiped}, which was wiped");
            }
            lab.clouds[away].switch.set(Fault::Off);
            let outcome = in_time("the commit", attempt).await.unwrap().unwrap();
            assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_with_the_identity_of_another_group_does_not_count_and_does_not_stop_the_others() {
    for foreign in 0..3 {
        let (lab, leader) = begun(10).await;
        wait_published(&lab, 1).await;
        drop(leader);
        // As if it had been restored from another group's backup.
        let store = lab.clouds[foreign].store();
        let path = Path::from(format!("control/{TOPOLOGY}/identity"));
        let mut identity: Json = serde_json::from_slice(&read_object(&*store, &path).await).unwrap();
        identity["group"] = "another-group".into();
        store.put(&path, identity.to_string().into()).await.unwrap();
        let mut leader = match lead(&lab.opened()).await {
            Ok(leader) => leader,
            Err(error) => panic!("{} is foreign, two others are not: {error}", lab.clouds[foreign].name),
        };
        must_commit(&mut leader, reading(10, 20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_names_other_clouds_is_refused_with_both_lists() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    let clouds = lab.opened();
    let renamed = |cloud: &Cloud, name: &str| {
        let mut cloud = cloud.clone();
        cloud.name = name.to_owned();
        cloud
    };
    let others: Vec<Vec<Cloud>> = vec![
        clouds[..2].to_vec(),
        clouds[..1].to_vec(),
        vec![clouds[1].clone(), clouds[0].clone(), clouds[2].clone()],
        vec![clouds[0].clone(), clouds[1].clone(), renamed(&clouds[2], "oracle")],
    ];
    for other in others {
        let names: Vec<String> = other.iter().map(|cloud| cloud.name.clone()).collect();
        let refused = lead(&other).await;
        let Err(error @ Error::Configuration(_)) = refused else { panic!("{names:?}: {refused:?}") };
        let text = error.to_string();
        assert!(text.contains("aws, azure, gcp") && text.contains(&names.join(", ")), "{text}");
        assert_eq!(error.exit_code(), 2);
    }
    // Nothing of that did any harm.
    let mut leader = lead(&clouds).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
    wait_published(&lab, 2).await;
    assert_equal_and_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_differs_from_the_decided_one_sets_its_cloud_aside_and_the_others_go_on() {
    for (number, what) in [(1, "the last version"), (2, "a version to come")] {
        let (lab, leader) = begun(10).await;
        wait_published(&lab, 1).await;
        drop(leader);
        let store = lab.clouds[1].store();
        let path = Path::from(format!("datasets/{TABLE}/_delta_log/{number:020}.json"));
        store.put(&path, "{\"commitInfo\":{}}\n".into()).await.unwrap();
        let mut leader = lead(&lab.opened()).await.unwrap();
        for start in [10, 20, 30] {
            must_commit(&mut leader, reading(start, start + 10)).await;
        }
        let watch = leader.watch();
        until(&format!("the cloud with {what} changed is set aside"), async || {
            watch.progress().clouds[1].set_aside.as_ref().is_some_and(|why| why.contains(TABLE))
        })
        .await;
        until("the others have everything", async || {
            let versions = lab.versions(TABLE).await;
            [versions[0], versions[2]] == [Some(4); 2]
        })
        .await;
        assert!(!lab.proof().await.holds(), "prove must see {what} changed");
        let text = read_object(&*store, &path).await;
        assert_eq!(text, "{\"commitInfo\":{}}\n", "a foreign object is left as it is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_leaders_that_start_at_once_only_the_last_one_decides() {
    let seed = Seed::of("rivals");
    let mut prng = seed.prng();
    let (lab, leader) = begun(10).await;
    drop(leader);
    let mut next = 10;
    for _ in 0..12 {
        let clouds = lab.opened();
        let rivals = futures::future::join_all((0..3).map(|_| lead(&clouds))).await;
        let mut leaders: Vec<Leader> = rivals.into_iter().filter_map(Result::ok).collect();
        leaders.sort_by_key(Leader::epoch);
        let epochs: Vec<_> = leaders.iter().map(Leader::epoch).collect();
        assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "two leaders of one epoch: {epochs:?}");
        let width = 1 + prng.below(9) as i64;
        let mut decided = 0;
        // The eldest first: each must find out that it is no longer the leader.
        for leader in &mut leaders {
            match commit(leader, reading(next, next + width)).await {
                Ok(CommitOutcome::Committed { .. }) => decided += 1,
                Ok(CommitOutcome::Stale(_)) | Err(Error::Superseded { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(decided <= 1, "the offsets from {next} were decided {decided} times");
        drop(leaders);
        let leader = lead(&clouds).await.unwrap();
        assert_eq!(position(&leader), Some(next + decided * width));
        next += decided * width;
        let version = latest_decided(&leader);
        wait_published(&lab, version).await;
        drop(leader);
    }
    assert!(next > 10, "nobody ever decided anything");
    assert_equal_and_right(&lab).await;
    for cloud in &lab.clouds {
        assert_eq!(Log::read(&*cloud.store(), TABLE).await.positions()[&0], next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_leader_can_decide_nothing_after_a_new_one_has_started() {
    for away in [None, Some(0), Some(1), Some(2)] {
        let (lab, mut old) = begun(10).await;
        wait_published(&lab, 1).await;
        if let Some(away) = away {
            lab.clouds[away].switch.set(Fault::RefuseAll);
        }
        let mut new = lead(&lab.opened()).await.unwrap();
        must_commit(&mut new, reading(10, 30)).await;
        // A cloud that the new leader could not seal is open to the old one, but it is not a majority.
        if let Some(away) = away {
            lab.clouds[away].switch.set(Fault::Off);
        }
        let outcome = commit(&mut old, reading(10, 20)).await;
        assert!(matches!(outcome, Err(Error::Superseded { .. })), "{outcome:?}");
        must_commit(&mut new, reading(30, 40)).await;
        wait_published(&lab, 3).await;
        assert_equal_and_right(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_before_it_is_decided() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    // Only one cloud takes the record.
    lab.script.set(|request| {
        if stores_a_record(request) && request.cloud != "aws" { Verdict::Refuse } else { Verdict::Pass }
    });
    let attempt = tokio::spawn(async move {
        let outcome = leader.commit(reading(10, 20), 1_700_000_000_000).await;
        (leader, outcome)
    });
    let store = lab.clouds[0].store();
    until("one cloud has the record", async || {
        control_records(&*store).await.values().filter(|record| record["kind"] == "entry").count() == 3
    })
    .await;
    assert_eq!(lab.versions(TABLE).await, [Some(1); 3], "published with one cloud of three");
    assert!(!attempt.is_finished());
    lab.script.clear();
    let (_leader, outcome) = in_time("the commit", attempt).await.unwrap();
    assert!(matches!(outcome, Ok(CommitOutcome::Committed { .. })), "{outcome:?}");
    wait_published(&lab, 2).await;
    assert_equal_and_right(&lab).await;
}

/// A leader takes over from itself now and then; its uploads live on.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_returns_while_the_epoch_is_renewed_receives_files_again() {
    let lab = Lab::in_memory();
    let clouds = lab.opened();
    let uploads = uploads_to(&clouds);
    let group = Group::new(TOPOLOGY, clouds);
    let mut leader = Leader::start(&group, uploads.clone()).await.unwrap();
    must_commit(&mut leader, creating()).await;
    wait_published(&lab, 0).await;
    lab.clouds[2].switch.set(Fault::RefuseAll);
    must_commit(&mut leader, reading(0, 10)).await;
    let watch = leader.watch();
    until("the cloud is known to be away", async || watch.progress().clouds[2].away).await;
    drop(leader);
    lab.clouds[2].switch.set(Fault::Off);
    let mut leader = Leader::start(&group, uploads.clone()).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
    wait_published(&lab, 2).await;
    let mut file = uploads.start_file(Path::from("datasets/events/part-1.parquet"));
    file.send("x".into());
    let handles = file.finish();
    for (handle, cloud) in handles.iter().zip(&lab.clouds) {
        let status = in_time("an upload", handle.settled()).await;
        assert_eq!(status, UploadStatus::Done, "{}", cloud.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_that_ignore_preconditions_are_refused() {
    // Turns every conditional create into an overwrite, as some gateways do.
    let lab = Lab::in_memory();
    let mut clouds = lab.opened();
    clouds[1].control = Arc::new(careless::Careless(clouds[1].control.clone()));
    let refused = lead(&clouds).await;
    let Err(error @ Error::Configuration(_)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("azure") && error.to_string().contains("precondition"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(trees::of_store(&*lab.clouds[0].store()).await.is_empty());
    assert_eq!(latest_version(&*lab.clouds[0].store(), TABLE).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_wait_for_publication_stay_few_over_any_number_of_take_overs() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    let refused = Arc::new(AtomicU64::new(0));
    let counted = refused.clone();
    lab.script.set(move |request| {
        if publishes(request) && request.cloud != "gcp" {
            counted.fetch_add(1, Ordering::Relaxed);
            return Verdict::Refuse;
        }
        Verdict::Pass
    });
    let mut next = 10;
    for _ in 0..3 {
        let mut leader = lead(&lab.opened()).await.unwrap();
        let decided = Arc::new(AtomicU64::new(0));
        let counted = decided.clone();
        let attempt = tokio::spawn(async move {
            for start in next.. {
                let outcome = leader.commit(reading(start, start + 1), 1_700_000_000_000).await;
                assert!(matches!(outcome, Ok(CommitOutcome::Committed { .. })), "{outcome:?}");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Until publishing was tried a few times in vain since the last decision.
        let mut last = (u64::MAX, 0);
        until("no more is decided", async || {
            let (decided, refused) = (decided.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
            if decided != last.0 {
                last = (decided, refused);
            }
            refused >= last.1 + 6
        })
        .await;
        attempt.abort();
        let _ = attempt.await;
        let leader = lead(&lab.opened()).await.unwrap();
        next = position(&leader).unwrap();
        drop(leader);
    }
    let waiting = next - 10;
    assert!(
        waiting <= UNPUBLISHED_MAX as i64,
        "{waiting} decisions wait for publication, {UNPUBLISHED_MAX} may"
    );
}

/// A store that ignores preconditions.
mod careless {
    use std::fmt;
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };

    #[derive(Debug)]
    pub(crate) struct Careless(pub(crate) Arc<dyn ObjectStore>);

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(
            &self,
            location: &Path,
            payload: PutPayload,
            opts: PutOptions,
        ) -> Result<PutResult> {
            self.0.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await
        }

        async fn put_multipart_opts(
            &self,
            location: &Path,
            opts: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(location, opts).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }
}
