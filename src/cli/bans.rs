//! `bans` and `unban`: who is kept out for what it did, and letting it in again.

use std::process::ExitCode;

use form_urlencoded::Serializer;
use hyper::body::Bytes;

use super::client::GuardArguments;
use super::terminal::{counted, duration, shown, shown_json, table};
use super::{ask, complain, say};
use crate::control::documents::{BanDocument, BansDocument, Unbanned};
use crate::policy::Target;

#[derive(Debug, clap::Args)]
pub(super) struct BansArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Print the JSON document of /bans
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnbanArguments {
    /// The address, or the network whose addresses all are meant
    #[arg(value_name = "ADDR or NET", required_unless_present = "all", conflicts_with = "all")]
    whom: Option<String>,
    /// Lift all bans
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    guard: GuardArguments,
}

pub(super) fn bans(arguments: &BansArguments) -> ExitCode {
    ask(async {
        let answer = arguments.guard.client().get("/bans").await?;
        let BansDocument { bans } = answer.document()?;
        say(&if arguments.json { shown_json(&answer.text()) } else { render(&bans) });
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn unban(arguments: &UnbanArguments) -> ExitCode {
    if let Some(whom) = &arguments.whom
        && !matches!(whom.parse(), Ok(Target::Net(_)))
    {
        complain(&format!(
            "epmd-guard: {:?} is neither an address nor a network such as 192.0.2.0/24: take it from `epmd-guard bans`",
            shown(whom)
        ));
        return ExitCode::FAILURE;
    }
    ask(async {
        let mut query = Serializer::new(String::new());
        match &arguments.whom {
            Some(whom) => query.append_pair("net", whom),
            None => query.append_pair("all", "1"),
        };
        let answer =
            arguments.guard.client().post(&format!("/unban?{}", query.finish()), Bytes::new()).await?;
        let Unbanned { lifted } = answer.document()?;
        let of = arguments.whom.as_deref().map_or_else(String::new, |whom| format!(" of {}", shown(whom)));
        if lifted == 0 {
            complain(&format!("epmd-guard: there is no ban{of} to lift; `epmd-guard bans` lists them"));
            return Ok(ExitCode::FAILURE);
        }
        say(&format!("{}{of} lifted", counted(lifted, "ban")));
        Ok(ExitCode::SUCCESS)
    })
}

fn render(bans: &[BanDocument]) -> String {
    if bans.is_empty() {
        return "no bans".to_owned();
    }
    let row = |ban: &BanDocument| {
        [
            ban.network.clone(),
            ban.since.clone(),
            format!("{} ({})", ban.until, duration(ban.remaining_seconds)),
            ban.times.to_string(),
            ban.why.clone(),
        ]
    };
    table(["NETWORK", "SINCE", "UNTIL", "TIMES", "WHY"], bans.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::tests::a_ban;

    #[test]
    fn a_ban_is_a_line() {
        let expected = "\
NETWORK      SINCE                 UNTIL                         TIMES  WHY
203.0.113.9  2026-11-23T08:00:00Z  2026-11-23T08:04:00Z (3m 5s)  2      wrong_cookie";
        assert_eq!(render(&[a_ban()]), expected);
        assert_eq!(render(&[]), "no bans");
    }
}
