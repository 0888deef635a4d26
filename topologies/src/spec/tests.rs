//! Specs that are wrong, and exactly what is said about them.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::schema::EXAMPLE;
use super::*;

fn check(text: &str) -> Result<Topology, SpecErrors> {
    check_text(text, "topology.yaml", Path::new("/specs"), CheckOptions::default())
}

/// The example with each `from` replaced by its `to`.
fn edited(edits: &[(&str, &str)]) -> String {
    let mut text = EXAMPLE.to_owned();
    for (from, to) in edits {
        assert_eq!(text.matches(from).count(), 1, "{from:?} is not in the example exactly once");
        text = text.replace(from, to);
    }
    text
}

/// Every problem as `line:column message`, and ` | help` where there is some.
fn problems(text: &str) -> Vec<String> {
    let Err(errors) = check(text) else { return Vec::new() };
    let describe = |problem: Problem| {
        let help = problem.suggestion.map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{}:{} {}{help}", problem.line, problem.column, problem.message)
    };
    errors.problems.into_iter().map(describe).collect()
}

#[test]
fn the_example_is_a_topology() {
    let topology = check(EXAMPLE).unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
    assert_eq!(topology.name, "flight_delays");
    assert_eq!(topology.kafka.brokers, "localhost:9092");
    assert_eq!(topology.kafka.topic_identity, TopicIdentity::Id);
    let clouds: Vec<(&str, &str)> =
        topology.clouds.iter().map(|cloud| (cloud.name.as_str(), cloud.url.as_str())).collect();
    assert_eq!(
        clouds,
        [
            ("aws", "s3://flight-delays/isobar"),
            ("azure", "az://flight-delays/isobar"),
            ("gcp", "gs://flight-delays/isobar")
        ]
    );
    assert_eq!(topology.clouds[0].options["region"].resolve().unwrap().expose(), "eu-west-1");
    assert_eq!(topology.commit_interval, Duration::from_secs(10));
    assert_eq!(topology.commit_bytes_max, 256 << 20);
    assert_eq!(topology.memory_bytes_max, 384 << 20);
    let source = &topology.sources[0];
    assert_eq!((source.name.as_str(), source.topic.as_str()), ("flights", "flights"));
    assert_eq!((source.format, source.start), (Format::Json, StartPosition::Earliest));
    assert_eq!(source.unknown_fields, UnknownFields::Quarantine);
    let columns: Vec<&String> = source.schema.fields().iter().map(|field| field.name()).collect();
    assert_eq!(columns, ["year", "month", "dep_time", "arr_delay", "carrier"]);
    let dataset = &topology.datasets[0];
    assert_eq!((dataset.name.as_str(), dataset.source), ("flight_features", 0));
    let rules: Vec<&str> = dataset.expectations.iter().map(|expectation| expectation.name.as_str()).collect();
    assert_eq!(rules, ["departed", "arrival_known"]);
    assert_eq!(dataset.partition_by, ["month"]);
    assert_eq!(dataset.compression, Compression::Zstd(1));
}

#[test]
fn the_shortest_spec_takes_the_documented_defaults() {
    let text = "
topology: t
kafka: { brokers: [a:1, 'b:2'] }
clouds: { local: { url: ./data } }
sources: { s: { topic: s, format: json, fields: { a: int32 } } }
datasets: { d: { from: s, sql: SELECT a FROM s } }
";
    let topology = check(text).unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
    assert_eq!(topology.kafka.brokers, "a:1,b:2");
    assert_eq!(topology.kafka.cluster_id, None);
    assert_eq!(topology.clouds[0].url.as_str(), "file:///specs/data");
    assert_eq!(topology.commit_interval, Duration::from_secs(10));
    assert_eq!(topology.commit_bytes_max, 256 << 20);
    assert_eq!(topology.memory_bytes_max, 384 << 20);
    assert_eq!(topology.datasets[0].compression, Compression::Zstd(1));
    assert_eq!(topology.spec_dir, Path::new("/specs"));
}

/// One edit of the example, and everything that is then wrong.
struct Case(&'static [(&'static str, &'static str)], &'static [&'static str]);

const CASES: &[Case] = &[
    // Structure.
    Case(&[("  brokers: localhost:9092", "  brokrs: localhost:9092")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 384MiB\ninterval: 5s\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 384MiB\nbananas: 5\n")], &[]),
    Case(&[("topology: flight_delays\n", "")], &[]),
    Case(&[("topology: flight_delays\n", "topology: Flight Delays\n")], &[]),
    Case(&[("topology: flight_delays\n", "topology: 7\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 384\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 384mb\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 64MiB\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory:\n")], &[]),
    Case(&[("memory: 384MiB\n", "memory: 384MiB\nmemory: 1GiB\n")], &[]),
    Case(&[("interval: 10s", "interval: 10")], &[]),
    Case(&[("interval: 10s", "interval: 50ms")], &[]),
    Case(&[("interval: 10s", "interval: 2h")], &[]),
    Case(&[("interval: 10s", "interval: ten seconds")], &[]),
    Case(&[("size: 256MiB", "size: 1B")], &[]),
    Case(&[("format: json", "format: jsn")], &[]),
    Case(&[("format: json", "format: avro")], &[]),
    Case(&[("format: json\n", "format: json\n    start: beginning\n")], &[]),
    Case(&[("format: json\n", "format: [json]\n")], &[]),
    // Kafka.
    Case(&[("brokers: localhost:9092", "brokers: [localhost:9092, 'host:port', '']")], &[]),
    Case(&[("brokers: localhost:9092", "brokers: 9092")], &[]),
    Case(&[("brokers: localhost:9092", "brokers: localhost:9092\n  cluster_id: a/b")], &[]),
    Case(&[("brokers: localhost:9092", "brokers: localhost:9092\n  topic_identity: uuid")], &[]),
    Case(
        &[(
            "brokers: localhost:9092",
            "brokers: localhost:9092\n  options:\n    enable.auto.commit: true\n    group.id: mine\n    sasl.pasword: \"${env:P}\"",
        )],
        &[],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  options: { sasl.password: hunter2 }")],
        &[],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  options: { client.rack: \"${RACK}\" }")],
        &[],
    ),
    // Clouds.
    Case(&[("\"${env:AWS_ACCESS_KEY_ID}\"", "AKIAIOSFODNN7EXAMPLE")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "url: gcs://flight-delays/isobar")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "url: flight-delays")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "url: s3://key:hunter2@flight-delays/isobar")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "url: s3://flight-delays/isobar")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "url: s3://flight-delays/isobar/inner")], &[]),
    Case(&[("url: gs://flight-delays/isobar", "uri: gs://flight-delays/isobar")], &[]),
    Case(&[("  gcp:\n", "  GCP:\n")], &[]),
    Case(&[("commit:", "  fourth: { url: ./fourth }\ncommit:")], &[]),
    // Sources.
    Case(&[("year: int32", "year: int23")], &[]),
    Case(&[("dep_time: { type: int32,", "dep_time: { type: qqq,")], &[]),
    Case(&[("dep_time: { type: int32,", "dep_time: { typ: int32,")], &[]),
    Case(&[("year: int32", "_offset: int32")], &[]),
    Case(
        &[("datasets:\n", "  again: { topic: flights, format: json, fields: { a: int32 } }\ndatasets:\n")],
        &[],
    ),
    Case(
        &[("datasets:\n", "  unread: { topic: other, format: json, fields: { a: int32 } }\ndatasets:\n")],
        &[],
    ),
    Case(&[("    topic: flights\n", "    topic: flights/2013\n")], &[]),
    Case(&[("      year: int32\n", "      year:\n")], &[]),
    // Datasets.
    Case(&[("from: flights\n    d", "from: flihgts\n    d")], &[]),
    Case(&[("name: departed,", "name: arrival_known,")], &[]),
    Case(&[("name: departed,", "name: undecodable,")], &[]),
    Case(&[("action: drop", "action: dorp")], &[]),
    Case(&[("partition_by: [month]", "partition_by: [mnth]")], &[]),
    Case(&[("partition_by: [month]", "partition_by: [month, month]")], &[]),
    Case(&[("partition_by: [month]", "partition_by: month")], &[]),
    Case(&[("compression: zstd(1)", "compression: zstd(99)")], &[]),
    Case(&[("      FROM flights", "      FORM flights")], &[]),
    Case(&[("arr_delay > 15 AS late", "arr_dely > 15 AS late")], &[]),
    Case(&[("check: dep_time IS NOT NULL", "check: dep_tme IS NOT NULL")], &[]),
    Case(&[("SELECT year, month, carrier", "SELECT year, month, carrier, carrier AS Year")], &[]),
    // Several at once, all reported.
    Case(
        &[
            ("brokers: localhost:9092", "brokers: localhost:9092\n  topics: 1"),
            ("interval: 10s", "interval: 1ms"),
            ("carrier: string", "carrier: sting"),
            ("action: quarantine", "action: quarantin"),
            ("compression: zstd(1)", "compresion: zstd(1)"),
        ],
        &[],
    ),
    // No YAML.
    Case(&[("commit: { interval: 10s, size: 256MiB }", "commit: { interval: 10s, size: 256MiB")], &[]),
    Case(&[("  brokers: localhost:9092", "\tbrokers: localhost:9092")], &[]),
    Case(&[("topology: flight_delays", "topology: flight: delays")], &[]),
];

#[test]
fn every_problem_is_reported_at_its_place() {
    let mut wrong = Vec::new();
    for Case(edits, expected) in CASES {
        let found = problems(&edited(edits));
        if found != *expected {
            wrong.push(format!("{edits:?}\n{found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn whole_files_that_are_no_specs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let errors = super::load(&path).unwrap_err();
        assert_eq!(errors.problems.len(), 1);
        errors.problems[0].message.clone()
    };
    assert_eq!(load("empty.yaml", b""), "the spec is empty");
    assert_eq!(load("binary.yaml", b"a: 1\nb: \xff\n"), "the spec is not UTF-8: line 2 holds other bytes");
    assert_eq!(load("large.yaml", &vec![b'#'; yaml::TEXT_BYTES_MAX + 1]), "the spec is larger than 1 MiB");
    assert_eq!(load("list.yaml", b"- a\n- b\n"), "the spec must be a mapping, found a list");
    let missing = super::load(&folder.path().join("missing.yaml")).unwrap_err();
    assert!(missing.problems[0].message.starts_with("the spec cannot be read: "), "{missing}");
    assert!(super::load(folder.path()).is_err());
}

#[test]
fn secrets_are_looked_up_only_when_asked_for() {
    let text = edited(&[
        ("${env:AWS_ACCESS_KEY_ID}", "${env:ISOBAR_TEST_NOT_SET}"),
        ("${file:/run/secrets/aws}", "${file:./no-such-secret}"),
        ("${env:AZURE_KEY}", "${env:PATH}"),
    ]);
    assert!(check(&text).is_ok());
    let options = CheckOptions { resolve_secrets: true };
    let errors = check_text(&text, "topology.yaml", Path::new("/specs"), options).unwrap_err();
    let found: Vec<(usize, &str)> = errors.problems.iter().map(|p| (p.line, p.message.as_str())).collect();
    assert_eq!(found[0], (9, "environment variable `ISOBAR_TEST_NOT_SET` is not set"));
    assert_eq!(found[1].0, 10);
    assert!(found[1].1.starts_with("secret file `/specs/./no-such-secret` cannot be read: "), "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn a_rendering_reads_like_a_compilers() {
    let text = edited(&[
        ("  brokers: localhost:9092", "  brokrs: localhost:9092"),
        (
            "options: { account_name: flights, account_key: \"${env:AZURE_KEY}\" }",
            "options: { account_key: hunter2 }",
        ),
    ]);
    let errors = check(&text).unwrap_err();
    let expected = "\
topology.yaml:3:3: error: unknown field `brokrs` in `kafka`
    3 |   brokrs: localhost:9092
      |   ^^^^^^
      = help: did you mean `brokers`?

topology.yaml:13:29: error: `account_key` is a secret, and secrets do not stand in a spec
   13 |     options: { account_key: ******* }
      |                             ^^^^^^^
      = help: put it in the environment or in a file and write \"${env:AZURE_ACCOUNT_KEY}\" or \"${file:path}\"

2 problems in topology.yaml
";
    assert_eq!(errors.render(Colour::None), expected);
    let json = errors.to_json();
    assert_eq!(
        json["problems"][0],
        serde_json::json!({
            "file": "topology.yaml",
            "line": 3,
            "column": 3,
            "pointer": "/kafka/brokrs",
            "message": "unknown field `brokrs` in `kafka`",
            "suggestion": "did you mean `brokers`?",
        })
    );
}

/// Specs with a secret that must never be shown, however wrong the rest is.
fn specs_with_inline_secrets() -> Vec<String> {
    let kafka =
        |options: &str| edited(&[("localhost:9092\n", &format!("localhost:9092\n  options: {options}\n"))]);
    vec![
        kafka("{ sasl.password: hunter2 }"),
        kafka("{ sasl.password: \"hunter2\", bogus.option: 1 }"),
        kafka("{ sasl.password: [hunter2, hunter2] }"),
        kafka("{ sasl.password: 'hunter2${env:X}' }"),
        kafka("{ sasl.password: 'hunter2${' }"),
        kafka("{ sasl.password: '${hunter2}' }"),
        kafka("{ sasl.password: '${env:hunter2' }"),
        kafka("{ sasl.password: { hunter2: hunter2 } }"),
        kafka("{ socket.timeout.ms: 7, sasl.password: hunter2"),
        kafka("\n    sasl.password: |\n      hunter2\n      hunter2\n    unknown: [}"),
        kafka("\n    sasl.password: >-\n      hunter2\n"),
        edited(&[("  brokers: localhost:9092", "  brokers: localhost:9092\n  sasl.password: hunter2")]),
        edited(&[("url: gs://flight-delays/isobar", "url: s3://key:hunter2@flight-delays/isobar")]),
        edited(&[("url: gs://flight-delays/isobar", "url: s3://b/p?X-Amz-Signature=hunter2")]),
        edited(&[("\"${env:AZURE_KEY}\"", "hunter2")]),
        edited(&[("region: eu-west-1", "proxy_url: http://me:hunter2@proxy:1")]),
    ]
}

#[test]
fn secrets_are_never_shown() {
    for text in specs_with_inline_secrets() {
        let errors = check(&text).unwrap_err();
        for shown in [errors.render(Colour::None), errors.to_json().to_string(), errors.to_string()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn no_prefix_of_a_spec_panics_or_shows_a_secret() {
    for text in specs_with_inline_secrets().iter().map(String::as_str).take(3).chain([EXAMPLE]) {
        for (end, _) in text.char_indices() {
            if let Err(errors) = check(&text[..end]) {
                assert!(!errors.problems.is_empty());
                assert!(!errors.render(Colour::None).contains("hunter2"), "{}", &text[..end]);
            }
        }
    }
}

#[test]
fn no_mutation_of_a_spec_panics() {
    const TOKENS: &[&str] = &[
        "\t", "\n", " ", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "!t ", "|\n", ">", "\"", "'", "#", "~",
        "?", ",", "${", "}", "0", "-1", "1e999", ".nan", "true", "\u{0}", "\u{feff}", "é", "---\n", "...\n",
        "%", "@", "`",
    ];
    let mut random = StdRng::seed_from_u64(20_130_101);
    let characters: Vec<char> = EXAMPLE.chars().collect();
    for round in 0..4_000 {
        let mut mutated = characters.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..mutated.len());
            let length = random.random_range(0..20).min(mutated.len() - at);
            match random.random_range(0..3) {
                0 => drop(mutated.drain(at..at + length)),
                1 => {
                    let token = TOKENS[random.random_range(0..TOKENS.len())];
                    drop(mutated.splice(at..at, token.chars()));
                }
                _ => {
                    let copied: Vec<char> = mutated[at..at + length].to_vec();
                    let to = random.random_range(0..mutated.len());
                    drop(mutated.splice(to..to, copied));
                }
            }
        }
        let text: String = mutated.into_iter().collect();
        if let Err(errors) = check(&text) {
            assert!(!errors.problems.is_empty(), "round {round}");
            let lines = text.lines().count();
            for problem in &errors.problems {
                assert!((1..=lines + 1).contains(&problem.line), "round {round}: {problem:?}");
            }
            let _ = errors.render(Colour::Ansi);
        }
    }
}
