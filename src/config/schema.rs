//! The file as it is written: its sections, keys and types.
//!
//! Reports what the parser refuses, unknown sections and keys, and values of the wrong type. Never
//! asks what a value means.

mod walk;

use std::borrow::Cow;

use toml::Spanned;
use toml::de::DeTable;

use super::problem::Problems;
use walk::Keys;

/// A section and the keys that it may have.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
}

const CLUSTER: Section = Section { name: "cluster", keys: &["allow", "deny", "resolve_every"] };
const EPMD: Section = Section { name: "epmd", keys: &["listen", "backend"] };
const DIST: Section = Section { name: "dist", keys: &["listen", "ports", "backend"] };
const LIMITS: Section = Section {
    name: "limits",
    keys: &[
        "connections",
        "reserve",
        "per_address",
        "per_subnet",
        "request_timeout",
        "backend_timeout",
        "half_close_timeout",
    ],
};
const LOG: Section = Section { name: "log", keys: &["format", "level"] };

/// Every section.
pub(super) const SECTIONS: [Section; 5] = [CLUSTER, EPMD, DIST, LIMITS, LOG];

/// A string and where it stands.
pub(super) type Word<'a> = Spanned<&'a str>;
/// A list of strings. Elements of another type have been reported and are missing.
pub(super) type Words<'a> = Spanned<Vec<Word<'a>>>;

/// The file as it is written. What is absent is `None`; a list that is of another type is empty.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) cluster: WrittenCluster<'a>,
    pub(super) epmd: WrittenEpmd<'a>,
    pub(super) dist: WrittenDist<'a>,
    pub(super) limits: WrittenLimits<'a>,
    pub(super) log: WrittenLog<'a>,
}

#[derive(Debug)]
pub(super) struct WrittenCluster<'a> {
    pub(super) allow: Option<Words<'a>>,
    pub(super) deny: Option<Words<'a>>,
    pub(super) resolve_every: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenEpmd<'a> {
    pub(super) listen: Option<Words<'a>>,
    pub(super) backend: Option<Word<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenDist<'a> {
    pub(super) listen: Option<Words<'a>>,
    /// Numbers stand here in decimal.
    pub(super) ports: Option<Spanned<Vec<Spanned<Cow<'a, str>>>>>,
    pub(super) backend: Option<Words<'a>>,
}

#[derive(Debug)]
pub(super) struct WrittenLimits<'a> {
    /// The inner `None` is "auto".
    pub(super) connections: Option<Spanned<Option<i64>>>,
    pub(super) reserve: Option<Spanned<i64>>,
    pub(super) per_address: Option<Spanned<i64>>,
    pub(super) per_subnet: Option<Spanned<i64>>,
    pub(super) request_timeout: Option<Word<'a>>,
    pub(super) backend_timeout: Option<Word<'a>>,
    pub(super) half_close_timeout: Option<Word<'a>>,
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
            epmd: WrittenEpmd::read(Keys::of(&EPMD, root, problems)),
            dist: WrittenDist::read(Keys::of(&DIST, root, problems)),
            limits: WrittenLimits::read(Keys::of(&LIMITS, root, problems)),
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
        }
    }
}

impl<'a> WrittenEpmd<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self { listen: keys.words("listen"), backend: keys.word("backend") }
    }
}

impl<'a> WrittenDist<'a> {
    fn read(mut keys: Keys<'a, '_>) -> Self {
        Self {
            listen: keys.words("listen"),
            ports: keys.ports("ports"),
            backend: keys.word_or_words("backend"),
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
            request_timeout: keys.duration("request_timeout"),
            backend_timeout: keys.duration("backend_timeout"),
            half_close_timeout: keys.duration("half_close_timeout"),
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
    use super::*;

    const SHIPPED: &str = include_str!("../../config/epmd-guard.toml");

    #[test]
    fn every_key_stands_in_the_shipped_file_and_no_other() {
        let mut found = Vec::new();
        let mut section = "";
        for line in SHIPPED.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            }
            let key = line.strip_prefix('#').and_then(|rest| rest.split_once(" = "));
            if let Some((key, _)) = key.filter(|(key, _)| !key.starts_with(' ')) {
                found.push(format!("{section}.{key}"));
            }
        }
        let known = SECTIONS.iter().flat_map(|s| s.keys.iter().map(|key| format!("{}.{key}", s.name)));
        assert_eq!(found, known.collect::<Vec<_>>());
    }

    #[test]
    fn every_known_key_is_read() {
        // A date is of the wrong type everywhere, so each key that is read is reported.
        for section in &SECTIONS {
            for key in section.keys {
                let text = format!("[{}]\n{key} = 1979-05-27\n", section.name);
                let (root, errors) = DeTable::parse_recoverable(&text);
                assert!(errors.is_empty());
                let mut problems = Problems::default();
                let _ = Written::read(root.get_ref(), &mut problems);
                let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
                assert_eq!(messages.len(), 1, "{messages:?}");
                let start = format!("[{}] {key}: must be ", section.name);
                assert!(
                    messages[0].starts_with(&start) && messages[0].ends_with(", is a date"),
                    "{messages:?}"
                );
            }
        }
    }
}
