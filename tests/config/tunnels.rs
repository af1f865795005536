//! The keys of tunnels: what they mean, and each kind of mistake in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use epmd_guard::config::{CrlRules, ListenOn, OnCrl, Tls, TlsFiles};
use epmd_guard::policy::{San, TlsMode};

use super::mistakes::{ALLOW, Mistakes, each_yields, listed};
use super::{good, warnings};

#[test]
fn the_defaults_of_tunnels_are_those_of_the_documentation() {
    let config = good("").config;
    assert_eq!(config.tls, Tls::default());
    let Tls { listen, files, default, crl, look_every, resume_for, warn_before } = config.tls;
    assert_eq!((listen, files, default), (Vec::new(), None, TlsMode::Off));
    let rules = CrlRules { missing: OnCrl::Refuse, stale: OnCrl::Accept, partial: OnCrl::Refuse };
    assert_eq!(crl, rules);
    assert_eq!(look_every, Some(Duration::from_secs(60)));
    assert_eq!((resume_for, warn_before), (Duration::from_secs(40), Duration::from_hours(21 * 24)));
    assert_eq!((config.limits.replay_per_link, config.limits.replay), (4 << 20, 256 << 20));
}

/// Every key of tunnels, none at its default.
const ALL_KEYS: &str = r#"
[tls]
listen = ["*", "192.0.2.1:443", "[2001:db8::1]:4371"]
cert = "/tls/h1.crt"
key = "/tls/h1.key"
ca = "/tls/ca.crt"
crl = ["/tls/crl.pem", "/tls/old.pem"]
crl_missing = "accept"
crl_stale = "refuse"
crl_partial = "accept"
look_every = "0s"
resume_for = "2m"
warn_before = "7d"
[limits]
replay_per_link = "1 MiB"
replay = "2GiB"
[[peer]]
name = "H2"
addresses = ["192.0.2.2"]
connect = ["h2.example.net", "h2.example.net:443", "2001:db8::2"]
hosts = ["h2.Example.net", "192.0.2.2"]
alias = ["127.0.0.12", "fd00::12"]
tls = "required"
[[peer]]
name = "h3"
addresses = ["192.0.2.3"]
connect = "192.0.2.3:443"
alias = "127.0.0.13"
identity = ["spiffe://example.net/h3", "192.0.2.3", "H3.example.net"]
[[peer]]
name = "h4"
addresses = ["192.0.2.4"]
tls = "off"
"#;

#[test]
fn the_keys_of_tunnels_mean_what_they_say() {
    let loaded = good(ALL_KEYS);
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = &loaded.config;
    let at = |text: &str| ListenOn::Ip(text.parse().unwrap());
    let listen = [(ListenOn::Everywhere, 4371), (at("192.0.2.1"), 443), (at("2001:db8::1"), 4371)];
    assert_eq!(config.tls.listen, listen);
    let path = |name: &str| Path::new("/tls").join(name);
    let crl: Vec<PathBuf> = ["crl.pem", "old.pem"].map(path).into();
    let files = TlsFiles { cert: path("h1.crt"), key: path("h1.key"), ca: path("ca.crt"), crl };
    assert_eq!(config.tls.files, Some(files));
    assert_eq!(config.tls.default, TlsMode::Optional, "with a certificate");
    let rules = CrlRules { missing: OnCrl::Accept, stale: OnCrl::Refuse, partial: OnCrl::Accept };
    assert_eq!((config.tls.crl, config.tls.look_every), (rules, None));
    let times = (config.tls.resume_for, config.tls.warn_before);
    assert_eq!(times, (Duration::from_secs(120), Duration::from_hours(7 * 24)));
    assert_eq!((config.limits.replay_per_link, config.limits.replay), (1 << 20, 2 << 30));
}

#[test]
fn the_keys_of_peers_that_tunnels_need_mean_what_they_say() {
    let loaded = good(ALL_KEYS);
    let config = &loaded.config;
    let sans = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<San>>();
    let [h2, h3, h4] = config.peers.as_slice() else { panic!("{:?}", config.peers) };
    let shown = |connect: &[epmd_guard::config::Connect]| {
        connect.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(&h2.connect), "h2.example.net:4371 h2.example.net:443 [2001:db8::2]:4371");
    assert_eq!(shown(&h3.connect), "192.0.2.3:443");
    assert_eq!(h2.hosts, ["h2.example.net", "192.0.2.2"]);
    assert_eq!(format!("{:?} {:?}", h2.alias, h3.alias), "[127.0.0.12, fd00::12] [127.0.0.13]");
    assert_eq!(h2.identity, sans(&["h2", "h2.example.net", "192.0.2.2"]), "its name and its hosts");
    assert_eq!(h3.identity, sans(&["spiffe://example.net/h3", "192.0.2.3", "h3.example.net"]));
    assert_eq!([h2.tls, h3.tls, h4.tls], [Some(TlsMode::Required), None, Some(TlsMode::Off)]);
    let identities = config.rules().identities;
    let mode = |name: &str| identities.mode_of(identities.peer_of(&sans(&[name])).ok());
    assert_eq!(
        ["h2", "192.0.2.3", "h4", "h9"].map(mode),
        [TlsMode::Required, TlsMode::Optional, TlsMode::Off, TlsMode::Optional]
    );
    assert_eq!(config.nodes.peers[0].hosts, h2.hosts);
    assert!(config.stands_for("127.0.0.13".parse().unwrap()).is_some_and(|peer| peer.name == "h3"));
}

/// A certificate, and a peer that further keys follow.
macro_rules! peer {
    ($keys:literal) => {
        concat!(
            "tls = { cert = \"/a\", key = \"/b\", ca = \"/c\" }\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\n",
            $keys
        )
    };
}

/// `[tls]` with a certificate, before further keys of it.
macro_rules! tls {
    ($keys:literal) => {
        concat!("[tls]\ncert = \"/a\"\nkey = \"/b\"\nca = \"/c\"\n", $keys)
    };
}

const MISTAKES_IN_TLS: &Mistakes = &[
    (
        "[tls]\nlisten = [\"*\"]",
        &[
            "4:10 error [tls] listen: nobody can be answered without a certificate (write cert, key and ca in [tls]: `epmd-guard certs` makes them",
        ],
    ),
    (
        "[tls]\ncert = \"/a\"",
        &[
            "4:8 error [tls] cert: is nothing without key and ca: a certificate, its key and the CA belong together (write key = \"/etc/epmd-guard/tls/host.key\" and ca = \"/etc/epmd-guard/tls/ca.crt\" too)",
        ],
    ),
    (
        "[tls]\ncert = \"\"\nkey = \"/b\"\nca = \"/c\"",
        &[
            "5:7 error [tls] key: is nothing without cert: a certificate, its key and the CA belong together (write cert =",
        ],
    ),
    (
        "[tls]\ncert = \"a.crt\"\nkey = \"/b/\"\nca = 1\ncrl = [\"x\"]",
        &[
            "4:8 error [tls] cert: \"a.crt\" is no absolute path (write the whole path, such as \"/etc/epmd-guard/tls/host.crt\")",
            "4:8 error [tls] cert: is nothing without ca",
            "5:7 error [tls] key: \"/b/\" is a folder",
            "6:6 error [tls] ca: must be a string, is an integer",
            "7:8 error [tls] crl: \"x\" is no absolute path",
        ],
    ),
    (
        "[tls]\ndefault = \"required\"",
        &[
            "4:11 error [tls] default: \"required\" wants a certificate: without one no peer could be reached (write cert, key and ca",
        ],
    ),
    (
        "[tls]\ndefault = \"optional\"\ncrl = \"/crl.pem\"",
        &[
            "4:11 warning [tls] default: \"optional\" has no effect without a certificate",
            "5:7 warning [tls] crl: has no effect without a certificate and a CA",
        ],
    ),
    (
        "[tls]\ndefault = \"on\"\ncrl_missing = \"warn\"\ncrl_stale = true\nlook_every = \"100ms\"\nresume_for = 40\nwarn_before = \"3 weeks ago\"",
        &[
            "4:11 error [tls] default: must be one of \"off\", \"optional\", \"required\", is \"on\"",
            "5:15 error [tls] crl_missing: must be one of \"refuse\", \"accept\", is \"warn\"",
            "6:13 error [tls] crl_stale: must be a string, is a boolean",
            "7:14 error [tls] look_every: \"100ms\" is out of range: 1s to 1d, and 0s for never is possible",
            "8:14 error [tls] resume_for: must be a string such as \"5s\", is an integer (write it with its unit: \"40s\")",
            "9:15 error [tls] warn_before: \"3 weeks ago\" is no duration",
        ],
    ),
    (
        tls!(
            "listen = [\"0.0.0.0\", \"h1\", \"*:4369\", \"127.0.0.1:9568\"]\n[admin]\nlisten = [\"127.0.0.1:9568\"]"
        ),
        &[
            "7:11 error [tls] listen: \"0.0.0.0\" would take loopback from epmd and the nodes too",
            "7:22 error [tls] listen: \"h1\" is no IP address",
            "7:28 error [tls] listen: port 4369 is in [epmd] listen too (write another port)",
            "7:38 error [tls] listen: port 9568 is in [admin] listen too (write another port)",
        ],
    ),
    (
        tls!("listen = [\"*\"]"),
        &[
            "7:10 warning [tls] listen: there is no [[peer]], so that no certificate is anybody's (write a [[peer]]",
        ],
    ),
    (
        tls!(
            "listen = [\"192.0.2.1:9100\"]\ncrl = [\"/d\", \"/d\"]\n[dist]\nports = [9100]\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]"
        ),
        &[
            "8:14 error [tls] crl: /d is in the list twice",
            "10:10 error [dist] ports: 9100 is a port of [tls] listen",
        ],
    ),
    (
        tls!(
            "listen = [\"*:9200\"]\n[[forward]]\nkind = \"tcp\"\nports = 9200\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]"
        ),
        &["10:9 error [[forward]] ports: 9200 is a port of [tls] listen"],
    ),
];

#[test]
fn mistakes_in_tls_are_found() {
    each_yields(MISTAKES_IN_TLS);
}

/// Texts before which nothing stands, since their first line must not be in a section.
fn alone(table: &Mistakes) {
    for (text, expected) in table {
        let found = listed(text);
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.contains(expected), "{text}\n{found:#?}\n{expected}");
        }
    }
}

const MISTAKES_IN_PEERS: &Mistakes = &[
    (
        peer!("connect = [\"h2:0\", \"*\", \"192.0.2.0/24\", \"h2\", \"H2:4371\"]"),
        &[
            "5:11 warning [[peer]] h2 connect: has no effect without an alias: no node of this host comes by this way",
            "5:12 error [[peer]] h2 connect: \"h2:0\" has no possible port",
            "5:20 error [[peer]] h2 connect: \"*\" is no address to dial (write \"h2.example.net\" or an address)",
            "5:25 error [[peer]] h2 connect: \"192.0.2.0/24\" is a network, and a guard is at one host",
            "5:47 error [[peer]] h2 connect: \"H2:4371\" is in the list twice",
        ],
    ),
    (
        peer!(
            "connect = \"h2\"\nalias = [\"127.0.0.1\", \"::1\", \"h2\", \"127.0.0.12:4369\", \"127.0.0.12\", \"127.0.0.12\"]"
        ),
        &[
            "6:10 error [[peer]] h2 alias: \"127.0.0.1\" is where the nodes of this host and their epmd are (write another address of 127.0.0.0/8",
            "6:23 error [[peer]] h2 alias: \"::1\" is where the nodes",
            "6:30 error [[peer]] h2 alias: \"h2\" is no IP address",
            "6:36 error [[peer]] h2 alias: \"127.0.0.12:4369\" has a port (the alias stands for the peer with every port",
            "6:69 error [[peer]] h2 alias: \"127.0.0.12\" is in the list twice",
        ],
    ),
    (
        peer!(
            "hosts = [\"ejabberd@h2\", \"\", \"h2\", \"H2\"]\nidentity = [\"*.example.net\", \"h2:4371\", \"\"]"
        ),
        &[
            "5:10 error [[peer]] h2 hosts: \"ejabberd@h2\" is no host part of a node's name (write what stands behind the @",
            "5:25 error [[peer]] h2 hosts: \"\" is no host part",
            "5:35 error [[peer]] h2 hosts: \"H2\" is in the list twice",
            "6:13 error [[peer]] h2 identity: \"*.example.net\" has a wildcard, and a certificate is known by the whole names",
            "6:30 error [[peer]] h2 identity: \"h2:4371\" is neither a host name, an address nor a URI such as",
            "6:41 error [[peer]] h2 identity: \"\" is empty",
        ],
    ),
    (
        peer!("identity = []\ntls = \"yes\""),
        &[
            "5:12 warning [[peer]] h2 identity: is empty, so that no certificate is this peer's (leave the key out",
            "6:7 error [[peer]] h2 tls: must be one of \"off\", \"optional\", \"required\", is \"yes\"",
        ],
    ),
    (
        peer!("alias = \"127.0.0.12\""),
        &[
            "5:9 error [[peer]] h2 alias: wants to know where this peer is, and there is no connect (write connect =",
        ],
    ),
    (peer!("tls = \"optional\""), &["5:7 error [[peer]] h2 tls: wants to know where this peer is"]),
    (
        "tls = { cert = \"/a\", key = \"/b\", ca = \"/c\", default = \"required\" }\n[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]",
        &[
            "2:1 error [[peer]] h2 tls: wants to know where this peer is, and there is no connect",
            "2:1 warning [[peer]] h2 tls: is \"required\", and no tunnel is taken here: nothing of this peer comes in (write listen",
        ],
    ),
    (
        peer!("connect = \"h2\"\nalias = \"127.0.0.12\"\ntls = \"required\""),
        &[
            "7:7 warning [[peer]] h2 tls: is \"required\", and no tunnel is taken here: nothing of this peer comes in (write listen",
        ],
    ),
    (
        peer!("connect = \"h2\"\nalias = \"127.0.0.12\"\ntls = \"off\""),
        &[
            "6:9 warning [[peer]] h2 alias: goes plain: tls = \"off\" lets no tunnel go to this peer (leave the alias",
        ],
    ),
    (
        peer!("alias = \"127.0.0.12\"\ntls = \"off\""),
        &[
            "5:9 error [[peer]] h2 alias: wants to know where this peer is, and there is no connect (write connect =",
            "5:9 warning [[peer]] h2 alias: goes plain: tls = \"off\" lets no tunnel go to this peer (leave the alias",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nconnect = \"h2\"\nalias = \"127.0.0.12\"\ntls = \"required\"",
        &[
            "5:9 error [[peer]] h2 alias: wants a certificate of this host, and [tls] has none (write cert, key and ca",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nconnect = \"h2\"\ntls = \"required\"",
        &[
            "4:11 warning [[peer]] h2 connect: has no effect without an alias",
            "5:7 error [[peer]] h2 tls: wants a certificate of this host, and [tls] has none",
        ],
    ),
    (
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\nconnect = \"h2\"\ntls = \"optional\"",
        &[
            "4:11 warning [[peer]] h2 connect: has no effect without an alias",
            "5:7 warning [[peer]] h2 tls: wants a certificate of this host, and [tls] has none",
        ],
    ),
    (
        peer!(
            "connect = \"h2\"\nhosts = \"h2.test\"\nalias = \"127.0.0.12\"\n[[peer]]\nname = \"h3\"\naddresses = [\"h3\"]\nconnect = \"h3\"\nhosts = \"H2.test\"\nalias = \"127.0.0.12\"\nidentity = \"h3\""
        ),
        &[
            "12:9 error [[peer]] h3 hosts: h2.test is that of h2 (line 2) too: who is it? (it can stand for one peer alone",
            "13:9 error [[peer]] h3 alias: 127.0.0.12 is that of h2 (line 2) too: who is it?",
        ],
    ),
    (
        peer!("[[peer]]\nname = \"h3\"\naddresses = [\"h3\"]\nidentity = [\"h3\", \"H2\"]"),
        &[
            "8:12 error [[peer]] h3 identity: h2 is an identity of h2 (line 2) too: who is it? (a certificate is one",
        ],
    ),
    (
        peer!("[[peer]]\nname = \"h3\"\naddresses = [\"h3\"]\nhosts = \"h2\""),
        &["8:9 error [[peer]] h3 identity: h2 is an identity of h2 (line 2) too: who is it?"],
    ),
    // Without certificates it does not matter.
    ("[[peer]]\nname = \"h2\"\naddresses = [\"h2\"]\n[[peer]]\nname = \"H2\"\naddresses = [\"h3\"]", &[]),
];

/// An alias that is something else, too.
const MISTAKES_IN_ALIASES: &Mistakes = &[
    (
        peer!(
            "connect = \"h2\"\nalias = [\"127.0.0.2\", \"127.0.0.3\", \"127.0.0.4\", \"127.0.0.5\", \"192.0.2.1\", \"127.0.0.6\", \"127.0.0.7\"]\n\
             [epmd]\nlisten = [\"127.0.0.2\", \"192.0.2.9\"]\nbackend = \"127.0.0.3\"\n[dist]\nlisten = [\"192.0.2.1\"]\n\
             backend = \"127.0.0.4\"\n[admin]\nlisten = [\"127.0.0.5:9568\"]\n[[forward]]\nkind = \"tcp\"\nports = 5370\n\
             listen = [\"192.0.2.9\"]\nbackend = \"127.0.0.6\""
        ),
        &[
            "6:10 error [[peer]] h2 alias: 127.0.0.2 is in [epmd] listen too (an alias stands for the peer with every port",
            "6:23 error [[peer]] h2 alias: 127.0.0.3 is in [epmd] backend too",
            "6:36 error [[peer]] h2 alias: 127.0.0.4 is in [dist] backend too",
            "6:49 error [[peer]] h2 alias: 127.0.0.5 is in [admin] listen too",
            "6:62 error [[peer]] h2 alias: 192.0.2.1 is in [dist] listen too",
            "6:75 error [[peer]] h2 alias: 127.0.0.6 is in [[forward]] backend too",
        ],
    ),
    (
        "[tls]\ncert = \"/a\"\nkey = \"/b\"\nca = \"/c\"\nlisten = [\"192.0.2.1\"]\n[cluster]\nallow = [\"fd00::12\"]\n\
         [[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"127.0.0.12\"]\nconnect = [\"h2\", \"127.0.0.12:4371\", \"192.0.2.1\"]\n\
         alias = [\"127.0.0.12\", \"fd00::12\", \"192.0.2.1\"]",
        &[
            "7:10 error [cluster] allow: fd00::12 is the alias of h2, an address of this host (write the address that the other host has",
            "10:20 error [[peer]] h2 addresses: 127.0.0.12 is the alias of h2, an address of this host",
            "11:11 error [[peer]] h2 connect: 127.0.0.12 is the alias of h2",
            "11:11 error [[peer]] h2 connect: 192.0.2.1 is in [tls] listen too: the guard would dial itself",
            "11:11 error [[peer]] h2 connect: 192.0.2.1 is the alias of h2",
            "12:36 error [[peer]] h2 alias: 192.0.2.1 is in [tls] listen too",
        ],
    ),
];

#[test]
fn mistakes_in_the_way_to_a_peer_are_found() {
    alone(MISTAKES_IN_PEERS);
    alone(MISTAKES_IN_ALIASES);
}

const MISTAKES_IN_SIZES: &Mistakes = &[
    (
        "[limits]\nreplay_per_link = 4\nreplay = \"4\"",
        &[
            "4:19 error [limits] replay_per_link: must be a string such as \"4MiB\", is an integer (write it with its unit: \"4MiB\")",
            "5:10 error [limits] replay: \"4\" has no unit (write it with its unit: \"4MiB\")",
        ],
    ),
    (
        "[limits]\nreplay_per_link = \"512KiB\"\nreplay = \"4 MB\"",
        &[
            "4:19 error [limits] replay_per_link: \"512KiB\" is out of range: 1MiB to 1GiB is possible",
            "5:10 error [limits] replay: \"4 MB\" is no size (write a whole number and its unit, such as \"512KiB\", \"4MiB\"",
        ],
    ),
    (
        "[limits]\nreplay = \"2MiB\"",
        &[
            "4:10 warning [limits] replay_per_link: 4MiB is more than replay (2MiB), so a link never gets as much",
        ],
    ),
];

#[test]
fn mistakes_in_sizes_are_found() {
    each_yields(MISTAKES_IN_SIZES);
    assert!(listed(&format!("{ALLOW}[limits]\nreplay = \"1TiB\""))[0].contains("is no size"));
}
