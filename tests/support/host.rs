//! One host of a lab: a network namespace with an address, a hosts file and programs that run in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::LinkNameSpaceType;
use socket2::{Domain, Protocol, Socket, Type};

use super::lab;

/// Longer than two SYN retransmissions (1 s, 2 s) and shorter than anybody's patience.
const CONNECT: Duration = Duration::from_secs(3);
/// A test that reads for this long hangs.
const TRANSFER: Duration = Duration::from_secs(20);
/// The nftables table that the counters of a host live in, apart from what the program under test may set up.
const TABLE: &str = "lab";
/// The nftables table of [`Host::filter`].
const FILTERS: &str = "filters";
/// Makes the first argument the root of the rest, in a mount namespace of its own. The lab's directory, and so the home
/// directory, is below `/tmp`, and keeps its path.
const ENTER: &str = r#"
    root=$1; shift
    mount --bind /etc/hosts "$root/etc/hosts"
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
    mount --bind /tmp "$root/tmp"
    mount --rbind /dev "$root/dev"
    mount --rbind /proc "$root/proc"
    exec chroot "$root" env --chdir="$HOME" "$@"
"#;

/// Which packets a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those that come to a host.
    In,
    /// Those that it sends.
    Out,
}

/// A host. A cheap handle: clones mean the same host, and threads may share it.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    short_name: String,
    netns: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    dir: PathBuf,
    counters: AtomicU32,
}

impl Host {
    /// The host is only described here; the lab makes it.
    pub(super) fn new(short_name: &str, netns: String, index: u8, lab: &Path) -> Self {
        Self(Arc::new(Inner {
            short_name: short_name.to_owned(),
            netns,
            v4: Ipv4Addr::new(192, 0, 2, index),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, index.into()),
            dir: lab.join(short_name),
            counters: AtomicU32::new(0),
        }))
    }

    /// The address on the lab's network.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.0.v4
    }

    /// The IPv6 address on the lab's network.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.0.v6
    }

    /// The full name, which every host of the lab can resolve, such as `h1.test`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.test", self.0.short_name)
    }

    /// The name without a domain, such as `h1`; it resolves too.
    #[must_use]
    pub fn short_name(&self) -> &str {
        &self.0.short_name
    }

    /// The name of the namespace, for `ip netns exec`.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// This host's directory below the lab's, readable by everybody.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn dir(&self) -> &Path {
        fs::create_dir_all(&self.0.dir)
            .unwrap_or_else(|error| panic!("making {}: {error}", self.0.dir.display()));
        lab::set_mode(&self.0.dir, 0o755);
        &self.0.dir
    }

    /// A directory below [`Self::dir`] that belongs to `user` alone.
    ///
    /// # Panics
    ///
    /// When it cannot be made, or there is no such user.
    #[must_use]
    pub fn dir_of(&self, user: &str, name: &str) -> PathBuf {
        let dir = self.dir().join(name);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
        lab::set_mode(&dir, 0o700);
        give(&dir, user);
        dir
    }

    /// Adds an address with its prefix length, such as `192.0.2.9/24`. It is usable at once.
    ///
    /// # Panics
    ///
    /// When `ip` refuses it.
    pub fn add_address(&self, address: &str) {
        // nodad means nothing to IPv4, and `ip` accepts it there.
        lab::ip(Some(self.netns()), &format!("addr add {address} dev eth0 nodad\n"));
    }

    /// Removes what [`Self::add_address`] added, or one of the host's own addresses.
    ///
    /// # Panics
    ///
    /// When the host has no such address.
    pub fn remove_address(&self, address: &str) {
        lab::ip(Some(self.netns()), &format!("addr del {address} dev eth0\n"));
    }

    /// Appends lines to the hosts file: an address, and its names separated by spaces. Programs that run
    /// already see them too, because the file keeps its inode, which is what ip-netns has bound over
    /// `/etc/hosts`.
    ///
    /// The resolver takes every matching line, in order; to move a name elsewhere use
    /// [`Self::replace_hosts`].
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn write_hosts(&self, lines: &[(IpAddr, &str)]) {
        let text: String = lines.iter().map(|(address, names)| format!("{address} {names}\n")).collect();
        let written = File::options()
            .append(true)
            .open(self.hosts_file())
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written
            .unwrap_or_else(|error| panic!("appending to the hosts file of {}: {error}", self.0.short_name));
    }

    /// Passes each line of the hosts file through `edit`, which gives the line to keep or none, in place.
    ///
    /// # Panics
    ///
    /// When the file cannot be read or written.
    pub fn replace_hosts(&self, edit: impl Fn(&str) -> Option<String>) {
        let path = self.hosts_file();
        let rewrite = || -> io::Result<()> {
            let lines: Vec<_> = fs::read_to_string(&path)?.lines().filter_map(edit).collect();
            // `fs::write` truncates and keeps the inode.
            fs::write(&path, lines.join("\n") + "\n")
        };
        rewrite()
            .unwrap_or_else(|error| panic!("rewriting the hosts file of {}: {error}", self.0.short_name));
    }

    /// A program that will run on this host as root, with the host's `/etc/hosts`.
    ///
    /// What the developer's own shell says about Erlang (`ERL_FLAGS`, `ERL_EPMD_PORT` and so on) does not
    /// reach it, and neither do signals that the shell has its children ignore, as it does with SIGINT where the tests
    /// run in the background.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns(), "env", "--default-signal"]).arg(program.as_ref());
        let is_erlang = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("ERL_"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_erlang(name)) {
            command.env_remove(name);
        }
        command
    }

    /// A program that will run on this host as `user`, in a home directory of its own below the lab's
    /// directory.
    ///
    /// `ip` and `setpriv` both replace themselves with what they start, so the child's pid is the program's.
    ///
    /// # Panics
    ///
    /// When there is no such user.
    #[must_use]
    pub fn command_as(&self, user: &str, program: impl AsRef<Path>) -> Command {
        self.become_user(self.command("setpriv"), user, program.as_ref())
    }

    /// Like [`Self::command_as`], with the files of another root: of these only the host's names, `/tmp`, `/dev` and
    /// `/proc` are the host's. What is mounted for it is seen by the program alone, and goes with it.
    ///
    /// # Panics
    ///
    /// When there is no such user.
    #[must_use]
    pub fn command_in(&self, root: &Path, user: &str, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-ec", ENTER, "sh"]).arg(root).arg("setpriv");
        self.become_user(command, user, program.as_ref())
    }

    fn become_user(&self, mut command: Command, user: &str, program: &Path) -> Command {
        let (uid, gid) = ids(user);
        let home = self.dir_of(user, &format!("home-{user}"));
        command.args([
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
            "--".to_owned(),
        ]);
        command.arg(program);
        // The directory that the test runs in may be closed to the user, and a VM does not start where it
        // cannot read.
        command.current_dir(&home).env("HOME", home).env("USER", user).env("LOGNAME", user);
        command
    }

    /// Runs `action` on a thread that is in this host's network namespace, and gives back what it gave.
    ///
    /// Sockets that it makes and programs that it spawns belong to the host for good. Files do not change:
    /// names are resolved as on the machine itself, so use addresses.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered, and when `action` panics.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let run = || {
            let path = Path::new("/run/netns").join(self.netns());
            let namespace =
                File::open(&path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("entering {}: {error}", path.display()));
            action()
        };
        // A thread of its own, which ends afterwards: the caller's must stay where it is.
        let result = std::thread::scope(|scope| scope.spawn(run).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Connects from this host, within 3 s. Reads and writes of the stream give up after 20 s.
    ///
    /// # Errors
    ///
    /// What the kernel said, or `TimedOut`.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial(None, to)
    }

    /// Like [`Self::connect`], from the given address of this host (any of 127.0.0.0/8 is one).
    ///
    /// # Errors
    ///
    /// What the kernel said, or `TimedOut`.
    pub fn connect_from(&self, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.dial(Some(SocketAddr::new(from, 0)), to)
    }

    fn dial(&self, from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        // A socket belongs to the namespace it was made in, whichever thread uses it.
        socket.connect_timeout(&to.into(), CONNECT)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TRANSFER))?;
        stream.set_write_timeout(Some(TRANSFER))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Listens on an address of this host; port 0 takes a free one. An IPv6 listener leaves IPv4 alone.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket(on)?;
        if on.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&on.into())?;
        socket.listen(128)?;
        Ok(socket.into())
    }

    fn socket(&self, of: SocketAddr) -> io::Result<Socket> {
        self.inside(|| Socket::new(Domain::for_address(of), Type::STREAM, Some(Protocol::TCP)))
    }

    /// Counts from now on the connections that are tried to `port` over an interface of this host, such as
    /// `lo`.
    ///
    /// A node behind a relay on loopback sees exactly those of `lo`: zero is the proof that a stranger was
    /// turned away before the node heard of him. What this host dials at its own address arrives on `lo` too.
    ///
    /// # Panics
    ///
    /// When `nft` refuses.
    #[must_use]
    pub fn counter(&self, interface: &str, port: u16) -> PacketCounter {
        let name = format!("c{}", self.0.counters.fetch_add(1, Ordering::Relaxed));
        // A SYN without ACK is the first packet of a connection. It may be sent again, so the count is an
        // upper bound.
        let rules = format!(
            "add table inet {TABLE}\n\
             add chain inet {TABLE} input {{ type filter hook input priority -300; }}\n\
             add counter inet {TABLE} {name}\n\
             add rule inet {TABLE} input iifname \"{interface}\" tcp flags & (syn|ack) == syn \
             tcp dport {port} counter name {name}\n"
        );
        self.nft(&["-f", "-"], &rules);
        PacketCounter { host: self.clone(), name }
    }

    /// Adds a rule for packets that come or go; see nft(8). What it says goes for this host alone, until
    /// [`Self::lift`].
    ///
    /// # Panics
    ///
    /// When `nft` refuses.
    pub fn filter(&self, way: Way, rule: &str) {
        let hook = match way {
            Way::In => "input",
            Way::Out => "output",
        };
        let rules = format!(
            "add table inet {FILTERS}\n\
             add chain inet {FILTERS} {hook} {{ type filter hook {hook} priority 0; }}\n\
             add rule inet {FILTERS} {hook} {rule}\n"
        );
        self.nft(&["-f", "-"], &rules);
    }

    /// Removes all that [`Self::filter`] added.
    ///
    /// # Panics
    ///
    /// When there is nothing to remove.
    pub fn lift(&self) {
        self.nft(&["delete", "table", "inet", FILTERS], "");
    }

    /// Adds an address to loopback, such as `fd00::12/128`: all of 127.0.0.0/8 is there without it.
    ///
    /// # Panics
    ///
    /// When `ip` refuses it.
    pub fn add_loopback(&self, address: &str) {
        lab::ip(Some(self.netns()), &format!("addr add {address} dev lo\n"));
    }

    fn nft(&self, args: &[&str], input: &str) -> String {
        // `ip netns exec` not needed: a child stays in the namespace of the thread that started it.
        self.inside(|| lab::run_with_input(Command::new("nft").args(args), input))
            .unwrap_or_else(|error| panic!("nft {args:?} on {}: {error}\n{input}", self.0.short_name))
    }

    /// The addresses of all listening TCP sockets, sorted.
    ///
    /// # Panics
    ///
    /// When the kernel's table cannot be read.
    #[must_use]
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut found: Vec<_> = self.inside(|| {
            // Not /proc/net: that is the namespace of the process's first thread.
            ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
                .iter()
                .flat_map(|path| listening(path))
                .collect()
        });
        found.sort();
        found
    }

    fn hosts_file(&self) -> PathBuf {
        Path::new("/etc/netns").join(self.netns()).join("hosts")
    }
}

/// Counts packets; see [`Host::counter`].
#[derive(Debug)]
pub struct PacketCounter {
    host: Host,
    name: String,
}

impl PacketCounter {
    /// The packets so far.
    ///
    /// # Panics
    ///
    /// When `nft` cannot tell.
    #[must_use]
    pub fn count(&self) -> u64 {
        let listing = self.host.nft(&["list", "counter", "inet", TABLE, &self.name], "");
        let mut words = listing.split_whitespace().skip_while(|word| *word != "packets");
        let count = words.nth(1).and_then(|word| word.parse().ok());
        count.unwrap_or_else(|| panic!("nft printed no packet count:\n{listing}"))
    }
}

/// Makes `user` the owner of a file or directory.
pub(super) fn give(path: &Path, user: &str) {
    let (uid, gid) = ids(user);
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .unwrap_or_else(|error| panic!("giving {} to {user}: {error}", path.display()));
}

/// The numbers of a user and his group.
fn ids(user: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let find = || {
        let mut fields =
            users.lines().find_map(|line| line.strip_prefix(user)?.strip_prefix(':'))?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find().unwrap_or_else(|| panic!("this machine has no user {user}"))
}

/// The listening sockets in one of the kernel's tables (proc_pid_net(5)).
fn listening(table: &str) -> Vec<SocketAddr> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_else(|error| panic!("reading {table}: {error}"));
    let sockets = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        (fields.nth(1)? == LISTEN).then(|| socket_address(local))?
    });
    sockets.collect()
}

/// `0100007F:1111` is 127.0.0.1:4369: 32-bit words of the address in the machine's own order, then the port.
fn socket_address(hex: &str) -> Option<SocketAddr> {
    let (address, port) = hex.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = if address.len() == 8 {
        IpAddr::from(word(0)?)
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?];
        IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?)
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
