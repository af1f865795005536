//! The table of names of the embedded epmd: who is registered, who was, and with which creation.
//!
//! Owns the names, their [`Lease`]s and the rules of creations. Never reads a clock or touches a
//! connection: whoever holds the connection of a registration holds its lease, and gives it back
//! when the connection ends. The time is an argument, and no answer is made here but the one that
//! an [`Entry`] can give of itself.

mod creation;
mod roll;
mod table;

#[cfg(test)]
mod simulation;

pub use table::{Entry, Former, Granted, Lease, Refused, Registry, RegistryLimits};
