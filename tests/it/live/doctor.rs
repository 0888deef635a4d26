//! What `isobar doctor` says of a real broker and real stores: settings of topics, ids, timestamps and permissions.

use isobar_tests::events::Generator;
use isobar_tests::prng::Seed;
use isobar_tests::program::run;
use rdkafka::admin::{AlterConfig, ResourceSpecifier};
use serde_json::Value as Json;

use super::Live;

/// Status and finding of the checks with this id.
fn of<'a>(report: &'a Json, id: &str) -> Vec<(&'a str, &'a str)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["id"] == id);
    checks.map(|check| (check["status"].as_str().unwrap(), check["found"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_broker_tells_settings_and_real_stores_what_they_allow() {
    let Some(mut live) = Live::begin("live_doctor").await else { return };
    let producer = live.producer();
    live.produce(&producer, Generator::mixed(Seed::of("live_doctor").prng()).records(100));
    let spec = live.spec("1s");
    let spec = spec.to_str().unwrap();
    run(&mut live.command(&["run", spec, "--until-caught-up"])).await.assert(0, &[]);
    // Once nothing can be missed any more.
    let settings = AlterConfig::new(ResourceSpecifier::Topic(&live.name))
        .set("retention.ms", "3600000")
        .set("max.message.bytes", "33554432");
    let altered = live.admin().alter_configs(&[settings], &Live::admin_options()).await.unwrap();
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");

    let output = run(&mut live.command(&["doctor", spec, "--format", "json"])).await;
    output.assert(0, &["0 offsets not read yet", "it counts"]);
    let report: Json = serde_json::from_str(&output.stdout).unwrap();
    for (id, found) in [
        ("topic.retention", "kept for 1h"),
        ("topic.message_size", "32MiB"),
        ("topic.replication", "single copy"),
    ] {
        let [(status, text)] = of(&report, id)[..] else { panic!("{id}: {report:#}") };
        assert!(status == "warning" && text.contains(found), "{id}: {status}: {text}");
    }
    for id in [
        "topic.retention_bytes",
        "topic.cleanup",
        "topic.timestamps",
        "topic.min_in_sync",
        "kafka.topic_ids",
        "kafka.group",
    ] {
        assert!(of(&report, id).iter().all(|(status, _)| *status == "ok"), "{id}: {report:#}");
    }
    // The stores' clocks are this machine's.
    for id in ["cloud.conditional_writes", "cloud.multipart", "cloud.delete", "clock.cloud"] {
        let found = of(&report, id);
        assert!(found.len() == 3 && found.iter().all(|(status, _)| *status == "ok"), "{id}: {found:?}");
    }
}
