//! A lab: hosts that are network namespaces, joined by a bridge in a namespace of its own.
//!
//! Owns namespaces, `/etc/netns` directories, a temporary directory and every process inside. Everything
//! bears the owner's pid in its name (`eg<pid>-<lab>-<host>`), so that whoever comes next can remove what a
//! killed owner left.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::eventually::within;
use super::host::Host;

/// Where ip-netns keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// Where ip-netns looks for the files of a namespace: it binds `/etc/netns/NAME/FILE` over `/etc/FILE`.
const FILES: &str = "/etc/netns";
/// Not `TMPDIR`: unprivileged users must be able to get there.
const TEMPORARY: &str = "/tmp";
/// Held while labs are made, removed and reaped. `ip netns add` mounts `/run/netns` when it comes first, and
/// the reaper must not find half a lab.
const LOCK: &str = "/run/epmd-guard-lab.lock";
/// How long the kernel may take to end killed processes.
const DEATH: Duration = Duration::from_secs(10);

/// Several hosts on one machine. Host *i*, counted from 1, has 192.0.2.*i*/24 and 2001:db8::*i*/64.
///
/// Dropping it kills every process in the namespaces, whoever started it, and removes all that it made.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    hosts: Vec<Host>,
    dir: PathBuf,
}

impl Lab {
    /// A lab with a host for each of the names (`"h1"` becomes `h1.test`), after what dead owners left is
    /// removed.
    ///
    /// # Panics
    ///
    /// When the lab cannot be made, which is a fault of the machine: see [`super::prerequisites::require`].
    #[must_use]
    pub fn new(names: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let prefix = format!("eg{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        reap(&prefix);
        let dir = Path::new(TEMPORARY).join(&prefix);
        // `create_dir` refuses what is there already, so nobody can prepare a place for root to write to.
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
        set_mode(&dir, 0o755);
        // The hosts are known before the namespaces are made: a failure halfway is cleaned up by `Drop`.
        let hosts = (1u8..)
            .zip(names)
            .map(|(index, name)| Host::new(name, format!("{prefix}-{name}"), index, &dir))
            .collect();
        let lab = Self { prefix, hosts, dir };
        lab.build();
        lab
    }

    /// The host of that name, as given to [`Lab::new`].
    ///
    /// # Panics
    ///
    /// When the lab has no such host.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let found = self.hosts.iter().find(|host| host.short_name() == name);
        found.unwrap_or_else(|| panic!("the lab has no host {name}")).clone()
    }

    /// The lab's own directory, which every user may enter and read. It goes with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Copies a program to where unprivileged users can execute it: a build directory below `/root` is closed
    /// to them.
    ///
    /// # Panics
    ///
    /// When it cannot be copied.
    #[must_use]
    pub fn install(&self, program: &Path) -> PathBuf {
        let target = self.dir.join(program.file_name().expect("a program has a file name"));
        // By another process, not by `fs::copy`: a thread that forks while the file is open for writing would
        // take the descriptor along, and the kernel executes nothing that is open for writing (ETXTBSY).
        let mut install = Command::new("install");
        install.args(["-m", "0755"]).arg(program).arg(&target);
        run_with_input(&mut install, "")
            .unwrap_or_else(|error| panic!("installing {}: {error}", program.display()));
        target
    }

    /// The name of the namespace of the bridge that joins the hosts: all that goes from one to another is seen there.
    #[must_use]
    pub fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    fn namespaces(&self) -> impl Iterator<Item = String> + '_ {
        self.hosts.iter().map(|host| host.netns().to_owned()).chain([self.switch()])
    }

    /// The files must be there before the first program runs: ip-netns binds what it finds at that moment.
    fn write_files(&self) {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut names = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        // As Debian does it, and as Erlang wants it: a tool asks for the address of the machine's own name. A
        // machine named "localhost" keeps the usual address.
        if !matches!(own.trim(), "" | "localhost") {
            names.push_str(&format!("127.0.1.1 {}\n", own.trim()));
        }
        for host in &self.hosts {
            for address in [IpAddr::V4(host.v4()), IpAddr::V6(host.v6())] {
                names.push_str(&format!("{address} {} {}\n", host.name(), host.short_name()));
            }
        }
        for host in &self.hosts {
            let dir = Path::new(FILES).join(host.netns());
            fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
            // Loopback of the namespace, where nobody answers: a name that is not in the hosts file fails at
            // once (the port is unreachable) instead of leaving the lab.
            let resolver = "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n";
            for (file, text) in [("hosts", names.as_str()), ("resolv.conf", resolver)] {
                let path = dir.join(file);
                fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
                set_mode(&path, 0o644);
            }
        }
    }

    fn build(&self) {
        // Here and not in the caller: when this panics, the lock must be free again before `Drop` wants it.
        let _lock = lock();
        self.write_files();
        self.wire();
    }

    /// Links and addresses. Few runs of `ip`, each with many lines: starting it is what costs.
    fn wire(&self) {
        let switch = self.switch();
        let mut wiring = format!("netns add {switch}\n");
        let mut bridge = String::from(
            // Snooping off: a bridge that waits for multicast reports loses the first neighbour solicitation
            // of IPv6.
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n",
        );
        for (index, host) in self.hosts.iter().enumerate() {
            // Interface names are local to a namespace, so they need not be unique, only at most 15
            // characters.
            wiring.push_str(&format!("netns add {}\n", host.netns()));
            wiring.push_str(&format!(
                "link add p{index} netns {switch} type veth peer name eth0 netns {}\n",
                host.netns()
            ));
            bridge.push_str(&format!("link set p{index} master br0 up\n"));
        }
        ip(None, &wiring);
        ip(Some(&switch), &bridge);
        for host in &self.hosts {
            // nodad: an IPv6 address is tentative for a second otherwise, and nothing can be bound to it.
            let lines = format!(
                "link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
                host.v4(),
                host.v6()
            );
            ip(Some(host.netns()), &lines);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Never panics: it may run while a test's panic unwinds.
        let _lock = lock();
        remove(&self.namespaces().collect::<HashSet<_>>());
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Tries to make a namespace; the error is what `ip` said.
pub(super) fn can_make_namespace() -> Result<(), String> {
    let name = format!("eg{}-0-probe", std::process::id());
    let _lock = lock();
    let made = try_ip(None, &format!("netns add {name}\n"));
    remove(&HashSet::from([name]));
    made
}

/// Removes what dead owners left, and what stands in the way of `prefix`: the pid of a dead owner may be ours
/// now.
fn reap(prefix: &str) {
    let _lock = lock();
    let is_left = |name: &String| {
        let Some(pid) = owner(name) else { return false };
        let is_ours = name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        is_ours || !Path::new("/proc").join(pid).exists()
    };
    let of_the_dead = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_left).collect()
    };
    let mut left: HashSet<String> = of_the_dead(NAMESPACES).into_iter().collect();
    left.extend(of_the_dead(FILES));
    if !left.is_empty() {
        remove(&left);
    }
    for name in of_the_dead(TEMPORARY) {
        let path = Path::new(TEMPORARY).join(name);
        // Everybody may write to /tmp; only what root made is the lab's.
        if fs::symlink_metadata(&path).is_ok_and(|dir| dir.is_dir() && dir.uid() == 0) {
            drop(fs::remove_dir_all(path));
        }
    }
}

/// The pid in `eg<pid>-<lab>` or `eg<pid>-<lab>-<host>`; none if the name is not a lab's.
fn owner(name: &str) -> Option<&str> {
    let (pid, rest) = name.strip_prefix("eg")?.split_once('-')?;
    let lab = rest.split('-').next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(pid) && is_number(lab)).then_some(pid)
}

/// Ends all processes in these namespaces, then removes the namespaces and their files. Goes on whatever
/// fails.
fn remove(names: &HashSet<String>) {
    let inodes: HashSet<(u64, u64)> =
        names.iter().filter_map(|name| inode(&Path::new(NAMESPACES).join(name))).collect();
    // Again and again until none is left: a process may have forked between the look and the kill. A killed
    // child that nobody has waited for yet has no namespace any more, so it does not count.
    drop(within(DEATH, || {
        let alive = processes_in(&inodes);
        for pid in &alive {
            rustix::process::kill_process(*pid, Signal::KILL).ok();
        }
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?} alive")) }
    }));
    for name in names {
        if Path::new(NAMESPACES).join(name).exists() {
            drop(try_ip(None, &format!("netns del {name}\n")));
        }
        drop(fs::remove_dir_all(Path::new(FILES).join(name)));
    }
    // Succeeds only when it is empty, that is when no other lab is there and the machine has no namespaces of
    // its own.
    drop(fs::remove_dir(FILES));
}

/// What `ip netns pids` lists, for several namespaces in one pass.
fn processes_in(inodes: &HashSet<(u64, u64)>) -> Vec<Pid> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inside = pids.filter(|pid| {
        inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|namespace| inodes.contains(&namespace))
    });
    inside.filter_map(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid()).collect()
}

/// What tells namespaces apart (namespaces(7)).
fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Other test processes hold it for some 100 ms at a time. Without it (a read-only `/run`) labs are made all
/// the same.
fn lock() -> Option<File> {
    let file = File::options().create(true).truncate(false).write(true).open(LOCK).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Explicitly, because the mode given at creation is narrowed by the umask.
pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("changing the mode of {}: {error}", path.display()));
}

/// Runs lines of `ip`, inside a namespace if one is given.
///
/// # Panics
///
/// When one of them fails.
pub(super) fn ip(namespace: Option<&str>, lines: &str) {
    if let Err(error) = try_ip(namespace, lines) {
        panic!(
            "ip, of these lines in {}: {error}\n{lines}",
            namespace.unwrap_or("the machine's own namespace")
        );
    }
}

fn try_ip(namespace: Option<&str>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    run_with_input(&mut command, lines).map(drop)
}

/// Runs a program to its end with `input`, and gives back what it printed; the error is what it complained
/// about.
pub(super) fn run_with_input(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || -> io::Result<_> {
        let mut child = command.spawn()?;
        // All of it fits into a pipe, so this cannot block. A program that ended already says why on its
        // stderr, which is worth more than the error of this write.
        drop(child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("running {command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} ({})", String::from_utf8_lossy(&output.stderr).trim(), output.status))
    }
}
