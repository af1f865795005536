//! What the host names of the rules mean, asked again and again in the background.
//!
//! Owns the answers and how long they count. A name that stops resolving keeps its last good answer
//! for a day in `allow`; in `deny` it keeps it until there is another, since forgetting would open.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::policy::{HostAnswers, HostName, List, Policy, RuleId};
use crate::transport::{describe, host};

/// How long the last good answer of a name counts.
const LAST_GOOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that are asked for at one time: each keeps a thread waiting.
const AT_ONCE: usize = 8;

/// The names and their answers.
#[derive(Debug)]
pub struct Resolver {
    names: Vec<Name>,
    every: Duration,
    policy: watch::Sender<Arc<Policy>>,
}

#[derive(Debug)]
struct Name {
    rule: RuleId,
    list: List,
    host: HostName,
    known: Vec<IpAddr>,
    last_good: Instant,
    failing: bool,
}

type Answer = (usize, std::io::Result<Vec<IpAddr>>);

impl Resolver {
    /// A resolver of the names of `policy`'s rules.
    #[must_use]
    pub fn new(policy: watch::Sender<Arc<Policy>>, every: Duration) -> Self {
        let names = policy
            .borrow()
            .network()
            .host_names()
            .map(|(rule, list, host)| Name {
                rule,
                list,
                host: host.clone(),
                known: Vec::new(),
                last_good: Instant::now(),
                failing: false,
            })
            .collect();
        Self { names, every, policy }
    }

    /// Asks for ever; `first` is told when every name has been asked once.
    pub async fn run(mut self, first: tokio::sync::oneshot::Sender<()>) {
        let mut first = Some(first);
        let mut asking = JoinSet::new();
        let mut waiting = HashSet::new();
        loop {
            let begun = Instant::now();
            for at in 0..self.names.len() {
                while asking.len() >= AT_ONCE {
                    self.next_answer(&mut asking, &mut waiting).await;
                }
                // A name that is still being asked for is not asked for twice.
                if let Some(name) = self.names.get(at)
                    && waiting.insert(at)
                {
                    let host = name.host.clone();
                    asking.spawn_blocking(move || (at, host::resolve(host.as_str())));
                }
            }
            while !asking.is_empty() && (first.is_some() || begun.elapsed() < self.every) {
                let left = self.every.saturating_sub(begun.elapsed()).max(Duration::from_secs(1));
                let answer = self.next_answer(&mut asking, &mut waiting);
                if tokio::time::timeout(left, answer).await.is_err() {
                    break;
                }
            }
            if let Some(first) = first.take() {
                // Nobody waits any more: it took too long.
                first.send(()).unwrap_or_default();
            }
            self.expire();
            tokio::time::sleep_until(begun + self.every).await;
        }
    }

    async fn next_answer(&mut self, asking: &mut JoinSet<Answer>, waiting: &mut HashSet<usize>) {
        match asking.join_next().await {
            Some(Ok((at, answer))) => {
                waiting.remove(&at);
                if let Some(name) = self.names.get_mut(at)
                    && name.take(answer)
                {
                    self.publish();
                }
            }
            // A panic of the system's resolver; all names are free to be asked for again.
            Some(Err(_)) => waiting.clear(),
            None => {}
        }
    }

    fn expire(&mut self) {
        let mut changed = false;
        for name in &mut self.names {
            if name.list == List::Allow && !name.known.is_empty() && name.last_good.elapsed() > LAST_GOOD {
                tracing::warn!(name = %name.host, old = ?name.known, "name_expired");
                name.known.clear();
                changed = true;
            }
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let mut answers = HostAnswers::default();
        for name in &self.names {
            for ip in &name.known {
                answers.insert(name.list, name.rule, *ip);
            }
        }
        self.policy.send_modify(|policy| *policy = Arc::new(policy.with_answers(answers)));
    }
}

impl Name {
    /// Takes an answer; `true` if it changes anything.
    fn take(&mut self, answer: std::io::Result<Vec<IpAddr>>) -> bool {
        let mut ips = match answer {
            Ok(ips) => ips,
            Err(error) => {
                self.fail(&describe(&error));
                return false;
            }
        };
        let all = ips.len();
        ips.retain(|ip| HostAnswers::is_usable(*ip));
        ips.sort_unstable();
        if ips.is_empty() {
            self.fail(&format!(
                "none of its {all} addresses can be a peer's: loopback and multicast are ignored"
            ));
            return false;
        }
        self.failing = false;
        self.last_good = Instant::now();
        if ips == self.known {
            return false;
        }
        tracing::info!(name = %self.host, old = ?self.known, new = ?ips, "name_resolved");
        self.known = ips;
        true
    }

    fn fail(&mut self, error: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            let help = if self.known.is_empty() {
                "nobody is let in by this rule until the name resolves"
            } else {
                "the last good answer counts for a day"
            };
            tracing::warn!(name = %self.host, known = ?self.known, error, help, "name_not_resolved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{NetworkRules, Rule, RuleBook};

    fn rules() -> Policy {
        let rule = Rule { list: List::Allow, target: "localhost".parse().unwrap(), line: 1 };
        Policy::new(NetworkRules::new(RuleBook::new(vec![rule])))
    }

    fn name() -> Name {
        let (sender, _) = watch::channel(Arc::new(rules()));
        Resolver::new(sender, Duration::from_secs(30)).names.pop().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_means_loopback_lets_nobody_in() {
        let (sender, policy) = watch::channel(Arc::new(rules()));
        let (first, asked) = tokio::sync::oneshot::channel();
        let resolver = Resolver::new(sender, Duration::from_secs(30));
        tokio::select! {
            () = resolver.run(first) => {}
            asked = asked => asked.unwrap(),
        }
        assert_eq!(policy.borrow().answers(), &HostAnswers::default());
    }

    #[tokio::test]
    async fn the_last_good_answer_counts_when_a_name_stops_resolving() {
        let mut name = name();
        let ip: IpAddr = "192.0.2.2".parse().unwrap();
        assert!(name.take(Ok(vec![ip])));
        assert!(!name.take(Ok(vec![ip])));
        assert!(!name.take(Err(std::io::Error::other("no such name"))));
        assert!(!name.take(Ok(vec!["127.0.0.1".parse().unwrap()])));
        assert_eq!(name.known, [ip]);
        assert!(name.failing);
        assert!(name.take(Ok(vec!["192.0.2.9".parse().unwrap()])));
        assert!(!name.failing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_without_an_answer_forgets_it_in_allow_and_not_in_deny() {
        let rule = |list| Rule { list, target: "h2.test".parse().unwrap(), line: 1 };
        let rules = NetworkRules::new(RuleBook::new(vec![rule(List::Allow), rule(List::Deny)]));
        let (sender, policy) = watch::channel(Arc::new(Policy::new(rules)));
        let mut resolver = Resolver::new(sender, Duration::from_secs(30));
        let ip: IpAddr = "192.0.2.2".parse().unwrap();
        for name in &mut resolver.names {
            assert!(name.take(Ok(vec![ip])));
        }
        resolver.publish();
        tokio::time::advance(LAST_GOOD - Duration::from_secs(1)).await;
        resolver.expire();
        assert!(policy.borrow().answers().find(List::Allow, ip).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        resolver.expire();
        assert_eq!(policy.borrow().answers().find(List::Allow, ip), None);
        assert!(policy.borrow().answers().find(List::Deny, ip).is_some());
    }
}
