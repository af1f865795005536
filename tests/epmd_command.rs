//! The program when it is called `epmd`, beside the real one: what both print, byte for byte, and how they end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed test panics"
)]

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "shared with the other tests")]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::daemon::Daemon;
use support::epmd::{Epmd, EpmdListen};
use support::eventually::eventually;
use support::host::Host;
use support::lab::Lab;
use support::{guard, prerequisites, wire};

const PORT: u16 = 4369;
const SOON: Duration = Duration::from_secs(20);
/// Every question, for those who are asked nothing else.
const QUESTIONS: [&[&str]; 5] = [&["-names"], &["-started"], &["-dump"], &["-kill"], &["-stop", "n1"]];

/// What a program wrote, and how it ended; minus the number of the signal that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// The real epmd and ours on one host.
struct Both {
    host: Host,
    ours: PathBuf,
}

impl Both {
    fn new(lab: &Lab, host: &str) -> Self {
        let folder = lab.dir().join("bin");
        std::fs::create_dir(&folder).unwrap();
        let ours = folder.join("epmd");
        std::os::unix::fs::symlink(guard::program(lab), &ours).unwrap();
        Self { host: lab.host(host), ours }
    }

    fn real(&self, arguments: &[&str]) -> Said {
        self.run(Path::new("epmd"), arguments, &[])
    }

    fn ours(&self, arguments: &[&str]) -> Said {
        self.run(&self.ours, arguments, &[])
    }

    fn run(&self, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = self.host.command(program);
        // The configuration of this machine must not count.
        command.env("EPMD_GUARD_CONFIG", self.ours.with_file_name("none.toml"));
        command.args(arguments).envs(variables.iter().copied());
        run(command)
    }

    /// What both said, once it was the same.
    #[track_caller]
    fn alike(&self, arguments: &[&str]) -> Said {
        self.alike_with(arguments, &[])
    }

    #[track_caller]
    fn alike_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let real = self.run(Path::new("epmd"), arguments, variables);
        let ours = self.run(&self.ours, arguments, variables);
        assert_eq!(ours, real, "epmd {arguments:?} with {variables:?}: ours first");
        ours
    }

    /// Ours, as a server.
    #[track_caller]
    fn serve(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.host.command_as("nobody", &self.ours);
        command.args(arguments).env("EPMD_GUARD_CONFIG", self.ours.with_file_name("none.toml"));
        let daemon = Daemon::spawn("epmd", command);
        eventually("it listens", SOON, || self.host.listeners().iter().any(|at| at.port() == PORT));
        daemon
    }

    /// Registers a name; it lives as long as the stream.
    #[track_caller]
    fn register(&self, name: &str, port: u16) -> TcpStream {
        let stream = self.host.connect((Ipv4Addr::LOCALHOST, PORT).into()).unwrap();
        let length = u16::try_from(name.len()).unwrap().to_be_bytes();
        let fixed = [77, 0, 0, 6, 0, 5];
        let message = [b"x", &port.to_be_bytes()[..], &fixed, &length, name.as_bytes(), &[0, 0]].concat();
        wire::send(&stream, &wire::framed(&message)).unwrap();
        let mut reply = [0; 6];
        (&stream).read_exact(&mut reply).unwrap();
        assert_eq!(reply[..2], [118, 0], "{name} is registered");
        stream
    }
}

/// Waits until the epmd has taken note that a registration ended.
#[track_caller]
fn wait_gone(epmd: &Epmd, name: &str) {
    let line = format!("name {name} ");
    eventually("the name goes", SOON, || !epmd.names().iter().any(|listed| listed.starts_with(&line)));
}

fn run(mut command: Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or_default());
    Said { code, out: output.stdout, err: output.stderr }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn names_dump_and_started_print_and_end_as_epmds_do() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let epmd = Epmd::start(&both.host, EpmdListen::Loopback);
    let empty = both.alike(&["-names"]);
    assert_eq!(text(&empty.out), "epmd: up and running on port 4369 with data:\n");
    both.alike(&["-dump"]);
    let _registered = [both.register("n1", 9100), both.register("rabbit", 25672), both.register("é-ñ", 1)];
    drop(both.register("old", 9102));
    wait_gone(&epmd, "old");

    let names = both.alike(&["-names"]);
    assert_eq!(names.code, 0);
    assert!(text(&names.out).ends_with("name rabbit at port 25672\nname n1 at port 9100\n"), "{names:?}");
    let dump = both.alike(&["-dump"]);
    assert!(dump.out.contains(&0) && text(&dump.out).contains("old/unused name <old>"), "{dump:?}");
    assert_eq!(both.alike(&["-started"]), Said { code: 0, out: Vec::new(), err: Vec::new() });
    for options in ["-d", "-debug", "-d -d -d", "-daemon", "-relaxed_command_check", "-address nonsense"] {
        let mut arguments: Vec<_> = options.split(' ').collect();
        arguments.push("-names");
        assert_eq!(both.alike(&arguments), names, "{options}");
    }
    // The port by argument and by environment, where somebody listens and where nobody does.
    assert_eq!(both.alike(&["-port", "4369", "-names"]), names);
    assert_eq!(both.alike(&["-port", " 4369x", "-names"]), names);
    assert_eq!(both.alike(&["-port", "5000", "-names"]).code, 1);
    assert_eq!(both.alike_with(&["-names"], &[("ERL_EPMD_PORT", "4369")]), names);
    assert_eq!(both.alike_with(&["-port", "4369", "-names"], &[("ERL_EPMD_PORT", "5000")]), names);
    for port in ["5000", "", "0", "x"] {
        assert_eq!(both.alike_with(&["-names"], &[("ERL_EPMD_PORT", port)]).code, 1, "{port:?}");
    }
}

#[test]
fn kill_ends_an_epmd_without_names_and_is_refused_by_one_with_names_as_epmds_is() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let killed = [Both::real, Both::ours].map(|kill| {
        let epmd = Epmd::start(&both.host, EpmdListen::Loopback);
        let named = both.register("n1", 9100);
        let refused = kill(&both, &["-kill"]);
        assert_eq!(epmd.names(), ["name n1 at port 9100"]);
        drop(named);
        wait_gone(&epmd, "n1");
        let killed = kill(&both, &["-kill"]);
        let relaxed = ["-relaxed_command_check"];
        eventually("it is gone", SOON, || both.host.listeners().is_empty());
        let _relaxed = Epmd::start_with(&both.host, EpmdListen::Loopback, PORT, &relaxed);
        let _named = both.register("n1", 9100);
        let forced = kill(&both, &["-kill"]);
        eventually("it is gone", SOON, || both.host.listeners().is_empty());
        [refused, killed, forced]
    });
    assert_eq!(killed[1], killed[0], "ours first");
    assert_eq!(killed[0].each_ref().map(|said| said.code), [1, 0, 0]);
}

#[test]
fn stop_throws_a_name_out_where_epmds_does() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let long = ["a".repeat(254), "a".repeat(1000), "a".repeat(1001)];
    {
        let epmd = Epmd::start(&both.host, EpmdListen::Loopback);
        let _named = both.register("n1", 9100);
        for name in ["n1", "unknown", ""].into_iter().chain(long.iter().map(String::as_str)) {
            assert_eq!(both.alike(&["-stop", name]).code, 1, "{name}");
        }
        assert_eq!(epmd.names(), ["name n1 at port 9100"]);
    }
    let epmd = Epmd::start_with(&both.host, EpmdListen::Loopback, PORT, &["-relaxed_command_check"]);
    for name in ["unknown", "", "a b", "\u{1b}[2J", "é"].into_iter().chain(long.iter().map(String::as_str)) {
        both.alike(&["-stop", name]);
    }
    // What no node is called can be registered at epmd, and thrown out by both.
    for name in ["n1", "forged at port 1\nname x", "é"] {
        let stopped = [Both::real, Both::ours].map(|stop| {
            let named = both.register(name, 9100);
            let said = stop(&both, &["-stop", name]);
            assert_eq!(wire::read_to_close(&named).bytes, b"", "{name:?} is thrown out");
            assert_eq!(epmd.names(), [""; 0]);
            said
        });
        assert_eq!(stopped[0], Said { code: 0, out: b"STOPPED\n".to_vec(), err: Vec::new() });
        assert_eq!(stopped[1], stopped[0]);
    }
}

#[test]
fn where_nobody_listens_questions_end_as_epmds_do() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    for question in QUESTIONS {
        let said = both.alike(question);
        assert_eq!(said.code, 1, "{question:?}");
        assert_eq!(said.err.is_empty(), question == ["-started"], "{question:?}");
    }
}

#[test]
fn what_epmd_does_not_understand_ends_with_the_usage_and_1() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    for arguments in [
        "-h",
        "--help",
        "names",
        "-names x",
        "-names -port 5000",
        "-kill now",
        "-started -d",
        "-dump x",
        "-stop",
        "-stop a b",
        "-port",
        "-port 0",
        "-port x -names",
        "-port 0x10 -names",
        "-address",
        "-packet_timeout",
        "-packet_timeout 0 -names",
        "-packet_timeout -names",
        "-delay_accept x",
        "-delay_write 0",
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let (real, ours) = (both.real(&arguments), both.ours(&arguments));
        for said in [&real, &ours] {
            assert_eq!((said.code, &said.out[..]), (1, &b""[..]), "{arguments:?}: {said:?}");
            assert!(text(&said.err).contains("usage: epmd [-d|-debug] "), "{arguments:?}: {said:?}");
        }
        assert!(text(&ours.err).contains("epmd-guard"), "{ours:?}");
    }
    // Only who serves looks at the addresses. The texts are the same but for epmd's date.
    let (real, ours) = (both.real(&["-address", "999.1.1.1"]), both.ours(&["-address", "999.1.1.1"]));
    assert_eq!((real.code, ours.code), (1, 1));
    let why = "cannot parse IP address \"999.1.1.1\"";
    assert!(text(&real.err).contains(why), "{real:?}");
    assert_eq!(text(&ours.err), format!("epmd: {why}\n"));
}

/// Who takes one connection at a time and answers whatever is asked with the same bytes.
struct Parrot {
    at: SocketAddr,
    listener: TcpListener,
}

impl Parrot {
    fn new(host: &Host, at: SocketAddr) -> Self {
        let listener = host.inside(|| TcpListener::bind(at).unwrap());
        // So that a program that asks elsewhere fails the test and does not stop it.
        listener.set_nonblocking(true).unwrap();
        Self { at: listener.local_addr().unwrap(), listener }
    }

    fn answer<T>(&self, answer: &[u8], ask: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = eventually("somebody asks", SOON, || self.listener.accept());
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(answer).unwrap();
                // A program that has what it wants ends, and may leave the rest unread, which is a reset.
                drop(stream.shutdown(Shutdown::Write).and_then(|()| stream.read_to_end(&mut request)));
            });
            ask()
        })
    }
}

#[test]
fn odd_answers_are_told_as_epmd_tells_them() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let parrot = Parrot::new(&both.host, (Ipv4Addr::LOCALHOST, 0).into());
    let port = parrot.at.port().to_string();
    let cases: [(&[&str], &[&[u8]]); 4] = [
        (
            &["-names"],
            &[
                b"",
                b"O",
                b"\0\0\x11",
                b"\0\0\x11\x11",
                b"\xff\xff\xff\xff",
                b"\0\0\x11\x11name a at port 1\n",
            ],
        ),
        (&["-dump"], &[b"", b"\0\0\x11", b"\0\0\x11\x11"]),
        (&["-kill"], &[b"", b"O", b"OK", b"NO", b"OKAY", b"\0\0\x11\x11name a at port 1\n"]),
        (&["-stop", "x"], &[b"", b"STOPPE", b"STOPPED", b"NOEXIST", b"NOEXISTSTOPPED"]),
    ];
    for (question, answers) in cases {
        for answer in answers {
            let arguments = [&["-port", &port], question].concat();
            let real = parrot.answer(answer, || both.real(&arguments));
            let ours = parrot.answer(answer, || both.ours(&arguments));
            assert_eq!(ours, real, "{question:?}, answered {answer:?}: ours first");
        }
    }
    for (answer, code) in [(&b"\0\0\x11\x11"[..], 0), (b"\0\0\x11", 1), (b"", 1)] {
        let arguments = ["-port", &port, "-started"];
        let real = parrot.answer(answer, || both.real(&arguments));
        let ours = parrot.answer(answer, || both.ours(&arguments));
        assert_eq!((&ours, ours.code), (&real, code), "answered {answer:?}");
    }
}

#[test]
fn ipv6_is_asked_first_as_epmd_does() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let six = Parrot::new(&both.host, (IpAddr::from(Ipv6Addr::LOCALHOST), 4369).into());
    let _four = Parrot::new(&both.host, (IpAddr::from(Ipv4Addr::LOCALHOST), 4369).into());
    let answer = b"\0\0\x11\x11name six at port 6\n";
    let real = six.answer(answer, || both.real(&["-names"]));
    let ours = six.answer(answer, || both.ours(&["-names"]));
    assert_eq!(ours, real);
    assert!(text(&ours.out).contains("name six at port 6\n"), "{ours:?}");
}

#[test]
fn names_that_no_node_has_are_left_out_and_counted() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let _epmd = Epmd::start(&both.host, EpmdListen::Loopback);
    let _registered =
        [both.register("n1", 9100), both.register("\u{1b}[2J", 9101), both.register("a b", 9102)];
    let names = both.ours(&["-names"]);
    assert_eq!(text(&names.out), "epmd: up and running on port 4369 with data:\nname n1 at port 9100\n");
    assert_eq!(text(&names.err), "epmd: left out, since no node has such a name or port: 2\n");
    assert_eq!(names.code, 0);
    assert!(both.real(&["-names"]).out.contains(&0x1b), "the real one prints it");
}

#[test]
fn a_copy_is_epmd_as_a_link_is_and_another_name_is_not() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    let program = guard::program(&lab);
    assert_eq!(both.run(&program, &["-names"], &[]).code, 2, "the guard's own command line");
    let copy = lab.dir().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let copy = copy.join("epmd");
    let copied = Command::new("install").args(["-m", "0755"]).args([&program, &copy]).status().unwrap();
    assert!(copied.success());
    assert_eq!(both.run(&copy, &["-names"], &[]), both.real(&["-names"]));
}

/// A list of DUMP without the numbers of descriptors, which mean nothing to anybody else.
fn without_descriptors(dump: &[u8]) -> String {
    let mut shown = String::new();
    for piece in text(dump).split(", fd = ") {
        shown.push_str(piece.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    shown
}

/// What a server is asked from its first name to its end, in this order.
#[track_caller]
fn asked_of_the_server(both: &Both, ask: fn(&Both, &[&str]) -> Said) -> Vec<(String, Said)> {
    let mut all = Vec::new();
    let mut note = |what: &str| {
        let mut said = ask(both, &what.split(' ').collect::<Vec<_>>());
        if what == "-dump" {
            said.out = without_descriptors(&said.out).into_bytes();
        }
        all.push((what.to_owned(), said));
    };
    ["-names", "-dump", "-started", "-stop n1"].into_iter().for_each(&mut note);
    let (first, _second) = (both.register("n1", 9100), both.register("rabbit", 25672));
    ["-names", "-dump", "-started", "-kill", "-stop n1"].into_iter().for_each(&mut note);
    drop(first);
    eventually("the name goes", SOON, || {
        let names = text(&both.ours(&["-names"]).out);
        if names.contains("n1") { Err(names) } else { Ok(()) }
    });
    ["-names", "-dump", "-stop unknown"].into_iter().for_each(&mut note);
    all
}

#[test]
fn our_server_tells_either_client_what_epmds_tells_them() {
    if !prerequisites::require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let both = Both::new(&lab, "h1");
    for arguments in [&[][..], &["-relaxed_command_check"]] {
        for client in [Both::real, Both::ours] {
            let expected = {
                let _server = Epmd::start_with(&both.host, EpmdListen::Everywhere, PORT, arguments);
                asked_of(&both, client, arguments)
            };
            eventually("it is gone", SOON, || both.host.listeners().is_empty());
            let server = both.serve(arguments);
            assert_eq!(asked_of(&both, client, arguments), expected, "ours first, {arguments:?}");
            if !arguments.is_empty() {
                assert!(server.wait_exit(SOON).success());
            }
            drop(server);
            eventually("it is gone", SOON, || both.host.listeners().is_empty());
        }
    }
}

/// The whole course of a strict server; of a relaxed one, where a name is thrown out and KILL ends it.
#[track_caller]
fn asked_of(both: &Both, client: fn(&Both, &[&str]) -> Said, arguments: &[&str]) -> Vec<(String, Said)> {
    if arguments.is_empty() {
        return asked_of_the_server(both, client);
    }
    let (_one, _two) = (both.register("n1", 9100), both.register("n2", 9101));
    let questions: [&[&str]; 4] = [&["-stop", "n1"], &["-stop", "n1"], &["-names"], &["-kill"]];
    questions.map(|question| (question.concat(), client(both, question))).into()
}
