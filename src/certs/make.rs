//! Making keys, certificates and lists: what stands in them.

use std::time::SystemTime;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use zeroize::Zeroizing;

use super::clock::{BACKDATED, asn1};
use super::error::Error;
use super::name::Name;
use super::read::{RevokedFact, hex, unhex};

/// Bytes of a serial number; RFC 5280 lets there be 20.
const SERIAL: usize = 16;
/// The longest common name (RFC 5280, appendix A.1, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;

/// A new key.
pub(super) fn key() -> Result<Zeroizing<KeyPair>, Error> {
    Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
}

/// A key as its file has it.
pub(super) fn key_text(key: &KeyPair) -> Zeroizing<String> {
    Zeroizing::new(key.serialize_pem())
}

/// A new serial number of 128 random bits, as hexadecimal digits.
pub(super) fn serial() -> Result<String, Error> {
    let mut bytes = [0; SERIAL];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    // One that begins with 0 would have fewer digits elsewhere.
    while bytes.first() == Some(&0) {
        random.fill(&mut bytes).map_err(|_| Error::Random)?;
    }
    Ok(hex(&bytes))
}

/// A validity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// When it was asked for. It begins earlier.
    pub(super) now: SystemTime,
    /// When it ends.
    pub(super) until: SystemTime,
}

impl Span {
    fn set(self, params: &mut CertificateParams) -> Result<(), Error> {
        params.not_before = asn1(self.now.checked_sub(BACKDATED).ok_or(Error::Clock)?)?.to_datetime();
        params.not_after = asn1(self.until)?.to_datetime();
        Ok(())
    }
}

/// The certificate of a new CA, as PEM. Two CAs of one cluster have different names, so that a list of revoked
/// certificates is never taken for that of the other.
pub(super) fn authority(cluster: &str, span: Span, key: &KeyPair) -> Result<String, Error> {
    let serial = serial()?;
    let mut params = CertificateParams::default();
    span.set(&mut params)?;
    params.distinguished_name = DistinguishedName::new();
    let mark = serial.get(..8).unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} CA {mark}"));
    params.serial_number = Some(number(&serial));
    // It issues certificates of hosts, and no other CAs.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params.self_signed(key)?.pem())
}

/// A certificate for a host.
pub(super) fn host(
    names: &[Name],
    serial: &str,
    span: Span,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, &KeyPair>,
) -> Result<rcgen::Certificate, Error> {
    let mut params = CertificateParams::default();
    span.set(&mut params)?;
    params.distinguished_name = DistinguishedName::new();
    let first = names.first().map(Name::to_string).unwrap_or_default();
    // For people: guards look at the other names. Without a subject these count as critical.
    if first.chars().count() <= LONGEST_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, first);
    }
    params.subject_alt_names = names.iter().map(alternative).collect::<Result<_, _>>()?;
    params.serial_number = Some(number(serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A guard dials and is dialled.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(key, issuer)?)
}

fn alternative(name: &Name) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        Name::Dns(text) => SanType::DnsName(Ia5String::try_from(text.as_str())?),
        Name::Ip(ip) => SanType::IpAddress(*ip),
        Name::Uri(text) => SanType::URI(Ia5String::try_from(text.as_str())?),
    })
}

/// A list of revoked certificates, as PEM.
pub(super) fn crl(
    number: u64,
    revoked: &[RevokedFact],
    span: Span,
    key_id: &[u8],
    issuer: &Issuer<'_, &KeyPair>,
) -> Result<String, Error> {
    let entries = revoked.iter().map(entry).collect::<Result<_, _>>()?;
    let params = CertificateRevocationListParams {
        this_update: asn1(span.now.checked_sub(BACKDATED).ok_or(Error::Clock)?)?.to_datetime(),
        next_update: asn1(span.until)?.to_datetime(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: entries,
        key_identifier_method: KeyIdMethod::PreSpecified(key_id.to_vec()),
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

fn entry(revoked: &RevokedFact) -> Result<RevokedCertParams, Error> {
    Ok(RevokedCertParams {
        serial_number: number(&revoked.serial),
        revocation_time: asn1(revoked.at)?.to_datetime(),
        reason_code: revoked.reason.and_then(reason),
        invalidity_date: None,
    })
}

/// A reason by its code (RFC 5280, section 5.3.1). "Unspecified" is left out, as it is to be.
fn reason(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        2 => RevocationReason::CaCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        6 => RevocationReason::CertificateHold,
        9 => RevocationReason::PrivilegeWithdrawn,
        10 => RevocationReason::AaCompromise,
        _ => return None,
    })
}

fn number(serial: &str) -> SerialNumber {
    SerialNumber::from(unhex(serial).unwrap_or_default())
}
