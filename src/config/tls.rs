//! `[tls]` as it is meant: mutual TLS with the guards of peers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::ListenOn;
use crate::policy::{HostName, TlsMode};

/// Where guards listen for those of peers unless another port is written.
pub const TUNNEL_PORT: u16 = 4371;

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `listen`: where the guards of peers reach us; empty: no tunnel comes in.
    pub listen: Vec<(ListenOn, u16)>,
    /// Where the certificate and what it is checked by are; `None`: there is no tunnel at all.
    pub files: Option<TlsFiles>,
    /// `default`: how traffic with those is carried that no `[[peer]]` says it of.
    pub default: TlsMode,
    /// What a list of revoked certificates does that does not say all.
    pub crl: CrlRules,
    /// `look_every`: how often the files are looked at; `None`: on a reload alone.
    pub look_every: Option<Duration>,
    /// `resume_for`: how long a link waits for a new leg when it has lost its own.
    pub resume_for: Duration,
    /// `warn_before`: how long before its end a certificate is told of.
    pub warn_before: Duration,
}

/// The files of `[tls]`, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `cert`: ours, and those between it and the CA.
    pub cert: PathBuf,
    /// `key`: the private key of the first of them.
    pub key: PathBuf,
    /// `ca`: the CAs whose certificates are taken for good.
    pub ca: PathBuf,
    /// `crl`: lists of revoked certificates.
    pub crl: Vec<PathBuf>,
}

/// `crl_missing`, `crl_stale` and `crl_partial`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlRules {
    /// A file of `crl` is not there.
    pub missing: OnCrl,
    /// A list is older than it says that it is good for (nextUpdate).
    pub stale: OnCrl,
    /// No list is of the issuer of a certificate.
    pub partial: OnCrl,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrl {
    /// No.
    Refuse,
    /// Yes, with a warning.
    Accept,
}

impl Default for CrlRules {
    fn default() -> Self {
        Self { missing: OnCrl::Refuse, stale: OnCrl::Accept, partial: OnCrl::Refuse }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            files: None,
            default: TlsMode::Off,
            crl: CrlRules::default(),
            look_every: Some(Duration::from_mins(1)),
            resume_for: Duration::from_secs(40),
            warn_before: Duration::from_hours(21 * 24),
        }
    }
}

/// A host and where its guard listens: an element of `[[peer]] connect`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connect {
    /// The host.
    pub host: ConnectTo,
    /// The port of its tunnel.
    pub port: u16,
}

/// By name, which is resolved for each dial, or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConnectTo {
    /// A name.
    Host(HostName),
    /// An address.
    Ip(IpAddr),
}

/// As it is written, always with the port.
impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ConnectTo::Host(name) => write!(f, "{name}:{}", self.port),
            ConnectTo::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
        }
    }
}
