//! Whether two programs did the same on a connection, except for the documented differences.

use std::collections::{BTreeMap, BTreeSet};

use super::asked::{Asked, Stream};
use super::script::{Check, shown};
use super::tally::Tally;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The program closed in good order.
    Fin,
    /// The kernel cut it, on the program's behalf.
    Reset,
    /// We closed it.
    Ours,
    /// It was never accepted.
    Refused,
}

/// What a program did on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    /// `None` while it is open.
    pub(crate) end: Option<End>,
}

/// The documented differences: one variant for each row of `docs/epmd-compatibility.md` that can be met here. The
/// real epmd is always the first of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// epmd holds the connection of a refused registration for ever, ours answers the same and closes.
    RefusedRegistrationCloses,
    /// epmd registers a name with white space, a control character or `@`, ours refuses it.
    NameWithOddCharacter,
    /// epmd registers the empty name if there is an extra, ours refuses it.
    EmptyName,
    /// epmd registers a name of 255 characters, which it cannot find then; ours refuses it.
    NameOf255Characters,
    /// epmd answers "not found" when a name is looked up that ours never registers; ours may close.
    LookupOfImpossibleName,
    /// epmd refuses an extra of more than 1020 bytes with an answer, ours may do so without.
    ExtraTooLong,
    /// Both count up from the clock, and not at the same moment.
    CreationValue,
    /// epmd closes with bytes unread, whereupon the kernel resets; ours reads them first.
    AnswerSurvivesUnreadInput,
    /// epmd waits for the whole of a request that it does not serve, ours closes as soon as it knows the opcode.
    RefusedByItsOpcode,
    /// epmd's time-out starts anew with each byte, ours is for the whole request.
    TimeoutIsTotal,
    /// The numbers of descriptors in DUMP.
    DumpDescriptors,
}

impl Difference {
    pub(crate) const ALL: [Self; 11] = [
        Self::RefusedRegistrationCloses,
        Self::NameWithOddCharacter,
        Self::EmptyName,
        Self::NameOf255Characters,
        Self::LookupOfImpossibleName,
        Self::ExtraTooLong,
        Self::CreationValue,
        Self::AnswerSurvivesUnreadInput,
        Self::RefusedByItsOpcode,
        Self::TimeoutIsTotal,
        Self::DumpDescriptors,
    ];

    /// What it is called where it is counted.
    pub(crate) fn row(self) -> &'static str {
        match self {
            Self::RefusedRegistrationCloses => "a refused registration is closed",
            Self::NameWithOddCharacter => "names with white space, control characters or @ are refused",
            Self::EmptyName => "the empty name is refused",
            Self::NameOf255Characters => "names of 255 characters are refused",
            Self::LookupOfImpossibleName => "a look-up of a name that cannot be is closed silently",
            Self::ExtraTooLong => "an extra of more than 1020 bytes is closed silently",
            Self::CreationValue => "creations differ, and count up on both sides",
            Self::AnswerSurvivesUnreadInput => "an answer is not destroyed by unread input",
            Self::RefusedByItsOpcode => "what is refused by its opcode is closed before the rest of it comes",
            Self::TimeoutIsTotal => "the time-out is for the whole request",
            Self::DumpDescriptors => "descriptor numbers in DUMP",
        }
    }
}

/// What is known about a connection besides what was sent and received.
pub(crate) struct Around<'a> {
    /// The ports of the two programs.
    pub(crate) ports: [u16; 2],
    /// Names that only epmd has ever registered.
    pub(crate) only_theirs: &'a BTreeSet<Vec<u8>>,
    pub(crate) check: Check,
    pub(crate) ended_with: EndedWith,
}

/// What else may have ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedWith {
    Nothing,
    /// We closed before an answer could come; there may be one or not.
    Ourselves,
    /// KILL, which ends the process.
    TheProcess,
    /// The time-out, though bytes came all the time.
    TheTimeout,
}

/// Compares what the two did on a connection.
///
/// # Errors
///
/// What differs, without being documented.
pub(crate) fn compare(
    stream: &Stream,
    seen: &[Seen; 2],
    around: &Around<'_>,
    tally: &mut Tally,
) -> Result<(), String> {
    if around.ended_with == EndedWith::Ourselves {
        return Ok(());
    }
    let asked = stream.asked();
    let silent = silence(stream, seen, tally);
    if !silent && !same_bytes(&asked, seen, around, tally) {
        return Err(format!("{} was answered differently", asked.label()));
    }
    if silent || same_end(stream, seen, around, tally) {
        Ok(())
    } else {
        Err(format!("after {} the connection ended differently", asked.label()))
    }
}

/// Whether ours closed without an answer where that is documented.
fn silence(stream: &Stream, [theirs, ours]: &[Seen; 2], tally: &mut Tally) -> bool {
    let (row, answer) = match &stream.asked() {
        Asked::PortPlease2(name) if impossible(name).is_some() => {
            (Difference::LookupOfImpossibleName, theirs.bytes == [b'w', 1])
        }
        Asked::Alive2 { extra, .. } if *extra > 1020 => {
            (Difference::ExtraTooLong, Reply::read(&theirs.bytes).is_some_and(Reply::refuses))
        }
        _ => return false,
    };
    let closed = ours.end == Some(End::Fin) || (stream.may_be_unread() && ours.end == Some(End::Reset));
    let differs = answer && ours.bytes.is_empty() && closed;
    tally.met(row, differs.into());
    differs
}

fn same_bytes(asked: &Asked, [theirs, ours]: &[Seen; 2], around: &Around<'_>, tally: &mut Tally) -> bool {
    let same = theirs.bytes == ours.bytes;
    match asked {
        Asked::Alive2 { name, .. } => same_reply(name, [&theirs.bytes, &ours.bytes], tally),
        Asked::Names => {
            let [theirs, ours] = ported([theirs, ours], around.ports);
            theirs.is_some() && theirs == ours
        }
        Asked::Dump => {
            let [theirs, ours] = ported([theirs, ours], around.ports);
            tally.met(Difference::DumpDescriptors, (theirs != ours).into());
            let entries = |text: Option<&[u8]>| text.map(|text| dump(text, around.only_theirs));
            theirs.is_some() && entries(theirs) == entries(ours)
        }
        Asked::Nothing
        | Asked::BadLength
        | Asked::Trailing
        | Asked::BadAlive2
        | Asked::PortPlease2(_)
        | Asked::Kill
        | Asked::Stop(_)
        | Asked::Unknown(_) => same,
    }
}

/// The answer to NAMES and DUMP behind its first four bytes, if these are the program's port.
fn ported(seen: [&Seen; 2], ports: [u16; 2]) -> [Option<&[u8]>; 2] {
    let text = |at: usize| {
        let (port, text) = seen[at].bytes.split_first_chunk::<4>()?;
        (u32::from_be_bytes(*port) == u32::from(ports[at])).then_some(text)
    };
    // Who was gone before the answer saw nothing, of either.
    if seen.iter().all(|seen| seen.bytes.is_empty()) { [Some(&[]), Some(&[])] } else { [text(0), text(1)] }
}

/// The entries of a DUMP, the descriptors left out, and former names that only epmd has ever had too.
fn dump(text: &[u8], only_theirs: &BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
    let old = |entry: &&[u8]| {
        let name = only_theirs.iter().any(|name| {
            let line = [b"old/unused name <", name.as_slice(), b">, port = "].concat();
            entry.starts_with(&line)
        });
        !name
    };
    let without_descriptor = |entry: &[u8]| {
        const LABEL: &[u8] = b"fd = ";
        let at = entry.windows(LABEL.len()).rposition(|window| window == LABEL);
        let (before, rest) = entry.split_at(at.map_or(entry.len(), |at| at + LABEL.len()));
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        [before, if digits > 0 { b"N" } else { b"" }, &rest[digits..]].concat()
    };
    text.split(|byte| *byte == 0).filter(old).map(without_descriptor).collect()
}

fn same_reply(name: &[u8], [theirs, ours]: [&[u8]; 2], tally: &mut Tally) -> bool {
    let (Some(their_reply), Some(our_reply)) = (Reply::read(theirs), Reply::read(ours)) else {
        return theirs == ours;
    };
    match impossible(name) {
        Some(row) if !their_reply.refuses() => {
            let differs = our_reply.refuses() && our_reply.code == their_reply.code;
            tally.met(row, differs.into());
            if differs {
                return true;
            }
        }
        _ => {}
    }
    if their_reply.refuses() || our_reply.refuses() {
        return theirs == ours;
    }
    tally.met(Difference::CreationValue, (their_reply.creation != our_reply.creation).into());
    their_reply.code == our_reply.code && their_reply.result == our_reply.result
}

fn same_end(stream: &Stream, [theirs, ours]: &[Seen; 2], around: &Around<'_>, tally: &mut Tally) -> bool {
    let refused = matches!(stream.asked(), Asked::Alive2 { .. })
        && Reply::read(&ours.bytes).is_some_and(Reply::refuses);
    if refused {
        let differs = theirs.end.is_none() && ours.end == Some(End::Fin);
        tally.met(Difference::RefusedRegistrationCloses, differs.into());
        // A name that ours refuses is taken from epmd too, to have the same table again.
        if differs || (ours.end == Some(End::Fin) && theirs.end == Some(End::Ours)) {
            return true;
        }
    }
    let ended = |seen: &Seen| matches!(seen.end, Some(End::Fin | End::Reset));
    if stream.may_be_unread() && ended(theirs) && ended(ours) {
        tally.met(Difference::AnswerSurvivesUnreadInput, (theirs.end != ours.end).into());
        return true;
    }
    if stream.opcode().is_some_and(|opcode| !is_served(opcode, around.check)) {
        // Theirs may be closed by us already, which ends the wait for the rest. What comes behind the opcode may find
        // ours closing, which is a reset.
        let early = ended(ours) && (ours.end == Some(End::Fin) || stream.bytes.len() > 3);
        let differs = early && theirs.end != ours.end && theirs.end != Some(End::Reset);
        tally.met(Difference::RefusedByItsOpcode, differs.into());
        if differs {
            return true;
        }
    }
    match around.ended_with {
        EndedWith::TheProcess if ended(theirs) && ended(ours) => return true,
        EndedWith::TheTimeout => {
            let differs = theirs.end.is_none() && ours.end == Some(End::Fin);
            tally.met(Difference::TimeoutIsTotal, differs.into());
            if differs {
                return true;
            }
        }
        EndedWith::TheProcess | EndedWith::Ourselves | EndedWith::Nothing => {}
    }
    theirs.end == ours.end
}

/// Whether a request with this opcode can be answered at all.
fn is_served(opcode: u8, check: Check) -> bool {
    match opcode {
        b'x' | b'z' | b'n' | b'd' | b'k' => true,
        b's' => check == Check::Relaxed,
        _ => false,
    }
}

/// Which documented difference keeps a name out of our table, though epmd takes it.
pub(crate) fn impossible(name: &[u8]) -> Option<Difference> {
    let text = std::str::from_utf8(name).ok()?;
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '@';
    match text.chars().count() {
        0 => Some(Difference::EmptyName),
        255 => Some(Difference::NameOf255Characters),
        count if count < 255 && text.chars().any(odd) => Some(Difference::NameWithOddCharacter),
        _ => None,
    }
}

/// The answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 118 with a wide creation, 121 with a narrow one.
    pub(crate) code: u8,
    pub(crate) result: u8,
    pub(crate) creation: u32,
}

impl Reply {
    /// Reads the answer, once it is whole.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [118, result, a, b, c, d] => {
                Some(Self { code: 118, result, creation: u32::from_be_bytes([a, b, c, d]) })
            }
            [121, result, a, b] => {
                Some(Self { code: 121, result, creation: u16::from_be_bytes([a, b]).into() })
            }
            _ => None,
        }
    }

    pub(crate) fn refuses(self) -> bool {
        self.result != 0
    }

    /// What a narrow creation keeps of the counter.
    fn narrow(self) -> u32 {
        if self.code == 118 { self.creation % 3 + 1 } else { self.creation }
    }
}

/// The last creation of each name, on one side.
#[derive(Debug, Default)]
pub(crate) struct Creations(BTreeMap<Vec<u8>, Reply>);

impl Creations {
    /// Takes note of an accepted registration.
    ///
    /// # Errors
    ///
    /// When the creation is none, or does not follow the last one of that name.
    pub(crate) fn follow(&mut self, name: &[u8], reply: Reply) -> Result<(), String> {
        let valid = if reply.code == 118 { reply.creation >= 4 } else { (1..=3).contains(&reply.creation) };
        if !valid {
            return Err(format!("creation {} of {} is none", reply.creation, shown(name)));
        }
        let Some(last) = self.0.insert(name.to_vec(), reply) else { return Ok(()) };
        let follows = if last.code == 118 && reply.code == 118 {
            last.creation.wrapping_add(1) == reply.creation
        } else {
            last.narrow() % 3 + 1 == reply.narrow()
        };
        let why =
            || format!("creation {} of {} does not follow {}", reply.creation, shown(name), last.creation);
        if follows { Ok(()) } else { Err(why()) }
    }
}
