//! Asking epmd for its names: often while something has just begun or ceased to listen, seldom otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::nodes::Behind;
use crate::control::converse::converse;
use crate::proto::epmd::{Listed, NamesReply, Request};
use crate::session::{MAX_ANSWER, Sighting};
use crate::transport::Dialer;

/// For the whole conversation: epmd is on this host.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A node registers right after it has begun to listen; one that finds no epmd tries again after 2 s.
const LIVELY_FOR: Duration = Duration::from_secs(3);
const LIVELY_EVERY: Duration = Duration::from_millis(200);
const CALM_EVERY: Duration = Duration::from_secs(5);

/// The asking.
#[derive(Debug)]
pub(super) struct NamesWatch {
    /// What listened when it was last looked at.
    behind: Behind,
    changed: Option<Instant>,
    asked: Option<Instant>,
    asking: JoinSet<Option<Vec<Sighting>>>,
    /// Whether epmd answered the last time; `None`: it was never asked.
    answers: Option<bool>,
}

impl NamesWatch {
    pub(super) fn new() -> Self {
        Self { behind: Behind::default(), changed: None, asked: None, asking: JoinSet::new(), answers: None }
    }

    /// Whether epmd answered when it was last asked.
    pub(super) fn answers(&self) -> Option<bool> {
        self.answers
    }

    /// Asks if it is time to; the answer comes from [`NamesWatch::next`].
    pub(super) fn ask_if_due(&mut self, behind: &Behind, epmd: SocketAddr, dialer: &Dialer) {
        let now = Instant::now();
        if self.behind != *behind {
            self.behind.clone_from(behind);
            self.changed = Some(now);
        }
        if self.asking.is_empty() && self.is_due(now) {
            self.asked = Some(now);
            let dialer = dialer.clone();
            self.asking.spawn(async move { names_of(epmd, &dialer).await });
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let lively = self.changed.is_some_and(|changed| now.duration_since(changed) < LIVELY_FOR);
        let every = if lively { LIVELY_EVERY } else { CALM_EVERY };
        self.asked.is_none_or(|asked| now.duration_since(asked) >= every)
    }

    /// The names, when an answer has come. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Vec<Sighting>> {
        let told = self.asking.join_next().await?.ok().flatten();
        self.answers = Some(told.is_some());
        Some(told.unwrap_or_default())
    }
}

async fn names_of(epmd: SocketAddr, dialer: &Dialer) -> Option<Vec<Sighting>> {
    let answer = converse(epmd, Request::Names, dialer, (TIMEOUT, MAX_ANSWER)).await.ok()?;
    let reply = NamesReply::decode(&answer).ok()?;
    let sighting = |listed: &Listed<'_>| Sighting { name: listed.name.into(), port: listed.port };
    Some(reply.names.iter().map(sighting).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_asks_often_after_a_change_and_seldom_otherwise() {
        let mut watch = NamesWatch::new();
        let start = Instant::now();
        assert!(watch.is_due(start));
        watch.asked = Some(start);
        assert!(!watch.is_due(start + LIVELY_EVERY));
        assert!(watch.is_due(start + CALM_EVERY));
        watch.changed = Some(start);
        assert!(watch.is_due(start + LIVELY_EVERY));
        watch.asked = Some(start + LIVELY_FOR);
        assert!(!watch.is_due(start + LIVELY_FOR + LIVELY_EVERY));
    }
}
