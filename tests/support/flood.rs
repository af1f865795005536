//! A stranger who opens connections as fast as one thread can, and holds those that he gets.
//!
//! He sends nothing. Slots are what he wants: a server that lets everybody in until it is full has none left
//! for others, and one that turns him away pays for each attempt.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, getrlimit};

use super::host::Host;

/// More sockets than this are not held: one address has some 28,000 ports (ip_local_port_range), and those of
/// connections that have just ended are among them.
const MOST_SOCKETS: u64 = 16_384;
/// How many connections are begun between two looks at those that are there.
const BATCH: usize = 32;
/// One of so many sockets is given up for a new one when all are in use, so that he goes on opening where
/// nobody turns him away. The others are held.
const CHURN: usize = 8;
/// A wait that only looks.
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A flood that goes on until it is dropped. Its connections end with it.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a flood has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were begun.
    pub attempts: u64,
    /// Those that the other side turned away or ended.
    pub refused: u64,
    /// Those that are up at this moment, as the stranger sees it: those that wait to be accepted are among
    /// them.
    pub held: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    attempts: AtomicU64,
    refused: AtomicU64,
    held: AtomicU64,
}

impl Flood {
    /// Begins at once, from `host`'s address on the network that leads to `to`.
    ///
    /// It takes half of the descriptors that this process may open, its soft limit, but at most 16,384: raise
    /// the limit first if that is not more than the server under test has slots.
    #[must_use]
    pub fn start(host: &Host, to: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let (host, seen) = (host.clone(), Arc::clone(&shared));
        let thread = thread::spawn(move || host.inside(|| Stranger::new(to).run(&seen)));
        Self { shared, thread: Some(thread) }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            attempts: self.shared.attempts.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            held: self.shared.held.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        // A flood that broke down did not test what it should have; one panic is enough.
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the flood broke down");
    }
}

/// One end of a connection.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    is_up: bool,
}

#[derive(Debug)]
struct Stranger {
    to: SocketAddr,
    epoll: OwnedFd,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// The next slot to be given up, in the last part of the slots.
    next_given_up: usize,
    counts: Counts,
}

impl Stranger {
    fn new(to: SocketAddr) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let sockets = usize::try_from((descriptors / 2).min(MOST_SOCKETS)).expect("it is small");
        Self {
            to,
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("making an epoll"),
            slots: (0..sockets).map(|_| None).collect(),
            // The first slots are taken first: they are the ones that are held.
            free: (0..sockets).rev().collect(),
            next_given_up: sockets - sockets / CHURN,
            counts: Counts { attempts: 0, refused: 0, held: 0 },
        }
    }

    fn run(mut self, shared: &Shared) {
        let mut events = Vec::with_capacity(1024);
        while !shared.stop.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                self.open();
            }
            self.look(&mut events);
            shared.attempts.store(self.counts.attempts, Ordering::Relaxed);
            shared.refused.store(self.counts.refused, Ordering::Relaxed);
            shared.held.store(self.counts.held, Ordering::Relaxed);
        }
    }

    fn open(&mut self) {
        let slot = self.free.pop().unwrap_or_else(|| self.give_one_up());
        self.counts.attempts += 1;
        match self.dial(slot) {
            Ok(socket) => drop(self.put(slot, Some(Connection { socket, is_up: false }))),
            Err(Errno::CONNREFUSED | Errno::CONNRESET) => {
                self.counts.refused += 1;
                self.free.push(slot);
            }
            // Out of ports or of descriptors, which others of this process may have taken: no attempt.
            Err(_) => {
                self.counts.attempts -= 1;
                self.free.push(slot);
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn dial(&self, slot: usize) -> Result<OwnedFd, Errno> {
        let family = if self.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &self.to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        // Edges: once when it is up, and once when it ends.
        let flags = EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(slot as u64), flags)?;
        Ok(socket)
    }

    /// A slot whose connection is cut to make room.
    fn give_one_up(&mut self) -> usize {
        let slot = self.next_given_up;
        let first = self.slots.len() - self.slots.len() / CHURN;
        self.next_given_up = if slot + 1 < self.slots.len() { slot + 1 } else { first };
        if let Some(connection) = self.take(slot) {
            // By a reset, which leaves no port behind that waits for its time to pass.
            sockopt::set_socket_linger(&connection.socket, Some(Duration::ZERO)).expect("a TCP socket");
        }
        slot
    }

    fn look(&mut self, events: &mut Vec<Event>) {
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&NO_WAIT)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("waiting for connections: {error}"),
        }
        for event in events.drain(..) {
            let (flags, data) = (event.flags, event.data);
            let slot = usize::try_from(data.u64()).expect("it was a slot");
            if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                self.counts.refused += 1;
                drop(self.take(slot));
                self.free.push(slot);
            } else if let Some(Some(connection)) = self.slots.get_mut(slot)
                && !connection.is_up
            {
                connection.is_up = true;
                self.counts.held += 1;
            }
        }
    }

    fn put(&mut self, slot: usize, connection: Option<Connection>) -> Option<Connection> {
        std::mem::replace(self.slots.get_mut(slot).expect("a slot"), connection)
    }

    fn take(&mut self, slot: usize) -> Option<Connection> {
        let taken = self.put(slot, None);
        self.counts.held -= u64::from(taken.as_ref().is_some_and(|connection| connection.is_up));
        taken
    }
}
