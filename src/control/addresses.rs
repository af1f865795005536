//! Where this host can be reached: by peers on its interfaces' addresses, by itself where its own names
//! lead. Looked up beside the front, which must not wait for a resolver.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use crate::transport::host::{self, ResolveError};

/// How often they are looked up.
const EVERY: Duration = Duration::from_secs(5);

/// What is known at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The interfaces' addresses that peers can reach.
    pub(super) interfaces: Vec<IpAddr>,
    /// The addresses of ours that our own names resolve to.
    pub(super) own_names: Vec<IpAddr>,
    /// 127.0.0.1 and ::1, as far as this host has them.
    pub(super) loopbacks: Vec<IpAddr>,
}

impl Addresses {
    /// What is known at once, without a resolver: the first look at the ports is to find the interfaces.
    pub(super) fn of_interfaces() -> Self {
        let interfaces = host::addresses().unwrap_or_default();
        Self { interfaces, own_names: Vec::new(), loopbacks: host::loopbacks() }
    }
}

/// Follows the interfaces for ever.
pub(super) async fn follow_interfaces(known: watch::Sender<Addresses>) {
    let mut told = false;
    loop {
        match host::addresses() {
            Ok(interfaces) => {
                told = false;
                let loopbacks = host::loopbacks();
                update(&known, |known| (known.interfaces, known.loopbacks) = (interfaces, loopbacks));
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, "addresses_unreadable")
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Follows the host's own names for ever. One look-up at a time, however long it takes; a resolver that
/// fails keeps the last answer of each name.
pub(super) async fn follow_own_names(known: watch::Sender<Addresses>) {
    let mut answers: HashMap<String, Vec<IpAddr>> = HashMap::new();
    let mut told = false;
    loop {
        let looked = tokio::task::spawn_blocking(|| {
            let names = host::own_names().unwrap_or_default();
            names.into_iter().map(|name| (host::own_addresses_of(&name), name)).collect::<Vec<_>>()
        });
        let looked = looked.await.unwrap_or_default();
        told &= looked.iter().any(|(answer, _)| matches!(answer, Err(ResolveError::Failed(_))));
        answers.retain(|name, _| looked.iter().any(|(_, asked)| asked == name));
        for (answer, name) in looked {
            match answer {
                Ok(ips) => drop(answers.insert(name, ips)),
                Err(ResolveError::NoSuchName) => drop(answers.remove(&name)),
                Err(error @ ResolveError::Failed(_)) => {
                    if !std::mem::replace(&mut told, true) {
                        let help = "put this host's name into /etc/hosts: its own tools dial it";
                        tracing::warn!(name = name.escape_default().to_string(), %error, help, "own_name_not_resolved");
                    }
                }
            }
        }
        let mut own_names: Vec<IpAddr> = answers.values().flatten().copied().collect();
        own_names.sort_unstable();
        own_names.dedup();
        update(&known, |known| known.own_names = own_names);
        tokio::time::sleep(EVERY).await;
    }
}

fn update(known: &watch::Sender<Addresses>, change: impl FnOnce(&mut Addresses)) {
    known.send_if_modified(|known| {
        let before = known.clone();
        change(known);
        *known != before
    });
}
