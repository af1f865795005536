//! Texts that nobody meant to write.

use epmd_guard::config::{Color, LoadError};
use proptest::prelude::*;

use super::{read, uncommented};

#[test]
fn nesting_without_end_is_no_end() {
    for text in [
        format!("{}a = 1", "a.".repeat(200_000)),
        format!("a = {}", "[".repeat(200_000)),
        format!("[[a]]\n{}b = 1\n", "b.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
    ] {
        assert!(read(&text).is_err());
    }
}

/// Whatever the text, problems lie inside it and can be drawn.
fn survives(text: &str) {
    let shown = match read(text) {
        Ok(loaded) => loaded.render_warnings(Color::Plain),
        Err(error) => {
            if let LoadError::Invalid(report) = &error {
                assert!(report.problems().has_errors());
            }
            error.render(Color::Plain)
        }
    };
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

fn full() -> String {
    let examples = [
        include_str!("../../config/examples/front.toml"),
        include_str!("../../config/examples/single-port.toml"),
        include_str!("../../config/examples/embedded.toml"),
        include_str!("../../config/examples/tunnel.toml"),
    ];
    [uncommented(|_, _| true).as_str(), examples[0], examples[1], examples[2], examples[3]].join("\n")
}

proptest! {
    // An integration test has no folder that proptest would find for its regressions.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*|[\\x00-\\x7f]*|([a-z_\\[\\]{}.\"'=, \\n0-9#\\\\-]|listen|ports|dist|epmd|\\[|allow = |\\[\\[peer\\]\\]|addresses = )*") {
        survives(&text);
    }

    #[test]
    fn no_mutation_makes_it_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[\\x00-\\x7fé\"\\[\\]{}=.]{0,4}"), 1..12),
    ) {
        let mut chars: Vec<char> = full().chars().filter(|c| *c != '#').collect();
        for (at, cut, put) in edits {
            let at = at.index(chars.len());
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, put.chars());
        }
        survives(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn no_value_makes_it_panic(section in 0usize..10, key in 0usize..38, value in "true|false|[0-9a-z.:/%*\\[\\]\", -]{0,12}|\"[0-9a-fmsµ.:/%* -]{0,12}\"|[0-9x_+-]{1,25}") {
        let sections = ["[cluster]", "[[peer]]", "[epmd]", "[dist]", "[[cookie]]", "[limits]", "[ban]", "[admin]", "[log]", "[tls]"];
        let keys = [
            "allow", "listen", "backend", "ports", "connections", "request_timeout", "level", "resolve_every",
            "name", "addresses", "names", "range", "outside", "socket", "register_from",
            "relaxed_command_check", "self", "may_reach", "nodes", "hidden_nodes", "min_handshake", "require_flags",
            "cookie_file", "file", "slow_first", "after", "connect", "hosts", "alias", "identity", "tls", "cert",
            "crl", "default", "crl_stale", "look_every", "replay", "warn_before",
        ];
        survives(&format!("{}\n{} = {value}\n", sections[section], keys[key]));
    }
}
