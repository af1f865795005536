//! The receiving half of a link: what has come already, and what the other guard has been told of it.

use crate::proto::tunnel::ACK_BYTES;

/// How far the bytes of a link have come from the leg to the node's socket.
///
/// ```text
///        told            delivered          expected
///   ... ---+----------------+------------------+---
///  acknowledged|  the node has it  |  we hold it
/// ```
///
/// It keeps no bytes. [`accept`](Self::accept) says which ones are new, the caller writes these to the node and says how
/// many were taken ([`delivered`](Self::delivered)), and these are acknowledged: never one that might be lost with the leg
/// or with us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incoming {
    told: u64,
    delivered: u64,
    expected: u64,
    /// How many bytes there are, once the FIN has come.
    fin: Option<u64>,
}

/// Whether the other guard waits for an ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckDue {
    /// It knows everything.
    No,
    /// [`ACK_AFTER`](crate::proto::tunnel::ACK_AFTER) after this was first said, unless more comes before.
    Soon,
    /// Now: there is much, or the FIN.
    Now,
}

/// Bytes or a FIN that cannot be at that offset. The link is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Bytes are missing before it.
    #[error("the offset {offset} came where {expected} was due")]
    Gap {
        /// Where it stands.
        offset: u64,
        /// What would have been next.
        expected: u64,
    },
    /// It goes beyond the FIN.
    #[error("bytes up to {end} came after a FIN at {fin}")]
    AfterFin {
        /// The offset behind it.
        end: u64,
        /// That of the FIN.
        fin: u64,
    },
    /// A FIN before bytes that have come.
    #[error("a FIN at {offset} came after {expected} bytes")]
    EarlyFin {
        /// Where it stands.
        offset: u64,
        /// How many bytes have come.
        expected: u64,
    },
}

/// What a FIN means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    /// Behind the last byte the node's socket is to be shut; then [`Incoming::delivered`] takes 1 for it.
    New,
    /// It has come before.
    Repeated,
}

impl Incoming {
    /// Bytes of a DATA frame: those of them that are new, to be written to the node in this order. Empty where all
    /// have come before.
    ///
    /// # Errors
    /// They do not fit what has come.
    pub fn accept<'a>(&mut self, offset: u64, bytes: &'a [u8]) -> Result<&'a [u8], Misplaced> {
        let (expected, end) = (self.expected, offset.saturating_add(bytes.len() as u64));
        if let Some(fin) = self.fin.filter(|fin| end > *fin) {
            return Err(Misplaced::AfterFin { end, fin });
        }
        let repeated = expected.checked_sub(offset).ok_or(Misplaced::Gap { offset, expected })?;
        let new =
            usize::try_from(repeated).ok().and_then(|repeated| bytes.get(repeated..)).unwrap_or_default();
        self.expected = expected.max(end);
        Ok(new)
    }

    /// A FIN frame.
    ///
    /// # Errors
    /// It does not fit what has come.
    pub fn finish(&mut self, offset: u64) -> Result<Fin, Misplaced> {
        let expected = self.fin.unwrap_or(self.expected);
        match self.fin {
            Some(fin) if fin == offset => Ok(Fin::Repeated),
            Some(fin) if offset > fin => Err(Misplaced::AfterFin { end: offset, fin }),
            _ if offset < expected => Err(Misplaced::EarlyFin { offset, expected }),
            _ if offset > expected => Err(Misplaced::Gap { offset, expected }),
            _ => {
                self.fin = Some(offset);
                self.expected = offset.saturating_add(1);
                Ok(Fin::New)
            }
        }
    }

    /// The node's socket has taken so many of the accepted bytes, or the FIN, which is 1.
    pub fn delivered(&mut self, count: u64) {
        self.delivered = self.expected.min(self.delivered.saturating_add(count));
    }

    /// How many accepted bytes the node has not taken, the FIN included.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.expected - self.delivered
    }

    /// Whether an ACK is due.
    #[must_use]
    pub fn due(&self) -> AckDue {
        match self.untold() {
            0 => AckDue::No,
            untold if untold >= ACK_BYTES || self.is_done() => AckDue::Now,
            _ => AckDue::Soon,
        }
    }

    /// How many bytes have been delivered that the other guard has not been told of.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.delivered - self.told
    }

    /// What an ACK says now. The caller sends it.
    pub fn acknowledge(&mut self) -> u64 {
        self.told = self.delivered;
        self.told
    }

    /// What RESUME or RESUMED says, when the leg is gone. What was accepted and not delivered comes once more: the caller
    /// throws away what it still holds of it, and reads no more of the old leg.
    pub fn resume(&mut self) -> u64 {
        self.fin = self.fin.filter(|fin| *fin < self.delivered);
        self.expected = self.delivered;
        self.acknowledge()
    }

    /// How many bytes have been delivered, the FIN included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.delivered
    }

    /// Whether everything has been delivered, the FIN too: this direction needs no leg any more, once that is acknowledged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.fin.is_some_and(|fin| fin < self.delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_is_dropped_and_a_gap_is_a_fault() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.accept(0, b"abc"), Ok(&b"abc"[..]));
        assert_eq!(incoming.accept(1, b"bcde"), Ok(&b"de"[..]));
        assert_eq!(incoming.accept(0, b"abc"), Ok(&b""[..]));
        assert_eq!(incoming.accept(6, b"g"), Err(Misplaced::Gap { offset: 6, expected: 5 }));
        assert_eq!((incoming.undelivered(), incoming.received()), (5, 0));
    }

    #[test]
    fn the_fin_is_behind_the_last_byte() {
        let mut incoming = Incoming::default();
        incoming.accept(0, b"abc").unwrap();
        assert_eq!(incoming.finish(4), Err(Misplaced::Gap { offset: 4, expected: 3 }));
        assert_eq!(incoming.finish(2), Err(Misplaced::EarlyFin { offset: 2, expected: 3 }));
        assert_eq!(incoming.finish(3), Ok(Fin::New));
        assert_eq!(incoming.finish(3), Ok(Fin::Repeated));
        assert_eq!(incoming.finish(4), Err(Misplaced::AfterFin { end: 4, fin: 3 }));
        assert_eq!(incoming.finish(2), Err(Misplaced::EarlyFin { offset: 2, expected: 3 }));
        assert_eq!(incoming.accept(1, b"bc"), Ok(&b""[..]));
        assert_eq!(incoming.accept(3, b"d"), Err(Misplaced::AfterFin { end: 4, fin: 3 }));
        incoming.delivered(3);
        assert!(!incoming.is_done());
        incoming.delivered(1);
        assert_eq!((incoming.is_done(), incoming.due(), incoming.acknowledge()), (true, AckDue::Now, 4));
        assert_eq!((incoming.due(), incoming.resume(), incoming.is_done()), (AckDue::No, 4, true));
    }

    #[test]
    fn an_ack_is_due_at_once_for_much_and_a_little_later_for_less() {
        let mut incoming = Incoming::default();
        let bytes = vec![0; 300_000];
        incoming.accept(0, &bytes).unwrap();
        assert_eq!(incoming.due(), AckDue::No);
        incoming.delivered(ACK_BYTES - 1);
        assert_eq!(incoming.due(), AckDue::Soon);
        incoming.delivered(1);
        assert_eq!((incoming.due(), incoming.acknowledge()), (AckDue::Now, ACK_BYTES));
        assert_eq!(incoming.due(), AckDue::No);
        // Never more than has come.
        incoming.delivered(u64::MAX);
        assert_eq!(incoming.acknowledge(), 300_000);
    }

    #[test]
    fn what_was_not_delivered_comes_once_more_on_the_next_leg() {
        let mut incoming = Incoming::default();
        incoming.accept(0, b"abcdef").unwrap();
        incoming.finish(6).unwrap();
        incoming.delivered(2);
        assert_eq!(incoming.resume(), 2);
        assert_eq!(incoming.accept(2, b"cdef"), Ok(&b"cdef"[..]));
        assert_eq!(incoming.finish(6), Ok(Fin::New));
        // All but the FIN.
        incoming.delivered(4);
        assert_eq!(incoming.resume(), 6);
        assert_eq!(incoming.finish(6), Ok(Fin::New));
    }
}
