//! One exchange with an epmd: our own request out, its whole answer back.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer that is read. epmd holds about 1,019 names of 1,020 bytes at most, so that its NAMES is never
/// longer than 1.1 MB and its DUMP than 2.3 MB; those of a guard are never longer than 4 MiB and 6 MiB
/// ([`Registry`](crate::registry::Registry)).
pub const MAX_ANSWER: u64 = 8 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// The connection failed.
    #[error("talking to epmd failed")]
    Io(#[from] std::io::Error),
    /// The answer was not whole at the deadline.
    #[error("epmd did not answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The answer is longer than epmd can make one.
    #[error("epmd's answer is longer than {0} bytes")]
    TooLong(u64),
}

/// Sends `request` and reads until epmd closes, `most` bytes at most.
///
/// # Errors
/// See [`QuestionError`].
pub async fn ask(
    mut upstream: TcpStream,
    request: &[u8],
    timeout: Duration,
    most: u64,
) -> Result<Vec<u8>, QuestionError> {
    let exchange = async {
        upstream.write_all(request).await?;
        let mut answer = Vec::new();
        (&mut upstream).take(most.saturating_add(1)).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer =
        tokio::time::timeout(timeout, exchange).await.map_err(|_| QuestionError::TimedOut(timeout))??;
    if u64::try_from(answer.len()).is_ok_and(|length| length > most) {
        return Err(QuestionError::TooLong(most));
    }
    Ok(answer)
}
