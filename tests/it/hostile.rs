//! Queries that mean no good (`tests/sql/hostile.sql`), through the binary and through one catalog that has to stay up: each ends as
//! the catalogue says, within its memory, without a word about where the data lies, and an ordinary query is answered afterwards.

use std::path::Path;
use std::time::Duration;

use isobar_tests::events::{self, FEATURES_YAML, Generator};
use isobar_tests::hostile::{Expected, Hostile, catalogue};
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Output, binary, run};
use isobar_topologies::Error;
use isobar_topologies::query::{Catalog, Freshness, QueryLimits, RowsFormat, catalog_in};
use isobar_topologies::serve::Refusal;
use tokio::process::Command;

/// Resident memory that no hostile query may exceed: the program, 128 MiB for operators, and batches on their way.
const RESIDENT_BYTES_MAX: u64 = 1 << 30;
/// Long enough for all that ends by itself; what has no end is met by this.
const TIME: &str = "5s";
/// What is in the environment of the program and nowhere else.
const ENVIRONMENT_SECRET: &str = "heron-in-the-reeds";

/// Runs a program with a file as its standard input; prints the most memory that it had to standard error.
const MEASURED: &str = "
import resource, subprocess, sys
with open(sys.argv[1], 'rb') as sql:
    code = subprocess.run(sys.argv[2:], stdin=sql).returncode
print('resident KiB:', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code if code >= 0 else 128 - code)
";

const ORDINARY: &str = "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM features";

async fn filled() -> Lab {
    let lab = Lab::in_directories();
    let topology = lab.features();
    let mut records = Generator::mixed(Seed::of("hostile").prng());
    lab.fill(&topology, &mut records, 40).await;
    lab
}

/// What no answer and no error may hold.
fn secrets(lab: &Lab) -> Vec<String> {
    let mut secrets: Vec<String> = vec![
        lab.directory.path().display().to_string(),
        lab.broker.bootstrap_servers(),
        ENVIRONMENT_SECRET.to_owned(),
        "file://".to_owned(),
        ".parquet".to_owned(),
        ".cargo".to_owned(),
        "panicked".to_owned(),
        "root:x:".to_owned(),
    ];
    let folders = lab.clouds.iter().filter_map(|cloud| cloud.folder.as_ref());
    secrets.extend(folders.map(|folder| folder.display().to_string()));
    secrets.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1));
    secrets
}

/// What is wrong with the end of a case, if anything. `ended` is all that it may have been.
fn fault(case: &Hostile, ended: &[Expected], text: &str, secrets: &[String]) -> Option<String> {
    let is_expected = ended.contains(&case.expected);
    // A query may name a file itself, and the error then says which.
    let told = secrets.iter().find(|secret| text.contains(*secret) && !case.sql.contains(*secret));
    match told {
        Some(secret) => Some(format!("it tells {secret}")),
        None if !is_expected => Some(format!("not {:?}, which is expected, but {ended:?}", case.expected)),
        None if !text.contains(&case.text) => Some(format!("{:?} is not said", case.text)),
        None => None,
    }
}

fn shown(case: &Hostile, fault: &str, text: &str) -> String {
    let text: String = text.chars().take(600).collect();
    format!("{}: {fault}\n    {}", case.name, text.replace('\n', "\n    "))
}

/// Memory that the program had at most.
fn resident_bytes(output: &Output) -> u64 {
    let line = output.stderr.lines().find_map(|line| line.strip_prefix("resident KiB: "));
    line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_else(|| panic!("nothing was measured: {output}"))
        << 10
}

async fn run_measured(lab: &Lab, spec: &Path, sql: &str) -> Output {
    let file = write_file(&lab.directory.path().join("query.sql"), sql);
    let mut command = Command::new("python3");
    command.args(["-c", MEASURED]).arg(file).arg(binary());
    command.args(["query", "-", "--as-served", "--format", "csv", "--timeout", TIME, "--config"]).arg(spec);
    command.env("ISOBAR_TEST_SECRET", ENVIRONMENT_SECRET).env("NO_COLOR", "1").kill_on_drop(true);
    command.env_remove("ISOBAR_LOG").env_remove("ISOBAR_FAILPOINT");
    run(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_each_hostile_query_within_its_memory_and_tells_nothing() {
    let lab = filled().await;
    let spec = lab.spec(events::SOURCE, FEATURES_YAML).written();
    let secrets = secrets(&lab);
    let ordinary = run_measured(&lab, &spec, ORDINARY).await;
    ordinary.assert(0, &["n,ids"]);
    let cases = catalogue();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        let output = run_measured(&lab, &spec, &case.sql).await;
        let resident = resident_bytes(&output);
        let text = output.text();
        let found = match output.code {
            Some(0) => fault(case, &[Expected::Answer], &text, &secrets),
            // Which of the two it is, the catalog says below.
            Some(1 | 2) => fault(case, &[Expected::Refused, Expected::Limit], &text, &secrets),
            code => Some(format!("it died: {code:?}")),
        };
        let found = found
            .or_else(|| (resident > RESIDENT_BYTES_MAX).then(|| format!("it took {} MiB", resident >> 20)));
        faults.extend(found.map(|fault| shown(case, &fault, &text)));
    }
    assert!(!Path::new("/tmp/isobar-hostile.parquet").exists());
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
    let afterwards = run_measured(&lab, &spec, ORDINARY).await;
    assert_eq!(afterwards.stdout, ordinary.stdout);
}

/// All of an answer, or the error.
async fn text(catalog: &Catalog, sql: &str, limits: &QueryLimits) -> Result<String, Error> {
    let mut answer = catalog.query_within(sql, limits, &Freshness::default()).await?;
    let mut text = String::new();
    while let Some(piece) = answer.next_text(RowsFormat::Csv).await? {
        // An answer may be large; only how it begins is looked at.
        if text.len() < 1 << 20 {
            text.push_str(&piece);
        }
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_catalog_answers_an_ordinary_query_after_each_hostile_one() {
    let lab = filled().await;
    let topology = lab.features();
    let catalog = catalog_in(&topology, &lab.opened()).unwrap();
    let limits = QueryLimits { time: Some(Duration::from_secs(3)), ..QueryLimits::served() };
    // Whoever is slow must not hold up the others.
    let patient = QueryLimits { time: Some(Duration::from_secs(240)), ..QueryLimits::served() };
    let expected = text(&catalog, ORDINARY, &patient).await.unwrap();
    let secrets = secrets(&lab);
    let mut faults = Vec::new();
    for case in catalogue() {
        let answer = text(&catalog, &case.sql, &limits).await;
        let ended: &[Expected] = match &answer {
            Ok(_) => &[Expected::Answer],
            Err(Error::Limit { .. }) => &[Expected::Limit],
            Err(Error::Configuration(_)) => &[Expected::Refused],
            Err(_) => &[],
        };
        let said = answer.unwrap_or_else(|error| Refusal::from(error).to_string());
        faults.extend(fault(&case, ended, &said, &secrets).map(|fault| shown(&case, &fault, &said)));
        assert_eq!(text(&catalog, ORDINARY, &patient).await.unwrap(), expected, "after {}", case.name);
    }
    assert!(faults.is_empty(), "{} cases:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_from_others_is_shown_to_whoever_holds_the_topology() {
    let lab = filled().await;
    let topology = lab.features();
    let catalog = catalog_in(&topology, &lab.opened()).unwrap();
    let own = QueryLimits::default();
    for (sql, part) in [
        ("SHOW ALL", "datafusion.execution"),
        ("SELECT version()", "DataFusion"),
        ("EXPLAIN SELECT * FROM features", ".parquet"),
    ] {
        let answer = text(&catalog, sql, &own).await.unwrap();
        assert!(answer.contains(part), "{sql}: {answer}");
        let others = text(&catalog, sql, &QueryLimits::served()).await;
        assert!(!others.is_ok_and(|answer| answer.contains(part)), "{sql}");
    }
}
