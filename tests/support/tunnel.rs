//! Hosts whose guards carry what goes from node to node in tunnels.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::erlang::{Node, NodeBuilder};
use super::guard::{Guard, USER, program};
use super::host::{self, Host};
use super::lab::{self, Lab};
use super::said::{Said, command, told};

/// What is to be made; see [`Scene::of`].
#[derive(Clone, Debug)]
pub struct SceneBuilder {
    hosts: Vec<String>,
    family: Family,
    connect: Connect,
    sections: String,
    tls: String,
    mode: &'static str,
}

/// By which family of addresses nodes dial and legs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// How guards find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// By address.
    Address,
    /// By name.
    Name,
}

/// A host with a guard that is in tunnels with those of the other hosts.
#[derive(Debug)]
pub struct TunnelHost {
    /// The host.
    pub host: Host,
    /// Its guard.
    pub guard: Guard,
    /// What its guard proves by who it is: `host.crt`, `host.key`, `ca.crt` and `crl.pem`.
    pub tls: PathBuf,
    /// The file that leads its nodes to the aliases.
    inetrc: PathBuf,
    family: Family,
}

/// Hosts with guards in tunnels. All certificates are of one CA.
#[derive(Debug)]
pub struct Scene {
    /// The hosts, by number from 0.
    pub hosts: Vec<TunnelHost>,
    /// What they are in; it goes last.
    pub lab: Lab,
}

impl SceneBuilder {
    /// Nodes dial by IPv6, and so do guards.
    #[must_use]
    pub fn inet6(mut self) -> Self {
        self.family = Family::Inet6;
        self
    }

    /// Guards find each other by name.
    #[must_use]
    pub fn by_name(mut self) -> Self {
        self.connect = Connect::Name;
        self
    }

    /// The sections of the configuration besides `[tls]`, `[[peer]]` and `[log]`, instead of an epmd behind the guard.
    #[must_use]
    pub fn sections(mut self, text: &str) -> Self {
        text.clone_into(&mut self.sections);
        self
    }

    /// A further line of `[tls]`.
    #[must_use]
    pub fn tls(mut self, line: &str) -> Self {
        self.tls.push_str(line);
        self.tls.push('\n');
        self
    }

    /// What `[[peer]] tls` says.
    #[must_use]
    pub fn mode(mut self, mode: &'static str) -> Self {
        self.mode = mode;
        self
    }

    /// Makes the hosts, their certificates, and starts the guards.
    ///
    /// # Panics
    ///
    /// When something of it fails.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Scene {
        let names: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let lab = Lab::new(&names);
        let hosts: Vec<Host> = names.iter().map(|name| lab.host(name)).collect();
        let ca = authority(&lab, &hosts);
        let started = hosts.iter().map(|host| {
            let tls = install(host, &ca);
            if self.family == Family::Inet6 {
                for (number, _) in (1..).zip(&hosts) {
                    host.add_loopback(&format!("{}/128", alias(number, self.family)));
                }
            }
            let guard = Guard::launch(&lab, host, &self.config(&hosts, host, &tls));
            guard.wait_open(4371);
            TunnelHost {
                host: host.clone(),
                guard,
                tls,
                inetrc: self.write_inetrc(&hosts, host),
                family: self.family,
            }
        });
        let hosts = started.collect();
        Scene { hosts, lab }
    }

    /// The configuration of one of the guards.
    fn config(&self, hosts: &[Host], own: &Host, tls: &Path) -> String {
        let file = |name: &str| tls.join(name);
        let mut text = format!(
            "{}[tls]\nlisten = [\"*:4371\"]\ncert = {:?}\nkey = {:?}\nca = {:?}\ncrl = {:?}\n{}[log]\nformat = \"json\"\nlevel = \"debug\"\n",
            self.sections,
            file("host.crt"),
            file("host.key"),
            file("ca.crt"),
            file("crl.pem"),
            self.tls
        );
        for (number, host) in (1..).zip(hosts).filter(|(_, host)| host.name() != own.name()) {
            let connect = match (self.connect, self.family) {
                (Connect::Name, _) => host.name(),
                (Connect::Address, Family::Inet) => format!("{}:4371", host.v4()),
                (Connect::Address, Family::Inet6) => format!("[{}]:4371", host.v6()),
            };
            let addresses = match self.connect {
                Connect::Name => vec![host.name()],
                Connect::Address => vec![host.v4().to_string(), host.v6().to_string()],
            };
            let written = write!(
                text,
                "[[peer]]\nname = {:?}\naddresses = {addresses:?}\nhosts = [{:?}]\nconnect = {connect:?}\nalias = \"{}\"\ntls = {:?}\n",
                host.short_name(),
                host.name(),
                alias(number, self.family),
                self.mode
            );
            written.expect("a string takes all");
        }
        text
    }

    /// Leads the VM, and nothing else of the host, to the aliases.
    fn write_inetrc(&self, hosts: &[Host], own: &Host) -> PathBuf {
        let path = own.dir().join("inetrc");
        fs::write(&path, self.inetrc(hosts, own)).expect("the host's directory can be written");
        lab::set_mode(&path, 0o644);
        path
    }

    fn inetrc(&self, hosts: &[Host], own: &Host) -> String {
        let mut text = "{lookup, [file, native]}.\n".to_owned();
        for (number, host) in (1..).zip(hosts).filter(|(_, host)| host.name() != own.name()) {
            let address = super::erlang::tuple(alias(number, self.family));
            text.push_str(&format!("{{host, {address}, [{:?}, {:?}]}}.\n", host.name(), host.short_name()));
        }
        text
    }
}

impl Scene {
    /// Hosts of these names. If nobody says otherwise, each has an epmd of its own on loopback behind the guard, nodes
    /// that take ports of the kernel's choice, and peers that come by tunnels alone.
    #[must_use]
    pub fn of(names: &[&str]) -> SceneBuilder {
        SceneBuilder {
            hosts: names.iter().map(|&name| name.to_owned()).collect(),
            family: Family::Inet,
            connect: Connect::Address,
            sections: "[epmd]\nbackend = \"127.0.0.1:4369\"\n".to_owned(),
            tls: String::new(),
            mode: "required",
        }
    }
}

impl Scene {
    /// The directory of the CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.lab.dir().join("ca")
    }

    /// Runs a command of the CA in `dir`, with `args` behind.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn certs(&self, dir: &Path, command_name: &str, args: &[&str]) {
        let host = self.hosts.first().expect("a scene has a host");
        run_certs(&self.lab, &host.host, dir, command_name, args);
    }

    /// Changes the configuration of a guard and has it reloaded.
    #[track_caller]
    pub fn reload(&self, at: &TunnelHost, edit: impl FnOnce(String) -> String) -> Said {
        let path = self.lab.dir().join(format!("{}.toml", at.host.short_name()));
        let text = fs::read_to_string(&path).expect("the guard has a configuration");
        fs::write(&path, edit(text)).expect("the lab's directory can be written");
        told(&self.lab, &at.host, &["reload", "--yes"])
    }

    /// Starts a guard again that has ended, or another one in its place.
    #[track_caller]
    pub fn start_again(&mut self, number: usize) {
        let Self { hosts, lab } = self;
        let at = hosts.get_mut(number).expect("there is such a host");
        let path = lab.dir().join(format!("{}.toml", at.host.short_name()));
        let text = fs::read_to_string(&path).expect("the guard has a configuration");
        at.guard = Guard::launch(lab, &at.host, &text);
        at.guard.wait_open(4371);
    }
}

impl TunnelHost {
    /// Puts a file into [`Self::tls`], in place of the one that is there, for its guard alone.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn put(&self, name: &str, text: &str) {
        let fresh = self.tls.join(format!("{name}.new"));
        fs::write(&fresh, text).unwrap_or_else(|error| panic!("{name}: {error}"));
        host::give(&fresh, USER);
        lab::set_mode(&fresh, 0o600);
        fs::rename(&fresh, self.tls.join(name)).expect("the directory can be written");
    }

    /// Puts files there as Kubernetes does: each is a link through `..data`, which leads to another directory at one moment.
    ///
    /// # Panics
    ///
    /// When they cannot be written.
    pub fn swap(&self, number: u32, files: &[(&str, String)]) {
        let dir = self.tls.join(format!("..{number}"));
        fs::create_dir(&dir).expect("the number is new");
        lab::set_mode(&dir, 0o700);
        for (name, text) in files {
            let path = dir.join(name);
            fs::write(&path, text).expect("the directory can be written");
            lab::set_mode(&path, 0o600);
            host::give(&path, USER);
        }
        host::give(&dir, USER);
        let link = |to: &Path, name: &str| {
            let fresh = self.tls.join(format!("{name}.new"));
            symlink(to, &fresh).expect("the directory can be written");
            fs::rename(fresh, self.tls.join(name)).expect("the directory can be written");
        };
        link(Path::new(&format!("..{number}")), "..data");
        for (name, _) in files.iter().filter(|(name, _)| !self.tls.join(name).is_symlink()) {
            link(&Path::new("..data").join(name), name);
        }
    }

    /// Puts the certificate that the CA in `dir` has issued for `name`, and its key, into [`Self::tls`].
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn put_certificate(&self, dir: &Path, name: &str) {
        self.put("host.crt", &read(&dir.join(format!("{name}.crt"))));
        self.put("host.key", &read(&dir.join(format!("{name}.key"))));
    }

    /// A node that finds the others by their aliases, to be started.
    ///
    /// It is without `global`, whose messages may connect two nodes again at once that were just disconnected.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeBuilder {
        let builder = Node::named(name, &self.host).arg("-connect_all").arg("false");
        let builder = builder.env("ERL_INETRC", &self.inetrc.display().to_string());
        match self.family {
            Family::Inet => builder,
            Family::Inet6 => builder.inet6(),
        }
    }

    /// The file that leads its nodes to the aliases.
    #[must_use]
    pub fn inetrc_file(&self) -> &Path {
        &self.inetrc
    }

    /// What it says.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn inetrc(&self) -> String {
        fs::read_to_string(&self.inetrc).expect("it was written")
    }
}

/// What stands for the host of this number, from 1, on the others.
#[must_use]
pub fn alias(number: u16, family: Family) -> IpAddr {
    match family {
        Family::Inet => [127, 0, 0, 10 + u8::try_from(number).unwrap_or(u8::MAX)].into(),
        Family::Inet6 => [0xfd00, 0, 0, 0, 0, 0, 0, 0x10 + number].into(),
    }
}

/// A CA and a certificate for each host, by the commands of the program.
#[track_caller]
fn authority(lab: &Lab, hosts: &[Host]) -> PathBuf {
    let dir = lab.dir().join("ca");
    let first = hosts.first().expect("a scene has a host");
    let names: Vec<String> = hosts.iter().map(Host::name).collect();
    run_certs(lab, first, &dir, "init", &["--name", "scene"]);
    run_certs(lab, first, &dir, "issue", &names.iter().map(String::as_str).collect::<Vec<_>>());
    drop(program(lab));
    dir
}

#[track_caller]
fn run_certs(lab: &Lab, host: &Host, dir: &Path, command_name: &str, args: &[&str]) {
    let own = dir.display().to_string();
    let said = command(lab, host, [&["certs", command_name, "--dir", &own], args].concat());
    assert_eq!(said.code, 0, "{said:?}");
}

/// A text file.
///
/// # Panics
///
/// When it cannot be read.
#[must_use]
#[track_caller]
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Brings a host what is its own, readable by its guard alone.
#[track_caller]
fn install(host: &Host, ca: &Path) -> PathBuf {
    let dir = host.dir_of(USER, "tls");
    let name = host.name();
    for (from, to) in [
        (format!("{name}.crt"), "host.crt"),
        (format!("{name}.key"), "host.key"),
        ("ca.crt".to_owned(), "ca.crt"),
        ("crl.pem".to_owned(), "crl.pem"),
    ] {
        let target = dir.join(to);
        fs::copy(ca.join(&from), &target).unwrap_or_else(|error| panic!("{from}: {error}"));
        host::give(&target, USER);
        lab::set_mode(&target, 0o600);
    }
    dir
}
