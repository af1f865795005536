//! CAs, certificates and lists of revoked ones, written as files are.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::*;
use crate::config::{CrlRules, TlsFiles};

/// The day on which these tests take place, in seconds since 1970: 2030-01-01.
pub(super) const TODAY: u64 = 1_893_456_000;
pub(super) const DAY: u64 = 86_400;

pub(super) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A CA.
pub(super) struct Authority {
    pub(super) issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) der: CertificateDer<'static>,
}

/// What a certificate is to say.
pub(super) struct Leaf {
    pub(super) name: &'static str,
    pub(super) serial: u64,
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) uses: Vec<ExtendedKeyUsagePurpose>,
    pub(super) usage: Vec<KeyUsagePurpose>,
    pub(super) is_ca: IsCa,
}

impl Leaf {
    pub(super) fn new(name: &'static str, serial: u64) -> Self {
        Self {
            name,
            serial,
            from: TODAY - DAY,
            until: TODAY + 90 * DAY,
            uses: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            usage: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::NoCa,
        }
    }

    pub(super) fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(vec![self.name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, self.name);
        params.serial_number = Some(SerialNumber::from(self.serial));
        let moment = |seconds| (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into();
        params.not_before = moment(self.from);
        params.not_after = moment(self.until);
        params.extended_key_usages.clone_from(&self.uses);
        params.key_usages.clone_from(&self.usage);
        params.is_ca = self.is_ca;
        params.use_authority_key_identifier_extension = true;
        params
    }
}

impl Authority {
    pub(super) fn new(name: &'static str) -> Self {
        Self::until(name, TODAY + 3650 * DAY)
    }

    pub(super) fn until(name: &'static str, until: u64) -> Self {
        let leaf = Leaf { until, ..Self::leaf(name) };
        let issuer = CertifiedIssuer::self_signed(leaf.params(), KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn leaf(name: &'static str) -> Leaf {
        Leaf {
            uses: Vec::new(),
            usage: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            is_ca: IsCa::Ca(BasicConstraints::Unconstrained),
            ..Leaf::new(name, 1)
        }
    }

    /// A CA that this one vouches for.
    pub(super) fn vouch(&self, name: &'static str) -> Self {
        let params = Self::leaf(name).params();
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Self { issuer }
    }

    pub(super) fn issue(&self, leaf: &Leaf) -> Issued {
        self.issue_for(leaf, KeyPair::generate().unwrap())
    }

    pub(super) fn issue_for(&self, leaf: &Leaf, key: KeyPair) -> Issued {
        let cert = leaf.params().signed_by(&key, &self.issuer).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    /// A list of revoked certificates, good for a week from `from`.
    pub(super) fn revoke(&self, serials: &[u64], from: u64) -> String {
        let moment = |seconds| (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into();
        let params = CertificateRevocationListParams {
            this_update: moment(from),
            next_update: moment(from + 7 * DAY),
            crl_number: SerialNumber::from(from),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: moment(from),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A certificate that has vouched for itself.
pub(super) fn vouch_for_itself(leaf: &Leaf) -> Issued {
    let key = KeyPair::generate().unwrap();
    let cert = leaf.params().self_signed(&key).unwrap();
    Issued { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
}

/// A host with files.
pub(super) struct Host {
    pub(super) folder: tempfile::TempDir,
    pub(super) files: TlsFiles,
}

impl Host {
    pub(super) fn new(issued: &Issued, cas: &[&Authority]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = TlsFiles { cert: path("cert"), key: path("key"), ca: path("ca"), crl: Vec::new() };
        write(&files.cert, &issued.cert);
        write(&files.key, &issued.key);
        write(&files.ca, &cas.iter().map(|ca| ca.issuer.pem()).collect::<String>());
        Self { folder, files }
    }

    pub(super) fn with_crl(mut self, pem: &str) -> Self {
        let path = self.folder.path().join(format!("crl{}", self.files.crl.len()));
        write(&path, pem);
        self.files.crl.push(path);
        self
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn material(&self, rules: CrlRules) -> Result<Material, Vec<MaterialFault>> {
        Material::read(&self.files, rules)
    }

    pub(super) fn credentials(&self) -> Credentials {
        self.credentials_by(CrlRules::default())
    }

    pub(super) fn credentials_by(&self, rules: CrlRules) -> Credentials {
        Credentials::new(self.material(rules).unwrap(), &[ALPN]).unwrap()
    }
}

pub(super) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
