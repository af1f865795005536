//! A link to a distribution port.

use tokio::net::TcpStream;

use super::close::{CloseReason, Outcome};
use super::connection::Session;
use super::context::Context;

/// Connects the peer to the port of the same number behind us and carries the bytes.
pub(super) async fn serve(stream: TcpStream, session: &Session, context: &Context) -> Outcome {
    let port = session.arrival.local.port();
    let asked = format!("port {port}");
    let permit = match context.policy().authorize_link(&session.admission, port) {
        Ok(permit) => permit,
        Err(denial) => return Outcome::from(CloseReason::Refused(denial)).asked(asked),
    };
    let upstream = match context.dialer.dial(&permit).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let why = crate::telemetry::describe(&error);
            return Outcome::from(CloseReason::BackendDown).asked(asked).detail(why);
        }
    };
    tracing::info!(
        id = session.id, role = %session.role, peer = %session.arrival.peer,
        listener = %session.arrival.local, "link_opened"
    );
    let relayed = context.relay.run(stream, upstream, context.stop.cancelled()).await;
    Outcome::from(CloseReason::from(relayed.ended)).asked(asked).moved(relayed.bytes_up, relayed.bytes_down)
}
