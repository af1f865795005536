//! What testssl.sh says of the tunnel's port: run on demand by `make judge`, not by `cargo test`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a failed test panics")]

#[path = "support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the other tests")]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use support::guard::field;
use support::prerequisites;
use support::said::Said;
use support::tunnel::{Scene, read};

/// What testssl.sh holds against every certificate of a private CA: that it names no place with a list of what is revoked,
/// which each guard has as a file. And what it holds against the machine's own openssl.
const NOT_OF_THE_PORT: [&str; 2] = ["cert_revocation", "engine_problem"];

/// An `openssl` that shows the certificate of h2: testssl.sh has `--mtls` only since 3.2, and Debian 12 has 3.0.
fn openssl(scene: &Scene) -> PathBuf {
    let (program, ca) = (scene.lab.dir().join("openssl"), scene.ca().display().to_string());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = s_client ] || exec openssl \"$@\"\nshift\n\
         exec openssl s_client -cert {ca}/h2.test.crt -key {ca}/h2.test.key -alpn epmd-guard/1 \"$@\"\n"
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// What is said of the guard of the first host to who comes from the second one.
#[track_caller]
fn findings(scene: &Scene) -> Vec<Value> {
    let [h1, h2] = scene.hosts.as_slice() else { panic!("two hosts") };
    let report = scene.lab.dir().join("testssl.json");
    // Of the run before.
    std::fs::remove_file(&report).unwrap_or_default();
    let mut testssl = h2.host.command("testssl");
    testssl.args(["--quiet", "--warnings", "batch", "--color", "0", "--nodns", "none"]);
    testssl.arg("--openssl").arg(openssl(scene)).arg("--add-ca").arg(scene.ca().join("ca.crt"));
    testssl.arg("--jsonfile").arg(&report).args(["--ip", &h1.host.v4().to_string()]);
    testssl.arg(format!("{}:4371", h1.host.name()));
    let said = Said::by(testssl);
    println!("{}{}", said.out, said.err);
    serde_json::from_str(&read(&report)).unwrap()
}

#[test]
fn testssl_finds_tls_1_3_alone_and_nothing_that_is_not_of_a_private_ca() {
    assert!(prerequisites::require(), "the judge needs his hosts");
    let scene = Scene::of(&["h1", "h2"]).start();
    // Its openssl closes as soon as it is done, and may find the connection reset then: that is told as a check that could
    // not be made, and says nothing of the port.
    let is_whole =
        |found: &Vec<Value>| found.iter().all(|one| !field(one, "finding").contains("connect problem"));
    let findings = std::iter::repeat_with(|| findings(&scene)).take(3).find(is_whole);
    let findings = findings.expect("a run in which each check could be made");
    let found = |id: &str| {
        let of = |finding: &&Value| field(finding, "id") == id;
        findings.iter().find(of).map(|finding| field(finding, "finding")).unwrap_or_default()
    };
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"] {
        assert!(found(old).starts_with("not offered"), "{old}: {}", found(old));
    }
    assert!(found("TLS1_3").starts_with("offered"), "{}", found("TLS1_3"));
    // It came to the end of what it does.
    assert_ne!(found("RC4"), "");
    let harmless = |finding: &&Value| {
        let [id, severity] = ["id", "severity"].map(|name| field(finding, name));
        ["OK", "INFO", "DEBUG"].contains(&severity.as_str()) || NOT_OF_THE_PORT.contains(&id.as_str())
    };
    let worse: Vec<_> = findings.iter().filter(|finding| !harmless(finding)).collect();
    assert!(worse.is_empty(), "{worse:#?}");
}
