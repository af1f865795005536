//! `[dist] cookie_file` and `[[cookie]]`

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::names::{self, Nothing};
use super::path::{self, Wanted};
use super::{How, Key};
use crate::config::CookieFiles;
use crate::config::cookie::{self, Files, Found};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Written, WrittenCookie};
use crate::config::text::{LineCounter, one_line};
use crate::policy::{Cookie, CookieOf, Cookies};

const COOKIE_FILE: Key = Key("dist", "cookie_file");
const FILE: &str = "[[cookie]] file";
const PATH: Wanted = Wanted::file("/etc/epmd-guard/cookie");

/// Each is a file that is read whenever the configuration is.
const MOST: usize = 1000;

/// The cookies and where they are. Where the files are left alone there are none.
pub(super) fn build(
    written: &Written<'_>,
    how: How<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> (CookieFiles, Cookies) {
    let (mut places, mut cookies) = (CookieFiles::default(), Cookies::default());
    if let Some(word) = written.dist.cookie_file.as_ref().filter(|word| !word.get_ref().is_empty()) {
        places.default = path(COOKIE_FILE, word, problems);
        cookies.default =
            places.default.as_deref().and_then(|path| read(COOKIE_FILE, word, path, (how.files, problems)));
    }
    if let Some(first) = written.cookies.get(MOST) {
        let message = format!("[[cookie]]: is one more than the {MOST} that are possible");
        problems.push(Problem::error(first.span.clone(), message));
    }
    for table in written.cookies.iter().take(MOST) {
        let nodes = table.nodes.as_ref().map(|words| {
            let patterns = names::node_patterns(&"[[cookie]] nodes", words, lines, problems);
            names::report_nothing(&"[[cookie]] nodes", words, NO_NODE, problems);
            patterns
        });
        let at = table.at.as_ref().map(|words| {
            let patterns = names::patterns(&"[[cookie]] at", words, lines, problems);
            names::report_nothing(&"[[cookie]] at", words, NOWHERE, problems);
            patterns
        });
        let Some(word) = &table.file else { continue };
        let Some(path) = path(FILE, word, problems) else { continue };
        if let Some(cookie) = read(FILE, word, &path, (how.files, problems)) {
            cookies.each.push(CookieOf { nodes, at, cookie });
        }
        places.each.push(path);
    }
    report_never_asked(written, problems);
    (places, cookies)
}

const NO_NODE: Nothing = Nothing {
    effect: "so that it is the cookie of no node",
    when_empty: "leave the key out for every node, or take the table away",
    every: "*@*",
};
const NOWHERE: Nothing = Nothing { every: "*", ..NO_NODE };

fn path(key: impl Display, word: &Word<'_>, problems: &mut Problems) -> Option<PathBuf> {
    path::read(key, word, PATH).map_err(|problem| problems.push(problem)).ok()
}

fn read(
    key: impl Display,
    word: &Word<'_>,
    path: &Path,
    (files, problems): (Files, &mut Problems),
) -> Option<Cookie> {
    if files == Files::Leave {
        return None;
    }
    let (fault, cookie) = match cookie::read(path, files) {
        Ok(Found { cookie, oddity: None }) => return Some(cookie),
        Ok(Found { cookie, oddity: Some(fault) }) => (fault, Some(cookie)),
        Err(fault) => (fault, None),
    };
    let message = format!("{key}: {} {fault}", one_line(&path.display().to_string()));
    let works = cookie.is_some() || fault.is_forgiven(files);
    let problem =
        if works { Problem::warning(word.span(), message) } else { Problem::error(word.span(), message) };
    problems.push(problem.with_help(fault.help(path)));
    cookie
}

/// Reports what a table hides that is for all nodes: the first that fits counts.
fn report_never_asked(written: &Written<'_>, problems: &mut Problems) {
    let is_for_all = |table: &WrittenCookie<'_>| table.nodes.is_none() && table.at.is_none();
    let Some(first) = written.cookies.iter().position(is_for_all) else { return };
    let below = written.cookies.get(first + 1).map(|_| "the tables below it never count");
    let default = written.dist.cookie_file.as_ref().filter(|word| !word.get_ref().is_empty());
    let default = default.map(|_| "[dist] cookie_file never counts");
    if let (Some(what), Some(table)) = (below.or(default), written.cookies.get(first)) {
        let message = format!("[[cookie]]: has neither nodes nor at, so that {what}");
        let help = "say for which nodes it is, or make it [dist] cookie_file";
        problems.push(Problem::warning(table.span.clone(), message).with_help(help));
    }
}
