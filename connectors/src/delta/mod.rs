//! The Delta log as isobar writes and reads it: whole `_delta_log` bodies, byte for byte.
//!
//! A body is decided before it is published and must be the same bytes in every cloud, so nothing here leaves room
//! for a library's taste: the order of actions, of fields and of map keys is fixed, and a body read back and
//! written again gives the same bytes. Any Delta reader can read the result; `docs/format.md` is the specification.
//!
//! ```text
//! {"commitInfo":{… "isobar":{ epoch, sequence, previous_sha256, offsets, rows, files }}}
//! {"protocol":…}        only where the table is created or changed
//! {"metaData":…}
//! {"txn":…}             one per Kafka partition that advanced: version = next offset to read
//! {"add":…} {"remove":…}
//! ```
//!
//! Reading is tolerant of fields it does not know and strict about everything it relies on: a body is refused, never
//! half understood. Reading and writing objects is the caller's; all here is pure.

pub mod actions;
pub mod body;
pub mod evolution;
pub mod fingerprint;
pub mod gap;
pub mod maintenance;
pub mod path;
pub mod redrive;
pub mod schema;

pub use actions::{
    Action, Add, CommitInfo, FileDigest, Format, IsobarInfo, Metadata, OffsetRange, Protocol, Remove,
    ScoredBy, Txn,
};
pub use body::{CommitBody, TableDefinition, is_sha256, next_commit_timestamp_ms, parse_body, sha256_hex};
pub use evolution::SchemaUpdate;
pub use fingerprint::record_fingerprint;
pub use gap::AcceptedGap;
pub use maintenance::{Maintenance, MaintenanceWork};
pub use redrive::Redrive;
