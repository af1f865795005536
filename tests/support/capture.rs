//! What goes from host to host, seen on the switch.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::daemon::{Daemon, Signal};
use super::eventually::eventually;
use super::host::Host;
use super::lab::{Lab, run_with_input};

/// For tcpdump to begin, and to end.
const SOON: Duration = Duration::from_secs(30);
/// What is in the last packet.
const LAST: &str = "the last packet of this capture";

/// A capture of all packets between the hosts of a lab. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    daemon: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Begins to capture.
    ///
    /// # Panics
    ///
    /// When tcpdump does not start.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, name: &str) -> Self {
        let file = lab.dir().join(format!("{name}.pcap"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.switch(), "env", "--default-signal", "tcpdump"]);
        // On the bridge's ports, not on the bridge, which sees only what is for itself. Unbuffered, whole packets, and with
        // room for those that come while the disk is slow.
        command.args(["-i", "any", "-n", "-U", "-s", "0", "-B", "65536", "-Z", "root", "-w"]).arg(&file);
        let daemon = Daemon::spawn(format!("tcpdump {name}"), command);
        daemon.wait_line("tcpdump listens", SOON, |line| line.contains("listening on"));
        Self { daemon, file }
    }

    /// Ends it, and gives all that was captured, up to a last packet from one host to another, which is waited for: tcpdump
    /// forgets what it has not looked at when it is told to end.
    ///
    /// # Panics
    ///
    /// When packets were lost, or there is no file.
    #[must_use]
    #[track_caller]
    pub fn finish(self, from: &Host, to: &Host) -> Captured {
        let discard = SocketAddr::from((to.v4(), 9));
        let say = || UdpSocket::bind("0.0.0.0:0")?.send_to(LAST.as_bytes(), discard);
        from.inside(say).unwrap_or_else(|error| panic!("sending to {discard}: {error}"));
        eventually("tcpdump has seen the last packet", SOON, || {
            let bytes = fs::read(&self.file).unwrap_or_default();
            !found(&bytes, &[LAST]).is_empty()
        });
        self.daemon.signal(Signal::INT);
        self.daemon.wait_exit(SOON);
        let said = self.daemon.lines();
        let is_whole = said.iter().any(|line| line == "0 packets dropped by kernel");
        assert!(is_whole, "the capture is not whole: {said:?}");
        let bytes = fs::read(&self.file);
        let bytes = bytes.unwrap_or_else(|error| panic!("reading {}: {error}", self.file.display()));
        Captured { bytes, file: self.file }
    }
}

/// What was captured.
#[derive(Debug)]
pub struct Captured {
    /// All of it.
    pub bytes: Vec<u8>,
    file: PathBuf,
}

impl Captured {
    /// The packets that fit, by pcap-filter(7), as tcpdump shows them.
    ///
    /// # Panics
    ///
    /// When tcpdump cannot read it.
    #[must_use]
    #[track_caller]
    pub fn packets(&self, filter: &str) -> Vec<String> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-Z", "root", "-r"]).arg(&self.file).arg(filter);
        let said = run_with_input(&mut command, "").unwrap_or_else(|error| panic!("tcpdump: {error}"));
        said.lines().map(str::to_owned).collect()
    }
}

/// Which of these texts are in the bytes.
#[must_use]
pub fn found<'a>(bytes: &[u8], texts: &[&'a str]) -> Vec<&'a str> {
    let holds = |text: &&&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    texts.iter().filter(holds).copied().collect()
}
