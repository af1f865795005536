//! What a machine needs to be a lab.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::lab;

/// A program and the Debian package that has it.
const PROGRAMS: [(&str, &str); 13] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("setpriv", "util-linux"),
    ("erl", "erlang-base"),
    ("epmd", "erlang-base"),
    ("ejabberdctl", "ejabberd"),
    ("socat", "socat"),
    ("curl", "curl"),
    ("tcpdump", "tcpdump"),
    ("dnsmasq", "dnsmasq-base"),
    ("sysctl", "procps"),
    ("systemd-socket-activate", "systemd"),
    ("fail2ban-regex", "fail2ban"),
];

/// Whether tests on real hosts can run here.
///
/// Where something lacks, a run in CI (`CI` is set) panics, because a green run that tested nothing is a lie;
/// a developer's run says `SKIPPED` and the test returns. The machine is looked at once per process.
///
/// # Panics
///
/// When something lacks and `CI` is set.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "CI is in the environment")]
pub fn require() -> bool {
    static MISSING: OnceLock<Result<(), String>> = OnceLock::new();
    let Err(why) = MISSING.get_or_init(look) else { return true };
    assert!(std::env::var_os("CI").is_none(), "tests on real hosts cannot run: {why}");
    // Straight to the descriptor: the test harness swallows `eprintln!` of a test that passes.
    drop(writeln!(std::io::stderr(), "SKIPPED: {why}"));
    false
}

fn look() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root (run: sudo -E cargo test)".to_owned());
    }
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|(program, _)| !is_installed(program)).collect();
    if !missing.is_empty() {
        let (programs, mut packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        packages.dedup();
        return Err(format!(
            "no {} here (run: apt-get install --no-install-recommends {})",
            programs.join(", "),
            packages.join(" ")
        ));
    }
    // Root in a container may lack CAP_SYS_ADMIN: only making one tells.
    lab::can_make_namespace().map_err(|error| {
        format!(
            "network namespaces cannot be made here, though this is root (run with CAP_SYS_ADMIN): {error}"
        )
    })
}

fn is_installed(program: &str) -> bool {
    // ejabberdctl is in /usr/sbin, which the PATH of a plain shell may lack.
    let elsewhere = ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
    elsewhere
        || Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
