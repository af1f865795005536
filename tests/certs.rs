//! The CA as an operator uses it, and what OpenSSL thinks of what it makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed test panics"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A CA in a folder that is removed with this.
struct Certs {
    _folder: TempDir,
    path: PathBuf,
}

impl Certs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certs");
        Self { _folder: folder, path }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epmd-guard"));
        command.arg("certs").args(arguments).arg("--dir").arg(&self.path).output().unwrap()
    }

    /// What it prints when it succeeds.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        text(&output.stdout)
    }

    /// What it complains of when it fails, with exit code 1.
    #[track_caller]
    fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        text(&output.stderr)
    }

    /// What OpenSSL says in the directory, and whether it is content.
    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.path).output().unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path.join(name)).unwrap().mode() & 0o7777
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Whether the judge is here. As with the tests on real hosts, a run in CI fails without it.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "openssl is not here");
    if !found {
        drop(writeln!(std::io::stderr(), "SKIPPED: no openssl here"));
    }
    found
}

#[test]
fn openssl_verifies_what_the_ca_issues_and_no_more_what_it_revokes() {
    if !has_openssl() {
        return;
    }
    let certs = Certs::new();
    certs.says(&["init", "--name", "prod"]);
    let uri = "spiffe://example.org/h3";
    certs.says(&["issue", "h1.example.net", "192.0.2.2", "2001:db8::2", uri]);
    certs.says(&["issue", "h4", "--dns", "h4.example.net", "--ip", "192.0.2.4", "--uri", "urn:node:h4"]);
    let all = ["h1.example.net", "192.0.2.2", "2001-db8-2", "spiffe-example.org-h3", "h4"];
    let verified = |stem: &str, purpose: &str| {
        let file = format!("{stem}.crt");
        let strict = ["verify", "-x509_strict", "-crl_check_all", "-CAfile", "ca.crt", "-CRLfile", "crl.pem"];
        certs.openssl(&[&strict[..], &["-purpose", purpose, &file]].concat())
    };
    for stem in all {
        for purpose in ["sslclient", "sslserver"] {
            let (good, said) = verified(stem, purpose);
            assert!(good, "{stem} as {purpose}: {said}");
        }
        assert!(!verified(stem, "crlsign").0, "{stem}");
        assert_eq!(certs.mode(&format!("{stem}.key")), 0o600);
        // The key is that of the certificate.
        let (_, of_key) = certs.openssl(&["pkey", "-in", &format!("{stem}.key"), "-pubout"]);
        let (_, of_certificate) =
            certs.openssl(&["x509", "-in", &format!("{stem}.crt"), "-noout", "-pubkey"]);
        assert_eq!(of_key, of_certificate);
    }
    let (_, said) = certs.openssl(&["x509", "-in", "h4.crt", "-noout", "-text"]);
    for part in [
        "DNS:h4, DNS:h4.example.net, IP Address:192.0.2.4, URI:urn:node:h4",
        "CA:FALSE",
        "NIST CURVE: P-256",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, said) = certs.openssl(&["x509", "-in", "ca.crt", "-noout", "-text"]);
    assert!(said.contains("CA:TRUE, pathlen:0") && said.contains("Certificate Sign, CRL Sign"), "{said}");

    certs.says(&["renew", "h1.example.net"]);
    certs.says(&["revoke", "h1.example.net", uri]);
    for stem in all {
        let (good, said) = verified(stem, "sslserver");
        let revoked = ["h1.example.net", "spiffe-example.org-h3"].contains(&stem);
        assert_eq!(good, !revoked, "{stem}: {said}");
        assert_eq!(said.contains("certificate revoked"), revoked, "{stem}: {said}");
    }
    let (good, said) = certs.openssl(&["crl", "-in", "crl.pem", "-CAfile", "ca.crt", "-noout", "-text"]);
    assert!(good && said.contains("verify OK"), "{said}");
    // Both certificates of h1 and that of h3.
    assert_eq!(said.matches("Serial Number:").count(), 3, "{said}");
}

#[test]
fn openssl_talks_tls_with_what_the_ca_issues() {
    if !has_openssl() {
        return;
    }
    let certs = Certs::new();
    certs.says(&["init"]);
    certs.says(&["issue", "h1", "h2"]);
    let at = certs.path.join("socket");
    let files = |name: &str| [format!("{name}.crt"), format!("{name}.key")];
    let ([server, server_key], [client, client_key]) = (files("h1"), files("h2"));
    let listening = Command::new("openssl")
        .args([
            "s_server",
            "-tls1_3",
            "-Verify",
            "1",
            "-verify_return_error",
            "-CAfile",
            "ca.crt",
            "-naccept",
            "1",
        ])
        .args(["-cert", &server, "-key", &server_key, "-quiet", "-unix"])
        .arg(&at)
        .current_dir(&certs.path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !at.exists() {
        assert!(std::time::Instant::now() < deadline, "s_server does not listen");
        std::thread::yield_now();
    }
    let mut dialling = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-verify_return_error", "-CAfile", "ca.crt", "-quiet", "-no_ign_eof"])
        .args(["-cert", &client, "-key", &client_key, "-unix"])
        .arg(&at)
        .current_dir(&certs.path)
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    dialling.stdin.take().unwrap().write_all(b"said by h2\n").unwrap();
    let client = dialling.wait_with_output().unwrap();
    assert!(client.status.success(), "{}", text(&client.stderr));
    let server = listening.wait_with_output().unwrap();
    assert!(text(&server.stdout).contains("said by h2"), "{}", text(&server.stdout));
}

#[test]
fn every_refusal_says_what_is_wrong_where_and_what_to_do() {
    let certs = Certs::new();
    let directory = certs.path.display().to_string();
    let none = certs.refuses(&["issue", "h2"]);
    assert!(none.contains(&directory) && none.contains("epmd-guard certs init --dir"), "{none}");
    assert!(!certs.path.exists());
    certs.says(&["init"]);
    certs.says(&["issue", "h2"]);
    certs.says(&["issue", "h5", "--dns", "h6"]);
    let cases: &[(&[&str], &str, &str)] = &[
        (&["init"], "ca.crt is there already", "--dir"),
        (&["issue", "h2"], "h2.crt is there already", "--force"),
        (&["issue", "../h3"], "\"../h3\" is no name for a certificate", "h2.example.net"),
        (&["issue", "h3", "/tmp/h3"], "it would lead out of the directory", "h2.example.net"),
        (&["issue", "ca", "--force"], "the files of the CA have this name", "h2.example.net"),
        (&["issue", "h3", "h4", "--dns", "h5"], "several hosts with one name", "one by one"),
        (&["renew", "h3"], "no certificate for h3", "certs issue h3"),
        (&["revoke", "h2", "h3"], "no certificate for h3", "certs show"),
        (&["revoke", "h6"], "h5 has DNS h6, too (serial ", "certs revoke h5`"),
        (&["revoke", "\u{1b}[31m"], "\\u{1b}", "h2.example.net"),
        (&["show", "h3"], "no certificate for h3", "certs show"),
        (&["show", "/nonexistent/h3.crt"], "/nonexistent/h3.crt cannot be read", "path is right"),
    ];
    for (arguments, what, help) in cases {
        let said = certs.refuses(arguments);
        assert!(
            said.contains(what) && said.contains("help: ") && said.contains(help),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains('\u{1b}'));
    }
    assert_eq!(fs::read_dir(&certs.path).unwrap().count(), 8);
    for wrong in [
        &["init", "--days", "0"][..],
        &["issue"],
        &["issue", "h3", "--ip", "x"],
        &["renew"],
        &["renew", "h2", "--all"],
        &["revoke", "--only"],
    ] {
        assert_eq!(certs.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_is_there_is_shown_to_people_and_to_programs() {
    let certs = Certs::new();
    certs.says(&["init", "--name", "prod", "--days", "100"]);
    certs.says(&["issue", "h2", "--ip", "192.0.2.2", "--days", "12"]);
    certs.says(&["issue", "h3"]);
    certs.says(&["revoke", "h3"]);
    let said = certs.says(&["show", "h2"]);
    // Where all of it was done within one second nothing of the time is over.
    assert!(["expires in 11d 23h\n", "expires in 12d\n"].iter().any(|left| said.contains(left)), "{said}");
    for part in [
        "subject  CN=h2\n",
        "names    DNS h2, IP 192.0.2.2\n",
        "issuer   CN=prod CA ",
        "digitalSignature; clientAuth, serverAuth\n",
        "ECDSA P-256; h2.key belongs to it\n",
        "revoked  no\n",
        "ca.crt takes it",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = certs.says(&["show", "crl.pem", "h3"]);
    assert!(said.contains("1 certificate\n") && said.contains("REFUSES it: it is revoked"), "{said}");
    let all = certs.says(&["show"]);
    assert_eq!(all.matches("certificate of a CA\n").count(), 1, "{all}");
    let json: serde_json::Value = serde_json::from_str(&certs.says(&["show", "--json"])).unwrap();
    let kinds: Vec<_> = json.as_array().unwrap().iter().map(|document| document["kind"].clone()).collect();
    assert_eq!(kinds, ["certificate", "crl", "certificate", "certificate"]);
    assert_eq!((&json[1]["number"], &json[1]["revoked"][0]["name"]), (&4.into(), &"h3".into()));
    assert_eq!((&json[2]["key"]["state"], &json[3]["revocation"]), (&"matches".into(), &"revoked".into()));
    // What can be shown is shown, and what cannot is told.
    let mixed = certs.run(&["show", "h2", "h9"]);
    assert_eq!(mixed.status.code(), Some(1));
    assert!(text(&mixed.stdout).contains("CN=h2") && text(&mixed.stderr).contains("h9"));
    let listed = certs.says(&["revoke"]);
    assert!(listed.starts_with(&certs.path.join("crl.pem").display().to_string()), "{listed}");
    assert!(listed.contains("number 5, current until "), "{listed}");
    let renewed = certs.says(&["renew", "--all", "--keep-key"]);
    assert!(renewed.contains("h2.crt: DNS h2, IP 192.0.2.2") && !renewed.contains("h3"), "{renewed}");
    assert!(renewed.contains("(12d)") && !renewed.contains("h2.key"), "{renewed}");
}

#[test]
fn certificates_that_openssl_made_are_shown() {
    if !has_openssl() {
        return;
    }
    let certs = Certs::new();
    fs::create_dir(&certs.path).unwrap();
    let made = certs.openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "tls.key",
        "-out",
        "tls.crt",
        "-days",
        "30",
        "-subj",
        "/O=Other \u{1}CA/CN=h2",
        "-addext",
        "subjectAltName=DNS:h2,email:a@b.c,IP:2001:db8::2",
    ]);
    assert!(made.0, "{}", made.1);
    let said = certs.says(&["show", certs.path.join("tls.crt").to_str().unwrap()]);
    for part in [
        "names    DNS h2, email a@b.c, IP 2001:db8::2\n",
        "RSA 2048; tls.key belongs to it",
        "the certificate of a CA",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains('\u{1}'), "{said}");
}

#[test]
fn a_throw_away_set_is_made_in_one_go() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/throwaway.sh");
    let run = || {
        let mut command = Command::new(&script);
        command
            .arg(&set)
            .args(["h1", "h2"])
            .env("EPMD_GUARD", env!("CARGO_BIN_EXE_epmd-guard"))
            .output()
            .unwrap()
    };
    let output = run();
    assert!(output.status.success(), "{}", text(&output.stderr));
    for host in ["h1", "h2"] {
        let mut names: Vec<_> =
            fs::read_dir(set.join(host)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ca.crt", "crl.pem", "host.crt", "host.key"]);
        assert_eq!(fs::metadata(set.join(host).join("host.key")).unwrap().mode() & 0o7777, 0o600);
        let mut show = Command::new(env!("CARGO_BIN_EXE_epmd-guard"));
        let output = show.args(["certs", "show"]).arg(set.join(host).join("host.crt")).output().unwrap();
        let said = text(&output.stdout);
        assert!(said.contains(&format!("names    DNS {host}\n")) && said.contains("takes it"), "{said}");
    }
    // A second time it makes nothing, and harms nothing.
    let before = fs::read(set.join("h1/host.key")).unwrap();
    assert!(!run().status.success());
    assert_eq!(fs::read(set.join("h1/host.key")).unwrap(), before);
}

#[test]
fn no_private_key_is_committed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |arguments: &[&str]| Command::new("git").args(arguments).current_dir(root).output();
    let Ok(listed) = git(&["ls-files", "-z"]) else { return };
    // A copy without its history.
    if !listed.status.success() {
        return;
    }
    let mut count = 0;
    for name in text(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let Ok(content) = fs::read(root.join(name)) else { continue };
        let is_key = |line: &str| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY-----");
        assert!(!String::from_utf8_lossy(&content).lines().any(is_key), "{name}");
        count += 1;
    }
    assert!(count > 100, "{count} files");
    // Nor can one be by accident, where people try this.
    for name in
        ["certs/set/h1/host.key", "certs/ca.key", "certs/set/ca/issued.jsonl", "certs/crl.pem", "certs/x"]
    {
        let ignored = git(&["check-ignore", "--quiet", name]).unwrap();
        assert!(ignored.status.success(), "{name}");
    }
}
