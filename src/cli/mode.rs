//! `mode`: whether the rules of who speaks are enforced, and another mode for a while.

use std::process::ExitCode;

use clap::ValueEnum;
use form_urlencoded::Serializer;
use hyper::body::Bytes;

use super::client::GuardArguments;
use super::terminal::{duration, shown, shown_json};
use super::{ask, say};
use crate::control::documents::{GuardMode, ModeDocument};

#[derive(Debug, clap::Args)]
pub(super) struct ModeArguments {
    /// The mode to put in force; without one the mode in force is told
    mode: Option<Wanted>,
    /// For how long, 1s to 24h, such as 15m; it then returns by itself
    #[arg(long = "for", value_name = "TIME", requires = "mode")]
    lasts: Option<String>,
    #[command(flatten)]
    guard: GuardArguments,
    /// Print the JSON document of /mode
    #[arg(long)]
    json: bool,
}

/// A mode, as the command line has it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// The network allowlist, ports and limits hold; what else would be refused passes and is told
    Observe,
    /// What the rules refuse is refused
    Enforce,
}

pub(super) fn mode(arguments: &ModeArguments) -> ExitCode {
    ask(async {
        let client = arguments.guard.client();
        let answer = match arguments.mode {
            None => client.get("/mode").await?,
            Some(mode) => client.post(&order(mode, arguments.lasts.as_deref()), Bytes::new()).await?,
        };
        let document: ModeDocument = answer.document()?;
        say(&if arguments.json { shown_json(&answer.text()) } else { render(&document) });
        Ok(ExitCode::SUCCESS)
    })
}

fn order(mode: Wanted, lasts: Option<&str>) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair(
        "to",
        match mode {
            Wanted::Observe => "observe",
            Wanted::Enforce => "enforce",
        },
    );
    if let Some(lasts) = lasts {
        query.append_pair("for", lasts);
    }
    format!("/mode?{}", query.finish())
}

/// The mode in one line.
pub(super) fn render(document: &ModeDocument) -> String {
    let mode = name_of(document.mode);
    match (&document.until, document.remaining_seconds) {
        (Some(until), Some(left)) => format!(
            "{mode} until {} ({} left), then {} again, as configured",
            shown(until),
            duration(left),
            name_of(document.configured)
        ),
        _ => format!("{mode}, as configured"),
    }
}

fn name_of(mode: GuardMode) -> &'static str {
    match mode {
        GuardMode::Enforce => "enforce",
        GuardMode::Observe => "observe",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_ends_says_when() {
        let configured = ModeDocument {
            mode: GuardMode::Enforce,
            configured: GuardMode::Enforce,
            until: None,
            remaining_seconds: None,
        };
        assert_eq!(render(&configured), "enforce, as configured");
        let observing = ModeDocument {
            mode: GuardMode::Observe,
            until: Some("2026-11-23T09:00:00Z".into()),
            remaining_seconds: Some(899.5),
            ..configured
        };
        assert_eq!(
            render(&observing),
            "observe until 2026-11-23T09:00:00Z (14m 59s left), then enforce again, as configured"
        );
        assert_eq!(order(Wanted::Observe, Some("15 m")), "/mode?to=observe&for=15+m");
        assert_eq!(order(Wanted::Enforce, None), "/mode?to=enforce");
    }
}
