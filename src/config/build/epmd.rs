//! `[epmd]`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use super::{Key, address, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, WrittenEpmd};
use crate::config::text::quoted;
use crate::config::{Epmd, ListenOn};
use crate::proto::epmd::DEFAULT_PORT;

const LISTEN: Key = Key("epmd", "listen");
const BACKEND: Key = Key("epmd", "backend");

pub(super) fn build(written: &WrittenEpmd<'_>, problems: &mut Problems) -> Epmd {
    let listen = match &written.listen {
        None => vec![((ListenOn::Everywhere, DEFAULT_PORT), 0..0)],
        Some(words) => each(LISTEN, words, problems, |text| {
            address::listen(text).map(|(on, port)| (on, port.unwrap_or(DEFAULT_PORT)))
        }),
    };
    let backend = written.backend.as_ref().and_then(|word| backend(word, problems));
    let backend = backend.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT));
    report_dialling_itself(&listen, backend, problems);
    Epmd { listen: listen.into_iter().map(|(place, _)| place).collect(), backend }
}

fn backend(word: &Word<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let text = *word.get_ref();
    if text == "embedded" {
        let message = format!("{BACKEND}: \"embedded\" is not available in this version");
        let help = "this version stands in front of an epmd: give its address, such as \"127.0.0.1:4369\"";
        problems.push(Problem::error(word.span(), message).with_help(help));
        return None;
    }
    match address::dial(text) {
        Err(fault) => {
            problems.push(fault.at(BACKEND, word));
            None
        }
        Ok((ip, port)) => {
            report_open_backend(BACKEND, ip, word, problems);
            Some(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT)))
        }
    }
}

/// A backend that is not on loopback has an address of its own, which no guard stands in front of.
pub(super) fn report_open_backend(key: Key, ip: IpAddr, word: &Word<'_>, problems: &mut Problems) {
    if !ip.is_loopback() {
        let text = quoted(word.get_ref());
        let message = format!("{key}: {text} is not loopback, so it can be reached around the guard");
        problems.push(Problem::warning(word.span(), message).with_help("let it listen on 127.0.0.1 only"));
    }
}

fn report_dialling_itself(
    listen: &[((ListenOn, u16), Range<usize>)],
    backend: SocketAddr,
    problems: &mut Problems,
) {
    for ((on, port), span) in listen {
        if *on == ListenOn::Ip(backend.ip()) && *port == backend.port() {
            let message = format!("{LISTEN}: {backend} is [epmd] backend too: the guard would dial itself");
            let help = "listen where peers reach this host, and let epmd listen on 127.0.0.1";
            problems.push(Problem::error(span.clone(), message).with_help(help));
        }
    }
}
