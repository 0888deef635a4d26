//! A look at a running leader, for metrics, progress and whoever waits for a publication.

use std::sync::Arc;

use isobar_connectors::clouds::Cloud;

use super::Epoch;
use super::quorum::CloudState;
use super::rules::Standing;
use super::state::Shared;

/// How one cloud is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudProgress {
    /// The cloud.
    pub cloud: String,
    /// Whether its last request failed.
    pub away: bool,
    /// Decisions not yet published there.
    pub decisions_behind: u64,
    /// Why a person must look at it, if so.
    pub set_aside: Option<String>,
}

/// How the epoch is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderProgress {
    /// The epoch led.
    pub epoch: Epoch,
    /// Per cloud.
    pub clouds: Vec<CloudProgress>,
}

/// A read-only look at a running leader, for metrics and progress.
#[derive(Debug, Clone)]
pub struct LeaderWatch(pub(super) Arc<Shared>);

impl LeaderWatch {
    /// The state right now.
    pub fn progress(&self) -> LeaderProgress {
        let clouds = self.0.read(|state| {
            let decided = state.quorum.decided();
            let describe = |(index, cloud): (usize, &Cloud)| CloudProgress {
                cloud: cloud.name.clone(),
                away: state.away[index],
                decisions_behind: decided - state.quorum.cloud(index).published.min(decided),
                set_aside: state.set_aside[index].clone(),
            };
            self.0.clouds.iter().enumerate().map(describe).collect()
        });
        LeaderProgress { epoch: self.0.epoch, clouds }
    }

    /// Whether a later leader has closed this epoch in so many clouds that nothing can be decided any more.
    pub fn is_superseded(&self) -> bool {
        self.0.read(|state| state.standing() == Standing::Superseded)
    }

    /// Whether every registered cloud has published decision `sequence` and all before it, and is neither away, nor set
    /// aside, nor sealed by a later leader.
    pub fn is_published_everywhere(&self, sequence: u64) -> bool {
        self.has_published(sequence).into_iter().all(|has| has)
    }

    /// Per cloud, in the order of the group, whether it has published decision `sequence` and all before it, and is
    /// neither away, nor set aside, nor sealed by a later leader.
    pub fn has_published(&self, sequence: u64) -> Vec<bool> {
        self.0.read(|state| {
            let has_published = |cloud: usize| {
                let CloudState { published, sealed, .. } = *state.quorum.cloud(cloud);
                !sealed
                    && !state.away[cloud]
                    && state.set_aside[cloud].is_none()
                    && self.0.reaches(published, sequence)
            };
            (0..self.0.clouds.len()).map(has_published).collect()
        })
    }

    /// Waits until a majority of the clouds has published decision `sequence` and all before it; false when the epoch
    /// ends before that.
    pub async fn published_in_majority(&self, sequence: u64) -> bool {
        let published =
            self.0.wait_for(|state| self.0.reaches(state.quorum.published(), sequence).then_some(()));
        published.await.is_some()
    }

    /// Waits until the progress is such that `holds`; false when the epoch ends before that.
    pub async fn wait_until(&self, holds: impl Fn(&LeaderProgress) -> bool) -> bool {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if holds(&self.progress()) {
                return true;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.0.shutdown.cancelled() => return false,
            }
        }
    }
}
