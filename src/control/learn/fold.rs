//! Names to patterns: as few as a person reads, and no wider than what was seen.

use std::collections::{BTreeMap, BTreeSet};

/// More names than this that differ only in numbers become one pattern.
const ALIKE: usize = 3;
/// Characters that a pattern may have.
const LONGEST: usize = 254;

/// What a name has in common with the next one of its kind: the names that tools give their own nodes for one
/// command become a pattern, all others stay as they are. The tools are those of
/// [`NamePatterns::DEFAULT`](crate::policy::NamePatterns::DEFAULT).
pub(super) fn shape(name: &str) -> String {
    let (alive, host) = name.split_once('@').unwrap_or((name, ""));
    let folded = alive.split_once('-').and_then(|(first, rest)| match (first, rest.split_once('-')) {
        ("rabbitmqcli" | "rpc" | "rem", Some((_, app))) if !app.is_empty() => {
            Some(format!("{first}-*-{app}"))
        }
        (_, Some(("ctl" | "debug" | "top", _))) if first.len() == 3 => Some(format!("???-{rest}")),
        (_, None) if first.len() == 3 && rest == "ping" => Some("???-ping".to_owned()),
        _ => None,
    });
    folded.map_or_else(|| name.to_owned(), |alive| format!("{alive}@{host}"))
}

/// The patterns that cover these names, in their order.
pub(super) fn patterns<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let mut alike: BTreeMap<Vec<Piece>, BTreeSet<String>> = BTreeMap::new();
    for shape in names.into_iter().map(shape) {
        let template = pieces(&shape).into_iter().map(|(kind, text)| match kind {
            Kind::Digits => Piece::Number,
            Kind::Other => Piece::Text(text.to_owned()),
        });
        alike.entry(template.collect()).or_default().insert(shape);
    }
    let fold = |shapes: BTreeSet<String>| {
        if shapes.len() > ALIKE { vec![common(&shapes)] } else { shapes.into_iter().collect() }
    };
    let all: BTreeSet<String> = alike.into_values().flat_map(fold).map(fitting).collect();
    all.into_iter().collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digits,
    Other,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Number,
    Text(String),
}

/// The runs of digits of a text, and what is between them.
fn pieces(text: &str) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_digits = first.is_ascii_digit();
        let end = rest.find(|char: char| char.is_ascii_digit() != is_digits).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        pieces.push((if is_digits { Kind::Digits } else { Kind::Other }, piece));
        rest = behind;
    }
    pieces
}

/// One pattern for shapes that differ in numbers only: a number that is the same in all stays.
fn common(shapes: &BTreeSet<String>) -> String {
    let mut shapes = shapes.iter().map(|shape| pieces(shape));
    let mut common: Vec<&str> = shapes.next().unwrap_or_default().into_iter().map(|(_, text)| text).collect();
    for other in shapes {
        for (kept, (_, text)) in common.iter_mut().zip(other) {
            if *kept != text {
                *kept = "*";
            }
        }
    }
    common.concat()
}

/// A name may have one character more than a pattern.
fn fitting(pattern: String) -> String {
    if pattern.len() <= LONGEST {
        return pattern;
    }
    let (alive, host) = pattern.split_once('@').unwrap_or((&pattern, ""));
    let longer = alive.len().max(host.len());
    let kept = longer.saturating_sub(pattern.len() - LONGEST + 1);
    let cut = |part: &str| format!("{}*", part.get(..kept).unwrap_or_default());
    if alive.len() >= host.len() {
        format!("{}@{host}", cut(alive))
    } else {
        format!("{alive}@{}", cut(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(names: &[&str]) -> Vec<String> {
        patterns(names.iter().copied())
    }

    #[test]
    fn what_tools_call_their_own_nodes_is_one_pattern() {
        for (name, expected) in [
            ("abc-ctl-ejabberd@h2", "???-ctl-ejabberd@h2"),
            ("x1y-debug-ejabberd@h2", "???-debug-ejabberd@h2"),
            ("abc-top-ejabberd@h2", "???-top-ejabberd@h2"),
            ("abc-ping@h2", "???-ping@h2"),
            ("rabbitmqcli-42-rabbit@h2", "rabbitmqcli-*-rabbit@h2"),
            ("rpc-9f-app@h2", "rpc-*-app@h2"),
            ("rem-9f-my-app@h2", "rem-*-my-app@h2"),
        ] {
            assert_eq!(shape(name), expected);
        }
        for node in ["ejabberd@h2", "my-ctl@h2", "control-1@h2", "rpc@h2", "rpc-app@h2", "abcd-ctl-e@h2"] {
            assert_eq!(shape(node), node);
        }
    }

    #[test]
    fn names_that_differ_in_numbers_only_are_folded_from_four_on() {
        assert_eq!(folded(&["n1@h2", "n2@h2", "n3@h2"]), ["n1@h2", "n2@h2", "n3@h2"]);
        assert_eq!(folded(&["n1@h2", "n2@h2", "n3@h2", "n17@h2", "m@h2"]), ["m@h2", "n*@h2"]);
        let hosts = ["n@h1.test9", "n@h2.test9", "n@h3.test9", "n@h4.test9"];
        assert_eq!(folded(&hosts), ["n@h*.test9"]);
        assert_eq!(folded(&["abc-ctl-e@h", "xyz-ctl-e@h"]), ["???-ctl-e@h"]);
        assert_eq!(folded(&[]), Vec::<String>::new());
    }

    #[test]
    fn no_pattern_is_longer_than_one_can_be() {
        for name in [format!("n@{}", "h".repeat(253)), format!("{}@h", "n".repeat(253))] {
            let [pattern] = folded(&[&name]).try_into().unwrap();
            assert_eq!(pattern.len(), LONGEST);
            let (head, tail) = pattern.split_once('*').unwrap();
            assert!(name.starts_with(head) && name.ends_with(tail), "{pattern}");
        }
    }
}
