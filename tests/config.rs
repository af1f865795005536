//! The configuration, through the public API: the shipped files, each kind of mistake, and texts
//! that nobody meant to write.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "helpers of tests, outside of them")]

#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/survival.rs"]
mod survival;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use epmd_guard::config::{
    Color, ListenOn, LoadError, Loaded, LogFormat, MAX_BYTES, Overrides, defaults, from_text, load,
};
use epmd_guard::policy::List;

const SHIPPED: &str = include_str!("../config/epmd-guard.toml");
const ONLY_SELF: &str = "[cluster] allow: is empty: only this host itself may connect";

fn read(text: &str) -> Result<Loaded, LoadError> {
    from_text("test.toml", text, &Overrides::default())
}

fn good(text: &str) -> Loaded {
    read(text).unwrap_or_else(|error| panic!("{}", error.render(Color::Plain)))
}

fn warnings(loaded: &Loaded) -> Vec<&str> {
    loaded.warnings.iter().map(|problem| problem.message.as_str()).collect()
}

/// What the file says apart from the key lines of `line`, which lose their `#`.
fn uncommented(wanted: impl Fn(usize) -> bool) -> String {
    let is_key = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let lines = SHIPPED
        .lines()
        .enumerate()
        .map(|(at, line)| if is_key(line) && wanted(at) { line.trim_start_matches('#') } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_holds_the_defaults() {
    let default = format!("{:?}", defaults(&Overrides::default()).config);
    assert_eq!(format!("{:?}", good("").config), default);
    let all = uncommented(|_| true);
    assert!(all.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count() > 15);
    let each = (0..SHIPPED.lines().count()).map(|at| uncommented(move |line| line == at));
    for text in each.chain([SHIPPED.to_owned(), all]) {
        let loaded = good(&text);
        assert_eq!(warnings(&loaded), [ONLY_SELF], "{text}");
        assert_eq!(format!("{:?}", loaded.config), default, "{text}");
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = defaults(&Overrides::default()).config;
    assert_eq!(config.cluster.resolve_every, Duration::from_secs(30));
    assert_eq!(config.epmd.listen, [(ListenOn::Everywhere, 4369)]);
    assert_eq!(config.epmd.backend, "127.0.0.1:4369".parse::<SocketAddr>().unwrap());
    assert_eq!(config.dist.listen, [ListenOn::Everywhere]);
    assert!(config.dist.ports.is_empty());
    assert_eq!(format!("{:?}", config.dist.backend), "[127.0.0.1, ::1]");
    let limits = config.limits;
    assert_eq!((limits.connections, limits.reserve), (None, 64));
    assert_eq!((limits.per_address, limits.per_subnet), (512, 2048));
    assert_eq!(limits.request_timeout, Duration::from_secs(5));
    assert_eq!(limits.backend_timeout, Duration::from_secs(5));
    assert_eq!(limits.half_close_timeout, Duration::from_secs(300));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, tracing::Level::INFO));
}

#[test]
fn the_examples_load_without_a_warning() {
    let front = load(Path::new("config/examples/front.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&front), [""; 0]);
    assert_eq!(front.render_warnings(Color::Plain), "");
    assert_eq!(front.config.epmd.listen.len(), 2);
    assert_eq!(front.config.dist.listen.len(), 2, "taken over from [epmd]");
    assert_eq!(front.config.dist.ports.to_string(), "9100-9105");
    let single = load(Path::new("config/examples/single-port.toml"), &Overrides::default()).unwrap();
    assert_eq!(warnings(&single), [""; 0]);
    assert!(single.config.epmd.listen.is_empty());
    assert_eq!(single.config.dist.ports.to_string(), "5210");
    assert_eq!(single.config.log.format, LogFormat::Json);
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
[log]
level = "trace"
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = loaded.config;
    let ip = |text: &str| ListenOn::Ip(text.parse().unwrap());
    let listen = [(ListenOn::Everywhere, 4370), (ip("2001:db8::1"), 4369), (ip("192.0.2.1"), 4369)];
    assert_eq!(config.epmd.listen, listen);
    assert_eq!(config.epmd.backend.to_string(), "[::1]:4369");
    assert_eq!(config.dist.listen, [ListenOn::Everywhere, ip("2001:db8::1"), ip("192.0.2.1")]);
    assert_eq!(config.dist.ports.to_string(), "9100-9105, 9200");
    assert_eq!(config.limits.connections, Some(1000));
    assert_eq!(config.limits.half_close_timeout, Duration::from_secs(5400));
    let rules: Vec<_> = config.cluster.network.book().iter().map(|(_, rule)| rule.to_string()).collect();
    assert_eq!(rules, ["allow 192.0.2.0/24 (line 2)", "allow h2.example.net (line 2)"]);
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
