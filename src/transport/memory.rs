//! Memory for bytes on their way. Large pieces are the system's own, so that they are its again when they are dropped: an
//! allocator keeps what is freed between what is still in use, and links at rest would hold what bulk has taken.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// From so many bytes on a piece is taken from the system.
const LARGE: usize = 64 * 1024;

/// A piece of memory.
#[derive(Debug)]
pub struct Memory(Kind);

#[derive(Debug)]
enum Kind {
    Allocated(Box<[u8]>),
    Mapped(MmapMut),
}

impl Memory {
    /// So many bytes, all zero.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        if bytes >= LARGE
            && let Ok(mapped) = MmapMut::map_anon(bytes)
        {
            return Self(Kind::Mapped(mapped));
        }
        Self(Kind::Allocated(vec![0; bytes].into_boxed_slice()))
    }
}

impl Default for Memory {
    /// None.
    fn default() -> Self {
        Self(Kind::Allocated(Box::default()))
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Allocated(bytes) => bytes,
            Kind::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Kind::Allocated(bytes) => bytes,
            Kind::Mapped(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_pieces_can_be_written() {
        for bytes in [0, 1, LARGE - 1, LARGE, 8 * LARGE + 1] {
            let mut memory = Memory::zeroed(bytes);
            assert_eq!((memory.len(), memory.iter().any(|byte| *byte != 0)), (bytes, false));
            memory.fill(7);
            assert!(memory.iter().all(|byte| *byte == 7));
        }
        assert!(Memory::default().is_empty());
    }
}
