//! Many workers, one leader: over loopback HTTP, with processes that die, answers that are lost and requests that lie.

use std::sync::atomic::Ordering;
use std::time::Duration;

use isobar_connectors::delta::{OffsetRange, sha256_hex};
use isobar_connectors::failpoint::{self, Failpoint};
use isobar_schemas::{RowCounts, TopicPartition};
use isobar_tests::delta::Log;
use isobar_tests::events::{self, FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, PARTITIONS, Running, TOPOLOGY};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, http_post, isobar, run, run_isobar};
use isobar_tests::proxy::{Mode, Proxy};
use isobar_tests::wait::{in_time, until};
use isobar_topologies::Error;
use isobar_topologies::commit::Refusal;
use isobar_topologies::http::{MetricsServer, Side};
use isobar_topologies::metrics::Metrics;
use isobar_topologies::pipeline::RunOptions;
use isobar_topologies::spec::{Secret, Topology};
use isobar_topologies::workers::Desk;
use isobar_topologies::workers::wire::{Answer, Join, Problem, Share, StagedCommit, StagedFile, StagedTable};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use crate::topics;

const TOKEN: &str = "a-token-of-sufficient-length";

fn token() -> Secret {
    Secret::new(TOKEN)
}

fn options(lab: &Lab) -> RunOptions {
    // Each process has counters of its own.
    RunOptions { clouds: lab.options().clouds, ..RunOptions::new(TOPOLOGY) }
}

/// A process that leads, with a proxy before its HTTP side: that is the address in its claim.
struct LeaderProcess {
    running: Running,
    metrics: Metrics,
    proxy: Proxy,
    /// Its HTTP side itself.
    address: String,
    server: CancellationToken,
}

impl LeaderProcess {
    async fn start(lab: &Lab, topology: &Topology) -> Self {
        let mut options = options(lab);
        options.desk = Some(Desk::new(&token(), options.metrics.clone()).unwrap());
        Self::start_with(topology, options).await
    }

    async fn start_with(topology: &Topology, mut options: RunOptions) -> Self {
        let (metrics, server) = (options.metrics.clone(), CancellationToken::new());
        let side = Side::of(TOPOLOGY, &options);
        let started =
            MetricsServer::start("127.0.0.1:0".parse().unwrap(), side, server.clone()).await.unwrap();
        let address = started.address.to_string();
        let proxy = Proxy::start(&address).await;
        options.address = Some(proxy.address());
        let running = Running::start(topology, options);
        running.ready().await;
        Self { running, metrics, proxy, address, server }
    }

    /// Ends it at once; its connections break.
    async fn die(self) {
        self.proxy.set(Mode::Refuse);
        self.server.cancel();
        self.running.abort().await;
    }

    async fn stop(self) {
        self.running.stop().await.unwrap();
        self.server.cancel();
    }

    /// How many commits of workers it has decided.
    fn decided_for_workers(&self) -> u64 {
        self.metrics.worker_commits.with_label_values(&["committed"]).get()
    }

    /// Waits until it has decided a commit of a worker more than these.
    async fn decides_for_a_worker(&self, before: u64) {
        until("a worker's commit is decided", async || self.decided_for_workers() > before).await;
    }

    /// Waits until it hears this many workers.
    async fn hears(&self, workers: i64) {
        until("the leader hears the workers", async || self.metrics.workers.get() == workers).await;
    }
}

async fn worker(lab: &Lab, topology: &Topology) -> Running {
    let running = Running::start_worker(topology, options(lab), &token());
    running.ready().await;
    running
}

/// Produces records and waits until they are in every cloud.
async fn commit_some(lab: &Lab, records: &mut Generator) {
    lab.commit_in(lab.clouds.len(), records, 80).await;
}

/// Commits until every one of `workers` has had something committed.
async fn until_all_have_committed(lab: &Lab, records: &mut Generator, workers: &[&Running]) {
    until("every worker has committed", async || {
        commit_some(lab, records).await;
        workers.iter().all(|worker| worker.sequence() > 0)
    })
    .await;
}

/// Commits until the only worker has been told of all that its share has, which is the second half of the partitions:
/// no answer is on its way any more.
async fn until_told_of_everything(lab: &Lab, records: &mut Generator, worker: &Running) {
    until("the worker is told of everything in its share", async || {
        commit_some(lab, records).await;
        let ends = lab.ledger().ends(TOPIC);
        let mut positions = worker.progress.positions();
        let told = positions.wait_for(|known| {
            let mut share = ends.iter().filter(|(partition, _)| **partition >= PARTITIONS / 2);
            share.all(|(partition, end)| known.get(&TopicPartition::new(TOPIC, *partition)) == Some(end))
        });
        // In vain as long as the leader reads that share itself.
        tokio::time::timeout(Duration::from_secs(1), told).await.is_ok()
    })
    .await;
}

/// What isobar says about itself in each version of the dataset.
async fn infos(lab: &Lab) -> Vec<Json> {
    let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
    log.versions.iter().map(|version| version.actions[0]["commitInfo"]["isobar"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_and_two_workers_commit_everything_once_and_together() {
    let seed = Seed::of("workers_together");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let leader = LeaderProcess::start(&lab, &topology).await;
    commit_some(&lab, &mut records).await;
    let workers = [worker(&lab, &topology).await, worker(&lab, &topology).await];
    leader.hears(2).await;
    until_all_have_committed(&lab, &mut records, &[&workers[0], &workers[1]]).await;
    // Whoever stages at the same time is decided at once: one version for several commits.
    until("commits are united", async || {
        commit_some(&lab, &mut records).await;
        infos(&lab)
            .await
            .iter()
            .any(|info| info["members"].as_array().is_some_and(|members| members.len() > 1))
    })
    .await;
    let committed = leader.decided_for_workers();
    let [one, other] = workers;
    let commits = one.stop().await.unwrap().committed.commits + other.stop().await.unwrap().committed.commits;
    assert!(
        commits >= committed && committed > 1,
        "{committed} commits of workers, {commits} by their own account"
    );
    // Who leaves gives its partitions back at once.
    leader.hears(0).await;
    commit_some(&lab, &mut records).await;
    leader.stop().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_a_worker_that_dies_before_or_after_its_commit_arrives_are_taken_over() {
    let seed = Seed::of("workers_that_die");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let leader = LeaderProcess::start(&lab, &topology).await;
    for mode in [Mode::Hang, Mode::LoseAnswers] {
        let doomed = worker(&lab, &topology).await;
        until_told_of_everything(&lab, &mut records, &doomed).await;
        let (sequence, read) = (doomed.sequence(), doomed.progress.records());
        let decided = leader.decided_for_workers();
        leader.proxy.set(mode);
        lab.produce(TOPIC, records.records(80));
        until("the worker has read", async || doomed.progress.records() > read).await;
        if mode == Mode::LoseAnswers {
            leader.decides_for_a_worker(decided).await;
            assert_eq!(doomed.sequence(), sequence, "the answer did not arrive");
        }
        doomed.abort().await;
        leader.proxy.set(Mode::Forward);
        lab.produce(TOPIC, records.records(80));
        until("the leader has taken over", async || lab.clouds_complete().await == 3).await;
        leader.hears(0).await;
    }
    leader.stop().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_asked_for_again_and_is_committed_once() {
    let seed = Seed::of("workers_lost_answers");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let leader = LeaderProcess::start(&lab, &topology).await;
    let working = worker(&lab, &topology).await;
    until_told_of_everything(&lab, &mut records, &working).await;
    let (sequence, retried) = (working.sequence(), working.metrics.batches_retried.get());
    let decided = leader.decided_for_workers();
    leader.proxy.set(Mode::LoseAnswers);
    // The request arrives, and what it asks for is decided; perhaps not all records, which may take two commits.
    lab.produce(TOPIC, records.records(80));
    leader.decides_for_a_worker(decided).await;
    assert_eq!(working.sequence(), sequence, "no answer arrived");
    leader.proxy.set(Mode::Forward);
    until("the worker is told that it is committed", async || working.sequence() > sequence).await;
    assert_eq!(working.metrics.batches_retried.get(), retried, "nothing was read again");
    commit_some(&lab, &mut records).await;
    working.stop().await.unwrap();
    leader.stop().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_when_the_leader_dies_are_sent_to_the_next_one() {
    let seed = Seed::of("workers_next_leader");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    // This one decides about nothing but tables and first positions.
    let mut slow = lab.spec(events::SOURCE, events::FEATURES_YAML);
    slow.commit = "{ interval: 1h, size: 256MiB }".into();
    let first = LeaderProcess::start(&lab, &slow.resolved()).await;
    let workers = [worker(&lab, &topology).await, worker(&lab, &topology).await];
    first.hears(2).await;
    until("both workers wait for a decision", async || {
        lab.produce(TOPIC, records.records(20));
        first.metrics.workers_waiting.get() == 2
    })
    .await;
    assert!(workers.iter().all(|worker| worker.sequence() == 0));
    first.die().await;
    let second = LeaderProcess::start(&lab, &topology).await;
    until("everything is committed", async || lab.clouds_complete().await == 3).await;
    second.hears(2).await;
    until_all_have_committed(&lab, &mut records, &[&workers[0], &workers[1]]).await;
    for worker in workers {
        worker.stop().await.unwrap();
    }
    second.stop().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

/// The worker is cut off for so long that its partitions are given away, with a commit in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_given_up_and_comes_back_is_stale_and_goes_on() {
    let seed = Seed::of("workers_zombie");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let leader = LeaderProcess::start(&lab, &topology).await;
    let zombie = worker(&lab, &topology).await;
    until_told_of_everything(&lab, &mut records, &zombie).await;
    let (sequence, retried) = (zombie.sequence(), zombie.metrics.batches_retried.get());
    leader.proxy.set(Mode::Hang);
    lab.produce(TOPIC, records.records(80));
    leader.hears(0).await;
    until("the leader has read what was the worker's", async || lab.clouds_complete().await == 3).await;
    assert_eq!(zombie.sequence(), sequence);
    leader.proxy.set(Mode::Forward);
    until("its batch is dropped", async || zombie.metrics.batches_retried.get() > retried).await;
    leader.hears(1).await;
    until("it commits again", async || {
        commit_some(&lab, &mut records).await;
        zombie.sequence() > sequence
    })
    .await;
    zombie.stop().await.unwrap();
    leader.stop().await;
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_appear_are_shared_with_workers() {
    let seed = Seed::of("workers_topics");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::new(&["orders-1"], 3, false);
    let topology = topics::matching(&lab, "^orders-.*");
    let attentive = || topics::attentive(options(&lab));
    let mut leading = attentive();
    leading.desk = Some(Desk::new(&token(), leading.metrics.clone()).unwrap());
    let leader = LeaderProcess::start_with(&topology, leading).await;
    // The second one describes the topics only when it is given one that it does not see.
    let drowsy = RunOptions { topics_interval: Duration::from_secs(3600), ..options(&lab) };
    let workers = [attentive(), drowsy].map(|options| Running::start_worker(&topology, options, &token()));
    for worker in &workers {
        worker.ready().await;
    }
    leader.hears(2).await;
    let mut topics = vec!["orders-1"];
    for topic in ["orders-2", "orders-3"] {
        lab.create_topic(topic);
        topics.push(topic);
        let before = [workers[0].sequence(), workers[1].sequence()];
        until("both workers commit what they were given", async || {
            for topic in &topics {
                lab.produce(topic, records.records(40));
            }
            topics::stands_at_the_end(&lab, &topics).await;
            workers.iter().zip(before).all(|(worker, before)| worker.sequence() > before)
        })
        .await;
        until("everything is read", async || topics::stands_at_the_end(&lab, &topics).await).await;
    }
    for worker in workers {
        worker.stop().await.unwrap();
    }
    leader.stop().await;
    topics::assert_landed(&lab, &topics).await;
}

/// Sends `request` with these headers; status and body of the answer.
async fn post(address: &str, path: &str, headers: &str, request: Json) -> (u16, String) {
    let answer = in_time("an answer", http_post(address, path, headers, &request.to_string())).await;
    answer.expect("the leader answers")
}

/// Sends a request that shows the token.
async fn ask(address: &str, path: &str, request: Json) -> (u16, String) {
    post(address, path, &bearer(TOKEN), request).await
}

/// What a leader says about a commit.
async fn answer_to(address: &str, commit: &StagedCommit) -> Answer {
    let (status, body) = ask(address, "/v1/commits", serde_json::to_value(commit).unwrap()).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn problem_in(body: &str) -> Problem {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{body:?}: {error}"))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A commit of a worker that nobody knows, which reads `range` and filters everything.
fn commit_of(info: &Json, range: OffsetRange) -> StagedCommit {
    let rows = RowCounts { input: range.records, filtered: range.records, ..RowCounts::default() };
    let plan = info["plan"].as_str().unwrap().to_owned();
    let table = StagedTable {
        dataset: FEATURES.into(),
        plan,
        models: Vec::new(),
        offsets: vec![range],
        rows,
        files: Vec::new(),
    };
    let commit_id = uuid::Uuid::new_v4().to_string();
    StagedCommit { topology: TOPOLOGY.into(), worker: "nobody".into(), commit_id, tables: vec![table] }
}

/// The newest version that has read something, and the first range it read.
async fn last_read(lab: &Lab) -> (Json, OffsetRange) {
    let reads = |info: &Json| info["offsets"][0]["records"].as_u64().is_some_and(|records| records > 0);
    let info = infos(lab).await.into_iter().rfind(reads).expect("something was read");
    let range = serde_json::from_value(info["offsets"][0].clone()).unwrap();
    (info, range)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_answers_only_who_shows_the_token_and_believes_only_what_it_can_check() {
    let seed = Seed::of("workers_requests");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let leader = LeaderProcess::start(&lab, &topology).await;
    commit_some(&lab, &mut records).await;
    let before = infos(&lab).await.len();
    let (info, range) = last_read(&lab).await;
    let commit = commit_of(&info, range.clone());

    for headers in
        [String::new(), bearer("another-token-of-some-length"), bearer(""), "Authorization: x\r\n".into()]
    {
        for path in ["/v1/commits", "/v1/workers"] {
            let request = serde_json::to_value(&commit).unwrap();
            let (status, body) = post(&leader.address, path, &headers, request).await;
            assert_eq!(status, 401, "{path} {headers}");
            let problem = problem_in(&body);
            assert!(problem.error.contains("workers.token") && !problem.error.contains(TOKEN), "{problem:?}");
        }
    }

    // A zombie: what it read was decided long ago, by somebody else.
    let answer = answer_to(&leader.address, &commit).await;
    let Answer::Stale { refusal: Refusal::Stale { start, chain, .. }, share } = answer else {
        panic!("{answer:?}");
    };
    assert!(start == range.start && chain >= range.end, "{start} {chain} {range:?}");
    assert!(
        !share.partitions.is_empty() && share.partitions.iter().all(|shared| shared.positions.len() == 1)
    );

    // Files that are nowhere.
    let mut ahead = range.clone();
    (ahead.start, ahead.end, ahead.records) = (chain, chain + 1, 1);
    let mut nowhere = commit_of(&info, ahead);
    let file = StagedFile {
        path: format!("part-{}-00000.parquet", nowhere.commit_id),
        size: 4,
        sha256: sha256_hex(b"PAR1"),
        rows: 1,
        partition_values: Default::default(),
        stats: "{\"numRecords\":1}".into(),
    };
    nowhere.tables[0].rows = RowCounts { input: 1, output: 1, ..RowCounts::default() };
    nowhere.tables[0].files.push(file);
    let answer = answer_to(&leader.address, &nowhere).await;
    assert!(matches!(answer, Answer::NotStored { .. }), "{answer:?}");

    // What contradicts itself, or cannot be a worker's.
    let mut contradiction = commit_of(&info, nowhere.tables[0].offsets[0].clone());
    contradiction.tables[0].rows.filtered = 0;
    let answer = answer_to(&leader.address, &contradiction).await;
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    let requests = [
        (json!({}), 422, "not such a request"),
        (json!({ "topology": TOPOLOGY, "worker": "w", "commit_id": "../x", "tables": [] }), 422, "commit id"),
        (json!({ "topology": "other", "worker": "w", "commit_id": "c", "tables": [] }), 409, "topology"),
        (
            json!({ "topology": TOPOLOGY, "worker": "a/b", "commit_id": "c", "tables": [] }),
            422,
            "worker's id",
        ),
    ];
    for (request, expected, what) in requests {
        let (status, body) = ask(&leader.address, "/v1/commits", request).await;
        assert!(status == expected && problem_in(&body).error.contains(what), "{what}: {status} {body}");
    }
    let other_plan = Join {
        topology: TOPOLOGY.into(),
        worker: "w".into(),
        plans: [(FEATURES.to_owned(), "other".to_owned())].into(),
        leaving: false,
    };
    let (status, body) =
        ask(&leader.address, "/v1/workers", serde_json::to_value(&other_plan).unwrap()).await;
    assert!(status == 409 && problem_in(&body).error.contains(FEATURES), "{status} {body}");
    assert_eq!(infos(&lab).await.len(), before, "nothing of that was decided");

    // The leader goes on, and says so when it ends.
    let plans = [(FEATURES.to_owned(), info["plan"].as_str().unwrap().to_owned())].into();
    let leaving = Join { worker: "nobody".into(), plans, leaving: true, ..other_plan };
    let leaving = serde_json::to_value(&leaving).unwrap();
    let (status, body) = ask(&leader.address, "/v1/workers", leaving.clone()).await;
    assert_eq!(status, 200, "{body}");
    let share: Share = serde_json::from_str(&body).unwrap();
    assert_eq!(share.partitions, []);
    commit_some(&lab, &mut records).await;
    let LeaderProcess { running, address, proxy: _proxy, .. } = leader;
    running.stop().await.unwrap();
    let (status, body) = ask(&address, "/v1/workers", leaving).await;
    assert!(status == 503 && problem_in(&body).epoch == share.epoch, "{status} {body}");
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_the_leader_does_not_take_says_why_and_ends() {
    let seed = Seed::of("workers_refused");
    let lab = Lab::in_memory();
    let topology = lab.features();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(20));
    let ends_with = async |topology: &Topology, token: &str, what: &str| {
        let options = options(&lab);
        let ready = options.ready.clone();
        let refused = Running::start_worker(topology, options, &Secret::new(token));
        let error = refused.ended().await.unwrap_err();
        assert!(matches!(error, Error::Configuration(_)), "{error:?}");
        assert!(error.to_string().contains(what) && !error.to_string().contains(TOKEN), "{error}");
        assert!(!ready.load(Ordering::Relaxed));
    };
    ends_with(&topology, "short", "workers.token").await;
    let leader = LeaderProcess::start(&lab, &topology).await;
    ends_with(&topology, "another-token-of-some-length", "workers.token must be the same").await;
    let mut other = lab.spec(events::SOURCE, events::FEATURES_YAML);
    other.datasets = other.datasets.replacen("SELECT", "SELECT 1 AS one,", 1);
    ends_with(&other.resolved(), TOKEN, "made by another plan").await;
    leader.stop().await;
    let alone = LeaderProcess::start_with(&topology, options(&lab)).await;
    ends_with(&topology, TOKEN, "takes no workers").await;
    alone.stop().await;

    let caught_up = RunOptions { until_caught_up: true, ..options(&lab) };
    let error = Running::start_worker(&topology, caught_up, &token()).ended().await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

/// A lab in directories, whose processes are programs.
struct Programs {
    lab: Lab,
    topology: Topology,
    spec: String,
    started: usize,
}

impl Programs {
    fn new() -> Self {
        let lab = Lab::in_directories();
        let mut spec = lab.spec(events::SOURCE, events::FEATURES_YAML);
        spec.workers = Some("{ token: \"${env:ISOBAR_WORKER_TOKEN}\" }".into());
        let path = spec.written().to_str().expect("paths of tests are UTF-8").to_owned();
        Self { topology: spec.resolved(), lab, spec: path, started: 0 }
    }

    /// Starts a leader or a worker, armed or not, and waits until it reads.
    async fn start(&mut self, leads: bool, armed: Option<&Failpoint>) -> Background {
        let (arguments, says): (&[&str], &str) = match leads {
            true => (&["run", &self.spec, "--metrics-addr", "127.0.0.1:0"], " consuming"),
            false => (&["run", &self.spec, "--worker"], " working"),
        };
        let mut command = isobar(arguments);
        command.env("ISOBAR_WORKER_TOKEN", TOKEN);
        if let Some(point) = armed {
            command.env(failpoint::VARIABLE, format!("{}=kill", point.name));
        }
        self.started += 1;
        let log = self.lab.directory.path().join(format!("process-{}.log", self.started));
        let process = Background::start(&mut command, &log);
        process.says(says).await;
        process
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_at_every_step_between_worker_and_leader_lose_and_double_nothing() {
    let is_between =
        |point: &&&Failpoint| point.name.starts_with("worker.") || point.name.starts_with("group.");
    for point in failpoint::ALL.iter().filter(is_between) {
        let mut records = Generator::mixed(Seed::of(point.name).prng());
        let mut programs = Programs::new();
        let is_leader = point.name.starts_with("group.");
        let leader = programs.start(true, Some(*point).filter(|_| is_leader)).await;
        let worker = programs.start(false, Some(*point).filter(|_| !is_leader)).await;
        let (mut doomed, other) = if is_leader { (leader, worker) } else { (worker, leader) };
        until("the process is killed", async || {
            programs.lab.produce(TOPIC, records.records(40));
            doomed.has_ended()
        })
        .await;
        let killed = doomed.ended().await;
        assert!(killed.code.is_none() && killed.stderr.contains("action=Kill"), "{}\n{killed}", point.name);
        let next = programs.start(is_leader, None).await;
        programs.lab.commit_in(3, &mut records, 40).await;
        let (worker, leader) = if is_leader { (other, next) } else { (next, other) };
        for process in [worker, leader] {
            process.signal("TERM").await;
            let stopped = process.ended().await;
            stopped.assert(0, &[]);
            assert!(!stopped.text().contains(TOKEN), "{}", point.name);
        }
        programs.lab.catch_up_and_assert_whole(&programs.topology).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_a_worker_needs() {
    let lab = Lab::in_directories();
    let spec = lab.spec(events::SOURCE, events::FEATURES_YAML).written();
    let spec = spec.to_str().expect("paths of tests are UTF-8");
    run_isobar(&["run", spec, "--worker"]).await.assert(2, &["has no workers", "ISOBAR_WORKER_TOKEN"]);
    run_isobar(&["run", spec, "--worker", "--until-caught-up"]).await.assert(2, &["cannot be used with"]);
    let programs = Programs::new();
    let mut command = isobar(&["run", &programs.spec, "--worker"]);
    let unset = run(command.env_remove("ISOBAR_WORKER_TOKEN")).await;
    unset.assert(2, &["workers.token", "`ISOBAR_WORKER_TOKEN` is not set"]);
}
