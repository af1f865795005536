//! Who may do what: pure decisions over facts that are handed in.
//!
//! Owns the rules, the answer to "may this connection be here" and the [`Permit`]s, without which
//! the dialer connects nowhere. Never reads a clock, a file or a socket. A missing fact means no.

mod addr;
mod cookie;
mod decide;
mod denial;
mod dist;
mod forward;
mod identity;
mod limits;
mod mode;
mod names;
mod network;
mod nodes;
mod observed;
mod offenders;
mod pattern;
mod ports;
mod prefix;
mod rate;
mod role;
mod rules;

pub use addr::{LocalAddr, PeerAddr};
pub use cookie::{Cookie, CookieOf, Cookies, Proved};
pub use decide::{
    Admission, Arrival, Carrier, Destination, Errand, Intake, Leave, LinkTarget, Permit, Policy, Speech,
    Standing,
};
pub use denial::Denial;
pub use dist::{DistRules, PortRule, Withheld};
pub use forward::{ForwardKind, ForwardRule, ForwardRules};
pub use identity::{IdentityRules, NoIdentity, San, SanFault, TlsMode};
pub use limits::{Caps, Full, Room, SlotTable};
pub use mode::{Mode, Overlooked};
pub use names::{NamePatterns, NameVerdict, NodePatterns};
pub use network::{
    HostAnswers, HostName, HostNameFault, List, NetworkRules, PeerId, Rule, RuleBook, RuleId, Target,
    TargetFault,
};
pub use nodes::{ByPattern, NodeRules, NodeRuling, NodesOfPeers, PeerNodes, Stance, Whose};
pub use observed::{Observation, Observations, Seen};
pub use offenders::{
    Ban, BanRules, Consequence, GOOD_FOR, Held, IsPeer, Moment, Offence, Offenders, Record, Source,
};
pub use pattern::{Pattern, PatternFault};
pub use ports::{PortSet, PortSetFault};
pub use prefix::{PrefixTable, canonical};
pub use rate::{RateTable, Rates};
pub use role::{Audience, Role, SelfAt};
pub use rules::{EpmdRules, Reach, Rules, SelfRules, StopRule};
