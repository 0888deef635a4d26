//! Take-overs while some clouds do not answer some questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use isobar_tests::delta::read_object;
use isobar_tests::lab::{CLOUDS, Lab, uploads_to};
use isobar_tests::script::{Gate, Kind, Request, Script, Verdict};
use isobar_tests::wait::{in_time, until, until_some};
use isobar_topologies::commit::{Environment, Group, Leader, System, Task};
use isobar_topologies::{Error, chain_of};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value as Json;

use crate::leader::{
    TABLE, TOPOLOGY, assert_equal_and_right, begun, control_records, lead, must_commit, position, publishes,
    reading, stores_a_record, wait_published,
};

/// Tokio's surroundings, with pauses a twentieth as long.
#[derive(Debug)]
struct Hurried;

impl Environment for Hurried {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        System.sleep(pause / 20)
    }

    fn random(&self) -> u64 {
        System.random()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Task {
        System.spawn(task)
    }
}

/// As [`lead`], without long pauses.
async fn lead_hurriedly(lab: &Lab) -> Result<Leader, Error> {
    let clouds = lab.opened();
    let uploads = uploads_to(&clouds);
    let group = Group::in_environment(TOPOLOGY, clouds, Arc::new(Hurried));
    in_time("a take-over", Leader::start(&group, uploads)).await
}

fn lists_versions(request: &Request<'_>) -> bool {
    request.kind == Kind::List && request.path.ends_with("/_delta_log")
}

/// The tail of the leader's header.
async fn tail(lab: &Lab, leader: &Leader) -> Vec<Json> {
    let path = format!("control/{TOPOLOGY}/log/{:020}/{:020}", leader.epoch().0, 0);
    let header = until_some("the first cloud has the header", async || {
        control_records(&*lab.clouds[0].store()).await.remove(&path)
    });
    header.await["tail"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_fails_once_is_repeated_and_does_not_become_a_long_tail() {
    let (lab, mut leader) = begun(10).await;
    for start in [10, 20, 30] {
        must_commit(&mut leader, reading(start, start + 10)).await;
    }
    wait_published(&lab, 4).await;
    drop(leader);
    let refused = CLOUDS.map(|_| AtomicU64::new(0));
    lab.script.set(move |request| {
        let cloud = CLOUDS.iter().position(|name| *name == request.cloud).unwrap();
        if lists_versions(request) && refused[cloud].fetch_add(1, Ordering::Relaxed) == 0 {
            return Verdict::Refuse;
        }
        Verdict::Pass
    });
    let leader = lead(&lab.opened()).await.unwrap();
    assert_eq!((tail(&lab, &leader).await, position(&leader)), (vec![], Some(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_cannot_learn_what_is_published_is_refused_with_the_reasons() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    drop(leader);
    lab.script.set(|request| match lists_versions(request) && request.cloud != "gcp" {
        true => Verdict::Refuse,
        false => Verdict::Pass,
    });
    let error = lead_hurriedly(&lab).await.unwrap_err();
    let text = chain_of(&error);
    assert!(matches!(error, Error::NoMajority { .. }), "{error:?}");
    assert!(text.contains("aws") && text.contains("azure") && !text.contains("gcp"), "{text}");
    lab.script.clear();
    let mut leader = lead(&lab.opened()).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_under_the_name_of_a_version_does_not_count_as_published() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.script.set(|request| if publishes(request) { Verdict::Refuse } else { Verdict::Pass });
    must_commit(&mut leader, reading(10, 20)).await;
    let decided = until_some("the first cloud holds the decision", async || {
        let records = control_records(&*lab.clouds[0].store()).await;
        let tables = records.values().flat_map(|record| record["tables"].as_array().into_iter().flatten());
        let bodies = tables.filter(|table| table["version"] == 2).map(|table| table["body"].clone());
        Some(bodies.collect::<Vec<Json>>()).filter(|bodies| !bodies.is_empty())
    })
    .await;
    drop(leader);
    let path = Path::from(format!("datasets/{TABLE}/_delta_log/{:020}.json", 2));
    for cloud in &lab.clouds[..2] {
        cloud.store().put(&path, "{\"commitInfo\":{}}\n".into()).await.unwrap();
    }
    lab.script.clear();
    let leader = lead(&lab.opened()).await.unwrap();
    assert_eq!((tail(&lab, &leader).await.len(), position(&leader)), (1, Some(20)));
    until("the third cloud has published the decided bytes", async || {
        lab.versions(TABLE).await[2] == Some(2)
    })
    .await;
    let published = read_object(&*lab.clouds[2].store(), &path).await;
    assert_eq!(decided, [Json::from(std::str::from_utf8(&published).unwrap())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_needs_every_cloud_to_say_that_it_has_no_history() {
    for silent in CLOUDS {
        let lab = Lab::in_memory();
        lab.script.set(move |request| {
            let looks = request.kind == Kind::List && request.path.ends_with("/log");
            if looks && request.cloud == silent { Verdict::Refuse } else { Verdict::Pass }
        });
        let error = lead(&lab.opened()).await.unwrap_err();
        let text = chain_of(&error);
        assert!(matches!(error, Error::NoMajority { .. }) && text.contains(silent), "{text}");
        for cloud in &lab.clouds {
            let objects: Vec<_> = cloud.store().list(None).try_collect().await.unwrap();
            assert!(objects.is_empty(), "{}: {objects:?}", cloud.name);
        }
        lab.script.clear();
        lead(&lab.opened()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_hangs_at_any_step_does_not_hold_up_a_take_over() {
    type Step = (&'static str, fn(&Request<'_>) -> bool);
    let steps: [Step; 7] = [
        ("everything", |_| true),
        ("the clean-up of the probe", |request| request.kind == Kind::Write && request.path.is_empty()),
        ("the identity", |request| request.path.ends_with("/identity")),
        ("the claims", |request| request.kind == Kind::List && request.path.ends_with("/epoch")),
        ("our claim", |request| request.kind == Kind::Write && request.path.contains("/epoch/")),
        ("the seal", stores_a_record),
        ("what is published", lists_versions),
    ];
    for (number, (what, hangs)) in steps.into_iter().enumerate() {
        let (lab, leader) = begun(10).await;
        wait_published(&lab, 1).await;
        drop(leader);
        let gate = Arc::new(Gate::default());
        let (shut, hanging) = (gate.clone(), CLOUDS[number % 3]);
        lab.script.set(move |request| match request.cloud == hanging && hangs(request) {
            true => Verdict::Wait(shut.clone()),
            false => Verdict::Pass,
        });
        let mut leader = match lead_hurriedly(&lab).await {
            Ok(leader) => leader,
            Err(error) => panic!("{hanging} hangs with {what}: {}", chain_of(&error)),
        };
        must_commit(&mut leader, reading(10, 20)).await;
        lab.script.clear();
        gate.open();
        wait_published(&lab, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clouds_go_away_before_its_header_is_decided_gives_up_and_names_them() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    let next_log = format!("/log/{:020}/", leader.epoch().0 + 1);
    drop(leader);
    lab.script.set(move |request| {
        let is_header = request.kind == Kind::Write && request.path.contains(&next_log);
        if is_header && request.cloud != "gcp" { Verdict::Refuse } else { Verdict::Pass }
    });
    let error = lead_hurriedly(&lab).await.unwrap_err();
    let text = chain_of(&error);
    assert!(matches!(error, Error::NoMajority { .. }), "{error:?}");
    assert!(text.contains("aws: away") && text.contains("azure: away") && !text.contains("gcp"), "{text}");
    assert!(text.contains("refused"), "each with the reason: {text}");
    lab.script.clear();
    let mut leader = lead(&lab.opened()).await.unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_asks_no_cloud_that_is_away_reads_nothing_that_it_stored_itself_and_lists_nothing() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    let azure_away = |request: &Request<'_>| match request.cloud {
        "azure" => Verdict::Refuse,
        _ => Verdict::Pass,
    };
    lab.script.set(azure_away);
    must_commit(&mut leader, reading(10, 20)).await;
    let (watch, epoch) = (leader.watch(), leader.epoch().0);
    until("azure is known to be away", async || watch.progress().clouds[1].away).await;
    let (asked, read) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (asks, reads) = (asked.clone(), read.clone());
    let own: Vec<String> = (0..leader.records())
        .map(|index| format!("control/{TOPOLOGY}/log/{epoch:020}/{index:020}"))
        .collect();
    // From its header on, the lanes of the new epoch go their own ways.
    let header = format!("control/{TOPOLOGY}/log/{:020}/{:020}", epoch + 1, 0);
    let (listed, has_begun) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
    let lists = listed.clone();
    lab.script.set(move |request| {
        has_begun.fetch_or(request.path == header && request.kind == Kind::Write, Ordering::Relaxed);
        let is_list = request.kind == Kind::List && !has_begun.load(Ordering::Relaxed);
        lists.fetch_add(u64::from(is_list), Ordering::Relaxed);
        let is_take_over = request.path.contains("/probe/") || request.path.contains("/epoch");
        asks.fetch_add(u64::from(is_take_over && request.cloud == "azure"), Ordering::Relaxed);
        let is_own = own.iter().any(|path| path == request.path);
        reads.fetch_add(u64::from(is_own && request.kind == Kind::Read), Ordering::Relaxed);
        azure_away(request)
    });
    let group = Group::new(TOPOLOGY, lab.opened());
    let mut leader = in_time("a renewal", leader.renew(&group)).await.unwrap();
    assert_eq!(leader.epoch().0, epoch + 1);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "probes and claims in the cloud that is away");
    assert_eq!(read.load(Ordering::Relaxed), 0, "records of the epoch before");
    assert_eq!(listed.load(Ordering::Relaxed), 0, "listings before the header");
    must_commit(&mut leader, reading(20, 30)).await;
    lab.script.clear();
    wait_published(&lab, 3).await;
    assert_equal_and_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_without_a_majority_at_hand_asks_the_clouds_that_were_away() {
    let (lab, mut leader) = begun(10).await;
    wait_published(&lab, 1).await;
    lab.script.set(|request| if request.cloud == "azure" { Verdict::Refuse } else { Verdict::Pass });
    must_commit(&mut leader, reading(10, 20)).await;
    let watch = leader.watch();
    until("azure is known to be away", async || watch.progress().clouds[1].away).await;
    lab.script.set(|request| if request.cloud == "gcp" { Verdict::Refuse } else { Verdict::Pass });
    let group = Group::new(TOPOLOGY, lab.opened());
    let mut leader = in_time("a renewal", leader.renew(&group)).await.unwrap();
    must_commit(&mut leader, reading(20, 30)).await;
    lab.script.clear();
    wait_published(&lab, 3).await;
    assert_equal_and_right(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_superseded_does_not_renew_its_epoch() {
    let (lab, old) = begun(10).await;
    wait_published(&lab, 1).await;
    let mut new = lead(&lab.opened()).await.unwrap();
    must_commit(&mut new, reading(10, 20)).await;
    // Each of its lanes looks for a SEAL now and then.
    let watch = old.watch();
    until("it is superseded", async || watch.is_superseded()).await;
    let refused = old.renew(&Group::new(TOPOLOGY, lab.opened())).await;
    assert!(matches!(refused, Err(Error::Superseded { .. })), "{refused:?}");
    must_commit(&mut new, reading(20, 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_waits_for_a_majority_as_a_commit_does() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    let refused = Arc::new(AtomicU64::new(0));
    let counted = refused.clone();
    lab.script.set(move |request| {
        if request.cloud == "azure" {
            return Verdict::Pass;
        }
        counted.fetch_add(u64::from(request.path.contains("/probe/")), Ordering::Relaxed);
        Verdict::Refuse
    });
    let group = Group::new(TOPOLOGY, lab.opened());
    let renewal = tokio::spawn(async move { leader.renew(&group).await });
    // Each attempt probes both once at least.
    until("it was refused several times", async || refused.load(Ordering::Relaxed) >= 6).await;
    assert!(!renewal.is_finished());
    lab.script.clear();
    let mut leader = in_time("a renewal", renewal).await.unwrap().unwrap();
    must_commit(&mut leader, reading(10, 20)).await;
    wait_published(&lab, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_waits_ends_when_another_process_has_taken_over() {
    let (lab, leader) = begun(10).await;
    wait_published(&lab, 1).await;
    // The renewal sees the others only with its own eyes.
    let blind = Script::default();
    blind.set(|request| match request.kind {
        Kind::Write => Verdict::Refuse,
        _ => Verdict::Pass,
    });
    let clouds = lab.opened().into_iter().map(|cloud| blind.around(cloud)).collect();
    let group = Group::new(TOPOLOGY, clouds);
    let renewal = tokio::spawn(async move { leader.renew(&group).await });
    let mut new = lead(&lab.opened()).await.unwrap();
    must_commit(&mut new, reading(10, 20)).await;
    let outcome = in_time("the end of the renewal", renewal).await.unwrap();
    assert!(matches!(outcome, Err(Error::Superseded { .. })), "{outcome:?}");
    must_commit(&mut new, reading(20, 30)).await;
}
