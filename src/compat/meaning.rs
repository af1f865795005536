//! What the configuration of the guard means to a process that was started as `epmd`.
//!
//! Such a process runs as the user of whichever node came first. It may not be able to read the file, and it is no
//! daemon that an operator has set up: it serves this host in any case, and says what is needed to serve others.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::arguments::Settings;
use crate::config::{
    CommandCheck, Config, EpmdBackend, Files, ListenOn, LoadError, Loaded, Log, LogFormat, Overrides, Source,
    defaults, one_line,
};
use crate::policy::SelfAt;

/// What follows from the arguments and the file.
#[derive(Debug)]
pub(super) struct Meaning {
    /// The configuration; only `[cluster]`, `[[peer]]`, `[epmd]` and `[limits]` of it count.
    pub(super) config: Config,
    /// Where to listen, in this order.
    pub(super) places: Vec<Place>,
    /// Why nobody but this host is served, and what to do about it.
    pub(super) alone: Option<String>,
}

/// An address to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) told_by: ToldBy,
}

/// Who wants an address to be listened at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToldBy {
    /// `-address` or `ERL_EPMD_ADDRESS`.
    Caller,
    /// The configuration, which whoever starts a node did not write.
    File,
    /// Nobody: nodes need loopback.
    Nobody,
}

impl Meaning {
    pub(super) fn of(settings: &Settings, source: &Source) -> Self {
        let file = one_line(&source.path().display().to_string());
        let (mut config, alone) = match load(source) {
            Ok(None) => {
                let why = format!(
                    "there is no {file}, so that only this host is served; to let other hosts in, write [cluster] and \
                     allow = [\"192.0.2.0/24\"] into it, and start epmd again"
                );
                (on_its_own(), Some(why))
            }
            Err(error) => {
                let why = format!(
                    "{error}; until epmd can read it and is started again, only this host is served (`epmd-guard check` \
                     tells all that is wrong with it)"
                );
                (on_its_own(), Some(why))
            }
            Ok(Some(loaded)) => {
                let nobody = loaded.config.cluster.network.book().is_empty();
                let why = format!(
                    "[cluster] allow in {file} is empty, so that only this host is served; name the other hosts there, and \
                     start epmd again"
                );
                (loaded.config, nobody.then_some(why))
            }
        };
        let places = places(settings, &config);
        if config.epmd.backend != EpmdBackend::Embedded {
            // This is the epmd that the file means: [epmd] is about the guard in front, which tells this host from peers.
            config.epmd.self_at = SelfAt::Everywhere;
            config.epmd.backend = EpmdBackend::Embedded;
        }
        if settings.relaxed {
            config.epmd.command_check = CommandCheck::Relaxed;
        }
        if let Some(timeout) = settings.packet_timeout {
            config.limits.request_timeout = timeout;
        }
        let level = match settings.debug {
            0 => tracing::Level::WARN,
            1 => tracing::Level::INFO,
            _ => tracing::Level::DEBUG,
        };
        config.log = Log { format: LogFormat::Text, level };
        Self { config, places, alone }
    }
}

/// What the file says, if there is one; otherwise one clause about why not.
fn load(source: &Source) -> Result<Option<Loaded>, String> {
    let path = source.path();
    // Whoever writes to a pipe may never come, and a node waits.
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(format!("{} is no regular file", one_line(&path.display().to_string())));
    }
    let text = match source.read() {
        // Also where a variable names it: the cure is the same.
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| error.brief())?,
    };
    let Some(text) = text else { return Ok(None) };
    let (loaded, _) = source.understand(Some(&text), Files::Leave).map_err(|error| error.brief())?;
    Ok(Some(loaded))
}

fn on_its_own() -> Config {
    defaults(&Overrides::default()).config
}

/// Where to listen: where epmd is told to, otherwise where the file says; both loopbacks always.
fn places(settings: &Settings, config: &Config) -> Vec<Place> {
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let everywhere = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let (told, told_by) = match (&settings.addresses, config.epmd.backend) {
        (Some(addresses), _) => (addresses.clone(), ToldBy::Caller),
        // A guard stands in front of the epmd that this is to be.
        (None, EpmdBackend::At(addr)) => (vec![addr.ip()], ToldBy::File),
        (None, EpmdBackend::Embedded) => {
            let on = config.epmd.listen.iter().map(|(on, _)| *on);
            let ips = on.flat_map(|on| match on {
                ListenOn::Everywhere => everywhere.to_vec(),
                ListenOn::Ip(ip) => vec![ip],
            });
            (ips.collect(), ToldBy::File)
        }
    };
    let loopbacks = loopbacks.map(|ip| Place { ip, told_by: ToldBy::Nobody });
    let wanted: Vec<Place> = told.into_iter().map(|ip| Place { ip, told_by }).chain(loopbacks).collect();
    // One that is on all addresses of its family has these too, wherever it stands in the list; they would collide.
    let is_covered = |ip: IpAddr| {
        let everywhere = |other: &Place| other.ip.is_unspecified() && other.ip.is_ipv4() == ip.is_ipv4();
        !ip.is_unspecified() && wanted.iter().any(everywhere)
    };
    let mut all: Vec<Place> = Vec::new();
    for place in wanted.iter().filter(|place| !is_covered(place.ip)) {
        if !all.iter().any(|other| other.ip == place.ip) {
            all.push(*place);
        }
    }
    all
}
