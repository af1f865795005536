//! What stands for a node behind whatever is measured: it speaks the handshake as the acceptor, with a cookie that
//! both sides know, and takes whatever comes after it. One thread, and no more system calls than a node makes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;

use epmd_guard::proto::dist::{Digest, Proof, Status};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};
use socket2::{Domain, Socket, Type};

use crate::clients::{COOKIE, first_frame};
use crate::support::handshake::{Acceptor, digest};

/// Its name before the `@` and behind it.
pub(crate) const NAME: &str = "stand_in@h1.example.net";
/// The listener's number among what is watched; those of the connections follow.
const LISTENER: u64 = 0;
/// Enough for whatever one read can bring.
const READ: usize = 256 * 1024;

/// A stand-in that serves until this process ends.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) at: SocketAddr,
}

/// A connection and how far it has come.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    said: Vec<u8>,
    turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Name,
    Proof,
    Up,
}

#[derive(Debug)]
struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    status: Vec<u8>,
    challenge: Vec<u8>,
    /// The proof that is right.
    proof: Digest,
}

impl StandIn {
    /// Listens on loopback, at a port that the kernel chooses.
    pub(crate) fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("making a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        socket.listen(4096).expect("a bound socket");
        let listener: TcpListener = socket.into();
        let at = listener.local_addr().expect("it is bound");
        thread::spawn(move || Server::new(listener).serve());
        Self { at }
    }
}

impl Server {
    fn new(listener: TcpListener) -> Self {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("making an epoll");
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).expect("watching it");
        let acceptor = Acceptor::named(NAME);
        let (mut status, mut challenge) = (Vec::new(), Vec::new());
        Status::Ok.encode(&mut status);
        acceptor.challenge().encode(&mut challenge);
        let proof = digest(COOKIE, acceptor.challenge().challenge);
        Self { epoll, listener, connections: Vec::new(), free: Vec::new(), status, challenge, proof }
    }

    fn serve(mut self) -> ! {
        let (mut events, mut buffer) = (Vec::with_capacity(64), vec![0; READ]);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("waiting for clients: {error}"),
            }
            for event in events.drain(..) {
                let data = event.data;
                match usize::try_from(data.u64()).expect("it was an index").checked_sub(1) {
                    None => self.accept(),
                    Some(index) => self.hear(index, &mut buffer),
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Whoever has gone meanwhile is none of our business.
        while let Ok(socket) = rustix::net::accept_with(self.listener.as_fd(), flags) {
            sockopt::set_tcp_nodelay(&socket, true).expect("a fresh socket");
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let data = EventData::new_u64(index as u64 + 1);
            epoll::add(&self.epoll, &socket, data, EventFlags::IN).expect("watching a socket");
            let connection = Connection { socket, said: Vec::new(), turn: Turn::Name };
            *self.connections.get_mut(index).expect("a place") = Some(connection);
        }
    }

    fn hear(&mut self, index: usize, buffer: &mut [u8]) {
        let place = self.connections.get_mut(index).expect("a place");
        let Some(connection) = place else { return };
        let got = rustix::net::recv(&connection.socket, &mut *buffer, RecvFlags::empty());
        let length = got.map_or(0, |(length, _)| length);
        if length == 0 {
            *place = None;
            self.free.push(index);
            return;
        }
        if connection.turn == Turn::Up {
            return;
        }
        connection.said.extend(buffer.get(..length).expect("it was read"));
        let Some((body, _)) = first_frame(&connection.said) else { return };
        // An end shows when the next message is read.
        let say = |bytes: &[u8]| {
            rustix::net::send(&connection.socket, bytes, SendFlags::NOSIGNAL).unwrap_or_default();
        };
        if connection.turn == Turn::Name {
            assert!(body.starts_with(b"N"), "{body:?}");
            // Each in a segment of its own, as a node says them.
            say(&self.status);
            say(&self.challenge);
            connection.turn = Turn::Proof;
        } else {
            let proof = Proof::decode(body).expect("a proof");
            assert!(proof.digest == self.proof, "a wrong proof");
            let mut ack = Vec::new();
            digest(COOKIE, proof.challenge).encode_ack(&mut ack);
            say(&ack);
            connection.turn = Turn::Up;
        }
        connection.said.clear();
    }
}
