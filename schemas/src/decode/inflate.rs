//! Compressed payloads: a decoder in front of a decoder.
//!
//! [`Inflating`] inflates each payload and hands the result to the decoder behind it, which sees a chunk of plain
//! payloads at the same offsets. Kafka's own compression of record batches is no business of this module: librdkafka
//! undoes that. This is for producers that compress the value of a record themselves.
//!
//! # What is accepted
//! A payload is the whole of one compressed stream and nothing else:
//!
//! | | accepted | refused |
//! |---|---|---|
//! | `gzip` | one or more members end to end (RFC 1952, section 2.2), which inflate to one text | a member cut short, a wrong checksum or length, bytes after the last member |
//! | `zstd` | one or more frames end to end, and skippable frames (RFC 8878, section 3.1) | a frame cut short, a wrong checksum, a dictionary, a format from before 1.0, a window of more than 8 MiB and the bound, bytes after the last frame |
//!
//! A tombstone stays a tombstone. Whatever cannot be inflated is one reject, `undecodable`; its neighbours are untouched.
//!
//! # Bombs
//! A payload may inflate to [`InflateLimits::inflated_bytes_max`] bytes, and to [`InflateLimits::ratio_max`] times its
//! own length (small ones always to [`SMALL_BYTES_MAX`]). Beyond that it is one reject, `oversize`, and inflating has
//! stopped: no more than the bound and one byte is ever written. What lengths a payload declares about itself is not
//! believed. The buffer that it is written to grows as needed, to that bound at most; a window of zstd may take as much
//! again, rounded up to a power of two, and 8 MiB in any case; frames with larger windows are refused. A chunk of
//! 4 MiB, the consumer's, therefore inflates to 400 MiB at the very worst, and one of honest records to a few times
//! its size.

use std::cell::RefCell;
use std::fmt;
use std::io::Read;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use flate2::bufread::GzDecoder;
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

use super::reject::{Fault, Parsed, Reject, RejectReason};
use super::{Decoded, Decoder, WriterSchema};
use crate::error::Error;
use crate::records::RecordChunk;

/// How payloads are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Bounds of what a payload may inflate to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InflateLimits {
    /// Largest inflated payload, in bytes. A compressed one may not be larger either.
    pub inflated_bytes_max: usize,
    /// How many times its own length a payload may inflate to. JSON rarely passes 30; a bomb of gzip reaches 1,000.
    pub ratio_max: usize,
}

impl Default for InflateLimits {
    fn default() -> Self {
        Self { inflated_bytes_max: super::DecodeLimits::default().payload_bytes_max, ratio_max: 100 }
    }
}

/// To this many bytes a payload may always inflate, whatever the ratio: short payloads that say the same again and
/// again are common, and no danger.
pub const SMALL_BYTES_MAX: usize = 16 << 10;

/// How many inflated bytes are handed to the decoder behind at once, and one payload more, as the consumer does it.
/// Columns count in 31 bits, and some decoders make much of a byte; a chunk that inflates to more is decoded in parts.
const PART_BYTES_MAX: usize = 4 << 20;

/// A decoder for compressed payloads. See the [module](self).
pub struct Inflating {
    decoder: Box<dyn Decoder>,
    compression: Compression,
    part_bytes_max: usize,
    state: RefCell<State>,
}

/// What is needed to inflate, and what has been inflated last. Whoever asks which schemas a chunk names decodes it
/// next, and it need not be inflated twice for that.
struct State {
    inflater: Inflater,
    ready: Option<(RecordChunk, Inflated)>,
}

/// The records of a chunk, inflated.
struct Inflated {
    parts: Vec<Part>,
    /// Those that could not be.
    rejects: Vec<Reject>,
}

/// Some of the records of a chunk, inflated.
struct Part {
    chunk: RecordChunk,
    /// Record `r` of the part is record `records[r]` of the chunk. Rising.
    records: Vec<u32>,
}

impl Inflating {
    /// `decoder` for payloads that are compressed; `decoder` itself if they are not.
    ///
    /// # Errors
    /// If the library for the format cannot be set up.
    pub fn wrap(
        decoder: Box<dyn Decoder>,
        compression: Compression,
        limits: InflateLimits,
    ) -> Result<Box<dyn Decoder>, Error> {
        Ok(match Inflater::new(compression, limits)? {
            None => decoder,
            Some(inflater) => Box::new(Self {
                decoder,
                compression,
                part_bytes_max: PART_BYTES_MAX,
                state: RefCell::new(State { inflater, ready: None }),
            }),
        })
    }
}

impl fmt::Debug for Inflating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflating")
            .field("decoder", &self.decoder)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Decoder for Inflating {
    fn schema(&self) -> &SchemaRef {
        self.decoder.schema()
    }

    fn missing_schemas(&self, chunk: &RecordChunk) -> Vec<u32> {
        let mut state = self.state.borrow_mut();
        let inflated = state.inflate(chunk, self.part_bytes_max);
        let mut ids: Vec<_> =
            inflated.parts.iter().flat_map(|part| self.decoder.missing_schemas(&part.chunk)).collect();
        ids.sort_unstable();
        ids.dedup();
        state.ready = Some((chunk.clone(), inflated));
        ids
    }

    fn learn(&mut self, id: u32, answer: WriterSchema) {
        self.decoder.learn(id, answer);
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        let Inflated { parts, mut rejects } = self.state.get_mut().inflate(chunk, self.part_bytes_max);
        let mut records = Vec::with_capacity(chunk.len());
        let mut left_out = Vec::new();
        let mut batches = Vec::with_capacity(parts.len());
        for part in parts {
            let decoded = self.decoder.decode(&part.chunk)?;
            let record_of_chunk = |record: u32| part.records[record as usize];
            records.extend(decoded.records.iter().map(|record| record_of_chunk(*record)));
            left_out.extend(decoded.left_out.iter().map(|record| record_of_chunk(*record)));
            rejects.extend(
                decoded
                    .rejects
                    .into_iter()
                    .map(|reject| Reject { record: record_of_chunk(reject.record), ..reject }),
            );
            batches.push(decoded.batch);
        }
        rejects.sort_unstable_by_key(|reject| reject.record);
        Ok(Decoded { batch: joined(self.decoder.schema(), batches)?, records, rejects, left_out })
    }
}

/// The rows of all `batches`.
fn joined(schema: &SchemaRef, mut batches: Vec<RecordBatch>) -> Result<RecordBatch, Error> {
    match batches.len() {
        1 => Ok(batches.remove(0)),
        _ => Ok(concat_batches(schema, &batches)?),
    }
}

impl State {
    /// Inflates the payloads of `chunk`, or takes what they inflated to a moment ago.
    fn inflate(&mut self, chunk: &RecordChunk, part_bytes_max: usize) -> Inflated {
        if let Some((_, inflated)) = self.ready.take().filter(|(inflated, _)| inflated == chunk) {
            return inflated;
        }
        let part = || Part { chunk: RecordChunk::new(chunk.topic_partition().clone()), records: Vec::new() };
        let mut parts = vec![part()];
        let mut rejects = Vec::new();
        for (record, offset) in (0..).zip(chunk.offsets()) {
            let payload = match chunk.payload(record as usize) {
                // No bytes are no stream, but the decoder behind knows best what to say of it.
                None | Some([]) => Ok(chunk.payload(record as usize)),
                Some(payload) => self.inflater.inflate(payload).map(Some),
            };
            match payload {
                Err(fault) => rejects.push(fault.into_reject(record)),
                Ok(payload) => {
                    if parts.last().is_none_or(|part| part.chunk.bytes() >= part_bytes_max) {
                        parts.push(part());
                    }
                    if let Some(part) = parts.last_mut() {
                        part.chunk.push(*offset, None, None, payload);
                        part.records.push(record);
                    }
                }
            }
        }
        Inflated { parts, rejects }
    }
}

/// Inflates payloads one by one into a buffer that it keeps.
struct Inflater {
    stream: Stream,
    limits: InflateLimits,
    buffer: Vec<u8>,
}

enum Stream {
    Gzip,
    Zstd(zstd::stream::raw::Decoder<'static>),
}

impl Inflater {
    /// `None` if nothing is compressed.
    fn new(compression: Compression, limits: InflateLimits) -> Result<Option<Self>, Error> {
        let stream = match compression {
            Compression::None => return Ok(None),
            Compression::Gzip => Stream::Gzip,
            Compression::Zstd => Stream::Zstd(zstd_decoder(limits.inflated_bytes_max)?),
        };
        Ok(Some(Self { stream, limits, buffer: Vec::new() }))
    }

    /// What `payload` inflates to.
    fn inflate(&mut self, payload: &[u8]) -> Parsed<&[u8]> {
        let InflateLimits { inflated_bytes_max, ratio_max } = self.limits;
        if payload.len() > inflated_bytes_max {
            let problem = format!("{} bytes, more than the limit of {inflated_bytes_max}", payload.len());
            return Err(Fault::new(RejectReason::Oversize, problem));
        }
        let by_ratio = payload.len().saturating_mul(ratio_max).max(SMALL_BYTES_MAX);
        let mut output = Output {
            buffer: &mut self.buffer,
            len: 0,
            bytes_max: by_ratio.min(inflated_bytes_max),
            compressed_bytes: payload.len(),
        };
        match &mut self.stream {
            Stream::Gzip => inflate_gzip(payload, &mut output)?,
            Stream::Zstd(decoder) => inflate_zstd(decoder, payload, &mut output)?,
        }
        let len = output.len;
        Ok(&self.buffer[..len])
    }
}

/// A decoder of zstd that refuses windows much larger than anything it may write.
fn zstd_decoder(inflated_bytes_max: usize) -> Result<zstd::stream::raw::Decoder<'static>, Error> {
    /// Writers that do not know the length beforehand declare a window for any length. Every decoder should take
    /// 8 MiB (RFC 8878, section 3.1.1.1.2); the library takes 2 GiB at most.
    const WINDOW_LOG_MIN: u32 = 23;
    const WINDOW_LOG_MAX: u32 = 31;
    let window_log = inflated_bytes_max.checked_next_power_of_two().map_or(WINDOW_LOG_MAX, usize::ilog2);
    let mut decoder = zstd::stream::raw::Decoder::new().map_err(Error::Inflate)?;
    let window_log = DParameter::WindowLogMax(window_log.clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX));
    decoder.set_parameter(window_log).map_err(Error::Inflate)?;
    Ok(decoder)
}

/// Where a payload is inflated to: a buffer, of which the first `len` bytes are this payload's.
struct Output<'a> {
    buffer: &'a mut Vec<u8>,
    len: usize,
    bytes_max: usize,
    compressed_bytes: usize,
}

impl Output<'_> {
    /// Room for at least one more byte. One byte beyond the bound is offered, to learn whether it is wanted.
    fn room(&mut self) -> &mut [u8] {
        let end_max = self.bytes_max + 1;
        if self.len == self.buffer.len() {
            let wanted = (self.len * 2).max(SMALL_BYTES_MAX).min(end_max).max(self.len + 1);
            self.buffer.reserve_exact(wanted - self.len);
            self.buffer.resize(wanted, 0);
        }
        let end = self.buffer.len().min(end_max);
        &mut self.buffer[self.len..end]
    }

    /// Takes note of `bytes` written to the room.
    fn advance(&mut self, bytes: usize) -> Parsed<()> {
        self.len += bytes;
        if self.len <= self.bytes_max {
            return Ok(());
        }
        let problem =
            format!("{} bytes inflate to more than the limit of {}", self.compressed_bytes, self.bytes_max);
        Err(Fault::new(RejectReason::Oversize, problem))
    }
}

fn inflate_gzip(payload: &[u8], output: &mut Output<'_>) -> Parsed<()> {
    let mut member = GzDecoder::new(payload);
    loop {
        let read = member.read(output.room()).map_err(|error| undecodable("gzip", &error))?;
        output.advance(read)?;
        if read > 0 {
            continue;
        }
        let rest = *member.get_ref();
        if rest.is_empty() {
            return Ok(());
        }
        member = GzDecoder::new(rest);
    }
}

fn inflate_zstd(
    decoder: &mut zstd::stream::raw::Decoder<'static>,
    payload: &[u8],
    output: &mut Output<'_>,
) -> Parsed<()> {
    let mut rest = payload;
    while !rest.is_empty() {
        if !is_zstd_frame(rest) {
            let at = payload.len() - rest.len();
            return Err(Fault::new(RejectReason::Undecodable, format!("zstd: no frame starts at byte {at}")));
        }
        rest = inflate_zstd_frame(decoder, rest, output)?;
    }
    Ok(())
}

/// Inflates the frame at the start of `bytes` and returns what follows it.
fn inflate_zstd_frame<'a>(
    decoder: &mut zstd::stream::raw::Decoder<'static>,
    bytes: &'a [u8],
    output: &mut Output<'_>,
) -> Parsed<&'a [u8]> {
    // Also forgets what is left of a payload that was given up half-way.
    decoder.reinit().map_err(|error| undecodable("zstd", &error))?;
    let mut input = InBuffer::around(bytes);
    loop {
        let read_before = input.pos();
        let mut written = OutBuffer::around(output.room());
        let wanted = decoder.run(&mut input, &mut written).map_err(|error| undecodable("zstd", &error))?;
        let written = written.pos();
        output.advance(written)?;
        if wanted == 0 {
            return Ok(&bytes[input.pos()..]);
        }
        if written == 0 && input.pos() == read_before {
            return Err(Fault::new(RejectReason::Undecodable, "zstd: the last frame is cut short"));
        }
    }
}

/// Whether `bytes` start with the magic number of a frame or a skippable frame. The library would also take formats
/// from before 1.0, whose decoders are old, rarely used and rarely looked at.
fn is_zstd_frame(bytes: &[u8]) -> bool {
    let Some(magic) = bytes.first_chunk::<4>() else { return false };
    matches!(u32::from_le_bytes(*magic), 0xFD2F_B528 | 0x184D_2A50..=0x184D_2A5F)
}

#[cold]
fn undecodable(format: &str, error: &std::io::Error) -> Box<Fault> {
    Fault::new(RejectReason::Undecodable, format!("{format}: {error}"))
}

#[cfg(test)]
mod tests;
