//! What the shipped units promise, and what systemd makes of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test panics")]
#![allow(clippy::disallowed_methods, reason = "CI is in the environment")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SERVICE: &str = "epmd-guard.service";
const SOCKETS: [&str; 2] = ["epmd-guard.socket", "epmd-guard-dist.socket"];
/// In the place of Debian's unit of this name.
const STAND_IN: &str = "epmd.service";
/// In tenths, of 100.
const MOST_EXPOSED: u32 = 15;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The values that a unit gives to a key, in their order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).collect()
}

#[track_caller]
fn value(unit: &str, key: &str) -> String {
    let found = values(unit, key);
    let [value] = found.as_slice() else { panic!("{key}= is there {} times: {found:?}", found.len()) };
    value.clone()
}

/// Whether systemd's own tool is here. As with the tests on real hosts, a run in CI fails without it.
fn can_analyze() -> bool {
    let is_here = Command::new("systemd-analyze").arg("--version").output().is_ok();
    assert!(is_here || std::env::var_os("CI").is_none(), "systemd-analyze is missing (Debian: systemd)");
    if !is_here {
        // Straight to the descriptor: the test harness swallows `eprintln!` of a test that passes.
        drop(writeln!(std::io::stderr(), "SKIPPED: systemd-analyze is missing (Debian: systemd)"));
    }
    is_here
}

#[test]
fn systemd_rates_the_service_as_hardly_exposed() {
    if !can_analyze() {
        return;
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--no-pager", "--offline=true", &format!("--threshold={MOST_EXPOSED}")]);
    let output = command.arg(folder().join(SERVICE)).output().unwrap();
    let shown =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("Overall exposure level for epmd-guard.service"), "{shown}");
}

#[test]
fn systemd_understands_each_line_of_the_units() {
    if !can_analyze() {
        return;
    }
    // A program that is on every machine stands for the guard, which need not be installed.
    let copies = tempfile::tempdir().unwrap();
    let units = [SERVICE, SOCKETS[0], SOCKETS[1], STAND_IN];
    for name in units {
        fs::write(copies.path().join(name), read(name).replace("/usr/bin/epmd-guard", "/bin/true")).unwrap();
    }
    for name in units {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).arg(copies.path().join(name)).output().unwrap();
        // It may complain about other units of the machine.
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_ours: Vec<_> = complaints.lines().filter(|line| line.contains("epmd")).collect();
        assert!(about_ours.is_empty(), "{name}: {about_ours:#?}");
    }
}

#[test]
fn the_service_tells_systemd_how_it_is_and_can_be_reloaded() {
    let unit = read(SERVICE);
    assert_eq!(value(&unit, "Type"), "notify");
    assert_eq!(value(&unit, "NotifyAccess"), "main");
    assert_eq!(
        value(&unit, "ExecStart"),
        format!("/usr/bin/epmd-guard run --config {}", epmd_guard::config::DEFAULT_PATH)
    );
    // Of the same file, which may name another socket than the default one.
    assert_eq!(
        value(&unit, "ExecReload"),
        value(&unit, "ExecStart").replace("epmd-guard run ", "epmd-guard reload ")
    );
    let seconds = value(&unit, "WatchdogSec").strip_suffix('s').and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 30), "a host that is slow is no guard that hangs");
    assert_eq!(value(&unit, "KillMode"), "mixed");
}

#[test]
fn the_service_is_always_restarted_but_not_with_a_wrong_configuration_nor_beside_another_guard() {
    let unit = read(SERVICE);
    assert_eq!(value(&unit, "Restart"), "always");
    assert_eq!(value(&unit, "RestartPreventExitStatus"), "75 78");
    assert_eq!(value(&unit, "StartLimitIntervalSec"), "0");
    assert!(value(&unit, "RestartSec").ends_with("ms"), "any `erl` takes port 4369 meanwhile");
}

#[test]
fn the_service_has_descriptors_and_is_spared_when_memory_is_short() {
    let unit = read(SERVICE);
    // A connection takes two, and 100,000 are carried unless the configuration says otherwise.
    assert!(value(&unit, "LimitNOFILE").parse::<u32>().unwrap() > 200_000);
    assert!(value(&unit, "OOMScoreAdjust").parse::<i32>().unwrap() < 0);
    assert_eq!(value(&unit, "LimitCORE"), "0");
}

#[test]
fn the_service_has_a_user_of_its_own_and_no_capability() {
    let unit = read(SERVICE);
    let user = value(&unit, "User");
    assert_eq!((user.as_str(), value(&unit, "Group")), ("epmd-guard", user.clone()));
    assert!(read("epmd-guard.sysusers").contains(&format!("\nu {user} ")), "nobody makes the user");
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(value(&unit, key), "", "{key}");
    }
    assert_eq!(value(&unit, "NoNewPrivileges"), "yes");
}

#[test]
fn what_the_guard_needs_is_not_taken_from_it() {
    let unit = read(SERVICE);
    assert_eq!(value(&unit, "RestrictAddressFamilies"), "AF_INET AF_INET6 AF_UNIX AF_NETLINK");
    assert_eq!(value(&unit, "RuntimeDirectory"), "epmd-guard");
    // The mode of the socket is the permission: [admin] group need not be the guard's own.
    assert_eq!(value(&unit, "RuntimeDirectoryMode"), "0755");
    // A second start that fails must not take the socket of the guard that runs along.
    assert_eq!(value(&unit, "RuntimeDirectoryPreserve"), "yes");
    for key in ["PrivateNetwork", "IPAddressDeny", "PrivateUsers", "ProtectHostname", "ProcSubset"] {
        assert!(values(&unit, key).is_empty(), "{key}");
    }
}

#[test]
fn the_service_has_a_folder_of_its_own_for_what_outlives_it() {
    let unit = read(SERVICE);
    assert_eq!(
        (value(&unit, "StateDirectory").as_str(), value(&unit, "StateDirectoryMode").as_str()),
        ("epmd-guard", "0700")
    );
    let config = epmd_guard::config::defaults(&epmd_guard::config::Overrides::default()).config;
    assert!(config.ban.file.unwrap().starts_with("/var/lib/epmd-guard"));
    // Where the unit shows how a cookie is handed over, the configuration names the place in the same words.
    let line = unit.lines().find_map(|line| line.strip_prefix("#LoadCredential="));
    let (name, _) = line.and_then(|line| line.split_once(':')).unwrap();
    assert!(read("../../config/epmd-guard.toml").contains(&format!("/run/credentials/{SERVICE}/{name}\"")));
}

#[test]
fn what_requires_epmds_unit_gets_the_guard_and_is_not_restarted_with_it() {
    let unit = read(STAND_IN);
    assert_eq!(value(&unit, "Wants"), SERVICE);
    assert_eq!(value(&unit, "After"), SERVICE);
    for key in ["Requires", "BindsTo", "PartOf", "Sockets"] {
        assert!(values(&unit, key).is_empty(), "{key}");
    }
    // It runs no epmd, and is up all the same.
    assert_eq!((value(&unit, "Type").as_str(), value(&unit, "RemainAfterExit").as_str()), ("oneshot", "yes"));
    assert_eq!(value(&unit, "ExecStart"), "/bin/true");
}

#[test]
fn the_socket_of_epmd_is_held_where_nodes_register_too() {
    let listen = values(&read(SOCKETS[0]), "ListenStream");
    for addr in ["127.0.0.1:4369", "[::1]:4369"] {
        assert!(listen.iter().any(|line| line == addr), "{addr} is not in {listen:?}");
    }
}

#[test]
fn the_socket_units_have_names_and_no_wildcard() {
    for (file, name) in SOCKETS.into_iter().zip(["epmd", "dist"]) {
        let unit = read(file);
        assert_eq!(value(&unit, "FileDescriptorName"), name);
        assert_eq!(value(&unit, "Accept"), "no");
        let listen = values(&unit, "ListenStream");
        assert!(!listen.is_empty());
        for addr in listen {
            let addr: std::net::SocketAddr = addr.parse().unwrap_or_else(|error| panic!("{addr}: {error}"));
            assert!(!addr.ip().is_unspecified(), "{addr}");
        }
    }
    // The other one has the service's own name.
    assert_eq!(value(&read(SOCKETS[1]), "Service"), SERVICE);
}
