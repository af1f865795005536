//! The listening sockets as the kernel tells them over netlink (sock_diag(7)): it goes through its
//! table of listening sockets and no other.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::Listening;

/// The state of a connection that is open both ways (`TCP_ESTABLISHED`).
const ESTABLISHED: u8 = 1;
/// More than the kernel puts into one datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// All listening TCP sockets of this network namespace.
///
/// # Errors
/// The kernel has no `sock_diag`, or does not let us ask.
pub(super) fn listening() -> io::Result<Vec<Listening>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        socket.send(&request(family, StateFlags::LISTEN, (any, NLM_F_REQUEST | NLM_F_DUMP)), 0)?;
        while !receive(&socket, &mut found)? {}
    }
    Ok(found)
}

/// The user of one connected TCP socket.
///
/// # Errors
/// There is no such socket, the kernel has no `sock_diag`, or does not let us ask.
pub(super) fn owner(source: SocketAddr, destination: SocketAddr) -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let family = if source.is_ipv4() { AF_INET } else { AF_INET6 };
    let socket_id = SocketId {
        source_port: source.port(),
        destination_port: destination.port(),
        source_address: source.ip(),
        destination_address: destination.ip(),
        interface_id: 0,
        // INET_DIAG_NOCOOKIE: whichever socket it is.
        cookie: [0xff; 8],
    };
    socket.send(&request(family, StateFlags::all(), (socket_id, NLM_F_REQUEST)), 0)?;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut datagram, 0)?;
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(&datagram).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = message.payload {
        return Err(error.to_io());
    }
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload else {
        return Err(io::Error::other("an answer of another kind"));
    };
    // Of what a process has closed the kernel says that it is root's.
    if response.header.state != ESTABLISHED || response.header.inode == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the connection is closed at its own end"));
    }
    Ok(response.header.uid)
}

fn request(family: u8, states: StateFlags, (socket_id, flags): (SocketId, u16)) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let question =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(question).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of the answer; `true` when it was the last.
fn receive(socket: &Socket, found: &mut Vec<Listening>) -> io::Result<bool> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut datagram, 0)?;
    let mut rest = datagram.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
        // Messages are padded to four bytes; none is empty, or this would not end.
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4).max(4);
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            return Err(io::Error::other("the table changed while it was told"));
        }
        if let NetlinkPayload::Done(done) = message.payload {
            // How a dump fails, for instance where the kernel cannot load tcp_diag.
            return if done.code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-done.code)) };
        }
        if let NetlinkPayload::Error(error) = message.payload {
            return Err(error.to_io());
        }
        if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload {
            found.push(read(&response));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn read(response: &InetResponse) -> Listening {
    let id = &response.header.socket_id;
    Listening {
        addr: SocketAddr::new(id.source_address, id.source_port),
        uid: response.header.uid,
        inode: response.header.inode.into(),
        only_v6: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
    }
}
