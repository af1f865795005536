//! Which distribution ports are open, for answers that must not come before their port.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::accept::Post;
use crate::policy::{Audience, Standing};
use crate::proto::epmd::NodeName;

/// How long an answer waits for its port. A node that looks a name up gives the whole set-up 7 s
/// (`net_kernel:connecttime`).
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What the front knows of a distribution port that something listens behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// It is open, for these.
    Open(Audience),
    /// It cannot be opened for now: somebody else has it, or the address is not there.
    Blocked,
}

/// How a node's port is offered at one of our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The port of ours that leads to it; its own number, unless ports are remapped.
    pub outside: u16,
    /// Whether it is open.
    pub state: PortState,
}

/// The ports of nodes behind us, by our address and their own number, and those of peers, by the alias that stands
/// for the peer and their number there.
pub type Offers = HashMap<(IpAddr, u16), Offer>;

/// epmd has answered that this name is at this port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The name.
    pub name: NodeName,
    /// The node's own port.
    pub port: u16,
}

/// A port of a peer has been looked up, and is to be open at the alias that stands for that peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayAsked {
    /// The alias.
    pub alias: IpAddr,
    /// The `[[peer]]`, by its name.
    pub peer: Arc<str>,
    /// The port, as the peer's guard told it.
    pub port: u16,
}

/// What is offered to peers, by the number of the port outside, whether or not a listener is open for it.
pub type Posts = Arc<HashMap<u16, Post>>;

/// The distribution ports, as the front tells.
#[derive(Debug)]
pub struct Ports {
    /// Those that something listens behind, and those at aliases.
    pub known: watch::Receiver<Offers>,
    /// Tells the front of a name, and has it look at once.
    pub seen: mpsc::Sender<Sighting>,
    /// Where the ports that a tunnel may open lead; they are for peers only.
    pub posts: watch::Receiver<Posts>,
    /// Asks the front for ports at aliases; it looks at once where one is new.
    pub ways: mpsc::Sender<WayAsked>,
}

/// The front's ends of [`Ports`].
#[derive(Debug)]
pub struct PortsTeller {
    /// Told of the distribution ports that something listens behind and of those at aliases, after each look.
    pub offers: watch::Sender<Offers>,
    /// Told of what is offered to peers, whether or not a listener is open for it.
    pub posts: watch::Sender<Posts>,
    /// Names that epmd told; each asks for a look at once.
    pub seen: mpsc::Receiver<Sighting>,
    /// Ports of peers that are to be open at the aliases; each that is new asks for a look at once.
    pub ways: mpsc::Receiver<WayAsked>,
}

/// What became of a port that is to be told to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is open for this caller, as the port of this number.
    Open(u16),
    /// It is to be offered, but is not open for this caller.
    Shut,
    /// Nothing offers it, or not in time.
    NotOffered,
}

impl Ports {
    /// Ports of which nothing is known yet, and their other ends. So many names, and ports at aliases, may wait for
    /// the front.
    #[must_use]
    pub fn new(waiting: usize) -> (Self, PortsTeller) {
        let (offers, known) = watch::channel(Offers::new());
        let (told, posts) = watch::channel(Posts::default());
        let (seen, sightings) = mpsc::channel(waiting);
        let (ways, asked) = mpsc::channel(waiting);
        let teller = PortsTeller { offers, posts: told, seen: sightings, ways: asked };
        (Self { known, seen, posts, ways }, teller)
    }

    /// Waits until it is known whether the node's port is open at our address `ip`, 1 s at most. OTP does not
    /// retry a refused dial, so that a node that has just started must not be found before it can be reached.
    pub(super) async fn reach(&self, ip: IpAddr, sighting: Sighting, standing: Standing) -> Reach {
        let place = (ip, sighting.port);
        let mut known = self.known.clone();
        if !known.borrow().contains_key(&place) {
            // Where too many wait already, the look that they asked for serves this one too.
            self.seen.try_send(sighting).unwrap_or_default();
        }
        let told = known.wait_for(|known| known.contains_key(&place));
        let offer = match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(known)) => known.get(&place).copied(),
            Ok(Err(_)) | Err(_) => None,
        };
        match offer {
            Some(Offer { outside, state: PortState::Open(audience) })
                if audience >= Audience::Peers || standing == Standing::Itself =>
            {
                Reach::Open(outside)
            }
            Some(Offer { state: PortState::Open(_) | PortState::Blocked, .. }) => Reach::Shut,
            None => Reach::NotOffered,
        }
    }

    /// Waits until the port of a peer is open at the alias that stands for it, 1 s at most. It may be another number
    /// there, where a node of this host has that one on every address. It stays open for 60 s after the last call.
    pub(super) async fn open_way(&self, alias: IpAddr, peer: &Arc<str>, port: u16) -> Reach {
        let place = (alias, port);
        let asked = WayAsked { alias, peer: Arc::clone(peer), port };
        let mut known = self.known.clone();
        let told = async {
            let is_known = known.borrow().contains_key(&place);
            if is_known {
                // It only stays open for longer: where too many ask at one time, one of them will do.
                self.ways.try_send(asked).unwrap_or_default();
            } else {
                self.ways.send(asked).await.ok()?;
            }
            known.wait_for(|known| known.contains_key(&place)).await.ok()?.get(&place).copied()
        };
        match tokio::time::timeout(PATIENCE, told).await.ok().flatten() {
            Some(Offer { outside, state: PortState::Open(_) }) => Reach::Open(outside),
            Some(Offer { state: PortState::Blocked, .. }) => Reach::Shut,
            None => Reach::NotOffered,
        }
    }

    /// Waits until it is known by which port a peer's guard can open the node's, a while that is shorter than that
    /// guard waits for the answer. `None`: by none.
    pub(super) async fn post_for(&self, sighting: Sighting) -> Option<u16> {
        let inside = sighting.port;
        let mut posts = self.posts.clone();
        let is_known = leads_to(&posts.borrow(), inside).is_some();
        if !is_known {
            // As in `reach`.
            self.seen.try_send(sighting).unwrap_or_default();
        }
        let told = posts.wait_for(|posts| leads_to(posts, inside).is_some());
        let posts = tokio::time::timeout(PATIENCE / 2, told).await.ok()?.ok()?;
        leads_to(&posts, inside)
    }

    /// The port by which a peer's guard can open a node's, if there is one now.
    pub(super) fn post_of(&self, inside: u16) -> Option<u16> {
        leads_to(&self.posts.borrow(), inside)
    }

    /// The port of ours that leads to a node's, if one does now.
    pub(super) fn outside_of(&self, ip: IpAddr, inside: u16) -> Option<u16> {
        self.known.borrow().get(&(ip, inside)).map(|offer| offer.outside)
    }
}

/// The number outside of what leads to this port of a node.
fn leads_to(posts: &Posts, inside: u16) -> Option<u16> {
    let leads = |post: &Post| post.service.borrow().inside == inside;
    // Mostly it is the node's own.
    if posts.get(&inside).is_some_and(leads) {
        return Some(inside);
    }
    posts.iter().find(|(_, post)| leads(post)).map(|(outside, _)| *outside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Role;
    use crate::proto::epmd::AliveName;
    use crate::session::Service;

    #[tokio::test(start_paused = true)]
    async fn a_way_is_asked_for_each_time_and_waited_for_until_it_is_known() {
        let (ports, mut told) = Ports::new(1);
        let alias: IpAddr = "127.0.0.12".parse().unwrap();
        let peer: Arc<str> = "h2".into();
        let asked = WayAsked { alias, peer: Arc::clone(&peer), port: 9100 };
        let front = async {
            assert_eq!(told.ways.recv().await.unwrap(), asked);
            let open = Offer { outside: 40001, state: PortState::Open(Audience::ItselfOnly) };
            told.offers.send_modify(|offers| offers.extend([((alias, 9100), open)]));
        };
        let (reach, ()) = tokio::join!(ports.open_way(alias, &peer, 9100), front);
        assert_eq!(reach, Reach::Open(40001));
        // It is known now. It is asked for all the same, and nobody waits for those who ask.
        for _ in 0..3 {
            assert_eq!(ports.open_way(alias, &peer, 9100).await, Reach::Open(40001));
        }
        assert_eq!(told.ways.try_recv().unwrap(), asked);
        let blocked = Offer { outside: 9101, state: PortState::Blocked };
        told.offers.send_modify(|offers| offers.extend([((alias, 9101), blocked)]));
        assert_eq!(ports.open_way(alias, &peer, 9101).await, Reach::Shut);
        // A front that does not answer, or does not even take the question.
        let begun = tokio::time::Instant::now();
        assert_eq!(ports.open_way(alias, &peer, 9102).await, Reach::NotOffered);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_the_post_that_leads_to_its_own_port() {
        let (ports, mut told) = Ports::new(1);
        let sighting = |port| Sighting { name: AliveName::new(b"a").unwrap().into(), port };
        let service =
            Service { audience: Audience::PeersOnly, inside: 43211, nodes: Arc::default(), toward: None };
        let (_keep, receiver) = watch::channel(service);
        let front = async {
            assert_eq!(told.seen.recv().await.unwrap(), sighting(43211));
            let post = Post { role: Role::Dist, service: receiver };
            told.posts.send_replace(Arc::new(HashMap::from([(9100, post)])));
        };
        let (outside, ()) = tokio::join!(ports.post_for(sighting(43211)), front);
        assert_eq!((outside, ports.post_of(43211)), (Some(9100), Some(9100)));
        // The number outside is not the node's.
        assert_eq!((ports.post_of(9100), ports.post_for(sighting(9100)).await), (None, None));
    }
}
