//! Helpers of the integration tests: everything that is not isobar.
//!
//! ```text
//! prng ─▶ events ─▶ lab (embedded broker, three clouds) ─▶ isobar ─▶ clouds ─▶ delta ─▶ ledger
//!         what to produce                                  under test         readers of our own   what is due
//! ```
//!
//! - [`lab`]: a broker, clouds, a topology, and a pipeline that can be started, stopped, aborted.
//! - [`events`]: deterministic records of mixed quality, each with the fate it must meet.
//! - [`ledger`]: what was produced, and the comparison with what is in the tables.
//! - [`delta`]: reads tables without isobar's code: `_delta_log` as plain JSON, files with the Parquet crate.
//! - [`letters`]: reads dead-letter topics, and compares them with quarantines. [`published`]: the same of topics and datasets.
//! - [`trees`]: are two clouds equal?
//! - [`script`]: lets single requests fail, by count or by path; whole clouds are taken away with isobar's own
//!   `FaultSwitch`.
//! - [`sim`]: deterministic simulation of the commit protocol.
//! - [`slt`]: files of queries with their answers.
//! - [`wire`]: S3, Azure and Google in memory, at the wire, with faults, for the real clients; [`gcs`]: its Google as a server.
//! - [`models`]: folders with models to be registered, and whether they can be asked.
//! - [`hostile`]: queries that mean no good.
//! - [`proxy`]: takes a real service away by its connections.
//! - [`program`]: the `isobar` binary as a user runs it. [`kill`]: dies at a failpoint, and is followed. [`services`]: the real services of the live tests;
//!   [`registry`]: their schema registry.
//!
//! A helper that finds something wrong panics: it is only ever called from a test.

pub mod delta;
pub mod encode;
pub mod events;
pub mod gcs;
pub mod hostile;
pub mod kill;
pub mod lab;
pub mod ledger;
pub mod letters;
pub mod models;
pub mod prng;
pub mod program;
pub mod proxy;
pub mod published;
pub mod registry;
pub mod script;
pub mod services;
pub mod sim;
pub mod slt;
pub mod trees;
pub mod wait;
pub mod wire;
