//! Contracts that are wrong, or that a query does not keep, and exactly what is said about them.

use super::super::schema::{CONTRACT_EXAMPLE, EXAMPLE};
use super::super::{Colour, SpecErrors, Topology, check_text};
use super::*;

/// What the example says in the place of which it can name a contract.
const DESCRIPTION_LINE: &str = "    description: One row per departed flight with a known arrival delay.\n";
const CONTRACT_LINE: &str = "    contract: ./contract.yaml\n";

/// `text` with each `from` replaced by its `to`.
fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert_eq!(text.matches(from).count(), 1, "{from:?} is not there exactly once");
        text = text.replace(from, to);
    }
    text
}

/// The example, with `edits`, naming a contract.
fn spec(edits: &[(&str, &str)]) -> String {
    edited(&edited(EXAMPLE, &[(DESCRIPTION_LINE, CONTRACT_LINE)]), edits)
}

fn check(spec: &str, contract: &[u8]) -> Result<Topology, SpecErrors> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("contract.yaml"), contract).unwrap();
    check_text(spec, "specs/topology.yaml", folder.path(), CheckOptions::default())
}

fn checked(spec: &str, contract: &str) -> Topology {
    check(spec, contract.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render(Colour::None)))
}

/// Every problem as `file:line:column message`, and ` | help` where there is some; the file without its ending.
fn problems(spec: &str, contract: &[u8]) -> Vec<String> {
    let Err(errors) = check(spec, contract) else { return Vec::new() };
    let describe = |problem: Problem| {
        let help = problem.suggestion.map(|help| format!(" | {help}")).unwrap_or_default();
        let file = problem.file.trim_start_matches("specs/").trim_end_matches(".yaml");
        format!("{file}:{}:{} {}{help}", problem.line, problem.column, problem.message)
    };
    errors.problems.into_iter().map(describe).collect()
}

#[test]
fn a_contract_says_what_the_dataset_is_and_what_its_rows_must_meet() {
    let topology = checked(&spec(&[]), CONTRACT_EXAMPLE);
    let dataset = &topology.datasets[0];
    let contract = dataset.contract.as_ref().unwrap();
    assert_eq!((contract.name.as_str(), contract.version.as_str()), ("flight features", "1.2.0"));
    let owner = Owner { name: "Flight data".into(), contact: Some("flights@example.com".into()) };
    assert_eq!(contract.owners, [owner]);
    let names: Vec<&str> = contract.columns.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["year", "month", "carrier", "dep_time", "arr_delay", "late", "kafka_partition", "kafka_offset"]
    );
    let description = "One row per departed flight with a known arrival delay.";
    assert_eq!(dataset.description.as_deref(), Some(description));
    let rules: Vec<&str> = dataset.expectations.iter().map(|expectation| expectation.name.as_str()).collect();
    assert_eq!(rules, ["departed", "arrival_known", "plausible_month"]);
}

#[test]
fn a_contract_may_say_little() {
    let columns = "{ year: int32, month: int32, carrier: string, dep_time: int32, arr_delay: int32, late: boolean, kafka_partition: int32, kafka_offset: int64 }";
    let contract = format!("name: n\nversion: v\ncolumns: {columns}\n");
    let with_both = edited(EXAMPLE, &[(DESCRIPTION_LINE, &format!("{DESCRIPTION_LINE}{CONTRACT_LINE}"))]);
    let topology = checked(&with_both, &contract);
    let dataset = &topology.datasets[0];
    assert!(dataset.description.as_deref().unwrap().starts_with("One row per departed flight"));
    assert_eq!(dataset.expectations.len(), 2);
    let contract = dataset.contract.as_ref().unwrap();
    assert_eq!(contract.owners, []);
    // A column that is never null may be promised as one that may be.
    assert!(contract.column("kafka_offset").unwrap().nullable);
    // Without a contract nothing is promised.
    assert_eq!(checked(EXAMPLE, "").datasets[0].contract, None);
}

#[test]
fn the_table_shows_descriptions_with_their_units() {
    let topology = checked(&spec(&[]), CONTRACT_EXAMPLE);
    let contract = topology.datasets[0].contract.as_ref().unwrap();
    let int = |name: &str| Field::new(name, arrow::datatypes::DataType::Int32, false);
    let bare = Schema::new(vec![int("arr_delay"), int("year"), int("carrier"), int("not_promised")]);
    let documented = contract.documented(&bare);
    let about = |name: &str| documented.field_with_name(name).unwrap().metadata().clone();
    let said = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    };
    let comment = "Delay of the arrival; negative is early [minutes]";
    assert_eq!(about("arr_delay"), said(&[(DESCRIPTION, comment), (UNIT, "minutes")]));
    assert_eq!(about("carrier"), said(&[(DESCRIPTION, "Two-character IATA code of the carrier")]));
    assert_eq!((about("year"), about("not_promised")), (said(&[]), said(&[])));
    let undocumented = |field: &std::sync::Arc<Field>| field.as_ref().clone().with_metadata(HashMap::new());
    let fields: Vec<Field> = documented.fields().iter().map(undocumented).collect();
    assert_eq!(Schema::new(fields), bare);
    let unit_only = FieldSpec { unit: Some("m".into()), ..FieldSpec::nullable("int32") };
    assert_eq!(documentation(&unit_only), said(&[(DESCRIPTION, "[m]"), (UNIT, "m")]));
}

#[test]
fn limits_may_name_expectations_of_the_contract() {
    let compression = "    compression: zstd(1)\n";
    let limited = |rule: &str| {
        let limits = format!("{compression}    limits: {{ {rule}: {{ fail_above: 20% }} }}\n");
        spec(&[(compression, &limits)])
    };
    let topology = checked(&limited("plausible_month"), CONTRACT_EXAMPLE);
    assert_eq!(topology.datasets[0].limits[0].rule, "plausible_month");
    let found = problems(&limited("plausible_moth"), CONTRACT_EXAMPLE.as_bytes());
    assert_eq!(
        found,
        [
            "topology:41:15 `plausible_moth` is no expectation of this dataset | did you mean `plausible_month`?"
        ]
    );
    // While the contract is wrong, nobody knows what it expects.
    let wrong = edited(CONTRACT_EXAMPLE, &[("action: quarantine", "action: quarantin")]);
    assert_eq!(
        problems(&limited("plausible_month"), wrong.as_bytes()),
        ["contract:16:69 unknown value `quarantin` for `action` | did you mean `quarantine`?"]
    );
}

/// One edit of the contract, and everything that is then wrong.
struct Case(&'static [(&'static str, &'static str)], &'static [&'static str]);

const NEVER_NULL: &str = "write `nullable: true`, and an expectation for what should not be: never null for certain are fields of the source with `nullable: false`, as they are or cast, literals, and metadata such as `_offset`";

const CASES: &[Case] = &[
    // The contract by itself.
    Case(
        &[("name: flight features\n", "")],
        &["contract:1:1 missing field `name` | add `name: flight features`"],
    ),
    Case(&[("name: flight features\n", "name: \" \"\n")], &["contract:1:7 `name` is empty"]),
    Case(
        &[("version: 1.2.0", "version: 1.2")],
        &["contract:2:10 `version` must be a text such as `1.2.0`, found the number 1.2"],
    ),
    Case(&[("owners:", "owner:")], &["contract:4:1 unknown field `owner` | did you mean `owners`?"]),
    Case(
        &[("contact: flights", "mail: flights")],
        &["contract:5:26 unknown field `mail` in item 1 of `owners` | expected `name` or `contact`"],
    ),
    Case(
        &[("  year: int32", "  year: int23")],
        &["contract:7:9 `int23` is not a type | did you mean `int32`?"],
    ),
    Case(
        &[("late: { type: boolean", "late: { typ: boolean")],
        &["contract:12:11 unknown field `typ` in `late` | did you mean `type`?"],
    ),
    Case(
        &[("  year: int32\n", "  year: int32\n  year: int64\n")],
        &["contract:8:3 `year` is here twice | remove or rename one of the two"],
    ),
    Case(
        &[("unit: 1 to 12", "unit: \"\\e[31m\"")],
        &["contract:8:68 `unit` has the control character '\\u{1b}' in it"],
    ),
    Case(
        &[("name: plausible_month", "name: undecodable")],
        &[
            "contract:16:13 isobar itself counts rejected records under `undecodable` | give the expectation another name",
        ],
    ),
    Case(&[("check: month", "check: mnth")], &["contract:16:37 No field named mnth | did you mean `month`?"]),
    Case(
        &[("version: 1.2.0", "version: 1.2.0\n---\nmore: 1")],
        &[
            "contract:1:1 missing field `columns` | add `columns`: All columns of the dataset, by name, those that become folders included",
            "contract:4:1 a second document starts here | one file holds one contract: remove the `---` and what follows it",
        ],
    ),
    // The contract and the rest of the dataset.
    Case(
        &[("name: plausible_month", "name: departed")],
        &[
            "topology:37:17 the contract has an expectation `departed` too | remove this one, or rename it: rows are counted by this name",
        ],
    ),
    Case(
        &[("  year: int32\n", "  year: int32\n  terminal: string\n")],
        &[
            "contract:8:3 the query of `flight_features` has no column `terminal` | select it in the query, or remove it here",
        ],
    ),
    Case(
        &[("  carrier: {", "  carier: {")],
        &[
            "topology:33:7 the contract has no column `carrier`, of type string | add `carrier: string` to `columns` of specs/contract.yaml, or leave it out of the query",
            "contract:9:3 the query of `flight_features` has no column `carier` | did you mean `carrier`?",
        ],
    ),
    Case(
        &[(
            "  kafka_offset: { type: int64, nullable: false, description: Position of the record in its partition }\n",
            "",
        )],
        &[
            "topology:33:7 the contract has no column `kafka_offset`, of type int64 | add `kafka_offset: { type: \"int64\", nullable: false }` to `columns` of specs/contract.yaml, or leave it out of the query",
        ],
    ),
    Case(
        &[("  year: int32", "  year: int64")],
        &[
            "contract:7:9 `year` is int32 in the query of `flight_features`, not int64 | cast it in the query, or write `int32` here",
        ],
    ),
    Case(
        &[("late: { type: boolean", "late: { type: \"struct<a: string>\"")],
        &[
            "contract:12:17 `late` is boolean in the query of `flight_features`, not struct<a: string> | cast it in the query, or write `boolean` here",
        ],
    ),
];

#[test]
fn every_problem_is_reported_at_its_place() {
    let mut wrong = Vec::new();
    for Case(edits, expected) in CASES {
        let found = problems(&spec(&[]), edited(CONTRACT_EXAMPLE, edits).as_bytes());
        if found != *expected {
            wrong.push(format!("{edits:?}\n{found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn what_may_be_null_is_not_promised_as_never_null() {
    let promised =
        edited(CONTRACT_EXAMPLE, &[("late: { type: boolean,", "late: { type: boolean, nullable: false,")]);
    let found = problems(&spec(&[]), promised.as_bytes());
    assert_eq!(
        found,
        [format!("contract:12:36 `late` may be null in the query of `flight_features` | {NEVER_NULL}")]
    );
    // What the source requires is never null, as it is or cast.
    let required = [
        ("arr_delay: int32", "arr_delay: { type: int32, nullable: false }"),
        ("arr_delay > 15 AS late", "CAST(arr_delay AS BIGINT) AS late"),
    ];
    let promised = edited(
        CONTRACT_EXAMPLE,
        &[
            ("late: { type: boolean,", "late: { type: int64, nullable: false,"),
            ("arr_delay: { type: int32,", "arr_delay: { type: int32, nullable: false,"),
        ],
    );
    checked(&spec(&required), &promised);
}

#[test]
fn a_dataset_is_described_once() {
    let with_both = edited(EXAMPLE, &[(DESCRIPTION_LINE, &format!("{DESCRIPTION_LINE}{CONTRACT_LINE}"))]);
    assert_eq!(
        problems(&with_both, CONTRACT_EXAMPLE.as_bytes()),
        [
            "topology:31:5 the contract describes `flight_features` already | remove this description, or the one there"
        ]
    );
}

#[test]
fn files_that_are_no_contracts_are_refused() {
    let spec = spec(&[]);
    let large = vec![b'#'; CONTRACT_BYTES_MAX + 1];
    let help = "paths are relative to the spec";
    for (content, expected) in [
        (
            &b""[..],
            "contract:1:1 the contract is empty | `isobar schema contract` prints what a contract may hold, with an example"
                .to_owned(),
        ),
        (&b"- a\n"[..], "contract:1:1 the contract must be a mapping, found a list".to_owned()),
        (&b"a: [1"[..], "contract:".to_owned()),
        (
            &b"a: 1\nb: \xff\n"[..],
            format!("topology:31:15 `./contract.yaml` cannot be read: it is not UTF-8: line 2 holds other bytes | {help}"),
        ),
        (
            &large[..],
            format!("topology:31:15 `./contract.yaml` cannot be read: it is larger than 1MiB | {help}"),
        ),
    ] {
        let found = problems(&spec, content);
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
    }
    let elsewhere = spec.replace("./contract.yaml", "./contracts/none.yaml");
    let found = problems(&elsewhere, b"");
    let expected =
        "topology:31:15 `./contracts/none.yaml` cannot be read: No such file or directory (os error 2)";
    assert_eq!(found, [format!("{expected} | {help}")]);
}

#[test]
fn words_are_bounded_also_those_that_an_alias_repeats() {
    let long = "x".repeat(DESCRIPTION_CHARACTERS_MAX + 1);
    let found = problems(&spec(&[]), edited(CONTRACT_EXAMPLE, &[("Time of departure", &long)]).as_bytes());
    assert_eq!(found, ["contract:10:41 `description` has 4001 characters; at most 4000 are possible"]);
    let words = "x".repeat(DESCRIPTION_CHARACTERS_MAX);
    let mut contract = format!("name: n\nversion: v\ndescription: &words {words}\ncolumns:\n");
    for column in 0..300 {
        contract.push_str(&format!("  c{column}: {{ type: int32, description: *words }}\n"));
    }
    let found = problems(&spec(&[]), contract.as_bytes());
    assert_eq!(found, ["contract:4:1 descriptions and units are larger than 1MiB together"]);
}

#[test]
fn a_rendering_shows_the_line_of_the_contract() {
    let wrong = edited(CONTRACT_EXAMPLE, &[("late: { type: boolean", "late: { type: int32")]);
    let spec = spec(&[("interval: 10s", "interval: 1ms")]);
    let errors = check(&spec, wrong.as_bytes()).unwrap_err();
    let caret = format!("      | {}^^^^^\n", " ".repeat(16));
    let expected = format!(
        "specs/contract.yaml:12:17: error: `late` is boolean in the query of `flight_features`, not int32\n   12 |   late: {{ type: int32, description: Whether the arrival was more than 15 minutes late }}\n{caret}      = help: cast it in the query, or write `boolean` here\n\n2 problems in specs/topology.yaml, specs/contract.yaml\n"
    );
    let rendered = errors.render(Colour::None);
    assert!(rendered.ends_with(&expected), "{rendered}");
    assert!(rendered.starts_with("specs/topology.yaml:16:21: error: `interval` is 1ms"), "{rendered}");
    assert_eq!(errors.to_json()["problems"][1]["file"], "specs/contract.yaml");
}

#[test]
fn secrets_in_a_contract_are_not_shown() {
    let address = "{ name: Flight data, contact: flights@example.com }";
    for contract in [
        edited(CONTRACT_EXAMPLE, &[(address, "{ name: 7, contact: \"https://me:hunter2@host\" }")]),
        edited(CONTRACT_EXAMPLE, &[(address, "{ name: a, password: hunter2 }")]),
        "password: hunter2\n  - [".to_owned(),
    ] {
        let errors = check(&spec(&[]), contract.as_bytes()).unwrap_err();
        let rendered = errors.render(Colour::None);
        assert!(!rendered.contains("hunter2"), "{rendered}");
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
}
