//! The single steps of rustls' unbuffered interface, the same for both sides.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedConnectionCommon, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};

use super::block::Block;
use super::end::RECORD;
use super::fault::TlsFault;

/// Bytes of a record's header: type, version, and the length of what follows (RFC 8446 section 5.1).
const HEADER: usize = 5;
/// What rustls takes for the length of a record at most.
const LARGEST: usize = RECORD + 2048;
/// The types of records (RFC 8446 section 5.1), from change_cipher_spec to heartbeat.
const TYPES: std::ops::RangeInclusive<u8> = 20..=24;

/// What a step has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more to do.
    Again,
    /// There is nothing more to do with what came.
    Waiting,
    /// The other side has closed its half.
    Closed,
}

/// What both kinds of connections do.
pub(super) trait Records {
    /// One step with what came: how much of it is done with, and what it has led to.
    fn step(
        &mut self,
        incoming: &mut [u8],
        send: &mut Block,
        each: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, Error>);

    /// Seals all of `plain`.
    fn write(&mut self, plain: &[u8], outgoing: &mut Block) -> Result<(), TlsFault>;

    /// Seals a close_notify.
    fn close(&mut self, outgoing: &mut Block) -> Result<(), TlsFault>;

    /// Whether something is to be sent.
    fn wants_send(&self) -> bool;
}

/// Takes what is to be sent from a connection that has failed. It looks at nothing more that came: as long as
/// something is to be sent, a step is just that.
pub(super) fn flush(connection: &mut dyn Records, outgoing: &mut Block) {
    while connection.wants_send() {
        let (_, step) = connection.step(&mut [], outgoing, &mut |_| {});
        if step != Ok(Step::Again) {
            return;
        }
    }
}

/// The length of the first record, if it is whole; 0 if it is not. What is no record counts as a whole one with all that
/// came: rustls is to say what is wrong with it, and nobody waits for the rest.
pub(super) fn first(bytes: &[u8]) -> usize {
    let Some([kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else { return 0 };
    let payload = usize::from(u16::from_be_bytes([*high, *low]));
    match HEADER + payload {
        _ if payload > LARGEST || !TYPES.contains(kind) || *major != 3 => bytes.len(),
        whole if whole <= bytes.len() => whole,
        _ => 0,
    }
}

/// The length of all records at the front that are whole.
pub(super) fn whole(bytes: &[u8]) -> usize {
    let mut length = 0;
    while let Some(rest) = bytes.get(length..)
        && let record @ 1.. = first(rest)
    {
        length += record;
    }
    length
}

/// The part that rustls has twice, under the same name.
trait Process {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        let connection: &mut UnbufferedConnectionCommon<Self::Data> = self;
        connection.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        let connection: &mut UnbufferedConnectionCommon<Self::Data> = self;
        connection.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl<C: Process> Records for C {
    fn step(
        &mut self,
        incoming: &mut [u8],
        send: &mut Block,
        each: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, Error>) {
        let UnbufferedStatus { mut discard, state } = self.process(incoming);
        let step = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::ReadTraffic(mut records)) => loop {
                match records.next_record() {
                    None => break Ok(Step::Again),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        each(record.payload);
                    }
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, send),
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                // What is outgoing keeps its order, so it counts as sent.
                sent.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Waiting),
            Ok(ConnectionState::ReadEarlyData(_)) => {
                Err(Error::General("0-RTT is never accepted".to_owned()))
            }
            Ok(_) => Err(Error::General("a state that this program does not know".to_owned())),
        };
        (discard, step)
    }

    fn write(&mut self, plain: &[u8], outgoing: &mut Block) -> Result<(), TlsFault> {
        produce(self, outgoing, |traffic, room| traffic.encrypt(plain, room))
    }

    fn close(&mut self, outgoing: &mut Block) -> Result<(), TlsFault> {
        produce(self, outgoing, |traffic, room| traffic.queue_close_notify(room))
    }

    fn wants_send(&self) -> bool {
        self.common().wants_write()
    }
}

fn encode<D>(message: &mut EncodeTlsData<'_, D>, send: &mut Block) -> Result<Step, Error> {
    loop {
        match message.encode(send.room()) {
            Ok(written) => {
                send.fill(written);
                return Ok(Step::Again);
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                send.reserve(required_size);
            }
            Err(error @ EncodeError::AlreadyEncoded) => return Err(Error::General(error.to_string())),
        }
    }
}

/// Lets rustls write into the room of `outgoing`, once it is ready for it.
#[allow(clippy::wildcard_enum_match_arm, reason = "in every other state nothing can be written")]
fn produce<C: Process>(
    connection: &mut C,
    outgoing: &mut Block,
    mut write: impl FnMut(&mut WriteTraffic<'_, C::Data>, &mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsFault> {
    loop {
        let UnbufferedStatus { state, .. } = connection.process(&mut []);
        match state.map_err(TlsFault::of)? {
            ConnectionState::WriteTraffic(mut traffic) => match write(&mut traffic, outgoing.room()) {
                Ok(written) => {
                    outgoing.fill(written);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    outgoing.reserve(required_size);
                }
                Err(EncryptError::EncryptExhausted) => {
                    return Err(TlsFault::Ours("the keys are used up".to_owned()));
                }
            },
            ConnectionState::EncodeTlsData(mut message) => {
                encode(&mut message, outgoing).map_err(TlsFault::of)?;
            }
            ConnectionState::TransmitTlsData(sent) => sent.done(),
            ConnectionState::PeerClosed => {}
            ConnectionState::BlockedHandshake => {
                return Err(TlsFault::Ours("the handshake is not done".to_owned()));
            }
            _ => return Err(TlsFault::Closed),
        }
    }
}
