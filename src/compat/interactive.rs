//! What `epmd -names` and the like ask the running epmd, and what they print of its answer (`epmd_cli.c`, and measured
//! on OTP 25).
//!
//! Nothing of the answer is printed but what was decoded and is encoded anew, so that a registered name gives no orders
//! to the terminal and forges no line. epmd prints every byte and waits for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpStream;

use super::arguments::Question;
use crate::policy::Policy;
use crate::proto::epmd::{DumpReply, NamesReply, ReplyFault, Request, StopReply};
use crate::session::{MAX_ANSWER, ask as exchange};
use crate::transport::{Backends, Dialer};

/// For each of the two addresses. Loopback lets a dial wait only when the queue of the one who listens is full.
const DIAL: Duration = Duration::from_secs(5);
/// For the whole answer: as long as OTP's nodes wait for each part of one (`erl_epmd`).
const ANSWER: Duration = Duration::from_secs(10);
/// The longest name that epmd sends in STOP, in bytes.
const MAX_STOP: usize = 1000;

/// What is printed, and how it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// For standard output.
    pub out: Vec<u8>,
    /// For standard error.
    pub err: String,
    /// The exit code.
    pub code: ExitCode,
}

/// Asks the epmd that listens on `port` of loopback: ::1, and 127.0.0.1 where nobody is there.
pub async fn ask(question: &Question, port: u16) -> Said {
    let request = match question {
        Question::Names | Question::Started => Request::Names.encode(),
        Question::Dump => Request::Dump.encode(),
        Question::Kill => Request::Kill.encode(),
        Question::Stop(name) => match stop_request(name) {
            Some(request) => request,
            // epmd's line has no end either.
            None => return Said::failed("epmd: Name too long!"),
        },
    };
    let quiet = *question == Question::Started;
    let Some(stream) = reach(port).await else {
        let err = if quiet { "" } else { "epmd: Cannot connect to local epmd\n" };
        return Said { out: Vec::new(), err: err.to_owned(), code: ExitCode::FAILURE };
    };
    let answer = exchange(stream, &request, ANSWER, MAX_ANSWER).await.ok();
    match question {
        Question::Names => names(answer.as_deref().unwrap_or_default()),
        Question::Dump => dump(answer.as_deref().unwrap_or_default()),
        Question::Started => match NamesReply::decode(answer.as_deref().unwrap_or_default()) {
            Ok(_) => Said::done(Vec::new()),
            Err(_) => Said::failed(""),
        },
        Question::Kill => killed(answer.as_deref()),
        Question::Stop(_) => stopped(answer.as_deref()),
    }
}

async fn reach(port: u16) -> Option<TcpStream> {
    for ip in [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()] {
        let epmd = SocketAddr::new(ip, port);
        let dialer = Dialer::new(Backends { epmd: Some(epmd), dist: Vec::new(), forwards: Vec::new() }, DIAL);
        if let Ok(stream) = dialer.run_errand(&Policy::own_errand(epmd)).await {
            return Some(stream);
        }
    }
    None
}

/// STOP with any bytes for a name, which [`Request::Stop`] does not take; none if there are too many.
fn stop_request(name: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(name.len() + 1).ok().filter(|_| name.len() <= MAX_STOP)?;
    Some([&length.to_be_bytes(), &b"s"[..], name].concat())
}

fn names(answer: &[u8]) -> Said {
    match NamesReply::decode(answer) {
        Ok(reply) => Said::listing(reply.epmd_port, &reply.encode(), reply.skipped),
        Err(fault) => no_response(fault),
    }
}

fn dump(answer: &[u8]) -> Said {
    match DumpReply::decode(answer) {
        // With the NUL behind each line, which epmd prints too.
        Ok(reply) => Said::listing(reply.epmd_port, &reply.encode(), reply.skipped),
        Err(fault) => no_response(fault),
    }
}

/// Whatever is wrong with the answer, epmd says the same.
fn no_response(_: ReplyFault) -> Said {
    Said::failed("epmd: no response from local epmd\n")
}

fn killed(answer: Option<&[u8]>) -> Said {
    match answer {
        None => unread(),
        Some([b'O', b'K', ..]) => Said::done(b"Killed\n".to_vec()),
        Some([_, _, ..]) => Said::failed("Killing not allowed - living nodes in database.\n"),
        Some([] | [_]) => cut_short(),
    }
}

fn stopped(answer: Option<&[u8]>) -> Said {
    match answer.map(StopReply::decode) {
        None => unread(),
        Some(Ok(StopReply::Stopped)) => Said::done(b"STOPPED\n".to_vec()),
        Some(Ok(StopReply::NoExist)) => Said::done(b"NOEXIST\n".to_vec()),
        Some(Err(_)) => cut_short(),
    }
}

fn unread() -> Said {
    Said::failed("epmd: failed to read answer from local epmd\n")
}

/// epmd means to print what it got, and always prints nothing between the brackets.
fn cut_short() -> Said {
    Said::failed("epmd: local epmd responded with <>\n")
}

impl Said {
    fn done(out: Vec<u8>) -> Self {
        Self { out, err: String::new(), code: ExitCode::SUCCESS }
    }

    /// epmd complains on standard output, but for a dial that failed.
    fn failed(out: &str) -> Self {
        Self { out: out.as_bytes().to_vec(), err: String::new(), code: ExitCode::FAILURE }
    }

    /// The lines of an answer that begins with the port, and how many were left out.
    fn listing(port: u32, answer: &[u8], skipped: usize) -> Self {
        // epmd prints the port with its sign.
        let head = format!("epmd: up and running on port {} with data:\n", port.cast_signed());
        let (_, lines) = answer.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let mut said = Self::done([head.as_bytes(), lines].concat());
        if skipped > 0 {
            said.err = format!("epmd: left out, since no node has such a name or port: {skipped}\n");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Listener;

    fn out(said: &Said) -> String {
        String::from_utf8(said.out.clone()).unwrap()
    }

    #[test]
    fn names_and_dump_print_what_epmd_prints() {
        let said = names(b"\0\0\x11\x11name b at port 9101\nname a at port 9100\n");
        let expected =
            "epmd: up and running on port 4369 with data:\nname b at port 9101\nname a at port 9100\n";
        assert_eq!(said, Said::done(expected.into()));
        let said = dump(
            b"\0\0\x11\x11active name     <a> at port 9100, fd = 6\n\0old/unused name <b>, port = 9101, fd = 7 \n\0",
        );
        let expected = "epmd: up and running on port 4369 with data:\n\
                        active name     <a> at port 9100, fd = 6\n\0old/unused name <b>, port = 9101, fd = 7 \n\0";
        assert_eq!(said, Said::done(expected.into()));
        assert_eq!(
            out(&names(b"\xff\xff\xff\xff")),
            "epmd: up and running on port -1 with data:\n",
            "a signed number, as with epmd"
        );
    }

    #[test]
    fn nothing_in_a_name_gives_orders_to_the_terminal_or_forges_a_line() {
        let said = names(
            b"\0\0\x11\x11name \x1b[2J at port 9101\nanything\rname a at port 9100\nname a at port 1\n",
        );
        assert_eq!(out(&said), "epmd: up and running on port 4369 with data:\nname a at port 1\n");
        assert!(said.err.contains(": 2\n"), "{}", said.err);
        let forged = b"\0\0\x11\x11active name     <x> at port 1, fd = 2\n\0active name     <a> at port 1, fd = 2\nb> at port 9, fd = 6\n\0";
        let said = dump(forged);
        assert_eq!(
            out(&said),
            "epmd: up and running on port 4369 with data:\nactive name     <x> at port 1, fd = 2\n\0"
        );
        assert!(said.err.contains(": 1\n"), "{}", said.err);
        assert_eq!(out(&stopped(Some(b"\x1b[2J\x1b[2"))), "epmd: local epmd responded with <>\n");
    }

    #[test]
    fn an_answer_that_is_none_is_told_as_epmd_tells_it() {
        for answer in [&b""[..], b"OK", b"\0\0\0"] {
            let said = Said::failed("epmd: no response from local epmd\n");
            assert_eq!(names(answer), said);
            assert_eq!(dump(answer), said);
        }
        for answer in [&b""[..], b"O"] {
            assert_eq!(out(&killed(Some(answer))), "epmd: local epmd responded with <>\n");
            assert_eq!(out(&stopped(Some(answer))), "epmd: local epmd responded with <>\n");
        }
        assert_eq!(out(&killed(None)), "epmd: failed to read answer from local epmd\n");
        assert_eq!(out(&stopped(None)), "epmd: failed to read answer from local epmd\n");
        assert_eq!(killed(Some(b"OK")), Said::done(b"Killed\n".to_vec()));
        assert_eq!(killed(Some(b"NO")).code, ExitCode::FAILURE);
        assert_eq!(stopped(Some(b"NOEXISTSTOPPED")), Said::done(b"NOEXIST\n".to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_question_and_says_nothing_is_waited_for_for_ten_seconds() {
        let mut silent = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = silent.local_addr().port();
        let hold = async {
            let _held = silent.accept().await;
            std::future::pending::<()>().await;
        };
        let began = tokio::time::Instant::now();
        let said = tokio::select! {
            said = ask(&Question::Names, port) => said,
            () = hold => unreachable!(),
        };
        assert_eq!(out(&said), "epmd: no response from local epmd\n");
        let waited = began.elapsed();
        assert!((ANSWER..ANSWER + DIAL).contains(&waited), "{waited:?}");
    }

    #[test]
    fn a_name_that_no_node_has_can_be_thrown_out_too() {
        assert_eq!(stop_request(b"a\nb").unwrap(), b"\0\x04sa\nb");
        assert_eq!(stop_request(b"").unwrap(), b"\0\x01s");
        assert_eq!(stop_request(&[b'a'; 1000]).unwrap().len(), 1003);
        assert_eq!(stop_request(&[b'a'; 1001]), None);
    }
}
