//! `status`: the running guard, its ports and its peers.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use super::client::{AskError, Client, GuardArguments};
use super::mode;
use super::terminal::{bytes, counted, duration, shown, shown_json, shown_lines, table};
use super::{ask, print, say};
use crate::control::documents::{
    GuardMode, GuardState, LastResult, ListenerAudience, ListenerDocument, ListenerState, PeerDocument,
    SpeakersDocument, Status, TlsDocument, TlsState,
};
use crate::telemetry::describe;

/// Back to the upper left, and everything behind it gone.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
/// How many addresses of a peer are shown.
const ADDRESSES: usize = 2;

#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Print the JSON document of /status
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, until Ctrl-C [default: 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

pub(super) fn status(arguments: &StatusArguments) -> ExitCode {
    ask(async {
        let client = arguments.guard.client();
        let Some(seconds) = arguments.watch else {
            let (text, code) = look(&client, arguments).await?;
            say(&text);
            return Ok(code);
        };
        let mut last = ExitCode::FAILURE;
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            () = watch(&client, arguments, Duration::from_secs(seconds), &mut last) => {}
        }
        Ok(last)
    })
}

/// Shows the guard again and again. A guard that does not answer is what one watches for, and no end.
async fn watch(client: &Client, arguments: &StatusArguments, every: Duration, last: &mut ExitCode) {
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let (text, code) = look(client, arguments)
            .await
            .unwrap_or_else(|error| (format!("epmd-guard: {}", describe(&error)), ExitCode::FAILURE));
        *last = code;
        // Nobody reads it any more.
        if print(&format!("{clear}{text}\n")).is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

async fn look(client: &Client, arguments: &StatusArguments) -> Result<(String, ExitCode), AskError> {
    let answer = client.get("/status").await?;
    let status: Status = answer.document()?;
    let code = if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let text = if arguments.json { shown_json(&answer.text()) } else { render(&status) };
    Ok((text, code))
}

fn render(status: &Status) -> String {
    let mut parts = vec![head(status)];
    // A reload that was refused is told in the head.
    for warning in status.warnings.iter().filter(|warning| warning.what != "reload_refused") {
        parts.push(format!("warning: {}\n   help: {}", shown(&warning.message), shown(&warning.help)));
    }
    parts.push(ports(&status.listeners));
    parts.push(peers(&status.peers));
    parts.join("\n\n")
}

fn head(status: &Status) -> String {
    let Status { version, pid, started_at, config, generation, .. } = status;
    let up = duration(status.uptime_seconds);
    let mut lines = vec![
        format!(
            "epmd-guard {}, process {pid}, up {up} (since {}), {}",
            shown(version),
            shown(started_at),
            name_of(status.state)
        ),
        format!("configuration {}, generation {generation}", shown(config)),
    ];
    if let Some(last) = &status.last_reload {
        let at = shown(&last.at);
        match last.result {
            LastResult::Ok => lines.push(format!("last reload at {at}")),
            LastResult::Refused => {
                lines.push(format!(
                    "LAST RELOAD REFUSED at {at}: nothing has changed since; mend it and reload"
                ));
                let detail = last.detail.as_deref().map(shown_lines).unwrap_or_default();
                lines.extend(detail.lines().map(|line| format!("    {line}").trim_end().to_owned()));
            }
        }
    }
    let connections = counted(status.connections.into(), "connection");
    let names =
        status.names.map_or_else(String::new, |names| format!(", {} registered", counted(names, "name")));
    lines.push(format!("{}, {connections}{names}", counted(status.links, "link")));
    lines.extend(status.mode.as_ref().map(|document| format!("mode: {}", mode::render(document))));
    let mode = status.mode.as_ref().map_or(GuardMode::Enforce, |document| document.mode);
    lines.extend(status.speakers.iter().flat_map(|document| speakers(document, mode)));
    lines.extend(status.tls.iter().flat_map(tls));
    if status.ready {
        lines.push("READY".to_owned());
    } else if status.not_ready.is_empty() {
        lines.push("NOT READY".to_owned());
    }
    lines.extend(status.not_ready.iter().map(|why| format!("NOT READY: {}", shown(why))));
    lines.join("\n")
}

/// What tunnels are made by.
fn tls(document: &TlsDocument) -> Vec<String> {
    let TlsDocument { certificate, cas, cas_until, crls, crls_until, files, problems } = document;
    let Some(own) = certificate else {
        let mut lines = vec!["tls: NO TUNNELS: no certificate is in force".to_owned()];
        lines.extend(problems.iter().map(|problem| format!("    {}", shown(problem))));
        return lines;
    };
    let ends = if own.expires_in_seconds > 0.0 {
        format!("expires in {}", duration(own.expires_in_seconds))
    } else {
        "EXPIRED".to_owned()
    };
    let until = |until: &Option<String>| {
        until.as_deref().map_or_else(String::new, |at| format!(" until {}", shown(at)))
    };
    let lists =
        if *crls == 0 { String::new() } else { format!(", {}{}", counted(*crls, "CRL"), until(crls_until)) };
    let mut lines = vec![format!(
        "tls: certificate {} until {} ({ends}), {}{}{lists}",
        shown(&own.subject),
        shown(&own.not_after),
        counted(*cas, "CA"),
        until(cas_until)
    )];
    match files {
        TlsState::InForce => {}
        TlsState::Early => lines.push("    its files hold another one, whose time has not come:".to_owned()),
        TlsState::Refused => {
            lines.push("    ITS FILES HOLD WHAT CANNOT BE USED, AND NOTHING HAS CHANGED:".to_owned())
        }
    }
    lines.extend(problems.iter().map(|problem| format!("    {}", shown(problem))));
    lines
}

/// What became of those who spoke. What has not happened is not told.
fn speakers(document: &SpeakersDocument, mode: GuardMode) -> Vec<String> {
    let SpeakersDocument { handshakes, half_open, half_open_most, bans, would_refuse } = document;
    let some = |counts: &BTreeMap<String, u64>| {
        let mut some: Vec<(&String, &u64)> = counts.iter().filter(|(_, count)| **count > 0).collect();
        // What is good goes first.
        some.sort_by_key(|(what, _)| *what != "up");
        some.iter().map(|(what, count)| format!("{count} {}", shown(what))).collect::<Vec<_>>().join(", ")
    };
    let ended = some(handshakes);
    let ended = if ended.is_empty() { "none yet".to_owned() } else { ended };
    let bans = match mode {
        GuardMode::Enforce => format!("{} in force", counted(*bans, "ban")),
        GuardMode::Observe => format!("{}, which keep nobody out now", counted(*bans, "ban")),
    };
    let mut lines = vec![format!("handshakes: {ended}; {half_open} of {half_open_most} under way; {bans}")];
    let passed = some(would_refuse);
    if !passed.is_empty() {
        lines.push(format!("let pass by observe mode, and refused by enforce: {passed}"));
    }
    lines
}

fn name_of(state: GuardState) -> &'static str {
    match state {
        GuardState::Open => "open",
        GuardState::Draining => "DRAINING: nothing new of peers is let in",
    }
}

fn ports(listeners: &[ListenerDocument]) -> String {
    if listeners.is_empty() {
        return "no ports: nothing that is to be guarded listens".to_owned();
    }
    let row = |port: &ListenerDocument| {
        let audience = match (port.audience, &port.toward) {
            (_, Some(peer)) => format!("self → {peer}"),
            (ListenerAudience::Peers, None) => "peers".to_owned(),
            (ListenerAudience::ItselfOnly, None) => "self".to_owned(),
            (ListenerAudience::PeersOnly, None) => "peers only".to_owned(),
        };
        let state = match port.state {
            ListenerState::Open => "open",
            ListenerState::Blocked => "BLOCKED",
        };
        [
            port.role.clone(),
            port.listener.to_string(),
            state.to_owned(),
            audience,
            port.inside.map_or_else(dash, |inside| inside.to_string()),
            port.node.clone().unwrap_or_else(dash),
        ]
    };
    table(["PORT", "LISTENER", "STATE", "FOR", "INSIDE", "NODE"], listeners.iter().map(row))
}

fn peers(peers: &[PeerDocument]) -> String {
    if peers.is_empty() {
        return "no peers: no link of another host is up, and no [[peer]] is configured".to_owned();
    }
    let row = |peer: &PeerDocument| {
        [
            peer.name.clone(),
            peer.links.to_string(),
            bytes(peer.bytes_in),
            bytes(peer.bytes_out),
            peer.idle_seconds.map_or_else(dash, duration),
            peer.mesh.clone().unwrap_or_else(dash),
            some_of(&peer.addresses),
        ]
    };
    table(["PEER", "LINKS FROM", "IN", "OUT", "IDLE", "MESH", "ADDRESSES"], peers.iter().map(row))
}

fn some_of(addresses: &[String]) -> String {
    let mut text = addresses.iter().take(ADDRESSES).cloned().collect::<Vec<_>>().join(", ");
    if addresses.len() > ADDRESSES {
        text.push_str(&format!(", and {} more", addresses.len() - ADDRESSES));
    }
    if text.is_empty() { dash() } else { text }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::tests::a_status;
    use crate::control::documents::CertificateDocument;

    #[test]
    fn a_guard_that_is_well_fits_on_a_screen() {
        let expected = "\
epmd-guard 0.1.0, process 4711, up 3d 4h (since 2026-11-20T08:00:00Z), open
configuration /etc/epmd-guard/epmd-guard.toml, generation 3
last reload at 2026-11-22T09:00:00Z
2 links, 3 connections
mode: observe until 2026-11-22T10:00:00Z (15m left), then enforce again, as configured
handshakes: 12 up, 3 wrong_cookie; 1 of 512 under way; 2 bans, which keep nobody out now
let pass by observe mode, and refused by enforce: 4 name_not_allowed
READY

PORT  LISTENER            STATE  FOR    INSIDE  NODE
epmd  192.0.2.1:4369      open   peers  -       -
dist  [2001:db8::1]:9100  open   self   9100    ejabberd

PEERS";
        let text = render(&a_status());
        let expected = expected.replace(
            "PEERS",
            "PEER  LINKS FROM  IN       OUT    IDLE   MESH  ADDRESSES\n\
             h2    2           1.2 GiB  812 B  2m 5s  full  192.0.2.2, 2001:db8::2, and 1 more\n\
             h3    0           0 B      0 B    -      -     -",
        );
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn what_is_wrong_stands_out_and_says_what_to_do() {
        let mut status = a_status();
        // As of a daemon that does not know of these yet.
        (status.mode, status.speakers) = (None, None);
        status.ready = false;
        status.not_ready = vec!["192.0.2.1:4369 is taken by epmd (1234)".into()];
        status.state = GuardState::Draining;
        if let Some(last) = &mut status.last_reload {
            (last.result, last.detail) = (LastResult::Refused, Some("line 3".into()));
        }
        status.warnings = vec![crate::control::documents::Warning {
            what: "node_exposed".into(),
            node: Some("a\u{1b}".into()),
            port: Some(9101),
            message: "a\u{1b} listens on 0.0.0.0:9101".into(),
            help: "set inet_dist_use_interface".into(),
        }];
        let text = render(&status);
        for line in [
            "DRAINING: nothing new of peers is let in",
            "LAST RELOAD REFUSED at 2026-11-22T09:00:00Z: nothing has changed since; mend it and reload\n    line 3\n",
            "NOT READY: 192.0.2.1:4369 is taken by epmd (1234)\n",
            "warning: a\\u{1b} listens on 0.0.0.0:9101\n   help: set inet_dist_use_interface\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("\nREADY") && !text.contains("mode"), "{text}");
    }

    #[test]
    fn the_certificate_of_the_tunnels_is_a_line_and_what_is_wrong_with_its_files_stands_below() {
        let mut document = TlsDocument {
            certificate: Some(CertificateDocument {
                subject: "CN=h1.test".into(),
                serial: "07".into(),
                fingerprint: "AB".into(),
                names: vec!["h1.test".into()],
                not_after: "2027-09-19T00:00:00Z".into(),
                expires_in_seconds: 300.0 * 86_400.0,
            }),
            cas: 2,
            cas_until: None,
            crls: 1,
            crls_until: Some("2026-12-31T00:00:00Z".into()),
            files: TlsState::InForce,
            problems: Vec::new(),
        };
        let line = "tls: certificate CN=h1.test until 2027-09-19T00:00:00Z (expires in 300d), 2 CAs, \
                    1 CRL until 2026-12-31T00:00:00Z";
        assert_eq!(tls(&document), [line]);
        document.files = TlsState::Refused;
        document.problems = vec!["[tls] key: /k is not there: make it".into()];
        let wrong = &tls(&document)[1..];
        assert!(
            wrong[0].contains("NOTHING HAS CHANGED") && wrong[1].contains("/k is not there"),
            "{wrong:?}"
        );
        (document.certificate, document.files) = (None, TlsState::Early);
        assert!(tls(&document)[0].contains("NO TUNNELS"));
    }

    #[test]
    fn an_alias_shows_for_whom_it_stands() {
        let listener = |role: &str, addr: &str, audience, toward: Option<&str>| ListenerDocument {
            role: role.into(),
            listener: addr.parse().unwrap(),
            audience,
            node: None,
            inside: (role == "dist").then_some(9100),
            toward: toward.map(str::to_owned),
            state: ListenerState::Open,
        };
        let shown = ports(&[
            listener("epmd", "127.0.0.12:4369", ListenerAudience::ItselfOnly, Some("h2")),
            listener("dist", "127.0.0.12:40001", ListenerAudience::ItselfOnly, Some("h2")),
            listener("tunnel", "192.0.2.1:4371", ListenerAudience::PeersOnly, None),
        ]);
        let expected = "\
PORT    LISTENER          STATE  FOR         INSIDE  NODE
epmd    127.0.0.12:4369   open   self → h2   -       -
dist    127.0.0.12:40001  open   self → h2   9100    -
tunnel  192.0.2.1:4371    open   peers only  -       -";
        assert_eq!(shown, expected);
    }
}
