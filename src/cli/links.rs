//! `links`: the established links.

use std::process::ExitCode;

use super::client::GuardArguments;
use super::terminal::{bytes, duration, shown_json, table};
use super::{ask, say};
use crate::control::documents::{LinkDocument, LinkStanding, LinksDocument};

#[derive(Debug, clap::Args)]
pub(super) struct LinksArguments {
    #[command(flatten)]
    guard: GuardArguments,
    /// Print the JSON document of /links, which tells more
    #[arg(long)]
    json: bool,
}

pub(super) fn links(arguments: &LinksArguments) -> ExitCode {
    ask(async {
        let answer = arguments.guard.client().get("/links").await?;
        let LinksDocument { links } = answer.document()?;
        say(&if arguments.json { shown_json(&answer.text()) } else { render(&links) });
        Ok(ExitCode::SUCCESS)
    })
}

/// The links, one a line.
pub(super) fn render(links: &[LinkDocument]) -> String {
    if links.is_empty() {
        return "no links".to_owned();
    }
    table(
        [
            "ID",
            "PEER",
            "NAME",
            "LISTENER -> INSIDE",
            "BY",
            "CLAIMED",
            "HANDSHAKE",
            "AGE",
            "IN",
            "OUT",
            "IDLE",
        ],
        links.iter().map(row),
    )
}

/// Links that are cut, one a line, with what keeps them from staying.
pub(super) fn render_cut(links: &[LinkDocument]) -> String {
    let with_why = |link: &LinkDocument| {
        let [id, peer, name, leads, by, claimed, _, age, up, down, _] = row(link);
        [id, peer, name, leads, by, claimed, age, up, down, link.why.clone().unwrap_or_else(dash)]
    };
    table(
        ["ID", "PEER", "NAME", "LISTENER -> INSIDE", "BY", "CLAIMED", "AGE", "IN", "OUT", "WHY"],
        links.iter().map(with_why),
    )
}

fn row(link: &LinkDocument) -> [String; 11] {
    let name = match (&link.toward, &link.peer_name, link.standing) {
        (Some(peer), _, _) => format!("self → {peer}"),
        (None, Some(name), _) => name.clone(),
        (None, None, LinkStanding::Itself) => "(self)".to_owned(),
        (None, None, LinkStanding::Peer) => dash(),
    };
    [
        link.id.to_string(),
        link.peer.to_string(),
        name,
        leads(link),
        if link.link.is_some() { "tunnel" } else { "plain" }.to_owned(),
        link.peer_node.clone().unwrap_or_else(dash),
        handshake(link),
        duration(link.age_seconds),
        bytes(link.bytes_up),
        bytes(link.bytes_down),
        duration(link.idle_seconds),
    ]
}

/// The version of the handshake, and whether the node that dialled is a hidden one.
fn handshake(link: &LinkDocument) -> String {
    match (link.handshake, link.hidden) {
        (Some(version), Some(true)) => format!("{version}, hidden"),
        (Some(version), _) => version.to_string(),
        (None, _) => dash(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// Where a link arrived, and what it leads to where that is not the same number.
fn leads(link: &LinkDocument) -> String {
    let mut text = link.listener.to_string();
    if link.listener.port() != link.inside {
        text.push_str(&format!(" -> {}", link.inside));
    }
    if let Some(node) = &link.node {
        text.push_str(&format!(" {node}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::tests::a_link;

    #[test]
    fn a_link_is_a_line() {
        let mut other = a_link(12);
        other.peer_name = None;
        other.inside = 9105;
        other.node = Some("ctl\u{9b}31m".into());
        (other.peer_node, other.handshake, other.hidden) = (None, None, None);
        let mut own = a_link(13);
        (own.peer_name, own.standing, own.node) = (None, LinkStanding::Itself, None);
        (own.link, own.toward) = (Some("61f8".into()), Some("h2".into()));
        let expected = "\
ID  PEER             NAME       LISTENER -> INSIDE                   BY      CLAIMED    HANDSHAKE  AGE    IN       OUT    IDLE
7   192.0.2.2:40000  h2         192.0.2.1:9100 ejabberd              plain   b@h2.test  6, hidden  2h 5m  1.2 GiB  812 B  3s
12  192.0.2.2:40000  -          192.0.2.1:9100 -> 9105 ctl\\u{9b}31m  plain   -          -          2h 5m  1.2 GiB  812 B  3s
13  192.0.2.2:40000  self → h2  192.0.2.1:9100                       tunnel  b@h2.test  6, hidden  2h 5m  1.2 GiB  812 B  3s";
        assert_eq!(render(&[a_link(7), other, own]), expected);
        assert_eq!(render(&[]), "no links");
        let cut = LinkDocument { why: Some("denied by deny h2 (line 4)".into()), ..a_link(7) };
        assert!(render_cut(&[cut]).ends_with("812 B  denied by deny h2 (line 4)"));
    }
}
