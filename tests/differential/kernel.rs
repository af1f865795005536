//! Whether a program has read what was sent to it, by the kernel's word (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// Asks about connections of the network namespace that it was made in.
pub(crate) struct Kernel(Socket);

impl Kernel {
    pub(crate) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// How many bytes wait in the server's end of a connection over 127.0.0.1; `None` if it has closed.
    pub(crate) fn unread(&self, server: u16, client: u16) -> io::Result<Option<u32>> {
        /// TCP_ESTABLISHED and TCP_CLOSE_WAIT (include/net/tcp_states.h): the server has not closed.
        const OPEN: [u8; 2] = [1, 8];
        self.0.send(&request(server, client), 0)?;
        let mut datagram = Vec::with_capacity(4096);
        self.0.recv(&mut datagram, 0)?;
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(&datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let header = response.header;
                Ok(OPEN.contains(&header.state).then_some(header.recv_queue))
            }
            // No such connection (ENOENT).
            _ => Ok(None),
        }
    }
}

fn request(server: u16, client: u16) -> Vec<u8> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let socket_id = SocketId {
        source_port: server,
        destination_port: client,
        source_address: loopback,
        destination_address: loopback,
        // INET_DIAG_NOCOOKIE: whichever it is.
        cookie: [0xff; 8],
        ..SocketId::new_v4()
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let question = InetRequest {
        family: AF_INET,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(question).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn bytes_wait_until_they_are_read_and_a_closed_connection_has_none() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ports = (listener.local_addr().unwrap().port(), client.local_addr().unwrap().port());
        let kernel = Kernel::new().unwrap();
        let unread = || kernel.unread(ports.0, ports.1).unwrap();
        client.write_all(b"abc").unwrap();
        // Before it is accepted too.
        assert_eq!(unread(), Some(3));
        let mut server = listener.accept().unwrap().0;
        assert_eq!(unread(), Some(3));
        server.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(unread(), Some(1));
        server.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(unread(), Some(0));
        drop(server);
        assert_eq!(unread(), None);
    }
}
