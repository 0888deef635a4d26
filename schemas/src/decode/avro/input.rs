//! Reads the binary encoding of Avro value by value, within bounds.
//!
//! Every length is held against the bytes that remain before anything is done with it. What takes no bytes at all
//! (nulls, empty records) or becomes more bytes than it takes (symbols of enums) is paid for from an allowance in
//! proportion to the payload, so that no payload can make a reader run or allocate without end.

use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::rows::Expansion;

/// How much more than its bytes a payload may become: [`PER_BYTE`] for each of its bytes, and [`PER_RECORD`].
///
/// A thousand elements that take no bytes, or an array of enums with symbols of 60 characters on average, are allowed.
pub(crate) const EXPANSION: Expansion = Expansion { per_byte: PER_BYTE + 4, per_record: PER_RECORD + 1 };
const PER_BYTE: usize = 60;
const PER_RECORD: usize = 1024;

/// Longest encoding of a number, in bytes.
const VARINT_BYTES_MAX: usize = 10;

/// A position in one payload.
#[derive(Debug, Clone)]
pub(crate) struct Input<'a> {
    payload: &'a [u8],
    at: usize,
    allowance: usize,
    depth_left: usize,
    depth_max: usize,
}

impl<'a> Input<'a> {
    /// Starts at byte `start` of `payload`; values may be nested `depth_max` deep.
    pub(crate) fn new(payload: &'a [u8], start: usize, depth_max: usize) -> Self {
        let allowance = payload.len().saturating_mul(PER_BYTE).saturating_add(PER_RECORD);
        Self { payload, at: start, allowance, depth_left: depth_max, depth_max }
    }

    /// The byte that comes next.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// A fault at the byte that comes next.
    #[cold]
    pub(crate) fn undecodable(&self, problem: &str) -> Box<Fault> {
        Fault::new(RejectReason::Undecodable, format!("byte {}: {problem}", self.at))
    }

    #[cold]
    fn ends(&self) -> Box<Fault> {
        Fault::new(
            RejectReason::Undecodable,
            format!("byte {}: the payload ends within the record", self.payload.len()),
        )
    }

    /// Enters a record, an array or a map.
    #[inline]
    pub(crate) fn enter(&mut self) -> Parsed<()> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => {
                self.depth_left = depth_left;
                Ok(())
            }
            None => Err(self.undecodable(&format!("nested more than {} deep", self.depth_max))),
        }
    }

    /// Leaves a record, an array or a map.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth_left += 1;
    }

    /// Pays for `amount` elements without bytes, or bytes that are not in the payload.
    #[inline]
    pub(crate) fn spend(&mut self, amount: usize) -> Parsed<()> {
        match self.allowance.checked_sub(amount) {
            Some(allowance) => {
                self.allowance = allowance;
                Ok(())
            }
            None => Err(self.too_much()),
        }
    }

    #[cold]
    fn too_much(&self) -> Box<Fault> {
        Fault::new(
            RejectReason::Oversize,
            format!("{} bytes become more than {PER_BYTE} times as much", self.payload.len()),
        )
    }

    /// Requires the end of the payload.
    pub(crate) fn end(&self) -> Parsed<()> {
        match self.payload.len() - self.at {
            0 => Ok(()),
            rest => Err(self.undecodable(&format!("{rest} bytes follow the record"))),
        }
    }

    #[inline]
    pub(crate) fn boolean(&mut self) -> Parsed<bool> {
        let value = match self.payload.get(self.at) {
            Some(0) => false,
            Some(1) => true,
            Some(_) => return Err(self.undecodable("a boolean is neither 0 nor 1")),
            None => return Err(self.ends()),
        };
        self.at += 1;
        Ok(value)
    }

    #[inline(always)]
    pub(crate) fn int(&mut self) -> Parsed<i32> {
        let start = self.at;
        let value = self.long()?;
        i32::try_from(value).map_err(|_| {
            Fault::new(RejectReason::Undecodable, format!("byte {start}: an int has more than 32 bits"))
        })
    }

    /// Reads a number: seven bits in each byte, the lowest first, the sign in the lowest bit of all.
    #[inline(always)]
    pub(crate) fn long(&mut self) -> Parsed<i64> {
        if let Some(byte @ 0..0x80) = self.payload.get(self.at) {
            self.at += 1;
            return Ok(unzigzag(u64::from(*byte)));
        }
        self.long_of_bytes()
    }

    #[inline(never)]
    fn long_of_bytes(&mut self) -> Parsed<i64> {
        let rest = &self.payload[self.at..];
        let mut value = 0_u64;
        for (index, byte) in rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
                return Err(self.undecodable("a number has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(unzigzag(value));
            }
        }
        // The tenth byte has returned one way or the other.
        Err(self.ends())
    }

    #[inline]
    pub(crate) fn float(&mut self) -> Parsed<f32> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn double(&mut self) -> Parsed<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        match self.payload[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.ends()),
        }
    }

    /// Reads `len` bytes.
    #[inline]
    pub(crate) fn fixed(&mut self, len: usize) -> Parsed<&'a [u8]> {
        match self.payload[self.at..].get(..len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.ends()),
        }
    }

    /// Reads a length and so many bytes.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Parsed<&'a [u8]> {
        let start = self.at;
        let len = self.long()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.payload.len() - self.at => self.fixed(len),
            _ => Err(self.bad_length(start, len)),
        }
    }

    #[cold]
    fn bad_length(&self, start: usize, len: i64) -> Box<Fault> {
        let rest = self.payload.len() - self.at;
        let problem = format!("byte {start}: a length of {len}, where {rest} bytes remain");
        Fault::new(RejectReason::Undecodable, problem)
    }

    /// Reads a string.
    #[inline]
    pub(crate) fn string(&mut self) -> Parsed<&'a str> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = self.at - bytes.len() + error.valid_up_to();
            Fault::new(RejectReason::Undecodable, format!("byte {at}: not UTF-8"))
        })
    }

    /// Reads an index below `len`, of the `what` of a type.
    #[inline]
    pub(crate) fn index(&mut self, len: usize, what: &str) -> Parsed<usize> {
        let start = self.at;
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < len => Ok(index),
            _ => Err(Fault::new(
                RejectReason::Undecodable,
                format!("byte {start}: {what} {index}, where there are {len}"),
            )),
        }
    }

    /// Reads an array or a map, whose first block comes next: calls `item` at the start of each of its items.
    ///
    /// Blocks that say how many bytes they have must have so many.
    #[inline]
    pub(crate) fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        loop {
            let start = self.at;
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            let end = if count < 0 { Some(self.end_of_block()?) } else { None };
            for _ in 0..count.unsigned_abs() {
                let before = self.at;
                item(self)?;
                if self.at == before {
                    self.spend(1)?;
                }
            }
            if end.is_some_and(|end| end != self.at) {
                let problem = format!("byte {start}: a block has not as many bytes as it says");
                return Err(Fault::new(RejectReason::Undecodable, problem));
            }
        }
    }

    fn end_of_block(&mut self) -> Parsed<usize> {
        let start = self.at;
        let len = self.long()?;
        match usize::try_from(len) {
            Ok(bytes) if bytes <= self.payload.len() - self.at => Ok(self.at + bytes),
            _ => Err(self.bad_length(start, len)),
        }
    }
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
