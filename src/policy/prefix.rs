//! A table of prefixes whose lookup cost does not grow with the table.
//!
//! A multibit trie of 64-way nodes after Asai and Ohara's Poptrie (SIGCOMM 2015): two bit vectors a
//! node say which slots lead on and where runs of equal leaves begin, so the children and leaves of
//! a node are found by counting bits. An IPv4 lookup visits at most 6 nodes and an IPv6 lookup at
//! most 22, whatever the table holds. The table is built once and never changed.

use std::net::IpAddr;

use ipnet::IpNet;

/// Bits that one node decides.
const STRIDE: u32 = 6;
/// The bits of a key; an IPv4 address stands in the uppermost 32.
const KEY_BITS: u32 = 128;

/// Prefixes, each with a value below [`u32::MAX`], found by longest match.
#[derive(Debug, Clone)]
pub struct PrefixTable {
    v4: Trie,
    v6: Trie,
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    key: u128,
    len: u32,
    value: u32,
}

#[derive(Debug, Clone, Default)]
struct Trie {
    nodes: Vec<Node>,
    /// A value plus one; 0 says that no prefix covers the slot.
    leaves: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// A bit for each slot that leads to another node.
    children: u64,
    /// A bit for each slot at which a run of equal leaves begins.
    runs: u64,
    first_child: u32,
    first_leaf: u32,
}

/// `net` with an IPv4-mapped prefix folded to the IPv4 prefix that it means, and no host bits.
#[must_use]
pub fn canonical(net: IpNet) -> IpNet {
    let folded = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok())
            .map_or(net, IpNet::V4),
        IpNet::V4(_) | IpNet::V6(_) => net,
    };
    folded.trunc()
}

impl PrefixTable {
    /// Builds a table. Of equal prefixes the last one counts.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = (IpNet, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, value) in prefixes {
            match canonical(net) {
                net @ IpNet::V4(_) => v4.push(Entry::new(net, value)),
                net @ IpNet::V6(_) => v6.push(Entry::new(net, value)),
            }
        }
        let len = v4.len() + v6.len();
        Self { v4: Trie::new(v4), v6: Trie::new(v6), len }
    }

    /// The value of the longest prefix that covers `ip`. A mapped IPv4 address must have been folded.
    #[must_use]
    pub fn lookup(&self, ip: IpAddr) -> Option<u32> {
        match ip {
            IpAddr::V4(_) => self.v4.lookup(key(ip)),
            IpAddr::V6(_) => self.v6.lookup(key(ip)),
        }
    }

    /// How many prefixes it was built from.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Entry {
    fn new(net: IpNet, value: u32) -> Self {
        Self { key: key(net.network()), len: u32::from(net.prefix_len()), value }
    }
}

fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The slot of `key` in a node that lies `depth` bits below the root.
fn slot(key: u128, depth: u32) -> u32 {
    let rest = key.unbounded_shl(depth);
    // The uppermost six bits, so it fits.
    u32::try_from(rest >> (KEY_BITS - STRIDE)).unwrap_or(0)
}

impl Trie {
    fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| (entry.key, entry.len));
        let mut trie = Self::default();
        if !entries.is_empty() {
            trie.nodes.push(Node::default());
            trie.fill(0, &entries, 0, 0);
        }
        trie.nodes.shrink_to_fit();
        trie.leaves.shrink_to_fit();
        trie
    }

    fn lookup(&self, key: u128) -> Option<u32> {
        let mut node = self.nodes.first()?;
        let mut depth = 0;
        loop {
            let slot = slot(key, depth);
            if node.children >> slot & 1 == 0 {
                let before = (node.runs & through(slot)).count_ones();
                let leaf = *self.leaves.get(index(node.first_leaf + before - 1))?;
                return leaf.checked_sub(1);
            }
            let before = (node.children & through(slot)).count_ones();
            node = self.nodes.get(index(node.first_child + before - 1))?;
            depth += STRIDE;
        }
    }

    /// Writes the node at `at`, `depth` bits below the root, from the entries that lie in it, sorted
    /// by key and length; `inherited` is the leaf where none of them covers a slot. Recursion ends
    /// after 22 levels: each takes six bits of the key.
    fn fill(&mut self, at: usize, entries: &[Entry], depth: u32, inherited: u32) {
        let mut leaves = [inherited; 1 << STRIDE];
        let mut deeper: Vec<(u32, &[Entry])> = Vec::new();
        let mut rest = entries;
        while let Some((entry, after)) = rest.split_first() {
            let first = slot(entry.key, depth);
            if entry.len <= depth + STRIDE {
                // Sorted by key and length, a later cover lies inside an earlier one or beside it.
                let width = 1 << (depth + STRIDE - entry.len).min(STRIDE);
                for leaf in leaves.iter_mut().skip(index(first)).take(width) {
                    *leaf = entry.value + 1;
                }
                rest = after;
            } else {
                let below = |e: &Entry| e.len > depth + STRIDE && slot(e.key, depth) == first;
                let (group, after) = rest.split_at(rest.iter().take_while(|e| below(e)).count());
                deeper.push((first, group));
                rest = after;
            }
        }
        let children = deeper.iter().fold(0, |bits, (slot, _)| bits | 1u64 << slot);
        let first_leaf = count(self.leaves.len());
        let runs = self.push_leaves(&leaves, children);
        let first_child = self.nodes.len();
        self.nodes.resize(first_child + deeper.len(), Node::default());
        if let Some(node) = self.nodes.get_mut(at) {
            *node = Node { children, runs, first_child: count(first_child), first_leaf };
        }
        for (child, (slot, group)) in deeper.into_iter().enumerate() {
            let covered = leaves.get(index(slot)).copied().unwrap_or(inherited);
            self.fill(first_child + child, group, depth + STRIDE, covered);
        }
    }

    /// Appends one leaf for each run of equal leaves; slots that lead on take part in none.
    fn push_leaves(&mut self, leaves: &[u32], children: u64) -> u64 {
        let mut runs = 0;
        let mut last = None;
        for (slot, leaf) in leaves.iter().enumerate() {
            if children >> slot & 1 == 0 && last != Some(*leaf) {
                runs |= 1 << slot;
                self.leaves.push(*leaf);
                last = Some(*leaf);
            }
        }
        runs
    }
}

/// The bits from 0 to `slot`, `slot` included.
fn through(slot: u32) -> u64 {
    u64::MAX >> (63 - slot)
}

fn index(position: u32) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// A length as an index of 32 bits. Four milliard nodes would need 96 GiB.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(nets: &[&str]) -> PrefixTable {
        PrefixTable::new(nets.iter().zip(0u32..).map(|(net, i)| (net.parse().unwrap(), i)))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_empty_table_covers_nothing() {
        let table = table(&[]);
        assert!(table.is_empty());
        assert_eq!(table.lookup(ip("192.0.2.1")), None);
        assert_eq!(table.lookup(ip("::1")), None);
    }

    #[test]
    fn the_longest_prefix_wins_and_one_bit_decides() {
        let table = table(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "2001:db8::7/128"]);
        assert_eq!(table.len(), 5);
        assert_eq!(table.lookup(ip("10.9.9.9")), Some(0));
        assert_eq!(table.lookup(ip("10.1.2.2")), Some(1));
        assert_eq!(table.lookup(ip("10.1.2.3")), Some(2));
        assert_eq!(table.lookup(ip("11.1.2.3")), None);
        assert_eq!(table.lookup(ip("2001:db8::6")), Some(3));
        assert_eq!(table.lookup(ip("2001:db8::7")), Some(4));
        assert_eq!(table.lookup(ip("2001:db9::7")), None);
    }

    #[test]
    fn everything_can_be_covered_and_families_do_not_mix() {
        let table = table(&["0.0.0.0/0"]);
        assert_eq!(table.lookup(ip("255.255.255.255")), Some(0));
        assert_eq!(table.lookup(ip("::1")), None);
    }

    #[test]
    fn a_mapped_prefix_is_the_ipv4_prefix() {
        let table = table(&["::ffff:192.0.2.0/120"]);
        assert_eq!(table.lookup(ip("192.0.2.77")), Some(0));
        assert_eq!(table.lookup(ip("192.0.3.77")), None);
    }

    /// The plain answer: look at every prefix.
    fn scan(nets: &[(IpNet, u32)], ip: IpAddr) -> Option<u8> {
        nets.iter().filter(|(net, _)| net.contains(&ip)).map(|(net, _)| net.prefix_len()).max()
    }

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        // Addresses of few distinct bits, so that prefixes nest and collide.
        let v4 = (0u32..4, 0u32..8, 0u8..=32).prop_map(|(a, b, len)| {
            IpNet::new(IpAddr::from(std::net::Ipv4Addr::from(a << 30 | b)), len).unwrap()
        });
        let v6 = (0u128..4, 0u128..8, 0u128..4, 0u8..=128).prop_map(|(a, b, c, len)| {
            IpNet::new(IpAddr::from(std::net::Ipv6Addr::from(a << 126 | c << 64 | b)), len).unwrap()
        });
        let any_v4 = (any::<u32>(), 0u8..=32)
            .prop_map(|(bits, len)| IpNet::new(IpAddr::from(std::net::Ipv4Addr::from(bits)), len).unwrap());
        proptest::collection::vec(prop_oneof![v4, v6, any_v4], 0..60)
    }

    proptest! {
        #[test]
        fn it_answers_as_a_scan_of_all_prefixes_would(nets in nets(), probes in proptest::collection::vec(any::<(bool, u128)>(), 1..40)) {
            let nets: Vec<(IpNet, u32)> = nets.into_iter().map(canonical).zip(0u32..).collect();
            let table = PrefixTable::new(nets.iter().copied());
            let random = probes.iter().map(|&(four, bits)| if four {
                IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(bits >> 96).unwrap()))
            } else {
                IpAddr::from(std::net::Ipv6Addr::from(bits))
            });
            let edges = nets.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
            for ip in random.chain(edges) {
                let found = table.lookup(ip).map(|value| nets.iter().find(|(_, v)| *v == value).unwrap().0.prefix_len());
                prop_assert_eq!(found, scan(&nets, ip), "{}", ip);
            }
        }
    }
}
