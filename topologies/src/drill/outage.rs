//! A cloud that fails, for a pipeline in this process.
//!
//! A switch stands between the pipeline and the chosen cloud's clients. It is off before the first and after the last
//! fault, and gone with the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_connectors::clouds::{Fault, FaultSwitch};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::commits::Commits;
use super::report::Run;
use super::{DrillOptions, Failure, RECOVERY_PATIENCE, START_PATIENCE, STEADY_COMMITS, quiet_max};
use crate::commit::{CloudProgress, LeaderWatch};
use crate::error::Error;
use crate::pipeline::{self, RunOptions, Summary};
use crate::progress::Progress;
use crate::spec::Topology;
use crate::start::open_clouds;

/// Runs `topology` and takes its cloud away as often as asked.
pub(super) async fn runs(
    topology: &Topology,
    options: &DrillOptions,
    shutdown: &CancellationToken,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Run>, Error> {
    let subject = Subject::start(topology, options)?;
    let mut runs = Vec::new();
    let drilled = async {
        if !subject.is_leading().await {
            say(&format!("gave up: it did not lead within {START_PATIENCE:?}"));
            return;
        }
        for number in 1..=options.runs {
            let run = subject.run(number, options).await;
            say(&run.line());
            runs.push(run);
        }
    };
    tokio::select! {
        () = drilled => {}
        () = shutdown.cancelled() => say("interrupted: ending the fault and stopping well"),
        () = subject.ended.cancelled() => {}
    }
    subject.stop().await?;
    Ok(runs)
}

/// The pipeline under test, and what is seen of it.
struct Subject {
    cloud: String,
    fault: Fault,
    switch: FaultSwitch,
    commits: Commits,
    progress: Arc<Progress>,
    leader: watch::Receiver<Option<LeaderWatch>>,
    /// How long without a commit means that nothing is produced.
    quiet_max: Duration,
    stop: CancellationToken,
    /// Set when the pipeline has ended, for whatever reason.
    ended: CancellationToken,
    pipeline: JoinHandle<Result<Summary, Error>>,
    witness: JoinHandle<()>,
}

impl Subject {
    fn start(topology: &Topology, options: &DrillOptions) -> Result<Self, Error> {
        let (cloud, fault) = match &options.failure {
            Failure::CloudAway(cloud) => (cloud, Fault::RefuseAll),
            Failure::CloudSlow(cloud, latency) => (cloud, Fault::Delay(*latency)),
            Failure::LostAnswers(cloud) => (cloud, Fault::LoseWriteAnswers),
            Failure::LeaderKill(_) => {
                return Err(Error::Bug("a killed leader is no outage of a cloud".into()));
            }
        };
        let switch = FaultSwitch::default();
        let clouds = open_clouds(topology)?.into_iter();
        let clouds =
            clouds.map(|opened| if opened.name == *cloud { opened.with_faults(&switch) } else { opened });
        let run_options = RunOptions { clouds: Some(clouds.collect()), ..RunOptions::new(&topology.name) };
        let progress = run_options.progress.clone();
        let leader = run_options.leader.subscribe();
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let pipeline = tokio::spawn({
            let (topology, stop, ended) = (topology.clone(), stop.clone(), ended.clone());
            async move {
                let _ended = ended.drop_guard();
                pipeline::run(&topology, run_options, stop).await
            }
        });
        let commits = Commits::default();
        let witness = tokio::spawn(witness(progress.clone(), commits.clone(), ended.clone()));
        let quiet_max = quiet_max(topology.commit_interval);
        Ok(Self {
            cloud: cloud.clone(),
            fault,
            switch,
            commits,
            progress,
            leader,
            quiet_max,
            stop,
            ended,
            pipeline,
            witness,
        })
    }

    /// Whether it leads before anybody loses patience.
    async fn is_leading(&self) -> bool {
        let mut leader = self.leader.clone();
        tokio::time::timeout(START_PATIENCE, leader.wait_for(Option::is_some))
            .await
            .is_ok_and(|led| led.is_ok())
    }

    /// One fault from its beginning to its recovery.
    async fn run(&self, number: u32, options: &DrillOptions) -> Run {
        let mut run = Run::new(number);
        self.steady().await;
        let (commits, records) = (self.commits.count(), self.progress.records());
        if self.is_away() {
            run.note("the cloud was away before the fault");
        }
        let began = Instant::now();
        run.began();
        self.switch.set(self.fault);
        run.interval_before = self.commits.interval_before(began, STEADY_COMMITS);
        run.detection = self.detected(began, options.hold()).await;
        tokio::time::sleep_until((began + options.hold()).into()).await;
        run.commits_during_fault = Some((self.commits.count() - commits) as u64);
        run.records_during_fault = Some(self.progress.records() - records);
        self.switch.set(Fault::Off);
        let ended = Instant::now();
        run.ended();
        let patience = RECOVERY_PATIENCE.max(options.hold());
        run.recovery = self.recovered(ended, patience).await;
        let level = Instant::now();
        // A pause that is still going on has no length yet.
        let further = self.commits.count() + 1;
        let _ = tokio::time::timeout(self.quiet_max, self.commits.wait_for(further)).await;
        if self.progress.records() == records {
            run.note("nothing was produced during the fault, so the pause cannot be measured");
        } else {
            run.pause = self.commits.longest_pause(began, level);
        }
        if run.recovery.is_none() {
            run.note(self.what_is_wrong(patience).as_str());
        }
        run
    }

    /// Waits for a few commits, as long as there may be any.
    async fn steady(&self) {
        for _ in 0..STEADY_COMMITS {
            let further = self.commits.count() + 1;
            if tokio::time::timeout(self.quiet_max, self.commits.wait_for(further)).await.is_err() {
                return;
            }
        }
    }

    async fn detected(&self, began: Instant, hold: Duration) -> Option<Duration> {
        let away = self.wait_for_cloud(|cloud| cloud.away);
        tokio::time::timeout(hold, away).await.ok().map(|()| began.elapsed())
    }

    async fn recovered(&self, ended: Instant, patience: Duration) -> Option<Duration> {
        let is_level =
            |cloud: &CloudProgress| !cloud.away && cloud.decisions_behind == 0 && cloud.set_aside.is_none();
        tokio::time::timeout(patience, self.wait_for_cloud(is_level)).await.ok().map(|()| ended.elapsed())
    }

    /// Waits until the leader says so of the cloud, whichever epoch it leads by then.
    async fn wait_for_cloud(&self, holds: impl Fn(&CloudProgress) -> bool) {
        let mut leader = self.leader.clone();
        loop {
            let current = leader.borrow_and_update().clone();
            let holds_now = async {
                let found = match &current {
                    Some(watch) => watch.wait_until(|progress| self.of_cloud(&progress.clouds, &holds)).await,
                    None => false,
                };
                // The epoch is over: the next one's watch comes from the pipeline.
                if !found {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = holds_now => return,
                changed = leader.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    fn is_away(&self) -> bool {
        let current = self.leader.borrow().clone();
        current.is_some_and(|watch| self.of_cloud(&watch.progress().clouds, |cloud| cloud.away))
    }

    fn of_cloud(&self, clouds: &[CloudProgress], holds: impl Fn(&CloudProgress) -> bool) -> bool {
        clouds.iter().any(|cloud| cloud.cloud == self.cloud && holds(cloud))
    }

    fn what_is_wrong(&self, patience: Duration) -> String {
        let current = self.leader.borrow().clone();
        let progress = current.into_iter().flat_map(|watch| watch.progress().clouds);
        let cloud = progress.into_iter().find(|cloud| cloud.cloud == self.cloud);
        match cloud {
            Some(CloudProgress { set_aside: Some(what), .. }) => {
                format!("{} is set aside: {what}", self.cloud)
            }
            Some(cloud) => format!(
                "{} did not catch up within {patience:?}: {} decisions behind",
                self.cloud, cloud.decisions_behind
            ),
            None => "nobody leads any more".to_owned(),
        }
    }

    /// Ends the fault, stops the pipeline well, and says what stopped it if something did.
    async fn stop(self) -> Result<(), Error> {
        self.switch.set(Fault::Off);
        self.stop.cancel();
        let summary = self.pipeline.await.expect("the pipeline does not panic");
        self.witness.await.expect("the witness does not panic");
        summary.map(drop)
    }
}

/// Notes every commit as the pipeline acknowledges it.
async fn witness(progress: Arc<Progress>, commits: Commits, ended: CancellationToken) {
    let mut positions = progress.positions();
    loop {
        tokio::select! {
            changed = positions.changed() => match changed {
                Ok(()) => commits.note(),
                Err(_) => return,
            },
            () = ended.cancelled() => return,
        }
    }
}
