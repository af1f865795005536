//! The least that a server can do for a lookup: accept, read, write, close, one connection after the other,
//! without a table, a policy or a deadline. What it needs is the kernel's part, which no epmd with one thread
//! can do without. It is this very program, started under the name `epmd` as the others are.

use std::env;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use socket2::{Domain, Socket, Type};

use crate::names::{found, registered};

/// The port, if this process was started as such a server: `epmd -port PORT`, and more that does not matter.
pub(crate) fn asked_for() -> Option<u16> {
    let mut args = env::args();
    let is_server = Path::new(&args.next()?).file_name() == Some("epmd".as_ref());
    is_server.then(|| args.nth(1)?.parse().ok()).flatten()
}

/// Serves on loopback until it is killed. Registrations are held for good, and counted by nobody.
pub(crate) fn serve(port: u16) -> ! {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 512];
        // A client that went away is none of our business, neither here nor below.
        let Ok(length) = stream.read(&mut request) else { continue };
        let Some((code, rest)) = request.get(2..length).and_then(<[u8]>::split_first) else { continue };
        let answer = match code {
            b'x' => registered(),
            b'z' => found(rest),
            _ => vec![0; 4],
        };
        drop(stream.write_all(&answer));
        if *code == b'x' {
            held.push(stream);
        }
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("making a socket");
    socket.set_reuse_address(true).expect("a fresh socket");
    socket.bind(&at.into()).expect("a free port");
    socket.listen(4096).expect("a bound socket");
    socket.into()
}
