//! Lists of patterns of registered names.

use std::fmt::Display;

use super::line_of;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::Words;
use crate::config::text::{LineCounter, quoted};
use crate::policy::{NamePatterns, Pattern};

/// What it means that a list includes no name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nothing {
    /// What follows from it.
    pub(super) effect: &'static str,
    /// What to write in the place of an empty list.
    pub(super) when_empty: &'static str,
}

/// The patterns of a list, with the lines in which they stand.
pub(super) fn patterns(
    key: &dyn Display,
    words: &Words<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> NamePatterns {
    let mut patterns = Vec::with_capacity(words.get_ref().len());
    for word in words.get_ref() {
        match word.get_ref().parse::<Pattern>() {
            Ok(pattern) => patterns.push((pattern, line_of(lines, word.span().start))),
            Err(fault) => {
                let message = format!("{key}: {} {fault}", quoted(word.get_ref()));
                problems.push(Problem::error(word.span(), message));
            }
        }
    }
    NamePatterns::new(patterns)
}

/// Reports a list that includes no name: an empty one, or one that only excludes.
pub(super) fn report_nothing(key: &dyn Display, words: &Words<'_>, means: Nothing, problems: &mut Problems) {
    let includes_nothing = words.get_ref().iter().all(|word| word.get_ref().starts_with('!'));
    if !includes_nothing || problems.has_error_within(&words.span()) {
        return;
    }
    let (what, help) = if words.get_ref().is_empty() {
        ("is empty", means.when_empty)
    } else {
        ("has exclusions only", "add \"*\" for every name that is not excluded")
    };
    let message = format!("{key}: {what}, {}", means.effect);
    problems.push(Problem::warning(words.span(), message).with_help(help));
}
