//! Which node names may be claimed, by whom, and what the nodes must be able to do.

use std::collections::HashMap;
use std::ops::Deref;

use super::denial::Denial;
use super::names::{NameVerdict, NodePatterns};
use super::network::PeerId;
use super::pattern::{Pattern, has_wildcard};
use crate::proto::dist::{Claim, Claimed, Flags, FullName, Version};

/// Yes or no to a kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// Let in.
    Allow,
    /// Turned away.
    Deny,
}

/// What may be claimed by whoever has no rules of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRules {
    /// `[cluster] nodes`; `None`: any name.
    pub nodes: Option<NodePatterns>,
    /// `[cluster] hidden_nodes`
    pub hidden: Stance,
    /// `[cluster] dynamic_nodes`
    pub dynamic: Stance,
    /// `[cluster] min_handshake`
    pub least_version: Version,
    /// `[cluster] require_flags`
    pub required: Flags,
    /// What the `[[peer]]`s say themselves, in the order of their ids.
    pub peers: NodesOfPeers,
}

/// What a `[[peer]]` says of its nodes; what it leaves out is as the cluster has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNodes {
    /// `nodes`: these and no others.
    pub nodes: Option<NodePatterns>,
    /// `hidden_nodes`
    pub hidden: Option<Stance>,
    /// `dynamic_nodes`
    pub dynamic: Option<Stance>,
    /// `hosts`: the host parts of the names of its nodes, in lower case; empty: any.
    pub hosts: Vec<String>,
}

/// What each `[[peer]]` says of its nodes, and which of them lists a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodesOfPeers {
    each: Vec<PeerNodes>,
    /// The peers that list a name, `a@h`, or names of one host, whose key is `@h`: with a thousand peers none is
    /// asked that cannot be it.
    known: HashMap<Box<str>, Vec<PeerId>>,
    /// The peers that list names of hosts that a pattern stands for.
    wild: Vec<PeerId>,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of `[cluster]`.
    Cluster,
    /// That of this `[[peer]]`.
    Peer(PeerId),
}

/// A pattern, and the line of the file in which it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByPattern<'a> {
    /// The pattern, which is shown as it is written.
    pub pattern: &'a Pattern,
    /// Its line, counted from 1.
    pub line: u32,
}

/// What decides on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRuling<'a> {
    /// Yes: `nodes` has it, by this pattern.
    Listed(Whose, ByPattern<'a>),
    /// Yes: `[cluster] nodes` is left out, and no `[[peer]]` lists the name.
    AnyName,
    /// Yes: it asks for a name, and `dynamic_nodes` lets it.
    MayBeNamed(Whose),
    /// No: `min_handshake`.
    OldHandshake,
    /// No: `hidden_nodes`.
    Hidden(Whose),
    /// No: it asks for a name, and `dynamic_nodes` does not let it.
    Dynamic(Whose),
    /// No: this pattern of `nodes` excludes it.
    Excluded(Whose, ByPattern<'a>),
    /// No: `nodes` does not have it.
    NotListed(Whose),
    /// No: this `[[peer]]` lists the name, by this pattern.
    OfPeer(PeerId, ByPattern<'a>),
    /// No: `require_flags` asks for these, too.
    MissingFlags(Flags),
}

impl Default for NodeRules {
    fn default() -> Self {
        Self {
            nodes: None,
            hidden: Stance::Allow,
            dynamic: Stance::Deny,
            least_version: Version::V5,
            required: Flags::default(),
            peers: NodesOfPeers::default(),
        }
    }
}

impl NodeRules {
    /// May a node behind this address be what it says it is? A peer's own list decides for that peer. A name that
    /// any `[[peer]]` lists is nobody else's.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, peer: Option<PeerId>, claim: &Claim) -> Result<(), Denial> {
        self.explain(peer, claim).denial().map_or(Ok(()), Err)
    }

    /// What decides on a claim: the first of the version, hidden nodes, the name, and the flags that says no; else
    /// what lets the name be.
    #[must_use]
    pub fn explain(&self, peer: Option<PeerId>, claim: &Claim) -> NodeRuling<'_> {
        if claim.version < self.least_version {
            return NodeRuling::OldHandshake;
        }
        let (hidden, whose) = self.stance(peer, |own| own.hidden, self.hidden);
        if hidden == Stance::Deny && claim.flags.is_hidden() {
            return NodeRuling::Hidden(whose);
        }
        let ruling = match &claim.claimed {
            Claimed::Dynamic(_) => match self.stance(peer, |own| own.dynamic, self.dynamic) {
                (Stance::Allow, whose) => NodeRuling::MayBeNamed(whose),
                (Stance::Deny, whose) => NodeRuling::Dynamic(whose),
            },
            Claimed::Name(name) => self.rule_on_name(peer, name.as_str()),
        };
        let missing = self.missing_flags(claim);
        if ruling.denial().is_none() && missing != Flags::default() {
            return NodeRuling::MissingFlags(missing);
        }
        ruling
    }

    /// May a node that asked for a name have this one, which the answering node gave it? The node chose its host
    /// part, so that the name could be one that another `[[peer]]` lists.
    ///
    /// # Errors
    /// It is another peer's.
    pub fn judge_given(&self, peer: Option<PeerId>, given: &FullName) -> Result<(), Denial> {
        let name = given.as_str();
        let is_own = self.own(peer).is_some_and(|(_, own)| own.lists(name).is_some());
        match self.peers.owner_of(name) {
            Some((owner, _)) if !is_own => Err(Denial::NameOfPeer(owner)),
            Some(_) | None => Ok(()),
        }
    }

    /// May the node that answers behind a peer's tunnel be this one? Its name is one that the peer may claim, and leads
    /// to it.
    ///
    /// # Errors
    /// Why not.
    pub fn judge_answering(&self, peer: PeerId, answered: &FullName) -> Result<(), Denial> {
        let ruling = self.rule_on_name(Some(peer), answered.as_str());
        ruling.denial().map_or(Ok(()), Err)?;
        let is_of = |hosts: &[String]| hosts.iter().any(|host| host.eq_ignore_ascii_case(answered.host()));
        match self.own(Some(peer)) {
            Some((_, PeerNodes { hosts, .. })) if !hosts.is_empty() && !is_of(hosts) => {
                Err(Denial::WrongNode)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn own(&self, peer: Option<PeerId>) -> Option<(PeerId, &PeerNodes)> {
        let id = peer?;
        Some((id, self.peers.get(usize::from(id.0))?))
    }

    /// What a peer says itself, or else what the cluster says, and which of the two it is.
    fn stance(
        &self,
        peer: Option<PeerId>,
        own: impl Fn(&PeerNodes) -> Option<Stance>,
        cluster: Stance,
    ) -> (Stance, Whose) {
        let own = self.own(peer).and_then(|(id, nodes)| Some((own(nodes)?, Whose::Peer(id))));
        own.unwrap_or((cluster, Whose::Cluster))
    }

    fn rule_on_name(&self, peer: Option<PeerId>, name: &str) -> NodeRuling<'_> {
        let own = self.own(peer).and_then(|(id, own)| Some((id, own.nodes.as_ref()?)));
        if let Some((id, list)) = own {
            return NodeRuling::by_list(Whose::Peer(id), list, name);
        }
        if let Some((owner, by)) = self.peers.owner_of(name) {
            return NodeRuling::OfPeer(owner, by);
        }
        match &self.nodes {
            Some(list) => NodeRuling::by_list(Whose::Cluster, list, name),
            None => NodeRuling::AnyName,
        }
    }

    /// The upper half of a version 5 claim's flags comes with its complement, so that they are judged then.
    fn missing_flags(&self, claim: &Claim) -> Flags {
        let is_whole = claim.version == Version::V6 || claim.creation.is_some();
        let known = if is_whole { self.required } else { Flags(self.required.0 & 0xffff_ffff) };
        claim.flags.missing(known)
    }
}

impl<'a> NodeRuling<'a> {
    fn by_list(whose: Whose, list: &'a NodePatterns, name: &str) -> Self {
        match list.judge(name.as_bytes()) {
            NameVerdict::Offered(pattern, line) => Self::Listed(whose, ByPattern { pattern, line }),
            NameVerdict::Excluded(pattern, line) => Self::Excluded(whose, ByPattern { pattern, line }),
            NameVerdict::NoMatch => Self::NotListed(whose),
        }
    }

    /// The refusal that it is, if it is one.
    #[must_use]
    pub fn denial(&self) -> Option<Denial> {
        match self {
            Self::Listed(..) | Self::AnyName | Self::MayBeNamed(_) => None,
            Self::OldHandshake => Some(Denial::OldHandshake),
            Self::Hidden(_) => Some(Denial::HiddenNode),
            Self::Dynamic(_) => Some(Denial::DynamicNode),
            Self::Excluded(..) | Self::NotListed(_) => Some(Denial::NodeName),
            Self::OfPeer(owner, _) => Some(Denial::NameOfPeer(*owner)),
            Self::MissingFlags(_) => Some(Denial::MissingFlags),
        }
    }
}

impl PeerNodes {
    /// The pattern by which it lists a name. What it excludes it does not list: an exclusion is no claim.
    fn lists(&self, name: &str) -> Option<ByPattern<'_>> {
        match self.nodes.as_ref()?.judge(name.as_bytes()) {
            NameVerdict::Offered(pattern, line) => Some(ByPattern { pattern, line }),
            NameVerdict::Excluded(..) | NameVerdict::NoMatch => None,
        }
    }
}

impl NodesOfPeers {
    /// The peer that lists a name: one that names it or its host, or else the first whose patterns stand for
    /// its host.
    fn owner_of(&self, name: &str) -> Option<(PeerId, ByPattern<'_>)> {
        let host = name.find('@').and_then(|at| name.get(at..)).unwrap_or_default();
        let known = [name, host].into_iter().filter_map(|key| self.known.get(key)).flatten();
        let mut candidates = known.chain(&self.wild);
        candidates.find_map(|id| Some((*id, self.each.get(usize::from(id.0))?.lists(name)?)))
    }
}

impl From<Vec<PeerNodes>> for NodesOfPeers {
    fn from(each: Vec<PeerNodes>) -> Self {
        let mut known: HashMap<Box<str>, Vec<PeerId>> = HashMap::new();
        let mut wild = Vec::new();
        for (own, id) in each.iter().zip((0..=u16::MAX).map(PeerId)) {
            for (pattern, _) in own.nodes.iter().flat_map(NodePatterns::included) {
                let peers = match key(pattern.text()) {
                    Some(key) => known.entry(key.into()).or_default(),
                    None => &mut wild,
                };
                // Those of one peer come in a row.
                if peers.last() != Some(&id) {
                    peers.push(id);
                }
            }
        }
        Self { each, known, wild }
    }
}

impl Deref for NodesOfPeers {
    type Target = [PeerNodes];

    fn deref(&self) -> &[PeerNodes] {
        &self.each
    }
}

/// Under what a pattern is looked up: the name that it is, or the host that its names have.
fn key(pattern: &str) -> Option<&str> {
    if !has_wildcard(pattern) {
        return Some(pattern);
    }
    let host = pattern.get(pattern.find('@')?..)?;
    (!has_wildcard(host)).then_some(host)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::dist::HostPart;

    /// A list whose first pattern stands in line 10.
    fn list(patterns: &[&str]) -> NodePatterns {
        NodePatterns::new((10..).zip(patterns).map(|(line, text)| (Pattern::of_node(text).unwrap(), line)))
    }

    fn peer(patterns: &[&str]) -> PeerNodes {
        PeerNodes { nodes: Some(list(patterns)), ..PeerNodes::default() }
    }

    fn with_peers(peers: Vec<PeerNodes>) -> NodeRules {
        NodeRules { peers: peers.into(), ..NodeRules::default() }
    }

    fn name(name: &str) -> Claim {
        let claimed = Claimed::Name(FullName::new(name.as_bytes()).unwrap());
        Claim { claimed, flags: Flags(0xd_07df_7fbd), version: Version::V6, creation: Some(1) }
    }

    fn dynamic(host: &str) -> Claim {
        let claimed = Claimed::Dynamic(HostPart::new(host.as_bytes()).unwrap());
        Claim { claimed, flags: Flags(0xf_07df_7fbc), ..name("x@h") }
    }

    const H2: Option<PeerId> = Some(PeerId(0));
    const H3: Option<PeerId> = Some(PeerId(1));

    #[test]
    fn without_rules_any_name_may_be_claimed_and_none_asked_for() {
        let rules = NodeRules::default();
        assert_eq!(rules.judge(None, &name("ejabberd@h2")), Ok(()));
        assert_eq!(rules.explain(None, &name("ejabberd@h2")), NodeRuling::AnyName);
        assert_eq!(rules.judge(None, &dynamic("h2")), Err(Denial::DynamicNode));
        // A peer that is not known here has no rules of its own.
        assert_eq!(rules.judge(Some(PeerId(7)), &name("ejabberd@h2")), Ok(()));
    }

    #[test]
    fn the_clusters_list_is_for_all_who_have_none() {
        let rules =
            NodeRules { nodes: Some(list(&["*@h2", "!bad@*"])), ..with_peers(vec![PeerNodes::default()]) };
        for who in [None, H2] {
            assert_eq!(rules.judge(who, &name("a@h2")), Ok(()));
            assert_eq!(rules.judge(who, &name("a@h3")), Err(Denial::NodeName));
            assert_eq!(rules.judge(who, &name("bad@h2")), Err(Denial::NodeName));
        }
        let by = |ruling| {
            let (NodeRuling::Listed(whose, by) | NodeRuling::Excluded(whose, by)) = ruling else {
                panic!("{ruling:?}");
            };
            (whose, by.pattern.to_string(), by.line)
        };
        assert_eq!(by(rules.explain(None, &name("a@h2"))), (Whose::Cluster, "*@h2".to_owned(), 10));
        assert_eq!(by(rules.explain(None, &name("bad@h2"))), (Whose::Cluster, "!bad@*".to_owned(), 11));
        assert_eq!(rules.explain(None, &name("a@h3")), NodeRuling::NotListed(Whose::Cluster));
        let nobody = NodeRules { nodes: Some(list(&[])), ..NodeRules::default() };
        assert_eq!(nobody.judge(None, &name("a@h2")), Err(Denial::NodeName));
    }

    #[test]
    fn a_peers_own_list_decides_for_it_whatever_the_clusters_says() {
        let rules = NodeRules {
            nodes: Some(list(&["*@h9"])),
            ..with_peers(vec![peer(&["*@h2", "!old@h2"]), peer(&[])])
        };
        assert_eq!(rules.judge(H2, &name("a@h2")), Ok(()));
        assert_eq!(rules.judge(H2, &name("old@h2")), Err(Denial::NodeName));
        assert_eq!(rules.judge(H2, &name("a@h9")), Err(Denial::NodeName));
        assert_eq!(rules.judge(H3, &name("a@h9")), Err(Denial::NodeName), "an empty list is nobody");
        assert_eq!(rules.explain(H2, &name("a@h9")), NodeRuling::NotListed(Whose::Peer(PeerId(0))));
        assert!(matches!(
            rules.explain(H2, &name("a@h2")),
            NodeRuling::Listed(Whose::Peer(PeerId(0)), ByPattern { line: 10, .. })
        ));
    }

    #[test]
    fn a_name_that_a_peer_lists_is_nobody_elses() {
        let others = PeerNodes::default();
        let rules = with_peers(vec![peer(&["ejabberd@h2", "web-*@h2", "?@*.h2"]), others]);
        for listed in ["ejabberd@h2", "web-7@h2", "x@y.h2"] {
            for who in [None, H3] {
                assert_eq!(rules.judge(who, &name(listed)), Err(Denial::NameOfPeer(PeerId(0))), "{listed}");
            }
            assert_eq!(rules.judge(H2, &name(listed)), Ok(()), "{listed}");
        }
        assert_eq!(rules.judge(None, &name("rabbit@h2")), Ok(()));
        let NodeRuling::OfPeer(PeerId(0), by) = rules.explain(None, &name("web-7@h2")) else { panic!() };
        assert_eq!((by.pattern.to_string().as_str(), by.line), ("web-*@h2", 11));
        // Who has a list of its own is bound by that, and by no other.
        let both = with_peers(vec![peer(&["*@h2"]), peer(&["a@h2", "*@h3"])]);
        assert_eq!((both.judge(H2, &name("a@h2")), both.judge(H3, &name("a@h2"))), (Ok(()), Ok(())));
        assert_eq!(both.judge(None, &name("a@h2")), Err(Denial::NameOfPeer(PeerId(1))), "it names it");
    }

    #[test]
    fn a_name_that_a_peer_excludes_is_not_its_own() {
        let rules = with_peers(vec![peer(&["*@h2", "!old@h2"]), peer(&["!a@h3"])]);
        assert_eq!(rules.judge(None, &name("old@h2")), Ok(()));
        assert_eq!(rules.judge(None, &name("a@h3")), Ok(()));
        assert_eq!(rules.judge(None, &name("new@h2")), Err(Denial::NameOfPeer(PeerId(0))));
    }

    #[test]
    fn hidden_and_dynamic_nodes_are_let_in_as_the_peer_or_else_the_cluster_says() {
        let hidden = Claim { flags: Flags(0xd_07df_7fbc), ..name("a@h2") };
        let own = |stance| PeerNodes { hidden: Some(stance), dynamic: Some(stance), ..PeerNodes::default() };
        let peers = vec![own(Stance::Allow), own(Stance::Deny), PeerNodes::default()];
        let rules = NodeRules { hidden: Stance::Deny, dynamic: Stance::Allow, ..with_peers(peers) };
        let of_cluster = Some(PeerId(2));
        for (who, claim, ruling) in [
            (H2, &hidden, NodeRuling::AnyName),
            (H3, &hidden, NodeRuling::Hidden(Whose::Peer(PeerId(1)))),
            (of_cluster, &hidden, NodeRuling::Hidden(Whose::Cluster)),
            (None, &hidden, NodeRuling::Hidden(Whose::Cluster)),
            (None, &name("a@h2"), NodeRuling::AnyName),
            (H2, &dynamic("h2"), NodeRuling::MayBeNamed(Whose::Peer(PeerId(0)))),
        ] {
            assert_eq!(rules.explain(who, claim), ruling, "{who:?}");
        }
        let open = NodeRules { hidden: Stance::Allow, ..rules };
        assert_eq!(open.explain(None, &dynamic("h2")), NodeRuling::MayBeNamed(Whose::Cluster));
        assert_eq!(
            open.explain(H3, &Claim { flags: Flags(1), ..dynamic("h2") }),
            NodeRuling::Dynamic(Whose::Peer(PeerId(1)))
        );
        assert_eq!(open.judge(H3, &dynamic("h2")), Err(Denial::HiddenNode));
    }

    #[test]
    fn a_name_that_is_given_is_not_another_peers() {
        let rules = with_peers(vec![peer(&["*@h2"]), peer(&["a@h3"])]);
        let given = |name: &str| FullName::new(name.as_bytes()).unwrap();
        assert_eq!(rules.judge_given(H2, &given("3K2@h2")), Ok(()));
        assert_eq!(rules.judge_given(H3, &given("3K2@h2")), Err(Denial::NameOfPeer(PeerId(0))));
        assert_eq!(rules.judge_given(None, &given("3K2@h2")), Err(Denial::NameOfPeer(PeerId(0))));
        // It did not choose the name, so that its own list does not bind it.
        assert_eq!(rules.judge_given(H3, &given("3K2@h3")), Ok(()));
        assert_eq!(rules.judge_given(None, &given("3K2@h9")), Ok(()));
    }

    #[test]
    fn the_node_that_answers_behind_a_tunnel_is_one_of_the_peers() {
        let hosts = vec!["h3".to_owned(), "h3.example.net".to_owned()];
        let rules = NodeRules {
            nodes: Some(list(&["*@*", "!*@h1"])),
            ..with_peers(vec![peer(&["*@h2", "!old@h2"]), PeerNodes { hosts, ..PeerNodes::default() }])
        };
        let (h2, h3) = (PeerId(0), PeerId(1));
        for (who, name, expected) in [
            (h2, "a@h2", Ok(())),
            (h2, "old@h2", Err(Denial::NodeName)),
            (h2, "a@h3", Err(Denial::NodeName)),
            (h3, "a@h3", Ok(())),
            (h3, "a@H3.example.net", Ok(())),
            (h3, "a@h9", Err(Denial::WrongNode)),
            (h3, "a@h2", Err(Denial::NameOfPeer(PeerId(0)))),
            (h3, "a@h1", Err(Denial::NodeName)),
            (PeerId(7), "a@h9", Ok(())),
        ] {
            let answered = FullName::new(name.as_bytes()).unwrap();
            assert_eq!(rules.judge_answering(who, &answered), expected, "{who:?} {name}");
        }
    }

    #[test]
    fn what_a_node_must_be_able_to_do_counts_for_every_peer() {
        let peers = vec![peer(&["*@*"])];
        let wanted = Flags::HANDSHAKE_23.and("ALIAS".parse().unwrap());
        let rules = NodeRules { required: wanted, ..with_peers(peers) };
        assert_eq!(rules.judge(H2, &name("a@h2")), Ok(()));
        let poor = Claim { flags: Flags::PUBLISHED, ..name("a@h2") };
        assert_eq!(rules.explain(H2, &poor), NodeRuling::MissingFlags(wanted));
        // What abbreviates eleven flags stands for each of them.
        let abbreviated = Flags::PUBLISHED.and(Flags::MANDATORY_25_DIGEST).and("ALIAS".parse().unwrap());
        assert_eq!(rules.judge(H2, &Claim { flags: abbreviated, ..name("a@h2") }), Ok(()));
    }

    #[test]
    fn the_upper_flags_of_the_old_handshake_are_judged_when_they_are_known() {
        let rules = NodeRules { required: "ALIAS".parse().unwrap(), ..NodeRules::default() };
        let first = Claim { flags: Flags(0x07df_7fbd), version: Version::V5, creation: None, ..name("a@h2") };
        assert_eq!(rules.judge(None, &first), Ok(()));
        let whole = |high| Claim { flags: first.flags.with_high(high), creation: Some(1), ..first.clone() };
        assert_eq!(rules.judge(None, &whole(0xd)), Ok(()));
        assert_eq!(rules.judge(None, &whole(0x5)), Err(Denial::MissingFlags));
        assert_eq!(rules.judge(None, &Claim { version: Version::V6, ..first }), Err(Denial::MissingFlags));
    }

    /// Each claim breaks one rule more than the one before; the rule that is told is the first of them.
    #[test]
    fn the_rules_are_asked_in_their_order() {
        let rules = NodeRules {
            nodes: Some(list(&["*@h9"])),
            hidden: Stance::Deny,
            least_version: Version::V6,
            required: Flags::HANDSHAKE_23,
            ..with_peers(vec![peer(&["a@h2"])])
        };
        let flags = Claim { flags: Flags::PUBLISHED, ..name("a@h9") };
        let listed = Claim { claimed: name("b@h2").claimed, ..flags.clone() };
        let owned = Claim { claimed: name("a@h2").claimed, ..flags.clone() };
        let hidden = Claim { flags: Flags(0), ..owned.clone() };
        let old = Claim { version: Version::V5, ..hidden.clone() };
        for (claim, denial) in [
            (flags, Denial::MissingFlags),
            (listed, Denial::NodeName),
            (owned, Denial::NameOfPeer(PeerId(0))),
            (hidden, Denial::HiddenNode),
            (old, Denial::OldHandshake),
        ] {
            assert_eq!(rules.judge(None, &claim), Err(denial));
        }
    }

    #[test]
    fn a_thousand_peers_cost_a_claim_hardly_more_than_one() {
        let of = |at: u32| {
            let texts = [format!("ejabberd@h{at}.example.net"), format!("web-*@h{at}.example.net")];
            peer(&texts.each_ref().map(String::as_str))
        };
        let rules = with_peers((0..1000).map(of).collect());
        let claims =
            [name("ejabberd@h999.example.net"), name("web-1@h998.example.net"), name("a@h997.example.net")];
        let begun = Instant::now();
        let mut refused = 0_u32;
        for _ in 0..10_000 {
            refused += claims.iter().map(|claim| u32::from(rules.judge(None, claim).is_err())).sum::<u32>();
        }
        println!("30000 claims against a thousand peers: {:?}", begun.elapsed());
        assert_eq!(refused, 20_000);
        assert!(rules.peers.wild.is_empty());
    }

    proptest! {
        #[test]
        fn the_index_finds_an_owner_where_there_is_one(
            lists in prop::collection::vec(prop::collection::vec("!?[ab*?]{1,2}@[ab*?]{1,2}", 0..4), 0..5),
            claimed in "[ab]{1,2}@[ab]{1,2}",
        ) {
            let peers: Vec<PeerNodes> = lists
                .iter()
                .map(|texts| peer(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
                .collect();
            let listing = |id: PeerId| peers[usize::from(id.0)].lists(&claimed).is_some();
            let any = (0..).take(peers.len()).map(PeerId).any(listing);
            let rules = with_peers(peers.clone());
            match rules.peers.owner_of(&claimed) {
                Some((owner, _)) => prop_assert!(listing(owner)),
                None => prop_assert!(!any),
            }
        }
    }
}
