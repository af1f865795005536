//! Makes cases out of seeds.
//!
//! What epmd itself answers now this way and now that way is not made: bytes behind a frame come either in the
//! segment of its length, or after that segment was read, because epmd treats the two differently. Nor are bytes
//! behind a frame of the greatest length, which fills epmd's buffer: it cannot see them and answers, by accident.

use super::asked::LONGEST;
use super::rng::Rng;
use super::script::{Case, Check, Conn, Flags, Pause, Segment, Step, Then};

/// One in so many cases waits for time-outs, which takes seconds.
const SLOW: usize = 150;

/// The case of a seed.
pub(crate) fn case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    if rng.below(SLOW) == 0 {
        return waiting(seed, &mut rng);
    }
    let check = if rng.percent(30) { Check::Relaxed } else { Check::Strict };
    let mut names = Names::new(&mut rng);
    let count = rng.within(2, 9);
    let mut plans: Vec<Vec<Step>> = (0..count).map(|index| plan(&mut rng, &mut names, Conn(index))).collect();
    let mut steps = Vec::new();
    while !plans.is_empty() {
        let at = rng.below(plans.len());
        steps.push(plans[at].remove(0));
        if plans[at].is_empty() {
            drop(plans.remove(at));
        }
        if rng.percent(6) {
            steps.push(Step::Table(names.used.clone()));
        }
    }
    steps.push(Step::Table(names.used));
    Case { seed, flags: Flags { check, packet_timeout: None }, steps }
}

/// Connections that are left unfinished until the programs lose patience.
fn waiting(seed: u64, rng: &mut Rng) -> Case {
    let name = rng.pick(POOL).as_bytes().to_vec();
    let whole = alive2(rng, &name);
    let send = |conn, bytes: &[u8]| Step::Send(Conn(conn), single(bytes), Then::Wait);
    let mut steps: Vec<Step> = (0..6).map(|conn| Step::Open(Conn(conn))).collect();
    // A lasting registration, one that is refused, three unfinished ones of which one has said nothing, and one
    // that never ceases to send.
    steps.push(send(0, &whole));
    steps.push(send(1, &whole));
    steps.push(send(2, &whole[..1]));
    steps.push(send(3, &whole[..rng.within(2, whole.len() - 1)]));
    steps.push(send(5, &[0x0b, 0xb8, b'x']));
    steps.push(Step::OutWait(Some(Conn(5))));
    steps.push(Step::Table(vec![name]));
    Case { seed, flags: Flags { check: Check::Strict, packet_timeout: Some(1) }, steps }
}

fn single(bytes: &[u8]) -> Vec<Segment> {
    vec![Segment { bytes: bytes.to_vec(), pause: Pause::None }]
}

const POOL: &[&str] =
    &["a", "b", "n1", "A", "ejabberd", "abc-ctl-1-ejabberd", "größe", "my_app_1", "x", "na"];

/// The names of a case: few that come again and again, and odd ones.
struct Names {
    pool: Vec<Vec<u8>>,
    used: Vec<Vec<u8>>,
}

impl Names {
    fn new(rng: &mut Rng) -> Self {
        let count = rng.within(1, 3);
        Self { pool: (0..count).map(|_| rng.pick(POOL).into()).collect(), used: Vec::new() }
    }

    fn any(&mut self, rng: &mut Rng) -> Vec<u8> {
        let name = match rng.below(10) {
            0..=5 => rng.pick(&self.pool),
            6 if !self.used.is_empty() => rng.pick(&self.used),
            _ => odd(rng),
        };
        if !self.used.contains(&name) && name.len() < LONGEST {
            self.used.push(name.clone());
        }
        name
    }
}

/// Names that text can be.
const TEXTS: &[&str] = &[
    "",
    "",
    "a b",
    " a",
    "a ",
    "\t",
    "x at port 1\nname evil",
    "a\n",
    "\r",
    "a@b",
    "@",
    "a\u{1}b",
    "\u{7f}",
    "a\u{85}b",
    "a\u{a0}b",
    "a\u{2028}b",
    "a\u{200b}b",
    "a\u{202e}b",
    "\u{feff}a",
    "😀",
    "%s%n",
    "\"\\'",
    "<a>",
    "a>, port",
    "$(x)",
    "é",
    "e\u{301}",
    "name",
    "a.b",
    "-",
    "0",
    "\u{10ffff}",
    "\u{fffd}",
];
/// Names that are not UTF-8, or have a NUL.
const BYTES: &[&[u8]] = &[
    b"\xff",
    b"a\xff",
    b"\xc0\xaf",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xf8\x88\x80\x80\x80",
    b"\x80",
    b"a\xc3",
    b"\xe0\x80\xaf",
    b"a\0b",
    b"a\0",
    b"\0",
    b"\xfe",
    b"\xc3\x28",
];

fn odd(rng: &mut Rng) -> Vec<u8> {
    match rng.below(10) {
        0..=4 => rng.pick(TEXTS).as_bytes().to_vec(),
        5..=6 => rng.pick(BYTES).to_vec(),
        7..=8 => {
            let character = rng.pick(&["x", "x", "ä", "€", "😀"]);
            let count = rng.pick(&[64, 127, 128, 253, 254, 254, 255, 255, 256, 257, 300, 511]);
            character.repeat(count).into_bytes()
        }
        _ => {
            let count = rng.pick(&[1019, 1020, 1021, 1022, 2000]);
            b"y".repeat(count)
        }
    }
}

/// What happens on one connection.
fn plan(rng: &mut Rng, names: &mut Names, conn: Conn) -> Vec<Step> {
    let mut steps = vec![Step::Open(conn)];
    match rng.below(100) {
        0..=4 => ending(rng, conn, &mut steps),
        5..=18 => {
            let frame = request(rng, names).frame;
            let cut = rng.below(frame.len());
            deliver(
                rng,
                conn,
                Outgoing { bytes: frame[..cut].to_vec(), behind: Behind::Nothing },
                &mut steps,
            );
            ending(rng, conn, &mut steps);
        }
        _ => {
            let made = request(rng, names);
            let out = with_more(rng, names, made.frame);
            deliver(rng, conn, out, &mut steps);
            at_once(rng, made.kind, &mut steps);
            if made.kind == Kind::Alive2 {
                afterlife(rng, conn, &mut steps);
            }
        }
    }
    steps
}

/// How an unfinished connection ends, if it does.
fn ending(rng: &mut Rng, conn: Conn, steps: &mut Vec<Step>) {
    match rng.below(5) {
        0 => steps.push(Step::Close(conn)),
        1 => steps.push(Step::Reset(conn)),
        2..=3 => steps.push(Step::HalfClose(conn)),
        _ => {}
    }
}

/// How a registration ends, if it does.
fn afterlife(rng: &mut Rng, conn: Conn, steps: &mut Vec<Step>) {
    match rng.below(10) {
        0..=1 => steps.push(Step::Close(conn)),
        2 => steps.push(Step::Reset(conn)),
        3 => steps.push(Step::HalfClose(conn)),
        4..=5 => {
            let count = rng.pick(&[1, 1, 2, 3, 100, 4000]);
            let bytes = if rng.percent(50) { vec![0, 1, b'n'] } else { rng.bytes(count) };
            steps.push(Step::Send(conn, single(&bytes), Then::Wait));
        }
        _ => {}
    }
}

/// Lets the client end its side together with the request. A client that is gone is not told whether it had been
/// registered, or had ended epmd, so for these it stays.
fn at_once(rng: &mut Rng, kind: Kind, steps: &mut [Step]) {
    let Some(Step::Send(_, _, then)) = steps.last_mut() else { return };
    *then = match (kind, rng.below(20)) {
        (_, 0) => Then::HalfClose,
        (Kind::Question, 1) => Then::Close,
        (Kind::Question, 2) => Then::Reset,
        _ => Then::Wait,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Alive2,
    /// Changes nothing.
    Question,
    /// KILL and STOP.
    Command,
}

struct Made {
    kind: Kind,
    frame: Vec<u8>,
}

fn request(rng: &mut Rng, names: &mut Names) -> Made {
    let (kind, body) = match rng.below(100) {
        0..=43 => {
            let name = names.any(rng);
            let whole = alive2(rng, &name);
            return Made { kind: Kind::Alive2, frame: whole };
        }
        44..=61 => (Kind::Question, [b"z".to_vec(), terminated(rng, names)].concat()),
        62..=68 => (Kind::Question, [b"n".to_vec(), ignored(rng)].concat()),
        69..=75 => (Kind::Question, [b"d".to_vec(), ignored(rng)].concat()),
        76..=78 => (Kind::Command, [b"k".to_vec(), ignored(rng)].concat()),
        79..=88 => (Kind::Command, [b"s".to_vec(), terminated(rng, names)].concat()),
        89..=93 => {
            let opcode = rng.pick(&[0, 1, b'a', b'p', b'v', b'w', b'y', b'N', b'X', 255]);
            let opcode = if rng.percent(70) { opcode } else { rng.pick(&[2, 47, 99, 111, 113, 200]) };
            let count = rng.within(0, 40);
            (Kind::Question, [vec![opcode], rng.bytes(count)].concat())
        }
        _ => return Made { kind: Kind::Question, frame: odd_length(rng) },
    };
    Made { kind, frame: framed(&body) }
}

/// A name as PORT_PLEASE2 and STOP carry it.
fn terminated(rng: &mut Rng, names: &mut Names) -> Vec<u8> {
    let mut name = names.any(rng);
    match rng.below(20) {
        0..=10 => {}
        11..=15 => name.push(0),
        16..=17 => name.extend_from_slice(&[0, 0]),
        18 => name.extend_from_slice(b"\0b"),
        _ => name.insert(0, 0),
    }
    name
}

/// Bytes inside the frame that mean nothing.
fn ignored(rng: &mut Rng) -> Vec<u8> {
    let count = rng.pick(&[0, 0, 0, 0, 0, 1, 2, 30, 1000, LONGEST - 1]);
    rng.bytes(count)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(LONGEST)];
    [&(body.len() as u16).to_be_bytes(), body].concat()
}

/// Lengths that epmd refuses at once, with more or less behind them, and the longest that it takes.
fn odd_length(rng: &mut Rng) -> Vec<u8> {
    let length: u16 = rng.pick(&[0, 0, 3056, 3057, 3058, 3059, 3060, 4096, 32768, 65535]);
    let mut frame = length.to_be_bytes().to_vec();
    let opcode = rng.pick(b"nzdqx");
    let count = match length {
        3056 | 3057 => usize::from(length),
        0 => rng.pick(&[0, 0, 1, 5]),
        _ => rng.pick(&[0, 0, 1, 100, 3057, 3058, 5000]),
    };
    frame.extend((0..count).map(|at| if at == 0 { opcode } else { b'f' }));
    frame
}

/// An ALIVE2, whole, mostly well-formed.
fn alive2(rng: &mut Rng, name: &[u8]) -> Vec<u8> {
    let port: u16 = rng.pick(&[0, 1, 9100, 9101, 40000, 65535]);
    let node_type = rng.pick(&[77, 77, 77, 72, 104, 0, 255]);
    let protocol = rng.pick(&[0, 0, 0, 1, 255]);
    let highest: u16 = rng.pick(&[6, 6, 6, 6, 5, 5, 5, 4, 0, 7, 65535]);
    let lowest: u16 = rng.pick(&[5, 5, 6, 0, 65535]);
    let extra = match rng.below(20) {
        // Without an extra epmd refuses the empty name too.
        0..=12 if name.is_empty() => rng.within(0, 3),
        0..=12 => 0,
        13..=16 => rng.within(1, 40),
        17 => 1020,
        18 => 1021,
        _ => rng.pick(&[255, 256, 1500, 2000]),
    };
    let extra = if rng.percent(20) { rng.bytes(extra) } else { b"e".repeat(extra) };
    let lie = |rng: &mut Rng, length: usize| {
        let off = rng.pick(&[-2i64, -1, 1, 1, 2, 30, 1000, 60000]);
        (length as i64 + off).clamp(0, 65535) as u16
    };
    let (mut name_length, mut extra_length) = (name.len() as u16, extra.len() as u16);
    match rng.below(20) {
        0 => name_length = lie(rng, name.len()),
        1 => extra_length = lie(rng, extra.len()),
        _ => {}
    }
    let mut body = vec![b'x'];
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&[node_type, protocol]);
    body.extend_from_slice(&highest.to_be_bytes());
    body.extend_from_slice(&lowest.to_be_bytes());
    body.extend_from_slice(&name_length.to_be_bytes());
    body.extend_from_slice(name);
    body.extend_from_slice(&extra_length.to_be_bytes());
    body.extend_from_slice(&extra);
    match rng.below(20) {
        0 => body.truncate(rng.within(1, body.len())),
        1 => body.extend_from_slice(b"more"),
        2 => body.resize(LONGEST, b'm'),
        _ => {}
    }
    framed(&body)
}

/// What goes over a connection.
struct Outgoing {
    bytes: Vec<u8>,
    behind: Behind,
}

/// What is behind the first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    More,
}

/// Puts bytes behind the frame now and then: a second request, or anything.
fn with_more(rng: &mut Rng, names: &mut Names, mut frame: Vec<u8>) -> Outgoing {
    let whole = frame.len();
    match rng.below(20) {
        _ if whole == 2 + LONGEST => {}
        0 => frame.extend(framed(b"n")),
        1 => frame.extend(request(rng, names).frame),
        2 => {
            let count = rng.pick(&[1, 1, 2, 7, 5000]);
            frame.extend(rng.bytes(count));
        }
        _ => {}
    }
    let behind = if frame.len() > whole { Behind::More } else { Behind::Nothing };
    Outgoing { bytes: frame, behind }
}

/// Cuts the bytes into segments, and these into one or two steps.
fn deliver(rng: &mut Rng, conn: Conn, out: Outgoing, steps: &mut Vec<Step>) {
    let length = out.bytes.len();
    let mut cuts: Vec<usize> = match rng.below(10) {
        _ if length < 2 => Vec::new(),
        0..=3 => Vec::new(),
        4 => vec![2],
        5 => vec![1],
        6 if length <= 48 => (1..length).collect(),
        _ => {
            let count = rng.within(1, 5);
            (0..count).map(|_| rng.within(1, length - 1)).collect()
        }
    };
    cuts.retain(|cut| *cut < length);
    cuts.sort_unstable();
    cuts.dedup();
    let ends = cuts.iter().copied().chain([length]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let mut segments: Vec<Segment> = starts
        .zip(ends)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| Segment { bytes: out.bytes[start..end].to_vec(), pause: pause(rng, out.behind) })
        .collect();
    if segments.len() > 1 && rng.percent(30) {
        let rest = segments.split_off(rng.within(1, segments.len() - 1));
        steps.push(Step::Send(conn, segments, Then::Wait));
        segments = rest;
    }
    if !segments.is_empty() {
        steps.push(Step::Send(conn, segments, Then::Wait));
    }
}

fn pause(rng: &mut Rng, behind: Behind) -> Pause {
    match rng.below(10) {
        _ if behind == Behind::More => Pause::Read,
        0..=3 => Pause::Read,
        4 => Pause::Millis(rng.within(1, 3) as u8),
        _ => Pause::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_case_again() {
        for seed in 0..200 {
            assert_eq!(case(seed).to_string(), case(seed).to_string());
        }
        assert_ne!(case(1).to_string(), case(2).to_string());
    }
}
