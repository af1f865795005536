//! Bytes on their way: memory that was made once, and two marks in it.
//!
//! Nothing of it is ever set to zero again, so that a large one costs what is in it and not what it could hold.

use crate::transport::Memory;

/// A block of memory, of which the part between two marks is filled.
#[derive(Debug, Default)]
pub struct Block {
    memory: Memory,
    start: usize,
    end: usize,
}

impl From<Memory> for Block {
    /// An empty one. What is in the memory counts for nothing.
    fn from(memory: Memory) -> Self {
        Self { memory, start: 0, end: 0 }
    }
}

impl Block {
    /// An empty one with room for so many bytes.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        Self::from(Memory::zeroed(bytes))
    }

    /// The memory, for a pool to take back.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    /// How many bytes it can hold as it is.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What is in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// What is in it, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// The room behind what is in it. [`Block::fill`] says how much of it was written.
    pub fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes of the room are filled now.
    pub fn fill(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes).min(self.memory.len());
    }

    /// So many bytes from the front are gone.
    pub fn consume(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Nothing is in it any more.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Makes room for so many bytes: what is in it moves to the front, or to larger memory.
    pub fn reserve(&mut self, bytes: usize) {
        if self.memory.len() - self.end >= bytes {
            return;
        }
        let (filled, wanted) = (self.len(), self.len().saturating_add(bytes));
        if self.memory.len() >= wanted {
            self.memory.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = Memory::zeroed(wanted);
            if let Some(front) = larger.get_mut(..filled) {
                front.copy_from_slice(self.filled());
            }
            self.memory = larger;
        }
        (self.start, self.end) = (0, filled);
    }

    /// Puts bytes behind what is in it, with more memory where it has too little.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        if let Some(room) = self.room().get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.fill(bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_outlives_moves_and_growth() {
        let mut block = Block::with_room(8);
        block.append(b"abcdef");
        block.consume(4);
        assert_eq!(block.filled(), b"ef");
        block.reserve(6);
        assert_eq!((block.capacity(), block.filled()), (8, b"ef".as_slice()));
        assert_eq!(block.room().len(), 6);
        block.append(b"ghijkl");
        block.append(b"m");
        assert_eq!((block.capacity(), block.filled()), (9, b"efghijklm".as_slice()));
        block.consume(9);
        assert!(block.is_empty());
        assert_eq!(block.room().len(), 9);
    }

    #[test]
    fn marks_stay_in_the_memory() {
        let mut block = Block::with_room(4);
        block.fill(9);
        assert_eq!(block.len(), 4);
        block.consume(9);
        assert_eq!(block.len(), 0);
        assert_eq!(Block::default().room().len(), 0);
    }
}
