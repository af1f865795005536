//! The program as an operator calls it: what it prints and how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failed test panics"
)]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

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
