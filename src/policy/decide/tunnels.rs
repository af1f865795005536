//! Who may come plain and who by a tunnel, whatever the rules are: against the same said in another way.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::dist::PortRule;
use super::super::network::RuleBook;
use super::super::rules::EpmdRules;
use super::*;

/// Peers, each with an address, `192.0.2.10` and so on, and with a certificate, `h0` and so on.
const PEERS: u8 = 3;

const ROLES: [Role; 4] = [Role::Epmd, Role::Dist, Role::DistTls, Role::Tcp];

/// The modes of the peers, that of whoever is none, and which peer each certificate's name is of.
#[derive(Debug, Clone)]
struct Facts {
    modes: Vec<TlsMode>,
    default: TlsMode,
    owners: Vec<u8>,
}

impl Facts {
    fn policy(&self) -> Policy {
        let allow =
            |target: String, peer| Rule { list: List::Allow, target: target.parse().unwrap(), line: 1, peer };
        let mut rules: Vec<Rule> =
            (0..PEERS).map(|at| allow(format!("192.0.2.{}", 10 + at), Some(PeerId(at.into())))).collect();
        rules.push(allow("198.51.100.0/24".to_owned(), None));
        let names_of = |peer: u8| {
            let names = (0..).zip(&self.owners).filter(move |(_, owner)| **owner == peer);
            names.map(|(name, _)| san(name)).collect()
        };
        let of_peers = (0..PEERS).zip(&self.modes).map(|(peer, mode)| (names_of(peer), *mode)).collect();
        let epmd = EpmdRules { register_from: vec!["172.17.0.0/16".parse().unwrap()], ..Default::default() };
        Policy::new(Rules {
            network: Arc::new(NetworkRules::new(RuleBook::new(rules))),
            dist: Arc::new(DistRules {
                ports: PortRule::Listed("9100".parse().unwrap()),
                names: Default::default(),
            }),
            forwards: Arc::default(),
            epmd: Arc::new(epmd),
            reach: Vec::new().into(),
            self_at: Arc::default(),
            nodes: Arc::default(),
            identities: Arc::new(IdentityRules::new(of_peers, self.default)),
            mode: Mode::default(),
        })
    }

    /// The mode of what comes from an address: `Some` is a peer's.
    fn mode_at(&self, peer: Option<u8>) -> TlsMode {
        peer.map_or(self.default, |peer| self.modes[usize::from(peer)])
    }

    /// What a certificate with these names makes of whoever comes from the address of this peer, or of none.
    fn identity(&self, from: Option<u8>, names: &[u8]) -> Result<PeerId, Denial> {
        let owners: BTreeSet<u8> =
            names.iter().filter_map(|name| self.owners.get(usize::from(*name)).copied()).collect();
        let mut owners = owners.into_iter().filter(|owner| *owner < PEERS);
        let Some(owner) = owners.next() else { return Err(Denial::UnknownIdentity) };
        let peer = PeerId(owner.into());
        match (owners.next(), from) {
            (Some(_), _) => Err(Denial::SeveralIdentities),
            (None, Some(from)) if from != owner => Err(Denial::IdentityOfAnother(peer)),
            (None, _) if self.mode_at(Some(owner)) == TlsMode::Off => Err(Denial::TlsOff),
            (None, _) => Ok(peer),
        }
    }
}

fn san(name: u8) -> San {
    San::Dns(format!("h{name}"))
}

fn arrival(from: Option<u8>) -> Arrival {
    let ip = from.map_or("198.51.100.7".to_owned(), |peer| format!("192.0.2.{}", 10 + peer));
    Arrival { peer: socket(&ip), local: socket("192.0.2.1") }
}

fn socket<T: From<SocketAddr>>(ip: &str) -> T {
    SocketAddr::new(ip.parse().unwrap(), 9100).into()
}

fn link(sans: &[San]) -> LinkTarget<'_> {
    LinkTarget { role: Role::Dist, outside: 9100, inside: 9100, nodes: &[], speech: Speech::Closed, sans }
}

fn mode() -> impl Strategy<Value = TlsMode> {
    prop_oneof![Just(TlsMode::Off), Just(TlsMode::Optional), Just(TlsMode::Required)]
}

/// A name whose owner is [`PEERS`] or more is nobody's.
fn facts() -> impl Strategy<Value = Facts> {
    let modes = prop::collection::vec(mode(), usize::from(PEERS));
    let owners = prop::collection::vec(0..PEERS + 1, 5);
    (modes, mode(), owners).prop_map(|(modes, default, owners)| Facts { modes, default, owners })
}

fn from() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(0..PEERS)
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..7, 0..4)
}

fn at_tunnel(policy: &Policy, from: Option<u8>) -> Admission {
    policy.admit(&arrival(from), Role::Tunnel, Audience::Peers).unwrap()
}

proptest! {
    #[test]
    fn plain_is_refused_of_whom_it_is_required_and_of_nobody_else(facts in facts(), from in from()) {
        let policy = facts.policy();
        for role in ROLES {
            let admitted = policy.admit(&arrival(from), role, Audience::Peers);
            if facts.mode_at(from) == TlsMode::Required {
                prop_assert_eq!(admitted, Err(Denial::TlsRequired));
            } else {
                prop_assert_eq!(admitted.map(|admission| admission.carrier()), Ok(Carrier::Plain));
            }
            for ip in ["127.0.0.1", "192.0.2.1"] {
                let own = Arrival { peer: socket(ip), local: socket(ip) };
                let admission = policy.admit(&own, role, Audience::ItselfOnly).unwrap();
                prop_assert_eq!(admission.standing(), Standing::Itself);
                prop_assert_eq!(policy.keeps(&admission, &link(&[]), &policy), Ok(admission));
            }
        }
        // The tunnel's own listener asks the certificate, and takes nobody for this host.
        at_tunnel(&policy, from);
        let own = Arrival { peer: socket("127.0.0.1"), local: socket("127.0.0.1") };
        prop_assert_eq!(policy.admit(&own, Role::Tunnel, Audience::Peers), Err(Denial::NotAllowed));
        // A container has no guard, and gets at names alone.
        let container = Arrival { peer: socket("172.17.0.2"), local: socket("192.0.2.1") };
        let registrant = policy.admit(&container, Role::Epmd, Audience::Peers).unwrap();
        prop_assert_eq!(registrant.standing(), Standing::Registrant);
    }

    #[test]
    fn a_tunnel_is_of_the_one_peer_that_its_certificate_names(facts in facts(), from in from(), names in names()) {
        let policy = facts.policy();
        let admission = at_tunnel(&policy, from);
        let sans: Vec<San> = names.iter().map(|name| san(*name)).collect();
        let identified = policy.identify(&admission, &sans);
        prop_assert_eq!(identified.map(|of| of.carrier()), facts.identity(from, &names).map(Carrier::Tunnel));
        if let Ok(of) = identified {
            prop_assert_eq!(policy.peer_of(&of), facts.identity(from, &names).ok());
            prop_assert_eq!((of.peer(), of.standing()), (admission.peer(), admission.standing()));
            // What it carries is not judged as plain, and goes no further to other peers.
            prop_assert!(policy.authorize_link(&of, &link(&sans)).is_ok());
            prop_assert_eq!(policy.authorize_way(&of, PeerId(0), None), Err(Denial::NotForPeers));
        }
    }

    #[test]
    fn a_link_stays_as_long_as_it_could_come_again_the_same_way(
        before in facts(), after in facts(), from in from(), names in names(),
    ) {
        let (old, new) = (before.policy(), after.policy());
        let sans: Vec<San> = names.iter().map(|name| san(*name)).collect();
        if let Ok(of) = old.identify(&at_tunnel(&old, from), &sans) {
            let kept = new.keeps(&of, &link(&sans), &old);
            prop_assert_eq!(kept.map(|of| of.carrier()), after.identity(from, &names).map(Carrier::Tunnel));
            // Without the certificate it cannot be told whose it is.
            prop_assert_eq!(new.keeps(&of, &link(&[]), &old), Err(Denial::UnknownIdentity));
        }
        if let Ok(plain) = old.admit(&arrival(from), Role::Dist, Audience::Peers) {
            let kept = new.keeps(&plain, &link(&[]), &old).map(|of| of.carrier());
            let is_required = after.mode_at(from) == TlsMode::Required;
            prop_assert_eq!(kept, if is_required { Err(Denial::TlsRequired) } else { Ok(Carrier::Plain) });
        }
    }
}

#[test]
fn a_peer_of_tunnels_whose_address_is_not_known_does_not_come_plain_from_the_network_that_it_is_in() {
    let facts =
        Facts { modes: vec![TlsMode::Required; 3], default: TlsMode::Optional, owners: vec![0, 1, 2] };
    let known = facts.policy();
    let mut rules: Vec<Rule> = known.network().book().iter().map(|(_, rule)| rule.clone()).collect();
    rules[0].target = "h0.example.net".parse().unwrap();
    let network = Arc::new(NetworkRules::new(RuleBook::new(rules)));
    let named = Policy::new(Rules { network, ..known.rules.clone() });
    let unknown = |policy: &Policy| policy.admit(&arrival(None), Role::Dist, Audience::Peers);
    assert!(unknown(&known).is_ok());
    assert_eq!(unknown(&named), Err(Denial::TlsRequired));
    assert_eq!(named.unplaced_peer(None), Some(PeerId(0)));
    assert!(named.admit(&arrival(None), Role::Tunnel, Audience::Peers).is_ok());
    let own = Arrival { peer: socket("127.0.0.1"), local: socket("127.0.0.1") };
    assert!(named.admit(&own, Role::Dist, Audience::ItselfOnly).is_ok());
    let mut answers = HostAnswers::default();
    answers.insert(
        List::Allow,
        named.network().host_names().next().unwrap().0,
        "192.0.2.10".parse().unwrap(),
    );
    let placed = named.with_answers(answers);
    let link_of_network = unknown(&placed).unwrap();
    // What a resolver says is no reason to cut.
    assert!(named.keeps(&link_of_network, &link(&[]), &placed).is_ok());
}

#[test]
fn only_this_host_goes_out_to_peers() {
    let facts = Facts { modes: vec![TlsMode::Required; 3], default: TlsMode::Off, owners: vec![0, 1, 2] };
    let policy = facts.policy();
    let own = Arrival { peer: socket("127.0.0.1"), local: socket("127.0.0.12") };
    let itself = policy.admit(&own, Role::Dist, Audience::ItselfOnly).unwrap();
    let way = |admission, port| policy.authorize_way(admission, PeerId(1), port);
    assert_eq!(way(&itself, Some(9100)).unwrap().destination(), Destination::Peer(PeerId(1), 9100));
    assert_eq!(way(&itself, None).unwrap().destination(), Destination::PeerEpmd(PeerId(1)));
    let stranger = policy.admit(&arrival(None), Role::Dist, Audience::Peers).unwrap();
    assert_eq!(way(&stranger, Some(9100)), Err(Denial::NotForPeers));
}
