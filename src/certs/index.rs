//! The index: which certificates the CA has issued, and which of them are revoked.
//!
//! It is lines of JSON, the first of which says what the file is and how many follow. A certificate stands in it
//! before there is a file of it, so that there is none that cannot be revoked by its name.

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::CRL_DAYS;
use super::clock::written;
use super::error::Error;
use super::name::{Name, is_safe_stem};
use super::store::{Former, Kept, LARGEST_LIST, Store, read};

/// The file in the directory of the CA.
pub(super) const FILE: &str = "issued.jsonl";
/// What the first line calls it.
const FORMAT: &str = "epmd-guard issued certificates";
/// The version of what follows it.
const VERSION: u32 = 1;

/// What the CA remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// The number of the last list of revoked certificates; 0: there was none.
    pub(super) crl_number: u64,
    /// How long a list counts as current, in days.
    pub(super) crl_days: u32,
    /// The certificates, the first issued first.
    pub(super) records: Vec<Record>,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// What its files are called, without their endings.
    pub(super) stem: String,
    /// Its names; the first is the one that it was issued by.
    pub(super) names: Vec<Name>,
    /// Its serial number, in hexadecimal digits.
    pub(super) serial: String,
    /// When it was issued.
    pub(super) issued: SystemTime,
    /// When it ends.
    pub(super) until: SystemTime,
    /// For how many days it was asked for.
    pub(super) days: u32,
    /// When it was revoked.
    pub(super) revoked: Option<SystemTime>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// How many lines follow.
    records: usize,
    crl_number: u64,
    crl_days: u32,
}

/// A line. Moments are as RFC 3339 has them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    stem: String,
    names: Vec<Name>,
    serial: String,
    issued: String,
    until: String,
    days: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
}

impl Index {
    /// The index of a CA that has issued nothing.
    pub(super) fn new() -> Self {
        Self { crl_number: 0, crl_days: CRL_DAYS, records: Vec::new() }
    }

    /// Reads the index of a directory.
    pub(super) fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let text = read(&path, LARGEST_LIST)?;
        parse(&text).map_err(|why| Error::BadFile { path, why })
    }

    /// Replaces the index of a directory.
    pub(super) fn write(&self, store: &Store, former: Former) -> Result<(), Error> {
        let text = self.render();
        if text.len() > LARGEST_LIST {
            let why = format!("would have more than {LARGEST_LIST} bytes: it is time for a new CA");
            return Err(Error::BadFile { path: store.place(FILE), why });
        }
        store.write(FILE, &text, Kept::Private, former)
    }

    /// The certificates whose files have this name.
    pub(super) fn of_stem<'a>(&'a self, stem: &'a str) -> impl DoubleEndedIterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.stem == stem)
    }

    /// What the files are called of the certificates that a text means: a name that one was issued by, or that of
    /// its files.
    pub(super) fn stem_of(&self, text: &str) -> Result<String, Error> {
        let by_file = self.records.iter().find(|record| record.stem == text);
        let found = match by_file {
            Some(record) => Some(record),
            None => {
                let name = Name::parse(text).or_else(|bad| Name::uri(text).map_err(|_| bad))?;
                self.records.iter().find(|record| record.names.first() == Some(&name))
            }
        };
        found.map(|record| record.stem.clone()).ok_or_else(|| Error::Unknown(text.to_owned()))
    }

    fn render(&self) -> Vec<u8> {
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            records: self.records.len(),
            crl_number: self.crl_number,
            crl_days: self.crl_days,
        };
        let mut text = serde_json::to_vec(&header).unwrap_or_default();
        text.push(b'\n');
        for record in &self.records {
            text.extend(serde_json::to_vec(&line(record)).unwrap_or_default());
            text.push(b'\n');
        }
        text
    }
}

fn parse(text: &[u8]) -> Result<Index, String> {
    let foreign = || "does not begin as an index of certificates".to_owned();
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().and_then(|line| line.strip_suffix(b"\n")).ok_or_else(foreign)?;
    let header: Header = serde_json::from_slice(first).map_err(|_| foreign())?;
    if header.format != FORMAT {
        return Err(foreign());
    }
    if header.version != VERSION {
        return Err(format!("is of version {}, and this program knows version {VERSION}", header.version));
    }
    let incomplete = || "has not as many lines as its first one says".to_owned();
    let mut records = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.strip_suffix(b"\n").ok_or_else(incomplete)?;
        records.push(record(line).ok_or_else(|| format!("has no certificate in its line {number}"))?);
    }
    if records.len() != header.records {
        return Err(incomplete());
    }
    Ok(Index { crl_number: header.crl_number, crl_days: header.crl_days, records })
}

fn record(line: &[u8]) -> Option<Record> {
    let Line { stem, names, serial, issued, until, days, revoked } = serde_json::from_slice(line).ok()?;
    let moment = |text: &str| humantime::parse_rfc3339(text).ok();
    let is_sound = is_safe_stem(&stem) && !names.is_empty() && is_serial(&serial);
    let revoked = match revoked {
        Some(text) => Some(moment(&text)?),
        None => None,
    };
    let (issued, until) = (moment(&issued)?, moment(&until)?);
    is_sound.then_some(Record { stem, names, serial, issued, until, days, revoked })
}

/// Whether these are the digits of a serial number, of 20 bytes at most (RFC 5280, section 4.1.2.2).
fn is_serial(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len().is_multiple_of(2) && (2..=40).contains(&text.len()) && text.bytes().all(is_digit)
}

fn line(record: &Record) -> Line {
    let Record { stem, names, serial, issued, until, days, revoked } = record.clone();
    Line {
        stem,
        names,
        serial,
        issued: written(issued),
        until: written(until),
        days,
        revoked: revoked.map(written),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn an_index() -> Index {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let record = Record {
            stem: "h2".to_owned(),
            names: vec![Name::Dns("h2".into()), Name::Ip("192.0.2.7".parse().unwrap())],
            serial: "0a0b".to_owned(),
            issued: at(1_700_000_000),
            until: at(1_800_000_000),
            days: 365,
            revoked: None,
        };
        let revoked = Record { revoked: Some(at(1_750_000_000)), serial: "ff".into(), ..record.clone() };
        Index { crl_number: 7, crl_days: 30, records: vec![revoked, record] }
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let index = an_index();
        let text = index.render();
        assert_eq!(parse(&text), Ok(index));
        let lines = String::from_utf8(text).unwrap();
        assert!(
            lines.lines().nth(2).unwrap().contains(r#""names":[{"dns":"h2"},{"ip":"192.0.2.7"}]"#),
            "{lines}"
        );
    }

    #[test]
    fn an_index_that_was_cut_or_changed_is_refused() {
        let text = an_index().render();
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{end}");
        }
        let text = String::from_utf8(text).unwrap();
        for (what, other) in [
            ("\"stem\":\"h2\"", "\"stem\":\"../h2\""),
            ("\"stem\":\"h2\"", "\"stem\":\"ca\""),
            ("\"serial\":\"0a0b\"", "\"serial\":\"0a0\""),
            ("\"serial\":\"0a0b\"", "\"serial\":\"0A0B\""),
            ("\"version\":1", "\"version\":2"),
            ("issued certificates", "bans"),
            ("2025-06", "2025-13"),
        ] {
            assert!(text.contains(what), "{what}");
            assert!(parse(text.replace(what, other).as_bytes()).is_err(), "{other}");
        }
        assert!(parse((text + "{}\n").as_bytes()).is_err());
    }

    #[test]
    fn a_certificate_is_found_by_its_name_and_by_that_of_its_files() {
        let mut index = an_index();
        index.records[1].names = vec![Name::uri("urn:node:h2").unwrap()];
        index.records[1].stem = "urn-node-h2".to_owned();
        for text in ["urn:node:h2", "urn-node-h2"] {
            assert_eq!(index.stem_of(text).unwrap(), "urn-node-h2");
        }
        assert_eq!(index.stem_of("H2").unwrap(), "h2");
        assert!(matches!(index.stem_of("h3"), Err(Error::Unknown(_))));
        assert!(matches!(index.stem_of("../h2"), Err(Error::Name(_))));
    }
}
