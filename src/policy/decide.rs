//! The decisions, and the values that prove that they were made.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::denial::Denial;
use super::dist::{DistRules, Withheld};
use super::forward::{ForwardKind, ForwardRules};
use super::identity::{IdentityRules, NoIdentity, San, TlsMode};
use super::mode::{Mode, Overlooked};
use super::network::{HostAnswers, List, NetworkRules, PeerId, Rule, RuleId, Target};
use super::nodes::NodeRules;
use super::role::{Audience, Role};
use super::rules::{Rules, StopRule};
use super::{LocalAddr, PeerAddr};
use crate::proto::dist::Claim;
use crate::proto::epmd::{NodeName, Opcode, Request};

/// What is known of a connection when it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Who connected.
    pub peer: PeerAddr,
    /// Where to.
    pub local: LocalAddr,
}

/// Whether anything new is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Yes.
    Open,
    /// Nothing new of peers; this host itself goes on as always, so that nobody starts an epmd in our place.
    Draining,
}

/// What a connection is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This host: loopback, or the very address that was dialled.
    Itself,
    /// A peer that a rule names by address or host name.
    NamedPeer(RuleId),
    /// A peer from a network that a rule lets in.
    NetworkPeer(RuleId),
    /// None of the cluster: an address that may register names at epmd (`register_from`), and nothing else.
    Registrant,
}

/// How a connection came to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carrier {
    /// As it is.
    #[default]
    Plain,
    /// Within mutual TLS with the guard of this peer, whose certificate was found good.
    Tunnel(PeerId),
}

/// Proof that a connection may be here. What it may ask is decided later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    peer: PeerAddr,
    standing: Standing,
    carrier: Carrier,
}

impl Admission {
    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> PeerAddr {
        self.peer
    }

    /// What it is to us.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The same of one that has moved: its link came up elsewhere, and goes on from there.
    #[must_use]
    pub fn moved_to(self, peer: PeerAddr) -> Self {
        Self { peer, ..self }
    }

    /// How it came.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }
}

/// Where a permit leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The epmd behind us, or the embedded one.
    Epmd,
    /// The distribution port of this number behind us.
    Dist(u16),
    /// The port of this number behind us, of a `[[forward]]`.
    Forward(u16),
    /// The epmd of a peer.
    PeerEpmd(PeerId),
    /// The port of this number at a peer.
    Peer(PeerId, u16),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epmd => f.write_str("epmd"),
            Self::Dist(port) => write!(f, "distribution port {port}"),
            Self::Forward(port) => write!(f, "forwarded port {port}"),
            Self::PeerEpmd(_) => f.write_str("a peer's epmd"),
            Self::Peer(_, port) => write!(f, "port {port} of a peer"),
        }
    }
}

/// Proof that a connection to one destination may be made. The dialer asks for it, and only
/// [`Policy`] makes it, so no byte can go upstream on a path that forgot to ask:
///
/// ```compile_fail,E0451
/// use epmd_guard::policy::{Destination, Permit};
/// let forged = Permit { destination: Destination::Epmd };
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    destination: Destination,
}

impl Permit {
    /// Where it leads.
    #[must_use]
    pub fn destination(&self) -> Destination {
        self.destination
    }
}

/// What a link leads to.
#[derive(Debug, Clone, Copy)]
pub struct LinkTarget<'a> {
    /// What the port of ours serves.
    pub role: Role,
    /// The port of ours that is dialled.
    pub outside: u16,
    /// The node's own port.
    pub inside: u16,
    /// The names of the node there; empty where none is known.
    pub nodes: &'a [NodeName],
    /// What the peer has said.
    pub speech: Speech<'a>,
    /// The names of its certificate, where it comes by a tunnel.
    pub sans: &'a [San],
}

/// What a peer has said before it is let through.
#[derive(Debug, Clone, Copy)]
pub enum Speech<'a> {
    /// Whom it says it is.
    Claim(&'a Claim),
    /// What it says is not read here: TLS, or another protocol.
    Closed,
    /// It speaks plain distribution that cannot be read, which only observe mode lets pass.
    Unreadable,
}

/// The leave to make a link.
#[derive(Debug, PartialEq, Eq)]
pub struct Leave {
    /// The proof that it may be made.
    pub permit: Permit,
    /// What would have kept it, in enforce mode.
    pub overlooked: Option<Overlooked>,
}

/// Proof that an errand of our own may be run: asking an epmd for its names, or ending one that holds
/// our port and no name. It carries nobody's bytes but ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Errand {
    epmd: SocketAddr,
}

impl Errand {
    /// The epmd that is asked.
    #[must_use]
    pub fn epmd(&self) -> SocketAddr {
        self.epmd
    }
}

/// One generation of the rules.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Rules,
    answers: Arc<HostAnswers>,
    intake: Intake,
    /// For a while, in the place of the configured one.
    mode: Option<Mode>,
    /// A peer that may come by a tunnel alone, and one of whose addresses is not known.
    unplaced: Option<PeerId>,
}

impl Policy {
    /// The rules, with no host name resolved yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let mut answers = HostAnswers::default();
        if rules.network.host_names().any(|(_, list, _)| list == List::Deny) {
            answers.expect_more_of_deny();
        }
        let unplaced = unplaced(&rules, &answers);
        Self { rules, answers: Arc::new(answers), intake: Intake::Open, mode: None, unplaced }
    }

    /// The same rules with other answers of the resolver.
    #[must_use]
    pub fn with_answers(&self, answers: HostAnswers) -> Self {
        let unplaced = unplaced(&self.rules, &answers);
        Self { answers: Arc::new(answers), unplaced, ..self.clone() }
    }

    /// The same rules, taking new connections of peers or not.
    #[must_use]
    pub fn with_intake(&self, intake: Intake) -> Self {
        Self { intake, ..self.clone() }
    }

    /// The same rules in another mode than the configured one; `None`: in that.
    #[must_use]
    pub fn with_mode(&self, mode: Option<Mode>) -> Self {
        Self { mode, ..self.clone() }
    }

    /// The mode in the place of the configured one.
    #[must_use]
    pub fn mode_for_a_while(&self) -> Option<Mode> {
        self.mode
    }

    /// Whether the rules of who speaks are enforced.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(self.rules.mode)
    }

    /// Lets a refusal pass, where only what is said is observed.
    ///
    /// # Errors
    /// The refusal stands.
    pub fn overlook(&self, denial: Denial) -> Result<Overlooked, Denial> {
        if self.mode() == Mode::Observe && denial.is_of_speaker() {
            Ok(Overlooked(denial))
        } else {
            Err(denial)
        }
    }

    /// Whether new connections of peers are taken.
    #[must_use]
    pub fn intake(&self) -> Intake {
        self.intake
    }

    /// Which distribution ports may be open.
    #[must_use]
    pub fn dist(&self) -> &DistRules {
        &self.rules.dist
    }

    /// The ports that are forwarded besides.
    #[must_use]
    pub fn forwards(&self) -> &ForwardRules {
        &self.rules.forwards
    }

    /// What the port of this number on the outside may serve, besides epmd; `None`: it is never open.
    #[must_use]
    pub fn role_at(&self, outside: u16) -> Option<Role> {
        let by_dist = || self.dist().ports.may_be_open(outside).then_some(Role::Dist);
        self.forwards().kind_at(outside).map(ForwardKind::role).or_else(by_dist)
    }

    /// Whether a node that is registered by this name at this port of its own is offered to peers: the ports of a
    /// `[[forward]]` are, whatever the name.
    ///
    /// # Errors
    /// Why not.
    pub fn offers(&self, name: &[u8], port: u16) -> Result<(), Withheld> {
        if self.forwards().kind_at(port).is_some() { Ok(()) } else { self.dist().offers(name, port) }
    }

    /// The rules by address.
    #[must_use]
    pub fn network(&self) -> &NetworkRules {
        &self.rules.network
    }

    /// What the resolver last said.
    #[must_use]
    pub fn answers(&self) -> &HostAnswers {
        &self.answers
    }

    /// The rule of an id that this policy gave.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.network().book().get(id)
    }

    /// May this connection be here at all? Decided before a byte is read. Self always may, where it is known;
    /// then `deny` goes before `allow`; then, at epmd, whoever may register names; then no rule means no.
    ///
    /// # Errors
    /// No rule lets it in, one keeps it out or is not known yet, the listener is for self alone, or the peer may come by
    /// a tunnel alone.
    pub fn admit(&self, arrival: &Arrival, role: Role, audience: Audience) -> Result<Admission, Denial> {
        let peer = arrival.peer;
        let ip = peer.ip();
        let carrier = Carrier::Plain;
        if role != Role::Tunnel && self.rules.self_at.of(role).covers(arrival.local.ip()) && is_self(arrival)
        {
            return Ok(Admission { peer, standing: Standing::Itself, carrier });
        }
        if audience == Audience::ItselfOnly {
            return Err(Denial::NotForPeers);
        }
        // A link that has lost its leg gets another one; what is new is refused when it is known what a leg is for.
        if self.intake == Intake::Draining && role != Role::Tunnel {
            return Err(Denial::Draining);
        }
        if let Some(rule) = self.find(List::Deny, ip) {
            return Err(Denial::Denied(rule));
        }
        if self.answers.is_deny_pending() {
            return Err(Denial::DenyUnresolved);
        }
        let standing = match self.find(List::Allow, ip) {
            Some(rule) => self.standing_by(rule),
            None if role == Role::Epmd && self.rules.epmd.may_register(ip) => Standing::Registrant,
            None => return Err(Denial::NotAllowed),
        };
        let admission = Admission { peer, standing, carrier };
        self.may_come_plain(&admission, role)?;
        // It may be a peer whose address nobody knows.
        let may_be_unplaced = self.unplaced_peer(self.peer_of(&admission)).is_some();
        if may_be_unplaced && is_plain(&admission, role) { Err(Denial::TlsRequired) } else { Ok(admission) }
    }

    /// The peer for whose sake plain is refused of an address that is not known as any peer's, though it would be let in
    /// otherwise: it may come by a tunnel alone, and one of its host names leads nowhere. `of`: whose the address is.
    #[must_use]
    pub fn unplaced_peer(&self, of: Option<PeerId>) -> Option<PeerId> {
        let is_wanted_of_all = self.rules.identities.mode_of(None) == TlsMode::Required;
        self.unplaced.filter(|_| of.is_none() && !is_wanted_of_all)
    }

    /// Does an established link stay? This host's own always do. A peer's does as long as `admit` and
    /// `authorize_link` would not refuse its address and its ports for what the rules say. It also stays where
    /// the host name by which `before` let it in is still a rule: what a resolver says today of a name of
    /// `allow` is no reason to cut. What it says of a name of `deny` is one.
    ///
    /// # Errors
    /// A rule keeps it out now, none lets it in any more, or its port is not offered any more.
    pub fn keeps(
        &self,
        admission: &Admission,
        target: &LinkTarget<'_>,
        before: &Self,
    ) -> Result<Admission, Denial> {
        let peer = admission.peer;
        let rule = match admission.standing {
            Standing::Itself => return Ok(*admission),
            Standing::NamedPeer(rule) | Standing::NetworkPeer(rule) => rule,
            // It never had a link.
            Standing::Registrant => return Err(Denial::NotAllowed),
        };
        if let Some(rule) = self.find(List::Deny, peer.ip()) {
            return Err(Denial::Denied(rule));
        }
        let by = self.find(List::Allow, peer.ip()).or_else(|| self.same_host_name(before.rule(rule)?));
        let standing = self.standing_by(by.ok_or(Denial::NotAllowed)?);
        let plain = Admission { peer, standing, carrier: Carrier::Plain };
        let admission = match admission.carrier {
            Carrier::Plain => plain,
            Carrier::Tunnel(_) => self.identify(&plain, target.sans)?,
        };
        self.may_come_plain(&admission, target.role)?;
        self.authorize_link(&admission, target)?;
        Ok(admission)
    }

    /// Whether a connection may come as it is, where that is not by a tunnel. A tunnel's own listener says more once
    /// it knows the certificate.
    fn may_come_plain(&self, admission: &Admission, role: Role) -> Result<(), Denial> {
        let must_be_tls = self.rules.identities.mode_of(self.peer_of(admission)) == TlsMode::Required;
        if must_be_tls && is_plain(admission, role) { Err(Denial::TlsRequired) } else { Ok(()) }
    }

    /// Whose tunnel is it? `names` are those of a certificate that was found good. What comes by it has that
    /// peer's leave then.
    ///
    /// # Errors
    /// It is nobody's, the address is that of another peer, or the peer is to have no tunnel.
    pub fn identify(&self, admission: &Admission, names: &[San]) -> Result<Admission, Denial> {
        let peer = self.rules.identities.peer_of(names).map_err(|none| match none {
            NoIdentity::Unknown => Denial::UnknownIdentity,
            NoIdentity::Several => Denial::SeveralIdentities,
        })?;
        let of_address = Admission { carrier: Carrier::Plain, ..*admission };
        match self.peer_of(&of_address) {
            Some(other) if other != peer => return Err(Denial::IdentityOfAnother(peer)),
            Some(_) | None => {}
        }
        if self.rules.identities.mode_of(Some(peer)) == TlsMode::Off {
            return Err(Denial::TlsOff);
        }
        Ok(Admission { carrier: Carrier::Tunnel(peer), ..*admission })
    }

    /// May a connection of this host go to a peer? `port`: which one there; `None`: its epmd.
    ///
    /// # Errors
    /// It is not of this host.
    pub fn authorize_way(
        &self,
        admission: &Admission,
        peer: PeerId,
        port: Option<u16>,
    ) -> Result<Permit, Denial> {
        if admission.standing != Standing::Itself || admission.carrier != Carrier::Plain {
            return Err(Denial::NotForPeers);
        }
        let destination = port.map_or(Destination::PeerEpmd(peer), |port| Destination::Peer(peer, port));
        Ok(Permit { destination })
    }

    /// The leave for a question of our own to the epmd of a peer.
    #[must_use]
    pub fn own_question(peer: PeerId) -> Permit {
        Permit { destination: Destination::PeerEpmd(peer) }
    }

    /// The rules of certificates.
    #[must_use]
    pub fn identities(&self) -> &IdentityRules {
        &self.rules.identities
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_identities(&self) -> &Arc<IdentityRules> {
        &self.rules.identities
    }

    fn same_host_name(&self, old: &Rule) -> Option<RuleId> {
        let Target::Host(name) = &old.target else { return None };
        let mut same =
            self.network().host_names().filter(|(_, list, host)| *list == old.list && *host == name);
        same.next().map(|(rule, _, _)| rule)
    }

    fn standing_by(&self, rule: RuleId) -> Standing {
        if self.rule(rule).is_some_and(Rule::names_a_host) {
            Standing::NamedPeer(rule)
        } else {
            Standing::NetworkPeer(rule)
        }
    }

    /// The `[[peer]]` that a connection is of. The admission must be this policy's.
    #[must_use]
    pub fn peer_of(&self, admission: &Admission) -> Option<PeerId> {
        if let Carrier::Tunnel(peer) = admission.carrier {
            return Some(peer);
        }
        match admission.standing {
            Standing::Itself | Standing::Registrant => None,
            Standing::NamedPeer(rule) | Standing::NetworkPeer(rule) => self.rule(rule)?.peer,
        }
    }

    /// Would this address be let in as a peer?
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.find(List::Deny, ip).is_none() && self.find(List::Allow, ip).is_some()
    }

    /// The rule behind a denial that this policy gave, if it is one and not the lack of one.
    #[must_use]
    pub fn rule_of(&self, denial: Denial) -> Option<&Rule> {
        if let Denial::Denied(rule) = denial { self.rule(rule) } else { None }
    }

    /// The rule that keeps an address out, if one does.
    #[must_use]
    pub fn denying_rule(&self, ip: IpAddr) -> Option<&Rule> {
        self.rule(self.find(List::Deny, ip)?)
    }

    /// The rule of a list that covers an address. Where more than one does, that of a `[[peer]]` is named, and
    /// otherwise the one of its host name.
    #[must_use]
    pub fn find(&self, list: List, ip: IpAddr) -> Option<RuleId> {
        let by_name = self.answers.find(list, ip);
        let by_address = self.network().find(list, ip);
        let is_peer = |id: &RuleId| self.rule(*id).is_some_and(|rule| rule.peer.is_some());
        by_name.filter(is_peer).or(by_address.filter(is_peer)).or(by_name).or(by_address)
    }

    /// May it ask this of epmd? Decided when the opcode is known, before its request is whole.
    /// A peer may look names up and list them; through a relay epmd would take everybody for local
    /// and obey the rest too. Those of `register_from` may register names besides.
    ///
    /// # Errors
    /// Only this host may, or nobody.
    pub fn may_ask(&self, admission: &Admission, opcode: Opcode) -> Result<(), Denial> {
        let is_self = admission.standing == Standing::Itself;
        match opcode {
            Opcode::Unknown(byte) => Err(Denial::UnknownOpcode(byte)),
            Opcode::PortPlease2 | Opcode::Names => Ok(()),
            Opcode::Alive2 if is_self || self.rules.epmd.may_register(admission.peer.ip()) => Ok(()),
            Opcode::Stop if is_self && self.rules.epmd.stop == StopRule::Never => Err(Denial::NotRelaxed),
            Opcode::Dump | Opcode::Kill | Opcode::Stop if is_self => Ok(()),
            Opcode::Alive2 | Opcode::Dump | Opcode::Kill | Opcode::Stop => Err(Denial::LocalOnly(opcode)),
        }
    }

    /// May a connection hold on to the name that it registered?
    ///
    /// # Errors
    /// A rule keeps its address out now, or `register_from` does not have it any more.
    pub fn keeps_name(&self, admission: &Admission) -> Result<(), Denial> {
        let ip = admission.peer.ip();
        if admission.standing == Standing::Itself {
            return Ok(());
        }
        if let Some(rule) = self.find(List::Deny, ip) {
            return Err(Denial::Denied(rule));
        }
        if self.rules.epmd.may_register(ip) { Ok(()) } else { Err(Denial::LocalOnly(Opcode::Alive2)) }
    }

    /// Is the node of this name there for this connection? For a peer that may not reach it, it is not: it is
    /// neither found nor listed. `None`: a node whose name is not known.
    ///
    /// # Errors
    /// `may_reach` of its `[[peer]]` leaves the name out.
    pub fn may_reach(&self, admission: &Admission, name: Option<&NodeName>) -> Result<(), Denial> {
        match self.rules.reach_of(self.peer_of(admission)) {
            Some(reach) if !reach.covers(name) => Err(Denial::NotReachable),
            Some(_) | None => Ok(()),
        }
    }

    /// May this request go to epmd?
    ///
    /// # Errors
    /// As [`Policy::may_ask`], and for a name that is looked up as [`Policy::may_reach`].
    pub fn authorize_request(&self, admission: &Admission, request: &Request<'_>) -> Result<Permit, Denial> {
        self.may_ask(admission, request.opcode())?;
        if let Request::PortPlease2(name) = request {
            self.may_reach(admission, Some(&(*name).into()))?;
        }
        Ok(Permit { destination: Destination::Epmd })
    }

    /// Is what these names lead to there for this connection? Where a node has several names, or a port was another
    /// node's, all of them must be: which one will answer is not known.
    ///
    /// # Errors
    /// As [`Policy::may_reach`].
    fn may_reach_all(&self, admission: &Admission, names: &[NodeName]) -> Result<(), Denial> {
        if names.is_empty() {
            return self.may_reach(admission, None);
        }
        names.iter().try_for_each(|name| self.may_reach(admission, Some(name)))
    }

    /// May this connection reach the node's port through the one of ours that it dialled?
    ///
    /// # Errors
    /// The port is not offered, the node is not there for this peer, or the peer may not be what it says it is.
    pub fn authorize_link(&self, admission: &Admission, target: &LinkTarget<'_>) -> Result<Leave, Denial> {
        let LinkTarget { outside, nodes, speech, .. } = *target;
        let destination = self.destination_of(target).ok_or(Denial::PortNotOffered(outside))?;
        let judged = self.may_reach_all(admission, nodes).and_then(|()| self.may_speak(admission, speech));
        let overlooked = judged.err().map(|denial| self.overlook(denial)).transpose()?;
        Ok(Leave { permit: Permit { destination }, overlooked })
    }

    /// Where a port of ours leads; `None`: nowhere, or not for what it serves. A number is either of a `[[forward]]`
    /// or of `[dist]`.
    fn destination_of(&self, target: &LinkTarget<'_>) -> Option<Destination> {
        let LinkTarget { role, outside, inside, .. } = *target;
        match self.forwards().kind_at(outside).or_else(|| self.forwards().kind_at(inside)) {
            Some(kind) => (kind.role() == role && outside == inside).then_some(Destination::Forward(inside)),
            None => {
                let is_offered = role == Role::Dist && self.dist().ports.may_lead(outside, inside);
                is_offered.then_some(Destination::Dist(inside))
            }
        }
    }

    /// May the peer be what it says it is? This host's own nodes may be anything that can be read.
    ///
    /// # Errors
    /// Why not.
    pub fn may_speak(&self, admission: &Admission, speech: Speech<'_>) -> Result<(), Denial> {
        match speech {
            Speech::Closed => Ok(()),
            Speech::Unreadable => Err(Denial::NoHandshake),
            Speech::Claim(_) if admission.standing == Standing::Itself => Ok(()),
            Speech::Claim(claim) => self.rules.nodes.judge(self.peer_of(admission), claim),
        }
    }

    /// The rules of the names that nodes claim.
    #[must_use]
    pub fn nodes(&self) -> &NodeRules {
        &self.rules.nodes
    }

    /// The leave for an errand of our own to the epmd at this address.
    #[must_use]
    pub fn own_errand(epmd: SocketAddr) -> Errand {
        Errand { epmd }
    }
}

/// epmd's own rule (`conn_local_peer_check`), decided where the real peer can still be seen.
fn is_self(arrival: &Arrival) -> bool {
    arrival.peer.ip().is_loopback() || arrival.peer.ip() == arrival.local.ip()
}

#[cfg(test)]
mod tunnels;

/// Who registers is no peer, has no guard, and gets at nothing but names.
fn is_plain(admission: &Admission, role: Role) -> bool {
    admission.carrier == Carrier::Plain && role != Role::Tunnel && admission.standing != Standing::Registrant
}

/// A peer that may come by a tunnel alone, and has a host name that leads nowhere: it could come plain from an address that
/// is let in for another reason.
fn unplaced(rules: &Rules, answers: &HostAnswers) -> Option<PeerId> {
    rules.network.host_names().find_map(|(rule, list, _)| {
        let peer = rules.network.book().get(rule)?.peer?;
        let is_of_tunnel = rules.identities.mode_of(Some(peer)) == TlsMode::Required;
        (list == List::Allow && is_of_tunnel && answers.addresses(rule).is_empty()).then_some(peer)
    })
}

#[cfg(test)]
mod tests {
    use super::super::dist::PortRule;
    use super::super::limits::Full;
    use super::super::names::NamePatterns;
    use super::super::network::RuleBook;
    use super::super::role::SelfAt;
    use super::super::rules::{EpmdRules, Reach, SelfRules};
    use super::*;
    use crate::proto::epmd::AliveName;

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let rule = |list| {
            move |(line, text): (u32, &&str)| Rule { list, target: text.parse().unwrap(), line, peer: None }
        };
        let mut rules: Vec<Rule> = (1..).zip(allow).map(rule(List::Allow)).collect();
        rules.extend((100..).zip(deny).map(rule(List::Deny)));
        with_rules(rules, "9100-9105", EpmdRules::default(), Vec::new())
    }

    fn with_rules(rules: Vec<Rule>, ports: &str, epmd: EpmdRules, reach: Vec<Reach>) -> Policy {
        Policy::new(Rules {
            network: Arc::new(NetworkRules::new(RuleBook::new(rules))),
            dist: Arc::new(listed(ports)),
            forwards: Arc::default(),
            epmd: Arc::new(epmd),
            reach: reach.into(),
            self_at: Arc::default(),
            nodes: Arc::default(),
            identities: Arc::default(),
            mode: Mode::default(),
        })
    }

    fn to(outside: u16, inside: u16) -> LinkTarget<'static> {
        LinkTarget { role: Role::Dist, outside, inside, nodes: &[], speech: Speech::Closed, sans: &[] }
    }

    fn listed(ports: &str) -> DistRules {
        DistRules { ports: PortRule::Listed(ports.parse().unwrap()), names: Default::default() }
    }

    fn arrival(peer: &str, local: &str) -> Arrival {
        let socket = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4369);
        Arrival { peer: socket(peer).into(), local: socket(local).into() }
    }

    fn admit(policy: &Policy, peer: &str) -> Result<Admission, Denial> {
        policy.admit(&arrival(peer, "192.0.2.1"), Role::Epmd, Audience::Peers)
    }

    #[test]
    fn no_rule_means_no_entry() {
        let policy = policy(&[], &[]);
        assert_eq!(admit(&policy, "192.0.2.2"), Err(Denial::NotAllowed));
        assert_eq!(admit(&policy, "2001:db8::2"), Err(Denial::NotAllowed));
    }

    #[test]
    fn self_is_loopback_or_the_address_that_was_dialled_and_is_always_admitted() {
        let policy = policy(&[], &["0.0.0.0/0", "::/0"]);
        for (peer, local) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.2", "127.0.1.1"),
            ("::1", "::1"),
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let admission = policy.admit(&arrival(peer, local), Role::Epmd, Audience::ItselfOnly).unwrap();
            assert_eq!(admission.standing(), Standing::Itself, "{peer} -> {local}");
        }
    }

    #[test]
    fn a_peer_whose_address_differs_from_ours_in_one_bit_is_not_self() {
        let policy = policy(&[], &[]);
        let ours = u32::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
        for bit in 0..32 {
            let other = std::net::Ipv4Addr::from(ours ^ 1 << bit).to_string();
            assert_eq!(admit(&policy, &other), Err(Denial::NotAllowed), "{other}");
        }
    }

    #[test]
    fn deny_goes_before_allow_even_where_allow_is_closer() {
        let policy = policy(&["192.0.2.0/24", "198.51.100.9"], &["192.0.2.66", "198.51.100.0/24"]);
        assert!(admit(&policy, "192.0.2.2").is_ok());
        assert!(matches!(admit(&policy, "192.0.2.66"), Err(Denial::Denied(_))));
        let Err(Denial::Denied(rule)) = admit(&policy, "198.51.100.9") else { panic!("not denied") };
        assert_eq!(policy.rule(rule).unwrap().to_string(), "deny 198.51.100.0/24 (line 101)");
    }

    #[test]
    fn a_mapped_peer_is_the_ipv4_peer() {
        let policy = policy(&["192.0.2.0/24"], &[]);
        assert!(admit(&policy, "::ffff:192.0.2.9").is_ok());
        assert_eq!(admit(&policy, "::192.0.2.9"), Err(Denial::NotAllowed));
    }

    #[test]
    fn a_host_name_lets_in_what_it_resolved_to_and_nothing_before() {
        let rules = policy(&["h2.test"], &[]);
        assert_eq!(admit(&rules, "192.0.2.2"), Err(Denial::NotAllowed));
        let (rule, list, _) = rules.network().host_names().next().unwrap();
        let mut answers = HostAnswers::default();
        answers.insert(list, rule, "192.0.2.2".parse().unwrap());
        let resolved = rules.with_answers(answers);
        assert_eq!(admit(&resolved, "192.0.2.2").unwrap().standing(), Standing::NamedPeer(rule));
        assert!(resolved.allows("192.0.2.2".parse().unwrap()));
        assert!(!resolved.allows("192.0.2.9".parse().unwrap()));
    }

    #[test]
    fn a_host_name_in_deny_keeps_out_what_it_resolved_to_and_everybody_before() {
        let rules = policy(&["192.0.2.0/24"], &["bad.test"]);
        assert_eq!(admit(&rules, "192.0.2.2"), Err(Denial::DenyUnresolved));
        let (rule, list, _) = rules.network().host_names().next().unwrap();
        let mut answers = HostAnswers::default();
        answers.insert(list, rule, "192.0.2.3".parse().unwrap());
        let resolved = rules.with_answers(answers);
        assert_eq!(admit(&resolved, "192.0.2.3"), Err(Denial::Denied(rule)));
        assert!(admit(&resolved, "192.0.2.2").is_ok());
    }

    #[test]
    fn a_listener_for_self_lets_no_peer_in() {
        let policy = policy(&["0.0.0.0/0"], &[]);
        let peer = arrival("192.0.2.2", "192.0.2.1");
        assert!(policy.admit(&peer, Role::Epmd, Audience::Peers).is_ok());
        assert_eq!(policy.admit(&peer, Role::Epmd, Audience::ItselfOnly), Err(Denial::NotForPeers));
    }

    #[test]
    fn a_peer_may_look_up_and_list_and_nothing_else() {
        let policy = policy(&["192.0.2.0/24", "192.0.2.3"], &[]);
        for peer in ["192.0.2.2", "192.0.2.3"] {
            let admission = admit(&policy, peer).unwrap();
            for opcode in [Opcode::PortPlease2, Opcode::Names] {
                assert_eq!(policy.may_ask(&admission, opcode), Ok(()));
            }
            for opcode in [Opcode::Alive2, Opcode::Dump, Opcode::Kill, Opcode::Stop] {
                assert_eq!(policy.may_ask(&admission, opcode), Err(Denial::LocalOnly(opcode)));
            }
            assert_eq!(
                policy.authorize_request(&admission, &Request::Kill),
                Err(Denial::LocalOnly(Opcode::Kill))
            );
        }
    }

    #[test]
    fn self_may_ask_what_epmd_lets_a_local_caller_ask_and_nothing_unknown() {
        let policy = policy(&[], &[]);
        let admission =
            policy.admit(&arrival("127.0.0.1", "127.0.1.1"), Role::Epmd, Audience::Peers).unwrap();
        for byte in 0..=255 {
            let known = b"xzndk".contains(&byte);
            assert_eq!(policy.may_ask(&admission, Opcode::from_byte(byte)).is_ok(), known, "{byte}");
        }
        // STOP is the exception: also self needs a relaxed epmd for it.
        assert_eq!(policy.may_ask(&admission, Opcode::Stop), Err(Denial::NotRelaxed));
        for stop in [StopRule::Relaxed, StopRule::Behind] {
            let policy = with_rules(Vec::new(), "1", EpmdRules { stop, ..EpmdRules::default() }, Vec::new());
            assert_eq!(policy.may_ask(&admission, Opcode::Stop), Ok(()));
        }
    }

    #[test]
    fn where_self_is_not_known_nobody_is_taken_for_this_host() {
        let known_at = |rules: Policy, epmd: SelfAt| {
            let self_at = Arc::new(SelfRules { epmd, dist: SelfAt::Everywhere });
            Policy { rules: Rules { self_at, ..rules.rules.clone() }, ..rules }
        };
        let loopback = SelfAt::Only(vec!["127.0.0.1".parse().unwrap()]);
        let nobody = known_at(policy(&[], &[]), loopback);
        for (peer, local) in [("127.0.0.6", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("::1", "::1")] {
            let relayed = nobody.admit(&arrival(peer, local), Role::Epmd, Audience::Peers);
            assert_eq!(relayed, Err(Denial::NotAllowed), "{peer} -> {local}");
            assert!(nobody.admit(&arrival(peer, local), Role::Dist, Audience::Peers).is_ok());
        }
        assert!(nobody.admit(&arrival("127.0.0.6", "127.0.0.1"), Role::Epmd, Audience::Peers).is_ok());
        let listed = known_at(policy(&["192.0.2.1"], &[]), SelfAt::Only(Vec::new()));
        let admission =
            listed.admit(&arrival("192.0.2.1", "192.0.2.1"), Role::Epmd, Audience::Peers).unwrap();
        assert_eq!(listed.may_ask(&admission, Opcode::Kill), Err(Denial::LocalOnly(Opcode::Kill)));
    }

    #[test]
    fn who_may_register_is_let_in_at_epmd_and_nowhere_else_and_may_do_nothing_else_of_self() {
        let epmd = EpmdRules { register_from: vec!["172.17.0.0/16".parse().unwrap()], ..Default::default() };
        let rule = |list, target: &str| Rule { list, target: target.parse().unwrap(), line: 1, peer: None };
        let rules = vec![rule(List::Deny, "172.17.0.66"), rule(List::Allow, "172.17.0.2")];
        let policy = with_rules(rules, "9100", epmd, Vec::new());
        let at = |role, peer| policy.admit(&arrival(peer, "192.0.2.1"), role, Audience::Peers);
        let container = at(Role::Epmd, "172.17.0.9").unwrap();
        assert_eq!(container.standing(), Standing::Registrant);
        for opcode in [Opcode::Alive2, Opcode::PortPlease2, Opcode::Names] {
            assert_eq!(policy.may_ask(&container, opcode), Ok(()));
        }
        for opcode in [Opcode::Dump, Opcode::Kill, Opcode::Stop] {
            assert_eq!(policy.may_ask(&container, opcode), Err(Denial::LocalOnly(opcode)));
        }
        assert_eq!(at(Role::Dist, "172.17.0.9"), Err(Denial::NotAllowed));
        assert!(matches!(at(Role::Epmd, "172.17.0.66"), Err(Denial::Denied(_))));
        let peer = at(Role::Dist, "172.17.0.2").unwrap();
        assert_eq!(policy.may_ask(&peer, Opcode::Alive2), Ok(()));
        assert_eq!(at(Role::Epmd, "172.18.0.1"), Err(Denial::NotAllowed));
        // What it has registered stays as long as it may register, and while nothing new is taken.
        assert_eq!(policy.with_intake(Intake::Draining).keeps_name(&container), Ok(()));
        let denied = Admission { peer: arrival("172.17.0.66", "192.0.2.1").peer, ..container };
        assert!(matches!(policy.keeps_name(&denied), Err(Denial::Denied(_))));
        let none = with_rules(Vec::new(), "9100", EpmdRules::default(), Vec::new());
        assert_eq!(none.keeps_name(&container), Err(Denial::LocalOnly(Opcode::Alive2)));
    }

    #[test]
    fn a_name_that_a_peer_may_not_reach_is_not_there_for_it_and_is_for_the_others() {
        let rule =
            |target: &str, peer| Rule { list: List::Allow, target: target.parse().unwrap(), line: 1, peer };
        let rules = || {
            vec![
                rule("192.0.2.2", Some(PeerId(0))),
                rule("192.0.2.3", Some(PeerId(1))),
                rule("192.0.2.4", None),
            ]
        };
        let patterns = NamePatterns::new([("web-*".parse().unwrap(), 1)]);
        let some = || vec![Reach(Some(patterns.clone())), Reach::default()];
        let policy = with_rules(rules(), "9100", EpmdRules::default(), some());
        let name = |text: &'static str| AliveName::new(text.as_bytes()).unwrap();
        let names = [name("web-1"), name("db")].map(NodeName::from);
        let (web, db) = (&names[..1], &names[1..]);
        let link = |nodes| LinkTarget { nodes, ..to(9100, 9100) };
        let bound = admit(&policy, "192.0.2.2").unwrap();
        assert_eq!(
            policy.authorize_request(&bound, &Request::PortPlease2(name("db"))),
            Err(Denial::NotReachable)
        );
        assert!(policy.authorize_request(&bound, &Request::PortPlease2(name("web-1"))).is_ok());
        assert!(policy.authorize_link(&bound, &link(web)).is_ok());
        // Also a node whose name is not known, and one that has another name too: a missing fact means no.
        for node in [db, &[], &names] {
            assert_eq!(policy.authorize_link(&bound, &link(node)), Err(Denial::NotReachable));
        }
        for free in ["192.0.2.3", "192.0.2.4", "192.0.2.1"] {
            let admission = admit(&policy, free).unwrap();
            assert!(policy.authorize_link(&admission, &link(&[])).is_ok(), "{free}");
            assert_eq!(policy.may_reach(&admission, Some(&names[1])), Ok(()), "{free}");
        }
        // A link that is up goes when the name is taken from its peer.
        let open = with_rules(rules(), "9100", EpmdRules::default(), vec![Reach::default(); 2]);
        let held = admit(&open, "192.0.2.2").unwrap();
        assert_eq!(policy.keeps(&held, &link(db), &open), Err(Denial::NotReachable));
        assert!(policy.keeps(&held, &link(web), &open).is_ok());
    }

    #[test]
    fn a_permit_leads_to_what_was_asked_for() {
        let policy = policy(&["192.0.2.2"], &[]);
        let admission = admit(&policy, "192.0.2.2").unwrap();
        let request = Request::PortPlease2(AliveName::new(b"a").unwrap());
        assert_eq!(policy.authorize_request(&admission, &request).unwrap().destination(), Destination::Epmd);
        let link = policy.authorize_link(&admission, &to(9100, 9100)).unwrap().permit;
        assert_eq!(link.destination(), Destination::Dist(9100));
        for (outside, inside) in [(9200, 9200), (9100, 5432)] {
            let refused = policy.authorize_link(&admission, &to(outside, inside));
            assert_eq!(refused, Err(Denial::PortNotOffered(outside)));
        }
    }

    #[test]
    fn a_forwarded_port_leads_to_its_own_number_and_serves_what_it_is_said_to_carry() {
        let forward =
            |kind, ports: &str| super::super::forward::ForwardRule { kind, ports: ports.parse().unwrap() };
        let all = vec![
            forward(ForwardKind::Dist, "5200-5201"),
            forward(ForwardKind::DistTls, "5300"),
            forward(ForwardKind::Tcp, "5370-5371"),
        ];
        let without = policy(&["192.0.2.2"], &[]);
        let forwards = Arc::new(ForwardRules(all));
        let with = Policy { rules: Rules { forwards, ..without.rules.clone() }, ..without.clone() };
        let admission = admit(&with, "192.0.2.2").unwrap();
        let ask = |policy: &Policy, role, outside, inside| {
            let target = LinkTarget { role, ..to(outside, inside) };
            policy.authorize_link(&admission, &target).map(|leave| leave.permit.destination())
        };
        for (port, own) in [(5201, Role::Dist), (5300, Role::DistTls), (5371, Role::Tcp)] {
            assert_eq!(with.role_at(port), Some(own));
            assert_eq!(with.offers(b"rpc-1-2", port), Ok(()), "whatever the name");
            assert_eq!(without.offers(b"a", port), Err(Withheld::NotListed));
            for role in [Role::Epmd, Role::Dist, Role::DistTls, Role::Tcp] {
                let no = Err(Denial::PortNotOffered(port));
                let yes = Ok(Destination::Forward(port));
                assert_eq!(ask(&with, role, port, port), if role == own { yes } else { no }, "{role} {port}");
                assert_eq!(ask(&with, role, port, 9100), no, "to another port");
                assert_eq!(ask(&with, role, 9100, port), Err(Denial::PortNotOffered(9100)));
                assert_eq!(ask(&without, role, port, port), no);
            }
        }
        assert_eq!(ask(&with, Role::Dist, 9100, 9100), Ok(Destination::Dist(9100)));
        assert_eq!(ask(&with, Role::Tcp, 9100, 9100), Err(Denial::PortNotOffered(9100)));
        assert_eq!((with.role_at(9100), with.role_at(5372)), (Some(Role::Dist), None));
        // A link that is up goes with its forward.
        let target = LinkTarget { role: Role::Tcp, ..to(5370, 5370) };
        assert!(with.keeps(&admission, &target, &with).is_ok());
        assert_eq!(without.keeps(&admission, &target, &with), Err(Denial::PortNotOffered(5370)));
    }

    #[test]
    fn a_guard_that_drains_takes_nothing_new_but_self() {
        let policy = policy(&["192.0.2.2"], &[]).with_intake(Intake::Draining);
        assert_eq!(admit(&policy, "192.0.2.2"), Err(Denial::Draining));
        assert!(policy.admit(&arrival("192.0.2.2", "192.0.2.1"), Role::Tunnel, Audience::Peers).is_ok());
        assert!(policy.admit(&arrival("127.0.0.1", "127.0.1.1"), Role::Epmd, Audience::Peers).is_ok());
        assert!(policy.admit(&arrival("192.0.2.1", "192.0.2.1"), Role::Epmd, Audience::ItselfOnly).is_ok());
    }

    #[test]
    fn a_link_stays_as_long_as_a_rule_lets_it_in_and_none_keeps_it_out() {
        let before = policy(&["192.0.2.0/24"], &[]);
        let link = admit(&before, "192.0.2.2").unwrap();
        let keeps = |after: &Policy| after.keeps(&link, &to(9100, 9100), &before);
        let named = keeps(&policy(&["192.0.2.2"], &[])).unwrap();
        assert!(matches!(named.standing(), Standing::NamedPeer(_)));
        assert!(keeps(&policy(&["0.0.0.0/0"], &["192.0.2.3"]).with_intake(Intake::Draining)).is_ok());
        assert_eq!(keeps(&policy(&["192.0.2.3"], &[])), Err(Denial::NotAllowed));
        assert!(matches!(keeps(&policy(&["192.0.2.0/24"], &["192.0.2.2"])), Err(Denial::Denied(_))));
        assert_eq!(before.keeps(&link, &to(9200, 9200), &before), Err(Denial::PortNotOffered(9200)));
        let itself = before.admit(&arrival("127.0.0.1", "127.0.1.1"), Role::Epmd, Audience::Peers).unwrap();
        assert_eq!(policy(&[], &["0.0.0.0/0"]).keeps(&itself, &to(1, 1), &before), Ok(itself));
    }

    #[test]
    fn a_link_by_host_name_stays_while_the_name_is_a_rule_whatever_the_name_means_now() {
        let rules = policy(&["h2.test"], &[]);
        let mut answers = HostAnswers::default();
        answers.insert(
            List::Allow,
            rules.network().host_names().next().unwrap().0,
            "192.0.2.2".parse().unwrap(),
        );
        let before = rules.with_answers(answers);
        let link = admit(&before, "192.0.2.2").unwrap();
        assert!(policy(&["h1.test", "h2.test"], &[]).keeps(&link, &to(9100, 9100), &before).is_ok());
        assert_eq!(policy(&["h1.test"], &[]).keeps(&link, &to(9100, 9100), &before), Err(Denial::NotAllowed));
        assert!(matches!(
            policy(&["h2.test"], &["192.0.2.2"]).keeps(&link, &to(9100, 9100), &before),
            Err(Denial::Denied(_))
        ));
    }

    #[test]
    fn a_peer_is_known_by_its_name_even_where_another_rule_is_closer() {
        let rule =
            |target: &str, peer| Rule { list: List::Allow, target: target.parse().unwrap(), line: 1, peer };
        let rules = vec![rule("192.0.2.2", None), rule("192.0.2.0/25", Some(PeerId(3)))];
        let policy = with_rules(rules, "1", EpmdRules::default(), Vec::new());
        let link = admit(&policy, "192.0.2.2").unwrap();
        assert!(matches!(link.standing(), Standing::NamedPeer(_)));
        assert_eq!(policy.peer_of(&link), Some(PeerId(3)));
        assert_eq!(admit(&policy, "192.0.2.200"), Err(Denial::NotAllowed));
    }

    #[test]
    fn each_denial_has_a_label_and_a_stage_of_its_own() {
        let rule = policy(&["h1"], &[]).network().host_names().next().unwrap().0;
        let all = [
            Denial::NotAllowed,
            Denial::Denied(rule),
            Denial::DenyUnresolved,
            Denial::NotForPeers,
            Denial::Draining,
            Denial::Full(Full::Total),
            Denial::Full(Full::Address),
            Denial::Full(Full::Subnet),
            Denial::LocalOnly(Opcode::Kill),
            Denial::UnknownOpcode(1),
            Denial::NotRelaxed,
            Denial::TooManyNames,
            Denial::NotReachable,
            Denial::PortNotOffered(1),
        ];
        let labels: std::collections::HashSet<_> = all.iter().map(|d| d.label()).collect();
        assert_eq!(labels.len(), all.len());
        assert_eq!((Denial::NotAllowed.stage(), Denial::UnknownOpcode(1).stage()), ("admit", "authorize"));
    }
}
