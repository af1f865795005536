//! Links through tunnels, with real certificates, and what reloads and other lists of revoked ones make of them.

use super::*;
use crate::config::Config;
use crate::policy::{Audience, Policy};
use crate::transport::tls::testing::{Ca, DAY, Host, Issued};
use crate::transport::tls::{Credentials, Material, Usage};
use crate::transport::tunnel::Shown;

const ALPN: &[u8] = b"test/1";

fn config() -> Config {
    let text = "[dist]\nports = [9100]\n[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n\
                [[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\n";
    let mut config = crate::config::from_text("test", text, &Default::default()).unwrap().config;
    config.peers[0].identity = vec![San::Dns("h2.test".to_owned())];
    config.peers[1].identity = vec![San::Dns("h3.test".to_owned())];
    for peer in &mut config.peers {
        peer.tls = Some(TlsMode::Optional);
    }
    config
}

fn credentials(host: &Host) -> Arc<Credentials> {
    let material = Material::read(host.tls.files.as_ref().unwrap(), host.tls.crl).unwrap();
    Arc::new(Credentials::new(material, &[ALPN]).unwrap())
}

fn generation(number: u64, config: &Config, credentials: &Arc<Credentials>) -> Snapshot {
    Snapshot::new(number, Arc::new(config.clone())).with_credentials(Some(Arc::clone(credentials)))
}

/// A link of h2 to us, or of ours to h2.
fn link(id: u64, policy: &Policy, toward: Option<&str>, shown: Option<&Shown>) -> Link {
    let (from, to) =
        if toward.is_some() { ("127.0.0.1:5", "127.0.0.12:9100") } else { ("192.0.2.2:5", "192.0.2.1:9100") };
    let socket = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    let arrival = Arrival { peer: socket(from).into(), local: socket(to).into() };
    let comes_by_tunnel = toward.is_none() && shown.is_some();
    let role = if comes_by_tunnel { Role::Tunnel } else { Role::Dist };
    let mut admission = policy.admit(&arrival, role, Audience::Peers).unwrap();
    let last = LastShown::default();
    last.set(shown.cloned());
    let sans: Arc<[San]> = shown.map(|shown| Arc::clone(&shown.sans)).unwrap_or_default();
    if comes_by_tunnel {
        admission = policy.identify(&admission, &sans).unwrap();
    }
    let service = Service {
        audience: Audience::Peers,
        inside: 9100,
        nodes: Arc::default(),
        toward: toward.map(Into::into),
    };
    Link {
        id,
        arrival,
        role: Role::Dist,
        inside: 9100,
        node: None,
        nodes: Arc::default(),
        sans,
        shown: last,
        toward: toward.map(Into::into),
        tunnel: None,
        heard: Heard::Closed,
        since: SystemTime::now(),
        begun: Instant::now(),
        port: watch::channel(service).1,
        traffic: Traffic::default(),
        held: Mutex::new(Held { admission, generation: 1 }),
        revoked: OnceLock::new(),
        ended: CancellationToken::new(),
    }
}

fn shown(issued: &Issued, usage: Usage, by: &Arc<Credentials>) -> Shown {
    let sans = [San::Dns("h2.test".to_owned())];
    Shown::new(std::slice::from_ref(&issued.der), &sans, usage, by)
}

/// h2 and what it has shown in and out, with our own host.
struct Cluster {
    ca: Ca,
    host: Host,
    h2: Issued,
    by: Arc<Credentials>,
}

impl Cluster {
    /// The certificate of h2 has ended since it was shown.
    fn new() -> Self {
        let ca = Ca::new("ca");
        let host = Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca);
        let h2 = ca.issue("h2.test", 2, (-9 * DAY, -DAY));
        let by = credentials(&host);
        Self { ca, host, h2, by }
    }

    fn links(&self) -> (Links, Metrics) {
        let (links, metrics) = (Links::default(), Metrics::new());
        let first = generation(1, &config(), &self.by);
        let [inward, outward] = [Usage::Client, Usage::Server].map(|usage| shown(&self.h2, usage, &self.by));
        for (id, toward, shown) in [
            (1, None, Some(&inward)),
            (2, Some("h2"), Some(&outward)),
            (3, None, None),
            (4, Some("h2"), None),
        ] {
            // They stay until the test ends.
            std::mem::forget(links.enter(link(id, &first.policy, toward, shown), &metrics));
        }
        (links, metrics)
    }

    fn with_crl(self, serials: &[u64], good: (i64, i64)) -> Self {
        let list = self.ca.revoke(serials, good);
        Self { host: self.host.with_crl(&list), ..self }
    }
}

fn told(cut: &[Cut]) -> Vec<(u64, &'static str)> {
    cut.iter().map(|cut| (cut.link.id, cut.denial.label())).collect()
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_links_in_and_out_and_an_expired_one_or_a_stale_list_none() {
    let cluster = Cluster::new();
    let (links, _) = cluster.links();
    let next = generation(1, &config(), &cluster.by);
    assert_eq!(told(&links.follow_credentials(&next)), []);
    // A list that is stale and has another one on it, and another CA instead of ours.
    let cluster = cluster.with_crl(&[7], (-9 * DAY, -DAY));
    let stale = generation(1, &config(), &credentials(&cluster.host));
    assert_eq!(told(&links.follow_credentials(&stale)), []);
    let other = Ca::new("ca");
    let without =
        Host::new(&other.issue("h1.test", 1, (-DAY, DAY)), &other).with_crl(&other.revoke(&[2], (-DAY, DAY)));
    let without = generation(1, &config(), &credentials(&without));
    assert_eq!(told(&links.follow_credentials(&without)), [], "that one is of another CA of this name");
    // What was revoked stays so, however old the list is.
    cluster.host.write("crl.pem", &cluster.ca.revoke(&[7, 2], (-9 * DAY, -DAY)));
    let revoked = generation(1, &config(), &credentials(&cluster.host));
    let expected = [(1, "certificate_revoked"), (2, "certificate_revoked")];
    assert_eq!(told(&links.follow_credentials(&revoked)), expected);
    assert_eq!(links.all()[0].revoked().await, Denial::CertificateRevoked);
}

#[test]
fn a_reload_tells_of_links_whose_certificate_it_revokes() {
    let cluster = Cluster::new();
    let (links, _) = cluster.links();
    let before = generation(1, &config(), &cluster.by);
    let cluster = cluster.with_crl(&[2], (-DAY, DAY));
    let next = generation(2, &config(), &credentials(&cluster.host));
    let expected = [(1, "certificate_revoked"), (2, "certificate_revoked")];
    assert_eq!(told(&links.would_cut(&next, &before)), expected);
    assert_eq!(told(&links.follow(&next, &before)), expected);
    assert_eq!(told(&links.follow(&next, &before)), expected, "they have not ended yet");
}

#[test]
fn a_link_that_has_got_a_leg_with_another_certificate_outlives_the_one_before() {
    let cluster = Cluster::new();
    let (links, _) = cluster.links();
    let renewed = cluster.ca.issue("h2.test", 3, (-DAY, DAY));
    links.all()[0].shown.set(Some(shown(&renewed, Usage::Client, &cluster.by)));
    let cluster = cluster.with_crl(&[2], (-DAY, DAY));
    let next = generation(1, &config(), &credentials(&cluster.host));
    assert_eq!(told(&links.follow_credentials(&next)), [(2, "certificate_revoked")]);
}

#[test]
fn links_end_whose_peer_is_gone_or_is_to_be_reached_otherwise() {
    let cluster = Cluster::new();
    let (links, _) = cluster.links();
    let before = generation(1, &config(), &cluster.by);
    let cut = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        told(&links.would_cut(&generation(2, &config, &cluster.by), &before))
    };
    assert_eq!(cut(&|_| {}), []);
    assert_eq!(cut(&|config| config.peers[0].tls = Some(TlsMode::Off)), [(1, "tls_off"), (2, "tls_off")]);
    let required = [(3, "tls_required"), (4, "tls_required")];
    assert_eq!(cut(&|config| config.peers[0].tls = Some(TlsMode::Required)), required);
    let renamed = |config: &mut Config| config.peers[0].name = "other".to_owned();
    assert_eq!(cut(&renamed), [(2, "port_not_offered"), (4, "port_not_offered")]);
    let unnamed = |config: &mut Config| config.peers[0].identity = vec![San::Dns("x.test".to_owned())];
    assert_eq!(cut(&unnamed), [(1, "unknown_identity"), (2, "unknown_identity")]);
    let swapped = |config: &mut Config| {
        let first = config.peers[0].identity.clone();
        config.peers[0].identity = std::mem::replace(&mut config.peers[1].identity, first);
    };
    assert_eq!(cut(&swapped), [(1, "wrong_identity"), (2, "wrong_identity")]);
    // What is established goes on also where no new tunnel can be made.
    let none = Snapshot::new(2, Arc::new(config()));
    assert_eq!(told(&links.would_cut(&none, &before)), []);
}

#[test]
fn a_link_that_was_resumed_is_judged_by_where_it_comes_from_now_and_by_its_last_certificate() {
    let cluster = Cluster::new();
    let (links, _) = cluster.links();
    let config = |peer: &str| {
        let text = format!("[dist]\nports = [9100]\n[[peer]]\nname = \"h2\"\n{peer}");
        let mut config = crate::config::from_text("test", &text, &Default::default()).unwrap().config;
        config.peers[0].tls = Some(TlsMode::Optional);
        config.peers[0].identity = ["h2.test", "new.test"].map(|name| San::Dns(name.to_owned())).into();
        config
    };
    let both = config("addresses = [\"192.0.2.2\", \"192.0.2.22\"]\n");
    let before = generation(1, &both, &cluster.by);
    let renewed = cluster.ca.issue("new.test", 3, (-DAY, DAY));
    let names = [San::Dns("new.test".to_owned())];
    let moved = Shown::new(std::slice::from_ref(&renewed.der), &names, Usage::Client, &cluster.by);
    let from = std::net::SocketAddr::from(([192, 0, 2, 22], 6));
    links.all()[0].shown.set(Some(moved.came_from(from.into())));
    assert_eq!((links.all()[0].peer(), &*links.all()[0].sans()), (from.into(), &names[..]));
    let of_first = |config: &Config| {
        let cut = links.would_cut(&generation(2, config, &cluster.by), &before);
        told(&cut).into_iter().find(|(id, _)| *id == 1).map(|(_, why)| why)
    };
    let mut alone = config("addresses = [\"192.0.2.22\"]\n");
    assert_eq!(of_first(&alone), None);
    alone.peers[0].identity.remove(0);
    assert_eq!(of_first(&alone), None);
    assert_eq!(of_first(&config("addresses = [\"192.0.2.2\"]\n")), Some("not_allowed"));
    let denied = |ip: &str| {
        let peer = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\", \"192.0.2.22\"]\n";
        let text = format!("[cluster]\ndeny = [\"{ip}\"]\n[dist]\nports = [9100]\n{peer}");
        let mut config = crate::config::from_text("test", &text, &Default::default()).unwrap().config;
        (config.peers[0].tls, config.peers[0].identity) = (both.peers[0].tls, both.peers[0].identity.clone());
        config
    };
    assert_eq!([of_first(&denied("192.0.2.22")), of_first(&denied("192.0.2.2"))], [Some("denied"), None]);
}
