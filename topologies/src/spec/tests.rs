//! Specs that are wrong, and exactly what is said about them.

use std::path::Path;

use isobar_schemas::decode::PayloadRows;
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
    assert_eq!((source.name.as_str(), source.topics.named()), ("flights", &["flights".to_owned()][..]));
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
    assert!(topology.worker_token.is_none());
    assert_eq!(topology.fill_bytes_per_second, None);
    assert_eq!(topology.datasets[0].compression, Compression::Zstd(1));
    let compact = Some(CompactSpec { target_bytes: 128 << 20, files_min: 16 });
    let maintenance = MaintenanceSpec { compact, keep_versions: None, checkpoint_every: Some(100) };
    assert_eq!(topology.datasets[0].maintenance, maintenance);
    assert_eq!(topology.spec_dir, Path::new("/specs"));
}

/// One edit of the example, and everything that is then wrong.
struct Case(&'static [(&'static str, &'static str)], &'static [&'static str]);

const CASES: &[Case] = &[
    // Structure.
    Case(
        &[("  brokers: localhost:9092", "  brokrs: localhost:9092")],
        &["3:3 unknown field `brokrs` in `kafka` | did you mean `brokers`?"],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384MiB\ninterval: 5s\n")],
        &["18:1 unknown field `interval` | `interval` is a field of `commit`"],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384MiB\nbananas: 5\n")],
        &[
            "18:1 unknown field `bananas` | expected `topology`, `kafka`, `registry`, `clouds`, `commit`, `fill`, `workers`, `serve`, `memory`, `query`, `sources`, `datasets`, `online` or `models`",
        ],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384MiB\nworkers: { token: hunter2-hunter2-hunter2 }\n")],
        &[
            "18:19 `token` is a secret, and secrets do not stand in a spec | put it in the environment or in a file and write \"${env:WORKERS_TOKEN}\" or \"${file:path}\"",
        ],
    ),
    Case(
        &[("topology: flight_delays\n", "")],
        &["1:1 missing field `topology` | add `topology: flight_delays`"],
    ),
    Case(
        &[("topology: flight_delays\n", "topology: Flight Delays\n")],
        &[
            "1:11 `Flight Delays` is not a name here: only lower-case letters, digits, `-`, `_`, at most 64 characters | `flight_delays`, for example",
        ],
    ),
    Case(
        &[("topology: flight_delays\n", "topology: 7\n")],
        &["1:11 `topology` must be a name such as `flight_delays`, found the number 7"],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384\n")],
        &["17:9 `memory` must be a size such as `256MiB`, found the number 384"],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384mb\n")],
        &["17:9 `384mb` is not a size: write a whole number and a unit, such as `128MiB` or `64kB`"],
    ),
    Case(&[("memory: 384MiB\n", "memory: 64MiB\n")], &["17:9 `memory` is 64MiB; it must be at least 128MiB"]),
    Case(
        &[("memory: 384MiB\n", "memory:\n")],
        &["17:1 `memory` is empty | expected a size such as `256MiB`"],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384MiB\nmemory: 1GiB\n")],
        &["18:1 `memory` is here twice | remove or rename one of the two"],
    ),
    Case(
        &[("interval: 10s", "interval: 10")],
        &["16:21 `interval` must be a duration such as `10s`, found the number 10"],
    ),
    Case(&[("interval: 10s", "interval: 50ms")], &["16:21 `interval` is 50ms; it can be from 100ms to 1h"]),
    Case(&[("interval: 10s", "interval: 2h")], &["16:21 `interval` is 2h; it can be from 100ms to 1h"]),
    Case(
        &[("interval: 10s", "interval: ten seconds")],
        &[
            "16:21 `ten seconds` is not a duration: write a whole number and a unit, such as `10s`, `500ms` or `1m30s`",
        ],
    ),
    Case(&[("size: 256MiB", "size: 1B")], &["16:32 `size` is 1B; it must be at least 1KiB"]),
    Case(
        &[("format: json", "format: jsn")],
        &["21:13 unknown value `jsn` for `format` | did you mean `json`?"],
    ),
    Case(
        &[("format: json", "format: xml")],
        &["21:13 unknown value `xml` for `format` | expected `json`, `avro`, `protobuf`, `csv` or `raw`"],
    ),
    Case(
        &[("format: json", "format: avro")],
        &[
            "21:13 records name their schemas by ids of a registry, and there is no `registry` | add `registry: { url: \"https://…\" }`, or give the `schema` of records without a header",
        ],
    ),
    Case(
        &[("format: json", "format: avro\n    framing: plain")],
        &[
            "21:13 records carry no id of a registry, so their `schema` has to be given | `schema: ./record.avsc`, for example",
        ],
    ),
    Case(
        &[("format: json", "format: json\n    framing: single_object")],
        &["22:14 `single_object` is a framing of `avro`"],
    ),
    Case(
        &[("format: json", "format: avro\n    schema: no/such.avsc")],
        &[
            "22:13 `no/such.avsc` cannot be read: No such file or directory (os error 2) | paths are relative to the spec",
        ],
    ),
    Case(
        &[("format: json", "format: json\n    message: shop.Order\n    delimiter: \";\"")],
        &[
            "22:5 `message` has no meaning for `format: json` | remove it; it is for `protobuf`",
            "23:5 `delimiter` has no meaning for `format: json` | remove it; it is for `csv`",
        ],
    ),
    Case(
        &[("format: json", "format: csv\n    delimiter: \"::\"")],
        &[
            "22:16 `::` cannot be a delimiter | one ASCII character that is no quote and no line break, such as `;` or a tab",
        ],
    ),
    Case(
        &[("memory: 384MiB\n", "memory: 384MiB\nregistry: { url: \"https://a:b@registry:8081\" }\n")],
        &[
            "18:18 the URL holds a user name or a password, which belong in `options`, by reference | `https://registry:8081`, for example",
        ],
    ),
    Case(
        &[(
            "memory: 384MiB\n",
            "memory: 384MiB\nregistry: { url: \"registry:8081\", options: { user: me } }\n",
        )],
        &[
            "18:18 `registry:8081` is not the address of a registry | `https://registry:8081`, for example",
            "18:46 `user` is no option of a registry | did you mean `username`?",
        ],
    ),
    Case(
        &[("format: json\n", "format: json\n    start: beginning\n")],
        &["22:12 unknown value `beginning` for `start` | expected `earliest` or `latest`"],
    ),
    Case(
        &[("format: json\n", "format: [json]\n")],
        &["21:13 `format` must be `json`, `avro`, `protobuf`, `csv` or `raw`, found a list"],
    ),
    Case(
        &[("description: One row per departed flight with a known arrival delay.", "description: 7")],
        &["31:18 `description` must be a text, found the number 7 | put it in quotes: \"7\""],
    ),
    // Kafka.
    Case(
        &[("brokers: localhost:9092", "brokers: [localhost:9092, 'host:port', '']")],
        &[
            "3:29 `host:port` is not the address of a broker | `host:port`, such as `localhost:9092`",
            "3:42 a broker has no address | `host:port`, such as `localhost:9092`",
        ],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: 9092")],
        &["3:12 `brokers` must be a text or a list such as `localhost:9092`, found the number 9092"],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  cluster_id: a/b")],
        &[
            "4:15 `a/b` is not a cluster id: only ASCII letters, digits, `.`, `_` and `-`, at most 128 characters",
        ],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  topic_identity: uuid")],
        &["4:19 unknown value `uuid` for `topic_identity` | expected `id` or `name`"],
    ),
    Case(
        &[(
            "brokers: localhost:9092",
            "brokers: localhost:9092\n  options:\n    enable.auto.commit: true\n    group.id: mine\n    sasl.pasword: \"${env:P}\"",
        )],
        &[
            "5:5 `enable.auto.commit` is set by isobar: positions are committed with the data only",
            "6:5 `group.id` is set by isobar: isobar uses the topology's name",
            "7:5 `sasl.pasword` is no librdkafka property | did you mean sasl.password?",
        ],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  options: { sasl.password: hunter2 }")],
        &[
            "4:29 `sasl.password` is a secret, and secrets do not stand in a spec | put it in the environment or in a file and write \"${env:KAFKA_SASL_PASSWORD}\" or \"${file:path}\"",
        ],
    ),
    Case(
        &[("brokers: localhost:9092", "brokers: localhost:9092\n  options: { client.rack: \"${RACK}\" }")],
        &[
            "4:27 `${RACK}` is not a reference: write `${env:NAME}` or `${file:path}` | did you mean `${env:RACK}`?",
        ],
    ),
    Case(
        &[("kafka:\n  brokers: localhost:9092\n", "")],
        &["1:1 missing field `kafka` | add `kafka`: The Kafka cluster that is read"],
    ),
    Case(
        &[("kafka:\n  brokers: localhost:9092\n", "kafka: localhost:9092\n")],
        &["2:8 `kafka` must be a mapping, found a text"],
    ),
    // Clouds.
    Case(
        &[("region: eu-west-1", "regoin: eu-west-1")],
        &["8:7 `regoin` is no option of s3:// | did you mean region"],
    ),
    Case(
        &[("region: eu-west-1", "endpoint: http://localhost:9000")],
        &[
            "8:7 `endpoint` is plain http, which anyone on the way can read | if that is intended, add allow_http: \"true\"",
        ],
    ),
    Case(
        &[("${env:AZURE_KEY}", "${AZURE_KEY}")],
        &[
            "13:52 `${AZURE_KEY}` is not a reference: write `${env:NAME}` or `${file:path}` | did you mean `${env:AZURE_KEY}`?",
        ],
    ),
    Case(
        &[("${env:AZURE_KEY}", "${secret:azure}")],
        &[
            "13:52 `account_key` is a secret, and secrets do not stand in a spec | put it in the environment or in a file and write \"${env:AZURE_ACCOUNT_KEY}\" or \"${file:path}\"",
        ],
    ),
    Case(
        &[("\"${env:AWS_ACCESS_KEY_ID}\"", "AKIAIOSFODNN7EXAMPLE")],
        &[
            "9:22 `access_key_id` is a secret, and secrets do not stand in a spec | put it in the environment or in a file and write \"${env:AWS_ACCESS_KEY_ID}\" or \"${file:path}\"",
        ],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "url: gcs://flight-delays/isobar")],
        &["15:10 `gcs` is not the scheme of a cloud | did you mean `gs`?"],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "url: flight-delays")],
        &[
            "15:10 `flight-delays` has no scheme | `s3://flight-delays` for a bucket, `./flight-delays` for a folder beside the spec",
        ],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "url: s3://key:hunter2@flight-delays/isobar")],
        &[
            "15:10 the URL holds credentials | give them as `options`, by reference: \"${env:NAME}\" or \"${file:path}\"",
        ],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "url: s3://flight-delays/isobar")],
        &[
            "15:10 `gcp` is the same location as `aws`: that would be one copy, counted twice | give each cloud a location of its own",
        ],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "url: s3://flight-delays/isobar/inner")],
        &[
            "15:10 `gcp` is a location that overlaps with `aws`: that would be one copy, counted twice | give each cloud a location of its own",
        ],
    ),
    Case(
        &[("url: gs://flight-delays/isobar", "uri: gs://flight-delays/isobar")],
        &["15:5 unknown field `uri` in `gcp` | did you mean `url`?"],
    ),
    Case(
        &[("  gcp:\n", "  GCP:\n")],
        &[
            "14:3 `GCP` is not a name here: only lower-case letters, digits, `-`, `_`, at most 32 characters | `gcp`, for example",
        ],
    ),
    Case(
        &[("commit:", "  fourth: { url: ./fourth }\ncommit:")],
        &["16:3 `clouds` has 4 entries; at most 3 are possible"],
    ),
    // Sources.
    Case(&[("year: int32", "year: int23")], &["23:13 `int23` is not a type | did you mean `int32`?"]),
    Case(
        &[("dep_time: { type: int32,", "dep_time: { type: qqq,")],
        &[
            "25:25 `qqq` is not a type | the types are boolean, int8, int16, int32, int64, float32, float64, string, binary, date, timestamp, decimal(p,s), list<…>, struct<name: type, …> and map<string, …>",
        ],
    ),
    Case(
        &[("dep_time: { type: int32,", "dep_time: { typ: int32,")],
        &["25:19 unknown field `typ` in `dep_time` | did you mean `type`?"],
    ),
    Case(
        &[("year: int32", "_offset: int32")],
        &[
            "23:7 `_offset` cannot be a field: the name is that of a metadata column of every source | ask the producer to rename the field",
        ],
    ),
    Case(
        &[("datasets:\n", "  again: { topic: flights, format: json, fields: { a: int32 } }\ndatasets:\n")],
        &[
            "28:3 no dataset reads from the source `again` | remove it, or add a dataset with `from: again`",
            "28:19 topic `flights` is read by the source `flights` already | let the datasets of `again` read from `flights`",
        ],
    ),
    Case(
        &[("datasets:\n", "  unread: { topic: other, format: json, fields: { a: int32 } }\ndatasets:\n")],
        &["28:3 no dataset reads from the source `unread` | remove it, or add a dataset with `from: unread`"],
    ),
    Case(
        &[("    topic: flights\n", "")],
        &["19:3 missing field `topic` in `flights` | add `topic: flights`, or `topics` for several"],
    ),
    Case(
        &[("    topic: flights\n", "    topics: [a, b/c, a]\n")],
        &[
            "20:17 `b/c` is not the name of a Kafka topic: only ASCII letters, digits, `.`, `_` and `-`, at most 249 characters",
        ],
    ),
    Case(&[("    topic: flights\n", "    topics: [a, b, a]\n")], &["20:20 `a` is here twice"]),
    Case(&[("    topic: flights\n", "    topics: []\n")], &["20:5 `topics` is empty | name at least one"]),
    Case(
        &[("    topic: flights\n", "    topics: { pattern: \"flights.*\" }\n")],
        &[
            "20:24 `flights.*` does not say where a name begins | begin it with `^`: the whole name must match",
        ],
    ),
    Case(
        &[("    topic: flights\n", "    topics: { pattern: \"^flights(\" }\n")],
        &["20:24 not a regular expression: unclosed group"],
    ),
    Case(
        &[("    topic: flights\n", "    topic: flights\n    topics: [a]\n")],
        &["21:5 `flights` has both `topic` and `topics` | keep one of them"],
    ),
    Case(
        &[(
            "datasets:\n",
            "  again: { topics: { pattern: \"^f.*\" }, format: json, fields: { a: int32 } }\ndatasets:\n",
        )],
        &[
            "28:3 no dataset reads from the source `again` | remove it, or add a dataset with `from: again`",
            "28:20 topic `flights` is read by the source `flights` already | let the datasets of `again` read from `flights`",
        ],
    ),
    Case(
        &[("    topic: flights\n", "    topic: flights/2013\n")],
        &[
            "20:12 `flights/2013` is not the name of a Kafka topic: only ASCII letters, digits, `.`, `_` and `-`, at most 249 characters",
        ],
    ),
    Case(
        &[("      year: int32\n", "      year:\n")],
        &["23:7 `year` is empty | expected a text or a mapping"],
    ),
    // Datasets.
    Case(
        &[("from: flights\n    d", "from: flihgts\n    d")],
        &["30:11 there is no source `flihgts` | did you mean `flights`?"],
    ),
    Case(
        &[("name: departed,", "name: arrival_known,")],
        &["38:17 there are two expectations `arrival_known` | rename one: rows are counted by this name"],
    ),
    Case(
        &[("name: departed,", "name: undecodable,")],
        &[
            "37:17 isobar itself counts rejected records under `undecodable` | give the expectation another name",
        ],
    ),
    Case(
        &[("action: drop", "action: dorp")],
        &["37:64 unknown value `dorp` for `action` | did you mean `drop`?"],
    ),
    Case(
        &[("partition_by: [month]", "partition_by: [mnth]")],
        &["39:20 the query has no column `mnth` | did you mean `month`?"],
    ),
    Case(&[("partition_by: [month]", "partition_by: [month, month]")], &["39:27 `month` is here twice"]),
    Case(
        &[("partition_by: [month]", "partition_by: month")],
        &["39:19 `partition_by` must be a list, found a text | write a list: `[month]`"],
    ),
    Case(
        &[("compression: zstd(1)", "compression: zstd(99)")],
        &["40:18 unknown compression `zstd(99)` | expected `zstd(1)` to `zstd(22)`, `snappy` or `none`"],
    ),
    Case(&[("      FROM flights", "      FORM flights")], &["35:7 Expected: end of statement, found: FORM"]),
    Case(
        &[("arr_delay > 15 AS late", "arr_dely > 15 AS late")],
        &["33:57 No field named arr_dely | did you mean `arr_delay`?"],
    ),
    Case(
        &[("check: dep_time IS NOT NULL", "check: dep_tme IS NOT NULL")],
        &["37:34 No field named dep_tme | did you mean `dep_time`?"],
    ),
    Case(
        &[("SELECT year, month, carrier", "SELECT year, month, carrier, carrier AS \"Year\"")],
        &["33:7 output column `Year`: the name is given twice (`year`); the case of letters does not count"],
    ),
    Case(
        &[("sql: |", "sql: >"), ("arr_delay > 15 AS late", "arr_dely > 15 AS late")],
        &["33:57 No field named arr_dely | did you mean `arr_delay`?"],
    ),
    Case(
        &[("SELECT year, month, carrier", "SELECT DISTINCT year, month, carrier")],
        &[
            "33:7 DISTINCT is not possible here: records are transformed one by one as they come, so a row can depend on its own record only",
        ],
    ),
    Case(
        &[("_partition AS kafka_partition", "random() AS luck")],
        &[
            "33:7 the function random() is not possible here: the same records must always give the same rows, also when they are read again later; the time of a record is in `_timestamp`",
        ],
    ),
    Case(
        &[("      FROM flights", "      FROM weather")],
        &["35:12 there is no table weather here: the only one is the source, `flights`"],
    ),
    Case(
        &[(
            "partition_by: [month]",
            "partition_by: [month, late, kafka_offset, carrier, year, dep_time, arr_delay, kafka_partition]",
        )],
        &[
            "39:5 every column of the query names a folder; none is left for the files | leave at least one column out",
        ],
    ),
    // Several at once, all reported.
    Case(
        &[
            ("brokers: localhost:9092", "brokers: localhost:9092\n  topics: 1"),
            ("interval: 10s", "interval: 1ms"),
            ("carrier: string", "carrier: sting"),
            ("action: quarantine", "action: quarantin"),
            ("compression: zstd(1)", "compresion: zstd(1)"),
        ],
        &[
            "4:3 unknown field `topics` in `kafka` | `topics` is a field of each of `sources`",
            "17:21 `interval` is 1ms; it can be from 100ms to 1h",
            "28:16 `sting` is not a type | did you mean `string`?",
            "39:70 unknown value `quarantin` for `action` | did you mean `quarantine`?",
            "41:5 unknown field `compresion` in `flight_features` | did you mean `compression`?",
        ],
    ),
    // No YAML.
    Case(
        &[("commit: { interval: 10s, size: 256MiB }", "commit: { interval: 10s, size: 256MiB")],
        &["17:7 not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'"],
    ),
    Case(
        &[("  brokers: localhost:9092", "\tbrokers: localhost:9092")],
        &[
            "3:2 not valid YAML: tabs disallowed within this context (block indentation) | indent with spaces, not tabs",
        ],
    ),
    Case(
        &[("topology: flight_delays", "topology: flight: delays")],
        &[
            "1:17 not valid YAML: mapping values are not allowed in this context | put a text that contains `: ` in quotes",
        ],
    ),
    Case(
        &[("topology: flight_delays", "topology: flight_delays\n---\nother: document")],
        &[
            "1:1 missing field `clouds` | add `clouds`: The clouds that each hold the same datasets, byte for byte",
            "1:1 missing field `datasets` | add `datasets`: The datasets that are written, by name",
            "1:1 missing field `kafka` | add `kafka`: The Kafka cluster that is read",
            "1:1 missing field `sources` | add `sources`: The topics that are read and what their records look like, by name",
            "3:1 a second document starts here | one file describes one topology: remove the `---` and what follows it",
        ],
    ),
    Case(&[("year: int32", "year: !int 32")], &["23:13 the tag `!int` has no meaning here | remove the tag"]),
    Case(
        &[("year: int32", "1: int32")],
        &["23:7 a key must be a plain text | put the key in quotes if it is meant as a text"],
    ),
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
fn the_bandwidth_of_a_fill_is_read_as_written() {
    let with = |fill: &str| edited(&[("memory: 384MiB\n", &format!("memory: 384MiB\nfill: {fill}\n"))]);
    let topology = check(&with("{ bandwidth: 64MiB }")).unwrap();
    assert_eq!(topology.fill_bytes_per_second, Some(64 << 20));
    assert_eq!(check(&with("{}")).unwrap().fill_bytes_per_second, None);
    for (wrong, said) in [
        ("{ bandwidth: 1KiB }", "`bandwidth` is 1KiB; it must be at least 64KiB"),
        ("{ bandwidth: 2TiB }", "`bandwidth` is 2TiB; it can be at most 1TiB"),
        ("{ bandwidth: 64 }", "`bandwidth`"),
        ("{ bandwith: 64MiB }", "did you mean `bandwidth`?"),
    ] {
        let found = problems(&with(wrong));
        assert!(found.len() == 1 && found[0].contains(said), "{wrong}: {found:?}");
    }
}

#[test]
fn an_envelope_adds_its_columns_to_those_of_the_row() {
    let with = |lines: &str| edited(&[("format: json\n", &format!("format: json\n    {lines}\n"))]);
    let topology = check(&with("envelope: debezium")).unwrap_or_else(|errors| panic!("{errors}"));
    let plain = check(&with("envelope: none")).unwrap_or_else(|errors| panic!("{errors}"));
    let [source, row] = [&topology.sources[0], &plain.sources[0]];
    assert_eq!(
        source.encoding,
        Encoding::Json { payload_rows: PayloadRows::One, framed: false, envelope: Envelope::Debezium }
    );
    assert_eq!(
        row.encoding,
        Encoding::Json { payload_rows: PayloadRows::One, framed: false, envelope: Envelope::None }
    );
    let (fields, added) = source.schema.fields().split_at(row.schema.fields().len());
    assert_eq!(fields, &row.schema.fields()[..]);
    let names: Vec<&str> = added.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["_op", "_source_timestamp"]);
    let avro = check(&edited(&[
        ("memory: 384MiB\n", "memory: 384MiB\nregistry: { url: \"https://registry:8081\" }\n"),
        ("format: json\n", "format: avro\n    envelope: debezium\n"),
    ]));
    let avro = avro.unwrap_or_else(|errors| panic!("{errors}"));
    let encoding = Encoding::Avro { schemas: WriterSchemas::Registry, envelope: Envelope::Debezium };
    assert_eq!((&avro.sources[0].encoding, &avro.sources[0].schema), (&encoding, &source.schema));
    for (edits, said) in [
        (
            vec![("format: json\n", "format: csv\n    envelope: debezium\n")],
            "`envelope` has no meaning for `format: csv`",
        ),
        (vec![("format: json\n", "format: json\n    envelope: debesium\n")], "did you mean `debezium`?"),
        (
            vec![("format: json\n", "format: json\n    envelope: debezium\n    payload_rows: array\n")],
            "a payload in Debezium's envelope is one change event",
        ),
        (
            vec![("format: json\n", "format: raw\n    envelope: none\n")],
            "`envelope` has no meaning for `format: raw` | remove it; it is for `json` and `avro`",
        ),
        (
            vec![
                ("format: json\n", "format: json\n    envelope: debezium\n"),
                ("    fields:\n", "    fields:\n      _op: string\n"),
            ],
            "`_op` cannot be a field",
        ),
    ] {
        let found = problems(&edited(&edits));
        assert!(found.len() == 1 && found[0].contains(said), "{edits:?}: {found:?}");
    }
}

#[test]
fn maintenance_is_read_as_written() {
    let maintained = |maintenance: &str| {
        let written = format!("    compression: zstd(1)\n    maintenance: {maintenance}\n");
        edited(&[("    compression: zstd(1)\n", &written)])
    };
    let text = maintained(
        "{ compact: { target_file_size: 64MiB, min_files: 4 }, keep_versions: 50, checkpoint_every: 7 }",
    );
    let topology = check(&text).unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
    let compact = Some(CompactSpec { target_bytes: 64 << 20, files_min: 4 });
    let maintenance = MaintenanceSpec { compact, keep_versions: Some(50), checkpoint_every: Some(7) };
    assert_eq!(topology.datasets[0].maintenance, maintenance);
    let topology = check(&maintained("{ compact: { enabled: false }, checkpoint_every: 0 }")).unwrap();
    let nothing = MaintenanceSpec { compact: None, keep_versions: None, checkpoint_every: None };
    assert_eq!(topology.datasets[0].maintenance, nothing);
    for (wrong, said) in [
        ("{ compact: { min_files: 1 } }", "`min_files` is 1; it can be from 2 to 4096"),
        ("{ compact: { min_files: -1 } }", "-1"),
        ("{ compact: { target_file_size: 1KiB } }", "`target_file_size` is 1KiB; it must be at least 1MiB"),
        ("{ keep_versions: 0 }", "`keep_versions` is 0; it must be at least 1"),
        ("{ keep_versions: all }", "`keep_versions` must be a whole number"),
        ("{ keep_version: 5 }", "did you mean `keep_versions`?"),
        ("{ checkpoint_every: never }", "`checkpoint_every` must be a whole number"),
        ("{ checkpoint_every: -1 }", "-1"),
        ("{ checkpoints_every: 5 }", "did you mean `checkpoint_every`?"),
    ] {
        let found = problems(&maintained(wrong));
        assert!(found.len() == 1 && found[0].contains(said), "{wrong}: {found:?}");
    }
}

#[test]
fn limits_are_read_as_written() {
    let limited = |limits: &str| {
        edited(&[(
            "    compression: zstd(1)\n",
            &format!("    compression: zstd(1)\n    limits: {limits}\n"),
        )])
    };
    let text =
        limited("{ undecodable: { warn_above: 1%, fail_above: 20% }, sql_error: { fail_above: 0.5% } }");
    let topology = check(&text).unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
    let percent = |text: &str| Some(text.parse().unwrap());
    let limit = |rule: &str, warn_above, fail_above| LimitSpec { rule: rule.into(), warn_above, fail_above };
    assert_eq!(
        topology.datasets[0].limits,
        [limit("undecodable", percent("1%"), percent("20%")), limit("sql_error", None, percent("0.5%"))]
    );
    assert_eq!(check(EXAMPLE).unwrap().datasets[0].limits, []);
    for (wrong, said) in [
        ("{ undecodeable: { fail_above: 20% } }", "did you mean `undecodable`?"),
        ("{ undecodable: {} }", "the limit `undecodable` limits nothing"),
        ("{ undecodable: { fail_above: 20 } }", "`fail_above`"),
        ("{ undecodable: { fail_above: 101% } }", "101%"),
        ("{ undecodable: { fails_above: 1% } }", "did you mean `fail_above`?"),
    ] {
        let found = problems(&limited(wrong));
        assert!(found.len() == 1 && found[0].contains(said), "{wrong}: {found:?}");
    }
}

#[test]
fn dead_letters_are_read_as_written_and_never_into_a_topic_that_is_read() {
    let with = |dead_letter: &str| {
        edited(&[(
            "    compression: zstd(1)\n",
            &format!("    compression: zstd(1)\n    dead_letter: {dead_letter}\n"),
        )])
    };
    let read = |dead_letter: &str| {
        let topology = check(&with(dead_letter));
        let topology = topology.unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
        topology.datasets[0].dead_letter.clone().unwrap()
    };
    let expected = DeadLetterSpec {
        topic: "rejected".into(),
        group: "flight_delays.flight_features.dead_letter".into(),
        from_version: 0,
    };
    assert_eq!(read("{ topic: rejected }"), expected);
    let expected = DeadLetterSpec { group: "g.1".into(), from_version: 7, ..expected };
    assert_eq!(read("{ topic: rejected, group: g.1, from_version: 7 }"), expected);
    assert_eq!(check(EXAMPLE).unwrap().datasets[0].dead_letter, None);
    for (wrong, said) in [
        ("{ topic: flights }", "`flights` is read by the source `flights`"),
        ("{ group: g }", "missing field `topic`"),
        ("{ topic: a b }", "topic"),
        ("{ topic: a, group: \"\" }", "group"),
        ("{ topic: a, from_version: -1 }", "-1"),
        ("{ topics: a }", "topic"),
    ] {
        let found = problems(&with(wrong));
        assert!(
            !found.is_empty() && found.iter().any(|problem| problem.contains(said)),
            "{wrong}: {found:?}"
        );
    }
    // Also where only a pattern reads it.
    let text =
        with("{ topic: flights-dead }").replace("topic: flights\n", "topics: { pattern: \"^flights.*\" }\n");
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].contains("would come back as new ones"), "{found:?}");
}

#[test]
fn no_two_datasets_keep_the_progress_of_their_dead_letters_in_one_group() {
    let text = |other: &str| {
        let first = "    compression: zstd(1)\n    dead_letter: { topic: rejected, group: g }\n";
        let text = edited(&[("    compression: zstd(1)\n", first)]);
        format!("{text}  more: {{ from: flights, sql: SELECT year FROM flights, dead_letter: {other} }}\n")
    };
    assert_eq!(problems(&text("{ topic: rejected }")), Vec::<String>::new());
    let found = problems(&text("{ topic: other, group: g }"));
    assert!(found.len() == 1 && found[0].contains("`g` is the group of the dead letters of"), "{found:?}");
}

#[test]
fn rows_are_published_as_written_and_never_into_a_topic_that_is_read() {
    let with = |publish: &str| {
        edited(&[(
            "    compression: zstd(1)\n",
            &format!("    compression: zstd(1)\n    publish: {publish}\n"),
        )])
    };
    let read = |publish: &str| {
        let topology = check(&with(publish));
        let topology = topology.unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)));
        topology.datasets[0].publish.clone().unwrap()
    };
    assert!(check(EXAMPLE).unwrap().datasets[0].publish.is_none());
    let spec = read("{ topic: scored }");
    assert_eq!(
        (spec.topic.as_str(), spec.group.as_str()),
        ("scored", "flight_delays.flight_features.publish")
    );
    assert_eq!((spec.from_version, spec.key.len(), &spec.columns), (0, 0, &None));
    assert!(spec.kafka.is_none());
    let spec = read(
        "{ topic: scored, key: carrier, format: json, columns: [month, carrier], group: g.1, from_version: 7 }",
    );
    assert_eq!(
        (&spec.key[..], spec.columns.unwrap()),
        (&["carrier".to_owned()][..], vec!["month".to_owned(), "carrier".to_owned()])
    );
    assert_eq!((spec.group.as_str(), spec.from_version), ("g.1", 7));
    assert_eq!(read("{ topic: scored, key: [carrier, month] }").key, ["carrier", "month"]);

    // Another cluster may have a topic of the same name.
    let kafka = read("{ topic: flights, kafka: { brokers: \"far:9092\", cluster_id: far } }").kafka.unwrap();
    assert_eq!((kafka.brokers.as_str(), kafka.cluster_id.as_deref()), ("far:9092", Some("far")));

    for (wrong, said) in [
        ("{ topic: flights }", "`flights` is read by the source `flights`"),
        ("{ key: a }", "missing field `topic`"),
        ("{ topic: a b }", "topic"),
        ("{ topic: a, group: \"\" }", "group"),
        ("{ topic: a, from_version: -1 }", "-1"),
        ("{ topic: a, format: xml }", "xml"),
        ("{ topics: a }", "topic"),
        ("{ topic: a, key: nowhere }", "the query has no column `nowhere`"),
        ("{ topic: a, key: [nowhere] }", "the query has no column `nowhere`"),
        ("{ topic: a, key: [] }", "`key` names no column"),
        ("{ topic: a, columns: [] }", "`columns` names no column"),
        ("{ topic: a, columns: [nowhere] }", "the query has no column `nowhere`"),
        ("{ topic: a, columns: [year, year] }", "`year` is named twice"),
        ("{ topic: a, kafka: {} }", "brokers"),
        ("{ topic: a, kafka: { brokers: a b } }", "`a b` is not the address of a broker"),
        (
            "{ topic: a, kafka: { brokers: \"far:9092\", options: { sasl.password: hunter2 } } }",
            "is a secret",
        ),
        ("{ topic: a, kafka: { brokers: \"far:9092\", options: { group.id: g } } }", "group.id"),
    ] {
        let found = problems(&with(wrong));
        assert!(
            !found.is_empty() && found.iter().any(|problem| problem.contains(said)),
            "{wrong}: {found:?}"
        );
        assert!(found.iter().all(|problem| !problem.contains("hunter2")), "{found:?}");
    }
    // Also where only a pattern reads it.
    let text = with("{ topic: flights-scored }")
        .replace("topic: flights\n", "topics: { pattern: \"^flights.*\" }\n");
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].contains("would come back as records"), "{found:?}");
}

#[test]
fn a_group_keeps_the_progress_of_one_table_only() {
    let text = |first: &str, more: &str| {
        let text =
            edited(&[("    compression: zstd(1)\n", &format!("    compression: zstd(1)\n    {first}\n"))]);
        format!("{text}  more: {{ from: flights, sql: SELECT year FROM flights, {more} }}\n")
    };
    let letters = "dead_letter: { topic: a, group: g }";
    let rows = "publish: { topic: a, group: g }";
    let both = "dead_letter: { topic: a, group: g }\n    publish: { topic: a, group: g }";
    let own = "publish: { topic: a }";
    assert_eq!(problems(&text(rows, own)), Vec::<String>::new());
    assert_eq!(problems(&text(letters, own)), Vec::<String>::new());
    for (first, more, said) in [
        (rows, rows, "`g` is the group of the published rows of"),
        (rows, letters, "`g` is the group of the published rows of"),
        (letters, rows, "`g` is the group of the dead letters of"),
        (both, own, "`g` is the group of the dead letters of"),
    ] {
        let found = problems(&text(first, more));
        assert!(found.len() == 1 && found[0].contains(said), "{first}, {more}: {found:?}");
    }
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
    for round in 0..1_500 {
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
