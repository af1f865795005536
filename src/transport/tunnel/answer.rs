//! The side that was dialled: a leg's handshake, and what it is for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, ready};

use rustls::ServerConfig;
use tokio::net::TcpStream;

use super::leg::{Leg, Lost};
use super::link::{Grant, LinkState};
use super::renew::{Renewal, Resumption};
use super::shown::Shown;
use super::tunnelled::Tunnelled;
use super::tunnels::{Rejected, Tunnels};
use crate::proto::tunnel::flow::Outgoing;
use crate::proto::tunnel::{Answers, Detail, Event, Frame, LinkId, Open, Refusal};
use crate::transport::tls::{Facts, TlsEnd};
use crate::transport::wire::Wire;

/// A leg that a peer has dialled, and that has not said yet what it is for.
#[derive(Debug)]
pub struct Dialled {
    leg: Leg,
}

/// What a leg is for.
#[derive(Debug)]
pub enum Wish {
    /// A link.
    Open(Box<Opening>),
    /// A link that has lost its leg.
    Resume(Box<Resuming>),
    /// Questions to epmd.
    Ask(Box<Asked>),
}

/// A link that is wished for.
#[derive(Debug)]
pub struct Opening {
    leg: Leg,
    link: LinkState,
    /// What it is to lead to.
    pub open: Open,
}

/// A link that is to go on.
#[derive(Debug)]
pub struct Resuming {
    leg: Leg,
    /// Which.
    pub link: LinkId,
    received: u64,
}

/// A leg of questions.
#[derive(Debug)]
pub struct Asked {
    leg: Leg,
    /// Those that have come already, with their numbers.
    waiting: VecDeque<(u32, Vec<u8>)>,
}

/// What has been heard before it is known what the leg is for, and right behind that.
#[derive(Debug, Default)]
enum Heard {
    #[default]
    Nothing,
    Open(Open, Box<LinkState>),
    Resume(LinkId, u64),
    Asks(Vec<(u32, Vec<u8>)>),
}

impl Dialled {
    /// Makes the TLS handshake. Whoever calls has a deadline for it.
    ///
    /// # Errors
    /// It came to nothing.
    pub async fn shake_hands(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        tunnels: &Tunnels,
    ) -> Result<Self, Lost> {
        let tls = TlsEnd::server(config)?;
        let leg = Leg::shake_hands(socket, tls, Answers::Refused, &tunnels.pool).await?;
        Ok(Self { leg })
    }

    /// What the handshake has told.
    #[must_use]
    pub fn facts(&self) -> Option<Facts<'_>> {
        self.leg.facts()
    }

    /// Keeps the certificate that was found good, for as long as what comes of the leg lasts.
    pub fn know(&mut self, shown: Shown) {
        self.leg.know(shown);
    }

    /// Says no, and why.
    pub fn refuse(self, code: Refusal, detail: &str) {
        refuse_first(self.leg, code, detail);
    }

    /// Reads what the leg is for, and greets.
    ///
    /// # Errors
    /// It does not say, or something else.
    pub async fn hear(mut self, tunnels: &Tunnels, replay: usize) -> Result<Wish, Lost> {
        let mut heard = Heard::default();
        // What came with the end of the handshake comes first: it may be that the other guard refuses ours, and has closed.
        let begun = self.leg.open(&mut |event| heard.take(event, tunnels, replay));
        let begun = begun.and(self.leg.say_hello());
        let leg = &mut self.leg;
        let hearing = std::future::poll_fn(|cx| {
            loop {
                // Whoever refuses our certificate may have closed behind its word.
                let flushed = leg.poll_flush_or_hear(cx, |event| heard.take(event, tunnels, replay));
                if let Poll::Ready(Err(lost)) = flushed {
                    return Poll::Ready(Err(lost));
                }
                if !matches!(heard, Heard::Nothing) {
                    return Poll::Ready(Ok(()));
                }
                ready!(leg.poll_receive(cx, |event| heard.take(event, tunnels, replay)))?;
            }
        });
        let listened = match begun {
            Ok(()) => hearing.await,
            Err(lost) => Err(lost),
        };
        let leg = self.leg;
        if let Err(lost) = listened {
            if let Some(code) = lost.breach() {
                refuse(leg, code, lost.label());
            }
            return Err(lost);
        }
        Ok(match heard {
            Heard::Nothing => return Err(Lost::Unfit("a leg that is for nothing")),
            Heard::Open(open, link) => Wish::Open(Box::new(Opening { leg, link: *link, open })),
            Heard::Resume(link, received) => Wish::Resume(Box::new(Resuming { leg, link, received })),
            Heard::Asks(waiting) => Wish::Ask(Box::new(Asked { leg, waiting: waiting.into() })),
        })
    }
}

impl Heard {
    fn take(&mut self, event: Event<'_>, tunnels: &Tunnels, replay: usize) -> Result<(), Lost> {
        match (self, event) {
            (_, Event::Frame(Frame::Ping | Frame::Hello(_))) => Ok(()),
            (heard @ Self::Nothing, Event::Frame(Frame::Open(open))) => {
                let outgoing = Outgoing::new(tunnels.replay.clone(), replay);
                let link =
                    LinkState::new(open.link, Grant::Given, outgoing, (&tunnels.pool, &tunnels.replay));
                *heard = Self::Open(open, Box::new(link));
                Ok(())
            }
            (Self::Open(_, link), event) => link.take(event),
            (heard @ Self::Nothing, Event::Frame(Frame::Resume { link, received })) => {
                *heard = Self::Resume(link, received);
                Ok(())
            }
            (heard @ Self::Nothing, Event::Frame(Frame::Ask { id, request })) => {
                *heard = Self::Asks(vec![(id, request.into_vec())]);
                Ok(())
            }
            // All that wait are asked again at once on a fresh leg. No more is read than one read brings.
            (Self::Asks(asks), Event::Frame(Frame::Ask { id, request })) => {
                asks.push((id, request.into_vec()));
                Ok(())
            }
            (_, Event::Frame(Frame::Refused { code, detail })) => {
                Err(Lost::Refused { code, detail: detail.to_string() })
            }
            (Self::Nothing | Self::Resume(..) | Self::Asks(_), _) => {
                Err(Lost::Unfit("a frame that does not belong to the beginning of a leg"))
            }
        }
    }
}

impl Opening {
    /// Grants it: an end of the link, to be read.
    ///
    /// # Errors
    /// The leg is broken already.
    pub fn grant(self, renewal: Renewal) -> Result<Wire, Lost> {
        let Self { mut leg, link, .. } = self;
        leg.say(&Frame::Opened)?;
        leg.flush_now();
        Ok(Wire::Tunnel(Box::new(Tunnelled::new(leg, link, renewal))))
    }

    /// Says no, and why.
    pub fn refuse(self, code: Refusal, detail: &str) {
        refuse(self.leg, code, detail);
    }
}

impl Resuming {
    /// Says no, and why.
    pub fn refuse(self, code: Refusal, detail: &str) {
        refuse(self.leg, code, detail);
    }

    /// Gives the link this leg; the link itself says how much it has received. Where there is none of this peer's, the other
    /// guard is told so.
    ///
    /// # Errors
    /// There is no such link, or it has more legs than it has come to.
    pub fn resume(self, peer: &str, tunnels: &Tunnels) -> Result<(), Refusal> {
        let Self { leg, link, received } = self;
        let resumption = Resumption { leg, received, early: Vec::new(), answer: true };
        tunnels.resume(link, peer, resumption).map_err(|rejected| {
            let Rejected { resumption, code } = *rejected;
            refuse(resumption.leg, code, "");
            code
        })
    }
}

impl Asked {
    /// Says no, and why.
    pub fn refuse(self, code: Refusal, detail: &str) {
        refuse(self.leg, code, detail);
    }

    /// The next question. Cancel-safe.
    ///
    /// # Errors
    /// The leg is over.
    pub async fn next(&mut self) -> Result<(u32, Vec<u8>), Lost> {
        let Self { leg, waiting } = self;
        std::future::poll_fn(|cx| {
            loop {
                match leg.poll_flush(cx) {
                    Poll::Ready(Err(lost)) => return Poll::Ready(Err(lost)),
                    // Whoever does not take the answers is not asked for more questions.
                    Poll::Pending if !leg.has_room() => return Poll::Pending,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                if let Some(question) = waiting.pop_front() {
                    return Poll::Ready(Ok(question));
                }
                let received = leg.poll_receive(cx, |event| match event {
                    Event::Frame(Frame::Ask { id, request }) => {
                        waiting.push_back((id, request.into_vec()));
                        Ok(())
                    }
                    Event::Frame(Frame::Ping) => Ok(()),
                    Event::Frame(Frame::Refused { code, detail }) => {
                        Err(Lost::Refused { code, detail: detail.to_string() })
                    }
                    Event::Frame(_) | Event::Data { .. } => {
                        Err(Lost::Unfit("something else than a question"))
                    }
                });
                match received {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(lost)) => return Poll::Ready(Err(lost)),
                    Poll::Ready(Ok(())) => {}
                }
            }
        })
        .await
    }

    /// Says that the leg lives, and tells when to say so again; an error where nothing has been heard for too long.
    ///
    /// # Errors
    /// The leg is over.
    pub fn keep(&mut self) -> Result<tokio::time::Instant, Lost> {
        self.leg.keep()
    }

    /// Whether another answer may be queued: those before have mostly left.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.leg.has_room()
    }

    /// Sends what is queued. Cancel-safe.
    ///
    /// # Errors
    /// The leg is over.
    pub async fn flush(&mut self) -> Result<(), Lost> {
        std::future::poll_fn(|cx| self.leg.poll_flush(cx)).await
    }

    /// Queues an answer; it leaves while the next question is waited for.
    ///
    /// # Errors
    /// The leg is over.
    pub fn answer(&mut self, id: u32, reply: Vec<u8>) -> Result<(), Lost> {
        self.leg.answer(id, reply)
    }
}

/// The same on a leg on which nothing has been said yet.
pub(super) fn refuse_first(mut leg: Leg, code: Refusal, detail: &str) {
    leg.say_hello().unwrap_or_default();
    refuse(leg, code, detail);
}

pub(super) fn refuse(mut leg: Leg, code: Refusal, detail: &str) {
    // Where it cannot be said any more, the close says it.
    leg.say(&Frame::Refused { code, detail: Detail::cut(detail.to_owned()) }).unwrap_or_default();
    leg.close();
}
