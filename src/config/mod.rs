//! The configuration: read as it is written (`schema`), checked and turned into what is meant
//! (`build`), with every problem at once (`problem`).
//!
//! Owns the TOML file and its defaults. Never opens a socket and never resolves a name.

mod build;
mod listen;
mod load;
mod ports;
mod problem;
mod schema;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::policy::NetworkRules;

pub use listen::ListenOn;
pub use load::{LoadError, Loaded, MAX_BYTES, Overrides, defaults, from_text, load};
pub use ports::{PortSet, PortSetFault};
pub use problem::{Color, Problem, Problems, Report, Severity};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/epmd-guard/epmd-guard.toml";

/// The configuration as it is meant: every value checked, every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[cluster]`: who may connect.
    pub cluster: Cluster,
    /// `[epmd]`: the port mapper.
    pub epmd: Epmd,
    /// `[dist]`: the distribution ports.
    pub dist: Dist,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
}

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `allow` and `deny`, ready to be asked.
    pub network: NetworkRules,
    /// How often host names are resolved again.
    pub resolve_every: Duration,
}

/// The port mapper in front of which we stand.
#[derive(Debug, Clone)]
pub struct Epmd {
    /// Where peers reach us, each with its port; empty: epmd is not served (the single-port shape).
    pub listen: Vec<(ListenOn, u16)>,
    /// The epmd behind us.
    pub backend: SocketAddr,
}

/// The distribution ports in front of which we stand.
#[derive(Debug, Clone)]
pub struct Dist {
    /// Where peers reach us.
    pub listen: Vec<ListenOn>,
    /// Which ports are forwarded, each to the same number behind us.
    pub ports: PortSet,
    /// Where nodes listen, in the order in which they are tried.
    pub backend: Vec<IpAddr>,
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
    /// For one whole epmd request, from accept to its last byte.
    pub request_timeout: Duration,
    /// For connecting to what is behind us, and for epmd's whole answer.
    pub backend_timeout: Duration,
    /// For the silence of the remaining direction once the other has ended.
    pub half_close_timeout: Duration,
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
