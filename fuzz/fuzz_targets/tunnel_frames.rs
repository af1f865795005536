//! A stream of the tunnel's frames, cut anywhere.
#![no_main]

#[path = "../tunnel.rs"]
#[allow(dead_code, reason = "each target uses one of the properties")]
mod tunnel;

libfuzzer_sys::fuzz_target!(|input: &[u8]| tunnel::check_frames(input));
