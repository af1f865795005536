//! Which ports should be open: what follows from the configuration and from what is known of this host.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::nodes::Offered;
use crate::config::{Config, EpmdBackend, ListenOn};
use crate::control::addresses::Addresses;
use crate::policy::{Audience, PortRule, SelfAt};
use crate::proto::epmd::NodeName;
use crate::session::{Role, Service};

/// What a port is to serve, whom, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) role: Role,
    pub(super) service: Service,
}

/// Ports that are open at an alias whether or not they were looked up; more of them open when they are.
pub(super) const FIXED_EACH: usize = 1024;

/// The ports that should be open. `left_alone`: whether a port at an alias is to be free for somebody of this host.
pub(super) fn wanted(
    config: &Config,
    addresses: &Addresses,
    offered: &[Offered],
    left_alone: impl Fn(SocketAddr) -> bool,
) -> HashMap<SocketAddr, Wanted> {
    // An alias stands for its peer, whatever else leads there.
    let mut wanted: HashMap<_, _> = at_aliases(config, left_alone).collect();
    let mut want = |addr: SocketAddr, role: Role, service: Service| {
        let audience = service.audience;
        let place = wanted.entry(addr).or_insert(Wanted { role, service });
        if place.role == role {
            // An address that is listed and is our own name's is for peers.
            place.service.audience = place.service.audience.max(audience);
        }
    };
    want_epmd(config, addresses, &mut want);
    for (on, port) in config.tls.files.iter().flat_map(|_| &config.tls.listen) {
        // This host has no tunnel with itself.
        let places = reachable(*on, addresses, config);
        for (ip, _) in places.into_iter().filter(|(_, audience)| *audience == Audience::Peers) {
            let service = behind_us(Audience::PeersOnly, 0, &Arc::default());
            want(SocketAddr::new(ip, *port), Role::Tunnel, service);
        }
    }
    for Offered { inside, outside, nodes, .. } in offered {
        let Some(outside) = outside else { continue };
        let way = config.way_to(*inside);
        for (ip, audience) in way.listen.iter().flat_map(|on| reachable(*on, addresses, config)) {
            let Some(audience) = told_apart(audience, &config.dist.self_at, ip) else { continue };
            if !way.backend.contains(&ip) {
                want(SocketAddr::new(ip, *outside), way.role, behind_us(audience, *inside, nodes));
            }
        }
    }
    wanted
}

fn want_epmd(config: &Config, addresses: &Addresses, mut want: impl FnMut(SocketAddr, Role, Service)) {
    let epmd = &config.epmd;
    let epmd_inside = epmd.backend.addr().map_or(0, |addr| addr.port());
    for (on, port) in &epmd.listen {
        let mut places = reachable(*on, addresses, config);
        if epmd.backend == EpmdBackend::Embedded {
            // Where nodes register (`erl_epmd:do_register_node`).
            places.extend(addresses.loopbacks.iter().map(|ip| (*ip, Audience::ItselfOnly)));
        }
        for (ip, audience) in places {
            let addr = SocketAddr::new(ip, *port);
            let Some(audience) = told_apart(audience, &epmd.self_at, ip) else { continue };
            if epmd.backend.addr() != Some(addr) {
                want(addr, Role::Epmd, behind_us(audience, epmd_inside, &Arc::default()));
            }
        }
    }
}

fn behind_us(audience: Audience, inside: u16, nodes: &Arc<[NodeName]>) -> Service {
    Service { audience, inside, nodes: Arc::clone(nodes), toward: None }
}

/// What stands for a peer's port, for the nodes of this host.
pub(super) fn toward(peer: &Arc<str>, inside: u16) -> Service {
    let (audience, toward) = (Audience::ItselfOnly, Some(Arc::clone(peer)));
    Service { audience, inside, nodes: Arc::default(), toward }
}

/// The ports at the aliases that are open whether or not they were looked up. Where nodes find each other by epmd, those of
/// nodes are not among them: a node of this host that listens on every address could not take such a number any more,
/// and each opens when it is looked up, as another number if need be.
fn at_aliases(
    config: &Config,
    left_alone: impl Fn(SocketAddr) -> bool,
) -> impl Iterator<Item = (SocketAddr, Wanted)> {
    let epmd: Vec<(u16, Role)> = config.epmd.listen.iter().map(|(_, port)| (*port, Role::Epmd)).collect();
    let is_told = |role: Role| !epmd.is_empty() && role.has_handshake();
    let mut places = Vec::new();
    for peer in config.peers.iter().filter(|peer| !peer.alias.is_empty()) {
        let name: Arc<str> = peer.name.as_str().into();
        for ip in &peer.alias {
            let at = |(port, role): (u16, Role)| {
                let inside = if role == Role::Epmd { 0 } else { port };
                (SocketAddr::new(*ip, port), Wanted { role, service: toward(&name, inside) })
            };
            let fixed = fixed_ports(config).take(FIXED_EACH).map(at);
            places.extend(fixed.filter(|(addr, wanted)| !is_told(wanted.role) && !left_alone(*addr)));
            // Where a port is in both, epmd's it is.
            places.extend(epmd.iter().copied().map(at));
        }
    }
    places.into_iter()
}

/// The ports that are the same on each host of the cluster: those of each `[[forward]]`, and of `[dist] ports` where
/// they are listed.
pub(super) fn fixed_ports(config: &Config) -> impl Iterator<Item = (u16, Role)> + '_ {
    let dist = match &config.dist.rules.ports {
        PortRule::Listed(ports) => Some((ports, Role::Dist)),
        PortRule::Registered { .. } => None,
    };
    let forwards = config.forwards.iter().map(|forward| (&forward.ports, forward.kind.role()));
    let all = forwards.chain(dist);
    all.flat_map(|(ports, role)| ports.iter_ranges().flatten().map(move |port| (port, role)))
}

/// Whom a listener is for where this host itself is known there, or not. `None`: for nobody.
fn told_apart(audience: Audience, self_at: &SelfAt, listener: IpAddr) -> Option<Audience> {
    match (audience, self_at.covers(listener)) {
        (audience, true) => Some(audience),
        (Audience::Peers | Audience::PeersOnly, false) => Some(Audience::PeersOnly),
        (Audience::ItselfOnly, false) => None,
    }
}

/// The addresses that are listed, for peers, and the ones of this host's own names, for itself.
fn reachable(on: ListenOn, addresses: &Addresses, config: &Config) -> Vec<(IpAddr, Audience)> {
    let listed = match on {
        ListenOn::Everywhere => addresses.interfaces.clone(),
        ListenOn::Ip(ip) => vec![ip],
    };
    // Where epmd and the nodes are.
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let own = addresses.own_names.iter().filter(|ip| !loopbacks.contains(ip));
    let peers = listed.into_iter().map(|ip| (ip, Audience::Peers));
    let all = peers.chain(own.map(|ip| (*ip, Audience::ItselfOnly)));
    all.filter(|(ip, _)| config.stands_for(*ip).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsFiles;
    use crate::proto::epmd::AliveName;

    fn offered(inside: u16, outside: u16) -> Offered {
        let node = AliveName::new(b"a").unwrap().into();
        Offered { inside, outside: Some(outside), node: Some(node), nodes: Arc::default() }
    }

    fn shown(wanted: &HashMap<SocketAddr, Wanted>) -> Vec<String> {
        let place = |(addr, wanted): (&SocketAddr, &Wanted)| {
            let Service { audience, inside, toward, .. } = &wanted.service;
            let toward = toward.as_ref().map_or_else(String::new, |peer| format!(" -> {peer}"));
            format!("{addr} {} {audience:?} {inside}{toward}", wanted.role)
        };
        let mut shown: Vec<String> = wanted.iter().map(place).collect();
        shown.sort();
        shown
    }

    #[test]
    fn each_address_serves_epmd_and_the_offered_ports_and_own_names_serve_self() {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let addresses = Addresses {
            interfaces: vec!["192.0.2.1".parse().unwrap()],
            own_names: vec!["127.0.1.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            loopbacks: vec!["127.0.0.1".parse().unwrap()],
        };
        let wanted = wanted(&config, &addresses, &[offered(43211, 9100)], |_| false);
        assert_eq!(
            shown(&wanted),
            [
                "127.0.0.1:4369 epmd ItselfOnly 0",
                "127.0.1.1:4369 epmd ItselfOnly 0",
                "127.0.1.1:9100 dist ItselfOnly 43211",
                "192.0.2.1:4369 epmd Peers 0",
                "192.0.2.1:9100 dist Peers 43211",
            ]
        );
    }

    /// A host with two peers that have aliases, one of them an address of an interface.
    fn with_aliases(file: &str) -> (Config, Addresses) {
        let peer =
            |name: &str, net: u8| format!("[[peer]]\nname = \"{name}\"\naddresses = [\"192.0.2.{net}\"]\n");
        let file = format!("{file}{}{}", peer("h2", 2), peer("h3", 3));
        let mut config = crate::config::from_text("test", &file, &Default::default()).unwrap().config;
        config.peers[0].alias = vec!["127.0.0.12".parse().unwrap()];
        config.peers[1].alias = vec!["fd00::13".parse().unwrap()];
        let addresses = Addresses {
            interfaces: vec!["192.0.2.1".parse().unwrap(), "fd00::13".parse().unwrap()],
            own_names: vec!["127.0.0.12".parse().unwrap(), "127.0.1.1".parse().unwrap()],
            loopbacks: vec![],
        };
        (config, addresses)
    }

    #[test]
    fn aliases_serve_epmd_and_the_fixed_ports_for_self_and_nothing_of_ours_is_there() {
        let file = "[dist]\nports = [9100]\nself = \"none\"\n[[forward]]\nkind = \"tcp\"\nports = 5370\n";
        let (config, addresses) = with_aliases(file);
        let offered = [offered(9100, 9100)];
        let everywhere = wanted(&config, &addresses, &offered, |_| false);
        let expected = [
            "127.0.0.12:4369 epmd ItselfOnly 0 -> h2",
            "127.0.0.12:5370 tcp ItselfOnly 5370 -> h2",
            "127.0.1.1:4369 epmd ItselfOnly 0",
            "192.0.2.1:4369 epmd Peers 0",
            "192.0.2.1:9100 dist PeersOnly 9100",
            "[fd00::13]:4369 epmd ItselfOnly 0 -> h3",
            "[fd00::13]:5370 tcp ItselfOnly 5370 -> h3",
        ];
        assert_eq!(shown(&everywhere), expected);
        // A number that somebody of this host needs on every address is left to them.
        let left = wanted(&config, &addresses, &offered, |addr| addr.ip().is_loopback());
        let expected: Vec<&str> =
            expected.into_iter().filter(|place| !place.starts_with("127.0.0.12:5370")).collect();
        assert_eq!(shown(&left), expected);
        // This host is known at the aliases all the same.
        let rules = config.rules();
        for role in [Role::Epmd, Role::Dist] {
            assert!(config.peers.iter().all(|peer| rules.self_at.of(role).covers(peer.alias[0])));
        }
        assert!(!rules.self_at.of(Role::Dist).covers("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn without_an_epmd_the_fixed_ports_are_wanted_unless_they_are_left_alone() {
        let (config, addresses) = with_aliases("[epmd]\nlisten = []\n[dist]\nports = \"5210\"\n");
        let expected =
            ["127.0.0.12:5210 dist ItselfOnly 5210 -> h2", "[fd00::13]:5210 dist ItselfOnly 5210 -> h3"];
        assert_eq!(shown(&wanted(&config, &addresses, &[], |_| false)), expected);
        assert_eq!(shown(&wanted(&config, &addresses, &[], |_| true)), Vec::<String>::new());
    }

    #[test]
    fn tunnels_are_taken_for_peers_alone_and_only_with_a_certificate() {
        let (mut config, addresses) = with_aliases("[epmd]\nlisten = []\n[dist]\nports = 1\n");
        config.peers.clear();
        config.tls.listen = vec![(ListenOn::Everywhere, 4371)];
        assert_eq!(shown(&wanted(&config, &addresses, &[], |_| false)), Vec::<String>::new());
        let path = || std::path::PathBuf::from("/etc/x.pem");
        config.tls.files = Some(TlsFiles { cert: path(), key: path(), ca: path(), crl: vec![] });
        let expected = ["192.0.2.1:4371 tunnel PeersOnly 0", "[fd00::13]:4371 tunnel PeersOnly 0"];
        assert_eq!(shown(&wanted(&config, &addresses, &[], |_| false)), expected);
    }
}
