//! `isobar demo --topology`: another topology than the demo's, on records from files.
//!
//! The embedded broker stands in for the brokers that the topology names, and nothing is sent to topics; its clouds, models and everything
//! else are its own. So a topology can be tried on records at hand with no Kafka to start: the scoring of flights in `topologies/flight_delays/live` is one.

use std::collections::BTreeMap;
use std::path::Path;

use isobar_connectors::kafka::EmbeddedBroker;

use super::replay::PARTITIONS;
use super::{DemoOptions, TopicFile, lines, print_proof, run, say};
use crate::error::Error;
use crate::spec::{self, SourceSpec, StartPosition, TopicIdentity, Topology};

/// Runs the topology at `path` on the records of `options`; false when `prove` found something wrong.
pub(super) async fn demo(path: &Path, options: &DemoOptions) -> Result<bool, Error> {
    let mut topology = spec::load(path).map_err(|problems| Error::Configuration(problems.to_string()))?;
    check(&topology.sources, &options.records)?;
    let feeds = options.records.iter().map(lines::feed).collect::<Result<Vec<_>, _>>()?;
    let topics: Vec<_> = feeds.iter().map(|feed| (feed.topic.as_str(), PARTITIONS)).collect();
    let broker = EmbeddedBroker::start(&topics)
        .map_err(|error| Error::connector("start the embedded broker", error))?;
    replace_brokers(&mut topology, broker.bootstrap_servers());
    if !options.json {
        let records: u64 = feeds.iter().map(|feed| feed.records).sum();
        say(&format!("Replaying {records} records into {}.", topology.name));
    }
    let report = run(&topology, &broker, feeds, None, options).await?;
    print_proof(&topology, &topology.dataset_names(), report, options).await
}

/// Every file is of a topic that is read, every topic that has to be there has a file, and none has two.
fn check(sources: &[SourceSpec], records: &[TopicFile]) -> Result<(), Error> {
    let named = |topic: &str| records.iter().filter(|file| file.topic == topic).count();
    for TopicFile { topic, path } in records {
        if !sources.iter().any(|source| source.topics.contains(topic)) {
            let read: Vec<String> = sources.iter().map(|source| source.topics.to_string()).collect();
            return Err(Error::Configuration(format!(
                "--records {topic}={}: no source reads this topic; choose one of {}",
                path.display(),
                read.join(", ")
            )));
        }
        if named(topic) > 1 {
            return Err(Error::Configuration(format!(
                "--records: `{topic}` has two files; put them together"
            )));
        }
    }
    let mut needed = sources.iter().flat_map(|source| source.topics.named());
    match needed.find(|topic| named(topic) == 0) {
        Some(topic) => Err(Error::Configuration(format!(
            "the topology reads `{topic}`, and no --records says what is in it: add --records {topic}=FILE"
        ))),
        None => Ok(()),
    }
}

/// The embedded broker in the place of the topology's. It gives topics no ids, lets everybody in, and has nothing that came before. What
/// is a trial is sent to no topic: it has none for that, and those of another cluster are read by others.
fn replace_brokers(topology: &mut Topology, brokers: String) {
    topology.kafka.brokers = brokers;
    topology.kafka.cluster_id = Some("demo".to_owned());
    topology.kafka.topic_identity = TopicIdentity::Name;
    topology.kafka.options = BTreeMap::new();
    for source in &mut topology.sources {
        source.start = StartPosition::Earliest;
    }
    for dataset in &mut topology.datasets {
        (dataset.dead_letter, dataset.publish) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query;

    const SPEC: &str = "topology: other
kafka: { brokers: 'nowhere:9092' }
clouds:
  here: { url: 'file:./here' }
commit: { interval: 100ms, size: 1MiB }
sources:
  numbers: { topic: numbers, format: json, start: latest, fields: { n: int64 } }
datasets:
  squares: { from: numbers, sql: SELECT n * n AS square FROM numbers }
";

    fn options(directory: &Path, records: &[(&str, &str)]) -> DemoOptions {
        let spec = directory.join("other.yaml");
        std::fs::write(&spec, SPEC).unwrap();
        let records = records.iter().map(|(topic, content)| {
            let path = directory.join(format!("{topic}.json"));
            std::fs::write(&path, content).unwrap();
            TopicFile { topic: (*topic).to_owned(), path }
        });
        let records = records.collect();
        DemoOptions { topology: Some(spec), records, json: true, ..DemoOptions::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topology_runs_on_the_lines_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let lines: String = (1..=1000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let options = options(directory.path(), &[("numbers", &lines)]);
        assert!(crate::demo::demo(options.clone()).await.unwrap(), "what was committed is proved");
        let topology = spec::load(options.topology.as_ref().unwrap()).unwrap();
        let question = "SELECT count(*) AS n, sum(square) AS total FROM squares";
        let answer = query::query_table(&topology, question).await.unwrap();
        // 1000 * 1001 * 2001 / 6
        assert!(answer.contains("1000") && answer.contains("333833500"), "{answer}");
    }

    #[test]
    fn nothing_reaches_the_brokers_of_the_topology_or_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sending.yaml");
        let sends = "dead_letter: { topic: bad }, publish: { topic: good, kafka: { brokers: 'elsewhere:9092' } }, sql:";
        std::fs::write(&path, SPEC.replace("sql:", sends)).unwrap();
        let mut topology = spec::load(&path).unwrap();
        let sent = |topology: &Topology| {
            let dataset = &topology.datasets[0];
            (dataset.dead_letter.is_some(), dataset.publish.is_some())
        };
        assert_eq!(sent(&topology), (true, true));
        replace_brokers(&mut topology, "here:1".to_owned());
        assert_eq!(sent(&topology), (false, false));
        assert_eq!(topology.kafka.brokers, "here:1");
        assert!(topology.sources.iter().all(|source| source.start == StartPosition::Earliest));
    }

    #[tokio::test]
    async fn files_and_topics_belong_together() {
        let directory = tempfile::tempdir().unwrap();
        for (records, expected) in [
            (vec![("letters", "1\n")], "no source reads this topic; choose one of numbers"),
            (vec![], "add --records numbers=FILE"),
            (vec![("numbers", "1\n"), ("numbers", "2\n")], "`numbers` has two files"),
        ] {
            let error = crate::demo::demo(options(directory.path(), &records)).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(!directory.path().join("here").exists(), "nothing was written");
    }
}
