//! What the watcher of handshakes tells is what real nodes do: handshakes by the hundred, right and wrong, are
//! played with real nodes without a guard between, and shown to the watcher as they went over the wire.
//!
//! `Up` must mean that the real node is linked. The reverse holds but for what [`Stricter`] lists.
#![allow(clippy::wildcard_enum_match_arm, reason = "what an oddity does not concern is as in a real node")]

mod acceptor;
mod initiator;

use std::io::{self, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use epmd_guard::proto::dist::{Digest, Handshake, Malformed, NameFault, Phase, Progress, Speaker};

use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::host::Host;
use crate::support::wire::{framed, read_frame, read_to_close};

/// Every node of a single-port cluster listens here, and so do we where we play one.
const PORT: u16 = 9100;
/// What a visible node of OTP 25 can do.
const FLAGS: u64 = 0xd_07df_7fbd;
/// The shortest whole time that a node gives each step; one that waits for more bytes waits so long.
const SETUP_SECONDS: &str = "1";
/// A status that is none.
const NONE: Malformed = Malformed::Status;
/// The deadline of a read: a node decides much earlier.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the cases of a run come from.
const SEED: u64 = 0x5eed_0001;

/// What went over the wire, in the order in which it did.
type Wire = Vec<(Speaker, Vec<u8>)>;

/// A sequence of well mixed numbers (splitmix64), the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What the watcher tells of all that went over the wire.
#[derive(Debug, PartialEq)]
enum Told {
    Up,
    Refused,
    Waits,
    Fault(Malformed),
}

fn watch(wire: &Wire) -> Told {
    let mut handshake = Handshake::default();
    let mut left = [Vec::new(), Vec::new()];
    let side = |speaker| usize::from(speaker == Speaker::Acceptor);
    for (speaker, bytes) in wire {
        left[side(*speaker)].extend(bytes);
        while let Some(turn) = handshake.turn() {
            match handshake.advance(turn, &left[side(turn)]) {
                Ok(Progress::Message(len, _)) => drop(left[side(turn)].drain(..len)),
                Ok(Progress::More) => break,
                Ok(other) => panic!("{other:?} in the turn of {turn:?}"),
                Err(fault) => return Told::Fault(fault),
            }
        }
    }
    match handshake.phase() {
        Phase::Up => Told::Up,
        Phase::Refused => Told::Refused,
        _ => Told::Waits,
    }
}

/// Where the watcher refuses what a real node of OTP 25 takes, and why.
#[derive(Debug, PartialEq)]
enum Stricter {
    /// A host part with characters that no host name and no address has: names are logged and compared.
    HostCharacters,
    /// A host part that leaves the real node no room for the name that it makes.
    LongHost,
    /// A message longer than 1,024 bytes: a real one has 274 at most, and each is kept until it is whole.
    LongMessage,
}

impl Stricter {
    fn of(fault: Malformed) -> Option<Self> {
        match fault {
            Malformed::Name(NameFault::BadCharacter) => Some(Self::HostCharacters),
            Malformed::Name(NameFault::TooLong) => Some(Self::LongHost),
            Malformed::TooLong(_) => Some(Self::LongMessage),
            _ => None,
        }
    }
}

/// The proof of a number, by the cookie `secret`.
fn digest(node: &Node, number: u32) -> Digest {
    let hex = node.eval(&format!("binary:encode_hex(erlang:md5([\"secret\", integer_to_list({number})]))."));
    let hex = hex.trim_matches(|c: char| !c.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    Digest(std::array::from_fn(byte))
}

fn node(name: &str, host: &Host) -> Node {
    // Frames of a node that is no real one are not understood: what a link may carry is not asked of it.
    Node::named(name, host)
        .single_port(PORT)
        .kernel("net_setuptime", SETUP_SECONDS)
        .kernel("prevent_overlapping_partitions", "false")
        .start()
}

/// We, who play one side, and what went over the wire.
struct Player<'a> {
    node: &'a Node,
    we: Speaker,
    stream: TcpStream,
    wire: Wire,
    dice: &'a mut Dice,
}

impl Player<'_> {
    /// Sends in up to four segments. An error means that the other side has closed, which reading tells too.
    fn say(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..self.dice.below(4) {
            let (one, others) = rest.split_at(self.dice.below(rest.len() + 1));
            drop(self.stream.write_all(one));
            rest = others;
        }
        drop(self.stream.write_all(rest));
        self.wire.push((self.we, bytes.to_vec()));
    }

    /// The next whole message of the real node.
    fn hear(&mut self) -> io::Result<Vec<u8>> {
        let body = read_frame(&self.stream)?;
        self.wire.push((self.other(), framed(&body)));
        Ok(body)
    }

    /// Lets the real node see the end of our bytes, and takes what it still says.
    fn finish(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
        let rest = read_to_close(&self.stream).bytes;
        self.wire.push((self.other(), rest));
    }

    fn other(&self) -> Speaker {
        if self.we == Speaker::Initiator { Speaker::Acceptor } else { Speaker::Initiator }
    }
}

/// Waits until the node says that it is linked with a node of that name.
fn wait_linked(node: &Node, name: &[u8]) {
    let name: Vec<_> = name.iter().map(ToString::to_string).collect();
    let question = format!("lists:member([{}], [atom_to_list(N) || N <- nodes(connected)]).", name.join(","));
    eventually(&format!("linked with {name:?}"), PATIENCE, || node.eval(&question) == "true");
}
