//! Who listens on this host: the kernel's own tables, read and never probed.
//!
//! A probe connection would be a half-open handshake to a node.

mod diag;
mod tables;

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listening {
    /// Its address.
    pub addr: SocketAddr,
    /// The user that made it.
    pub uid: u32,
    /// Its number, by which a process that holds it is found.
    pub inode: u64,
    /// Whether an IPv6 wildcard leaves IPv4 alone (IPV6_V6ONLY). /proc does not tell, and says no.
    pub only_v6: bool,
}

/// All listening TCP sockets of this network namespace.
///
/// # Errors
/// The kernel answers neither over netlink nor through /proc.
pub fn listening() -> io::Result<Vec<Listening>> {
    diag::listening().or_else(|error| {
        tracing::trace!(%error, "sock_diag_unavailable");
        tables::listening()
    })
}

/// The user of the connected socket whose own address is `source`, on this host.
///
/// # Errors
/// There is none, the kernel answers neither over netlink nor through /proc, or it is a user that this user namespace
/// does not know.
pub fn owner(source: SocketAddr, destination: SocketAddr) -> io::Result<u32> {
    let uid = any_owner(source, destination)?;
    // A unit may hide both: then the usual number is taken for many.
    let read = |path| File::open(path).and_then(|file| io::read_to_string(file.take(MOST_TEXT)));
    let (map, overflow) = (read(UID_MAP).unwrap_or_default(), read(OVERFLOW_UID).unwrap_or_default());
    if stands_for_many(uid, &map, &overflow) {
        return Err(io::Error::other("this user namespace does not know the user"));
    }
    Ok(uid)
}

/// Which users there are in this user namespace, and which number the kernel gives for all others.
const UID_MAP: &str = "/proc/self/uid_map";
const OVERFLOW_UID: &str = "/proc/sys/kernel/overflowuid";
const USUAL_OVERFLOW_UID: u32 = 65_534;
/// Longer than these can be: 340 lines of three numbers.
const MOST_TEXT: u64 = 64 * 1024;

/// Whether the number may be that of any user whom this user namespace does not know.
fn stands_for_many(uid: u32, map: &str, overflow: &str) -> bool {
    let knows_all = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !knows_all && overflow.trim().parse().unwrap_or(USUAL_OVERFLOW_UID) == uid
}

fn any_owner(source: SocketAddr, destination: SocketAddr) -> io::Result<u32> {
    match diag::owner(source, destination) {
        // The kernel has answered, and /proc would say the same after a walk through all connections.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::trace!(%error, "sock_diag_unavailable");
            tables::owner(source, destination)
        }
        answer => answer,
    }
}

impl Listening {
    /// Whether a connection to `ip` and the socket's port would reach it.
    #[must_use]
    pub fn covers(&self, ip: IpAddr) -> bool {
        match self.addr.ip() {
            IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
            IpAddr::V6(any) if any.is_unspecified() => ip.is_ipv6() || !self.only_v6,
            held @ (IpAddr::V4(_) | IpAddr::V6(_)) => held.to_canonical() == ip,
        }
    }
}

/// The sockets that keep `addr` from being bound.
pub fn in_the_way(listening: &[Listening], addr: SocketAddr) -> impl Iterator<Item = &Listening> {
    listening.iter().filter(move |socket| socket.addr.port() == addr.port() && socket.covers(addr.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(addr: &str) -> Listening {
        Listening { addr: addr.parse().unwrap(), uid: 0, inode: 0, only_v6: false }
    }

    #[test]
    fn our_own_listener_is_found_and_gone_when_it_is_closed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = super::super::Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr();
        let ways = [listening, diag::listening, tables::listening];
        let seen =
            |way: fn() -> io::Result<Vec<Listening>>| way().unwrap().into_iter().find(|s| s.addr == addr);
        let found: Vec<_> = ways.iter().filter_map(|way| seen(*way)).collect();
        assert_eq!(found.len(), ways.len());
        assert!(found.iter().all(|socket| *socket == found[0]), "{found:?}");
        drop(listener);
        assert!(ways.iter().all(|way| seen(*way).is_none()));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the connection of somebody else on this host")]
    fn the_user_of_a_connection_is_known_by_its_ends_in_either_family() {
        let ours = rustix::process::getuid().as_raw();
        for on in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = std::net::TcpListener::bind(on).unwrap();
            let port = listener.local_addr().unwrap().port();
            let ip = if on.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let stream = std::net::TcpStream::connect((ip, port)).unwrap();
            let (source, destination) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            for way in [owner, diag::owner, tables::owner] {
                assert_eq!(way(source, destination).unwrap(), ours, "{on}");
                let nobody = SocketAddr::new(source.ip(), 1);
                assert!(way(nobody, destination).is_err(), "{on}");
            }
            // Who closes at once is not root, whatever the kernel says of what he has left.
            drop(stream);
            let accepted = listener.accept().unwrap().0;
            for way in [owner, diag::owner, tables::owner] {
                assert!(way(source, destination).is_err(), "{on}");
            }
            drop(accepted);
        }
    }

    #[test]
    fn a_user_that_is_not_known_here_is_nobody_in_particular() {
        let all = "         0          0 4294967295\n";
        assert!(!stands_for_many(65534, all, "65534\n"));
        for some in ["0 1000 1\n", "0 100000 65536\n", "0 0 1\n1 1 4294967294\n", ""] {
            assert!(stands_for_many(65534, some, "65534\n"), "{some}");
            assert!(stands_for_many(65534, some, ""), "{some}");
            assert!(!stands_for_many(0, some, "65534\n"), "{some}");
        }
    }

    #[test]
    fn a_wildcard_serves_every_address_of_its_family() {
        let sockets = [
            socket("0.0.0.0:9100"),
            socket("127.0.0.1:9101"),
            socket("[::1]:9102"),
            socket("192.0.2.1:9103"),
            socket("[::ffff:127.0.0.1]:9104"),
        ];
        let loopbacks: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let serves = |socket: &&Listening| loopbacks.iter().any(|ip| socket.covers(*ip));
        let ports: Vec<u16> = sockets.iter().filter(serves).map(|socket| socket.addr.port()).collect();
        assert_eq!(ports, [9100, 9101, 9102, 9104]);
        // A dual-stack wildcard takes IPv4 too, another one does not.
        let only_v6 = Listening { only_v6: true, ..socket("[::]:9106") };
        assert!(!only_v6.covers("127.0.0.1".parse().unwrap()) && only_v6.covers("::1".parse().unwrap()));
        assert!(socket("[::]:9105").covers("127.0.0.1".parse().unwrap()));
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
