//! What a stranger tries, and what a member must not do either; and how the guard took it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::{Cluster, Member, config};
use crate::support::daemon::Mark;
use crate::support::host::Host;
use crate::support::wire::{self, Ended, Outcome};
use crate::tell::{heading, log_line, text};

/// What is sent to the guard, and what for.
struct Attempt {
    /// The message's name.
    name: &'static str,
    /// What it would do, if it were let through.
    purpose: &'static str,
    port: u16,
    message: Vec<u8>,
}

/// What came of it.
struct Taken {
    outcome: io::Result<Outcome>,
    /// The guard's line about it.
    log: Result<String, String>,
    /// Connections that reached epmd or the node behind the guard meanwhile.
    behind: u64,
}

impl Taken {
    fn is_refused(&self) -> bool {
        let nothing_came = match &self.outcome {
            Ok(Outcome { bytes, ended }) => bytes.is_empty() && *ended != Ended::TimedOut,
            Err(error) => error.kind() != io::ErrorKind::TimedOut,
        };
        nothing_came && self.log.is_ok() && self.behind == 0
    }
}

const CUT: &str = "no byte; the guard cut the connection";

/// Long enough for a log line that comes at once.
const SOON: Duration = Duration::from_secs(10);

/// Shows everything, and returns each promise with whether it was kept.
pub(crate) fn show(cluster: &Cluster) -> Vec<(String, bool)> {
    let target = cluster.member(0);
    let names_before = held(target);
    let mut results = vec![
        ("three ejabberds are one cluster".to_owned(), cluster.is_whole()),
        ("their links run through the guards".to_owned(), cluster.is_guarded()),
    ];

    heading("3. A stranger knocks");
    text(
        "From 192.0.2.4 to the guard of h1. It is cut off when it connects: no byte of it is read, and
         neither epmd nor the node hears of it.",
    );
    for attempt in [names(), alive2(), kill(), handshake(target.node_port())] {
        let kept = try_it(&cluster.stranger, target, &attempt, "reason=\"not_allowed\"");
        results.push((format!("{} of a stranger is refused", attempt.name), kept));
    }

    heading("4. A member of the cluster may ask, and no more");
    text(
        "From h2, which is let in, to the guard of h1. epmd takes whatever a proxy sends it for local, and
         would obey; the guard knows better.",
    );
    let answered = ask_names(&cluster.member(1).host, target);
    results.push(("NAMES of a member is answered".to_owned(), answered));
    for attempt in [alive2(), kill()] {
        let kept = try_it(&cluster.member(1).host, target, &attempt, "reason=\"local_only\"");
        results.push((format!("{} of a member is refused", attempt.name), kept));
    }

    heading("5. The rules change, and no link is cut");
    results.extend(change_the_rules(cluster));

    heading("6. And the cluster?");
    let names_after = held(target);
    println!("  epmd of h1 still runs, and still holds:\n");
    names_after.iter().for_each(|line| println!("      {line}"));
    let whole = cluster.is_whole();
    println!(
        "\n  list_cluster on h1, h2 and h3: {}.\n",
        if whole { "all three nodes, on each" } else { "NOT WHOLE" }
    );
    results.push((
        "epmd lives, with the names that it had and no other".to_owned(),
        names_before == names_after,
    ));
    results.push(("the cluster is whole".to_owned(), whole));
    results
}

/// The stranger is let in by a reload, and kept out again.
fn change_the_rules(cluster: &Cluster) -> [(String, bool); 2] {
    let target = cluster.member(0);
    target.ask_guard(&["status"]);
    let links = links_of(target);
    text("Now 192.0.2.4 is added to `allow` in the configuration of h1, and taken out again.");
    target.write_config(&config(", \"192.0.2.4\""));
    target.ask_guard(&["reload"]);
    let answered = ask_names(&cluster.stranger, target);
    target.write_config(&config(""));
    target.ask_guard(&["reload"]);
    let refused = try_it(&cluster.stranger, target, &names(), "reason=\"not_allowed\"");
    [
        ("a reload lets the stranger in, and another one keeps it out".to_owned(), answered && refused),
        ("no link was cut".to_owned(), links == links_of(target) && !links.is_empty()),
    ]
}

/// Where the links come from that others have at this member's guard.
fn links_of(member: &Member) -> Vec<String> {
    let listed = member.ask_guard(&["links"]);
    let own = format!("{}:", member.host.v4());
    let peers = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    peers.filter(|peer| !peer.starts_with(&own)).map(str::to_owned).collect()
}

/// The names that epmd holds, without those of ejabberdctl: each run of it is a node for a moment.
fn held(target: &Member) -> Vec<String> {
    target.epmd.names().into_iter().filter(|line| !line.contains("-ctl-")).collect()
}

/// Makes the attempt from one host against another, tells what happened, and whether nothing came of it,
/// for the reason that was expected.
fn try_it(from: &Host, target: &Member, attempt: &Attempt, reason: &str) -> bool {
    let taken = make(from, target, attempt, reason);
    println!("  {}: {}", attempt.name, attempt.purpose);
    let got = match &taken.outcome {
        Ok(Outcome { bytes, ended }) if bytes.is_empty() => match ended {
            Ended::Reset => CUT.to_owned(),
            Ended::Fin => "no byte; the guard closed the connection".to_owned(),
            Ended::TimedOut => "no byte, and the connection is STILL OPEN".to_owned(),
        },
        Ok(Outcome { bytes, .. }) => format!("{} BYTES: {:?}", bytes.len(), String::from_utf8_lossy(bytes)),
        // The guard was quicker than the dialling side.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => CUT.to_owned(),
        Err(error) => format!("no connection ({error})"),
    };
    println!("      it gets: {got}");
    match &taken.log {
        Ok(line) => log_line("its log: ", line),
        Err(why) => println!("      the guard's log says NOTHING of {reason}: {why}"),
    }
    println!(
        "      reached behind the guard: {}\n",
        match taken.behind {
            0 => "nothing".to_owned(),
            count => format!("{count} CONNECTIONS"),
        }
    );
    taken.is_refused()
}

fn make(from: &Host, target: &Member, attempt: &Attempt, reason: &str) -> Taken {
    // What reaches epmd or the node comes over loopback, from the guard. Nobody else dials there now.
    let counter = target.host.counter("lo", attempt.port);
    let mark = target.guard.mark();
    let outcome = send(from, target, attempt);
    let log = refusal(target, mark, from, reason);
    Taken { outcome, log, behind: counter.count() }
}

fn send(from: &Host, target: &Member, attempt: &Attempt) -> io::Result<Outcome> {
    let stream = from.connect(SocketAddr::new(target.host.v4().into(), attempt.port))?;
    // Who refuses may cut the connection before it has read anything: then this write fails.
    wire::send(&stream, &wire::framed(&attempt.message)).ok();
    Ok(wire::read_to_close(&stream))
}

fn refusal(target: &Member, mark: Mark, from: &Host, reason: &str) -> Result<String, String> {
    let peer = format!("peer={}:", from.v4());
    target.guard.daemon().find_line_after(mark, SOON, |line| {
        line.contains(" refused ") && line.contains(&peer) && line.contains(reason)
    })
}

/// NAMES by a member: what is let in is answered.
fn ask_names(from: &Host, target: &Member) -> bool {
    let attempt = names();
    println!("  {}: {}", attempt.name, attempt.purpose);
    let outcome = send(from, target, &attempt);
    let listed = match &outcome {
        // epmd's own port, in four bytes, comes first.
        Ok(Outcome { bytes, .. }) => String::from_utf8_lossy(bytes.get(4..).unwrap_or_default()).into_owned(),
        Err(error) => error.to_string(),
    };
    println!("      it gets: {}\n", listed.trim_end().replace('\n', "\n               "));
    listed.contains("name ejabberd at port ")
}

fn names() -> Attempt {
    Attempt {
        name: "NAMES",
        purpose: "which nodes are here, and on which ports?",
        port: 4369,
        message: b"n".to_vec(),
    }
}

/// Registers `evil` at port 4444: a normal node of TCP over IPv4, of the versions that OTP 25 says.
fn alive2() -> Attempt {
    let name = b"evil";
    let message = [&b"x\x11\x5c\x4d\0\0\x06\0\x05\0\x04"[..], name, b"\0\0"].concat();
    Attempt { name: "ALIVE2", purpose: "I am the node `evil`; tell whoever asks for it", port: 4369, message }
}

fn kill() -> Attempt {
    Attempt { name: "KILL", purpose: "stop epmd", port: 4369, message: b"k".to_vec() }
}

/// The first message of a link, of the version that OTP 23 and later speak: flags, creation, name.
fn handshake(port: u16) -> Attempt {
    // What a node of OTP 25 sends.
    const FLAGS: u64 = 0x000d_07df_7fbd;
    let name = b"evil@stranger.test";
    let mut message = vec![b'N'];
    message.extend(FLAGS.to_be_bytes());
    message.extend(1u32.to_be_bytes());
    message.extend(u16::try_from(name.len()).expect("a short name").to_be_bytes());
    message.extend(name);
    Attempt {
        name: "A distribution link",
        purpose: "the first step to a shell on the node, for whoever has the cookie",
        port,
        message,
    }
}
