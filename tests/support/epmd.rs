//! A real epmd, run by an unprivileged user on a host of the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::daemon::Daemon;
use super::erlang::{PATIENCE, USER};
use super::eventually::eventually;
use super::host::Host;
use super::otp::Otp;
use super::wire;

/// The request for the list of names.
const NAMES: &[u8] = b"n";

/// Where a real epmd listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpmdListen {
    /// On 127.0.0.1 and ::1, as behind a guard (`ERL_EPMD_ADDRESS=127.0.0.1`; ::1 comes with it).
    Loopback,
    /// On 0.0.0.0 and `[::]`, which is what epmd does when nobody tells it otherwise.
    Everywhere,
}

/// A real epmd. Dropping it kills it.
#[derive(Debug)]
pub struct Epmd {
    host: Host,
    how: How,
    daemon: Daemon,
}

/// How an epmd is started, and started anew.
#[derive(Debug)]
struct How {
    otp: Otp,
    listen: EpmdListen,
    port: u16,
    args: Vec<String>,
}

impl Epmd {
    /// Starts epmd on port 4369 and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not, or when something listens on its port already: an epmd that finds its port taken
    /// ends with status 0 and without a word.
    #[must_use]
    #[track_caller]
    pub fn start(host: &Host, listen: EpmdListen) -> Self {
        Self::start_with(host, listen, 4369, &[])
    }

    /// Starts epmd on a port of your choice, with more arguments, such as `-relaxed_command_check`.
    ///
    /// Nodes find it elsewhere than on 4369 when they have `ERL_EPMD_PORT` in their environment.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[must_use]
    #[track_caller]
    pub fn start_with(host: &Host, listen: EpmdListen, port: u16, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self::spawn(host, How { otp: Otp::Here, listen, port, args })
    }

    /// Starts the epmd of an OTP on loopback, port 4369.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[must_use]
    #[track_caller]
    pub fn start_of(otp: &Otp, host: &Host) -> Self {
        let (listen, port, args) = (EpmdListen::Loopback, 4369, Vec::new());
        Self::spawn(host, How { otp: otp.clone(), listen, port, args })
    }

    /// Where it answers on loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        loopback(self.how.port)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The answer to NAMES, without the four bytes of the port: a line `name NAME at port PORT` for each
    /// node.
    ///
    /// # Panics
    ///
    /// When epmd does not answer.
    #[must_use]
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let names =
            names(&self.host, self.how.port).unwrap_or_else(|why| panic!("asking epmd for names: {why}"));
        names.lines().map(str::to_owned).collect()
    }

    /// Kills it. Its nodes try to reach it again every 2 s.
    pub fn stop(&mut self) {
        self.daemon.kill();
    }

    /// Kills it, if it still runs, and starts it anew, without a single name.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.daemon = self.how.run(&self.host);
    }

    #[track_caller]
    fn spawn(host: &Host, how: How) -> Self {
        Self { host: host.clone(), daemon: how.run(host), how }
    }
}

impl How {
    #[track_caller]
    fn run(&self, host: &Host) -> Daemon {
        let Self { otp, listen, port, args } = self;
        // A listener on an address of its own is in the way of one on all addresses, and the other way round.
        let in_the_way = |at: &SocketAddr| {
            // A guard may serve the rest of 127/8.
            let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            let shares =
                loopbacks.contains(&at.ip()) || at.ip().is_unspecified() || *listen == EpmdListen::Everywhere;
            at.port() == *port && shares
        };
        let taken: Vec<_> = host.listeners().into_iter().filter(in_the_way).collect();
        assert!(
            taken.is_empty(),
            "epmd cannot have port {port} of {}: somebody listens on {taken:?}",
            host.name()
        );
        let mut command = otp.command(host, USER, "epmd");
        command.args(["-port", &port.to_string()]).args(args);
        if *listen == EpmdListen::Loopback {
            command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        }
        let daemon = Daemon::spawn(format!("epmd on {}", host.name()), command);
        eventually(&format!("epmd on {} answers", host.name()), PATIENCE, || {
            assert!(daemon.exit_status().is_none(), "epmd on {} ended: {:?}", host.name(), daemon.lines());
            names(host, *port)
        });
        daemon
    }
}

fn names(host: &Host, port: u16) -> Result<String, String> {
    let stream = host.connect(loopback(port)).map_err(|error| error.to_string())?;
    let answer = wire::ask(&stream, NAMES);
    match answer.split_first_chunk::<4>() {
        Some((_, names)) => Ok(String::from_utf8_lossy(names).into_owned()),
        None => Err(format!("answered {answer:?}")),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
