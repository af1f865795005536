//! A real ejabberd, Debian's, commanded as an operator commands it: with ejabberdctl.
//!
//! What is special about it:
//! - ejabberdctl runs as user `ejabberd` here, not as root. As root it would use `su`, which sets HOME to the
//!   user's own (/var/lib/ejabberd), and the cookie there is the machine's, not the test's.
//! - Its directories are its own, because `--config-dir` and the rest default to the machine's: two hosts of
//!   the lab would share one Mnesia directory. HOME is one of them: the cookie comes from
//!   `$HOME/.erlang.cookie` only.
//! - `ERL_INETRC` is set to `inetrc` in the configuration directory, so there must be one. An empty one
//!   leaves names to the system's resolver; Debian's own sends lookups to the file first.
//! - Each ejabberdctl is a hidden node `abc-ctl-ejabberd@h1.test` that dials `h1.test`, that is the host's
//!   outside address, not loopback: without a relay (or the guard) on 4369 and the node's port no command
//!   works, `started` and `stop` neither. It takes a port of FIREWALL_WINDOW too.
//! - It starts two VMs (one only to read an address), hence half a second for each command; `stopped` sleeps
//!   2 s before each look, so stopping takes 4 s.
//! - Its nodes are detached and epmd is a daemon: nobody's children, which only the lab can end.
//! - `start` exits with 0 before anything has started, whatever comes of it: only the log and `status` tell.
//! - It looks for other nodes with pgrep, which sees the processes of all hosts of the lab, because only
//!   networks are apart here. That matters only to a start whose name is still registered.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::daemon::Daemon;
use super::eventually::eventually;
use super::host::{self, Host};
use super::lab;

/// Debian's user; ejabberdctl refuses all but this one and root.
const USER: &str = "ejabberd";
/// Not in the PATH of everybody.
const CTL: &str = "/usr/sbin/ejabberdctl";
/// Three that start side by side take 4 s on two processors, and joining a cluster takes 5 s: a generous
/// bound, not a measure.
const PATIENCE: Duration = Duration::from_secs(120);
/// What ejabberd logs when all of it has started.
const STARTED: &str = "is started in the node";

/// How an ejabberd is to be started; see [`Ejabberd::configure`].
#[derive(Clone, Debug)]
pub struct EjabberdBuilder {
    host: Host,
    cookie: String,
    port: String,
    settings: String,
    inetrc: String,
    interface: &'static str,
    options: String,
}

impl EjabberdBuilder {
    /// The cookie; `secret` if nobody says otherwise.
    #[must_use]
    pub fn cookie(mut self, cookie: &str) -> Self {
        cookie.clone_into(&mut self.cookie);
        self
    }

    /// Distribution ports that the kernel chooses, as without any setting.
    #[must_use]
    pub fn random_ports(mut self) -> Self {
        "# FIREWALL_WINDOW is not set.".clone_into(&mut self.port);
        self
    }

    /// No epmd: this node, and all that it dials, listen on this port (`ERL_DIST_PORT`).
    #[must_use]
    pub fn single_port(mut self, port: u16) -> Self {
        self.port = format!("ERL_DIST_PORT={port}");
        self
    }

    /// Distribution over IPv6, on ::1.
    #[must_use]
    pub fn inet6(mut self) -> Self {
        self.interface = "::1";
        self.options.push_str(" -proto_dist inet6_tcp");
        self
    }

    /// What `conf/inetrc` says, by which the VM alone finds hosts.
    #[must_use]
    pub fn inetrc(mut self, text: &str) -> Self {
        text.clone_into(&mut self.inetrc);
        self
    }

    /// One more line of `ejabberdctl.cfg`, which is shell.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push_str(line);
        self.settings.push('\n');
        self
    }

    /// Writes the configuration, starts the node and waits until it says that it is started.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Ejabberd {
        let ejabberd = self.install();
        ejabberd.start();
        ejabberd
    }

    /// Writes the configuration and starts nothing: enough for ejabberdctl to command another host's node.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn install(self) -> Ejabberd {
        let ejabberd = Ejabberd { dir: self.host.dir_of(USER, "ejabberd"), host: self.host.clone() };
        self.write(&ejabberd);
        ejabberd
    }

    fn write(&self, ejabberd: &Ejabberd) {
        for name in ["conf", "log", "db"] {
            drop(self.host.dir_of(USER, &format!("ejabberd/{name}")));
        }
        let settings = format!(
            "ERLANG_NODE={}\n\
             INET_DIST_INTERFACE={}\n\
             ERL_EPMD_ADDRESS=127.0.0.1\n\
             {}\n\
             EJABBERD_PID_PATH={}\n\
             # Schedulers that spin take the processors from the other nodes of the test.\n\
             ERL_OPTIONS=\"{}\"\n\
             {}",
            ejabberd.node_name(),
            self.interface,
            self.port,
            ejabberd.pid_file().display(),
            self.options,
            self.settings,
        );
        // One listener, on loopback, because none at all is not a configuration that anybody has.
        let configuration = "\
            hosts: [localhost]\n\
            loglevel: info\n\
            listen:\n  - port: 5222\n    ip: \"127.0.0.1\"\n    module: ejabberd_c2s\n\
            modules:\n  mod_admin_extra: {}\n";
        // A VM refuses a cookie file that others can read.
        let files = [
            (".erlang.cookie", self.cookie.as_str(), 0o400),
            ("conf/ejabberdctl.cfg", &settings, 0o644),
            ("conf/ejabberd.yml", configuration, 0o600),
            ("conf/inetrc", &self.inetrc, 0o644),
        ];
        for (name, text, mode) in files {
            let path = ejabberd.dir.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
            host::give(&path, USER);
            lab::set_mode(&path, mode);
        }
    }
}

/// An ejabberd with its directories. Its processes are detached, so they end with the lab, not with this
/// value.
#[derive(Debug)]
pub struct Ejabberd {
    host: Host,
    dir: PathBuf,
}

impl Ejabberd {
    /// An ejabberd to be started on a host, as `ejabberd@h1.test`, with its distribution and its epmd on
    /// loopback.
    #[must_use]
    pub fn configure(host: &Host) -> EjabberdBuilder {
        EjabberdBuilder {
            host: host.clone(),
            cookie: "secret".to_owned(),
            port: "FIREWALL_WINDOW=9100-9105".to_owned(),
            settings: String::new(),
            inetrc: String::new(),
            interface: "127.0.0.1",
            options: "-env ERL_CRASH_DUMP_BYTES 0 +sbwt none +sbwtdcpu none +sbwtdio none".to_owned(),
        }
    }

    /// The full name of the node.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("ejabberd@{}", self.host.name())
    }

    /// Runs an ejabberdctl command to its end, and gives all that it printed.
    ///
    /// # Panics
    ///
    /// When it does not end within 120 s.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> (ExitStatus, String) {
        let mut command = self.host.command_as(USER, CTL);
        let path = |name: &str| self.dir.join(name);
        command.arg("--config-dir").arg(path("conf")).arg("--ctl-config").arg(path("conf/ejabberdctl.cfg"));
        command.arg("--logs").arg(path("log")).arg("--spool").arg(path("db")).args(args);
        command.env("HOME", &self.dir);
        Daemon::spawn(format!("ejabberdctl {} on {}", args.join(" "), self.host.name()), command)
            .finish(PATIENCE)
    }

    /// Starts the node again, with the database it has, and waits until it says that it is started.
    ///
    /// # Panics
    ///
    /// When it does not start; the message has the end of its log.
    #[track_caller]
    pub fn start(&self) {
        let old = self.log().len();
        let (status, output) = self.ctl(&["start"]);
        assert!(status.success(), "ejabberdctl start on {}: {status}: {output}", self.host.name());
        // The log tells first. Asking `status` all the time would slow down what it waits for.
        eventually(&format!("{} has started", self.node_name()), PATIENCE, || {
            let log = self.log();
            let new = log.get(old..).unwrap_or_default();
            if new.contains(STARTED) { Ok(()) } else { Err(last_lines(new)) }
        });
        eventually(&format!("ejabberdctl status of {}", self.node_name()), PATIENCE, || {
            let (status, output) = self.ctl(&["status"]);
            if status.success() {
                Ok(())
            } else {
                Err(format!("{status}: {output}\n{}", last_lines(&self.log())))
            }
        });
    }

    /// Stops the node as an operator does: `stop`, then `stopped`, which ends epmd when no name is left
    /// there.
    ///
    /// # Panics
    ///
    /// When one of them fails.
    #[track_caller]
    pub fn stop(&self) {
        for word in ["stop", "stopped"] {
            let (status, output) = self.ctl(&[word]);
            assert!(status.success(), "ejabberdctl {word} on {}: {status}: {output}", self.host.name());
        }
    }

    /// Kills the VM, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When it is not running.
    #[track_caller]
    pub fn kill(&self) {
        let text = fs::read_to_string(self.pid_file()).expect("a running ejabberd has a pid file");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).expect("there is a pid in the pid file");
        rustix::process::kill_process(pid, Signal::KILL).expect("the pid is that of a process");
        // It is nobody's child here: init, or whoever stands for it, waits for it.
        eventually("the end of ejabberd", PATIENCE, || {
            let namespace = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
            fs::metadata(namespace).is_err().then_some(())
        });
    }

    /// The whole of `ejabberd.log`.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log/ejabberd.log")).unwrap_or_default()
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("ejabberd.pid")
    }
}

impl Drop for Ejabberd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} | {}", self.node_name(), last_lines(&self.log()));
        }
    }
}

/// Enough of a log to see what went wrong.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}
