//! The configuration: read as it is written (`schema`), checked and turned into what is meant
//! (`build`), with every problem at once (`problem`), and compared with another one (`delta`).
//!
//! Owns the TOML file and its defaults, and reading the files that it names. Never opens a socket and never resolves
//! a name.

mod build;
mod cookie;
mod delta;
mod listen;
mod load;
mod places;
mod problem;
mod schema;
pub(crate) mod secret;
mod source;
mod text;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::{
    BanRules, Cookies, DistRules, EpmdRules, ForwardKind, ForwardRule, ForwardRules, IdentityRules, Mode,
    NetworkRules, NodeRules, Reach, Role, Rules, San, SelfAt, SelfRules, StopRule, TlsMode,
};

pub use crate::policy::{PortSet, PortSetFault};
pub use cookie::Files;
pub use delta::{Applies, Change, Delta};
pub use listen::ListenOn;
pub use load::{
    LoadError, Loaded, MAX_BYTES, Overrides, defaults, from_text, from_text_with, load, read_text,
};
pub use places::Places;
pub use problem::{Color, Problem, Problems, Report, Severity};
pub use source::{BUILT_IN, Source};
pub use text::one_line;
pub use tls::{Connect, ConnectTo, CrlRules, OnCrl, TUNNEL_PORT, Tls, TlsFiles};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/epmd-guard/epmd-guard.toml";

/// The configuration as it is meant: every value checked, every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[cluster]`: who may connect.
    pub cluster: Cluster,
    /// `[[peer]]`: the hosts that have a name of their own, in the order of the file. Their ids in rules
    /// ([`PeerId`](crate::policy::PeerId)) count from 0 in this order.
    pub peers: Vec<Peer>,
    /// `[epmd]`: the port mapper.
    pub epmd: Epmd,
    /// `[dist]`: the distribution ports.
    pub dist: Dist,
    /// `[[forward]]`: other ports between nodes, in the order of the file.
    pub forwards: Vec<Forward>,
    /// `[cluster] nodes` and its neighbours, and those of `[[peer]]`: who may claim which name.
    pub nodes: Arc<NodeRules>,
    /// `cookie_file` and `[[cookie]]`: where the files are.
    pub cookie_files: CookieFiles,
    /// What the files held when they were read; nothing where they were left alone ([`Files::Leave`]).
    pub cookies: Arc<Cookies>,
    /// `[tls]`
    pub tls: Tls,
    /// `[limits]`
    pub limits: Limits,
    /// `[ban]`
    pub ban: Ban,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
    /// Where the keys stand in the file.
    pub places: Places,
}

impl Config {
    /// What decisions are made by.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let stop = match (self.epmd.backend, self.epmd.command_check) {
            (EpmdBackend::At(_), _) => StopRule::Behind,
            (EpmdBackend::Embedded, CommandCheck::Relaxed) => StopRule::Relaxed,
            (EpmdBackend::Embedded, CommandCheck::Strict) => StopRule::Never,
        };
        let register_from = self.epmd.register_from.clone();
        Rules {
            network: Arc::clone(&self.cluster.network),
            dist: Arc::new(self.dist.rules.clone()),
            forwards: Arc::new(ForwardRules(self.forwards.iter().map(Forward::rule).collect())),
            epmd: Arc::new(EpmdRules { register_from, stop }),
            self_at: Arc::new(SelfRules {
                epmd: self.self_also_at_aliases(&self.epmd.self_at),
                dist: self.self_also_at_aliases(&self.dist.self_at),
            }),
            reach: self.peers.iter().map(|peer| peer.may_reach.clone()).collect(),
            nodes: Arc::clone(&self.nodes),
            identities: Arc::new(self.identities()),
            mode: self.cluster.mode,
        }
    }

    /// An alias is for this host's nodes and nobody else, so that this host is known there whatever `self` says.
    fn self_also_at_aliases(&self, self_at: &SelfAt) -> SelfAt {
        let aliases = self.peers.iter().flat_map(|peer| &peer.alias);
        match self_at {
            SelfAt::Everywhere => SelfAt::Everywhere,
            SelfAt::Only(listed) => SelfAt::Only(listed.iter().chain(aliases).copied().collect()),
        }
    }

    /// Of certificates: each peer's names, and how its traffic is carried.
    fn identities(&self) -> IdentityRules {
        let of_peer = |peer: &Peer| (peer.identity.clone(), peer.tls.unwrap_or(self.tls.default));
        IdentityRules::new(self.peers.iter().map(of_peer).collect(), self.tls.default)
    }

    /// The `[[peer]]` that an address of this host stands for, if it is an alias of one.
    #[must_use]
    pub fn stands_for(&self, ip: IpAddr) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.alias.contains(&ip))
    }

    /// Whether traffic with some peer must go by a tunnel, so that no node may be reached around the guard.
    #[must_use]
    pub fn requires_tls(&self) -> bool {
        let of_peers = self.peers.iter().filter_map(|peer| peer.tls);
        of_peers.chain([self.tls.default]).any(|mode| mode == TlsMode::Required)
    }

    /// The `[[forward]]` that a port behind us is of, if one has it.
    #[must_use]
    pub fn forward_at(&self, inside: u16) -> Option<&Forward> {
        self.forwards.iter().find(|forward| forward.ports.contains(inside))
    }

    /// How a port behind us is reached: as its `[[forward]]` says, or else as `[dist]` does.
    #[must_use]
    pub fn way_to(&self, inside: u16) -> Way<'_> {
        match self.forward_at(inside) {
            Some(Forward { kind, listen, backend, .. }) => Way { role: kind.role(), listen, backend },
            None => Way { role: Role::Dist, listen: &self.dist.listen, backend: &self.dist.backend },
        }
    }
}

/// How a port behind us is reached.
#[derive(Debug, Clone, Copy)]
pub struct Way<'c> {
    /// What a listener that leads there serves.
    pub role: Role,
    /// Where peers reach us for it.
    pub listen: &'c [ListenOn],
    /// Where it is listened at behind us, in the order in which it is tried.
    pub backend: &'c [IpAddr],
}

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `allow`, `deny` and the addresses of `[[peer]]`, ready to be asked.
    pub network: Arc<NetworkRules>,
    /// How often host names are resolved again.
    pub resolve_every: Duration,
    /// `mode`
    pub mode: Mode,
}

/// A host of the cluster that has a name of its own. Its addresses let it in as those of `allow` do; they
/// stand in [`Cluster::network`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `name`: what metrics, `status` and messages call it.
    pub name: String,
    /// `may_reach`: the local names that it may look up and dial.
    pub may_reach: Reach,
    /// `connect`: where its guard takes tunnels, in the order in which they are tried.
    pub connect: Vec<Connect>,
    /// `hosts`: the host parts of node names that mean it, in lower case.
    pub hosts: Vec<String>,
    /// `alias`: the addresses of this host that stand for it.
    pub alias: Vec<IpAddr>,
    /// `identity`: the names that its certificate may have.
    pub identity: Vec<San>,
    /// `tls`: how traffic with it is carried; `None`: as `[tls] default` says.
    pub tls: Option<TlsMode>,
    /// Where its table begins.
    pub line: u32,
}

/// The port mapper that we are, or in front of which we stand.
#[derive(Debug, Clone)]
pub struct Epmd {
    /// Where peers reach us, each with its port; empty: epmd is not served (the single-port shape).
    pub listen: Vec<(ListenOn, u16)>,
    /// Who knows the names.
    pub backend: EpmdBackend,
    /// `register_from`: networks besides this host that may register names.
    pub register_from: Vec<IpNet>,
    /// `relaxed_command_check`: whether this host may throw names out by STOP; of the embedded epmd.
    pub command_check: CommandCheck,
    /// `self`: at which of the listeners this host itself is told from peers.
    pub self_at: SelfAt,
}

/// Who knows the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpmdBackend {
    /// We do: the guard is the epmd.
    Embedded,
    /// The epmd behind us.
    At(SocketAddr),
}

impl EpmdBackend {
    /// The address of the epmd behind us, if one is.
    #[must_use]
    pub fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Embedded => None,
            Self::At(addr) => Some(addr),
        }
    }
}

/// `relaxed_command_check`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CommandCheck {
    /// Names are not thrown out.
    #[default]
    Strict,
    /// STOP throws a name out.
    Relaxed,
}

/// The distribution ports in front of which we stand.
#[derive(Debug, Clone)]
pub struct Dist {
    /// Where peers reach us.
    pub listen: Vec<ListenOn>,
    /// Which ports are forwarded and which names get one.
    pub rules: DistRules,
    /// Where nodes listen, in the order in which they are tried.
    pub backend: Vec<IpAddr>,
    /// `self`: at which of the listeners this host itself is told from peers.
    pub self_at: SelfAt,
}

/// Other ports between nodes in front of which we stand, of the same numbers outside and inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// `kind`: what they carry.
    pub kind: ForwardKind,
    /// `ports`: offered whatever is registered there. None of them is another table's, or one of `[dist]`.
    pub ports: PortSet,
    /// Where peers reach us.
    pub listen: Vec<ListenOn>,
    /// Where the services listen, in the order in which they are tried.
    pub backend: Vec<IpAddr>,
    /// Where its table begins.
    pub line: u32,
}

impl Forward {
    fn rule(&self) -> ForwardRule {
        ForwardRule { kind: self.kind, ports: self.ports.clone() }
    }
}

/// How much and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; `None`: as many as the descriptor limit carries.
    pub connections: Option<u32>,
    /// Of these, how many are kept for self and for peers named by address or host name.
    pub reserve: u32,
    /// Connections of one address.
    pub per_address: u32,
    /// Connections of one IPv6 /64.
    pub per_subnet: u32,
    /// Names that the embedded epmd holds at one time.
    pub names: u32,
    /// For one whole epmd request, from accept to its last byte.
    pub request_timeout: Duration,
    /// For connecting to what is behind us, and for epmd's whole answer.
    pub backend_timeout: Duration,
    /// For the silence of the remaining direction once the other has ended.
    pub half_close_timeout: Duration,
    /// Connections a second of one address.
    pub rate_per_address: u32,
    /// Connections a second of one IPv6 /64.
    pub rate_per_subnet: u32,
    /// Handshakes at one time that are not done.
    pub half_open: u32,
    /// Of one address; of one IPv6 /64 four times as many.
    pub half_open_per_address: u32,
    /// For each step of a handshake, as the nodes' `net_setuptime`.
    pub handshake_timeout: Duration,
    /// Bytes of one link through a tunnel that are kept until the other guard has them.
    pub replay_per_link: u64,
    /// Bytes of all links that are.
    pub replay: u64,
}

/// The files that hold cookies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CookieFiles {
    /// `[dist] cookie_file`; `None`: there is none (an empty string in the file).
    pub default: Option<PathBuf>,
    /// `file` of each `[[cookie]]`, in their order.
    pub each: Vec<PathBuf>,
}

/// Who is slowed down and who is banned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The numbers.
    pub rules: BanRules,
    /// `file`: where bans are kept over a restart; `None`: nowhere (an empty string in the file).
    pub file: Option<PathBuf>,
}

/// How the running guard is asked and told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `socket`: the Unix socket; `None`: there is none (an empty string in the file).
    pub socket: Option<PathBuf>,
    /// `group`: who may use the socket besides its owner.
    pub group: Option<String>,
    /// `listen`: loopback addresses on which the guard can be asked, and told nothing.
    pub listen: Vec<SocketAddr>,
    /// `reload_may_cut`: a reload that would end more links than this wants `--yes`.
    pub reload_may_cut: u32,
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// `format`
    pub format: LogFormat,
    /// `level`: this and more important ones.
    pub level: tracing::Level,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
