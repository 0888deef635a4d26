//! Every byte that enters or leaves: Kafka, object stores, Parquet files and the Delta log.

pub mod checkpoint;
pub mod clouds;
pub mod copy;
pub mod dataset;
pub mod delta;
pub mod digesting;
pub mod error;
pub mod failpoint;
pub mod kafka;
mod nearest;
pub mod registry;
pub mod source;
pub mod upload;

pub use error::Error;
