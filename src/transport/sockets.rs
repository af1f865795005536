//! Who listens on this host: the kernel's own tables, read and never probed.
//!
//! A probe connection would be a half-open handshake to a node.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in the tables (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listening {
    /// Its address; an IPv6 wildcard may take IPv4 too, which the tables do not tell.
    pub addr: SocketAddr,
    /// The user that made it.
    pub uid: u32,
    /// Its number, by which a process that holds it is found.
    pub inode: u64,
}

/// All listening TCP sockets of this network namespace.
///
/// # Errors
/// /proc cannot be read.
pub fn listening() -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    read_table("/proc/net/tcp", &mut found)?;
    match read_table("/proc/net/tcp6", &mut found) {
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    Ok(found)
}

/// The ports on which one of `addresses` can be reached: by a socket on it, or on a wildcard of its
/// family.
#[must_use]
pub fn ports_of(listening: &[Listening], addresses: &[IpAddr]) -> HashSet<u16> {
    listening
        .iter()
        .filter(|socket| {
            let ip = socket.addr.ip();
            addresses.contains(&ip)
                || (ip.is_unspecified() && addresses.iter().any(|a| a.is_ipv4() == ip.is_ipv4()))
        })
        .map(|socket| socket.addr.port())
        .collect()
}

/// The sockets that keep `addr` from being bound: on it, or on a wildcard that includes it.
pub fn in_the_way(listening: &[Listening], addr: SocketAddr) -> impl Iterator<Item = &Listening> {
    listening.iter().filter(move |socket| {
        let held = socket.addr;
        let covers = match held.ip() {
            IpAddr::V4(any) if any.is_unspecified() => addr.is_ipv4(),
            // Dual-stack unless IPV6_V6ONLY, which cannot be seen from outside.
            IpAddr::V6(any) if any.is_unspecified() => true,
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip.to_canonical() == addr.ip(),
        };
        held.port() == addr.port() && covers
    })
}

/// The kernel lists listening sockets before all others, so reading ends at the first that does not
/// listen: the cost does not grow with established links.
fn read_table(path: &str, found: &mut Vec<Listening>) -> io::Result<()> {
    let mut lines = BufReader::with_capacity(4096, File::open(path)?).lines();
    let _heading = lines.next().transpose()?;
    for line in lines {
        match parse(&line?) {
            Some(socket) => found.push(socket),
            None => break,
        }
    }
    Ok(())
}

/// One line of the table, if it is a listening socket.
fn parse(line: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace();
    let addr = parse_addr(fields.nth(1)?)?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    (state == LISTEN).then_some(Listening { addr, uid, inode })
}

/// `0100007F:1111`: each 32-bit word of the address in the machine's own byte order.
fn parse_addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(addr: &str) -> Listening {
        Listening { addr: addr.parse().unwrap(), uid: 0, inode: 0 }
    }

    #[test]
    fn the_lines_of_the_tables_are_read() {
        let v4 = "   0: 0100007F:1111 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 6157 1 0000 100 0 0 10 0";
        assert_eq!(
            parse(v4),
            Some(Listening { addr: "127.0.0.1:4369".parse().unwrap(), uid: 104, inode: 6157 })
        );
        let v6 = "   1: B80D0120000000000000000002000000:238C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0000 100 0 0 10 0";
        assert_eq!(parse(v6).map(|s| s.addr), Some("[2001:db8::2]:9100".parse().unwrap()));
        assert_eq!(parse(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("   0: zz"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn our_own_listener_is_found_and_gone_when_it_is_closed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = super::super::Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr();
        assert!(listening().unwrap().iter().any(|s| s.addr == addr));
        drop(listener);
        assert!(!listening().unwrap().iter().any(|s| s.addr == addr));
    }

    #[test]
    fn a_wildcard_serves_every_address_of_its_family() {
        let sockets = [
            socket("0.0.0.0:9100"),
            socket("127.0.0.1:9101"),
            socket("[::1]:9102"),
            socket("192.0.2.1:9103"),
        ];
        let loopbacks = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let mut ports: Vec<u16> = ports_of(&sockets, &loopbacks).into_iter().collect();
        ports.sort_unstable();
        assert_eq!(ports, [9100, 9101, 9102]);
    }

    #[test]
    fn what_is_in_the_way_of_an_address_is_found() {
        let sockets =
            [socket("0.0.0.0:4369"), socket("[::]:4369"), socket("127.0.0.1:4369"), socket("0.0.0.0:1")];
        let found = |addr: &str| {
            in_the_way(&sockets, addr.parse().unwrap()).map(|s| s.addr.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("192.0.2.1:4369"), ["0.0.0.0:4369", "[::]:4369"]);
        assert_eq!(found("[2001:db8::1]:4369"), ["[::]:4369"]);
        assert_eq!(found("127.0.0.1:4369"), ["0.0.0.0:4369", "[::]:4369", "127.0.0.1:4369"]);
    }
}
