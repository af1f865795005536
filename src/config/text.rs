//! Places in the text of a file, and how pieces of it are quoted.

use std::ops::Range;

/// How much of a value a message repeats.
const QUOTED: usize = 60;

/// Tells the lines of offsets. Goes on from where it last was, so ascending offsets cost one pass.
#[derive(Debug)]
pub(super) struct LineCounter<'a> {
    text: &'a str,
    line: usize,
    line_start: usize,
    /// No newline lies between the start of the line and here.
    seen: usize,
}

impl<'a> LineCounter<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, line: 1, line_start: 0, seen: 0 }
    }

    /// The line of `offset`, counted from 1, and where that line begins.
    pub(super) fn line_at(&mut self, offset: usize) -> (usize, usize) {
        if offset < self.line_start {
            *self = Self::new(self.text);
        }
        let end = offset.min(self.text.len());
        let unseen = self.text.as_bytes().get(self.seen..end).unwrap_or_default();
        if let Some(last) = unseen.iter().rposition(|byte| *byte == b'\n') {
            self.line += unseen.iter().filter(|byte| **byte == b'\n').count();
            self.line_start = self.seen + last + 1;
        }
        self.seen = self.seen.max(end);
        (self.line, self.line_start)
    }
}

/// The lines that some spans touch.
#[derive(Debug, Default)]
pub(super) struct TouchedLines(Vec<Range<usize>>);

impl TouchedLines {
    /// The lines of `text` in which one of `spans` begins.
    pub(super) fn new(text: &str, mut spans: Vec<Range<usize>>) -> Self {
        spans.sort_unstable_by_key(|span| span.start);
        let mut lines: Vec<Range<usize>> = Vec::new();
        for span in spans {
            // One look at each line, however many spans begin in it.
            if lines.last().is_some_and(|line| span.start <= line.end) {
                continue;
            }
            let at = text.floor_char_boundary(span.start);
            let (before, behind) = text.split_at_checked(at).unwrap_or((text, ""));
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            lines.push(start..at + behind.find('\n').unwrap_or(behind.len()));
        }
        Self(lines)
    }

    /// Whether `span` has a part in one of the lines.
    pub(super) fn touch(&self, span: &Range<usize>) -> bool {
        let after = self.0.partition_point(|line| line.start <= span.end);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|line| span.start <= line.end)
    }
}

/// `text` in quotes, escaped and not too long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((cut, _)) => format!("{:?}…", text.get(..cut).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// `text` with whatever a terminal or a log would take for more than text escaped, such as in a path.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => line.push(character),
            other => line.extend(other.escape_debug()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_forwards_and_from_the_start_again() {
        let mut lines = LineCounter::new("a\nbc\n\nd");
        for (offset, expected) in [
            (0, (1, 0)),
            (1, (1, 0)),
            (2, (2, 2)),
            (6, (4, 6)),
            (99, (4, 6)),
            (6, (4, 6)),
            (3, (2, 2)),
            (2, (2, 2)),
            (4, (2, 2)),
        ] {
            assert_eq!(lines.line_at(offset), expected, "{offset}");
        }
    }

    #[test]
    fn a_span_touches_the_lines_it_has_a_part_in() {
        let lines = TouchedLines::new("aa\nbb\ncc\ndd", vec![4..5, 3..4]);
        assert!(!lines.touch(&(0..2)));
        assert!(lines.touch(&(3..4)) && lines.touch(&(0..4)) && lines.touch(&(4..9)));
        assert!(!lines.touch(&(6..7)));
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(quoted("a\u{1b}\"é"), r#""a\u{1b}\"é""#);
        assert_eq!(quoted(&"é".repeat(100)), format!("\"{}\"…", "é".repeat(60)));
    }

    #[test]
    fn a_path_is_one_line_without_orders_to_a_terminal() {
        assert_eq!(one_line("/tmp/a\n\u{1b}[2J\u{202e}é \"b\\"), r#"/tmp/a\n\u{1b}[2J\u{202e}é "b\"#);
    }
}
