//! How many connections there may be, and what happens when the kernel has no more to give.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, USER, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{ask, read_to_close, send};

fn guarded(lab: &Lab, allow: &[&str], limits: &str) -> Guarded {
    Guarded::with(lab, "h1", &format!("{}[limits]\nrequest_timeout = \"60s\"\n{limits}\n", front(allow)))
}

/// Connects and sends the beginning of a request, so that the connection stays. A refusal may be faster
/// than the end of the connect.
fn hold(from: &Host, ip: IpAddr, to: IpAddr) -> io::Result<TcpStream> {
    let stream = from.connect_from(ip, SocketAddr::new(to, 4369))?;
    send(&stream, b"\0")?;
    Ok(stream)
}

/// Whether the guard refuses the connection, which it does at once.
fn is_refused(stream: &io::Result<TcpStream>) -> bool {
    let Ok(mut stream) = stream.as_ref() else { return true };
    stream.set_read_timeout(Some(SOON)).unwrap();
    let end = stream.read(&mut [0; 1]);
    end.map_or_else(|error| error.kind() == io::ErrorKind::ConnectionReset, |count| count == 0)
}

/// Whether the guard holds the connection: one that is refused ends at once.
fn is_held(stream: &io::Result<TcpStream>) -> bool {
    let Ok(mut stream) = stream.as_ref() else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.read(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn an_address_and_a_slash_64_have_a_share_of_their_own() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = guarded(&lab, EVERYBODY, "per_address = 3\nper_subnet = 5");
    let peer = lab.host("h2");
    let (v4, v6) = (IpAddr::from(h1.host.v4()), IpAddr::from(h1.host.v6()));
    let held: Vec<_> = (0..3).map(|_| hold(&peer, peer.v4().into(), v4)).collect();
    assert!(held.iter().all(is_held));
    assert!(is_refused(&hold(&peer, peer.v4().into(), v4)));
    h1.guard.wait_event("refused", &[("reason", "too_many_from_address"), ("stage", "admit")]);
    peer.add_address("192.0.2.9/24");
    assert!(is_held(&hold(&peer, "192.0.2.9".parse().unwrap(), v4)), "another address has its own share");

    peer.add_address("2001:db8::9/64");
    peer.add_address("2001:db8::a/64");
    let mut held = Vec::new();
    for (ip, count) in [("2001:db8::9", 3), ("2001:db8::2", 2)] {
        held.extend((0..count).map(|_| hold(&peer, ip.parse().unwrap(), v6)));
    }
    assert!(held.iter().all(is_held));
    assert!(is_refused(&hold(&peer, "2001:db8::a".parse().unwrap(), v6)));
    h1.guard.wait_event("refused", &[("reason", "too_many_from_subnet")]);
    // A connection that ends gives its place back.
    drop(held.pop());
    eventually("a place is free again", SOON, || is_held(&hold(&peer, "2001:db8::a".parse().unwrap(), v6)));
}

#[test]
fn a_reserve_is_kept_for_named_peers_and_for_self() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = guarded(&lab, &["192.0.2.0/24", "192.0.2.2"], "connections = 12\nreserve = 8");
    let peer = lab.host("h2");
    peer.add_address("192.0.2.9/24");
    let to = IpAddr::from(h1.host.v4());
    let anybody = "192.0.2.9".parse().unwrap();
    let mut held: Vec<_> = (0..4).map(|_| hold(&peer, anybody, to)).collect();
    assert!(is_refused(&hold(&peer, anybody, to)), "the reserve is not for everybody");
    held.extend((0..4).map(|_| hold(&peer, peer.v4().into(), to)));
    assert!(held.iter().all(is_held));
    assert!(is_refused(&hold(&peer, peer.v4().into(), to)), "half of the reserve is for self alone");
    h1.guard.wait_event("refused", &[("reason", "too_many_connections"), ("peer", "192.0.2.2:*")]);
    let own = h1.host.connect(SocketAddr::new(to, 4369)).unwrap();
    assert_eq!(ask(&own, b"n"), b"\0\0\x11\x11");
}

/// CPU time of a process in clock ticks (proc(5): fields 14 and 15 of stat).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Sets the soft limit, as the guard's own user, who may without any capability.
fn limit_descriptors(h1: &Guarded, limit: usize) {
    let mut prlimit = h1.host.command_as(USER, "prlimit");
    prlimit.args(["--pid", &h1.guard.daemon().pid().to_string(), &format!("--nofile={limit}:")]);
    assert!(prlimit.status().unwrap().success());
}

#[test]
fn without_descriptors_it_backs_off_without_spinning_and_goes_on_when_there_are_some() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = guarded(&lab, EVERYBODY, "");
    let pid = h1.guard.daemon().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let peer = lab.host("h2");
    let to = IpAddr::from(h1.host.v4());
    // Connections that are held take what is left; the next ones wait in the kernel.
    limit_descriptors(&h1, open + 4);
    let held: Vec<_> = (0..12).map(|_| hold(&peer, peer.v4().into(), to)).collect();
    h1.guard.wait_event("accept_delayed", &[("listener", "192.0.2.1:4369")]);
    let before = cpu_ticks(pid);
    let waiting = peer.connect(SocketAddr::new(to, 4369)).unwrap();
    send(&waiting, &[0, 1, b'n']).unwrap();
    // Two seconds in which nothing can be accepted: a loop that spins uses 200 ticks.
    waiting.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!((&waiting).read(&mut [0; 1]).is_err());
    let used = cpu_ticks(pid) - before;
    assert!(used < 40, "{used} ticks of CPU while there was nothing to do");
    drop(held);
    limit_descriptors(&h1, open + 500);
    waiting.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(read_to_close(&waiting).bytes, b"\0\0\x11\x11");
}

#[test]
fn the_descriptor_limit_is_raised_and_the_caps_follow() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let h1 = Guarded::new(&lab, "h1", &[]);
    let started = h1.guard.wait_event("started", &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", h1.guard.daemon().pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    assert_eq!(fields[0], fields[1], "{line}");
    assert_eq!(started["descriptors"].as_u64(), Some(fields[0]));
    assert_eq!(started["connections"].as_u64(), Some(((fields[0] - 256) / 2).min(100_000)));
}
