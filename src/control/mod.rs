//! What goes on beside the connections: which ports are open, what host names mean, when to end.

mod advice;
mod front;
mod resolver;
mod signals;
mod strangers;
mod takeover;

pub use front::{Front, FrontSettings};
pub use resolver::Resolver;
pub use signals::stop_signal;
pub use strangers::explain_strangers;
