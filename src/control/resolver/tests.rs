//! What names mean, and what becomes of them.

use super::*;
use crate::config::from_text;
use crate::session::Snapshot;

fn snapshots(text: &str) -> Snapshots {
    let config = from_text("test", text, &Default::default()).unwrap().config;
    Snapshots::new(Snapshot::new(1, Arc::new(config)))
}

fn key(list: List, host: &str) -> Key {
    (Use::Rule(list), host.parse().unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const NO_NAME: Result<Vec<IpAddr>, ResolveError> = Err(ResolveError::NoSuchName);

#[tokio::test]
async fn a_name_that_means_loopback_lets_nobody_in() {
    let snapshots = snapshots("cluster.allow = [\"localhost\"]");
    let (resolver, names) = Resolver::new(snapshots.clone());
    let rules = snapshots.current();
    tokio::select! {
        () = resolver.run() => {}
        resolved = names.resolve(rules.policy.network(), Duration::from_secs(9)) => {
            assert_eq!(resolved.unwrap().answers(rules.policy.network()), HostAnswers::default());
        }
    }
    assert_eq!(snapshots.current().policy.answers(), &HostAnswers::default());
}

#[tokio::test]
async fn the_last_good_answer_counts_when_a_name_stops_resolving() {
    let mut name = Name::new(Use::Rule(List::Allow), "h2.test".parse().unwrap());
    assert!(name.take(Ok(vec![ip("192.0.2.2")])));
    assert!(!name.take(Ok(vec![ip("192.0.2.2")])));
    assert!(!name.take(NO_NAME));
    assert!(!name.take(Err(ResolveError::Failed("timed out".into()))));
    assert!(!name.take(Ok(vec![ip("127.0.0.1")])));
    assert_eq!(name.known, [ip("192.0.2.2")]);
    assert!(name.failing.is_some());
    assert!(name.take(Ok(vec![ip("192.0.2.9")])));
    assert!(name.failing.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_day_without_an_answer_forgets_it_in_allow_and_not_in_deny() {
    let snapshots = snapshots("cluster.allow = [\"h2.test\"]\ncluster.deny = [\"h2.test\"]");
    let (mut resolver, _names) = Resolver::new(snapshots.clone());
    for name in resolver.names.values_mut() {
        assert!(name.take(Ok(vec![ip("192.0.2.2")])));
    }
    resolver.publish();
    let known = |list| snapshots.current().policy.answers().find(list, ip("192.0.2.2"));
    tokio::time::advance(LAST_GOOD - Duration::from_secs(1)).await;
    resolver.expire();
    assert!(known(List::Allow).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    resolver.expire();
    assert_eq!(known(List::Allow), None);
    assert!(known(List::Deny).is_some());
}

#[tokio::test]
async fn nobody_is_let_in_until_each_name_of_deny_is_answered_and_a_missing_name_is_an_answer() {
    let snapshots = snapshots("cluster.allow = [\"192.0.2.0/24\"]\ncluster.deny = [\"a.test\", \"b.test\"]");
    let (mut resolver, _names) = Resolver::new(snapshots.clone());
    let is_pending = || snapshots.current().policy.answers().is_deny_pending();
    let failed = || Err(ResolveError::Failed("timed out".into()));
    assert!(is_pending());
    resolver.take(Ok((key(List::Deny, "a.test"), Ok(vec![ip("192.0.2.3")]))));
    assert!(is_pending());
    resolver.take(Ok((key(List::Deny, "b.test"), failed())));
    assert!(is_pending());
    resolver.take(Ok((key(List::Deny, "b.test"), NO_NAME)));
    assert!(!is_pending());
    // Later failures forget nothing.
    resolver.take(Ok((key(List::Deny, "a.test"), failed())));
    assert!(!is_pending());
    assert!(snapshots.current().policy.answers().find(List::Deny, ip("192.0.2.3")).is_some());
}

/// Two peers, the first of which has an alias.
const ALIASED: &str = "tls = { cert = \"/a\", key = \"/b\", ca = \"/c\" }\n[[peer]]\nname = \"h2\"\n\
                       addresses = [\"a.test\"]\nconnect = [\"a.test\", \"b.test\"]\nalias = [\"127.0.0.12\", \"fd00::12\"]\n\
                       [[peer]]\nname = \"h3\"\naddresses = [\"c.test\"]\n";

#[tokio::test]
async fn a_name_that_leads_to_an_alias_lets_nobody_in_by_it() {
    let snapshots = snapshots(ALIASED);
    let (mut resolver, _names) = Resolver::new(snapshots.clone());
    let answer = |resolver: &mut Resolver, key: &Key, ips: &[&str]| {
        resolver.take(Ok((key.clone(), Ok(ips.iter().map(|text| ip(text)).collect()))));
        let name = &resolver.names[key];
        (name.known.clone(), name.aliases.clone(), name.failing.clone().unwrap_or_default())
    };
    let of_peer = key(List::Allow, "a.test");
    let none = "its addresses are of this host, where they stand for peers".to_owned();
    let both = vec![ip("127.0.0.12"), ip("fd00::12")];
    assert_eq!(answer(&mut resolver, &of_peer, &["127.0.0.12", "fd00::12"]), (vec![], both, none.clone()));
    let policy = Arc::clone(&snapshots.current().policy);
    assert!(!policy.allows(ip("fd00::12")));
    // What else it means counts.
    let some = answer(&mut resolver, &of_peer, &["fd00::12", "192.0.2.2"]);
    assert_eq!(some, (vec![ip("192.0.2.2")], vec![ip("fd00::12")], String::new()));
    assert!(snapshots.current().policy.allows(ip("192.0.2.2")));
    let well = answer(&mut resolver, &of_peer, &["192.0.2.2"]);
    assert_eq!(well, (vec![ip("192.0.2.2")], vec![], String::new()));
    // A name of connect is asked for too, unless it is one of the rules anyway.
    let to_dial = (Use::Connect, "b.test".parse().unwrap());
    let alone = answer(&mut resolver, &to_dial, &["127.0.0.12"]);
    assert_eq!(alone, (vec![], vec![ip("127.0.0.12")], none));
    assert_eq!(resolver.names.len(), 3);
    assert!(!snapshots.current().policy.allows(ip("127.0.0.12")));
}

#[tokio::test]
async fn an_answer_that_a_reload_makes_an_alias_lets_nobody_in_any_more() {
    let snapshots = snapshots(&ALIASED.replace("fd00::12", "fd00::99"));
    let (mut resolver, _names) = Resolver::new(snapshots.clone());
    resolver.take(Ok((key(List::Allow, "c.test"), Ok(vec![ip("fd00::12"), ip("192.0.2.3")]))));
    assert!(snapshots.current().policy.allows(ip("fd00::12")));
    let config = Arc::new(from_text("test", ALIASED, &Default::default()).unwrap().config);
    snapshots.publish(|_| Snapshot::new(2, config));
    resolver.follow_rules();
    resolver.publish();
    let policy = Arc::clone(&snapshots.current().policy);
    assert!(!policy.allows(ip("fd00::12")) && policy.allows(ip("192.0.2.3")));
}

#[tokio::test]
async fn a_name_that_stays_a_rule_keeps_its_answer_and_one_that_goes_is_forgotten() {
    let snapshots = snapshots("cluster.allow = [\"a.test\", \"b.test\"]");
    let (mut resolver, _names) = Resolver::new(snapshots.clone());
    resolver.take(Ok((key(List::Allow, "a.test"), Ok(vec![ip("192.0.2.3")]))));
    resolver.take(Ok((key(List::Allow, "b.test"), Ok(vec![ip("192.0.2.4")]))));
    let text = "cluster.allow = [\"c.test\", \"192.0.2.99\", \"a.test\"]";
    let config = Arc::new(from_text("test", text, &Default::default()).unwrap().config);
    let resolved = resolver.resolved(&[key(List::Allow, "a.test"), key(List::Allow, "c.test")]);
    let rules = &config.cluster.network;
    assert!(resolved.answers(rules).find(List::Allow, ip("192.0.2.3")).is_some());
    snapshots.publish(|_| Snapshot::new(2, config));
    resolver.follow_rules();
    resolver.publish();
    let policy = Arc::clone(&snapshots.current().policy);
    assert!(policy.allows(ip("192.0.2.3")) && !policy.allows(ip("192.0.2.4")));
    assert_eq!(resolver.names.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_name_is_asked_for_once_before_any_is_asked_for_twice_and_deny_comes_first() {
    let all: Vec<String> = (0..100).map(|n| format!("\"h{n}.test\"")).collect();
    // Shorter than asking for all of them takes.
    let text =
        format!("[cluster]\nresolve_every = \"1s\"\nallow = [{}]\ndeny = [\"bad.test\"]", all.join(", "));
    let (mut resolver, _names) = Resolver::new(snapshots(&text));
    let mut asked = Vec::new();
    for _ in 0..300 {
        tokio::time::advance(Duration::from_millis(100)).await;
        let now = resolver.what_to_ask(Instant::now());
        assert!(now.len() <= AT_ONCE);
        for key in now {
            asked.push(key.clone());
            resolver.take(Ok((key, NO_NAME)));
        }
    }
    assert_eq!(asked[0], key(List::Deny, "bad.test"), "the name of deny is not the first");
    let first: HashSet<&Key> = asked[..101].iter().collect();
    assert_eq!(first.len(), 101);
}
