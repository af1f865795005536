//! `[limits]`

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::size::{Sizes, shown, size};
use super::{Key, SECOND_TO_DAY, Span, duration};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::WrittenLimits;
use crate::config::{Epmd, EpmdBackend, Limits};

/// As `net_setuptime` of the nodes, which gives each step of a handshake so long.
const SET_UP: Span =
    Span { least: Duration::from_secs(1), most: Duration::from_secs(120), shown: "1s to 120s" };
const QUICK: Span =
    Span { least: Duration::from_millis(100), most: Duration::from_secs(60), shown: "100ms to 60s" };

/// A link reads up to 512 KiB at one time, and keeps what it has read until the other guard has it.
const OF_LINK: Sizes = Sizes { least: 1 << 20, most: 1 << 30, shown: "1MiB to 1GiB" };
const OF_ALL: Sizes = Sizes { least: 1 << 20, most: 1 << 40, shown: "1MiB to 1024GiB" };

pub(super) fn build(written: &WrittenLimits<'_>, epmd: &Epmd, problems: &mut Problems) -> Limits {
    let at = |name| Key("limits", name);
    let connections = written.connections.as_ref().and_then(|value| {
        let number = Spanned::new(value.span(), (*value.get_ref())?);
        count(at("connections"), Some(&number), 8..=u32::MAX, problems)
    });
    let mut number = |name, written: &Option<Spanned<i64>>, least, default| {
        count(at(name), written.as_ref(), least..=u32::MAX, problems).unwrap_or(default)
    };
    let reserve = number("reserve", &written.reserve, 0, 64);
    let per_address = number("per_address", &written.per_address, 1, 512);
    let per_subnet = number("per_subnet", &written.per_subnet, 1, 2048);
    let names = number("names", &written.names, 1, 16_384);
    let rate_per_address = number("rate_per_address", &written.rate_per_address, 1, 2000);
    let rate_per_subnet = number("rate_per_subnet", &written.rate_per_subnet, 1, 8000);
    let half_open = number("half_open", &written.half_open, 1, 1024);
    let half_open_per_address = number("half_open_per_address", &written.half_open_per_address, 1, 256);
    let mut bytes = |name, written: &Option<_>, bounds, default| {
        size(at(name), written.as_ref(), bounds, problems).unwrap_or(default)
    };
    let replay_per_link = bytes("replay_per_link", &written.replay_per_link, OF_LINK, 4 << 20);
    let replay = bytes("replay", &written.replay, OF_ALL, 256 << 20);
    let mut time = |name, written: &Option<_>, bounds, default| {
        duration(at(name), written.as_ref(), bounds, problems).unwrap_or(default)
    };
    let limits = Limits {
        connections,
        reserve,
        per_address,
        per_subnet,
        names,
        request_timeout: time("request_timeout", &written.request_timeout, QUICK, Duration::from_secs(5)),
        backend_timeout: time("backend_timeout", &written.backend_timeout, QUICK, Duration::from_secs(5)),
        half_close_timeout: time(
            "half_close_timeout",
            &written.half_close_timeout,
            SECOND_TO_DAY,
            Duration::from_mins(5),
        ),
        rate_per_address,
        rate_per_subnet,
        half_open,
        half_open_per_address,
        handshake_timeout: time(
            "handshake_timeout",
            &written.handshake_timeout,
            SET_UP,
            Duration::from_secs(7),
        ),
        replay_per_link,
        replay,
    };
    report_disagreement(written, &limits, problems);
    report_replay(written, &limits, problems);
    report_names(written, &limits, epmd, problems);
    limits
}

/// A whole number within `range`.
pub(super) fn count(
    key: Key,
    written: Option<&Spanned<i64>>,
    range: RangeInclusive<u32>,
    problems: &mut Problems,
) -> Option<u32> {
    let number = written?;
    let value = *number.get_ref();
    let read = u32::try_from(value).ok().filter(|value| range.contains(value));
    if read.is_none() {
        let message = if value < i64::from(*range.start()) {
            format!("{key}: must be at least {}, is {value}", range.start())
        } else {
            format!("{key}: must be at most {}, is {value}", range.end())
        };
        problems.push(Problem::error(number.span(), message));
    }
    read
}

fn report_disagreement(written: &WrittenLimits<'_>, limits: &Limits, problems: &mut Problems) {
    let at = |first: &Option<Spanned<i64>>| first.as_ref().map(Spanned::span);
    let Limits { reserve, connections, .. } = limits;
    if let Some(connections) = connections.filter(|connections| reserve >= connections) {
        let span = at(&written.reserve).or(written.connections.as_ref().map(Spanned::span));
        let message = format!(
            "[limits] reserve: must be less than connections ({connections}), is {reserve}: \
             nothing would be left for the networks of the cluster"
        );
        let help = format!("write reserve = {}, or allow more connections", connections / 4);
        problems.push(Problem::error(span, message).with_help(help));
    }
    let (subnet, all) = ("so an IPv6 address never gets as many", "so an address never gets as many");
    for (part, whole, why) in [
        (
            ("per_address", &written.per_address, limits.per_address),
            ("per_subnet", &written.per_subnet, limits.per_subnet),
            subnet,
        ),
        (
            ("rate_per_address", &written.rate_per_address, limits.rate_per_address),
            ("rate_per_subnet", &written.rate_per_subnet, limits.rate_per_subnet),
            subnet,
        ),
        (
            ("half_open_per_address", &written.half_open_per_address, limits.half_open_per_address),
            ("half_open", &written.half_open, limits.half_open),
            all,
        ),
    ] {
        if part.2 > whole.2 {
            let message =
                format!("[limits] {}: {} is more than {} ({}), {why}", part.0, part.2, whole.0, whole.2);
            problems.push(Problem::warning(at(part.1).or(at(whole.1)), message));
        }
    }
    if let (Some(written), Some(connections)) =
        (&written.half_open, limits.connections.filter(|c| limits.half_open > *c))
    {
        let message = format!(
            "[limits] half_open: {} is more than connections ({connections}), so it bounds nothing",
            limits.half_open
        );
        problems.push(Problem::warning(written.span(), message));
    }
}

/// Reports that all links together may keep less than one of them.
fn report_replay(written: &WrittenLimits<'_>, limits: &Limits, problems: &mut Problems) {
    let word = written.replay_per_link.as_ref().or(written.replay.as_ref());
    if let Some(word) = word.filter(|_| limits.replay_per_link > limits.replay) {
        let (one, all) = (shown(limits.replay_per_link), shown(limits.replay));
        let message = format!(
            "[limits] replay_per_link: {one} is more than replay ({all}), so a link never gets as much"
        );
        problems.push(Problem::warning(word.span(), message));
    }
}

fn report_names(written: &WrittenLimits<'_>, limits: &Limits, epmd: &Epmd, problems: &mut Problems) {
    let Some(span) = written.names.as_ref().map(Spanned::span) else { return };
    let problem = match (epmd.backend, limits.connections) {
        (EpmdBackend::At(addr), _) => {
            let message = format!("[limits] names: has no effect: the epmd at {addr} has a limit of its own");
            Problem::warning(span, message).with_help("take it out")
        }
        (EpmdBackend::Embedded, Some(connections)) if limits.names > connections => {
            let message = format!(
                "[limits] names: {} is more than connections ({connections}), of which each name takes one",
                limits.names
            );
            Problem::warning(span, message)
        }
        (EpmdBackend::Embedded, _) => return,
    };
    problems.push(problem);
}
