//! `[[peer]]`

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use super::cluster::Placed;
use super::line_of;
use super::names::{self, Nothing};
use crate::config::Peer;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Words, WrittenPeer};
use crate::config::text::{LineCounter, quoted};
use crate::policy::{List, PeerId, Reach, Rule, Target};

/// Metrics and `status` have a line for each peer, and a [`PeerId`] has 16 bits.
const MOST: usize = 1000;
/// The longest name of a peer, as long as a label of a host name.
const LONGEST: usize = 63;

/// The peers of a file.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Themselves. The ids in `rules` count from 0 in this order.
    pub(super) list: Vec<Peer>,
    /// Their addresses.
    pub(super) rules: Vec<Placed>,
}

/// A key of one peer, as messages call it. A peer whose name is broken has none.
#[derive(Clone, Copy)]
pub(super) struct KeyOf<'n> {
    pub(super) peer: &'n str,
    pub(super) key: &'static str,
}

impl fmt::Display for KeyOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            "" => write!(f, "[[peer]] {}", self.key),
            name => write!(f, "[[peer]] {name} {}", self.key),
        }
    }
}

/// What is known of the peers so far, and what reading more of them takes.
struct Reader<'r, 't> {
    lines: &'r mut LineCounter<'t>,
    problems: &'r mut Problems,
    peers: Peers,
    owners: HashMap<Target, PeerId>,
}

pub(super) fn build(
    written: &[WrittenPeer<'_>],
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Peers {
    if let Some(first) = written.get(MOST) {
        let message = format!("[[peer]]: is one more than the {MOST} that are possible");
        let help = "name the hosts that are to be told apart, and let in the others by [cluster] allow";
        problems.push(Problem::error(first.span.clone(), message).with_help(help));
    }
    let mut reader = Reader { lines, problems, peers: Peers::default(), owners: HashMap::new() };
    let mut names: HashMap<&str, u32> = HashMap::new();
    for (written, id) in written.iter().take(MOST).zip((0..).map(PeerId)) {
        let line = line_of(reader.lines, written.span.start);
        let named = written.name.as_ref().and_then(|word| Some((word, name(word, reader.problems)?)));
        if let Some((word, name)) = named
            && let Some(earlier) = names.insert(name, line)
        {
            let message = format!("[[peer]] name: {name} is the name of the peer in line {earlier} too");
            reader.problems.push(Problem::error(word.span(), message));
        }
        // Also without a name, so that what is wrong with its addresses comes at once.
        let name = named.map_or("", |(_, name)| name).to_owned();
        reader.peers.list.push(Peer {
            name,
            line,
            may_reach: Reach::default(),
            connect: Vec::new(),
            hosts: Vec::new(),
            alias: Vec::new(),
            identity: Vec::new(),
            tls: None,
        });
        if let Some(words) = &written.addresses {
            reader.addresses(words, id);
        }
    }
    reader.read_reach(written);
    reader.peers
}

fn name<'a>(word: &Word<'a>, problems: &mut Problems) -> Option<&'a str> {
    let text = *word.get_ref();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let message = if text.is_empty() {
        "[[peer]] name: is empty".to_owned()
    } else if !plain || text.len() > LONGEST {
        format!("[[peer]] name: {} is no name of a peer", quoted(text))
    } else {
        return Some(text);
    };
    let help = format!("write 1 to {LONGEST} letters, digits, '.', '_' and '-', such as \"h2\"");
    problems.push(Problem::error(word.span(), message).with_help(help));
    None
}

impl Peers {
    /// The peer of an id in `rules`.
    fn get(&self, id: PeerId) -> Option<&Peer> {
        self.list.get(usize::from(id.0))
    }

    /// What messages call the peer of an id in `rules`.
    pub(super) fn name_of(&self, id: PeerId) -> &str {
        self.get(id).map(|peer| peer.name.as_str()).filter(|name| !name.is_empty()).unwrap_or("this peer")
    }

    /// What messages call the addresses of the peer of an id in `rules`.
    pub(super) fn key(&self, id: PeerId) -> KeyOf<'_> {
        KeyOf { peer: self.get(id).map_or("", |peer| &peer.name), key: "addresses" }
    }
}

impl Reader<'_, '_> {
    /// What each peer may reach. Once for all of them, since lines are found in the order of the file.
    fn read_reach(&mut self, written: &[WrittenPeer<'_>]) {
        let means = Nothing {
            effect: "so that this peer reaches no node",
            when_empty: "leave the key out for every name; who is to reach nothing stands in [cluster] deny",
            every: "*",
        };
        for (peer, written) in self.peers.list.iter_mut().zip(written) {
            let Some(words) = &written.may_reach else { continue };
            let key = KeyOf { peer: &peer.name, key: "may_reach" };
            let patterns = names::patterns(&key, words, self.lines, self.problems);
            names::report_nothing(&key, words, means, self.problems);
            peer.may_reach = Reach(Some(patterns));
        }
    }

    fn addresses(&mut self, words: &Words<'_>, id: PeerId) {
        for word in words.get_ref() {
            match self.address(word, id) {
                Ok(rule) => self.peers.rules.push((rule, Some(word.span()))),
                Err(problem) => self.problems.push(problem),
            }
        }
        if words.get_ref().is_empty() && !self.problems.has_error_within(&words.span()) {
            let message = format!("{}: is empty: a peer is known by its addresses", self.peers.key(id));
            let help = "write addresses or DNS names: addresses = [\"192.0.2.2\", \"h2.example.net\"]";
            self.problems.push(Problem::error(words.span(), message).with_help(help));
        }
    }

    fn address(&mut self, word: &Word<'_>, id: PeerId) -> Result<Rule, Problem> {
        let key = self.peers.key(id);
        let error = |message| Problem::error(word.span(), format!("{key}: {message}"));
        let target: Target = match word.get_ref().parse() {
            Ok(target) => target,
            Err(fault) => return Err(error(format!("{} {fault}", quoted(word.get_ref())))),
        };
        if let Target::Net(net) = &target
            && net.prefix_len() == 0
        {
            return Err(error(format!("{net} is everybody, and a peer is one host or a few"))
                .with_help("let everybody in by [cluster] allow, if that is meant"));
        }
        match self.owners.entry(target.clone()) {
            Entry::Vacant(place) => place.insert(id),
            Entry::Occupied(owner) if *owner.get() == id => {
                let message = format!("{key}: {target} is in the list twice");
                return Err(Problem::warning(word.span(), message));
            }
            Entry::Occupied(owner) => {
                let (name, line) =
                    self.peers.get(*owner.get()).map_or(("", 0), |p| (p.name.as_str(), p.line));
                let owner = if name.is_empty() { "another peer" } else { name };
                return Err(error(format!(
                    "{target} is an address of {owner} (line {line}) too: who is it?"
                ))
                .with_help("an address is one peer's: take it out of the other"));
            }
        };
        let line = line_of(self.lines, word.span().start);
        Ok(Rule { list: List::Allow, target, line, peer: Some(id) })
    }
}
