//! Why a host that should be a peer is not: it dialled from an address that its name does not mean.
//!
//! Works beside the connections, one address at a time; nothing is decided here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::policy::{List, Policy};
use crate::telemetry::RefusalLog;
use crate::transport::host;

/// The longest that the resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Explains refused addresses until their sender is gone; each address once a minute at most.
pub async fn explain_strangers(mut refused: mpsc::Receiver<IpAddr>, policy: watch::Receiver<Arc<Policy>>) {
    let explained = RefusalLog::default();
    while let Some(ip) = refused.recv().await {
        explained.sweep(Instant::now());
        if !explained.note(ip, "explained", Instant::now()) {
            continue;
        }
        let current = Arc::clone(&policy.borrow());
        let looking = tokio::task::spawn_blocking(move || explain(ip, &current));
        if let Ok(Ok(Some(why))) = tokio::time::timeout(PATIENCE, looking).await {
            tracing::info!(peer = %ip, why, "refusal_explained");
        }
    }
}

/// What the resolver knows of the host behind a refused address, if the policy knows that host.
fn explain(ip: IpAddr, policy: &Policy) -> Option<String> {
    let name = host::reverse(ip)?;
    let shown = name.escape_default();
    let rules = policy.network();
    let configured =
        rules.host_names().find(|(_, list, host)| *list == List::Allow && means(&name, host.as_str()));
    if let Some((rule, _, host)) = configured {
        let known = join(&policy.answers().addresses(rule));
        return Some(if known.is_empty() {
            format!("{ip} calls itself {shown}, but {host} does not resolve to any address")
        } else {
            format!("{ip} is not among the addresses of {host} ({known})")
        });
    }
    let mut others = host::resolve(&name).ok()?;
    others.retain(|other| *other != ip && policy.allows(*other));
    let known = join(&others);
    (!known.is_empty()).then(|| {
        format!("{ip} is not allowed, but {known} of the same host {shown} is: allow {ip} too, or the name")
    })
}

/// Whether a name of the resolver is the configured one, or its full form.
fn means(found: &str, configured: &str) -> bool {
    let found = found.trim_end_matches('.').to_ascii_lowercase();
    found == configured || found.strip_prefix(configured).is_some_and(|rest| rest.starts_with('.'))
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
    }
}
