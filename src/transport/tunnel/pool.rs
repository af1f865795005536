//! Large buffers, held only while there are bytes in them, so that an idle link costs none.

use super::shelf::Shelf;
use crate::transport::Memory;
use crate::transport::tls::Block;

/// What is read, sealed and opened at once: thirty-two records of TLS, so that a system call and a turn of the loop are
/// paid for once in half a MiB.
pub(super) const LARGE: usize = 512 * 1024;
/// A buffer: what sealing adds to the above (22 bytes a record), and some frames beside.
const SIZE: usize = LARGE + 32 * 1024;
/// Buffers kept for the next link with bytes to move; more are freed.
const KEPT: usize = 32;

/// Buffers, lent and given back. What is in one is whatever was in it: nothing is zeroed again.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    free: Shelf,
}

impl Pool {
    /// Gives a block the memory of a large one. What is in it stays.
    pub(super) fn lend(&self, block: &mut Block) {
        if block.capacity() >= SIZE {
            return;
        }
        let kept = self.free.take();
        let mut large = Block::from(kept.unwrap_or_else(|| Memory::zeroed(SIZE)));
        if !block.is_empty() {
            large.append(block.filled());
        }
        *block = large;
    }

    /// Takes the memory of an empty block back.
    pub(super) fn take_back(&self, block: &mut Block) {
        if block.is_empty() && block.capacity() > 0 {
            self.put(std::mem::take(block));
        }
    }

    /// Takes large memory back from a block in which there is little, such as a part of a record; it gets as much as that
    /// takes.
    pub(super) fn take_all_but(&self, block: &mut Block, little: usize) {
        if block.len() > little || block.capacity() < SIZE {
            return self.take_back(block);
        }
        let mut small = Block::with_room(block.len());
        small.append(block.filled());
        self.put(std::mem::replace(block, small));
    }

    fn put(&self, block: Block) {
        let memory = block.into_memory();
        if memory.len() == SIZE {
            self.free.put(memory, KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_block_has_large_memory_only_while_something_is_in_it() {
        let pool = Pool::default();
        let mut block = Block::with_room(8);
        block.append(b"onetwo");
        pool.lend(&mut block);
        assert_eq!((block.filled(), block.capacity()), (&b"onetwo"[..], SIZE));
        pool.take_back(&mut block);
        assert_eq!(block.capacity(), SIZE);
        block.consume(6);
        pool.take_back(&mut block);
        assert_eq!(block.capacity(), 0);
        assert_eq!(pool.free.len(), 1);
        pool.lend(&mut block);
        assert_eq!(pool.free.len(), 0);
    }

    #[tokio::test]
    async fn a_part_of_a_record_takes_as_much_as_it_has() {
        let pool = Pool::default();
        let mut block = Block::with_room(8);
        block.append(b"onetwo");
        pool.lend(&mut block);
        block.consume(3);
        pool.take_all_but(&mut block, 2);
        assert_eq!((block.filled(), block.capacity()), (&b"two"[..], SIZE));
        pool.take_all_but(&mut block, 3);
        assert_eq!((block.filled(), block.capacity(), pool.free.len()), (&b"two"[..], 3, 1));
        pool.take_all_but(&mut block, 3);
        assert_eq!((block.filled(), block.capacity(), pool.free.len()), (&b"two"[..], 3, 1));
    }
}
