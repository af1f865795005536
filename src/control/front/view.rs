//! What the front tells of itself.

use std::net::SocketAddr;
use std::sync::Arc;

use super::exposed::Exposed;
use crate::policy::Audience;
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
    /// Nodes that can be reached around the guard.
    pub exposed: Vec<Exposed>,
    /// Nodes for which no port of `[dist] outside` was left, with their own ports.
    pub unplaced: Vec<(Arc<str>, u16)>,
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
    pub node: Option<Arc<str>>,
    /// Why it is not open, if it is not.
    pub blocked: Option<String>,
}
