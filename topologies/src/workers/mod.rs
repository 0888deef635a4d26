//! Many workers, one leader: workers read, transform and stage; the leader decides for all of them.
//!
//! ```text
//! worker ─ POST /v1/workers ─▶ desk ─▶ share: partitions and the chain's positions   (every two seconds, a sign of life)
//! worker ─ POST /v1/commits ─▶ desk ─▶ leader's next commit: one decision for everything that waits
//!        ◀── committed | stale, with positions | not stored ──┘
//! ```
//!
//! Redrives ([`redrive`](crate::redrive)) are put down at the same desk and decided by the same leader, one by one.
//!
//! A worker runs the pipeline's own code up to the staged files; its `Remote` committer then sends the proposal to the
//! leader, whose address is in its claim, and repeats the same bytes until there is a definite answer. The leader's
//! [`Own`] committer looks for the files in a majority of clouds and has them decided together with its own batch.
//!
//! Guarantee: none of its own. Who reads what, who is alive and which generation it is are matters of work only. A
//! commit is accepted if it starts where the chain ends ([`commit::merge`](crate::commit::merge)), so a worker that
//! is late, paused, counted as dead or heard by two leaders is told that it is stale, drops its rows and reads
//! again. Failure: an answer that is lost is asked for again under the same commit id, which the chain remembers,
//! also after a take-over. Requests carry a token ([`token`]); without one in the specification there are no such
//! endpoints. `docs/workers.md` describes what is said, and what the network between them must be.

mod client;
mod committer;
mod desk;
mod routes;
mod run;
mod shares;
pub mod token;
pub mod wire;

pub(crate) use client::Client;
pub(crate) use committer::{Committer, Own, Reads};
pub use desk::Desk;
pub(crate) use desk::{Roster, WaitingRedrive};
pub(crate) use routes::router;
pub use run::run;

use std::time::Duration;

/// How often a worker shows that it is there.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// A worker that was not heard for so long reads nothing any more, as far as the leader is concerned.
const SILENCE_MAX: Duration = Duration::from_secs(10);
