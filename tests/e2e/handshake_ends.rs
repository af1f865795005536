//! Handshakes whose ends are the test's own, one or both: how they may be sent, and how long they may take.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, field, front};
use crate::support::handshake::{Acceptor, Initiator, Shaken, link, messages};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, read_to_close, send, send_slowly};

pub(crate) const PORT: u16 = 9105;
/// Between two bytes: each has a segment of its own.
const PAUSE: Duration = Duration::from_millis(1);

/// A guarded host whose "node" is a plain socket that the test holds.
pub(crate) struct Ends {
    pub(crate) h1: Guarded,
    pub(crate) peer: Host,
    pub(crate) behind: TcpListener,
    pub(crate) says: Initiator,
    pub(crate) answers: Acceptor,
    pub(crate) lab: Lab,
}

impl Ends {
    pub(crate) fn new(limits: &str) -> Self {
        Self::with(Lab::new(&["h1", "h2"]), &format!("{}{limits}", front(EVERYBODY)))
    }

    /// In a lab of `h1`, which has the guard, and `h2`, the peer.
    pub(crate) fn with(lab: Lab, config: &str) -> Self {
        let h1 = Guarded::with(&lab, "h1", config);
        let behind = h1.host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)).unwrap();
        h1.guard.wait_open(PORT);
        let (says, answers) = (Initiator::named("a@h2.test"), Acceptor::named("b@h1.test"));
        Self { h1, peer: lab.host("h2"), behind, says, answers, lab }
    }

    /// Where peers reach it.
    pub(crate) fn at(&self) -> SocketAddr {
        SocketAddr::new(self.h1.host.v4().into(), PORT)
    }

    pub(crate) fn dial(&self) -> TcpStream {
        self.peer.connect(self.at()).unwrap()
    }

    pub(crate) fn closed(&self, reason: &str) -> Value {
        self.h1.guard.wait_event("closed", &[("role", "dist"), ("reason", reason)])
    }

    /// Up to the challenge: what dialled, and what answered.
    pub(crate) fn greeted(&self) -> (TcpStream, TcpStream) {
        self.greeted_by(&self.says, &self.answers)
    }

    /// The same of other nodes.
    #[track_caller]
    pub(crate) fn greeted_by(&self, says: &Initiator, answers: &Acceptor) -> (TcpStream, TcpStream) {
        let down = self.dial();
        send(&down, &says.first_message()).unwrap();
        let up = answers.take(&self.behind, says);
        send(&up, &answers.greeting()).unwrap();
        assert_eq!(messages(&down, 2), answers.greeting());
        (down, up)
    }

    pub(crate) fn proof(&self) -> Vec<u8> {
        self.says.reply_to(&self.answers.challenge())
    }
}

fn ends() -> Option<Ends> {
    require().then(|| Ends::new(""))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn read_exactly(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_an_end_sends_behind_its_last_message_arrives_behind_it_and_in_order() {
    let Some(ends) = ends() else { return };
    // Less than is held of a handshake, and much more.
    for length in [5, 100_000] {
        let (down, up) = ends.greeted();
        let data = pattern(length);
        thread::scope(|scope| {
            scope.spawn(|| (&down).write_all(&[ends.proof(), data.clone()].concat()).unwrap());
            let ack = ends.answers.ack(&up, &ends.says);
            let (mut node, glued) = (&up, [&ack[..], &data].concat());
            scope.spawn(move || node.write_all(&glued).unwrap());
            assert_eq!(messages(&down, 1).len(), 19);
            assert!(read_exactly(&down, length) == data, "the node's bytes differ");
            assert!(read_exactly(&up, length) == data, "the peer's bytes differ");
        });
        // The next ones are the next ones.
        for (from, to) in [(&down, &up), (&up, &down)] {
            (&*from).write_all(b"tick").unwrap();
            assert_eq!(read_exactly(to, 4), b"tick");
        }
        drop((down, up));
        let carried = |way: &str| {
            let closed = ends.h1.guard.events("closed");
            closed.last().map(|event| event[way].as_u64().unwrap()).unwrap_or_default()
        };
        eventually("all of it is counted", SOON, || {
            let bytes = length as u64 + 4;
            let (up, down) = (carried("bytes_up"), carried("bytes_down"));
            if (up, down) == (49 + bytes, 54 + bytes) { Ok(()) } else { Err(format!("{up} {down}")) }
        });
    }
}

#[test]
fn a_handshake_whose_bytes_come_one_by_one_makes_a_link() {
    let Some(ends) = ends() else { return };
    let down = ends.dial();
    send_slowly(&down, &ends.says.first_message(), PAUSE).unwrap();
    let up = ends.answers.take(&ends.behind, &ends.says);
    thread::scope(|scope| {
        scope.spawn(|| send_slowly(&up, &ends.answers.greeting(), PAUSE).unwrap());
        assert_eq!(messages(&down, 2), ends.answers.greeting());
    });
    thread::scope(|scope| {
        scope.spawn(|| send_slowly(&down, &ends.proof(), PAUSE).unwrap());
        let ack = ends.answers.ack(&up, &ends.says);
        let node = &up;
        scope.spawn(move || send_slowly(node, &ack, PAUSE).unwrap());
        assert_eq!(messages(&down, 1).len(), 19);
    });
    ends.h1.guard.wait_event("link_opened", &[("claimed", "a@h2.test"), ("answered", "b@h1.test")]);
    for (from, to) in [(&down, &up), (&up, &down)] {
        send_slowly(from, b"tick", PAUSE).unwrap();
        assert_eq!(read_exactly(to, 4), b"tick");
    }
}

#[test]
fn a_real_node_takes_a_handshake_whose_bytes_come_one_by_one() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let _b = h1.node("b");
    let says = Initiator::named("a@h2.test");
    let stream = lab.host("h2").connect(SocketAddr::new(h1.host.v4().into(), 9100)).unwrap();
    assert_eq!(says.shake_slowly(&stream, PAUSE), Shaken::Up);
    h1.guard.wait_event("link_opened", &[("claimed", "a@h2.test"), ("answered", "b@h1.test")]);
}

#[test]
fn a_peer_that_leaves_before_the_link_is_up_is_told_by_what_it_had_said_and_is_no_offender() {
    let Some(ends) = ends() else { return };
    drop(ends.dial());
    ends.closed("no_request");
    let down = ends.dial();
    send(&down, &ends.says.first_message()[..1]).unwrap();
    drop(down);
    assert_eq!(field(&ends.closed("handshake_abandoned"), "claimed"), "");
    let log = ends.h1.guard.mark();
    let (down, up) = ends.greeted();
    drop(down);
    let abandoned = [("reason", "handshake_abandoned"), ("claimed", "a@h2.test")];
    ends.h1.guard.wait_event_after(log, "closed", &abandoned);
    assert_ne!(read_to_close(&up).ended, Ended::TimedOut);
    for event in ["refused", "link_opened", "slowed_down"] {
        assert_eq!(ends.h1.guard.events(event), Vec::<Value>::new());
    }
}

/// How far a handshake goes before an end falls silent.
#[derive(Clone, Copy, Debug)]
enum Halt {
    /// Nothing is said.
    AtOnce,
    /// The first message comes in part.
    InTheName,
    /// The node does not answer the name.
    AfterTheName,
    /// The node sends half of its challenge.
    InTheChallenge,
    /// The peer does not answer the challenge.
    AfterTheChallenge,
    /// The peer's proof comes in part.
    InTheProof,
    /// The node does not answer the proof.
    AfterTheProof,
}

impl Halt {
    const ALL: [Self; 7] = [
        Self::AtOnce,
        Self::InTheName,
        Self::AfterTheName,
        Self::InTheChallenge,
        Self::AfterTheChallenge,
        Self::InTheProof,
        Self::AfterTheProof,
    ];

    /// Goes so far: what dialled, and what answered if it came to that.
    fn reach(self, ends: &Ends) -> (TcpStream, Option<TcpStream>) {
        let name = ends.says.first_message();
        match self {
            Self::AtOnce => (ends.dial(), None),
            Self::InTheName => {
                let down = ends.dial();
                send(&down, &name[..name.len() - 1]).unwrap();
                (down, None)
            }
            Self::AfterTheName | Self::InTheChallenge => {
                let down = ends.dial();
                send(&down, &name).unwrap();
                let up = ends.answers.take(&ends.behind, &ends.says);
                if matches!(self, Self::InTheChallenge) {
                    let greeting = ends.answers.greeting();
                    send(&up, &greeting[..greeting.len() - 1]).unwrap();
                    assert_eq!(messages(&down, 1), greeting[..5]);
                }
                (down, Some(up))
            }
            Self::AfterTheChallenge | Self::InTheProof => {
                let (down, up) = ends.greeted();
                if matches!(self, Self::InTheProof) {
                    let proof = ends.proof();
                    send(&down, &proof[..proof.len() - 1]).unwrap();
                }
                (down, Some(up))
            }
            Self::AfterTheProof => {
                let (down, up) = ends.greeted();
                send(&down, &ends.proof()).unwrap();
                drop(ends.answers.ack(&up, &ends.says));
                (down, Some(up))
            }
        }
    }

    /// Who is silent.
    fn silent(self) -> &'static str {
        match self {
            Self::AtOnce | Self::InTheName | Self::AfterTheChallenge | Self::InTheProof => {
                "the peer was silent"
            }
            Self::AfterTheName | Self::InTheChallenge | Self::AfterTheProof => "the node was silent",
        }
    }
}

#[test]
fn a_handshake_that_stands_still_ends_at_its_deadline_and_its_place_is_free_again() {
    if !require() {
        return;
    }
    let ends = Ends::new("[limits]\nhandshake_timeout = \"1s\"\nhalf_open_per_address = 1\n");
    for halt in Halt::ALL {
        let log = ends.h1.guard.mark();
        let (down, up) = halt.reach(&ends);
        match ends.peer.connect(ends.at()) {
            Ok(refused) => {
                let outcome = read_to_close(&refused);
                assert_eq!((outcome.bytes, outcome.ended), (Vec::new(), Ended::Reset), "{halt:?}");
            }
            // Faster than the end of the connect.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{halt:?}"),
        }
        let reason = [("reason", "too_many_half_open_from_address"), ("stage", "inspect")];
        ends.h1.guard.wait_event_after(log, "refused", &reason);
        let closed = ends.h1.guard.wait_event_after(
            log,
            "closed",
            &[("reason", "handshake_timeout"), ("detail", halt.silent())],
        );
        let took = Duration::from_millis(closed["duration_ms"].as_u64().unwrap());
        assert!(took >= Duration::from_secs(1), "{halt:?}: {closed}");
        assert_eq!(read_to_close(&down).ended, Ended::Reset, "{halt:?}");
        if let Some(up) = up {
            assert_ne!(read_to_close(&up).ended, Ended::TimedOut, "{halt:?}");
        }
        // A link that is up takes no such place: two of them come up.
        for _ in 0..2 {
            drop(link(&ends.dial(), &ends.behind, &ends.says, "b@h1.test"));
        }
    }
}

#[test]
fn a_node_that_goes_after_the_proof_has_stopped_and_one_that_closes_has_seen_a_wrong_cookie() {
    let Some(mut ends) = ends() else { return };
    let log = ends.h1.guard.mark();
    let (down, up) = ends.greeted();
    send(&down, &ends.proof()).unwrap();
    drop(ends.answers.ack(&up, &ends.says));
    drop(up);
    ends.h1.guard.wait_event_after(log, "closed", &[("reason", "wrong_cookie"), ("claimed", "a@h2.test")]);
    // What listened is gone by the time that the connection ends, as when the kernel closes all that a process had.
    let (down, up) = ends.greeted();
    send(&down, &ends.proof()).unwrap();
    drop(ends.answers.ack(&up, &ends.says));
    let elsewhere = ends.h1.host.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
    drop(std::mem::replace(&mut ends.behind, elsewhere));
    drop(up);
    let closed = ends.closed("node_stopped");
    assert_eq!(field(&closed, "claimed"), "a@h2.test");
    assert_ne!(read_to_close(&down).ended, Ended::TimedOut);
}

#[test]
fn a_peer_that_leaves_behind_its_proof_is_told_by_what_the_node_says_to_it() {
    let Some(ends) = ends() else { return };
    for reason in ["wrong_cookie", "handshake_abandoned"] {
        let log = ends.h1.guard.mark();
        let (down, up) = ends.greeted();
        send(&down, &ends.proof()).unwrap();
        drop(down);
        // It has the proof, and is not told that nobody waits for the answer.
        let ack = ends.answers.ack(&up, &ends.says);
        if reason == "handshake_abandoned" {
            send(&up, &ack).unwrap();
            assert_ne!(read_to_close(&up).ended, Ended::TimedOut);
        }
        drop(up);
        let told = [("reason", reason), ("claimed", "a@h2.test")];
        ends.h1.guard.wait_event_after(log, "closed", &told);
    }
}

#[test]
fn a_wrong_cookie_is_seen_behind_a_forward_that_has_an_address_of_its_own() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let forward = "[[forward]]\nkind = \"dist\"\nports = 9120\nbackend = \"127.0.0.2\"\n";
    let h1 = Guarded::with(&lab, "h1", &format!("{}{forward}", front(EVERYBODY)));
    let behind = h1.host.listen(SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 9120)).unwrap();
    h1.guard.wait_open(9120);
    let (says, answers) = (Initiator::named("a@h2.test"), Acceptor::named("b@h1.test"));
    let down = lab.host("h2").connect(SocketAddr::new(h1.host.v4().into(), 9120)).unwrap();
    send(&down, &says.first_message()).unwrap();
    let up = answers.take(&behind, &says);
    send(&up, &answers.greeting()).unwrap();
    assert_eq!(messages(&down, 2), answers.greeting());
    send(&down, &says.reply_to(&answers.challenge())).unwrap();
    drop(answers.ack(&up, &says));
    drop(up);
    h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "a@h2.test")]);
}
