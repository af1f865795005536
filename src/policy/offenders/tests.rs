mod model;

use std::net::Ipv6Addr;

use super::super::network::{List, Rule, RuleBook, RuleId};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// A day of 2023.
const THEN: Moment = Moment(1_700_000_000_000);

fn rule() -> RuleId {
    let rule = Rule { list: List::Allow, target: "h1".parse().unwrap(), line: 1, peer: None };
    RuleBook::new(vec![rule]).iter().next().unwrap().0
}

fn source(ip: &str) -> Source {
    Source { ip: ip.parse().unwrap(), standing: Standing::NetworkPeer(rule()), is_peer: IsPeer::No }
}

fn named(ip: &str) -> Source {
    Source { standing: Standing::NamedPeer(rule()), ..source(ip) }
}

fn net(text: &str) -> IpNet {
    text.parse::<IpNet>().unwrap_or_else(|_| text.parse::<IpAddr>().unwrap().into())
}

fn offenders(rules: BanRules) -> Offenders {
    Offenders::new(rules, 7)
}

/// Offends until it is banned: for how long, and the number of the ban.
fn ban(table: &mut Offenders, who: &Source, now: Moment) -> (Duration, u32) {
    for _ in 0..1000 {
        if let Consequence::Banned(wait, times) = table.offend(who, "", Offence::Malformed, now) {
            return (wait, times);
        }
    }
    panic!("{} was never banned", who.ip);
}

#[test]
fn wrong_proofs_slow_their_address_and_name_down_and_no_other() {
    let mut table = offenders(BanRules::default());
    let (who, other) = (named("192.0.2.7"), named("192.0.2.8"));
    for _ in 0..3 {
        assert_eq!(table.offend(&who, "a@h", Offence::WrongCookie, THEN), Consequence::None);
        assert_eq!(table.claim(&who, "a@h", THEN), Ok(Duration::ZERO));
    }
    for milliseconds in [500, 1000, 2000, 4000, 5000, 5000] {
        let wait = Duration::from_millis(milliseconds);
        assert_eq!(table.offend(&who, "a@h", Offence::WrongCookie, THEN), Consequence::Slowed(wait));
    }
    assert_eq!(table.claim(&who, "b@h", THEN), Ok(Duration::ZERO));
    assert_eq!(table.claim(&other, "a@h", THEN), Ok(Duration::ZERO));
    assert_eq!(table.claim(&who, "a@h", THEN), Ok(5 * SECOND));
}

#[test]
fn tries_that_wait_stand_in_a_queue_that_is_no_longer_than_the_longest_wait() {
    let mut table = offenders(BanRules::default());
    let who = named("192.0.2.7");
    for _ in 0..5 {
        table.offend(&who, "a@h", Offence::WrongCookie, THEN);
    }
    for seconds in 1..=5 {
        assert_eq!(table.claim(&who, "a@h", THEN), Ok(seconds * SECOND));
    }
    assert_eq!(table.claim(&who, "a@h", THEN), Err(Held::Slowed));
    let later = THEN.after(5 * SECOND);
    assert_eq!(table.claim(&who, "a@h", later), Ok(SECOND));
    // A patient one waits for nothing.
    assert_eq!(table.claim(&who, "a@h", later.after(10 * SECOND)), Ok(Duration::ZERO));
}

#[test]
fn a_good_link_and_time_let_go_of_what_was_slowed_down() {
    let rules = BanRules::default();
    for is_commended in [false, true] {
        let mut table = offenders(rules);
        let who = named("192.0.2.7");
        for _ in 0..9 {
            table.offend(&who, "a@h", Offence::WrongCookie, THEN);
        }
        let mut now = THEN;
        if is_commended {
            table.commend(&who, "a@h", now);
        } else {
            now = now.after(rules.within);
        }
        assert_eq!(table.claim(&who, "a@h", now), Ok(Duration::ZERO));
        assert_eq!(table.offend(&who, "a@h", Offence::WrongCookie, now), Consequence::None);
    }
}

#[test]
fn a_source_may_claim_so_many_names_and_those_with_a_link_do_not_count() {
    let rules = BanRules { names: 2, ..BanRules::default() };
    let mut table = offenders(rules);
    let who = named("192.0.2.7");
    for name in ["a@h", "b@h", "a@h"] {
        assert_eq!(table.claim(&who, name, THEN), Ok(Duration::ZERO));
    }
    assert_eq!(table.claim(&who, "c@h", THEN), Err(Held::TooManyNames));
    table.commend(&who, "a@h", THEN);
    assert_eq!(table.claim(&who, "c@h", THEN), Ok(Duration::ZERO));
    assert_eq!(table.claim(&who, "d@h", THEN), Err(Held::TooManyNames));
    assert_eq!(table.claim(&who, "a@h", THEN), Ok(Duration::ZERO));
    let later = THEN.after(rules.names_within);
    assert_eq!(table.claim(&who, "d@h", later), Ok(Duration::ZERO));
}

#[test]
fn a_subnet_has_the_names_of_four_addresses() {
    let mut table = offenders(BanRules { names: 2, ..BanRules::default() });
    let mut claim = |host: u16, name: u16| {
        table.claim(&source(&format!("2001:db8::{host:x}")), &format!("n{name}@h"), THEN)
    };
    for number in 0..8 {
        assert_eq!(claim(number / 2, number), Ok(Duration::ZERO));
    }
    assert_eq!(claim(9, 9), Err(Held::TooManyNamesOfSubnet));
    // A name that the /64 has claimed already makes no more of them.
    assert_eq!(claim(9, 7), Ok(Duration::ZERO));
    assert_eq!(table.claim(&source("2001:db8:0:1::9"), "n9@h", THEN), Ok(Duration::ZERO));
}

#[test]
fn names_that_others_of_a_subnet_claim_are_no_offence_and_keep_no_peer_out() {
    let mut table = offenders(BanRules { names: 2, ..BanRules::default() });
    let good = source("2001:db8::10");
    table.commend(&good, "a@h", THEN);
    for number in 0..8 {
        let flooder = source(&format!("2001:db8::{:x}", 0x20 + number / 2));
        assert_eq!(table.claim(&flooder, &format!("n{number}@h"), THEN), Ok(Duration::ZERO));
    }
    let of_peer = Source { is_peer: IsPeer::Yes, ..source("2001:db8::12") };
    for who in [good, named("2001:db8::11"), of_peer] {
        for name in ["b@h", "c@h"] {
            assert_eq!(table.claim(&who, name, THEN), Ok(Duration::ZERO), "{}", who.ip);
        }
        assert_eq!(table.claim(&who, "d@h", THEN), Err(Held::TooManyNames));
    }
    assert_eq!(table.claim(&source("2001:db8::13"), "e@h", THEN), Err(Held::TooManyNamesOfSubnet));
}

#[test]
fn a_link_that_lives_keeps_its_address_good_and_forgives_no_guess() {
    let mut table = offenders(BanRules::default());
    let who = source("192.0.2.7");
    table.commend(&who, "a@h", THEN);
    let later = THEN.after(GOOD_FOR);
    for _ in 0..3 {
        table.keep_good(&who, later);
        assert_eq!(table.offend(&who, "a@h", Offence::WrongCookie, later), Consequence::None);
    }
    table.keep_good(&who, later);
    let slowed = Consequence::Slowed(Duration::from_millis(500));
    assert_eq!(table.offend(&who, "a@h", Offence::WrongCookie, later), slowed);
    for _ in 0..100 {
        table.offend(&who, "", Offence::Malformed, later);
    }
    assert_eq!(table.ban_of(&who, later), None);
    // One that was banned before its link was known is let go of.
    let late = source("192.0.2.8");
    ban(&mut table, &late, later);
    table.keep_good(&late, later);
    assert_eq!(table.ban_of(&late, later), None);
}

#[test]
fn four_closes_behind_a_proof_that_may_have_another_reason_are_one_offence() {
    let mut table = offenders(BanRules::default());
    let (who, other) = (source("192.0.2.7"), source("192.0.2.8"));
    for number in 0..39 {
        let led = table.offend(&who, &format!("n{number}@h"), Offence::Unsettled, THEN);
        assert_eq!(led, Consequence::None);
    }
    let banned = Consequence::Banned(Duration::from_mins(1), 1);
    assert_eq!(table.offend(&who, "a@h", Offence::Unsettled, THEN), banned);
    for what in [Offence::Unsettled, Offence::Stalled, Offence::Unsettled, Offence::Stalled] {
        table.offend(&other, "", what, THEN);
    }
    for _ in 0..8 {
        table.offend(&other, "", Offence::WrongCookie, THEN);
    }
    assert_eq!(table.ban_of(&other, THEN), None);
    assert_eq!(table.offend(&other, "", Offence::WrongCookie, THEN), banned);
    // As many addresses as a /64 has do not help.
    let mut rotated = (1..=160).map(|host: u16| {
        table.offend(&source(&format!("2001:db8::{host:x}")), "a@h", Offence::Unsettled, THEN)
    });
    assert_eq!(rotated.position(|led| led == banned), Some(159));
}

#[test]
fn who_offends_often_is_banned_for_longer_each_time() {
    let rules = BanRules::default();
    let mut table = offenders(rules);
    let who = source("192.0.2.7");
    let mut now = THEN;
    for (times, minutes) in (1..).zip([1, 4, 16, 64, 256, 1024, 1440, 1440]) {
        let length = Duration::from_mins(minutes);
        assert_eq!(ban(&mut table, &who, now), (length, times));
        assert_eq!(table.offend(&who, "", Offence::Malformed, now), Consequence::None);
        let found = table.ban_of(&who, now.after(length - Duration::from_millis(1))).unwrap();
        let (until, offence) = (now.after(length), Offence::Malformed);
        assert_eq!(found, Ban { net: net("192.0.2.7"), since: now, until, times, offence });
        now = until;
        assert_eq!(table.ban_of(&who, now), None);
    }
    now = now.after(rules.most + Duration::from_millis(1));
    assert_eq!(ban(&mut table, &who, now).1, 1, "what is longer ago than the longest ban is forgotten");
}

#[test]
fn a_subnet_is_banned_as_a_whole_but_for_its_good_addresses() {
    let mut table = offenders(BanRules::default());
    let good = source("2001:db8::600d");
    table.commend(&good, "a@h", THEN);
    for host in 1..=39 {
        let who = source(&format!("2001:db8::{host:x}"));
        assert_eq!(table.offend(&who, "", Offence::Malformed, THEN), Consequence::None);
    }
    // What the exempt do is not held against the others.
    for who in [good, named("2001:db8::1")] {
        assert_eq!(table.offend(&who, "", Offence::Malformed, THEN), Consequence::None);
    }
    let last = table.offend(&source("2001:db8::40"), "", Offence::Malformed, THEN);
    assert_eq!(last, Consequence::Banned(Duration::from_mins(1), 1));
    assert_eq!(table.ban_of(&source("2001:db8::9999"), THEN).unwrap().net, net("2001:db8::/64"));
    assert_eq!(table.ban_of(&source("2001:db8:0:1::1"), THEN), None);
    assert_eq!(table.ban_of(&good, THEN), None);
    assert_eq!(table.bans(THEN).len(), 1);
}

#[test]
fn the_exempt_are_never_banned_and_itself_is_nothing_at_all() {
    let mut table = offenders(BanRules { names: 1, ..BanRules::default() });
    let of_peer = Source { is_peer: IsPeer::Yes, ..source("192.0.2.9") };
    let commended = source("192.0.2.10");
    table.commend(&commended, "a@h", THEN);
    for who in [named("192.0.2.8"), of_peer, commended] {
        for _ in 0..100 {
            let led = table.offend(&who, "b@h", Offence::WrongCookie, THEN);
            assert!(!matches!(led, Consequence::Banned(..)), "{led:?}");
        }
        assert_eq!(table.claim(&who, "b@h", THEN).unwrap_or(5 * SECOND), 5 * SECOND);
        assert_eq!(table.ban_of(&who, THEN), None);
    }
    let itself = Source { standing: Standing::Itself, ..source("192.0.2.1") };
    for number in 0..100 {
        assert_eq!(table.offend(&itself, "a@h", Offence::WrongCookie, THEN), Consequence::None);
        assert_eq!(table.claim(&itself, &format!("n{number}@h"), THEN), Ok(Duration::ZERO));
        table.commend(&itself, "a@h", THEN);
    }
    assert_eq!((table.len(), table.good()), (3, 1));
    // A day later the link counts no more.
    assert_eq!(ban(&mut table, &commended, THEN.after(GOOD_FOR)).1, 1);
}

#[test]
fn a_good_link_lifts_the_ban_of_its_address() {
    let mut table = offenders(BanRules::default());
    let who = source("192.0.2.7");
    ban(&mut table, &who, THEN);
    let changed = table.changed();
    table.commend(&who, "a@h", THEN);
    assert_eq!((table.ban_of(&who, THEN), table.bans(THEN)), (None, vec![]));
    assert_ne!(table.changed(), changed);
}

#[test]
fn nobody_is_banned_where_no_number_is_set() {
    let mut table = offenders(BanRules { after: 0, ..BanRules::default() });
    for _ in 0..100 {
        assert_eq!(table.offend(&source("2001:db8::1"), "", Offence::Malformed, THEN), Consequence::None);
    }
    let ban = Ban {
        net: net("192.0.2.7"),
        since: THEN,
        until: THEN.after(SECOND),
        times: 1,
        offence: Offence::Malformed,
    };
    table.restore([Record::Ban(ban)], THEN);
    assert_eq!(table.bans(THEN), []);
}

#[test]
fn who_is_pardoned_is_free() {
    let banned = ["192.0.2.7", "192.0.2.8", "198.51.100.1", "2001:db8::1", "2001:db8:0:1::1"];
    for (pardoned, lifted, left) in [
        ("192.0.2.7", 1, 4),
        ("192.0.2.0/24", 2, 3),
        ("192.0.2.9/24", 2, 3),
        ("::ffff:192.0.2.7", 1, 4),
        ("0.0.0.0/0", 3, 2),
        ("2001:db8::/32", 2, 3),
        ("203.0.113.0/24", 0, 5),
    ] {
        let mut table = offenders(BanRules::default());
        for ip in banned {
            ban(&mut table, &source(ip), THEN);
            table.offend(&named(ip), "a@h", Offence::WrongCookie, THEN);
        }
        assert_eq!(table.bans(THEN).len(), 5);
        assert_eq!(table.pardon(net(pardoned), THEN), lifted, "{pardoned}");
        assert_eq!(table.bans(THEN).len(), left, "{pardoned}");
        for ip in banned.iter().filter(|ip| net(pardoned).contains(&net(ip))) {
            assert_eq!(table.ban_of(&source(ip), THEN), None);
            assert_eq!(ban(&mut table, &source(ip), THEN).1, 1);
        }
    }
    let mut table = offenders(BanRules::default());
    for host in 1..=40 {
        table.offend(&source(&format!("2001:db8::{host:x}")), "", Offence::Malformed, THEN);
    }
    assert_eq!(table.pardon(net("2001:db8::9"), THEN), 1);
    assert_eq!(table.ban_of(&source("2001:db8::8"), THEN), None);
    ban(&mut table, &source("192.0.2.7"), THEN);
    assert_eq!(table.pardon_all(THEN), 1);
    assert!(table.is_empty());
}

#[test]
fn what_matters_least_makes_room() {
    let mut table = offenders(BanRules { entries: 8, ..BanRules::default() });
    for host in 1..=6 {
        let now = THEN.after(host * SECOND);
        ban(&mut table, &source(&format!("192.0.2.{host}")), now);
    }
    let now = THEN.after(10 * SECOND);
    let quiet = source("192.0.2.100");
    table.offend(&quiet, "", Offence::Malformed, now);
    // A flood of others leaves the bans.
    for host in 1..=200 {
        table.offend(&source(&format!("198.51.100.{host}")), "", Offence::Malformed, now);
        assert!(table.len() <= 8);
    }
    assert_eq!(table.bans(now).len(), 6);
    // Where bans have more than their share, the one that ends soonest goes, so that others can still be banned.
    for host in 1..=3 {
        ban(&mut table, &source(&format!("203.0.113.{host}")), now);
    }
    let nets = |table: &Offenders| table.bans(now).iter().map(|ban| ban.net.to_string()).collect::<Vec<_>>();
    assert!(!nets(&table).contains(&"192.0.2.1/32".to_owned()), "{:?}", nets(&table));
    assert!(nets(&table).contains(&"203.0.113.3/32".to_owned()), "{:?}", nets(&table));
    assert_eq!(ban(&mut table, &source("2001:db8::1"), now).1, 1, "also IPv6, which takes two entries");
    // Also with new rules.
    table.set_rules(BanRules { entries: 2, ..BanRules::default() });
    assert_eq!(nets(&table), ["203.0.113.3/32", "2001:db8::1/128"]);
}

#[test]
fn what_means_nothing_any_more_is_dropped() {
    let rules = BanRules::default();
    let mut table = offenders(rules);
    ban(&mut table, &source("192.0.2.7"), THEN);
    for host in 1..=100 {
        table.claim(&source(&format!("198.51.100.{host}")), "a@h", THEN).unwrap();
    }
    let later = THEN.after(rules.names_within + 2 * rules.within + SECOND);
    table.claim(&source("192.0.2.9"), "a@h", later).unwrap();
    assert_eq!(table.len(), 2, "the ban is remembered for a day");
    table.claim(&source("192.0.2.9"), "a@h", later.after(rules.most + rules.first)).unwrap();
    assert_eq!(table.len(), 1);
}

#[test]
fn bans_and_good_addresses_outlive_the_process() {
    let rules = BanRules::default();
    let mut before = offenders(rules);
    for ip in ["192.0.2.7", "192.0.2.8"] {
        ban(&mut before, &source(ip), THEN);
    }
    let later = THEN.after(rules.first);
    ban(&mut before, &source("192.0.2.8"), later);
    before.commend(&source("192.0.2.9"), "a@h", later);
    let mut after = Offenders::new(rules, 8);
    after.restore(before.records(later), later);
    assert_eq!(after.bans(later), before.bans(later));
    assert_eq!(after.ban_of(&source("192.0.2.7"), later), None);
    assert_eq!(ban(&mut after, &source("192.0.2.7"), later).1, 2, "the ban that has ended is remembered");
    assert_eq!(after.offend(&source("192.0.2.9"), "", Offence::Malformed, later), Consequence::None);
    assert_eq!(after.good(), 1);
    let much_later = later.after(2 * rules.most + SECOND);
    assert_eq!(before.records(much_later), []);
}

#[test]
fn what_is_of_the_future_is_of_now() {
    let rules = BanRules::default();
    let year = Duration::from_hours(24 * 365);
    let (since, offence) = (THEN.after(year), Offence::Malformed);
    let ban = |ip: &str, length: Duration| Ban {
        net: net(ip),
        since,
        until: since.after(length),
        times: 2,
        offence,
    };
    let mut table = offenders(rules);
    let good = Record::Good { ip: "192.0.2.9".parse().unwrap(), at: since };
    let bans = [ban("192.0.2.7", SECOND), ban("192.0.2.8", year)].map(Record::Ban);
    table.restore(bans.into_iter().chain([good]), THEN);
    let ends = |ip| table.ban_of(&source(ip), THEN).map(|ban| ban.until.since(THEN));
    assert_eq!(ends("192.0.2.7"), Some(SECOND));
    assert_eq!(ends("192.0.2.8"), Some(rules.most));
    assert_eq!(table.records(THEN.after(GOOD_FOR)).len(), 2, "only the bans are left");
}

#[test]
fn a_record_that_no_guard_makes_is_passed_over() {
    let (since, until, offence) = (THEN, THEN.after(SECOND), Offence::Malformed);
    let mut table = offenders(BanRules::default());
    for (text, times) in [("192.0.2.0/24", 1), ("2001:db8::/48", 1), ("2001:db8::/65", 1), ("192.0.2.7", 0)] {
        table.restore([Record::Ban(Ban { net: net(text), since, until, times, offence })], THEN);
    }
    assert!(table.is_empty());
    let good = Record::Good { ip: "192.0.2.7".parse().unwrap(), at: THEN };
    let ban = Record::Ban(Ban { net: net("192.0.2.7"), since, until, times: 1, offence });
    for records in [[good, ban], [ban, good]] {
        let mut table = offenders(BanRules::default());
        table.restore(records, THEN);
        assert_eq!((table.bans(THEN), table.good()), (vec![], 1));
    }
}

#[test]
fn a_flood_of_sources_leaves_the_table_at_its_bound() {
    let mut table = offenders(BanRules::default());
    for number in 0..50_000u64 {
        let ip = Ipv6Addr::from((0x2001_0db8 << 96) | (u128::from(number) << 64) | 1);
        let who = Source { ip: ip.into(), ..source("::1") };
        table.offend(
            &who,
            &format!("n{number}@h"),
            Offence::WrongCookie,
            THEN.after(Duration::from_millis(number)),
        );
    }
    assert_eq!(table.len(), 16_384);
}
