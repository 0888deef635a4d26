//! A leader that is killed: a child process `isobar run`, ended with SIGKILL; it is started again, or another child stands
//! by and takes over.
//!
//! The child is watched through its log, which it writes as JSON: that it leads, and each commit when it is decided. It
//! cannot outlive the drill: it is killed when the drill's handle on it goes.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::commits::Commits;
use super::report::Run;
use super::{DrillOptions, START_PATIENCE, STEADY_COMMITS, Successor, Target, quiet_max};
use crate::error::Error;
use crate::standby;

/// What the child logs: commits, and what state it is in.
const LOG_LEVEL: &str = "info,isobar_topologies::pipeline=debug";
/// Warnings and errors of the child that are kept for the message about its end.
const COMPLAINTS_MAX: usize = 5;

/// Kills the leader of `target` as often as asked.
pub(super) async fn runs(
    target: &Target,
    successor: Successor,
    options: &DrillOptions,
    shutdown: &CancellationToken,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Run>, Error> {
    let drill = Drill {
        path: &target.path,
        successor,
        commits: Commits::default(),
        hold: options.hold(),
        quiet_max: quiet_max(target.topology.commit_interval),
    };
    let mut runs = Vec::new();
    let drilled = async {
        let mut leader = drill.start()?;
        leader.leads().await?;
        let mut standby = drill.standby().await?;
        for number in 1..=options.runs {
            let run;
            (leader, run) = drill.run(number, leader, standby.take()).await?;
            say(&run.line());
            runs.push(run);
            if number < options.runs {
                standby = drill.standby().await?;
            }
        }
        leader.kill().await
    };
    let outcome = tokio::select! {
        outcome = drilled => outcome,
        () = shutdown.cancelled() => {
            say("interrupted: ending the child");
            Ok(())
        }
    };
    outcome.map(|()| runs)
}

struct Drill<'a> {
    path: &'a Path,
    successor: Successor,
    commits: Commits,
    hold: Duration,
    quiet_max: Duration,
}

impl Drill<'_> {
    fn start(&self) -> Result<Process, Error> {
        Process::start(self.path, self.successor, &self.commits)
    }

    /// A process that stands by, if one is to take over.
    async fn standby(&self) -> Result<Option<Process>, Error> {
        if self.successor == Successor::ItselfAgain {
            return Ok(None);
        }
        let mut standby = self.start()?;
        standby.stands_by().await?;
        Ok(Some(standby))
    }

    /// One kill, and the process that leads afterwards: the one that stands by, or a new one.
    async fn run(
        &self,
        number: u32,
        mut leader: Process,
        standby: Option<Process>,
    ) -> Result<(Process, Run), Error> {
        let mut run = Run::new(number);
        for _ in 0..STEADY_COMMITS {
            if !self.further_commit(&mut leader).await? {
                break;
            }
        }
        let began = Instant::now();
        run.began();
        run.interval_before = self.commits.interval_before(began, STEADY_COMMITS);
        leader.kill().await?;
        let (mut leader, recovers_from) = match standby {
            Some(standby) => (standby, began),
            None => {
                tokio::time::sleep_until((began + self.hold).into()).await;
                (self.start()?, Instant::now())
            }
        };
        run.ended();
        leader.leads().await?;
        run.detection = Some(began.elapsed());
        if self.further_commit(&mut leader).await? {
            run.recovery = self.commits.first_after(recovers_from).map(|first| first - recovers_from);
            run.pause = self.commits.longest_pause(began, recovers_from);
        } else {
            run.note("nothing was produced, so pause and recovery cannot be measured");
        }
        Ok((leader, run))
    }

    /// Waits for another commit; false if there is nothing to commit. An error if the leader ends.
    async fn further_commit(&self, leader: &mut Process) -> Result<bool, Error> {
        let further = self.commits.wait_for(self.commits.count() + 1);
        tokio::select! {
            waited = tokio::time::timeout(self.quiet_max, further) => Ok(waited.is_ok()),
            error = leader.ended() => Err(error),
        }
    }
}

/// A child process that leads, is about to, or stands by.
struct Process {
    child: Child,
    seen: Seen,
    reader: JoinHandle<()>,
}

/// What a child's log has said so far.
#[derive(Debug, Clone, Default)]
struct Seen {
    stands_by: CancellationToken,
    leads: CancellationToken,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    fn start(path: &Path, successor: Successor, commits: &Commits) -> Result<Self, Error> {
        let cannot = |error: std::io::Error| Error::Child(format!("cannot be started: {error}"));
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command.args(["--log-format", "json", "--log-level", LOG_LEVEL, "run", "--progress", "never"]);
        if successor == Successor::Standby {
            command.args(["--standby", "--metrics-addr", "127.0.0.1:0"]);
        }
        command.arg(path).env_remove(isobar_connectors::failpoint::VARIABLE).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let log = child.stderr.take().expect("standard error is piped");
        let seen = Seen::default();
        let reader = tokio::spawn(read_log(log, commits.clone(), seen.clone()));
        Ok(Self { child, seen, reader })
    }

    /// Waits until it leads.
    async fn leads(&mut self) -> Result<(), Error> {
        self.says(self.seen.leads.clone(), "lead").await
    }

    /// Waits until it hears the leader.
    async fn stands_by(&mut self) -> Result<(), Error> {
        self.says(self.seen.stands_by.clone(), "stand by").await
    }

    async fn says(&mut self, said: CancellationToken, what: &str) -> Result<(), Error> {
        tokio::select! {
            () = said.cancelled() => Ok(()),
            error = self.ended() => Err(error),
            () = tokio::time::sleep(START_PATIENCE) => {
                Err(Error::Child(format!("did not {what} within {START_PATIENCE:?}{}", self.complaints())))
            }
        }
    }

    /// SIGKILL; returns when the process is gone and everything it said is read.
    async fn kill(mut self) -> Result<(), Error> {
        let killed = self.child.kill().await;
        killed.map_err(|error| Error::Child(format!("cannot be killed: {error}")))?;
        self.reader.await.expect("reading a log does not panic");
        Ok(())
    }

    /// Waits for an end that nobody asked for.
    async fn ended(&mut self) -> Error {
        match self.child.wait().await {
            Ok(status) => Error::Child(format!("ended by itself ({status}){}", self.complaints())),
            Err(error) => Error::Child(format!("cannot be watched: {error}")),
        }
    }

    fn complaints(&self) -> String {
        lock(&self.seen.complaints).iter().map(|complaint| format!("\n  {complaint}")).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the child's log to its end.
async fn read_log(log: ChildStderr, commits: Commits, seen: Seen) {
    let mut lines = BufReader::new(log).lines();
    // A log that cannot be read any further is one that has ended.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(event) = serde_json::from_str::<Json>(&line) else {
            complain(&seen.complaints, line);
            continue;
        };
        match event["message"].as_str() {
            Some("committed") => commits.note(),
            Some("leading") => seen.leads.cancel(),
            Some(standby::STANDS_BY) => seen.stands_by.cancel(),
            _ if matches!(event["level"].as_str(), Some("WARN" | "ERROR")) => {
                complain(&seen.complaints, line);
            }
            _ => {}
        }
    }
}

fn complain(complaints: &Mutex<VecDeque<String>>, line: String) {
    let mut complaints = lock(complaints);
    complaints.push_back(line);
    while complaints.len() > COMPLAINTS_MAX {
        complaints.pop_front();
    }
}
