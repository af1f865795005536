//! Each kind of mistake yields its message, at its line and column.

use epmd_guard::config::{LoadError, Severity};

use super::read;

/// Each problem as `line:column severity message (help)`.
pub(super) fn listed(text: &str) -> Vec<String> {
    let (problems, _kept) = match read(text) {
        Ok(loaded) => (loaded.warnings.clone(), None),
        Err(LoadError::Invalid(report)) => (report.problems().clone(), Some(report)),
        Err(error) => panic!("{error}"),
    };
    problems
        .iter()
        .map(|problem| {
            let place = problem.span.as_ref().map_or("-".to_owned(), |span| {
                let before = &text[..span.start];
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                let line = 1 + before.matches('\n').count();
                format!("{line}:{}", 1 + before[line_start..].chars().count())
            });
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{place} {severity} {}{help}", problem.message)
        })
        .collect()
}

pub(super) const ALLOW: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\n";

/// A text, and where it is mistaken and how.
pub(crate) type Mistakes = [(&'static str, &'static [&'static str])];

/// Checks texts that are put behind an `[cluster] allow` of two lines.
#[track_caller]
pub(crate) fn each_yields(table: &Mistakes) {
    for (text, expected) in table {
        let found = listed(&format!("{ALLOW}{text}"));
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.contains(expected), "{text}\n{found:#?}\n{expected}");
        }
    }
}

const UNKNOWN_NAMES: &Mistakes = &[
    (
        "[tsl]\ncert = \"x\"",
        &[
            "3:2 error [tsl]: is no section: there are [cluster], [[peer]], [epmd], [dist], [[cookie]], [[forward]], [tls], [limits], [ban], [admin], [log]",
        ],
    ),
    ("[[peers]]\nname = \"x\"", &["3:3 error [peers]: is no section: there are [cluster], [[peer]]"]),
    ("[peers]", &["(did you mean [[peer]]?)"]),
    (
        "addresses = []",
        &[
            "3:1 error [cluster] addresses: is no key: there are allow, deny, resolve_every, nodes, hidden_nodes, dynamic_nodes, min_handshake, require_flags, mode (addresses is a key of [[peer]]: put it below that header)",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddreses = []\naddresses = [\"h2\"]",
        &[
            "5:1 error [[peer]] addreses: is no key: there are name, addresses, may_reach, nodes, hidden_nodes, dynamic_nodes, connect, hosts, alias, identity, tls (did you mean addresses?)",
        ],
    ),
    (
        "[peer]\nname = \"h2\"",
        &[
            "3:1 error [[peer]]: must be a list of tables, is a table (write [[peer]] in double brackets, once for each peer)",
        ],
    ),
    ("[peer.h2]\naddresses = []", &["error [[peer]]: must be a list of tables, is a table (write [[peer]]"]),
    (
        "[admin]\nsock = \"\"",
        &[
            "4:1 error [admin] sock: is no key: there are socket, group, listen, reload_may_cut (did you mean socket?)",
        ],
    ),
    (
        "[limit]",
        &[
            "3:2 error [limit]: is no section: there are [cluster], [[peer]], [epmd], [dist], [[cookie]], [[forward]], [tls], [limits], [ban], [admin], [log] (did you mean [limits]?)",
        ],
    ),
    (
        "[epmd]\nlisen = []",
        &[
            "4:1 error [epmd] lisen: is no key: there are listen, backend, register_from, relaxed_command_check, self (did you mean listen?)",
        ],
    ),
    ("modes = \"enforce\"", &["3:1 error [cluster] modes: is no key: there are allow, deny, resolve_every"]),
    (
        "[epmd]\nports = []",
        &[
            "4:1 error [epmd] ports: is no key: there are listen, backend, register_from, relaxed_command_check, self (ports is a key of [dist] and [[forward]]: put it below one of these headers)",
        ],
    ),
    ("[epmd]\n\"a\\u001bb\" = 1", &["4:1 error [epmd] \"a\\u{1b}b\": is no key"]),
    (
        "[[dist]]",
        &[
            "3:1 error [dist]: must be a table, is a list (write [dist] once, in single brackets, and its keys below)",
        ],
    ),
];

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    each_yields(UNKNOWN_NAMES);
    assert_eq!(
        listed("allow = []\n")[0],
        "1:1 error allow: stands in no section: there are [cluster], [[peer]], [epmd], [dist], [[cookie]], [[forward]], [tls], [limits], [ban], [admin], [log] \
         (allow is a key of [cluster]: put it below that header)"
    );
}

const WRONG_TYPES: &Mistakes = &[
    (
        "deny = \"192.0.2.1\"",
        &["3:8 error [cluster] deny: must be a list of strings, is a string (write a list: [\"192.0.2.1\"])"],
    ),
    (
        "deny = [\"192.0.2.1\", 5, true]",
        &[
            "3:22 error [cluster] deny: each element must be a string, this one is an integer",
            "3:25 error [cluster] deny: each element must be a string, this one is a boolean",
        ],
    ),
    ("[epmd]\nbackend = 4369", &["4:11 error [epmd] backend: must be a string, is an integer"]),
    (
        "[dist]\nports = 9100.5",
        &["4:9 error [dist] ports: must be a port, a range or a list of them, is a float"],
    ),
    ("[dist]\nports = [[1]]", &["4:10 error [dist] ports: each element must be a port"]),
    (
        "[dist]\nbackend = {}",
        &["4:11 error [dist] backend: must be a string or a list of strings, is a table"],
    ),
    ("[limits]\nreserve = \"64\"", &["4:11 error [limits] reserve: must be an integer, is a string"]),
    (
        "[limits]\nconnections = \"all\"",
        &["4:15 error [limits] connections: must be \"auto\" or an integer, is \"all\""],
    ),
    ("[limits]\nreserve = 99999999999999999999", &["4:11 error [limits] reserve: is too large a number"]),
    (
        "[limits]\nrequest_timeout = 5",
        &[
            "4:19 error [limits] request_timeout: must be a string such as \"5s\", is an integer (write it with its unit: \"5s\")",
        ],
    ),
    ("[log]\nlevel = []", &["4:9 error [log] level: must be a string, is a list"]),
    (
        "[[peer]]\nname = 2\naddresses = \"h2\"",
        &[
            "4:8 error [[peer]] name: must be a string, is an integer",
            "5:13 error [[peer]] addresses: must be a list of strings, is a string (write a list: [\"h2\"])",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [2]",
        &["5:14 error [[peer]] addresses: each element must be a string, this one is an integer"],
    ),
    (
        "[dist]\nnames = \"*\"\nrange = true\noutside = 1.5",
        &[
            "4:9 error [dist] names: must be a list of strings, is a string (write a list: [\"*\"])",
            "5:9 error [dist] range: must be a port, a range or a list of them, is a boolean",
            "6:11 error [dist] outside: must be a port, a range or a list of them, is a float",
        ],
    ),
    (
        "[admin]\nsocket = false\nreload_may_cut = \"0\"",
        &[
            "4:10 error [admin] socket: must be a string, is a boolean",
            "5:18 error [admin] reload_may_cut: must be an integer, is a string",
        ],
    ),
];

#[test]
fn wrong_types_are_named() {
    each_yields(WRONG_TYPES);
    assert_eq!(
        listed("peer = 5\ncluster.allow = [\"h2\"]"),
        [
            "1:8 error [[peer]]: must be a list of tables, is an integer (write [[peer]] in double brackets, once for each peer)"
        ]
    );
    assert_eq!(
        listed("peer = [5]\ncluster.allow = [\"h2\"]"),
        [
            "1:9 error [[peer]]: must be a table, is an integer (write [[peer]] in double brackets, once for each peer)"
        ]
    );
    assert_eq!(listed("peer = [{ name = \"h2\", addresses = [\"h2\"] }]"), [""; 0]);
    assert_eq!(
        listed("cluster = 5")[0],
        "1:11 error [cluster]: must be a table, is an integer (write [cluster] once, in single brackets, and its keys below)"
    );
}

const MISTAKEN_ALLOW: &Mistakes = &[
    (
        "[cluster]\nallow = [\"h2\"]\ndeny = [\"h9\", \"192.0.2.9\"]",
        &["3:9 warning [cluster] deny: h9 is a host name: no peer is let in until it has been resolved"],
    ),
    (
        "[cluster]\nallow = [\"0.0.0.0/0\", \"::/0\"]",
        &[
            "2:10 warning [cluster] allow: 0.0.0.0/0 lets everybody in",
            "2:23 warning [cluster] allow: ::/0 lets",
        ],
    ),
    (
        "[cluster]\nallow = [\"h2\", \"192.0.2.1\",\n\"H2.\", \"192.0.2.1/32\"]",
        &[
            "3:1 warning [cluster] allow: h2 has been allowed in line 2 already",
            "3:8 warning [cluster] allow: 192.0.2.1 has",
        ],
    ),
    ("[cluster]\nallow = []", &["2:9 warning [cluster] allow: is empty: only this host itself may connect"]),
    ("[cluster]\nallow = [\"x y\"]", &["2:10 error [cluster] allow: \"x y\" is no host name"]),
    ("", &["- warning [cluster] allow: is empty"]),
];

const MISTAKES_IN_CLUSTER: &Mistakes = &[
    (
        "deny = [\"192.0.2.7/24\"]",
        &["3:9 error [cluster] deny: \"192.0.2.7/24\" has bits set behind its prefix: write 192.0.2.0/24"],
    ),
    (
        "deny = [\"fe80::1%eth0\", \"\"]",
        &[
            "3:9 error [cluster] deny: \"fe80::1%eth0\" has a zone id",
            "3:25 error [cluster] deny: \"\" is empty",
        ],
    ),
    (
        "resolve_every = \"500ms\"",
        &["3:17 error [cluster] resolve_every: \"500ms\" is out of range: 1s to 1d is possible"],
    ),
    (
        "resolve_every = \"5\"",
        &["3:17 error [cluster] resolve_every: \"5\" has no unit (write it with its unit: \"5s\")"],
    ),
    ("resolve_every = \"5 parsecs\"", &["3:17 error [cluster] resolve_every: \"5 parsecs\" is no duration"]),
    (
        "deny = [\"192.0.0.0/16\", \"192.0.2.7\"]",
        &["2:10 warning [cluster] allow: 192.0.2.0/24 can never match: 192.0.0.0/16 is denied (line 3)"],
    ),
    ("deny = [\"192.0.2.0/25\", \"192.0.2.128/25\", \"2001:db8::/32\"]", &[]),
];

#[test]
fn mistakes_in_cluster_are_found() {
    each_yields(MISTAKES_IN_CLUSTER);
    for (text, expected) in MISTAKEN_ALLOW {
        let found = listed(text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        assert!(
            found.iter().zip(*expected).all(|(found, expected)| found.starts_with(expected)),
            "{found:#?}"
        );
    }
}

const MISTAKES_IN_EPMD: &Mistakes = &[
    (
        "[epmd]\nlisten = [\"*\", \"0.0.0.0\"]",
        &[
            "4:16 error [epmd] listen: \"0.0.0.0\" would take loopback from epmd and the nodes too (write \"*\"",
        ],
    ),
    ("[epmd]\nlisten = [\"fe80::1%eth0\"]", &["4:11 error [epmd] listen: \"fe80::1%eth0\" has a zone id"]),
    (
        "[epmd]\nlisten = [\"224.0.0.1:4369\"]",
        &["4:11 error [epmd] listen: \"224.0.0.1:4369\" is no address of one host"],
    ),
    (
        "[epmd]\nlisten = [\"192.0.2.1\", \"::ffff:192.0.2.1\", \"192.0.2.1:4370\"]",
        &["4:24 error [epmd] listen: \"::ffff:192.0.2.1\" is in the list twice"],
    ),
    (
        "[epmd]\nlisten = [\"h2.example.net\"]",
        &["4:11 error [epmd] listen: \"h2.example.net\" is no IP address"],
    ),
    ("[epmd]\nbackend = \"embedded\"", &[]),
    (
        "[epmd]\nbackend = \"Embedded\"",
        &[
            "4:11 error [epmd] backend: \"Embedded\" is no IP address (write \"embedded\" for the epmd of the guard, or where",
        ],
    ),
    ("[epmd]\nbackend = \"none\"", &["is no IP address (write \"embedded\" for the epmd of the guard"]),
    ("[epmd]\nbackend = \"localhost\"", &["4:11 error [epmd] backend: \"localhost\" is no IP address"]),
    (
        "[epmd]\nlisten = [\"*\", \"127.0.0.1\"]\nbackend = \"127.0.0.1\"",
        &[
            "4:16 error [epmd] listen: 127.0.0.1:4369 is [epmd] backend too: the guard would dial itself",
            "- error [dist] listen: 127.0.0.1 is in [dist] backend too",
        ],
    ),
    (
        "[epmd]\nbackend = \"192.0.2.77\"",
        &[
            "4:11 warning [epmd] backend: \"192.0.2.77\" is not loopback, so it can be reached around the guard",
        ],
    ),
    (
        "[epmd]\nlisten = []\n[dist]\nports = []",
        &["4:10 error [epmd] listen: is empty and so is [dist] ports: nothing would be served"],
    ),
    (
        "[epmd]\nlisten = []",
        &[
            "4:10 warning [epmd] listen: is empty, so that peers cannot look up the nodes of [dist] ports = \"registered\" (list the ports",
        ],
    ),
    (
        "[epmd]\nlisten = []\n[dist]\nrange = []",
        &["6:9 error [dist] range: is empty: no node could be reached"],
    ),
    ("[epmd]\nlisten = []\n[dist]\nports = \"x\"", &["6:9 error [dist] ports: \"x\" is no port"]),
    ("[epmd]\nlisten = [5]", &["4:11 error [epmd] listen: each element must be a string"]),
    ("[epmd]\nlisten = [\"127.0.1.1\"]\nbackend = \"127.0.0.1\"", &[]),
    // The embedded epmd listens there in any case.
    ("[epmd]\nlisten = [\"127.0.0.1\", \"::1\", \"192.0.2.1\"]", &[]),
    (
        "[epmd]\nlisten = [\"192.0.2.1\"]\n[dist]\nbackend = \"192.0.2.1\"",
        &[
            "6:11 error [dist] listen: 192.0.2.1 is in [dist] backend too: the guard would dial itself",
            "6:11 warning [dist] backend: \"192.0.2.1\" is not loopback",
        ],
    ),
];

const MISTAKES_IN_REGISTERING: &Mistakes = &[
    (
        "[epmd]\nregister_from = \"172.17.0.0/16\"",
        &[
            "4:17 error [epmd] register_from: must be a list of strings, is a string (write a list: [\"172.17.0.0/16\"])",
        ],
    ),
    (
        "[epmd]\nregister_from = [\"0.0.0.0/0\", \"::/0\"]",
        &[
            "4:18 error [epmd] register_from: \"0.0.0.0/0\" is everybody: whoever reaches epmd could register names (write the network that is meant, such as",
            "4:31 error [epmd] register_from: \"::/0\" is everybody",
        ],
    ),
    (
        "[epmd]\nregister_from = [\"docker.example.net\", \"172.17.0.1/16\", \"fe80::1%eth0\", \"\"]",
        &[
            "4:18 error [epmd] register_from: \"docker.example.net\" is a host name, and a resolver's answer is too little to register names by (write addresses or networks)",
            "4:40 error [epmd] register_from: \"172.17.0.1/16\" has bits set behind its prefix: write 172.17.0.0/16",
            "4:57 error [epmd] register_from: \"fe80::1%eth0\" has a zone id",
            "4:73 error [epmd] register_from: \"\" is empty",
        ],
    ),
    (
        "[epmd]\nregister_from = [\"192.0.2.9\", \"::ffff:192.0.2.9/128\"]",
        &["4:31 error [epmd] register_from: \"::ffff:192.0.2.9/128\" is in the list twice"],
    ),
    (
        "[epmd]\nregister_from = [\"127.0.0.2\", \"64.0.0.0/2\", \"::/64\"]",
        &[
            "4:18 warning [epmd] register_from: 127.0.0.2/32 has loopback in it: this host may register anyway (write the addresses",
            "4:31 warning [epmd] register_from: 64.0.0.0/2 has loopback in it",
            "4:45 warning [epmd] register_from: ::/64 has loopback in it",
        ],
    ),
    (
        "[epmd]\nregister_from = [\"127.0.0.6\"]\nself = \"none\"",
        &[
            "4:18 warning [epmd] register_from: 127.0.0.6/32 has loopback in it: whoever reaches epmd through another relay of this host could register",
        ],
    ),
    ("[epmd]\nregister_from = [\"172.17.0.0/16\"]\nbackend = \"127.0.0.1\"", &[]),
    (
        "[epmd]\nlisten = []\nregister_from = [\"172.17.0.0/16\"]\nrelaxed_command_check = false\n[dist]\nports = 5210",
        &[
            "5:17 warning [epmd] register_from: has no effect: [epmd] listen is empty, so that epmd is not served (take it out)",
            "6:25 warning [epmd] relaxed_command_check: has no effect: [epmd] listen is empty",
        ],
    ),
    ("[epmd]\nlisten = [\"x\"]\nregister_from = [\"172.17.0.0/16\"]", &["4:11 error [epmd] listen: \"x\""]),
    ("[epmd]\nlisten = [5]\nrelaxed_command_check = true", &["4:11 error [epmd] listen: each element"]),
    (
        "[epmd]\nrelaxed_command_check = \"true\"",
        &[
            "4:25 error [epmd] relaxed_command_check: must be true or false, is a string (write it without quotes: true)",
        ],
    ),
    (
        "[epmd]\nrelaxed_command_check = \"yes\"",
        &["must be true or false, is a string (write true or false, without quotes)"],
    ),
    (
        "[epmd]\nregister_from = [\"128.0.0.0/7\", \"10.0.0.0/8\", \"2000::/15\", \"2001::/16\"]",
        &[
            "4:18 warning [epmd] register_from: 128.0.0.0/7 is wide: whoever reaches epmd from there could register names (write the network that is meant",
            "4:47 warning [epmd] register_from: 2000::/15 is wide",
        ],
    ),
    (
        "deny = [\"198.51.100.0/24\"]\n[epmd]\nregister_from = [\"198.51.100.7\", \"198.51.0.0/16\", \"::ffff:198.51.100.128/121\"]",
        &[
            "5:18 warning [epmd] register_from: 198.51.100.7/32 can never match: 198.51.100.0/24 is denied (line 3) (take one of the two away)",
            "5:51 warning [epmd] register_from: 198.51.100.128/25 can never match",
        ],
    ),
    (
        "[epmd]\nlisten = [\"127.0.0.1\", \"[::1]:4370\"]",
        &[
            "4:10 warning [epmd] listen: has only loopback, so that none of those who are let in can reach epmd (add where they",
        ],
    ),
    ("[epmd]\nlisten = [\"127.0.0.1\", \"192.0.2.1\"]", &[]),
    ("[epmd]\nlisten = [\"127.0.0.1\"]\n[[peer]]\nname = \"relay\"\naddresses = [\"127.0.0.9\"]", &[]),
    (
        "[epmd]\nrelaxed_command_check = 1",
        &["4:25 error [epmd] relaxed_command_check: must be true or false, is an integer"],
    ),
    (
        "[epmd]\nbackend = \"127.0.0.1\"\nrelaxed_command_check = true",
        &[
            "5:25 warning [epmd] relaxed_command_check: has no effect: the epmd at 127.0.0.1:4369 decides that itself (take it out, and start that epmd with -relaxed_command_check or without)",
        ],
    ),
    (
        "[epmd]\nbackend = \"127.0.0.1\"\n[limits]\nnames = 5",
        &["6:9 warning [limits] names: has no effect: the epmd at 127.0.0.1:4369 has a limit of its own"],
    ),
    ("[limits]\nnames = 0", &["4:9 error [limits] names: must be at least 1, is 0"]),
    (
        "[limits]\nnames = 101\nconnections = 100",
        &["4:9 warning [limits] names: 101 is more than connections (100), of which each name takes one"],
    ),
    ("[limits]\nconnections = 100\nreserve = 10", &[]),
];

const MISTAKES_IN_SELF: &Mistakes = &[
    (
        "[epmd]\nself = \"127.0.0.1\"\n[dist]\nself = \"*\"",
        &[
            "4:8 error [epmd] self: must be \"all\", \"none\" or a list of addresses, is \"127.0.0.1\" (write a list: [\"127.0.0.1\"])",
            "6:8 error [dist] self: must be \"all\", \"none\" or a list of addresses, is \"*\" (write \"all\")",
        ],
    ),
    (
        "[epmd]\nself = true\n[dist]\nself = [1]",
        &[
            "4:8 error [epmd] self: must be \"all\", \"none\" or a list of addresses, is a boolean",
            "6:9 error [dist] self: each element must be a string, this one is an integer",
        ],
    ),
    (
        "[epmd]\nself = [\"*\", \"all\", \"127.0.0.1:4369\", \"h1\", \"127.0.0.1\", \"::ffff:127.0.0.1\"]",
        &[
            "4:9 error [epmd] self: \"*\" is not one address (write self = \"all\", without brackets",
            "4:14 error [epmd] self: \"all\" cannot be in a list with addresses",
            "4:21 error [epmd] self: \"127.0.0.1:4369\" has a port (it counts for every port there: leave it out)",
            "4:39 error [epmd] self: \"h1\" is no IP address",
            "4:58 error [epmd] self: \"::ffff:127.0.0.1\" is in the list twice",
        ],
    ),
    (
        "[epmd]\nlisten = [\"192.0.2.1\"]\nself = [\"127.0.0.1\", \"::1\", \"127.0.1.1\", \"192.0.2.1\", \"192.0.2.9\"]",
        &[
            "5:55 warning [epmd] self: 192.0.2.9 is not in [epmd] listen: it counts only if a name of this host leads there (list it in listen too, or take it out here)",
        ],
    ),
    ("[epmd]\nself = [\"127.0.0.1\", \"192.0.2.9\"]", &[]),
    (
        "[epmd]\nbackend = \"127.0.0.1\"\nself = [\"127.0.0.1\", \"127.0.1.1\"]",
        &[
            "5:9 warning [epmd] self: 127.0.0.1 has no effect: epmd listens there, and not the guard (take it out)",
        ],
    ),
    (
        "[epmd]\nbackend = \"127.0.0.1:4370\"\nlisten = [\"127.0.0.1\"]\nself = [\"127.0.0.1\"]\n[dist]\nports = []",
        &[],
    ),
    (
        "[dist]\nlisten = [\"192.0.2.1\"]\nself = [\"::1\", \"192.0.2.1\", \"192.0.2.2\"]",
        &[
            "5:9 warning [dist] self: ::1 has no effect: the node listens there, and not the guard",
            "5:29 warning [dist] self: 192.0.2.2 is not in [dist] listen",
        ],
    ),
    ("[epmd]\nlisten = [\"x\"]\nself = [\"127.0.0.1\", \"192.0.2.9\"]", &["4:11 error [epmd] listen: \"x\""]),
    (
        "[epmd]\nself = \"none\"",
        &[
            "4:8 warning [epmd] self: leaves out 127.0.0.1 and ::1, where nodes register, and [epmd] register_from is empty: no node could register (write self = [\"127.0.0.1\", \"::1\"]",
        ],
    ),
    ("[epmd]\nself = []", &["4:8 warning [epmd] self: leaves out 127.0.0.1 and ::1"]),
    ("[epmd]\nself = [\"192.0.2.9\"]", &["4:8 warning [epmd] self: leaves out 127.0.0.1 and ::1"]),
    ("[epmd]\nself = [\"::1\"]", &[]),
    ("[epmd]\nself = \"none\"\nregister_from = [\"172.17.0.0/16\"]", &[]),
    ("[epmd]\nself = \"none\"\nbackend = \"127.0.0.1\"", &[]),
    ("[epmd]\nself = \"none\"\nlisten = []\n[dist]\nports = 5210", &[]),
    ("[dist]\nself = \"none\"", &[]),
];

#[test]
fn mistakes_in_epmd_are_found() {
    each_yields(MISTAKES_IN_EPMD);
    each_yields(MISTAKES_IN_REGISTERING);
    each_yields(MISTAKES_IN_SELF);
}

const MISTAKES_IN_DIST: &Mistakes = &[
    (
        "[dist]\nports = \"9105-9100\"",
        &["4:9 error [dist] ports: 9105-9100 runs backwards (write \"9100-9105\")"],
    ),
    (
        "[dist]\nports = [0, 65536, \"x\", -1]",
        &[
            "4:10 error [dist] ports: port 0",
            "4:13 error [dist] ports: \"65536\" is no port",
            "4:20 error [dist] ports: \"x\" is no port",
            "4:25 error [dist] ports: \"-1\" is no port",
        ],
    ),
    (
        "[dist]\nports = \"9100, 9200\"",
        &["4:9 error [dist] ports: \"9100, 9200\" is no port: ports go from 1 to 65535 (write a list"],
    ),
    (
        "[dist]\nports = [\"registered\", 9100]",
        &[
            "4:10 error [dist] ports: \"registered\" cannot be in a list with ports (write it alone: ports = \"registered\")",
        ],
    ),
    ("[dist]\nports = \"registered\"", &[]),
    ("[dist]\nports = []", &[]),
    (
        "[dist]\nports = \"regstered\"",
        &[
            "4:9 error [dist] ports: \"regstered\" is no port: ports go from 1 to 65535 (write \"registered\", or",
        ],
    ),
    (
        "[dist]\nports = 9100\n[admin]\nlisten = [\"127.0.0.1:9100\"]",
        &["4:9 error [dist] ports: 9100 is a port of [admin] listen, which peers would reach"],
    ),
    ("[dist]\nports = [9100, \"4000-5000\"]", &["4:16 error [dist] ports: 4369 is a port of [epmd] listen"]),
    (
        "[epmd]\nlisten = [\"*:4370\"]\n[dist]\nports = 4369",
        &["6:9 error [dist] ports: 4369 is a port of epmd, which peers would reach unchecked"],
    ),
    (
        "[epmd]\nlisten = []\n[dist]\nports = 4369",
        &["6:9 error [dist] ports: 4369 is a port of epmd, which peers would reach unchecked"],
    ),
    ("[dist]\nports = \"10000-11000\"", &["4:9 warning [dist] ports: 10000-11000 offers whatever listens"]),
    ("[dist]\nports = \"10000-10999\"", &[]),
    (
        "[dist]\nlisten = [\"192.0.2.1:9100\", \"*:9100\"]",
        &[
            "4:11 error [dist] listen: \"192.0.2.1:9100\" has a port (the ports are [dist] ports",
            "4:29 error",
        ],
    ),
    ("[dist]\nlisten = []", &["4:10 error [dist] listen: is empty"]),
    ("[dist]\nlisten = [\"*\", \"*\"]", &["4:16 error [dist] listen: \"*\" is in the list twice"]),
    ("[dist]\nbackend = []", &["4:11 error [dist] backend: names no address"]),
    ("[dist]\nbackend = \"127.0.0.1:9100\"", &["4:11 error [dist] backend: \"127.0.0.1:9100\" has a port"]),
    (
        "[dist]\nbackend = [\"::1\", \"192.0.2.77\"]",
        &["4:19 warning [dist] backend: \"192.0.2.77\" is not loopback"],
    ),
    (
        "[dist]\nlisten = [\"*\", \"127.0.0.1\"]",
        &["4:16 error [dist] listen: 127.0.0.1 is in [dist] backend too: the guard would dial itself"],
    ),
    (
        "[epmd]\nlisten = [\"127.0.0.1:4370\"]\nbackend = \"127.0.0.1\"",
        &[
            "- error [dist] listen: 127.0.0.1 is in [dist] backend too: the guard would dial itself (it is taken over from [epmd] listen: write [dist] listen too, or ports = [])",
        ],
    ),
    ("[epmd]\nlisten = [\"127.0.0.1:4370\"]\nbackend = \"127.0.0.1\"\n[dist]\nports = []", &[]),
    (
        "[epmd]\nlisten = [\"127.0.0.1:4370\"]\nbackend = \"127.0.0.1\"\n[dist]\nports = 1",
        &["- error [dist] listen: 127.0.0.1 is in [dist] backend too"],
    ),
];

const MISTAKES_IN_NAMES_AND_RANGES: &Mistakes = &[
    (
        "[dist]\nnames = []",
        &["4:9 warning [dist] names: is empty, so that no name gets a port (write names = [\"*\"]"],
    ),
    (
        "[dist]\nnames = [\"!a*\", \"!b\"]",
        &["4:9 warning [dist] names: has exclusions only, so that no name gets a port (add \"*\""],
    ),
    (
        "[dist]\nnames = [\"rabbit@h1\", \"\", \"!\", \"a b\"]",
        &[
            "4:10 error [dist] names: \"rabbit@h1\" has an @: epmd knows only the part",
            "4:23 error [dist] names: \"\" is empty",
            "4:27 error [dist] names: \"!\" is empty",
            "4:32 error [dist] names: \"a b\" can match no name",
        ],
    ),
    ("[dist]\nnames = [\"!a@b\"]", &["4:10 error [dist] names: \"!a@b\" has an @"]),
    (
        "[dist]\nports = 9100\nnames = [\"*\"]\nrange = \"9000-9200\"",
        &[
            "5:9 warning [dist] names: has no effect: [dist] ports lists the ports that are offered (take it out, or write ports = \"registered\" for names to count)",
            "6:9 warning [dist] range: has no effect",
        ],
    ),
    ("[dist]\nports = []\nnames = []", &["5:9 warning [dist] names: has no effect"]),
    (
        "[dist]\nports = 9100\noutside = 9100",
        &["5:11 error [dist] outside: is possible only with ports = \"registered\" (listed ports have"],
    ),
    ("[dist]\nports = 9100\noutside = []", &[]),
    (
        "[dist]\nports = 9100\nrange = \"x\"",
        &["5:9 error [dist] range: \"x\" is no port", "5:9 warning [dist] range: has no effect"],
    ),
    ("[dist]\nports = \"9105-9100\"\nnames = []", &["4:9 error [dist] ports: 9105-9100 runs backwards"]),
    (
        "[dist]\nrange = []",
        &["4:9 error [dist] range: is empty: no node could be reached (leave the key out"],
    ),
    (
        "[dist]\nrange = 4369",
        &["4:9 error [dist] range: 4369 is epmd's or the guard's own: no node could be reached"],
    ),
    (
        "[dist]\nrange = [0, \"200-100\", \"registered\"]",
        &[
            "4:10 error [dist] range: port 0 means any port",
            "4:13 error [dist] range: 200-100 runs backwards (write \"100-200\")",
            "4:24 error [dist] range: \"registered\" is no port",
        ],
    ),
    ("[dist]\nrange = \"1-65535\"", &[]),
    (
        "[epmd]\nlisten = [\"*:4370\"]\n[dist]\noutside = [\"x\", 4369, 4370]",
        &[
            "6:12 error [dist] outside: \"x\" is no port",
            "6:17 error [dist] outside: 4369 is a port of epmd, where no peer looks for a node",
            "6:23 error [dist] outside: 4370 is a port of [epmd] listen",
        ],
    ),
    ("[dist]\noutside = \"20000-20100\"\n[admin]\nlisten = [\"127.0.0.1:20000\"]", &[]),
];

#[test]
fn mistakes_in_names_and_ranges_are_found() {
    each_yields(MISTAKES_IN_NAMES_AND_RANGES);
}

const MISTAKES_IN_PEERS: &Mistakes = &[
    (
        "[[peer]]",
        &[
            "3:1 error [[peer]]: has no addresses (write addresses = [\"h2.example.net\"])",
            "3:1 error [[peer]]: has no name (write name = \"h2\")",
        ],
    ),
    (
        "[[peer]]\nname = \"\"\naddresses = [\"h2\"]",
        &[
            "4:8 error [[peer]] name: is empty (write 1 to 63 letters, digits, '.', '_' and '-', such as \"h2\")",
        ],
    ),
    (
        "[[peer]]\nname = \"h 2\"\naddresses = [\"192.0.2.300\"]",
        &[
            "4:8 error [[peer]] name: \"h 2\" is no name of a peer (write 1 to 63",
            "5:14 error [[peer]] addresses: \"192.0.2.300\" is no IP address",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = []",
        &["5:13 error [[peer]] h2 addresses: is empty: a peer is known by its addresses (write addresses or"],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.7/24\", \"fe80::1%eth0\"]",
        &[
            "5:14 error [[peer]] h2 addresses: \"192.0.2.7/24\" has bits set behind its prefix",
            "5:30 error [[peer]] h2 addresses: \"fe80::1%eth0\" has a zone id",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"::/0\", \"::ffff:0.0.0.0/96\"]",
        &[
            "5:14 error [[peer]] h2 addresses: ::/0 is everybody, and a peer is one host or a few (let everybody in by [cluster] allow",
            "5:22 error [[peer]] h2 addresses: 0.0.0.0/0 is everybody",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"H2.\", \"192.0.2.2\", \"::ffff:192.0.2.2\"]",
        &[
            "5:20 warning [[peer]] h2 addresses: h2 is in the list twice",
            "5:40 warning [[peer]] h2 addresses: 192.0.2.2 is in the list twice",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\n[[peer]]\nname = \"h2\"\naddresses = [\"H2\"]",
        &[
            "7:8 error [[peer]] name: h2 is the name of the peer in line 3 too",
            "8:14 error [[peer]] h2 addresses: h2 is an address of h2 (line 3) too: who is it? (an address is one peer's",
        ],
    ),
    (
        "[[peer]]\naddresses = [\"h2\"]\n[[peer]]\naddresses = [\"h2\"]",
        &[
            "3:1 error [[peer]]: has no name",
            "5:1 error [[peer]]: has no name",
            "6:14 error [[peer]] addresses: h2 is an address of another peer (line 3) too: who is it?",
        ],
    ),
    (
        "deny = [\"198.51.100.0/24\"]\n[[peer]]\nname = \"h2\"\naddresses = [\"198.51.100.7\", \"203.0.113.7\"]",
        &[
            "6:14 warning [[peer]] h2 addresses: 198.51.100.7 can never match: 198.51.100.0/24 is denied (line 3)",
        ],
    ),
    ("[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.0/24\", \"192.0.2.2\"]", &[]),
];

const MISTAKES_IN_MAY_REACH: &Mistakes = &[
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = \"*\"",
        &["6:13 error [[peer]] may_reach: must be a list of strings, is a string (write a list: [\"*\"])"],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = [\"ejabberd@h1\", \"\", \"a b\"]",
        &[
            "6:14 error [[peer]] h2 may_reach: \"ejabberd@h1\" has an @: epmd knows only the part",
            "6:29 error [[peer]] h2 may_reach: \"\" is empty",
            "6:33 error [[peer]] h2 may_reach: \"a b\" can match no name",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = [\"!web-9\"]",
        &[
            "6:13 warning [[peer]] h2 may_reach: has exclusions only, so that this peer reaches no node (add \"*\" for every name that is not excluded)",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = []",
        &[
            "6:13 warning [[peer]] h2 may_reach: is empty, so that this peer reaches no node (leave the key out for every name; who is to reach nothing stands in [cluster] deny)",
        ],
    ),
    (
        "[[peer]]\naddresses = [\"h2\"]\nmay_reach = [\"x@y\"]",
        &["3:1 error [[peer]]: has no name", "5:14 error [[peer]] may_reach: \"x@y\" has an @"],
    ),
    (
        "[epmd]\nlisten = []\n[dist]\nports = 5210\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = [\"a\"]",
        &[
            "10:13 warning [[peer]] h2 may_reach: no node's name is known without epmd, so that this peer reaches none (leave the key out",
        ],
    ),
    ("[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nmay_reach = [\"*\", \"!web-9\"]", &[]),
];

#[test]
fn mistakes_in_peers_are_found() {
    each_yields(MISTAKES_IN_PEERS);
    each_yields(MISTAKES_IN_MAY_REACH);
    assert_eq!(listed("[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]"), [""; 0], "allow may be empty");
    let longest = format!("[[peer]]\nname = \"{}\"\naddresses = [\"h2\"]", "n".repeat(63));
    assert_eq!(listed(&longest), [""; 0]);
    let longer = listed(&longest.replace("nn", "nnn"));
    assert!(longer[0].starts_with("2:8 error [[peer]] name: \"nnn"), "{longer:?}");
    let peers = |count: u32| -> String {
        (0..count).map(|n| format!("[[peer]]\nname = \"h{n}\"\naddresses = [\"h{n}\"]\n")).collect()
    };
    assert_eq!(listed(&peers(1000)), [""; 0]);
    let too_many = listed(&peers(1002));
    let expected = "3001:1 error [[peer]]: is one more than the 1000 that are possible (name the hosts";
    assert!(too_many.len() == 1 && too_many[0].starts_with(expected), "{too_many:?}");
}

const MISTAKES_IN_ADMIN: &Mistakes = &[
    (
        "[admin]\nsocket = \"admin.sock\"",
        &["4:10 error [admin] socket: \"admin.sock\" is no absolute path (write the whole path, such as"],
    ),
    (
        "[admin]\nsocket = \"/run/epmd-guard/\"",
        &["4:10 error [admin] socket: \"/run/epmd-guard/\" is a folder"],
    ),
    ("[admin]\nsocket = \"/run/a\\u0000b\"", &["4:10 error [admin] socket: \"/run/a\\0b\" has a control"]),
    ("[admin]\nsocket = \"\"", &[]),
    (
        "[admin]\nsocket = \"\"\ngroup = \"adm\"",
        &["5:9 warning [admin] group: has no effect: [admin] socket is empty"],
    ),
    ("[admin]\ngroup = \"domain admins\"", &[]),
    (
        "[admin]\ngroup = \"a:b\"",
        &["4:9 error [admin] group: \"a:b\" is no name of a group (write a name such as \"adm\")"],
    ),
    ("[admin]\ngroup = \"/run/x\"", &["4:9 error [admin] group: \"/run/x\" is no name of a group"]),
    ("[admin]\ngroup = \"a\\tb\"", &["4:9 error [admin] group: \"a\\tb\" is no name of a group"]),
    (
        "[admin]\ngroup = \"1000\"",
        &["4:9 error [admin] group: \"1000\" is no name of a group (write the group's name, not its number)"],
    ),
    ("[admin]\ngroup = \"\"", &[]),
    (
        "[admin]\nlisten = [\"*\", \"192.0.2.1:9568\", \"0.0.0.0:9568\"]",
        &[
            "4:11 error [admin] listen: \"*\" is not loopback: whoever can connect there can read it, and nobody is asked who that is (write a loopback address and a port",
            "4:16 error [admin] listen: \"192.0.2.1:9568\" is not loopback",
            "4:34 error [admin] listen: \"0.0.0.0:9568\" is not loopback",
        ],
    ),
    (
        "[admin]\nlisten = [\"127.0.0.1\", \"::1\", \"localhost:1\"]",
        &[
            "4:11 error [admin] listen: \"127.0.0.1\" has no port (write one, such as \"127.0.0.1:9568\")",
            "4:24 error [admin] listen: \"::1\" has no port (write one, such as \"[::1]:9568\")",
            "4:31 error [admin] listen: \"localhost:1\" is no IP address",
        ],
    ),
    (
        "[admin]\nlisten = [\"127.0.0.1:1\", \"[::ffff:127.0.0.1]:1\"]",
        &["4:26 error [admin] listen: \"[::ffff:127.0.0.1]:1\" is in the list twice"],
    ),
    (
        "[epmd]\nlisten = [\"127.0.1.1\"]\nbackend = \"127.0.0.1\"\n[admin]\nlisten = [\"127.0.0.1:4369\", \"127.0.1.1:4369\"]",
        &[
            "7:11 error [admin] listen: 127.0.0.1:4369 is [epmd] backend too (write another port)",
            "7:29 error [admin] listen: 127.0.1.1:4369 is in [epmd] listen too",
        ],
    ),
    (
        "[epmd]\nlisten = [\"192.0.2.1:4370\"]\n[admin]\nlisten = [\"127.0.0.1:4370\", \"[::1]:4370\", \"127.0.0.2:4370\", \"[::1]:4369\"]",
        &[
            "6:11 error [admin] listen: 127.0.0.1:4370 is where the embedded epmd listens too (write another port)",
            "6:29 error [admin] listen: [::1]:4370 is where the embedded epmd listens too",
        ],
    ),
    ("[epmd]\nself = [\"::1\"]\n[admin]\nlisten = [\"127.0.0.1:4369\"]", &[]),
    ("[epmd]\nlisten = []\n[dist]\nports = 5210\n[admin]\nlisten = [\"127.0.0.1:4369\"]", &[]),
    ("[admin]\nreload_may_cut = -1", &["4:18 error [admin] reload_may_cut: must be at least 0, is -1"]),
    (
        "[admin]\nreload_may_cut = 4294967296",
        &["4:18 error [admin] reload_may_cut: must be at most 4294967295"],
    ),
];

#[test]
fn mistakes_in_admin_are_found() {
    each_yields(MISTAKES_IN_ADMIN);
    let socket = |length: usize| listed(&format!("{ALLOW}[admin]\nsocket = \"/{}\"", "a".repeat(length - 1)));
    assert_eq!(socket(107), [""; 0]);
    let longer = socket(108);
    assert!(longer[0].contains("is longer than the 107 bytes"), "{longer:?}");
    let group = |length: usize| listed(&format!("{ALLOW}[admin]\ngroup = \"{}\"", "a".repeat(length)));
    assert_eq!(group(256), [""; 0]);
    assert!(group(257)[0].contains("is no name of a group"));
}

#[test]
fn mistakes_in_dist_are_found() {
    each_yields(MISTAKES_IN_DIST);
}

const MISTAKES_IN_LIMITS_AND_LOG: &Mistakes = &[
    ("[limits]\nconnections = 7", &["4:15 error [limits] connections: must be at least 8, is 7"]),
    (
        "[limits]\nper_address = 0\nper_subnet = -1\nreserve = 5000000000",
        &[
            "4:15 error [limits] per_address: must be at least 1, is 0",
            "5:14 error [limits] per_subnet: must be at least 1, is -1",
            "6:11 error [limits] reserve: must be at most 4294967295",
        ],
    ),
    (
        "[limits]\nconnections = 64",
        &["4:15 error [limits] reserve: must be less than connections (64), is 64"],
    ),
    ("[limits]\nconnections = 64\nreserve = 63", &[]),
    ("[limits]\nreserve = 100\nconnections = \"auto\"", &[]),
    (
        "[limits]\nper_address = 4096",
        &["4:15 warning [limits] per_address: 4096 is more than per_subnet (2048)"],
    ),
    (
        "[limits]\nrequest_timeout = \"2m\"\nbackend_timeout = \"99ms\"",
        &[
            "4:19 error [limits] request_timeout: \"2m\" is out of range: 100ms to 60s is possible",
            "5:19 error [limits] backend_timeout: \"99ms\"",
        ],
    ),
    (
        "[limits]\nhalf_close_timeout = \"25h\"",
        &["4:22 error [limits] half_close_timeout: \"25h\" is out of range: 1s to 1d"],
    ),
    (
        "[log]\nformat = \"xml\"\nlevel = \"INFO\"",
        &[
            "4:10 error [log] format: must be one of \"text\", \"json\", is \"xml\"",
            "5:9 error [log] level: must be one of \"error\", \"warn\"",
        ],
    ),
];

#[test]
fn mistakes_in_limits_and_log_are_found() {
    each_yields(MISTAKES_IN_LIMITS_AND_LOG);
}

const MISTAKES_OF_SYNTAX: &Mistakes = &[
    (
        "deny = [\"192.0.2.7/24\"]\ndeny = []",
        &["3:9 error [cluster] deny: \"192.0.2.7/24\"", "4:1 error duplicate key"],
    ),
    ("[epmd]\nbackend = \n[dist]\nports = \"x\"", &["4:", "6:9 error [dist] ports: \"x\""]),
    ("[epmd]\nbackend = localhost\n[log]\nlevel = \"x\"", &["4:11 error", "6:9 error [log] level"]),
    ("deny = [\"a\" b = 5]", &["3:13 error missing comma"]),
    ("[epmd]\n[log]\n[epmd]", &["5:2 error duplicate key"]),
];

#[test]
fn mistakes_of_syntax_come_with_those_of_meaning() {
    each_yields(MISTAKES_OF_SYNTAX);
    let many = format!(
        "{ALLOW}[epmd]\nlisen = []\n[dist]\nports = [\"9105-9100\", 9100.5]\n[log]\nlevel = 5\n[x]\n"
    );
    let found = listed(&many);
    assert_eq!(found.len(), 5, "{found:#?}");
}
