//! One end of a TLS connection: bytes in, bytes out, and no socket.
//!
//! The only place that drives rustls, by its unbuffered interface: a caller's whole buffer is sealed in one call, and
//! all records of another are opened in one. Never reads, writes or waits. `records` takes the single steps.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ServerConfig};

use super::block::Block;
use super::fault::TlsFault;
use super::records::{self, Records, Step};

/// Bytes of a handshake that may wait for their end. rustls takes no message above 64 KiB, and a chain of
/// certificates has a few.
const LONGEST_FLIGHT: usize = 64 * 1024;
/// Room for what comes next in a handshake: a hello or a flight with a chain fits.
const FLIGHT: usize = 4 * 1024;
/// The largest payload of one record (RFC 8446 section 5.1).
pub const RECORD: usize = 16 * 1024;
/// What a record has more on the wire than in it: its header, the type within, and the tag (RFC 8446 section 5.2).
pub const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// Room beside the records for what rustls has to say itself: a KeyUpdate or an alert.
const ASIDE: usize = 128;

/// How far a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// What is outgoing is to be sent, and more is to be read.
    Handshaking,
    /// It is done. What is outgoing is to be sent, and what is incoming is for [`TlsEnd::open`].
    Ready,
}

/// What [`TlsEnd::open`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Bytes from the front of the input that are done with. What is behind them must come again, with more.
    pub discard: usize,
    /// Whether the other side will send nothing more (close_notify).
    pub ending: Ending,
}

/// Whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Yes.
    Open,
    /// The other side has closed its half, as TLS does. What is behind counts for nothing.
    Closed,
}

/// What the two sides have agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The protocol within (ALPN): one of ours.
    pub alpn: &'a [u8],
    /// The other side's certificates, its own first. After a resumption those of the first handshake.
    pub chain: &'a [CertificateDer<'static>],
    /// How the keys were agreed on, such as `X25519MLKEM768`.
    pub group: &'static str,
    /// What seals, such as `TLS13_AES_128_GCM_SHA256`.
    pub suite: &'static str,
    /// Whether an earlier session was resumed: nobody has looked at a certificate then.
    pub resumed: bool,
}

/// One end of a TLS connection.
pub struct TlsEnd {
    connection: Connection,
    /// Bytes at the front of a handshake's input that rustls knows and wants to see again.
    held: usize,
    /// Data that came with the last message of the handshake. It comes out first.
    early: Vec<u8>,
    /// What rustls wants to send. It goes out before anything that is sealed from now on.
    pending: Block,
    /// Whether the other side has closed its half.
    ending: Ending,
    life: Life,
}

/// How far a connection is. Beside the handshake and behind a fault, rustls may hold on to bytes that came, and must not
/// be asked for anything without them: it would panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Handshaking,
    Up,
    Failed,
}

enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

impl Connection {
    fn records(&mut self) -> &mut dyn Records {
        match self {
            Self::Client(client) => client.as_mut(),
            Self::Server(server) => server.as_mut(),
        }
    }

    fn state(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// What is unreadable before anything was read is no TLS.
    fn fault(&self, error: Error) -> TlsFault {
        let is_unreadable = matches!(error, Error::InvalidMessage(_));
        let nothing_was_read = self.state().protocol_version().is_none();
        if is_unreadable && nothing_was_read { TlsFault::NotTls } else { TlsFault::of(error) }
    }
}

impl TlsEnd {
    /// The end that has dialled.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(config: Arc<ClientConfig>) -> Result<Self, TlsFault> {
        // rustls wants a name. It is neither sent nor compared: a certificate is compared with those of the peer.
        let name = ServerName::try_from("epmd-guard.invalid").map_err(|e| TlsFault::Ours(e.to_string()))?;
        let client = UnbufferedClientConnection::new(config, name).map_err(TlsFault::of)?;
        Ok(Self::of(Connection::Client(Box::new(client))))
    }

    /// The end that was dialled.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsFault> {
        let server = UnbufferedServerConnection::new(config).map_err(TlsFault::of)?;
        Ok(Self::of(Connection::Server(Box::new(server))))
    }

    fn of(connection: Connection) -> Self {
        let (early, pending) = (Vec::new(), Block::default());
        Self { connection, held: 0, early, pending, ending: Ending::Open, life: Life::Handshaking }
    }

    /// Goes on with the handshake: takes what is incoming, puts what is to be sent behind what is outgoing, and sees
    /// to it that `incoming` has room for more. The first call of a client needs nothing incoming.
    ///
    /// # Errors
    /// The handshake has failed. What is outgoing may hold an alert that tells the other side why.
    pub fn advance(&mut self, incoming: &mut Block, outgoing: &mut Block) -> Result<Stage, TlsFault> {
        match self.life {
            Life::Handshaking => {}
            Life::Up => return Ok(Stage::Ready),
            Life::Failed => return Err(TlsFault::Closed),
        }
        let stage = self.take_flight(incoming, outgoing);
        if stage.is_err() {
            self.life = Life::Failed;
            records::flush(self.connection.records(), outgoing);
        }
        stage
    }

    fn take_flight(&mut self, incoming: &mut Block, outgoing: &mut Block) -> Result<Stage, TlsFault> {
        let early = &mut self.early;
        let mut whole = self.held + records::whole(incoming.filled().get(self.held..).unwrap_or_default());
        loop {
            let known = incoming.filled_mut().get_mut(..whole).unwrap_or_default();
            let (discard, step) =
                self.connection.records().step(known, outgoing, &mut |data| early.extend_from_slice(data));
            incoming.consume(discard);
            whole = whole.saturating_sub(discard);
            match step.map_err(|error| self.connection.fault(error))? {
                Step::Again => {}
                Step::Waiting => break,
                // It may close right behind its first words, which count.
                Step::Closed if !self.connection.state().is_handshaking() => {
                    self.ending = Ending::Closed;
                    break;
                }
                Step::Closed => return Err(TlsFault::Closed),
            }
        }
        self.held = whole;
        if self.connection.state().is_handshaking() {
            if incoming.len() >= LONGEST_FLIGHT {
                return Err(TlsFault::TooLong);
            }
            incoming.reserve(FLIGHT);
            return Ok(Stage::Handshaking);
        }
        if self.held > 0 {
            return Err(in_pieces());
        }
        self.life = Life::Up;
        if self.connection.state().alpn_protocol().is_none() {
            self.close(outgoing)?;
            return Err(TlsFault::Protocol);
        }
        Ok(Stage::Ready)
    }

    /// Seals all of `plain` behind what is in `outgoing`, in records of 16 KiB, and what was pending before it.
    /// [`sealed_len`] tells the room that it takes; where there is less, the block grows.
    ///
    /// # Errors
    /// The handshake is not done, or the connection has failed or was closed.
    pub fn seal(&mut self, plain: &[u8], outgoing: &mut Block) -> Result<(), TlsFault> {
        self.flush(outgoing);
        self.is_up()?;
        outgoing.reserve(sealed_len(plain.len()));
        self.connection.records().write(plain, outgoing)
    }

    /// Opens all whole records of `incoming`, in place, and shows what is in them to `each`, in order.
    ///
    /// # Errors
    /// What came cannot be opened, or the other side has sent an alert. What was shown before is good.
    /// [`TlsEnd::flush`] may have an alert for the other side.
    pub fn open(&mut self, incoming: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<Opened, TlsFault> {
        self.is_up()?;
        if !self.early.is_empty() {
            each(&self.early);
            self.early = Vec::new();
        }
        let mut discard = 0;
        while self.ending == Ending::Open
            && let Some(rest) = incoming.get_mut(discard..)
            && let length @ 1.. = records::first(rest)
        {
            let record = rest.get_mut(..length).unwrap_or_default();
            if let Err(fault) = self.open_record(record, &mut each) {
                self.life = Life::Failed;
                records::flush(self.connection.records(), &mut self.pending);
                return Err(fault);
            }
            discard += length;
        }
        Ok(Opened { discard, ending: self.ending })
    }

    /// One record alone, so that rustls never holds on to bytes that are the caller's: a message in several records
    /// is refused. Nobody sends one after the handshake, where messages have a few hundred bytes.
    fn open_record(&mut self, record: &mut [u8], each: &mut dyn FnMut(&[u8])) -> Result<(), TlsFault> {
        let mut done = 0;
        loop {
            let rest = record.get_mut(done..).unwrap_or_default();
            let (discard, step) = self.connection.records().step(rest, &mut self.pending, each);
            done += discard;
            match step.map_err(TlsFault::of)? {
                Step::Again => {}
                Step::Waiting if done >= record.len() => return Ok(()),
                Step::Waiting => return Err(in_pieces()),
                Step::Closed => {
                    self.ending = Ending::Closed;
                    return Ok(());
                }
            }
        }
    }

    /// Whether rustls wants to send something of its own, such as an alert.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Puts what rustls wants to send behind what is in `outgoing`. [`TlsEnd::seal`] does it by itself.
    pub fn flush(&mut self, outgoing: &mut Block) {
        if !self.pending.is_empty() {
            outgoing.append(self.pending.filled());
            self.pending = Block::default();
        }
    }

    /// Says that nothing more comes from this side (close_notify).
    ///
    /// # Errors
    /// The handshake is not done, or the connection has failed.
    pub fn close(&mut self, outgoing: &mut Block) -> Result<(), TlsFault> {
        self.flush(outgoing);
        self.is_up()?;
        outgoing.reserve(ASIDE);
        self.connection.records().close(outgoing)
    }

    fn is_up(&self) -> Result<(), TlsFault> {
        match self.life {
            Life::Handshaking => Err(TlsFault::Ours("the handshake is not done".to_owned())),
            Life::Up => Ok(()),
            Life::Failed => Err(TlsFault::Closed),
        }
    }

    /// What was agreed on; `None` before the handshake is done.
    #[must_use]
    pub fn facts(&self) -> Option<Facts<'_>> {
        let state = self.connection.state();
        if state.is_handshaking() {
            return None;
        }
        let group = state.negotiated_key_exchange_group()?.name();
        let suite = state.negotiated_cipher_suite()?.suite();
        Some(Facts {
            alpn: state.alpn_protocol()?,
            chain: state.peer_certificates().unwrap_or_default(),
            group: group.as_str().unwrap_or("unknown"),
            suite: suite.as_str().unwrap_or("unknown"),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

impl fmt::Debug for TlsEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsEnd")
            .field("facts", &self.facts())
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

fn in_pieces() -> TlsFault {
    TlsFault::Misbehaved("a message after the handshake comes in pieces".to_owned())
}

/// The room that [`TlsEnd::seal`] takes for so many bytes.
#[must_use]
pub const fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(RECORD) * RECORD_OVERHEAD + ASIDE
}
