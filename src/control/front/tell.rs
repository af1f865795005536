//! What the front tells after each look: which ports are open, and everything about them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::wanted::Wanted;
use super::{Blocked, Exposed, Front, FrontView, ListenerView, Look, Obstacle, replace};
use crate::config::EpmdBackend;
use crate::session::{Offer, Offers, PortState, Role};

impl Front {
    pub(super) fn tell_offers(&self, wanted: &HashMap<SocketAddr, Wanted>, exposed: &[Exposed]) {
        let ports = wanted.iter().filter(|(_, wanted)| !matches!(wanted.role, Role::Epmd | Role::Tunnel));
        let offer = |(addr, wanted): (&SocketAddr, &Wanted)| {
            let is_open = self.open.contains_key(addr);
            let state = if is_open { PortState::Open(wanted.service.audience) } else { PortState::Blocked };
            ((addr.ip(), wanted.service.inside), Offer { outside: addr.port(), state })
        };
        let mut offers: Offers = ports.map(offer).collect();
        // A node that listens on an address of this host's own is never reached through us: its answer need
        // not wait. At an alias the number is a peer's.
        let ours = wanted.iter().filter(|(_, wanted)| wanted.service.toward.is_none()).map(|(addr, _)| addr);
        for (addr, node) in ours.flat_map(|addr| exposed.iter().map(move |node| (addr, node))) {
            let shut = Offer { outside: node.port, state: PortState::Blocked };
            offers.entry((addr.ip(), node.port)).or_insert(shut);
        }
        replace(&self.channels.ports.offers, offers);
    }

    /// `held` are the ports that their own nodes have.
    pub(super) fn tell_view(&self, look: &Look, held: &HashSet<SocketAddr>) {
        let blocked = |addr: &SocketAddr| {
            if held.contains(addr) {
                return Blocked::ByItsNode;
            }
            let known = self.obstacles.get(addr).and_then(Obstacle::summary);
            Blocked::Otherwise(known.unwrap_or_else(|| "it could not be opened yet".to_owned()))
        };
        let mut listeners: Vec<ListenerView> = look
            .wanted
            .iter()
            .map(|(addr, Wanted { role, service })| ListenerView {
                role: *role,
                addr: *addr,
                audience: service.audience,
                inside: service.inside,
                node: service.node().cloned(),
                nodes: Arc::clone(&service.nodes),
                toward: service.toward.clone(),
                blocked: (!self.open.contains_key(addr)).then(|| blocked(addr)),
            })
            .collect();
        listeners.sort_by_key(|view| (view.role != Role::Epmd, view.addr));
        let is_embedded = self.context.snapshot().config.epmd.backend == EpmdBackend::Embedded;
        let unplaced = look.offered.iter().filter(|offer| offer.outside.is_none());
        let view = FrontView {
            looked: true,
            is_blind: false,
            listeners,
            own_names: self.addresses.borrow().own_names.clone(),
            exposed: self.exposed.told(),
            unplaced: unplaced.filter_map(|offer| Some((offer.node.clone()?, offer.inside))).collect(),
            epmd_answers: if is_embedded { Some(true) } else { self.names.answers() },
        };
        replace(&self.channels.view, view);
    }
}
