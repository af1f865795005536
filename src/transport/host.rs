//! This host: its addresses and its own names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, getaddrinfo};

/// The addresses on which peers can reach this host: all of its interfaces' but loopback, link-local
/// (which mean nothing without a zone) and multicast ones.
///
/// # Errors
/// The kernel does not tell.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut ips: Vec<IpAddr> = interface_addresses()?
        .filter(|ip| !ip.is_loopback() && !ip.is_multicast() && !is_link_local(*ip))
        .collect();
    ips.sort_unstable();
    ips.dedup();
    Ok(ips)
}

/// Where nodes register at their epmd: 127.0.0.1, and ::1 where this host has it.
#[must_use]
pub fn loopbacks() -> Vec<IpAddr> {
    let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
    let has_v6 = interface_addresses().is_ok_and(|mut ours| ours.any(|ip| ip == v6));
    [IpAddr::from(Ipv4Addr::LOCALHOST)].into_iter().chain(has_v6.then_some(v6)).collect()
}

/// The addresses that one of this host's own names resolves to and that are its own: where its nodes
/// dial themselves and each other. On Debian that is often 127.0.1.1.
///
/// # Errors
/// The resolver's.
pub fn own_addresses_of(name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let ours: Vec<IpAddr> = match interface_addresses() {
        Ok(ours) => ours.collect(),
        Err(error) => return Err(ResolveError::Failed(error.to_string())),
    };
    let is_ours = |ip: &IpAddr| match ip {
        // The whole of 127/8 is ours, though the interface names one address of it.
        IpAddr::V4(v4) if v4.is_loopback() => true,
        IpAddr::V4(_) | IpAddr::V6(_) => ours.contains(ip),
    };
    let mut ips = resolve(name)?;
    ips.retain(|ip| is_ours(ip) && !is_link_local(*ip));
    Ok(ips)
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The resolver knows that there is no such name, or that it has no address.
    #[error("no such name")]
    NoSuchName,
    /// The resolver does not know: it could not ask, or got no answer.
    #[error("the resolver failed: {0}")]
    Failed(String),
}

/// The addresses of a name, by the system's resolver, in its order.
///
/// # Errors
/// There is none, or the resolver failed.
pub fn resolve(name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let answers = dns_lookup::lookup_host(name).map_err(|error| {
        if matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData) {
            ResolveError::NoSuchName
        } else {
            ResolveError::Failed(io::Error::from(error).to_string())
        }
    })?;
    let mut ips = Vec::new();
    for ip in answers {
        let ip = ip.to_canonical();
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

/// The name of an address, by the system's resolver; `None` where it has none.
#[must_use]
pub fn reverse(ip: IpAddr) -> Option<String> {
    let name = dns_lookup::lookup_addr(&ip).ok()?;
    // getnameinfo writes the address itself where there is no name.
    name.parse::<IpAddr>().is_err().then_some(name)
}

/// The host name, and its full form where the resolver knows one.
///
/// # Errors
/// The kernel does not tell.
pub fn own_names() -> io::Result<Vec<String>> {
    let short = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let hints = AddrInfoHints { flags: nix::libc::AI_CANONNAME, ..AddrInfoHints::default() };
    let full = getaddrinfo(Some(&short), None, Some(hints))
        .ok()
        .and_then(|mut answers| answers.find_map(|answer| answer.ok()?.canonname));
    let mut names = vec![short];
    names.extend(full.filter(|name| Some(name) != names.first()));
    Ok(names)
}

fn interface_addresses() -> io::Result<impl Iterator<Item = IpAddr>> {
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let addr = interface.address?;
        let v4 = addr.as_sockaddr_in().map(|a| SocketAddr::from(std::net::SocketAddrV4::from(*a)));
        let v6 = addr.as_sockaddr_in6().map(|a| SocketAddr::from(std::net::SocketAddrV6::from(*a)));
        Some(v4.or(v6)?.ip())
    }))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
