//! `drain`: no new connections of peers.

use std::process::ExitCode;

use hyper::body::Bytes;

use super::client::GuardArguments;
use super::{ask, say};
use crate::control::documents::{Drained, GuardState};

#[derive(Debug, clap::Args)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Let new connections in again
    #[arg(long)]
    off: bool,
}

pub(super) fn drain(arguments: &DrainArguments) -> ExitCode {
    ask(async {
        let path = if arguments.off { "/drain?off=1" } else { "/drain" };
        let answer = arguments.guard.client().post(path, Bytes::new()).await?;
        let Drained { state } = answer.document()?;
        say(match state {
            GuardState::Open => "open: peers are let in as the configuration says",
            GuardState::Draining => {
                "draining: nothing new of peers is let in; established links and this host's own go on"
            }
        });
        Ok(ExitCode::SUCCESS)
    })
}
