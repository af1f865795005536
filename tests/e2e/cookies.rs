//! `[dist] cookie_file` and `[[cookie]]`: where the guard knows the cookie, no wrong proof gets through, and the cookie
//! does not get out.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use epmd_guard::proto::dist::{Digest, FullName, Status};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use crate::common::{EVERYBODY, Guarded, require};
use crate::handshake_ends::Ends;
use crate::support::daemon::Signal;
use crate::support::erlang::Node;
use crate::support::guard::{
    Guard, SOON, USER, admin_get, admin_socket, configure, cookie_file, embedded, field, front, knowing,
    links, program,
};
use crate::support::handshake::{Acceptor, Initiator, Shaken, Waited, digest, link, messages};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, told};
use crate::support::wire::{Ended, framed, read_frame, read_to_close, send};

/// Bytes of a proof, with its length.
const PROOF: usize = 23;
const HOSTS: &[&str] = &["h1", "h2"];
/// What no other text has in it.
const COOKIE: &str = "NoOtherTextHasThisInIt7f3a";
const OTHER: &str = "NorThisOtherOne91c5";

/// A guarded `h1` that knows `secret`, and the peer `h2`.
fn known() -> (Lab, Guarded, Host) {
    let lab = Lab::new(HOSTS);
    let path = cookie_file(&lab.host("h1"), "cookie", "secret\n");
    let h1 = Guarded::with(&lab, "h1", &knowing(&path, &front(EVERYBODY)));
    let h2 = lab.host("h2");
    (lab, h1, h2)
}

/// The same with both ends the test's own; the nodes' cookie is `secret`.
fn known_ends(tables: &str) -> Ends {
    let lab = Lab::new(HOSTS);
    let path = cookie_file(&lab.host("h1"), "cookie", "secret\n");
    let config = format!("{}{tables}", knowing(&path, &front(EVERYBODY)));
    Ends::with(lab, &config)
}

fn alone(name: &str, host: &Host) -> Node {
    Node::named(name, host).arg("-connect_all").arg("false").start()
}

/// Whether a proof arrives at the node behind.
#[track_caller]
fn arrives(ends: &Ends, says: &Initiator, answers: &Acceptor) -> bool {
    let (down, up) = ends.greeted_by(says, answers);
    let proof = says.reply_to(&answers.challenge());
    send(&down, &proof).unwrap();
    match read_frame(&up) {
        Ok(arrived) => {
            assert_eq!(framed(&arrived), proof);
            true
        }
        Err(error) => {
            let ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
            assert!(ended.contains(&error.kind()), "{error}");
            assert_ne!(read_to_close(&down).ended, Ended::TimedOut);
            false
        }
    }
}

#[test]
fn a_wrong_cookie_never_reaches_a_node_whose_cookie_is_known() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = known();
    let b = h1.node("b");
    let wrong = Node::named("w", &h2).cookie("wrong").start();
    assert!(!wrong.ping(&b));
    let closed = h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "w@h2.test")]);
    assert_eq!(field(&closed, "level"), "WARN");
    let to = SocketAddr::new(h1.host.v4().into(), 9100);
    let guess = Initiator::named("x@h2.test").cookie("guess").shake(&h2.connect(to).unwrap());
    assert_eq!(guess, Shaken::Ended(Waited::Ack));
    h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "x@h2.test")]);
    assert_eq!(wrong.eval("erlang:set_cookie(secret)."), "true");
    assert!(wrong.ping(&b), "the right one");
    assert_eq!(b.eval("nodes()."), "['w@h2.test']");
    // Nor does what comes from this host itself.
    let tool = Node::named("t", &h1.host).cookie("wrong").start();
    assert!(!tool.ping(&b));
    h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("standing", "self")]);
    assert_eq!(b.output(), Vec::<String>::new(), "the node has noticed");
}

/// The control of the test above.
#[test]
fn a_node_whose_cookie_is_not_known_notices_a_wrong_one() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let b = h1.node("b");
    assert!(!Node::named("w", &lab.host("h2")).cookie("wrong").start().ping(&b));
    b.daemon().wait_line("the node says why", SOON, |line| line.contains("Invalid challenge reply"));
}

#[test]
fn no_byte_of_a_wrong_proof_is_passed_on() {
    if !require() {
        return;
    }
    let ends = known_ends("");
    let wrong = Initiator::named("a@h2.test").cookie("wrong");
    for says in [wrong.clone(), wrong.version_5()] {
        let log = ends.h1.guard.mark();
        let (down, up) = ends.greeted_by(&says, &ends.answers);
        let said = says.reply_to(&ends.answers.challenge());
        send(&down, &said).unwrap();
        // In version 5 the complement goes before it, and may have been passed on.
        let complement = &said[..said.len() - PROOF];
        let passed = read_to_close(&up).bytes;
        assert!(complement.starts_with(&passed), "{passed:?}");
        let outcome = read_to_close(&down);
        assert_eq!((outcome.bytes, outcome.ended), (Vec::new(), Ended::Reset));
        let told = [("reason", "wrong_cookie"), ("claimed", "a@h2.test")];
        ends.h1.guard.wait_event_after(log, "closed", &told);
    }
    drop(link(&ends.dial(), &ends.behind, &ends.says, "b@h1.test"));
}

#[test]
fn a_node_that_answers_with_another_cookie_is_not_taken_for_the_node() {
    if !require() {
        return;
    }
    let ends = known_ends("");
    let log = ends.h1.guard.mark();
    let (down, up) = ends.greeted();
    send(&down, &ends.proof()).unwrap();
    drop(ends.answers.ack(&up, &ends.says));
    let mut ack = Vec::new();
    digest("another", 0x0102_0304).encode_ack(&mut ack);
    send(&up, &ack).unwrap();
    assert_eq!(read_to_close(&down).bytes, b"", "the peer got it");
    assert_eq!(read_to_close(&up).bytes, b"");
    let told = [("reason", "wrong_cookie_answered"), ("stage", "handshake"), ("claimed", "a@h2.test")];
    ends.h1.guard.wait_event_after(log, "refused", &told);
    // It is not the peer's fault, and there was no link.
    for event in ["slowed_down", "banned", "link_opened"] {
        assert_eq!(ends.h1.guard.events(event), Vec::<Value>::new());
    }
    drop(link(&ends.dial(), &ends.behind, &ends.says, "b@h1.test"));
    ends.h1.guard.wait_event("link_opened", &[("claimed", "a@h2.test"), ("answered", "b@h1.test")]);
}

/// Tables for a host: of web nodes, of the node `db`, and of web nodes again, which is never asked.
fn tables(host: &Host) -> String {
    let of = |name: &str, keys: &str| {
        let path = cookie_file(host, name, &format!("{name}-cookie"));
        format!("[[cookie]]\nfile = {path:?}\n{keys}\n")
    };
    [
        of("web", "nodes = [\"web-*@*\", \"!web-0@*\"]\nat = [\"*\", \"!old\"]"),
        of("db", "at = [\"db\"]"),
        of("late", "nodes = [\"web-*@*\"]"),
    ]
    .concat()
}

#[test]
fn the_first_table_that_fits_both_nodes_has_their_cookie() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let host = lab.host("h1");
    let path = cookie_file(&host, "cookie", "secret");
    let patient = "[ban]\nafter = 0\nslow_after = 1000\n";
    let config = format!("{}{patient}{}", knowing(&path, &front(EVERYBODY)), tables(&host));
    let ends = Ends::with(lab, &config);
    let cookies = ["secret", "web-cookie", "db-cookie", "late-cookie"];
    for (peer, behind, right) in [
        ("n", "b", "secret"),
        ("web-1", "b", "web-cookie"),
        ("web-1", "db", "web-cookie"),
        ("n", "db", "db-cookie"),
        ("web-0", "b", "late-cookie"),
        ("web-0", "db", "db-cookie"),
        ("web-1", "old", "late-cookie"),
    ] {
        let answers = Acceptor::named(&format!("{behind}@h1.test"));
        for cookie in cookies {
            let says = Initiator::named(&format!("{peer}@h2.test")).cookie(cookie);
            let expected = cookie == right;
            assert_eq!(arrives(&ends, &says, &answers), expected, "{peer} to {behind} with {cookie}");
        }
        let says = Initiator::named(&format!("{peer}@h2.test")).cookie(right);
        drop(link(&ends.dial(), &ends.behind, &says, &format!("{behind}@h1.test")));
    }
}

#[test]
fn the_name_that_a_dynamic_node_is_given_chooses_its_cookie() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let host = lab.host("h1");
    let path = cookie_file(&host, "cookie", "secret");
    let config = knowing(&path, &front(EVERYBODY)).replace("[dist]\n", "dynamic_nodes = \"allow\"\n[dist]\n");
    let ends = Ends::with(lab, &format!("{config}{}", tables(&host)));
    for (given, cookie, expected) in [
        ("web-1@h2.test", "web-cookie", true),
        ("web-1@h2.test", "secret", false),
        ("31AB@h2.test", "secret", true),
        ("31AB@h2.test", "web-cookie", false),
    ] {
        let says = Initiator::dynamic("h2.test").cookie(cookie);
        let down = ends.dial();
        send(&down, &says.first_message()).unwrap();
        let up = ends.answers.take(&ends.behind, &says);
        let mut greeting = Vec::new();
        Status::Named(FullName::new(given.as_bytes()).unwrap(), 5).encode(&mut greeting);
        ends.answers.challenge().encode(&mut greeting);
        send(&up, &greeting).unwrap();
        assert_eq!(messages(&down, 2), greeting);
        send(&down, &says.reply_to(&ends.answers.challenge())).unwrap();
        let arrived = read_frame(&up).is_ok();
        assert_eq!(arrived, expected, "{given} with {cookie}");
    }
    ends.h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "?@h2.test")]);
}

#[test]
fn real_nodes_with_cookies_of_their_own_link_by_these_alone() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let (host, h2) = (lab.host("h1"), lab.host("h2"));
    let path = cookie_file(&host, "cookie", "secret");
    let config =
        knowing(&path, &embedded(EVERYBODY)).replace("[log]\n", "dynamic_nodes = \"allow\"\n[log]\n");
    let guard = Guard::start(&lab, &host, &format!("{config}{}", tables(&host)));
    let b = Node::named("b", &host).port(9100).arg("-connect_all").arg("false").start();
    guard.wait_open(9100);
    assert_eq!(b.eval("erlang:set_cookie('web-1@h2.test', 'web-cookie')."), "true");
    let (n, web) = (alone("n", &h2), alone("web-1", &h2));
    assert!(n.ping(&b));
    assert!(!web.ping(&b), "with the others' cookie");
    guard.wait_event("closed", &[("reason", "wrong_cookie"), ("claimed", "web-1@h2.test")]);
    assert_eq!(web.eval("erlang:set_cookie('web-cookie')."), "true");
    assert!(web.ping(&b));
    // One that is given its name has the cookie of all.
    let nameless = Node::named("undefined@h2.test", &h2).start();
    assert_eq!(nameless.eval("net_kernel:connect_node('b@h1.test')."), "true");
    assert_eq!(b.eval("length(nodes(hidden))."), "1");
    assert_eq!(b.output(), Vec::<String>::new());
}

#[test]
fn a_cookie_that_a_reload_reads_counts_at_once_for_new_links_and_cuts_none() {
    if !require() {
        return;
    }
    let ends = known_ends("");
    let (lab, host) = (&ends.lab, &ends.h1.host);
    let down = ends.dial();
    let up = link(&down, &ends.behind, &ends.says, "b@h1.test");
    let reload = |cookie: &str| {
        drop(cookie_file(host, "cookie", cookie));
        told(lab, host, &["reload"])
    };
    let newer = ends.says.clone().cookie("newer");
    assert!(!arrives(&ends, &newer, &ends.answers));
    let said = reload("newer\n");
    assert!(said.code == 0 && said.out.contains("the cookie has changed"), "{said:?}");
    assert!(!arrives(&ends, &ends.says, &ends.answers), "the old cookie");
    assert!(arrives(&ends, &newer, &ends.answers), "the new one");
    let path = host.dir_of(USER, "cookies").join("cookie");
    // One that cannot be used changes nothing.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let said = told(lab, host, &["reload"]);
    let help = format!("chmod 0400 {}", path.display());
    assert!(said.code != 0 && said.err.contains("has the mode 0444") && said.err.contains(&help), "{said:?}");
    let refused = ends.h1.guard.wait_event("reload_refused", &[]);
    assert!(field(&refused, "problems").contains("has the mode 0444"), "{refused}");
    assert!(arrives(&ends, &newer, &ends.answers));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    // Without one, it is the node that judges.
    let forgotten = configure(lab, host, &front(EVERYBODY));
    let said = told(lab, host, &["reload"]);
    assert_eq!(said.code, 0, "{said:?} {}", forgotten.display());
    assert!(arrives(&ends, &ends.says.clone().cookie("any"), &ends.answers));
    assert_eq!(links(&admin_socket(lab, host)).len(), 1);
    send(&down, b"on").unwrap();
    let mut said = [0; 2];
    io::Read::read_exact(&mut &up, &mut said).unwrap();
    assert_eq!(&said, b"on");
}

#[test]
fn a_guard_whose_cookie_others_can_read_does_not_start() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let path = cookie_file(&host, "cookie", COOKIE);
    for (mode, expected) in [(0o440, Some("0440")), (0o604, Some("0604")), (0o400, None)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let config = knowing(&path, &front(&[]));
        let Some(expected) = expected else {
            drop(Guard::launch(&lab, &host, &config).wait_event("started", &[]));
            continue;
        };
        let (status, output) = Guard::launch(&lab, &host, &config).daemon().finish(SOON);
        assert_eq!(status.code(), Some(78), "{output}");
        let help = format!("chmod 0400 {}", path.display());
        assert!(output.contains(expected) && output.contains(&help), "{output}");
        assert!(!output.contains(COOKIE), "{output}");
    }
}

/// What must not be anywhere: the cookies and these digests, in each form in which something could show them.
fn forms(digests: &[Digest]) -> Vec<String> {
    let mut forms = vec![COOKIE.to_owned(), OTHER.to_owned(), format!("{:?}", COOKIE.as_bytes())];
    for Digest(bytes) in digests {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        forms.extend([hex.to_uppercase(), hex, format!("{bytes:?}"), format!("{:?}", bytes.map(u32::from))]);
        forms.push(u128::from_be_bytes(*bytes).to_string());
    }
    forms
}

/// All that the guard's commands and its admin socket say, and all that it has logged.
fn all_that_is_said(ends: &Ends) -> Vec<(String, String)> {
    let (lab, host) = (&ends.lab, &ends.h1.host);
    let socket = admin_socket(lab, host).display().to_string();
    let config = lab.dir().join("h1.toml").display().to_string();
    let mut said = Vec::new();
    let mut run = |line: &str| {
        let mut command = host.command_as(USER, program(lab));
        command.args(line.split(' '));
        let Said { out, err, .. } = Said::by(command);
        assert!(!format!("{out}{err}").is_empty(), "{line}");
        said.push((line.to_owned(), format!("{out}{err}")));
    };
    let explain = "explain --from 192.0.2.2 --as w@h2.test --to 9105";
    for line in ["status", "links", "bans", "learn", "mode", explain] {
        for json in ["", " --json"] {
            run(&format!("{line}{json} --socket {socket}"));
        }
    }
    run(&format!("{explain} --config {config}"));
    run(&format!("check --config {config}"));
    run(&format!("check --against-running --config {config} --socket {socket}"));
    run(&format!("reload --socket {socket}"));
    for path in ["/metrics", "/status", "/links", "/bans", "/learn", "/mode"] {
        said.push((path.to_owned(), admin_get(lab, host, path)));
    }
    said.push(("the log".to_owned(), ends.h1.guard.daemon().lines().join("\n")));
    said
}

#[test]
fn a_cookie_and_what_is_made_of_it_are_shown_nowhere() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let host = lab.host("h1");
    let path = cookie_file(&host, "cookie", COOKIE);
    let table = cookie_file(&host, "web", OTHER);
    let config = knowing(&path, &front(EVERYBODY)).replace("\"debug\"", "\"trace\"");
    let ends = Ends::with(lab, &format!("{config}[[cookie]]\nfile = {table:?}\nnodes = [\"web@*\"]\n"));
    let right = ends.says.clone().cookie(COOKIE);
    let up = [
        (link(&ends.dial(), &ends.behind, &right, "b@h1.test"), ends.dial()),
        (
            link(&ends.dial(), &ends.behind, &Initiator::named("web@h2.test").cookie(OTHER), "b@h1.test"),
            ends.dial(),
        ),
    ];
    assert!(!arrives(&ends, &Initiator::named("w@h2.test").cookie(OTHER), &ends.answers));
    // An answer of another cookie.
    let (down, behind) = ends.greeted_by(&right, &ends.answers);
    send(&down, &right.reply_to(&ends.answers.challenge())).unwrap();
    drop(ends.answers.ack(&behind, &right));
    let mut ack = Vec::new();
    digest(OTHER, 0x0102_0304).encode_ack(&mut ack);
    send(&behind, &ack).unwrap();
    ends.h1.guard.wait_event("refused", &[("reason", "wrong_cookie_answered")]);
    let challenge = ends.answers.challenge().challenge;
    let made = [COOKIE, OTHER].map(|cookie| [digest(cookie, challenge), digest(cookie, 0x0102_0304)]);
    let forms = forms(made.as_flattened());
    let mut said = all_that_is_said(&ends);
    // Files that cannot be used, and a change.
    let odd = format!("{COOKIE}\x01");
    for written in [odd.as_str(), &COOKIE.repeat(20), OTHER] {
        drop(cookie_file(&host, "cookie", written));
        said.append(&mut all_that_is_said(&ends));
    }
    let count = said.iter().filter(|(_, text)| text.contains("the cookie has changed")).count();
    assert!(count > 0, "no change was told");
    for (what, text) in &said {
        let found = forms.iter().find(|form| text.contains(form.as_str()));
        assert_eq!(found, None, "{what}: {text}");
    }
    drop(up);
}

/// The files that the kernel has written where a guard ran.
fn cores(host: &Host) -> Vec<PathBuf> {
    let home = host.dir_of(USER, &format!("home-{USER}"));
    let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("core")).collect()
}

/// A guard whose memory may be written to a file when it dies, if it lets it.
fn dumping(lab: &Lab, host: &Host, config: &str) -> Guard {
    let mut command = host.command_as(USER, "prlimit");
    command.arg("--core=unlimited").arg("--").arg(program(lab)).arg("run").arg("--config");
    command.arg(configure(lab, host, config));
    let guard = Guard::adopt(host, command);
    guard.wait_event("started", &[]);
    guard
}

/// Has it die, after root has lifted the limit again where root may do that, and gives what was written.
fn dump(guard: &Guard, host: &Host) -> Vec<u8> {
    let pid = i32::try_from(guard.daemon().pid()).unwrap();
    let all = Rlimit { current: None, maximum: None };
    let lifted = prlimit(Pid::from_raw(pid), Resource::Core, all);
    // CAP_SYS_RESOURCE, which containers do not have.
    assert!(matches!(lifted, Ok(_) | Err(Errno::PERM)), "{lifted:?}");
    guard.daemon().signal(Signal::ABORT);
    guard.daemon().wait_exit(SOON);
    cores(host).iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

/// Whether the kernel writes cores as files where the program runs (core(5)).
fn cores_are_files() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    pattern.starts_with("core") && !pattern.contains('/')
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn of_process(guard: &Guard, file: &str) -> String {
    fs::read_to_string(Path::new("/proc").join(guard.daemon().pid().to_string()).join(file)).unwrap()
}

#[test]
fn a_core_dump_of_the_guard_does_not_hold_the_cookie() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let path = cookie_file(&h1, "cookie", COOKIE);
    let guard = dumping(&lab, &h1, &knowing(&path, &front(&[])));
    let limits = of_process(&guard, "limits");
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().collect::<Vec<_>>()[4..], ["0", "0", "bytes"]);
    assert_eq!(of_process(&guard, "coredump_filter"), "00000000\n");
    assert_eq!(guard.events("core_dumps_not_off"), Vec::<Value>::new());
    if !cores_are_files() {
        return;
    }
    let core = dump(&guard, &h1);
    assert!(!has(&core, COOKIE), "{} bytes with the cookie in them", core.len());
    // The control: one without a cookie has all of its memory in the file.
    let guard = dumping(&lab, &h2, &front(&[]));
    let core = dump(&guard, &h2);
    let socket = admin_socket(&lab, &h2).display().to_string();
    assert!(has(&core, &socket), "{} bytes without its memory", core.len());
}
