//! The running system: a topology is specified in YAML, checked, and run as a pipeline that commits one logical
//! dataset to every cloud.
//!
//! ```text
//! spec ─▶ pipeline ─▶ stage (decode, expectations, SQL, Parquet) ─▶ commit (decide, publish) ─▶ prove, query
//! ```

mod aside;
mod backoff;
pub mod cli;
pub mod commit;
mod decoding;
pub mod demo;
pub mod doctor;
mod door;
pub mod drift;
pub mod drill;
pub mod error;
pub mod evolve;
mod fetched;
pub mod gap;
pub mod gateway;
pub mod http;
pub mod inference;
mod letters;
mod limits;
mod maintain;
pub mod metrics;
pub mod models;
pub mod online;
mod parts;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod prove;
pub mod quarantine;
pub mod query;
pub mod redrive;
mod schema_archive;
pub mod scrub;
pub mod serve;
pub mod span;
pub mod spec;
pub mod stage;
pub mod standby;
pub mod start;
mod throttle;
mod topics;
pub mod training;
pub mod workers;

pub use error::Error;

/// Whether somebody shows what is kept of a secret. Takes the same time for everything wrong of this length.
pub(crate) fn is_shown(kept: &[u8], shown: &[u8]) -> bool {
    let differences = kept.iter().zip(shown).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
    kept.len() == shown.len() && differences == 0
}

/// An error and everything that caused it, on one line.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let message = source.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = source.source();
    }
    text
}
