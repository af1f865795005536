//! The memory in which links keep what is not acknowledged, bounded for all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::shelf::Shelf;
use crate::proto::tunnel::flow::{Segments, Size};
use crate::transport::Memory;

/// Bytes of each size that are kept for the next link that has something to say; more are freed.
const KEPT: usize = 4 * 1024 * 1024;

/// Segments for all links.
#[derive(Debug, Clone)]
pub struct Replay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: AtomicUsize,
    cap: AtomicUsize,
    free: [Shelf; Size::ALL.len()],
}

impl Replay {
    /// For links that may hold so many bytes together.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        let free = std::array::from_fn(|_| Shelf::default());
        Self(Arc::new(Shared { held: AtomicUsize::new(0), cap: AtomicUsize::new(cap), free }))
    }

    /// Has another bound from now on; what is held stays.
    pub fn set_cap(&self, cap: usize) {
        self.0.cap.store(cap, Relaxed);
    }

    /// Bytes that links hold now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    fn segment(&self, size: Size) -> Option<Memory> {
        let kept = self.free(size)?.take();
        Some(kept.unwrap_or_else(|| Memory::zeroed(size.bytes())))
    }

    /// Whether so many bytes more may be held.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.held() + bytes <= self.0.cap.load(Relaxed)
    }

    fn free(&self, size: Size) -> Option<&Shelf> {
        self.0.free.get(size as usize)
    }
}

impl Segments for Replay {
    type Memory = Memory;

    fn take(&self, size: Size) -> Option<Memory> {
        let (bytes, cap) = (size.bytes(), self.0.cap.load(Relaxed));
        let before = self.0.held.fetch_add(bytes, Relaxed);
        if before + bytes > cap {
            self.0.held.fetch_sub(bytes, Relaxed);
            return None;
        }
        self.segment(size)
    }

    /// Given in any case: the number of these is bounded by that of the links.
    fn take_only(&self) -> Option<Memory> {
        self.0.held.fetch_add(Size::Tiny.bytes(), Relaxed);
        self.segment(Size::Tiny)
    }

    fn give(&self, segment: Memory) {
        self.0.held.fetch_sub(segment.len(), Relaxed);
        let Some(size) = Size::of(segment.len()) else { return };
        let Some(free) = self.free(size) else { return };
        free.put(segment, KEPT / size.bytes());
    }
}

/// Memory that is no segment and counts as well: what has come for a node that takes nothing.
#[derive(Debug)]
pub(super) struct Counted {
    replay: Replay,
    bytes: usize,
}

impl Counted {
    /// None yet.
    pub(super) fn new(replay: &Replay) -> Self {
        Self { replay: replay.clone(), bytes: 0 }
    }

    /// It is so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        let held = &self.replay.0.held;
        match bytes.checked_sub(self.bytes) {
            Some(0) => {}
            Some(more) => {
                held.fetch_add(more, Relaxed);
            }
            None => {
                held.fetch_sub(self.bytes - bytes, Relaxed);
            }
        }
        self.bytes = bytes;
    }

    /// Whether so many bytes more may be held.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.replay.fits(bytes)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tunnel::flow::Outgoing;

    #[test]
    fn segments_are_bounded_together() {
        let replay = Replay::new(Size::Large.bytes());
        let large = replay.take(Size::Large).unwrap();
        assert!(replay.take(Size::Small).is_none() && replay.take(Size::Tiny).is_none());
        let only = replay.take_only().unwrap();
        replay.give(large);
        replay.give(only);
        assert_eq!(replay.held(), 0);
        assert!(replay.take(Size::Small).is_some());
    }

    #[test]
    fn where_links_hold_all_that_they_may_each_has_one_of_the_smallest_and_no_more() {
        let replay = Replay::new(Size::Large.bytes());
        let mut links: Vec<_> = (0..64).map(|_| Outgoing::new(replay.clone(), 4 << 20)).collect();
        for link in &mut links {
            while let Some(room) = link.room(usize::MAX).map(|room| room.len()) {
                link.commit(room);
            }
        }
        let only = links.iter().filter(|link| link.held() == Size::Tiny.bytes()).count();
        assert!(only >= 62, "{only}");
        assert!(replay.held() <= Size::Large.bytes() + 64 * Size::Tiny.bytes(), "{}", replay.held());
        drop(links.drain(..1));
        assert!(links[62].unsent().is_some());
        links[62].sent();
        let end = links[62].end();
        links[62].acknowledge(end).unwrap();
        assert!(links[62].room(usize::MAX).unwrap().len() > Size::Tiny.bytes());
    }

    #[test]
    fn what_waits_for_a_node_counts_until_it_is_gone() {
        let replay = Replay::new(64 * 1024);
        let mut counted = Counted::new(&replay);
        counted.set(60 * 1024);
        assert_eq!((replay.held(), counted.fits(4 * 1024), counted.fits(8 * 1024)), (60 * 1024, true, false));
        assert!(replay.take(Size::Small).is_none());
        counted.set(1024);
        assert_eq!(replay.held(), 1024);
        drop(counted);
        assert_eq!(replay.held(), 0);
    }
}
