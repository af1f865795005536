//! The signals that end the daemon, and the one that must not.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, caught from the moment on at which this is made. SIGHUP is caught too and ends
/// nothing: who sends it to a daemon means a reload, not the end of all links.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Catches the signals.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them and tells its name.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    let help = "this version cannot reload: a new configuration needs a restart, which ends the links";
                    tracing::warn!(help, "reload_refused");
                }
            }
        }
    }
}
