//! Memory that nobody uses at the moment: kept for the next one who does, and freed when nobody comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::transport::Memory;

/// How often it is looked what nobody has used since. What was not used all that time is freed: a link with bytes to move
/// takes and gives back its buffers many times in it.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Pieces of memory of one size.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    free: Vec<Memory>,
    /// The fewest there were since the last look: so many nobody has used.
    fewest: usize,
    /// Who looks, while there is something.
    sweeper: JoinSet<()>,
}

impl Shelf {
    /// One piece, whose content is whatever was in it; the one that was used last, since it is in the processor's caches.
    pub(super) fn take(&self) -> Option<Memory> {
        let mut kept = self.lock();
        let piece = kept.free.pop();
        kept.fewest = kept.fewest.min(kept.free.len());
        piece
    }

    /// Keeps a piece, where there are fewer than `most`.
    pub(super) fn put(&self, piece: Memory, most: usize) {
        let mut kept = self.lock();
        if kept.free.len() >= most {
            return;
        }
        if kept.sweeper.is_empty() {
            // Where nothing runs any more nobody comes for it.
            let Ok(runtime) = Handle::try_current() else { return };
            kept.sweeper.spawn_on(sweep(Arc::downgrade(&self.0)), &runtime);
        }
        kept.free.push(piece);
    }

    /// How many pieces there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().free.len()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees what nobody uses, until there is nothing.
async fn sweep(shelf: Weak<Mutex<Kept>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(shelf) = shelf.upgrade() else { return };
        let unused: Vec<_> = {
            let mut kept = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            let fewest = kept.fewest.min(kept.free.len());
            let unused = kept.free.drain(..fewest).collect();
            kept.fewest = kept.free.len();
            if kept.free.is_empty() {
                kept.free = Vec::new();
                // It is this task, which ends.
                kept.sweeper.detach_all();
                return;
            }
            unused
        };
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_freed() {
        let shelf = Shelf::default();
        let piece = || Memory::zeroed(8);
        (0..4).for_each(|_| shelf.put(piece(), 3));
        assert_eq!(shelf.len(), 3);
        // One of them is in use.
        for _ in 0..8 {
            tokio::time::sleep(SWEEP_EVERY / 2).await;
            let used = shelf.take().unwrap();
            shelf.put(used, 3);
        }
        assert_eq!(shelf.len(), 1);
        tokio::time::sleep(3 * SWEEP_EVERY).await;
        assert!(shelf.take().is_none());
        shelf.put(piece(), 3);
        assert_eq!(shelf.len(), 1);
        tokio::time::sleep(3 * SWEEP_EVERY).await;
        assert_eq!(shelf.len(), 0);
    }
}
