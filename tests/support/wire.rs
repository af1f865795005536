//! Raw clients: bytes to epmd and to distribution ports, and how they took it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// What came until the other side ended the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// All that was received.
    pub bytes: Vec<u8>,
    /// How it ended.
    pub ended: Ended,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side closed in good order.
    Fin,
    /// The other side cut the connection.
    Reset,
    /// The other side still holds it: nothing came for as long as the stream's read timeout (20 s by
    /// default).
    TimedOut,
}

/// Sends one epmd request, which gets its length prefix here, and reads the answer to its end.
///
/// A refusal is an empty answer: who refuses may do so before it has read all, so errors of the write mean
/// nothing. [`read_to_close`] tells a reset from an end.
///
/// # Panics
///
/// When the request is longer than a length prefix can say, or when the other side does not close.
#[must_use]
#[track_caller]
pub fn ask(stream: &TcpStream, request: &[u8]) -> Vec<u8> {
    drop(send(stream, &framed(request)));
    let outcome = read_to_close(stream);
    assert_ne!(
        outcome.ended,
        Ended::TimedOut,
        "no end of the answer to {request:?}, so far: {:?}",
        outcome.bytes
    );
    outcome.bytes
}

/// A message with the two bytes of its length before it, as epmd and the distribution handshake want it.
///
/// # Panics
///
/// When it is longer than the prefix can say.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a frame has at most 65535 bytes");
    [&length.to_be_bytes(), message].concat()
}

/// Sends all bytes in one write.
///
/// # Errors
///
/// What the kernel said: a peer that has cut the connection shows here.
pub fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}

/// Sends byte by byte, each in a segment of its own, with a pause after each.
///
/// # Errors
///
/// What the kernel said: a peer that lost patience shows here.
pub fn send_slowly(mut stream: &TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for byte in bytes {
        stream.write_all(&[*byte])?;
        thread::sleep(pause);
    }
    Ok(())
}

/// Reads until the other side ends the stream, or until it is silent for the stream's read timeout.
///
/// # Panics
///
/// On an error that is neither a reset nor a timeout.
#[must_use]
#[track_caller]
pub fn read_to_close(mut stream: &TcpStream) -> Outcome {
    let mut bytes = Vec::new();
    // On an error `read_to_end` keeps what came before it.
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => Ended::Fin,
        Err(error) if is_one_of(&error, RESETS) => Ended::Reset,
        Err(error) if is_one_of(&error, TIMEOUTS) => Ended::TimedOut,
        Err(error) => panic!("reading to the end: {error}, after {bytes:?}"),
    };
    Outcome { bytes, ended }
}

/// What a reset looks like, depending on what the kernel was asked for when it came.
const RESETS: &[io::ErrorKind] = &[io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
/// What SO_RCVTIMEO looks like (socket(7)).
const TIMEOUTS: &[io::ErrorKind] = &[io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];

fn is_one_of(error: &io::Error, kinds: &[io::ErrorKind]) -> bool {
    kinds.contains(&error.kind())
}

/// Reads one message with a two-byte length prefix, and gives it without the prefix.
///
/// # Errors
///
/// `UnexpectedEof` when the stream ends first.
pub fn read_frame(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}
