//! The links that are up: each can be seen, and ended when it is no longer permitted.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::Service;
use super::connection::Session;
use super::snapshot::Snapshot;
use crate::policy::{
    Admission, Arrival, Denial, LinkTarget, NoIdentity, PeerAddr, Role, San, Speech, TlsMode,
};
use crate::proto::dist::{Claim, FullName};
use crate::proto::epmd::NodeName;
use crate::proto::tunnel::LinkId;
use crate::telemetry::{Metrics, Totals, Traffic as Carried};
use crate::transport::Traffic;
use crate::transport::tunnel::LastShown;

/// One link that is up.
#[derive(Debug)]
pub struct Link {
    /// The number of its connection.
    pub id: u64,
    /// From where to where.
    pub arrival: Arrival,
    /// What the port of ours serves.
    pub role: Role,
    /// The node's own port behind us.
    pub inside: u16,
    /// The node behind it, where its name is known.
    pub node: Option<NodeName>,
    /// All its names, as they were known when the link came up; see [`Service::nodes`].
    nodes: Arc<[NodeName]>,
    /// The names of the certificate with which it came up, where it comes by a tunnel.
    sans: Arc<[San]>,
    /// The certificate of the peer's guard, where it goes through a tunnel, in or out.
    pub shown: LastShown,
    /// The `[[peer]]` to which it leads, where it is one of this host's own.
    pub toward: Option<Arc<str>>,
    /// What both guards call it, where it goes through a tunnel.
    pub tunnel: Option<LinkId>,
    /// What its ends have said of themselves.
    pub heard: Heard,
    /// When it came up.
    pub since: SystemTime,
    /// The same by the clock that nobody sets, for its age.
    pub begun: Instant,
    /// What its listener serves, which may learn the node's name later.
    port: watch::Receiver<Service>,
    /// What it has carried.
    pub traffic: Traffic,
    /// The leave it has, and of which generation that is.
    held: Mutex<Held>,
    /// Why it is no longer permitted.
    revoked: OnceLock<Denial>,
    ended: CancellationToken,
}

/// What the ends of a link have said of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The peer's node said who it is, and the node behind us did.
    Nodes {
        /// What the peer's node said.
        claim: Claim,
        /// The name by which it is known: that of the claim, or the one that it was given.
        peer: FullName,
        /// The node that answered.
        answered: FullName,
    },
    /// Nothing that is read here: TLS, or another protocol.
    Closed,
    /// Something that is no handshake; observe mode let it pass.
    Unreadable,
}

impl Heard {
    /// What decisions are made by.
    #[must_use]
    pub fn speech(&self) -> Speech<'_> {
        match self {
            Self::Nodes { claim, .. } => Speech::Claim(claim),
            Self::Closed => Speech::Closed,
            Self::Unreadable => Speech::Unreadable,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Held {
    admission: Admission,
    generation: u64,
}

/// All links.
#[derive(Debug, Default)]
pub struct Links {
    live: Mutex<HashMap<u64, Arc<Link>>>,
}

/// A link's place among the links, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    links: &'a Links,
    metrics: &'a Metrics,
    pub(super) link: Arc<Link>,
}

/// A link that a policy no longer permits, and why.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The link.
    pub link: Arc<Link>,
    /// The leave that it had of the generation before.
    pub admission: Admission,
    /// Why.
    pub denial: Denial,
}

impl Link {
    /// The link that a session has become.
    pub(super) fn new(session: &Session, admission: Admission, generation: u64, heard: Heard) -> Self {
        let nodes = Arc::clone(&session.current.borrow().nodes);
        Self {
            id: session.id,
            arrival: session.arrival,
            role: session.role,
            inside: session.service.inside,
            node: nodes.first().cloned(),
            nodes,
            port: session.current.clone(),
            sans: Arc::clone(&session.sans),
            shown: LastShown::default(),
            toward: session.service.toward.clone(),
            tunnel: None,
            heard,
            since: SystemTime::now(),
            begun: Instant::now(),
            traffic: Traffic::default(),
            held: Mutex::new(Held { admission, generation }),
            revoked: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    /// The leave it has. Its rules are those of the generation in force, or of the one before while a new
    /// one is being put in force.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.held().admission
    }

    /// Takes the leave of a later generation.
    pub(super) fn hold(&self, admission: Admission, generation: u64) {
        let mut held = self.held();
        if generation > held.generation {
            *held = Held { admission, generation };
        }
    }

    /// Waits until it is no longer permitted.
    pub(super) async fn revoked(&self) -> Denial {
        loop {
            self.ended.cancelled().await;
            if let Some(denial) = self.revoked.get() {
                return *denial;
            }
        }
    }

    /// From where it comes: through a tunnel that has been replaced, from where the last leg does.
    #[must_use]
    pub fn peer(&self) -> PeerAddr {
        self.shown.get().and_then(|shown| shown.from).unwrap_or(self.arrival.peer)
    }

    /// The names of the certificate of the peer's guard, where it comes by a tunnel.
    #[must_use]
    pub fn sans(&self) -> Arc<[San]> {
        match self.shown.get() {
            Some(shown) if self.toward.is_none() => shown.sans,
            Some(_) | None => Arc::clone(&self.sans),
        }
    }

    /// Whether the generation in force still permits it, with another leg than before. What a generation says that it has
    /// not been judged by is said when it is.
    pub(super) fn judge_again(&self, now: &Snapshot) -> Result<(), Denial> {
        let held = *self.held();
        if held.generation == now.generation {
            let admission = self.judge(held, now, now)?;
            let mut held = self.held();
            if held.generation == now.generation {
                held.admission = admission;
            }
        }
        self.judge_peer(now)
    }

    /// Whether `next` still permits it by the leave that it has of `before`.
    fn judge(&self, held: Held, next: &Snapshot, before: &Snapshot) -> Result<Admission, Denial> {
        let outside = self.arrival.local.port();
        let now = self.port.borrow();
        let is_learned = self.nodes.is_empty() && now.inside == self.inside;
        let nodes = if is_learned { &now.nodes } else { &self.nodes };
        let (role, speech) = (self.role, self.heard.speech());
        // A link may have moved with its peer, and its peer may have another certificate.
        let sans = self.sans();
        let admission = held.admission.moved_to(self.peer());
        let target = LinkTarget { role, outside, inside: self.inside, nodes, speech, sans: &sans };
        let admission = next.policy.keeps(&admission, &target, &before.policy)?;
        self.judge_peer(next)?;
        Ok(admission)
    }

    /// Whether it may go on by what is known of its peer: how traffic with it is to be carried, and its certificate.
    pub(super) fn judge_peer(&self, next: &Snapshot) -> Result<(), Denial> {
        self.judge_way(next)?;
        self.judge_certificate(next)
    }

    /// Whether a link of this host's own may still go to its peer, and as it does.
    fn judge_way(&self, next: &Snapshot) -> Result<(), Denial> {
        let Some(peer) = &self.toward else { return Ok(()) };
        let outside = self.arrival.local.port();
        let way = next.dialer.way_to(peer).ok_or(Denial::PortNotOffered(outside))?;
        let Some(shown) = self.shown.get() else {
            return if way.may_be_plain() { Ok(()) } else { Err(Denial::TlsRequired) };
        };
        if way.mode == TlsMode::Off {
            return Err(Denial::TlsOff);
        }
        match next.policy.identities().peer_of(&shown.sans) {
            Ok(peer) if peer == way.id => Ok(()),
            Ok(peer) => Err(Denial::IdentityOfAnother(peer)),
            Err(NoIdentity::Unknown) => Err(Denial::UnknownIdentity),
            Err(NoIdentity::Several) => Err(Denial::SeveralIdentities),
        }
    }

    /// Whether the certificate of the peer's guard is not revoked. One that has expired, and a list that is old or gone, end
    /// no link.
    fn judge_certificate(&self, next: &Snapshot) -> Result<(), Denial> {
        self.shown.get().map_or(Ok(()), |shown| next.still_trusts(&shown))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revoke(&self, denial: Denial) {
        // The first reason counts.
        self.revoked.set(denial).unwrap_or_default();
        self.ended.cancel();
    }
}

impl Links {
    /// Takes a link in.
    pub(super) fn enter<'a>(&'a self, link: Link, metrics: &'a Metrics) -> Entered<'a> {
        let link = Arc::new(link);
        self.live().insert(link.id, Arc::clone(&link));
        Entered { links: self, metrics, link }
    }

    /// How many are up.
    #[must_use]
    pub fn count(&self) -> usize {
        self.live().len()
    }

    /// What `look` finds in one of them, if it finds anything.
    pub(super) fn find<T>(&self, look: impl Fn(&Link) -> Option<T>) -> Option<T> {
        self.live().values().find_map(|link| look(link))
    }

    /// The links that are up, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Link>> {
        let mut all: Vec<Arc<Link>> = self.live().values().cloned().collect();
        all.sort_by_key(|link| link.id);
        all
    }

    /// What all links have carried, also those that have ended.
    #[must_use]
    pub fn totals(&self, metrics: &Metrics) -> Totals {
        let now = Instant::now();
        let live = self.live();
        metrics.traffic(live.values().map(|link| carried(&link.traffic, now)))
    }

    /// The links that `next` would end; `before` is the generation in force.
    #[must_use]
    pub fn would_cut(&self, next: &Snapshot, before: &Snapshot) -> Vec<Cut> {
        let cut = |link: Arc<Link>| {
            let held = *link.held();
            let denial = link.judge(held, next, before).err()?;
            Some(Cut { link, admission: held.admission, denial })
        };
        self.all().into_iter().filter_map(cut).collect()
    }

    /// Ends the links that `next`, in force since now in the place of `before`, does not permit, and gives
    /// the others its leave.
    pub fn follow(&self, next: &Snapshot, before: &Snapshot) -> Vec<Cut> {
        let mut cut = Vec::new();
        for link in self.all() {
            // Read once: a link that comes up meanwhile may be given the leave of `next`, whose rules `before`
            // does not know.
            let held = *link.held();
            if held.generation == next.generation {
                continue;
            }
            match link.judge(held, next, before) {
                Ok(admission) => link.hold(admission, next.generation),
                Err(denial) => {
                    link.revoke(denial);
                    cut.push(Cut { link, admission: held.admission, denial });
                }
            }
        }
        cut
    }

    /// Ends the links whose peer has shown a certificate that is revoked by the credentials in force now.
    pub fn follow_credentials(&self, next: &Snapshot) -> Vec<Cut> {
        let revoked = |link: Arc<Link>| {
            let denial = link.judge_certificate(next).err()?;
            link.revoke(denial);
            Some(Cut { admission: link.admission(), link, denial })
        };
        self.all().into_iter().filter_map(revoked).collect()
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Under one lock, so that the sum of what has ended and what is up never goes back.
        let mut live = self.links.live();
        live.remove(&self.link.id);
        self.metrics.link_ended(carried(&self.link.traffic, Instant::now()));
    }
}

fn carried(traffic: &Traffic, now: Instant) -> Carried {
    Carried {
        bytes_up: traffic.up.bytes(),
        bytes_down: traffic.down.bytes(),
        blocked_up: traffic.up.blocked(now),
        blocked_down: traffic.down.blocked(now),
    }
}
