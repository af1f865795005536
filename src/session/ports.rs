//! Which distribution ports are open, for answers that must not come before their port.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::PortSet;

/// How long an answer waits for its port. A node that looks a name up gives the whole set-up 7 s
/// (`net_kernel:connecttime`).
const PATIENCE: Duration = Duration::from_secs(1);

/// The open ports, as the front tells.
#[derive(Debug)]
pub struct Ports {
    /// The ports that are forwarded.
    pub forwarded: PortSet,
    /// The ones that are open.
    pub open: watch::Receiver<HashSet<SocketAddr>>,
    /// Asks the front to look at once.
    pub hurry: mpsc::Sender<()>,
}

/// What became of a port that is to be told to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is open.
    Open,
    /// It is to be forwarded, but could not be opened in time.
    Shut,
    /// It is not one of the forwarded ports.
    NotForwarded,
}

impl Ports {
    /// Waits until `addr` is open, 1 s at most. OTP does not retry a refused dial, so that a node that
    /// has just started must not be found before it can be reached.
    pub(super) async fn reach(&self, addr: SocketAddr) -> Reach {
        if !self.forwarded.contains(addr.port()) {
            return Reach::NotForwarded;
        }
        let mut open = self.open.clone();
        if open.borrow().contains(&addr) {
            return Reach::Open;
        }
        // A look that is asked for already serves us too.
        self.hurry.try_send(()).unwrap_or_default();
        let opened = open.wait_for(|open| open.contains(&addr));
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(Ok(_)) => Reach::Open,
            Ok(Err(_)) | Err(_) => Reach::Shut,
        }
    }
}
