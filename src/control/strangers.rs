//! Why a host that should be a peer is not: it dialled from an address that its name does not mean.
//!
//! Works beside the connections, one address at a time; nothing is decided here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::policy::{List, Policy};
use crate::session::{Context, Snapshots};
use crate::telemetry::{Again, RefusalLog};
use crate::transport::host;

/// The longest that the resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Look-ups that may hang at one time, each keeping a thread: a stranger's own name server may be slow.
const LOOKUPS: usize = 4;

/// How often refusals that were not shown are counted out.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Tells for ever how often was refused what had been told once.
pub async fn tell_of_quiet_refusals(context: Arc<Context>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        for Again { source, reason, count } in context.refusals.sweep(Instant::now()) {
            tracing::info!(peer = shown(source), reason, count, "refused_again");
        }
        for Again { source, reason, count } in context.would_refuse.sweep(Instant::now()) {
            tracing::info!(peer = shown(source), reason, count, "would_refuse_again");
        }
    }
}

fn shown(source: Option<IpAddr>) -> String {
    match source {
        Some(ip @ IpAddr::V4(_)) => ip.to_string(),
        Some(ip @ IpAddr::V6(_)) => format!("{ip}/64"),
        None => "others".to_owned(),
    }
}

/// Explains refused addresses until their sender is gone; each address once a minute at most.
pub async fn explain_strangers(mut refused: mpsc::Receiver<IpAddr>, snapshots: Snapshots) {
    let explained = RefusalLog::default();
    let lookups = Arc::new(Semaphore::new(LOOKUPS));
    while let Some(ip) = refused.recv().await {
        explained.sweep(Instant::now());
        if !explained.note(ip, "explained", Instant::now()) {
            continue;
        }
        let Ok(lookup) = Arc::clone(&lookups).try_acquire_owned() else { continue };
        let current = Arc::clone(&snapshots.current().policy);
        let looking = tokio::task::spawn_blocking(move || {
            let why = explain(ip, &current);
            drop(lookup);
            why
        });
        if let Ok(Ok(Some(why))) = tokio::time::timeout(PATIENCE, looking).await {
            tracing::info!(peer = %ip, why, "refusal_explained");
        }
    }
}

/// What the resolver knows of the host behind a refused address, if the policy knows that host.
///
/// The owner of an address makes its reverse name what he likes. So what follows from it is told as what
/// it is, and only a name that leads back to the address counts as the address's own.
fn explain(ip: IpAddr, policy: &Policy) -> Option<String> {
    let name = host::reverse(ip)?;
    let shown = name.escape_default();
    let rules = policy.network();
    let configured =
        rules.host_names().find(|(_, list, host)| *list == List::Allow && means(&name, host.as_str()));
    if let Some((rule, _, host)) = configured {
        let known = join(&policy.answers().addresses(rule));
        let claim = "(that it is the same host is its reverse name's claim)";
        return Some(if known.is_empty() {
            format!("{host} has no address yet, and {ip} calls itself {shown} {claim}")
        } else {
            format!("{ip} is not among the addresses of {host} ({known}) {claim}")
        });
    }
    let all = host::resolve(&name).ok()?;
    if !all.contains(&ip) {
        return None;
    }
    let allowed: Vec<IpAddr> =
        all.into_iter().filter(|other| *other != ip && policy.allows(*other)).collect();
    let known = join(&allowed);
    (!known.is_empty()).then(|| format!("{ip} is not allowed, though {known} of the same host {shown} is"))
}

/// Whether a name of the resolver is the configured one; a short name means its full form in any domain.
fn means(found: &str, configured: &str) -> bool {
    let found = found.trim_end_matches('.').to_ascii_lowercase();
    let is_full_form = || found.strip_prefix(configured).is_some_and(|rest| rest.starts_with('.'));
    found == configured || (!configured.contains('.') && is_full_form())
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_means_its_full_form_and_nothing_longer() {
        assert!(means("H2.test.", "h2.test"));
        assert!(means("h2.test", "h2"));
        assert!(!means("h22.test", "h2"));
        assert!(!means("h2", "h2.test"));
        assert!(!means("h2.test.evil.example", "h2.test"));
    }
}
