//! The fingerprint of one Kafka record: proof, on resuming, that the topic is still the one that was read.
//!
//! Each commit holds the fingerprint of the last record per partition. Before going on, a reader may fetch that
//! record again: another fingerprint at the same offset means the topic was re-created, restored or rewritten, and
//! that its offsets no longer mean what they meant.
//!
//! SHA-256, as 64 lowercase hexadecimal digits, over the fields topic id, partition, offset, timestamp, key, payload
//! in that order. A field that is there contributes the byte `01`, its length in bytes as 8 bytes, and its bytes; one
//! that is absent contributes the byte `00` alone, so an absent key and an empty key differ and no two records can
//! share one encoding. Integers are big-endian two's complement: partition 4 bytes, offset and timestamp
//! (milliseconds since the Unix epoch) 8 bytes each; the topic id is its UTF-8 text.

use sha2::{Digest, Sha256};

/// The fingerprint of a record. `timestamp_ms` is milliseconds since the Unix epoch, `None` where the record has
/// none; a `None` payload is a tombstone.
pub fn record_fingerprint(
    topic_id: &str,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
) -> String {
    let mut hasher = Sha256::new();
    update(&mut hasher, Some(topic_id.as_bytes()));
    update(&mut hasher, Some(&partition.to_be_bytes()));
    update(&mut hasher, Some(&offset.to_be_bytes()));
    update(&mut hasher, timestamp_ms.map(i64::to_be_bytes).as_ref().map(|bytes| &bytes[..]));
    update(&mut hasher, key);
    update(&mut hasher, payload);
    hex::encode(hasher.finalize())
}

fn update(hasher: &mut Sha256, field: Option<&[u8]>) {
    match field {
        None => hasher.update([0]),
        Some(bytes) => {
            hasher.update([1]);
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn golden_values_of_the_format_page() {
        let full = record_fingerprint(
            "zdq3QKZNTvWtGS1kHnFRcg",
            3,
            41,
            Some(1_357_016_400_000),
            Some(b"EWR"),
            Some(b"{}"),
        );
        assert_eq!(full, "a07b24854807f623ff3104d0843ce3be247289536e6a1a83abae8a74bb2f7958");
        let bare = record_fingerprint("flights", 0, 0, None, None, None);
        assert_eq!(bare, "5ccd2a6fd12a031e16d712e5850383b477badd0ee876fac8b3f47ff54d1d6ae4");
    }

    #[test]
    fn absent_and_empty_fields_and_shifted_borders_all_differ() {
        let absent_or_not: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"a"), Some(b"ab")];
        let mut seen = HashSet::new();
        for key in absent_or_not {
            for payload in absent_or_not {
                for timestamp in [None, Some(0), Some(-1)] {
                    for (topic, partition, offset) in [("t", 0, 0), ("t", 0, 1), ("t", 1, 0), ("", 0, 0)] {
                        assert!(
                            seen.insert(record_fingerprint(
                                topic, partition, offset, timestamp, key, payload
                            ))
                        );
                    }
                }
            }
        }
    }
}
