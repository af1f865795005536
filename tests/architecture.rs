//! Holds what `docs/architecture.md` says of `src/`: the ranks, and which modules are pure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module uses its own rank or a lower one.
const RANKS: &[(&str, u8)] = &[
    ("main", 8),
    ("cli", 8),
    ("app", 7),
    ("certs", 7),
    ("compat", 7),
    ("control", 6),
    ("session", 5),
    ("transport", 4),
    ("telemetry", 3),
    ("config", 2),
    ("policy", 1),
    ("registry", 1),
    ("proto", 0),
];

/// Modules without effects: they can be fuzzed and simulated, and time is an argument to them.
const PURE: &[&str] = &["proto", "policy", "registry"];

/// What a pure module must not mention.
const EFFECTS: &[&str] = &[
    "tokio",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "std::io",
    "rand::",
    "File",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "rustix",
    "nix::",
    "dns_lookup",
    "procfs",
    "socket2",
    "tracing",
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push((module, path, code(&text)));
            }
        }
    }
    found
}

/// The text without comments and without its unit tests, which may use what they like.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a text uses, also in grouped imports.
fn uses(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for prefix in ["crate::", "epmd_guard::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap().to_owned(),
                None => rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
            };
            used.extend(names.split(',').map(|name| name.trim().split("::").next().unwrap().to_owned()));
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

#[test]
fn a_module_uses_its_own_rank_or_a_lower_one() {
    let ranks: HashMap<_, _> = RANKS.iter().copied().collect();
    let mut seen = 0;
    for (module, path, text) in sources() {
        if module == "lib" {
            continue;
        }
        let rank = ranks.get(module.as_str()).unwrap_or_else(|| panic!("{} has no rank", path.display()));
        for used in uses(&text) {
            let other =
                ranks.get(used.as_str()).unwrap_or_else(|| panic!("{}: {used} has no rank", path.display()));
            assert!(other <= rank, "{} (rank {rank}) uses {used} (rank {other})", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "the imports were not found: {seen}");
}

#[test]
fn the_pure_modules_know_no_effects() {
    for (module, path, text) in sources() {
        if PURE.contains(&module.as_str()) {
            for effect in EFFECTS {
                assert!(!text.contains(effect), "{} is pure but mentions {effect}", path.display());
            }
        }
    }
}

#[test]
fn only_the_policy_makes_a_permit_and_only_the_dialer_connects() {
    for (module, path, text) in sources() {
        if module != "policy" {
            // A function may return one that it was given.
            let text = text.replace("-> Admission {", "");
            for made in ["Permit {", "Admission {", "Errand {"] {
                assert!(!text.contains(made), "{} makes its own {made}", path.display());
            }
        }
        let may_run_errands =
            ["cli/names.rs", "compat/interactive.rs", "control/converse.rs", "policy/decide.rs"];
        if !may_run_errands.iter().any(|file| path.ends_with(file)) {
            assert!(!text.contains("own_errand("), "{} runs an errand", path.display());
        }
        // sock_diag's "connect" only names the kernel as the other end, and syslog's the log of this host.
        let may_connect = ["transport/dialer.rs", "transport/sockets/diag.rs", "telemetry/syslog.rs"];
        if !may_connect.iter().any(|file| path.ends_with(file)) {
            assert!(!text.contains(".connect("), "{} connects", path.display());
        }
    }
}

#[test]
fn no_code_is_unsafe_and_no_check_hides_behind_a_feature() {
    for (_, path, text) in sources() {
        assert!(!text.contains("unsafe "), "{}", path.display());
        assert!(!text.contains("cfg(feature"), "{}", path.display());
    }
}
