//! Where the keys of a file stand.

use std::collections::HashMap;
use std::fmt;

use toml::de::DeTable;

use super::text::LineCounter;

/// The lines of the keys that a file has. It says nothing of what they mean, so that two configurations are
/// the same wherever their keys stand.
#[derive(Clone, Default)]
pub struct Places(HashMap<String, u32>);

impl Places {
    pub(super) fn of(root: &DeTable<'_>, text: &str) -> Self {
        let mut lines = LineCounter::new(text);
        let mut spans: Vec<(String, usize)> = Vec::new();
        for (section, value) in root {
            for (key, _) in value.get_ref().as_table().into_iter().flatten() {
                spans.push((format!("[{}] {}", section.get_ref(), key.get_ref()), key.span().start));
            }
        }
        spans.sort_by_key(|(_, start)| *start);
        let line =
            |(key, start): (String, usize)| (key, u32::try_from(lines.line_at(start).0).unwrap_or(u32::MAX));
        Self(spans.into_iter().map(line).collect())
    }

    /// The line of a key such as `[dist] ports`, if the file has it.
    #[must_use]
    pub fn line_of(&self, key: &str) -> Option<u32> {
        self.0.get(key).copied()
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}
