//! The walk of one admitted connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::account::account;
use super::connection::Session;
use super::context::Context;
use super::{dist, epmd, forward, tunnel};
use crate::policy::Role;

/// identify: an address, at this rank; inspect, authorize and relay: by role; then account.
pub(super) async fn walk(stream: TcpStream, session: Session, context: Arc<Context>) {
    let mut session = session;
    let begun = Instant::now();
    pause(context.habits.delay_accept).await;
    // On the heap, since a task is moved about ten times until it runs and when it has, and these are 5 KiB.
    let outcome = match session.role {
        Role::Epmd => Box::pin(epmd::serve(stream, &session, &context)).await,
        Role::Dist => Box::pin(dist::serve(stream.into(), &session, &context)).await,
        Role::Tunnel => Box::pin(tunnel::serve(stream, &mut session, &context)).await,
        Role::DistTls | Role::Tcp => Box::pin(forward::serve(stream.into(), &session, &context)).await,
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
