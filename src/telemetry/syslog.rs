//! The system's log, as syslog(3) writes to it: one datagram a line (RFC 3164).

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Facility `daemon`, severity `warning`: what goes here is never less than that.
const PRIORITY: u8 = 3 * 8 + 4;
/// What every log takes; the rest of a longer line is lost.
const LONGEST: usize = 8 * 1024;

/// A connection to it, made anew for each line where there is none: the log may be started after us, or anew.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn open(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), socket: None }
    }

    /// A log that is stuck loses the line; nobody waits for it.
    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

impl Write for Syslog {
    /// One line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut datagram = format!("<{PRIORITY}>epmd[{}]: ", std::process::id()).into_bytes();
        datagram.extend_from_slice(line.trim_ascii_end());
        datagram.truncate(LONGEST);
        if let Some(socket) = &self.socket
            && socket.send(&datagram).is_ok()
        {
            return Ok(line.len());
        }
        let socket = self.connect()?;
        socket.send(&datagram)?;
        self.socket = Some(socket);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_datagram_also_to_a_log_that_comes_later_or_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut syslog = Syslog::open(&path);
        assert!(syslog.write_all(b"nobody listens\n").is_err());
        for round in 0..2 {
            let log = UnixDatagram::bind(&path).unwrap();
            let line = format!("WARN round {round}\n");
            syslog.write_all(line.as_bytes()).unwrap();
            let mut buffer = [0; 200];
            let count = log.recv(&mut buffer).unwrap();
            let told = String::from_utf8_lossy(&buffer[..count]).into_owned();
            assert_eq!(told, format!("<28>epmd[{}]: WARN round {round}", std::process::id()));
            std::fs::remove_file(&path).unwrap();
        }
        let log = UnixDatagram::bind(&path).unwrap();
        syslog.write_all(&[b'x'; 3 * LONGEST]).unwrap();
        assert_eq!(log.recv(&mut [0; 4 * LONGEST]).unwrap(), LONGEST);
    }

    #[test]
    fn a_log_that_nobody_reads_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let _log = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::open(&path);
        assert!((0..10_000).any(|_| syslog.write_all(b"line\n").is_err()));
    }
}
