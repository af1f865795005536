//! What the front tells of itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::exposed::Exposed;
use crate::policy::Audience;
use crate::proto::epmd::NodeName;
use crate::session::Role;

/// The ports as they are, for `status`, `/readyz` and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontView {
    /// Whether the ports were looked at once.
    pub looked: bool,
    /// Whether the kernel does not tell which ports are in use, so that all of this may be old.
    pub is_blind: bool,
    /// The ports that are open or should be, epmd's first.
    pub listeners: Vec<ListenerView>,
    /// The addresses of ours that this host's own names lead to.
    pub own_names: Vec<IpAddr>,
    /// Nodes that can be reached around the guard.
    pub exposed: Vec<Exposed>,
    /// Nodes for which no port of `[dist] outside` was left, with their own ports.
    pub unplaced: Vec<(NodeName, u16)>,
    /// Whether epmd answered when it was last asked for its names; `None`: it has not been asked yet.
    pub epmd_answers: Option<bool>,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerView {
    /// What it serves.
    pub role: Role,
    /// Where.
    pub addr: SocketAddr,
    /// Whom.
    pub audience: Audience,
    /// The port behind it.
    pub inside: u16,
    /// The node behind it, where its name is known.
    pub node: Option<NodeName>,
    /// All its names; see [`Service::nodes`](crate::session::Service::nodes).
    pub nodes: Arc<[NodeName]>,
    /// The `[[peer]]` for whom it stands, by its name, where it is at an alias.
    pub toward: Option<Arc<str>>,
    /// Why it is not open, if it is not.
    pub blocked: Option<Blocked>,
}

/// Why a port is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// The node behind it has the port on more than loopback; see [`FrontView::exposed`].
    ByItsNode,
    /// This is in the way, and this is what to do.
    Otherwise(String),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByItsNode => "its node has the port on more than loopback",
            Self::Otherwise(why) => why,
        })
    }
}
