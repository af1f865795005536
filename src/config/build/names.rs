//! Lists of patterns of names, of registered ones and of whole ones.

use std::fmt::Display;

use super::line_of;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::Words;
use crate::config::text::{LineCounter, quoted};
use crate::policy::{NamePatterns, NodePatterns, Pattern, PatternFault};

/// What it means that a list includes no name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nothing {
    /// What follows from it.
    pub(super) effect: &'static str,
    /// What to write in the place of an empty list.
    pub(super) when_empty: &'static str,
    /// The pattern to add to exclusions.
    pub(super) every: &'static str,
}

/// The patterns of a list of registered names, with the lines in which they stand.
pub(super) fn patterns(
    key: &dyn Display,
    words: &Words<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> NamePatterns {
    NamePatterns::new(each(key, words, str::parse, lines, problems))
}

/// The patterns of a list of whole names, `name@host`.
pub(super) fn node_patterns(
    key: &dyn Display,
    words: &Words<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> NodePatterns {
    NodePatterns::new(each(key, words, Pattern::of_node, lines, problems))
}

fn each(
    key: &dyn Display,
    words: &Words<'_>,
    read: fn(&str) -> Result<Pattern, PatternFault>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Vec<(Pattern, u32)> {
    let mut patterns = Vec::with_capacity(words.get_ref().len());
    for word in words.get_ref() {
        match read(word.get_ref()) {
            Ok(pattern) => patterns.push((pattern, line_of(lines, word.span().start))),
            Err(fault) => {
                let message = format!("{key}: {} {fault}", quoted(word.get_ref()));
                let help = help(word.get_ref(), fault);
                problems.push(Problem { help, ..Problem::error(word.span(), message) });
            }
        }
    }
    patterns
}

/// What to write in the place of half a name.
fn help(text: &str, fault: PatternFault) -> Option<String> {
    let anywhere = format!("{text}@*");
    let meant = if Pattern::of_node(&anywhere).is_ok() { &anywhere } else { "ejabberd@*" };
    (fault == PatternFault::NoHost).then(|| format!("write name@host: {meant:?}"))
}

/// Reports a list that includes no name: an empty one, or one that only excludes.
pub(super) fn report_nothing(key: &dyn Display, words: &Words<'_>, means: Nothing, problems: &mut Problems) {
    let includes_nothing = words.get_ref().iter().all(|word| word.get_ref().starts_with('!'));
    if !includes_nothing || problems.has_error_within(&words.span()) {
        return;
    }
    let (what, help) = if words.get_ref().is_empty() {
        ("is empty", means.when_empty.to_owned())
    } else {
        ("has exclusions only", format!("add {:?} for every name that is not excluded", means.every))
    };
    let message = format!("{key}: {what}, {}", means.effect);
    problems.push(Problem::warning(words.span(), message).with_help(help));
}
