//! Threads that go on until a test is done with them.

use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the other threads of a test however it ends: a panic in a scope waits for them.
#[derive(Debug)]
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
