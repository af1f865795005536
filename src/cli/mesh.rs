//! `check --mesh`: would the hosts of the cluster let each other in, each with its own file?

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::explain::resolve;
use crate::config::{Color, Config, Files, Overrides, Source};
use crate::control::mesh::{Dials, Gap, MeshHost, addresses_of, gaps};
use crate::policy::{PeerId, Policy};
use crate::transport::host;

/// A peer's name and the file that its guard runs with.
#[derive(Debug, Clone)]
pub(super) struct PeerFile {
    name: String,
    path: PathBuf,
}

impl FromStr for PeerFile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            Some(_) | None => Err("write PEER=FILE: the name of a [[peer]], and the file of its guard"),
        }
    }
}

/// The pairs that cannot talk, where this host runs with `own` and each peer with its file.
pub(super) fn check(own: &Config, files: &[PeerFile], color: Color) -> Result<Vec<Gap>, String> {
    let policy = policy_of(own);
    let mut hosts = Vec::new();
    for (at, peer) in (0..).zip(&own.peers) {
        let Some(file) = files.iter().find(|file| file.name == peer.name) else { continue };
        let source = Source { path: Some(file.path.clone()), overrides: Overrides::default() };
        let (loaded, _) = source.load_with(Files::Leave).map_err(|error| error.render(color))?;
        let addresses = Dials::From(addresses_of(&policy, PeerId(at)));
        hosts.push(MeshHost { name: peer.name.clone(), addresses, policy: policy_of(&loaded.config) });
    }
    if let Some(file) = files.iter().find(|file| own.peers.iter().all(|peer| peer.name != file.name)) {
        return Err(format!(
            "epmd-guard: {} is no [[peer]] of this configuration, so that its addresses are not known",
            file.name
        ));
    }
    // As peers see it; where this is not the host that is meant, its file's listeners say where it is.
    let listed: Vec<IpAddr> = own.epmd.listen.iter().filter_map(|(on, _)| on.ip()).collect();
    let all = if listed.is_empty() { host::addresses().unwrap_or_default() } else { listed };
    hosts.push(MeshHost { name: "this host".to_owned(), addresses: Dials::FromSomeOf(all), policy });
    if let Some(unknown) = hosts.iter().find(|host| host.addresses.addresses().is_empty()) {
        return Err(format!(
            "epmd-guard: no single address of {} is known, so that it cannot be told who lets it in: give its \
             [[peer]] an address, or a name that resolves",
            unknown.name
        ));
    }
    Ok(gaps(&hosts))
}

fn policy_of(config: &Config) -> Policy {
    let policy = Policy::new(config.rules());
    let answers = resolve(policy.network());
    policy.with_answers(answers)
}
