//! Which registered names are offered to peers.

use std::fmt;
use std::str::FromStr;

/// Patterns of alive names (the part of a node's name before the `@`): `*` stands for any run of
/// characters, `?` for one. A pattern behind `!` excludes, and exclusions go before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePatterns {
    include: Vec<Placed>,
    exclude: Vec<Placed>,
}

/// One pattern, and the line of the file that it stands in; 0 for a default.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    pattern: Pattern,
    line: u32,
}

/// One pattern as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    excludes: Excludes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Excludes {
    No,
    Yes,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// Nothing there, or nothing behind `!`.
    #[error("is empty")]
    Empty,
    /// More than 254 characters: no registered name is longer.
    #[error("is longer than a name can be (254 characters)")]
    Length,
    /// An `@`: epmd knows only the part before it.
    #[error("has an @: epmd knows only the part of a node's name before it")]
    WholeName,
    /// A character that no name has.
    #[error("can match no name: only letters, digits, '-', '_', '.', '*' and '?' can stand in a pattern")]
    Character,
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
        let all = patterns.into_iter().map(|(pattern, line)| Placed { pattern, line });
        let (exclude, include) = all.partition(|placed| placed.pattern.excludes == Excludes::Yes);
        Self { include, exclude }
    }

    /// The patterns with their lines: those that include in the order of the file, then those that exclude.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, u32)> {
        self.include.iter().chain(&self.exclude).map(|placed| (&placed.pattern, placed.line))
    }

    /// What the patterns say of a name.
    #[must_use]
    pub fn judge(&self, name: &[u8]) -> NameVerdict<'_> {
        let find = |list: &'_ [Placed]| list.iter().position(|placed| placed.pattern.matches(name));
        if let Some(by) = find(&self.exclude).and_then(|at| self.exclude.get(at)) {
            return NameVerdict::Excluded(&by.pattern, by.line);
        }
        match find(&self.include).and_then(|at| self.include.get(at)) {
            Some(by) => NameVerdict::Offered(&by.pattern, by.line),
            None => NameVerdict::NoMatch,
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternFault;

    fn from_str(text: &str) -> Result<Self, PatternFault> {
        let (text, excludes) = match text.strip_prefix('!') {
            Some(rest) => (rest, Excludes::Yes),
            None => (text, Excludes::No),
        };
        if text.is_empty() {
            return Err(PatternFault::Empty);
        }
        if text.len() > 254 {
            return Err(PatternFault::Length);
        }
        if text.contains('@') {
            return Err(PatternFault::WholeName);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*?".contains(&b)) {
            return Err(PatternFault::Character);
        }
        Ok(Self { text: text.into(), excludes })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.excludes == Excludes::Yes { "!" } else { "" };
        write!(f, "{mark}{}", self.text)
    }
}

impl Pattern {
    /// Whether all of `name` fits. Goes back to the last `*` only, so that the time is bounded by the product
    /// of the lengths.
    fn matches(&self, name: &[u8]) -> bool {
        let pattern = self.text.as_bytes();
        let (mut at, mut from) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while let Some(byte) = name.get(from) {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, from));
                    at += 1;
                }
                Some(wanted) if *wanted == b'?' || wanted == byte => {
                    at += 1;
                    from += 1;
                }
                Some(_) | None => {
                    let Some((star_at, taken)) = star else { return false };
                    star = Some((star_at, taken + 1));
                    (at, from) = (star_at + 1, taken + 1);
                }
            }
        }
        pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name.as_bytes())
    }

    #[test]
    fn stars_and_question_marks_stand_for_what_they_should() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "abc", true),
            ("*c", "abcc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("???-ctl-*", "abc-ctl-ejabberd", true),
            ("???-ctl-*", "abcd-ctl-ejabberd", false),
            ("**?", "x", true),
            ("**?", "", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_mistaken_pattern_says_what_is_wrong_with_it() {
        let fault = |text: &str| text.parse::<Pattern>().unwrap_err();
        assert_eq!(fault(""), PatternFault::Empty);
        assert_eq!(fault("!"), PatternFault::Empty);
        assert_eq!(fault("a@b"), PatternFault::WholeName);
        assert_eq!(fault("a b"), PatternFault::Character);
        assert_eq!(fault("!!a"), PatternFault::Character);
        assert_eq!(fault(&"a".repeat(255)), PatternFault::Length);
    }

    #[test]
    fn exclusions_go_first_wherever_they_stand_and_no_match_means_no() {
        let patterns = |texts: &[&str]| {
            NamePatterns::new((1..).zip(texts).map(|(line, text)| (text.parse().unwrap(), line)))
        };
        let both = patterns(&["!b*", "*"]);
        assert!(both.judge(b"a").is_offered());
        assert!(matches!(both.judge(b"b1"), NameVerdict::Excluded(by, 1) if by.to_string() == "!b*"));
        assert_eq!(patterns(&["a"]).judge(b"b"), NameVerdict::NoMatch);
        assert_eq!(patterns(&[]).judge(b"b"), NameVerdict::NoMatch);
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
        assert_eq!(default.include.len() + default.exclude.len(), NamePatterns::DEFAULT.len());
    }

    /// The obvious and slow way.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => naive(rest, name),
            (Some((b'*', rest)), Some((_, shorter))) => naive(rest, name) || naive(pattern, shorter),
            (Some((b'?', rest)), Some((_, shorter))) => naive(rest, shorter),
            (Some((wanted, rest)), Some((byte, shorter))) => wanted == byte && naive(rest, shorter),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_obvious_way(pattern in "[ab*?]{1,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
