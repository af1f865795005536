//! What goes on beside the connections: which ports are open, what host names mean, when to reload and when
//! to end.

mod addresses;
pub mod admin;
mod advice;
mod capacity;
mod captured;
mod console;
mod converse;
pub mod credentials;
pub mod documents;
pub mod explain;
mod front;
mod keep;
pub mod learn;
pub mod mesh;
mod modes;
mod notify;
mod obstacle;
mod reload;
mod resolver;
mod signals;
mod standing;
mod strangers;
mod takeover;

pub use capacity::{Capacity, Each};
pub use captured::{captured_now, tell_captured};
pub use console::{Console, ConsoleParts};
pub use front::{
    Blocked, CURE, Exposed, Front, FrontChannels, FrontOrder, FrontView, ListenerView, Unopened,
};
pub use keep::{keep_bans, recall_bans};
pub use modes::{LASTS, ModeFault, ModeOrder, ModeState, Modes, Orderer, Until, end_orders};
pub use notify::{ManagerSays, NotReady, Notifier, Reloading};
pub use reload::{Act, Consent, Ending, LastReload, Reason, ReloadParts, Reloader, Report, Request, Verdict};
pub use resolver::{Names, Resolved, Resolver};
pub use signals::{Signal, Signals};
pub use standing::Standing;
pub use strangers::{explain_strangers, tell_of_quiet_refusals};
