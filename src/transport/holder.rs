//! Who has the port that we want, as far as an unprivileged process can see.

use std::fmt;
use std::fs;
use std::net::SocketAddr;

use procfs::process::{FDTarget, Process, all_processes};

use super::sockets::{Listening, in_the_way, listening};

/// A socket in our way and what is known of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The socket.
    pub socket: Listening,
    /// The name of the user that made it, where it has one.
    pub user: Option<String>,
    /// The process that holds it, where it can be seen.
    pub process: Option<Owner>,
    /// Processes of the same user that are an epmd, a VM or a guard, where the holder itself cannot be seen.
    pub suspects: Vec<Owner>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub pid: i32,
    /// Its name, as in `ps -o comm`.
    pub name: String,
    /// Its systemd unit, where it has one.
    pub unit: Option<String>,
}

/// The sockets that keep `addr` from being bound; none when they went meanwhile. What is `known` already
/// is not looked for again.
#[must_use]
pub fn of(addr: SocketAddr, known: Vec<Holder>) -> Vec<Holder> {
    let sockets = listening().unwrap_or_default();
    let look = |socket: &Listening| {
        let before = known.iter().find(|holder| holder.socket == *socket);
        before.cloned().unwrap_or_else(|| Holder::look(*socket))
    };
    in_the_way(&sockets, addr).map(look).collect()
}

impl Holder {
    fn look(socket: Listening) -> Self {
        let user = nix::unistd::User::from_uid(socket.uid.into()).ok().flatten().map(|user| user.name);
        let process = find_owner(socket.inode);
        let suspects = if process.is_none() { suspects(socket.uid) } else { Vec::new() };
        Self { socket, user, process, suspects }
    }

    /// Whether it is known, or likely, that this program holds the socket.
    #[must_use]
    pub fn is_likely(&self, program: &str) -> bool {
        match &self.process {
            Some(owner) => owner.name == program,
            None => self.suspects.iter().any(|owner| owner.name == program),
        }
    }

    /// Whether a systemd socket unit seems to hold it: process 1 does, or user root does without a
    /// process of the cluster's that could.
    #[must_use]
    pub fn is_likely_systemd(&self) -> bool {
        match &self.process {
            Some(owner) => owner.pid == 1 || owner.name == "systemd",
            None => self.socket.uid == 0 && self.suspects.is_empty(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of uid {}", self.socket.addr, self.socket.uid)?;
        if let Some(user) = &self.user {
            write!(f, " ({})", user.escape_default())?;
        }
        match (&self.process, self.suspects.as_slice()) {
            (Some(owner), _) => write!(f, ", {owner}"),
            (None, [suspect]) => write!(f, ", probably {suspect}"),
            (None, _) => Ok(()),
        }
    }
}

/// All that is known of the holders of one port, and how to see the rest.
#[must_use]
pub fn describe(holders: &[Holder]) -> String {
    let mut text = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if let Some(unseen) = holders.iter().find(|holder| holder.process.is_none()) {
        let port = unseen.socket.addr.port();
        text.push_str(&format!("; as root, `ss -ltnp 'sport = :{port}'` shows the process"));
    }
    text
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}", self.name.escape_default(), self.pid)?;
        if let Some(unit) = &self.unit {
            write!(f, ", unit {}", unit.escape_default())?;
        }
        f.write_str(")")
    }
}

/// The process with a descriptor of this socket. Another user's descriptors can be seen by root only.
fn find_owner(inode: u64) -> Option<Owner> {
    all_processes().ok()?.flatten().find_map(|process| {
        let holds = process
            .fd()
            .ok()?
            .flatten()
            .any(|descriptor| matches!(descriptor.target, FDTarget::Socket(number) if number == inode));
        holds.then(|| Owner::of(&process))
    })
}

/// epmds, VMs and guards of this user, which anybody can see.
fn suspects(uid: u32) -> Vec<Owner> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    processes
        .flatten()
        .filter(|process| process.uid().is_ok_and(|owner| owner == uid))
        .map(|process| (Owner::of(&process), process.cmdline().unwrap_or_default()))
        .filter(|(owner, arguments)| may_listen(&owner.name, arguments))
        .map(|(owner, _)| owner)
        .collect()
}

/// A program that serves: whoever asks a guard something by its own program holds no port.
fn may_listen(name: &str, arguments: &[String]) -> bool {
    match name {
        "epmd" | "beam.smp" => true,
        "epmd-guard" => arguments.iter().skip(1).any(|argument| argument == "run"),
        _ => false,
    }
}

impl Owner {
    fn of(process: &Process) -> Self {
        let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
        Self { pid: process.pid, name, unit: unit_of(process.pid) }
    }
}

fn unit_of(pid: i32) -> Option<String> {
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The last part of the cgroup's path that is a unit.
fn unit_in(cgroups: &str) -> Option<String> {
    let of_systemd = |line: &'_ str| {
        line.strip_prefix("0::").or_else(|| line.split(":name=systemd:").nth(1)).map(str::to_owned)
    };
    let path = cgroups.lines().find_map(of_systemd)?;
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    path.rsplit('/').find(is_unit).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_socket_is_found_with_its_process() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = super::super::Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let holders = of(listener.local_addr(), Vec::new());
        let [holder] = holders.as_slice() else { panic!("{holders:?}") };
        let owner = holder.process.as_ref().unwrap();
        assert_eq!(owner.pid, i32::try_from(std::process::id()).unwrap());
        let shown = describe(&holders);
        assert!(!shown.contains("ss -ltnp"), "{shown}");
        assert!(shown.contains(&format!("pid {}", owner.pid)), "{shown}");
        assert!(holder.is_likely(&owner.name));
    }

    #[test]
    fn a_guard_is_a_suspect_and_a_command_that_asks_one_is_none() {
        let arguments = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(may_listen("epmd-guard", &arguments("/usr/bin/epmd-guard run --config /f.toml")));
        assert!(!may_listen("epmd-guard", &arguments("epmd-guard status")));
        assert!(!may_listen("epmd-guard", &[]));
        assert!(may_listen("beam.smp", &[]) && may_listen("epmd", &[]) && !may_listen("sshd", &[]));
    }

    #[test]
    fn the_unit_is_read_from_both_kinds_of_cgroups() {
        let unified = "0::/system.slice/ejabberd.service/vm\n";
        assert_eq!(unit_in(unified).as_deref(), Some("ejabberd.service"));
        let legacy = "4:memory:/x\n1:name=systemd:/system.slice/epmd.service\n0::/\n";
        assert_eq!(unit_in(legacy).as_deref(), Some("epmd.service"));
        assert_eq!(unit_in("0::/\n"), None);
    }

    #[test]
    fn a_socket_whose_process_cannot_be_seen_comes_with_the_command_that_shows_it() {
        let socket = Listening { addr: "0.0.0.0:4369".parse().unwrap(), uid: 104, inode: 0, only_v6: false };
        let mut holder =
            Holder { socket, user: Some("ejabberd".into()), process: None, suspects: Vec::new() };
        assert_eq!(
            describe(std::slice::from_ref(&holder)),
            "0.0.0.0:4369 of uid 104 (ejabberd); as root, `ss -ltnp 'sport = :4369'` shows the process"
        );
        holder.suspects.push(Owner { pid: 7, name: "epmd".into(), unit: Some("x.service".into()) });
        assert!(holder.to_string().contains("probably epmd (pid 7, unit x.service)"), "{holder}");
        assert!(holder.is_likely("epmd") && !holder.is_likely_systemd());
    }
}
