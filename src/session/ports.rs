//! Which distribution ports are open, for answers that must not come before their port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::PortSet;
use crate::policy::{Audience, Standing};

/// How long an answer waits for its port. A node that looks a name up gives the whole set-up 7 s
/// (`net_kernel:connecttime`).
const PATIENCE: Duration = Duration::from_secs(1);

/// What the front knows of a distribution port that something listens behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// It is open, for these.
    Open(Audience),
    /// It cannot be opened for now: somebody else has it, or the address is not there.
    Blocked,
}

/// The distribution ports, as the front tells.
#[derive(Debug)]
pub struct Ports {
    /// The ports that are forwarded.
    pub forwarded: PortSet,
    /// Those that something listens behind.
    pub known: watch::Receiver<HashMap<SocketAddr, PortState>>,
    /// Asks the front to look at once.
    pub hurry: mpsc::Sender<()>,
}

/// What became of a port that is to be told to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is open.
    Open,
    /// It is to be forwarded, but is not open for this caller.
    Shut,
    /// It is not one of the forwarded ports.
    NotForwarded,
}

impl Ports {
    /// Waits until it is known whether `addr` is open, 1 s at most. OTP does not retry a refused dial, so
    /// that a node that has just started must not be found before it can be reached.
    pub(super) async fn reach(&self, addr: SocketAddr, standing: Standing) -> Reach {
        if !self.forwarded.contains(addr.port()) {
            return Reach::NotForwarded;
        }
        let mut known = self.known.clone();
        if !known.borrow().contains_key(&addr) {
            // A look that is asked for already serves us too.
            self.hurry.try_send(()).unwrap_or_default();
        }
        let told = known.wait_for(|known| known.contains_key(&addr));
        let state = match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(known)) => known.get(&addr).copied(),
            Ok(Err(_)) | Err(_) => None,
        };
        match state {
            Some(PortState::Open(Audience::Peers)) => Reach::Open,
            Some(PortState::Open(Audience::ItselfOnly)) if standing == Standing::Itself => Reach::Open,
            Some(PortState::Open(Audience::ItselfOnly) | PortState::Blocked) | None => Reach::Shut,
        }
    }
}
