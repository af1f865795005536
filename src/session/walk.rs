//! The walk of one admitted connection.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::account::account;
use super::connection::{Role, Session};
use super::context::Context;
use super::{dist, epmd};

/// identify: an address, at this rank; inspect, authorize and relay: by role; then account.
pub(super) async fn walk(stream: TcpStream, session: Session, context: Arc<Context>) {
    let begun = Instant::now();
    let outcome = match session.role {
        Role::Epmd => epmd::serve(stream, &session, &context).await,
        Role::Dist => dist::serve(stream, &session, &context).await,
    };
    account(&context, &session, &outcome, begun);
    drop(session.slot);
}
