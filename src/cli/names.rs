//! `names`: what an epmd holds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use super::{complain, say};
use crate::policy::Policy;
use crate::proto::epmd::{DEFAULT_PORT, NamesReply, Request};
use crate::session::{MAX_ANSWER, ask};
use crate::telemetry::describe;
use crate::transport::{Backends, DialError, Dialer, host};

/// For each address that is tried, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn names(host: &str) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&describe(&error)),
    };
    match runtime.block_on(list(host)) {
        Ok(lines) => {
            say(lines.trim_end());
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    complain(&format!("epmd-guard: {why}"));
    ExitCode::FAILURE
}

/// The lines of `epmd -names`.
async fn list(host: &str) -> Result<String, String> {
    let addresses = addresses(host)?;
    let mut why = format!("{host} has no address");
    for addr in addresses {
        match ask_names(addr).await {
            Ok(answer) => return render(&answer),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn ask_names(addr: SocketAddr) -> Result<Vec<u8>, String> {
    let dialer = Dialer::new(Backends { epmd: Some(addr), dist: Vec::new(), forwards: Vec::new() }, TIMEOUT);
    let stream = dialer.run_errand(&Policy::own_errand(addr)).await.map_err(|error| match &error {
        // A guard resets whom it does not let in, mostly before the connection is up here.
        DialError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionReset => {
            format!("{}: {}", describe(&error), silence(addr))
        }
        DialError::Connect { .. } | DialError::TimedOut { .. } | DialError::NoBackend | DialError::Leg(_) => {
            describe(&error)
        }
    })?;
    let answer = ask(stream, &Request::Names.encode(), TIMEOUT, MAX_ANSWER).await;
    match answer {
        Ok(answer) if answer.is_empty() => Err(format!("{addr} closed without an answer: {}", silence(addr))),
        Ok(answer) => Ok(answer),
        Err(error) => Err(format!("{addr}: {}", describe(&error))),
    }
}

/// What it may mean that nothing was said.
fn silence(addr: SocketAddr) -> &'static str {
    if addr.ip().is_loopback() {
        "no epmd, or, where the address stands for a peer, that peer's guard could not be asked: the log says why"
    } else {
        "a guard that does not let this host in, or by a tunnel alone (ask at the peer's alias then); or no epmd"
    }
}

fn render(answer: &[u8]) -> Result<String, String> {
    let reply = NamesReply::decode(answer).map_err(|fault| fault.to_string())?;
    let mut lines = format!("epmd: up and running on port {} with data:\n", reply.epmd_port);
    for listed in &reply.names {
        lines.push_str(&format!("name {} at port {}\n", listed.name, listed.port));
    }
    Ok(lines)
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`. Like `epmd -names`, IPv6 is tried first.
fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(vec![addr]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => {
            let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            (host, port)
        }
        Some(_) | None => (text, default_port()?),
    };
    let mut ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => host::resolve(host).map_err(|error| format!("{host}: {}", describe(&error)))?,
    };
    ips.sort_by_key(IpAddr::is_ipv4);
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

#[expect(clippy::disallowed_methods, reason = "the environment is read in cli only, and this is cli")]
fn default_port() -> Result<u16, String> {
    match std::env::var("ERL_EPMD_PORT") {
        Ok(port) => port.parse().map_err(|_| format!("ERL_EPMD_PORT is {port:?}, which is no port")),
        Err(_) => Ok(DEFAULT_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_come_with_its_port() {
        let shown = |text| {
            addresses(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown("127.0.0.1:5000"), Ok("127.0.0.1:5000".into()));
        assert_eq!(shown("[::1]:5000"), Ok("[::1]:5000".into()));
        assert_eq!(shown("::1"), Ok("[::1]:4369".into()));
        assert!(shown("localhost").unwrap().ends_with("127.0.0.1:4369"));
        assert_eq!(shown("localhost:x"), Err("\"x\" is no port".into()));
    }

    #[test]
    fn names_are_printed_as_epmd_prints_them() {
        let lines = render(b"\0\0\x11\x11name b at port 9101\nname a at port 9100\n").unwrap();
        assert_eq!(
            lines,
            "epmd: up and running on port 4369 with data:\nname b at port 9101\nname a at port 9100\n"
        );
    }
}
