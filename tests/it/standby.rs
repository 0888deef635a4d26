//! Processes that stand by, and take over without a human.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isobar_connectors::clouds::Fault;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::lab::{Lab, TOPOLOGY};
use isobar_tests::prng::Seed;
use isobar_tests::wait;
use isobar_topologies::http::{MetricsServer, Side};
use isobar_topologies::pipeline::RunOptions;
use isobar_topologies::spec::Topology;
use isobar_topologies::standby::{self, Pulse};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for whoever takes over to be heard in time on a slow machine too: else those who stand by replace each
/// other for ever. Nothing here depends on who notices first.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a leader without an address may write nothing. It is heard by its commits alone, so one of them may take
/// this long.
const UNHEARD_SILENCE: Duration = Duration::from_secs(10);
/// Records produced at a time.
const RECORDS: usize = 70;

/// A process that stands by or leads, with its HTTP side.
struct Process {
    pulse: Pulse,
    options: RunOptions,
    death: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    async fn start(lab: &Lab, topology: &Topology) -> Self {
        Self::start_with(lab, topology, SILENCE).await
    }

    async fn start_with(lab: &Lab, topology: &Topology, silence: Duration) -> Self {
        let (topology, death) = (topology.clone(), CancellationToken::new());
        // Each process has counters of its own.
        let mut options = RunOptions { clouds: lab.options().clouds, ..RunOptions::new(TOPOLOGY) };
        let side = Side::of(TOPOLOGY, &options);
        let server = MetricsServer::start("127.0.0.1:0".parse().unwrap(), side, death.clone()).await.unwrap();
        options.address = Some(server.address.to_string());
        let (pulse, run_options, die) = (options.pulse.clone(), options.clone(), death.clone());
        let runtime = Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                tokio::select! {
                    ended = standby::run(&topology, run_options, silence, CancellationToken::new()) => {
                        panic!("a standby goes on until it is stopped: {ended:?}")
                    }
                    () = die.cancelled() => {}
                }
            });
        });
        Self { pulse, options, death, task }
    }

    fn leads(&self) -> bool {
        self.options.ready.load(Ordering::Relaxed) && self.pulse.epoch().is_some()
    }

    /// Ends it at once, its HTTP side included.
    async fn die(self) {
        self.death.cancel();
        wait::in_time("the death of a process", self.task).await.unwrap();
    }
}

/// The process among `processes` that leads, once one does: of several that believe so, the one with the highest epoch.
/// A leader without work learns that it was replaced when it commits next.
async fn leader(processes: &[Process]) -> usize {
    wait::until_some("one of them leads", async || {
        let leading = (0..processes.len()).filter(|index| processes[*index].leads());
        leading.max_by_key(|index| processes[*index].pulse.epoch())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn standbys_lead_one_after_the_other_as_leaders_die() {
    let seed = Seed::of("standby_chain");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start(&lab, &topology).await);
    }
    for _ in 0..4 {
        let leads = leader(&processes).await;
        lab.commit_in(3, &mut records, RECORDS).await;
        processes.remove(leads).die().await;
        // As an orchestrator would: the dead one is started again, and stands by.
        processes.push(Process::start(&lab, &topology).await);
    }
    for process in processes {
        process.die().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_replaced_stands_by_and_leads_again_when_it_is_needed() {
    let seed = Seed::of("standby_sleeper");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let first = Process::start(&lab, &topology).await;
    leader(std::slice::from_ref(&first)).await;
    lab.commit_in(3, &mut records, RECORDS).await;
    let second = Process::start(&lab, &topology).await;

    // Somebody runs the topology by hand, which takes over at once; the leader meets the closed epoch with its next commit.
    lab.produce(TOPIC, records.records(60));
    let by_hand = lab.run_until_caught_up(&topology).await;
    if let Err(error) = by_hand {
        assert!(matches!(error, isobar_topologies::Error::Superseded { .. }), "{error:?}");
    }
    // That run has ended, nobody is heard, and one of the two leads again.
    let processes = [first, second];
    leader(&processes).await;
    lab.commit_in(3, &mut records, RECORDS).await;
    for process in processes {
        process.die().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_clouds_are_enough_for_every_take_over_in_a_chain() {
    let seed = Seed::of("standby_two_clouds");
    let mut prng = seed.prng();
    let mut records = Generator::mixed(prng.fork());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let mut processes = vec![Process::start(&lab, &topology).await];
    leader(&processes).await;
    lab.commit_in(3, &mut records, RECORDS).await;
    // A, then B, then C, then A: each time another cloud is away while the leader changes.
    for away in [0, 1, 2, 0] {
        processes.push(Process::start(&lab, &topology).await);
        lab.wait_until_equal(FEATURES).await;
        lab.clouds[away].switch.set(Fault::RefuseAll);
        processes.remove(0).die().await;
        lab.commit_in(2, &mut records, RECORDS).await;
        lab.clouds[away].switch.set(Fault::Off);
    }
    for process in processes {
        process.die().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_an_address_leads_on_while_it_commits_and_is_followed_when_it_has_ended() {
    let seed = Seed::of("standby_unheard");
    let mut records = Generator::mixed(seed.prng());
    let lab = Lab::in_memory();
    let topology = lab.features();
    let unheard = lab.start(&topology);
    unheard.ready().await;
    let standby = Process::start_with(&lab, &topology, UNHEARD_SILENCE).await;
    let began = Instant::now();
    while began.elapsed() < UNHEARD_SILENCE * 2 {
        lab.commit_in(3, &mut records, RECORDS).await;
    }
    assert!(!unheard.has_ended() && !standby.leads());
    unheard.stop().await.unwrap();
    let processes = [standby];
    leader(&processes).await;
    lab.commit_in(3, &mut records, RECORDS).await;
    for process in processes {
        process.die().await;
    }
    lab.catch_up_and_assert_whole(&topology).await;
}
