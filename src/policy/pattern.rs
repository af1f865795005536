//! One pattern of names, as it stands in a list.

use std::fmt;
use std::str::FromStr;

use crate::proto::dist::FullName;

/// Characters that a registered name may have (epmd's `verify_utf8`).
const LONGEST_ALIVE: usize = 254;
/// Bytes that a node's full name may have, as an atom has.
const LONGEST_NODE: usize = 255;

/// A pattern of names: `*` stands for any run of characters, `?` for one. It is one of the part of a node's name
/// before the `@`, which epmd knows, or one of whole names, `alive@host`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    excludes: Excludes,
}

/// Whether a pattern stands behind `!`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Excludes {
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
    #[error("is longer than a name can be ({LONGEST_ALIVE} characters)")]
    Length,
    /// More than 255 characters: no node's name is longer.
    #[error("is longer than a node's name can be ({LONGEST_NODE} characters)")]
    NodeLength,
    /// An `@`: epmd knows only the part before it.
    #[error("has an @: epmd knows only the part of a node's name before it")]
    WholeName,
    /// No `@`: a node's name has two parts.
    #[error("has no @: a node's name is name@host")]
    NoHost,
    /// More than one `@`.
    #[error("has more than one @: a node's name is name@host")]
    Ats,
    /// Nothing before the `@`, or nothing behind it.
    #[error("has nothing on one side of the @: a node's name is name@host")]
    EmptyPart,
    /// A character that no name has.
    #[error("can match no name: only letters, digits, '-', '_', '.', '*' and '?' can stand in a pattern")]
    Character,
    /// A character that no node's name has before the `@`.
    #[error("can match no node: before the @ only letters, digits, '-', '_', '*' and '?' can stand")]
    AliveCharacter,
    /// A character that no node's name has behind the `@`.
    #[error(
        "can match no node: behind the @ only letters, digits, '-', '_', '.', ':', '*' and '?' can stand"
    )]
    HostCharacter,
}

/// One of the part of a node's name before the `@`.
impl FromStr for Pattern {
    type Err = PatternFault;

    fn from_str(text: &str) -> Result<Self, PatternFault> {
        Self::read(text, check_alive)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.excludes == Excludes::Yes { "!" } else { "" };
        write!(f, "{mark}{}", self.text)
    }
}

impl Pattern {
    /// One of whole names, `alive@host`.
    ///
    /// # Errors
    /// No node's name could fit.
    pub fn of_node(text: &str) -> Result<Self, PatternFault> {
        Self::read(text, check_node)
    }

    fn read(text: &str, check: fn(&str) -> Result<(), PatternFault>) -> Result<Self, PatternFault> {
        let (text, excludes) = match text.strip_prefix('!') {
            Some(rest) => (rest, Excludes::Yes),
            None => (text, Excludes::No),
        };
        if text.is_empty() {
            return Err(PatternFault::Empty);
        }
        check(text)?;
        Ok(Self { text: text.into(), excludes })
    }

    pub(super) fn excludes(&self) -> Excludes {
        self.excludes
    }

    /// Its text, without the `!`.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The one name that fits, unless it stands for several.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!has_wildcard(&self.text)).then_some(&self.text)
    }

    /// Whether it includes whatever name there is, and is no exclusion.
    #[must_use]
    pub fn includes_all(&self) -> bool {
        self.excludes == Excludes::No && matches!(&*self.text, "*" | "*@*")
    }

    /// Whether all of `name` fits. Goes back to the last `*` only, so that the time is bounded by the product
    /// of the lengths. Where both have one `@` neither `*` nor `?` takes it: the pattern's own has to.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
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

/// Whether a text stands for more than itself.
pub(super) fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn check_alive(text: &str) -> Result<(), PatternFault> {
    if text.len() > LONGEST_ALIVE {
        return Err(PatternFault::Length);
    }
    if text.contains('@') {
        return Err(PatternFault::WholeName);
    }
    if only(text, b"-_.*?") { Ok(()) } else { Err(PatternFault::Character) }
}

fn check_node(text: &str) -> Result<(), PatternFault> {
    if text.len() > LONGEST_NODE {
        return Err(PatternFault::NodeLength);
    }
    let (alive, host) = text.split_once('@').ok_or(PatternFault::NoHost)?;
    if host.contains('@') {
        return Err(PatternFault::Ats);
    }
    if alive.is_empty() || host.is_empty() {
        return Err(PatternFault::EmptyPart);
    }
    // What a node's name may have is said in one place: any name stands for the wildcards.
    let stands = |text: &str| text.replace(['*', '?'], "x");
    if FullName::new(format!("{}@x", stands(alive)).as_bytes()).is_err() {
        return Err(PatternFault::AliveCharacter);
    }
    if FullName::new(format!("x@{}", stands(host)).as_bytes()).is_err() {
        return Err(PatternFault::HostCharacter);
    }
    Ok(())
}

fn only(text: &str, besides: &[u8]) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || besides.contains(&byte))
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
    fn a_mistaken_pattern_of_whole_names_says_what_is_wrong_with_it() {
        use PatternFault::{AliveCharacter, Ats, Empty, EmptyPart, HostCharacter, NoHost, NodeLength};
        for (text, fault) in [
            ("", Empty),
            ("!", Empty),
            ("*", NoHost),
            ("!ejabberd", NoHost),
            ("@h", EmptyPart),
            ("a@", EmptyPart),
            ("!@", EmptyPart),
            ("a@b@c", Ats),
            ("*@@*", Ats),
            ("a.b@h", AliveCharacter),
            ("a b@h", AliveCharacter),
            ("!!a@h", AliveCharacter),
            ("ä@h", AliveCharacter),
            ("a@h h", HostCharacter),
            ("a@h/8", HostCharacter),
            ("a@!h", HostCharacter),
        ] {
            assert_eq!(Pattern::of_node(text).unwrap_err(), fault, "{text:?}");
        }
        assert_eq!(Pattern::of_node(&format!("a@{}", "h".repeat(254))).unwrap_err(), NodeLength);
        for good in ["a@h", "*@*", "!?@h-1.example.net", "rabbit_1@192.0.2.1", "n@2001:db8::1", "n@*.my_net"]
        {
            assert_eq!(Pattern::of_node(good).unwrap().to_string(), good);
        }
        assert!(Pattern::of_node(&format!("a@{}", "h".repeat(253))).is_ok());
    }

    #[test]
    fn a_pattern_without_wildcards_is_one_name() {
        let literal = |text: &str| Pattern::of_node(text).unwrap().literal().map(str::to_owned);
        assert_eq!(literal("!a@h"), Some("a@h".to_owned()));
        assert_eq!((literal("a?@h"), literal("a@*")), (None, None));
        assert!(Pattern::of_node("*@*").unwrap().includes_all());
        assert!(!Pattern::of_node("!*@*").unwrap().includes_all());
        assert!("*".parse::<Pattern>().unwrap().includes_all());
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

        #[test]
        fn the_parts_of_a_whole_name_are_matched_each_by_its_own(
            alive in "[ab*?]{1,4}", host in "[ab*?.]{1,4}", name in "[ab]{1,5}", at in "[ab.]{1,5}",
        ) {
            let whole = Pattern::of_node(&format!("{alive}@{host}")).unwrap();
            let each = naive(alive.as_bytes(), name.as_bytes()) && naive(host.as_bytes(), at.as_bytes());
            prop_assert_eq!(whole.matches(format!("{name}@{at}").as_bytes()), each);
        }
    }
}
