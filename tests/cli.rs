//! The program as an operator calls it: what it prints and how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failed test panics"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

fn guard(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epmd-guard")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const BAD: &str =
    "[cluster]\nallow = [\"192.0.2.7/24\", \"h2\"]\nalow = []\n[dist]\nports = [\"9105-9100\"]\n";

fn with_config(content: &str, check: impl FnOnce(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.toml");
    fs::write(&path, content).unwrap();
    check(path.to_str().unwrap());
}

#[test]
fn a_bad_configuration_shows_every_problem_and_ends_with_78_and_nothing_is_started() {
    with_config(BAD, |path| {
        for command in ["check", "run"] {
            let output = guard(&[command, "--config", path]);
            assert_eq!(output.status.code(), Some(78), "{command}");
            let shown = text(&output.stderr);
            for (place, what) in
                [(":2:10", "has bits set behind its prefix"), (":3:1", "alow"), (":5:10", "runs backwards")]
            {
                assert!(
                    shown.contains(&format!("{path}{place}")) && shown.contains(what),
                    "{command}: {shown}"
                );
            }
            assert!(shown.contains("^^^^"), "{shown}");
            assert!(!shown.contains("started"), "{shown}");
            assert_eq!(text(&output.stdout), "");
        }
    });
}

/// A guard that is killed with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn credentials_that_cannot_be_used_end_run_with_78_and_those_that_others_would_refuse_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs").display().to_string();
    let certs = |order: &[&str]| {
        let made = guard(&[&["certs"], order, &["--dir", &dir]].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
    };
    certs(&["init"]);
    certs(&["issue", "h1.test", "h2.test"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |key: &str| {
        let content = format!(
            "[epmd]\nlisten = []\n[dist]\nports = {free}\n[admin]\nsocket = \"\"\n[log]\nformat = \"json\"\n\
             [tls]\ncert = \"{dir}/h1.test.crt\"\nkey = \"{dir}/{key}.key\"\nca = \"{dir}/ca.crt\"\n\
             crl = \"{dir}/crl.pem\"\nlook_every = \"1s\"\n"
        );
        let path = folder.path().join(format!("{key}.toml")).display().to_string();
        fs::write(&path, content).unwrap();
        path
    };
    let (good, bad) = (file("h1.test"), file("h2.test"));
    let checked = guard(&["check", "--config", &good]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(!text(&checked.stderr).contains("[tls]"), "{}", text(&checked.stderr));
    let own = fs::read_to_string(&good).unwrap();
    let mixed_up = folder.path().join("mixed_up.toml").display().to_string();
    fs::write(&mixed_up, own + "[[peer]]\nname = \"h1.test\"\naddresses = [\"192.0.2.1\"]\n").unwrap();
    let checked = guard(&["check", "--config", &mixed_up]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let shown = text(&checked.stderr);
    assert!(shown.contains("by which the [[peer]] h1.test is known") && shown.contains("help: "), "{shown}");
    let refused = |commands: &[&str], path: &str, what: &str| {
        for command in commands {
            let output = guard(&[command, "--config", path]);
            let shown = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{command}: {shown}");
            assert!(shown.contains(what) && shown.contains("help: "), "{command}: {shown}");
            assert!(shown.contains(&format!(" --> {path}:")) && !shown.contains("started"), "{shown}");
            assert_eq!(text(&output.stdout), "");
        }
    };
    refused(&["check", "run"], &bad, "is not the key of the certificate");
    certs(&["revoke", "h1.test"]);
    refused(&["check"], &good, "other guards would refuse it: ");

    // The host does not do without its guard for that.
    let mut command = Command::new(env!("CARGO_BIN_EXE_epmd-guard"));
    let mut run = Running(command.args(["run", "--config", &good]).stderr(Stdio::piped()).spawn().unwrap());
    let (sender, lines) = mpsc::channel();
    let stderr = BufReader::new(run.0.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
    let wait_for = |event: &str| {
        let is_it = |line: &String| line.contains(&format!("\"{event}\""));
        let mut rest = std::iter::from_fn(|| lines.recv_timeout(Duration::from_secs(30)).ok());
        rest.find(is_it).unwrap_or_else(|| panic!("no {event}"))
    };
    let told = wait_for("credentials_unfit");
    assert!(told.contains("is revoked") && told.contains("ERROR"), "{told}");
    wait_for("started");
    certs(&["issue", "h1.test", "--force"]);
    wait_for("credentials_changed");
}

#[test]
fn a_good_configuration_is_said_to_be_valid() {
    with_config("[cluster]\nallow = [\"192.0.2.0/24\"]\n[dist]\nports = 9100\n", |path| {
        let output = guard(&["check", "--config", path]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), format!("{path} is valid\n"));
        assert_eq!(text(&output.stderr), "");
    });
}

#[test]
fn a_configuration_that_cannot_be_read_ends_with_78_and_says_what_to_do() {
    let output = guard(&["run", "--config", "/nonexistent/guard.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("/nonexistent/guard.toml"), "{}", text(&output.stderr));
}

#[test]
fn the_version_is_the_packages() {
    let output = guard(&["--version"]);
    assert_eq!(text(&output.stdout), format!("epmd-guard {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_mistyped_command_line_ends_with_2() {
    for arguments in [&["--nonsense"][..], &["run", "--allow", "192.0.2.1/24"], &[]] {
        assert_eq!(guard(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn names_of_an_epmd_that_is_not_there_ends_with_1_and_names_the_address() {
    // A port that was free a moment ago.
    let addr: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = guard(&["names", &addr.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&addr.to_string()), "{}", text(&output.stderr));
}
