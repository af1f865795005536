//! The nodes behind us: the names that epmd told, as long as something listens at their ports.
//!
//! A node stays when epmd forgets its name, for epmd forgets all of them for 2 s when it restarts; it goes
//! with its socket, even where another program takes the same port at once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::{DistRules, PortRule, PortSet};
use crate::proto::epmd::NodeName;
use crate::session::Sighting;
use crate::transport::sockets::Listening;

/// How long nothing must have been seen behind a port until it closes: one look may miss a socket, since
/// the kernel's table changes while it is told.
pub(super) const MISSED_FOR: Duration = Duration::from_millis(150);
/// Names of one port that are kept; epmd itself allows any number.
const NAMES_EACH: usize = 8;
/// Outside ports that are remembered for names that may come back.
const REMEMBERED: usize = 4096;

/// The listening sockets of each port that may be a node's, by their numbers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Behind {
    /// Those that a connection to a backend address reaches.
    reached: HashMap<u16, HashSet<u64>>,
    /// Where there are none of these: others that are not the guard's. A node that listens only on an
    /// address of this host's own is there.
    elsewhere: HashMap<u16, HashSet<u64>>,
}

/// What listens behind us. `ours` tells the guard's own sockets, which are nobody's node wherever they are.
/// `backends` are where a port is dialled.
pub(super) fn behind<'c>(
    listening: &[Listening],
    backends: impl Fn(u16) -> &'c [IpAddr],
    ours: impl Fn(&SocketAddr) -> bool,
) -> Behind {
    let mut behind = Behind::default();
    let theirs = listening.iter().filter(|socket| !ours(&socket.addr));
    let (reached, others): (Vec<&Listening>, Vec<&Listening>) =
        theirs.partition(|socket| backends(socket.addr.port()).iter().any(|ip| socket.covers(*ip)));
    for socket in reached {
        behind.reached.entry(socket.addr.port()).or_default().insert(socket.inode);
    }
    for socket in others {
        let port = socket.addr.port();
        if !behind.reached.contains_key(&port) {
            behind.elsewhere.entry(port).or_default().insert(socket.inode);
        }
    }
    behind
}

impl Behind {
    fn at(&self, port: u16) -> Option<&HashSet<u64>> {
        self.reached.get(&port).or_else(|| self.elsewhere.get(&port))
    }

    /// Whether the socket may be that of the node at its port: where something listens on a backend
    /// address, another socket of the same number is somebody else's.
    pub(super) fn may_be_a_nodes(&self, socket: &Listening) -> bool {
        self.at(socket.addr.port()).is_some_and(|sockets| sockets.contains(&socket.inode))
    }

    /// The ports that no backend address has.
    pub(super) fn ports_elsewhere(&self) -> impl Iterator<Item = u16> + '_ {
        self.elsewhere.keys().copied()
    }
}

/// The nodes behind us.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    by_port: HashMap<u16, Node>,
    /// Where names were offered, so that a node that comes back is found at the same port.
    outside: HashMap<NodeName, u16>,
}

#[derive(Debug, Clone)]
struct Node {
    /// In the order in which they were learned: whoever registers another name at a node's port does not
    /// rename the node.
    names: Vec<NodeName>,
    /// There were more than are kept.
    is_crowded: bool,
    sockets: HashSet<u64>,
    missed_since: Option<Instant>,
}

/// A node's port and where it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offered {
    /// The node's own port.
    pub(super) inside: u16,
    /// The port of ours that leads there; `None`: none of `[dist] outside` was left.
    pub(super) outside: Option<u16>,
    /// The node's name, where it is known.
    pub(super) node: Option<NodeName>,
    /// All its names, this one first; see [`Service::nodes`](crate::session::Service::nodes).
    pub(super) nodes: Arc<[NodeName]>,
}

impl Nodes {
    /// Takes in what epmd told of a name; it counts where something listens at its port.
    /// Of too many names at one port, those that `rules` offer are kept.
    pub(super) fn learn(&mut self, seen: &Sighting, behind: &Behind, rules: &DistRules) {
        let Some(sockets) = behind.at(seen.port) else { return };
        let name = seen.name.clone();
        let is_offered = |name: &NodeName| rules.names.judge(name.as_bytes()).is_offered();
        // A name is at one port: it has moved from where nothing listens now.
        self.by_port.retain(|port, node| {
            if *port != seen.port && node.missed_since.is_some() {
                node.names.retain(|known| *known != name);
            }
            !node.names.is_empty()
        });
        let node = self.by_port.entry(seen.port).or_insert_with(|| Node {
            names: Vec::new(),
            is_crowded: false,
            sockets: sockets.clone(),
            missed_since: None,
        });
        if node.names.contains(&name) {
            return;
        }
        if node.names.len() >= NAMES_EACH {
            node.is_crowded = true;
            let Some(place) = node.names.iter().position(|known| !is_offered(known)) else { return };
            node.names.remove(place);
        }
        node.names.push(name);
    }

    /// Whether the node at this port of its own has this name.
    pub(super) fn knows(&self, name: &NodeName, port: u16) -> bool {
        self.by_port.get(&port).is_some_and(|node| node.names.contains(name))
    }

    /// Forgets a name whose registration at the embedded epmd has ended.
    pub(super) fn forget(&mut self, name: &NodeName, port: u16) {
        if let Entry::Occupied(mut node) = self.by_port.entry(port) {
            node.get_mut().names.retain(|known| known != name);
            if node.get().names.is_empty() {
                node.remove();
            }
        }
    }

    /// Forgets the nodes whose sockets have gone. Where two sockets have one number, either may be the
    /// node's.
    pub(super) fn keep(&mut self, behind: &Behind, now: Instant) {
        let none = HashSet::new();
        self.by_port.retain(|port, node| {
            let sockets = behind.at(*port).unwrap_or(&none);
            if node.sockets.is_subset(sockets) {
                node.missed_since = None;
                return true;
            }
            let since = *node.missed_since.get_or_insert(now);
            sockets.is_subset(&node.sockets) && now.duration_since(since) < MISSED_FOR
        });
    }

    /// The name of the node at this port of its own, where epmd told it.
    fn name_at(&self, port: u16) -> Option<NodeName> {
        self.by_port.get(&port).and_then(|node| node.names.first().cloned())
    }

    /// All its names. Where there are more than are kept, none of them is told: who may reach some names only
    /// must not come to a node by a name that was dropped.
    pub(super) fn names_at(&self, port: u16) -> Arc<[NodeName]> {
        match self.by_port.get(&port) {
            Some(node) if !node.is_crowded => node.names.as_slice().into(),
            Some(_) | None => Arc::default(),
        }
    }

    /// What leads to a node's port, by this name if it is known.
    fn offer(&self, inside: u16, outside: Option<u16>, node: Option<NodeName>) -> Offered {
        let mut nodes = self.names_at(inside);
        if let Some(shown) = &node
            && nodes.first() != Some(shown)
            && nodes.contains(shown)
        {
            let others = nodes.iter().filter(|name| *name != shown);
            nodes = std::iter::once(shown).chain(others).cloned().collect();
        }
        Offered { inside, outside, node, nodes }
    }

    /// The nodes whose names no rule leaves out, whatever their ports.
    pub(super) fn that_may_be_named<'a>(
        &'a self,
        rules: &'a DistRules,
    ) -> impl Iterator<Item = (u16, NodeName)> + 'a {
        self.by_port.iter().filter_map(|(port, node)| {
            let name = node.names.iter().find(|name| rules.names.judge(name.as_bytes()).is_offered())?;
            Some((*port, name.clone()))
        })
    }

    /// Those of `ports` that something listens at, whatever is registered there.
    pub(super) fn listed(&self, ports: &PortSet, behind: &Behind) -> Vec<Offered> {
        let listed = behind.reached.keys().filter(|port| ports.contains(**port));
        listed.map(|port| self.offer(*port, Some(*port), self.name_at(*port))).collect()
    }

    /// The ports to be offered, in the order of their numbers.
    pub(super) fn offered(&mut self, rules: &DistRules, behind: &Behind) -> Vec<Offered> {
        let mut offered: Vec<Offered> = match &rules.ports {
            PortRule::Listed(ports) => self.listed(ports, behind),
            PortRule::Registered { range, outside } => {
                let is_reached = |port: &u16| range.contains(*port) && !behind.elsewhere.contains_key(port);
                let named = self.that_may_be_named(rules).filter(|(port, _)| is_reached(port));
                let named: Vec<(u16, NodeName)> = named.collect();
                match outside {
                    None => named
                        .into_iter()
                        .map(|(port, name)| self.offer(port, Some(port), Some(name)))
                        .collect(),
                    Some(outside) => self.remap(named, outside),
                }
            }
        };
        // A node that was missed keeps its place for a while, and is offered when it is seen again.
        offered.retain(|offer| behind.reached.contains_key(&offer.inside));
        offered.sort_by_key(|offer| offer.inside);
        offered
    }

    /// Gives each node a port of `outside`: the one that its name had before, or one that no other name
    /// had, or any that is free.
    fn remap(&mut self, mut named: Vec<(u16, NodeName)>, outside: &PortSet) -> Vec<Offered> {
        named.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
        let mut used: HashSet<u16> = HashSet::new();
        let mut given: Vec<Option<u16>> = Vec::with_capacity(named.len());
        for (_, name) in &named {
            let before = self.outside.get(name).copied().filter(|port| outside.contains(*port));
            given.push(before.filter(|port| used.insert(*port)));
        }
        let remembered: HashSet<u16> = self.outside.values().copied().collect();
        let mut fresh = outside.iter_ranges().flatten().filter(|port| !remembered.contains(port));
        let mut any = outside.iter_ranges().flatten();
        for place in given.iter_mut().filter(|place| place.is_none()) {
            *place = fresh.next().or_else(|| any.find(|port| !used.contains(port)));
            used.extend(*place);
        }
        if self.outside.len() > REMEMBERED {
            self.outside.clear();
        }
        let mut offered = Vec::with_capacity(named.len());
        for ((inside, name), outside) in named.into_iter().zip(given) {
            // For an instant a name may be at two ports; the first of them has the one that is remembered.
            let is_second =
                offered.last().is_some_and(|before: &Offered| before.node.as_ref() == Some(&name));
            if let Some(port) = outside.filter(|_| !is_second) {
                // Whose place it was finds another one when it comes back.
                self.outside.retain(|other, held| *held != port || *other == name);
                self.outside.insert(name.clone(), port);
            }
            let offer = self.offer(inside, outside, Some(name));
            offered.push(offer);
        }
        offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::epmd::AliveName;

    fn listening(sockets: &[(u16, u64)]) -> Behind {
        let mut behind = Behind::default();
        for (port, inode) in sockets {
            behind.reached.entry(*port).or_default().insert(*inode);
        }
        behind
    }

    fn seen(name: &str, port: u16) -> Sighting {
        Sighting { name: AliveName::new(name.as_bytes()).unwrap().into(), port }
    }

    fn registered(range: &str, outside: Option<&str>) -> DistRules {
        let ports = PortRule::Registered {
            range: range.parse().unwrap(),
            outside: outside.map(|set| set.parse().unwrap()),
        };
        DistRules { ports, names: Default::default() }
    }

    fn shown(offered: &[Offered]) -> Vec<String> {
        let shown = |o: &Offered| {
            format!(
                "{}={}->{:?}",
                o.node.as_ref().map_or("-".to_owned(), ToString::to_string),
                o.outside.unwrap_or(0),
                o.inside
            )
        };
        offered.iter().map(shown).collect()
    }

    #[test]
    fn a_name_counts_while_its_own_socket_listens_and_no_longer() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", None));
        let start = Instant::now();
        let mut behind = listening(&[(43211, 7)]);
        nodes.learn(&seen("a", 43211), &behind, &rules);
        nodes.learn(&seen("ghost", 43212), &behind, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &behind)), ["a=43211->43211"]);
        // A look that misses it is no end, a longer absence is.
        nodes.keep(&Behind::default(), start);
        nodes.keep(&behind, start + MISSED_FOR * 2);
        nodes.keep(&Behind::default(), start + MISSED_FOR * 3);
        assert_eq!(nodes.offered(&rules, &behind).len(), 1);
        nodes.keep(&Behind::default(), start + MISSED_FOR * 4);
        assert_eq!(nodes.offered(&rules, &behind), []);
        // Another program takes the port at once.
        nodes.learn(&seen("a", 43211), &behind, &rules);
        behind = listening(&[(43211, 8)]);
        nodes.keep(&behind, start);
        assert_eq!(nodes.offered(&rules, &behind), []);
    }

    #[test]
    fn a_node_whose_number_another_program_has_too_goes_when_its_own_socket_may_have_gone() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", None));
        let start = Instant::now();
        let both = listening(&[(43211, 7), (43211, 8)]);
        nodes.learn(&seen("a", 43211), &both, &rules);
        nodes.keep(&both, start);
        let other = listening(&[(43211, 8)]);
        nodes.keep(&other, start);
        nodes.keep(&other, start + MISSED_FOR);
        assert_eq!(nodes.offered(&rules, &other), []);
        // One that came later is somebody else's, and no sign of the node.
        nodes.learn(&seen("a", 43211), &other, &rules);
        nodes.keep(&both, start);
        assert_eq!(nodes.offered(&rules, &both).len(), 1);
        let later = listening(&[(43211, 7)]);
        nodes.keep(&later, start);
        assert_eq!(nodes.offered(&rules, &later), []);
    }

    #[test]
    fn a_node_on_an_address_of_the_hosts_own_is_known_and_not_offered() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", None));
        let mut behind = Behind::default();
        behind.elsewhere.entry(43211).or_default().insert(7);
        nodes.learn(&seen("a", 43211), &behind, &rules);
        assert_eq!(nodes.that_may_be_named(&rules).count(), 1);
        assert_eq!(nodes.offered(&rules, &behind), []);
    }

    #[test]
    fn a_name_that_moves_takes_its_outside_port_along() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", Some("9100-9101")));
        let start = Instant::now();
        for (from, to) in [((40001, 1), (40002, 2)), ((40002, 2), (40001, 3))] {
            let before = listening(&[from]);
            nodes.learn(&seen("a", from.0), &before, &rules);
            nodes.offered(&rules, &before);
            // The new one is there at the first look that misses the old one.
            let after = listening(&[to]);
            nodes.keep(&after, start);
            nodes.learn(&seen("a", to.0), &after, &rules);
            assert_eq!(shown(&nodes.offered(&rules, &after)), [format!("a=9100->{}", to.0)]);
            nodes.keep(&Behind::default(), start);
            nodes.keep(&Behind::default(), start + MISSED_FOR);
        }
        // A name that is at two ports for an instant keeps what it had.
        let both = listening(&[(40001, 4), (40002, 5)]);
        nodes.learn(&seen("a", 40001), &both, &rules);
        nodes.offered(&rules, &both);
        nodes.learn(&seen("a", 40002), &both, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &both)), ["a=9100->40001", "a=9101->40002"]);
        let one = listening(&[(40002, 5)]);
        nodes.keep(&one, start);
        nodes.keep(&one, start + MISSED_FOR);
        assert_eq!(shown(&nodes.offered(&rules, &one)), ["a=9100->40002"]);
    }

    #[test]
    fn helpers_and_ports_outside_of_the_range_get_none() {
        let (mut nodes, rules) = (Nodes::default(), registered("40000-50000", None));
        let behind = listening(&[(43211, 1), (43212, 2), (5432, 3)]);
        for (name, port) in [("ejabberd", 43211), ("abc-ctl-ejabberd", 43212), ("postgres", 5432)] {
            nodes.learn(&seen(name, port), &behind, &rules);
        }
        assert_eq!(shown(&nodes.offered(&rules, &behind)), ["ejabberd=43211->43211"]);
    }

    #[test]
    fn listed_ports_are_offered_whatever_is_registered_and_named_where_it_is_known() {
        let mut nodes = Nodes::default();
        let rules =
            DistRules { ports: PortRule::Listed("9100-9105".parse().unwrap()), names: Default::default() };
        let behind = listening(&[(9100, 1), (9101, 2), (9200, 3)]);
        nodes.learn(&seen("a", 9101), &behind, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &behind)), ["-=9100->9100", "a=9101->9101"]);
    }

    #[test]
    fn a_node_that_comes_back_has_its_outside_port_again() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", Some("9100-9101")));
        let start = Instant::now();
        let both = listening(&[(40001, 1), (40002, 2)]);
        nodes.learn(&seen("b", 40001), &both, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &both)), ["b=9100->40001"]);
        nodes.learn(&seen("a", 40002), &both, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &both)), ["b=9100->40001", "a=9101->40002"]);
        let again = listening(&[(40002, 2), (40003, 3), (40004, 4)]);
        nodes.keep(&again, start);
        nodes.keep(&again, start + MISSED_FOR);
        nodes.learn(&seen("b", 40003), &again, &rules);
        nodes.learn(&seen("c", 40004), &again, &rules);
        assert_eq!(
            shown(&nodes.offered(&rules, &again)),
            ["a=9101->40002", "b=9100->40003", "c=0->40004"],
            "none is left for c"
        );
        // The place of a name that is gone is taken when there is no other.
        let without = listening(&[(40002, 2), (40004, 4)]);
        nodes.keep(&without, start + MISSED_FOR * 3);
        nodes.keep(&without, start + MISSED_FOR * 4);
        assert_eq!(shown(&nodes.offered(&rules, &without)), ["a=9101->40002", "c=9100->40004"]);
    }

    #[test]
    fn a_name_that_comes_back_takes_no_place_of_another_that_is_there() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", Some("9100")));
        let start = Instant::now();
        let look = |sockets: &[(u16, u64)]| listening(sockets);
        let first = look(&[(40001, 1)]);
        nodes.learn(&seen("b", 40001), &first, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &first)), ["b=9100->40001"]);
        let second = look(&[(40002, 2)]);
        nodes.keep(&second, start);
        nodes.keep(&second, start + MISSED_FOR);
        nodes.learn(&seen("c", 40002), &second, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &second)), ["c=9100->40002"]);
        let both = look(&[(40002, 2), (40003, 3)]);
        nodes.keep(&both, start);
        nodes.learn(&seen("b", 40003), &both, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &both)), ["c=9100->40002", "b=0->40003"]);
    }

    #[test]
    fn other_names_at_a_port_neither_rename_its_node_nor_keep_it_out() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", None));
        let behind = listening(&[(40001, 1), (40002, 2)]);
        nodes.learn(&seen("ejabberd", 40001), &behind, &rules);
        nodes.learn(&seen("aaa", 40001), &behind, &rules);
        for helper in 0..2 * NAMES_EACH {
            nodes.learn(&seen(&format!("rpc-{helper}-x"), 40002), &behind, &rules);
        }
        nodes.learn(&seen("rabbit", 40002), &behind, &rules);
        assert_eq!(shown(&nodes.offered(&rules, &behind)), ["ejabberd=40001->40001", "rabbit=40002->40002"]);
    }

    #[test]
    fn all_names_of_a_port_are_told_the_offered_one_first_and_none_where_one_was_dropped() {
        let (mut nodes, rules) = (Nodes::default(), registered("1024-65535", None));
        let behind = listening(&[(40001, 1)]);
        let names = |nodes: &mut Nodes| {
            let offered = nodes.offered(&rules, &behind);
            let names: Vec<_> = offered[0].nodes.iter().map(ToString::to_string).collect();
            (offered[0].node.clone().unwrap().to_string(), names.join(" "))
        };
        for name in ["rpc-1-x", "web", "db"] {
            nodes.learn(&seen(name, 40001), &behind, &rules);
        }
        assert_eq!(names(&mut nodes), ("web".to_owned(), "web rpc-1-x db".to_owned()));
        for other in 3..NAMES_EACH {
            nodes.learn(&seen(&format!("web{other}"), 40001), &behind, &rules);
        }
        assert_eq!(nodes.names_at(40001).len(), NAMES_EACH);
        nodes.learn(&seen("web", 40001), &behind, &rules);
        assert_eq!(nodes.names_at(40001).len(), NAMES_EACH, "it is known already");
        nodes.learn(&seen("secret", 40001), &behind, &rules);
        assert_eq!(names(&mut nodes), ("web".to_owned(), String::new()));
    }
}
