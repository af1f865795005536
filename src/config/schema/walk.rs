//! Going through the tables, with every wrong name and type reported on the way.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Port, Ports, SECTIONS, Section, Word, Words, WrittenSelf};
use crate::config::problem::{Problem, Problems};
use crate::config::text::quoted;

/// The keys of one section of the file.
#[derive(Debug)]
pub(super) struct Keys<'a, 'p> {
    section: &'static Section,
    table: Option<&'a DeTable<'a>>,
    problems: &'p mut Problems,
}

/// Reports what stands at the top of the file and is no section.
pub(super) fn report_unknown_sections(root: &DeTable<'_>, problems: &mut Problems) {
    for (key, value) in root {
        let name: &str = key.get_ref();
        if SECTIONS.iter().any(|section| section.name == name) {
            continue;
        }
        let known: Vec<String> = SECTIONS.iter().map(Section::to_string).collect();
        let tables = value.get_ref().as_array().into_iter().flatten();
        let is_section =
            value.get_ref().is_table() || tables.into_iter().any(|item| item.get_ref().is_table());
        let problem = if is_section {
            let message = format!("[{}]: is no section: there are {}", shown(name), known.join(", "));
            let likely = likely(name, SECTIONS.iter().map(|section| section.name));
            let meant = SECTIONS.iter().find(|section| Some(section.name) == likely);
            with_help(
                Problem::error(key.span(), message),
                meant.map(|section| format!("did you mean {section}?")),
            )
        } else {
            let message = format!("{}: stands in no section: there are {}", shown(name), known.join(", "));
            with_help(Problem::error(key.span(), message), homes(name, ""))
        };
        problems.push(problem);
    }
}

impl<'a, 'p> Keys<'a, 'p> {
    /// The keys of `section`; those that it does not know are reported.
    pub(super) fn of(section: &'static Section, root: &'a DeTable<'a>, problems: &'p mut Problems) -> Self {
        let value = root.get(section.name);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            let message = format!("{section}: must be a table, is {}", kind(value.get_ref()));
            let help = format!("write {section} once, in single brackets, and its keys below");
            problems.push(Problem::error(value.span(), message).with_help(help));
        }
        Self::within(section, table, problems)
    }

    /// What `read` makes of each table of a section that may stand several times: of its keys, and of where
    /// its header is.
    pub(super) fn each<T>(
        section: &'static Section,
        root: &'a DeTable<'a>,
        problems: &mut Problems,
        read: impl Fn(Keys<'a, '_>, Range<usize>) -> T,
    ) -> Vec<T> {
        let Some(value) = root.get(section.name) else { return Vec::new() };
        let wrong = |wanted: &str, value: &Spanned<DeValue<'_>>| {
            let message = format!("{section}: must be {wanted}, is {}", kind(value.get_ref()));
            let help = format!("write {section} in double brackets, once for each {}", section.name);
            Problem::error(value.span(), message).with_help(help)
        };
        let Some(items) = value.get_ref().as_array() else {
            problems.push(wrong("a list of tables", value));
            return Vec::new();
        };
        let mut each = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => {
                    each.push(read(Keys::within(section, Some(table), problems), item.span()));
                }
                None => problems.push(wrong("a table", item)),
            }
        }
        each
    }

    fn within(section: &'static Section, table: Option<&'a DeTable<'a>>, problems: &'p mut Problems) -> Self {
        for (key, _) in table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !section.keys.contains(&name) {
                problems.push(unknown_key(section, name, key.span()));
            }
        }
        Self { section, table, problems }
    }

    /// Reports that `key` is missing from the table at `span`, and what to write.
    pub(super) fn require(&mut self, key: &'static str, example: &str, span: &Range<usize>) {
        if self.value(key).is_none() {
            let message = format!("{}: has no {key}", self.section);
            let help = format!("write {example}");
            self.problems.push(Problem::error(span.clone(), message).with_help(help));
        }
    }

    /// A string.
    pub(super) fn word(&mut self, key: &'static str) -> Option<Word<'a>> {
        let value = self.value(key)?;
        word(value).or_else(|| self.wrong(key, value, "a string", None))
    }

    /// A duration, which is written as a string.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Word<'a>> {
        let value = self.value(key)?;
        let number = value.get_ref().as_integer();
        let help = number.map(|number| format!("write it with its unit: \"{number}s\""));
        word(value).or_else(|| self.wrong(key, value, "a string such as \"5s\"", help))
    }

    /// A number of bytes, which is written as a string.
    pub(super) fn size(&mut self, key: &'static str) -> Option<Word<'a>> {
        let value = self.value(key)?;
        let number = value.get_ref().as_integer();
        let help = number.map(|number| format!("write it with its unit: \"{number}MiB\""));
        word(value).or_else(|| self.wrong(key, value, "a string such as \"4MiB\"", help))
    }

    /// A list of strings.
    pub(super) fn words(&mut self, key: &'static str) -> Option<Words<'a>> {
        let value = self.value(key)?;
        if let Some(items) = value.get_ref().as_array() {
            return Some(Spanned::new(value.span(), self.elements(key, items)));
        }
        let help = word(value).map(|text| format!("write a list: [{}]", quoted(text.get_ref())));
        let none = self.wrong(key, value, "a list of strings", help);
        Some(Spanned::new(value.span(), none.unwrap_or_default()))
    }

    /// A string, or a list of strings.
    pub(super) fn word_or_words(&mut self, key: &'static str) -> Option<Words<'a>> {
        let value = self.value(key)?;
        let words = match (value.get_ref().as_array(), word(value)) {
            (Some(items), _) => self.elements(key, items),
            (None, Some(word)) => vec![word],
            (None, None) => self.wrong(key, value, "a string or a list of strings", None).unwrap_or_default(),
        };
        Some(Spanned::new(value.span(), words))
    }

    /// Listeners: a word that means some of them, or a list of addresses.
    pub(super) fn listeners(&mut self, key: &'static str) -> Option<WrittenSelf<'a>> {
        let value = self.value(key)?;
        match (value.get_ref().as_array(), word(value)) {
            (Some(items), _) => {
                Some(WrittenSelf::List(Spanned::new(value.span(), self.elements(key, items))))
            }
            (None, Some(word)) => Some(WrittenSelf::One(word)),
            (None, None) => self.wrong(key, value, "\"all\", \"none\" or a list of addresses", None),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        let value = self.value(key)?;
        if let DeValue::Boolean(truth) = value.get_ref() {
            return Some(Spanned::new(value.span(), *truth));
        }
        let help = word(value).map(|text| match *text.get_ref() {
            bare @ ("true" | "false") => format!("write it without quotes: {bare}"),
            _ => "write true or false, without quotes".to_owned(),
        });
        self.wrong(key, value, "true or false", help)
    }

    /// Ports and ranges of them: a number, a string, or a list of these.
    pub(super) fn ports(&mut self, key: &'static str) -> Option<Spanned<Ports<'a>>> {
        let value = self.value(key)?;
        let ports = match (value.get_ref().as_array(), port(value)) {
            (Some(items), _) => {
                let mut ports = Vec::with_capacity(items.len());
                for item in items {
                    match port(item) {
                        Some(port) => ports.push(port),
                        None => self.wrong_element(key, item, "a port or a string such as \"9100-9105\""),
                    }
                }
                Ports::List(ports)
            }
            (None, Some(port)) => Ports::One(port),
            (None, None) => {
                let none = self.wrong(key, value, "a port, a range or a list of them", None);
                Ports::List(none.unwrap_or_default())
            }
        };
        Some(Spanned::new(value.span(), ports))
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<Spanned<i64>> {
        let value = self.value(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            return self.wrong(key, value, "an integer", None);
        };
        self.integer(key, number, value.span())
    }

    /// A whole number or "auto", which is `None`.
    pub(super) fn number_or_auto(&mut self, key: &'static str) -> Option<Spanned<Option<i64>>> {
        let value = self.value(key)?;
        match (value.get_ref().as_integer(), word(value)) {
            (Some(number), _) => {
                let number = self.integer(key, number, value.span())?;
                Some(Spanned::new(value.span(), Some(number.into_inner())))
            }
            (None, Some(text)) if *text.get_ref() == "auto" => Some(Spanned::new(value.span(), None)),
            (None, Some(text)) => {
                let message = format!("must be \"auto\" or an integer, is {}", quoted(text.get_ref()));
                self.report(key, value.span(), message);
                None
            }
            (None, None) => self.wrong(key, value, "\"auto\" or an integer", None),
        }
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn elements(&mut self, key: &'static str, items: &'a [Spanned<DeValue<'a>>]) -> Vec<Word<'a>> {
        let mut words = Vec::with_capacity(items.len());
        for item in items {
            match word(item) {
                Some(word) => words.push(word),
                None => self.wrong_element(key, item, "a string"),
            }
        }
        words
    }

    fn integer(
        &mut self,
        key: &'static str,
        number: &DeInteger<'_>,
        span: Range<usize>,
    ) -> Option<Spanned<i64>> {
        let read = i64::from_str_radix(number.as_str(), number.radix()).ok();
        if read.is_none() {
            self.report(key, span.clone(), "is too large a number");
        }
        Some(Spanned::new(span, read?))
    }

    /// Reports a value of the wrong type. Returns nothing, in the place of the value.
    fn wrong<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        help: Option<String>,
    ) -> Option<T> {
        let message = format!("{} {key}: must be {wanted}, is {}", self.section, kind(value.get_ref()));
        self.problems.push(with_help(Problem::error(value.span(), message), help));
        None
    }

    fn wrong_element(&mut self, key: &str, item: &Spanned<DeValue<'_>>, wanted: &str) {
        let message = format!("each element must be {wanted}, this one is {}", kind(item.get_ref()));
        self.report(key, item.span(), message);
    }

    fn report(&mut self, key: &str, span: Range<usize>, message: impl fmt::Display) {
        self.problems.push(Problem::error(span, format!("{} {key}: {message}", self.section)));
    }
}

/// What a value is, in the words of the messages.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn word<'a>(value: &'a Spanned<DeValue<'a>>) -> Option<Word<'a>> {
    value.get_ref().as_str().map(|text| Spanned::new(value.span(), text))
}

fn port<'a>(value: &'a Spanned<DeValue<'a>>) -> Option<Port<'a>> {
    let decimal = |number: &'a DeInteger<'a>| {
        let read = i64::from_str_radix(number.as_str(), number.radix());
        read.map_or(Cow::Borrowed(number.as_str()), |number| Cow::Owned(number.to_string()))
    };
    let number = value.get_ref().as_integer().map(decimal);
    let text = number.or_else(|| value.get_ref().as_str().map(Cow::Borrowed))?;
    Some(Spanned::new(value.span(), text))
}

fn unknown_key(section: &Section, name: &str, span: Range<usize>) -> Problem {
    let known = section.keys.join(", ");
    let message = format!("{section} {}: is no key: there are {known}", shown(name));
    let likely = likely(name, section.keys.iter().copied()).map(|name| format!("did you mean {name}?"));
    with_help(Problem::error(span, message), likely.or_else(|| homes(name, section.name)))
}

/// The sections other than `here` that have the key `name`.
fn homes(name: &str, here: &str) -> Option<String> {
    let having = SECTIONS.iter().filter(|section| section.name != here && section.keys.contains(&name));
    let homes: Vec<String> = having.map(Section::to_string).collect();
    let (last, others) = homes.split_last()?;
    Some(if others.is_empty() {
        format!("{name} is a key of {last}: put it below that header")
    } else {
        format!("{name} is a key of {} and {last}: put it below one of these headers", others.join(", "))
    })
}

/// The known name that is written almost like `name`.
fn likely(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // The distance takes quadratic time, and no name of ours is longer.
    if name.len() > 40 {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// A key as messages show it: bare when it could be written so, and never longer than a line.
fn shown(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if bare && !name.is_empty() && name.len() <= 60 { name.to_owned() } else { quoted(name) }
}

fn with_help(problem: Problem, help: Option<String>) -> Problem {
    Problem { help, ..problem }
}
