//! Whether the hosts of the cluster let each other in. Erlang clusters are full meshes: `global` (OTP 25 and
//! later) disconnects healthy nodes when one pair cannot talk, so that one rule that is missing on one host may
//! split a cluster that works without it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::converse::{NoAnswer, converse};
use crate::policy::{PeerId, Policy, Target};
use crate::proto::epmd::Request;
use crate::session::{AskError, Context, Snapshot, Snapshots};
use crate::transport::{Dialer, tunnel};

/// How often each peer is asked.
const EVERY: Duration = Duration::from_secs(30);
/// How soon it is asked again after another answer than before, which may have been chance.
const AGAIN: Duration = Duration::from_secs(2);
/// For each question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Peers that are asked at one time: one that is away takes its time.
const AT_ONCE: usize = 16;
/// What is read of an answer. That there is one says all, and a peer may send what it likes.
const ENOUGH: u64 = 16 * 1024;
/// Addresses of one peer that are asked.
const ADDRESSES_EACH: usize = 4;

/// What is known of the way between this host and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Each lets the other in.
    Open,
    /// The peer's guard closes on us.
    TheyRefuse,
    /// The guards do not come together by a tunnel: one of them refuses the other one, for this reason, as it stands in
    /// logs.
    NoTunnel(&'static str),
    /// A rule of ours keeps the peer out, or none lets it in.
    WeRefuse,
    /// The peer's guard takes our question and has no epmd that answers it, as before its first node starts.
    Silent,
    /// Nobody answers there.
    Unreached,
}

impl Way {
    /// In a few words, for `status`.
    #[must_use]
    pub fn label(self) -> Cow<'static, str> {
        let label = match self {
            Self::Open => "open both ways",
            Self::TheyRefuse => "its guard does not let this host in",
            Self::NoTunnel(reason) => return format!("no tunnel: {reason}").into(),
            Self::WeRefuse => "this host does not let it in",
            Self::Silent => "let in, but no epmd answers there",
            Self::Unreached => "not reached",
        };
        label.into()
    }

    /// Whether it splits a cluster.
    #[must_use]
    pub fn is_gap(self) -> bool {
        matches!(self, Self::TheyRefuse | Self::NoTunnel(_) | Self::WeRefuse)
    }

    /// What to do about it.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Self::TheyRefuse => {
                "let this host's address in on that host ([cluster] allow, or a [[peer]]), or end its drain: a cluster is \
                 a full mesh, and one pair that cannot talk splits it"
            }
            Self::NoTunnel(_) => {
                "see the reasons of tunnels in docs/logs.md; where the peer refuses, its own log has a `closed` with \
                 role=tunnel and the exact reason: a certificate, [tls] ca or crl, or [[peer]] identity. A cluster is a \
                 full mesh, and one pair that cannot talk splits it"
            }
            Self::WeRefuse => {
                "take the peer's address out of [cluster] deny, or the [[peer]] out of the file: a cluster is a full \
                 mesh, and one pair that cannot talk splits it"
            }
            Self::Open | Self::Silent | Self::Unreached => "",
        }
    }
}

/// The ways to the peers of the configuration, by their names.
pub type Mesh = BTreeMap<String, Way>;

/// Follows the ways to the peers for ever. A peer's guard is asked for its names, as any node would: that it
/// answers means that it lets this host in.
pub async fn follow_mesh(context: Arc<Context>, snapshots: Snapshots, known: watch::Sender<Mesh>) {
    let mut suspected = Mesh::new();
    let mut news = snapshots.subscribe();
    loop {
        let generation = news.borrow_and_update().generation;
        let now = look(&context, &snapshots).await;
        let steady = now == suspected;
        let next = believe(&known.borrow(), &suspected, &now);
        suspected = now;
        tell(&known.borrow(), &next);
        known.send_replace(next);
        tokio::select! {
            () = tokio::time::sleep(if steady { EVERY } else { AGAIN }) => {}
            // What the resolver says alone is no reason to ask sooner.
            Ok(_) = news.wait_for(|snapshot| snapshot.generation != generation) => {}
        }
    }
}

/// What is believed of each peer after two looks: what both found, or else what was believed before. One peer that
/// comes and goes keeps nothing from being told of the others.
fn believe(before: &Mesh, first: &Mesh, second: &Mesh) -> Mesh {
    let believed = second.iter().filter_map(|(peer, way)| {
        let way = if first.get(peer) == Some(way) { *way } else { *before.get(peer)? };
        Some((peer.clone(), way))
    });
    believed.collect()
}

fn tell(before: &Mesh, now: &Mesh) {
    for (peer, way) in now {
        let was = before.get(peer).copied();
        if way.is_gap() && was != Some(*way) {
            tracing::warn!(
                peer,
                pair = format!("this host and {peer}"),
                why = &*way.label(),
                help = way.help(),
                "mesh_gap"
            );
        } else if !way.is_gap() && was.is_some_and(Way::is_gap) {
            tracing::info!(peer, "mesh_gap_closed");
        }
    }
}

async fn look(context: &Arc<Context>, snapshots: &Snapshots) -> Mesh {
    let snapshot = snapshots.current();
    let port = snapshot.config.epmd.listen.first().map(|(_, port)| *port);
    let mut mesh = Mesh::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for (at, peer) in (0..).zip(&snapshot.config.peers) {
        let addresses = addresses_of(&snapshot.policy, PeerId(at));
        if addresses.is_empty() {
            // A network is no host that could be asked.
            continue;
        }
        if addresses.iter().any(|ip| !snapshot.policy.allows(*ip)) {
            mesh.insert(peer.name.clone(), Way::WeRefuse);
        } else if snapshot.dialer.way(PeerId(at)).is_some_and(|way| is_by_tunnel(way, &snapshot.dialer)) {
            let (name, turns) = (peer.name.clone(), Arc::clone(&turns));
            let (snapshot, context) = (Arc::clone(&snapshot), Arc::clone(context));
            asking.spawn(async move {
                let _turn = turns.acquire().await;
                (name, way_by_tunnel(PeerId(at), (&snapshot, &context)).await)
            });
        } else if let Some(port) = port {
            let (name, turns, snapshot) = (peer.name.clone(), Arc::clone(&turns), Arc::clone(&snapshot));
            asking.spawn(async move {
                let _turn = turns.acquire().await;
                (name, way_to(&addresses, port, &snapshot.dialer).await)
            });
        }
        // Without an epmd there is nobody to be asked: a node would take a question for a handshake.
    }
    while let Some(asked) = asking.join_next().await {
        mesh.extend(asked);
    }
    mesh
}

/// Whether nodes come to it by a tunnel, and it to us: a plain question might be refused there. Where there is no guard yet
/// it is asked plain all the same.
fn is_by_tunnel(way: &tunnel::Way, dialer: &Dialer) -> bool {
    dialer.has_tunnel(way) && !way.connect.is_empty()
}

async fn way_by_tunnel(peer: PeerId, (snapshot, context): (&Snapshot, &Context)) -> Way {
    let names = Request::Names.encode();
    let permit = Policy::own_question(peer);
    let asking = context.ask_peer(&permit, snapshot, names.get(2..).unwrap_or_default());
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(answer)) if answer.is_empty() => Way::Silent,
        Ok(Ok(_)) => Way::Open,
        Ok(Err(AskError::Refused { reason, .. })) => Way::NoTunnel(reason),
        Ok(Err(
            AskError::NoWay
            | AskError::TooMany
            | AskError::NoAnswer
            | AskError::Unreachable(_)
            | AskError::NoGuard(_),
        ))
        | Err(_) => Way::Unreached,
    }
}

/// The addresses of a peer that are known one by one.
#[must_use]
pub fn addresses_of(policy: &Policy, peer: PeerId) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (id, rule) in policy.network().book().of_peer(peer) {
        match &rule.target {
            Target::Net(net) if net.prefix_len() == net.max_prefix_len() => found.push(net.addr()),
            Target::Net(_) => {}
            Target::Host(_) => found.extend(policy.answers().addresses(id)),
        }
    }
    found.truncate(ADDRESSES_EACH);
    found
}

async fn way_to(addresses: &[IpAddr], port: u16, dialer: &Dialer) -> Way {
    let mut way = Way::Unreached;
    for ip in addresses {
        match try_way(SocketAddr::new(*ip, port), dialer).await {
            Way::Open => return Way::Open,
            Way::TheyRefuse => way = Way::TheyRefuse,
            Way::Silent if way == Way::Unreached => way = Way::Silent,
            Way::Silent | Way::WeRefuse | Way::NoTunnel(_) | Way::Unreached => {}
        }
    }
    way
}

async fn try_way(epmd: SocketAddr, dialer: &Dialer) -> Way {
    match converse(epmd, Request::Names, dialer, (PATIENCE, ENOUGH)).await {
        // Who is not let in is reset; this is what a guard does whose epmd is away.
        Ok(answer) if answer.is_empty() => Way::Silent,
        Err(NoAnswer::Reset) => Way::TheyRefuse,
        Ok(_) | Err(NoAnswer::TooLong) => Way::Open,
        Err(NoAnswer::Silent) => Way::Unreached,
    }
}

/// A host of the cluster: its name, its addresses and its rules.
#[derive(Debug)]
pub struct MeshHost {
    /// What it is called.
    pub name: String,
    /// Where it dials from.
    pub addresses: Dials,
    /// Its rules.
    pub policy: Policy,
}

/// The addresses that a host dials from.
#[derive(Debug, Clone)]
pub enum Dials {
    /// These, as the configuration says: all of them must be let in.
    From(Vec<IpAddr>),
    /// Some of these, which are all that the host has, those of other networks and of a family that no node uses too:
    /// it is enough that one is let in.
    FromSomeOf(Vec<IpAddr>),
}

/// One host does not let another one in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The host that refuses.
    pub by: String,
    /// The host that it refuses.
    pub whom: String,
    /// The address that it refuses.
    pub address: IpAddr,
    /// The rule that keeps it out, if it is one and not the lack of one.
    pub rule: Option<String>,
}

impl Dials {
    /// The addresses, whatever is needed of them.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        let (Self::From(addresses) | Self::FromSomeOf(addresses)) = self;
        addresses
    }

    /// The addresses for want of which the host cannot dial another one with this policy.
    fn refused_by(&self, policy: &Policy) -> Vec<IpAddr> {
        let all = self.addresses();
        let refused: Vec<IpAddr> = all.iter().copied().filter(|ip| !policy.allows(*ip)).collect();
        match self {
            Self::FromSomeOf(_) if refused.len() < all.len() => Vec::new(),
            Self::From(_) | Self::FromSomeOf(_) => refused,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, whom, address, rule } = self;
        write!(f, "{by} and {whom} would split the cluster: {by} does not let {address} of {whom} in, ")?;
        match rule {
            Some(rule) => write!(f, "by its {rule}"),
            None => write!(f, "for want of a rule"),
        }
    }
}

/// The pairs of hosts that cannot talk, when each runs with its own rules.
#[must_use]
pub fn gaps(hosts: &[MeshHost]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for by in hosts {
        for whom in hosts.iter().filter(|whom| whom.name != by.name) {
            let refused = whom.addresses.refused_by(&by.policy);
            gaps.extend(refused.into_iter().map(|ip| Gap {
                by: by.name.clone(),
                whom: whom.name.clone(),
                address: ip,
                rule: by.policy.denying_rule(ip).map(ToString::to_string),
            }));
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, address: &str, text: &str) -> MeshHost {
        let config = crate::config::from_text("test", text, &Default::default()).unwrap().config;
        let policy = Policy::new(config.rules());
        MeshHost { name: name.to_owned(), addresses: Dials::From(vec![address.parse().unwrap()]), policy }
    }

    #[test]
    fn the_pair_that_would_split_the_cluster_is_named_with_what_splits_it() {
        let all = "cluster.allow = [\"192.0.2.0/24\"]";
        let hosts = [
            host("h1", "192.0.2.1", all),
            host("h2", "192.0.2.2", "cluster.allow = [\"192.0.2.0/24\"]\ncluster.deny = [\"192.0.2.3\"]"),
            host("h3", "192.0.2.3", "cluster.allow = [\"192.0.2.2\"]"),
        ];
        let shown: Vec<String> = gaps(&hosts).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "h2 and h3 would split the cluster: h2 does not let 192.0.2.3 of h3 in, by its deny 192.0.2.3 (line 2)",
                "h3 and h1 would split the cluster: h3 does not let 192.0.2.1 of h1 in, for want of a rule",
            ]
        );
        assert_eq!(gaps(&hosts[..2]), []);
    }

    #[test]
    fn a_host_of_many_networks_is_let_in_by_one_of_its_addresses() {
        let mut hosts = [
            host("h1", "192.0.2.1", "cluster.allow = [\"192.0.2.2\"]"),
            host("h2", "192.0.2.2", "cluster.allow = [\"192.0.2.1\"]"),
        ];
        let all = ["192.0.2.1", "172.17.0.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        hosts[0].addresses = Dials::FromSomeOf(all.to_vec());
        assert_eq!(gaps(&hosts), []);
        hosts[0].addresses = Dials::FromSomeOf(all[1..].to_vec());
        assert_eq!(gaps(&hosts).len(), 2);
        hosts[0].addresses = Dials::From(all.to_vec());
        assert_eq!(gaps(&hosts).len(), 2);
    }

    #[test]
    fn what_two_looks_find_is_believed_of_each_peer_by_itself() {
        let mesh = |ways: &[(&str, Way)]| {
            ways.iter().map(|(peer, way)| ((*peer).to_owned(), *way)).collect::<Mesh>()
        };
        let before = mesh(&[("a", Way::Open), ("b", Way::Open), ("gone", Way::TheyRefuse)]);
        let first = mesh(&[("a", Way::Unreached), ("b", Way::TheyRefuse), ("new", Way::Open)]);
        let second = mesh(&[("a", Way::Open), ("b", Way::TheyRefuse), ("new", Way::Unreached)]);
        let believed = believe(&before, &first, &second);
        assert_eq!(believed, mesh(&[("a", Way::Open), ("b", Way::TheyRefuse)]));
        assert_eq!(
            believe(&before, &mesh(&[("a", Way::Open)]), &mesh(&[("a", Way::Unreached)])),
            mesh(&[("a", Way::Open)])
        );
    }
}
