//! `isobar run` dies by SIGKILL at every failpoint, once, and the next run puts everything right.
//!
//! Children of the built binary, an embedded broker and directories as clouds; which cloud it is rotates from point to
//! point. `tests/drills/kill_cells.py` does the same against real services, for every cloud and more often.

use isobar_connectors::failpoint::{self, Failpoint};
use isobar_tests::events::{self, Content, Event, Generator, Record, TOPIC};
use isobar_tests::kill;
use isobar_tests::lab::{CLOUDS, Lab};
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::program::{Background, isobar, run, run_isobar};
use isobar_tests::wait::until;

/// Records before the kill, and after it.
const RECORDS: usize = 400;

/// Records and length of the text in each that make a file of more than one part.
const LARGE: (usize, usize) = (8400, 1500);

/// Which time a point is reached when rows are on their way: the header is the first record, tables and first
/// positions the second one, and each of them has two versions.
fn hit_with_rows(point: &Failpoint) -> u32 {
    match point.name {
        "decide.before-put" | "decide.after-put" | "publish.before-put" | "publish.after-put" => 3,
        "decide.before-accept" | "decide.after-majority" => 2,
        _ => 1,
    }
}

fn is_of_large_files(point: &Failpoint) -> bool {
    let large = [
        &failpoint::UPLOAD_BEFORE_PART,
        &failpoint::UPLOAD_AFTER_PART,
        &failpoint::UPLOAD_BEFORE_COMPLETE,
        &failpoint::UPLOAD_AFTER_COMPLETE,
    ];
    large.contains(&point)
}

/// The value of the environment variable that makes a process act at `point`.
fn armed(point: &Failpoint, cloud: &str, action: &str) -> String {
    let order = kill::order(point, cloud, hit_with_rows(point), action);
    match point.name {
        // The cloud misses the files because their uploads fail.
        "fill.before-file" | "fill.after-file" => format!("upload.before-put@{cloud}:1+=error,{order}"),
        _ => order,
    }
}

/// One event whose text does not compress to less than three quarters.
fn large_record(id: i64, prng: &mut Prng) -> Record {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let city: String = (0..LARGE.1).map(|_| char::from(*prng.pick(alphabet))).collect();
    let event = Event { city: Some(city), at_micros: None, ..Event::plain(id) };
    let payload = serde_json::json!({
        "id": event.id, "city": event.city, "amount": event.amount, "items": event.items, "flag": event.flag,
    });
    Record {
        key: None,
        payload: Some(payload.to_string().into_bytes()),
        timestamp_ms: 1_400_000_000_000 + id,
        content: Content::Event(event),
    }
}

/// A lab, its spec in a file, and what it produces next.
struct Cell {
    lab: Lab,
    spec: String,
    records: Generator,
}

impl Cell {
    fn new(seed: Seed, is_large: bool) -> Self {
        let lab = Lab::in_directories();
        let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
        if is_large {
            // One commit, when everything has been read.
            spec.commit = "{ interval: 1h, size: 256MiB }".into();
        }
        let spec = spec.written().to_str().expect("paths of tests are UTF-8").to_owned();
        let cell = Self { lab, spec, records: Generator::mixed(seed.prng()) };
        if is_large {
            let mut prng = seed.prng();
            let records = (0..LARGE.0).map(|index| large_record(1_000_000 + index as i64, &mut prng));
            cell.lab.produce(TOPIC, records.collect::<Vec<_>>());
        }
        cell
    }

    fn produce(&mut self) {
        self.lab.produce(TOPIC, self.records.records(RECORDS));
    }

    /// What must have happened for `point` to be reached: older epochs to seal, or a cloud that was away.
    async fn history(&mut self, point: &Failpoint, cloud: &str) {
        let is_seal = [&failpoint::ELECT_BEFORE_SEAL, &failpoint::ELECT_AFTER_SEAL].contains(&point);
        let is_fill = [&failpoint::FILL_BEFORE_VERSION, &failpoint::FILL_AFTER_VERSION].contains(&point);
        if is_seal || is_fill {
            self.catch_up().await;
            self.produce();
        }
        if is_fill {
            let mut command = isobar(&["run", &self.spec, "--until-caught-up"]);
            command.env(failpoint::VARIABLE, format!("publish.before-put@{cloud}:1+=error"));
            run(&mut command).await.assert(0, &["cloud is away"]);
            self.produce();
        }
    }

    async fn catch_up(&self) {
        run_isobar(&["run", &self.spec, "--until-caught-up"]).await.assert(0, &[]);
    }

    /// The next run catches up, and everything that was produced is in every cloud, once.
    async fn put_right(mut self) {
        self.produce();
        self.catch_up().await;
        self.lab.assert_whole().await;
    }
}

async fn survives_a_kill(point: &'static Failpoint, cloud: &str) {
    let seed = Seed::of(point.name);
    let mut cell = Cell::new(seed, is_of_large_files(point));
    cell.produce();
    cell.history(point, cloud).await;
    let mut command = isobar(&["run", &cell.spec, "--until-caught-up"]);
    let output = run(command.env(failpoint::VARIABLE, armed(point, cloud, "kill"))).await;
    assert_eq!(output.code, None, "{} in {cloud} was not reached, or did not kill\n{output}", point.name);
    assert!(output.stderr.contains("action=Kill"), "{} in {cloud}\n{output}", point.name);
    cell.put_right().await;
}

/// Every point whose name begins with `part`, each in the cloud whose turn it is.
async fn survives_kills(part: &str) {
    for (number, point) in failpoint::ALL.iter().enumerate().filter(|(_, point)| point.name.starts_with(part))
    {
        survives_a_kill(point, CLOUDS[number % CLOUDS.len()]).await;
    }
}

/// The parts of the work that have failpoints and a test below.
const PARTS: [&str; 6] = ["elect.", "consume.", "upload.", "decide.", "publish.", "fill."];

/// The other parts, tested elsewhere: `maintenance` and `mirrored_checkpoints` have runs that go on, `workers` several
/// processes, `scrub_kills` and `redrive` another command.
const PARTS_ELSEWHERE: [&str; 7] =
    ["maintain.", "checkpoint.", "worker.", "group.", "repair.", "readmit.", "redrive."];

#[test]
fn every_failpoint_belongs_to_a_part_that_is_tested() {
    for point in failpoint::ALL {
        let mut parts = PARTS.iter().chain(&PARTS_ELSEWHERE);
        assert!(parts.any(|part| point.name.starts_with(part)), "{}", point.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_is_elected_loses_and_doubles_nothing() {
    survives_kills(PARTS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_consumes_loses_and_doubles_nothing() {
    survives_kills(PARTS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_uploads_loses_and_doubles_nothing() {
    survives_kills(PARTS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_decides_loses_and_doubles_nothing() {
    survives_kills(PARTS[3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_publishes_loses_and_doubles_nothing() {
    survives_kills(PARTS[4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_it_fills_a_cloud_loses_and_doubles_nothing() {
    survives_kills(PARTS[5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_in_the_middle_of_a_commit_stops_by_itself_when_it_wakes() {
    let points = [
        &failpoint::CONSUME_BEFORE_CLOSE,
        &failpoint::DECIDE_BEFORE_PUT,
        &failpoint::DECIDE_AFTER_PUT,
        &failpoint::PUBLISH_BEFORE_PUT,
    ];
    for (number, point) in points.into_iter().enumerate() {
        let mut cell = Cell::new(Seed::of(point.name), false);
        cell.produce();
        let folder = cell.lab.directory.path().to_owned();
        let mut command = isobar(&["run", &cell.spec]);
        command.env(failpoint::VARIABLE, armed(point, CLOUDS[number % CLOUDS.len()], "pause"));
        let frozen = Background::start(&mut command, &folder.join("frozen.log"));
        frozen.says("failpoint reached").await;
        let second = Background::start(&mut isobar(&["run", &cell.spec]), &folder.join("second.log"));
        second.says("consuming").await;
        cell.produce();
        until("the second process has committed", async || cell.lab.clouds_complete().await >= 2).await;
        frozen.signal("CONT").await;
        // The woken process finds its epoch sealed as soon as it wants to commit something.
        cell.produce();
        frozen.ended().await.assert(1, &["another process took over"]);
        second.signal("TERM").await;
        second.ended().await.assert(0, &[]);
        cell.put_right().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failpoints_are_listed_and_a_wrong_name_is_a_wrong_configuration() {
    let listed = run_isobar(&["failpoints"]).await;
    listed.assert(0, &[]);
    for point in failpoint::ALL {
        assert!(listed.stdout.contains(point.name), "{}", point.name);
    }
    let mut command = isobar(&["failpoints"]);
    command.env(failpoint::VARIABLE, "publish.before-putt=kill");
    run(&mut command).await.assert(2, &["did you mean publish.before-put?"]);
}
