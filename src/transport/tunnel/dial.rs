//! The side that dials: a leg to the guard of a peer, and what it is for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::answer::refuse_first;
use super::leg::{Leg, Lost};
use super::link::{Grant, LinkState};
use super::names::Names;
use super::renew::{Early, Redial, Renewal, ResumeError, Resumption};
use super::shown::Shown;
use super::tunnelled::Tunnelled;
use super::tunnels::Tunnels;
use crate::config::{Connect, ConnectTo};
use crate::policy::{IdentityRules, NoIdentity, PeerId, TlsMode};
use crate::proto::tunnel::flow::Outgoing;
use crate::proto::tunnel::{Answers, AskBody, Event, Frame, Kind, LinkId, Open, Refusal};
use crate::transport::dialer::connect;
use crate::transport::tls::{CertFault, Credentials, TlsEnd, UnixTime, Usage};
use crate::transport::wire::Wire;

/// What one address gets in any case, however many there are.
const SHORTEST_TRY: Duration = Duration::from_millis(500);

/// The way to the guard of one peer, by one configuration.
#[derive(Debug, Clone)]
pub struct Way {
    /// Which `[[peer]]` it is, and its name.
    pub id: PeerId,
    /// The same.
    pub peer: Arc<str>,
    /// How traffic with it is carried.
    pub mode: TlsMode,
    /// Where its guard is, in the order in which it is tried.
    pub connect: Vec<Connect>,
    /// Answers of the resolver that are not taken: they stand for peers here, and would lead back to us.
    pub aliases: Arc<[IpAddr]>,
    /// The port of its epmd, where that is asked plain: that of ours.
    pub epmd: u16,
}

/// By what legs are made.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Our certificate, and what others are checked by.
    pub credentials: Arc<Credentials>,
    /// Whose certificate is whose.
    pub identities: Arc<IdentityRules>,
}

/// What a link is to be.
pub struct Wanted {
    /// What it will carry.
    pub kind: Kind,
    /// The node's end of the connection that it is for.
    pub source: SocketAddr,
    /// Our number of that.
    pub trace: u64,
    /// How another leg is got when it has lost its own.
    pub redial: Redial,
    /// Bytes that it may keep until the other guard has them.
    pub replay: usize,
}

/// Why there is no leg.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    /// `[[peer]] connect` is missing, or all that its names lead to is not taken.
    #[error("there is no address to dial: {0}")]
    NoAddress(String),
    /// Nobody takes connections there.
    #[error("connecting to {addr}")]
    Connect {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing came of it in time.
    #[error("{addr} did not answer within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// The address.
        addr: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
    /// We have no certificate.
    #[error("[tls] has no certificate, and this peer is reached by a tunnel alone")]
    NoCredentials,
    /// The handshake came to nothing.
    #[error("the tunnel to {addr}")]
    Leg {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: Lost,
    },
    /// The certificate there is not good any more.
    #[error("the certificate of {addr}: {fault}")]
    Certificate {
        /// The address.
        addr: SocketAddr,
        /// Why.
        fault: CertFault,
    },
    /// The certificate there is somebody else's.
    #[error(
        "the certificate of {addr} is good, but not that of this peer: it is for {names}, and [[peer]] identity and hosts have none of these"
    )]
    Identity {
        /// The address.
        addr: SocketAddr,
        /// Whose it is.
        names: String,
    },
}

impl LegError {
    /// Whether one of the two guards says no to the other one.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Certificate { .. } | Self::Identity { .. } => true,
            Self::Leg { source, .. } => matches!(source, Lost::Tls(_) | Lost::Refused { .. }),
            Self::NoAddress(_) | Self::Connect { .. } | Self::TimedOut { .. } | Self::NoCredentials => false,
        }
    }

    /// Why the two guards do not come together, as it stands in logs and metrics; `None`: the other one is not reached at all.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Certificate { fault, .. } => Some(fault.label()),
            Self::Identity { .. } => Some("wrong_identity"),
            Self::Leg { source, .. } => Some(source.reason()),
            Self::NoAddress(_) | Self::Connect { .. } | Self::TimedOut { .. } | Self::NoCredentials => None,
        }
    }

    /// Whether there is no guard: nobody listens at its port.
    #[must_use]
    pub fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Way {
    /// The addresses of the peer, each with the port of its guard.
    ///
    /// # Errors
    /// There is none.
    pub async fn addresses(&self, timeout: Duration, names: &Names) -> Result<Vec<SocketAddr>, LegError> {
        let mut found = Vec::new();
        let mut why = "[[peer]] connect is missing".to_owned();
        for Connect { host, port } in &self.connect {
            match host {
                ConnectTo::Ip(ip) => found.push(SocketAddr::new(*ip, *port)),
                ConnectTo::Host(name) => match names.look_up(name.as_str(), timeout).await {
                    Ok(answers) => {
                        why = format!("{} leads to no address that could be another host's", name.as_str());
                        let elsewhere = answers.into_iter().filter(|ip| self.is_elsewhere(*ip));
                        found.extend(elsewhere.map(|ip| SocketAddr::new(ip, *port)));
                    }
                    Err(fault) => why = fault,
                },
            }
        }
        if found.is_empty() { Err(LegError::NoAddress(why)) } else { Ok(found) }
    }

    fn is_elsewhere(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && !self.aliases.contains(&ip)
    }

    /// A leg to the guard of this peer, checked and greeted. The time is for all its addresses together: a node gives its
    /// own set-up 7 s.
    ///
    /// # Errors
    /// That of the last address that did not simply refuse, when none answers.
    async fn leg(
        &self,
        trust: &Trust,
        answers: Answers,
        timeout: Duration,
        tunnels: &Tunnels,
    ) -> Result<(Leg, SocketAddr), LegError> {
        let deadline = Instant::now() + timeout;
        let addresses = self.addresses(timeout / 2, &tunnels.names).await?;
        let mut failed: Option<LegError> = None;
        for (addr, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
            let rest = deadline.saturating_duration_since(Instant::now());
            // The last one gets all that is left.
            let timeout = (rest / u32::try_from(left).unwrap_or(u32::MAX)).max(SHORTEST_TRY.min(timeout));
            let dialling = self.dial(*addr, trust, answers, tunnels);
            let error = match tokio::time::timeout(timeout, dialling).await {
                Ok(Ok(leg)) => return Ok((leg, *addr)),
                Ok(Err(error)) => error,
                Err(_) => LegError::TimedOut { addr: *addr, timeout },
            };
            // A guard that is there says more than an address where there is none.
            if failed.is_none() || !error.is_refused_connection() {
                failed = Some(error);
            }
        }
        Err(failed.unwrap_or_else(|| LegError::NoAddress("[[peer]] connect is missing".to_owned())))
    }

    async fn dial(
        &self,
        addr: SocketAddr,
        trust: &Trust,
        answers: Answers,
        tunnels: &Tunnels,
    ) -> Result<Leg, LegError> {
        let lost = |source| LegError::Leg { addr, source };
        let socket = connect(addr).await.map_err(|source| LegError::Connect { addr, source })?;
        let tls = TlsEnd::client(trust.credentials.client(&self.peer)).map_err(|fault| lost(fault.into()))?;
        let mut leg = Leg::shake_hands(socket, tls, answers, &tunnels.pool).await.map_err(lost)?;
        match self.check(&leg, addr, trust) {
            Ok(shown) => leg.know(shown),
            Err(error) => {
                refuse_first(leg, Refusal::Identity, error.reason().unwrap_or_default());
                return Err(error);
            }
        }
        leg.say_hello().map_err(lost)?;
        Ok(leg)
    }

    /// Whose certificate it is, also where an earlier session was resumed.
    fn check(&self, leg: &Leg, addr: SocketAddr, trust: &Trust) -> Result<Shown, LegError> {
        let chain = leg.facts().map(|facts| facts.chain).unwrap_or_default();
        let checked = trust.credentials.verifier().check(chain, Usage::Server, now());
        let certified = checked.map_err(|fault| LegError::Certificate { addr, fault })?;
        match trust.identities.peer_of(&certified.sans) {
            Ok(peer) if peer == self.id => {
                Ok(Shown::new(chain, &certified.sans, Usage::Server, &trust.credentials))
            }
            Ok(_) | Err(NoIdentity::Unknown | NoIdentity::Several) => {
                let names: Vec<String> = certified.sans.iter().take(8).map(ToString::to_string).collect();
                Err(LegError::Identity { addr, names: names.join(", ") })
            }
        }
    }

    /// A link to what this peer shows at a port. Whether it is granted is told with the first that is read.
    ///
    /// # Errors
    /// There is no leg.
    pub async fn open(
        &self,
        trust: &Trust,
        port: u16,
        wanted: Wanted,
        (timeout, tunnels): (Duration, &Tunnels),
    ) -> Result<Wire, LegError> {
        let (mut leg, addr) = self.leg(trust, Answers::Refused, timeout, tunnels).await?;
        let Wanted { kind, source, trace, redial, replay } = wanted;
        let lost = |source| LegError::Leg { addr, source };
        let link = name_of_a_link(trust, &self.peer).ok_or_else(|| lost(Lost::Unfit("no random number")))?;
        leg.say(&Frame::Open(Open { link, kind, port, source, trace })).map_err(lost)?;
        // It leaves together with the first that the node has to say.
        let outgoing = Outgoing::new(tunnels.replay.clone(), replay);
        let state = LinkState::new(link, Grant::Awaited, outgoing, (&tunnels.pool, &tunnels.replay));
        Ok(Wire::Tunnel(Box::new(Tunnelled::new(leg, state, Renewal::Dial(redial)))))
    }

    /// Another leg for a link of which so much has been received.
    ///
    /// # Errors
    /// There is none now, or there will be none.
    pub async fn resume(
        &self,
        trust: &Trust,
        (link, received): (LinkId, u64),
        (timeout, tunnels): (Duration, &Tunnels),
    ) -> Result<Resumption, ResumeError> {
        let (mut leg, _) = self
            .leg(trust, Answers::Refused, timeout, tunnels)
            .await
            .map_err(|error| ResumeError::Failed(crate::telemetry::describe(&error)))?;
        // A try that is given up must not come to the other guard when the link has long gone on by a later one.
        leg.leave_nothing();
        leg.say(&Frame::Resume { link, received })?;
        let mut heard = None;
        let mut early = Vec::new();
        let hearing = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(lost)) = leg.poll_flush(cx) {
                    return Poll::Ready(Err(lost));
                }
                if heard.is_some() {
                    return Poll::Ready(Ok(()));
                }
                let taken = leg.poll_receive(cx, |event| match event {
                    Event::Frame(Frame::Hello(_) | Frame::Ping) => Ok(()),
                    Event::Frame(Frame::Resumed { received }) if heard.is_none() => {
                        heard = Some(Ok(received));
                        Ok(())
                    }
                    Event::Frame(Frame::Refused { code, detail }) => {
                        heard = Some(Err(ResumeError::Refused { code, detail: detail.to_string() }));
                        Ok(())
                    }
                    event if heard.is_some() => {
                        early.push(Early::from(event));
                        Ok(())
                    }
                    Event::Frame(_) | Event::Data { .. } => Err(Lost::Unfit("something else than RESUMED")),
                });
                match taken {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(lost)) if heard.is_none() => return Poll::Ready(Err(lost)),
                    Poll::Ready(_) => {}
                }
            }
        });
        tokio::time::timeout(timeout, hearing).await.map_err(|_| Lost::TimedOut(timeout))??;
        match heard {
            Some(Ok(received)) => {
                leg.keep_in_order();
                Ok(Resumption { leg, received, early, answer: false })
            }
            Some(Err(error)) => Err(error),
            None => Err(ResumeError::Failed("it says nothing".to_owned())),
        }
    }
}

/// A name that nobody can guess.
fn name_of_a_link(trust: &Trust, peer: &str) -> Option<LinkId> {
    let mut name = [0; 16];
    trust.credentials.client(peer).crypto_provider().secure_random.fill(&mut name).ok()?;
    Some(LinkId(name))
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::since_unix_epoch(since)
}

/// A leg by which questions are asked.
#[derive(Debug)]
pub struct Asking {
    leg: Leg,
    answers: Vec<(u32, Vec<u8>)>,
}

impl Way {
    /// Whether it may be gone without a tunnel.
    #[must_use]
    pub fn may_be_plain(&self) -> bool {
        match self.mode {
            TlsMode::Off | TlsMode::Optional => true,
            TlsMode::Required => false,
        }
    }

    /// A leg for questions to the epmd there.
    ///
    /// # Errors
    /// There is none.
    pub async fn ask(
        &self,
        trust: &Trust,
        (timeout, tunnels): (Duration, &Tunnels),
    ) -> Result<Asking, LegError> {
        let (leg, _) = self.leg(trust, Answers::Taken, timeout, tunnels).await?;
        Ok(Asking { leg, answers: Vec::new() })
    }
}

impl Asking {
    /// Puts a question.
    ///
    /// # Errors
    /// The leg is of no use any more.
    pub fn ask(&mut self, id: u32, body: &[u8]) -> Result<(), Lost> {
        let request = AskBody::new(body).ok_or(Lost::Unfit("a question that is too long"))?;
        self.leg.say(&Frame::Ask { id, request })
    }

    /// The next answer. Cancel-safe.
    ///
    /// # Errors
    /// The leg is over.
    pub async fn next(&mut self) -> Result<(u32, Vec<u8>), Lost> {
        let Self { leg, answers } = self;
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(lost)) =
                    leg.poll_flush_or_hear(cx, |event| take_answer(event, answers))
                {
                    return Poll::Ready(Err(lost));
                }
                if let Some(answer) = answers.pop() {
                    return Poll::Ready(Ok(answer));
                }
                match leg.poll_receive(cx, |event| take_answer(event, answers)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(lost)) => return Poll::Ready(Err(lost)),
                    Poll::Ready(Ok(())) => {}
                }
            }
        })
        .await
    }

    /// Says that the leg lives where it is time to, and tells when that is again.
    ///
    /// # Errors
    /// The leg is over.
    pub fn keep(&mut self) -> Result<tokio::time::Instant, Lost> {
        self.leg.keep()
    }
}

fn take_answer(event: Event<'_>, answers: &mut Vec<(u32, Vec<u8>)>) -> Result<(), Lost> {
    match event {
        Event::Frame(Frame::Answer { id, reply }) => {
            answers.push((id, reply.into_vec()));
            Ok(())
        }
        Event::Frame(Frame::Hello(_) | Frame::Ping) => Ok(()),
        Event::Frame(Frame::Refused { code, detail }) => {
            Err(Lost::Refused { code, detail: detail.to_string() })
        }
        Event::Frame(_) | Event::Data { .. } => Err(Lost::Unfit("something else than an answer")),
    }
}
