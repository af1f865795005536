//! Addresses to listen at and to dial.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::LOOPBACKS;
use crate::config::problem::Problem;
use crate::config::schema::Word;
use crate::config::text::quoted;
use crate::config::{Connect, ConnectTo, ListenOn, TUNNEL_PORT};
use crate::policy::Target;

/// Why a text is no such address.
#[derive(Debug)]
pub(super) struct Fault {
    /// What is wrong, as it follows the quoted text.
    why: Cow<'static, str>,
    help: Option<&'static str>,
}

impl Fault {
    pub(super) const fn new(why: &'static str, help: &'static str) -> Self {
        Self { why: Cow::Borrowed(why), help: Some(help) }
    }

    /// A fault about which `why` says all.
    pub(super) fn told(why: impl fmt::Display) -> Self {
        Self { why: Cow::Owned(why.to_string()), help: None }
    }

    const fn bare(why: &'static str) -> Self {
        Self { why: Cow::Borrowed(why), help: None }
    }

    /// The problem that it is at `word`.
    pub(super) fn at(&self, key: impl fmt::Display, word: &Word<'_>) -> Problem {
        let message = format!("{key}: {} {}", quoted(word.get_ref()), self);
        Problem { help: self.help.map(str::to_owned), ..Problem::error(word.span(), message) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Where to listen: `*`, an address, or one of these with a port.
pub(super) fn listen(text: &str) -> Result<(ListenOn, Option<u16>), Fault> {
    if text == "*" {
        return Ok((ListenOn::Everywhere, None));
    }
    if let Some(port) = text.strip_prefix("*:") {
        return Ok((ListenOn::Everywhere, Some(behind_colon(port)?)));
    }
    let (ip, port) = split(text)?;
    if ip.is_unspecified() {
        return Err(Fault::new(
            "would take loopback from epmd and the nodes too",
            "write \"*\" for each address of this host that is not loopback",
        ));
    }
    Ok((ListenOn::Ip(ip), port))
}

/// Whom to dial: an address, with or without a port.
pub(super) fn dial(text: &str) -> Result<(IpAddr, Option<u16>), Fault> {
    if text == "*" || text.starts_with("*:") {
        return Err(Fault::new("is no address to dial", "write \"127.0.0.1\""));
    }
    let (ip, port) = split(text)?;
    if ip.is_unspecified() {
        return Err(Fault::new("is no address to dial", "write \"127.0.0.1\" or \"::1\""));
    }
    Ok((ip, port))
}

/// Where to listen for this host's own processes alone: a loopback address with a port.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, Fault> {
    const OPEN: Fault = Fault::new(
        "is not loopback: whoever can connect there can read it, and nobody is asked who that is",
        "write a loopback address and a port, such as \"127.0.0.1:9568\"",
    );
    if text == "*" || text.starts_with("*:") {
        return Err(OPEN);
    }
    match split(text)? {
        (ip, _) if !ip.is_loopback() => Err(OPEN),
        (ip, Some(port)) => Ok(SocketAddr::new(ip, port)),
        (IpAddr::V4(_), None) => Err(Fault::new("has no port", "write one, such as \"127.0.0.1:9568\"")),
        (IpAddr::V6(_), None) => Err(Fault::new("has no port", "write one, such as \"[::1]:9568\"")),
    }
}

/// One of the addresses that are listened at.
pub(super) fn listener(text: &str) -> Result<IpAddr, Fault> {
    const ALL: Fault =
        Fault::new("is not one address", "write self = \"all\", without brackets, for all of them");
    if text == "*" || text.starts_with("*:") {
        return Err(ALL);
    }
    if ["all", "none"].contains(&text) {
        return Err(Fault::new("cannot be in a list with addresses", "write it alone, without brackets"));
    }
    match split(text)? {
        (ip, _) if ip.is_unspecified() => Err(ALL),
        (_, Some(_)) => Err(Fault::new("has a port", "it counts for every port there: leave it out")),
        (ip, None) => Ok(ip),
    }
}

/// An address of this host that stands for a peer.
pub(super) fn alias(text: &str) -> Result<IpAddr, Fault> {
    const ALL: Fault =
        Fault::new("is not one address", "write an address that nothing else has, such as \"127.0.0.12\"");
    if text == "*" || text.starts_with("*:") {
        return Err(ALL);
    }
    match split(text)? {
        (ip, _) if ip.is_unspecified() => Err(ALL),
        (ip, _) if LOOPBACKS.contains(&ip) => Err(Fault::new(
            "is where the nodes of this host and their epmd are",
            "write another address of 127.0.0.0/8, such as \"127.0.0.12\"; one of IPv6 has to be added to the host",
        )),
        (_, Some(_)) => {
            Err(Fault::new("has a port", "the alias stands for the peer with every port: leave it out"))
        }
        (ip, None) => Ok(ip),
    }
}

/// Where the guard of a peer listens: a host name or an address, with or without a port.
pub(super) fn connect(text: &str) -> Result<Connect, Fault> {
    let is_address = text.parse::<IpAddr>().is_ok() || text.starts_with('[') || text.contains('%');
    if is_address || text.parse::<SocketAddr>().is_ok() {
        let (ip, port) = dial(text)?;
        return Ok(Connect { host: ConnectTo::Ip(ip), port: port.unwrap_or(TUNNEL_PORT) });
    }
    if text.starts_with('*') {
        return Err(Fault::new("is no address to dial", "write \"h2.example.net\" or an address"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, behind_colon(port)?),
        None => (text, TUNNEL_PORT),
    };
    match host.parse::<Target>() {
        Ok(Target::Host(host)) => Ok(Connect { host: ConnectTo::Host(host), port }),
        Ok(Target::Net(_)) => Err(Fault::new(
            "is a network, and a guard is at one host",
            "write \"h2.example.net\" or an address",
        )),
        Err(fault) => Err(Fault::told(fault)),
    }
}

/// A network, or one address as its longest prefix; never everybody.
pub(super) fn network(text: &str) -> Result<IpNet, Fault> {
    match text.parse::<Target>() {
        Ok(Target::Net(net)) if net.prefix_len() > 0 => Ok(net),
        Ok(Target::Net(_)) => Err(Fault::new(
            "is everybody: whoever reaches epmd could register names",
            "write the network that is meant, such as \"172.17.0.0/16\"",
        )),
        Ok(Target::Host(_)) => Err(Fault::new(
            "is a host name, and a resolver's answer is too little to register names by",
            "write addresses or networks",
        )),
        Err(fault) => Err(Fault::told(fault)),
    }
}

/// An address with IPv4-mapped IPv6 folded, and the port if there is one.
fn split(text: &str) -> Result<(IpAddr, Option<u16>), Fault> {
    if text.contains('%') {
        return Err(Fault::new(
            "has a zone id: link-local addresses are not served",
            "write an address that is not link-local",
        ));
    }
    let (ip, port) = if let Ok(ip) = text.parse::<IpAddr>() {
        (ip, None)
    } else if let Ok(addr) = text.parse::<SocketAddr>() {
        (addr.ip(), Some(nonzero(addr.port())?))
    } else {
        return Err(no_address(text));
    };
    let ip = ip.to_canonical();
    let (link_local, broadcast) = match ip {
        IpAddr::V4(v4) => (false, v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    if ip.is_multicast() || broadcast {
        return Err(Fault::bare("is no address of one host: it is multicast or broadcast"));
    }
    if link_local {
        return Err(Fault::new(
            "is link-local, which means nothing without its interface",
            "write an address that is not link-local",
        ));
    }
    Ok((ip, port))
}

fn nonzero(port: u16) -> Result<u16, Fault> {
    if port == 0 { Err(PORT) } else { Ok(port) }
}

fn behind_colon(text: &str) -> Result<u16, Fault> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map_or(Err(PORT), nonzero)
}

const PORT: Fault = Fault::bare("has no possible port: ports go from 1 to 65535");

fn no_address(text: &str) -> Fault {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if text.rsplit_once(':').is_some_and(|(host, _)| bare(host)) {
        return PORT;
    }
    if text.is_empty() {
        return Fault::bare("is empty");
    }
    if bare(text) {
        return Fault::new("has brackets but no port", "write 2001:db8::1 or [2001:db8::1]:4369");
    }
    Fault::new("is no IP address", "write an address: names are not resolved here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_write_an_address_is_understood() {
        let ip = |text: &str| ListenOn::Ip(text.parse().unwrap());
        for (text, expected) in [
            ("*", (ListenOn::Everywhere, None)),
            ("*:4370", (ListenOn::Everywhere, Some(4370))),
            ("192.0.2.1", (ip("192.0.2.1"), None)),
            ("192.0.2.1:4369", (ip("192.0.2.1"), Some(4369))),
            ("2001:db8::1", (ip("2001:db8::1"), None)),
            ("[2001:db8::1]:4369", (ip("2001:db8::1"), Some(4369))),
            ("::ffff:192.0.2.1", (ip("192.0.2.1"), None)),
            ("[::ffff:192.0.2.1]:1", (ip("192.0.2.1"), Some(1))),
        ] {
            assert_eq!(listen(text).unwrap(), expected, "{text}");
        }
        assert_eq!(loopback("[::ffff:127.0.0.2]:1").unwrap().to_string(), "127.0.0.2:1");
        assert_eq!(listener("::ffff:192.0.2.1").unwrap().to_string(), "192.0.2.1");
        for (text, net) in [
            ("172.17.0.0/16", "172.17.0.0/16"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), net);
        }
        let to = |host: ConnectTo, port| Connect { host, port };
        let address = |text: &str| ConnectTo::Ip(text.parse().unwrap());
        let name = || ConnectTo::Host("h2.example.net".parse().unwrap());
        for (text, expected) in [
            ("H2.example.net", to(name(), 4371)),
            ("h2.example.net:443", to(name(), 443)),
            ("192.0.2.2", to(address("192.0.2.2"), 4371)),
            ("::ffff:192.0.2.2", to(address("192.0.2.2"), 4371)),
            ("192.0.2.2:443", to(address("192.0.2.2"), 443)),
            ("2001:db8::2", to(address("2001:db8::2"), 4371)),
            ("[2001:db8::2]:443", to(address("2001:db8::2"), 443)),
        ] {
            assert_eq!(connect(text).unwrap(), expected, "{text}");
        }
        assert_eq!(alias("::ffff:127.0.0.12").unwrap().to_string(), "127.0.0.12");
        assert_eq!(dial("127.0.0.1:4369").unwrap(), ("127.0.0.1".parse().unwrap(), Some(4369)));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, why) in [
            ("", "is empty"),
            ("h2.example.net", "is no IP address"),
            ("localhost:4369", "is no IP address"),
            ("192.0.2.1:0", "has no possible port"),
            ("192.0.2.1:70000", "has no possible port"),
            ("*:0", "has no possible port"),
            ("*:+1", "has no possible port"),
            ("*:", "has no possible port"),
            ("[2001:db8::1]", "has brackets"),
            ("[2001:db8::1]:x", "has no possible port"),
            ("fe80::1%eth0", "has a zone id"),
            ("[fe80::1%2]:4369", "has a zone id"),
            ("fe80::1", "is link-local"),
            ("224.0.0.1", "is no address of one host"),
            ("ff02::1", "is no address of one host"),
            ("255.255.255.255", "is no address of one host"),
            ("0.0.0.0", "would take loopback"),
            ("::", "would take loopback"),
            ("::ffff:0.0.0.0", "would take loopback"),
            ("[::]:4369", "would take loopback"),
        ] {
            let fault = listen(text).unwrap_err();
            assert!(fault.why.starts_with(why), "{text}: {fault}");
        }
        for text in ["*", "*:4369", "0.0.0.0", "[::]:4369"] {
            assert!(dial(text).unwrap_err().why.starts_with("is no address to dial"), "{text}");
        }
        for text in ["*", "*:9568", "0.0.0.0:9568", "[::]:9568", "192.0.2.1", "[2001:db8::1]:9568"] {
            assert!(loopback(text).unwrap_err().why.starts_with("is not loopback"), "{text}");
        }
        for (text, why) in [
            ("*", "is not one address"),
            ("[::]:4369", "is not one address"),
            ("0.0.0.0", "is not one address"),
            ("all", "cannot be in a list"),
            ("none", "cannot be in a list"),
            ("127.0.0.1:4369", "has a port"),
            ("h2", "is no IP address"),
            ("fe80::1", "is link-local"),
        ] {
            assert!(listener(text).unwrap_err().why.starts_with(why), "{text}");
        }
        for (text, why) in [
            ("0.0.0.0/0", "is everybody"),
            ("::/0", "is everybody"),
            ("::ffff:0.0.0.0/96", "is everybody"),
            ("h2.example.net", "is a host name"),
            ("192.0.2.7/24", "has bits set behind its prefix: write 192.0.2.0/24"),
            ("192.0.2.300", "is no IP address"),
            ("fe80::1%eth0", "has a zone id"),
            ("", "is empty"),
        ] {
            assert!(network(text).unwrap_err().why.starts_with(why), "{text}");
        }
        for text in ["127.0.0.1", "::1"] {
            assert_eq!(loopback(text).unwrap_err().why, "has no port", "{text}");
        }
    }

    #[test]
    fn each_mistake_in_the_way_to_a_peer_is_named() {
        for (text, why) in [
            ("*", "is not one address"),
            ("::", "is not one address"),
            ("127.0.0.1", "is where the nodes of this host"),
            ("::ffff:127.0.0.1", "is where the nodes of this host"),
            ("::1", "is where the nodes of this host"),
            ("127.0.0.12:4369", "has a port"),
            ("fe80::12", "is link-local"),
            ("h2", "is no IP address"),
        ] {
            assert!(alias(text).unwrap_err().why.starts_with(why), "{text}");
        }
        for (text, why) in [
            ("", "is empty"),
            ("*", "is no address to dial"),
            ("*:4371", "is no address to dial"),
            ("0.0.0.0", "is no address to dial"),
            ("h2.example.net:0", "has no possible port"),
            ("h2.example.net:", "has no possible port"),
            ("h2:tunnel", "has no possible port"),
            ("192.0.2.0/24", "is a network"),
            ("192.0.2.300", "is no IP address"),
            ("https://h2", "has no possible port"),
            ("h 2", "is no host name"),
            ("[2001:db8::2]", "has brackets"),
            ("fe80::1%eth0", "has a zone id"),
        ] {
            let fault = connect(text).unwrap_err();
            assert!(fault.why.starts_with(why), "{text}: {fault}");
        }
    }
}
