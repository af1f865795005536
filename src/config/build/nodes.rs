//! `[cluster] nodes` and its neighbours, and those of `[[peer]]`: who may claim which name.

use std::collections::HashMap;
use std::fmt::Display;

use super::limits::count;
use super::names::{self, Nothing};
use super::peers::KeyOf;
use super::{Key, choice};
use crate::config::Peer;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Words, Written, WrittenCluster, WrittenPeer};
use crate::config::text::{LineCounter, quoted};
use crate::policy::{NodePatterns, NodeRules, Pattern, PeerNodes, Stance};
use crate::proto::dist::{Flags, Version};

const NODES: Key = Key("cluster", "nodes");
const REQUIRE_FLAGS: Key = Key("cluster", "require_flags");

/// Which `[[peer]]` lists a literal name, and in which line.
type Listed<'a> = HashMap<&'a str, (usize, u32)>;

pub(super) fn build(
    written: &Written<'_>,
    peers: &[Peer],
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> NodeRules {
    let cluster = &written.cluster;
    let own: Vec<PeerNodes> = peers
        .iter()
        .zip(&written.peers)
        .map(|(peer, written)| of_peer(peer, written, lines, problems))
        .collect();
    report_shared(peers, &own, &written.peers, problems);
    let least = count(Key("cluster", "min_handshake"), cluster.min_handshake.as_ref(), 5..=6, problems);
    let default = NodeRules::default();
    let nodes = of_cluster(cluster, lines, problems);
    report_nobody(cluster, &own, problems);
    NodeRules {
        nodes,
        hidden: stance(Key("cluster", "hidden_nodes"), cluster.hidden_nodes.as_ref(), problems)
            .unwrap_or(default.hidden),
        dynamic: stance(Key("cluster", "dynamic_nodes"), cluster.dynamic_nodes.as_ref(), problems)
            .unwrap_or(default.dynamic),
        least_version: if least == Some(6) { Version::V6 } else { default.least_version },
        required: flags(cluster.require_flags.as_ref(), problems),
        peers: own.into(),
    }
}

fn stance(key: impl Display, word: Option<&Word<'_>>, problems: &mut Problems) -> Option<Stance> {
    choice(key, word, &[("allow", Stance::Allow), ("deny", Stance::Deny)], problems)
}

/// The list of the cluster; `["*@*"]` is what the key means when it is left out.
fn of_cluster(
    written: &WrittenCluster<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Option<NodePatterns> {
    let patterns = names::node_patterns(&NODES, written.nodes.as_ref()?, lines, problems);
    let is_all = patterns.iter().count() == 1 && patterns.iter().all(|(pattern, _)| pattern.includes_all());
    (!is_all).then_some(patterns)
}

/// Reports that the cluster's list lets nobody in, where no peer has one of its own.
fn report_nobody(written: &WrittenCluster<'_>, peers: &[PeerNodes], problems: &mut Problems) {
    let Some(words) = &written.nodes else { return };
    let lists = |own: &PeerNodes| own.nodes.as_ref().is_some_and(|nodes| nodes.included().next().is_some());
    if words.get_ref().is_empty() && peers.iter().any(lists) {
        return;
    }
    let means = Nothing {
        effect: "so that no node of another host is let in",
        when_empty: "leave the key out for every name, or give each [[peer]] its nodes",
        every: "*@*",
    };
    names::report_nothing(&NODES, words, means, problems);
}

fn of_peer(
    peer: &Peer,
    written: &WrittenPeer<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> PeerNodes {
    let at = |key| KeyOf { peer: &peer.name, key };
    let nodes = written.nodes.as_ref().map(|words| {
        let key = at("nodes");
        let patterns = names::node_patterns(&key, words, lines, problems);
        let means = Nothing {
            effect: "so that no node of this peer is let in",
            when_empty: "leave the key out for the names that [cluster] nodes has",
            every: "*@h2.example.net",
        };
        names::report_nothing(&key, words, means, problems);
        report_every_name(&key, words, problems);
        patterns
    });
    PeerNodes {
        nodes,
        hidden: stance(at("hidden_nodes"), written.hidden_nodes.as_ref(), problems),
        dynamic: stance(at("dynamic_nodes"), written.dynamic_nodes.as_ref(), problems),
        hosts: peer.hosts.clone(),
    }
}

/// A name that a peer lists is nobody else's, and whoever lists all of them leaves none.
fn report_every_name(key: &KeyOf<'_>, words: &Words<'_>, problems: &mut Problems) {
    let all = |word: &&Word<'_>| Pattern::of_node(word.get_ref()).is_ok_and(|pattern| pattern.includes_all());
    if let Some(word) = words.get_ref().iter().find(all) {
        let message =
            format!("{key}: lists every name, so that no peer without a list of its own may claim any");
        let help = "write the names of this peer's nodes, such as \"*@h2.example.net\"";
        problems.push(Problem::warning(word.span(), message).with_help(help));
    }
}

/// Reports a name that two peers list: it could be either's.
fn report_shared(peers: &[Peer], own: &[PeerNodes], written: &[WrittenPeer<'_>], problems: &mut Problems) {
    let mut listed = Listed::new();
    for (at, (nodes, written)) in own.iter().zip(written).enumerate() {
        let Some(words) = &written.nodes else { continue };
        for (pattern, line) in nodes.nodes.iter().flat_map(NodePatterns::included) {
            let Some(name) = pattern.literal() else { continue };
            let (owner, first) = *listed.entry(name).or_insert((at, line));
            if owner == at {
                continue;
            }
            let of = |at: usize| peers.get(at).map(|peer| peer.name.as_str()).unwrap_or_default();
            let other = Some(of(owner)).filter(|name| !name.is_empty()).unwrap_or("another peer");
            let key = KeyOf { peer: of(at), key: "nodes" };
            let message = format!("{key}: {name} is a node of {other} (line {first}) too: who is it?");
            let help = "a name is one peer's: take it out of the other. Of a node that moves between hosts \
                        make one [[peer]] with the addresses of all of them";
            let span = words.get_ref().iter().find(|word| *word.get_ref() == name).map(Word::span);
            problems.push(Problem::error(span, message).with_help(help));
        }
    }
}

fn flags(words: Option<&Words<'_>>, problems: &mut Problems) -> Flags {
    let mut all = Flags::default();
    for word in words.into_iter().flat_map(|words| words.get_ref()) {
        let text = *word.get_ref();
        match text.parse::<Flags>() {
            Ok(flag) => {
                all = all.and(flag);
                problems_of(flag).into_iter().for_each(|(why, help)| {
                    let message = format!("{REQUIRE_FLAGS}: {} {why}", quoted(text));
                    problems.push(Problem::warning(word.span(), message).with_help(help));
                });
            }
            Err(fault) => {
                let upper = text.to_uppercase();
                let help = if upper.parse::<Flags>().is_ok() {
                    format!("write {upper:?}")
                } else {
                    "write OTP's name without DFLAG_, such as \"UNLINK_ID\"".to_owned()
                };
                let message = format!("{REQUIRE_FLAGS}: {} {fault}", quoted(text));
                problems.push(Problem::error(word.span(), message).with_help(help));
            }
        }
    }
    all
}

/// What is odd about asking for a flag.
fn problems_of(flag: Flags) -> Option<(&'static str, &'static str)> {
    match flag {
        Flags::PUBLISHED => Some((
            "is what hidden nodes do not have, so that none is let in, whatever hidden_nodes says",
            "write hidden_nodes = \"deny\" if that is meant, which a [[peer]] can make an exception of",
        )),
        Flags::NAME_ME => Some((
            "is what only nodes have that ask for a name, so that no other is let in",
            "take it out: dynamic_nodes says whether they are let in",
        )),
        _ => None,
    }
}
