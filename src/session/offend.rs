//! What a peer does wrong, and what follows from it.

use std::time::Duration;

use tracing::field::display;

use super::connection::Session;
use super::context::Context;
use super::links::{Heard, Link};
use crate::policy::{Consequence, Mode, Offence, Source};

/// Counts an offence of whoever claims to be `name`; empty, where it has not said so.
pub(super) fn offend(context: &Context, session: &Session, name: &str, what: Offence) {
    let source = session.source();
    keep_good_for_live_link(context, &source);
    let consequence = context.speakers.offend(&source, name, what);
    tell(context, session, consequence, (name, what));
}

/// An address is good as long as a link of it lives, however long ago that came up. Its name is no better for that: who
/// claims it too has not proved anything again.
fn keep_good_for_live_link(context: &Context, source: &Source) {
    let is_its = |link: &Link| {
        let is_read = matches!(link.heard, Heard::Nodes { .. });
        (is_read && link.peer().ip() == source.ip).then_some(())
    };
    if context.links.find(is_its).is_some() {
        context.speakers.keep_good(source);
    }
}

/// What an offence has led to.
fn tell(context: &Context, session: &Session, consequence: Consequence, (claimed, what): (&str, Offence)) {
    let (peer, reason) = (session.arrival.peer.ip(), what.label());
    let seconds = |wait: Duration| humantime::format_duration(wait).to_string();
    match consequence {
        Consequence::None => {}
        Consequence::Slowed(wait) => {
            tracing::debug!(%peer, claimed, reason, wait = seconds(wait), "slowed_down");
        }
        Consequence::Banned(lasts, times) => {
            let banned = context.speakers.ban_of(&session.source()).map(|ban| ban.net);
            let (net, lasts) = (banned.map(display), seconds(lasts));
            if context.snapshot().policy.mode() == Mode::Observe {
                tracing::info!(%peer, net, reason, lasts, times, "would_ban");
                if let Some(banned) = banned {
                    context.speakers.only_told(banned);
                }
                return;
            }
            context.metrics.banned();
            let help = "epmd-guard bans shows all, epmd-guard unban lifts one";
            tracing::warn!(%peer, net, reason, lasts, times, help, "banned");
        }
    }
}
