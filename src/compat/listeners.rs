//! The ports of a process that was started as `epmd`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::meaning::{Place, ToldBy};
use crate::telemetry::describe;
use crate::transport::Listener;

/// Why it does not serve.
#[derive(Debug)]
pub(super) enum NotServed {
    /// Another epmd, or a guard, has the port: whoever wanted one has one.
    Taken,
    /// This is wrong.
    Failed(String),
}

/// What it listens at.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) listeners: Vec<Listener>,
    /// What is missing that was meant to be there, a clause each.
    pub(super) missing: Vec<String>,
}

/// Listens at all of these. Where this host has no IPv6, or no such loopback, it does without; epmd does so too. Where
/// it lacks an address of the file, as one that went over to another host, it does without and says so.
///
/// Where somebody has the port at one address and nobody at loopback, as a guard that stands in front of the epmd that
/// this is to be, loopback is served, and not all addresses: a node that found no epmd would not start.
pub(super) fn bind(places: &[Place], port: u16) -> Result<Bound, NotServed> {
    if port == 0 {
        let why =
            "ERL_EPMD_PORT is no port from 1 to 65535: nodes would not find an epmd that takes any free one";
        return Err(NotServed::Failed(why.to_owned()));
    }
    let mut bound = Bound::default();
    for Place { ip, told_by } in places {
        let addr = SocketAddr::new(*ip, port);
        match Listener::bind(addr) {
            Ok(listener) => bound.listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let loopback = loopback_for(*ip).ok_or(NotServed::Taken)?;
                match Listener::bind(SocketAddr::new(loopback, port)) {
                    Ok(listener) => bound.listeners.push(listener),
                    Err(error) if is_dispensable(loopback, &error) => {}
                    Err(_) => return Err(NotServed::Taken),
                }
            }
            Err(error) if is_dispensable(*ip, &error) => {}
            Err(error) if *told_by == ToldBy::File && is_missing(&error) => bound.missing.push(format!(
                "{addr} is not served, since this host does not have the address; correct [epmd] listen or backend, and \
                 start epmd again"
            )),
            Err(error) => return Err(NotServed::Failed(failed(addr, &error))),
        }
    }
    if bound.listeners.is_empty() {
        return Err(NotServed::Failed(format!("this host has no address to listen on at port {port}")));
    }
    Ok(bound)
}

fn failed(addr: SocketAddr, error: &io::Error) -> String {
    let help = if error.kind() == io::ErrorKind::AddrNotAvailable {
        ": this host does not have the address; correct -address or ERL_EPMD_ADDRESS"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        ": only root may listen below port 1024"
    } else {
        ""
    };
    format!("cannot listen on {addr}: {}{help}", describe(error))
}

/// What of all addresses of a family nodes need.
fn loopback_for(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(any) if any.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(any) if any.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn is_dispensable(ip: IpAddr, error: &io::Error) -> bool {
    is_missing(error) && (ip.is_unspecified() || ip.is_loopback())
}

fn is_missing(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT);
    no_family || error.kind() == io::ErrorKind::AddrNotAvailable
}
