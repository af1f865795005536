//! The program when it is called `epmd` and serves: what starts it, what ends it, where it listens and whom it lets in,
//! beside the real one where both should be alike.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{EVERYBODY, require};
use crate::support::daemon::{Daemon, Signal};
use crate::support::ejabberd::Ejabberd;
use crate::support::erlang::{Epmd, EpmdListen, Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{self, Guard, SOON, configure, embedded, field, registered};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::wire::{Ended, ask, framed, read_to_close, send};

const PORT: u16 = 4369;
/// Whoever starts a node, starts its epmd.
const USER: &str = "nobody";
/// NAMES without a name.
const EMPTY: &[u8] = b"\0\0\x11\x11";
/// What a search of the configuration's advice finds.
const ADVICE: &str = "only this host is served";

/// What a program wrote, and how it ended; minus the number of the signal that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn nothing(code: i32) -> Self {
        Self { code, out: String::new(), err: String::new() }
    }
}

/// A host `h1`, and the program under the name that it is to stand in for.
struct Stage {
    lab: Lab,
    host: Host,
    epmd: PathBuf,
}

impl Stage {
    fn new(hosts: &[&str]) -> Self {
        let lab = Lab::new(hosts);
        let folder = lab.dir().join("bin");
        fs::create_dir(&folder).unwrap();
        let epmd = folder.join("epmd");
        symlink(guard::program(&lab), &epmd).unwrap();
        Self { host: lab.host("h1"), lab, epmd }
    }

    /// Where it looks for its configuration. There is none at first.
    fn file(&self) -> PathBuf {
        self.lab.dir().join("epmd-guard.toml")
    }

    fn configure(&self, config: &str) {
        fs::write(self.file(), config).unwrap();
    }

    /// One of both, to be run as whoever starts a node.
    fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = self.host.command_as(USER, program);
        command.args(arguments).env("EPMD_GUARD_CONFIG", self.file());
        command
    }

    #[track_caller]
    fn ours(&self, arguments: &[&str]) -> Said {
        run(self.command(&self.epmd, arguments))
    }

    #[track_caller]
    fn real(&self, arguments: &[&str]) -> Said {
        run(self.command("epmd", arguments))
    }

    /// Starts it in the foreground and waits until it answers.
    #[track_caller]
    fn start(&self, arguments: &[&str]) -> Daemon {
        self.serve(self.command(&self.epmd, arguments), PORT)
    }

    #[track_caller]
    fn serve(&self, command: Command, port: u16) -> Daemon {
        let daemon = Daemon::spawn("epmd", command);
        eventually("it answers", SOON, || {
            assert!(daemon.exit_status().is_none(), "it ended: {:?}", daemon.lines());
            self.names_at(Ipv4Addr::LOCALHOST, port)
        });
        daemon
    }

    /// The whole answer to NAMES at an address of this host.
    fn names_at(&self, ip: impl Into<IpAddr>, port: u16) -> Result<String, String> {
        let stream =
            self.host.connect(SocketAddr::new(ip.into(), port)).map_err(|error| error.to_string())?;
        match ask(&stream, b"n").split_first_chunk::<4>() {
            Some((_, names)) => Ok(String::from_utf8_lossy(names).into_owned()),
            None => Err("no answer".to_owned()),
        }
    }

    #[track_caller]
    fn names(&self) -> String {
        self.names_at(Ipv4Addr::LOCALHOST, PORT).unwrap()
    }

    #[track_caller]
    fn wait_names(&self, names: &str) {
        eventually(&format!("the names are {names:?}"), SOON, || {
            let seen = self.names_at(Ipv4Addr::LOCALHOST, PORT)?;
            if seen == names { Ok(()) } else { Err(seen) }
        });
    }

    /// The processes of this host that are called `epmd`. One that has ended is none.
    fn processes(&self) -> Vec<u32> {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let ours = self.host.inside(|| fs::read_link("/proc/thread-self/ns/net").ok());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name == "epmd\n" && of(&pid.to_string()) == ours
        })
        .collect()
    }

    #[track_caller]
    fn wait_gone(&self) {
        eventually("it is gone", SOON, || {
            let left = (self.processes(), self.host.listeners());
            if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

/// Runs it to its end, and to the end of its output: a daemon that keeps a caller's pipe fails here.
#[track_caller]
fn run(mut command: Command) -> Said {
    let (told, output) = mpsc::channel();
    let shown = format!("{command:?}");
    thread::spawn(move || told.send(command.stdin(Stdio::null()).output()));
    let output = output.recv_timeout(SOON).unwrap_or_else(|_| panic!("no end of the output of {shown}"));
    let output = output.unwrap();
    let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or_default());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

fn alive2(name: &str, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let head = [b'x', high, low, 77, 0, 0, 6, 0, 5, 0, name.len() as u8];
    framed(&[&head[..], name.as_bytes(), &[0, 0]].concat())
}

/// Registers a name at `to`; it lives as long as the stream. None where it is not registered.
fn try_register(from: &Host, to: impl Into<IpAddr>, name: &str, port: u16) -> Option<TcpStream> {
    let stream = from.connect(SocketAddr::new(to.into(), PORT)).ok()?;
    send(&stream, &alive2(name, port)).ok()?;
    let mut reply = [1; 6];
    (&stream).read_exact(&mut reply).ok()?;
    (reply[..2] == [118, 0]).then_some(stream)
}

#[track_caller]
fn register(stage: &Stage, name: &str, port: u16) -> TcpStream {
    try_register(&stage.host, Ipv4Addr::LOCALHOST, name, port).unwrap()
}

/// The port that `to` tells `from` for a name.
#[track_caller]
fn told(from: &Host, to: &Host, name: &str) -> Option<u16> {
    let stream = from.connect(SocketAddr::new(to.v4().into(), PORT)).unwrap();
    match *ask(&stream, &[b"z", name.as_bytes()].concat()) {
        [b'w', 0, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

/// What `to` answers `from` to NAMES; none where it is turned away, which may be before it has asked.
fn listed(from: &Host, to: IpAddr) -> Option<Vec<u8>> {
    let stream = from.connect(SocketAddr::new(to, PORT)).ok()?;
    Some(ask(&stream, b"n")).filter(|answer| !answer.is_empty())
}

/// An installation of Erlang whose epmd is ours, and nothing else of it.
fn installed(stage: &Stage) -> PathBuf {
    let root = stage.lab.dir().join("otp");
    let real = Path::new("/usr/lib/erlang");
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let link_all_but = |from: &Path, to: &Path, other: &[&str]| {
        fs::create_dir_all(to).unwrap();
        for path in entries(from).filter(|path| !other.iter().any(|other| path.ends_with(other))) {
            symlink(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    let erts = entries(real).find(|path| path.to_string_lossy().contains("/erts-")).unwrap();
    let bin = root.join(erts.file_name().unwrap()).join("bin");
    link_all_but(real, &root, &["bin", erts.file_name().unwrap().to_str().unwrap()]);
    link_all_but(&erts, bin.parent().unwrap(), &["bin"]);
    link_all_but(&erts.join("bin"), &bin, &["epmd"]);
    link_all_but(&real.join("bin"), &root.join("bin"), &["epmd", "erl"]);
    // A copy: this is how a package or a release would have it.
    let copied = Command::new("install").arg("-m0755").args([&stage.epmd, &bin.join("epmd")]).status();
    assert!(copied.unwrap().success());
    symlink(bin.join("epmd"), root.join("bin/epmd")).unwrap();
    let script = format!(
        "#!/bin/sh\nexport EMU=beam PROGNAME=erl ROOTDIR='{}' BINDIR='{}'\nexec \"$BINDIR/erlexec\" \"$@\"\n",
        root.display(),
        bin.display()
    );
    let erl = root.join("bin/erl");
    fs::write(&erl, script).unwrap();
    fs::set_permissions(&erl, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

#[test]
fn erl_starts_it_by_itself_and_two_nodes_find_each_other() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let root = installed(&stage);
    let file = stage.file().display().to_string();
    let option = format!("{} -daemon", stage.epmd.display());
    let ways: [(&str, &dyn Fn(NodeBuilder) -> NodeBuilder); 2] = [
        ("-epmd", &|node| node.arg("-epmd").arg(&option)),
        ("erts-*/bin", &|node| node.erl(&root.join("bin/erl"))),
    ];
    for (way, by) in ways {
        let node = |name| {
            // Everywhere, as without the variable.
            let node = Node::named(name, &stage.host).anywhere().env("ERL_EPMD_ADDRESS", "");
            by(node.env("EPMD_GUARD_CONFIG", &file))
        };
        let a = node("a").start();
        let pids = stage.processes();
        assert_eq!(pids.len(), 1, "{way}: {pids:?}");
        let program = fs::read_link(format!("/proc/{}/exe", pids[0])).unwrap();
        assert!(program.starts_with(stage.lab.dir()), "{way}: it is {}", program.display());
        assert!(a.output().is_empty(), "{way}: the node's terminal is left alone: {:?}", a.output());
        let b = node("b").start();
        assert_eq!(stage.processes(), pids, "{way}: one is enough");
        assert!(a.ping(&b) && b.ping(&a), "{way}");
        assert_eq!(
            a.eval("lists:sort(element(2, erl_epmd:names()))."),
            format!("[{{\"a\",{}}},{{\"b\",{}}}]", a.port(), b.port())
        );
        // The names go with their nodes, and the process stays for the next ones.
        b.stop();
        a.kill();
        stage.wait_names("");
        assert_eq!(stage.processes(), pids, "{way}");
        assert_eq!(stage.ours(&["-kill"]).code, 0);
        stage.wait_gone();
    }
}

#[test]
fn nodes_with_short_names_find_each_other_where_the_hosts_name_leads() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let option = format!("{} -daemon", stage.epmd.display());
    let erl = |name: &str, code: &str| {
        stage.command(
            "erl",
            &["-noshell", "-sname", name, "-setcookie", "secret", "-epmd", &option, "-eval", code],
        )
    };
    let a = Daemon::spawn("a", erl("a", "io:format(\"up~n\")."));
    a.wait_line("it is up", SOON, |line| line == "up");
    // On Debian the machine's name leads to 127.0.1.1.
    let code = "[_, Host] = string:split(atom_to_list(node()), \"@\"), \
                io:format(\"~p ~p~n\", [net_adm:ping(list_to_atom(\"a@\" ++ Host)), element(1, net_adm:names())]), \
                halt().";
    let said = run(erl("b", code));
    assert_eq!(said, Said { code: 0, out: "pong ok\n".to_owned(), err: String::new() });
}

#[test]
fn in_the_foreground_it_stays_there_and_ends_well_when_it_is_told_to() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let served = stage.start(&[]);
        let named = register(&stage, "n1", 9100);
        assert_eq!(stage.processes(), [served.pid()]);
        served.signal(signal);
        let status = served.wait_exit(SOON);
        assert!(status.success(), "{signal:?}: {status}");
        assert_eq!(read_to_close(&named).bytes, b"");
        stage.wait_gone();
    }
}

#[test]
fn the_signals_that_it_was_started_to_ignore_do_not_end_it() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for program in [Path::new("epmd"), &stage.epmd] {
        // As nohup does, and a shell with a command in the background.
        let mut command = stage.command("sh", &["-c", "trap '' HUP INT; exec \"$0\""]);
        command.arg(program);
        let served = stage.serve(command, PORT);
        served.signal(Signal::HUP);
        served.signal(Signal::INT);
        // Enough to do for a process that would end.
        let _named: Vec<_> = (0..20).map(|n| register(&stage, &format!("n{n}"), 9100 + n)).collect();
        assert_eq!(stage.names().lines().count(), 20);
        assert_eq!(served.exit_status(), None, "{}", program.display());
        served.signal(Signal::TERM);
        served.wait_exit(SOON);
    }
}

#[test]
fn of_many_that_start_at_one_time_one_serves_and_all_end_well() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0));
                assert_eq!(stage.names(), "", "whoever serves, answers");
            });
        }
    });
    assert_eq!(stage.processes().len(), 1);
}

#[test]
fn with_few_descriptors_it_serves_as_many_as_they_carry() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let mut command = stage.command("prlimit", &["--nofile=64:64"]);
    command.arg(&stage.epmd);
    let _served = stage.serve(command, PORT);
    let _named: Vec<_> = (0..30).map(|n| register(&stage, &format!("n{n}"), 9100 + n)).collect();
    assert_eq!(stage.names().lines().count(), 30);
    // More of them wait, or are turned away, and end nothing.
    let held: Vec<_> = (0..100).map(|_| stage.host.connect((Ipv4Addr::LOCALHOST, PORT).into())).collect();
    drop(held);
    eventually("it answers", SOON, || stage.names_at(Ipv4Addr::LOCALHOST, PORT));
}

#[test]
fn a_daemon_serves_when_its_command_returns_and_keeps_nothing_of_its_caller() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let lock = stage.host.dir_of(USER, "locks").join("lock");
    // A lock, and another end of the pipe that the caller reads.
    let script = "exec 9>\"$1\" && flock -n 9 && exec 8>&1 && shift && exec \"$@\"";
    let mut command = stage.command("sh", &["-c", script, "sh"]);
    command.arg(&lock).arg(&stage.epmd).args(["-daemon", "-port", "4369"]);
    assert_eq!(run(command), Said::nothing(0));
    assert_eq!(stage.names(), "", "it answers at once");

    let pids = stage.processes();
    let [pid] = pids[..] else { panic!("{pids:?}") };
    let proc = PathBuf::from(format!("/proc/{pid}"));
    File::open(&lock).unwrap().try_lock().expect("the lock is free again");
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let leads = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let is_own = leads.starts_with("anon_inode:") || leads.starts_with("socket:");
        assert!(leads == "/dev/null" || number > 2 && is_own, "{number} leads to {leads}");
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let own = pid.to_string();
    assert_eq!((fields[2], fields[3], fields[4]), (&*own, &*own, "0"), "group, session and terminal: {stat}");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let arguments = fs::read(proc.join("cmdline")).unwrap();
    let expected = format!("{}\0-daemon\0-port\0{PORT}\0", stage.epmd.display());
    assert_eq!(String::from_utf8(arguments).unwrap(), expected);
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Uid:\t65534\t")), "{status}");

    assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0), "a second one");
    assert_eq!(stage.processes(), [pid]);
    // Its terminal may go: it has none.
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    let _named = register(&stage, "n1", 9100);
    assert_eq!(stage.names(), "name n1 at port 9100\n");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    stage.wait_gone();
}

#[test]
fn a_daemon_that_cannot_serve_says_why_and_ends_with_1() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let said = stage.ours(&["-daemon", "-address", "198.51.100.1"]);
    assert_eq!((said.code, &*said.out), (1, ""));
    assert!(said.err.starts_with("epmd: cannot listen on 198.51.100.1:4369: "), "{said:?}");
    assert!(said.err.contains("this host does not have the address"), "{said:?}");
    stage.wait_gone();
}

#[test]
fn a_node_that_inherits_what_is_meant_for_a_second_process_gets_a_daemon() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for said in ["1", "", "x", "0"] {
        let mut command = stage.command("timeout", &["20"]);
        command.arg(&stage.epmd).arg("-daemon").env("EPMD_GUARD_SECOND_PROCESS", said);
        assert_eq!(run(command), Said::nothing(0), "{said:?}");
        assert_eq!(stage.names(), "");
        assert_eq!(stage.ours(&["-kill"]).code, 0);
        stage.wait_gone();
    }
}

#[test]
fn a_daemon_says_nothing_to_the_terminal_of_who_starts_a_node() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let mut command = stage.command("script", &["-qec"]);
    command.arg(format!("{} -daemon", stage.epmd.display())).arg("/dev/null");
    assert_eq!(run(command), Said::nothing(0));
    assert_eq!(stage.names(), "");
    assert_eq!(stage.processes().len(), 1);
}

#[test]
fn without_proc_a_daemon_starts_by_its_path_and_keeps_nothing_of_its_caller() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let lock = stage.host.dir_of(USER, "locks").join("lock");
    // The mounts of `ip netns exec` are its own.
    let script = "exec 9>\"$1\" && flock -n 9 && shift && mount -t tmpfs none /proc && exec \"$@\"";
    let mut command = stage.host.command("sh");
    command.args(["-c", script, "sh"]).arg(&lock);
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(&stage.epmd).arg("-daemon").env("EPMD_GUARD_CONFIG", stage.file());
    assert_eq!(run(command), Said::nothing(0));
    assert_eq!(stage.names(), "");
    File::open(&lock).unwrap().try_lock().expect("the lock is free again");
}

#[test]
fn with_too_few_descriptors_it_says_so_and_ends_with_1() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for arguments in [&[][..], &["-daemon"]] {
        let mut command = stage.command("prlimit", &["--nofile=10:10"]);
        command.arg(&stage.epmd).args(arguments);
        let said = run(command);
        assert_eq!((said.code, said.err.lines().count()), (1, 1), "{said:?}");
        assert!(said.err.starts_with("epmd: the limit on open files is 10"), "{said:?}");
    }
    // With the least that it wants it answers, and waits where that is not enough.
    let mut command = stage.command("prlimit", &["--nofile=32:32"]);
    command.arg(&stage.epmd);
    let _served = stage.serve(command, PORT);
    let _named = register(&stage, "n1", 9100);
    let held: Vec<_> = (0..30).map(|_| stage.host.connect((Ipv4Addr::LOCALHOST, PORT).into())).collect();
    drop(held);
    eventually("it answers", SOON, || stage.names_at(Ipv4Addr::LOCALHOST, PORT));
}

#[test]
fn an_address_of_the_file_that_this_host_lacks_is_left_out_and_told() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    let own = stage.host.v4();
    let allow = "[cluster]\nallow = [\"192.0.2.2\"]\n[epmd]\n";
    let (listen, backend) = ("listen = [\"198.51.100.1\", \"192.0.2.1\"]", "backend = \"198.51.100.1\"");
    for (config, is_own_served) in [(listen, true), (backend, false)] {
        stage.configure(&format!("{allow}{config}\n"));
        let served = stage.start(&[]);
        let told = served.wait_line("the address", SOON, |line| line.contains("198.51.100.1:4369"));
        assert!(told.contains("is not served, since this host does not have the address"), "{told}");
        assert_eq!(stage.names_at(Ipv6Addr::LOCALHOST, PORT).unwrap(), "");
        assert_eq!(listed(&stage.lab.host("h2"), own.into()).is_some(), is_own_served, "{config}");
        drop(served);
        stage.wait_gone();
        assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0));
        assert_eq!(stage.ours(&["-kill"]).code, 0);
        stage.wait_gone();
    }
}

#[test]
fn the_file_may_be_named_from_here_and_an_empty_name_is_none() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    stage.configure("[cluster]\nallow = [\"192.0.2.2\"]\n");
    let named = |name: &str, arguments: &[&str]| {
        let mut command = stage.command(&stage.epmd, arguments);
        command.current_dir(stage.lab.dir()).env("EPMD_GUARD_CONFIG", name);
        command
    };
    // A daemon's folder is another one.
    assert_eq!(run(named("epmd-guard.toml", &["-daemon"])), Said::nothing(0));
    assert_eq!(listed(&stage.lab.host("h2"), stage.host.v4().into()).unwrap(), EMPTY);
    assert_eq!(stage.ours(&["-kill"]).code, 0);
    stage.wait_gone();
    // What it tells of the file at the usual place, or of none there, depends on this machine.
    let served = stage.serve(named("", &["-address", "127.0.0.1"]), PORT);
    assert!(!served.lines().concat().contains("there is no ,"), "{:?}", served.lines());
    drop(served);
    stage.wait_gone();
    let fifo = stage.lab.dir().join("a\n\u{1b}[2Jfifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let served = stage.serve(named(fifo.to_str().unwrap(), &[]), PORT);
    let told = served.wait_line("the advice", SOON, |line| line.contains(ADVICE));
    assert!(told.contains("/a\\n\\u{1b}[2Jfifo is no regular file"), "{told:?}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

/// Both ways to start it, and both ways to start the real one, where the port has its epmd.
#[track_caller]
fn a_second_one_is_silent(stage: &Stage, holder: &str) {
    for arguments in [&[][..], &["-daemon"], &["-relaxed_command_check", "-daemon"]] {
        assert_eq!(stage.ours(arguments), Said::nothing(0), "{arguments:?} beside {holder}");
        assert_eq!(stage.real(arguments), Said::nothing(0), "the real one, {arguments:?} beside {holder}");
    }
    let said = stage.ours(&["-d"]);
    assert_eq!((said.code, &*said.out), (0, ""));
    assert!(said.err.contains("port 4369 is served already"), "beside {holder}: {said:?}");
    assert_eq!(stage.names(), "name n1 at port 9100\n", "{holder} goes on");
}

#[test]
fn where_somebody_serves_the_port_it_ends_with_0_and_without_a_word() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    {
        let _served = stage.start(&[]);
        let _named = register(&stage, "n1", 9100);
        a_second_one_is_silent(&stage, "itself");
    }
    stage.wait_gone();
    for listen in [EpmdListen::Everywhere, EpmdListen::Loopback] {
        let _real = Epmd::start(&stage.host, listen);
        let _named = register(&stage, "n1", 9100);
        a_second_one_is_silent(&stage, &format!("the real one, {listen:?}"));
    }
    stage.wait_gone();
    let guard = Guard::start(&stage.lab, &stage.host, &embedded(EVERYBODY));
    let _named = register(&stage, "n1", 9100);
    a_second_one_is_silent(&stage, "a guard");
    assert_eq!(stage.processes(), [0; 0]);
    guard.stop();
}

#[test]
fn kill_ends_it_when_no_name_is_left_and_is_refused_while_there_is_one() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let refused = "Killing not allowed - living nodes in database.\n".to_owned();
    for asked_by in [Stage::ours, Stage::real] {
        let served = stage.start(&[]);
        let named = register(&stage, "n1", 9100);
        let said = asked_by(&stage, &["-kill"]);
        assert_eq!(said, Said { code: 1, out: refused.clone(), err: String::new() });
        assert_eq!(asked_by(&stage, &["-stop", "n1"]).code, 1, "it is not relaxed");
        assert_eq!(stage.names(), "name n1 at port 9100\n");
        drop(named);
        stage.wait_names("");
        let killed = asked_by(&stage, &["-kill"]);
        assert_eq!(killed, Said { code: 0, out: "Killed\n".to_owned(), err: String::new() });
        assert!(served.wait_exit(SOON).success());
        assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0), "the port is free at once");
        assert_eq!(asked_by(&stage, &["-kill"]), killed);
        stage.wait_gone();
    }
}

#[test]
fn a_relaxed_one_throws_names_out_and_ends_while_there_are_some() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    type Way = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);
    let ways: [Way; 3] = [
        ("", &["-relaxed_command_check"], &[]),
        ("", &[], &[("ERL_EPMD_RELAXED_COMMAND_CHECK", "")]),
        ("[epmd]\nrelaxed_command_check = true\n", &[], &[]),
    ];
    for (config, arguments, variables) in ways {
        for asked_by in [Stage::ours, Stage::real] {
            stage.configure(config);
            let mut command = stage.command(&stage.epmd, arguments);
            command.envs(variables.iter().copied());
            let served = stage.serve(command, PORT);
            let (thrown_out, stays) = (register(&stage, "n1", 9100), register(&stage, "n2", 9101));
            let said = asked_by(&stage, &["-stop", "n1"]);
            assert_eq!(said, Said { code: 0, out: "STOPPED\n".to_owned(), err: String::new() });
            assert_eq!(read_to_close(&thrown_out).bytes, b"");
            assert_eq!(stage.names(), "name n2 at port 9101\n");
            let said = asked_by(&stage, &["-kill"]);
            assert_eq!(said, Said { code: 0, out: "Killed\n".to_owned(), err: String::new() });
            assert!(served.wait_exit(SOON).success());
            assert_eq!(read_to_close(&stays).bytes, b"");
            stage.wait_gone();
        }
    }
}

/// Where one of both listens when it is started so; nowhere if it ends, and then how.
#[track_caller]
fn places(
    stage: &Stage,
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (Vec<SocketAddr>, Option<i32>) {
    let mut command = stage.command(program, arguments);
    command.envs(variables.iter().copied());
    let daemon = Daemon::spawn("epmd", command);
    let found = eventually("it answers, or ends", SOON, || {
        if let Some(status) = daemon.exit_status() {
            return Some((Vec::new(), status.code()));
        }
        // It listens everywhere before it answers anywhere.
        let at = stage.host.listeners().into_iter().find(|at| at.ip() == Ipv4Addr::LOCALHOST);
        let at = at.or_else(|| stage.host.listeners().into_iter().find(|at| at.is_ipv4()))?;
        let ip = if at.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { at.ip() };
        stage.names_at(ip, at.port()).ok()?;
        Some((stage.host.listeners(), None))
    });
    daemon.kill();
    stage.wait_gone();
    found
}

#[track_caller]
fn listen_alike(stage: &Stage, arguments: &[&str], variables: &[(&str, &str)]) -> Vec<SocketAddr> {
    let real = places(stage, Path::new("epmd"), arguments, variables);
    let ours = places(stage, &stage.epmd, arguments, variables);
    assert_eq!(ours, real, "{arguments:?} with {variables:?}: ours first");
    ours.0
}

#[test]
fn it_listens_where_epmd_does() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let everywhere = listen_alike(&stage, &[], &[]);
    assert_eq!(everywhere, ["0.0.0.0:4369".parse().unwrap(), "[::]:4369".parse().unwrap()]);
    for list in [
        "127.0.0.1",
        "::1",
        "192.0.2.1",
        "2001:db8::1",
        "127.0.0.2",
        "192.0.2.1,2001:db8::1",
        "127.0.0.1 192.0.2.1",
        " ,192.0.2.1,, ",
        "127.0.0.1,::1",
        "",
        ",",
        // Addresses that the host does not have, one and among others.
        "198.51.100.1",
        "192.0.2.1,198.51.100.1",
        "2001:db8::99",
    ] {
        let by_argument = listen_alike(&stage, &["-address", list], &[]);
        assert_eq!(listen_alike(&stage, &[], &[("ERL_EPMD_ADDRESS", list)]), by_argument, "{list:?}");
    }
    for (arguments, variables) in [
        (&["-port", "5000"][..], &[][..]),
        (&[], &[("ERL_EPMD_PORT", "5000")]),
        (&["-port", "5001"], &[("ERL_EPMD_PORT", "5000")]),
        (&["-port", "5001", "-address", "192.0.2.1"], &[("ERL_EPMD_ADDRESS", "127.0.0.2")]),
    ] {
        let found = listen_alike(&stage, arguments, variables);
        assert!(found.iter().all(|at| at.port() >= 5000) && found.len() > 1, "{found:?}");
    }
    // Root's ports are root's.
    assert_eq!(places(&stage, &stage.epmd, &["-port", "1023"], &[]), (Vec::new(), Some(1)));
}

#[test]
fn it_listens_as_it_is_told_where_epmd_collides_with_itself() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for (list, expected) in [
        ("0.0.0.0", ["0.0.0.0:4369", "[::1]:4369"]),
        ("::", ["127.0.0.1:4369", "[::]:4369"]),
        ("192.0.2.1,127.0.0.1,0.0.0.0", ["0.0.0.0:4369", "[::1]:4369"]),
    ] {
        let expected = expected.map(|at| at.parse().unwrap()).to_vec();
        assert_eq!(places(&stage, &stage.epmd, &["-address", list], &[]), (expected, None), "{list}");
        // OTP before 29: it takes itself for another epmd.
        let real = places(&stage, Path::new("epmd"), &["-address", list], &[]);
        assert_eq!(real, (Vec::new(), Some(0)), "{list}");
    }
    stage.configure("[epmd]\nlisten = [\"192.0.2.1\", \"*:4370\"]\n");
    let everywhere = ["0.0.0.0:4369", "[::]:4369"].map(|at| at.parse().unwrap()).to_vec();
    assert_eq!(places(&stage, &stage.epmd, &[], &[]), (everywhere, None));
}

#[test]
fn a_port_that_is_none_is_told_of_and_not_served_at_a_random_one() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    for value in ["0", "x", ""] {
        let mut command = stage.command(&stage.epmd, &[]);
        command.env("ERL_EPMD_PORT", value);
        let said = run(command);
        assert_eq!((said.code, &*said.out), (1, ""), "{value:?}");
        assert!(said.err.starts_with("epmd: ERL_EPMD_PORT is no port from 1 to 65535"), "{said:?}");
    }
}

#[test]
fn a_host_without_ipv6_is_served_as_epmd_serves_it() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let mut off = stage.host.command("sysctl");
    off.args(["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    assert!(off.status().unwrap().success());
    listen_alike(&stage, &[], &[]);
    let loopback = listen_alike(&stage, &["-address", "127.0.0.1"], &[]);
    assert_eq!(loopback, ["127.0.0.1:4369".parse().unwrap()]);
    listen_alike(&stage, &["-address", "192.0.2.1"], &[]);
    listen_alike(&stage, &["-address", "2001:db8::1"], &[]);
    assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0));
    assert_eq!(stage.ours(&["-names"]).code, 0);
}

/// How long it takes to answer, or to end what is not even a request.
#[track_caller]
fn takes(stage: &Stage, request: &[u8]) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let stream = stage.host.connect((Ipv4Addr::LOCALHOST, PORT).into()).unwrap();
    send(&stream, request).unwrap();
    let read = read_to_close(&stream);
    assert_eq!(read.ended, Ended::Fin, "of {request:?}");
    (begun.elapsed(), read.bytes)
}

#[test]
fn the_time_for_a_request_is_the_arguments_or_the_files() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    stage.configure("[limits]\nrequest_timeout = \"300ms\"\n");
    let second = Duration::from_secs(1);
    for (arguments, least) in [(&["-packet_timeout", "1"][..], second), (&[], second * 3 / 10)] {
        let served = stage.start(arguments);
        let (taken, answer) = takes(&stage, b"\0");
        assert!(
            answer.is_empty() && taken >= least && taken < least + second * 3,
            "{arguments:?}: {taken:?}"
        );
        drop(served);
    }
}

#[test]
fn the_delays_of_the_test_aids_are_kept() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let least = Duration::from_secs(1);
    for arguments in [["-delay_accept", "1"], ["-delay_write", "1"]] {
        let served = stage.start(&arguments);
        let (taken, answer) = takes(&stage, &framed(b"n"));
        assert_eq!(answer, EMPTY);
        assert!(taken >= least && taken < least * 4, "{arguments:?}: {taken:?}");
        // A registration is answered as late, and holds.
        let begun = Instant::now();
        let _named = register(&stage, "n1", 9100);
        assert!(begun.elapsed() >= least, "{arguments:?}");
        assert_eq!(stage.names(), "name n1 at port 9100\n");
        drop(served);
    }
}

/// It gets sockets as from a socket unit, and starts when somebody connects to one of them.
fn activated(stage: &Stage, sockets: &[&str]) -> Daemon {
    activated_as(stage, &stage.epmd, sockets, &[])
}

/// Either of both, with more variables.
fn activated_as(stage: &Stage, program: &Path, sockets: &[&str], variables: &[String]) -> Daemon {
    let mut command = stage.host.command("systemd-socket-activate");
    command.args(sockets.iter().map(|at| format!("--listen={at}")));
    command.arg(format!("--setenv=EPMD_GUARD_CONFIG={}", stage.file().display()));
    command.args(variables.iter().map(|variable| format!("--setenv={variable}")));
    // The unit of Debian has no FileDescriptorName.
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(program).arg("-systemd");
    let daemon = Daemon::spawn("epmd", command);
    for at in sockets {
        let at: SocketAddr = at.parse().unwrap();
        eventually("systemd listens", SOON, || stage.host.listeners().contains(&at));
    }
    daemon
}

#[test]
fn the_wildcard_socket_of_systemd_is_served_for_this_host_and_its_peers() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2", "h3"]);
    stage.configure("[cluster]\nallow = [\"192.0.2.2\", \"2001:db8::2\"]\n");
    // As Debian's epmd.socket: one socket for both families.
    let served = activated(&stage, &["[::]:4369"]);
    // What connects before it runs starts it, and is answered.
    assert_eq!(stage.names(), "");
    // IPv4 arrives there as IPv6, and is what it is all the same.
    let places = [
        (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
        (Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::LOCALHOST.into()),
        (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        (stage.host.v4().into(), stage.host.v4().into()),
        (stage.host.v6().into(), stage.host.v6().into()),
    ];
    for (from, to) in places {
        let to: IpAddr = to;
        let stream = stage.host.connect_from(from, SocketAddr::new(to, PORT)).unwrap();
        assert!(ask(&stream, b"d").starts_with(EMPTY), "{from} is this host");
    }
    let _named = try_register(&stage.host, Ipv4Addr::LOCALHOST, "n1", 9100).unwrap();
    let (peer, stranger) = (stage.lab.host("h2"), stage.lab.host("h3"));
    for ip in [IpAddr::from(stage.host.v4()), stage.host.v6().into()] {
        assert_eq!(listed(&peer, ip).unwrap(), b"\0\0\x11\x11name n1 at port 9100\n");
        assert_eq!(listed(&stranger, ip), None);
        assert!(try_register(&peer, ip, "n2", 9101).is_none());
    }
    served.signal(Signal::TERM);
    assert!(served.wait_exit(SOON).success());
}

#[test]
fn several_sockets_of_systemd_are_all_served() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let _served = activated(&stage, &["127.0.0.1:4369", "[::1]:4369", "192.0.2.1:4370"]);
    for (ip, port) in [
        (IpAddr::from(Ipv4Addr::LOCALHOST), PORT),
        (Ipv6Addr::LOCALHOST.into(), PORT),
        (stage.host.v4().into(), 4370),
    ] {
        assert_eq!(stage.names_at(ip, port).unwrap(), "", "{ip}");
    }
    assert_eq!(stage.host.listeners().len(), 3, "and nothing else: {:?}", stage.host.listeners());
}

#[test]
fn without_sockets_of_systemd_it_says_so_and_ends_with_1() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let (ours, real) = (stage.ours(&["-systemd"]), stage.real(&["-systemd"]));
    for said in [&ours, &real] {
        assert_eq!((said.code, &*said.out), (1, ""));
        assert!(said.err.contains("systemd provides no sockets"), "{said:?}");
    }
    assert_eq!(stage.processes(), [0; 0]);
}

/// Where a service manager hears; everybody may tell it something.
fn service_manager(stage: &Stage) -> (UnixDatagram, PathBuf) {
    let path = stage.lab.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    (socket, path)
}

#[test]
fn systemd_hears_when_it_serves_as_from_epmd_and_when_it_ends() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let (manager, path) = service_manager(&stage);
    let hear = || {
        let mut bytes = [0; 1024];
        let length = manager.recv(&mut bytes).expect("the manager hears something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    for program in [Path::new("epmd"), &stage.epmd] {
        let variable = format!("NOTIFY_SOCKET={}", path.display());
        let served = activated_as(&stage, program, &["127.0.0.1:4369"], &[variable]);
        assert_eq!(stage.names(), "");
        let ready = hear();
        assert!(ready.starts_with("READY=1\nSTATUS="), "{}: {ready:?}", program.display());
        served.signal(Signal::TERM);
        let status = served.wait_exit(SOON);
        if program == stage.epmd {
            assert!(status.success(), "{status}");
            assert_eq!(hear(), "STOPPING=1\n");
        }
        stage.wait_gone();
    }
    // The manager of a node waits for the node, and not for the epmd that it starts.
    let mut command = stage.command(&stage.epmd, &["-daemon"]);
    command.env("NOTIFY_SOCKET", &path);
    assert_eq!(run(command), Said::nothing(0));
    assert_eq!(stage.ours(&["-kill"]).code, 0);
    stage.wait_gone();
    manager.set_nonblocking(true).unwrap();
    let more = manager.recv(&mut [0; 100]).map_err(|error| error.kind());
    assert_eq!(more, Err(io::ErrorKind::WouldBlock));
}

#[test]
fn as_a_daemon_it_takes_no_sockets_of_systemd() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let said = stage.ours(&["-systemd", "-daemon"]);
    assert_eq!((said.code, &*said.out, &*said.err), (1, "", "epmd: systemd provides no sockets\n"));
    // The real one ends likewise, where nobody sees it.
    assert_eq!(stage.real(&["-systemd", "-daemon"]), Said::nothing(0));
    stage.wait_gone();
}

/// It serves this host, at all of its addresses, and nobody else.
#[track_caller]
fn serves_this_host_alone(stage: &Stage) {
    let own = [Ipv4Addr::LOCALHOST, stage.host.v4()].map(IpAddr::from);
    for ip in own.into_iter().chain([Ipv6Addr::LOCALHOST, stage.host.v6()].map(IpAddr::from)) {
        assert_eq!(stage.names_at(ip, PORT).unwrap(), "", "{ip}");
        drop(try_register(&stage.host, ip, "n1", 9100).unwrap());
        stage.wait_names("");
    }
    for ip in [IpAddr::from(stage.host.v4()), stage.host.v6().into()] {
        assert_eq!(listed(&stage.lab.host("h2"), ip), None, "{ip}");
    }
}

#[test]
fn without_a_configuration_it_serves_this_host_alone_and_says_how_to_let_others_in() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    // Where it looks by itself, and the machine under test may have one.
    let script = "[ ! -d /etc/epmd-guard ] || mount --bind \"$1\" /etc/epmd-guard; shift; exec \"$@\"";
    let mut command = stage.host.command("sh");
    command.args(["-c", script, "sh"]).arg(stage.host.dir());
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&stage.epmd);
    let served = stage.serve(command, PORT);
    let told = served.wait_line("the advice", SOON, |line| line.contains(ADVICE));
    let file = "there is no /etc/epmd-guard/epmd-guard.toml";
    assert!(told.contains(file) && told.contains("allow = ["), "{told}");
    serves_this_host_alone(&stage);
    assert_eq!(served.lines().len(), 1, "a stranger is no news: {:?}", served.lines());
}

#[test]
fn with_a_configuration_that_it_cannot_use_it_serves_this_host_alone_and_says_why() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    let file = stage.file().display().to_string();
    let allows = "[cluster]\nallow = [\"192.0.2.2\", \"2001:db8::2\"]\n";
    let gone = || fs::remove_file(stage.file()).unwrap();
    let unreadable = || {
        stage.configure(allows);
        // The file is root's, and who starts epmd is not.
        fs::set_permissions(stage.file(), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let invalid = || {
        stage.configure(&format!("{allows}alow = []\n"));
        fs::set_permissions(stage.file(), fs::Permissions::from_mode(0o644)).unwrap();
    };
    let empty = || stage.configure("[limits]\nnames = 20\n");
    let ways: [(&dyn Fn(), &str); 4] = [
        (&unreadable, "ermission denied"),
        (&invalid, "alow"),
        (&empty, "allow in "),
        (&gone, "there is no "),
    ];
    for (prepare, why) in ways {
        prepare();
        let served = stage.start(&[]);
        let told = served.wait_line("the advice", SOON, |line| line.contains(ADVICE));
        assert!(told.contains(&file) && told.contains(why), "{told}");
        // That is an option of the guard's own command line.
        assert!(!told.contains("--config"), "{told}");
        serves_this_host_alone(&stage);
        drop(served);
        stage.wait_gone();
    }
}

/// What it tells the system's log when it is started as a daemon; the log is there or it is not.
fn daemon_with_log(stage: &Stage, log: Option<&UnixDatagram>) -> Option<String> {
    let devices = stage.lab.dir().join("dev");
    // The mounts of `ip netns exec` are its own.
    let script = "mount --bind /dev/null \"$1/null\" && mount --rbind \"$1\" /dev && shift && exec \"$@\"";
    let mut command = stage.host.command("sh");
    command.args(["-c", script, "sh"]).arg(devices);
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(&stage.epmd).arg("-daemon").env("EPMD_GUARD_CONFIG", stage.file());
    assert_eq!(run(command), Said::nothing(0));
    let line = log.map(|log| {
        log.set_read_timeout(Some(SOON)).unwrap();
        let mut line = vec![0; 9000];
        let count = log.recv(&mut line).expect("a line comes");
        String::from_utf8_lossy(&line[..count]).into_owned()
    });
    assert_eq!(stage.names(), "");
    assert_eq!(stage.ours(&["-kill"]).code, 0);
    stage.wait_gone();
    line
}

#[test]
fn a_daemon_tells_the_systems_log_where_there_is_one() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let devices = stage.lab.dir().join("dev");
    fs::create_dir(&devices).unwrap();
    fs::write(devices.join("null"), "").unwrap();
    assert_eq!(daemon_with_log(&stage, None), None);
    let path = devices.join("log");
    let log = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let line = daemon_with_log(&stage, Some(&log)).unwrap();
    assert!(line.starts_with("<28>epmd[") && line.contains("serving_this_host_only"), "{line}");
    assert!(line.contains(ADVICE), "{line}");
    log.set_nonblocking(true).unwrap();
    let more = log.recv(&mut [0; 100]).map_err(|error| error.kind());
    assert_eq!(more, Err(io::ErrorKind::WouldBlock), "once is enough");
}

#[test]
fn a_permitted_peer_looks_up_and_lists_and_a_stranger_is_turned_away() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2", "h3"]);
    stage.configure("[cluster]\nallow = [\"192.0.2.2\"]\n[epmd]\nlisten = [\"192.0.2.1\"]\n");
    let served = stage.start(&[]);
    let expected = ["127.0.0.1:4369", "192.0.2.1:4369", "[::1]:4369"].map(|at| at.parse().unwrap());
    assert_eq!(stage.host.listeners(), expected, "[epmd] listen counts");
    let node = Node::named("a", &stage.host).anywhere().start();
    let (peer, stranger) = (stage.lab.host("h2"), stage.lab.host("h3"));
    assert_eq!(told(&peer, &stage.host, "a"), Some(node.port()));
    let line = format!("name a at port {}\n", node.port());
    assert_eq!(listed(&peer, stage.host.v4().into()).unwrap(), [EMPTY, line.as_bytes()].concat());
    assert_eq!(listed(&stranger, stage.host.v4().into()), None);
    for request in [&b"d"[..], b"k", b"sa"] {
        let stream = peer.connect((stage.host.v4(), PORT).into()).unwrap();
        assert_eq!(ask(&stream, request), b"", "{request:?} is not for peers");
    }
    assert!(try_register(&peer, stage.host.v4(), "evil", 1).is_none());
    // What it is for: a node of the peer's links with this one.
    let other = Node::named("b", &peer).start();
    assert!(other.ping(&node));
    assert_eq!(stage.names(), line);
    assert!(!served.lines().iter().any(|line| line.contains(ADVICE)), "{:?}", served.lines());
    // What the command line says goes first.
    drop(served);
    stage.wait_gone_but(&node);
    let served = stage.start(&["-address", "127.0.0.1"]);
    let expected = ["127.0.0.1:4369", "[::1]:4369"].map(|at| at.parse().unwrap());
    let found: Vec<_> = stage.host.listeners().into_iter().filter(|at| at.port() == PORT).collect();
    assert_eq!(found, expected);
    drop(served);
}

impl Stage {
    /// Waits until nobody but a node listens.
    #[track_caller]
    fn wait_gone_but(&self, node: &Node) {
        let port = node.port();
        eventually("it is gone", SOON, || self.host.listeners().iter().all(|at| at.port() == port));
    }
}

#[test]
fn who_may_register_and_what_a_peer_may_reach_count() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2", "h3"]);
    stage.configure(
        "[epmd]\nregister_from = [\"192.0.2.3\"]\n\
         [[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\nmay_reach = [\"a*\"]\n",
    );
    let _served = stage.start(&[]);
    let at = stage.host.v4();
    let _named = [register(&stage, "a1", 9100), register(&stage, "b1", 9101)];
    let (peer, container) = (stage.lab.host("h2"), stage.lab.host("h3"));
    assert_eq!(told(&peer, &stage.host, "a1"), Some(9100));
    assert_eq!(told(&peer, &stage.host, "b1"), None);
    assert_eq!(listed(&peer, at.into()).unwrap(), b"\0\0\x11\x11name a1 at port 9100\n");
    assert!(try_register(&peer, at, "a2", 9102).is_none());
    let from_outside = try_register(&container, at, "a3", 9103).unwrap();
    // It shares the host's epmd, as far as asking and registering goes.
    assert_eq!(told(&container, &stage.host, "b1"), Some(9101));
    let stream = container.connect((at, PORT).into()).unwrap();
    assert_eq!(ask(&stream, b"d"), b"", "DUMP is for this host");
    assert_eq!(told(&peer, &stage.host, "a3"), Some(9103));
    drop(from_outside);
    stage.wait_names("name b1 at port 9101\nname a1 at port 9100\n");
}

#[test]
fn where_this_host_is_told_from_peers_counts_but_not_where_it_is_said_of_a_guard_in_front() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let own = IpAddr::from(stage.host.v4());
    stage.configure("[epmd]\nself = [\"127.0.0.1\", \"::1\"]\n");
    let served = stage.start(&[]);
    let named = register(&stage, "n1", 9100);
    assert_eq!(stage.names_at(Ipv6Addr::LOCALHOST, PORT).unwrap(), "name n1 at port 9100\n");
    assert_eq!(listed(&stage.host, own), None, "another relay of this host may dial from there");
    drop((served, named));
    stage.wait_gone();
    stage.configure("[epmd]\nbackend = \"127.0.0.1:4369\"\nself = \"none\"\n");
    let _served = stage.start(&[]);
    let _named = register(&stage, "n1", 9100);
}

#[test]
fn the_limits_of_the_configuration_count() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    stage.configure("[cluster]\nallow = [\"192.0.2.0/24\"]\n[limits]\nnames = 2\nper_address = 3\n");
    let _served = stage.start(&[]);
    let _named = [register(&stage, "n1", 9100), register(&stage, "n2", 9101)];
    assert!(try_register(&stage.host, Ipv4Addr::LOCALHOST, "n3", 9102).is_none(), "[limits] names");
    let at = SocketAddr::new(stage.host.v4().into(), PORT);
    let peer = stage.lab.host("h2");
    let _held = [(); 3].map(|()| peer.connect(at).unwrap());
    let turned_away = peer.connect(at).map(|stream| read_to_close(&stream).ended);
    assert!(matches!(turned_away, Ok(Ended::Reset) | Err(_)), "[limits] per_address: {turned_away:?}");
    // This host has places of its own.
    assert_eq!(stage.names_at(stage.host.v4(), PORT).unwrap().lines().count(), 2);
}

#[test]
fn behind_a_guard_it_serves_loopback_and_the_guard_serves_the_peers() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2", "h3"]);
    // One file for both, as there is one on a host.
    let file = configure(&stage.lab, &stage.host, &registered(&["192.0.2.2"]));
    let mut command = stage.command(&stage.epmd, &[]);
    command.env("EPMD_GUARD_CONFIG", &file);
    let _served = stage.serve(command, PORT);
    let expected = ["127.0.0.1:4369", "[::1]:4369"].map(|at| at.parse().unwrap());
    assert_eq!(stage.host.listeners(), expected);
    let guard = Guard::start(&stage.lab, &stage.host, &registered(&["192.0.2.2"]));
    let a = Node::named("a", &stage.host).start();
    guard.wait_open(a.port());
    let (peer, stranger) = (stage.lab.host("h2"), stage.lab.host("h3"));
    assert_eq!(told(&peer, &stage.host, "a"), Some(a.port()));
    assert_eq!(listed(&stranger, stage.host.v4().into()), None);
    let b = Node::named("b", &peer).start();
    assert!(b.ping(&a));
    let opened = guard.wait_event("link_opened", &[("node", "a")]);
    assert!(field(&opened, "peer").starts_with("192.0.2.2:"), "{opened}");
    let port = a.port();
    a.stop();
    guard.wait_closed(port);
    assert_eq!(told(&peer, &stage.host, "a"), None);
    // As `ejabberdctl stop` does: it ends epmd, and the guard stays.
    assert_eq!(stage.ours(&["-kill"]).code, 0);
    assert_eq!(guard.daemon().exit_status(), None);
}

#[test]
fn beside_a_guard_whose_file_it_cannot_read_it_serves_loopback_where_nodes_look_for_it() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1", "h2"]);
    let guard = Guard::start(&stage.lab, &stage.host, &registered(&["192.0.2.2"]));
    let before = stage.host.listeners();
    let loopbacks: [SocketAddr; 2] = ["127.0.0.1:4369", "[::1]:4369"].map(|at| at.parse().unwrap());
    assert!(!loopbacks.iter().any(|addr| before.contains(addr)), "{before:?}");
    // The guard has the port at the addresses for peers, so that epmd cannot have all of them.
    let _served = stage.start(&[]);
    let mut now = stage.host.listeners();
    now.retain(|addr| !before.contains(addr));
    assert_eq!(now, loopbacks);
    let a = Node::named("a", &stage.host).start();
    guard.wait_open(a.port());
    assert_eq!(told(&stage.lab.host("h2"), &stage.host, "a"), Some(a.port()));
    a_second_one_is_silent_beside(&stage);
}

/// A third process finds loopback served.
fn a_second_one_is_silent_beside(stage: &Stage) {
    assert_eq!(stage.ours(&[]), Said::nothing(0));
    assert_eq!(stage.ours(&["-daemon"]), Said::nothing(0));
}

#[test]
fn ejabberdctl_starts_asks_and_stops_with_it_and_sees_no_difference() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let root = installed(&stage);
    let ejabberd = Ejabberd::configure(&stage.host)
        .setting(&format!("ERL='{}'", root.join("bin/erl").display()))
        .setting(&format!("EPMD='{}'", root.join("bin/epmd").display()))
        .setting("INET_DIST_INTERFACE=0.0.0.0")
        // ejabberdctl dials the host's own address.
        .setting("ERL_EPMD_ADDRESS=192.0.2.1")
        .setting(&format!("export EPMD_GUARD_CONFIG='{}'", stage.file().display()))
        .start();
    let pids = stage.processes();
    assert_eq!(pids.len(), 1, "{pids:?}");
    let program = fs::read_link(format!("/proc/{}/exe", pids[0])).unwrap();
    assert!(program.starts_with(&root), "it is {}", program.display());
    let (status, output) = ejabberd.ctl(&["status"]);
    assert!(status.success() && output.contains("is running"), "{output}");
    let names = stage.ours(&["-names"]);
    assert_eq!(names, stage.real(&["-names"]));
    let lines: Vec<_> = names.out.lines().collect();
    assert_eq!(lines.len(), 2, "the helper nodes of ejabberdctl are gone: {names:?}");
    assert_eq!(lines[0], "epmd: up and running on port 4369 with data:");
    assert!(lines[1].starts_with("name ejabberd at port 91"), "{names:?}");
    // It ends epmd unless it finds a name, as that of its own node may still be there when it looks.
    ejabberd.stop();
    eventually("no name is left", SOON, || {
        stage.processes().is_empty() || stage.ours(&["-names"]).out.lines().count() == 1
    });
    if !stage.processes().is_empty() {
        assert!(["Killed\n", ""].contains(&stage.ours(&["-kill"]).out.as_str()));
    }
    stage.wait_gone();
    ejabberd.start();
    assert_eq!(stage.processes().len(), 1);
    ejabberd.stop();
}

#[test]
fn registered_nodes_come_back_by_themselves_after_a_restart() {
    if !require() {
        return;
    }
    let stage = Stage::new(&["h1"]);
    let mut served = stage.start(&[]);
    let (a, b) = (Node::named("a", &stage.host).anywhere().start(), Node::named("b", &stage.host).start());
    let mut names = [&a, &b].map(|node| {
        let name = node.full_name().split('@').next().unwrap();
        format!("name {name} at port {}", node.port())
    });
    names.sort();
    assert!(b.ping(&a));
    for end in [Signal::TERM, Signal::KILL] {
        let begun = Instant::now();
        served.signal(end);
        served.wait_exit(SOON);
        let anew = stage.start(&[]);
        assert_eq!(stage.names(), "", "a new one knows nobody");
        let taken = eventually("both are back", SOON, || {
            let found = stage.names();
            let mut found: Vec<_> = found.lines().collect();
            found.sort_unstable();
            if found == names { Ok(begun.elapsed()) } else { Err(format!("{found:?}")) }
        });
        eprintln!("after {end:?} the names were back within {taken:?}");
        // A node tries again 2.0 s after the end, and every 2.0 s from then on.
        assert!(taken < Duration::from_secs(8), "{taken:?}");
        assert!(b.ping(&a), "the link is none of epmd's business");
        served = anew;
    }
}
