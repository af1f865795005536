//! What people read: durations, sizes, tables, and text that comes from elsewhere.

use std::borrow::Cow;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

/// Text of others, with nothing in it that a terminal takes for an order: neither control characters nor
/// those that turn the direction of writing. Letters of every language stay.
pub(super) fn shown(text: &str) -> String {
    escape(text, |char| char.escape_unicode().to_string())
}

/// The same for text that may have several lines.
pub(super) fn shown_lines(text: &str) -> String {
    text.lines().map(shown).collect::<Vec<_>>().join("\n")
}

/// The same for JSON, which means the same afterwards: such characters stand only within its strings.
pub(super) fn shown_json(text: &str) -> String {
    let escaped = |char: char| {
        let mut units = [0; 2];
        char.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    };
    text.lines().map(|line| escape(line, escaped)).collect::<Vec<_>>().join("\n")
}

fn escape(text: &str, escaped: impl Fn(char) -> String) -> String {
    text.chars()
        .map(|char| if is_safe(char) { Cow::from(char.to_string()) } else { escaped(char).into() })
        .collect()
}

fn is_safe(char: char) -> bool {
    let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !turns
}

/// `45s`, `12m 5s`, `3d 4h`: the two largest units, which is as exact as anybody asks.
pub(super) fn duration(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let units = [(whole / 86_400, "d"), (whole / 3600 % 24, "h"), (whole / 60 % 60, "m"), (whole % 60, "s")];
    let parts = units.into_iter().skip_while(|(count, _)| *count == 0).take(2);
    let parts: Vec<String> =
        parts.filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// `812 B`, `1.2 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shown = format!("{count} B");
    // As it is shown: what is rounded to 1024.0 is 1.0 of the next unit.
    let mut tenths = u128::from(count) * 10;
    for (power, unit) in (0u32..).zip(UNITS) {
        let below = 1u128 << (10 * power);
        if tenths < 10_240 {
            break;
        }
        tenths = (u128::from(count) * 10 + below * 512) / (below * 1024);
        shown = format!("{}.{} {unit}", tenths / 10, tenths % 10);
    }
    shown
}

/// `1 link`, `3 links`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Columns under their headings, as wide as their content: a line that is cut or broken is no good to `grep`.
/// Everything in it is escaped.
pub(super) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| shown(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let cases = [(0.4, "0s"), (59.9, "59s"), (125.0, "2m 5s"), (3600.0, "1h"), (3605.0, "1h")];
        let long = [(273_600.0 + 59.0, "3d 4h"), (86_400.0 * 400.0, "400d"), (f64::NAN, "0s"), (-1.0, "0s")];
        for (seconds, expected) in cases.into_iter().chain(long) {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_one_decimal() {
        let cases = [
            (0, "0 B"),
            (900, "900 B"),
            (1024, "1.0 KiB"),
            (1023, "1023 B"),
            (1_048_524, "1023.9 KiB"),
            (1_048_525, "1.0 MiB"),
            (1_048_575, "1.0 MiB"),
            (1_048_576, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected, "{count}");
        }
    }

    #[test]
    fn what_a_peer_calls_itself_gives_no_orders_to_the_terminal() {
        let name = "a\u{1b}[2J\u{9b}2J\u{202e}b@é\nc";
        assert_eq!(shown(name), "a\\u{1b}[2J\\u{9b}2J\\u{202e}b@é\\u{a}c");
        let json = serde_json::to_string(name).unwrap();
        let safe = shown_json(&json);
        assert!(safe.chars().all(is_safe), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), name);
        assert!(table(["NAME"], [[name.to_owned()]]).lines().all(|line| line.chars().all(is_safe)));
    }

    #[test]
    fn tables_stand_in_columns_without_trailing_blanks() {
        let rows = [["1".to_owned(), "é".to_owned()], ["100".to_owned(), "b".to_owned()]];
        assert_eq!(table(["ID", "NAME"], rows), "ID   NAME\n1    é\n100  b");
    }
}
