//! Parquet files of a dataset: rows in, staged files out, the same bytes to every cloud.
//!
//! A [`TableLayout`] says where a table lies and how its rows are encoded. A [`DatasetWriter`] takes batches per Kafka
//! partition, routes rows to one file per combination of partition values, encodes row groups when told to save
//! memory or when a group is full, and streams the bytes through a [`FanOut`](crate::upload::FanOut) while it goes
//! on. Closing it gives a [`StagedFile`] per file: path, size, SHA-256, rows, partition values and statistics, which is
//! all that a commit needs. A [`FileRewriter`] makes one file of several; [`filled()`] gives columns of older files the
//! fields that their structs lack.
//!
//! **The bytes depend only on rows and settings.** Within a row group rows are ordered by (topic, partition, offset),
//! whatever the order in which the chunks of several Kafka partitions arrived; columns are encoded whole, so that
//! neither chunk borders nor buffers of valid bits can be seen in the file; writer name, encodings and limits are
//! fixed; no hash map's order gets in. Settings that are fixed rather than configurable are documented at
//! [`TableLayout::properties`].

mod file;
mod filled;
mod layout;
mod partitions;
mod rewrite;
mod statistics;
mod writer;

pub use filled::filled;
pub use layout::{Compression, TableLayout};
pub use partitions::{NULL_DIRECTORY, directory};
pub use rewrite::{FileRewriter, PendingRows};
pub use writer::{DatasetWriter, StagedFile};
