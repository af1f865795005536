//! Everything that decisions are made by, as one configuration means it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::dist::DistRules;
use super::forward::ForwardRules;
use super::identity::IdentityRules;
use super::mode::Mode;
use super::names::NamePatterns;
use super::network::{NetworkRules, PeerId};
use super::nodes::NodeRules;
use super::role::{Role, SelfAt};
use crate::proto::epmd::NodeName;

/// The rules of one configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By address.
    pub network: Arc<NetworkRules>,
    /// Of the distribution ports.
    pub dist: Arc<DistRules>,
    /// Of the ports that are forwarded besides.
    pub forwards: Arc<ForwardRules>,
    /// Of what may be asked of epmd.
    pub epmd: Arc<EpmdRules>,
    /// What each `[[peer]]` may reach, in the order of their ids.
    pub reach: Arc<[Reach]>,
    /// Where this host itself is told from peers.
    pub self_at: Arc<SelfRules>,
    /// Of the names that nodes claim.
    pub nodes: Arc<NodeRules>,
    /// Of certificates, and of who must have one.
    pub identities: Arc<IdentityRules>,
    /// Whether the rules of who speaks are enforced.
    pub mode: Mode,
}

/// Where this host itself is told from peers, by what is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelfRules {
    /// `[epmd] self`
    pub epmd: SelfAt,
    /// `[dist] self`, for the ports of `[[forward]]` too.
    pub dist: SelfAt,
}

impl SelfRules {
    /// Those of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> &SelfAt {
        match role {
            Role::Epmd => &self.epmd,
            Role::Dist | Role::DistTls | Role::Tcp | Role::Tunnel => &self.dist,
        }
    }
}

/// What may be asked of epmd, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpmdRules {
    /// `register_from`: networks besides this host that may register names.
    pub register_from: Vec<IpNet>,
    /// Whether this host may throw names out.
    pub stop: StopRule,
}

impl EpmdRules {
    /// Whether this address may register names although it is not this host's.
    #[must_use]
    pub fn may_register(&self, ip: IpAddr) -> bool {
        self.register_from.iter().any(|net| net.contains(&ip))
    }
}

/// Who decides about STOP, which throws a name out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StopRule {
    /// Nobody may: epmd's own default, of which the embedded one is no exception.
    #[default]
    Never,
    /// This host may: the embedded epmd has `relaxed_command_check`.
    Relaxed,
    /// The epmd behind us decides.
    Behind,
}

/// `may_reach`: the local names that a peer may look up and dial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(pub Option<NamePatterns>);

impl Reach {
    /// Whether a node is there for the peer. A node whose name is not known is not, where names count.
    #[must_use]
    pub fn covers(&self, name: Option<&NodeName>) -> bool {
        match (&self.0, name) {
            (None, _) => true,
            (Some(names), Some(name)) => names.judge(name.as_bytes()).is_offered(),
            (Some(_), None) => false,
        }
    }
}

impl Rules {
    /// What this peer may reach; whoever is no `[[peer]]` may reach every name.
    pub(super) fn reach_of(&self, peer: Option<PeerId>) -> Option<&Reach> {
        self.reach.get(usize::from(peer?.0))
    }
}
