//! Two hosts with a guard each: one with this machine's OTP, one with another release.

use std::path::{Path, PathBuf};

use crate::support::erlang::{Epmd, Node, NodeBuilder, Otp};
use crate::support::eventually::eventually;
use crate::support::guard::{Guard, SOON, configure, embedded, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::prerequisites;
use crate::support::said::told;
use crate::support::tunnel::{Scene, read};

/// The network of the lab, by both families.
const EVERYBODY: &[&str] = &["192.0.2.0/24", "2001:db8::/64"];
const SINGLE_PORT: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\n[epmd]\nlisten = []\n\
     [dist]\nports = 5210\n[log]\nformat = \"json\"\nlevel = \"debug\"\n";
/// Those of [`Shape::Tunnel`], besides the ones that make the tunnel.
const TUNNEL: &str = "[cluster]\ndynamic_nodes = \"allow\"\n[epmd]\nbackend = \"127.0.0.1:4369\"\n\
     [dist]\nports = \"9100-9110\"\n";

/// A release of OTP that this machine does not have; `scripts/interop-roots.sh` makes the roots.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    Otp27,
    Otp29,
}

impl Release {
    /// What `erlang:system_info(otp_release)` says there.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Otp27 => "27",
            Self::Otp29 => "29",
        }
    }

    fn otp(self) -> Otp {
        let root = cache().join(match self {
            Self::Otp27 => "trixie",
            Self::Otp29 => "forky",
        });
        assert!(root.is_dir(), "there is no {}: scripts/interop-roots.sh makes it", root.display());
        Otp::Root(root)
    }
}

/// Where `scripts/interop-roots.sh` keeps the roots.
#[expect(clippy::disallowed_methods, reason = "it is in the environment")]
fn cache() -> PathBuf {
    let given = std::env::var_os("EPMD_GUARD_INTEROP_CACHE").filter(|path| !path.is_empty());
    let home = || std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    given.map_or_else(|| Path::new(&home()).join(".cache/epmd-guard/interop"), PathBuf::from)
}

/// How the guards and the nodes of both hosts are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An epmd, of the host's own OTP, behind the guard.
    Front,
    /// The guard is the epmd.
    Embedded,
    /// As [`Self::Front`], with an epmd of the other host's OTP.
    Crossed,
    /// No epmd.
    SinglePort,
    /// As [`Self::Front`], with all that goes between the hosts in mutual TLS between their guards.
    Tunnel,
}

impl Shape {
    /// The two hosts, each with its guard and what leads its nodes to the other one, if they need that.
    ///
    /// A node without a name is let in, which is not so by default.
    fn hosts(self) -> ([(Host, Guard, Option<PathBuf>); 2], Lab) {
        let config = match self {
            Self::Front | Self::Crossed => front(EVERYBODY),
            Self::Embedded => embedded(EVERYBODY),
            Self::SinglePort => SINGLE_PORT.to_owned(),
            Self::Tunnel => return Self::hosts_in_tunnels(),
        };
        let config = config.replace("[cluster]\n", "[cluster]\ndynamic_nodes = \"allow\"\n");
        let lab = Lab::new(&["h1", "h2"]);
        let hosts = ["h1", "h2"].map(|name| {
            let host = lab.host(name);
            let guard = Guard::launch(&lab, &host, &config);
            if self != Self::SinglePort {
                guard.wait_open(4369);
            }
            (host, guard, None)
        });
        (hosts, lab)
    }

    fn hosts_in_tunnels() -> ([(Host, Guard, Option<PathBuf>); 2], Lab) {
        let Scene { hosts, lab } = Scene::of(&["h1", "h2"]).sections(TUNNEL).start();
        let hosts: Vec<_> = hosts
            .into_iter()
            .map(|at| {
                let inetrc = at.inetrc_file().to_owned();
                (at.host, at.guard, Some(inetrc))
            })
            .collect();
        (hosts.try_into().expect("two hosts"), lab)
    }

    /// The OTP whose epmd a host runs, if any.
    fn epmd<'a>(self, own: &'a Otp, other: &'a Otp) -> Option<&'a Otp> {
        match self {
            Self::Front | Self::Tunnel => Some(own),
            Self::Crossed => Some(other),
            Self::Embedded | Self::SinglePort => None,
        }
    }

    /// Where the first node of a host listens.
    fn port(self) -> u16 {
        match self {
            Self::Front | Self::Embedded | Self::Crossed | Self::Tunnel => 9100,
            Self::SinglePort => 5210,
        }
    }
}

/// A host with a guard, and nodes of one OTP.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) host: Host,
    pub(crate) guard: Guard,
    pub(crate) otp: Otp,
    pub(crate) shape: Shape,
    inetrc: Option<PathBuf>,
    _epmd: Option<Epmd>,
}

impl Side {
    fn new(
        (host, guard, inetrc): (Host, Guard, Option<PathBuf>),
        [own, other]: [&Otp; 2],
        shape: Shape,
    ) -> Self {
        let epmd = shape.epmd(own, other).map(|otp| Epmd::start_of(otp, &host));
        Self { host, guard, otp: own.clone(), shape, inetrc, _epmd: epmd }
    }

    /// A node of this side's OTP, to be started, which finds the others as the shape has it.
    ///
    /// It is without `global`, whose messages may connect two nodes again at once that were just disconnected.
    pub(crate) fn named(&self, name: &str) -> NodeBuilder {
        let node = Node::named(name, &self.host).otp(&self.otp).arg("-connect_all").arg("false");
        let node = match &self.inetrc {
            Some(file) => node.env("ERL_INETRC", &file.display().to_string()),
            None => node,
        };
        match self.shape {
            Shape::SinglePort => node.single_port(self.shape.port()),
            Shape::Front | Shape::Embedded | Shape::Crossed | Shape::Tunnel => node.port(self.shape.port()),
        }
    }

    /// Starts a node that listens, and waits until the guard has opened its port.
    #[track_caller]
    pub(crate) fn listening(&self, builder: NodeBuilder) -> Placed<'_> {
        let node = builder.start();
        self.guard.wait_open(self.shape.port());
        Placed { side: self, node }
    }
}

/// A node and where it is.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) side: &'a Side,
    pub(crate) node: Node,
}

impl Placed<'_> {
    pub(crate) fn name(&self) -> &str {
        self.node.full_name()
    }
}

/// The two hosts: `h1` with this machine's OTP, `h2` with the other.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) here: Side,
    pub(crate) other: Side,
    pub(crate) release: Release,
    pub(crate) lab: Lab,
}

impl Pair {
    pub(crate) fn new(release: Release, shape: Shape) -> Self {
        assert!(prerequisites::require(), "these tests need their hosts");
        let ([here, other], lab) = shape.hosts();
        let (ours, theirs) = (Otp::Here, release.otp());
        let here = Side::new(here, [&ours, &theirs], shape);
        let other = Side::new(other, [&theirs, &ours], shape);
        Self { here, other, release, lab }
    }

    /// Has both guards load another configuration, made of the one that they were started with.
    ///
    /// # Panics
    ///
    /// When one of them refuses it.
    #[track_caller]
    pub(crate) fn reconfigure(&self, change: impl Fn(&Host, &str) -> String) {
        for side in [&self.here, &self.other] {
            side.guard.wait_event("admin_opened", &[]);
            let file = self.lab.dir().join(format!("{}.toml", side.host.short_name()));
            drop(configure(&self.lab, &side.host, &change(&side.host, &read(&file))));
            let said = told(&self.lab, &side.host, &["reload"]);
            assert_eq!(said.code, 0, "{said:?}");
        }
    }

    /// Both sides, each once as the first.
    pub(crate) fn ways(&self) -> [(&Side, &Side); 2] {
        [(&self.here, &self.other), (&self.other, &self.here)]
    }

    /// A node on each side, which are of different releases: `a@h1.test` and `b@h2.test`, both with what `with` adds.
    #[track_caller]
    pub(crate) fn nodes(&self, with: impl Fn(NodeBuilder) -> NodeBuilder) -> [Placed<'_>; 2] {
        [self.here.listening(with(self.here.named("a"))), self.other.listening(with(self.other.named("b")))]
    }
}

/// Does it with each of the two as the one that dials, from where neither has a link to the other.
#[track_caller]
pub(crate) fn both_ways([a, b]: &[Placed; 2], check: impl Fn(&Placed, &Placed)) {
    for (from, to) in [(a, b), (b, a)] {
        check(from, to);
        disconnect(&from.node, &to.node);
    }
}

/// Ends the link between two nodes, and waits until neither has any.
#[track_caller]
pub(crate) fn disconnect(from: &Node, to: &Node) {
    assert_eq!(from.eval(&format!("erlang:disconnect_node('{}').", to.full_name())), "true");
    for node in [from, to] {
        eventually("the link goes", SOON, || {
            let left = node.eval("nodes(connected).");
            if left == "[]" { Ok(()) } else { Err(left) }
        });
    }
}
