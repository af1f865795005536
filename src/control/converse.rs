//! Asking an epmd on an errand of our own: this host's, or a peer's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::policy::Policy;
use crate::proto::epmd::Request;
use crate::session::{QuestionError, ask};
use crate::transport::{DialError, Dialer};

/// Why an epmd gave no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It, or the guard before it, reset the connection.
    Reset,
    /// The answer went on and on.
    TooLong,
    /// It could not be reached, or did not answer in time.
    Silent,
}

/// Asks `request` of the epmd at `epmd`, for `patience` at most, and takes `most` bytes for an answer.
pub(super) async fn converse(
    epmd: SocketAddr,
    request: Request<'_>,
    dialer: &Dialer,
    (patience, most): (Duration, u64),
) -> Result<Vec<u8>, NoAnswer> {
    let errand = Policy::own_errand(epmd);
    let conversation = async {
        let stream = dialer.run_errand(&errand).await?;
        Ok(ask(stream, &request.encode(), patience, most).await?)
    };
    tokio::time::timeout(patience, conversation).await.unwrap_or(Err(NoAnswer::Silent))
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
            Self::Reset
        } else {
            Self::Silent
        }
    }
}

impl From<DialError> for NoAnswer {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Connect { source, .. } => source.into(),
            DialError::TimedOut { .. } | DialError::NoBackend | DialError::Leg(_) => Self::Silent,
        }
    }
}

impl From<QuestionError> for NoAnswer {
    fn from(error: QuestionError) -> Self {
        match error {
            QuestionError::Io(error) => error.into(),
            QuestionError::TooLong(_) => Self::TooLong,
            QuestionError::TimedOut(_) => Self::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::transport::{Backends, Listener, answer_and_close, reset};

    /// What comes of asking somebody who does this when it is asked.
    async fn asked<F: Future<Output = ()>>(
        answers: impl FnOnce(TcpStream) -> F,
    ) -> Result<Vec<u8>, NoAnswer> {
        let mut epmd = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (addr, patience) = (epmd.local_addr(), Duration::from_secs(5));
        let dialer =
            Dialer::new(Backends { epmd: Some(addr), dist: Vec::new(), forwards: Vec::new() }, patience);
        let serve = async {
            let stream = epmd.accept().await.stream;
            answers(stream).await;
            std::future::pending().await
        };
        tokio::select! {
            answer = converse(addr, Request::Names, &dialer, (patience, 1000)) => answer,
            () = serve => unreachable!(),
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_not_taken_in() {
        let endless =
            |mut stream: TcpStream| async move { while stream.write_all(&[0; 1 << 16]).await.is_ok() {} };
        assert!(matches!(asked(endless).await, Err(NoAnswer::TooLong)));
    }

    #[tokio::test]
    async fn an_answer_a_reset_and_an_end_without_a_word_are_told_apart() {
        // A close over a question that is not read would be a reset.
        let answer = |stream: TcpStream| async move {
            answer_and_close(stream, b"\0\0\x11\x11", Duration::from_secs(5)).await.unwrap();
        };
        assert!(matches!(asked(answer).await, Ok(names) if names == b"\0\0\x11\x11"));
        let refusal = |stream: TcpStream| async move { reset(&stream) };
        assert!(matches!(asked(refusal).await, Err(NoAnswer::Reset)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_waited_for_as_long_as_was_said() {
        let silence = |stream: TcpStream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        };
        assert!(matches!(asked(silence).await, Err(NoAnswer::Silent)));
    }
}
