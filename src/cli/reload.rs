//! `reload`: the running guard loads its configuration anew.

use std::process::ExitCode;

use hyper::body::Bytes;

use super::client::GuardArguments;
use super::report::{Tense, Words, is_taken, render};
use super::terminal::shown_json;
use super::{ask, complain, say};
use crate::control::documents::ReloadReport;

#[derive(Debug, clap::Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Do it also if it cuts links
    #[arg(long)]
    yes: bool,
    /// Print the JSON document of /reload
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(arguments: &ReloadArguments) -> ExitCode {
    ask(async {
        let path = if arguments.yes { "/reload?yes=1" } else { "/reload" };
        let answer = arguments.guard.client().post(path, Bytes::new()).await?;
        let report: ReloadReport = answer.document()?;
        if arguments.json {
            say(&shown_json(&answer.text()));
        } else {
            tell(&render(&report, Tense::Done));
        }
        Ok(if is_taken(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Says what is to be said, on both streams.
pub(super) fn tell(words: &Words) {
    if !words.out.is_empty() {
        say(&words.out);
    }
    if !words.complaint.is_empty() {
        complain(&words.complaint);
    }
}
