//! `isobar drill`, as a user runs it.

use std::path::Path;

use isobar_tests::events::{self, Generator, TOPIC};
use isobar_tests::lab::Lab;
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, Output, isobar, run_isobar};
use serde_json::Value as Json;

/// Runs `isobar drill` with its reports in `folder`; the output and the report.
async fn drill(folder: &Path, arguments: &[&str]) -> (Output, Json) {
    let prefix = folder.join("report");
    let prefix = prefix.to_str().expect("paths of tests are UTF-8");
    let output = run_isobar(&[&["drill", "--report", prefix], arguments].concat()).await;
    let written = std::fs::read_to_string(format!("{prefix}.json")).unwrap_or_else(|_| panic!("{output}"));
    let report: Json = serde_json::from_str(&written).expect("the report is JSON");
    let markdown = std::fs::read_to_string(format!("{prefix}.md")).expect("the Markdown is written");
    assert!(markdown.starts_with("# Drill: "), "{markdown}");
    assert!(output.stdout.contains(&markdown), "{output}");
    (output, report)
}

fn assert_measured(report: &Json, figure: &str, runs: u64) {
    assert_eq!(report[figure]["measured"].as_u64(), Some(runs), "{figure}: {report:#}");
    let median = report[figure]["median_seconds"].as_f64().expect("a median");
    let maximum = report[figure]["maximum_seconds"].as_f64().expect("a maximum");
    assert!(0.0 <= median && median <= maximum, "{figure}: {report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_taken_away_is_measured_and_proved() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--demo", "cloud-away", "azure", "--hold", "10s", "--runs", "2"];
    let (output, report) = drill(folder.path(), &arguments).await;
    output.assert(0, &["No provider is touched", "every request of this process to azure is refused"]);
    assert_eq!(report["passed"], true, "{report:#}");
    for figure in ["detection", "pause", "recovery"] {
        assert_measured(&report, figure, 2);
    }
    assert_eq!(report["prove"]["holds"], true);
    assert!(report["prove"]["rows"].as_u64() > Some(0), "{report:#}");
    for run in report["runs"].as_array().unwrap() {
        assert!(run["commits_during_fault"].as_u64() > Some(0), "two clouds decide without azure: {run:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_latency_are_survived_without_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let faults: [&[&str]; 2] = [&["lost-answers", "aws"], &["cloud-slow", "gcp", "--latency", "300ms"]];
    for fault in faults {
        let (output, report) = drill(folder.path(), &[&["--demo", "--hold", "2s"], fault].concat()).await;
        output.assert(0, &[]);
        assert_eq!(report["failure"], fault[0]);
        assert_measured(&report, "pause", 1);
        assert_measured(&report, "recovery", 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_started_again_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = drill(folder.path(), &["leader-kill", "--demo", "--runs", "2"]).await;
    output.assert(0, &["SIGKILL"]);
    for figure in ["detection", "pause", "recovery"] {
        assert_measured(&report, figure, 2);
    }
    assert_eq!(report["prove"]["holds"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_by_one_that_stands_by() {
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = drill(folder.path(), &["leader-kill", "--standby", "--demo", "--runs", "2"]).await;
    output.assert(0, &["a process that stands by takes over"]);
    for figure in ["detection", "pause", "recovery"] {
        assert_measured(&report, figure, 2);
    }
    assert_eq!(report["prove"]["holds"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_exceeded_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--demo", "cloud-away", "gcp", "--hold", "1s", "--pause-max", "1ms"];
    let (output, report) = drill(folder.path(), &arguments).await;
    output.assert(1, &["more than 0.001 s"]);
    assert_eq!((&report["passed"], &report["prove"]["holds"]), (&Json::Bool(false), &Json::Bool(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said_and_exceeds_a_limit() {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of("drill_quiet").prng()).records(200));
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    let arguments = ["--config", spec, "cloud-away", "azure", "--hold", "1s", "--pause-max", "1h"];
    let (output, report) = drill(lab.directory.path(), &arguments).await;
    output.assert(1, &["nothing was produced during the fault, so the pause cannot be measured"]);
    assert_eq!(report["pause"]["measured"], 0);
    assert_eq!(report["prove"]["holds"], true);
    lab.assert_features_complete().await;
    lab.assert_trees_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_another_process_leads_is_left_alone_unless_the_drill_takes_over() {
    let lab = Lab::in_directories();
    let mut records = Generator::mixed(Seed::of("drill_rival").prng());
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = spec.to_str().unwrap();
    let leader = Background::start(&mut isobar(&["run", spec]), &lab.directory.path().join("leader.log"));
    leader.says("consuming").await;
    let prefix = lab.directory.path().join("refused");
    let prefix = prefix.to_str().unwrap();
    // The drill looks for three of its intervals whether somebody commits, which takes the leader a small part of that.
    let mut slow = lab.spec(events::SOURCE, events::FEATURES_YAML);
    slow.commit = "{ interval: 5s, size: 256MiB }".into();
    let slow = slow.written_as("slow.yaml");
    let failure = ["cloud-away", "azure", "--hold", "1s"];
    let arguments = ["drill", "--config", slow.to_str().unwrap(), "--report", prefix];
    let mut command = isobar(&[&arguments[..], &failure].concat());
    let mut refused = Background::start(&mut command, &lab.directory.path().join("refused.log"));
    while !refused.has_ended() {
        lab.commit_in(lab.clouds.len(), &mut records, 20).await;
    }
    refused.ended().await.assert(2, &["another process leads", "--take-over"]);

    let arguments = [&["--config", spec], &failure[..], &["--take-over"]].concat();
    let (output, _) = drill(lab.directory.path(), &arguments).await;
    output.assert(0, &["superseded"]);
    lab.produce(TOPIC, records.records(20));
    leader.ended().await.assert(1, &["another process took over"]);
    run_isobar(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_makes_no_sense_is_a_wrong_configuration() {
    run_isobar(&["drill", "cloud-away", "azure"]).await.assert(2, &["--config", "--demo"]);
    run_isobar(&["drill", "--demo", "cloud-away", "moon"])
        .await
        .assert(2, &["choose one of aws, azure, gcp"]);
    run_isobar(&["drill", "--demo"]).await.assert(2, &["cloud-away"]);
    let arguments = ["drill", "--demo", "cloud-away", "aws", "--report", "/does/not/exist/report"];
    run_isobar(&arguments).await.assert(2, &["/does/not/exist"]);
}
