//! What all links in tunnels share, and where the ones that peers have opened wait for another leg.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::names::Names;
use super::pool::Pool;
use super::renew::{Renewal, Resumption};
use super::replay::Replay;
use crate::proto::tunnel::{LinkId, Refusal};

/// Legs that may wait for one link; another one goes before it has been taken only where the leg broke at once.
const WAITING: usize = 2;

/// Shared by all tunnels of a guard, for all generations.
#[derive(Debug, Clone)]
pub struct Tunnels {
    pub(super) pool: Pool,
    /// What is kept until the other guard has it.
    pub replay: Replay,
    /// Where the guards of peers are.
    pub names: Names,
    answered: Arc<Mutex<Answered>>,
}

/// The links that peers have opened, by whose they are, which is the name of its `[[peer]]`, and what that one calls them.
type Answered = HashMap<(Arc<str>, LinkId), mpsc::Sender<Box<Resumption>>>;

/// A leg that no link takes, and what to tell the other guard.
#[derive(Debug)]
pub struct Rejected {
    pub(super) resumption: Resumption,
    pub(super) code: Refusal,
}

/// A link's place among those that can be resumed, given back when it is dropped.
#[derive(Debug)]
pub struct Resumable {
    name: (Arc<str>, LinkId),
    answered: Arc<Mutex<Answered>>,
}

impl Tunnels {
    /// None yet; together they may keep so many bytes.
    #[must_use]
    pub fn new(replay: usize) -> Self {
        Self {
            pool: Pool::default(),
            replay: Replay::new(replay),
            names: Names::default(),
            answered: Arc::default(),
        }
    }

    /// Enters a link that a peer opens. `None`: it has one of that name.
    #[must_use]
    pub fn enter(&self, link: LinkId, peer: &Arc<str>) -> Option<(Resumable, Renewal)> {
        let (legs, renewal) = mpsc::channel(WAITING);
        let name = (Arc::clone(peer), link);
        match self.answered().entry(name.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => {
                place.insert(legs);
            }
        }
        let resumable = Resumable { name, answered: Arc::clone(&self.answered) };
        Some((resumable, Renewal::Answer(renewal)))
    }

    /// Gives a link of this peer another leg.
    ///
    /// # Errors
    /// The leg, and what to tell the other guard: there is no such link, or it is another peer's; or legs wait for it
    /// already, and it is to be tried again.
    pub fn resume(&self, link: LinkId, peer: &str, resumption: Resumption) -> Result<(), Box<Rejected>> {
        let legs = self.answered().get(&(Arc::from(peer), link)).cloned();
        let Some(legs) = legs else {
            return Err(Box::new(Rejected { resumption, code: Refusal::UnknownLink }));
        };
        legs.try_send(Box::new(resumption)).map_err(|error| {
            let (resumption, code) = match error {
                mpsc::error::TrySendError::Full(resumption) => (*resumption, Refusal::Busy),
                mpsc::error::TrySendError::Closed(resumption) => (*resumption, Refusal::UnknownLink),
            };
            Box::new(Rejected { resumption, code })
        })
    }

    fn answered(&self) -> MutexGuard<'_, Answered> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_two_peers_may_have_one_name() {
        let tunnels = Tunnels::new(1 << 20);
        let [h1, h3]: [Arc<str>; 2] = ["h1".into(), "h3".into()];
        let link = LinkId([1; 16]);
        let of_h1 = tunnels.enter(link, &h1).unwrap();
        let _of_h3 = tunnels.enter(link, &h3).unwrap();
        assert!(tunnels.enter(link, &h1).is_none());
        drop(of_h1);
        assert!(tunnels.enter(link, &h3).is_none());
        assert!(tunnels.enter(link, &h1).is_some());
    }
}
