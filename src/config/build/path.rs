//! Paths of files.

use std::fmt::Display;
use std::path::PathBuf;

use crate::config::problem::Problem;
use crate::config::schema::Word;
use crate::config::text::quoted;

/// What a path may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// One that may be written.
    pub(super) example: &'static str,
    /// How many bytes it may have.
    pub(super) longest: usize,
    /// What is wrong with one that has more.
    pub(super) too_long: &'static str,
}

impl Wanted {
    /// A path that is only opened (`PATH_MAX`, whose last byte ends it).
    pub(super) const fn file(example: &'static str) -> Self {
        Self { example, longest: 4095, too_long: "is longer than the 4095 bytes that a path may have" }
    }
}

/// An absolute path of a file.
pub(super) fn read(key: impl Display, word: &Word<'_>, wanted: Wanted) -> Result<PathBuf, Problem> {
    let text = *word.get_ref();
    let Wanted { example, longest, too_long } = wanted;
    let (why, help) = if !text.starts_with('/') {
        ("is no absolute path", format!("write the whole path, such as {example:?}"))
    } else if text.len() > longest {
        (too_long, "write a shorter path".to_owned())
    } else if text.ends_with('/') {
        ("is a folder", format!("write the path of a file in it, such as {example:?}"))
    } else if text.chars().any(char::is_control) {
        ("has a control character", "write the path without it".to_owned())
    } else {
        return Ok(text.into());
    };
    Err(Problem::error(word.span(), format!("{key}: {} {why}", quoted(text))).with_help(help))
}
