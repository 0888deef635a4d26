//! Every byte that enters or leaves: Kafka, object stores, Parquet files and the Delta log.

pub mod dataset;
pub mod delta;
pub mod clouds;
pub mod copy;
pub mod error;
pub mod kafka;
mod nearest;
pub mod source;
pub mod upload;

pub use error::Error;
