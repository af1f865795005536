//! Who may do what: pure decisions over facts that are handed in.
//!
//! Owns the rules, the answer to "may this connection be here" and the [`Permit`]s, without which
//! the dialer connects nowhere. Never reads a clock, a file or a socket. A missing fact means no.

mod addr;
mod decide;
mod dist;
mod limits;
mod names;
mod network;
mod ports;
mod prefix;
mod role;
mod rules;

pub use addr::{LocalAddr, PeerAddr};
pub use decide::{
    Admission, Arrival, Denial, Destination, Errand, Intake, LinkTarget, Permit, Policy, Standing,
};
pub use dist::{DistRules, PortRule, Withheld};
pub use limits::{Caps, Full, Room, SlotTable};
pub use names::{NamePatterns, NameVerdict, Pattern, PatternFault};
pub use network::{
    HostAnswers, HostName, HostNameFault, List, NetworkRules, PeerId, Rule, RuleBook, RuleId, Target,
    TargetFault,
};
pub use ports::{PortSet, PortSetFault};
pub use prefix::{PrefixTable, canonical};
pub use role::{Audience, Role, SelfAt};
pub use rules::{EpmdRules, Reach, Rules, SelfRules, StopRule};
