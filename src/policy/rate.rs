//! How fast connections may come from one address and from one IPv6 /64.
//!
//! A bucket each, which holds the tokens of two seconds, fills at the rate and gives one token a connection. A bucket
//! that is full again says nothing, so it is the one that another source takes over. Where none is found to be, the
//! source that has no bucket of its own shares one with all such sources of its kind: addresses of IPv4, addresses of
//! IPv6, or /64s. So more sources than there are buckets get in no faster by it. This does not know who is a peer by
//! name: one that has no bucket of its own at such a time shares that one too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::limits::Full;
use super::offenders::Moment;

/// The buckets; some 100 bytes each.
const BUCKETS: usize = 65_536;
/// How many buckets are looked at for a full one; each time the next ones, so that all are in the end.
const LOOKS: usize = 16;
/// What a bucket holds.
const BURST: Duration = Duration::from_secs(2);

/// Connections a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// `rate_per_address`
    pub per_address: u32,
    /// `rate_per_subnet`
    pub per_subnet: u32,
}

/// The connections of the last two seconds, by source. Its size is bounded, and each step takes as long as any other.
#[derive(Debug)]
pub struct RateTable {
    rates: Rates,
    most: usize,
    places: HashMap<Key, usize>,
    buckets: Vec<(Key, Bucket)>,
    /// The bucket that is looked at next.
    hand: usize,
    shared: Shared,
}

/// Whose a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    /// The upper half of its addresses.
    Subnet(u64),
}

/// When a bucket will be full, in nanoseconds since 1970: a token is what it takes to fill by one.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at: u64,
}

/// The buckets of those who have none of their own.
#[derive(Debug, Default)]
struct Shared {
    v4: Bucket,
    v6: Bucket,
    subnets: Bucket,
}

impl RateTable {
    /// Nobody yet.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self::with_buckets(rates, BUCKETS)
    }

    fn with_buckets(rates: Rates, most: usize) -> Self {
        Self { rates, most, places: HashMap::new(), buckets: Vec::new(), hand: 0, shared: Shared::default() }
    }

    /// Other rates from now on.
    pub fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// One more connection of `ip`.
    ///
    /// # Errors
    /// It comes too fast: for the address, or for its /64. It took no token then.
    pub fn take(&mut self, ip: IpAddr, now: Moment) -> Result<(), Full> {
        let ip = ip.to_canonical();
        let Rates { per_address, per_subnet } = self.rates;
        let of_address = self.bucket(Key::Address(ip), now);
        let before = *of_address;
        of_address.take(per_address, now).ok_or(Full::Address)?;
        let IpAddr::V6(v6) = ip else { return Ok(()) };
        let taken = self.bucket(Key::Subnet(upper_half(v6)), now).take(per_subnet, now);
        if taken.is_none() {
            // It is not full, so nobody has taken it over meanwhile.
            *self.bucket(Key::Address(ip), now) = before;
        }
        taken.ok_or(Full::Subnet)
    }

    /// One more connection of a peer that a rule names by its address: others of its /64 must not use up what it may.
    ///
    /// # Errors
    /// It comes too fast for the address. It took no token then.
    pub fn take_for_named(&mut self, ip: IpAddr, now: Moment) -> Result<(), Full> {
        let rate = self.rates.per_address;
        self.bucket(Key::Address(ip.to_canonical()), now).take(rate, now).ok_or(Full::Address)
    }

    /// The bucket of a source, or the one that it shares.
    fn bucket(&mut self, key: Key, now: Moment) -> &mut Bucket {
        let shared = match key {
            Key::Address(IpAddr::V4(_)) => &mut self.shared.v4,
            Key::Address(IpAddr::V6(_)) => &mut self.shared.v6,
            Key::Subnet(_) => &mut self.shared.subnets,
        };
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.buckets.len() < self.most => {
                self.buckets.push((key, Bucket::default()));
                self.buckets.len() - 1
            }
            None => match find_full(&self.buckets, &mut self.hand, now) {
                Some(place) => place,
                None => return shared,
            },
        };
        let Some((owner, bucket)) = self.buckets.get_mut(place) else { return shared };
        if *owner != key {
            self.places.remove(owner);
            (*owner, *bucket) = (key, Bucket::default());
        }
        self.places.insert(key, place);
        bucket
    }
}

impl Bucket {
    /// Takes a token, if there is one.
    fn take(&mut self, rate: u32, now: Moment) -> Option<()> {
        let token = 1_000_000_000u64.checked_div(rate.into())?;
        let now = nanoseconds(now);
        let full_at = self.full_at.max(now).saturating_add(token);
        if full_at - now > u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX) {
            return None;
        }
        self.full_at = full_at;
        Some(())
    }
}

/// A bucket that another source may have.
fn find_full(buckets: &[(Key, Bucket)], hand: &mut usize, now: Moment) -> Option<usize> {
    for _ in 0..LOOKS.min(buckets.len()) {
        let place = *hand;
        *hand = if place + 1 < buckets.len() { place + 1 } else { 0 };
        if buckets.get(place).is_some_and(|(_, bucket)| bucket.full_at <= nanoseconds(now)) {
            return Some(place);
        }
    }
    None
}

fn nanoseconds(at: Moment) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn upper_half(v6: Ipv6Addr) -> u64 {
    u64::try_from(v6.to_bits() >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATES: Rates = Rates { per_address: 5, per_subnet: 20 };
    const THEN: Moment = Moment(1_700_000_000_000);

    fn v6(subnet: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, host).into()
    }

    fn burst(table: &mut RateTable, ip: IpAddr, now: Moment) -> (usize, Option<Full>) {
        let mut taken = 0;
        loop {
            match table.take(ip, now) {
                Ok(()) => taken += 1,
                Err(full) => return (taken, Some(full)),
            }
        }
    }

    #[test]
    fn an_address_has_two_seconds_of_its_rate_at_once_and_then_its_rate() {
        let mut table = RateTable::new(RATES);
        let ip = "192.0.2.7".parse().unwrap();
        assert_eq!(burst(&mut table, ip, THEN), (10, Some(Full::Address)));
        assert_eq!(burst(&mut table, "::ffff:192.0.2.7".parse().unwrap(), THEN), (0, Some(Full::Address)));
        assert_eq!(burst(&mut table, "192.0.2.8".parse().unwrap(), THEN).0, 10);
        assert_eq!(burst(&mut table, ip, THEN.after(Duration::from_millis(199))).0, 0);
        assert_eq!(burst(&mut table, ip, THEN.after(Duration::from_secs(1))).0, 5);
        assert_eq!(burst(&mut table, ip, THEN.after(Duration::from_hours(1))).0, 10);
    }

    #[test]
    fn a_subnet_has_a_rate_of_its_own_and_what_it_refuses_costs_the_address_nothing() {
        let mut table = RateTable::new(RATES);
        for host in 0..4 {
            assert_eq!(burst(&mut table, v6(0, host), THEN), (10, Some(Full::Address)));
        }
        assert_eq!(burst(&mut table, v6(0, 4), THEN), (0, Some(Full::Subnet)));
        assert_eq!(burst(&mut table, v6(1, 4), THEN).0, 10);
        let later = THEN.after(Duration::from_millis(500));
        assert_eq!(burst(&mut table, v6(0, 4), later), (10, Some(Full::Address)), "its own bucket was full");
    }

    #[test]
    fn others_of_a_subnet_keep_no_peer_out_that_a_rule_names() {
        let mut table = RateTable::new(RATES);
        for host in 0..10 {
            burst(&mut table, v6(0, host), THEN);
        }
        assert_eq!(table.take(v6(0, 11), THEN), Err(Full::Subnet));
        let taken = (0..11).filter(|_| table.take_for_named(v6(0, 12), THEN).is_ok()).count();
        assert_eq!(taken, 10, "its own rate holds");
    }

    #[test]
    fn no_rate_lets_nobody_in() {
        let mut table = RateTable::new(Rates { per_address: 0, per_subnet: 0 });
        assert_eq!(table.take(v6(0, 0), THEN), Err(Full::Address));
    }

    #[test]
    fn sources_without_a_bucket_share_one_until_others_are_full_again() {
        let mut table = RateTable::with_buckets(RATES, 4);
        let ip = |host: u8| IpAddr::from([192, 0, 2, host]);
        for host in 0..4 {
            assert_eq!(table.take(ip(host), THEN), Ok(()));
        }
        let shared: usize = (4..20).map(|host| burst(&mut table, ip(host), THEN).0).sum();
        assert_eq!(shared, 10);
        assert_eq!(burst(&mut table, ip(0), THEN).0, 9, "who has a bucket keeps it");
        let later = THEN.after(Duration::from_millis(200));
        assert_eq!(burst(&mut table, ip(4), later).0, 10, "it has the bucket of one that has gone");
        assert_eq!(table.buckets.len(), 4);
    }

    #[test]
    fn a_flood_of_sources_leaves_the_table_at_its_bound() {
        let mut table = RateTable::with_buckets(RATES, 100);
        for number in 0..20_000u16 {
            let now = THEN.after(Duration::from_millis((number / 7).into()));
            table.take(v6(number, number), now).unwrap_or_default();
            assert!(table.buckets.len() <= 100 && table.places.len() == table.buckets.len());
        }
    }

    proptest! {
        #[test]
        fn it_is_as_fast_as_tokens_that_are_counted(
            steps in proptest::collection::vec((0u16..3, 0u16..4, 0u64..400), 0..400),
        ) {
            let mut table = RateTable::new(RATES);
            let mut now = THEN;
            // Thousandths of a token, and since when.
            let mut tokens: HashMap<Key, (u64, Moment)> = HashMap::new();
            for (subnet, host, wait) in steps {
                now = now.after(Duration::from_millis(wait));
                let ip = v6(subnet, host);
                let mut left = |key, rate: u64| {
                    let (held, since) = tokens.entry(key).or_insert((rate * 2000, now));
                    *held = (*held + (now.0 - since.0) * rate).min(rate * 2000);
                    *since = now;
                    *held
                };
                let Ok(IpAddr::V6(six)) = Ok::<_, ()>(ip) else { unreachable!() };
                let keys = [Key::Address(ip), Key::Subnet(upper_half(six))];
                let expected = if left(keys[0], 5) < 1000 {
                    Err(Full::Address)
                } else if left(keys[1], 20) < 1000 {
                    Err(Full::Subnet)
                } else {
                    Ok(())
                };
                if expected.is_ok() {
                    keys.iter().for_each(|key| tokens.get_mut(key).unwrap().0 -= 1000);
                }
                prop_assert_eq!(table.take(ip, now), expected);
            }
        }
    }
}
