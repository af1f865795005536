//! Three hosts with an epmd, a guard and an ejabberd each, and a fourth with nothing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread;
use std::time::Instant;

use crate::SharedLab;
use crate::support::daemon::Daemon;
use crate::support::ejabberd::Ejabberd;
use crate::support::erlang::{Epmd, EpmdListen};
use crate::support::guard::{self, Guard, SOON};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::tell::{heading, log_line, text, typed};

/// Host 1 comes first, because its ejabberd is the one that the others join.
const MEMBERS: [&str; 3] = ["h1", "h2", "h3"];

/// What each guard is told. Refusals are shown one by one at level debug, also when they come again.
pub(crate) fn config(others: &str) -> String {
    format!(
        "[cluster]\n\
         allow = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"{others}]\n\
         [epmd]\n\
         backend = \"127.0.0.1:4369\"\n\
         [log]\n\
         level = \"debug\"  # every refusal, not only the first of a source in a minute\n"
    )
}

/// One of the three. What ends with its value ends before the lab does.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) host: Host,
    pub(crate) guard: Guard,
    pub(crate) epmd: Epmd,
    pub(crate) ejabberd: Ejabberd,
    cli: Cli,
}

/// How the guard of a host is told something.
#[derive(Debug)]
struct Cli {
    program: PathBuf,
    config: PathBuf,
    socket: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) stranger: Host,
}

impl Cluster {
    /// Makes the hosts, and starts what is on them.
    pub(crate) fn build(stage: &SharedLab) -> Self {
        heading("1. The hosts start");
        let begun = Instant::now();
        let (guarded, stranger) = {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            let lab = stage.insert(Lab::new(&["h1", "h2", "h3", "stranger"]));
            let guarded: Vec<_> = MEMBERS.iter().map(|name| guarded(lab, name)).collect();
            (guarded, lab.host("stranger"))
        };
        for (host, ..) in &guarded {
            let (behind, front) = serving_epmd(host);
            println!("  {}   epmd on {behind}; the guard on {front}", host.name());
        }
        // Side by side: they spend their time waiting.
        let members: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> = guarded
                .into_iter()
                .map(|(host, epmd, guard, cli)| {
                    scope.spawn(move || {
                        let ejabberd = Ejabberd::configure(&host).random_ports().start();
                        Member { host, guard, epmd, ejabberd, cli }
                    })
                })
                .collect();
            starting.into_iter().map(|member| member.join().expect("an ejabberd starts")).collect()
        });
        println!(
            "\n  Three ejabberds have started, {} seconds from the beginning.\n",
            begun.elapsed().as_secs()
        );
        Self { members, stranger }
    }

    /// Joins the three, and shows what they say of it.
    pub(crate) fn show(&self) {
        heading("2. They become a cluster, through the guards");
        text(
            "Each node asks the other host's epmd for the node's port and links to that port. Both are the
         guard's: the very numbers that epmd and the node have on loopback. Nobody has told the guards
         which numbers these are.",
        );
        let (first, others) = self.members.split_first().expect("there are three");
        for member in others {
            let command = ["join_cluster", &first.ejabberd.node_name()];
            let (status, output) = member.ejabberd.ctl(&command);
            assert!(status.success(), "{} does not join: {status}: {output}", member.host.name());
            typed(member.host.short_name(), &format!("ejabberdctl {}", command.join(" ")), &output);
        }
        for member in &self.members {
            typed(member.host.short_name(), "ejabberdctl list_cluster", &member.listed().join("\n"));
        }
        text("The guards saw each of these links being made:");
        for member in &self.members {
            for line in member.links() {
                log_line(&format!("{}: ", member.host.short_name()), &line);
            }
        }
        println!();
    }

    /// Whether the three links between the members run through the guards.
    pub(crate) fn is_guarded(&self) -> bool {
        self.members.iter().map(|member| member.links().len()).sum::<usize>() >= 3
    }

    /// Whether every member sees all of them.
    pub(crate) fn is_whole(&self) -> bool {
        let mut names: Vec<_> = self.members.iter().map(|member| member.ejabberd.node_name()).collect();
        names.sort();
        self.members.iter().all(|member| member.listed() == names)
    }

    pub(crate) fn member(&self, index: usize) -> &Member {
        self.members.get(index).expect("there are three members")
    }
}

impl Member {
    /// The nodes of the cluster as this one sees them, sorted.
    fn listed(&self) -> Vec<String> {
        let (status, output) = self.ejabberd.ctl(&["list_cluster"]);
        assert!(status.success(), "list_cluster on {}: {status}: {output}", self.host.name());
        let mut names: Vec<_> = output.lines().map(|line| line.trim_matches('\'').to_owned()).collect();
        names.sort();
        names
    }

    /// The port that the node has, as its epmd knows it.
    pub(crate) fn node_port(&self) -> u16 {
        let names = self.epmd.names();
        let port = names.iter().find_map(|line| line.strip_prefix("name ejabberd at port "));
        port.and_then(|port| port.trim().parse().ok()).expect("epmd knows the node")
    }

    /// Asks the guard, or tells it something, as an operator does, and shows it.
    pub(crate) fn ask_guard(&self, arguments: &[&str]) -> String {
        let mut command = self.host.command(&self.cli.program);
        command.args(arguments).arg("--socket").arg(&self.cli.socket);
        let asked = format!("epmd-guard {}", arguments.join(" "));
        let (status, output) = Daemon::spawn(asked.clone(), command).finish(SOON);
        assert!(status.success(), "{asked} on {}: {status}: {output}", self.host.name());
        typed(self.host.short_name(), &asked, &output);
        output
    }

    /// Writes another configuration, which counts when the guard reloads it.
    pub(crate) fn write_config(&self, config: &str) {
        let before = fs::read_to_string(&self.cli.config).expect("the guard has a configuration");
        let admin = before.find("[admin]").and_then(|at| before.get(at..)).unwrap_or_default();
        fs::write(&self.cli.config, format!("{config}\n{admin}"))
            .expect("the lab's directory can be written");
    }

    /// What the guard said of links that other hosts have opened. The host's own tools open some too.
    fn links(&self) -> Vec<String> {
        let own = format!(" peer={}:", self.host.v4());
        let is_link = |line: &String| line.contains(" link_opened ") && !line.contains(&own);
        self.guard.daemon().lines().into_iter().filter(is_link).collect()
    }
}

/// Where epmd's port is served: behind the guard, and by the guard. 127.0.1.1 is the machine's own name in Debian,
/// which local tools dial.
fn serving_epmd(host: &Host) -> (String, String) {
    let listeners = host.listeners().into_iter().filter(|at| at.port() == 4369).map(|at| at.ip());
    let is_behind =
        |ip: &IpAddr| [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(ip);
    let (behind, front): (Vec<_>, Vec<_>) = listeners.partition(is_behind);
    let join = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    (join(behind), join(front))
}

fn guarded(lab: &Lab, name: &str) -> (Host, Epmd, Guard, Cli) {
    let host = lab.host(name);
    let epmd = Epmd::start(&host, EpmdListen::Loopback);
    let guard = Guard::start(lab, &host, &config(""));
    let cli = Cli {
        program: guard::program(lab),
        config: guard::configure(lab, &host, &config("")),
        socket: guard::admin_socket(lab, &host),
    };
    (host, epmd, guard, cli)
}
