//! Which distribution ports are open, for answers that must not come before their port.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

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

/// The ports of nodes behind us, by our address and their own number.
pub type Offers = HashMap<(IpAddr, u16), Offer>;

/// epmd has answered that this name is at this port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The name.
    pub name: NodeName,
    /// The node's own port.
    pub port: u16,
}

/// The distribution ports, as the front tells.
#[derive(Debug)]
pub struct Ports {
    /// Those that something listens behind.
    pub known: watch::Receiver<Offers>,
    /// Tells the front of a name, and has it look at once.
    pub seen: mpsc::Sender<Sighting>,
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

    /// The port of ours that leads to a node's, if one does now.
    pub(super) fn outside_of(&self, ip: IpAddr, inside: u16) -> Option<u16> {
        self.known.borrow().get(&(ip, inside)).map(|offer| offer.outside)
    }
}
