//! Two ends in memory, with certificates of their own making.

mod authority;
mod files;
mod handshakes;
mod hostile;
mod in_force;
mod refusals;
mod revocation;
mod traffic;

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use super::*;

/// The protocol of these tests.
const ALPN: &[u8] = b"test/1";

/// Two ends and what is on its way between them.
struct Pair {
    client: TlsEnd,
    server: TlsEnd,
    to_client: Block,
    to_server: Block,
}

/// Which end has found what.
type Failed = (&'static str, TlsFault);

impl Pair {
    fn new(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Self {
        let (client, server) = (TlsEnd::client(client).unwrap(), TlsEnd::server(server).unwrap());
        Self { client, server, to_client: Block::default(), to_server: Block::default() }
    }

    /// Both go on until both are ready.
    fn shake_hands(&mut self) -> Result<(), Failed> {
        for _ in 0..8 {
            let client = self.client.advance(&mut self.to_client, &mut self.to_server);
            let client = client.map_err(|fault| ("client", fault))?;
            let server = self.server.advance(&mut self.to_server, &mut self.to_client);
            let server = server.map_err(|fault| ("server", fault))?;
            if (client, server) == (Stage::Ready, Stage::Ready) {
                return Ok(());
            }
        }
        panic!("no end");
    }
}

/// The handshake takes place on the day of the tests.
fn clocked(host: &authority::Host) -> Credentials {
    host.credentials().with_clock(authority::at(authority::TODAY))
}

/// All that an end makes of what came for it.
fn open(end: &mut TlsEnd, incoming: &mut Block) -> Result<(Vec<u8>, Ending), TlsFault> {
    let mut data = Vec::new();
    let opened = end.open(incoming.filled_mut(), |piece| data.extend_from_slice(piece))?;
    incoming.consume(opened.discard);
    Ok((data, opened.ending))
}
