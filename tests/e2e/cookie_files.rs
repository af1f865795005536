//! A guard that knows the cookie: what it does with it, and where it leaves none of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::User;
use rustix::process::Signal;

use crate::common::{Guarded, require};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{
    Guard, SOON, USER, admin_get, admin_socket, ask_admin, configure, field, front, program,
};
use crate::support::handshake::{Initiator, Shaken, Waited};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;

/// A cookie that nothing else has in it.
const COOKIE: &str = "XQZCOOKIEZQX";
/// A word of the configuration, which a guard keeps in its memory.
const MARK: &str = "xqzmarkzqx";

/// Writes a file of the guard's user that holds a cookie.
fn write(lab: &Lab, cookie: &str, mode: u32) -> PathBuf {
    let path = lab.dir().join("cookie");
    if path.exists() {
        fs::remove_file(&path).unwrap();
    }
    fs::write(&path, format!("{cookie}\n")).unwrap();
    let user = User::from_name(USER).unwrap().unwrap();
    chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A front that knows one peer, and the cookie in this file.
fn knowing(cookie: &Path) -> String {
    ignorant().replace("[dist]\n", &format!("[dist]\ncookie_file = {cookie:?}\n"))
}

fn ignorant() -> String {
    format!("{}[[peer]]\nname = \"{MARK}\"\naddresses = [\"192.0.2.2\", \"2001:db8::2\"]\n", front(&[]))
}

fn node(of: &Guarded) -> Node {
    of.start(Node::named("a", &of.host).cookie(COOKIE).port(9100))
}

fn shake(from: &Host, to: &Guarded, cookie: &str) -> Shaken {
    let stream = from.connect(SocketAddr::new(to.host.v4().into(), 9100)).unwrap();
    Initiator::named("x@h2.test").cookie(cookie).shake(&stream)
}

/// What the kernel is told of the guard's core dumps: their size, and the memory in them.
fn core_dumps(of: &Guard) -> (String, String) {
    let of_it = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", of.daemon().pid())).unwrap();
    let limits = of_it("limits");
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    (limit.split_whitespace().collect::<Vec<_>>().join(" "), of_it("coredump_filter").trim().to_owned())
}

/// Ends the guard as a fault would, and the dump that this made, if the machine makes files of them.
fn dump(of: &Guard) -> Option<Vec<u8>> {
    let cwd = fs::read_link(format!("/proc/{}/cwd", of.daemon().pid())).unwrap();
    of.daemon().signal(Signal::ABORT);
    of.daemon().wait_exit(SOON);
    let files = fs::read_dir(cwd).unwrap().map(|entry| entry.unwrap().path());
    let core =
        files.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("core"))?;
    let bytes = fs::read(&core).unwrap();
    fs::remove_file(core).unwrap();
    Some(bytes)
}

/// Lets the guard make dumps again, as far as root may here: a container's root may not. The filter holds then.
fn lift_limit(of: &Guard) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--core=unlimited:unlimited", "--pid", &of.daemon().pid().to_string()]);
    drop(prlimit.output().unwrap());
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_cookie_leaves_the_guard_neither_by_its_log_nor_its_answers_nor_a_core_dump() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let path = write(&lab, COOKIE, 0o400);
    let h1 = Guarded::with(&lab, "h1", &knowing(&path).replace("\"debug\"", "\"trace\""));
    assert_eq!(core_dumps(&h1.guard), ("0 0 bytes".to_owned(), "00000000".to_owned()));
    let _node = node(&h1);
    let peer = lab.host("h2");
    assert_eq!(shake(&peer, &h1, COOKIE), Shaken::Up);
    assert_eq!(shake(&peer, &h1, "guess"), Shaken::Ended(Waited::Ack));
    let closed = h1.guard.wait_event("closed", &[("reason", "wrong_cookie")]);
    assert_eq!(field(&closed, "bytes_up"), "26", "the node has heard the name, and never the proof");
    let mut said = h1.guard.daemon().lines().join("\n");
    for path in ["/status", "/links", "/metrics", "/readyz", "/explain?from=192.0.2.2&to=9100"] {
        said.push_str(&admin_get(&lab, &h1.host, path));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    said.push_str(&ask_admin(&admin_socket(&lab, &h1.host), "POST", "/reload").1);
    assert!(said.contains("cookie_file") && !said.contains(COOKIE), "{said}");
    lift_limit(&h1.guard);
    if let Some(core) = dump(&h1.guard) {
        assert!(!has(&core, COOKIE) && !has(&core, MARK), "a core dump of {} bytes has it", core.len());
    }
}

#[test]
fn a_guard_without_a_cookie_makes_core_dumps_as_it_is_told_to() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let mut command = host.command_as(USER, "prlimit");
    command.arg("--core=unlimited").arg(program(&lab)).arg("run").arg("--config");
    command.arg(configure(&lab, &host, &ignorant()));
    let guard = Guard::adopt(&host, command);
    guard.wait_open(4369);
    let own = fs::read_to_string("/proc/self/coredump_filter").unwrap();
    assert_eq!(core_dumps(&guard), ("unlimited unlimited bytes".to_owned(), own.trim().to_owned()));
    // So the other test would find what is there.
    if let Some(core) = dump(&guard) {
        assert!(has(&core, MARK), "a core dump of {} bytes does not have it", core.len());
    }
}

#[test]
fn a_reload_reads_the_cookie_again_and_a_file_that_others_can_read_refuses_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::with(&lab, "h1", &ignorant());
    let _node = node(&h1);
    let peer = lab.host("h2");
    let path = write(&lab, "another", 0o400);
    let reload = || told(&lab, &h1.host, &["reload"]);
    drop(configure(&lab, &h1.host, &knowing(&path)));
    let first = reload();
    assert!(first.code == 0 && first.out.contains("[dist] cookie_file: none → "), "{first:?}");
    assert_eq!(core_dumps(&h1.guard), ("0 0 bytes".to_owned(), "00000000".to_owned()));
    assert_eq!(shake(&peer, &h1, COOKIE), Shaken::Ended(Waited::Ack));
    h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("bytes_up", "26")]);

    write(&lab, COOKIE, 0o644);
    let open = reload();
    let said = format!("{}{}", open.out, open.err);
    assert!(open.code == 1 && said.contains("has the mode 0644") && said.contains("chmod 0400"), "{said}");
    h1.guard.wait_event("reload_refused", &[]);
    write(&lab, COOKIE, 0o400);
    let second = reload();
    assert!(
        second.code == 0 && second.out.contains("[dist] cookie_file: the cookie has changed"),
        "{second:?}"
    );
    eventually("the right cookie links", SOON, || shake(&peer, &h1, COOKIE) == Shaken::Up);
}
