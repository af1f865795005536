//! Moments, as certificates have them: whole seconds, and none before 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::time::ASN1Time;

use super::Error;

/// How far certificates and lists begin in the past, so that hosts whose clocks are behind take them, too.
pub(super) const BACKDATED: Duration = Duration::from_hours(1);

/// Whole seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The moment so many days later.
pub(super) fn days_later(at: SystemTime, days: u32) -> Result<SystemTime, Error> {
    at.checked_add(Duration::from_hours(24) * days).ok_or(Error::Clock)
}

/// A moment as ASN.1 has it.
pub(super) fn asn1(at: SystemTime) -> Result<ASN1Time, Error> {
    let seconds = i64::try_from(seconds(at)).map_err(|_| Error::Clock)?;
    ASN1Time::from_timestamp(seconds).map_err(|_| Error::Clock)
}

/// A moment of ASN.1; one before 1970 is the beginning of 1970.
pub(super) fn moment(at: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0))
}

/// `2026-11-23T08:00:00Z`.
pub(super) fn written(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
