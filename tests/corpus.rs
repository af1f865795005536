//! Replays the committed fuzz corpora on stable: what was once found stays fixed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

#[path = "../fuzz/dist.rs"]
mod dist;
#[path = "../fuzz/properties.rs"]
mod properties;
#[path = "../fuzz/tunnel.rs"]
mod tunnel;

use std::fs;
use std::path::Path;

fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        property(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 5, "{} holds {count} inputs", folder.display());
}

#[test]
fn the_corpus_of_epmd_requests_keeps_its_properties() {
    replay("epmd_request", properties::check_request);
}

#[test]
fn the_corpus_of_epmd_replies_keeps_its_properties() {
    replay("epmd_reply", properties::check_reply);
}

#[test]
fn the_corpus_of_what_initiators_say_keeps_its_properties() {
    replay("dist_initiator", dist::check_initiator);
}

#[test]
fn the_corpus_of_what_acceptors_say_keeps_its_properties() {
    replay("dist_acceptor", dist::check_acceptor);
}

#[test]
fn the_corpus_of_handshakes_keeps_its_properties() {
    replay("dist_handshake", dist::check_handshake);
}

#[test]
fn the_corpus_of_the_tunnels_frames_keeps_its_properties() {
    replay("tunnel_frames", tunnel::check_frames);
}

#[test]
fn the_corpus_of_what_a_link_sends_keeps_its_properties() {
    replay("tunnel_flow", tunnel::check_flow);
}
