//! The commit protocol: decide on a majority of clouds, publish in every one.
//!
//! ```text
//!   proposal ──accept──▶ entry ──store──▶ control/<topology>/log/<epoch>/<i>   in each cloud (write-once)
//!                                            │ in a majority = decided
//!                                            ▼
//!                                         datasets/<d>/_delta_log/<N>.json      in each cloud, in order
//! ```
//!
//! A conditional create is a write-once register; a majority of them decides a value. One process leads an epoch:
//! it claims the epoch's number in a majority ([`takeover`]), closes every older log with a SEAL, takes over what
//! those logs hold ([`choose`]), and writes it as the header of its own. From then on each cloud is served by a
//! lane of its own ([`lane`]) that goes through the same steps for the newest commit and for one missed long ago,
//! so that a cloud that was away is filled simply by going on.
//!
//! What must never be wrong is pure: [`chain`] (may this follow?), [`merge`] (several workers' commits in one
//! decision), [`quorum`] (is this decided?), [`choose`] (what did the sealed logs decide?), [`upkeep`] and
//! [`checkpoint`] (may this maintenance follow?), [`redrive`] (may these rows leave the quarantine?), [`gap`] (may these offsets
//! be left out?), [`evolution`] (may the table have these columns?), [`model`] (may this entry of a model's log follow?) and
//! [`rules`] (the small decisions between). The other modules carry it out. Guarantee: per sequence number one decision, ever; per version of a table one content, in every cloud.
//! Failure: with fewer than a majority of clouds nothing is decided, and nothing is lost; once a later epoch has
//! sealed a majority, the older leader stops by itself.

mod ask;
pub mod chain;
pub mod checkpoint;
pub mod choose;
mod environment;
pub mod evolution;
pub mod format;
pub mod gap;
mod lane;
mod leader;
pub mod merge;
pub mod model;
mod numbers;
pub mod quorum;
mod readmit;
pub mod redrive;
mod released;
pub mod rules;
mod state;
mod takeover;
pub mod upkeep;
mod watch;

pub use ask::Patience;
pub use chain::{
    Chain, Described, NewFile, Proposal, QUARANTINE_SUFFIX, Refusal, TableHead, TableProposal, quarantine_of,
};
pub use checkpoint::CheckpointProposal;
pub use environment::{Environment, System, Task};
pub use evolution::{Evolution, TableEvolution};
pub use format::{Epoch, UNPUBLISHED_MAX};
pub use gap::GapProposal;
pub(crate) use lane::{hint_of, hinted_version};
pub(crate) use leader::files_in_majority;
pub use leader::{CommitOutcome, Leader, Staged};
pub(crate) use quorum::majority;
pub(crate) use readmit::is_readmitted;
pub use redrive::Redrive;
pub(crate) use released::Released;
pub use takeover::Group;
pub(crate) use takeover::{most_common, published_from};
pub use upkeep::{Change, RemovedFile, Upkeep};
pub use watch::{CloudProgress, LeaderProgress, LeaderWatch};
