//! What certificates and lists of revoked ones say, of this CA or any other.
//!
//! Everything here is text of others: whoever shows it escapes it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::clock::moment;

/// Curves of keys, by their object identifiers (RFC 5480, section 2.1.1.1).
const CURVES: &[(&str, &str)] =
    &[("1.2.840.10045.3.1.7", "P-256"), ("1.3.132.0.34", "P-384"), ("1.3.132.0.35", "P-521")];
/// The object identifier of Ed25519 (RFC 8410, section 3).
const ED25519: &str = "1.3.101.112";

/// The kinds of private keys that PEM knows.
const KEYS: &[SectionKind] =
    &[SectionKind::PrivateKey, SectionKind::RsaPrivateKey, SectionKind::EcPrivateKey];

/// A part of a file, as DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A certificate.
    Certificate(Vec<u8>),
    /// A list of revoked certificates.
    Crl(Vec<u8>),
    /// A private key.
    Key(Zeroizing<Vec<u8>>),
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) subject: String,
    /// The subject as the certificate has it, for comparing.
    pub(super) subject_der: Vec<u8>,
    pub(super) issuer: String,
    /// The issuer likewise.
    pub(super) issuer_der: Vec<u8>,
    /// Hexadecimal digits, two a byte.
    pub(super) serial: String,
    /// The kind of each name and the name.
    pub(super) names: Vec<(&'static str, String)>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
    /// Whether it may issue certificates.
    pub(super) is_authority: bool,
    /// How many CAs may stand between it and a certificate.
    pub(super) path_length: Option<u32>,
    /// What its key may be used for; `None`: it does not say, and so for everything.
    pub(super) key_usage: Option<Vec<&'static str>>,
    /// What for it may be presented; `None` as before.
    pub(super) extended_usage: Option<Vec<String>>,
    /// The kind of its key.
    pub(super) algorithm: String,
    /// The public key (SubjectPublicKeyInfo).
    pub(super) public_key: Vec<u8>,
    /// What the certificate calls its key, if it does.
    pub(super) key_id: Option<Vec<u8>>,
}

/// What a list of revoked certificates says.
#[derive(Debug, Clone)]
pub(super) struct CrlFacts {
    pub(super) issuer: String,
    /// The issuer as the list has it, for comparing.
    pub(super) issuer_der: Vec<u8>,
    /// Its number, if it has one and it is not absurd.
    pub(super) number: Option<u64>,
    pub(super) from: SystemTime,
    pub(super) until: Option<SystemTime>,
    pub(super) revoked: Vec<RevokedFact>,
}

/// A certificate on a list.
#[derive(Debug, Clone)]
pub(super) struct RevokedFact {
    /// Hexadecimal digits, two a byte.
    pub(super) serial: String,
    pub(super) at: SystemTime,
    /// The code of the reason (RFC 5280, section 5.3.1), if there is one.
    pub(super) reason: Option<u8>,
}

/// The parts of a file, which is PEM or one DER. What else PEM may have in it is passed over.
pub(super) fn parts(bytes: &[u8]) -> Result<Vec<Part>, String> {
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return binary(bytes).map(|part| vec![part]);
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| format!("is not PEM as it should be: {error}"))?;
        if kind == SectionKind::Certificate {
            found.push(Part::Certificate(der));
        } else if kind == SectionKind::Crl {
            found.push(Part::Crl(der));
        } else if KEYS.contains(&kind) {
            found.push(Part::Key(Zeroizing::new(der)));
        }
    }
    if found.is_empty() {
        return Err("has neither certificate, list of revoked certificates nor key in it".to_owned());
    }
    Ok(found)
}

fn binary(bytes: &[u8]) -> Result<Part, String> {
    if X509Certificate::from_der(bytes).is_ok_and(|(rest, _)| rest.is_empty()) {
        return Ok(Part::Certificate(bytes.to_vec()));
    }
    if CertificateRevocationList::from_der(bytes).is_ok_and(|(rest, _)| rest.is_empty()) {
        return Ok(Part::Crl(bytes.to_vec()));
    }
    Err("is neither PEM nor a certificate nor a list of revoked certificates in DER".to_owned())
}

/// Reads a certificate.
pub(super) fn certificate(der: &[u8]) -> Result<Facts, String> {
    let fault = |error: &dyn std::fmt::Display| format!("has a certificate that cannot be read: {error}");
    let (_, found) = X509Certificate::from_der(der).map_err(|error| fault(&error))?;
    let constraints = found.basic_constraints().map_err(|error| fault(&error))?;
    let names = found.subject_alternative_name().map_err(|error| fault(&error))?;
    let usage = found.key_usage().map_err(|error| fault(&error))?;
    let extended = found.extended_key_usage().map_err(|error| fault(&error))?;
    let key_id = found.iter_extensions().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else { return None };
        Some(id.0.to_vec())
    });
    Ok(Facts {
        subject: found.subject().to_string(),
        subject_der: found.subject().as_raw().to_vec(),
        issuer: found.issuer().to_string(),
        issuer_der: found.issuer().as_raw().to_vec(),
        serial: digits(found.raw_serial()),
        names: names.map(|names| names.value.general_names.iter().map(name).collect()).unwrap_or_default(),
        from: moment(found.validity().not_before),
        until: moment(found.validity().not_after),
        is_authority: constraints.as_ref().is_some_and(|found| found.value.ca),
        path_length: constraints.and_then(|found| found.value.path_len_constraint),
        key_usage: usage.map(|found| key_usages(found.value)),
        extended_usage: extended.map(|found| extended_usages(found.value)),
        algorithm: algorithm(found.public_key()),
        public_key: found.public_key().raw.to_vec(),
        key_id,
    })
}

/// Reads a list of revoked certificates.
pub(super) fn crl(der: &[u8]) -> Result<CrlFacts, String> {
    let (_, found) = CertificateRevocationList::from_der(der)
        .map_err(|error| format!("has a list of revoked certificates that cannot be read: {error}"))?;
    let revoked = found.iter_revoked_certificates().map(|revoked| RevokedFact {
        serial: digits(revoked.raw_serial()),
        at: moment(revoked.revocation_date),
        reason: revoked.reason_code().map(|(_, code)| code.0),
    });
    Ok(CrlFacts {
        issuer: found.issuer().to_string(),
        issuer_der: found.issuer().as_raw().to_vec(),
        number: found.crl_number().and_then(|number| u64::try_from(number).ok()),
        from: moment(found.last_update()),
        until: found.next_update().map(moment),
        revoked: revoked.collect(),
    })
}

/// A serial number as digits, without the byte that only says that it is positive.
fn digits(serial: &[u8]) -> String {
    let significant = serial.iter().position(|byte| *byte != 0).and_then(|first| serial.get(first..));
    hex(significant.unwrap_or(&[0]))
}

/// Two hexadecimal digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of such digits.
pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn name(name: &GeneralName<'_>) -> (&'static str, String) {
    match name {
        GeneralName::DNSName(text) => ("DNS", (*text).to_owned()),
        GeneralName::URI(text) => ("URI", (*text).to_owned()),
        GeneralName::RFC822Name(text) => ("email", (*text).to_owned()),
        GeneralName::DirectoryName(name) => ("directory", name.to_string()),
        GeneralName::RegisteredID(oid) => ("identifier", oid.to_id_string()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| Ipv4Addr::from(octets).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|octets| Ipv6Addr::from(octets).to_string());
            ("IP", v4.or(v6).unwrap_or_else(|_| hex(bytes)))
        }
        GeneralName::OtherName(oid, _) => ("other", oid.to_id_string()),
        GeneralName::X400Address(_) | GeneralName::EDIPartyName(_) | GeneralName::Invalid(..) => {
            ("other", "not read".to_owned())
        }
    }
}

fn key_usages(usage: &KeyUsage) -> Vec<&'static str> {
    let all = [
        (usage.digital_signature(), "digitalSignature"),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), "keyCertSign"),
        (usage.crl_sign(), "cRLSign"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    all.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect()
}

fn extended_usages(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let all = [
        (usage.any, "any"),
        (usage.client_auth, "clientAuth"),
        (usage.server_auth, "serverAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = all.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name.to_owned());
    named.chain(usage.other.iter().map(|oid| oid.to_id_string())).collect()
}

fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> String {
    let identifier = key.algorithm.algorithm.to_id_string();
    if identifier == ED25519 {
        return "Ed25519".to_owned();
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
            let known = CURVES.iter().find(|(oid, _)| *oid == curve).map(|(_, name)| (*name).to_owned());
            format!("ECDSA {}", known.unwrap_or_else(|| format!("of {} bits", point.key_size())))
        }
        _ => identifier,
    }
}
