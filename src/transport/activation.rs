//! Sockets that systemd opened for us (sd_listen_fds(3)): its names say what they are for.
//!
//! Owns what was passed. Never listens by itself, and serves no socket whose purpose is not written down.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use listenfd::ListenFd;

use super::Listener;
use crate::config::Config;
use crate::policy::PortRule;

/// What sd_listen_fds_with_names(3) calls a socket without a name.
const UNNAMED: &str = "unknown";

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Questions to epmd.
    Epmd,
    /// Links to the distribution port of the socket's own number.
    Dist,
}

/// A socket that systemd opened.
#[derive(Debug)]
pub struct Inherited {
    name: String,
    purpose: Purpose,
    addr: SocketAddr,
    /// Kept, since nobody could open it anew.
    socket: TcpListener,
}

/// Why what systemd passed cannot be served. [`ActivationError::help`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// It says nothing of its purpose.
    #[error("systemd passed a socket for {addr} with the name `{}`, which says nothing to the guard", name.escape_default())]
    Name {
        /// Its name.
        name: String,
        /// Where it listens.
        addr: SocketAddr,
    },
    /// It listens on every address.
    #[error("systemd passed a socket for {addr}, that is for every address")]
    Wildcard {
        /// Where it listens.
        addr: SocketAddr,
    },
    /// It is no TCP socket that listens.
    #[error("what systemd passed as `{}` cannot be served", name.escape_default())]
    Unusable {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// There are more or fewer names than sockets.
    #[error("systemd passed {sockets} socket(s) and {names} name(s)")]
    Miscounted {
        /// How many sockets.
        sockets: usize,
        /// How many names.
        names: usize,
    },
    /// Another one was passed for the same address and port.
    #[error("systemd passed two sockets for {addr}")]
    Twice {
        /// Where both listen.
        addr: SocketAddr,
    },
    /// Something behind the guard listens there, by configuration.
    #[error("systemd passed a socket for {addr}, which the configuration names as a backend")]
    Backend {
        /// Where it listens.
        addr: SocketAddr,
    },
    /// The configuration opens ports by itself, where nodes are.
    #[error(
        "systemd passed a distribution socket for {addr}, and [dist] ports is \"registered\": such a port is open \
         only while a node has it"
    )]
    NotListed {
        /// Where it listens.
        addr: SocketAddr,
    },
    /// The configuration does not forward the port.
    #[error("systemd passed a distribution socket for {addr}, and [dist] ports does not list port {}", addr.port())]
    NotForwarded {
        /// Where it listens.
        addr: SocketAddr,
    },
}

impl ActivationError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Name { .. } | Self::Miscounted { .. } => {
                "write FileDescriptorName=epmd or FileDescriptorName=dist into the [Socket] section of its .socket unit, \
                 and sockets for epmd and for distribution ports into units of their own"
            }
            Self::Wildcard { .. } => {
                "it would take loopback too, where epmd and the nodes must listen: write an address for peers, such as \
                 ListenStream=192.0.2.1:4369, into its .socket unit, one line for each address"
            }
            Self::Unusable { .. } => {
                "let its .socket unit have ListenStream=ADDRESS:PORT lines only, and Accept=no"
            }
            Self::Twice { .. } => {
                "take the address out of one of the two .socket units, and ReusePort= out of both"
            }
            Self::Backend { .. } => {
                "the guard would dial itself: write the address for peers into the .socket unit, and leave loopback to epmd \
                 and the nodes"
            }
            Self::NotListed { .. } => {
                "list the port in [dist] ports, or take the .socket unit away: the guard opens the ports of registered \
                 nodes by itself"
            }
            Self::NotForwarded { .. } => "add the port to [dist] ports, or take it out of the .socket unit",
        }
    }
}

impl Inherited {
    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its name, as written in the socket unit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A listener on it, as often as one is needed: dropping it closes nothing, and what connects meanwhile
    /// waits for the next one. To be called in the runtime.
    ///
    /// # Errors
    /// The kernel has no descriptor to spare.
    pub fn listener(&self) -> io::Result<Listener> {
        Listener::from_std(self.socket.as_fd().try_clone_to_owned()?.into())
    }

    fn new(name: &str, socket: TcpListener) -> Result<Self, ActivationError> {
        let unusable = |source| ActivationError::Unusable { name: name.to_owned(), source };
        let addr = socket.local_addr().map_err(unusable)?;
        // As addresses are compared everywhere.
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let purpose =
            Purpose::of(name).ok_or_else(|| ActivationError::Name { name: name.to_owned(), addr })?;
        if addr.ip().is_unspecified() {
            return Err(ActivationError::Wildcard { addr });
        }
        super::listener::check_listens(&socket).map_err(unusable)?;
        Ok(Self { name: name.to_owned(), purpose, addr, socket })
    }
}

impl Purpose {
    /// What a name of a socket unit says.
    fn of(name: &str) -> Option<Self> {
        match name {
            "epmd" => Some(Self::Epmd),
            "dist" => Some(Self::Dist),
            other => other.starts_with("dist-").then_some(Self::Dist),
        }
    }
}

/// The sockets that were passed to this process; none if `pid` (`LISTEN_PID`) is another's or missing. `names`
/// is `LISTEN_FDNAMES`.
///
/// To be called before the first thread starts and before anything is opened: it removes `LISTEN_PID` and
/// `LISTEN_FDS` from the environment, and takes the descriptors by their numbers. `LISTEN_FDNAMES` stays, which means
/// nothing without those.
///
/// # Errors
/// One of them cannot be served. Then none is: a guard that serves less than it was told to would go unnoticed.
pub fn inherited(pid: Option<&str>, names: Option<&str>) -> Result<Vec<Inherited>, ActivationError> {
    if !is_ours(pid, std::process::id()) {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let names = names_of(passed.len(), names)?;
    let mut taken = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        match passed.take_tcp_listener(index) {
            Ok(socket) => taken.extend(socket.map(|socket| Inherited::new(name, socket)).transpose()?),
            Err(source) => return Err(ActivationError::Unusable { name: name.to_owned(), source }),
        }
    }
    Ok(taken)
}

/// The sockets that were passed to this process for whatever purpose, as [`inherited`] otherwise.
///
/// # Errors
/// One of them is no TCP socket that listens.
pub fn unnamed(pid: Option<&str>) -> io::Result<Vec<TcpListener>> {
    if !is_ours(pid, std::process::id()) {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let taken = (0..passed.len()).map(|index| passed.take_tcp_listener(index));
    Ok(taken.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Whether the configuration and what was passed fit together.
///
/// # Errors
/// They do not.
pub fn check(inherited: &[Inherited], config: &Config) -> Result<(), ActivationError> {
    let mut seen = HashSet::new();
    for Inherited { purpose, addr, .. } in inherited {
        let addr = *addr;
        let is_backend = match purpose {
            Purpose::Epmd => config.epmd.backend.addr() == Some(addr),
            Purpose::Dist => config.way_to(addr.port()).backend.contains(&addr.ip()),
        };
        if is_backend {
            return Err(ActivationError::Backend { addr });
        }
        // What is forwarded is listed, whatever `[dist]` says.
        if *purpose == Purpose::Dist && config.forward_at(addr.port()).is_none() {
            match &config.dist.rules.ports {
                PortRule::Listed(ports) if ports.contains(addr.port()) => {}
                PortRule::Listed(_) => return Err(ActivationError::NotForwarded { addr }),
                PortRule::Registered { .. } => return Err(ActivationError::NotListed { addr }),
            }
        }
        if !seen.insert(addr) {
            return Err(ActivationError::Twice { addr });
        }
    }
    Ok(())
}

fn is_ours(pid: Option<&str>, own: u32) -> bool {
    pid.and_then(|pid| pid.parse().ok()) == Some(own)
}

/// One name for each socket.
fn names_of(sockets: usize, names: Option<&str>) -> Result<Vec<&str>, ActivationError> {
    let names = match names {
        Some(names) if sockets > 0 => names.split(':').collect(),
        Some(_) => Vec::new(),
        None => vec![UNNAMED; sockets],
    };
    if names.len() != sockets {
        return Err(ActivationError::Miscounted { sockets, names: names.len() });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Listener;

    fn socket(addr: &str) -> TcpListener {
        let addr: SocketAddr = addr.parse().unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None).unwrap();
        socket.bind(&addr.into()).unwrap();
        socket.listen(1).unwrap();
        socket.into()
    }

    fn config(text: &str) -> Config {
        crate::config::from_text("test", text, &Default::default()).unwrap().config
    }

    #[test]
    fn a_name_says_what_a_socket_is_for() {
        assert_eq!(Purpose::of("epmd"), Some(Purpose::Epmd));
        assert_eq!(Purpose::of("dist"), Some(Purpose::Dist));
        assert_eq!(Purpose::of("dist-ejabberd"), Some(Purpose::Dist));
        for name in ["", "unknown", "epmd-guard.socket", "EPMD", "distant", "epmd-2"] {
            assert_eq!(Purpose::of(name), None, "{name}");
            let refused = Inherited::new(name, socket("127.0.0.1:0")).unwrap_err();
            assert!(matches!(refused, ActivationError::Name { .. }), "{refused}");
            assert!(refused.help().contains("FileDescriptorName=epmd"));
        }
    }

    #[test]
    fn a_socket_on_every_address_is_refused() {
        for addr in ["0.0.0.0:0", "[::]:0"] {
            let refused = Inherited::new("epmd", socket(addr)).unwrap_err();
            assert!(matches!(refused, ActivationError::Wildcard { .. }), "{refused}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_means() {
        let mapped = Inherited::new("epmd", socket("[::ffff:127.0.0.1]:0")).unwrap();
        assert!(mapped.local_addr().is_ipv4(), "{}", mapped.local_addr());
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let refused = Inherited::new("dist", bound.into()).unwrap_err();
        assert!(matches!(refused, ActivationError::Unusable { .. }), "{refused}");
    }

    #[test]
    fn there_is_a_name_for_each_socket() {
        assert_eq!(names_of(2, Some("epmd:dist-a")).unwrap(), ["epmd", "dist-a"]);
        assert_eq!(names_of(1, None).unwrap(), ["unknown"]);
        assert_eq!(names_of(0, Some("left over")).unwrap(), [""; 0]);
        for (sockets, names) in [(1, "epmd:dist"), (3, "epmd:dist")] {
            assert!(matches!(names_of(sockets, Some(names)), Err(ActivationError::Miscounted { .. })));
        }
    }

    #[test]
    fn sockets_for_another_process_are_not_ours() {
        assert!(is_ours(Some("7"), 7));
        for pid in [None, Some(""), Some("8"), Some("x")] {
            assert!(!is_ours(pid, 7), "{pid:?}");
        }
    }

    #[tokio::test]
    async fn a_listener_that_went_leaves_the_socket_to_the_next() {
        let inherited = Inherited::new("epmd", socket("127.0.0.1:0")).unwrap();
        drop(inherited.listener().unwrap());
        let mut again: Listener = inherited.listener().unwrap();
        assert_eq!(again.local_addr(), inherited.local_addr());
        let addr = inherited.local_addr();
        let client = std::thread::spawn(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.connect(&addr.into()).unwrap();
            socket.local_addr().unwrap().as_socket().unwrap()
        });
        let accepted = again.accept().await;
        assert_eq!(accepted.arrival.peer, client.join().unwrap().into());
    }

    #[test]
    fn what_the_configuration_has_behind_the_guard_or_does_not_forward_is_refused() {
        let config = config("[epmd]\nbackend = \"127.0.0.1\"\n[dist]\nports = \"9100-9105\"");
        let check_one = |name: &str, at: SocketAddr| {
            let inherited = Inherited { addr: at, ..Inherited::new(name, socket("127.0.0.1:0")).unwrap() };
            check(&[inherited], &config)
        };
        let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        check_one("epmd", at([192, 0, 2, 1], 4369)).unwrap();
        check_one("dist", at([192, 0, 2, 1], 9100)).unwrap();
        let refused = check_one("epmd", at([127, 0, 0, 1], 4369));
        assert!(matches!(refused, Err(ActivationError::Backend { .. })), "{refused:?}");
        let refused = check_one("dist", at([127, 0, 0, 1], 9100));
        assert!(matches!(refused, Err(ActivationError::Backend { .. })), "{refused:?}");
        let refused = check_one("dist", at([192, 0, 2, 1], 22));
        assert!(matches!(refused, Err(ActivationError::NotForwarded { .. })), "{refused:?}");
        let registered = self::config("[dist]\nports = \"registered\"");
        let socket_of_node = Inherited::new("dist", socket("127.0.0.1:0")).unwrap();
        let passed = [Inherited { addr: at([192, 0, 2, 1], 9100), ..socket_of_node }];
        let forwarded = |backend: &str| {
            self::config(&format!("[[forward]]\nkind = \"tcp\"\nports = 9100\nbackend = \"{backend}\""))
        };
        check(&passed, &forwarded("127.0.0.1")).unwrap();
        let there = crate::config::Forward {
            listen: Vec::new(),
            backend: vec!["192.0.2.1".parse().unwrap()],
            ..forwarded("127.0.0.1").forwards[0].clone()
        };
        let there = Config { forwards: vec![there], ..forwarded("127.0.0.1") };
        assert!(matches!(check(&passed, &there), Err(ActivationError::Backend { .. })));
        let refused = check(&passed, &registered).unwrap_err();
        assert!(matches!(refused, ActivationError::NotListed { .. }), "{refused:?}");
        assert!(refused.help().contains("list the port in [dist] ports"));
        let twice = [1, 2].map(|_| Inherited {
            addr: at([192, 0, 2, 1], 4369),
            ..Inherited::new("epmd", socket("127.0.0.1:0")).unwrap()
        });
        assert!(matches!(check(&twice, &config), Err(ActivationError::Twice { .. })));
    }
}
