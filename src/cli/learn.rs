//! `learn`: the smallest rules that fit what was seen.

use std::process::ExitCode;

use super::client::GuardArguments;
use super::terminal::{shown_json, shown_lines};
use super::{ask, say};
use crate::control::documents::LearnDocument;

#[derive(Debug, clap::Args)]
pub(super) struct LearnArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Print the JSON document of /learn, which has what was seen besides
    #[arg(long)]
    json: bool,
}

pub(super) fn learn(arguments: &LearnArguments) -> ExitCode {
    ask(async {
        let answer = arguments.guard.client().get("/learn").await?;
        let document: LearnDocument = answer.document()?;
        say(&if arguments.json { shown_json(&answer.text()) } else { shown_lines(&document.rules) });
        Ok(ExitCode::SUCCESS)
    })
}
