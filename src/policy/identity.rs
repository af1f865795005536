//! Which peer a certificate is of, and whether traffic with a peer must be protected by one.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::network::{HostName, HostNameFault, PeerId};

/// The longest URI that a certificate is known by, far beyond any SPIFFE id (2048 bytes, SPIFFE-ID 2.3).
const LONGEST_URI: usize = 2048;

/// How traffic with a peer is carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain, and by no tunnel.
    #[default]
    Off,
    /// By a tunnel where the peer has one, and plain otherwise.
    Optional,
    /// By a tunnel alone: what comes plain is refused.
    Required,
}

impl TlsMode {
    /// The word of the configuration.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A name of a certificate (subjectAltName, RFC 5280 4.2.1.6). Two are the same where they are written the same, but
/// for capitals in host names and for IPv4 within IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A host name, in lower case. It stands for itself: wildcards mean nothing here.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

/// Why a text is no name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SanFault {
    /// `*.example.net`
    #[error("has a wildcard, and a certificate is known by the whole names that stand in it")]
    Wildcard,
    /// It has a colon, and is neither an address nor a URI.
    #[error("is neither a host name, an address nor a URI such as spiffe://example.net/h2")]
    Form,
    /// It begins as a URI, and is too long for one or has what none has.
    #[error("is no URI: {LONGEST_URI} printable characters without blanks are the most")]
    Uri,
    /// It is no host name.
    #[error(transparent)]
    Name(#[from] HostNameFault),
}

impl San {
    /// A host name, as names of hosts are compared.
    ///
    /// # Errors
    /// It is none.
    pub fn dns(name: &str) -> Result<Self, HostNameFault> {
        Ok(Self::Dns(name.parse::<HostName>()?.as_str().to_owned()))
    }

    /// An address, with IPv4 within IPv6 folded.
    #[must_use]
    pub fn ip(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }

    fn uri(text: &str) -> Result<Self, SanFault> {
        let is_scheme = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        };
        let (scheme, rest) = text.split_once(':').ok_or(SanFault::Form)?;
        if !is_scheme(scheme) || !(rest.starts_with("//") || scheme.eq_ignore_ascii_case("urn")) {
            return Err(SanFault::Form);
        }
        let is_whole = !rest.trim_start_matches('/').is_empty() && text.len() <= LONGEST_URI;
        if is_whole && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self::Uri(text.to_owned()))
        } else {
            Err(SanFault::Uri)
        }
    }
}

/// As in the configuration: an address, a URI, or else a host name.
impl std::str::FromStr for San {
    type Err = SanFault;

    fn from_str(text: &str) -> Result<Self, SanFault> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::ip(ip));
        }
        if text.contains(':') {
            return Self::uri(text);
        }
        if text.contains('*') {
            return Err(SanFault::Wildcard);
        }
        Ok(Self::dns(text)?)
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "{}", name.escape_default()),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Uri(uri) => write!(f, "{}", uri.escape_default()),
        }
    }
}

/// Why a certificate is of no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoIdentity {
    /// No `[[peer]]` has any of its names.
    Unknown,
    /// More than one has.
    Several,
}

/// Whose names are whose, and which traffic must be protected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityRules {
    peers: HashMap<San, PeerId>,
    modes: Vec<TlsMode>,
    default: TlsMode,
}

impl IdentityRules {
    /// The names of each peer and its mode, in the order of their ids, and the mode of whoever is none.
    #[must_use]
    pub fn new(of_peers: Vec<(Vec<San>, TlsMode)>, default: TlsMode) -> Self {
        let mut peers = HashMap::new();
        let mut modes = Vec::new();
        for ((names, mode), id) in of_peers.into_iter().zip((0..).map(PeerId)) {
            peers.extend(names.into_iter().map(|name| (name, id)));
            modes.push(mode);
        }
        Self { peers, modes, default }
    }

    /// The peer that a certificate with these names is of.
    ///
    /// # Errors
    /// It is of none, or of more than one.
    pub fn peer_of(&self, names: &[San]) -> Result<PeerId, NoIdentity> {
        let mut found = names.iter().filter_map(|name| self.peers.get(name));
        let first = *found.next().ok_or(NoIdentity::Unknown)?;
        if found.all(|peer| *peer == first) { Ok(first) } else { Err(NoIdentity::Several) }
    }

    /// How traffic with this peer is carried; `None`: with whoever is no `[[peer]]`.
    #[must_use]
    pub fn mode_of(&self, peer: Option<PeerId>) -> TlsMode {
        peer.and_then(|peer| self.modes.get(usize::from(peer.0))).copied().unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_certificate_is_read_as_what_it_is() {
        for (text, expected) in [
            ("H2.Example.net.", San::Dns("h2.example.net".to_owned())),
            ("h2", San::Dns("h2".to_owned())),
            ("192.0.2.2", San::Ip("192.0.2.2".parse().unwrap())),
            ("::ffff:192.0.2.2", San::Ip("192.0.2.2".parse().unwrap())),
            ("2001:db8::2", San::Ip("2001:db8::2".parse().unwrap())),
            ("spiffe://example.net/ns/H2", San::Uri("spiffe://example.net/ns/H2".to_owned())),
            ("urn:uuid:6e8bc430", San::Uri("urn:uuid:6e8bc430".to_owned())),
        ] {
            let san: San = text.parse().unwrap();
            assert_eq!(san, expected);
            assert_eq!(san.to_string().parse(), Ok(san), "{text}");
        }
        let long = format!("spiffe://example.net/{}", "x".repeat(LONGEST_URI));
        for (text, fault) in [
            ("*.example.net", SanFault::Wildcard),
            ("h2.example.net:4371", SanFault::Form),
            ("spiffe:example.net", SanFault::Form),
            ("://example.net", SanFault::Form),
            ("spiffe://", SanFault::Uri),
            ("spiffe://example.net/a b", SanFault::Uri),
            (long.as_str(), SanFault::Uri),
            ("", SanFault::Name(HostNameFault::Empty)),
            ("h 2", SanFault::Name(HostNameFault::Character)),
        ] {
            assert_eq!(text.parse::<San>(), Err(fault), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_of_the_one_peer_that_has_a_name_of_it() {
        let dns = |name: &str| San::Dns(name.to_owned());
        let spiffe = San::Uri("spiffe://example.net/h2".to_owned());
        let rules = IdentityRules::new(
            vec![
                (vec![dns("h1.example.net")], TlsMode::Off),
                (vec![dns("h2.example.net"), spiffe.clone()], TlsMode::Required),
            ],
            TlsMode::Optional,
        );
        let other = San::Ip("192.0.2.9".parse().unwrap());
        assert_eq!(rules.peer_of(&[other.clone(), dns("h1.example.net")]), Ok(PeerId(0)));
        assert_eq!(rules.peer_of(&[dns("h2.example.net"), spiffe]), Ok(PeerId(1)));
        assert_eq!(rules.peer_of(&[dns("h2.example.net"), dns("h1.example.net")]), Err(NoIdentity::Several));
        assert_eq!(rules.peer_of(&[other]), Err(NoIdentity::Unknown));
        assert_eq!(rules.peer_of(&[]), Err(NoIdentity::Unknown));
        assert_eq!(rules.mode_of(Some(PeerId(1))), TlsMode::Required);
        assert_eq!(rules.mode_of(None), TlsMode::Optional);
    }
}
