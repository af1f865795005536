//! What an initiator of a link says.
#![no_main]

#[path = "../dist.rs"]
#[allow(dead_code, reason = "each target uses one of the properties")]
mod dist;

libfuzzer_sys::fuzz_target!(|input: &[u8]| dist::check_initiator(input));
