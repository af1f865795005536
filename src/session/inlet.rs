//! What one end has said and nobody has been told yet.

use std::io;

use crate::proto::dist::MAX_BODY;
use crate::transport::{How, Wire};

/// The longest message of a handshake, its length included.
const HELD: usize = MAX_BODY + 2;

/// Bytes of one end that wait for a decision: one message at most, and what came in the same segment, if it fits.
#[derive(Debug)]
pub(super) struct Inlet {
    held: Box<[u8; HELD]>,
    len: usize,
    /// How many of the first bytes may be passed on.
    approved: usize,
}

impl Default for Inlet {
    fn default() -> Self {
        Self { held: Box::new([0; HELD]), len: 0, approved: 0 }
    }
}

impl Inlet {
    /// All that waits for a decision, from the first of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.held.get(self.approved..self.len).unwrap_or_default()
    }

    /// What may be passed on.
    pub(super) fn approved(&self) -> &[u8] {
        self.held.get(..self.approved).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether more can be read.
    pub(super) fn has_room(&self) -> bool {
        self.len < HELD
    }

    /// Lets the first `count` bytes that wait for a decision pass.
    pub(super) fn approve(&mut self, count: usize) {
        self.approved = (self.approved + count).min(self.len);
    }

    /// Forgets what may be passed on, and has been.
    pub(super) fn pass(&mut self) {
        self.held.copy_within(self.approved..self.len, 0);
        self.len -= self.approved;
        self.approved = 0;
    }

    /// Reads what is there, or waits for it; `Some`: the end has gone. Nothing is lost where it is dropped.
    pub(super) async fn read(&mut self, from: &Wire) -> Option<How> {
        loop {
            if from.readable().await.is_err() {
                return Some(How::Reset);
            }
            let room = self.held.get_mut(self.len..).unwrap_or_default();
            match from.try_read(room) {
                Ok(0) => return Some(How::Fin),
                Ok(count) => {
                    self.len += count;
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Some(How::Reset),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_what_was_let_pass_and_the_rest_waits_in_its_order() {
        let mut inlet = Inlet::default();
        inlet.held[..6].copy_from_slice(b"onetwo");
        inlet.len = 6;
        inlet.approve(3);
        assert_eq!((inlet.approved(), inlet.bytes()), (&b"one"[..], &b"two"[..]));
        inlet.pass();
        assert_eq!((inlet.approved(), inlet.bytes()), (&b""[..], &b"two"[..]));
        inlet.approve(9);
        assert_eq!((inlet.approved(), inlet.bytes()), (&b"two"[..], &b""[..]));
        inlet.pass();
        assert!(inlet.is_empty() && inlet.has_room());
    }
}
