//! The product's own files: the pure part of `topologies/src/commit`, compiled in as they are.

#[path = "../../../topologies/src/commit/chain.rs"]
pub mod chain;
#[path = "../../../topologies/src/commit/checkpoint.rs"]
pub mod checkpoint;
#[path = "../../../topologies/src/commit/choose.rs"]
pub mod choose;
#[path = "../../../topologies/src/commit/evolution.rs"]
pub mod evolution;
#[path = "../../../topologies/src/commit/format.rs"]
pub mod format;
#[path = "../../../topologies/src/commit/model.rs"]
pub mod model;
#[path = "../../../topologies/src/commit/quorum.rs"]
pub mod quorum;
#[path = "../../../topologies/src/commit/redrive.rs"]
pub mod redrive;
#[path = "../../../topologies/src/commit/rules.rs"]
pub mod rules;
#[path = "../../../topologies/src/commit/upkeep.rs"]
pub mod upkeep;

pub use chain::{Chain, Proposal, Refusal, TableHead, TableProposal};
pub use format::Epoch;
