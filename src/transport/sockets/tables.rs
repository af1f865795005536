//! The listening sockets as `/proc/net/tcp` and `/proc/net/tcp6` show them.
//!
//! For kernels without `sock_diag`: once the listening sockets are told, the kernel goes through its
//! whole table of established ones to fill the page, which took 5 ms a look where the other way took
//! 0.1 ms.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Listening;

/// The state of a listening socket in the tables (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The state of a connection that is open both ways (`TCP_ESTABLISHED`).
const ESTABLISHED: &str = "01";

/// All listening TCP sockets of this network namespace.
///
/// # Errors
/// /proc cannot be read.
pub(super) fn listening() -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    read_table("/proc/net/tcp", &mut found)?;
    match read_table("/proc/net/tcp6", &mut found) {
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    Ok(found)
}

/// The user of one connected TCP socket.
///
/// # Errors
/// There is no such socket, or /proc cannot be read.
pub(super) fn owner(source: SocketAddr, destination: SocketAddr) -> io::Result<u32> {
    // A socket of the other family may be connected by mapped addresses.
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let mut lines = BufReader::with_capacity(4096, File::open(path)?).lines();
        let _heading = lines.next().transpose()?;
        for line in lines {
            if let Some(uid) = owner_in(&line?, source, destination) {
                return Ok(uid);
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// The user of one line of the table, if it is of this connection.
fn owner_in(line: &str, source: SocketAddr, destination: SocketAddr) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace();
    let folded = |text| parse_addr(text).map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()));
    let ends = (folded(fields.nth(1)?)?, folded(fields.next()?)?);
    let state = fields.next()?;
    let uid = fields.nth(3)?.parse().ok()?;
    // Of what a process has closed the kernel says that it is root's.
    let is_held = state == ESTABLISHED && fields.nth(1)? != "0";
    (is_held && ends == (source, destination)).then_some(uid)
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
    (state == LISTEN).then_some(Listening { addr, uid, inode, only_v6: false })
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

    #[test]
    fn the_lines_of_the_tables_are_read() {
        let v4 = "   0: 0100007F:1111 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 6157 1 0000 100 0 0 10 0";
        assert_eq!(
            parse(v4),
            Some(Listening {
                addr: "127.0.0.1:4369".parse().unwrap(),
                uid: 104,
                inode: 6157,
                only_v6: false
            })
        );
        let v6 = "   1: B80D0120000000000000000002000000:238C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0000 100 0 0 10 0";
        assert_eq!(parse(v6).map(|s| s.addr), Some("[2001:db8::2]:9100".parse().unwrap()));
        assert_eq!(parse(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("   0: zz"), None);
        assert_eq!(parse(""), None);
    }
}
