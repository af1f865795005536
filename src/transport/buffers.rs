//! Buffers that are held only while there are bytes in them, so that an idle link costs none.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes moved at once. Larger ones saved little CPU and cost cache; smaller ones cost system calls.
const BUFFER_BYTES: usize = 128 * 1024;
/// Buffers kept for the next link with bytes to move; more are freed.
const KEPT: usize = 64;

/// Buffers of one size, handed out and taken back.
#[derive(Debug, Clone, Default)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl BufferPool {
    /// A buffer, whose content is whatever was in it.
    pub(super) fn take(&self) -> Box<[u8]> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    /// Takes a buffer back.
    pub(super) fn put(&self, buffer: Box<[u8]>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}
