//! What is measured: the ways from the clients to the stand-in, all of them up at one time, and a real node.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::Options;
use crate::clients::{COOKIE, Crowd, HOSTS, host};
use crate::processors::Processors;
use crate::stand_in::StandIn;
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use crate::support::handshake::{Initiator, Shaken};

/// Bounds a program that does not come up; measures nothing.
const SOON: Duration = Duration::from_secs(30);
/// OTP's own, where it is installed.
const ERL: &str = "/usr/bin/erl";

/// One way to a node.
#[derive(Debug)]
pub(crate) struct Entrant {
    /// What the tables call it.
    pub(crate) name: &'static str,
    /// Where the clients dial.
    pub(crate) at: SocketAddr,
    pub(crate) crowd: Crowd,
    /// What is measured; `None`: nothing is between the clients and the stand-in.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) leads: Leads,
}

/// Where a way leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    ToStandIn,
    /// To a real node, which is what is measured then.
    ToNode,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) entrants: Vec<Entrant>,
    /// Their files.
    _dir: TempDir,
}

/// The one to which the others are compared: the guard, where it reads nothing.
pub(crate) const UNREAD: &str = "guard, tcp: nothing is read";

/// How a guard is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `[[forward]] kind = "tcp"`
    Tcp,
    /// `[dist]`
    Dist,
    /// The same with a `cookie_file`.
    Cookie,
    /// The same with a thousand `[[peer]]`s, each with an address and a list of names.
    Peers,
    /// As `Cookie`, with the log as it is by default: two lines a link.
    Log,
}

impl Field {
    /// Starts them, each at an address of its own, and waits until a link comes up through each.
    pub(crate) fn start(options: &Options, processors: Processors, stand_in: &StandIn) -> Self {
        let dir = tempfile::tempdir().expect("making a temporary directory");
        let direct = |name, at, daemon, leads| Entrant { name, at, crowd: Crowd::Few, daemon, leads };
        let mut entrants = vec![direct("the stand-in itself", stand_in.at, None, Leads::ToStandIn)];
        let at = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), stand_in.at.port()));
        if let Some(command) = haproxy(&options.haproxy, dir.path(), at(2), stand_in.at) {
            let daemon = processors.on_measured(|| Daemon::spawn("haproxy", command));
            entrants.push(direct("haproxy, mode tcp", at(2), Some(daemon), Leads::ToStandIn));
        }
        let guards = [
            (UNREAD, Shape::Tcp),
            ("guard, dist: all is read", Shape::Dist),
            ("guard, dist, cookie_file", Shape::Cookie),
            ("guard, dist, 1,000 peers", Shape::Peers),
            ("guard, dist, cookie_file, log", Shape::Log),
        ];
        for ((name, shape), last) in guards.into_iter().zip(3..) {
            let command = guard(&options.guard, &shape.configure(dir.path(), at(last)), shape);
            let daemon = processors.on_measured(|| Daemon::spawn(name, command));
            let crowd = if shape == Shape::Peers { Crowd::Hosts } else { Crowd::Few };
            entrants.push(Entrant {
                name,
                at: at(last),
                crowd,
                daemon: Some(daemon),
                leads: Leads::ToStandIn,
            });
        }
        if Path::new(ERL).exists() {
            let at = free_port();
            let daemon = processors.on_measured(|| Daemon::spawn("node", node(dir.path(), at.port())));
            let name = "a real node itself";
            entrants.push(Entrant {
                name,
                at,
                crowd: Crowd::New,
                daemon: Some(daemon),
                leads: Leads::ToNode,
            });
        }
        entrants.retain(|entrant| entrant.name.contains(&options.who));
        entrants.iter().for_each(Entrant::wait);
        Self { entrants, _dir: dir }
    }
}

impl Entrant {
    /// Until a link comes up.
    pub(crate) fn wait(&self) {
        // Of an address that each of them lets in.
        let node = Initiator::named("n0@h0.example.net").cookie(COOKIE).hidden();
        eventually(&format!("{} lets a link come up", self.name), SOON, || {
            let ended = self.daemon.as_ref().and_then(Daemon::exit_status);
            assert!(ended.is_none(), "{} ended at once, {ended:?}", self.name);
            let stream = self.connect().map_err(|error| error.to_string())?;
            let shaken = node.shake(&stream);
            if shaken == Shaken::Up { Ok(()) } else { Err(format!("{shaken:?}")) }
        });
    }

    /// From an address that each of them lets in, by a reset when it is dropped.
    pub(crate) fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((host(0).0, 0)).into())?;
        socket.connect(&self.at.into())?;
        Ok(socket.into())
    }
}

impl Shape {
    /// Writes the configuration of a guard that listens at `at` and dials the same port of 127.0.0.1.
    pub(crate) fn configure(self, dir: &Path, at: SocketAddr) -> PathBuf {
        let (ip, port) = (at.ip(), at.port());
        let mut config =
            "[cluster]\nallow = [\"127.0.0.0/8\"]\n[epmd]\nlisten = []\nself = \"none\"\n".to_owned();
        let ports = if self == Self::Tcp { String::new() } else { port.to_string() };
        config += &format!("[dist]\nlisten = [\"{ip}\"]\nports = [{ports}]\nbackend = [\"127.0.0.1\"]\n");
        if matches!(self, Self::Cookie | Self::Log) {
            let file = dir.join("cookie");
            fs::write(&file, COOKIE).expect("a temporary directory can be written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
            config += &format!("cookie_file = {file:?}\n");
        }
        if self == Self::Tcp {
            config += &format!("[[forward]]\nkind = \"tcp\"\nports = [{port}]\n");
        }
        if self == Self::Peers {
            for (address, name) in (0..HOSTS).map(host) {
                config += &format!("[[peer]]\nname = \"{name}\"\naddresses = [\"{address}\"]\n");
                config += &format!("nodes = [\"*@{name}\"]\n");
            }
        }
        // None of them is to be reached, the clients are of one host.
        config += "[limits]\nper_address = 10000\nper_subnet = 10000\nhalf_open = 10000\n";
        config += "half_open_per_address = 10000\nrate_per_address = 1000000\nrate_per_subnet = 1000000\n";
        config += "[ban]\nafter = 0\nfile = \"\"\n[admin]\nsocket = \"\"\n[log]\n";
        config += if self == Self::Log { "level = \"info\"\n" } else { "level = \"error\"\n" };
        let path = dir.join(format!("{self:?}.toml"));
        fs::write(&path, config).expect("a temporary directory can be written");
        path
    }
}

/// The lines of a guard that logs go where they cost the others nothing.
fn guard(program: &Path, config: &Path, shape: Shape) -> Command {
    let to = if shape == Shape::Log { "2>/dev/null" } else { "" };
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$0\" run --config \"$1\" {to}")).arg(program).arg(config);
    command
}

/// `None`: it is not installed.
fn haproxy(program: &Path, dir: &Path, at: SocketAddr, node: SocketAddr) -> Option<Command> {
    let version = Command::new(program).arg("-v").output().ok()?;
    println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
    let config = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\nlisten links\n  bind {at}\n  server node {node}\n"
    );
    let path = dir.join("haproxy.cfg");
    fs::write(&path, config).expect("a temporary directory can be written");
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(path);
    Some(command)
}

fn node(home: &Path, port: u16) -> Command {
    let mut command = Command::new(ERL);
    command.args(["-noinput", "-name", "node@127.0.0.1", "-setcookie", COOKIE, "-start_epmd", "false"]);
    command.args(["-erl_epmd_port", &port.to_string(), "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
    command.env("HOME", home);
    command
}

/// Nobody else gets it at once: the kernel hands out the next such port elsewhere.
fn free_port() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("making a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    socket.local_addr().expect("it is bound").as_socket().expect("an address of IPv4")
}
