//! A leg: one TLS connection between two guards, with frames in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::pool::Pool;
use super::shown::Shown;
use crate::proto::tunnel::flow::{Misplaced, OutsideReplay};
use crate::proto::tunnel::{
    AnswerBody, Answers, DEAD_AFTER, Event, Frame, Hello, Malformed, PING_EVERY, Parser, Refusal, Software,
};
use crate::transport::reply::reset;
use crate::transport::tls::{Block, Ending, Facts, Opened, Stage, TlsEnd, TlsFault};

/// What a HELLO says of this software.
const SOFTWARE: &str = concat!("epmd-guard ", env!("CARGO_PKG_VERSION"));

/// What does not need large memory: two records.
pub(super) const SHORT: usize = 32 * 1024;

/// One TLS connection. It is replaceable: a link outlives it.
#[derive(Debug)]
pub struct Leg {
    socket: TcpStream,
    tls: TlsEnd,
    parser: Parser,
    /// Records that have come and are not opened yet.
    input: Block,
    /// Records that are sealed and not sent yet.
    output: Block,
    pool: Pool,
    /// The certificate by which the other guard was found to be who it is.
    shown: Option<Shown>,
    /// When something came last, and when something was sealed last.
    heard: Instant,
    sealed: Instant,
}

/// Why a leg is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The other end closed it.
    #[error("the other guard closed it")]
    Closed,
    /// Its socket failed.
    #[error("its connection failed")]
    Failed(#[source] io::Error),
    /// Nothing came for too long.
    #[error("nothing came for {}", humantime::format_duration(DEAD_AFTER))]
    Silent,
    /// The records are not those of TLS, or the other end refuses ours.
    #[error("TLS")]
    Tls(#[from] TlsFault),
    /// What came is no frame.
    #[error("what came is not the tunnel's protocol")]
    Malformed(#[from] Malformed),
    /// What came does not belong there.
    #[error("{0}")]
    Unfit(&'static str),
    /// Bytes that do not fit those that came before.
    #[error("what came does not fit what came before")]
    Misplaced(#[from] Misplaced),
    /// An offset that cannot be.
    #[error("what came has an offset that cannot be")]
    Offset(#[from] OutsideReplay),
    /// The other guard says no.
    #[error("{}", refusal(*.code, .detail))]
    Refused {
        /// Why.
        code: Refusal,
        /// The same for people, escaped.
        detail: String,
    },
    /// The other end took too long.
    #[error("it took longer than {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// What the other guard has said, in words.
pub(super) fn refusal(code: Refusal, detail: &str) -> String {
    let code = code.label();
    match detail {
        "" => format!("the other guard refuses: {code}"),
        detail => format!("the other guard refuses: {code}: {detail}"),
    }
}

impl Lost {
    /// Why a leg came to nothing, as it stands in logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Tls(fault) => fault.label(),
            Self::Closed => "tunnel_closed",
            Self::Failed(_) => "tunnel_reset",
            Self::Silent | Self::TimedOut(_) => "tunnel_timeout",
            Self::Malformed(_) | Self::Unfit(_) | Self::Misplaced(_) | Self::Offset(_) => "tunnel_protocol",
            Self::Refused { .. } => "tunnel_refused",
        }
    }

    /// The reason, as it stands in logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed(_) => "reset",
            Self::Silent => "silent",
            Self::Tls(_) => "tls",
            Self::Malformed(_) | Self::Unfit(_) | Self::Misplaced(_) | Self::Offset(_) => "protocol",
            Self::Refused { .. } => "refused",
            Self::TimedOut(_) => "timeout",
        }
    }
}

impl Lost {
    /// Whether the other guard has said what it must not say, which ends the link as well; and what it is told.
    pub(super) fn breach(&self) -> Option<Refusal> {
        match self {
            // It is of a later version, and may do without.
            Self::Malformed(Malformed::Kind(_)) => Some(Refusal::Unsupported),
            Self::Malformed(_) | Self::Unfit(_) | Self::Misplaced(_) | Self::Offset(_) => {
                Some(Refusal::Protocol)
            }
            Self::Closed
            | Self::Failed(_)
            | Self::Silent
            | Self::Tls(_)
            | Self::Refused { .. }
            | Self::TimedOut(_) => None,
        }
    }
}

impl Leg {
    /// Makes the TLS handshake. Whoever calls has a deadline for it.
    ///
    /// # Errors
    /// The other end refuses, is refused, or goes.
    pub(super) async fn shake_hands(
        socket: TcpStream,
        tls: TlsEnd,
        answers: Answers,
        pool: &Pool,
    ) -> Result<Self, Lost> {
        // As the nodes do; a socket that is broken already cannot be set.
        socket.set_nodelay(true).unwrap_or_default();
        let now = Instant::now();
        let mut leg = Self {
            socket,
            tls,
            parser: Parser::new(answers),
            input: Block::default(),
            output: Block::default(),
            pool: pool.clone(),
            shown: None,
            heard: now,
            sealed: now,
        };
        let shaken = leg.complete_handshake().await;
        if let Err(lost) = shaken {
            // The alert that says why.
            leg.flush_now();
            return Err(lost);
        }
        Ok(leg)
    }

    async fn complete_handshake(&mut self) -> Result<(), Lost> {
        loop {
            let stage = self.tls.advance(&mut self.input, &mut self.output)?;
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            if stage == Stage::Ready {
                return Ok(());
            }
            std::future::poll_fn(|cx| self.poll_read(cx, usize::MAX)).await?;
        }
    }

    /// Until [`keep_in_order`](Self::keep_in_order) its close is a reset: what the kernel still has to send is thrown away,
    /// so that it does not arrive when nobody waits for the answer any more.
    pub(super) fn leave_nothing(&self) {
        reset(&self.socket);
    }

    /// Its close is in good order again.
    pub(super) fn keep_in_order(&self) {
        // One that is broken already cannot be set, and need not be.
        socket2::SockRef::from(&self.socket).set_linger(None).unwrap_or_default();
    }

    /// What the handshake has told.
    pub(super) fn facts(&self) -> Option<Facts<'_>> {
        self.tls.facts()
    }

    /// Keeps the certificate by which the other guard was found to be who it is.
    pub(super) fn know(&mut self, shown: Shown) {
        self.shown = Some(shown);
    }

    /// That certificate.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.shown.clone()
    }

    /// Queues a frame. Where there is no room, the leg is stuck for long, and is lost.
    pub(super) fn say(&mut self, frame: &Frame<'_>) -> Result<(), Lost> {
        let mut plain = Vec::with_capacity(64);
        frame.encode_into(&mut plain);
        self.seal(&plain)
    }

    /// Queues the first frame of each leg.
    pub(super) fn say_hello(&mut self) -> Result<(), Lost> {
        self.say(&Frame::Hello(Hello { capabilities: 0, software: Software::cut(SOFTWARE) }))
    }

    /// Queues whole frames as they lie there.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<(), Lost> {
        if plain.len() > SHORT {
            self.pool.lend(&mut self.output);
        }
        self.tls.seal(plain, &mut self.output)?;
        self.sealed = Instant::now();
        Ok(())
    }

    /// Whether half a MiB more can be queued without more memory.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < SHORT
    }

    /// Whether all that was queued is in the kernel's hands.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends what is queued. Where that cannot be done any more, the other guard may have said why before it closed.
    pub(super) fn poll_flush_or_hear(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Event<'_>) -> Result<(), Lost>,
    ) -> Poll<Result<(), Lost>> {
        let Err(lost) = ready!(self.poll_flush(cx)) else { return Poll::Ready(Ok(())) };
        loop {
            match self.poll_receive(cx, &mut take) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(said @ Lost::Refused { .. })) => return Poll::Ready(Err(said)),
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(Err(lost)),
            }
        }
    }

    /// Sends what is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, self.output.filled()));
            self.output.consume(written.map_err(Lost::Failed)?);
        }
        self.pool.take_back(&mut self.output);
        Poll::Ready(Ok(()))
    }

    /// Sends what the kernel takes at once of what is queued.
    pub(super) fn flush_now(&mut self) {
        while !self.output.is_empty() {
            match self.socket.try_write(self.output.filled()) {
                Ok(written) => self.output.consume(written),
                // What it means is found when it is polled.
                Err(_) => return,
            }
        }
        self.pool.take_back(&mut self.output);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<(), Lost>> {
        let room = self.input.room();
        let most = room.len().min(most);
        let mut room = ReadBuf::new(room.get_mut(..most).unwrap_or_default());
        if room.remaining() == 0 {
            return Poll::Ready(Err(Lost::Unfit("a record that does not end")));
        }
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room)).map_err(Lost::Failed)?;
        let count = room.filled().len();
        if count == 0 {
            return Poll::Ready(Err(Lost::Closed));
        }
        self.input.fill(count);
        self.heard = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Reads what is there and hands over what it says, in its order.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Event<'_>) -> Result<(), Lost>,
    ) -> Poll<Result<(), Lost>> {
        self.poll_receive_some(cx, usize::MAX, &mut take)
    }

    /// The same, but reads so many bytes at most.
    pub(super) fn poll_receive_some(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(Event<'_>) -> Result<(), Lost>,
    ) -> Poll<Result<(), Lost>> {
        self.pool.lend(&mut self.input);
        // What is left of a record comes to the front, so that the largest read has room behind it.
        self.input.reserve(self.input.capacity() - self.input.len());
        let read = self.poll_read(cx, most);
        if read.is_pending() {
            // A part of a record may have to wait for long.
            self.pool.take_all_but(&mut self.input, SHORT);
        }
        ready!(read)?;
        Poll::Ready(self.open(&mut take))
    }

    /// What came together with the end of the handshake.
    pub(super) fn open(&mut self, take: &mut impl FnMut(Event<'_>) -> Result<(), Lost>) -> Result<(), Lost> {
        let Self { tls, input, output, parser, .. } = self;
        let mut fault = None;
        let opened = tls.open(input.filled_mut(), |plain| {
            let mut rest = plain;
            while fault.is_none() && !rest.is_empty() {
                match parser.feed(rest) {
                    Ok((count, event)) => {
                        rest = rest.get(count..).unwrap_or_default();
                        fault = event.and_then(|event| take(event).err());
                    }
                    Err(malformed) => fault = Some(malformed.into()),
                }
            }
        });
        tls.flush(output);
        let Opened { discard, ending } = opened?;
        input.consume(discard);
        self.pool.take_back(input);
        match (fault, ending) {
            (Some(fault), _) => Err(fault),
            (None, Ending::Closed) => Err(Lost::Closed),
            (None, Ending::Open) => Ok(()),
        }
    }

    /// When the next PING is due.
    pub(super) fn ping_at(&self) -> Instant {
        self.sealed + PING_EVERY
    }

    /// When it is dead if nothing comes, as long as it is read.
    pub(super) fn dead_at(&self) -> Instant {
        self.heard + DEAD_AFTER
    }

    /// It was not read for a while; that it is silent counts from now on.
    pub(super) fn hear_again(&mut self) {
        self.heard = Instant::now();
    }

    /// Ends it in good order: what is queued leaves, if the kernel takes it.
    pub(super) fn close(mut self) {
        // Where it cannot be said any more, the close says it.
        self.tls.close(&mut self.output).unwrap_or_default();
        self.flush_now();
    }
}

impl Leg {
    /// Says PING where it is due, and tells when to ask again.
    pub(super) fn keep(&mut self) -> Result<Instant, Lost> {
        let now = Instant::now();
        if self.dead_at() <= now {
            return Err(Lost::Silent);
        }
        if self.ping_at() <= now {
            self.say(&Frame::Ping)?;
        }
        Ok(self.ping_at().min(self.dead_at()))
    }

    /// Queues an answer of epmd; one that is too long for a frame is none.
    pub(super) fn answer(&mut self, id: u32, reply: Vec<u8>) -> Result<(), Lost> {
        let reply = AnswerBody::new(reply).or_else(|| AnswerBody::new(Vec::new()));
        let Some(reply) = reply else { return Ok(()) };
        self.say(&Frame::Answer { id, reply })
    }
}
