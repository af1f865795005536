//! What is known of one connection.

use std::fmt;

use super::context::Slot;
use crate::policy::{Admission, Arrival};

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Questions to epmd.
    Epmd,
    /// Links to the distribution port of the listener's number.
    Dist,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epmd => "epmd",
            Self::Dist => "dist",
        })
    }
}

/// What is known of a connection while it lives.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) admission: Admission,
    pub(super) arrival: Arrival,
    pub(super) id: u64,
    /// Held until the closing event.
    pub(super) slot: Slot,
}
