//! Inflating against examples, mutilated streams, bombs, and the writers of flate2 and zstd.

use std::io::Write;

use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::*;
use crate::decode::testing::{Random, chunk, render_row, schema};
use crate::decode::{DecodeLimits, JsonDecoder, RawDecoder, UnknownFields};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

/// Compresses a text.
type Compress = fn(&[u8]) -> Vec<u8>;

/// Each format and a writer of it.
const FORMATS: [(Compression, Compress); 2] = [(Compression::Gzip, gzip), (Compression::Zstd, zstd)];

fn raw(compression: Compression, limits: InflateLimits) -> Box<dyn Decoder> {
    let decoder = RawDecoder::new(schema(&[("payload", "binary")]), DecodeLimits::default()).unwrap();
    Inflating::wrap(Box::new(decoder), compression, limits).unwrap()
}

fn json(compression: Compression) -> Box<dyn Decoder> {
    let decoder =
        JsonDecoder::new(schema(&[("a", "int32")]), UnknownFields::Quarantine, DecodeLimits::default());
    Inflating::wrap(Box::new(decoder.unwrap()), compression, InflateLimits::default()).unwrap()
}

/// What `payload` inflates to, or the reason and message why it does not.
fn inflate(
    compression: Compression,
    limits: InflateLimits,
    payload: &[u8],
) -> Result<Vec<u8>, (RejectReason, String)> {
    let mut inflater = Inflater::new(compression, limits).unwrap().unwrap();
    let inflated = inflater.inflate(payload).map(<[u8]>::to_vec);
    assert!(inflater.buffer.capacity() <= limits.inflated_bytes_max + 1, "{}", inflater.buffer.capacity());
    inflated.map_err(|fault| {
        let reject = fault.into_reject(0);
        (reject.reason, reject.message)
    })
}

/// Text that compresses about as well as JSON does.
fn text(random: &mut Random, bytes: usize) -> Vec<u8> {
    let words = ["\"delay\":", "12", "}", "{", ",", "\"origin\":\"JFK\"", "null", "7", "\u{1F600}"];
    let mut text = Vec::new();
    while text.len() < bytes {
        text.extend_from_slice(random.pick(&words).as_bytes());
    }
    text.truncate(bytes);
    text
}

#[test]
fn payloads_are_inflated_and_decoded_where_they_are() {
    for (compression, compress) in FORMATS {
        let [one, two, bad] = [&b"{\"a\":1}"[..], b"{\"a\":2}", b"{\"a\":\"2\"}"].map(compress);
        let cut = &one[..one.len() - 1];
        let payloads =
            [Some(&one[..]), None, Some(cut), Some(&bad), Some(b""), Some(b"{\"a\":3}"), Some(&two)];
        let decoded = json(compression).decode(&chunk(payloads)).unwrap();
        assert_eq!(decoded.records, [0, 6]);
        assert_eq!(render_row(&decoded.batch, 0), "{a: 1}");
        assert_eq!(render_row(&decoded.batch, 1), "{a: 2}");
        use RejectReason::*;
        let rejects: Vec<_> = decoded.rejects.iter().map(|reject| (reject.record, reject.reason)).collect();
        let expected =
            [(1, Tombstone), (2, Undecodable), (3, WrongType), (4, EmptyPayload), (5, Undecodable)];
        assert_eq!(rejects, expected, "{compression:?}");
    }
}

#[test]
fn a_stream_may_be_of_several_members_or_frames() {
    let limits = InflateLimits::default();
    for (compression, compress) in FORMATS {
        let joined = [compress(b"first, "), compress(b""), compress(b"second")].concat();
        assert_eq!(inflate(compression, limits, &joined).unwrap(), b"first, second");
        assert_eq!(inflate(compression, limits, &compress(b"")).unwrap(), b"");
    }
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(b"text")].concat();
    assert_eq!(inflate(Compression::Zstd, limits, &skippable).unwrap(), b"text");
    // Of unknown length, as a stream writes it.
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&b"text ".repeat(500)).unwrap();
    let streamed = encoder.finish().unwrap();
    assert_eq!(inflate(Compression::Zstd, limits, &streamed).unwrap(), b"text ".repeat(500));
}

#[test]
fn what_is_behind_a_stream_is_refused() {
    for (compression, compress) in FORMATS {
        let other = FORMATS[usize::from(compression == Compression::Gzip)].1;
        for garbage in [&b"\0"[..], b"\n", b"garbage", &compress(b"x")[..4], &other(b"x")] {
            let payload = [&compress(b"text")[..], garbage].concat();
            let (reason, _) = inflate(compression, InflateLimits::default(), &payload).unwrap_err();
            assert_eq!(reason, RejectReason::Undecodable, "{compression:?} {garbage:?}");
        }
    }
}

#[test]
fn every_stream_cut_short_is_refused() {
    let text = text(&mut Random::new(1), 1_500);
    for (compression, compress) in FORMATS {
        let payload = compress(&text);
        for len in 1..payload.len() {
            let (reason, message) =
                inflate(compression, InflateLimits::default(), &payload[..len]).unwrap_err();
            assert_eq!(reason, RejectReason::Undecodable, "{compression:?} {len}: {message}");
        }
    }
}

#[test]
fn a_changed_byte_is_never_read_as_another_text() {
    let text = text(&mut Random::new(2), 600);
    let with_checksum = |text: &[u8]| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    for (compression, payload) in
        [(Compression::Gzip, gzip(&text)), (Compression::Zstd, with_checksum(&text))]
    {
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut changed = payload.clone();
                changed[at] ^= 1 << bit;
                if let Ok(inflated) = inflate(compression, InflateLimits::default(), &changed) {
                    assert!(inflated == text, "{compression:?}: bit {bit} of byte {at}");
                }
            }
        }
    }
}

#[test]
fn bombs_are_given_up_at_the_bound() {
    let limits = InflateLimits { inflated_bytes_max: 1 << 20, ratio_max: 100 };
    for (compression, compress) in FORMATS {
        let bomb = compress(&vec![0; 4 << 20]);
        let (reason, message) = inflate(compression, limits, &bomb).unwrap_err();
        assert_eq!(reason, RejectReason::Oversize);
        assert!(message.contains("more than the limit of"), "{message}");
    }
}

#[test]
fn size_and_ratio_are_bounded_to_the_byte() {
    for (compression, compress) in FORMATS {
        let text = text(&mut Random::new(3), 100_000);
        let payload = compress(&text);
        let limited = |inflated_bytes_max, ratio_max| {
            inflate(compression, InflateLimits { inflated_bytes_max, ratio_max }, &payload)
        };
        assert_eq!(limited(text.len(), 1000).unwrap(), text);
        assert_eq!(limited(text.len() - 1, 1000).unwrap_err().0, RejectReason::Oversize);
        let ratio = text.len() / payload.len();
        assert!(ratio > 1);
        assert_eq!(limited(1 << 20, ratio + 1).unwrap(), text);
        assert_eq!(limited(1 << 20, ratio - 1).unwrap_err().0, RejectReason::Oversize);
        // The compressed payload is bounded too.
        assert_eq!(limited(payload.len() - 1, 1000).unwrap_err().0, RejectReason::Oversize);
        // Whatever the ratio, a small text is a small text.
        let small = vec![b'a'; SMALL_BYTES_MAX];
        let limits = InflateLimits { inflated_bytes_max: 1 << 20, ratio_max: 1 };
        assert_eq!(inflate(compression, limits, &compress(&small)).unwrap(), small);
        let larger = compress(&vec![b'a'; SMALL_BYTES_MAX + 1]);
        assert_eq!(inflate(compression, limits, &larger).unwrap_err().0, RejectReason::Oversize);
    }
}

#[test]
fn a_bomb_leaves_the_next_payload_alone() {
    let limits = InflateLimits { inflated_bytes_max: 1 << 16, ratio_max: 100 };
    for (compression, compress) in FORMATS {
        let (bomb, good) = (compress(&vec![0; 1 << 20]), compress(b"good"));
        let cut = &compress(&text(&mut Random::new(4), 5_000))[..100];
        let mut decoder = raw(compression, limits);
        let payloads = [Some(&good[..]), Some(&bomb), Some(&good), Some(cut), Some(&good)];
        let decoded = decoder.decode(&chunk(payloads)).unwrap();
        assert_eq!(decoded.records, [0, 2, 4], "{compression:?}");
        assert!((0..3).all(|row| render_row(&decoded.batch, row) == "{payload: [103, 111, 111, 100]}"));
    }
}

#[test]
fn a_window_larger_than_the_bound_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(b"text").unwrap();
    let payload = encoder.finish().unwrap();
    let limits = InflateLimits { inflated_bytes_max: 1 << 20, ..InflateLimits::default() };
    assert_eq!(inflate(Compression::Zstd, limits, &payload).unwrap_err().0, RejectReason::Undecodable);
    assert_eq!(inflate(Compression::Zstd, InflateLimits::default(), &payload).unwrap(), b"text");
}

#[test]
fn old_formats_of_zstd_are_refused() {
    for version in 0x22..0x28 {
        let payload = [&[version, 0xb5, 0x2f, 0xfd][..], &[0; 16]].concat();
        let (reason, message) = inflate(Compression::Zstd, InflateLimits::default(), &payload).unwrap_err();
        assert_eq!(reason, RejectReason::Undecodable);
        assert!(message.contains("no frame starts"), "{message}");
    }
}

#[test]
fn random_bytes_are_rejected() {
    for (compression, compress) in FORMATS {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut payload: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            // Half of them look right at the start.
            if random.one_in(2) {
                let start = compress(&text(&mut random, 300));
                payload.splice(..0, start[..random.below(start.len())].iter().copied());
            }
            let mut decoder = raw(compression, InflateLimits::default());
            let decoded = decoder.decode(&chunk([Some(&payload[..])])).unwrap();
            assert_eq!(decoded.records.len() + decoded.rejects.len(), 1);
        }
    }
}

/// Parts and the memory of what was inflated last make no difference.
#[test]
fn the_result_does_not_depend_on_parts_or_on_asking_first() {
    for (compression, compress) in FORMATS {
        for seed in 0..10 {
            let mut random = Random::new(seed);
            let payloads: Vec<Option<Vec<u8>>> = (0..40)
                .map(|_| match random.below(8) {
                    0 => None,
                    1 => Some(b"garbage".to_vec()),
                    _ => {
                        let bytes = random.below(300);
                        Some(compress(&text(&mut random, bytes)))
                    }
                })
                .collect();
            let chunk = chunk(payloads.iter().map(Option::as_deref));
            let whole = raw(compression, InflateLimits::default()).decode(&chunk).unwrap();
            let inner = RawDecoder::new(schema(&[("payload", "binary")]), DecodeLimits::default()).unwrap();
            let inflater = Inflater::new(compression, InflateLimits::default()).unwrap().unwrap();
            let mut parts = Inflating {
                decoder: Box::new(inner),
                compression,
                part_bytes_max: 1 + random.below(2_000),
                state: RefCell::new(State { inflater, ready: None }),
            };
            for _ in 0..2 {
                assert_eq!(parts.missing_schemas(&chunk), Vec::<u32>::new());
                // What is ready for one chunk is not taken for another.
                let other = self::chunk([Some(&b"garbage"[..])]);
                if random.one_in(2) {
                    assert_eq!(parts.decode(&other).unwrap().rejects.len(), 1);
                }
                let decoded = parts.decode(&chunk).unwrap();
                assert_eq!(decoded.batch, whole.batch);
                assert_eq!(decoded.records, whole.records);
                assert_eq!(decoded.rejects, whole.rejects);
            }
        }
    }
}

#[test]
fn nothing_compressed_is_left_alone() {
    let decoded = raw(Compression::None, InflateLimits::default()).decode(&chunk([Some(&b"x"[..])])).unwrap();
    assert_eq!(render_row(&decoded.batch, 0), "{payload: [120]}");
}

#[test]
fn an_empty_chunk_and_one_of_garbage_give_empty_batches() {
    for (compression, _) in FORMATS {
        assert_eq!(
            raw(compression, InflateLimits::default()).decode(&chunk([])).unwrap().batch.num_rows(),
            0
        );
        let garbage = (0..100).map(|_| Some(&b"garbage"[..]));
        let decoded = raw(compression, InflateLimits::default()).decode(&chunk(garbage)).unwrap();
        assert_eq!((decoded.batch.num_rows(), decoded.rejects.len()), (0, 100));
    }
}
