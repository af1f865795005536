//! What comes out is a configuration, and lets in what came up.

use std::time::Duration;

use proptest::prelude::*;

use super::group::full_name;
use super::*;
use crate::config::from_text;
use crate::policy::{Denial, Moment};
use crate::proto::dist::{Claim, Claimed, HostPart, Version};

/// What nodes of OTP 25 to 27 can do.
const USUAL: Flags = Flags(0xd_07df_7fbd);
const HIDDEN: Flags = Flags(0xd_07df_7fbc);

/// A cluster that lets two networks in and knows two hosts by name.
const FILE: &str = r#"
[cluster]
allow = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64"]
[[peer]]
name = "h2"
addresses = ["192.0.2.2"]
may_reach = ["ejabberd"]
[[peer]]
name = "h3"
addresses = ["192.0.2.3"]
nodes = ["c*@h3.test", "!cx@h3.test"]
"#;

fn came_up(ip: &str, claimed: &str) -> Observation {
    Observation {
        ip: ip.parse().unwrap(),
        claimed: claimed.to_owned(),
        flags: USUAL,
        version: Version::V6,
        denial: None,
        up: 3,
        failed: 0,
        last: Moment(1_000),
    }
}

fn failed(ip: &str, claimed: &str, denial: Option<Denial>) -> Observation {
    Observation { up: 0, failed: 2, denial, ..came_up(ip, claimed) }
}

fn config(text: &str) -> Config {
    from_text("f.toml", text, &Default::default())
        .unwrap_or_else(|error| panic!("{}\n{text}", error.render(crate::config::Color::Plain)))
        .config
}

fn lesson(file: &str, seen: &[Observation]) -> String {
    let config = config(file);
    let policy = Policy::new(config.rules());
    let own = ["192.0.2.1".parse().unwrap()];
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let account = Account { since: Some(since), handshakes: 7, forgotten: 0, mode: Mode::Observe };
    rules(&Lesson { seen, config: &config, policy: &policy, own: &own, account })
}

/// The text without comments.
fn bare(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect()
}

/// Whether the text, as a configuration of its own, lets the node in.
fn judge(text: &str, seen: &Observation) -> Result<Mode, Denial> {
    judge_by(&Policy::new(config(text).rules()), seen)
}

fn judge_by(policy: &Policy, seen: &Observation) -> Result<Mode, Denial> {
    let rule = policy.find(List::Allow, seen.ip).and_then(|rule| policy.rule(rule));
    let peer = rule.ok_or(Denial::NotAllowed)?.peer;
    let claimed = match full_name(seen) {
        Some(name) => Claimed::Name(name),
        None => Claimed::Dynamic(HostPart::new(&seen.claimed.as_bytes()[2..]).unwrap()),
    };
    let claim = Claim { claimed, flags: seen.flags, version: seen.version, creation: Some(1) };
    policy.nodes().judge(peer, &claim)?;
    Ok(policy.mode())
}

#[test]
fn a_host_that_is_none_of_the_peers_becomes_one() {
    let seen = [
        came_up("192.0.2.4", "ejabberd@h4.test"),
        came_up("192.0.2.4", "abc-ctl-ejabberd@h4.test"),
        came_up("192.0.2.4", "xyz-ctl-ejabberd@h4.test"),
        came_up("2001:db8::4", "ejabberd@h4.test"),
        // This host itself.
        came_up("192.0.2.1", "tool@h1.test"),
        came_up("127.0.0.1", "tool@h1.test"),
        failed("203.0.113.9", "evil@h4.test", Some(Denial::WrongCookie)),
        failed("192.0.2.9", "late@h9.test", None),
    ];
    let text = lesson(FILE, &seen);
    let expected = [
        "[[peer]]",
        "name = \"h4.test\"",
        "addresses = [\"192.0.2.4\", \"2001:db8::4\"]",
        "nodes = [\"???-ctl-ejabberd@h4.test\", \"ejabberd@h4.test\"]",
        "[cluster]",
        "mode = \"enforce\"",
        "nodes = []",
        "hidden_nodes = \"deny\"",
        "min_handshake = 6",
    ];
    assert_eq!(bare(&text), expected, "{text}");
    for told in [
        "since 1970-01-02T00:00:00Z, 7 handshakes; the mode is\n# observe now",
        "# seen, but no link came up: evil@h4.test from 203.0.113.9 (2 times, wrong_cookie)",
        "# seen, but no link came up: late@h9.test from 192.0.2.9 (2 times, the node said no, or an end left it)",
        "# Nothing came from these of [cluster] allow; give each host of theirs the nodes that it may be:\n#   allow 198.51.100.0/24 (line 3)",
        "#   h2 (line 4), and has no nodes of its own: it may claim none then\n#   h3 (line 8)\n",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    for seen in &seen[..4] {
        assert_eq!(judge(&text, seen), Ok(Mode::Enforce), "{seen:?}: {text}");
    }
    assert!(!text.contains("tool@"), "{text}");
}

#[test]
fn a_peer_keeps_what_is_written_and_gets_what_is_missing() {
    let seen = [
        came_up("192.0.2.2", "ejabberd@h2.test"),
        // The same host by its other address.
        came_up("2001:db8::2", "ejabberd@h2.test"),
        Observation { flags: HIDDEN, ..came_up("192.0.2.3", "cx@h3.test") },
        Observation { flags: Flags(HIDDEN.0 | Flags::NAME_ME.0), ..came_up("192.0.2.3", "?@h3.test") },
        Observation { version: Version::V5, ..came_up("192.0.2.3", "c1@h3.test") },
    ];
    let text = lesson(FILE, &seen);
    let expected = [
        "[[peer]]",
        "name = \"h2\"",
        "addresses = [\"192.0.2.2\", \"2001:db8::2\"]",
        "may_reach = [\"ejabberd\"]",
        "nodes = [\"ejabberd@h2.test\"]",
        "[[peer]]",
        "name = \"h3\"",
        "addresses = [\"192.0.2.3\"]",
        "nodes = [\"c*@h3.test\"]",
        "hidden_nodes = \"allow\"",
        "dynamic_nodes = \"allow\"",
        "[cluster]",
        "mode = \"enforce\"",
        "nodes = []",
        "hidden_nodes = \"deny\"",
    ];
    assert_eq!(bare(&text), expected, "{text}");
    for told in [
        "# In the place of [[peer]] h2 (line 4).\n# New addresses, where the same names were seen: 2001:db8::2.\n",
        "# add to [[peer]] h2: nodes = [\"ejabberd@h2.test\"]\n",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    for seen in &seen {
        assert_eq!(judge(&text, seen), Ok(Mode::Enforce), "{seen:?}: {text}");
    }
}

#[test]
fn whoever_claims_the_name_of_a_peer_is_taken_for_it_and_two_peers_stay_two() {
    let seen =
        [came_up("192.0.2.7", "c7@h3.test"), came_up("192.0.2.2", "both@h"), came_up("192.0.2.3", "both@h")];
    let text = lesson(FILE, &seen);
    assert!(text.contains("addresses = [\"192.0.2.3\", \"192.0.2.7\"]"), "{text}");
    assert!(text.contains("# both@h is a node of h2 too and left to that: who is it?\n"), "{text}");
    assert_eq!(judge(&text, &seen[0]), Ok(Mode::Enforce));
    assert_eq!(judge(&text, &seen[1]), Ok(Mode::Enforce));
    assert_eq!(judge(&text, &seen[2]), Err(Denial::NodeName), "a name is one peer's");
}

#[test]
fn flags_that_not_all_have_are_not_required_any_more() {
    let file = "[cluster]\nallow = [\"192.0.2.0/24\"]\nrequire_flags = [\"SPAWN\", \"NATIVE_RECORDS\"]\n\
                dynamic_nodes = \"allow\"\nhidden_nodes = \"deny\"\nnodes = [\"*@h\"]\n";
    let seen = [came_up("192.0.2.2", "a@h")];
    let text = lesson(file, &seen);
    let cluster: Vec<&str> = bare(&text).into_iter().skip_while(|line| *line != "[cluster]").collect();
    let expected = [
        "[cluster]",
        "mode = \"enforce\"",
        "dynamic_nodes = \"deny\"",
        "min_handshake = 6",
        "require_flags = [\"SPAWN\"]",
    ];
    assert_eq!(cluster, expected, "{text}");
    assert_eq!(judge(&text, &seen[0]), Ok(Mode::Enforce));
}

#[test]
fn where_nothing_came_up_there_is_nothing_to_write() {
    // Not let in any more.
    for seen in [vec![], vec![failed("192.0.2.2", "a@h", None)], vec![came_up("203.0.113.1", "a@h")]] {
        let text = lesson(FILE, &seen);
        assert!(bare(&text).is_empty() && text.contains("nothing to write yet"), "{text}");
        config(&text);
    }
}

/// A link that this host dials is seen by the other guard, so that the rules would shut that host out.
#[test]
fn each_rule_by_which_nothing_came_is_told() {
    let file = "[cluster]\nallow = [\"192.0.2.0/24\", \"198.51.100.7\", \"h8.test\"]\n";
    let text = lesson(file, &[came_up("192.0.2.4", "a@h4.test")]);
    let told = "nodes that it may be:\n#   allow 198.51.100.7 (line 2)\n#   allow h8.test (line 2)\n";
    assert!(text.contains(told), "{text}");
    assert!(!text.contains("#   allow 192.0.2.0/24"), "{text}");
}

#[test]
fn no_more_peers_come_of_it_than_a_configuration_may_have() {
    let seen: Vec<Observation> =
        (0..1100).map(|n| came_up(&format!("10.0.{}.{}", n / 250, n % 250), &format!("n@h{n}"))).collect();
    let text = lesson("[cluster]\nallow = [\"10.0.0.0/8\"]\n", &seen);
    assert_eq!(text.matches("[[peer]]\nname = ").count(), 1000);
    let policy = Policy::new(config(&text).rules());
    for seen in &seen {
        assert_eq!(judge_by(&policy, seen), Ok(Mode::Enforce), "{seen:?}");
    }
}

fn observation() -> impl Strategy<Value = Observation> {
    let names =
        prop_oneof!["[a-c]{1,2}[0-9]{0,2}@h[0-9]?", "[a-z]{3}-ctl-[ab]@h[0-9]", Just("?@h1".to_owned())];
    let addresses = prop_oneof!["192\\.0\\.2\\.[2-9]", "2001:db8::[2-5]"];
    let flags = prop_oneof![Just(USUAL), Just(HIDDEN), Just(Flags(USUAL.0 & !(1 << 32)))];
    (addresses, names, flags, any::<bool>(), 0..3u64).prop_map(|(ip, claimed, flags, old, up)| Observation {
        flags,
        version: if old { Version::V5 } else { Version::V6 },
        up,
        failed: 1,
        ..came_up(&ip, &claimed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_came_up_is_let_in_by_the_rules_that_come_of_it(
        mut seen in proptest::collection::vec(observation(), 0..40),
        strict in any::<bool>(),
    ) {
        seen.sort_by(|one, other| (one.ip, &one.claimed).cmp(&(other.ip, &other.claimed)));
        seen.dedup_by(|one, other| (one.ip, &one.claimed) == (other.ip, &other.claimed));
        let strict = if strict {
            FILE.replace("[cluster]", "[cluster]\nhidden_nodes = \"deny\"\nmin_handshake = 6\n\
                                       require_flags = [\"SPAWN\"]\nnodes = [\"a*@h\"]")
        } else {
            FILE.to_owned()
        };
        let text = lesson(&strict, &seen);
        let is_told = |name: &str| text.contains(&format!("# {name} is a node of h"));
        for seen in seen.iter().filter(|seen| seen.is_proven() && !is_told(&seen.claimed)) {
            prop_assert_eq!(judge(&text, seen), Ok(Mode::Enforce), "{:?}\n{}", seen, text);
        }
        // And whoever is no peer has no node.
        if seen.iter().any(Observation::is_proven) {
            let stranger = came_up("192.0.2.200", "stranger@elsewhere");
            prop_assert!(judge(&text, &stranger).is_err());
        }
    }
}

#[test]
fn names_of_peers_are_plain_and_their_own() {
    let seen = [
        came_up("192.0.2.4", "a@192.0.2.4"),
        came_up("2001:db8::5", "a@::5"),
        came_up("192.0.2.6", "a@h2"),
        came_up("192.0.2.7", "b@h2"),
        came_up("192.0.2.8", &format!("a@{}", "x".repeat(100))),
    ];
    let text = lesson(FILE, &seen);
    let named: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    let long = format!("\"{}\"", "x".repeat(57));
    assert_eq!(named, ["\"192.0.2.4\"", "\"h2-2\"", "\"h2-3\"", &long, "\"--5\""], "{text}");
    let config = config(&text);
    assert_eq!(config.peers.len(), 5);
    assert_eq!(quoted("a\"\\\u{7}"), "\"a\\\"\\\\\\u0007\"");
}
