//! The decisions, and the values that prove that they were made.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::limits::Full;
use super::network::{HostAnswers, List, NetworkRules, Rule, RuleId};
use super::{LocalAddr, PeerAddr};
use crate::proto::epmd::{Opcode, Request};

/// What is known of a connection when it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Who connected.
    pub peer: PeerAddr,
    /// Where to.
    pub local: LocalAddr,
}

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// This host alone: the listener stands where only the host's own names lead.
    ItselfOnly,
    /// Peers too.
    Peers,
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
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No rule of `allow` covers the address.
    NotAllowed,
    /// A rule of `deny` does.
    Denied(RuleId),
    /// A host name of `deny` has not been resolved yet, so that nobody can be told from it.
    DenyUnresolved,
    /// The listener is for this host alone.
    NotForPeers,
    /// Too many connections.
    Full(Full),
    /// Only this host may ask that of epmd.
    LocalOnly(Opcode),
    /// Nobody may ask that of epmd.
    UnknownOpcode(u8),
}

impl Denial {
    /// The reason, as it stands in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Denied(_) => "denied",
            Self::DenyUnresolved => "deny_unresolved",
            Self::NotForPeers => "not_for_peers",
            Self::Full(Full::Total) => "too_many_connections",
            Self::Full(Full::Address) => "too_many_from_address",
            Self::Full(Full::Subnet) => "too_many_from_subnet",
            Self::LocalOnly(_) => "local_only",
            Self::UnknownOpcode(_) => "unknown_opcode",
        }
    }

    /// The stage of the walk that said no.
    #[must_use]
    pub fn stage(self) -> &'static str {
        match self {
            Self::NotAllowed | Self::Denied(_) | Self::DenyUnresolved | Self::NotForPeers | Self::Full(_) => {
                "admit"
            }
            Self::LocalOnly(_) | Self::UnknownOpcode(_) => "authorize",
        }
    }
}

/// Proof that a connection may be here. What it may ask is decided later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    peer: PeerAddr,
    standing: Standing,
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
}

/// Where a permit leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The epmd behind us.
    Epmd,
    /// The distribution port of this number behind us.
    Dist(u16),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epmd => f.write_str("epmd"),
            Self::Dist(port) => write!(f, "distribution port {port}"),
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
    network: Arc<NetworkRules>,
    answers: Arc<HostAnswers>,
}

impl Policy {
    /// The rules, with no host name resolved yet.
    #[must_use]
    pub fn new(network: NetworkRules) -> Self {
        let mut answers = HostAnswers::default();
        if network.host_names().any(|(_, list, _)| list == List::Deny) {
            answers.expect_more_of_deny();
        }
        Self { network: Arc::new(network), answers: Arc::new(answers) }
    }

    /// The same rules with other answers of the resolver.
    #[must_use]
    pub fn with_answers(&self, answers: HostAnswers) -> Self {
        Self { network: Arc::clone(&self.network), answers: Arc::new(answers) }
    }

    /// The rules by address.
    #[must_use]
    pub fn network(&self) -> &NetworkRules {
        &self.network
    }

    /// What the resolver last said.
    #[must_use]
    pub fn answers(&self) -> &HostAnswers {
        &self.answers
    }

    /// The rule of an id that this policy gave.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.network.book().get(id)
    }

    /// May this connection be here at all? Decided before a byte is read. Self always may; then
    /// `deny` goes before `allow`; then no rule means no.
    ///
    /// # Errors
    /// No rule lets it in, one keeps it out or is not known yet, or the listener is for self alone.
    pub fn admit(&self, arrival: &Arrival, audience: Audience) -> Result<Admission, Denial> {
        let peer = arrival.peer;
        let ip = peer.ip();
        if is_self(arrival) {
            return Ok(Admission { peer, standing: Standing::Itself });
        }
        if audience == Audience::ItselfOnly {
            return Err(Denial::NotForPeers);
        }
        if let Some(rule) = self.find(List::Deny, ip) {
            return Err(Denial::Denied(rule));
        }
        if self.answers.is_deny_pending() {
            return Err(Denial::DenyUnresolved);
        }
        let rule = self.find(List::Allow, ip).ok_or(Denial::NotAllowed)?;
        let standing = if self.rule(rule).is_some_and(Rule::names_a_host) {
            Standing::NamedPeer(rule)
        } else {
            Standing::NetworkPeer(rule)
        };
        Ok(Admission { peer, standing })
    }

    /// Would this address be let in as a peer?
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.find(List::Deny, ip).is_none() && self.find(List::Allow, ip).is_some()
    }

    /// Where a rule covers an address in both ways, the one for the address itself is named.
    fn find(&self, list: List, ip: IpAddr) -> Option<RuleId> {
        self.answers.find(list, ip).or_else(|| self.network.find(list, ip))
    }

    /// May it ask this of epmd? Decided when the opcode is known, before its request is whole.
    /// A peer may look names up and list them; through a relay epmd would take everybody for local
    /// and obey the rest too.
    ///
    /// # Errors
    /// Only this host may, or nobody.
    pub fn may_ask(&self, admission: &Admission, opcode: Opcode) -> Result<(), Denial> {
        match (opcode, admission.standing) {
            (Opcode::Unknown(byte), _) => Err(Denial::UnknownOpcode(byte)),
            (Opcode::PortPlease2 | Opcode::Names, _)
            | (Opcode::Alive2 | Opcode::Dump | Opcode::Kill | Opcode::Stop, Standing::Itself) => Ok(()),
            (
                Opcode::Alive2 | Opcode::Dump | Opcode::Kill | Opcode::Stop,
                Standing::NamedPeer(_) | Standing::NetworkPeer(_),
            ) => Err(Denial::LocalOnly(opcode)),
        }
    }

    /// May this request go to epmd?
    ///
    /// # Errors
    /// As [`Policy::may_ask`].
    pub fn authorize_request(&self, admission: &Admission, request: &Request<'_>) -> Result<Permit, Denial> {
        self.may_ask(admission, request.opcode())?;
        Ok(Permit { destination: Destination::Epmd })
    }

    /// May this connection reach the distribution port that it dialled?
    ///
    /// # Errors
    /// None yet: whoever is admitted may.
    pub fn authorize_link(&self, _admission: &Admission, port: u16) -> Result<Permit, Denial> {
        Ok(Permit { destination: Destination::Dist(port) })
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
mod tests {
    use super::super::network::RuleBook;
    use super::*;
    use crate::proto::epmd::AliveName;

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let rule =
            |list| move |(line, text): (u32, &&str)| Rule { list, target: text.parse().unwrap(), line };
        let mut rules: Vec<Rule> = (1..).zip(allow).map(rule(List::Allow)).collect();
        rules.extend((100..).zip(deny).map(rule(List::Deny)));
        Policy::new(NetworkRules::new(RuleBook::new(rules)))
    }

    fn arrival(peer: &str, local: &str) -> Arrival {
        let socket = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4369);
        Arrival { peer: socket(peer).into(), local: socket(local).into() }
    }

    fn admit(policy: &Policy, peer: &str) -> Result<Admission, Denial> {
        policy.admit(&arrival(peer, "192.0.2.1"), Audience::Peers)
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
            let admission = policy.admit(&arrival(peer, local), Audience::ItselfOnly).unwrap();
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
        assert!(policy.admit(&peer, Audience::Peers).is_ok());
        assert_eq!(policy.admit(&peer, Audience::ItselfOnly), Err(Denial::NotForPeers));
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
        let admission = policy.admit(&arrival("127.0.0.1", "127.0.1.1"), Audience::Peers).unwrap();
        for byte in 0..=255 {
            let known = b"xzndks".contains(&byte);
            assert_eq!(policy.may_ask(&admission, Opcode::from_byte(byte)).is_ok(), known, "{byte}");
        }
    }

    #[test]
    fn a_permit_leads_to_what_was_asked_for() {
        let policy = policy(&["192.0.2.2"], &[]);
        let admission = admit(&policy, "192.0.2.2").unwrap();
        let request = Request::PortPlease2(AliveName::new(b"a").unwrap());
        assert_eq!(policy.authorize_request(&admission, &request).unwrap().destination(), Destination::Epmd);
        assert_eq!(policy.authorize_link(&admission, 9100).unwrap().destination(), Destination::Dist(9100));
    }

    #[test]
    fn each_denial_has_a_label_and_a_stage_of_its_own() {
        let rule = policy(&["h1"], &[]).network().host_names().next().unwrap().0;
        let all = [
            Denial::NotAllowed,
            Denial::Denied(rule),
            Denial::DenyUnresolved,
            Denial::NotForPeers,
            Denial::Full(Full::Total),
            Denial::Full(Full::Address),
            Denial::Full(Full::Subnet),
            Denial::LocalOnly(Opcode::Kill),
            Denial::UnknownOpcode(1),
        ];
        let labels: std::collections::HashSet<_> = all.iter().map(|d| d.label()).collect();
        assert_eq!(labels.len(), all.len());
        assert_eq!((Denial::NotAllowed.stage(), Denial::UnknownOpcode(1).stage()), ("admit", "authorize"));
    }
}
