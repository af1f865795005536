//! Lists of patterns of names: of those that epmd knows, and of whole names of nodes.

use std::collections::HashMap;

use super::pattern::{Excludes, Pattern};

/// Patterns of alive names (the part of a node's name before the `@`): `*` stands for any run of
/// characters, `?` for one. A pattern behind `!` excludes, and exclusions go before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePatterns {
    include: Side,
    exclude: Side,
}

/// The patterns that include, or those that exclude, in the order of the file. What names only one name is looked
/// up and not gone through: lists of thousands are possible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Side {
    placed: Vec<Placed>,
    /// The places of those that name one name.
    literals: HashMap<Box<str>, usize>,
    /// The places of the others.
    wild: Vec<usize>,
}

/// One pattern, and the line of the file that it stands in; 0 for a default.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    pattern: Pattern,
    line: u32,
}

/// What patterns say of a name, and the one that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameVerdict<'a> {
    /// This pattern includes it, and none excludes it.
    Offered(&'a Pattern, u32),
    /// This pattern excludes it.
    Excluded(&'a Pattern, u32),
    /// None includes it.
    NoMatch,
}

impl NameVerdict<'_> {
    /// Whether the name gets a port.
    #[must_use]
    pub fn is_offered(self) -> bool {
        matches!(self, Self::Offered(..))
    }
}

/// Every name but those of the short-lived nodes of command-line tools (see [`NamePatterns::DEFAULT`]).
impl Default for NamePatterns {
    fn default() -> Self {
        Self::new(Self::DEFAULT.iter().filter_map(|text| Some((text.parse().ok()?, 0))))
    }
}

impl NamePatterns {
    /// What `names` is when it is left out. Excluded are the nodes that `ejabberdctl` (`abc-ctl-ejabberd`,
    /// `abc-debug-ejabberd`, `abc-top-ejabberd`, `abc-ping`), `rabbitmqctl` (`rabbitmqcli-123-rabbit`) and
    /// Elixir releases (`rpc-abc-app`, `rem-abc-app`) start for one command.
    pub const DEFAULT: [&'static str; 8] = [
        "*",
        "!???-ctl-*",
        "!???-debug-*",
        "!???-top-*",
        "!???-ping",
        "!rabbitmqcli-*",
        "!rpc-*-*",
        "!rem-*-*",
    ];

    /// Takes patterns with the lines of the file that they stand in.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = (Pattern, u32)>) -> Self {
        let (mut include, mut exclude) = (Side::default(), Side::default());
        for (pattern, line) in patterns {
            match pattern.excludes() {
                Excludes::No => include.add(pattern, line),
                Excludes::Yes => exclude.add(pattern, line),
            }
        }
        Self { include, exclude }
    }

    /// The patterns with their lines: those that include in the order of the file, then those that exclude.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, u32)> {
        self.include.iter().chain(self.exclude.iter())
    }

    /// What the patterns say of a name.
    #[must_use]
    pub fn judge(&self, name: &[u8]) -> NameVerdict<'_> {
        if let Some(by) = self.exclude.find(name) {
            return NameVerdict::Excluded(&by.pattern, by.line);
        }
        match self.include.find(name) {
            Some(by) => NameVerdict::Offered(&by.pattern, by.line),
            None => NameVerdict::NoMatch,
        }
    }
}

impl Side {
    fn add(&mut self, pattern: Pattern, line: u32) {
        let place = self.placed.len();
        match pattern.literal() {
            Some(name) => {
                self.literals.entry(name.into()).or_insert(place);
            }
            None => self.wild.push(place),
        }
        self.placed.push(Placed { pattern, line });
    }

    /// The pattern that fits: the one that names the name, or else the first of the others.
    fn find(&self, name: &[u8]) -> Option<&Placed> {
        let named = std::str::from_utf8(name).ok().and_then(|name| self.literals.get(name));
        let at = |place: &usize| self.placed.get(*place);
        let mut wild = self.wild.iter().filter_map(at);
        named.and_then(at).or_else(|| wild.find(|placed| placed.pattern.matches(name)))
    }

    fn iter(&self) -> impl Iterator<Item = (&Pattern, u32)> {
        self.placed.iter().map(|placed| (&placed.pattern, placed.line))
    }
}

/// Patterns of full node names, `alive@host`; otherwise as [`NamePatterns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePatterns(NamePatterns);

impl NodePatterns {
    /// Takes patterns [of whole names](Pattern::of_node) with the lines of the file that they stand in.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = (Pattern, u32)>) -> Self {
        Self(NamePatterns::new(patterns))
    }

    /// What the patterns say of a full name.
    #[must_use]
    pub fn judge(&self, name: &[u8]) -> NameVerdict<'_> {
        self.0.judge(name)
    }

    /// Whether a name is one of these.
    #[must_use]
    pub fn covers(&self, name: &[u8]) -> bool {
        self.judge(name).is_offered()
    }

    /// The patterns with their lines.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, u32)> {
        self.0.iter()
    }

    /// The patterns that include, with their lines.
    pub fn included(&self) -> impl Iterator<Item = (&Pattern, u32)> {
        self.0.include.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> NamePatterns {
        NamePatterns::new((1..).zip(texts).map(|(line, text)| (text.parse().unwrap(), line)))
    }

    #[test]
    fn exclusions_go_first_wherever_they_stand_and_no_match_means_no() {
        let both = patterns(&["!b*", "*"]);
        assert!(both.judge(b"a").is_offered());
        assert!(matches!(both.judge(b"b1"), NameVerdict::Excluded(by, 1) if by.to_string() == "!b*"));
        assert_eq!(patterns(&["a"]).judge(b"b"), NameVerdict::NoMatch);
        assert_eq!(patterns(&[]).judge(b"b"), NameVerdict::NoMatch);
        assert!(!patterns(&["*", "!a", "a"]).judge(b"a").is_offered());
    }

    #[test]
    fn the_pattern_that_names_a_name_is_told_before_those_that_happen_to_fit() {
        let list = patterns(&["a*", "ab", "*", "ab"]);
        assert!(matches!(list.judge(b"ab"), NameVerdict::Offered(by, 2) if by.to_string() == "ab"));
        assert!(matches!(list.judge(b"ac"), NameVerdict::Offered(by, 1) if by.to_string() == "a*"));
        assert!(matches!(list.judge(b"\xff"), NameVerdict::Offered(by, 3) if by.to_string() == "*"));
        let lines: Vec<u32> = list.iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [1, 2, 3, 4]);
    }

    #[test]
    fn the_default_leaves_out_the_helpers_of_the_tools_and_nobody_else() {
        let default = NamePatterns::default();
        for helper in
            ["abc-ctl-ejabberd", "x1y-debug-ejabberd", "abc-ping", "rabbitmqcli-42-rabbit", "rpc-9f-app"]
        {
            assert!(!default.judge(helper.as_bytes()).is_offered(), "{helper}");
        }
        for node in ["ejabberd", "rabbit", "couchdb", "emqx", "my-ctl", "control-1", "rpc", "remote"] {
            assert!(default.judge(node.as_bytes()).is_offered(), "{node}");
        }
        assert_eq!(default.iter().count(), NamePatterns::DEFAULT.len());
    }

    #[test]
    fn whole_names_are_judged_as_the_others_are() {
        let list = ["ejabberd@h2", "web-?@*.example.net", "!*@old.example.net"];
        let list =
            NodePatterns::new((1..).zip(list).map(|(line, text)| (Pattern::of_node(text).unwrap(), line)));
        for (name, expected) in [
            ("ejabberd@h2", true),
            ("ejabberd@h22", false),
            ("xejabberd@h2", false),
            ("web-1@a.example.net", true),
            ("web-1@a.b.example.net", true),
            ("web-10@a.example.net", false),
            ("web-1@old.example.net", false),
        ] {
            assert_eq!(list.covers(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(list.included().count(), 2);
    }
}
