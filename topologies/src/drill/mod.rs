//! `isobar drill`: a failure on purpose, on a live topology, measured as a user would notice it.
//!
//! ```text
//! steady commits ──▶ fault begins ──▶ … held … ──▶ fault ends ──▶ caught up ──▶ next run … ──▶ stop ──▶ prove
//!                    │◀─ detection ─▶│            │◀─ recovery ─▶│
//!          last commit │◀────────── pause ──────────▶│ next commit
//! ```
//!
//! No provider is touched. A drill leads the topology itself: a cloud is made to fail between this process and the
//! store ([`outage`]); the leader that is killed is a child process of the drill ([`leader_kill`]). So a fault ends
//! with the drill, however the drill ends. What was committed before, and what readers of the clouds see, is not
//! affected.
//!
//! **Measured:** *pause*, the longest time between two decided commits that touches the fault; *detection* and
//! *recovery*, defined by the failure ([`Failure::definitions`]). What could not be seen is reported as not
//! measured, never as zero, and a limit on what was not measured counts as exceeded.
//!
//! **Traffic** is what is in the topics. Without any, pipelines are idle and nothing about them can be measured; the
//! report says so. `--demo` brings its own broker, data and clouds ([`feed`]).

mod commits;
mod feed;
mod leader_kill;
mod outage;
mod report;
pub(crate) mod rival;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::feed::Feed;
pub use self::report::{Definitions, DrillReport, Figure, Limits, Run};
use crate::error::Error;
use crate::pipeline::{self, RunOptions};
use crate::spec::Topology;
use crate::start::open_clouds;
use crate::{prove, spec};

/// Commits awaited before a fault, so that the pipeline is in its stride.
const STEADY_COMMITS: usize = 3;
/// How long a fault is held where it is not said.
const HOLD: Duration = Duration::from_secs(10);
/// How long a recovery may take before it is given up; as long as the fault was, if that was longer.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(300);
/// How long a start, or a stop with all clouds caught up, may take.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// What is made to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Every request to this cloud is refused.
    CloudAway(String),
    /// Every request to this cloud takes this much longer.
    CloudSlow(String, Duration),
    /// Every write to this cloud is carried out and reported as failed.
    LostAnswers(String),
    /// The leader is killed with SIGKILL.
    LeaderKill(Successor),
}

/// Who leads after a leader was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    /// The same process, started again.
    ItselfAgain,
    /// A process that stands by, with the default time of silence.
    Standby,
}

impl Failure {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CloudAway(_) => "cloud-away",
            Self::CloudSlow(..) => "cloud-slow",
            Self::LostAnswers(_) => "lost-answers",
            Self::LeaderKill(_) => "leader-kill",
        }
    }

    /// The cloud that fails, if one does.
    pub fn cloud(&self) -> Option<&str> {
        match self {
            Self::CloudAway(cloud) | Self::CloudSlow(cloud, _) | Self::LostAnswers(cloud) => Some(cloud),
            Self::LeaderKill(_) => None,
        }
    }

    /// What happens, as the end of "From the fault on, …".
    fn describe(&self) -> String {
        match self {
            Self::CloudAway(cloud) => format!("every request of this process to {cloud} is refused"),
            Self::CloudSlow(cloud, latency) => {
                format!("every request of this process to {cloud} takes {latency:?} longer")
            }
            Self::LostAnswers(cloud) => {
                format!("every write of this process to {cloud} is carried out and then reported as failed")
            }
            Self::LeaderKill(_) => "the leader, a child process, is ended with SIGKILL".to_owned(),
        }
    }

    /// What the figures mean.
    pub fn definitions(&self) -> Definitions {
        let pause = "the longest time between two decided commits that touches the fault";
        match self {
            Self::LeaderKill(successor) => Definitions {
                detection: "from the kill until another process has taken over the epoch",
                pause,
                recovery: match successor {
                    Successor::ItselfAgain => "from the restart until the first commit is decided",
                    Successor::Standby => "from the kill until the first commit of the standby is decided",
                },
            },
            _ => Definitions {
                detection: "from the fault until the leader reports the cloud as away",
                pause,
                recovery: "from the end of the fault until the cloud has published every decided version",
            },
        }
    }
}

/// What `isobar drill` was asked to do.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// What is made to fail.
    pub failure: Failure,
    /// How often.
    pub runs: u32,
    /// How long each fault is held; for [`Failure::LeaderKill`], how long until another process is started.
    pub hold: Option<Duration>,
    /// What must not be exceeded.
    pub limits: Limits,
    /// Lead although another process does.
    pub take_over: bool,
}

impl DrillOptions {
    fn hold(&self) -> Duration {
        self.hold.unwrap_or(if matches!(self.failure, Failure::LeaderKill(_)) {
            Duration::ZERO
        } else {
            HOLD
        })
    }
}

/// What is drilled: a topology, and with `--demo` what feeds it.
pub struct Target {
    topology: Topology,
    /// The specification's file, for child processes.
    path: PathBuf,
    feed: Option<Feed>,
}

impl Target {
    /// The topology of a specification.
    ///
    /// # Errors
    /// The problems of the specification.
    pub fn open(path: &Path) -> Result<Self, spec::SpecErrors> {
        let topology = spec::load(path)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { topology, path, feed: None })
    }

    /// The demo's topology, with a broker of its own that is fed for as long as the drill takes.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn demo() -> Result<Self, Error> {
        let feed = Feed::start()?;
        Ok(Self { topology: feed.topology.clone(), path: feed.path(), feed: Some(feed) })
    }
}

/// Runs the drill, and calls `say` with what happens, a line at a time. An end of `shutdown` ends the fault, stops the
/// topology well, and gives the report of what was measured until then.
///
/// # Errors
/// [`Error::Configuration`] before anything was done: an unknown cloud, or a topology that another process leads. Later
/// what stopped the topology.
pub async fn drill(
    target: &Target,
    options: &DrillOptions,
    shutdown: &CancellationToken,
    say: &(dyn Fn(&str) + Sync),
) -> Result<DrillReport, Error> {
    let topology = &target.topology;
    refuse_unknown_cloud(topology, &options.failure)?;
    if target.feed.is_none() {
        refuse_rival(topology, options.take_over, say).await?;
    }
    announce(topology, options, say);
    let clouds = open_clouds(topology)?;
    let mut report = DrillReport::begin(topology, &clouds, options);
    let feeding = target.feed.as_ref().map(Feed::produce);
    let runs = match options.failure {
        Failure::LeaderKill(successor) => leader_kill::runs(target, successor, options, shutdown, say).await,
        _ => outage::runs(topology, options, shutdown, say).await,
    };
    if let Some(feeding) = feeding {
        feeding.stop().await?;
    }
    let runs = runs?;
    if matches!(options.failure, Failure::LeaderKill(_)) {
        say("taking over from the last child, so that every cloud gets what was decided");
        settle(topology).await?;
    }
    say("proving it from the clouds alone");
    let proof = prove::prove(&clouds, &[], None).await?;
    report.end(runs, &proof, shutdown.is_cancelled());
    Ok(report)
}

/// How long without a commit means that nothing is produced.
fn quiet_max(commit_interval: Duration) -> Duration {
    (commit_interval * 10).max(Duration::from_secs(10))
}

/// Leads until every cloud that answers has published everything, and stops.
async fn settle(topology: &Topology) -> Result<(), Error> {
    let (options, shutdown) = (RunOptions::new(&topology.name), CancellationToken::new());
    let mut leader = options.leader.subscribe();
    let led = async {
        // Ends with an error only when the pipeline is gone, which reports for itself.
        let _ = leader.wait_for(Option::is_some).await;
        shutdown.cancel();
    };
    let (summary, ()) = tokio::join!(pipeline::run(topology, options, shutdown.clone()), led);
    summary.map(drop)
}

fn refuse_unknown_cloud(topology: &Topology, failure: &Failure) -> Result<(), Error> {
    let Some(cloud) = failure.cloud() else { return Ok(()) };
    let known: Vec<&str> = topology.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
    if known.contains(&cloud) {
        return Ok(());
    }
    let what = format!("there is no cloud {cloud} in {}; choose one of {}", topology.name, known.join(", "));
    Err(Error::Configuration(what))
}

async fn refuse_rival(
    topology: &Topology,
    take_over: bool,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), Error> {
    if take_over {
        return Ok(());
    }
    let patience = rival::patience(topology.commit_interval);
    say(&format!("looking for {patience:?} whether another process leads {}", topology.name));
    match rival::activity(&open_clouds(topology)?, &topology.name, patience).await {
        Some(what) => Err(Error::Configuration(format!(
            "another process leads {}: {what}. Stop it first, or let the drill take over with --take-over: that process \
             ends by itself with exit code 1, nothing is lost, and it must be started again after the drill",
            topology.name
        ))),
        None => Ok(()),
    }
}

fn announce(topology: &Topology, options: &DrillOptions, say: &(dyn Fn(&str) + Sync)) {
    let clouds: Vec<&str> = topology.clouds.iter().map(|cloud| cloud.name.as_str()).collect();
    say(&format!(
        "This drill leads topology {} in {} and commits what is in its topics. A process that leads it now is \
         superseded.",
        topology.name,
        clouds.join(", ")
    ));
    let hold = options.hold();
    let end = match options.failure {
        Failure::LeaderKill(Successor::Standby) => "a process that stands by takes over".to_owned(),
        Failure::LeaderKill(_) if hold.is_zero() => "then it is started again at once".to_owned(),
        Failure::LeaderKill(_) => format!("after {hold:?} it is started again"),
        _ => format!("after {hold:?} it answers again and must catch up"),
    };
    say(&format!(
        "After {STEADY_COMMITS} commits {}; {end}. {} in all, then a stop and a proof.",
        options.failure.describe(),
        times(options.runs)
    ));
    say("No provider is touched; the fault ends with this process, however it ends. Interrupt to stop well.");
}

fn times(runs: u32) -> String {
    if runs == 1 { "Once".to_owned() } else { format!("{runs} times") }
}
