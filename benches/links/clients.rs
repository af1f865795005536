//! The nodes that dial: so many handshakes at a time, one thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use epmd_guard::proto::dist::{Challenge, Digest, Proof, Status};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::samples::Latencies;
use crate::support::handshake::{Initiator, digest};

/// What all nodes know.
pub(crate) const COOKIE: &str = "secret";
/// No link takes so long: something hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// How many hosts there are in [`Crowd::Hosts`].
pub(crate) const HOSTS: usize = 1000;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// One node for each handshake under way, all of one address.
    Few,
    /// A node of each of a thousand hosts, in turn.
    Hosts,
    /// A hidden node that was never seen before, each time: a node would have to forget the old one first.
    New,
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lasts {
    For(Duration),
    /// So many links, and it does not matter how long they take.
    Links(usize),
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// From the dialling to the proof of the node.
    pub(crate) latencies: Latencies,
    pub(crate) took: Duration,
}

impl Outcome {
    pub(crate) fn links(&self) -> f64 {
        self.latencies.len() as f64
    }
}

/// A host of the thousand: its address, and its node's name.
pub(crate) fn host(number: usize) -> (Ipv4Addr, String) {
    let (third, fourth) = (number / 250, number % 250 + 1);
    let byte = |value| u8::try_from(value).expect("a byte");
    (Ipv4Addr::new(127, 1, byte(third), byte(fourth)), format!("h{number}.example.net"))
}

/// The body of the first frame, and the bytes with its length; `None`: it is not whole.
pub(crate) fn first_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((rest.get(..length)?, length + 2))
}

/// Makes links, `outstanding` of them at a time, and resets each when it is up.
///
/// # Panics
///
/// When one does not come up.
pub(crate) fn link(at: SocketAddr, crowd: Crowd, outstanding: usize, lasts: Lasts) -> Outcome {
    let crew = match crowd {
        Crowd::Few | Crowd::New => {
            (0..outstanding).map(|slot| (None, node(slot, "h2.example.net"))).collect()
        }
        Crowd::Hosts => {
            let of_host = |number| {
                let (address, name) = host(number);
                (Some(address), node(0, &name))
            };
            (0..HOSTS).map(of_host).collect()
        }
    };
    let mut clients = Clients {
        at,
        crowd,
        crew,
        epoll: epoll::create(CreateFlags::CLOEXEC).expect("making an epoll"),
        slots: (0..outstanding).map(|_| None).collect(),
        begun: 0,
        outcome: Outcome::default(),
    };
    let begun = Instant::now();
    clients.run(lasts);
    clients.outcome.took = begun.elapsed();
    clients.outcome
}

fn node(number: usize, host: &str) -> Initiator {
    Initiator::named(&format!("n{number}@{host}")).cookie(COOKIE)
}

#[derive(Debug)]
struct Handshake {
    socket: OwnedFd,
    begun: Instant,
    node: Initiator,
    heard: Vec<u8>,
    /// The proof that the node must give; known when we have said ours.
    proof: Option<Digest>,
}

#[derive(Debug)]
struct Clients {
    at: SocketAddr,
    crowd: Crowd,
    /// Who dials, and from where.
    crew: Vec<(Option<Ipv4Addr>, Initiator)>,
    epoll: OwnedFd,
    slots: Vec<Option<Handshake>>,
    /// How many have been begun.
    begun: usize,
    outcome: Outcome,
}

impl Clients {
    fn run(&mut self, lasts: Lasts) {
        let began = Instant::now();
        let mut events = Vec::with_capacity(64);
        let mut idle: Vec<usize> = (0..self.slots.len()).collect();
        loop {
            let is_over = |begun| match lasts {
                Lasts::For(time) => began.elapsed() >= time,
                Lasts::Links(count) => begun >= count,
            };
            while !is_over(self.begun)
                && let Some(slot) = idle.pop()
            {
                self.begin(slot);
            }
            if idle.len() == self.slots.len() {
                return;
            }
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&PATIENCE)) {
                Ok(0) => panic!("a link does not come up"),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("waiting for answers: {error}"),
            }
            for event in events.drain(..) {
                let (flags, data) = (event.flags, event.data);
                let slot = usize::try_from(data.u64()).expect("it was a slot");
                if flags == EventFlags::OUT {
                    self.greet(slot);
                } else if self.hear(slot) {
                    idle.push(slot);
                }
            }
        }
    }

    fn begin(&mut self, slot: usize) {
        let number = self.begun;
        self.begun += 1;
        let begun = Instant::now();
        let (from, node) = match self.crowd {
            Crowd::Few => self.crew.get(slot).expect("one for each slot").clone(),
            Crowd::Hosts => self.crew.get(number % HOSTS).expect("one for each host").clone(),
            Crowd::New => (None, fresh_node()),
        };
        let socket = dial(self.at, from);
        let heard = Vec::new();
        *self.slots.get_mut(slot).expect("a slot") =
            Some(Handshake { socket, begun, node, heard, proof: None });
        self.watch(slot);
    }

    /// On loopback the connection is up when connect() returns, unless the listen queue is full.
    fn watch(&self, slot: usize) {
        let Some(Some(handshake)) = self.slots.get(slot) else { return };
        let said = handshake.say(&handshake.node.first_message());
        let flags = if said.is_ok() { EventFlags::IN } else { EventFlags::OUT };
        let data = EventData::new_u64(slot as u64);
        epoll::add(&self.epoll, &handshake.socket, data, flags).expect("watching a socket");
    }

    fn greet(&self, slot: usize) {
        let Some(Some(handshake)) = self.slots.get(slot) else { return };
        handshake.say(&handshake.node.first_message()).expect("the connection is up");
        let data = EventData::new_u64(slot as u64);
        epoll::modify(&self.epoll, &handshake.socket, data, EventFlags::IN).expect("changing a watch");
    }

    /// Whether the link is up now; it is reset then.
    fn hear(&mut self, slot: usize) -> bool {
        let place = self.slots.get_mut(slot).expect("a slot");
        let Some(handshake) = place else { return false };
        if !handshake.hear() {
            return false;
        }
        self.outcome.latencies.push(handshake.begun.elapsed());
        *place = None;
        true
    }
}

impl Handshake {
    fn say(&self, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)
    }

    /// Whether the link is up.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 1024];
        let got = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty());
        let length = got.map_or(0, |(length, _)| length);
        assert!(length > 0, "no link: {got:?} after {:?}", self.heard);
        self.heard.extend(buffer.get(..length).expect("it was read"));
        let Some((first, length)) = first_frame(&self.heard) else { return false };
        if let Some(proof) = self.proof {
            assert!(Digest::decode_ack(first).expect("an ack") == proof, "a wrong proof");
            return true;
        }
        assert_eq!(Status::decode(first), Ok(Status::Ok));
        let rest = self.heard.get(length..).expect("a whole frame");
        let Some((second, _)) = first_frame(rest) else { return false };
        let challenge = Challenge::decode(second).expect("a challenge");
        let reply = self.node.reply_to(&challenge);
        let own = Proof::decode(reply.get(2..).expect("a frame")).expect("a proof");
        self.proof = Some(digest(COOKIE, own.challenge));
        self.heard.clear();
        self.say(&reply).expect("the connection is up");
        false
    }
}

/// A node whose name nobody has heard in this run.
fn fresh_node() -> Initiator {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    node(NEXT.fetch_add(1, Ordering::Relaxed), "h3.example.net").hidden()
}

fn dial(at: SocketAddr, from: Option<Ipv4Addr>) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .expect("making a socket");
    sockopt::set_tcp_nodelay(&socket, true).expect("a fresh socket");
    // A reset when it is closed.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("a fresh socket");
    if let Some(from) = from {
        rustix::net::bind(&socket, &SocketAddr::from((from, 0))).expect("an address of loopback");
    }
    match rustix::net::connect(&socket, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("connecting to {at}: {error}"),
    }
}
