//! `certs show`: what certificates and lists of revoked ones are.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use super::super::say;
use super::super::terminal::{counted, duration, shown, shown_json};
use super::tell;
use crate::certs::{
    CertificateDocument, CrlDocument, Document, KeyDocument, KeyState, RevocationState, Subject, Validity,
};

/// How many revoked certificates of a list are shown.
const LISTED: usize = 50;

#[derive(Debug, clap::Args)]
pub(super) struct ShowArguments {
    /// Files, or names that this CA has issued certificates for [default: all in the directory]
    #[arg(value_name = "FILE or NAME")]
    what: Vec<String>,
    /// Print JSON, which tells more
    #[arg(long)]
    json: bool,
}

pub(super) fn show(directory: &Path, arguments: &ShowArguments, now: SystemTime) -> ExitCode {
    let mut subjects: Vec<Subject> = arguments.what.iter().map(|text| subject(directory, text)).collect();
    if subjects.is_empty() {
        subjects.push(Subject::All);
    }
    let (mut documents, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for subject in &subjects {
        match crate::certs::show(directory, subject, now) {
            Ok(found) => documents.extend(found),
            Err(error) => {
                tell(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    if arguments.json {
        say(&shown_json(&serde_json::to_string_pretty(&documents).unwrap_or_default()));
    } else if !documents.is_empty() {
        say(&documents.iter().map(render).collect::<Vec<_>>().join("\n\n"));
    }
    code
}

/// Whether a text means a file or a name: a name, if both could be.
fn subject(directory: &Path, text: &str) -> Subject {
    let is_path = text.contains('/') && !text.contains("://");
    let here = PathBuf::from(text);
    let is_here = !directory.join(format!("{text}.crt")).exists() && here.is_file();
    if is_path || is_here {
        return Subject::File(here);
    }
    // `show ca.crt` and `show h2.crt` mean those of the directory.
    let within = directory.join(text);
    if !text.contains("://") && within.is_file() {
        Subject::File(within)
    } else {
        Subject::Name(text.to_owned())
    }
}

fn render(document: &Document) -> String {
    match document {
        Document::Certificate(document) => certificate(document),
        Document::Crl(document) => list(document),
    }
}

fn certificate(document: &CertificateDocument) -> String {
    let kind = if document.authority { "the certificate of a CA" } else { "a certificate" };
    let names: Vec<String> =
        document.names.iter().map(|name| format!("{} {}", name.kind, shown(&name.value))).collect();
    let far = duration(document.remaining_seconds.abs());
    let when = match document.validity {
        Validity::Valid => format!("expires in {far}"),
        Validity::Expired => format!("EXPIRED {far} ago"),
        Validity::NotYetValid => format!("NOT VALID YET, begins in {far}"),
    };
    let revoked = match (&document.revocation, &document.revoked_at) {
        (RevocationState::Revoked, Some(at)) => format!("REVOKED at {at}"),
        (RevocationState::Revoked, None) => "REVOKED".to_owned(),
        (RevocationState::Good, _) => "no".to_owned(),
        (RevocationState::Unknown, _) => "unknown, no list of its issuer is here".to_owned(),
    };
    let mut rows = vec![
        ("subject", or_none(shown(&document.subject))),
        ("names", or_none(names.join(", "))),
        ("issuer", or_none(shown(&document.issuer))),
        ("serial", document.serial.clone()),
        ("valid", format!("{} to {}, {when}", document.not_before, document.not_after)),
        ("may", usage(document)),
        ("key", key(&document.key)),
        ("revoked", revoked),
        ("SHA-256", document.fingerprint_sha256.clone()),
    ];
    if !document.authority {
        rows.push(("a guard", judgement(document)));
    }
    block(&document.file, kind, &rows)
}

fn usage(document: &CertificateDocument) -> String {
    let mut words = Vec::new();
    if document.authority {
        let below = match document.path_length {
            Some(0) => " for hosts",
            _ => " for hosts and CAs",
        };
        words.push(format!("issue certificates{below}"));
    }
    for (usages, silence) in [
        (&document.key_usage, "anything (no keyUsage)"),
        (&document.extended_key_usage, "any purpose (no extendedKeyUsage)"),
    ] {
        let said = usages.iter().map(|usage| shown(usage)).collect::<Vec<_>>().join(", ");
        if !said.is_empty() {
            words.push(said);
        } else if !document.authority {
            words.push(silence.to_owned());
        }
    }
    words.join("; ")
}

fn key(key: &KeyDocument) -> String {
    let file = key.file.as_deref().map(|file| {
        let path = Path::new(file);
        shown(&path.file_name().map_or_else(|| file.to_owned(), |name| name.to_string_lossy().into_owned()))
    });
    let file = file.unwrap_or_default();
    let state = match key.state {
        KeyState::Matches => format!("{file} belongs to it"),
        KeyState::Differs => format!("{file} BELONGS TO ANOTHER ONE"),
        KeyState::Absent => "the private key is not here".to_owned(),
        KeyState::Unreadable => format!("{file} cannot be read"),
    };
    let detail = key.detail.as_deref().map_or_else(String::new, |detail| format!(" ({})", shown(detail)));
    format!("{}; {state}{detail}", shown(&key.algorithm))
}

fn judgement(document: &CertificateDocument) -> String {
    if !document.obstacles.is_empty() {
        let why: Vec<String> = document.obstacles.iter().map(|why| shown(why)).collect();
        return format!("REFUSES it: {}", why.join("; "));
    }
    match &document.checked_with {
        Some(file) => format!("that trusts {} takes it", shown(file)),
        None => "may take it; no ca.crt is here to see".to_owned(),
    }
}

fn list(document: &CrlDocument) -> String {
    let number = document.number.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let current = match (&document.next_update, document.remaining_seconds) {
        (Some(until), Some(left)) if left < 0.0 => format!("to {until}, STALE for {}", duration(-left)),
        (Some(until), Some(left)) => format!("to {until}, stale in {}", duration(left)),
        _ => "with no end".to_owned(),
    };
    let count = u64::try_from(document.revoked.len()).unwrap_or(u64::MAX);
    let mut rows = vec![
        ("issuer", or_none(shown(&document.issuer))),
        ("number", number),
        ("current", format!("{} {current}", document.this_update)),
        ("revoked", counted(count, "certificate")),
    ];
    for revoked in document.revoked.iter().take(LISTED) {
        let name = revoked.name.as_deref().map_or_else(String::new, |name| format!(", {}", shown(name)));
        rows.push(("", format!("{} at {}{name}", revoked.serial, revoked.at)));
    }
    if document.revoked.len() > LISTED {
        rows.push(("", "and more, which --json lists".to_owned()));
    }
    block(&document.file, "a list of revoked certificates", &rows)
}

fn block(file: &str, kind: &str, rows: &[(&str, String)]) -> String {
    let mut lines = vec![format!("{}: {kind}", shown(file))];
    lines.extend(rows.iter().map(|(name, value)| format!("  {name:<8} {value}")));
    lines.join("\n")
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
