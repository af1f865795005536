//! Each kind of mistake yields its message, at its line and column.

use epmd_guard::config::{LoadError, Severity};

use super::read;

/// Each problem as `line:column severity message (help)`.
fn listed(text: &str) -> Vec<String> {
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

const ALLOW: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\n";

/// A text, and where it is mistaken and how.
type Mistakes = [(&'static str, &'static [&'static str])];

/// Checks texts that are put behind an `[cluster] allow` of two lines.
#[track_caller]
fn each_yields(table: &Mistakes) {
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
        "[tls]\ncert = \"x\"",
        &["3:2 error [tls]: is no section: there are [cluster], [epmd], [dist], [limits], [log]"],
    ),
    ("[[peer]]\nname = \"x\"", &["3:3 error [peer]: is no section"]),
    (
        "[limit]",
        &[
            "3:2 error [limit]: is no section: there are [cluster], [epmd], [dist], [limits], [log] (did you mean [limits]?)",
        ],
    ),
    (
        "[epmd]\nlisen = []",
        &["4:1 error [epmd] lisen: is no key: there are listen, backend (did you mean listen?)"],
    ),
    ("mode = \"enforce\"", &["3:1 error [cluster] mode: is no key: there are allow, deny, resolve_every"]),
    (
        "[epmd]\nports = []",
        &[
            "4:1 error [epmd] ports: is no key: there are listen, backend (ports is a key of [dist]: put it below that header)",
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
        "1:1 error allow: stands in no section: there are [cluster], [epmd], [dist], [limits], [log] \
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
];

#[test]
fn wrong_types_are_named() {
    each_yields(WRONG_TYPES);
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
    (
        "[epmd]\nbackend = \"embedded\"",
        &[
            "4:11 error [epmd] backend: \"embedded\" is not available in this version (this version stands in front of an epmd: give its address",
        ],
    ),
    ("[epmd]\nbackend = \"localhost\"", &["4:11 error [epmd] backend: \"localhost\" is no IP address"]),
    (
        "[epmd]\nlisten = [\"*\", \"127.0.0.1\"]",
        &["4:16 error [epmd] listen: 127.0.0.1:4369 is [epmd] backend too: the guard would dial itself"],
    ),
    (
        "[epmd]\nbackend = \"192.0.2.77\"",
        &[
            "4:11 warning [epmd] backend: \"192.0.2.77\" is not loopback, so it can be reached around the guard",
        ],
    ),
    (
        "[epmd]\nlisten = []",
        &["4:10 error [epmd] listen: is empty and so is [dist] ports: nothing would be served"],
    ),
    ("[epmd]\nlisten = []\n[dist]\nports = \"x\"", &["6:9 error [dist] ports: \"x\" is no port"]),
    ("[epmd]\nlisten = [5]", &["4:11 error [epmd] listen: each element must be a string"]),
    ("[epmd]\nlisten = [\"127.0.1.1\"]\nbackend = \"127.0.0.1\"", &[]),
];

#[test]
fn mistakes_in_epmd_are_found() {
    each_yields(MISTAKES_IN_EPMD);
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
        "[dist]\nports = \"registered\"",
        &[
            "4:9 error [dist] ports: \"registered\" is not available in this version (list the ports or ranges",
        ],
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
    ("[epmd]\nlisten = [\"127.0.0.1:4370\"]", &[]),
    (
        "[epmd]\nlisten = [\"127.0.0.1:4370\"]\n[dist]\nports = 1",
        &["- error [dist] listen: 127.0.0.1 is in [dist] backend too"],
    ),
];

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
