//! Standing by: a process that listens to the leader, and takes over when it is silent.
//!
//! ```text
//! standing by ──leader silent for `silence`──▶ take-over ──▶ leading ──superseded──▶ standing by
//! ```
//!
//! The leader writes the address of its HTTP side into its claim, and answers `GET /v1/leader` there while its
//! pipeline goes round. A standby finds the newest claim, asks about twice a second, and measures silence with its own
//! monotonic clock. Hearing only decides *when* a take-over is tried. Who may decide is settled by epochs and seals
//! ([`commit`](crate::commit)): a standby that hears nothing because its own network is broken, or a leader that was only
//! paused, costs a change of leaders and nothing else.
//!
//! A leader whose claim names no address (`isobar run` without `--metrics-addr`) cannot be asked. It is heard by what it
//! writes: as long as the clouds show new records, it leads. One that has nothing to commit cannot be told from one
//! that is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::commit::format::Claim;
use crate::commit::{Epoch, Group};
use crate::drill::rival::{self, Trace};
use crate::error::Error;
use crate::pipeline::{self, RunOptions, Summary};
use crate::spec::Topology;
use crate::start::open_clouds;

/// How long a leader may be silent before a standby takes over, unless told otherwise.
pub const SILENCE: Duration = Duration::from_secs(5);

/// What is logged once the leader is heard.
pub const STANDS_BY: &str = "standing by: the leader answers";

/// Pause between two questions to the leader.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How long an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// A pulse older than this is none: the pipeline hangs, although its process answers.
const BEAT_AGE_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer at most; it is far smaller.
const ANSWER_BYTES_MAX: usize = 4096;

/// What `GET /v1/leader` answers while the process leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leading {
    /// The topology.
    pub topology: String,
    /// The epoch led.
    pub epoch: Epoch,
}

/// Beats while a pipeline leads. Clones share the pulse.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Option<(Epoch, Instant)>>>);

impl Pulse {
    /// The pipeline leads `epoch` and goes round.
    pub fn beat(&self, epoch: Epoch) {
        self.set(Some((epoch, Instant::now())));
    }

    /// The pipeline leads no longer.
    pub fn end(&self) {
        self.set(None);
    }

    /// The epoch led, unless the pipeline has ended or hangs.
    pub fn epoch(&self) -> Option<Epoch> {
        let beat = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beat.filter(|(_, at)| at.elapsed() <= BEAT_AGE_MAX).map(|(epoch, _)| epoch)
    }

    fn set(&self, beat: Option<(Epoch, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = beat;
    }
}

/// Stands by, leads when nobody else does, stands by again when another process takes over or when clouds or brokers are
/// away, and so on, until `shutdown`, or until caught up if asked, or until an error needs a person.
pub async fn run(
    topology: &Topology,
    options: RunOptions,
    silence: Duration,
    shutdown: CancellationToken,
) -> Result<Option<Summary>, Error> {
    let clouds = match &options.clouds {
        Some(clouds) => clouds.clone(),
        None => open_clouds(topology)?,
    };
    let group = Group::new(&topology.name, clouds);
    let listener = Listener::new(topology, options.address.clone())?;
    loop {
        tokio::select! {
            () = listener.wait_for_silence(&group, silence) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        match pipeline::run(topology, options.clone(), shutdown.clone()).await {
            Err(Error::Superseded { epoch }) => {
                warn!(%epoch, "another process leads now, standing by");
            }
            Err(error) if !error.needs_a_person() && !shutdown.is_cancelled() => {
                // Clouds or brokers that are away, or another standby that was faster: all are waited for.
                warn!(error = %crate::chain_of(&error), "cannot lead, standing by");
                tokio::select! {
                    () = tokio::time::sleep(silence) => {}
                    () = shutdown.cancelled() => return Ok(None),
                }
            }
            ended => return ended.map(Some),
        }
    }
}

/// What became of a leader that cannot be asked.
enum Watched {
    /// It writes nothing any more.
    AtRest,
    /// Another process has claimed an epoch.
    Replaced,
}

/// Whether the process at `address` leads `topology`, by its own answer.
///
/// # Errors
/// Only if no client can be made to ask with.
pub(crate) async fn leads(topology: &Topology, address: &str) -> Result<bool, Error> {
    Ok(Listener::new(topology, None)?.ask(address).await.is_some())
}

/// Listens to whoever leads one topology.
struct Listener {
    topology: String,
    /// Our own address: an old claim of ours is nobody to listen to.
    own: Option<String>,
    /// How long a leader that cannot be asked may write nothing.
    unheard_patience: Duration,
    client: reqwest::Client,
}

impl Listener {
    fn new(topology: &Topology, own: Option<String>) -> Result<Self, Error> {
        let client = reqwest::Client::builder().timeout(ANSWER_PATIENCE).no_proxy().build();
        let client = client.map_err(|error| Error::Bug(format!("an HTTP client: {error}")))?;
        let unheard_patience = rival::patience(topology.commit_interval);
        Ok(Self { topology: topology.name.clone(), own, unheard_patience, client })
    }

    /// Returns when no leader has been heard for `silence`; at once when nobody ever led.
    async fn wait_for_silence(&self, group: &Group, silence: Duration) {
        let mut heard = Instant::now();
        let mut leader: Option<String> = None;
        let mut is_news = true;
        loop {
            if leader.is_none() {
                let Some(claim) = group.newest_claim().await else { return };
                if claim.address.is_none() {
                    match self.wait_for_rest(group, &claim, silence.max(self.unheard_patience)).await {
                        Watched::AtRest => return,
                        Watched::Replaced => heard = Instant::now(),
                    }
                    tokio::time::sleep(ASK_INTERVAL.min(silence / 2)).await;
                    continue;
                }
                leader = claim.address.filter(|address| Some(address) != self.own.as_ref());
            }
            if let Some(address) = &leader {
                match self.ask(address).await {
                    Some(leading) => {
                        if std::mem::take(&mut is_news) {
                            info!(%address, epoch = %leading.epoch, "{STANDS_BY}");
                        }
                        heard = Instant::now();
                    }
                    // Perhaps another process leads by now: its claim tells.
                    None => leader = None,
                }
            }
            if heard.elapsed() >= silence {
                info!(silence_ms = silence.as_millis(), "no leader is heard, taking over");
                return;
            }
            tokio::time::sleep(ASK_INTERVAL.min(silence / 2)).await;
        }
    }

    /// Watches what a leader without an address writes, until it has written nothing for `patience` or another process
    /// has claimed an epoch.
    async fn wait_for_rest(&self, group: &Group, claim: &Claim, patience: Duration) -> Watched {
        warn!(
            epoch = %claim.epoch, patience_ms = patience.as_millis(),
            "the leader names no address, so only what it writes is watched, and without work it is taken for gone: start \
             it with --metrics-addr, or with --standby like this process"
        );
        let mut known: BTreeMap<String, Trace> = BTreeMap::new();
        let mut moved = Instant::now();
        while moved.elapsed() < patience {
            let seen = rival::traces(&group.clouds, &group.keys()).await;
            if seen.values().any(|(epoch, _)| *epoch > claim.epoch.0) {
                return Watched::Replaced;
            }
            // A cloud that did not answer before has not moved.
            if seen.iter().any(|(cloud, trace)| known.get(cloud).is_some_and(|before| before != trace)) {
                moved = Instant::now();
            }
            known.extend(seen);
            tokio::time::sleep(patience / 5).await;
        }
        info!(epoch = %claim.epoch, patience_ms = patience.as_millis(), "no leader is heard, taking over");
        Watched::AtRest
    }

    /// The answer of the process at `address`, if it leads our topology.
    async fn ask(&self, address: &str) -> Option<Leading> {
        let answer = self.client.get(format!("http://{address}/v1/leader")).send().await.ok()?;
        let mut answer = answer.error_for_status().ok()?;
        let mut body = Vec::new();
        // Whatever answers there now need not be a leader of ours.
        while let Some(chunk) = answer.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        let leading: Leading = serde_json::from_slice(&body).ok()?;
        (leading.topology == self.topology).then_some(leading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_waited_for_and_what_needs_a_person_is_not() {
        let away = isobar_connectors::Error::KafkaUnreachable {
            brokers: "kafka:9092".into(),
            timeout_ms: 1,
            reason: "away".into(),
        };
        let passes = [
            Error::connector("ask Kafka", away),
            Error::no_majority("take over", 2, 3, vec![]),
            Error::damaged("log", "vanished while it was read"),
        ];
        assert!(passes.iter().all(|error| !error.needs_a_person()));
        let option =
            isobar_connectors::Error::KafkaOption { option: "acks".into(), problem: "unknown".into() };
        let stays = [
            Error::Configuration("no such cloud".into()),
            Error::connector("configure the Kafka client", option),
            Error::Gap("offsets are gone".into()),
            Error::Bug("rows do not add up".into()),
        ];
        assert!(stays.iter().all(Error::needs_a_person));
    }

    #[test]
    fn a_pulse_tells_the_epoch_until_it_ends() {
        let pulse = Pulse::default();
        assert_eq!(pulse.epoch(), None);
        pulse.clone().beat(Epoch(7));
        assert_eq!(pulse.epoch(), Some(Epoch(7)));
        pulse.end();
        assert_eq!(pulse.epoch(), None);
    }
}
