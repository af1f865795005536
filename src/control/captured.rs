//! Aliases of peers that this host's own names lead to.
//!
//! Whatever dials this host by its own name, as `ejabberdctl` and remote shells do, would be carried to the peer. Debian
//! leads a host's name to 127.0.1.1, which looks as good an alias as any other.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::FrontView;
use crate::config::Config;
use crate::session::Snapshot;
use crate::transport::host;

/// An alias that one of this host's own names leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The alias.
    pub address: IpAddr,
    /// The `[[peer]]` for whom it stands, by its name.
    pub peer: String,
}

impl Captured {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        format!(
            "give {} another alias, such as \"127.0.0.12\", or have /etc/hosts lead this host's own name elsewhere",
            self.peer
        )
    }
}

/// One clause.
impl fmt::Display for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, peer } = self;
        write!(
            f,
            "this host's own name leads to {address}, which stands for {peer}: what this host dials by its own name goes \
             to {peer}"
        )
    }
}

/// The aliases among the addresses that this host's own names lead to.
#[must_use]
pub(super) fn captured(config: &Config, own_names: &[IpAddr]) -> Vec<Captured> {
    let found = own_names.iter().filter_map(|ip| {
        let peer = config.stands_for(*ip)?;
        Some(Captured { address: *ip, peer: peer.name.clone() })
    });
    found.collect()
}

/// The same by a look-up of now, which may take as long as the resolver does. None is made where there is no alias.
#[must_use]
pub fn captured_now(config: &Config) -> Vec<Captured> {
    if config.peers.iter().all(|peer| peer.alias.is_empty()) {
        return Vec::new();
    }
    let names = host::own_names().unwrap_or_default();
    let mut own: Vec<IpAddr> =
        names.iter().filter_map(|name| host::own_addresses_of(name).ok()).flatten().collect();
    own.sort_unstable();
    own.dedup();
    captured(config, &own)
}

/// Tells of each, once for as long as it lasts.
pub async fn tell_captured(
    mut front: watch::Receiver<FrontView>,
    mut generations: watch::Receiver<Arc<Snapshot>>,
) {
    let mut told = Vec::new();
    loop {
        let own_names = front.borrow_and_update().own_names.clone();
        let config = Arc::clone(&generations.borrow_and_update().config);
        for captured in news(&mut told, captured(&config, &own_names)) {
            let (address, peer, help) = (captured.address, &captured.peer, captured.help());
            tracing::error!(%address, peer, help, "own_name_at_alias");
        }
        let changed = tokio::select! {
            changed = front.changed() => changed,
            changed = generations.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Those that have not been told, which they are from now on.
fn news(told: &mut Vec<Captured>, found: Vec<Captured>) -> Vec<Captured> {
    let before = std::mem::replace(told, found);
    told.iter().filter(|captured| !before.contains(captured)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_that_the_own_name_leads_to_is_told_once_for_as_long_as_it_lasts() {
        let file = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";
        let mut config = crate::config::from_text("test", file, &Default::default()).unwrap().config;
        let own: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "127.0.1.1".parse().unwrap()];
        assert_eq!((captured(&config, &own), captured_now(&config)), (vec![], vec![]));
        config.peers[0].alias = vec!["127.0.0.12".parse().unwrap(), own[1]];
        let found = captured(&config, &own);
        assert_eq!(found, [Captured { address: own[1], peer: "h2".into() }]);
        assert!(found[0].to_string().contains("leads to 127.0.1.1, which stands for h2"));
        assert!(found[0].help().contains("give h2 another alias"));
        let mut told = Vec::new();
        assert_eq!(news(&mut told, found.clone()), found);
        assert_eq!(news(&mut told, found.clone()), []);
        assert_eq!(news(&mut told, vec![]), []);
        assert_eq!(news(&mut told, found.clone()), found);
    }
}
