//! Payloads that are values as they are, compressed or not, held against the libraries that undo the compression.

use std::io::{Read, Write};

use flate2::read::MultiGzDecoder;
use isobar_schemas::decode::inflate::SMALL_BYTES_MAX;
use isobar_schemas::{Compression, DecodeLimits, InflateLimits, Inflating, RawDecoder, RejectReason};

use crate::fates::{Fate, Growth, Subject, fates, no_registry};
use crate::input::Input;
use crate::testing::schema;

/// Payloads of a topic with the format `raw`.
pub(crate) fn payloads(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][input.choose(3)];
    let field = ["binary", "string"][input.choose(2)];
    let is_small = input.flag();
    let compress_first = input.flag();
    let damage = input.choose(8);
    let limits = match is_small {
        true => InflateLimits { inflated_bytes_max: 600, ratio_max: 3 },
        false => InflateLimits { inflated_bytes_max: 1 << 20, ..InflateLimits::default() },
    };
    let decode_limits =
        DecodeLimits { payload_bytes_max: limits.inflated_bytes_max, ..DecodeLimits::default() };
    let decoder = RawDecoder::new(schema(&[("v", field)]), decode_limits).expect("one field for payloads");
    let decoder =
        Inflating::wrap(Box::new(decoder), compression, limits).expect("the libraries can be set up");
    let growth = match compression {
        Compression::None => Growth::NONE,
        // The buffer that is inflated to, the chunk made of it and the column.
        _ => Growth { per_byte: limits.ratio_max, per_record: SMALL_BYTES_MAX + 1 },
    };
    let subject = Subject {
        decoder,
        payload_bytes_max: limits.inflated_bytes_max,
        growth,
        several: false,
        in_envelope: false,
        registry: &no_registry,
    };

    // Mutations do not find checksums, so most payloads are compressed here and damaged a little, if at all.
    let stored: Vec<_> = input
        .payloads()
        .into_iter()
        .map(|payload| {
            payload.map(|payload| {
                if compress_first { compress(payload, compression, damage) } else { payload.to_vec() }
            })
        })
        .collect();
    let stored: Vec<_> = stored.iter().map(|payload| payload.as_deref()).collect();
    let fates = fates(subject, &stored);
    for ((given, stored), fate) in input.payloads().into_iter().zip(stored).zip(fates) {
        let (Some(given), Some(stored)) = (given, stored) else { continue };
        if stored.len() > limits.inflated_bytes_max {
            continue;
        }
        second_opinion(stored, compression, limits, field, &fate);
        if compress_first && damage == 0 && given.len() <= bytes_max(stored, limits) && !stored.is_empty() {
            assert_eq!(fate.ok(), shown(given, field), "what was compressed does not come back");
        }
    }
}

fn compress(payload: &[u8], compression: Compression, damage: usize) -> Vec<u8> {
    let mut bytes = match compression {
        Compression::None => payload.to_vec(),
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(payload).expect("memory takes everything");
            writer.finish().expect("memory takes everything")
        }
        Compression::Zstd => zstd::stream::encode_all(payload, 1).expect("memory takes everything"),
    };
    let len = bytes.len();
    let place =
        payload.iter().fold(len, |place, byte| place.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    match damage {
        1 => bytes.truncate(place % (len + 1)),
        2 if len > 0 => bytes[place % len] ^= 1 << (place % 8),
        3 => bytes.extend_from_slice(payload),
        4 => bytes = bytes.repeat(2),
        _ => {}
    }
    bytes
}

/// To how many bytes `stored` may inflate.
fn bytes_max(stored: &[u8], limits: InflateLimits) -> usize {
    stored.len().saturating_mul(limits.ratio_max).max(SMALL_BYTES_MAX).min(limits.inflated_bytes_max)
}

/// The value `bytes` as text, if the field can have it.
fn shown(bytes: &[u8], field: &str) -> Option<String> {
    match field {
        "binary" => Some(format!("{{v: {bytes:?}}}")),
        _ => std::str::from_utf8(bytes).ok().map(|text| format!("{{v: {text:?}}}")),
    }
}

/// What is accepted is what the library makes of it; what is too large is so to the library as well. A zstd frame that the
/// library inflates may have too large a window.
fn second_opinion(stored: &[u8], compression: Compression, limits: InflateLimits, field: &str, fate: &Fate) {
    let bytes_max = bytes_max(stored, limits);
    let wanted = bytes_max as u64 + 1;
    let mut inflated = Vec::new();
    let whole = match compression {
        _ if stored.is_empty() => Ok(0),
        Compression::None => Read::take(stored, wanted).read_to_end(&mut inflated),
        Compression::Gzip => MultiGzDecoder::new(stored).take(wanted).read_to_end(&mut inflated),
        Compression::Zstd => zstd::stream::read::Decoder::new(stored)
            .and_then(|decoder| decoder.take(wanted).read_to_end(&mut inflated)),
    };
    match fate {
        Ok(row) => {
            whole.expect("the library inflates it as well");
            assert!(inflated.len() <= bytes_max, "{} bytes", inflated.len());
            assert_eq!(Some(row), shown(&inflated, field).as_ref());
        }
        // If it fails, it may have failed with what it had not handed out yet.
        Err((RejectReason::Oversize, message)) if whole.is_ok() => {
            assert!(inflated.len() > bytes_max, "{} bytes are not too many: {message}", inflated.len());
        }
        Err((_, message)) => {
            let is_good = compression != Compression::Zstd && whole.is_ok() && inflated.len() <= bytes_max;
            assert!(!is_good || shown(&inflated, field).is_none(), "the library inflates it: {message}");
        }
    }
}
