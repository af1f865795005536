//! The file as it is written: its sections, keys and types.
//!
//! Reports what the parser refuses, unknown sections and keys, and values of the wrong type. Never
//! asks what a value means.

mod sections;
mod walk;

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::problem::Problems;
pub(super) use sections::SECTIONS;
use sections::{ADMIN, BAN, CLUSTER, COOKIE, DIST, EPMD, FORWARD, LIMITS, LOG, PEER, Section, TLS};
use walk::Keys;

/// A string and where it stands.
pub(super) type Word<'a> = Spanned<&'a str>;
/// A list of strings. Elements of another type have been reported and are missing.
pub(super) type Words<'a> = Spanned<Vec<Word<'a>>>;

/// A port or a range of ports, and where it stands. Numbers stand here in decimal.
pub(super) type Port<'a> = Spanned<Cow<'a, str>>;

/// Ports as they are written.
#[derive(Debug)]
pub(super) enum Ports<'a> {
    /// One port, range or word, outside of a list.
    One(Port<'a>),
    /// A list of them. Elements of another type have been reported and are missing.
    List(Vec<Port<'a>>),
}

impl<'a> Ports<'a> {
    /// The elements; of what is no list, the one.
    pub(super) fn as_slice(&self) -> &[Port<'a>] {
        match self {
            Self::One(port) => std::slice::from_ref(port),
            Self::List(ports) => ports,
        }
    }
}

/// `self` as it is written.
#[derive(Debug)]
pub(super) enum WrittenSelf<'a> {
    /// A word, outside of a list.
    One(Word<'a>),
    /// A list of addresses.
    List(Words<'a>),
}

/// The file as it is written. What is absent is `None`; a list that is of another type is empty.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) cluster: WrittenCluster<'a>,
    pub(super) peers: Vec<WrittenPeer<'a>>,
    pub(super) epmd: WrittenEpmd<'a>,
    pub(super) dist: WrittenDist<'a>,
    pub(super) cookies: Vec<WrittenCookie<'a>>,
    pub(super) forwards: Vec<WrittenForward<'a>>,
    pub(super) tls: WrittenTls<'a>,
    pub(super) limits: WrittenLimits<'a>,
    pub(super) ban: WrittenBan<'a>,
    pub(super) admin: WrittenAdmin<'a>,
    pub(super) log: WrittenLog<'a>,
}

#[derive(Debug)]
pub(super) struct WrittenCluster<'a> {
    pub(super) allow: Option<Words<'a>>,
    pub(super) deny: Option<Words<'a>>,
    pub(super) resolve_every: Option<Word<'a>>,
    pub(super) nodes: Option<Words<'a>>,
    pub(super) hidden_nodes: Option<Word<'a>>,
    pub(super) dynamic_nodes: Option<Word<'a>>,
    pub(super) min_handshake: Option<Spanned<i64>>,
    pub(super) require_flags: Option<Words<'a>>,
    pub(super) mode: Option<Word<'a>>,
}

/// One table. Keys that must be there and are not have been reported.
#[derive(Debug)]
pub(super) struct WrittenPeer<'a> {
    /// Its header.
    pub(super) span: Range<usize>,
    pub(super) name: Option<Word<'a>>,
    pub(super) addresses: Option<Words<'a>>,
    pub(super) may_reach: Option<Words<'a>>,
    pub(super) nodes: Option<Words<'a>>,
    pub(super) hidden_nodes: Option<Word<'a>>,
    pub(super) dynamic_nodes: Option<Word<'a>>,
    pub(super) connect: Option<Words<'a>>,
    pub(super) hosts: Option<Words<'a>>,
    pub(super) alias: Option<Words<'a>>,
    pub(super) identity: Option<Words<'a>>,
    pub(super) tls: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenEpmd<'a> {
    pub(super) listen: Option<Words<'a>>,
    pub(super) backend: Option<Word<'a>>,
    pub(super) register_from: Option<Words<'a>>,
    pub(super) relaxed_command_check: Option<Spanned<bool>>,
    pub(super) self_at: Option<WrittenSelf<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenDist<'a> {
    pub(super) listen: Option<Words<'a>>,
    pub(super) ports: Option<Spanned<Ports<'a>>>,
    pub(super) names: Option<Words<'a>>,
    pub(super) range: Option<Spanned<Ports<'a>>>,
    pub(super) outside: Option<Spanned<Ports<'a>>>,
    pub(super) backend: Option<Words<'a>>,
    pub(super) self_at: Option<WrittenSelf<'a>>,
    pub(super) cookie_file: Option<Word<'a>>,
}

/// One table. A file that must be there and is not has been reported.
#[derive(Debug)]
pub(super) struct WrittenCookie<'a> {
    /// Its header.
    pub(super) span: Range<usize>,
    pub(super) file: Option<Word<'a>>,
    pub(super) nodes: Option<Words<'a>>,
    pub(super) at: Option<Words<'a>>,
}

/// One table. Keys that must be there and are not have been reported.
#[derive(Debug)]
pub(super) struct WrittenForward<'a> {
    /// Its header.
    pub(super) span: Range<usize>,
    pub(super) kind: Option<Word<'a>>,
    pub(super) ports: Option<Spanned<Ports<'a>>>,
    pub(super) listen: Option<Words<'a>>,
    pub(super) backend: Option<Words<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenTls<'a> {
    pub(super) listen: Option<Words<'a>>,
    pub(super) cert: Option<Word<'a>>,
    pub(super) key: Option<Word<'a>>,
    pub(super) ca: Option<Word<'a>>,
    pub(super) crl: Option<Words<'a>>,
    pub(super) default: Option<Word<'a>>,
    pub(super) crl_missing: Option<Word<'a>>,
    pub(super) crl_stale: Option<Word<'a>>,
    pub(super) crl_partial: Option<Word<'a>>,
    pub(super) look_every: Option<Word<'a>>,
    pub(super) resume_for: Option<Word<'a>>,
    pub(super) warn_before: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenLimits<'a> {
    /// The inner `None` is "auto".
    pub(super) connections: Option<Spanned<Option<i64>>>,
    pub(super) reserve: Option<Spanned<i64>>,
    pub(super) per_address: Option<Spanned<i64>>,
    pub(super) per_subnet: Option<Spanned<i64>>,
    pub(super) names: Option<Spanned<i64>>,
    pub(super) request_timeout: Option<Word<'a>>,
    pub(super) backend_timeout: Option<Word<'a>>,
    pub(super) half_close_timeout: Option<Word<'a>>,
    pub(super) rate_per_address: Option<Spanned<i64>>,
    pub(super) rate_per_subnet: Option<Spanned<i64>>,
    pub(super) half_open: Option<Spanned<i64>>,
    pub(super) half_open_per_address: Option<Spanned<i64>>,
    pub(super) handshake_timeout: Option<Word<'a>>,
    pub(super) replay_per_link: Option<Word<'a>>,
    pub(super) replay: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenBan<'a> {
    pub(super) slow_after: Option<Spanned<i64>>,
    pub(super) slow_first: Option<Word<'a>>,
    pub(super) slow_most: Option<Word<'a>>,
    pub(super) after: Option<Spanned<i64>>,
    pub(super) within: Option<Word<'a>>,
    pub(super) first: Option<Word<'a>>,
    pub(super) most: Option<Word<'a>>,
    pub(super) names: Option<Spanned<i64>>,
    pub(super) names_within: Option<Word<'a>>,
    pub(super) entries: Option<Spanned<i64>>,
    pub(super) file: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenAdmin<'a> {
    pub(super) socket: Option<Word<'a>>,
    pub(super) group: Option<Word<'a>>,
    pub(super) listen: Option<Words<'a>>,
    pub(super) reload_may_cut: Option<Spanned<i64>>,
}

#[derive(Debug)]
pub(super) struct WrittenLog<'a> {
    pub(super) format: Option<Word<'a>>,
    pub(super) level: Option<Word<'a>>,
}

impl<'a> Written<'a> {
    /// Reads the tables of a file.
    pub(super) fn read(root: &'a DeTable<'a>, problems: &mut Problems) -> Self {
        walk::report_unknown_sections(root, problems);
        Self {
            cluster: WrittenCluster::read(Keys::of(&CLUSTER, root, problems)),
            peers: Keys::each(&PEER, root, problems, WrittenPeer::read),
            epmd: WrittenEpmd::read(Keys::of(&EPMD, root, problems)),
            dist: WrittenDist::read(Keys::of(&DIST, root, problems)),
            cookies: Keys::each(&COOKIE, root, problems, WrittenCookie::read),
            forwards: Keys::each(&FORWARD, root, problems, WrittenForward::read),
            tls: WrittenTls::read(Keys::of(&TLS, root, problems)),
            limits: WrittenLimits::read(Keys::of(&LIMITS, root, problems)),
            ban: WrittenBan::read(Keys::of(&BAN, root, problems)),
            admin: WrittenAdmin::read(Keys::of(&ADMIN, root, problems)),
            log: WrittenLog::read(Keys::of(&LOG, root, problems)),
        }
    }
}

impl<'a> WrittenCluster<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            allow: keys.words("allow"),
            deny: keys.words("deny"),
            resolve_every: keys.duration("resolve_every"),
            nodes: keys.words("nodes"),
            hidden_nodes: keys.word("hidden_nodes"),
            dynamic_nodes: keys.word("dynamic_nodes"),
            min_handshake: keys.number("min_handshake"),
            require_flags: keys.words("require_flags"),
            mode: keys.word("mode"),
        }
    }
}

impl<'a> WrittenPeer<'a> {
    fn read(mut keys: Keys<'a, '_>, span: Range<usize>) -> Self {
        keys.require("name", "name = \"h2\"", &span);
        keys.require("addresses", "addresses = [\"h2.example.net\"]", &span);
        Self {
            span,
            name: keys.word("name"),
            addresses: keys.words("addresses"),
            may_reach: keys.words("may_reach"),
            nodes: keys.words("nodes"),
            hidden_nodes: keys.word("hidden_nodes"),
            dynamic_nodes: keys.word("dynamic_nodes"),
            connect: keys.word_or_words("connect"),
            hosts: keys.word_or_words("hosts"),
            alias: keys.word_or_words("alias"),
            identity: keys.word_or_words("identity"),
            tls: keys.word("tls"),
        }
    }
}

impl<'a> WrittenEpmd<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            listen: keys.words("listen"),
            backend: keys.word("backend"),
            register_from: keys.words("register_from"),
            relaxed_command_check: keys.boolean("relaxed_command_check"),
            self_at: keys.listeners("self"),
        }
    }
}

impl<'a> WrittenDist<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            listen: keys.words("listen"),
            ports: keys.ports("ports"),
            names: keys.words("names"),
            range: keys.ports("range"),
            outside: keys.ports("outside"),
            backend: keys.word_or_words("backend"),
            self_at: keys.listeners("self"),
            cookie_file: keys.word("cookie_file"),
        }
    }
}

impl<'a> WrittenCookie<'a> {
    fn read(mut keys: Keys<'a, '_>, span: Range<usize>) -> Self {
        keys.require("file", "file = \"/etc/epmd-guard/cookie.web\"", &span);
        Self { span, file: keys.word("file"), nodes: keys.words("nodes"), at: keys.words("at") }
    }
}

impl<'a> WrittenForward<'a> {
    fn read(mut keys: Keys<'a, '_>, span: Range<usize>) -> Self {
        keys.require("kind", "kind = \"dist-tls\"", &span);
        keys.require("ports", "ports = 9200", &span);
        Self {
            span,
            kind: keys.word("kind"),
            ports: keys.ports("ports"),
            listen: keys.words("listen"),
            backend: keys.word_or_words("backend"),
        }
    }
}

impl<'a> WrittenTls<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            listen: keys.words("listen"),
            cert: keys.word("cert"),
            key: keys.word("key"),
            ca: keys.word("ca"),
            crl: keys.word_or_words("crl"),
            default: keys.word("default"),
            crl_missing: keys.word("crl_missing"),
            crl_stale: keys.word("crl_stale"),
            crl_partial: keys.word("crl_partial"),
            look_every: keys.duration("look_every"),
            resume_for: keys.duration("resume_for"),
            warn_before: keys.duration("warn_before"),
        }
    }
}

impl<'a> WrittenLimits<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            connections: keys.number_or_auto("connections"),
            reserve: keys.number("reserve"),
            per_address: keys.number("per_address"),
            per_subnet: keys.number("per_subnet"),
            names: keys.number("names"),
            request_timeout: keys.duration("request_timeout"),
            backend_timeout: keys.duration("backend_timeout"),
            half_close_timeout: keys.duration("half_close_timeout"),
            rate_per_address: keys.number("rate_per_address"),
            rate_per_subnet: keys.number("rate_per_subnet"),
            half_open: keys.number("half_open"),
            half_open_per_address: keys.number("half_open_per_address"),
            handshake_timeout: keys.duration("handshake_timeout"),
            replay_per_link: keys.size("replay_per_link"),
            replay: keys.size("replay"),
        }
    }
}

impl<'a> WrittenBan<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            slow_after: keys.number("slow_after"),
            slow_first: keys.duration("slow_first"),
            slow_most: keys.duration("slow_most"),
            after: keys.number("after"),
            within: keys.duration("within"),
            first: keys.duration("first"),
            most: keys.duration("most"),
            names: keys.number("names"),
            names_within: keys.duration("names_within"),
            entries: keys.number("entries"),
            file: keys.word("file"),
        }
    }
}

impl<'a> WrittenAdmin<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            socket: keys.word("socket"),
            group: keys.word("group"),
            listen: keys.words("listen"),
            reload_may_cut: keys.number("reload_may_cut"),
        }
    }
}

impl<'a> WrittenLog<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self { format: keys.word("format"), level: keys.word("level") }
    }
}

#[cfg(test)]
mod tests {
    use super::sections::Form;
    use super::*;

    const SHIPPED: &str = include_str!("../../config/epmd-guard.toml");

    #[test]
    fn every_key_stands_in_the_shipped_file_and_no_other() {
        let mut found = Vec::new();
        let mut section = "";
        for line in SHIPPED.lines() {
            // There is no peer by default, so its header is commented out too.
            if line.starts_with('[') || line.starts_with("#[[") {
                section = line.trim_matches(['#', '[', ']']);
            }
            let key = line.strip_prefix('#').and_then(|rest| rest.split_once(" = "));
            if let Some((key, _)) = key.filter(|(key, _)| !key.starts_with(' ')) {
                found.push(format!("{section}.{key}"));
            }
        }
        let known = SECTIONS.iter().flat_map(|s| s.keys.iter().map(|key| format!("{}.{key}", s.name)));
        assert_eq!(found, known.collect::<Vec<_>>());
        for section in SECTIONS {
            let header =
                if section.form == Form::Table { section.to_string() } else { format!("#{section}") };
            assert_eq!(SHIPPED.lines().filter(|line| *line == header).count(), 1, "{header}");
        }
    }

    #[test]
    fn every_known_key_is_read() {
        // A date is of the wrong type everywhere, so each key that is read is reported.
        for section in SECTIONS {
            for key in section.keys {
                let text = format!("{section}\n{key} = 1979-05-27\n");
                let (root, errors) = DeTable::parse_recoverable(&text);
                assert!(errors.is_empty());
                let mut problems = Problems::default();
                let _ = Written::read(root.get_ref(), &mut problems);
                let messages = problems.iter().map(|problem| problem.message.as_str());
                // That the others are missing, where one may not leave them out.
                let messages: Vec<_> = messages.filter(|message| !message.contains(": has no ")).collect();
                assert_eq!(messages.len(), 1, "{messages:?}");
                let start = format!("{section} {key}: must be ");
                assert!(
                    messages[0].starts_with(&start) && messages[0].ends_with(", is a date"),
                    "{messages:?}"
                );
            }
        }
    }
}
