//! What the service manager is told: ready, reloading, stopping, alive.
//!
//! Owns the order in which it hears of that. Never reads the environment (`cli` does), and never holds anybody
//! up for a manager that does not listen. Without a manager all of it is silence.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::telemetry::describe;

/// How much waits for a manager that does not read; more is lost.
const WAITING: usize = 16;
/// The watchdog is fed this many times in the time that it allows, as sd_watchdog_enabled(3) advises.
const FEEDINGS: u32 = 2;

/// What a manager puts into the environment of its service (sd_notify(3), sd_watchdog_enabled(3)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManagerSays {
    /// `NOTIFY_SOCKET`: where it listens.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`: how long it waits for a sign of life, in microseconds.
    pub watchdog_usec: Option<String>,
    /// `WATCHDOG_PID`: the process that the above is meant for.
    pub watchdog_pid: Option<String>,
}

/// Tells the service manager how the guard is.
#[derive(Debug)]
pub struct Notifier {
    manager: Option<Manager>,
    watchdog: Option<Duration>,
    /// Held while something is sent, so that nothing overtakes.
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    addr: SocketAddr,
}

/// What it was told so far.
#[derive(Debug, Default)]
struct Told {
    progress: Progress,
    failure: Failure,
    /// What it has not taken yet, in its order.
    waiting: VecDeque<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Progress {
    /// It has not heard that the guard is ready; until then nothing but that is news.
    #[default]
    Starting,
    Running,
    /// There is no way back: a manager that hears READY after STOPPING takes the service for running.
    Stopping,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Failure {
    #[default]
    NotSeen,
    Logged,
}

impl Notifier {
    /// A notifier for the manager that started this process, if one did.
    #[must_use]
    pub fn new(manager: &ManagerSays) -> Self {
        let mut told = Told::default();
        let connected = match manager.notify_socket.as_deref().map(Manager::at) {
            None => None,
            Some(Ok(manager)) => Some(manager),
            Some(Err(error)) => {
                told.note_failure(&error);
                None
            }
        };
        // Where nobody listens nobody waits.
        let watchdog = connected.is_some().then(|| watchdog(manager, std::process::id())).flatten();
        Self { manager: connected, watchdog, told: Mutex::new(told) }
    }

    /// The guard does its work.
    pub fn ready(&self, status: &str) {
        let mut told = self.told();
        if told.progress == Progress::Stopping {
            return;
        }
        told.progress = Progress::Running;
        self.tell(&mut told, format!("READY=1\nSTATUS={}\n", one_line(status)));
    }

    /// A reload has begun; it has ended when what is returned is dropped, however that comes.
    #[must_use]
    pub fn reloading(&self) -> Reloading<'_> {
        let mut told = self.told();
        if told.progress != Progress::Stopping {
            // `Type=notify-reload` wants to know when that was (systemd 253 and later).
            let since = clock_gettime(ClockId::Monotonic);
            let usec = since.tv_sec * 1_000_000 + since.tv_nsec / 1_000;
            self.tell(&mut told, format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"));
        }
        Reloading { notifier: self, status: "a reload failed: the log has the reason" }
    }

    /// The guard ends. From here on it is not ready and reloads nothing.
    pub fn stopping(&self) {
        let mut told = self.told();
        if told.progress != Progress::Stopping {
            told.progress = Progress::Stopping;
            self.tell(&mut told, "STOPPING=1\n".to_owned());
        }
    }

    /// What `systemctl status` shows. Before it is ready it shows that alone.
    ///
    /// # Errors
    /// It is not ready yet, so that nothing was told.
    pub fn status(&self, text: &str) -> Result<(), NotReady> {
        let mut told = self.told();
        if told.progress == Progress::Starting {
            return Err(NotReady);
        }
        self.tell(&mut told, format!("STATUS={}\n", one_line(text)));
        Ok(())
    }

    /// Tells again what a manager that was busy has not taken.
    pub fn retry(&self) {
        self.send_waiting(&mut self.told());
    }

    /// How often to say [`Self::alive`]; `None`: nobody waits for it.
    #[must_use]
    pub fn watchdog_every(&self) -> Option<Duration> {
        self.watchdog
    }

    /// A sign of life, to be given by the loop whose hang matters.
    pub fn alive(&self) {
        let mut told = self.told();
        self.send_waiting(&mut told);
        // One that is late is no sign of life, so that none of them waits.
        if let Some(Err(error)) = self.manager.as_ref().map(|manager| manager.send("WATCHDOG=1\n")) {
            told.note_failure(&error);
        }
    }

    /// There will be no further sign of life, and that is no reason to end the guard: what gives it has died,
    /// and the links live on.
    pub fn unwatched(&self, status: &str) {
        let off = if self.watchdog.is_some() { "WATCHDOG_USEC=0\n" } else { "" };
        self.tell(&mut self.told(), format!("STATUS={}\n{off}", one_line(status)));
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, told: &mut Told, message: String) {
        if self.manager.is_some() {
            if told.waiting.len() >= WAITING {
                told.waiting.pop_front();
            }
            told.waiting.push_back(message);
            self.send_waiting(told);
        }
    }

    fn send_waiting(&self, told: &mut Told) {
        let Some(manager) = &self.manager else { return };
        while let Some(message) = told.waiting.front() {
            let sent = manager.send(message);
            if let Err(error) = &sent {
                told.note_failure(error);
                if error.kind() == io::ErrorKind::WouldBlock {
                    return;
                }
            }
            told.waiting.pop_front();
        }
    }
}

/// A reload that is under way.
#[derive(Debug)]
pub struct Reloading<'a> {
    notifier: &'a Notifier,
    status: &'static str,
}

impl Reloading<'_> {
    /// It has ended, well or not: the guard does its work.
    pub fn ended(mut self, status: &'static str) {
        self.status = status;
    }
}

/// A manager that is left with RELOADING waits for ever, so that a reload that panics ends for it, too.
impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        self.notifier.ready(self.status);
    }
}

/// Nothing but READY is told before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the service manager has not heard yet that the guard is ready")]
pub struct NotReady;

impl Manager {
    fn at(place: &OsStr) -> io::Result<Self> {
        let addr = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(place)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "NOTIFY_SOCKET is neither a path nor @name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        // Nobody waits for a manager that does not read.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, addr })
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.addr).map(drop)
    }
}

impl Told {
    /// Once: a manager that does not hear us this time will not the next time either.
    fn note_failure(&mut self, error: &io::Error) {
        if self.failure == Failure::NotSeen {
            self.failure = Failure::Logged;
            tracing::warn!(
                error = describe(error),
                help = "the guard goes on, but its service manager (NOTIFY_SOCKET) may take it for not started or for \
                        hanging, and restart it: let it reach that socket, or set Type=exec and WatchdogSec=0",
                "notify_failed"
            );
        }
    }
}

fn watchdog(manager: &ManagerSays, own_pid: u32) -> Option<Duration> {
    // What is meant for another process, such as a shell that started this one, is not ours to feed.
    let pid: u32 = manager.watchdog_pid.as_deref()?.parse().ok()?;
    let allowed: u64 = manager.watchdog_usec.as_deref()?.parse().ok()?;
    let every = Duration::from_micros(allowed) / FEEDINGS;
    (pid == own_pid && !every.is_zero()).then_some(every)
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct StandIn {
        _folder: tempfile::TempDir,
        socket: UnixDatagram,
        says: ManagerSays,
    }

    fn manager() -> StandIn {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let says = ManagerSays { notify_socket: Some(path.into()), ..watched("2000000", std::process::id()) };
        StandIn { _folder: folder, socket, says }
    }

    fn watched(usec: &str, pid: u32) -> ManagerSays {
        ManagerSays {
            notify_socket: None,
            watchdog_usec: Some(usec.to_owned()),
            watchdog_pid: Some(pid.to_string()),
        }
    }

    impl StandIn {
        fn heard(&self) -> Vec<String> {
            let mut bytes = [0; 512];
            std::iter::from_fn(|| self.socket.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec()))
                .map(|message| String::from_utf8(message).unwrap())
                .collect()
        }
    }

    #[test]
    fn it_hears_of_the_start_a_reload_and_the_end() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        notifier.ready("2 ports");
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=2 ports\n"]);
        notifier.reloading().ended("3 ports");
        let heard = manager.heard();
        let usec = heard[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(usec.parse::<u64>().unwrap() > 0);
        assert_eq!(heard[1], "READY=1\nSTATUS=3 ports\n");
        notifier.alive();
        notifier.status("one question is left").unwrap();
        notifier.stopping();
        notifier.stopping();
        assert_eq!(manager.heard(), ["WATCHDOG=1\n", "STATUS=one question is left\n", "STOPPING=1\n"]);
    }

    #[test]
    fn ready_and_a_reload_never_follow_stopping() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| notifier.ready("")));
            }
            scope.spawn(|| notifier.stopping());
            scope.spawn(|| (0..50).for_each(|_| notifier.reloading().ended("")));
            // The queue of a datagram socket is short (net.unix.max_dgram_qlen).
            let mut stopped = false;
            let mut look = || {
                for message in manager.heard() {
                    assert!(!stopped, "{message} after STOPPING");
                    stopped = message == "STOPPING=1\n";
                }
                stopped
            };
            while !look() {
                notifier.retry();
                std::thread::yield_now();
            }
        });
        notifier.reloading().ended("");
        assert_eq!(manager.heard(), [""; 0]);
    }

    #[test]
    fn a_status_cannot_begin_another_message() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        notifier.ready("a\nMAINPID=1");
        notifier.status("a\nMAINPID=1").unwrap();
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=a MAINPID=1\n", "STATUS=a MAINPID=1\n"]);
    }

    #[test]
    fn ready_comes_first() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        assert_eq!(notifier.status("early"), Err(NotReady));
        assert_eq!(manager.heard(), [""; 0]);
        notifier.ready("");
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=\n"]);
    }

    #[test]
    fn a_reload_that_panics_has_ended() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        notifier.ready("");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _reloading = notifier.reloading();
            panic!("a fault");
        }));
        panicked.unwrap_err();
        let heard = manager.heard();
        assert!(heard[1].starts_with("RELOADING=1\n") && heard[2].starts_with("READY=1\n"), "{heard:?}");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up_and_hears_later_what_counts() {
        let manager = manager();
        let notifier = Notifier::new(&manager.says);
        // One more than the queue holds, whatever it holds (net.unix.max_dgram_qlen).
        while notifier.told().failure == Failure::NotSeen {
            notifier.alive();
        }
        notifier.ready("");
        notifier.stopping();
        assert!(manager.heard().iter().all(|message| message == "WATCHDOG=1\n"));
        notifier.retry();
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=\n", "STOPPING=1\n"]);
    }

    #[test]
    fn an_abstract_socket_will_do_and_other_places_are_no_end() {
        let name = format!("epmd-guard-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let says =
            |place: String| ManagerSays { notify_socket: Some(place.into()), ..ManagerSays::default() };
        Notifier::new(&says(format!("@{name}"))).ready("");
        let mut bytes = [0; 64];
        assert_eq!(socket.recv(&mut bytes).unwrap(), b"READY=1\nSTATUS=\n".len());
        for place in ["", "relative", "vsock:2:1234", "/nobody/is/here"] {
            Notifier::new(&says(place.to_owned())).ready("");
        }
        Notifier::new(&ManagerSays::default()).ready("");
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_if_it_is_ours() {
        let own = std::process::id();
        let every = |usec: &str, pid: u32| watchdog(&watched(usec, pid), own);
        assert_eq!(every("60000000", own), Some(Duration::from_secs(30)));
        assert_eq!(every("60000000", own + 1), None);
        assert_eq!(every("0", own), None);
        assert_eq!(every("soon", own), None);
        assert_eq!(watchdog(&ManagerSays::default(), own), None);
        let manager = manager();
        assert_eq!(Notifier::new(&manager.says).watchdog_every(), Some(Duration::from_secs(1)));
        // Nobody listens.
        assert_eq!(Notifier::new(&watched("2000000", own)).watchdog_every(), None);
    }

    #[test]
    fn a_guard_that_is_crippled_is_not_ended_by_its_watchdog() {
        let manager = manager();
        Notifier::new(&manager.says).unwatched("crippled");
        assert_eq!(manager.heard(), ["STATUS=crippled\nWATCHDOG_USEC=0\n"]);
    }
}
