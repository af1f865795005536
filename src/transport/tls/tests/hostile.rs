//! Whatever comes: an end says what is wrong with it, and never falls over it, then or later.

use proptest::prelude::*;

use super::handshakes::{hosts, shaken};
use super::*;

/// What an end does once something has come that may have been anything.
fn survives(end: &mut TlsEnd, mut incoming: Block) {
    let mut outgoing = Block::default();
    for _ in 0..3 {
        // Any answer is good, as long as there is one.
        drop(end.advance(&mut incoming, &mut outgoing));
        drop(open(end, &mut incoming));
        drop(end.seal(b"data", &mut outgoing));
        end.flush(&mut outgoing);
        incoming.append(&[22, 3, 3, 0, 1, 0]);
    }
    drop(end.close(&mut outgoing));
}

fn block(bytes: &[u8]) -> Block {
    let mut block = Block::default();
    block.append(bytes);
    block
}

/// Some bytes of it are others, and some behind it are missing.
fn spoil(block: &Block, changes: &[(prop::sample::Index, u8)], keep: prop::sample::Index) -> Block {
    let mut bytes = block.filled().to_vec();
    for (at, with) in changes {
        let at = at.index(bytes.len());
        bytes[at] ^= with;
    }
    bytes.truncate(keep.index(bytes.len() + 1));
    self::block(&bytes)
}

type Changes = Vec<(prop::sample::Index, u8)>;

fn changes() -> impl Strategy<Value = (Changes, prop::sample::Index)> {
    (prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), any::<prop::sample::Index>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 20..25_u8) {
        let (one, other) = hosts();
        for prefix in [Vec::new(), vec![kind, 3, 3, 1, 0]] {
            let bytes = [prefix, bytes.clone()].concat();
            survives(&mut TlsEnd::client(one.client("h2")).unwrap(), block(&bytes));
            survives(&mut TlsEnd::server(other.server()).unwrap(), block(&bytes));
            let mut pair = shaken();
            survives(&mut pair.client, block(&bytes));
            survives(&mut pair.server, block(&bytes));
        }
    }

    #[test]
    fn flights_that_were_changed((changes, keep) in changes(), turn in 0..4_usize) {
        let (one, other) = hosts();
        let mut pair = Pair::new(one.client("h2"), other.server());
        pair.client.advance(&mut pair.to_client, &mut pair.to_server).unwrap();
        if turn == 0 {
            return { survives(&mut pair.server, spoil(&pair.to_server, &changes, keep)); Ok(()) };
        }
        pair.server.advance(&mut pair.to_server, &mut pair.to_client).unwrap();
        if turn == 1 {
            return { survives(&mut pair.client, spoil(&pair.to_client, &changes, keep)); Ok(()) };
        }
        pair.client.advance(&mut pair.to_client, &mut pair.to_server).unwrap();
        if turn == 2 {
            return { survives(&mut pair.server, spoil(&pair.to_server, &changes, keep)); Ok(()) };
        }
        pair.server.advance(&mut pair.to_server, &mut pair.to_client).unwrap();
        survives(&mut pair.client, spoil(&pair.to_client, &changes, keep));
    }
}
