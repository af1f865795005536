//! A CA and the files of a host for tests of other modules, good today.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::CertificateDer;
use crate::config::{Tls, TlsFiles};

pub(crate) const DAY: i64 = 86_400;

fn moment(from_now: i64) -> SystemTime {
    let distance = Duration::from_secs(from_now.unsigned_abs());
    if from_now < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// A CA.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(name, 1, (-400 * DAY, 4000 * DAY));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = Vec::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate that is good from and until so many seconds from now.
    pub(crate) fn issue(&self, name: &str, serial: u64, good: (i64, i64)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let cert = params(name, serial, good).signed_by(&key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    /// A list of revoked certificates, good from and until so many seconds from now.
    pub(crate) fn revoke(&self, serials: &[u64], good: (i64, i64)) -> String {
        self.list(1, serials, good)
    }

    /// Such a list, with its number.
    pub(crate) fn list(&self, number: u64, serials: &[u64], (from, until): (i64, i64)) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: moment(from).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: moment(from).into(),
            next_update: moment(until).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn params(name: &str, serial: u64, (from, until): (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    (params.not_before, params.not_after) = (moment(from).into(), moment(until).into());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The files of a host.
pub(crate) struct Host {
    folder: tempfile::TempDir,
    pub(crate) tls: Tls,
}

impl Host {
    pub(crate) fn new(issued: &Issued, ca: &Ca) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files =
            TlsFiles { cert: path("cert.pem"), key: path("key.pem"), ca: path("ca.pem"), crl: Vec::new() };
        let host = Self { folder, tls: Tls { files: Some(files), ..Tls::default() } };
        host.show(issued);
        host.write("ca.pem", &ca.pem());
        host
    }

    /// Has another certificate in the place of the one before.
    pub(crate) fn show(&self, issued: &Issued) {
        self.write("key.pem", &issued.key);
        self.write("cert.pem", &issued.cert);
    }

    pub(crate) fn with_crl(mut self, pem: &str) -> Self {
        self.write("crl.pem", pem);
        let path = self.path("crl.pem");
        self.tls.files.as_mut().unwrap().crl.push(path);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }
}

/// Puts a file in the place of one, as what renews certificates does.
pub(crate) fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}
