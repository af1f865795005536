//! What TLS costs between two guards: sealing and opening 512 KiB, and a handshake, whole and resumed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run panics"
)]

use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use epmd_guard::config::{CrlRules, TlsFiles};
use epmd_guard::transport::tls::{Block, Credentials, Material, Stage, TlsEnd, UnixTime, Usage, sealed_len};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// What is moved at once.
const PIECE: usize = 512 * 1024;

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A host and its CA, which it is alone with: it talks to itself.
fn credentials() -> Credentials {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["h1.test".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    write(&path("cert"), &cert.pem());
    write(&path("key"), &key.serialize_pem());
    write(&path("ca"), &ca.pem());
    let files = TlsFiles { cert: path("cert"), key: path("key"), ca: path("ca"), crl: Vec::new() };
    let material = Material::read(&files, CrlRules::default()).unwrap();
    Credentials::new(material, &[b"bench/1"]).unwrap()
}

/// Two ends after their handshake, the dialling one first.
fn shaken(credentials: &Credentials, peer: &str) -> (TlsEnd, TlsEnd) {
    let mut client = TlsEnd::client(credentials.client(peer)).unwrap();
    let mut server = TlsEnd::server(credentials.server()).unwrap();
    let (mut to_client, mut to_server) = (Block::default(), Block::default());
    let mut stages = (Stage::Handshaking, Stage::Handshaking);
    while stages != (Stage::Ready, Stage::Ready) {
        stages.0 = client.advance(&mut to_client, &mut to_server).unwrap();
        stages.1 = server.advance(&mut to_server, &mut to_client).unwrap();
    }
    client.open(to_client.filled_mut(), |_| {}).unwrap();
    (client, server)
}

fn traffic(criterion: &mut Criterion) {
    let (mut client, mut server) = shaken(&credentials(), "h1");
    let data = vec![0x5a; PIECE];
    let mut sealed = Block::with_room(sealed_len(PIECE));
    let mut group = criterion.benchmark_group("tls");
    group.throughput(Throughput::Bytes(PIECE.try_into().unwrap()));
    group.bench_function("seal and open 512 KiB", |bencher| {
        bencher.iter(|| {
            client.seal(black_box(&data), &mut sealed).unwrap();
            let mut opened = 0;
            let done = server.open(sealed.filled_mut(), |piece| opened += black_box(piece).len()).unwrap();
            sealed.consume(done.discard);
            assert_eq!((opened, sealed.len()), (PIECE, 0));
        });
    });
    group.finish();
}

fn handshakes(criterion: &mut Criterion) {
    let credentials = credentials();
    let chain = shaken(&credentials, "h1").0.facts().unwrap().chain.to_vec();
    let mut group = criterion.benchmark_group("tls handshake");
    let mut peer = 0_u64;
    group.bench_function("whole", |bencher| {
        bencher.iter(|| {
            // A peer of its own has no session yet.
            peer += 1;
            let (client, _server) = shaken(&credentials, &peer.to_string());
            assert!(!client.facts().unwrap().resumed);
        });
    });
    group.bench_function("resumed", |bencher| {
        bencher.iter(|| {
            let (client, _server) = shaken(&credentials, "h1");
            assert!(client.facts().unwrap().resumed);
        });
    });
    group.bench_function("check of a chain that was seen", |bencher| {
        let now = UnixTime::now();
        bencher.iter(|| credentials.verifier().check(black_box(&chain), Usage::Client, now).unwrap());
    });
    group.finish();
}

criterion_group!(benches, traffic, handshakes);
criterion_main!(benches);
