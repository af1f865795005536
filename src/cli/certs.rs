//! `certs`: the cluster's own CA, the certificates of its hosts, and what any certificate is.

mod show;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::terminal::{duration, shown};
use super::{complain, say};
use crate::certs::{
    AUTHORITY_DAYS, Authority, CRL_DAYS, DIRECTORY, Error, Existing, HOST_DAYS, Issued, KeyChoice, MOST_DAYS,
    Name, Others, Renewal, Request, Revocation, init,
};
use crate::telemetry::describe;
use crate::transport::cores::{Secrets, Withheld};

#[derive(Debug, Args)]
pub(super) struct CertsArguments {
    /// The directory of the CA
    #[arg(long, value_name = "DIR", global = true, default_value = DIRECTORY)]
    dir: PathBuf,
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make the cluster's CA: ca.crt, ca.key, and an empty list of revoked certificates, crl.pem
    Init(InitArguments),
    /// Issue a certificate for each host: NAME.crt and NAME.key
    Issue(IssueArguments),
    /// Issue new certificates for the names of earlier ones, in their files
    Renew(RenewArguments),
    /// Revoke every certificate that was issued for these names, and write crl.pem anew; without names do the latter
    /// alone, so that it counts as current for longer
    Revoke(RevokeArguments),
    /// Show what certificates and lists are, and what they may be used for; of any CA
    Show(show::ShowArguments),
}

#[derive(Debug, Args)]
struct InitArguments {
    /// What the cluster is called; it is in the name of the CA
    #[arg(long, value_name = "CLUSTER", default_value = "epmd-guard")]
    name: String,
    /// How long the CA is to be valid
    #[arg(long, value_name = "DAYS", default_value_t = AUTHORITY_DAYS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_DAYS)))]
    days: u32,
}

#[derive(Debug, Args)]
struct IssueArguments {
    /// The host's name, address, or a URI such as spiffe://example.org/h2; it is in the certificate
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Another host name for the certificate
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// An address for the certificate
    #[arg(long, value_name = "ADDR")]
    ip: Vec<IpAddr>,
    /// A URI for the certificate
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// How long it is to be valid; never longer than the CA
    #[arg(long, value_name = "DAYS", default_value_t = HOST_DAYS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_DAYS)))]
    days: u32,
    /// Replace the files that are there. The certificate that was in them is not revoked by that
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RenewArguments {
    /// The names that the certificates were issued by, or those of their files
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// Renew all that are not revoked
    #[arg(long)]
    all: bool,
    /// Keep the key, which need not be here: only the certificate has to go to the host
    #[arg(long)]
    keep_key: bool,
    /// How long they are to be valid [default: as long as those before]
    #[arg(long, value_name = "DAYS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_DAYS)))]
    days: Option<u32>,
}

#[derive(Debug, Args)]
struct RevokeArguments {
    /// The names that the certificates were issued by, or those of their files
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Revoke these alone, also where certificates that were issued by other names have the same names, and stay good
    #[arg(long, requires = "names")]
    only: bool,
    /// How long this list and those after it count as current
    #[arg(long, value_name = "DAYS", help = format!(
        "How long crl.pem counts as current, this one and those after it [default: as before; at first {CRL_DAYS}]"
    ))]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_DAYS)))]
    days: Option<u32>,
}

pub(super) fn certs(arguments: &CertsArguments) -> ExitCode {
    // Keys will be in memory.
    Withheld::begin().settle(Secrets::Held);
    let (directory, now) = (arguments.dir.as_path(), this_second());
    let done = match &arguments.command {
        CertsCommand::Init(wanted) => make(directory, wanted, now),
        CertsCommand::Issue(wanted) => issue(directory, wanted, now),
        CertsCommand::Renew(wanted) => renew(directory, wanted, now),
        CertsCommand::Revoke(wanted) => revoke(directory, wanted, now),
        CertsCommand::Show(wanted) => return show::show(directory, wanted, now),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

/// What is wrong, where, and what to do.
fn tell(error: &Error) {
    complain(&format!("epmd-guard: {}\n      help: {}", shown(&describe(error)), shown(&error.help())));
}

fn make(directory: &Path, wanted: &InitArguments, now: SystemTime) -> Result<(), Error> {
    let authority = init(directory, &wanted.name, wanted.days, now)?;
    let file = |name: &str| path(&directory.join(name));
    say(&format!("the CA {} is valid until {}", shown(authority.subject()), date(authority.until(), now)));
    say(&format!("  {}: to every host", file("ca.crt")));
    say(&format!(
        "  {}: to every host, and again after each `epmd-guard certs revoke NAME`",
        file("crl.pem")
    ));
    say(&format!(
        "  {}: to nobody. Who has it can pass for every host. Keep a copy in a safe place",
        file("ca.key")
    ));
    say(&format!("  {}: what was issued; it belongs to the copy", file("issued.jsonl")));
    Ok(())
}

fn issue(directory: &Path, wanted: &IssueArguments, now: SystemTime) -> Result<(), Error> {
    let requests = requests(wanted)?;
    let existing = if wanted.force { Existing::Replaced } else { Existing::Stays };
    let issued = Authority::open(directory, now)?.issue(&requests, existing, now)?;
    tell_issued(&issued, now);
    Ok(())
}

/// What the arguments ask for: one certificate with more names, or several with one each.
fn requests(wanted: &IssueArguments) -> Result<Vec<Request>, Error> {
    let more = wanted.dns.iter().map(|text| Name::dns(text));
    let more = more.chain(wanted.ip.iter().map(|ip| Name::ip(*ip)));
    let more: Vec<Name> =
        more.chain(wanted.uri.iter().map(|text| Name::uri(text))).collect::<Result<_, _>>()?;
    if wanted.names.len() > 1 && !more.is_empty() {
        return Err(Error::SharedNames);
    }
    let request = |text: &String| {
        let mut names = vec![Name::parse(text)?];
        for name in &more {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Ok(Request { names, days: wanted.days })
    };
    wanted.names.iter().map(request).collect()
}

fn renew(directory: &Path, wanted: &RenewArguments, now: SystemTime) -> Result<(), Error> {
    let mut authority = Authority::open(directory, now)?;
    let names = if wanted.all { authority.renewable() } else { wanted.names.clone() };
    if names.is_empty() {
        say("there is nothing to renew");
        return Ok(());
    }
    let key = if wanted.keep_key { KeyChoice::Kept } else { KeyChoice::New };
    let issued = authority.renew(&names, Renewal { days: wanted.days, key }, now)?;
    tell_issued(&issued, now);
    Ok(())
}

fn tell_issued(issued: &[Issued], now: SystemTime) {
    for Issued { certificate, key, names, until, cut_short, former } in issued {
        let names: Vec<String> =
            names.iter().map(|name| format!("{} {}", name.kind(), shown(&name.to_string()))).collect();
        say(&format!("{}: {}, valid until {}", path(certificate), names.join(", "), date(*until, now)));
        if let Some(key) = key {
            say(&format!("{}: its key, for that host alone", path(key)));
        }
        if *cut_short {
            say("  it ends with the CA, before the time that was asked for");
        }
        for (serial, until) in former {
            say(&format!("  the one before it, serial {serial}, is valid until {}, too", date(*until, now)));
        }
    }
}

fn revoke(directory: &Path, wanted: &RevokeArguments, now: SystemTime) -> Result<(), Error> {
    let others = if wanted.only { Others::Stay } else { Others::Hinder };
    let Revocation { revoked, crl, number, until } =
        Authority::open(directory, now)?.revoke(&wanted.names, others, wanted.days, now)?;
    for (name, serials) in revoked {
        match serials.as_slice() {
            [] => say(&format!("{name}: it is revoked already")),
            serials => say(&format!("{name}: revoked, serial {}", serials.join(" and "))),
        }
    }
    say(&format!("{}: number {number}, current until {}; to every host", path(&crl), date(until, now)));
    Ok(())
}

/// The moment, as exact as certificates have it.
fn this_second() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn path(path: &Path) -> String {
    shown(&path.display().to_string())
}

/// A moment, and how far off it is.
fn date(at: SystemTime, now: SystemTime) -> String {
    let left = at.duration_since(now).unwrap_or_default();
    format!("{} ({})", humantime::format_rfc3339_seconds(at), duration(left.as_secs_f64()))
}
