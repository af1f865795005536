//! Which ports should be open: what follows from the configuration and from what is known of this host.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::nodes::Offered;
use crate::config::{Config, EpmdBackend, ListenOn};
use crate::control::addresses::Addresses;
use crate::policy::{Audience, SelfAt};
use crate::session::{Role, Service};

/// What a port is to serve, whom, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) role: Role,
    pub(super) service: Service,
}

/// The ports that should be open.
pub(super) fn wanted(
    config: &Config,
    addresses: &Addresses,
    offered: &[Offered],
) -> HashMap<SocketAddr, Wanted> {
    let epmd = &config.epmd;
    let mut wanted = HashMap::new();
    let mut want = |addr: SocketAddr, role: Role, service: Service| {
        let audience = service.audience;
        let place = wanted.entry(addr).or_insert(Wanted { role, service });
        // An address that is listed and is our own name's is for peers.
        place.service.audience = place.service.audience.max(audience);
    };
    let epmd_inside = epmd.backend.addr().map_or(0, |addr| addr.port());
    for (on, port) in &epmd.listen {
        let mut places = reachable(*on, addresses);
        if epmd.backend == EpmdBackend::Embedded {
            // Where nodes register (`erl_epmd:do_register_node`).
            places.extend(addresses.loopbacks.iter().map(|ip| (*ip, Audience::ItselfOnly)));
        }
        for (ip, audience) in places {
            let addr = SocketAddr::new(ip, *port);
            let Some(audience) = told_apart(audience, &epmd.self_at, ip) else { continue };
            if epmd.backend.addr() != Some(addr) {
                want(addr, Role::Epmd, Service { audience, inside: epmd_inside, nodes: Arc::default() });
            }
        }
    }
    for Offered { inside, outside, nodes, .. } in offered {
        let Some(outside) = outside else { continue };
        let way = config.way_to(*inside);
        for (ip, audience) in way.listen.iter().flat_map(|on| reachable(*on, addresses)) {
            let Some(audience) = told_apart(audience, &config.dist.self_at, ip) else { continue };
            if !way.backend.contains(&ip) {
                let service = Service { audience, inside: *inside, nodes: Arc::clone(nodes) };
                want(SocketAddr::new(ip, *outside), way.role, service);
            }
        }
    }
    wanted
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
fn reachable(on: ListenOn, addresses: &Addresses) -> Vec<(IpAddr, Audience)> {
    let listed = match on {
        ListenOn::Everywhere => addresses.interfaces.clone(),
        ListenOn::Ip(ip) => vec![ip],
    };
    // Where epmd and the nodes are.
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let own = addresses.own_names.iter().filter(|ip| !loopbacks.contains(ip));
    let peers = listed.into_iter().map(|ip| (ip, Audience::Peers));
    peers.chain(own.map(|ip| (*ip, Audience::ItselfOnly))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::epmd::AliveName;

    fn offered(inside: u16, outside: u16) -> Offered {
        let node = AliveName::new(b"a").unwrap().into();
        Offered { inside, outside: Some(outside), node: Some(node), nodes: Arc::default() }
    }

    #[test]
    fn each_address_serves_epmd_and_the_offered_ports_and_own_names_serve_self() {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let addresses = Addresses {
            interfaces: vec!["192.0.2.1".parse().unwrap()],
            own_names: vec!["127.0.1.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            loopbacks: vec!["127.0.0.1".parse().unwrap()],
        };
        let wanted = wanted(&config, &addresses, &[offered(43211, 9100)]);
        let mut shown: Vec<_> = wanted
            .iter()
            .map(|(addr, w)| format!("{addr} {} {:?} {}", w.role, w.service.audience, w.service.inside))
            .collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                "127.0.0.1:4369 epmd ItselfOnly 0",
                "127.0.1.1:4369 epmd ItselfOnly 0",
                "127.0.1.1:9100 dist ItselfOnly 43211",
                "192.0.2.1:4369 epmd Peers 0",
                "192.0.2.1:9100 dist Peers 43211",
            ]
        );
    }
}
