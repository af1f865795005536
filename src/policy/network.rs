//! The allowlist: who may connect, by address, network or host name.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::prefix::{PrefixTable, canonical};

/// Whether a rule lets in or keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// `[cluster] allow`
    Allow,
    /// `[cluster] deny`, which goes before `allow`
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A network, or one address as its longest prefix; mapped IPv4 folded, no host bits.
    Net(IpNet),
    /// A name, whose addresses the resolver tells.
    Host(HostName),
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// Bits are set behind the prefix, so one of two things was meant.
    #[error("has bits set behind its prefix: write {net} for the network or {addr} for the one address")]
    HostBits {
        /// The network.
        net: IpNet,
        /// The address.
        addr: IpAddr,
    },
    /// `fe80::1%eth0`
    #[error("has a zone id, which means nothing in an allowlist: link-local peers cannot be told apart")]
    Zone,
    /// It has a slash, but is no network.
    #[error("is no network: an address, a slash and a prefix length are needed, as in 192.0.2.0/24")]
    Network,
    /// It looks like an address, but is none.
    #[error("is no IP address")]
    Address,
    /// It is no host name.
    #[error(transparent)]
    Name(#[from] HostNameFault),
}

impl std::str::FromStr for Target {
    type Err = TargetFault;

    fn from_str(text: &str) -> Result<Self, TargetFault> {
        if text.contains('%') {
            return Err(TargetFault::Zone);
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self::Net(canonical(IpNet::from(addr))));
        }
        if text.contains('/') {
            let net: IpNet = text.parse().map_err(|_| TargetFault::Network)?;
            if net.addr() != net.network() {
                return Err(TargetFault::HostBits { net: net.trunc(), addr: net.addr() });
            }
            return Ok(Self::Net(canonical(net)));
        }
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if text.contains(':') || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(TargetFault::Address);
        }
        Ok(Self::Host(text.parse()?))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Host(name) => name.fmt(f),
        }
    }
}

/// A DNS host name: lower case, no dot at its end, `[a-z0-9_-]` labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(Box<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostNameFault {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More than 253 characters, or a label of none or more than 63.
    #[error("is no host name: a name has 253 characters at most and its labels 1 to 63")]
    Length,
    /// A character that no host name has.
    #[error("is no host name: only letters, digits, '-', '_' and '.' can stand in one")]
    Character,
}

impl std::str::FromStr for HostName {
    type Err = HostNameFault;

    fn from_str(text: &str) -> Result<Self, HostNameFault> {
        if text.is_empty() {
            return Err(HostNameFault::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(HostNameFault::Character);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(HostNameFault::Length);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl HostName {
    /// The name as the resolver is asked for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rule and where it stands.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which list it belongs to.
    pub list: List,
    /// Whom it is about.
    pub target: Target,
    /// The line of the configuration file; 0 for one from the command line.
    pub line: u32,
    /// The `[[peer]]` whose address it is, if it is one's.
    pub peer: Option<PeerId>,
}

/// A `[[peer]]`, by its place in the file, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

impl Rule {
    /// What it says, for those who tell elsewhere where it stands.
    #[must_use]
    pub fn without_line(&self) -> String {
        let list = match (self.list, self.peer) {
            (List::Allow, None) => "allow",
            (List::Allow, Some(_)) => "[[peer]] addresses",
            (List::Deny, _) => "deny",
        };
        let mark = if self.line == 0 { "--" } else { "" };
        format!("{mark}{list} {}", self.target)
    }

    /// Whether it means a host, by address, by name or as a `[[peer]]`, and not just a network.
    #[must_use]
    pub fn names_a_host(&self) -> bool {
        self.peer.is_some()
            || match &self.target {
                Target::Net(net) => net.prefix_len() == net.max_prefix_len(),
                Target::Host(_) => true,
            }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_line())?;
        if self.line == 0 { Ok(()) } else { write!(f, " (line {})", self.line) }
    }
}

/// A rule's place in its [`RuleBook`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u32);

/// The rules in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct RuleBook {
    rules: Vec<Rule>,
    /// There may be a million rules and a thousand peers: nobody goes through all for each.
    of_peers: HashMap<PeerId, Vec<RuleId>>,
}

impl RuleBook {
    /// Takes the rules.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut of_peers: HashMap<PeerId, Vec<RuleId>> = HashMap::new();
        for (id, rule) in (0..).map(RuleId).zip(&rules) {
            if let Some(peer) = rule.peer {
                of_peers.entry(peer).or_default().push(id);
            }
        }
        Self { rules, of_peers }
    }

    /// The rule of an id that was given by a table made from this book.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::try_from(id.0).ok()?)
    }

    /// The rules with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (0..).map(RuleId).zip(&self.rules)
    }

    /// The rules of a `[[peer]]` with their ids.
    pub fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = (RuleId, &Rule)> {
        let ids = self.of_peers.get(&peer).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// The rules by address, ready to be asked.
#[derive(Debug, Clone)]
pub struct NetworkRules {
    book: RuleBook,
    /// The addresses of `[[peer]]`s: who is one is known by its name, even where a rule of `allow` is closer.
    peers: PrefixTable,
    allow: PrefixTable,
    deny: PrefixTable,
    /// The rules with host names, which are few among many.
    hosts: Vec<RuleId>,
}

impl NetworkRules {
    /// Builds the tables.
    #[must_use]
    pub fn new(book: RuleBook) -> Self {
        let table = |belongs: fn(&Rule) -> bool| {
            PrefixTable::new(book.iter().filter_map(|(id, rule)| match &rule.target {
                Target::Net(net) if belongs(rule) => Some((*net, id.0)),
                Target::Net(_) | Target::Host(_) => None,
            }))
        };
        let hosts = book.iter().filter(|(_, rule)| matches!(rule.target, Target::Host(_)));
        Self {
            hosts: hosts.map(|(id, _)| id).collect(),
            peers: table(|rule| rule.list == List::Allow && rule.peer.is_some()),
            allow: table(|rule| rule.list == List::Allow && rule.peer.is_none()),
            deny: table(|rule| rule.list == List::Deny),
            book,
        }
    }

    /// The rules themselves.
    #[must_use]
    pub fn book(&self) -> &RuleBook {
        &self.book
    }

    /// The host names whose addresses the rules need.
    pub fn host_names(&self) -> impl Iterator<Item = (RuleId, List, &HostName)> {
        self.hosts.iter().filter_map(|id| match self.book.get(*id) {
            Some(Rule { list, target: Target::Host(name), .. }) => Some((*id, *list, name)),
            Some(_) | None => None,
        })
    }

    /// The rule of `list` that covers `ip` most closely; of `allow`, one of a `[[peer]]` if there is one.
    #[must_use]
    pub fn find(&self, list: List, ip: IpAddr) -> Option<RuleId> {
        match list {
            List::Allow => self.peers.lookup(ip).or_else(|| self.allow.lookup(ip)),
            List::Deny => self.deny.lookup(ip),
        }
        .map(RuleId)
    }
}

/// What the resolver last said of the rules' host names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAnswers {
    allow: HashMap<IpAddr, RuleId>,
    deny: HashMap<IpAddr, RuleId>,
    deny_pending: bool,
}

impl HostAnswers {
    /// Whether an answer can mean a peer. Loopback would be this host (a poisoned or lazy zone could
    /// let every local process pass for a peer), the others no host at all.
    #[must_use]
    pub fn is_usable(ip: IpAddr) -> bool {
        let special = match ip.to_canonical() {
            IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::BROADCAST,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let ip = ip.to_canonical();
        !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || special)
    }

    /// Adds one answer; one that cannot mean a peer is passed over.
    pub fn insert(&mut self, list: List, rule: RuleId, ip: IpAddr) {
        if Self::is_usable(ip) {
            let table = match list {
                List::Allow => &mut self.allow,
                List::Deny => &mut self.deny,
            };
            table.insert(ip.to_canonical(), rule);
        }
    }

    /// Whether some name of `deny` has no answer yet.
    #[must_use]
    pub fn is_deny_pending(&self) -> bool {
        self.deny_pending
    }

    /// Notes that some name of `deny` has no answer yet.
    pub fn expect_more_of_deny(&mut self) {
        self.deny_pending = true;
    }

    /// The rule whose name resolved to `ip`.
    #[must_use]
    pub fn find(&self, list: List, ip: IpAddr) -> Option<RuleId> {
        match list {
            List::Allow => self.allow.get(&ip),
            List::Deny => self.deny.get(&ip),
        }
        .copied()
    }

    /// The addresses that `rule`'s name resolved to, in order.
    #[must_use]
    pub fn addresses(&self, rule: RuleId) -> Vec<IpAddr> {
        let all = self.allow.iter().chain(&self.deny);
        let mut ips: Vec<IpAddr> = all.filter(|(_, id)| **id == rule).map(|(ip, _)| *ip).collect();
        ips.sort_unstable();
        ips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, TargetFault> {
        text.parse()
    }

    #[test]
    fn addresses_networks_and_names_are_told_apart() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("H2.Example.net.", "h2.example.net"),
            ("h2", "h2"),
            ("rabbit_1", "rabbit_1"),
        ] {
            assert_eq!(target(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_mistaken_target_says_what_is_wrong_with_it() {
        assert_eq!(
            target("192.0.2.7/24").unwrap_err().to_string(),
            "has bits set behind its prefix: write 192.0.2.0/24 for the network or 192.0.2.7 for the one address"
        );
        assert_eq!(target("fe80::1%eth0"), Err(TargetFault::Zone));
        assert_eq!(target("192.0.2.0/33"), Err(TargetFault::Network));
        assert_eq!(target("h2/24"), Err(TargetFault::Network));
        assert_eq!(target("192.0.2.300"), Err(TargetFault::Address));
        assert_eq!(target("192.0.2"), Err(TargetFault::Address));
        assert_eq!(target("2001:db8:::1"), Err(TargetFault::Address));
        assert_eq!(target(""), Err(HostNameFault::Empty.into()));
        assert_eq!(target("h 2"), Err(HostNameFault::Character.into()));
        assert_eq!(target("*.example.net"), Err(HostNameFault::Character.into()));
        assert_eq!(target("a..b"), Err(HostNameFault::Length.into()));
        assert_eq!(target(&"a".repeat(64)), Err(HostNameFault::Length.into()));
    }

    #[test]
    fn answers_that_mean_no_peer_are_passed_over() {
        let mut answers = HostAnswers::default();
        for ip in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "::",
            "fe80::1",
            "169.254.1.1",
            "255.255.255.255",
        ] {
            answers.insert(List::Allow, RuleId(0), ip.parse().unwrap());
        }
        assert_eq!(answers, HostAnswers::default());
        answers.insert(List::Allow, RuleId(0), "::ffff:192.0.2.2".parse().unwrap());
        assert_eq!(answers.find(List::Allow, "192.0.2.2".parse().unwrap()), Some(RuleId(0)));
        assert_eq!(answers.find(List::Deny, "192.0.2.2".parse().unwrap()), None);
        assert_eq!(answers.addresses(RuleId(0)), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_rule_says_where_it_stands() {
        let rule = Rule { list: List::Deny, target: target("192.0.2.0/24").unwrap(), line: 7, peer: None };
        assert_eq!(rule.to_string(), "deny 192.0.2.0/24 (line 7)");
        let rule = Rule { list: List::Allow, target: target("h2").unwrap(), line: 0, peer: None };
        assert_eq!(rule.to_string(), "--allow h2");
        let target = target("192.0.2.2").unwrap();
        let rule = Rule { list: List::Allow, target, line: 7, peer: Some(PeerId(0)) };
        assert_eq!(rule.to_string(), "[[peer]] addresses 192.0.2.2 (line 7)");
    }
}
