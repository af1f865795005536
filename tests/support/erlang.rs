//! Real Erlang nodes, run by an unprivileged user on a host of the lab, and commanded over their standard
//! input.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::daemon::{Daemon, Mark};
pub use super::epmd::{Epmd, EpmdListen};
use super::host::Host;
pub use super::otp::Otp;

/// Who runs epmd and the nodes.
pub(super) const USER: &str = "nobody";
/// A VM starts in 150 ms and epmd in 20 ms when the machine is idle. Tests run side by side, so the deadline
/// is generous: it bounds a hanging test, it measures nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// What the agent in the node puts before its answers, to tell them from what the node prints by itself.
const RESULT: &str = "@result@ ";

/// How a node is to be started; see [`Node::named`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    name: String,
    host: Host,
    cookie: String,
    family: Family,
    interface: Interface,
    otp: Otp,
    erl: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Inet,
    Inet6,
}

#[derive(Clone, Copy, Debug)]
enum Interface {
    Loopback,
    One(IpAddr),
    Any,
}

impl NodeBuilder {
    /// The cookie; `secret` if nobody says otherwise.
    #[must_use]
    pub fn cookie(mut self, cookie: &str) -> Self {
        cookie.clone_into(&mut self.cookie);
        self
    }

    /// Distribution over IPv6. The node then registers at ::1, and looks up only IPv6 addresses of its peers.
    #[must_use]
    pub fn inet6(mut self) -> Self {
        self.family = Family::Inet6;
        self.args(&["-proto_dist", "inet6_tcp"])
    }

    /// A hidden node: its links do not spread to the rest of the cluster.
    #[must_use]
    pub fn hidden(self) -> Self {
        self.args(&["-hidden"])
    }

    /// The distribution port, instead of one that the kernel chooses.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.ports(port, port)
    }

    /// A range of distribution ports; the node takes the first free one.
    #[must_use]
    pub fn ports(self, first: u16, last: u16) -> Self {
        self.kernel("inet_dist_listen_min", &first.to_string())
            .kernel("inet_dist_listen_max", &last.to_string())
    }

    /// Listens on this address. If nobody says otherwise it is loopback, as behind a guard.
    #[must_use]
    pub fn interface(mut self, address: IpAddr) -> Self {
        self.interface = Interface::One(address);
        self
    }

    /// Listens on every address, which is what a node does when nobody tells it otherwise.
    #[must_use]
    pub fn anywhere(mut self) -> Self {
        self.interface = Interface::Any;
        self
    }

    /// No epmd: this node, and every node that it dials, listens on this port.
    #[must_use]
    pub fn single_port(self, port: u16) -> Self {
        self.args(&["-erl_epmd_port", &port.to_string(), "-start_epmd", "false"])
    }

    /// How long a peer may be silent. A tick is sent every quarter of it.
    #[must_use]
    pub fn net_ticktime(self, seconds: u32) -> Self {
        self.kernel("net_ticktime", &seconds.to_string())
    }

    /// Of which OTP; this machine's, if nobody says otherwise.
    #[must_use]
    pub fn otp(mut self, otp: &Otp) -> Self {
        otp.clone_into(&mut self.otp);
        self
    }

    /// Another `erl` than the one in the PATH.
    #[must_use]
    pub fn erl(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.erl);
        self
    }

    /// A parameter of the kernel application, as an Erlang term.
    #[must_use]
    pub fn kernel(self, parameter: &str, term: &str) -> Self {
        self.args(&["-kernel", parameter, term])
    }

    /// One more word of the command line of `erl`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// An environment variable of the node, such as `ERL_INETRC`.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts the node and waits until it is distributed.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Node {
        let name = self.name.clone();
        self.try_start().unwrap_or_else(|why| panic!("{name} does not start: {why}"))
    }

    /// Starts the node and waits until it is distributed, or has given up: the error has what the VM printed.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn try_start(self) -> Result<Node, String> {
        let mut command = self.otp.command(&self.host, USER, &self.erl);
        // -noshell and not -noinput, which would close the standard input that the agent listens to.
        command.args(["-noshell", "-name", &self.name, "-setcookie", &self.cookie]);
        // Schedulers that spin while they wait for work take the processors from the other VMs of the test.
        command.args(["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]);
        let interface = match (self.interface, self.family) {
            (Interface::Loopback, Family::Inet) => Some(Ipv4Addr::LOCALHOST.into()),
            (Interface::Loopback, Family::Inet6) => Some(Ipv6Addr::LOCALHOST.into()),
            (Interface::One(address), _) => Some(address),
            (Interface::Any, _) => None,
        };
        if let Some(address) = interface {
            command.args(["-kernel", "inet_dist_use_interface", &tuple(address)]);
        }
        command.args(&self.args).args(["-eval", &agent()]);
        // A node starts an epmd when there is none. In a lab that one too stays off the outside address.
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_CRASH_DUMP_SECONDS", "0");
        command.envs(self.env);
        let (daemon, stdin) = Daemon::spawn_with_input(&self.name, command);
        daemon.find_line_after(Mark::START, PATIENCE, |line| line.contains("@result@ ready "))?;
        Ok(Node {
            name: self.name,
            host: self.host,
            daemon,
            stdin: Mutex::new(stdin),
            requests: AtomicU64::new(0),
        })
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    name: String,
    host: Host,
    daemon: Daemon,
    stdin: Mutex<ChildStdin>,
    requests: AtomicU64,
}

impl Node {
    /// A node to be started on a host: `"a"` becomes `a@h1.test`; a name with an `@` is taken as it is.
    ///
    /// If nobody says otherwise it listens on loopback, on a port that the kernel chooses, with the cookie
    /// `secret`.
    #[must_use]
    pub fn named(name: &str, host: &Host) -> NodeBuilder {
        let name = if name.contains('@') { name.to_owned() } else { format!("{name}@{}", host.name()) };
        NodeBuilder {
            name,
            host: host.clone(),
            cookie: "secret".to_owned(),
            family: Family::Inet,
            interface: Interface::Loopback,
            otp: Otp::Here,
            erl: "erl".into(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The full name, such as `a@h1.test`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.name
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The process that is the VM.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Evaluates expressions, ended by a dot, and gives the last one's value as Erlang prints it.
    ///
    /// An exception, and what is not Erlang at all, gives `{'EXIT',{Class,Reason}}`.
    ///
    /// # Panics
    ///
    /// When there is no answer within 60 s.
    #[track_caller]
    pub fn eval(&self, expressions: &str) -> String {
        self.eval_within(PATIENCE, expressions)
    }

    /// Like [`Self::eval`], with a deadline of your own. The evaluation itself is not stopped when it passes.
    ///
    /// # Panics
    ///
    /// When there is no answer within the deadline.
    #[track_caller]
    pub fn eval_within(&self, deadline: Duration, expressions: &str) -> String {
        let prefix = format!("{RESULT}{} ", self.requests.fetch_add(1, Ordering::Relaxed));
        let id = prefix.split(' ').nth(1).unwrap_or_default();
        let mark = self.daemon.mark();
        // One request is one line; Erlang does not care.
        let request = format!("{id} {}\n", expressions.replace('\n', " "));
        let written = self.stdin.lock().unwrap_or_else(PoisonError::into_inner).write_all(request.as_bytes());
        written.unwrap_or_else(|error| panic!("{}: sending {expressions}: {error}", self.name));
        let line = self.daemon.wait_line_after(mark, expressions, deadline, |line| line.contains(&prefix));
        // Whatever the node printed without ending the line stands before the prefix.
        line.split_once(&prefix).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// Whether this node has, or can make, a link to the other one.
    #[track_caller]
    pub fn ping(&self, other: &Self) -> bool {
        self.eval(&format!("net_adm:ping('{}').", other.name)) == "pong"
    }

    /// What the node printed, without the answers to [`Self::eval`].
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        self.daemon.lines().into_iter().filter(|line| !line.contains(RESULT)).collect()
    }

    /// The port that it listens on for other nodes, as the VM sees it.
    ///
    /// # Panics
    ///
    /// When it does not listen.
    #[must_use]
    #[track_caller]
    pub fn port(&self) -> u16 {
        // The distribution's listener is the only one of the VM whose owner is net_kernel.
        let port = self.eval(
            "[P] = [element(2, inet:port(S)) || S <- erlang:ports(), \
             erlang:port_info(S, connected) =:= {connected, whereis(net_kernel)}, \
             erlang:port_info(S, name) =:= {name, \"tcp_inet\"}], P.",
        );
        port.parse().unwrap_or_else(|_| panic!("{}: its port: {port}", self.name))
    }

    /// Ends the node as an operator would (`init:stop()`), and waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within 60 s.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        // This takes 1.0 s on an idle node (measured); `kill` takes none.
        self.eval("init:stop().");
        self.daemon.wait_exit(PATIENCE)
    }

    /// Kills the VM, as a crash would: the kernel closes its sockets.
    pub fn kill(&self) {
        self.daemon.kill();
    }
}

/// The agent as one line for -eval.
fn agent() -> String {
    let code = include_str!("agent.erl").lines().filter(|line| !line.trim_start().starts_with('%'));
    code.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// An address as Erlang writes it: `{127,0,0,1}`.
pub(super) fn tuple(address: IpAddr) -> String {
    let numbers: Vec<_> = match address {
        IpAddr::V4(v4) => v4.octets().iter().map(ToString::to_string).collect(),
        IpAddr::V6(v6) => v6.segments().iter().map(ToString::to_string).collect(),
    };
    format!("{{{}}}", numbers.join(","))
}
