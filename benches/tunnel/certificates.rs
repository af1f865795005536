//! The certificates of both ends, for guards and for haproxy alike.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// The end at which links come in, and the one with the node behind it.
pub(crate) const NAMES: [&str; 2] = ["h1.test", "h2.test"];

/// A folder with `NAME.cert`, `NAME.key` and `NAME.pem` (both in one, for haproxy), and `ca`.
#[derive(Debug)]
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().expect("making a temporary directory");
        let mut ca = called("bench CA", Vec::new());
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let made = Self(dir);
        write(&made.file("ca"), &ca.pem());
        for name in NAMES {
            let key = KeyPair::generate().expect("a key");
            let params = called(name, vec![name.to_owned()]);
            let (cert, key) =
                (params.signed_by(&key, &ca).expect("a certificate").pem(), key.serialize_pem());
            write(&made.file(&format!("{name}.cert")), &cert);
            write(&made.file(&format!("{name}.key")), &key);
            write(&made.file(&format!("{name}.pem")), &(cert + &key));
        }
        made
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A subject of its own for each: OpenSSL takes a certificate whose subject is that of its issuer for self-signed.
fn called(subject: &str, names: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a temporary directory can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}
