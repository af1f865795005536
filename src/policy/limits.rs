//! How many connections there may be: in total, per address and per IPv6 /64.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

use super::decide::Standing;

/// The caps. Self is bound by `total` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Connections at one time.
    pub total: u32,
    /// Of these, how many are kept: the first half of them for self and for peers that a rule names
    /// by address or host name, the other half for self alone.
    pub reserve: u32,
    /// Connections of one address.
    pub per_address: u32,
    /// Connections of one IPv6 /64, since one host commonly has all of it.
    pub per_subnet: u32,
}

impl Caps {
    /// How many names the embedded epmd may hold of the `wanted` ones: each takes a connection of this host's, of
    /// which enough must be left for links and questions.
    #[must_use]
    pub fn names(&self, wanted: u32) -> u32 {
        wanted.min(self.total - self.total / 4)
    }
}

/// The cap that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The total, or what of it is open to this kind of peer.
    Total,
    /// That of the address.
    Address,
    /// That of the /64.
    Subnet,
}

/// What is left for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The caps.
    pub caps: Caps,
    /// Connections of everybody.
    pub in_use: u32,
    /// Connections of the address.
    pub of_address: u32,
    /// Connections of its /64.
    pub of_subnet: u32,
}

/// Who holds how many connections. Its size is bounded by the total: an address without a
/// connection is not in it.
#[derive(Debug)]
pub struct SlotTable {
    caps: Caps,
    total: u32,
    addresses: HashMap<IpAddr, u32>,
    subnets: HashMap<u64, u32>,
}

impl SlotTable {
    /// An empty table.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Self { caps, total: 0, addresses: HashMap::new(), subnets: HashMap::new() }
    }

    /// Other caps from now on. Connections above them stay.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }

    /// Addresses and /64s that hold a connection.
    #[must_use]
    pub fn sources(&self) -> (usize, usize) {
        (self.addresses.len(), self.subnets.len())
    }

    /// What is left for an address.
    #[must_use]
    pub fn room_of(&self, ip: IpAddr) -> Room {
        let of_subnet = subnet(ip).and_then(|key| self.subnets.get(&key));
        Room {
            caps: self.caps,
            in_use: self.total,
            of_address: self.addresses.get(&ip).copied().unwrap_or(0),
            of_subnet: of_subnet.copied().unwrap_or(0),
        }
    }

    /// Takes a slot for a connection of `ip`, to be given back when it has ended.
    ///
    /// # Errors
    /// The cap that is reached; nothing was taken.
    pub fn take(&mut self, standing: Standing, ip: IpAddr) -> Result<(), Full> {
        self.room_of(ip).is_enough_for(standing)?;
        if standing != Standing::Itself {
            *self.addresses.entry(ip).or_default() += 1;
            if let Some(key) = subnet(ip) {
                *self.subnets.entry(key).or_default() += 1;
            }
        }
        self.total += 1;
        Ok(())
    }

    /// Gives back a slot that was taken for the same standing and address.
    pub fn give_back(&mut self, standing: Standing, ip: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if standing != Standing::Itself {
            lower(self.addresses.entry(ip));
            if let Some(key) = subnet(ip) {
                lower(self.subnets.entry(key));
            }
        }
    }

    /// Connections at this moment.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.total
    }
}

impl Room {
    /// Whether one more connection would have a slot.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn is_enough_for(self, standing: Standing) -> Result<(), Full> {
        let Self { caps: Caps { total, reserve, per_address, per_subnet }, in_use, of_address, of_subnet } =
            self;
        let open = match standing {
            Standing::Itself => total,
            Standing::NamedPeer(_) => total.saturating_sub(reserve / 2),
            Standing::NetworkPeer(_) | Standing::Registrant => total.saturating_sub(reserve),
        };
        if in_use >= open {
            return Err(Full::Total);
        }
        // Others of its /64 must not use up what a peer that a rule names may have.
        let has_share_of_subnet = matches!(standing, Standing::NetworkPeer(_) | Standing::Registrant);
        if has_share_of_subnet && of_subnet >= per_subnet {
            return Err(Full::Subnet);
        }
        if standing != Standing::Itself && of_address >= per_address {
            return Err(Full::Address);
        }
        Ok(())
    }
}

fn subnet(ip: IpAddr) -> Option<u64> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(upper_half(v6)),
    }
}

fn upper_half(v6: Ipv6Addr) -> u64 {
    u64::try_from(v6.to_bits() >> 64).unwrap_or(0)
}

fn lower<K>(entry: Entry<'_, K, u32>) {
    if let Entry::Occupied(mut held) = entry {
        *held.get_mut() = held.get().saturating_sub(1);
        if *held.get() == 0 {
            held.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::network::RuleId;
    use super::*;

    fn peer() -> Standing {
        Standing::NetworkPeer(rule())
    }

    fn rule() -> RuleId {
        super::super::network::RuleBook::new(vec![super::super::network::Rule {
            list: super::super::network::List::Allow,
            target: "h1".parse().unwrap(),
            line: 1,
            peer: None,
        }])
        .iter()
        .map(|(id, _)| id)
        .next()
        .unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_reserve_is_kept_for_named_peers_and_half_of_it_for_self() {
        let mut table = SlotTable::new(Caps { total: 6, reserve: 4, per_address: 9, per_subnet: 9 });
        let named = Standing::NamedPeer(rule());
        for _ in 0..2 {
            assert_eq!(table.take(peer(), ip("192.0.2.1")), Ok(()));
        }
        assert_eq!(table.take(peer(), ip("192.0.2.1")), Err(Full::Total));
        for _ in 0..2 {
            assert_eq!(table.take(named, ip("192.0.2.2")), Ok(()));
        }
        assert_eq!(table.take(named, ip("192.0.2.2")), Err(Full::Total));
        for _ in 0..2 {
            assert_eq!(table.take(Standing::Itself, ip("127.0.0.1")), Ok(()));
        }
        assert_eq!(table.take(Standing::Itself, ip("127.0.0.1")), Err(Full::Total));
        assert_eq!(table.in_use(), 6);
    }

    #[test]
    fn names_leave_a_quarter_of_the_connections() {
        let caps = |total| Caps { total, reserve: 1, per_address: 9, per_subnet: 9 };
        assert_eq!((caps(100).names(1000), caps(100).names(75), caps(100).names(9)), (75, 75, 9));
        assert_eq!(caps(u32::MAX).names(16_384), 16_384);
    }

    #[test]
    fn an_address_and_a_subnet_have_their_own_share() {
        let mut table = SlotTable::new(Caps { total: 100, reserve: 0, per_address: 2, per_subnet: 3 });
        assert_eq!(table.take(peer(), ip("2001:db8::1")), Ok(()));
        assert_eq!(table.take(peer(), ip("2001:db8::1")), Ok(()));
        assert_eq!(table.take(peer(), ip("2001:db8::1")), Err(Full::Address));
        assert_eq!(table.take(peer(), ip("2001:db8::2")), Ok(()));
        assert_eq!(table.take(peer(), ip("2001:db8::3")), Err(Full::Subnet));
        assert_eq!(table.take(peer(), ip("2001:db8:0:1::3")), Ok(()));
        // A peer that a rule names has its own share whoever else is in its /64.
        let named = Standing::NamedPeer(rule());
        let taken = [(); 3].map(|()| table.take(named, ip("2001:db8::4")));
        assert_eq!(taken, [Ok(()), Ok(()), Err(Full::Address)]);
        table.give_back(named, ip("2001:db8::4"));
        table.give_back(named, ip("2001:db8::4"));
        assert_eq!(table.take(Standing::Itself, ip("2001:db8::1")), Ok(()));
        table.give_back(peer(), ip("2001:db8::1"));
        assert_eq!(table.take(peer(), ip("2001:db8::1")), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_given_back_leaves_nothing_behind(takes in proptest::collection::vec((0u8..3, 0u32..5, any::<bool>()), 0..60)) {
            let mut table = SlotTable::new(Caps { total: 20, reserve: 6, per_address: 4, per_subnet: 6 });
            let mut held = Vec::new();
            for (kind, host, six) in takes {
                let standing = match kind { 0 => Standing::Itself, 1 => Standing::NamedPeer(rule()), _ => peer() };
                let ip = if six { IpAddr::from(Ipv6Addr::from(u128::from(host))) } else { IpAddr::from(std::net::Ipv4Addr::from(host)) };
                if table.take(standing, ip).is_ok() {
                    held.push((standing, ip));
                }
                prop_assert!(table.in_use() <= 20);
            }
            prop_assert_eq!(usize::try_from(table.in_use()).unwrap(), held.len());
            for (standing, ip) in held {
                table.give_back(standing, ip);
            }
            prop_assert_eq!(table.in_use(), 0);
            prop_assert!(table.addresses.is_empty() && table.subnets.is_empty());
        }
    }
}
