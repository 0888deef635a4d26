//! Fuzz targets for everything in `isobar-schemas` that reads bytes nobody vouches for.
//!
//! A target is a function of bytes that libFuzzer calls with ever new ones. It panics where a property does not hold, and
//! [`fates`] has those that every decoder must have. Where another implementation is at hand, it says what a payload is.
//!
//! One binary has all targets; `ISOBAR_FUZZ_NAME` says which one it is. `tests/fuzz/run` builds and runs it.

// The helpers of the decoders' own tests are compiled in by path; this is what they name.
use isobar_schemas::{fields, records};

mod avro;
mod csv;
mod fates;
mod fields_block;
mod input;
mod json;
mod payloads;
mod protobuf;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../../../schemas/src/decode/testing.rs"]
mod testing;

use std::sync::LazyLock;

use peak_alloc::PeakAlloc;

/// Counts what is allocated.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// A target.
type Target = fn(&[u8]);

/// All targets, by name.
const TARGETS: [(&str, Target); 8] = [
    ("avro", avro::payloads),
    ("avro_schema", avro::schemas),
    ("csv", csv::lines),
    ("fields", fields_block::fields),
    ("json", json::payloads),
    ("payloads", payloads::payloads),
    ("protobuf", protobuf::payloads),
    ("protobuf_schema", protobuf::schemas),
];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("ISOBAR_FUZZ_NAME").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, target)| *target).unwrap_or_else(|| {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        panic!("ISOBAR_FUZZ_NAME must name a target: {names}")
    })
});

/// Runs the target once.
pub fn run(data: &[u8]) {
    (*TARGET)(data);
}
