//! The log of queries on a real broker: who was answered is in it, though the server was killed.

use isobar_tests::events::Generator;
use isobar_tests::prng::Seed;
use isobar_tests::program::Background;
use serde_json::{Value as Json, json};

use super::{Live, changed};
use crate::audit::log_spec;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_answered_is_in_the_log_though_the_server_was_killed() {
    const QUESTIONS: usize = 5;
    let Some(mut live) = Live::begin("audit").await else { return };
    let log = format!("{}-log", live.name);
    live.create(&log).await;
    let audit = format!("serve: {{ audit: {{ topic: {log}, required: true, patience: 1m }} }}\n");
    let memory = "memory: 192MiB\n";
    let spec = changed(&live.spec("200ms"), "served.yaml", memory, &format!("{memory}{audit}"));
    let spec = spec.to_str().unwrap();
    live.produce(&live.producer(), Generator::mixed(Seed::of("live_audit").prng()).records(500));
    live.run(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);

    let mut command = live.command(&["--log-format", "json", "serve", spec, "--listen", "127.0.0.1:0"]);
    let server = Background::start(&mut command, &live.directory.path().join("serve.log"));
    let line: Json = serde_json::from_str(&server.says("\"serving\"").await).unwrap();
    let url = format!("http://{}/v1/query", line["address"].as_str().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for number in 0..QUESTIONS {
        let question = json!({ "sql": format!("SELECT count(*) AS n FROM features WHERE items > {number}") });
        let request = http.post(&url).header("content-type", "application/json").body(question.to_string());
        let reply = request.send().await.unwrap();
        let (status, answer) = (reply.status().as_u16(), reply.text().await.unwrap());
        assert_eq!(status, 200, "{answer}");
    }
    server.kill().await;

    let folder = live.directory.path().join("query_audit");
    let kafka = format!("  brokers: {}\n", live.services.brokers);
    // The key of a cloud lies beside the spec.
    std::fs::create_dir(&folder).unwrap();
    let clouds = live.services.clouds_yaml(&live.name, &folder);
    let log_spec = log_spec(&folder, &kafka, &clouds, &log);
    let log_spec = log_spec.to_str().unwrap();
    live.run(&["run", log_spec, "--until-caught-up"]).await.assert(0, &[]);
    let sql = "SELECT count(*) AS rows, count(DISTINCT id) AS questions, min(caller) AS caller, min(protocol) AS protocol \
               FROM queries WHERE event = 'begun' AND versions[1]['table'] = 'features'";
    let answer = live.run(&["query", sql, "--config", log_spec, "--format", "csv"]).await;
    answer.assert(0, &[]);
    assert_eq!(
        answer.stdout,
        format!("rows,questions,caller,protocol\n{QUESTIONS},{QUESTIONS},anonymous,http\n")
    );
}
