//! Who may do what: pure decisions over facts that are handed in.
//!
//! Owns the rules, the answer to "may this connection be here" and the [`Permit`]s, without which
//! the dialer connects nowhere. Never reads a clock, a file or a socket. A missing fact means no.

mod addr;
mod decide;
mod limits;
mod network;
mod prefix;

pub use addr::{LocalAddr, PeerAddr};
pub use decide::{Admission, Arrival, Audience, Denial, Destination, Errand, Permit, Policy, Standing};
pub use limits::{Caps, Full, SlotTable};
pub use network::{
    HostAnswers, HostName, HostNameFault, List, NetworkRules, Rule, RuleBook, RuleId, Target, TargetFault,
};
pub use prefix::{PrefixTable, canonical};
