//! What clients keep for the server: tickets and prepared statements, signed, so that they come back as they were given out.

use std::collections::BTreeMap;

use bytes::Bytes;
use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use prost::Message;
use tonic::Status;

use crate::query::TableVersion;

/// Bytes of a ticket or a handle: a query, its parameters and what is said about them.
pub(super) const SEALED_BYTES_MAX: usize = 2 << 20;
/// Bytes of a signature: 256 bits in base64, without padding.
const SIGNATURE_BYTES: usize = 43;

/// A query on its way. A ticket is a query that was planned; anything else is a prepared statement.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Sealed {
    /// Who got this, and may use it.
    #[prost(string, tag = "1")]
    pub(super) caller: String,
    /// The query, with placeholders by number.
    #[prost(string, tag = "2")]
    pub(super) sql: String,
    /// How many values the query needs.
    #[prost(uint32, tag = "3")]
    pub(super) placeholders: u32,
    /// The values: one row, see [`parameters`](super::parameters).
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) parameters: Option<Bytes>,
    /// Set for a ticket.
    #[prost(message, optional, tag = "5")]
    pub(super) planned: Option<Planned>,
}

/// What the plan of a query found.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Planned {
    /// Tells this ticket from all others.
    #[prost(string, tag = "1")]
    pub(super) id: String,
    /// What it reads.
    #[prost(message, repeated, tag = "2")]
    pub(super) versions: Vec<PinnedTable>,
    /// SHA-256 of the schema of the answer.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) schema: Bytes,
}

/// A table at a version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub(super) struct PinnedTable {
    #[prost(string, tag = "1")]
    table: String,
    #[prost(uint64, tag = "2")]
    version: u64,
}

/// Tables and versions, whichever clouds they are read from: those have the same rows.
pub(super) fn pinned(versions: &[TableVersion]) -> Vec<PinnedTable> {
    let pinned = |table: &TableVersion| PinnedTable { table: table.table.clone(), version: table.version };
    let mut pinned: Vec<PinnedTable> = versions.iter().map(pinned).collect();
    pinned.sort_unstable();
    pinned.dedup();
    pinned
}

impl Planned {
    /// The version that each table is at where the query names none: no version that it names is newer.
    pub(super) fn newest(&self) -> BTreeMap<String, u64> {
        // Ascending by version, so that the newest is inserted last.
        self.versions.iter().map(|pinned| (pinned.table.clone(), pinned.version)).collect()
    }
}

/// Signs, and opens what it has signed.
pub(super) struct Seal {
    signing: EncodingKey,
    checking: DecodingKey,
}

impl Seal {
    /// With a new key.
    pub(super) fn new() -> Self {
        let key: [u8; 32] = rand::random();
        Self { signing: EncodingKey::from_secret(&key), checking: DecodingKey::from_secret(&key) }
    }

    /// `sealed` for a client to keep.
    pub(super) fn close(&self, sealed: &Sealed) -> Result<Bytes, Status> {
        let content = sealed.encode_to_vec();
        if content.len() > SEALED_BYTES_MAX - SIGNATURE_BYTES {
            return Err(Status::invalid_argument(format!(
                "the query and its parameters are {} bytes, more than {SEALED_BYTES_MAX}",
                content.len()
            )));
        }
        let signature = sign(&content, &self.signing, Algorithm::HS256);
        let signature = signature.map_err(|error| Status::internal(format!("sign a ticket: {error}")))?;
        Ok([signature.as_bytes(), &content].concat().into())
    }

    /// What `bytes` hold, if they are ours and this caller got them.
    pub(super) fn open(&self, bytes: &[u8], caller: &str) -> Result<Sealed, Status> {
        let content = Some(bytes).filter(|bytes| bytes.len() <= SEALED_BYTES_MAX);
        let (signature, content) =
            content.and_then(|bytes| bytes.split_at_checked(SIGNATURE_BYTES)).ok_or_else(unknown)?;
        let signature = std::str::from_utf8(signature).map_err(|_| unknown())?;
        let is_ours = verify(signature, content, &self.checking, Algorithm::HS256);
        if !is_ours.unwrap_or(false) {
            return Err(unknown());
        }
        let sealed = Sealed::decode(content).map_err(|_| unknown())?;
        Some(sealed).filter(|sealed| sealed.caller == caller).ok_or_else(unknown)
    }
}

/// The same whatever is wrong with it.
fn unknown() -> Status {
    Status::invalid_argument(
        "this ticket or prepared statement was not given to you, or before the server was started anew: ask again",
    )
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_seal_breaks_with_any_byte_and_with_another_key() {
        let seal = Seal::new();
        let sealed = Sealed { caller: "ana".to_owned(), sql: "SELECT 1".to_owned(), ..Sealed::default() };
        let closed = seal.close(&sealed).unwrap();
        assert_eq!(seal.open(&closed, "ana").unwrap(), sealed);
        assert!(seal.open(&closed, "bo").is_err());
        assert!(Seal::new().open(&closed, "ana").is_err());
        for at in 0..closed.len() {
            let mut bytes = closed.to_vec();
            bytes[at] ^= 0x20;
            assert!(seal.open(&bytes, "ana").is_err(), "byte {at}");
            assert!(seal.open(&closed[..at], "ana").is_err(), "{at} bytes");
        }
        let large = Sealed { sql: " ".repeat(SEALED_BYTES_MAX), ..sealed };
        assert_eq!(seal.close(&large).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn the_newest_of_several_versions_of_a_table_is_where_it_is_not_named() {
        let of = |table: &str, version| TableVersion {
            table: table.to_owned(),
            version,
            cloud: "a".to_owned(),
            committed_ms: 0,
            sha256: String::new(),
        };
        let read = [of("b", 7), of("a", 3), of("a", 12), of("a", 3)];
        let planned = Planned { versions: pinned(&read), ..Planned::default() };
        assert_eq!(planned.versions.len(), 3);
        let newest = planned.newest().into_iter().collect::<Vec<_>>();
        assert_eq!(newest, [("a".to_owned(), 12), ("b".to_owned(), 7)]);
    }
}
