//! The walk of one admitted connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::account::account;
use super::connection::Session;
use super::context::Context;
use super::{dist, epmd};
use crate::policy::Role;

/// identify: an address, at this rank; inspect, authorize and relay: by role; then account.
pub(super) async fn walk(stream: TcpStream, session: Session, context: Arc<Context>) {
    let begun = Instant::now();
    pause(context.habits.delay_accept).await;
    let outcome = match session.role {
        Role::Epmd => epmd::serve(stream, &session, &context).await,
        Role::Dist => dist::serve(stream, &session, &context).await,
    };
    account(&context, &session, &outcome, begun);
    drop(session.slot);
}

/// A test aid; see [`Habits`](super::context::Habits).
pub(super) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
