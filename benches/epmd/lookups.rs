//! Lookups as a node makes them, each on a connection of its own: connect, ask, read to the end, close.
//!
//! One thread and seven system calls a lookup, because the client shares the processors with the server.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::names::{PATIENCE, found, name};
use crate::samples::Latencies;
use crate::support::wire::framed;

/// How long a wait lasts before the overdue are looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A wait that only looks.
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// After so many connections in a row that were refused, nobody is there any more.
const ALL_IN_VAIN: u32 = 100;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookups {
    pub(crate) at: SocketAddr,
    /// Names are taken at random from the first so many.
    pub(crate) names: u32,
    /// So many are under way at a time.
    pub(crate) outstanding: usize,
    /// Between the end of one and the begin of the next; only with one at a time.
    pub(crate) pause: Duration,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    /// Those that had no answer, or a wrong one, within OTP's 7 s.
    pub(crate) failed: u64,
    pub(crate) took: Duration,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

impl Outcome {
    /// Also of those that had no answer: a node waits that long, and fails.
    pub(crate) fn latencies_of_all(&self) -> Latencies {
        self.latencies.with(self.failed, PATIENCE)
    }
}

impl Lookups {
    /// Looks up for that long, and then waits for the answers to those under way.
    pub(crate) fn run(self, lasts: Duration) -> Outcome {
        let mut client = Client {
            what: self,
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("making an epoll"),
            slots: (0..self.outstanding).map(|_| None).collect(),
            random: 1,
            in_vain: 0,
            outcome: Outcome::default(),
        };
        let begun = Instant::now();
        client.run(begun + lasts);
        client.outcome.took = begun.elapsed();
        client.outcome
    }
}

#[derive(Debug)]
struct Lookup {
    socket: OwnedFd,
    begun: Instant,
    name: String,
    is_watched: bool,
}

#[derive(Debug)]
struct Client {
    what: Lookups,
    epoll: OwnedFd,
    slots: Vec<Option<Lookup>>,
    /// The state of a plain generator of numbers (xorshift), the same in every run.
    random: u64,
    /// Refused connections since the last that was not.
    in_vain: u32,
    outcome: Outcome,
}

impl Client {
    fn run(&mut self, until: Instant) {
        let mut events = Vec::with_capacity(64);
        let mut idle: Vec<usize> = (0..self.slots.len()).collect();
        loop {
            let is_over = Instant::now() >= until || self.in_vain >= ALL_IN_VAIN;
            if is_over && idle.len() == self.slots.len() {
                return;
            }
            while !is_over && let Some(slot) = idle.pop() {
                if !self.begin(slot) {
                    idle.push(slot);
                    break;
                }
            }
            let wait = if idle.len() == self.slots.len() { NO_WAIT } else { TICK };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("waiting for answers: {error}"),
            }
            if events.is_empty() {
                idle.extend(self.give_up_the_overdue());
            }
            for event in events.drain(..) {
                let (flags, data) = (event.flags, event.data);
                let slot = usize::try_from(data.u64()).expect("it was a slot");
                if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                    self.finish(slot);
                    idle.push(slot);
                } else {
                    self.ask(slot);
                }
            }
            if !self.what.pause.is_zero() && idle.len() == self.slots.len() {
                thread::sleep(self.what.pause);
            }
        }
    }

    /// Whether one is under way now; if not, it has failed.
    fn begin(&mut self, slot: usize) -> bool {
        let begun = Instant::now();
        match self.dial() {
            Ok(socket) => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                let number = u32::try_from(self.random % u64::from(self.what.names)).expect("it is below");
                let lookup = Lookup { socket, begun, name: name(number), is_watched: false };
                *self.slots.get_mut(slot).expect("a slot") = Some(lookup);
                self.ask(slot);
                true
            }
            Err(error) => {
                assert!(
                    matches!(error, Errno::CONNREFUSED | Errno::CONNRESET),
                    "connecting to {}: {error}",
                    self.what.at
                );
                self.outcome.failed += 1;
                self.in_vain += 1;
                false
            }
        }
    }

    fn dial(&self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        // The server closes first, and its end would wait for a minute, with tens of thousands of others: a
        // reset spares it that, for either program.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        match rustix::net::connect(&socket, &self.what.at) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    /// Sends the request, now or when the connection is up, and waits for the end of the answer.
    fn ask(&mut self, slot: usize) {
        let Some(Some(lookup)) = self.slots.get_mut(slot) else { return };
        let request = framed(&[b"z", lookup.name.as_bytes()].concat());
        // On loopback the connection is up when connect() returns, unless the server's queue is full.
        let sent = rustix::net::send(&lookup.socket, &request, SendFlags::NOSIGNAL);
        self.in_vain = if sent == Err(Errno::CONNREFUSED) { self.in_vain + 1 } else { 0 };
        let data = EventData::new_u64(slot as u64);
        let flags = if sent.is_ok() { EventFlags::RDHUP } else { EventFlags::RDHUP | EventFlags::OUT };
        if lookup.is_watched {
            epoll::modify(&self.epoll, &lookup.socket, data, flags).expect("changing a watch");
        } else {
            epoll::add(&self.epoll, &lookup.socket, data, flags).expect("watching a socket");
        }
        lookup.is_watched = true;
    }

    fn finish(&mut self, slot: usize) {
        let Some(lookup) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        let mut answer = [0; 512];
        let got = rustix::net::recv(&lookup.socket, &mut answer, RecvFlags::empty());
        let latency = lookup.begun.elapsed();
        let length = got.map_or(0, |(length, _)| length);
        if answer.get(..length) == Some(found(lookup.name.as_bytes()).as_slice()) {
            self.outcome.latencies.push(latency);
        } else {
            self.outcome.failed += 1;
        }
    }

    /// The slots of those without an answer for OTP's 7 s.
    fn give_up_the_overdue(&mut self) -> Vec<usize> {
        let is_overdue = |lookup: &Lookup| lookup.begun.elapsed() >= PATIENCE;
        let overdue: Vec<usize> = (0..self.slots.len())
            .filter(|slot| self.slots.get(*slot).and_then(Option::as_ref).is_some_and(is_overdue))
            .collect();
        for slot in &overdue {
            drop(self.slots.get_mut(*slot).and_then(Option::take));
            self.outcome.failed += 1;
        }
        overdue
    }
}
