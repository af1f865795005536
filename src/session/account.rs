//! One event for each connection that ends, and one for each that is refused.

use tokio::time::Instant;
use tracing::field::display;

use super::close::{CloseReason, Outcome, Party};
use super::connection::Session;
use super::context::Context;
use super::handshake_end::HandshakeEnd;
use super::offend::offend;
use super::snapshot::Snapshot;
use crate::policy::{Arrival, Denial, List, Offence, PeerId, Role, Standing};

/// Tells how a connection ended and what it carried.
pub(super) fn account(context: &Context, session: &Session, outcome: &Outcome, begun: Instant) {
    count(context, session, outcome);
    let Session { role, arrival, id, .. } = session;
    let standing = standing(session);
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Where another guard has carried it up to here, that one knows it by its number, and by the node's own address.
    let carried = session.link.as_ref();
    let link = carried.map(|link| &link.id).or(outcome.link.as_deref()).map(display);
    let (source, trace) = (carried.map(|link| display(link.source)), carried.map(|link| link.trace));
    macro_rules! closed {
        ($level:ident) => {
            tracing::$level!(
                id, role = %role, peer = %arrival.peer, listener = %arrival.local, standing,
                reason = outcome.reason.label(), asked = outcome.asked, claimed = outcome.claimed, detail = outcome.detail,
                bytes_up = outcome.bytes_up, bytes_down = outcome.bytes_down, duration_ms, link, source, trace, "closed"
            )
        };
    }
    match outcome.reason {
        // Each wrong cookie is told: it is what a guesser does, and the guard makes that rare.
        CloseReason::Refused(Denial::WrongCookie) | CloseReason::Handshake(HandshakeEnd::WrongCookie) => {
            context.metrics.refusal(Denial::WrongCookie.label(), Denial::WrongCookie.stage());
            closed!(warn);
        }
        CloseReason::Refused(denial) => {
            let (claimed, detail) = (outcome.claimed.as_deref(), outcome.detail.as_deref());
            log_refusal(context, &Refused { arrival: *arrival, role: *role, denial, claimed, detail });
            closed!(debug);
        }
        // What works is not news; what a peer does wrong is told once a minute.
        CloseReason::Answered => closed!(debug),
        CloseReason::LinkClosed(_)
        | CloseReason::LinkReset(_)
        | CloseReason::HalfClosed
        | CloseReason::RegistrationEnded(_)
        | CloseReason::Unregistered
        | CloseReason::Revoked(_)
        | CloseReason::Stopped => closed!(info),
        CloseReason::LegLost => closed!(warn),
        CloseReason::BackendDown
        | CloseReason::BackendTimeout
        | CloseReason::BackendFault
        | CloseReason::NoWay
        | CloseReason::NotAtAlias(_)
        | CloseReason::RefusedByPeer
        | CloseReason::LegFailed(_)
        | CloseReason::UnknownLink => {
            throttled(context, session, outcome, || closed!(warn), || closed!(debug));
        }
        CloseReason::BackendRefused
        | CloseReason::Malformed(_)
        | CloseReason::RequestTimeout
        | CloseReason::NoRequest
        | CloseReason::AnswerNotTaken
        | CloseReason::Handshake(_)
        | CloseReason::LegTaken
        | CloseReason::NotRegistered => {
            throttled(context, session, outcome, || closed!(info), || closed!(debug));
        }
    }
}

fn standing(session: &Session) -> &'static str {
    match session.admission.standing() {
        Standing::Itself => "self",
        Standing::NamedPeer(_) | Standing::NetworkPeer(_) => "peer",
        Standing::Registrant => "registrant",
    }
}

fn count(context: &Context, session: &Session, outcome: &Outcome) {
    let role = session.role;
    context.metrics.connection(role.label(), outcome.reason.label());
    if let Some(ended) = outcome.reason.handshake().filter(|_| role.has_handshake()) {
        context.metrics.handshake(ended);
    }
    // Whoever holds places of handshakes and does not go on takes them from others.
    if let CloseReason::Handshake(HandshakeEnd::TimedOut(Party::Downstream)) = outcome.reason {
        offend(context, session, outcome.claimed.as_deref().unwrap_or_default(), Offence::Stalled);
    }
}

fn throttled(context: &Context, session: &Session, outcome: &Outcome, first: impl Fn(), again: impl Fn()) {
    let Arrival { peer, local } = session.arrival;
    // All nodes of this host have one address, and each peer that cannot be asked is worth a line of its own.
    let by_peer = session.service.toward.is_some();
    let source = if outcome.reason == CloseReason::NoWay || by_peer { local.ip() } else { peer.ip() };
    if context.refusals.note(source, outcome.reason.label(), Instant::now()) {
        first();
    } else {
        again();
    }
}

/// A connection that is refused, or would be.
pub(super) struct Refused<'a> {
    pub(super) arrival: Arrival,
    pub(super) role: Role,
    pub(super) denial: Denial,
    /// The node that the peer said it is.
    pub(super) claimed: Option<&'a str>,
    /// What is known besides.
    pub(super) detail: Option<&'a str>,
}

impl Refused<'_> {
    /// What was asked, in our own words.
    fn asked(&self) -> Option<String> {
        match self.denial {
            Denial::LocalOnly(opcode) => Some(opcode.to_string()),
            Denial::UnknownOpcode(byte) => Some(format!("opcode {byte}")),
            Denial::PortNotOffered(port) => Some(format!("port {port}")),
            Denial::NotRelaxed => Some(crate::proto::epmd::Opcode::Stop.to_string()),
            Denial::NotAllowed
            | Denial::Denied(_)
            | Denial::DenyUnresolved
            | Denial::NotForPeers
            | Denial::Draining
            | Denial::Full(_)
            | Denial::TooManyNames
            | Denial::NotReachable
            | Denial::Banned
            | Denial::TooFast(_)
            | Denial::HalfOpen(_)
            | Denial::NodeName
            | Denial::NameOfPeer(_)
            | Denial::HiddenNode
            | Denial::DynamicNode
            | Denial::OldHandshake
            | Denial::MissingFlags
            | Denial::TooManyClaims
            | Denial::Slowed
            | Denial::WrongCookie
            | Denial::WrongNode
            | Denial::WrongAnswer
            | Denial::TlsRequired
            | Denial::TlsOff
            | Denial::UnknownIdentity
            | Denial::SeveralIdentities
            | Denial::IdentityOfAnother(_)
            | Denial::CertificateRevoked
            | Denial::NoHandshake => None,
        }
    }

    /// The rule that says so, where one does.
    fn rule(&self, snapshot: &Snapshot) -> Option<String> {
        let Snapshot { config, policy, .. } = snapshot;
        let of = |peer: PeerId, key: &str| {
            let peer = config.peers.get(usize::from(peer.0))?;
            Some(format!("[[peer]] {} {key} (line {})", peer.name, peer.line))
        };
        if let Denial::NameOfPeer(owner) = self.denial {
            return of(owner, "nodes");
        }
        if let Denial::IdentityOfAnother(owner) = self.denial {
            return of(owner, "identity");
        }
        if !matches!(self.denial, Denial::TlsRequired | Denial::TlsOff) {
            return policy.rule_of(self.denial).map(ToString::to_string);
        }
        let peer = policy.find(List::Allow, self.arrival.peer.ip());
        let peer = peer.and_then(|rule| policy.rule(rule)?.peer);
        if let Some(unplaced) = policy.unplaced_peer(peer).filter(|_| self.denial == Denial::TlsRequired) {
            return Some(format!("{}, a host name of which leads nowhere", of(unplaced, "tls")?));
        }
        let says =
            |peer: &PeerId| config.peers.get(usize::from(peer.0)).is_some_and(|peer| peer.tls.is_some());
        match peer.filter(says) {
            Some(peer) => of(peer, "tls"),
            None => Some(format!("[tls] default (line {})", config.places.line_of("[tls] default")?)),
        }
    }
}

/// One line for the first refusal of a source and reason in a minute; the others are DEBUG.
pub(super) fn log_refusal(context: &Context, refused: &Refused<'_>) {
    let Refused { arrival, role, denial, claimed, detail } = refused;
    context.metrics.refusal(denial.label(), denial.stage());
    let (rule, asked) = (refused.rule(&context.snapshot()), refused.asked());
    macro_rules! refused {
        ($level:ident) => {
            tracing::$level!(
                role = %role, peer = %arrival.peer, listener = %arrival.local, reason = denial.label(),
                stage = denial.stage(), rule, asked, claimed, detail, "refused"
            )
        };
    }
    if context.refusals.note(arrival.peer.ip(), denial.label(), Instant::now()) {
        refused!(info);
    } else {
        refused!(debug);
    }
}

/// The same for what observe mode lets pass.
pub(super) fn log_would_refuse(context: &Context, refused: &Refused<'_>) {
    let Refused { arrival, role, denial, claimed, detail } = refused;
    context.metrics.would_refuse(denial.label(), denial.stage());
    let (rule, asked) = (refused.rule(&context.snapshot()), refused.asked());
    macro_rules! would_refuse {
        ($level:ident) => {
            tracing::$level!(
                role = %role, peer = %arrival.peer, listener = %arrival.local, reason = denial.label(),
                stage = denial.stage(), rule, asked, claimed, detail, "would_refuse"
            )
        };
    }
    if context.would_refuse.note(arrival.peer.ip(), denial.label(), Instant::now()) {
        would_refuse!(info);
    } else {
        would_refuse!(debug);
    }
}

/// A question of a peer's guard, which shares its tunnel with many others.
pub(super) fn log_answered(context: &Context, session: &Session, outcome: &Outcome) {
    let Session { arrival, role, .. } = session;
    if let Some(denial) = outcome.reason.denial() {
        let refused = Refused {
            arrival: *arrival,
            role: *role,
            denial,
            claimed: None,
            detail: outcome.asked.as_deref(),
        };
        return log_refusal(context, &refused);
    }
    tracing::debug!(
        id = session.id, role = %role, peer = %arrival.peer, reason = outcome.reason.label(),
        asked = outcome.asked, detail = outcome.detail, bytes_up = outcome.bytes_up,
        bytes_down = outcome.bytes_down, "question_answered"
    );
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::config::from_text;

    #[test]
    fn a_refusal_of_tunnels_names_the_table_that_says_so() {
        let text = "[tls]\ncert = \"/a\"\nkey = \"/b\"\nca = \"/c\"\ndefault = \"required\"\n[[peer]]\nname = \"h2\"\n\
                    addresses = [\"192.0.2.2\"]\ntls = \"off\"\n[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\n\
                    connect = \"h3\"\n";
        let config = from_text("f.toml", text, &Default::default()).unwrap().config;
        let snapshot = Snapshot::new(1, Arc::new(config));
        let rule = |ip: &str, denial| {
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4371);
            let arrival = Arrival { peer: at(ip).into(), local: at("192.0.2.1").into() };
            let refused = Refused { arrival, role: Role::Tunnel, denial, claimed: None, detail: None };
            refused.rule(&snapshot).unwrap_or_default()
        };
        assert_eq!(rule("192.0.2.2", Denial::TlsOff), "[[peer]] h2 tls (line 6)");
        assert_eq!(rule("192.0.2.3", Denial::TlsRequired), "[tls] default (line 5)");
        assert_eq!(rule("192.0.2.2", Denial::IdentityOfAnother(PeerId(1))), "[[peer]] h3 identity (line 10)");
        assert_eq!(rule("192.0.2.2", Denial::NameOfPeer(PeerId(1))), "[[peer]] h3 nodes (line 10)");
        assert_eq!(rule("192.0.2.2", Denial::UnknownIdentity), "");
    }
}
