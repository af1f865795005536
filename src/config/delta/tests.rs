//! Each key is compared, and told as it is written.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::config::schema::SECTIONS;
use crate::config::{Overrides, defaults, from_text};
use crate::policy::{NetworkRules, Rule, RuleBook};

fn config(text: &str) -> Config {
    from_text("test", text, &Overrides::default()).unwrap().config
}

/// Each change as `key: what`, with a mark where it waits for a restart.
fn told(old: &str, new: &str) -> Vec<String> {
    let delta = Delta::between(&config(old), &config(new));
    let mark = |applies| if applies == Applies::AfterRestart { " (restart)" } else { "" };
    let shown = |change: &Change| format!("{}: {}{}", change.key, change.what, mark(change.applies));
    delta.changes.iter().map(shown).collect()
}

const H2: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\n";

/// The same peer, which may not reach every name.
const BOUND: &str =
    "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\nmay_reach = [\"web-*\", \"!web-9\"]\n";

const SPEAKS: &str =
    "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\nnodes = [\"*@h2\", \"!a@h2\"]";
const SPEAKS_LESS: &str =
    "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\nnodes = [\"b@h2\", \"!a@h2\"]";
const GUEST: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"b@h2\"]\nhidden_nodes = \"deny\"\n\
     dynamic_nodes = \"allow\"";
const HIDES: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\nhidden_nodes = \"allow\"";
const ASKS: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\ndynamic_nodes = \"allow\"";

/// `[tls]` with a certificate and a key more.
macro_rules! with_files {
    ($key:literal) => {
        concat!("[tls]\ncert = \"/h1.crt\"\nkey = \"/h1.key\"\nca = \"/ca.crt\"\n", $key)
    };
}

/// A peer with these keys, to which there is a way.
macro_rules! peer_with {
    ($keys:literal) => {
        concat!(
            "tls = { cert = \"/a\", key = \"/b\", ca = \"/c\" }\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\n",
            $keys
        )
    };
}

const TLS: &str = "[[forward]]\nkind = \"dist-tls\"\nports = 9200\n";

const NO_PEER: &str = "tls = { cert = \"/a\", key = \"/b\", ca = \"/c\" }\n";
const TUNNELLED: &str = peer_with!(
    "connect = [\"h2\", \"[2001:db8::2]:443\"]\nhosts = \"h2.test\"\nalias = \"127.0.0.12\"\ntls = \"optional\"\n"
);
const FILES: &str = with_files!("");
const FILES_ELSE: &str = "[tls]\ncert = \"/h2.crt\"\nkey = \"/h1.key\"\nca = \"/ca.crt\"\n";
const KEY: &str = "[tls]\ncert = \"/h1.crt\"\nkey = \"/h2.key\"\nca = \"/ca.crt\"\n";
const CA: &str = "[tls]\ncert = \"/h1.crt\"\nkey = \"/h1.key\"\nca = \"/old.crt\"\n";

/// A section and a key of it, two texts, and what is told of going from one to the other.
const EACH_KEY: &[(&str, &str, &str, &str)] = &[
    (
        "[cluster] allow",
        "cluster.allow = [\"192.0.2.0/24\", \"h2\"]",
        "cluster.allow = [\"192.0.2.9\", \"h2\"]",
        "[cluster] allow: +192.0.2.9, -192.0.2.0/24",
    ),
    ("[cluster] deny", "", "cluster.deny = [\"2001:db8::/32\"]", "[cluster] deny: +2001:db8::/32"),
    (
        "[cluster] resolve_every",
        "",
        "cluster.resolve_every = \"90s\"",
        "[cluster] resolve_every: 30s → 1m 30s",
    ),
    ("[cluster] nodes", "", "cluster.nodes = [\"*@h2\", \"!a@h2\"]", "[cluster] nodes: all → *@h2, !a@h2"),
    (
        "[cluster] nodes",
        "cluster.nodes = [\"*@h2\", \"b@h3\"]",
        "cluster.nodes = [\"b@h3\", \"c@h3\"]",
        "[cluster] nodes: +c@h3, -*@h2",
    ),
    ("[cluster] hidden_nodes", "", "cluster.hidden_nodes = \"deny\"", "[cluster] hidden_nodes: allow → deny"),
    (
        "[cluster] dynamic_nodes",
        "",
        "cluster.dynamic_nodes = \"allow\"",
        "[cluster] dynamic_nodes: deny → allow",
    ),
    ("[cluster] min_handshake", "", "cluster.min_handshake = 6", "[cluster] min_handshake: 5 → 6"),
    (
        "[cluster] require_flags",
        "",
        "cluster.require_flags = [\"ALIAS\", \"UNLINK_ID\"]",
        "[cluster] require_flags: none → UNLINK_ID, ALIAS",
    ),
    ("[cluster] mode", "", "cluster.mode = \"observe\"", "[cluster] mode: enforce → observe"),
    ("[[peer]] name", "", H2, "[[peer]] h2: added, with h2, 192.0.2.2"),
    ("[[peer]] name", H2, "", "[[peer]] h2: removed, with h2, 192.0.2.2"),
    (
        "[[peer]] addresses",
        H2,
        "[[peer]]\nname = \"h2\"\naddresses = [\"2001:db8::2\", \"192.0.2.2\"]",
        "[[peer]] h2 addresses: +2001:db8::2, -h2",
    ),
    ("[[peer]] may_reach", H2, BOUND, "[[peer]] h2 may_reach: all → web-*, !web-9"),
    ("[[peer]] may_reach", BOUND, H2, "[[peer]] h2 may_reach: web-*, !web-9 → all"),
    (
        "[[peer]] may_reach",
        BOUND,
        "[[peer]]\nname = \"h2\"\nmay_reach = [\"ejabberd\", \"!web-9\"]\naddresses = [\"h2\", \"192.0.2.2\"]",
        "[[peer]] h2 may_reach: +ejabberd, -web-*",
    ),
    ("[[peer]] nodes", H2, SPEAKS, "[[peer]] h2 nodes: as the cluster → *@h2, !a@h2"),
    ("[[peer]] nodes", SPEAKS, SPEAKS_LESS, "[[peer]] h2 nodes: +b@h2, -*@h2"),
    (
        "[[peer]] nodes",
        "",
        GUEST,
        "[[peer]] h2: added, with h2, may be b@h2, hidden nodes: deny, dynamic nodes: allow",
    ),
    ("[[peer]] hidden_nodes", H2, HIDES, "[[peer]] h2 hidden_nodes: as the cluster → allow"),
    ("[[peer]] dynamic_nodes", H2, ASKS, "[[peer]] h2 dynamic_nodes: as the cluster → allow"),
    (
        "[[peer]] connect",
        NO_PEER,
        TUNNELLED,
        "[[peer]] h2: added, with h2, by a tunnel to h2:4371, [2001:db8::2]:443, whose hosts are h2.test, at the alias \
         127.0.0.12, tls: optional",
    ),
    (
        "[[peer]] connect",
        peer_with!("connect = \"h2\"\n"),
        peer_with!("connect = [\"h2:4372\", \"h2\"]\n"),
        "[[peer]] h2 connect: h2:4371 → h2:4372, h2:4371",
    ),
    (
        "[[peer]] hosts",
        peer_with!("hosts = [\"h2.test\", \"h2\"]\nidentity = \"h2\"\n"),
        peer_with!("hosts = [\"H2\", \"h9\"]\nidentity = \"h2\"\n"),
        "[[peer]] h2 hosts: +h9, -h2.test",
    ),
    (
        "[[peer]] alias",
        peer_with!("connect = \"h2\"\nalias = \"127.0.0.12\"\n"),
        peer_with!("connect = \"h2\"\nalias = [\"127.0.0.13\"]\n"),
        "[[peer]] h2 alias: +127.0.0.13, -127.0.0.12",
    ),
    (
        "[[peer]] identity",
        peer_with!(""),
        peer_with!("identity = [\"h2\", \"spiffe://test/h2\"]\n"),
        "[[peer]] h2 identity: +spiffe://test/h2",
    ),
    (
        "[[peer]] tls",
        peer_with!("connect = \"h2\"\n"),
        peer_with!("connect = \"h2\"\ntls = \"required\"\n"),
        "[[peer]] h2 tls: as [tls] default → required",
    ),
    ("[[peer]] may_reach", "", BOUND, "[[peer]] h2: added, with h2, 192.0.2.2, may reach web-*, !web-9"),
    (
        "[epmd] listen",
        "dist.listen = [\"*\"]",
        "dist.listen = [\"*\"]\nepmd.listen = [\"2001:db8::2\", \"192.0.2.2\"]",
        "[epmd] listen: +[2001:db8::2]:4369, +192.0.2.2:4369, -*:4369",
    ),
    (
        "[epmd] backend",
        "epmd.backend = \"127.0.0.1\"",
        "epmd.backend = \"127.0.0.2\"",
        "[epmd] backend: 127.0.0.1:4369 → 127.0.0.2:4369",
    ),
    (
        "[epmd] register_from",
        "epmd.register_from = [\"172.17.0.0/16\", \"192.0.2.9\"]",
        "epmd.register_from = [\"192.0.2.8\", \"172.17.0.0/16\"]",
        "[epmd] register_from: +192.0.2.8, -192.0.2.9",
    ),
    (
        "[epmd] relaxed_command_check",
        "",
        "epmd.relaxed_command_check = true",
        "[epmd] relaxed_command_check: false → true",
    ),
    (
        "[epmd] self",
        "dist.self = \"all\"",
        "dist.self = \"all\"\nepmd.self = [\"::1\", \"127.0.0.1\"]",
        "[epmd] self: all → 127.0.0.1, ::1",
    ),
    (
        "[epmd] self",
        "dist.self = \"all\"\nepmd.self = []",
        "dist.self = \"all\"\nepmd.self = [\"127.0.0.1\"]",
        "[epmd] self: none → 127.0.0.1",
    ),
    ("[dist] listen", "", "dist.listen = [\"192.0.2.2\"]", "[dist] listen: +192.0.2.2, -*"),
    ("[dist] ports", "", "dist.ports = [9100, \"9200-9205\"]", "[dist] ports: registered → 9100, 9200-9205"),
    ("[dist] ports", "dist.ports = []", "", "[dist] ports: none → registered"),
    (
        "[dist] ports",
        "dist.ports = [\"9100-9105\", 9200]",
        "dist.ports = [\"9100-9102\", 9200, 9300]",
        "[dist] ports: +9300, -9103-9105",
    ),
    ("[dist] names", "dist.names = [\"*\"]", "dist.names = [\"!b\", \"*\"]", "[dist] names: +!b"),
    ("[dist] range", "dist.range = \"9000-9100\"", "dist.range = \"9000-9110\"", "[dist] range: +9101-9110"),
    ("[dist] outside", "", "dist.outside = 20000", "[dist] outside: the nodes' own → 20000"),
    ("[dist] outside", "dist.outside = 20000", "dist.outside = 20001", "[dist] outside: +20001, -20000"),
    (
        "[dist] backend",
        "",
        "dist.backend = [\"::1\", \"127.0.0.1\"]",
        "[dist] backend: 127.0.0.1, ::1 → ::1, 127.0.0.1",
    ),
    ("[dist] self", "", "dist.self = \"none\"", "[dist] self: all → none"),
    ("[[forward]] kind", "", TLS, "[[forward]] dist-tls 9200: added"),
    ("[[forward]] ports", TLS, "", "[[forward]] dist-tls 9200: removed"),
    (
        "[[forward]] listen",
        TLS,
        "[[forward]]\nports = [9200]\nkind = \"dist-tls\"\nlisten = [\"192.0.2.1\"]",
        "[[forward]] dist-tls 9200 listen: +192.0.2.1, -*",
    ),
    (
        "[[forward]] backend",
        TLS,
        "[[forward]]\nkind = \"dist-tls\"\nports = 9200\nbackend = \"127.0.0.2\"",
        "[[forward]] dist-tls 9200 backend: 127.0.0.1, ::1 → 127.0.0.2",
    ),
    ("[tls] listen", FILES, with_files!("listen = [\"*\"]"), "[tls] listen: +*:4371"),
    ("[tls] cert", FILES, FILES_ELSE, "[tls] cert: /h1.crt → /h2.crt"),
    ("[tls] key", KEY, FILES, "[tls] key: /h2.key → /h1.key"),
    ("[tls] ca", CA, FILES, "[tls] ca: /old.crt → /ca.crt"),
    ("[tls] crl", FILES, with_files!("crl = \"/crl.pem\""), "[tls] crl: +/crl.pem"),
    ("[tls] default", FILES, with_files!("default = \"off\""), "[tls] default: optional → off"),
    ("[tls] crl_missing", "", "tls.crl_missing = \"accept\"", "[tls] crl_missing: refuse → accept"),
    ("[tls] crl_stale", "", "tls.crl_stale = \"refuse\"", "[tls] crl_stale: accept → refuse"),
    ("[tls] crl_partial", "", "tls.crl_partial = \"accept\"", "[tls] crl_partial: refuse → accept"),
    ("[tls] look_every", "", "tls.look_every = \"0s\"", "[tls] look_every: 1m → never"),
    ("[tls] resume_for", "", "tls.resume_for = \"1m\"", "[tls] resume_for: 40s → 1m"),
    ("[tls] warn_before", "", "tls.warn_before = \"7d\"", "[tls] warn_before: 21days → 7days"),
    (
        "[limits] replay_per_link",
        "",
        "limits.replay_per_link = \"8MiB\"",
        "[limits] replay_per_link: 4MiB → 8MiB",
    ),
    ("[limits] replay", "", "limits.replay = \"1GiB\"", "[limits] replay: 256MiB → 1GiB"),
    ("[limits] connections", "", "limits.connections = 900", "[limits] connections: auto → 900"),
    ("[limits] reserve", "", "limits.reserve = 65", "[limits] reserve: 64 → 65"),
    ("[limits] per_address", "", "limits.per_address = 513", "[limits] per_address: 512 → 513"),
    ("[limits] per_subnet", "", "limits.per_subnet = 2049", "[limits] per_subnet: 2048 → 2049"),
    ("[limits] names", "", "limits.names = 100", "[limits] names: 16384 → 100"),
    ("[limits] request_timeout", "", "limits.request_timeout = \"6s\"", "[limits] request_timeout: 5s → 6s"),
    ("[limits] backend_timeout", "", "limits.backend_timeout = \"6s\"", "[limits] backend_timeout: 5s → 6s"),
    (
        "[limits] half_close_timeout",
        "",
        "limits.half_close_timeout = \"1h\"",
        "[limits] half_close_timeout: 5m → 1h",
    ),
    ("[limits] rate_per_address", "", "limits.rate_per_address = 9", "[limits] rate_per_address: 2000 → 9"),
    ("[limits] rate_per_subnet", "", "limits.rate_per_subnet = 999", "[limits] rate_per_subnet: 8000 → 999"),
    ("[limits] half_open", "", "limits.half_open = 999", "[limits] half_open: 1024 → 999"),
    (
        "[limits] half_open_per_address",
        "",
        "limits.half_open_per_address = 9",
        "[limits] half_open_per_address: 256 → 9",
    ),
    (
        "[limits] handshake_timeout",
        "",
        "limits.handshake_timeout = \"2m\"",
        "[limits] handshake_timeout: 7s → 2m",
    ),
    ("[ban] slow_after", "", "ban.slow_after = 0", "[ban] slow_after: 3 → 0"),
    ("[ban] slow_first", "", "ban.slow_first = \"1s\"", "[ban] slow_first: 500ms → 1s"),
    ("[ban] slow_most", "", "ban.slow_most = \"1s\"", "[ban] slow_most: 5s → 1s"),
    ("[ban] after", "", "ban.after = 0", "[ban] after: 10 → 0"),
    ("[ban] within", "", "ban.within = \"1m\"", "[ban] within: 10m → 1m"),
    ("[ban] first", "", "ban.first = \"2m\"", "[ban] first: 1m → 2m"),
    ("[ban] most", "", "ban.most = \"2d\"", "[ban] most: 1day → 2days"),
    ("[ban] names", "", "ban.names = 65", "[ban] names: 64 → 65"),
    ("[ban] names_within", "", "ban.names_within = \"2h\"", "[ban] names_within: 1h → 2h"),
    ("[ban] entries", "", "ban.entries = 64", "[ban] entries: 16384 → 64"),
    ("[ban] file", "", "ban.file = \"\"", "[ban] file: /var/lib/epmd-guard/bans.jsonl → none"),
    (
        "[admin] socket",
        "",
        "admin.socket = \"\"",
        "[admin] socket: /run/epmd-guard/admin.sock → none (restart)",
    ),
    ("[admin] group", "", "admin.group = \"adm\"", "[admin] group: none → adm (restart)"),
    ("[admin] listen", "", "admin.listen = [\"[::1]:443\"]", "[admin] listen: +[::1]:443 (restart)"),
    ("[admin] reload_may_cut", "", "admin.reload_may_cut = 7", "[admin] reload_may_cut: 0 → 7"),
    ("[log] format", "", "log.format = \"json\"", "[log] format: text → json (restart)"),
    ("[log] level", "log.level = \"debug\"", "", "[log] level: debug → info"),
];

#[test]
fn each_key_is_compared_and_told() {
    for (key, old, new, expected) in EACH_KEY {
        assert_eq!(told(old, new), [*expected], "{key}");
        for same in [old, new] {
            assert!(Delta::between(&config(same), &config(same)).is_empty(), "{same}");
        }
    }
    for section in SECTIONS {
        for key in section.keys {
            let key = format!("{section} {key}");
            let elsewhere = ["[dist] cookie_file", "[[cookie]] file", "[[cookie]] nodes", "[[cookie]] at"];
            let is_compared =
                EACH_KEY.iter().any(|(compared, ..)| *compared == key) || elsewhere.contains(&key.as_str());
            assert!(is_compared, "{key} is not compared here");
        }
    }
}

#[test]
fn files_of_cookies_are_compared_by_what_they_hold_and_nothing_of_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, cookie: &str| {
        std::fs::write(at(name), cookie).unwrap();
        std::fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("a", "first");
    write("b", "second");
    let told = |old: &Config, new: &str| {
        let changes = Delta::between(old, &config(new)).changes;
        let shown: Vec<String> = changes.iter().map(|c| format!("{}: {}", c.key, c.what)).collect();
        assert!(changes.iter().all(|change| change.applies == Applies::AtOnce));
        assert!(!shown.concat().contains("second") && !shown.concat().contains("third"), "{shown:?}");
        shown.join("; ").replace(&format!("{}/", folder.path().display()), "")
    };
    let default = |name: &str| format!("dist.cookie_file = {:?}\n", at(name));
    let table = |name: &str, keys: &str| format!("[[cookie]]\nfile = {:?}\n{keys}\n", at(name));
    let (none, of_a) = (config(""), config(&default("a")));
    assert_eq!(told(&none, &default("a")), "[dist] cookie_file: none → a");
    assert_eq!(told(&of_a, &default("b")), "[dist] cookie_file: a → b");
    assert_eq!(told(&of_a, ""), "[dist] cookie_file: a → none");
    assert_eq!(told(&of_a, &default("a")), "");
    let web = table("a", "nodes = [\"web@*\"]") + &table("b", "at = [\"x\", \"!y\"]");
    let tables = config(&web);
    assert_eq!(told(&none, &web), "[[cookie]]: +a of web@*, +b at x, !y");
    let turned = table("b", "at = [\"x\", \"!y\"]") + &table("a", "nodes = [\"web@*\"]");
    assert_eq!(told(&tables, &turned), "[[cookie]]: in another order, or one of them more than once");
    let narrowed = web.replace("web@*", "web@h2");
    assert_eq!(told(&tables, &narrowed), "[[cookie]]: +a of web@h2, -a of web@*");
    assert_eq!(told(&tables, &web), "");
    write("a", "third");
    assert_eq!(told(&of_a, &default("a")), "[dist] cookie_file: the cookie has changed");
    assert_eq!(told(&tables, &web), "[[cookie]] a: the cookie has changed");
}

#[test]
fn a_port_of_epmd_or_of_the_guard_that_moves_is_no_change_of_the_range() {
    let moved = "[epmd]\nlisten = [\"192.0.2.1:5000\"]\n[dist]\nlisten = [\"192.0.2.1\"]\n";
    let before = moved.replace("5000", "4999");
    let change = "[epmd] listen: +192.0.2.1:5000, -192.0.2.1:4999";
    assert_eq!(told(&before, moved), [change]);
    let change = "[admin] listen: +127.0.0.1:9001 (restart)";
    assert_eq!(told("", "admin.listen = [\"127.0.0.1:9001\"]"), [change]);
    let forwarded = "[[forward]]\nkind = \"tcp\"\nports = [5370, \"5380-5389\"]\n";
    assert_eq!(told("", forwarded), ["[[forward]] tcp 5370, 5380-5389: added"]);
    let wider = format!("{moved}range = \"1024-6000\"\n");
    let changes = ["[epmd] listen: +192.0.2.1:5000, -192.0.2.1:4999", "[dist] range: -6001-65535"];
    assert_eq!(told(&before, &wider), changes);
}

#[test]
fn what_needs_a_restart_is_told_apart() {
    let new = "[admin]\nsocket = \"/run/a\"\nreload_may_cut = 1\n[log]\nformat = \"json\"\nlevel = \"warn\"";
    let delta = Delta::between(&config(""), &config(new));
    let late: Vec<_> = delta.needs_restart().map(|change| change.key.as_str()).collect();
    assert_eq!(late, ["[admin] socket", "[log] format"]);
    assert_eq!(delta.changes.len(), 4);
}

#[test]
fn the_embedded_epmd_takes_the_place_of_another_one_only_when_the_guard_starts() {
    let at = |port| format!("epmd.backend = \"127.0.0.1:{port}\"");
    let told = |old: &str, new: &str| told(old, new).join("; ");
    assert_eq!(told("", &at(4369)), "[epmd] backend: embedded → 127.0.0.1:4369 (restart)");
    assert_eq!(told(&at(4369), ""), "[epmd] backend: 127.0.0.1:4369 → embedded (restart)");
    assert_eq!(told(&at(4369), &at(4370)), "[epmd] backend: 127.0.0.1:4369 → 127.0.0.1:4370");
    let moved = "dist.listen = [\"*\"]\nepmd.listen = [\"*:4370\"]";
    assert_eq!(told("", moved), "[epmd] listen: +*:4370, -*:4369");
}

#[test]
fn comments_and_the_order_of_what_has_none_are_no_change() {
    let old = "[cluster]\nallow = [\"192.0.2.1\", \"h2\"]\ndeny = [\"h3\", \"192.0.2.9\"]\n[epmd]\n\
         listen = [\"192.0.2.1\", \"192.0.2.2\"]\nregister_from = [\"192.0.2.5\", \"::2\"]\n\
         self = [\"127.0.0.1\", \"::1\"]\n[dist]\nnames = [\"!b\", \"*\"]\nrange = [1, 2]\n\
         [[peer]]\nname = \"h4\"\naddresses = [\"h4\"]\n[[peer]]\nname = \"h5\"\naddresses = [\"h5\"]\n";
    let new = "# One\n[[peer]]\nname = \"h5\"\naddresses = [\"h5\"]\n# more\n[[peer]]\nname = \"h4\"\n\
         addresses = [\"h4\"]\n[cluster]\nallow = [\"H2.\",\n\"192.0.2.1\"]\ndeny = [\"192.0.2.9\", \"h3\"]\n\
         [epmd]\nlisten = [\"192.0.2.2\", \"192.0.2.1\"]\nregister_from = [\"::2\", \"192.0.2.5/32\"]\n\
         self = [\"::1\", \"127.0.0.1\"]\nbackend = \"embedded\"\n[dist]\nrange = \"1-2\"\nnames = [\"*\", \"!b\"]\n";
    assert_eq!(told(old, new), [""; 0]);
    assert_eq!(told("", "[dist]\nports = \"registered\"\n[cluster]\nallow = []"), [""; 0]);
    assert_eq!(told("epmd.self = \"none\"", "epmd.self = []"), [""; 0]);
}

#[test]
fn an_address_that_becomes_a_peers_is_told_of_both() {
    let told = told("cluster.allow = [\"192.0.2.2\", \"h2\"]", H2);
    assert_eq!(told, ["[cluster] allow: -192.0.2.2, -h2", "[[peer]] h2: added, with h2, 192.0.2.2"]);
}

#[test]
fn rules_of_the_command_line_are_compared_too() {
    let added = Overrides { allow: vec!["192.0.2.9".parse().unwrap()] };
    let delta = Delta::between(&defaults(&Overrides::default()).config, &defaults(&added).config);
    assert_eq!(delta.changes.len(), 1);
    assert_eq!(delta.changes[0].what, "+192.0.2.9");
    assert!(Delta::between(&config("cluster.allow = [\"192.0.2.9\"]"), &defaults(&added).config).is_empty());
}

#[test]
fn long_lists_are_told_in_part() {
    let new = "cluster.allow = [\"h1\", \"h2\", \"h3\", \"h4\", \"h5\", \"h6\", \"h6\", \"h7\"]";
    assert_eq!(told("", new), ["[cluster] allow: +h1, +h2, +h3, +h4, +h5 and 2 more"]);
}

#[test]
fn a_million_rules_are_compared_in_a_moment() {
    const COUNT: u32 = 1_000_000;
    let with = |first: u32| {
        let target = |bits| {
            Target::Net(ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(bits))))
        };
        let rule = |bits| Rule { list: List::Allow, target: target(bits), line: 1, peer: None };
        let rules = (first..first + COUNT).map(rule).collect();
        let mut config = config("");
        config.cluster.network = Arc::new(NetworkRules::new(RuleBook::new(rules)));
        config
    };
    let (old, new) = (with(1 << 24), with((1 << 24) + 10));
    let start = Instant::now();
    let delta = Delta::between(&old, &new);
    println!("{COUNT} rules against as many: {:?}", start.elapsed());
    let expected = "+1.15.66.64, +1.15.66.65, +1.15.66.66, +1.15.66.67, +1.15.66.68 and 15 more";
    assert_eq!(delta.changes[0].what, expected);
}
