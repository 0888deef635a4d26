//! How the bytes of libFuzzer become settings and payloads.
//!
//! ```text
//! settings, 2 bytes | part 1E 1E part 1E 1E …
//! ```
//!
//! Nearly every part is a payload. Two bytes that text and numbers rarely have stand between them, so that mutations
//! copy, cut and join parts; a part that is the byte 1D alone is a tombstone.

use isobar_schemas::DecodeLimits;

/// What stands between two parts.
const SEPARATOR: [u8; 2] = [0x1e, 0x1e];

/// Most parts; what follows belongs to the last one.
const PARTS_MAX: usize = 24;

/// A part that stands for a record without a payload.
const TOMBSTONE: &[u8] = &[0x1d];

/// The bytes of one run.
pub(crate) struct Input<'a> {
    /// What the target is to do. Each choice takes some bits.
    settings: u16,
    parts: Vec<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// `None` if there are too few bytes.
    pub(crate) fn new(data: &'a [u8]) -> Option<Self> {
        let (settings, mut rest) = data.split_first_chunk::<2>()?;
        let mut parts = Vec::new();
        while let Some(end) = rest.windows(2).position(|bytes| bytes == SEPARATOR)
            && parts.len() + 1 < PARTS_MAX
        {
            parts.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        parts.push(rest);
        Some(Self { settings: u16::from_le_bytes(*settings), parts })
    }

    /// One of `count` choices.
    pub(crate) fn choose(&mut self, count: u16) -> usize {
        let bits = count.next_power_of_two().ilog2();
        let choice = self.settings & ((1 << bits) - 1);
        self.settings >>= bits;
        usize::from(choice % count)
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self) -> bool {
        self.choose(2) == 1
    }

    /// The usual limits, or such that small payloads reach them.
    pub(crate) fn limits(&mut self) -> DecodeLimits {
        match self.flag() {
            true => DecodeLimits { payload_bytes_max: 48, depth_max: 3 },
            false => DecodeLimits::default(),
        }
    }

    /// Takes the first part for something else than a payload.
    pub(crate) fn take_first(&mut self) -> &'a [u8] {
        self.parts.remove(0)
    }

    /// The parts as payloads.
    pub(crate) fn payloads(&self) -> Vec<Option<&'a [u8]>> {
        self.parts.iter().map(|part| (*part != TOMBSTONE).then_some(*part)).collect()
    }
}
