//! The sending half of a link, beside all that was written to it.
#![no_main]

#[path = "../tunnel.rs"]
#[allow(dead_code, reason = "each target uses one of the properties")]
mod tunnel;

libfuzzer_sys::fuzz_target!(|input: &[u8]| tunnel::check_flow(input));
