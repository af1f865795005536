//! The configuration, through the public API: the shipped files, each kind of mistake, and texts
//! that nobody meant to write.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of them"
)]

#[path = "config/forward.rs"]
mod forward;
#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/speakers.rs"]
mod speakers;
#[path = "config/survival.rs"]
mod survival;
#[path = "config/tunnels.rs"]
mod tunnels;

use std::path::Path;
use std::time::{Duration, Instant};

use epmd_guard::config::{
    Color, CommandCheck, Config, Delta, EpmdBackend, Files, ListenOn, LoadError, Loaded, LogFormat,
    MAX_BYTES, Overrides, defaults, from_text, from_text_with, load,
};
use epmd_guard::policy::{List, NamePatterns, PeerId, PortRule, Reach, SelfAt, StopRule};
use epmd_guard::proto::epmd::AliveName;

const SHIPPED: &str = include_str!("../config/epmd-guard.toml");
const ONLY_SELF: &str = "[cluster] allow: is empty: only this host itself may connect";

fn read(text: &str) -> Result<Loaded, LoadError> {
    from_text("test.toml", text, &Overrides::default())
}

fn good(text: &str) -> Loaded {
    read(text).unwrap_or_else(|error| panic!("{}", error.render(Color::Plain)))
}

/// The ports that a configuration lists; those within which registered ones are offered, and where.
fn ports_of(config: &Config) -> String {
    match &config.dist.rules.ports {
        PortRule::Listed(ports) => ports.to_string(),
        PortRule::Registered { range, outside: None } => format!("registered in {range}"),
        PortRule::Registered { range, outside: Some(outside) } => {
            format!("registered in {range}, offered at {outside}")
        }
    }
}

/// The rules of a configuration, as the log names them.
fn rules_of(config: &Config) -> Vec<String> {
    config.cluster.network.book().iter().map(|(_, rule)| rule.to_string()).collect()
}

/// How a configuration looks, but for the lines in which things stand.
fn shown(config: &Config) -> String {
    let text = format!("{config:?}");
    let mut parts = text.split("line: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn ports(loaded: &Loaded) -> String {
    ports_of(&loaded.config)
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|problem| problem.message.as_str()).collect()
}

/// The lines of the shipped file, and whether each belongs to the example of a peer.
fn shipped() -> impl Iterator<Item = (Example, &'static str)> {
    let mut within = Example::No;
    SHIPPED.lines().map(move |line| {
        if line.starts_with("#[[") {
            within = Example::Yes;
        } else if line.starts_with('[') {
            within = Example::No;
        }
        (within, line)
    })
}

/// Whether a line shows what there is none of by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Example {
    No,
    Yes,
}

/// The shipped file, with the keys and headers that are `wanted` without their `#`.
fn uncommented(wanted: impl Fn(usize, Example) -> bool) -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let lines = shipped().enumerate().map(|(at, (example, line))| {
        if is_key(line) && wanted(at, example) { line.trim_start_matches('#') } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_holds_the_defaults() {
    let default = defaults(&Overrides::default()).config;
    assert_eq!(format!("{:?}", good("").config), format!("{default:?}"));
    let all = uncommented(|_, example| example == Example::No);
    assert!(all.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count() > 20);
    let each = (0..SHIPPED.lines().count())
        .map(|at| uncommented(move |line, example| line == at && example == Example::No));
    for text in each.chain([SHIPPED.to_owned(), all]) {
        let loaded = good(&text);
        assert_eq!(warnings(&loaded), [ONLY_SELF], "{text}");
        assert_eq!(shown(&loaded.config), shown(&default), "{text}");
        assert_eq!(Delta::between(&default, &loaded.config), Delta::default(), "{text}");
    }
}

#[test]
fn the_examples_of_a_peer_and_of_a_cookie_in_the_shipped_file_can_be_used() {
    let text = uncommented(|_, example| example == Example::Yes);
    // The cookie's file is not here.
    let loaded = from_text_with("test.toml", &text, &Overrides::default(), Files::Leave).unwrap();
    assert_eq!(warnings(&loaded), [""; 0]);
    let line = |key: &str| 1 + SHIPPED.lines().position(|line| line.starts_with(key)).unwrap();
    let peers: Vec<_> = loaded.config.peers.iter().map(|peer| (peer.name.as_str(), peer.line)).collect();
    assert_eq!(peers, [("h2", u32::try_from(line("#[[peer]]")).unwrap())]);
    let rule = format!("[[peer]] addresses h2.example.net (line {})", line("#addresses"));
    assert_eq!(rules_of(&loaded.config), [rule]);
    assert_eq!(loaded.config.cookie_files.each, [Path::new("/etc/epmd-guard/cookie.web")]);
    assert!(loaded.config.cookies.is_empty());
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = defaults(&Overrides::default()).config;
    assert_eq!(config.cluster.resolve_every, Duration::from_secs(30));
    assert!(config.peers.is_empty());
    assert_eq!(config.epmd.listen, [(ListenOn::Everywhere, 4369)]);
    assert_eq!(config.epmd.backend, EpmdBackend::Embedded);
    assert!(config.epmd.register_from.is_empty());
    assert_eq!(config.epmd.command_check, CommandCheck::Strict);
    assert_eq!((&config.epmd.self_at, &config.dist.self_at), (&SelfAt::Everywhere, &SelfAt::Everywhere));
    assert_eq!(config.dist.listen, [ListenOn::Everywhere]);
    assert_eq!(ports_of(&config), "registered in 1024-4368, 4370-65535");
    assert_eq!(config.dist.rules.names, NamePatterns::default());
    assert_eq!(format!("{:?}", config.dist.backend), "[127.0.0.1, ::1]");
    let limits = config.limits;
    assert_eq!((limits.connections, limits.reserve), (None, 64));
    assert_eq!((limits.per_address, limits.per_subnet, limits.names), (512, 2048, 16_384));
    assert_eq!(limits.request_timeout, Duration::from_secs(5));
    assert_eq!(limits.backend_timeout, Duration::from_secs(5));
    assert_eq!(limits.half_close_timeout, Duration::from_secs(300));
    assert_eq!(config.admin.socket.as_deref(), Some(Path::new("/run/epmd-guard/admin.sock")));
    assert_eq!((config.admin.group, config.admin.reload_may_cut), (None, 0));
    assert!(config.admin.listen.is_empty());
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, tracing::Level::INFO));
}

#[test]
fn the_examples_load_without_a_warning() {
    let front = load(Path::new("config/examples/front.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&front), [""; 0]);
    assert_eq!(front.render_warnings(Color::Plain), "");
    assert_eq!(front.config.epmd.listen.len(), 2);
    assert_eq!(front.config.epmd.backend, EpmdBackend::At("127.0.0.1:4369".parse().unwrap()));
    assert_eq!(front.config.dist.listen.len(), 2, "taken over from [epmd]");
    assert_eq!(ports(&front), "registered in 1024-4368, 4370-65535");
    assert_eq!(front.config.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["h2", "h3"]);
    let single = load(Path::new("config/examples/single-port.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&single), [""; 0]);
    assert!(single.config.epmd.listen.is_empty());
    assert_eq!(ports(&single), "5210");
    assert_eq!(single.config.log.format, LogFormat::Json);
    let tunnel = load(Path::new("config/examples/tunnel.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&tunnel), [""; 0]);
    let aliases = tunnel.config.peers.iter().map(|peer| format!("{:?}", peer.alias));
    assert_eq!(aliases.collect::<Vec<_>>(), ["[127.0.0.12]", "[127.0.0.13]"]);
    assert_eq!((tunnel.config.tls.listen.len(), tunnel.config.requires_tls()), (2, true));
    let embedded = load(Path::new("config/examples/embedded.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&embedded), [""; 0]);
    let allow = [11, 12].map(|host| Overrides { allow: vec![format!("192.0.2.{host}").parse().unwrap()] });
    let default = defaults(&Overrides { allow: allow.into_iter().flat_map(|all| all.allow).collect() });
    assert_eq!(
        Delta::between(&default.config, &embedded.config),
        Delta::default(),
        "all else is the default"
    );
}

#[test]
fn a_full_file_means_what_it_says() {
    let loaded = good(
        r#"
cluster.allow = ["192.0.2.0/24", "H2.example.net."]
[epmd]
listen = ["*:4370", "[2001:db8::1]:4369", "::ffff:192.0.2.1"]
backend = "::1"
[dist]
ports = [9100, "9101-9105", 0x23f0]
backend = "::1"
[limits]
connections = 1_000
reserve = 0
half_close_timeout = "1h 30m"
[admin]
socket = ""
listen = ["127.0.0.1:9568", "[::1]:9568"]
reload_may_cut = 3
[log]
level = "trace"
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = loaded.config;
    let ip = |text: &str| ListenOn::Ip(text.parse().unwrap());
    let listen = [(ListenOn::Everywhere, 4370), (ip("2001:db8::1"), 4369), (ip("192.0.2.1"), 4369)];
    assert_eq!(config.epmd.listen, listen);
    assert_eq!(config.epmd.backend, EpmdBackend::At("[::1]:4369".parse().unwrap()));
    assert_eq!(config.dist.listen, [ListenOn::Everywhere, ip("2001:db8::1"), ip("192.0.2.1")]);
    assert_eq!(ports_of(&config), "9100-9105, 9200");
    assert_eq!(config.limits.connections, Some(1000));
    assert_eq!(config.limits.half_close_timeout, Duration::from_secs(5400));
    assert_eq!(config.admin.socket, None);
    assert_eq!(format!("{:?}", config.admin.listen), "[127.0.0.1:9568, [::1]:9568]");
    assert_eq!(config.admin.reload_may_cut, 3);
    assert_eq!(rules_of(&config), ["allow 192.0.2.0/24 (line 2)", "allow h2.example.net (line 2)"]);
}

/// What a peer of a configuration may reach, of some names.
fn reached<'n>(reach: &Reach, names: &[&'n str]) -> Vec<&'n str> {
    let is_there =
        |name: &&str| AliveName::new(name.as_bytes()).is_ok_and(|name| reach.covers(Some(&name.into())));
    names.iter().copied().filter(is_there).collect()
}

#[test]
fn the_keys_of_the_embedded_epmd_mean_what_they_say() {
    let loaded = good(
        r#"
[epmd]
listen = ["192.0.2.1", "127.0.0.1:4370"]
backend = "embedded"
register_from = ["172.17.0.0/16", "::ffff:192.0.2.9", "2001:db8:1::/48"]
relaxed_command_check = true
self = ["192.0.2.1", "::ffff:127.0.0.1", "::1", "127.0.1.1"]
[dist]
self = "none"
[limits]
names = 10
[[peer]]
name = "h2"
addresses = ["h2"]
may_reach = ["ejabberd", "web-*", "!web-9"]
[[peer]]
name = "h3"
addresses = ["h3"]
[[peer]]
name = "h4"
may_reach = ["*"]
addresses = ["h4"]
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let Config { epmd, dist, peers, .. } = &loaded.config;
    assert_eq!(epmd.backend, EpmdBackend::Embedded);
    let networks: Vec<_> = epmd.register_from.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["172.17.0.0/16", "192.0.2.9/32", "2001:db8:1::/48"]);
    assert_eq!(epmd.command_check, CommandCheck::Relaxed);
    let ips = ["127.0.0.1", "127.0.1.1", "192.0.2.1", "::1"].map(|ip| ip.parse().unwrap());
    assert_eq!(epmd.self_at, SelfAt::Only(ips.into()));
    assert_eq!(dist.self_at, SelfAt::Only(Vec::new()));
    assert_eq!(loaded.config.limits.names, 10);
    let names = ["ejabberd", "web-1", "web-9", "abc-ping"];
    assert_eq!(reached(&peers[0].may_reach, &names), ["ejabberd", "web-1"]);
    assert_eq!(peers[1].may_reach, Reach(None));
    assert_eq!(reached(&peers[2].may_reach, &names), names, "the default of [dist] names is no part of it");
    let lines: Vec<_> =
        peers[0].may_reach.0.iter().flat_map(NamePatterns::iter).map(|(_, line)| line).collect();
    assert_eq!(lines, [15, 15, 15]);
    assert_eq!(peers[2].may_reach.0.iter().flat_map(NamePatterns::iter).next().unwrap().1, 21);

    let rules = loaded.config.rules();
    assert_eq!(rules.epmd.stop, StopRule::Relaxed);
    assert!(rules.epmd.may_register("172.17.3.4".parse().unwrap()));
    assert!(!rules.epmd.may_register("172.18.0.1".parse().unwrap()));
    assert_eq!(rules.reach.len(), 3);
    assert_eq!(good("").config.rules().epmd.stop, StopRule::Never);
    assert_eq!(good("[epmd]\nbackend = \"127.0.0.1\"").config.rules().epmd.stop, StopRule::Behind);
}

#[test]
fn the_nodes_ports_know_this_host_where_epmd_does_unless_told_otherwise() {
    let at = |text: &str| {
        let config = good(text).config;
        (config.epmd.self_at, config.dist.self_at)
    };
    let loopback = SelfAt::Only(vec!["127.0.0.1".parse().unwrap()]);
    let inherited = at("epmd.self = [\"127.0.0.1\"]");
    assert_eq!(inherited, (loopback.clone(), loopback.clone()));
    let apart = at("epmd.self = [\"127.0.0.1\"]\ndist.self = \"all\"");
    assert_eq!(apart, (loopback, SelfAt::Everywhere));
    assert_eq!(at("epmd.self = []"), at("epmd.self = \"none\""));
}

#[test]
fn the_addresses_of_peers_stand_between_allow_and_deny() {
    let text = r#"
[[peer]]
name = "h2"
addresses = ["192.0.2.2", "h2.example.net"]
[[peer]]
name = "h-3.x_y"
addresses = [
  "2001:db8:3::/64",
]
[cluster]
allow = ["192.0.2.0/24", "192.0.2.2"]
deny = ["192.0.2.1"]
"#;
    let overrides = Overrides { allow: vec!["192.0.2.9".parse().unwrap()] };
    let loaded = from_text("t", text, &overrides).unwrap();
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = &loaded.config;
    let expected = [
        "allow 192.0.2.0/24 (line 11)",
        "allow 192.0.2.2 (line 11)",
        "--allow 192.0.2.9",
        "[[peer]] addresses 192.0.2.2 (line 4)",
        "[[peer]] addresses h2.example.net (line 4)",
        "[[peer]] addresses 2001:db8:3::/64 (line 8)",
        "deny 192.0.2.1 (line 12)",
    ];
    assert_eq!(rules_of(config), expected);
    let ids: Vec<_> = config.cluster.network.book().iter().filter_map(|(_, rule)| rule.peer).collect();
    assert_eq!(ids, [PeerId(0), PeerId(0), PeerId(1)]);
    let peers: Vec<_> = config.peers.iter().map(|peer| (peer.name.as_str(), peer.line)).collect();
    assert_eq!(peers, [("h2", 2), ("h-3.x_y", 5)]);
}

#[test]
fn registered_ports_lie_within_their_range_and_never_at_epmds_or_the_guards_own() {
    let text = r#"
[cluster]
allow = ["192.0.2.0/24"]
[epmd]
listen = ["*:4370"]
backend = "127.0.0.1:4371"
[dist]
ports = "registered"
range = ["4000-5000", 65535]
outside = [20000, "20001-20009"]
names = [
  "!b*",
  "*",
]
[admin]
listen = ["127.0.0.1:4400"]
"#;
    let loaded = good(text);
    assert_eq!(warnings(&loaded), [""; 0]);
    let rules = &loaded.config.dist.rules;
    let range = "4000-4368, 4372-4399, 4401-5000, 65535";
    assert_eq!(ports(&loaded), format!("registered in {range}, offered at 20000-20009"));
    let names: Vec<_> = rules.names.iter().map(|(pattern, line)| format!("{pattern} {line}")).collect();
    assert_eq!(names, ["* 13", "!b* 12"]);
    assert!(rules.names.judge(b"a").is_offered() && !rules.names.judge(b"b1").is_offered());
    assert!(rules.names.judge(b"abc-ping").is_offered(), "the default is replaced");
    assert_eq!(ports(&good("[dist]\nports = []")), "");
}

#[test]
fn the_command_line_adds_rules_of_line_0() {
    let overrides = Overrides { allow: vec!["192.0.2.9".parse().unwrap()] };
    let loaded = from_text("t", "[cluster]\ndeny = [\"192.0.2.9\"]", &overrides).unwrap();
    let ip = "192.0.2.9".parse().unwrap();
    let network = &loaded.config.cluster.network;
    let rule = network.book().get(network.find(List::Allow, ip).unwrap()).unwrap();
    assert_eq!(rule.to_string(), "--allow 192.0.2.9");
    assert_eq!(warnings(&loaded), ["--allow: 192.0.2.9 can never match: 192.0.2.9/32 is denied (line 2)"]);
    assert!(defaults(&overrides).warnings.is_empty());
    let everybody = Overrides { allow: vec!["::/0".parse().unwrap()] };
    assert_eq!(warnings(&defaults(&everybody)), ["--allow: ::/0 lets everybody in"]);
}

#[test]
fn three_mistakes_are_drawn_as_rustc_draws_them() {
    let text =
        "[cluster]\nallow = [\"192.0.2.7/24\"]\n\n[dist]\nport = 9100\nports = [9100, \"9205-9200\"]\n";
    let Err(error) = from_text("/etc/epmd-guard/epmd-guard.toml", text, &Overrides::default()) else {
        panic!("must be refused");
    };
    assert_eq!(error.to_string(), "/etc/epmd-guard/epmd-guard.toml has 3 errors");
    let shown = error.render(Color::Plain);
    println!("{shown}\n{}", error.render(Color::Ansi));
    let expected = "\
error: [dist] ports: 9205-9200 runs backwards
 --> /etc/epmd-guard/epmd-guard.toml:6:16
  |
6 | ports = [9100, \"9205-9200\"]
  |                ^^^^^^^^^^^
  |
  = help: write \"9200-9205\"

3 errors
";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let missing = load(&path, &Overrides::default()).unwrap_err();
    assert!(matches!(missing, LoadError::Read { .. }));
    assert!(
        missing
            .render(Color::Plain)
            .contains("x.toml: create it, or name another file with --config: No such file")
    );
    let closed = LoadError::Read { path: path.clone(), source: std::io::ErrorKind::PermissionDenied.into() };
    assert!(closed.to_string().contains("x.toml: let the user that epmd-guard runs as read the file"));
    assert!(matches!(load(dir.path(), &Overrides::default()), Err(LoadError::Read { .. })));
    std::fs::write(&path, b"# good\n# \xff\n").unwrap();
    let binary = load(&path, &Overrides::default()).unwrap_err();
    assert!(matches!(binary, LoadError::NotUtf8 { offset: 9, line: 2, .. }), "{binary:?}");
    std::fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    let large = load(&path, &Overrides::default()).unwrap_err();
    assert!(matches!(large, LoadError::TooLarge { .. }), "{large:?}");
    assert!(large.to_string().ends_with("x.toml is larger than the 64 MiB that are read"));
}

#[test]
fn a_long_allowlist_loads_with_the_line_of_each_rule() {
    const COUNT: u32 = 200_000;
    let mut text = "[cluster]\nallow = [\n".to_owned();
    for at in 0..COUNT {
        let ip = std::net::Ipv4Addr::from_bits((11 << 24) + at * 16);
        text.push_str(&format!("  \"{ip}/28\",\n"));
    }
    // In one line, where looking for the start of the line must not begin anew each time.
    text.push_str("]\ndeny = [");
    for at in 0..COUNT {
        let ip = std::net::Ipv4Addr::from_bits((11 << 24) + at * 16 + 3);
        text.push_str(&format!("\"{ip}\", "));
    }
    text.push_str("]\n");
    let start = Instant::now();
    let loaded = good(&text);
    println!("{COUNT} networks and as many addresses: {:?}", start.elapsed());
    assert_eq!(warnings(&loaded), [""; 0]);
    let network = &loaded.config.cluster.network;
    let rule = network.find(List::Allow, std::net::Ipv4Addr::from_bits((11 << 24) + 5).into()).unwrap();
    assert_eq!(network.book().get(rule).unwrap().line, 3);
    let last = std::net::Ipv4Addr::from_bits((11 << 24) + (COUNT - 1) * 16 + 3).into();
    let rule = network.find(List::Deny, last).unwrap();
    assert_eq!(network.book().get(rule).unwrap().line, 2 + COUNT + 2);
}
