//! What a reload did, or would do, in words.

use super::links;
use super::terminal::{counted, shown, shown_lines};
use crate::control::documents::{Applies, ChangeDocument, LinkDocument, ReloadReport, ReloadResult};

/// How many links are listed; who would cut more has read enough.
const LISTED: usize = 20;

/// The words of a report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// For standard output.
    pub(super) out: String,
    /// For standard error: why not, and what to do.
    pub(super) complaint: String,
}

/// Whether what the report tells has come to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tense {
    /// It was a reload.
    Done,
    /// It was a question.
    Would,
}

/// Whether the configuration was taken, or would be.
pub(super) fn is_taken(report: &ReloadReport) -> bool {
    match report.result {
        ReloadResult::Reloaded | ReloadResult::Unchanged | ReloadResult::Checked => true,
        ReloadResult::Refused | ReloadResult::NeedsYes => false,
    }
}

/// Puts a report into words.
pub(super) fn render(report: &ReloadReport, tense: Tense) -> Words {
    let mut out = Vec::new();
    let mut complaints: Vec<String> = report.problems.iter().map(|problem| shown_lines(problem)).collect();
    let generation = report.generation;
    let cut = u64::try_from(report.cut.len()).unwrap_or(u64::MAX);
    let changes = report.changes.iter().map(change);
    match (report.result, tense) {
        (ReloadResult::Unchanged, _) => {
            out.push(format!("nothing changes: generation {generation} says what the one before said"));
        }
        (ReloadResult::Checked, _) if report.changes.is_empty() && cut == 0 => {
            out.push("a reload would take it, and change nothing".to_owned());
        }
        (ReloadResult::Checked, _) => out.push("a reload would take it".to_owned()),
        (ReloadResult::Reloaded, _) => out.push(format!("reloaded: generation {generation} is in force")),
        (ReloadResult::Refused, Tense::Done) => {
            complaints.push(format!(
                "the reload is refused and nothing has changed: generation {generation} stays in force"
            ));
        }
        (ReloadResult::Refused, Tense::Would) => complaints.push("a reload would refuse it".to_owned()),
        (ReloadResult::NeedsYes, Tense::Done) => complaints.push(format!(
            "nothing has changed: this would cut {}; `epmd-guard reload --yes` does it",
            counted(cut, "link")
        )),
        (ReloadResult::NeedsYes, Tense::Would) => complaints
            .push(format!("a reload would want --yes, because it would cut {}", counted(cut, "link"))),
    }
    if !is_taken(report) && !report.changes.is_empty() {
        out.push("it would change:".to_owned());
    }
    out.extend(changes);
    if !report.cut.is_empty() {
        let happened = matches!(report.result, ReloadResult::Reloaded);
        out.push(list(&report.cut, if happened { Tense::Done } else { Tense::Would }));
    }
    complaints.extend(report.warnings.iter().map(|warning| format!("warning: {}", shown_lines(warning))));
    Words { out: out.join("\n"), complaint: complaints.join("\n") }
}

fn change(change: &ChangeDocument) -> String {
    let when = match change.applies {
        Applies::AtOnce => "",
        Applies::AfterRestart => " (counts after a restart of the guard)",
    };
    format!("  {}: {}{when}", shown(&change.key), shown(&change.what))
}

fn list(cut: &[LinkDocument], tense: Tense) -> String {
    let count = counted(u64::try_from(cut.len()).unwrap_or(u64::MAX), "link");
    let verb = match (tense, cut.len()) {
        (Tense::Done, 1) => "was",
        (Tense::Done, _) => "were",
        (Tense::Would, _) => "would be",
    };
    let listed = cut.get(..LISTED).unwrap_or(cut);
    let more = match cut.len() - listed.len() {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    format!("{count} {verb} cut:\n{}{more}", links::render_cut(listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::tests::{a_link, a_report};

    fn words(result: ReloadResult, tense: Tense, links: u64) -> Words {
        render(&ReloadReport { cut: (0..links).map(a_link).collect(), ..a_report(result) }, tense)
    }

    #[test]
    fn a_reload_tells_what_changed_and_what_it_cut() {
        let Words { out, complaint } = words(ReloadResult::Reloaded, Tense::Done, 1);
        assert!(out.starts_with("reloaded: generation 4 is in force\n  [cluster] allow: 1 more\n"), "{out}");
        assert!(
            out.contains("[log] format: json (counts after a restart of the guard)\n1 link was cut:\nID ")
        );
        assert_eq!(complaint, "");
    }

    #[test]
    fn a_reload_that_wants_a_yes_lists_twenty_links_and_says_how() {
        let Words { out, complaint } = words(ReloadResult::NeedsYes, Tense::Done, 23);
        assert!(complaint.contains("would cut 23 links; `epmd-guard reload --yes` does it"), "{complaint}");
        assert!(out.starts_with("it would change:\n  [cluster] allow: 1 more\n"), "{out}");
        assert!(out.contains("23 links would be cut:") && out.ends_with("\nand 3 more"), "{out}");
        assert_eq!(out.matches("192.0.2.2:40000").count(), 20);
    }

    #[test]
    fn a_refused_reload_shows_every_problem_with_its_lines() {
        let mut report = a_report(ReloadResult::Refused);
        report.problems = vec!["error: no\n  |\n3 | x\u{1b}\n".into(), "second".into()];
        let Words { complaint, .. } = render(&report, Tense::Done);
        assert!(
            complaint.starts_with("error: no\n  |\n3 | x\\u{1b}\nsecond\nthe reload is refused"),
            "{complaint}"
        );
    }

    #[test]
    fn a_check_speaks_of_what_would_be() {
        let would = |result, links| words(result, Tense::Would, links);
        assert!(would(ReloadResult::Checked, 0).out.starts_with("a reload would take it\n  [cluster]"));
        assert!(would(ReloadResult::Checked, 1).out.contains("1 link would be cut:"));
        assert!(would(ReloadResult::NeedsYes, 2).complaint.contains("would want --yes"));
        assert!(would(ReloadResult::Refused, 0).complaint.contains("a reload would refuse it"));
    }
}
