//! Whether a guard would take a certificate, by the library that guards use.

use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::clock::seconds;
use super::read::hex;

/// Whether a certificate comes from one of these CAs, is valid now, and may be presented at either end. Whether it
/// is revoked is not asked. Why not, in words.
pub(super) fn accepted(
    certificate: &[u8],
    between: &[Vec<u8>],
    authorities: &[Vec<u8>],
    now: SystemTime,
) -> Result<(), String> {
    let authorities: Vec<_> = authorities.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors = authorities.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
    let anchors = anchors.map_err(|error| format!("the CA is none: {error}"))?;
    let between: Vec<_> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let certificate = CertificateDer::from(certificate);
    let certificate = EndEntityCert::try_from(&certificate).map_err(|error| format!("{error}"))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds(now)));
    for (usage, end) in [(KeyUsage::client_auth(), "client"), (KeyUsage::server_auth(), "server")] {
        certificate
            .verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &between, now, usage, None, None)
            .map_err(|error| format!("as the certificate of a {end}: {error}"))?;
    }
    Ok(())
}

/// The SHA-256 of a certificate, in hexadecimal digits with colons, as every tool shows it.
pub(super) fn fingerprint(der: &[u8]) -> String {
    // The suite has the hash function of the library that is there anyway.
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(der));
    let bytes = hash.as_ref().map(|hash| hash.as_ref()).unwrap_or_default();
    bytes.iter().map(|byte| hex(&[*byte]).to_uppercase()).collect::<Vec<_>>().join(":")
}
