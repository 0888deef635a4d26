//! The `isobar` binary as a user meets it: what it says, and how it ends.

use std::path::Path;

use isobar_tests::events::{self, FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, Output, http_get, isobar, run, run_isobar};
use isobar_tests::wait::{until, until_some};
use serde_json::Value as Json;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A lab with records, and its spec in a file.
fn prepared(test: &'static str, records: usize) -> (Lab, String) {
    let lab = Lab::in_directories();
    let seed = Seed::of(test);
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(records));
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = text(&spec).to_owned();
    (lab, spec)
}

fn json(output: &Output) -> Json {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_until_caught_up_commits_everything_and_can_be_proved_and_queried() {
    let (lab, spec) = prepared("cli_run", 1000);
    run_isobar(&["run", &spec, "--until-caught-up"]).await.assert(0, &[]);
    lab.assert_features_complete().await;
    lab.assert_trees_equal().await;
    run_isobar(&["prove", "--config", &spec]).await.assert(0, &[FEATURES]);
    let output = run_isobar(&["prove", FEATURES, "--config", &spec, "--format", "json"]).await;
    output.assert(0, &[]);
    let report = json(&output);
    assert!(report["holds"] == true || report["passed"] == true, "{report:#}");
    run_isobar(&["prove", "featurse", "--config", &spec]).await.assert(2, &["did you mean features"]);

    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let sql = "SELECT count(*) AS flights FROM features";
    let output = run_isobar(&["query", sql, "--config", &spec, "--format", "json"]).await;
    output.assert(0, &[&format!("{}", dataset.rows().count())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prove_fails_when_a_byte_is_changed() {
    let (lab, spec) = prepared("cli_prove", 200);
    run_isobar(&["run", &spec, "--until-caught-up"]).await.assert(0, &[]);
    let (dataset, _) = lab.tables(&lab.clouds[1], FEATURES).await;
    let file = lab.clouds[1]
        .folder
        .as_ref()
        .unwrap()
        .join(dataset.log.object_path(&dataset.files[0].path).to_string());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    run_isobar(&["prove", "--config", &spec]).await.assert(1, &["azure"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_spec_is_reported_with_every_problem_its_line_and_column() {
    let lab = Lab::in_directories();
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    spec.commit = "{ intervall: 10s, size: 256MiB }".into();
    spec.datasets =
        spec.datasets.replace("from: events\n", "from: evnts\n").replace("action: drop", "action: dorp");
    let path = spec.written();
    let content = spec.text();
    let place = |part: &str| {
        let (line, found) = content.lines().enumerate().find(|(_, line)| line.contains(part)).unwrap();
        format!("{}:{}", line + 1, found.find(part).unwrap() + 1)
    };
    let places = [place("intervall"), place("evnts"), place("dorp")];
    for command in ["check", "run", "plan"] {
        let output = run_isobar(&[command, text(&path)]).await;
        output.assert(2, &["interval", "did you mean", "topology.yaml"]);
        for place in &places {
            assert!(output.text().contains(place.as_str()), "{command}: {place}\n{output}");
        }
    }
    let output = run_isobar(&["check", text(&path), "--format", "json"]).await;
    output.assert(2, &[]);
    let problems = json(&output)["problems"].as_array().unwrap().len();
    assert!(problems >= 3, "{output}");
    run_isobar(&["check", "/does/not/exist.yaml"]).await.assert(2, &["/does/not/exist.yaml"]);
    let garbage = write_file(&lab.directory.path().join("garbage.yaml"), "a: [1, }\n\t{");
    run_isobar(&["run", text(&garbage)]).await.assert(2, &["garbage.yaml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_plan_schema_completions_and_help_work_without_anything_else() {
    let (lab, spec) = prepared("cli_smoke", 0);
    run_isobar(&["check", &spec]).await.assert(0, &["no problems"]);
    run_isobar(&["check", &spec, "--format", "json"]).await.assert(0, &["problems"]);
    run_isobar(&["plan", &spec]).await.assert(0, &["features", "aws", "azure", "gcp", "kafka_offset"]);
    let output = run_isobar(&["plan", &spec, "--format", "json"]).await;
    output.assert(0, &[]);
    assert!(json(&output).is_object());
    let output = run_isobar(&["schema"]).await;
    output.assert(0, &["topology", "datasets"]);
    assert!(json(&output)["properties"]["clouds"].is_object());
    let output = run_isobar(&["schema", "contract"]).await;
    output.assert(0, &["columns", "owners"]);
    assert!(json(&output)["properties"]["columns"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        run_isobar(&["completions", shell]).await.assert(0, &["isobar"]);
    }
    for command in [
        "run",
        "check",
        "plan",
        "doctor",
        "prove",
        "demo",
        "drill",
        "query",
        "snapshots",
        "diff",
        "schema",
        "completions",
    ] {
        run_isobar(&[command, "--help"]).await.assert(0, &["Examples:", &format!("isobar {command}")]);
    }
    run_isobar(&["--help"]).await.assert(0, &["Exit codes"]);
    run_isobar(&["--version"]).await.assert(0, &["isobar"]);
    run_isobar(&["fly"]).await.assert(2, &["fly"]);
    run_isobar(&["run"]).await.assert(2, &["TOPOLOGY"]);
    run_isobar(&["demo", "--topology", &spec]).await.assert(2, &["--records <TOPIC=FILE>"]);
    run_isobar(&["demo", "--topology", &spec, "--records", "orders"])
        .await
        .assert(2, &["orders=orders.jsonl"]);
    for cloud in &lab.clouds {
        assert!(!cloud.folder.as_ref().unwrap().exists(), "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_named_with_a_way_out() {
    let lab = Lab::in_directories();
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    // Nobody listens on port 1.
    spec.brokers = "127.0.0.1:1".into();
    let output = run_isobar(&["run", text(&spec.written())]).await;
    output.assert(1, &["127.0.0.1:1", "check the addresses"]);
    assert!(!lab.clouds[0].folder.as_ref().unwrap().exists(), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_with_those_of_similar_names() {
    let lab = Lab::new(&["evnts", "weather"], 3, true);
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let output = run_isobar(&["run", text(&spec)]).await;
    output.assert(2, &["events", "did you mean evnts?"]);
    assert!(!output.text().contains("weather"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_cannot_be_written_is_named() {
    let (lab, _) = prepared("cli_permission", 10);
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    let file = write_file(&lab.directory.path().join("a-file"), "not a directory");
    spec.clouds[1].1 = format!("file://{}/azure", file.display());
    let path = spec.written();
    let output = run_isobar(&["run", text(&path), "--until-caught-up"]).await;
    output.assert(2, &["azure", "a-file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_there_is_named_and_one_that_is_there_is_never_shown() {
    let (lab, _) = prepared("cli_secrets", 10);
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    let options = "{ access_key_id: \"${env:ISOBAR_TEST_KEY}\", secret_access_key: \"${env:ISOBAR_TEST_SECRET}\", \
                   endpoint: \"http://127.0.0.1:1\", allow_http: true }";
    let content = spec.text().replace(
        &format!("  azure: {{ url: \"{}\" }}\n", spec.clouds[1].1),
        &format!("  azure: {{ url: \"s3://bucket/prefix\", options: {options} }}\n"),
    );
    assert!(content.contains("s3://"));
    let path = write_file(&lab.directory.path().join("secrets.yaml"), &content);
    let path = text(&path);
    let command = |arguments: &[&str]| {
        let mut command = isobar(arguments);
        command
            .env_remove("ISOBAR_TEST_KEY")
            .env("ISOBAR_TEST_SECRET", "hunter2hunter2")
            .env("ISOBAR_LOG", "trace");
        command
    };
    let all = [
        (run(&mut command(&["run", path, "--until-caught-up"])).await, 2),
        (run(&mut command(&["prove", "--config", path])).await, 2),
        (run(&mut command(&["check", path, "--resolve-secrets"])).await, 2),
    ];
    for (output, code) in &all {
        output.assert(*code, &["ISOBAR_TEST_KEY"]);
        assert!(!output.text().contains("hunter2"), "{output}");
    }
    // Where nothing is contacted, nothing is looked up.
    for arguments in [["check", path], ["plan", path]] {
        let output = run(&mut command(&arguments)).await;
        output.assert(0, &[]);
        assert!(!output.text().contains("hunter2"), "{output}");
    }
    // With both there, the store cannot be reached; neither the error nor the most talkative log shows a secret.
    let run_once = ["run", path, "--until-caught-up", "--wait-for-clouds", "0s"];
    let output = run(command(&run_once).env("ISOBAR_TEST_KEY", "AKIAHUNTER3")).await;
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.text().contains("azure"), "{output}");
    assert!(!output.text().contains("hunter2"), "{output}");

    let inline = content.replace("${env:ISOBAR_TEST_SECRET}", "hunter2hunter2");
    let path = write_file(&lab.directory.path().join("inline.yaml"), &inline);
    let output = run_isobar(&["check", text(&path)]).await;
    output.assert(2, &["secret_access_key"]);
    assert!(!output.text().contains("hunter2"), "{output}");
}

/// The series that dashboards are built on.
const SERIES: [&str; 13] = [
    "isobar_records_consumed_total{",
    "isobar_record_bytes_consumed_total{",
    "isobar_rows_total{",
    "isobar_consumer_lag_records{",
    "isobar_commits_total{",
    "isobar_commit_latency_seconds_bucket{",
    "isobar_last_commit_timestamp_seconds{",
    "isobar_file_bytes_total{",
    "isobar_replication_lag_versions{",
    "isobar_cloud_written_bytes{",
    "isobar_cloud_up{",
    "isobar_epoch{",
    "isobar_memory_bytes{",
];

/// Starts `run` with metrics; the process, and where it serves.
async fn started(lab: &Lab, spec: &str) -> (Background, String) {
    let errors = lab.directory.path().join("errors.log");
    let mut command = isobar(&["--log-format", "json", "run", spec, "--metrics-addr", "127.0.0.1:0"]);
    let process = Background::start(&mut command, &errors);
    let line: Json =
        serde_json::from_str(&process.says("serving metrics").await).expect("a log line is JSON");
    let address = line["address"].as_str().expect("the address is a field of the line").to_owned();
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_health_and_readiness_are_served_while_it_runs_and_sigterm_stops_gracefully() {
    let (lab, spec) = prepared("cli_metrics", 600);
    let (process, address) = started(&lab, &spec).await;
    assert_eq!(http_get(&address, "/healthz").await.map(|(status, _)| status), Some(200));
    until("it is ready", async || matches!(http_get(&address, "/readyz").await, Some((200, _)))).await;
    assert_eq!(http_get(&address, "/nothing").await.map(|(status, _)| status), Some(404));
    let rows = |metrics: &str, labels: &[&str]| -> u64 {
        let of_rows = metrics.lines().filter(|line| line.starts_with("isobar_rows_total{"));
        let of_rows = of_rows.filter(|line| labels.iter().all(|label| line.contains(label)));
        of_rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    let metrics = until_some("all rows are counted and every gauge is set", async || {
        let (_, metrics) = http_get(&address, "/metrics").await?;
        let fates = ["accepted", "rejected", "dropped", "filtered"];
        let counted: u64 = fates.iter().map(|fate| rows(&metrics, &[&format!("outcome=\"{fate}\"")])).sum();
        (counted == 600 && SERIES.iter().all(|series| metrics.contains(series))).then_some(metrics)
    })
    .await;
    lab.wait_until_equal(FEATURES).await;
    let (dataset, _) = lab.tables(&lab.clouds[0], FEATURES).await;
    let counts = dataset.log.counts();
    assert_eq!(rows(&metrics, &["outcome=\"accepted\""]), counts.output);
    assert_eq!(rows(&metrics, &["outcome=\"filtered\""]), counts.filtered);
    for (rule, count) in &counts.rejected {
        assert_eq!(rows(&metrics, &["outcome=\"rejected\"", &format!("rule=\"{rule}\"")]), *count, "{rule}");
    }
    for cloud in ["aws", "azure", "gcp"] {
        assert!(metrics.contains(&format!("cloud=\"{cloud}\"")), "{cloud}");
    }
    process.signal("TERM").await;
    process.ended().await.assert(0, &[]);
    lab.assert_whole_and_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_commits_what_was_read_and_the_next_run_goes_on() {
    let (lab, spec) = prepared("cli_sigint", 300);
    for _ in 0..3 {
        let (process, address) = started(&lab, &spec).await;
        until("it is ready", async || matches!(http_get(&address, "/readyz").await, Some((200, _)))).await;
        lab.produce(TOPIC, Generator::mixed(isobar_tests::prng::Prng::new(5)).records(100));
        process.signal("INT").await;
        process.ended().await.assert(0, &[]);
        lab.assert_features_right().await;
    }
    run_isobar(&["run", &spec, "--until-caught-up"]).await.assert(0, &[]);
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_the_start_is_no_wrong_configuration() {
    let lab = Lab::in_directories();
    let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
    spec.brokers = "127.0.0.1:1".into();
    let path = spec.written();
    let (process, address) = started(&lab, text(&path)).await;
    assert_eq!(
        http_get(&address, "/readyz").await.map(|(status, _)| status),
        Some(503),
        "not ready without a broker"
    );
    process.signal("TERM").await;
    let output = process.ended().await;
    assert_ne!(
        output.code,
        Some(2),
        "a person who stops a starting process did not configure anything wrong\n{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_address_in_use_is_a_wrong_configuration() {
    let (lab, spec) = prepared("cli_address", 0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run_isobar(&["run", &spec, "--metrics-addr", &address]).await.assert(2, &[&address]);
    drop(lab);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_replaced_says_so_and_fails() {
    let (lab, spec) = prepared("cli_replaced", 100);
    let (first, address) = started(&lab, &spec).await;
    until("it is ready", async || matches!(http_get(&address, "/readyz").await, Some((200, _)))).await;
    lab.wait_until_equal(FEATURES).await;
    let errors = lab.directory.path().join("second.log");
    let second = Background::start(&mut isobar(&["run", &spec]), &errors);
    second.says("consuming").await;
    lab.produce(TOPIC, Generator::mixed(isobar_tests::prng::Prng::new(9)).records(50));
    first.ended().await.assert(1, &["another process took over"]);
    second.signal("TERM").await;
    second.ended().await.assert(0, &[]);
    run_isobar(&["run", &spec, "--until-caught-up"]).await.assert(0, &[]);
    lab.assert_features_complete().await;
    lab.assert_proved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_wait_for_clouds_refuses_to_be_told_how_long() {
    for role in ["--standby", "--worker"] {
        let output = run_isobar(&["run", "topology.yaml", role, "--wait-for-clouds", "5s"]).await;
        output.assert(2, &["--wait-for-clouds", "cannot be used with", role]);
    }
}
