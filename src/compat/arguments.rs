//! The arguments and the environment of epmd (`epmd.c:main`, and measured on OTP 25).
//!
//! By hand and not by clap: epmd's options are long ones behind a single dash, which clap reads as a row of short ones,
//! and scripts know epmd's own rules. A question ends the command line, only options before it count, numbers are
//! read as `atoi` reads them, and every mistake ends with the usage and 1.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use crate::proto::epmd::DEFAULT_PORT;

/// What the environment says, where it is set.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `ERL_EPMD_PORT`.
    pub port: Option<OsString>,
    /// `ERL_EPMD_ADDRESS`.
    pub addresses: Option<OsString>,
    /// Whether `ERL_EPMD_RELAXED_COMMAND_CHECK` is set, to whatever.
    pub relaxed: bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A question to the epmd that runs on this host.
    Ask {
        /// What is asked.
        question: Question,
        /// The port on loopback; nobody answers at 0.
        port: u16,
    },
    /// To be the epmd of this host.
    Serve(Settings),
}

/// What is asked of the running epmd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// `-names`: what is registered.
    Names,
    /// `-started`: whether it answers, by the exit code alone.
    Started,
    /// `-dump`: what is registered, and what was.
    Dump,
    /// `-kill`: to end.
    Kill,
    /// `-stop NAME`: to throw this name out. Not an `AliveName`: epmd registers what is none, and such a name is the
    /// one to throw out.
    Stop(Vec<u8>),
}

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The port to listen on; 0 where `ERL_EPMD_PORT` is not one. epmd takes any free port then, where nobody looks.
    pub port: u16,
    /// The addresses to listen at, besides both loopbacks; none means everywhere. Always none with `-systemd`.
    pub addresses: Option<Vec<IpAddr>>,
    /// Whether KILL and STOP do what they say while names are registered.
    pub relaxed: bool,
    /// How often `-d` or `-debug` is there.
    pub debug: u8,
    /// Whether to leave the terminal.
    pub daemon: bool,
    /// Whether systemd passes the sockets.
    pub systemd: bool,
    /// How long a request may take; epmd's default is 60 s.
    pub packet_timeout: Option<Duration>,
    /// How long to wait before a connection is accepted: a test aid.
    pub delay_accept: Option<Duration>,
    /// How long to wait before an answer is written: a test aid.
    pub delay_write: Option<Duration>,
}

/// A command line that means nothing. Told with the usage, but for an address that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No option of epmd's.
    #[error("there is no option {0:?}")]
    Unknown(OsString),
    /// The option wants a value and is the last argument.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// The option wants another number.
    #[error("{option} needs a number from 1 to {most}, not {value:?}")]
    Number {
        /// The option.
        option: &'static str,
        /// The largest number that it takes.
        most: u32,
        /// What was given.
        value: OsString,
    },
    /// A question that is not the last argument.
    #[error("{0} must be the last argument")]
    NotLast(&'static str),
    /// In the list of addresses; its text is epmd's.
    #[error("cannot parse IP address {0:?}")]
    Address(String),
}

impl Misuse {
    /// Whether the usage is shown with it, as epmd does.
    #[must_use]
    pub fn wants_usage(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::NoValue(_) | Self::Number { .. } | Self::NotLast(_) => true,
            Self::Address(_) => false,
        }
    }
}

/// How to call it.
#[must_use]
pub fn usage() -> String {
    format!(
        "\
usage: epmd [-d|-debug] [-port N] [-address LIST] [-daemon] [-systemd]
            [-relaxed_command_check] [-packet_timeout SECONDS]
            [-delay_accept SECONDS] [-delay_write SECONDS]
       epmd [-port N] -names | -started | -dump | -kill | -stop NAME

This is epmd-guard {version}, which stands in for epmd when it is called so.

To serve:
  -port N                  listen on this port (ERL_EPMD_PORT, or {DEFAULT_PORT})
  -address LIST            listen at these addresses and on loopback; commas
                           between them (ERL_EPMD_ADDRESS, or everywhere)
  -daemon                  leave the terminal; ends with 0 once it serves
  -systemd                 serve the sockets that systemd passes
  -relaxed_command_check   let -kill and -stop act while names are registered
                           (ERL_EPMD_RELAXED_COMMAND_CHECK, set to anything)
  -d, -debug               tell more; again for more still
  -packet_timeout SECONDS  the time that a request may take (60)
  -delay_accept SECONDS    wait before each accept: a test aid
  -delay_write SECONDS     wait before each answer: a test aid

To ask the epmd of this host, as the last argument:
  -names                   list the registered names
  -started                 end with 0 if it runs, and print nothing
  -dump                    list the registered names and the old ones
  -kill                    end it; it refuses while names are registered
  -stop NAME               throw a name out; it must be relaxed for that
",
        version = env!("CARGO_PKG_VERSION")
    )
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// See [`Misuse`].
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Command, Misuse> {
    let mut settings = Settings::default_in(environment);
    let mut addresses = environment.addresses.clone();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"-d" | b"-debug" => settings.debug = settings.debug.saturating_add(1),
            b"-daemon" => settings.daemon = true,
            b"-systemd" => settings.systemd = true,
            b"-relaxed_command_check" => settings.relaxed = true,
            b"-port" => settings.port = number("-port", &mut rest)?,
            b"-address" => addresses = Some(value("-address", &mut rest)?),
            b"-packet_timeout" => settings.packet_timeout = Some(seconds("-packet_timeout", &mut rest)?),
            b"-delay_accept" => settings.delay_accept = Some(seconds("-delay_accept", &mut rest)?),
            b"-delay_write" => settings.delay_write = Some(seconds("-delay_write", &mut rest)?),
            b"-names" => return last("-names", Question::Names, settings.port, rest),
            b"-started" => return last("-started", Question::Started, settings.port, rest),
            b"-dump" => return last("-dump", Question::Dump, settings.port, rest),
            b"-kill" => return last("-kill", Question::Kill, settings.port, rest),
            b"-stop" => {
                let name = value("-stop", &mut rest)?.as_bytes().to_vec();
                return last("-stop NAME", Question::Stop(name), settings.port, rest);
            }
            _ => return Err(Misuse::Unknown(argument)),
        }
    }
    // Only now: who asks has no use for addresses, and epmd does not look at them with -systemd.
    if !settings.systemd {
        settings.addresses = addresses.as_deref().map(listed).transpose()?.flatten();
    }
    Ok(Command::Serve(settings))
}

impl Settings {
    fn default_in(environment: &Environment) -> Self {
        let port = environment.port.as_deref().map(|text| {
            // epmd goes on with port 0, or with what is left of a larger number in 16 bits.
            u16::try_from(leading_number(text)).unwrap_or(0)
        });
        Self {
            port: port.unwrap_or(DEFAULT_PORT),
            addresses: None,
            relaxed: environment.relaxed,
            debug: 0,
            daemon: false,
            systemd: false,
            packet_timeout: None,
            delay_accept: None,
            delay_write: None,
        }
    }
}

fn last(
    option: &'static str,
    question: Question,
    port: u16,
    mut rest: impl Iterator<Item = OsString>,
) -> Result<Command, Misuse> {
    match rest.next() {
        None => Ok(Command::Ask { question, port }),
        Some(_) => Err(Misuse::NotLast(option)),
    }
}

fn value(option: &'static str, rest: &mut impl Iterator<Item = OsString>) -> Result<OsString, Misuse> {
    rest.next().ok_or(Misuse::NoValue(option))
}

fn seconds(option: &'static str, rest: &mut impl Iterator<Item = OsString>) -> Result<Duration, Misuse> {
    number::<u32>(option, rest).map(|seconds| Duration::from_secs(seconds.into()))
}

/// A positive number. epmd takes negative ones too, and what does not fit is cut to its lowest bits; neither means
/// anything.
fn number<T: TryFrom<i64> + Bounded>(
    option: &'static str,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<T, Misuse> {
    let value = value(option, rest)?;
    let number = leading_number(&value);
    match T::try_from(number) {
        Ok(fits) if (1..=i64::from(T::MOST)).contains(&number) => Ok(fits),
        Ok(_) | Err(_) => Err(Misuse::Number { option, most: T::MOST, value }),
    }
}

/// The largest number that an option takes.
trait Bounded {
    const MOST: u32;
}

impl Bounded for u16 {
    const MOST: u32 = 65_535;
}

impl Bounded for u32 {
    /// What fits into epmd's `int`.
    const MOST: u32 = 2_147_483_647;
}

/// As `atoi` reads it: white space, a sign, digits, and anything behind them; 0 without digits.
fn leading_number(text: &OsStr) -> i64 {
    let bytes = text.as_bytes();
    // atoi's white space has the vertical tab, that of Rust has not.
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0x0b).unwrap_or(0);
    let (negative, digits) = match bytes.get(start..).unwrap_or_default() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number =
        digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -number } else { number }
}

/// The addresses of a list with commas or spaces between them; none if it has nothing else.
fn listed(text: &OsStr) -> Result<Option<Vec<IpAddr>>, Misuse> {
    let text = text.to_string_lossy();
    let tokens = text.split([',', ' ']).filter(|token| !token.is_empty());
    let addresses: Vec<IpAddr> = tokens
        .map(|token| token.parse().map_err(|_| Misuse::Address(token.to_owned())))
        .collect::<Result<_, _>>()?;
    Ok(Some(addresses).filter(|addresses| !addresses.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_in(environment: &Environment, arguments: &[&str]) -> Result<Command, Misuse> {
        parse(arguments.iter().map(OsString::from), environment)
    }

    fn parsed(arguments: &[&str]) -> Result<Command, Misuse> {
        parse_in(&Environment::default(), arguments)
    }

    fn served(environment: &Environment, arguments: &[&str]) -> Settings {
        match parse_in(environment, arguments) {
            Ok(Command::Serve(settings)) => settings,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn asked(port: u16, question: Question) -> Result<Command, Misuse> {
        Ok(Command::Ask { question, port })
    }

    #[test]
    fn without_arguments_it_serves_everywhere_on_4369() {
        let settings = served(&Environment::default(), &[]);
        assert_eq!((settings.port, &settings.addresses, settings.debug), (4369, &None, 0));
        assert!(!settings.relaxed && !settings.daemon && !settings.systemd);
        assert_eq!(
            (settings.packet_timeout, settings.delay_accept, settings.delay_write),
            (None, None, None)
        );
    }

    #[test]
    fn every_option_of_epmd_is_known() {
        let arguments = "-d -debug -d -daemon -systemd -relaxed_command_check -port 5000 -packet_timeout 2 -delay_accept 3 \
             -delay_write 4";
        let settings = served(&Environment::default(), &arguments.split_whitespace().collect::<Vec<_>>());
        assert_eq!((settings.debug, settings.port), (3, 5000));
        assert!(settings.relaxed && settings.daemon && settings.systemd);
        let seconds = [settings.packet_timeout, settings.delay_accept, settings.delay_write];
        assert_eq!(seconds.map(|seconds| seconds.unwrap().as_secs()), [2, 3, 4]);
    }

    #[test]
    fn a_question_ends_the_command_line_and_the_options_before_it_count() {
        assert_eq!(parsed(&["-port", "5000", "-names"]), asked(5000, Question::Names));
        assert_eq!(parsed(&["-daemon", "-address", "x", "-d", "-kill"]), asked(4369, Question::Kill));
        assert_eq!(parsed(&["-started"]), asked(4369, Question::Started));
        assert_eq!(parsed(&["-dump"]), asked(4369, Question::Dump));
        assert_eq!(parsed(&["-stop", "a b"]), asked(4369, Question::Stop(b"a b".to_vec())));
        assert_eq!(parsed(&["-stop", "-port"]), asked(4369, Question::Stop(b"-port".to_vec())));
        assert_eq!(parsed(&["-names", "-port", "5000"]), Err(Misuse::NotLast("-names")));
        assert_eq!(parsed(&["-stop", "a", "b"]), Err(Misuse::NotLast("-stop NAME")));
        assert_eq!(parsed(&["-stop"]), Err(Misuse::NoValue("-stop")));
    }

    #[test]
    fn numbers_are_read_as_atoi_reads_them() {
        for (text, number) in [
            ("12abc", 12),
            (" \t\x0b+5", 5),
            ("-7", -7),
            ("", 0),
            ("abc", 0),
            ("- 5", 0),
            ("99999999999999999999", i64::MAX),
        ] {
            assert_eq!(leading_number(OsStr::new(text)), number, "{text:?}");
        }
        assert_eq!(parsed(&["-port", "5000x", "-names"]), asked(5000, Question::Names));
        for port in ["0", "x", "", "-5", "65536"] {
            let refused = parsed(&["-port", port, "-names"]).unwrap_err();
            assert!(matches!(refused, Misuse::Number { option: "-port", .. }), "{port:?}: {refused}");
            assert!(refused.wants_usage());
        }
        for option in ["-packet_timeout", "-delay_accept", "-delay_write"] {
            for wrong in ["0", "x", "-3", "2147483648"] {
                assert!(matches!(parsed(&[option, wrong]), Err(Misuse::Number { .. })), "{option} {wrong}");
            }
            assert_eq!(parsed(&[option]), Err(Misuse::NoValue(option)));
        }
    }

    #[test]
    fn what_epmd_does_not_know_gets_the_usage() {
        for argument in ["-h", "--help", "--port", "names", "", "-D", "-por"] {
            assert_eq!(parsed(&[argument]), Err(Misuse::Unknown(argument.into())));
        }
        assert_eq!(parsed(&["-names", "x"]), Err(Misuse::NotLast("-names")));
        let shown = Misuse::Unknown("\u{1b}[2J".into()).to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn the_environment_counts_where_no_option_says_otherwise() {
        let environment = Environment {
            port: Some("5001".into()),
            addresses: Some("192.0.2.1, 2001:db8::1".into()),
            relaxed: true,
        };
        let settings = served(&environment, &[]);
        assert_eq!(settings.port, 5001);
        assert_eq!(
            settings.addresses,
            Some(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()])
        );
        assert!(settings.relaxed);
        let settings = served(&environment, &["-port", "5002", "-address", "192.0.2.9"]);
        assert_eq!((settings.port, settings.addresses), (5002, Some(vec!["192.0.2.9".parse().unwrap()])));
        assert_eq!(parse_in(&environment, &["-names"]), asked(5001, Question::Names));
        for port in ["", "x", "70000", "-1"] {
            let environment = Environment { port: Some(port.into()), ..Environment::default() };
            assert_eq!(parse_in(&environment, &["-names"]), asked(0, Question::Names), "{port:?}");
        }
    }

    #[test]
    fn a_list_of_separators_means_everywhere_and_one_bad_address_nowhere() {
        for list in ["", " ", ",", ", ,"] {
            assert_eq!(served(&Environment::default(), &["-address", list]).addresses, None, "{list:?}");
        }
        for list in ["999.1.1.1", "192.0.2.1,h1", "[::1]", "fe80::1%eth0"] {
            let refused = parsed(&["-address", list]).unwrap_err();
            assert!(matches!(refused, Misuse::Address(_)) && !refused.wants_usage(), "{list:?}: {refused}");
        }
        assert_eq!(
            parsed(&["-address", "999.1.1.1"]).unwrap_err().to_string(),
            "cannot parse IP address \"999.1.1.1\""
        );
        assert_eq!(served(&Environment::default(), &["-systemd", "-address", "999.1.1.1"]).addresses, None);
    }

    #[test]
    fn the_usage_names_every_option_and_who_it_is() {
        let usage = usage();
        let (_, options) = usage.split_once("To serve:").unwrap();
        let named: Vec<_> = options.split([' ', ',', '\n']).filter(|word| word.starts_with('-')).collect();
        for option in
            "-d -debug -port -address -daemon -systemd -relaxed_command_check -packet_timeout -delay_accept \
                       -delay_write -names -started -dump -kill -stop"
                .split_whitespace()
        {
            assert!(named.contains(&option), "{option}");
        }
        assert!(usage.contains(concat!("epmd-guard ", env!("CARGO_PKG_VERSION"))));
    }
}
