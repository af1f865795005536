//! What is wrong with a configuration file, and how it is shown.
//!
//! Owns the list of problems and its drawing. Never decides what a problem is.

use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use super::text::LineCounter;

/// How many problems are drawn; who has more will not read them all before the next try.
const DRAWN: usize = 50;
/// How many errors, and how many warnings, are kept; more are only counted. A file of 64 MiB can have millions.
const KEPT: usize = 1000;
/// How many errors the gist names.
const NAMED: usize = 3;
/// A longer line, in bytes, is not drawn: a list may stand in one line of megabytes.
const LONG_LINE: usize = 4096;

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but hardly as meant.
    Warning,
}

/// How problems are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// ASCII, for files and pipes.
    Plain,
    /// Colors and box characters, for terminals.
    Ansi,
}

/// From the answer to "is this a terminal that shows colors".
impl From<bool> for Color {
    fn from(colors: bool) -> Self {
        if colors { Self::Ansi } else { Self::Plain }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How grave it is.
    pub severity: Severity,
    /// The bytes of the file that it is about.
    pub span: Option<Range<usize>>,
    /// One clause that names section and key.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Problem {
    /// An error about `span`.
    #[must_use]
    pub fn error(span: impl Into<Option<Range<usize>>>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span: span.into(), message: message.into(), help: None }
    }

    /// A warning about `span`.
    #[must_use]
    pub fn warning(span: impl Into<Option<Range<usize>>>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// The same problem with what to write instead.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Its place in the order of the file; what is about no place in particular comes last.
    fn order(&self) -> (usize, Severity) {
        (self.span.as_ref().map_or(usize::MAX, |span| span.start), self.severity)
    }
}

/// All that is wrong with one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first of each severity.
    kept: Vec<Problem>,
    /// All of them, also those that are not kept.
    count: Count,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    errors: usize,
    warnings: usize,
}

impl Count {
    fn of(&mut self, severity: Severity) -> &mut usize {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        }
    }
}

impl Problems {
    /// Adds one. Beyond a thousand of a severity it only counts.
    pub fn push(&mut self, problem: Problem) {
        let count = self.count.of(problem.severity);
        *count += 1;
        if *count <= KEPT {
            self.kept.push(problem);
        }
    }

    /// Whether any of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count.errors > 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == Count::default()
    }

    /// The problems that are kept, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        let mut sorted: Vec<&Problem> = self.kept.iter().collect();
        sorted.sort_by_key(|problem| problem.order());
        sorted.into_iter()
    }

    /// How many there are, such as `2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        let counts = [(self.count.errors, "error"), (self.count.warnings, "warning")];
        let parts: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, noun)| counted(count, noun))
            .collect();
        if parts.is_empty() { "no problems".to_owned() } else { parts.join(", ") }
    }

    /// Draws the problems as rustc does, with the lines of `source` and a summary at the end.
    /// Without color it is plain ASCII apart from what the file itself contains.
    #[must_use]
    pub fn render(&self, path_label: &str, source: &str, color: Color) -> String {
        let mut lines = LineCounter::new(source);
        let mut out = String::new();
        let drawn = self.to_draw();
        for problem in &drawn {
            out.push_str(&draw(problem, path_label, source, &mut lines, &renderer(color)));
            out.push_str("\n\n");
        }
        let left = self.count.errors + self.count.warnings - drawn.len();
        if left > 0 {
            // Writing to a String cannot fail.
            writeln!(out, "… and {}\n", counted(left, "more problem")).unwrap_or_default();
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// Drops what appears twice: the parser tells some faults each time that it comes by.
    pub(super) fn dedup(&mut self) {
        self.kept.sort_by(|a, b| a.order().cmp(&b.order()).then_with(|| a.message.cmp(&b.message)));
        let count = &mut self.count;
        self.kept.dedup_by(|later, first| {
            let again = later == first;
            if again {
                *count.of(later.severity) -= 1;
            }
            again
        });
    }

    /// Whether an error lies inside `span`.
    pub(super) fn has_error_within(&self, span: &Range<usize>) -> bool {
        self.kept
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .filter_map(|problem| problem.span.as_ref())
            .any(|at| span.start <= at.start && at.end <= span.end)
    }

    /// Adds those of `others` whose place `keep` lets pass; what they do not keep has no place.
    pub(super) fn extend_where(&mut self, others: Self, mut keep: impl FnMut(&Range<usize>) -> bool) {
        others
            .kept
            .into_iter()
            .filter(|problem| problem.span.as_ref().is_some_and(&mut keep))
            .for_each(|problem| self.push(problem));
    }

    /// The problems that are drawn, in the order of the file; many warnings hide no error.
    fn to_draw(&self) -> Vec<&Problem> {
        let mut chosen: Vec<&Problem> = self.iter().collect();
        chosen.sort_by_key(|problem| problem.severity);
        chosen.truncate(DRAWN);
        chosen.sort_by_key(|problem| problem.order());
        chosen
    }
}

/// Problems with the text that they are about.
#[derive(Debug, Clone)]
pub struct Report {
    label: String,
    text: String,
    problems: Problems,
}

impl Report {
    /// Ties `problems` to the text in which they were found.
    #[must_use]
    pub fn new(path_label: &str, text: &str, problems: Problems) -> Self {
        // A text without problems is never shown, and it may be large.
        let text = if problems.is_empty() { String::new() } else { text.to_owned() };
        Self { label: path_label.to_owned(), text, problems }
    }

    /// How the file is called in messages.
    #[must_use]
    pub fn path_label(&self) -> &str {
        &self.label
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// The first errors with their places in one line, without any line of the file.
    #[must_use]
    pub fn brief(&self) -> String {
        let mut lines = LineCounter::new(&self.text);
        let errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error).take(NAMED);
        let named: Vec<String> = errors
            .map(|problem| {
                let message = problem.message.replace(char::is_control, " ");
                let place = problem.span.as_ref().map(|span| Place::new(&self.text, span, &mut lines));
                match place {
                    Some(Place { line, column, .. }) => format!("{message} ({}:{line}:{column})", self.label),
                    None => format!("{message} ({})", self.label),
                }
            })
            .collect();
        match self.problems.count.errors - named.len() {
            0 => named.join("; "),
            more => format!("{}; and {more} more", named.join("; ")),
        }
    }

    /// The problems as rustc would draw them; empty when there is none.
    #[must_use]
    pub fn render(&self, color: Color) -> String {
        if self.problems.is_empty() {
            return String::new();
        }
        self.problems.render(&self.label, &self.text, color)
    }
}

pub(super) fn renderer(color: Color) -> Renderer {
    match color {
        Color::Ansi => Renderer::styled().decor_style(DecorStyle::Unicode),
        Color::Plain => Renderer::plain().decor_style(DecorStyle::Ascii),
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn draw(
    problem: &Problem,
    label: &str,
    source: &str,
    lines: &mut LineCounter<'_>,
    renderer: &Renderer,
) -> String {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(problem.message.as_str());
    let mut group = match problem.span.as_ref().map(|span| Place::new(source, span, lines)) {
        None => title.element(Origin::path(label)),
        Some(place) if place.text.len() > LONG_LINE => {
            title.element(Origin::path(label).line(place.line).char_column(place.column))
        }
        Some(place) => {
            let snippet = Snippet::source(place.text).path(label).line_start(place.line);
            title.element(snippet.annotation(AnnotationKind::Primary.span(place.marked)))
        }
    };
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    renderer.render(&[group])
}

/// The line in which a problem begins.
struct Place<'a> {
    line: usize,
    column: usize,
    text: &'a str,
    /// The bytes of `text` that the problem is about.
    marked: Range<usize>,
}

impl<'a> Place<'a> {
    fn new(source: &'a str, span: &Range<usize>, lines: &mut LineCounter<'_>) -> Self {
        let start = source.floor_char_boundary(span.start);
        let (line, line_start) = lines.line_at(start);
        let (before, behind) = source.split_at_checked(start).unwrap_or((source, ""));
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let text = source.get(line_start..).unwrap_or_default();
        let text = text.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let rest = behind.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let length = source.ceil_char_boundary(span.end).saturating_sub(start).min(rest.len());
        let from = (start - line_start).min(text.len());
        Self { line, column, text, marked: from..from + length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(list: Vec<Problem>) -> Problems {
        let mut problems = Problems::default();
        list.into_iter().for_each(|problem| problems.push(problem));
        problems
    }

    #[test]
    fn a_million_problems_are_counted_and_no_error_is_lost_among_warnings() {
        let warnings = (0..2 * KEPT).map(|at| Problem::warning(at..at + 1, "w"));
        let errors = (0..KEPT + 5).map(|at| Problem::error(at..at + 1, "e"));
        let mut all = problems(warnings.chain(errors).collect());
        all.push(Problem::error(0..1, "e"));
        assert_eq!(all.iter().count(), 2 * KEPT);
        assert_eq!(all.summary(), "1006 errors, 2000 warnings");
        assert!(all.has_errors());
        all.dedup();
        assert_eq!(all.summary(), "1006 errors, 2000 warnings");
        assert!(all.render("x", "", Color::Plain).contains("and 2956 more problems"));
    }

    #[test]
    fn the_gist_is_one_line_and_quotes_none_of_the_file() {
        let source = "secret = 1\ntoken = 2\n";
        let error = |at, message: &str| Problem::error(at..at + 1, message);
        let list = vec![Problem::warning(0..1, "no"), error(0, "a\nb"), error(11, "c"), error(12, "d")];
        let report = Report::new("x.toml", source, problems(list.clone()));
        assert_eq!(report.brief(), "a b (x.toml:1:1); c (x.toml:2:1); d (x.toml:2:2)");
        let more = list.into_iter().chain([Problem::error(None, "e"), Problem::error(None, "f")]);
        let report = Report::new("x.toml", source, problems(more.collect()));
        assert!(report.brief().ends_with("; d (x.toml:2:2); and 2 more"), "{}", report.brief());
        assert!(!report.brief().contains("secret"));
        assert_eq!(Report::new("x", "", problems(vec![Problem::error(None, "e")])).brief(), "e (x)");
    }

    #[test]
    fn a_problem_is_drawn_with_its_line_and_carets() {
        let source = "[dist]\nports = [1, \"9105-9100\"]\n";
        let all = problems(vec![
            Problem::error(19..30, "[dist] ports: 9105-9100 runs backwards").with_help("write \"9100-9105\""),
        ]);
        let shown = all.render("x.toml", source, Color::Plain);
        let expected = "\
error: [dist] ports: 9105-9100 runs backwards
 --> x.toml:2:13
  |
2 | ports = [1, \"9105-9100\"]
  |             ^^^^^^^^^^^
  |
  = help: write \"9100-9105\"

1 error
";
        assert_eq!(shown, expected);
        assert!(all.render("x.toml", source, Color::Ansi).contains('\u{1b}'));
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let all = problems(vec![
            Problem::warning(None, "nowhere"),
            Problem::error(5..6, "second"),
            Problem::warning(1..2, "first"),
        ]);
        let order: Vec<_> = all.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(order, ["first", "second", "nowhere"]);
        assert_eq!(all.summary(), "1 error, 2 warnings");
    }

    #[test]
    fn many_warnings_hide_no_error_and_the_rest_is_counted() {
        let mut list: Vec<_> = (0..60).map(|at| Problem::warning(at..at + 1, format!("w{at}."))).collect();
        list.push(Problem::error(61..62, "the error"));
        let shown = problems(list).render("x", &"y\n".repeat(40), Color::Plain);
        assert!(shown.contains("the error") && shown.contains("w48.") && !shown.contains("w49."));
        assert!(shown.ends_with("… and 11 more problems\n\n1 error, 60 warnings\n"), "{shown}");
    }

    #[test]
    fn a_line_of_megabytes_is_not_drawn_but_named() {
        let source = format!("a = [{}]", "\"é\", ".repeat(100_000));
        let span = 5 + 6 * 50_000..5 + 6 * 50_000 + 4;
        let shown = problems(vec![Problem::error(span, "here")]).render("x", &source, Color::Plain);
        assert!(shown.contains("--> x:1:250006\n"), "{}", shown.get(..200).unwrap_or_default());
        assert!(shown.len() < 10_000);
    }

    #[test]
    fn no_place_is_too_odd_to_be_drawn() {
        for source in ["", "\n", "é", "a\r\nb", "\u{feff}a = 1", "a\tb\u{1b}[31m"] {
            for start in 0..source.len() + 2 {
                for end in start..source.len() + 3 {
                    let shown =
                        problems(vec![Problem::error(start..end, "m")]).render("p", source, Color::Plain);
                    assert!(shown.contains("error: m") && !shown.contains('\u{1b}'), "{shown}");
                }
            }
        }
    }
}
