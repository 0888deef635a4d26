//! The wire format of Protobuf: tags, varints, fixed-width values, length-delimited values and groups.
//!
//! A [`Wire`] walks a part of a payload once, front to back. Nothing is believed that the payload says of itself: a
//! varint has ten bytes at most and fits 64 bits, a length is held against what is left, a group ends with its own
//! number, and groups are nested to a bound. Whatever else is found is a [`Fault`] with the byte it was found at.
//! <https://protobuf.dev/programming-guides/encoding/>

use crate::decode::reject::{Fault, Parsed, RejectReason};

/// How a value lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Length,
    StartGroup,
    EndGroup,
    Fixed32,
}

impl WireType {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            WireType::Varint => "a varint",
            WireType::Fixed64 => "8 bytes",
            WireType::Length => "bytes with a length",
            WireType::StartGroup | WireType::EndGroup => "a group",
            WireType::Fixed32 => "4 bytes",
        }
    }
}

/// What stands before each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) number: u32,
    pub(super) wire_type: WireType,
}

/// A part of a payload, in bytes from its start. Payloads are far below 4 GiB, so both ends fit 32 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) const EMPTY: Span = Span { start: 0, end: 0 };

    /// The span in the 64 bits that also hold any other value: see [`Wire::value`].
    #[inline]
    pub(super) fn to_raw(self) -> u64 {
        u64::from(self.start) << 32 | u64::from(self.end)
    }

    #[inline]
    pub(super) fn from_raw(raw: u64) -> Self {
        Self { start: (raw >> 32) as u32, end: raw as u32 }
    }

    /// The bytes of the span.
    #[inline]
    pub(super) fn of(self, payload: &[u8]) -> &[u8] {
        &payload[self.start as usize..self.end as usize]
    }
}

/// A position in a part of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'a> {
    /// The payload up to the end of the part.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Wire<'a> {
    /// Starts at the first byte of `span` of `payload`.
    #[inline]
    pub(super) fn new(payload: &'a [u8], span: Span) -> Self {
        Self { bytes: &payload[..span.end as usize], at: span.start as usize }
    }

    /// The next byte's distance from the start of the payload.
    #[inline]
    pub(super) fn at(&self) -> u32 {
        self.at as u32
    }

    #[inline]
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    #[cold]
    pub(super) fn invalid(&self, at: usize, problem: &str) -> Box<Fault> {
        Fault::new(RejectReason::Undecodable, format!("byte {at}: {problem}"))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Parsed<u64> {
        match self.bytes.get(self.at) {
            Some(byte @ 0..0x80) => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Parsed<u64> {
        const BYTES_MAX: usize = 10;
        let start = self.at;
        let mut value = 0;
        for (index, byte) in self.bytes[start..].iter().take(BYTES_MAX).enumerate() {
            // Nine bytes hold 63 bits; the tenth may add one.
            if index == BYTES_MAX - 1 && *byte > 1 {
                return Err(self.invalid(start, "a varint of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(self.invalid(start, "a varint is cut short"))
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let Some(bytes) = self.bytes[self.at..].first_chunk::<N>() else {
            return Err(self.invalid(self.at, &format!("{N} bytes are cut short")));
        };
        self.at += N;
        Ok(*bytes)
    }

    /// Reads a length and steps over as many bytes.
    #[inline]
    fn length_delimited(&mut self) -> Parsed<Span> {
        let start = self.at;
        let length = self.varint()?;
        let left = self.bytes.len() - self.at;
        if length > left as u64 {
            return Err(self.invalid(start, &format!("a length of {length}, but {left} bytes are left")));
        }
        let span = Span { start: self.at as u32, end: self.at as u32 + length as u32 };
        self.at = span.end as usize;
        Ok(span)
    }

    /// The next tag, `None` at the end of the part.
    #[inline]
    pub(super) fn tag(&mut self) -> Parsed<Option<Tag>> {
        const NUMBER_MAX: u64 = (1 << 29) - 1;
        if self.is_at_end() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            other => return Err(self.invalid(start, &format!("there is no wire type {other}"))),
        };
        let number = tag >> 3;
        if number == 0 || number > NUMBER_MAX {
            return Err(self.invalid(start, &format!("{number} is not the number of a field")));
        }
        Ok(Some(Tag { number: number as u32, wire_type }))
    }

    /// Reads a value of `wire_type`, which is not a group, as 64 bits: the value itself, or for bytes with a length
    /// where they lie ([`Span::to_raw`]).
    #[inline]
    pub(super) fn value(&mut self, wire_type: WireType) -> Parsed<u64> {
        match wire_type {
            WireType::Varint => self.varint(),
            WireType::Length => Ok(self.length_delimited()?.to_raw()),
            WireType::Fixed64 => Ok(u64::from_le_bytes(self.fixed()?)),
            WireType::Fixed32 => Ok(u64::from(u32::from_le_bytes(self.fixed()?))),
            WireType::StartGroup | WireType::EndGroup => Err(self.invalid(self.at, "a group out of place")),
        }
    }

    /// Steps over the value after `tag`. Groups may be nested `depth_left` deep.
    pub(super) fn skip(&mut self, tag: Tag, depth_left: usize) -> Parsed<()> {
        match tag.wire_type {
            WireType::StartGroup => self.skip_group(tag.number, depth_left),
            WireType::EndGroup => Err(self.invalid(self.at, "a group ends that has not started")),
            wire_type => self.value(wire_type).map(|_| ()),
        }
    }

    /// Steps over the rest of group `number`, whose start tag has been read.
    fn skip_group(&mut self, number: u32, depth_left: usize) -> Parsed<()> {
        let start = self.at;
        if depth_left == 0 {
            return Err(self.invalid(start, "groups are nested too deeply"));
        }
        while let Some(tag) = self.tag()? {
            if tag.wire_type != WireType::EndGroup {
                self.skip(tag, depth_left - 1)?;
            } else if tag.number == number {
                return Ok(());
            } else {
                return Err(self.invalid(self.at, "a group ends that has not started"));
            }
        }
        Err(self.invalid(start, "a group is cut short"))
    }
}

/// Undoes the zigzag encoding of signed numbers.
#[inline]
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost::encoding::{decode_varint, encode_varint};

    use super::*;

    fn wire(bytes: &[u8]) -> Wire<'_> {
        Wire::new(bytes, Span { start: 0, end: bytes.len() as u32 })
    }

    #[test]
    fn varints_are_those_of_prost() {
        let mut values = vec![0, 1, u64::MAX, i64::MAX as u64, i64::MIN as u64];
        values.extend((0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for value in values {
            let mut bytes = Vec::new();
            encode_varint(value, &mut bytes);
            let mut wire = wire(&bytes);
            assert_eq!(wire.varint().unwrap(), value);
            assert!(wire.is_at_end());
        }
    }

    #[test]
    fn what_is_no_varint_for_prost_is_none_here() {
        for len in 0..12 {
            for last in [0x00, 0x01, 0x02, 0x7f, 0x80, 0xff] {
                for fill in [0x80, 0xff] {
                    let mut bytes = vec![fill; len];
                    bytes.push(last);
                    let expected = decode_varint(&mut &bytes[..]).ok();
                    assert_eq!(wire(&bytes).varint().ok(), expected, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn zigzag_goes_back_and_forth() {
        for (encoded, value) in
            [(0, 0), (1, -1), (2, 1), (3, -2), (u64::MAX, i64::MIN), (u64::MAX - 1, i64::MAX)]
        {
            assert_eq!(zigzag(encoded), value);
        }
    }

    #[test]
    fn lengths_and_numbers_are_checked() {
        for (bytes, part) in [
            (&[0x0a, 0x05, 1, 2][..], "a length of 5, but 2 bytes are left"),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "but 0 bytes are left"),
            (&[0x09, 1, 2, 3], "8 bytes are cut short"),
            (&[0x0d, 1, 2, 3], "4 bytes are cut short"),
            (&[0x08], "a varint is cut short"),
            (&[0x02, 0], "0 is not the number of a field"),
            (&[0x80, 0x80, 0x80, 0x80, 0x10, 0], "536870912 is not the number of a field"),
            (&[0x0e, 0], "no wire type 6"),
            (&[0x0f, 0], "no wire type 7"),
            (&[0x0c], "a group ends that has not started"),
            (&[0x0b, 0x14], "a group ends that has not started"),
            (&[0x0b, 0x08, 0x01], "a group is cut short"),
        ] {
            let mut wire = wire(bytes);
            let fault = loop {
                match wire.tag().and_then(|tag| tag.map_or(Ok(()), |tag| wire.skip(tag, 4))) {
                    Ok(()) if wire.is_at_end() => panic!("{bytes:?} was read"),
                    Ok(()) => {}
                    Err(fault) => break fault,
                }
            };
            assert_eq!(fault.reason, RejectReason::Undecodable);
            let message = fault.into_reject(0).message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn groups_are_stepped_over_to_a_bound() {
        let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        for (depth, ok) in [(1, true), (4, true), (5, false), (1_000_000, false)] {
            let bytes = nested(depth);
            let mut wire = wire(&bytes);
            let tag = wire.tag().unwrap().unwrap();
            assert_eq!(wire.skip(tag, 4).is_ok(), ok, "{depth}");
        }
    }
}
