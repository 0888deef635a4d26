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

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::commit::{Epoch, Group};
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

/// Stands by, leads when nobody else does, stands by again when another process takes over, and so on, until
/// `shutdown`, or until caught up if asked, or until an error stops the pipeline.
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
    let listener = Listener::new(&topology.name, options.address.clone())?;
    loop {
        tokio::select! {
            () = listener.wait_for_silence(&group, silence) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        match pipeline::run(topology, options.clone(), shutdown.clone()).await {
            Err(Error::Superseded { epoch }) => {
                warn!(%epoch, "another process leads now, standing by");
            }
            Err(error @ Error::NoMajority { .. }) if !shutdown.is_cancelled() => {
                // Clouds that are away, or another standby that was faster: both are waited for.
                warn!(error = %crate::chain_of(&error), "could not take over, standing by");
                tokio::select! {
                    () = tokio::time::sleep(silence) => {}
                    () = shutdown.cancelled() => return Ok(None),
                }
            }
            ended => return ended.map(Some),
        }
    }
}

/// Listens to whoever leads one topology.
struct Listener {
    topology: String,
    /// Our own address: an old claim of ours is nobody to listen to.
    own: Option<String>,
    client: reqwest::Client,
}

impl Listener {
    fn new(topology: &str, own: Option<String>) -> Result<Self, Error> {
        let client = reqwest::Client::builder().timeout(ANSWER_PATIENCE).no_proxy().build();
        let client = client.map_err(|error| Error::Bug(format!("an HTTP client: {error}")))?;
        Ok(Self { topology: topology.to_owned(), own, client })
    }

    /// Returns when no leader has been heard for `silence`; at once when nobody ever led.
    async fn wait_for_silence(&self, group: &Group, silence: Duration) {
        let mut heard = Instant::now();
        let mut leader: Option<String> = None;
        let mut is_news = true;
        loop {
            if leader.is_none() {
                let Some(claim) = group.newest_claim().await else { return };
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

    /// The answer of the process at `address`, if it leads our topology.
    async fn ask(&self, address: &str) -> Option<Leading> {
        let answer = self.client.get(format!("http://{address}/v1/leader")).send().await.ok()?;
        let leading: Leading =
            serde_json::from_slice(&answer.error_for_status().ok()?.bytes().await.ok()?).ok()?;
        (leading.topology == self.topology).then_some(leading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
