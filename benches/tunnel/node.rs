//! What stands for a node behind whatever is measured, and the client that talks to it.
//!
//! A request is a number of bytes that follow and a number of bytes that are wanted, eight bytes each; the answer is
//! these, and one more at the end.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// One write, and one read: a fragment of a large message of a node has 64 KiB.
const PIECE: usize = 64 * 1024;
/// What a thread needs that has one piece on the heap.
const STACK: usize = 64 * 1024;
/// No answer takes so long: something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that serves until this process ends.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: SocketAddr,
}

impl Node {
    /// Listens on loopback, at a port that the kernel chooses.
    pub(crate) fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("making a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        socket.listen(4096).expect("a bound socket");
        let listener: TcpListener = socket.into();
        let at = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("there are descriptors");
                // Whoever goes is none of our business.
                let serve = move || serve(stream).unwrap_or_default();
                thread::Builder::new().stack_size(STACK).spawn(serve).expect("a thread");
            }
        });
        Self { at }
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 16];
    loop {
        stream.read_exact(&mut request)?;
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let (coming, wanted) = request.split_at(8);
        read(&mut stream, number(coming))?;
        write(&mut stream, number(wanted))?;
        stream.write_all(&[1])?;
    }
}

fn read(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        let mut piece = vec![0; PIECE];
        let mut left = usize::try_from(bytes).expect("64 bits");
        while left > 0 {
            let room = piece.get_mut(..left.min(PIECE)).expect("within it");
            match stream.read(room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => left -= count,
            }
        }
    }
    Ok(())
}

fn write(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        let piece = vec![7; PIECE];
        let mut left = usize::try_from(bytes).expect("64 bits");
        while left > 0 {
            let count = left.min(PIECE);
            stream.write_all(piece.get(..count).expect("within it"))?;
            left -= count;
        }
    }
    Ok(())
}

/// A link, from the client's end. A reset when it is dropped, so that no port waits for a minute.
#[derive(Debug)]
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn connect(at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&at.into())?;
        Ok(Self(socket.into()))
    }

    /// Sends so many bytes, and has so many sent.
    pub(crate) fn ask(&mut self, there: usize, back: usize) -> io::Result<()> {
        let mut request = [0; 16];
        let (coming, wanted) = request.split_at_mut(8);
        coming.copy_from_slice(&(there as u64).to_be_bytes());
        wanted.copy_from_slice(&(back as u64).to_be_bytes());
        self.0.write_all(&request)?;
        write(&mut self.0, there as u64)?;
        read(&mut self.0, back as u64 + 1)
    }
}
