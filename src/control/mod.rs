//! What goes on beside the connections: which ports are open, what host names mean, when to end.

mod addresses;
mod advice;
mod front;
mod obstacle;
mod resolver;
mod signals;
mod strangers;
mod takeover;

pub use front::{Front, FrontSettings};
pub use resolver::Resolver;
pub use signals::StopSignals;
pub use strangers::explain_strangers;
