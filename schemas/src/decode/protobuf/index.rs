//! Which of the messages of a schema a payload is: the indexes that Confluent's serializers write after their header.
//!
//! ```text
//! 0 | id of the schema, 4 bytes | number of indexes | indexes, from the outermost message inwards | message
//! ```
//!
//! Number and indexes are zigzag varints. No indexes at all stand for the first message of the schema, `[0]`, which is
//! nearly always the one.

use super::wire::{Span, Wire, zigzag};
use crate::decode::reject::Parsed;

/// The way to a message: the index of the outermost one in its file, then of each in the one around it.
pub(super) type MessageIndex = Vec<u32>;

/// How deep messages may be declared in each other; compilers of Protobuf allow no more.
const DEPTH_MAX: i64 = 32;

/// Reads the index that starts at byte `start` of `payload`, and returns it and where the message starts.
pub(super) fn read(payload: &[u8], start: usize) -> Parsed<(MessageIndex, usize)> {
    let mut wire = Wire::new(payload, Span { start: start as u32, end: payload.len() as u32 });
    let depth = zigzag(wire.varint()?);
    if !(0..=DEPTH_MAX).contains(&depth) {
        return Err(wire.invalid(start, &format!("{depth} is not a number of message indexes")));
    }
    let mut index = Vec::with_capacity(depth.max(1) as usize);
    for _ in 0..depth {
        let next = zigzag(wire.varint()?);
        match u32::try_from(next) {
            Ok(next) => index.push(next),
            Err(_) => return Err(wire.invalid(start, &format!("{next} is not the index of a message"))),
        }
    }
    if index.is_empty() {
        index.push(0);
    }
    Ok((index, wire.at() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_zigzag_and_bounded() {
        for (bytes, expected) in [
            (&[0, 9][..], Some((vec![0], 6))),
            (&[2, 0], Some((vec![0], 7))),
            (&[4, 2, 6, 9], Some((vec![1, 3], 8))),
            (&[2, 0x80, 0x02], Some((vec![128], 8))),
            (&[], None),
            (&[1], None),
            (&[4, 2], None),
            (&[2, 1], None),
            (&[66], None),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], None),
            (&[2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x01], None),
        ] {
            let payload = [&[0; 5][..], bytes].concat();
            assert_eq!(read(&payload, 5).ok(), expected, "{bytes:?}");
        }
    }
}
