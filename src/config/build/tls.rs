//! `[tls]`

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::path::{self, Wanted};
use super::{Key, Span, address, choice, duration, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Words, WrittenTls};
use crate::config::{Admin, CrlRules, Epmd, ListenOn, OnCrl, TUNNEL_PORT, Tls, TlsFiles};
use crate::policy::TlsMode;

const LISTEN: Key = Key("tls", "listen");
const CRL: Key = Key("tls", "crl");
const DEFAULT: Key = Key("tls", "default");
const LOOK_EVERY: Key = Key("tls", "look_every");

/// The words of `default` and of `[[peer]] tls`.
pub(super) const MODES: &[(&str, TlsMode)] =
    &[("off", TlsMode::Off), ("optional", TlsMode::Optional), ("required", TlsMode::Required)];
const ON_CRL: &[(&str, OnCrl)] = &[("refuse", OnCrl::Refuse), ("accept", OnCrl::Accept)];

const LOOKS: Span = Span {
    least: Duration::from_secs(1),
    most: Duration::from_hours(24),
    shown: "1s to 1d, and 0s for never",
};
/// The nodes give up a link that is silent for 45 to 75 s, unless `net_ticktime` was raised.
const RESUMING: Span =
    Span { least: Duration::from_secs(1), most: Duration::from_mins(10), shown: "1s to 10m" };
const WARNING: Span =
    Span { least: Duration::from_hours(1), most: Duration::from_hours(365 * 24), shown: "1h to 365d" };

pub(super) fn build(written: &WrittenTls<'_>, epmd: &Epmd, admin: &Admin, problems: &mut Problems) -> Tls {
    let files = files(written, problems);
    let listen = written.listen.as_ref().map(|words| listen(words, (epmd, admin), problems));
    let plain = Tls::default();
    let own = if files.is_some() { TlsMode::Optional } else { plain.default };
    let default = choice(DEFAULT, written.default.as_ref(), MODES, problems).unwrap_or(own);
    let mut on = |name, word: &Option<_>, default| {
        choice(Key("tls", name), word.as_ref(), ON_CRL, problems).unwrap_or(default)
    };
    let CrlRules { missing, stale, partial } = plain.crl;
    let crl = CrlRules {
        missing: on("crl_missing", &written.crl_missing, missing),
        stale: on("crl_stale", &written.crl_stale, stale),
        partial: on("crl_partial", &written.crl_partial, partial),
    };
    let mut time = |name, word: &Option<_>, bounds, default| {
        duration(Key("tls", name), word.as_ref(), bounds, problems).unwrap_or(default)
    };
    let tls = Tls {
        listen: listen.unwrap_or_default(),
        files,
        default,
        crl,
        resume_for: time("resume_for", &written.resume_for, RESUMING, plain.resume_for),
        warn_before: time("warn_before", &written.warn_before, WARNING, plain.warn_before),
        look_every: look_every(written.look_every.as_ref(), plain.look_every, problems),
    };
    report_no_certificate(written, &tls, problems);
    tls
}

fn listen(
    words: &Words<'_>,
    (epmd, admin): (&Epmd, &Admin),
    problems: &mut Problems,
) -> Vec<(ListenOn, u16)> {
    let listen = each(LISTEN, words, problems, |text| {
        address::listen(text).map(|(on, port)| (on, port.unwrap_or(TUNNEL_PORT)))
    });
    for ((on, port), span) in &listen {
        if let Some(taken) = taken((*on, *port), epmd, admin) {
            let message = format!("{LISTEN}: port {port} is {taken} too");
            problems.push(Problem::error(span.clone(), message).with_help("write another port"));
        }
    }
    listen.into_iter().map(|(place, _)| place).collect()
}

/// What else is to have the same place.
fn taken((on, port): (ListenOn, u16), epmd: &Epmd, admin: &Admin) -> Option<&'static str> {
    let meets = |other: ListenOn| match (on, other) {
        (ListenOn::Ip(ip), ListenOn::Ip(other)) => ip == other,
        (ListenOn::Everywhere, ListenOn::Ip(ip)) | (ListenOn::Ip(ip), ListenOn::Everywhere) => {
            !ip.is_loopback()
        }
        (ListenOn::Everywhere, ListenOn::Everywhere) => true,
    };
    let is_at = |addr: &std::net::SocketAddr| addr.port() == port && meets(ListenOn::Ip(addr.ip()));
    if epmd.listen.iter().any(|(other, served)| *served == port && meets(*other)) {
        Some("in [epmd] listen")
    } else if epmd.backend.addr().is_some_and(|addr| is_at(&addr)) {
        Some("[epmd] backend")
    } else if admin.listen.iter().any(is_at) {
        Some("in [admin] listen")
    } else {
        None
    }
}

/// The three that belong together, and the lists of what is revoked.
fn files(written: &WrittenTls<'_>, problems: &mut Problems) -> Option<TlsFiles> {
    let all = [("cert", &written.cert), ("key", &written.key), ("ca", &written.ca)];
    let given = |word: &&Word<'_>| !word.get_ref().is_empty();
    let words = all.map(|(name, word)| (name, word.as_ref().filter(given)));
    let [cert, key, ca] = words.map(|(name, word)| path(Key("tls", name), word?, problems));
    let crl = crl(written.crl.as_ref(), problems);
    let missing: Vec<&str> =
        words.iter().filter_map(|(name, word)| word.is_none().then_some(*name)).collect();
    let first = words.iter().find_map(|(name, word)| Some((*name, (*word)?)));
    if let Some((name, word)) = first.filter(|_| !missing.is_empty()) {
        let message = format!(
            "[tls] {name}: is nothing without {}: a certificate, its key and the CA belong together",
            missing.join(" and ")
        );
        let keys: Vec<String> = missing.iter().map(|name| format!("{name} = {:?}", example(name))).collect();
        let help = format!("write {} too", keys.join(" and "));
        problems.push(Problem::error(word.span(), message).with_help(help));
    }
    Some(TlsFiles { cert: cert?, key: key?, ca: ca?, crl })
}

fn crl(words: Option<&Words<'_>>, problems: &mut Problems) -> Vec<PathBuf> {
    let given = words.into_iter().flat_map(|words| words.get_ref()).filter(|word| !word.get_ref().is_empty());
    let mut paths = Vec::new();
    for word in given {
        let Some(path) = path(CRL, word, problems) else { continue };
        if paths.contains(&path) {
            let message = format!("{CRL}: {} is in the list twice", path.display());
            problems.push(Problem::error(word.span(), message));
        }
        paths.push(path);
    }
    paths
}

fn path(key: Key, word: &Word<'_>, problems: &mut Problems) -> Option<PathBuf> {
    path::read(key, word, Wanted::file(example(key.1))).map_err(|problem| problems.push(problem)).ok()
}

/// Where the guide to certificates puts them.
fn example(key: &str) -> &'static str {
    match key {
        "cert" => "/etc/epmd-guard/tls/host.crt",
        "key" => "/etc/epmd-guard/tls/host.key",
        "ca" => "/etc/epmd-guard/tls/ca.crt",
        _ => "/etc/epmd-guard/tls/crl.pem",
    }
}

fn look_every(
    word: Option<&Word<'_>>,
    default: Option<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let never = |word: &Word<'_>| humantime::parse_duration(word.get_ref()) == Ok(Duration::ZERO);
    if word.is_some_and(never) {
        return None;
    }
    duration(LOOK_EVERY, word, LOOKS, problems).or(default)
}

/// Whether `cert` and its companions are left out, and not only mistaken.
pub(super) fn has_no_certificate(written: &WrittenTls<'_>, tls: &Tls) -> bool {
    let words = [&written.cert, &written.key, &written.ca];
    let given = |word: &&Word<'_>| !word.get_ref().is_empty();
    tls.files.is_none() && words.into_iter().all(|word| word.as_ref().filter(given).is_none())
}

/// What to do where a certificate is missing.
pub(super) const NO_CERTIFICATE: &str =
    "write cert, key and ca in [tls]: `epmd-guard certs` makes them, and any other CA does as well";

/// Reports what is nothing without a certificate.
fn report_no_certificate(written: &WrittenTls<'_>, tls: &Tls, problems: &mut Problems) {
    if !has_no_certificate(written, tls) {
        return;
    }
    if let Some(words) = written.listen.as_ref().filter(|words| !words.get_ref().is_empty()) {
        let message = format!("{LISTEN}: nobody can be answered without a certificate");
        problems.push(Problem::error(words.span(), message).with_help(NO_CERTIFICATE));
    }
    let default = written.default.as_ref().map(Spanned::span);
    match (tls.default, default) {
        (TlsMode::Required, Some(span)) => {
            let message =
                format!("{DEFAULT}: \"required\" wants a certificate: without one no peer could be reached");
            problems.push(Problem::error(span, message).with_help(NO_CERTIFICATE));
        }
        (TlsMode::Optional, Some(span)) => {
            let message = format!("{DEFAULT}: \"optional\" has no effect without a certificate");
            problems.push(Problem::warning(span, message).with_help(NO_CERTIFICATE));
        }
        (TlsMode::Off, _) | (_, None) => {}
    }
    if let Some(words) =
        written.crl.as_ref().filter(|words| words.get_ref().iter().any(|w| !w.get_ref().is_empty()))
    {
        let message = format!("{CRL}: has no effect without a certificate and a CA");
        problems.push(Problem::warning(words.span(), message).with_help(NO_CERTIFICATE));
    }
}
