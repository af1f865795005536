//! Two guards, real sockets and real certificates, with somebody between them who cuts.
#![expect(
    clippy::disallowed_methods,
    reason = "nodes, and who is between them, listen and dial as they like"
)]

mod broken;
mod versions;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::config::{Connect, ConnectTo, CrlRules, TlsFiles};
use crate::policy::{IdentityRules, PeerId, San, TlsMode};
use crate::proto::tunnel::{ALPN, Kind, LinkId, Refusal};
use crate::transport::tls::{Credentials, Material};
use crate::transport::traffic::Traffic;
use crate::transport::wire::Wire;
use crate::transport::{BufferPool, Ended, How, Relay, Side};

const REPLAY: usize = 1024 * 1024;

/// A CA and what two hosts have of it.
fn trusts() -> [Trust; 2] {
    trusts_of([&[ALPN], &[ALPN]])
}

/// The same of guards that speak these protocols.
fn trusts_of(protocols: [&[&[u8]]; 2]) -> [Trust; 2] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names = ["h1.test", "h2.test"];
    let peers: Vec<_> =
        names.iter().map(|name| (vec![San::Dns((*name).to_owned())], TlsMode::Required)).collect();
    let identities = Arc::new(IdentityRules::new(peers, TlsMode::Off));
    let mut protocols = protocols.into_iter();
    names.map(|name| {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        let files = TlsFiles {
            cert: write("cert", cert.pem()),
            key: write("key", key.serialize_pem()),
            ca: write("ca", ca.pem()),
            crl: Vec::new(),
        };
        let material = Material::read(&files, CrlRules::default()).unwrap();
        let credentials = Arc::new(Credentials::new(material, protocols.next().unwrap()).unwrap());
        Trust { credentials, identities: Arc::clone(&identities) }
    })
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

/// Carries connections to `to` until it is told to cut them, all at once and with resets.
struct Between {
    at: SocketAddr,
    cuts: watch::Sender<u32>,
    closed: Arc<AtomicBool>,
    /// Connections that came while it was.
    turned_away: Arc<AtomicU32>,
}

impl Between {
    async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (cuts, told) = watch::channel(0);
        let closed = Arc::new(AtomicBool::new(false));
        let shut = Arc::clone(&closed);
        let turned_away = Arc::new(AtomicU32::new(0));
        let away = Arc::clone(&turned_away);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if shut.load(SeqCst) {
                    away.fetch_add(1, SeqCst);
                    continue;
                }
                let mut told = told.clone();
                told.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = told.changed() => {
                            crate::transport::reset(&from);
                            crate::transport::reset(&to);
                        }
                    }
                });
            }
        });
        Self { at, cuts, closed, turned_away }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

fn relay() -> Relay {
    Relay {
        buffers: BufferPool::default(),
        half_close_timeout: Duration::from_secs(30),
        resume_for: Duration::from_secs(10),
    }
}

/// The answering guard.
struct Answering {
    at: SocketAddr,
    legs: Arc<AtomicU32>,
    resumed: Arc<AtomicU32>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// One in front of a node that listens at `node`.
async fn answering(trust: Trust, node: SocketAddr) -> Answering {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let resumed = Arc::new(AtomicU32::new(0));
    let legs = Arc::new(AtomicU32::new(0));
    let (count, all) = (Arc::clone(&resumed), Arc::clone(&legs));
    let (tell, ended) = mpsc::unbounded_channel();
    let tunnels = Tunnels::new(64 * REPLAY);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            all.fetch_add(1, SeqCst);
            let (trust, tunnels, count) = (trust.clone(), tunnels.clone(), Arc::clone(&count));
            let tell = tell.clone();
            tokio::spawn(async move {
                let server = trust.credentials.server();
                let Ok(dialled) = Dialled::shake_hands(stream, server, &tunnels).await else { return };
                match dialled.hear(&tunnels, REPLAY).await {
                    Ok(Wish::Open(opening)) => {
                        let (_place, renewal) = tunnels.enter(opening.open.link, &"h1".into()).unwrap();
                        let Ok(Wire::Tunnel(link)) = opening.grant(renewal) else { return };
                        let node = TcpStream::connect(node).await.unwrap();
                        let traffic = Traffic::default();
                        let never = std::future::pending();
                        let ended = relay().carry(*link, (node, Side::Upstream), &traffic, never).await;
                        tell.send(ended).unwrap_or_default();
                    }
                    Ok(Wish::Resume(resuming)) => {
                        if resuming.resume("h1", &tunnels).is_ok() {
                            count.fetch_add(1, SeqCst);
                        }
                    }
                    Ok(Wish::Ask(_)) | Err(_) => {}
                }
            });
        }
    });
    Answering { at, legs, resumed, ended }
}

fn way(to: SocketAddr) -> Way {
    let connect = vec![Connect { host: ConnectTo::Ip(to.ip()), port: to.port() }];
    Way {
        id: PeerId(1),
        peer: "h2".into(),
        mode: TlsMode::Required,
        connect,
        aliases: Arc::default(),
        epmd: 4369,
    }
}

fn redial(way: &Way, trust: &Trust, tunnels: &Tunnels) -> Redial {
    let (way, trust, tunnels) = (way.clone(), trust.clone(), tunnels.clone());
    Box::new(move |link, received| {
        let (way, trust, tunnels) = (way.clone(), trust.clone(), tunnels.clone());
        Box::pin(
            async move { way.resume(&trust, (link, received), (Duration::from_secs(3), &tunnels)).await },
        )
    })
}

/// The dialling guard, which a node has dialled: that node's end, the link's name, and how the link ends.
async fn dialling(
    trust: &Trust,
    to: SocketAddr,
    (tunnels, replay): (&Tunnels, usize),
) -> (TcpStream, LinkId, tokio::task::JoinHandle<Ended>) {
    let (node, stream) = sockets().await;
    let way = way(to);
    let wanted = Wanted {
        kind: Kind::Tcp,
        source: SocketAddr::from(([127, 0, 0, 1], 1)),
        trace: 1,
        redial: redial(&way, trust, tunnels),
        replay,
    };
    let opened = way.open(trust, 9100, wanted, (Duration::from_secs(5), tunnels)).await.unwrap();
    let Wire::Tunnel(link) = opened else { panic!("no tunnel") };
    let name = link.id();
    let carried = tokio::spawn(async move {
        let traffic = Traffic::default();
        relay().carry(*link, (stream, Side::Downstream), &traffic, std::future::pending()).await
    });
    (node, name, carried)
}

struct Scene {
    trust: Trust,
    tunnels: Tunnels,
    between: Between,
    /// The answering guard itself.
    guard: SocketAddr,
    legs: Arc<AtomicU32>,
    resumed: Arc<AtomicU32>,
    ended: mpsc::UnboundedReceiver<Ended>,
    link: LinkId,
    node: TcpStream,
    carried: tokio::task::JoinHandle<Ended>,
    far: TcpStream,
}

async fn scene() -> Scene {
    scene_with(REPLAY).await
}

/// One in which the dialling guard keeps so much.
async fn scene_with(replay: usize) -> Scene {
    let [h1, h2] = trusts();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let answering = answering(h2, listener.local_addr().unwrap()).await;
    let Answering { at: guard, legs, resumed, ended } = answering;
    let between = Between::new(guard).await;
    let tunnels = Tunnels::new(64 * REPLAY);
    let (mut node, link, carried) = dialling(&h1, between.at, (&tunnels, replay)).await;
    let mut far = listener.accept().await.unwrap().0;
    // What comes from there comes behind the leave to be a link.
    far.write_all(b"?").await.unwrap();
    assert_eq!(node.read_u8().await.unwrap(), b'?');
    Scene { trust: h1, tunnels, between, guard, legs, resumed, ended, link, node, carried, far }
}

/// Bytes that are different everywhere.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_once_both_ways_however_often_the_leg_is_cut() {
    let Scene { between, resumed, node, carried, far, .. } = scene().await;
    const LENGTH: usize = 48 * 1024 * 1024;
    let (there, back) = (Arc::new(noise(1, LENGTH)), Arc::new(noise(2, LENGTH)));
    let done = Arc::new(AtomicBool::new(false));
    let both = [(node, Arc::clone(&there), Arc::clone(&back)), (far, back, there)];
    let ends: Vec<_> = both
        .into_iter()
        .map(|(stream, says, hears)| {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let writing = tokio::spawn(async move {
                    to.write_all(&says).await.unwrap();
                    to.shutdown().await.unwrap();
                });
                let mut heard = Vec::new();
                from.read_to_end(&mut heard).await.unwrap();
                writing.await.unwrap();
                assert_eq!(heard.len(), hears.len());
                assert!(heard == *hears);
            })
        })
        .collect();
    let over = Arc::clone(&done);
    let cutting = tokio::spawn(async move {
        while !over.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(60)).await;
            between.cut();
        }
        between
    });
    for end in ends {
        tokio::time::timeout(Duration::from_secs(60), end).await.unwrap().unwrap();
    }
    done.store(true, SeqCst);
    // The last ACK may have been cut off, and come by another leg.
    let _between = cutting.await.unwrap();
    let Ended::By(_, How::Fin) = carried.await.unwrap() else { panic!("it did not end in good order") };
    assert!(resumed.load(SeqCst) > 0);
}

#[tokio::test]
async fn a_reset_of_one_node_is_a_reset_of_the_other_one() {
    let Scene { between: _between, node, carried, mut far, .. } = scene().await;
    crate::transport::reset(&node);
    drop(node);
    let error = far.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(carried.await.unwrap(), Ended::By(Side::Downstream, How::Reset));
}

#[tokio::test]
async fn a_node_that_closes_hears_what_the_other_one_still_has_to_say() {
    let Scene { between: _between, mut node, carried, mut far, .. } = scene().await;
    node.write_all(b"question").await.unwrap();
    node.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    let mut heard = Vec::new();
    node.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"answer");
    assert_eq!(carried.await.unwrap(), Ended::By(Side::Downstream, How::Fin));
}

#[tokio::test]
async fn a_link_that_gets_no_other_leg_in_time_ends_both_its_ends() {
    let Scene { between, node, carried, mut far, .. } = scene().await;
    let mut node = node;
    between.closed.store(true, SeqCst);
    between.cut();
    let error = node.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(carried.await.unwrap(), Ended::LegLost);
    let error = far.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
