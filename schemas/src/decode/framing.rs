//! What stands before the value in a payload: which schema it was written with.
//!
//! | framing | payload |
//! |---|---|
//! | `confluent` | byte 0, the id of the schema in a registry (4 bytes, big-endian), the value |
//! | `single_object` | bytes C3 01, the fingerprint of the schema (8 bytes, little-endian), the value |
//! | `plain` | the value |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reject::{Fault, Parsed, RejectReason};

/// How a payload says which schema it was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// By an id in a schema registry, as Confluent's serializers write it.
    Confluent,
    /// By a fingerprint, as in Avro's single-object encoding.
    SingleObject,
    /// Not at all: every record has the same schema.
    Plain,
}

/// Bytes before the value under [`Framing::Confluent`].
pub(crate) const CONFLUENT_HEADER_BYTES: usize = 5;

/// Bytes before the value under [`Framing::SingleObject`].
pub(crate) const SINGLE_OBJECT_HEADER_BYTES: usize = 10;

/// The id of the schema in the registry, which the value follows after [`CONFLUENT_HEADER_BYTES`].
#[inline]
pub(crate) fn confluent_id(payload: &[u8]) -> Parsed<u32> {
    match payload {
        [0, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(not_confluent(payload)),
    }
}

/// The value after the header of [`Framing::Confluent`], whichever schema that names.
#[inline]
pub(crate) fn after_confluent_header(payload: &[u8]) -> Parsed<&[u8]> {
    confluent_id(payload).map(|_| &payload[CONFLUENT_HEADER_BYTES..])
}

#[cold]
fn not_confluent(payload: &[u8]) -> Box<Fault> {
    let problem = match payload {
        // One byte of version, one that says whether and how the value is compressed, a UUID.
        [3, 0 | 5, rest @ ..] if rest.len() >= 16 => {
            "the schema is one of AWS Glue's registry, which isobar does not read; \
             let the producer use a registry with Confluent's API"
                .to_owned()
        }
        [0, ..] => format!("{} bytes are too few to name a schema in the registry", payload.len()),
        [first, ..] => {
            format!(
                "no schema of a registry is named: the payload starts with byte {first:#04x} instead of 0x00"
            )
        }
        [] => "no schema is named".to_owned(),
    };
    Fault::new(RejectReason::UnknownSchema, problem)
}

/// The fingerprint of the schema, which the value follows after [`SINGLE_OBJECT_HEADER_BYTES`].
#[inline]
pub(crate) fn single_object_fingerprint(payload: &[u8]) -> Parsed<u64> {
    if let [0xC3, 0x01, rest @ ..] = payload
        && let Some(fingerprint) = rest.first_chunk()
    {
        return Ok(u64::from_le_bytes(*fingerprint));
    }
    let problem = "no schema is named: the payload does not start with bytes C3 01 and a fingerprint";
    Err(Fault::new(RejectReason::UnknownSchema, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_read_and_everything_else_explained() {
        assert_eq!(confluent_id(&[0, 0, 1, 2, 3]).unwrap(), 0x0001_0203);
        assert_eq!(confluent_id(&[0, 0xff, 0xff, 0xff, 0xff, 9]).unwrap(), u32::MAX);
        let glue = |compression: u8| [&[3, compression][..], &[7; 16], b"value"].concat();
        for (payload, part) in [
            (&[][..], "no schema is named"),
            (&[0, 0, 0, 1], "4 bytes are too few"),
            (b"{\"a\":1}", "starts with byte 0x7b"),
            (&glue(0), "AWS Glue"),
            (&glue(5), "AWS Glue"),
            (&glue(1), "starts with byte 0x03"),
            (&glue(0)[..17], "starts with byte 0x03"),
        ] {
            let fault = confluent_id(payload).unwrap_err();
            assert_eq!(fault.reason, RejectReason::UnknownSchema);
            let message = fault.into_reject(0).message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_fingerprint_is_little_endian() {
        let payload = [0xC3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(single_object_fingerprint(&payload).unwrap(), 0x0807_0605_0403_0201);
        for payload in [&payload[..9], &[0xC3, 0x02, 1, 2, 3, 4, 5, 6, 7, 8], b"", b"{\"a\":1}     "] {
            assert_eq!(single_object_fingerprint(payload).unwrap_err().reason, RejectReason::UnknownSchema);
        }
    }
}
