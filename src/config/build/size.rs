//! Numbers of bytes with their units.

use super::Key;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::Word;
use crate::config::text::quoted;

/// From how many to how many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) least: u64,
    pub(super) most: u64,
    pub(super) shown: &'static str,
}

/// The units, and how many bytes each is as a power of two.
const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];

/// A number of bytes with its unit, such as "4MiB".
pub(super) fn size(
    key: Key,
    written: Option<&Word<'_>>,
    bounds: Sizes,
    problems: &mut Problems,
) -> Option<u64> {
    let word = written?;
    let text = *word.get_ref();
    let (message, help) = match read(text) {
        Some(bytes) if (bounds.least..=bounds.most).contains(&bytes) => return Some(bytes),
        Some(_) => (format!("{key}: {} is out of range: {} is possible", quoted(text), bounds.shown), None),
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            let help = format!("write it with its unit: \"{text}MiB\"");
            (format!("{key}: {} has no unit", quoted(text)), Some(help))
        }
        None => {
            let help = "write a whole number and its unit, such as \"512KiB\", \"4MiB\" or \"1GiB\"";
            (format!("{key}: {} is no size", quoted(text)), Some(help.to_owned()))
        }
    };
    problems.push(Problem { help, ..Problem::error(word.span(), message) });
    None
}

/// What is more than can be counted is as much as can be.
fn read(text: &str) -> Option<u64> {
    let (number, power) = UNITS.iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, power)))?;
    let number = number.trim_end_matches(' ');
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| number.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << power))
}

/// The number as it is written, in the largest unit of which it is a whole number.
pub(in crate::config) fn shown(bytes: u64) -> String {
    let whole = |(_, power): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= *power;
    match UNITS.iter().rev().find(whole) {
        Some((unit, power)) => format!("{}{unit}", bytes >> power),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_and_shown_with_its_unit() {
        for (text, bytes) in [("512KiB", 512 << 10), ("4 MiB", 4 << 20), ("3GiB", 3 << 30), ("0KiB", 0)] {
            assert_eq!(read(text), Some(bytes), "{text}");
        }
        assert_eq!(read("99999999999999999999GiB"), Some(u64::MAX));
        for text in ["", "4", "MiB", "4M", "4MB", "4mib", "-1MiB", "4.5MiB", "+4MiB"] {
            assert_eq!(read(text), None, "{text}");
        }
        for (bytes, text) in [
            (512 << 10, "512KiB"),
            (4 << 20, "4MiB"),
            (1 << 30, "1GiB"),
            (1000, "1000 bytes"),
            (0, "0 bytes"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }
}
