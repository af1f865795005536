//! Revoking.
//!
//! A guard knows a host by any of its names. So whoever revokes one is told of every certificate that has the name and
//! would stay good, whatever it was issued by.

use std::path::PathBuf;
use std::time::SystemTime;

use super::authority::{Authority, CRL};
use super::clock::written;
use super::error::Error;
use super::index::Record;
use super::name::Name;

/// What becomes of certificates that were issued by other names, and have one of these, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are told, and nothing is revoked.
    Hinder,
    /// They stay good.
    Stay,
}

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// For each name, the serial numbers that are revoked from now on. None: all of them were already.
    pub revoked: Vec<(String, Vec<String>)>,
    /// The list.
    pub crl: PathBuf,
    /// The number of the list.
    pub number: u64,
    /// When the list ceases to be current.
    pub until: SystemTime,
}

impl Authority {
    /// Revokes every certificate that was issued for these names, and writes the list anew; without names it does the
    /// latter alone. `crl_days`: how long this list and those after it count as current.
    pub fn revoke(
        &mut self,
        names: &[String],
        others: Others,
        crl_days: Option<u32>,
        now: SystemTime,
    ) -> Result<Revocation, Error> {
        let stems = match self.stems(names) {
            // No certificate goes by it, and some may have it besides another one.
            Err(Error::Unknown(name)) => {
                self.see_to_others(std::slice::from_ref(&name), &[], now)?;
                return Err(Error::Unknown(name));
            }
            found => found?,
        };
        if others == Others::Hinder {
            self.see_to_others(names, &stems, now)?;
        }
        let mut revoked = Vec::new();
        for stem in stems {
            let open = self.index.records.iter_mut().filter(|record| record.stem == stem);
            let open = open.filter(|record| record.revoked.is_none());
            let serials = open.map(|record| {
                record.revoked = Some(now);
                record.serial.clone()
            });
            revoked.push((stem.clone(), serials.collect()));
        }
        self.index.crl_days = crl_days.unwrap_or(self.index.crl_days);
        let until = self.publish(now)?;
        let number = self.index.crl_number;
        Ok(Revocation { revoked, crl: self.store.place(CRL), number, until })
    }

    /// Sees that no certificate stays good that was issued by another name and has one of those that are revoked.
    fn see_to_others(&self, texts: &[String], stems: &[String], now: SystemTime) -> Result<(), Error> {
        let is_meant = |record: &&Record| stems.contains(&record.stem);
        let lives = |record: &&Record| record.until > now;
        let records = &self.index.records;
        let mut names: Vec<Name> = texts.iter().filter_map(|text| Name::parse(text).ok()).collect();
        names.extend(records.iter().filter(is_meant).filter(lives).flat_map(|record| record.names.clone()));
        let stays = |record: &&Record| record.revoked.is_none() && lives(record) && !is_meant(record);
        let mut others = Vec::new();
        let mut command = stems.to_vec();
        for record in records.iter().filter(stays) {
            let Some(shared) = record.names.iter().find(|name| names.contains(name)) else { continue };
            others.push(format!(
                "{} has {} {shared}, too (serial {}, until {})",
                record.stem,
                shared.kind(),
                record.serial,
                written(record.until)
            ));
            if !command.contains(&record.stem) {
                command.push(record.stem.clone());
            }
        }
        if others.is_empty() { Ok(()) } else { Err(Error::StaysGood { others, command }) }
    }
}
