//! From a file, a text or nothing to a [`Config`].
//!
//! Owns reading the file and the order of the steps. Never draws conclusions from a value (`build`).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use annotate_snippets::{Group, Level};
use toml::de::DeTable;

use super::build::How;
use super::cookie::Files;
use super::problem::{Color, Problem, Problems, Report, renderer};
use super::schema::Written;
use super::text::{LineCounter, TouchedLines, one_line};
use super::{Config, Places, build};
use crate::policy::Target;

/// What the parser says of a key or a header that stands twice.
const DOUBLE: &str = "duplicate key";
/// What to do about that.
const ONCE: &str = "a key stands once below its header, and a header once in the file: put the keys of both together below one";

/// The largest file that is read; a million networks take 20 MiB.
pub const MAX_BYTES: u64 = 64 << 20;

/// What the command line adds to the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--allow`: who may connect besides those of the file.
    pub allow: Vec<Target>,
}

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is hardly meant so.
    pub warnings: Problems,
    report: Report,
}

impl Loaded {
    /// The warnings as rustc would draw them, with a summary; empty when there is none.
    #[must_use]
    pub fn render_warnings(&self, color: Color) -> String {
        self.report.render(color)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has more than [`MAX_BYTES`].
    #[error("{} is larger than the {} MiB that are read", path.display(), MAX_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no text.
    #[error("{} is not UTF-8 at byte {offset} (line {line}): save it as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// How many bytes are good.
        offset: usize,
        /// The line of the first bad byte, counted from 1.
        line: usize,
    },
    /// The file says something that cannot be.
    #[error("{} has {}", .0.path_label(), .0.problems().summary())]
    Invalid(Report),
}

impl LoadError {
    /// All of it for a person: for an invalid file each problem as rustc would draw it.
    #[must_use]
    pub fn render(&self, color: Color) -> String {
        if let Self::Invalid(report) = self {
            return report.render(color);
        }
        let title = Level::ERROR.primary_title(self.with_source());
        let mut out = renderer(color).render(&[Group::with_title(title)]);
        out.push('\n');
        out
    }

    /// The gist of it in one line, for logs and for those who may see the guard but not its file: no line of
    /// the file is in it.
    #[must_use]
    pub fn brief(&self) -> String {
        // A path may have anything in it.
        one_line(&match self {
            Self::Invalid(report) => report.brief(),
            Self::Read { .. } | Self::TooLarge { .. } | Self::NotUtf8 { .. } => self.with_source(),
        })
    }

    fn with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Loads the file at `path`.
///
/// # Errors
/// When the file cannot be read, or says something that cannot be.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Loaded, LoadError> {
    load_with(path, overrides, Files::Read)
}

pub(super) fn load_with(path: &Path, overrides: &Overrides, files: Files) -> Result<Loaded, LoadError> {
    from_text_with(&path.display().to_string(), &read_text(path)?, overrides, files)
}

/// Reads the file at `path`, whatever it says.
///
/// # Errors
/// When it cannot be read, or is no text.
pub fn read_text(path: &Path) -> Result<String, LoadError> {
    String::from_utf8(read(path)?).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        LoadError::NotUtf8 { path: path.to_owned(), offset: good.len(), line }
    })
}

/// The admin socket that `text` names, whatever else is wrong with it: who has broken a file must still find the
/// guard that runs with the one before.
pub(super) fn socket_in(text: &str) -> Option<PathBuf> {
    let (config, _) = understand(text, How { overrides: &Overrides::default(), files: Files::Leave });
    config.admin.socket
}

/// Loads the configuration that `text` is, with the files that it names; `path_label` is how messages call it.
///
/// # Errors
/// When it says something that cannot be.
pub fn from_text(path_label: &str, text: &str, overrides: &Overrides) -> Result<Loaded, LoadError> {
    from_text_with(path_label, text, overrides, Files::Read)
}

/// The same, and says what becomes of the files that it names.
///
/// # Errors
/// As [`from_text`].
pub fn from_text_with(
    path_label: &str,
    text: &str,
    overrides: &Overrides,
    files: Files,
) -> Result<Loaded, LoadError> {
    let (config, problems) = understand(text, How { overrides, files });
    let report = Report::new(path_label, text, problems.clone());
    if problems.has_errors() {
        return Err(LoadError::Invalid(report));
    }
    Ok(Loaded { config, warnings: problems, report })
}

/// The configuration of a run without a file.
#[must_use]
pub fn defaults(overrides: &Overrides) -> Loaded {
    let (config, warnings) = understand("", How { overrides, files: Files::Leave });
    Loaded { config, report: Report::new("(no file)", "", warnings.clone()), warnings }
}

/// Reads, checks and fills in. The configuration counts only when no problem is an error.
fn understand(text: &str, how: How<'_>) -> (Config, Problems) {
    let (root, refused) = DeTable::parse_recoverable(text);
    let mut found = Problems::default();
    let written = Written::read(root.get_ref(), &mut found);
    let mut config = build::build(&written, &mut LineCounter::new(text), how, &mut found);
    config.places = Places::of(root.get_ref(), text);
    let mut problems = found;
    if !refused.is_empty() {
        // Where the parser lost its way, what it made of the rest of the line misleads.
        let broken = TouchedLines::new(text, refused.iter().filter_map(toml::de::Error::span).collect());
        let found = std::mem::replace(&mut problems, syntax_problems(text, refused));
        problems.extend_where(found, |span| !broken.touch(span));
    }
    problems.dedup();
    (config, problems)
}

/// What the parser refuses, without what only follows from an earlier fault in the same line.
fn syntax_problems(text: &str, mut refused: Vec<toml::de::Error>) -> Problems {
    refused.sort_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
    let mut lines = LineCounter::new(text);
    let mut last = None;
    let mut problems = Problems::default();
    for error in refused {
        let line = error.span().map(|span| lines.line_at(span.start).0);
        if line.is_none() || line != last {
            let problem = Problem::error(error.span(), error.message());
            let is_double = error.message() == DOUBLE;
            problems.push(if is_double { problem.with_help(ONCE) } else { problem });
        }
        last = line;
    }
    problems
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_BYTES) {
        Ok(bytes)
    } else {
        Err(LoadError::TooLarge { path: path.to_owned() })
    }
}

/// What to do about the commonest reasons.
fn advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound {
        ": create it, or name another file with --config"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        ": let the user that epmd-guard runs as read the file and enter its directories"
    } else {
        ""
    }
}
