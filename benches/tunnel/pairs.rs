//! What is measured: two programs of a kind with TLS between them, and nothing at all.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::Options;
use crate::certificates::{Certificates, NAMES};
use crate::node::Client;
use crate::processors::Processors;
use crate::support::daemon::Daemon;
use crate::support::eventually::eventually;
use crate::usage::{cpu_seconds, resident};

/// Bounds a program that does not come up; measures nothing.
const SOON: Duration = Duration::from_secs(30);
/// The port of the tunnel, at an address of each pair's own.
const TUNNEL: u16 = 4371;

/// The one to which the others are compared.
pub(crate) const BASE: &str = "two haproxys, mode tcp";
const GUARDS: &str = "two guards, kind tcp";
const OTHER: &str = "two other guards";
const NOTHING: &str = "no tunnel";

/// One way to the node.
#[derive(Debug)]
pub(crate) struct Way {
    /// What the tables call it.
    pub(crate) name: &'static str,
    /// Where the clients dial.
    pub(crate) at: SocketAddr,
    /// Both ends; none: nothing is between the clients and the node.
    pub(crate) ends: Vec<Daemon>,
    /// Their files.
    _dir: TempDir,
}

/// What the ways are started with.
#[derive(Debug)]
pub(crate) struct Ways<'a> {
    pub(crate) options: &'a Options,
    pub(crate) processors: Processors,
    pub(crate) node: SocketAddr,
    pub(crate) certificates: &'a Certificates,
}

/// A pair's addresses.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where the clients dial.
    entry: SocketAddr,
    /// Where the second end is dialled.
    tunnel: SocketAddr,
    /// Where the two of them show what nobody asks for here.
    aside: [Ipv4Addr; 2],
}

impl Place {
    /// Those of the pair of this number, which share the port of the node: guards know one number for both sides.
    fn of(pair: u8, port: u16) -> Self {
        let ip = |last| Ipv4Addr::new(127, 2, pair, last);
        let (entry, tunnel) = (SocketAddr::from((ip(12), port)), SocketAddr::from((ip(2), TUNNEL)));
        Self { entry, tunnel, aside: [ip(3), ip(4)] }
    }
}

impl Ways<'_> {
    /// All, each until the node answers through it.
    pub(crate) fn start(&self) -> Vec<Way> {
        self.names().into_iter().map(|name| self.start_one(name)).collect()
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names = vec![NOTHING];
        if self.options.haproxy.exists() {
            names.push(BASE);
        }
        names.push(GUARDS);
        if self.options.other.is_some() {
            names.push(OTHER);
        }
        names.retain(|name| name.contains(&self.options.who));
        names
    }

    pub(crate) fn start_one(&self, name: &'static str) -> Way {
        let dir = tempfile::tempdir().expect("making a temporary directory");
        let other = self.options.other.as_ref();
        let (at, commands) = match name {
            BASE => self.haproxys(Place::of(1, self.node.port()), dir.path()),
            GUARDS => self.guards(&self.options.guard, Place::of(2, self.node.port()), dir.path()),
            OTHER => self.guards(other.expect("it was given"), Place::of(3, self.node.port()), dir.path()),
            _ => (self.node, Vec::new()),
        };
        let start = |command| self.processors.on_measured(|| Daemon::spawn(name, command));
        let way = Way { name, at, ends: commands.into_iter().map(start).collect(), _dir: dir };
        way.wait();
        way
    }

    fn guards(&self, program: &Path, place: Place, dir: &Path) -> (SocketAddr, Vec<Command>) {
        let Place { entry, tunnel, aside } = place;
        let common = |end: usize| {
            let file = |kind: &str| self.certificates.file(&format!("{}.{kind}", name_of(end)));
            let (cert, key, ca) = (file("cert"), file("key"), self.certificates.file("ca"));
            let listen = aside.get(end).expect("one of two");
            let port = entry.port();
            format!(
                "[cluster]\nallow = [\"127.0.0.0/8\"]\n[epmd]\nlisten = []\n\
                 [dist]\nlisten = [\"{listen}\"]\nports = []\nbackend = [\"127.0.0.1\"]\n\
                 [[forward]]\nkind = \"tcp\"\nports = [{port}]\n\
                 [limits]\nper_address = 10000\nper_subnet = 10000\nhalf_open = 10000\n\
                 half_open_per_address = 10000\nrate_per_address = 1000000\nrate_per_subnet = 1000000\n\
                 [ban]\nafter = 0\nfile = \"\"\n[admin]\nsocket = \"\"\n[log]\nlevel = \"warn\"\n\
                 [tls]\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n"
            )
        };
        let [h1, h2] = NAMES;
        let first = format!(
            "{}[[peer]]\nname = \"{h2}\"\naddresses = [\"{}\"]\nconnect = \"{tunnel}\"\nalias = \"{}\"\n",
            common(0),
            tunnel.ip(),
            entry.ip()
        );
        let second = format!(
            "{}listen = [\"{tunnel}\"]\n[[peer]]\nname = \"{h1}\"\naddresses = [\"127.0.0.1\"]\n",
            common(1)
        );
        let run = |(text, file): (String, &str)| {
            let mut command = Command::new(program);
            command.arg("run").arg("--config").arg(write(dir, file, &text));
            command
        };
        (entry, [(second, "second.toml"), (first, "first.toml")].map(run).into())
    }

    /// One thread each, with the suite that guards choose.
    fn haproxys(&self, place: Place, dir: &Path) -> (SocketAddr, Vec<Command>) {
        let Place { entry, tunnel, .. } = place;
        let file = |name: &str| self.certificates.file(name).display().to_string();
        let ca = file("ca");
        let [first, second] = NAMES.map(|name| file(&format!("{name}.pem")));
        let suites = "ciphersuites TLS_AES_128_GCM_SHA256 ssl-min-ver TLSv1.3";
        let config = |bind: String, server: String| {
            format!(
                "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                 timeout client 1h\n  timeout server 1h\nlisten links\n  bind {bind}\n  server node {server}\n"
            )
        };
        let first = config(
            entry.to_string(),
            format!("{tunnel} ssl crt {first} ca-file {ca} verify required {suites}"),
        );
        let second = config(
            format!("{tunnel} ssl crt {second} ca-file {ca} verify required {suites}"),
            self.node.to_string(),
        );
        let run = |(text, file): (String, &str)| {
            let mut command = Command::new(&self.options.haproxy);
            command.arg("-db").arg("-f").arg(write(dir, file, &text));
            command
        };
        (entry, [(second, "second.cfg"), (first, "first.cfg")].map(run).into())
    }
}

fn name_of(end: usize) -> &'static str {
    NAMES.get(end).expect("one of two")
}

fn write(dir: &Path, file: &str, text: &str) -> PathBuf {
    let path = dir.join(file);
    fs::write(&path, text).expect("a temporary directory can be written");
    path
}

impl Way {
    /// Until the node answers.
    fn wait(&self) {
        eventually(&format!("{} leads to the node", self.name), SOON, || {
            for end in &self.ends {
                assert!(end.exit_status().is_none(), "{} ended: {:?}", self.name, end.lines());
            }
            let asked = self.connect().and_then(|mut client| client.ask(0, 0));
            asked.map_err(|error| error.to_string())
        });
    }

    pub(crate) fn connect(&self) -> std::io::Result<Client> {
        Client::connect(self.at)
    }

    /// CPU seconds of both ends so far; `None`: there are none.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let used = self.ends.iter().map(|end| cpu_seconds(end.pid()));
        (!self.ends.is_empty()).then(|| used.sum())
    }

    /// Resident memory of both ends, in bytes; `None`: there are none.
    pub(crate) fn resident(&self) -> Option<f64> {
        let resident = self.ends.iter().map(|end| resident(end.pid()));
        (!self.ends.is_empty()).then(|| resident.sum())
    }
}

impl Drop for Way {
    /// At once: the next one of the kind takes the same addresses.
    fn drop(&mut self) {
        for end in &self.ends {
            end.signal(Signal::KILL);
            end.wait_exit(SOON);
        }
    }
}
