//! The addresses of peers' guards, by the host names of `[[peer]] connect`, for all links together.
//!
//! A resolver that does not answer must cost neither a link, where an address was known before, nor more than one thread
//! for each name, however many links look for their peer: getaddrinfo(3) cannot be interrupted.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long an answer is good while there is no other one; the same as for names of `allow`.
const GOOD_FOR: Duration = Duration::from_hours(24);
/// How long a resolver is waited for where an answer of its is known.
const PATIENCE: Duration = Duration::from_millis(300);
/// An answer that is as fresh as this is not asked for again: links that broke together look together.
const FRESH_FOR: Duration = Duration::from_millis(500);

/// What is known of each name. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<Arc<str>, watch::Sender<Name>>,
    asking: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
struct Name {
    addresses: Vec<IpAddr>,
    /// When they came.
    answered: Option<Instant>,
    /// How the last question ended, where it came to nothing.
    fault: Option<Arc<io::Error>>,
    is_asking: bool,
}

impl Names {
    /// The addresses of a host: what the resolver says within the time, or else what it said last.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) async fn look_up(&self, host: &str, timeout: Duration) -> Result<Vec<IpAddr>, String> {
        let mut name = self.ask(host);
        let is_known = name.borrow().is_good();
        // Where this times out, what was known counts.
        let timeout = if is_known { timeout.min(PATIENCE) } else { timeout };
        let answered = tokio::time::timeout(timeout, name.wait_for(|name| !name.is_asking)).await.is_ok();
        let name = name.borrow().clone();
        if name.is_good() {
            return Ok(name.addresses);
        }
        Err(match name.fault {
            Some(error) if answered => format!("{host}: {error}"),
            Some(_) | None => format!("the resolver does not answer for {host}"),
        })
    }

    fn ask(&self, host: &str) -> watch::Receiver<Name> {
        let mut known = self.known();
        while known.asking.try_join_next().is_some() {}
        let (key, name) = match known.by_name.get_key_value(host) {
            Some((key, name)) => (Arc::clone(key), name.clone()),
            None => (Arc::from(host), watch::Sender::default()),
        };
        let is_due = {
            let name = name.borrow();
            let is_fresh = name.answered.is_some_and(|at| at.elapsed() < FRESH_FOR) && name.fault.is_none();
            !name.is_asking && !is_fresh
        };
        if is_due {
            name.send_modify(|name| name.is_asking = true);
            let (asked, told) = (Arc::clone(&key), name.clone());
            known.asking.spawn(async move {
                let answer = tokio::net::lookup_host((&*asked, 0)).await;
                told.send_modify(|name| name.take(answer.map(|found| found.map(|addr| addr.ip()).collect())));
            });
        }
        let receiver = name.subscribe();
        known.by_name.insert(key, name);
        receiver
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    fn is_good(&self) -> bool {
        !self.addresses.is_empty() && self.answered.is_some_and(|at| at.elapsed() < GOOD_FOR)
    }

    fn take(&mut self, answer: io::Result<Vec<IpAddr>>) {
        self.is_asking = false;
        match answer {
            Ok(addresses) => {
                (self.addresses, self.answered, self.fault) = (addresses, Some(Instant::now()), None);
            }
            Err(error) => self.fault = Some(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_NAME: &str = "no-such-host.invalid";

    #[tokio::test]
    async fn a_name_is_asked_for_and_one_that_is_none_is_told() {
        let names = Names::default();
        let found = names.look_up("localhost", Duration::from_secs(5)).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
        let told = names.look_up(NO_NAME, Duration::from_secs(10)).await.unwrap_err();
        assert!(told.contains(NO_NAME), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_counts_for_a_day_while_the_resolver_fails_or_is_silent() {
        let names = Names::default();
        let known: Vec<IpAddr> = vec!["192.0.2.2".parse().unwrap()];
        let name = watch::Sender::new(Name {
            addresses: known.clone(),
            answered: Some(Instant::now()),
            fault: None,
            is_asking: true,
        });
        names.known().by_name.insert("h2".into(), name.clone());
        assert_eq!(names.look_up("h2", Duration::from_secs(1)).await, Ok(known.clone()), "silent");
        name.send_modify(|name| name.take(Err(io::ErrorKind::Other.into())));
        name.send_modify(|name| name.is_asking = true);
        assert_eq!(names.look_up("h2", Duration::from_secs(1)).await, Ok(known), "failed");
        tokio::time::advance(GOOD_FOR).await;
        let told = names.look_up("h2", Duration::from_secs(1)).await.unwrap_err();
        assert!(told.contains("does not answer for h2"), "{told}");
    }

    #[tokio::test]
    async fn those_who_look_together_ask_once() {
        let names = Names::default();
        let receivers: Vec<_> = (0..100).map(|_| names.ask("localhost")).collect();
        assert_eq!(names.known().asking.len(), 1);
        drop(receivers);
    }
}
