//! Registered names: made one by one as nodes do it, and held by their connections.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::eventually::eventually;
use crate::support::wire::framed;

/// What epmd takes without coming to its end: it has 1024 descriptors for names and requests together.
pub(crate) const MOST_OF_EPMD: u32 = 900;

/// OTP's own: how long a node waits for epmd.
pub(crate) const PATIENCE: Duration = Duration::from_secs(7);

/// The distribution port of every name.
pub(crate) const NODE_PORT: u16 = 9100;

/// That port, a normal node, TCP, versions 6 to 5 as nodes say it.
const NODE: [u8; 8] = {
    let [high, low] = NODE_PORT.to_be_bytes();
    [high, low, 77, 0, 0, 6, 0, 5]
};

/// A name that is registered while this lives.
#[derive(Debug)]
pub(crate) struct Registration(TcpStream);

/// The name with this number.
pub(crate) fn name(number: u32) -> String {
    format!("node{number:05}")
}

/// Registers the names with these numbers, one after the other.
///
/// # Panics
///
/// When one is refused.
pub(crate) fn register(at: SocketAddr, numbers: Range<u32>) -> Vec<Registration> {
    let one = |number| {
        let stream = connect(at).and_then(|stream| register_on(stream, number));
        stream.unwrap_or_else(|error| panic!("registering name {number} at {at}: {error}"))
    };
    numbers.map(one).collect()
}

/// Registers one name on a connection (ALIVE2; see docs/protocol.md).
pub(crate) fn register_on(mut stream: TcpStream, number: u32) -> io::Result<Registration> {
    let name = name(number);
    let length = u16::try_from(name.len()).expect("a short name").to_be_bytes();
    let request = [b"x", &NODE[..], &length, name.as_bytes(), &[0, 0]].concat();
    stream.write_all(&framed(&request))?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer)?;
    match answer {
        [118, 0, ..] => Ok(Registration(stream)),
        _ => Err(io::Error::other(format!("answered {answer:?}"))),
    }
}

impl Registration {
    /// Whether the server still holds the connection, and said nothing on it.
    pub(crate) fn is_up(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket can be made to wait for nothing");
        matches!(self.0.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Ends the registrations and waits until the server knows.
pub(crate) fn forget(at: SocketAddr, held: Vec<Registration>) {
    drop(held);
    eventually("no name is left", PATIENCE, || match count(at) {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// How many names the server lists.
pub(crate) fn count(at: SocketAddr) -> io::Result<usize> {
    count_on(connect(at)?)
}

/// How many names the server lists, asked on this connection (NAMES).
pub(crate) fn count_on(mut stream: TcpStream) -> io::Result<usize> {
    stream.write_all(&framed(b"n"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.get(4..) {
        Some(lines) => Ok(lines.split(|byte| *byte == b'\n').count() - 1),
        None => Err(io::Error::other(format!("answered {answer:?}"))),
    }
}

/// The answer to a registration that succeeded (ALIVE2_X).
pub(crate) fn registered() -> Vec<u8> {
    vec![118, 0, 0, 0, 0, 4]
}

/// The answer to a lookup of a name that [`register_on`] has registered (PORT2).
pub(crate) fn found(name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("a short name").to_be_bytes();
    [&[119, 0], &NODE[..], &length, name, &[0, 0]].concat()
}

/// By a reset when it is dropped: otherwise its port would be taken for a minute.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
