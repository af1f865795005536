//! `[admin]`

use std::net::SocketAddr;
use std::path::PathBuf;

use super::limits::count;
use super::path::{self, Wanted};
use super::{Key, LOOPBACKS, address, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, WrittenAdmin};
use crate::config::text::quoted;
use crate::config::{Admin, Epmd, EpmdBackend, ListenOn};

const SOCKET: Key = Key("admin", "socket");
const GROUP: Key = Key("admin", "group");
const LISTEN: Key = Key("admin", "listen");
const RELOAD_MAY_CUT: Key = Key("admin", "reload_may_cut");

/// Where the socket is unless the file says otherwise.
const DEFAULT_SOCKET: &str = "/run/epmd-guard/admin.sock";
/// `sun_path` has 108 bytes, the last of which ends it (unix(7)).
const PATH: Wanted = Wanted {
    example: DEFAULT_SOCKET,
    longest: 107,
    too_long: "is longer than the 107 bytes that a Unix socket takes",
};
/// Directories of a whole company have longer names than groupadd(8) lets pass, but none has longer ones.
const LONGEST_GROUP: usize = 256;

pub(super) fn build(written: &WrittenAdmin<'_>, epmd: &Epmd, problems: &mut Problems) -> Admin {
    let socket = match &written.socket {
        None => Some(DEFAULT_SOCKET.into()),
        Some(word) => socket(word, problems),
    };
    let group = written.group.as_ref().and_then(|word| group(word, problems));
    if let Some(word) = written.group.as_ref().filter(|_| group.is_some())
        && written.socket.as_ref().is_some_and(|socket| socket.get_ref().is_empty())
    {
        let message = format!("{GROUP}: has no effect: [admin] socket is empty, so there is none to use");
        problems.push(Problem::warning(word.span(), message));
    }
    let listen = match &written.listen {
        None => Vec::new(),
        Some(words) => each(LISTEN, words, problems, address::loopback),
    };
    for (addr, span) in &listen {
        if let Some(taken) = taken(*addr, epmd) {
            let message = format!("{LISTEN}: {addr} is {taken} too");
            problems.push(Problem::error(span.clone(), message).with_help("write another port"));
        }
    }
    let may_cut = count(RELOAD_MAY_CUT, written.reload_may_cut.as_ref(), 0..=u32::MAX, problems);
    Admin {
        socket,
        group,
        listen: listen.into_iter().map(|(addr, _)| addr).collect(),
        reload_may_cut: may_cut.unwrap_or(0),
    }
}

fn socket(word: &Word<'_>, problems: &mut Problems) -> Option<PathBuf> {
    if word.get_ref().is_empty() {
        return None;
    }
    path::read(SOCKET, word, PATH).map_err(|problem| problems.push(problem)).ok()
}

/// Whether there is such a group is seen where the socket is made. A directory may call its groups as it likes,
/// `domain admins` or `ops@example.org`; what group(5) cannot hold and a path are mistakes.
fn group(word: &Word<'_>, problems: &mut Problems) -> Option<String> {
    let text = *word.get_ref();
    if text.is_empty() {
        return None;
    }
    let possible = !text.chars().any(|char| char.is_control() || "/:".contains(char));
    let number = text.bytes().all(|b| b.is_ascii_digit());
    if possible && !number && text.len() <= LONGEST_GROUP {
        return Some(text.to_owned());
    }
    let help = if number { "write the group's name, not its number" } else { "write a name such as \"adm\"" };
    let message = format!("{GROUP}: {} is no name of a group", quoted(text));
    problems.push(Problem::error(word.span(), message).with_help(help));
    None
}

/// What of epmd's stands at the same address and port.
fn taken(addr: SocketAddr, epmd: &Epmd) -> Option<&'static str> {
    if epmd.backend.addr() == Some(addr) {
        Some("[epmd] backend")
    } else if epmd.listen.contains(&(ListenOn::Ip(addr.ip()), addr.port())) {
        Some("in [epmd] listen")
    } else if is_embedded_epmds(addr, epmd) {
        Some("where the embedded epmd listens")
    } else {
        None
    }
}

/// Nodes register at 127.0.0.1 and ::1, wherever peers ask.
fn is_embedded_epmds(addr: SocketAddr, epmd: &Epmd) -> bool {
    epmd.backend == EpmdBackend::Embedded
        && LOOPBACKS.contains(&addr.ip())
        && epmd.self_at.covers(addr.ip())
        && epmd.listen.iter().any(|(_, port)| *port == addr.port())
}
