//! Schema registries: asks by Confluent's API what a schema id in a record stands for. Confluent's own registry,
//! Apicurio, Karapace and Redpanda speak it.
//!
//! ```no_run
//! # async fn example() -> Result<(), isobar_connectors::Error> {
//! use isobar_connectors::registry::{RegistryClient, RegistryConfig, SchemaAnswer};
//!
//! let registry = RegistryClient::new(&RegistryConfig::new(["https://registry.example:8081"]))?;
//! match registry.schema(42).await? {
//!     SchemaAnswer::Known(schema) => println!("{}: {}", schema.kind, schema.text),
//!     SchemaAnswer::Unknown => println!("the registry has no schema 42"),
//!     SchemaAnswer::Unusable(why) => println!("schema 42 cannot be used: {why}"),
//! }
//! # Ok(()) }
//! ```
//!
//! # The idea
//! There are answers, and there is no answer. That an id is unknown, or that its schema cannot be used, is an answer:
//! records with that id are bad, and their neighbours are not. A registry that is away, overloaded or in the way of a
//! proxy gives no answer, and nobody may conclude anything from it: that is an [`Error`](crate::Error), and the caller
//! waits. So a 404 counts as "unknown" only with the error code that says so.
//!
//! # Guarantees
//! - An id is asked for once: ids are immutable, and schemas stay in memory (32 MiB, the least recently used goes
//!   first). "Unknown" is confirmed by a second look before it is an answer, and believed for 30 s.
//! - A schema comes with the texts of all that it refers to, in an order in which they can be read.
//! - Everything has a bound: connecting 5 s, a request 10 s, four rounds through the servers with pauses between 0.1 s
//!   and 2 s (10 s, if a server asks for it), 8 ids at a time, answers of 8 MiB, 256 references nested 32 deep, 16 MiB for
//!   a schema with them.
//! - Passwords and tokens are in no message, no log and no `Debug`, also those in a URL. Redirects are not followed.
//! - What was known outlives the process: [`RegistryClient::export`], [`SchemaArchive`], and
//!   [`RegistryClient::with_archive`], for a start while the registry is away. `docs/registry.md` says how.
//!
//! # Which server
//! The URLs are those of one registry. The first is asked until it does not answer; whichever answers instead is asked
//! from then on.

mod archive;
mod cache;
mod client;
mod config;
mod references;
mod servers;
mod subjects;
#[cfg(test)]
mod tests;
mod wire;

pub use archive::{ARCHIVE_BYTES_MAX, SchemaArchive};
pub use client::{Compatibility, RegistryClient, SchemaAnswer, SubjectVersion};
pub use config::{Credentials, RegistryConfig};
pub use subjects::{RecordPart, SubjectNames};
pub use wire::ReferenceTo;
