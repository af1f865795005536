//! The keys of who speaks: what they mean, and each kind of mistake in them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epmd_guard::config::{Color, Files, LoadError, Loaded, Overrides, from_text_with};
use epmd_guard::policy::{BanRules, Mode, NodeRules, NodeRuling, PeerId, Stance};
use epmd_guard::proto::dist::{Claim, Claimed, Flags, FullName, Version};

use super::mistakes::{ALLOW, Mistakes, each_yields, listed};
use super::{good, read, warnings};

#[test]
fn the_defaults_of_who_speaks_are_those_of_the_documentation() {
    let config = good("").config;
    assert_eq!(config.cluster.mode, Mode::Enforce);
    let nodes = &config.nodes;
    assert!(nodes.nodes.is_none() && nodes.peers.is_empty());
    assert_eq!((nodes.hidden, nodes.dynamic), (Stance::Allow, Stance::Deny));
    assert_eq!((nodes.least_version, nodes.required), (Version::V5, Flags::default()));
    assert!(config.cookies.is_empty());
    let limits = config.limits;
    assert_eq!((limits.rate_per_address, limits.rate_per_subnet), (2000, 8000));
    assert_eq!((limits.half_open, limits.half_open_per_address), (1024, 256));
    assert_eq!(limits.handshake_timeout, Duration::from_secs(7));
    assert_eq!(config.ban.rules, BanRules::default());
    assert_eq!(config.ban.file.as_deref(), Some(Path::new("/var/lib/epmd-guard/bans.jsonl")));
}

fn claim(name: &str) -> Claim {
    let claimed = Claimed::Name(FullName::new(name.as_bytes()).unwrap());
    Claim { claimed, flags: Flags(0xd_07df_7fbd), version: Version::V6, creation: Some(1) }
}

/// What the rules say to a claim, and by which line of the file.
fn said(rules: &NodeRules, peer: Option<PeerId>, name: &str) -> String {
    let ruling = rules.explain(peer, &claim(name));
    if let NodeRuling::Listed(whose, by) | NodeRuling::Excluded(whose, by) = ruling {
        return format!("{:?}, {whose:?}: {} (line {})", ruling.denial(), by.pattern, by.line);
    }
    if let NodeRuling::OfPeer(peer, by) = ruling {
        return format!("of {peer:?}: {} (line {})", by.pattern, by.line);
    }
    format!("{ruling:?}")
}

#[test]
fn the_keys_of_names_mean_what_they_say() {
    let loaded = good(
        r#"
[cluster]
nodes = [
  "*@*.example.net",
  "!test-*@*",
]
hidden_nodes = "deny"
dynamic_nodes = "allow"
min_handshake = 6
require_flags = ["UNLINK_ID", "DFLAG_ALIAS"]
mode = "observe"
[[peer]]
name = "h2"
addresses = ["h2"]
nodes = ["ejabberd@h2.example.net"]
hidden_nodes = "allow"
[[peer]]
name = "h3"
addresses = ["h3"]
dynamic_nodes = "deny"
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = loaded.config;
    assert_eq!((config.cluster.mode, config.rules().mode), (Mode::Observe, Mode::Observe));
    let rules = &config.nodes;
    assert_eq!((rules.hidden, rules.dynamic), (Stance::Deny, Stance::Allow));
    assert_eq!((rules.least_version, rules.required.to_string().as_str()), (Version::V6, "UNLINK_ID, ALIAS"));
    assert_eq!((rules.peers[0].hidden, rules.peers[0].dynamic), (Some(Stance::Allow), None));
    assert_eq!((rules.peers[1].hidden, rules.peers[1].dynamic), (None, Some(Stance::Deny)));
    let (h2, h3) = (Some(PeerId(0)), Some(PeerId(1)));
    for (peer, name, expected) in [
        (h2, "ejabberd@h2.example.net", "None, Peer(PeerId(0)): ejabberd@h2.example.net (line 15)"),
        (h2, "x@h2.example.net", "NotListed(Peer(PeerId(0)))"),
        (h3, "ejabberd@h2.example.net", "of PeerId(0): ejabberd@h2.example.net (line 15)"),
        (h3, "x@h3.example.net", "None, Cluster: *@*.example.net (line 4)"),
        (None, "test-1@h3.example.net", "Some(NodeName), Cluster: !test-*@* (line 5)"),
    ] {
        assert_eq!(said(rules, peer, name), expected);
    }
}

#[test]
fn the_numbers_of_who_speaks_mean_what_they_say() {
    let loaded = good(
        r#"
[cluster]
allow = ["h2"]
[limits]
rate_per_address = 10
rate_per_subnet = 20
half_open = 30
half_open_per_address = 4
handshake_timeout = "30s"
[ban]
slow_after = 0
slow_first = "1s"
slow_most = "2s"
after = 5
within = "1m"
first = "2m"
most = "3m"
names = 1
names_within = "4m"
entries = 64
file = ""
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let limits = loaded.config.limits;
    assert_eq!((limits.rate_per_address, limits.rate_per_subnet), (10, 20));
    assert_eq!((limits.half_open, limits.half_open_per_address), (30, 4));
    assert_eq!(limits.handshake_timeout, Duration::from_secs(30));
    let ban = BanRules {
        slow_after: 0,
        slow_first: Duration::from_secs(1),
        slow_most: Duration::from_secs(2),
        after: 5,
        within: Duration::from_mins(1),
        first: Duration::from_mins(2),
        most: Duration::from_mins(3),
        names: 1,
        names_within: Duration::from_mins(4),
        entries: 64,
    };
    assert_eq!((loaded.config.ban.rules, loaded.config.ban.file), (ban, None));
}

const MISTAKES_IN_NODES: &Mistakes = &[
    (
        "nodes = [\"ejabberd\", \"!*\", \"\", \"a@b@c\", \"a.b@h\", \"a@h/8\", \"@h\"]",
        &[
            "3:10 error [cluster] nodes: \"ejabberd\" has no @: a node's name is name@host (write name@host: \"ejabberd@*\")",
            "3:22 error [cluster] nodes: \"!*\" has no @: a node's name is name@host (write name@host: \"!*@*\")",
            "3:28 error [cluster] nodes: \"\" is empty",
            "3:32 error [cluster] nodes: \"a@b@c\" has more than one @",
            "3:41 error [cluster] nodes: \"a.b@h\" can match no node: before the @ only letters, digits, '-', '_', '*' and '?' can stand",
            "3:50 error [cluster] nodes: \"a@h/8\" can match no node: behind the @ only letters",
            "3:59 error [cluster] nodes: \"@h\" has nothing on one side of the @",
        ],
    ),
    (
        "nodes = [\"h1.example.net\"]",
        &["has no @: a node's name is name@host (write name@host: \"ejabberd@*\")"],
    ),
    (
        "nodes = []",
        &[
            "3:9 warning [cluster] nodes: is empty, so that no node of another host is let in (leave the key out for every name, or give each [[peer]] its nodes)",
        ],
    ),
    ("nodes = []\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"*@h2\"]", &[]),
    (
        "nodes = [\"!a@*\"]",
        &[
            "3:9 warning [cluster] nodes: has exclusions only, so that no node of another host is let in (add \"*@*\" for",
        ],
    ),
    (
        "nodes = \"*@*\"\nhidden_nodes = true\nmin_handshake = \"6\"",
        &[
            "3:9 error [cluster] nodes: must be a list of strings, is a string (write a list: [\"*@*\"])",
            "4:16 error [cluster] hidden_nodes: must be a string, is a boolean",
            "5:17 error [cluster] min_handshake: must be an integer, is a string",
        ],
    ),
    (
        "hidden_nodes = \"yes\"\ndynamic_nodes = \"Allow\"\nmode = \"learn\"",
        &[
            "3:16 error [cluster] hidden_nodes: must be one of \"allow\", \"deny\", is \"yes\"",
            "4:17 error [cluster] dynamic_nodes: must be one of \"allow\", \"deny\", is \"Allow\"",
            "5:8 error [cluster] mode: must be one of \"enforce\", \"observe\", is \"learn\"",
        ],
    ),
    ("min_handshake = 7", &["3:17 error [cluster] min_handshake: must be at most 6, is 7"]),
    ("min_handshake = 4", &["3:17 error [cluster] min_handshake: must be at least 5, is 4"]),
    (
        "require_flags = [\"unlink_id\", \"UTF8\", \"PUBLISHED\", \"NAME_ME\", \"ALIAS\"]",
        &[
            "3:18 error [cluster] require_flags: \"unlink_id\" is no distribution flag (write \"UNLINK_ID\")",
            "3:31 error [cluster] require_flags: \"UTF8\" is no distribution flag (write OTP's name without DFLAG_, such as",
            "3:39 warning [cluster] require_flags: \"PUBLISHED\" is what hidden nodes do not have, so that none is let in",
            "3:52 warning [cluster] require_flags: \"NAME_ME\" is what only nodes have that ask for a name",
        ],
    ),
];

const MISTAKES_IN_NODES_OF_PEERS: &Mistakes = &[
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"ejabberd\"]\nhidden_nodes = \"no\"\ndynamic_nodes = 1",
        &[
            "6:10 error [[peer]] h2 nodes: \"ejabberd\" has no @: a node's name is name@host (write name@host",
            "7:16 error [[peer]] h2 hidden_nodes: must be one of \"allow\", \"deny\", is \"no\"",
            "8:17 error [[peer]] dynamic_nodes: must be a string, is an integer",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = []",
        &[
            "6:9 warning [[peer]] h2 nodes: is empty, so that no node of this peer is let in (leave the key out for the names that [cluster] nodes has)",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"!a@h2\"]",
        &[
            "6:9 warning [[peer]] h2 nodes: has exclusions only, so that no node of this peer is let in (add \"*@h2.example.net\"",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"a@h2\", \"*@*\"]",
        &[
            "6:18 warning [[peer]] h2 nodes: lists every name, so that no peer without a list of its own may claim any (write the names of this peer's nodes",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"a@h2\", \"a@h2\", \"*@h2\"]\n[[peer]]\nname = \"h3\"\naddresses = [\"h3\"]\nnodes = [\"*@h2\", \"!a@h2\", \"x@h3\"]",
        &[],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nnodes = [\"b@h2\", \"a@h2\"]\n[[peer]]\nname = \"h3\"\naddresses = [\"h3\"]\nnodes = [\"x@h3\", \"a@h2\"]",
        &[
            "10:18 error [[peer]] h3 nodes: a@h2 is a node of h2 (line 6) too: who is it? (a name is one peer's: take it out of the other. Of a node that moves between hosts make one [[peer]]",
        ],
    ),
];

#[test]
fn mistakes_in_the_names_of_nodes_are_found() {
    each_yields(MISTAKES_IN_NODES);
    each_yields(MISTAKES_IN_NODES_OF_PEERS);
}

const MISTAKES_IN_BAN: &Mistakes = &[
    (
        "[ban]\nslow_after = -1\nnames = 0\nentries = 63\nafter = \"10\"",
        &[
            "4:14 error [ban] slow_after: must be at least 0, is -1",
            "5:9 error [ban] names: must be at least 1, is 0",
            "6:11 error [ban] entries: must be at least 64, is 63",
            "7:9 error [ban] after: must be an integer, is a string",
        ],
    ),
    ("[ban]\nentries = 2000000", &["4:11 error [ban] entries: must be at most 1048576, is 2000000"]),
    (
        "[ban]\nslow_most = \"6s\"\nslow_first = \"1ms\"\nfirst = \"500ms\"\nmost = \"31d\"\nwithin = \"2d\"",
        &[
            "4:13 error [ban] slow_most: \"6s\" is out of range: 10ms to 5s is possible",
            "5:14 error [ban] slow_first: \"1ms\" is out of range: 10ms to 5s is possible",
            "6:9 error [ban] first: \"500ms\" is out of range: 1s to 30d is possible",
            "7:8 error [ban] most: \"31d\" is out of range: 1s to 30d is possible",
            "8:10 error [ban] within: \"2d\" is out of range: 1s to 1d is possible",
        ],
    ),
    (
        "[ban]\nslow_first = \"2s\"\nslow_most = \"1s\"\nfirst = \"2d\"",
        &[
            "4:14 error [ban] slow_first: 2s is more than slow_most (1s) (write a shorter slow_first, or a longer slow_most)",
            "6:9 error [ban] first: 2days is more than most (1day)",
        ],
    ),
    ("[ban]\nmost = \"30s\"", &["4:8 error [ban] first: 1m is more than most (30s)"]),
    (
        "[ban]\nafter = 0\nwithin = \"1m\"\nmost = \"1h\"",
        &[
            "5:10 warning [ban] within: has no effect: [ban] after is 0, so that nobody is banned (take it out)",
            "6:8 warning [ban] most: has no effect",
        ],
    ),
    (
        "[limits]\nhandshake_timeout = \"5s\"",
        &[
            "4:21 warning [ban] slow_most: 5s is not less than [limits] handshake_timeout (5s): who waits so long is given up",
        ],
    ),
    (
        "[ban]\nfile = \"bans.jsonl\"",
        &[
            "4:8 error [ban] file: \"bans.jsonl\" is no absolute path (write the whole path, such as \"/var/lib/epmd-guard/bans.jsonl\")",
        ],
    ),
    (
        "[ban]\nfile = \"/var/lib/\"",
        &["4:8 error [ban] file: \"/var/lib/\" is a folder (write the path of a file in it"],
    ),
    ("[ban]\nfile = \"/a\\u0007b\"", &["4:8 error [ban] file: \"/a\\u{7}b\" has a control character"]),
    (
        "[limits]\nrate_per_address = 0\nhalf_open = 0\nhandshake_timeout = \"121s\"",
        &[
            "4:20 error [limits] rate_per_address: must be at least 1, is 0",
            "5:13 error [limits] half_open: must be at least 1, is 0",
            "6:21 error [limits] handshake_timeout: \"121s\" is out of range: 1s to 120s is possible",
        ],
    ),
    (
        "[limits]\nrate_per_subnet = 1999\nhalf_open_per_address = 1025",
        &[
            "4:19 warning [limits] rate_per_address: 2000 is more than rate_per_subnet (1999), so an IPv6 address never gets as many",
            "5:25 warning [limits] half_open_per_address: 1025 is more than half_open (1024), so an address never gets as many",
        ],
    ),
    (
        "[limits]\nhalf_open = 300\nconnections = 299",
        &["4:13 warning [limits] half_open: 300 is more than connections (299), so it bounds nothing"],
    ),
];

#[test]
fn mistakes_in_ban_and_its_limits_are_found() {
    each_yields(MISTAKES_IN_BAN);
}

const MISTAKES_IN_COOKIES: &Mistakes = &[
    (
        "[dist]\ncookie_file = \"cookie\"",
        &[
            "4:15 error [dist] cookie_file: \"cookie\" is no absolute path (write the whole path, such as \"/etc/epmd-guard/cookie\")",
        ],
    ),
    ("[dist]\ncookie_file = true", &["4:15 error [dist] cookie_file: must be a string, is a boolean"]),
    ("[dist]\ncookie_file = \"\"", &[]),
    (
        "[dist]\ncookie_file = \"/no/such/cookie\"",
        &[
            "4:15 error [dist] cookie_file: /no/such/cookie is not there (give the guard a copy of its own: `install -m 0400 -o ",
        ],
    ),
    (
        "[dist]\ncookie_file = \"/run/credentials/no-such.service/web\"",
        &[
            "4:15 error [dist] cookie_file: /run/credentials/no-such.service/web is not there yet (systemd makes it when the service starts: write LoadCredential=web:/var/lib/ejabberd/.erlang.cookie into the unit, under [Service])",
        ],
    ),
    (
        "[dist]\ncookie_file = \"/dev\"",
        &["4:15 error [dist] cookie_file: /dev is a folder, and no regular file"],
    ),
    (
        "[[cookie]]\nnodes = []",
        &["3:1 error [[cookie]]: has no file (write file = \"/etc/epmd-guard/cookie.web\")", "4:9 warning"],
    ),
    (
        "[cookie]\nfile = \"/x\"",
        &["3:1 error [[cookie]]: must be a list of tables, is a table (write [[cookie]] in double brackets"],
    ),
    (
        "[[cookie]]\nfile = \"x\"\nnodes = [\"a\"]\nat = [\"a@h\", \"!b\"]",
        &[
            "4:8 error [[cookie]] file: \"x\" is no absolute path",
            "5:10 error [[cookie]] nodes: \"a\" has no @: a node's name is name@host (write name@host: \"a@*\")",
            "6:7 error [[cookie]] at: \"a@h\" has an @: epmd knows only the part",
        ],
    ),
    (
        "[[cookie]]\nfile = \"/no/such\"\nnodes = []\nat = [\"!a\"]",
        &[
            "4:8 error [[cookie]] file: /no/such is not there",
            "5:9 warning [[cookie]] nodes: is empty, so that it is the cookie of no node (leave the key out for every node, or",
            "6:6 warning [[cookie]] at: has exclusions only, so that it is the cookie of no node (add \"*\" for",
        ],
    ),
];

#[test]
fn mistakes_in_cookies_are_found() {
    each_yields(MISTAKES_IN_COOKIES);
    let tables = |count| "[[cookie]]\nfile = \"/no/such\"\nat = [\"a\"]\n".repeat(count);
    let too_many = listed(&format!("{ALLOW}{}", tables(1001)));
    let expected = "3003:1 error [[cookie]]: is one more than the 1000 that are possible";
    assert!(too_many.iter().any(|problem| problem == expected), "{too_many:?}");
}

/// A folder of files that hold cookies.
struct Cookies(tempfile::TempDir);

impl Cookies {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file of this mode.
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn cookie_file(path: &Path) -> String {
    format!("{ALLOW}[dist]\ncookie_file = {path:?}\n")
}

#[test]
fn what_is_wrong_with_a_cookies_file_is_said_and_nothing_of_the_cookie() {
    let files = Cookies::new();
    for (bytes, mode, expected) in [
        (&b"XSECRETX"[..], 0o644, "has the mode 0644: others than its owner could use it (chmod 0400 "),
        (b"XSECRETX", 0o440, "has the mode 0440"),
        (b"", 0o400, "has no cookie in it (name a copy of the nodes' own .erlang.cookie"),
        (b"XSECRETX\xff\n", 0o400, "is no cookie: byte 9 can neither stand in one nor behind it"),
        (b"XSECRETX\nXSECRETX\n", 0o600, "is no cookie: byte 10 can"),
        (&b"XSECRETX".repeat(32), 0o400, "is no cookie: 256 bytes are more than the 255 that are possible"),
        (&b"XSECRETX".repeat(129), 0o400, "is no cookie: it has more than 1024 bytes"),
    ] {
        let text = cookie_file(&files.write("cookie", bytes, mode));
        let found = listed(&text);
        let start = format!("4:15 error [dist] cookie_file: {}/cookie {expected}", files.0.path().display());
        assert!(found.len() == 1 && found[0].starts_with(&start), "{found:#?}\n{start}");
        let Err(error) = read(&text) else { panic!() };
        let all = format!("{error:?} {error} {} {}", error.render(Color::Plain), error.brief());
        assert!(!all.contains("SECRET"), "{all}");
    }
}

#[test]
fn a_cookie_that_is_read_is_shown_nowhere() {
    let files = Cookies::new();
    let web = files.write("web", b"XSECRETX-web\n", 0o400);
    let default = files.write("default", b"XSECRETX", 0o600);
    let text =
        format!("{}[[cookie]]\nfile = {web:?}\nnodes = [\"web-*@*\"]\nat = [\"a\"]\n", cookie_file(&default));
    let loaded = good(&text);
    assert_eq!(warnings(&loaded), [""; 0]);
    let shown = format!("{loaded:?} {:?} {}", loaded.config.rules(), loaded.render_warnings(Color::Plain));
    assert!(!shown.contains("SECRET"), "{shown}");
    let name = |text: &str| FullName::new(text.as_bytes()).unwrap();
    let cookies = &loaded.config.cookies;
    let shared = |peer, behind| cookies.shared_by(&name(peer), &name(behind));
    assert_eq!(cookies.each.len(), 1);
    assert_ne!(shared("web-1@h2", "a@h1"), shared("web-1@h2", "b@h1"));
    assert_eq!(shared("web-1@h2", "b@h1"), shared("x@h2", "a@h1"));
}

#[test]
fn what_a_table_for_all_nodes_hides_is_told() {
    let files = Cookies::new();
    let path = files.write("cookie", b"x", 0o400);
    let table = |keys: &str| format!("[[cookie]]\nfile = {path:?}\n{keys}\n");
    let found = listed(&format!("{ALLOW}{}{}", table(""), table("at = [\"a\"]")));
    let expected = "3:1 warning [[cookie]]: has neither nodes nor at, so that the tables below it never count (say for which";
    assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    let found = listed(&format!("{}{}", cookie_file(&path), table("")));
    assert!(found[0].contains("so that [dist] cookie_file never counts"), "{found:?}");
    assert_eq!(listed(&format!("{ALLOW}{}", table(""))), [""; 0]);
    assert_eq!(listed(&format!("{}{}", cookie_file(&path), table("at = [\"a\"]"))), [""; 0]);
}

fn with(text: &str, files: Files) -> Result<Loaded, LoadError> {
    from_text_with("test.toml", text, &Overrides::default(), files)
}

#[test]
fn who_asks_for_another_hosts_file_reads_none_and_who_looks_ahead_forgives_systemds() {
    let missing = cookie_file(Path::new("/no/such/cookie"));
    assert!(with(&missing, Files::Read).is_err() && with(&missing, Files::Foresee).is_err());
    let left = with(&missing, Files::Leave).unwrap();
    assert!(left.config.cookies.is_empty() && left.warnings.is_empty());
    assert_eq!(left.config.cookie_files.default.as_deref(), Some(Path::new("/no/such/cookie")));
    let credential = cookie_file(Path::new("/run/credentials/no-such.service/cookie"));
    assert!(with(&credential, Files::Read).is_err());
    let ahead = with(&credential, Files::Foresee).unwrap();
    let told = "[dist] cookie_file: /run/credentials/no-such.service/cookie is not there yet";
    assert_eq!(warnings(&ahead), [told]);
}
