//! The admin socket: the running guard is asked, and told, by HTTP on a Unix socket; on loopback it can be
//! asked only.
//!
//! Owns the sockets, the requests and their bounds. Never knows what an answer says: that is the guard's, as
//! [`Operations`]. Whoever can open the Unix socket may do all of it, so its mode is the permission; any user
//! of the host reaches a loopback port, and any web page that a browser on it has open.

mod claim;
mod door;
mod exchange;
mod question;
mod reply;
mod routes;
mod socket;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::documents::{
    BanDocument, LearnDocument, LinkDocument, ModeDocument, Readiness, ReloadReport, Status,
};
use crate::policy::Intake;

pub use super::explain::Visibility;
pub use super::modes::{ModeFault, ModeOrder, Orderer};
pub use super::reload::{Act, Consent, Request as ReloadRequest};
pub use claim::{Claim, ClaimError, claim};

/// What the guard says and does when it is asked.
///
/// All of it may be called at the same time as any other of it, from any thread. A panic costs the request
/// that it happens in. What is not `async` runs where it may block, but a request has 20 s in all.
pub trait Operations: Send + Sync + 'static {
    /// The guard at this moment.
    fn status(&self) -> Status;
    /// The established links.
    fn links(&self) -> Vec<LinkDocument>;
    /// All metrics in OpenMetrics text, with `# EOF` at the end.
    fn metrics(&self) -> String;
    /// Whether the guard does all that its configuration asks for.
    fn readiness(&self) -> Readiness;
    /// What would happen to a connection, and why.
    ///
    /// # Errors
    /// What is wrong with the question, as a sentence.
    fn explain(&self, query: ExplainQuery) -> Result<serde_json::Value, String>;
    /// Loads a configuration, or only looks at one. It goes on when whoever asked for it is gone.
    fn reload(&self, how: ReloadRequest) -> impl Future<Output = ReloadReport> + Send;
    /// Takes new connections of peers from now on, or takes none.
    fn drain(&self, intake: Intake);
    /// Whether the rules of who speaks are enforced.
    fn mode(&self) -> ModeDocument;
    /// Puts another mode in force for a while, or the configured one again.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    fn set_mode(&self, order: ModeOrder, by: Orderer) -> Result<ModeDocument, ModeFault>;
    /// The bans in force.
    fn bans(&self) -> Vec<BanDocument>;
    /// Lifts bans, and says how many.
    fn unban(&self, whom: Pardon, by: Orderer) -> u64;
    /// The smallest rules that fit what was seen.
    fn learn(&self) -> LearnDocument;
}

/// Whose bans are lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pardon {
    /// Those of this address or network, and that of the /64 that it is in.
    Net(IpNet),
    /// All.
    All,
}

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainQuery {
    /// The address that it would come from.
    pub from: String,
    /// The node name that it would claim.
    pub as_node: Option<String>,
    /// Whether it would be a hidden node.
    pub visibility: Visibility,
    /// The node or the port that it would go to.
    pub to: String,
}

/// Where the guard can be asked.
#[derive(Debug)]
pub struct AdminSettings {
    /// The right to the Unix socket; `None`: there is none.
    pub claim: Option<Claim>,
    /// `[admin] group`: who may use the Unix socket besides its owner.
    pub group: Option<String>,
    /// `[admin] listen`: loopback addresses.
    pub listen: Vec<SocketAddr>,
}

/// Answers until `stop`. A socket that cannot be opened is told of and tried again, for as long as it takes:
/// the guard guards without it.
pub async fn serve<O: Operations>(settings: AdminSettings, operations: Arc<O>, stop: CancellationToken) {
    let shared = Arc::new(Shared::new(operations));
    let mut doors = JoinSet::new();
    if let Some(claim) = settings.claim {
        let door = door::UnixDoor::new(claim, settings.group, Arc::clone(&shared));
        doors.spawn(door.run(stop.clone()));
    }
    for addr in settings.listen {
        doors.spawn(door::keep_loopback_open(addr, Arc::clone(&shared), stop.clone()));
    }
    while let Some(ended) = doors.join_next().await {
        if let Err(error) = ended {
            let help = "this is a fault of the guard: please report it; links are not touched, and only a \
                        restart of the guard brings the socket back";
            tracing::error!(%error, help, "admin_died");
        }
    }
    stop.cancelled().await;
}

/// What all requests need.
struct Shared<O> {
    operations: Arc<O>,
    /// The owner of what is under way, which outlives the request that began it: a reload must not stop in
    /// its middle because its operator pressed Ctrl-C.
    works: TaskTracker,
    /// One large body is in memory at a time, for as long as it is worked on.
    large: Arc<Semaphore>,
    /// Reloads and checks that are under way or wait for each other.
    orders: Arc<Semaphore>,
    /// Questions that have a thread, of those who were let in by the Unix socket and of anybody: the ports need
    /// threads too, and who fills a loopback port keeps nobody from the Unix socket.
    questions: [Arc<Semaphore>; 2],
}

/// Reloads and checks at one time; more are refused.
const ORDERS: usize = 4;
/// Questions at one time, for each kind of socket; more wait for their turn.
const QUESTIONS: usize = 4;

impl<O> Shared<O> {
    fn new(operations: Arc<O>) -> Self {
        Self {
            operations,
            works: TaskTracker::new(),
            large: Arc::new(Semaphore::new(1)),
            orders: Arc::new(Semaphore::new(ORDERS)),
            questions: [(); 2].map(|()| Arc::new(Semaphore::new(QUESTIONS))),
        }
    }
}

impl<O> fmt::Debug for Shared<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("works", &self.works).finish_non_exhaustive()
    }
}
