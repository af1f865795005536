//! The watcher of a handshake, over two streams.
#![no_main]

#[path = "../dist.rs"]
#[allow(dead_code, reason = "each target uses one of the properties")]
mod dist;

libfuzzer_sys::fuzz_target!(|input: &[u8]| dist::check_handshake(input));
