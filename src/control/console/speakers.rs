//! The console's part about who speaks: the mode, bans, and what was seen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Console, number, warn};
use crate::control::admin::{Orderer, Pardon};
use crate::control::documents::{
    BanDocument, LearnDocument, ModeDocument, SeenDocument, SpeakersDocument, Warning, shown_net, time_of,
    timestamp,
};
use crate::control::learn::{self, Account, Lesson};
use crate::control::modes::ModeState;
use crate::policy::{Ban, Mode, Moment, Observation};
use crate::session::half_open_caps;
use crate::transport::host;

impl Console {
    pub(super) fn speakers_document(&self) -> SpeakersDocument {
        let context = &self.parts.context;
        let mut would_refuse: BTreeMap<String, u64> = BTreeMap::new();
        for ((reason, _), count) in context.metrics.would_have_refused() {
            *would_refuse.entry(reason.to_owned()).or_default() += count;
        }
        let handshakes = context.metrics.handshakes();
        SpeakersDocument {
            handshakes: handshakes.into_iter().map(|(how, count)| (how.to_owned(), count)).collect(),
            half_open: context.half_open().in_use(),
            half_open_most: half_open_caps(&self.parts.snapshots.current()).total,
            bans: number(context.speakers.offenders().bans(context.speakers.now()).len()),
            would_refuse,
        }
    }

    /// That the rules of who speaks are not enforced is nothing to forget.
    pub(super) fn observing(&self) -> Option<Warning> {
        let state = self.parts.modes.state();
        if state.mode == Mode::Enforce {
            return None;
        }
        let (until, help) = match state.while_it_lasts {
            Some(until) => (format!(" until {}", timestamp(until.time)), "`epmd-guard mode enforce` ends it"),
            None => (
                String::new(),
                "see what would be refused with `epmd-guard status`, make rules with `epmd-guard learn`, then set \
                 [cluster] mode = \"enforce\"",
            ),
        };
        let message = format!("observe mode{until}: what enforce refuses of who speaks is let through");
        Some(warn("observing", message, help.to_owned(), (None, None)))
    }

    pub(super) fn bans_in_force(&self) -> Vec<BanDocument> {
        let speakers = &self.parts.context.speakers;
        let now = speakers.now();
        let bans = speakers.offenders().bans(now);
        bans.iter().map(|ban| ban_document(ban, now)).collect()
    }

    pub(super) fn lift_bans(&self, whom: Pardon, by: Orderer) -> u64 {
        let speakers = &self.parts.context.speakers;
        let now = speakers.now();
        let lifted = match whom {
            Pardon::Net(net) => speakers.offenders().pardon(net, now),
            Pardon::All => speakers.offenders().pardon_all(now),
        };
        let net = match whom {
            Pardon::Net(net) => shown_net(net),
            Pardon::All => "all".to_owned(),
        };
        if lifted > 0 {
            tracing::info!(net, lifted, uid = by.uid, pid = by.pid, "unbanned");
        }
        number(lifted)
    }

    pub(super) fn lesson(&self) -> LearnDocument {
        let snapshot = self.parts.snapshots.current();
        let (seen, since, handshakes, forgotten) = {
            let observations = self.parts.context.speakers.observations();
            (observations.all(), observations.since(), observations.handshakes(), observations.forgotten())
        };
        let mode = snapshot.policy.mode();
        let own: Vec<IpAddr> = host::addresses().unwrap_or_default();
        let lesson = Lesson {
            seen: &seen,
            config: &snapshot.config,
            policy: &snapshot.policy,
            own: &own,
            account: Account { since: since.map(time_of), handshakes, forgotten, mode },
        };
        LearnDocument {
            since: since.map(|since| timestamp(time_of(since))),
            handshakes,
            forgotten,
            mode: mode.into(),
            rules: learn::rules(&lesson),
            seen: seen.iter().map(|seen| seen_document(&lesson, seen)).collect(),
        }
    }
}

pub(super) fn mode_document(state: ModeState) -> ModeDocument {
    let left = |until: crate::control::modes::Until| {
        until.moment.saturating_duration_since(tokio::time::Instant::now()).as_secs_f64()
    };
    ModeDocument {
        mode: state.mode.into(),
        configured: state.configured.into(),
        until: state.while_it_lasts.map(|until| timestamp(until.time)),
        remaining_seconds: state.while_it_lasts.map(left),
    }
}

fn ban_document(ban: &Ban, now: Moment) -> BanDocument {
    BanDocument {
        network: shown_net(ban.net),
        since: timestamp(time_of(ban.since)),
        until: timestamp(time_of(ban.until)),
        remaining_seconds: ban.until.since(now).as_secs_f64(),
        times: ban.times,
        why: ban.offence.label().to_owned(),
    }
}

fn seen_document(lesson: &Lesson<'_>, seen: &Observation) -> SeenDocument {
    SeenDocument {
        address: seen.ip.to_string(),
        peer_name: learn::peer_name(lesson, seen.ip),
        claimed: seen.claimed.clone(),
        hidden: seen.flags.is_hidden(),
        handshake: seen.version.number(),
        up: seen.up,
        failed: seen.failed,
        last: timestamp(time_of(seen.last)),
        would_refuse: seen.denial.map(|denial| denial.label().to_owned()),
    }
}
