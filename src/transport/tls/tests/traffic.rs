//! What goes through a connection that is up.

use std::io::{Read, Write};

use rustls::{AlertDescription, ClientConnection, ServerConfig};

use super::authority::*;
use super::handshakes::{hosts, shaken};
use super::*;

fn data(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
}

#[test]
fn what_is_sealed_is_opened_in_order_however_it_is_cut() {
    let mut pair = shaken();
    let data = data(512 * 1024 + 77);
    for step in [1_000, 16_407, 70_000, usize::MAX] {
        let mut sealed = Block::with_room(sealed_len(data.len()));
        let room = sealed.capacity();
        pair.client.seal(&data, &mut sealed).unwrap();
        assert_eq!(sealed.capacity(), room, "the room that is told is enough");
        assert_eq!(sealed.len(), data.len() + 33 * RECORD_OVERHEAD, "records are as large as they can be");
        let (mut opened, mut incoming) = (Vec::new(), std::mem::take(&mut pair.to_server));
        for piece in sealed.filled().chunks(step.min(sealed.len())) {
            incoming.append(piece);
            let (data, ending) = open(&mut pair.server, &mut incoming).unwrap();
            opened.extend(data);
            assert_eq!(ending, Ending::Open);
        }
        assert!(incoming.is_empty());
        assert!(opened == data, "in pieces of {step}");
    }
}

#[test]
fn data_that_comes_with_the_last_of_the_handshake_comes_out_first() {
    let (one, other) = hosts();
    let mut pair = Pair::new(one.client("h2"), other.server());
    assert_eq!(pair.client.advance(&mut pair.to_client, &mut pair.to_server), Ok(Stage::Handshaking));
    assert_eq!(pair.server.advance(&mut pair.to_server, &mut pair.to_client), Ok(Stage::Handshaking));
    assert_eq!(pair.client.advance(&mut pair.to_client, &mut pair.to_server), Ok(Stage::Ready));
    pair.client.seal(b"first", &mut pair.to_server).unwrap();
    pair.client.seal(b" second", &mut pair.to_server).unwrap();
    assert_eq!(pair.server.advance(&mut pair.to_server, &mut pair.to_client), Ok(Stage::Ready));
    pair.client.seal(b" third", &mut pair.to_server).unwrap();
    assert_eq!(open(&mut pair.server, &mut pair.to_server).unwrap().0, b"first second third");
    // The tickets of the server come before its data.
    pair.server.seal(b"answer", &mut pair.to_client).unwrap();
    assert_eq!(open(&mut pair.client, &mut pair.to_client).unwrap().0, b"answer");
}

#[test]
fn an_end_says_that_it_is_done_and_the_other_may_still_speak() {
    let mut pair = shaken();
    pair.client.seal(b"last", &mut pair.to_server).unwrap();
    pair.client.close(&mut pair.to_server).unwrap();
    pair.to_server.append(b"whatever follows");
    assert_eq!(open(&mut pair.server, &mut pair.to_server).unwrap(), (b"last".to_vec(), Ending::Closed));
    assert_eq!(open(&mut pair.server, &mut pair.to_server).unwrap(), (Vec::new(), Ending::Closed));
    pair.server.seal(b"answer", &mut pair.to_client).unwrap();
    pair.server.close(&mut pair.to_client).unwrap();
    assert_eq!(open(&mut pair.client, &mut pair.to_client).unwrap(), (b"answer".to_vec(), Ending::Closed));
}

#[test]
fn a_byte_that_was_changed_ends_it_and_the_other_side_is_told() {
    let mut pair = shaken();
    pair.client.seal(b"good", &mut pair.to_server).unwrap();
    pair.client.seal(b"changed", &mut pair.to_server).unwrap();
    *pair.to_server.filled_mut().last_mut().unwrap() ^= 1;
    let mut seen = Vec::new();
    let fault = pair.server.open(pair.to_server.filled_mut(), |piece| seen.extend_from_slice(piece));
    assert_eq!((fault, seen.as_slice()), (Err(TlsFault::Undecryptable), b"good".as_slice()));
    assert!(pair.server.has_pending());
    pair.server.flush(&mut pair.to_client);
    let fault = open(&mut pair.client, &mut pair.to_client).unwrap_err();
    assert_eq!(fault, TlsFault::Alert(AlertDescription::BadRecordMac));
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_done() {
    let (one, _) = hosts();
    let mut client = TlsEnd::client(one.client("h2")).unwrap();
    let mut outgoing = Block::default();
    assert!(matches!(client.seal(b"x", &mut outgoing), Err(TlsFault::Ours(_))));
    assert!(matches!(client.close(&mut outgoing), Err(TlsFault::Ours(_))));
    assert!(matches!(open(&mut client, &mut outgoing), Err(TlsFault::Ours(_))));
}

/// rustls' own way of driving a client, over what is in memory.
struct Buffered {
    client: ClientConnection,
    from_server: Block,
}

impl Buffered {
    /// It has sent all that it wants to send, and read all that came.
    fn turn(&mut self, to_server: &mut Block) -> Vec<u8> {
        let mut came = self.from_server.filled();
        while !came.is_empty() {
            self.client.read_tls(&mut came).unwrap();
            self.client.process_new_packets().unwrap();
        }
        self.from_server.clear();
        let mut data = Vec::new();
        // It would block: that is the end of what came.
        self.client.reader().read_to_end(&mut data).unwrap_err();
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).unwrap();
        }
        to_server.append(&sent);
        data
    }
}

#[test]
fn new_keys_are_taken_and_answered_while_data_goes_both_ways() {
    let (one, other) = hosts();
    let name = "epmd-guard.invalid".try_into().unwrap();
    let client = ClientConnection::new(one.client("h2"), name).unwrap();
    let mut buffered = Buffered { client, from_server: Block::default() };
    let mut server = TlsEnd::server(other.server()).unwrap();
    let mut to_server = Block::default();
    let mut stage = Stage::Handshaking;
    while stage == Stage::Handshaking {
        buffered.turn(&mut to_server);
        stage = server.advance(&mut to_server, &mut buffered.from_server).unwrap();
    }
    for round in 0..100_u8 {
        buffered.client.writer().write_all(&[round]).unwrap();
        buffered.client.refresh_traffic_keys().unwrap();
        buffered.client.writer().write_all(&[round, round]).unwrap();
        buffered.turn(&mut to_server);
        assert_eq!(open(&mut server, &mut to_server).unwrap().0, [round; 3]);
        server.seal(&[round; 4], &mut buffered.from_server).unwrap();
        assert_eq!(buffered.turn(&mut to_server), [round; 4]);
    }
    server.close(&mut buffered.from_server).unwrap();
}

#[test]
fn a_message_in_pieces_after_the_handshake_is_refused() {
    let (one, other) = hosts();
    let mut config = ServerConfig::clone(&other.server());
    config.max_fragment_size = Some(64);
    let mut pair = Pair::new(one.client("h2"), std::sync::Arc::new(config));
    pair.shake_hands().unwrap();
    let fault = open(&mut pair.client, &mut pair.to_client).unwrap_err();
    assert!(matches!(fault, TlsFault::Misbehaved(_)), "{fault}");
    // rustls still holds it, and would fall over whatever it is asked for.
    assert_eq!(pair.client.close(&mut pair.to_server), Err(TlsFault::Closed));
    assert_eq!(pair.client.seal(b"x", &mut pair.to_server), Err(TlsFault::Closed));
    assert_eq!(open(&mut pair.client, &mut pair.to_client), Err(TlsFault::Closed));
}

#[test]
fn an_idle_end_holds_no_buffers() {
    let mut pair = shaken();
    open(&mut pair.client, &mut pair.to_client).unwrap();
    assert!(!pair.client.has_pending() && !pair.server.has_pending());
    assert!(size_of::<TlsEnd>() <= 128, "{}", size_of::<TlsEnd>());
    assert_eq!(pair.client.facts().unwrap().chain.len(), 1);
    assert!(at(TODAY) < at(TODAY + DAY));
}
