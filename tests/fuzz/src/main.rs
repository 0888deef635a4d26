//! What libFuzzer calls; its `main` is in libFuzzer.
#![no_main]
// The macro makes functions that C++ calls by their names.
#![allow(unsafe_code)]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isobar_fuzz::run(data));
