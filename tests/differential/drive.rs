//! Does the steps of a case to two programs side by side, and compares after each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::asked::{Asked, Awaits, Stream};
use super::compare::{Around, Creations, End, EndedWith, Reply, Seen, compare};
use super::fault::Fault;
use super::kernel::Kernel;
use super::program::{Program, Running, dial, next_port};
use super::script::{Case, Conn, Pause, Segment, Step, Then, shown};
use super::tally::Tally;

/// How long a program may take to do what it must.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long nothing may happen on what is open at the end of a case.
const QUIET: Duration = Duration::from_millis(40);
/// How long the shortest time-out may take: epmd with 1 s looks each second and closes after 2 or 3.
const TIMEOUTS: Duration = Duration::from_secs(8);
/// Between two bytes of a client that never ceases.
const TRICKLE: Duration = Duration::from_millis(300);
/// The first connection of our own, behind all that a case has.
const OWN: usize = 1000;

/// What is compared, and what the second is made to do wrong.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The real epmd, and the other.
    pub(crate) programs: [Program; 2],
    pub(crate) fault: Option<Fault>,
}

/// A difference that is not documented.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    step: String,
    what: String,
    seen: String,
    printed: [String; 2],
}

impl Finding {
    fn at_the_start(what: String) -> Box<Self> {
        Box::new(Self {
            step: "the start".to_owned(),
            what,
            seen: String::new(),
            printed: Default::default(),
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nat step {}\n{}", self.what, self.step, self.seen)?;
        for (whose, text) in ["the first", "the second"].iter().zip(&self.printed) {
            if !text.is_empty() {
                writeln!(f, "{whose} program printed:\n{text}")?;
            }
        }
        Ok(())
    }
}

/// Runs a case on two fresh programs.
///
/// # Errors
///
/// The first difference that is not documented.
pub(crate) fn run(setup: &Setup, case: &Case) -> Result<Tally, Box<Finding>> {
    let mut pair = Pair::start(setup, case).map_err(Finding::at_the_start)?;
    for (number, step) in case.steps.iter().enumerate() {
        pair.tally.steps += 1;
        pair.step(step).map_err(|fault| pair.finding(format!("{number}: {step}"), fault))?;
    }
    pair.finish().map_err(|fault| pair.finding("the end: every connection is closed".to_owned(), fault))?;
    pair.tally.cases = 1;
    Ok(pair.tally)
}

/// What is wrong, and on which connection.
type Wrong = (Option<Conn>, String);

struct Pair<'a> {
    setup: &'a Setup,
    case: &'a Case,
    kernel: Kernel,
    sides: [Side; 2],
    streams: BTreeMap<Conn, Stream>,
    ended_with: BTreeMap<Conn, EndedWith>,
    only_theirs: BTreeSet<Vec<u8>>,
    own: usize,
    tally: Tally,
    /// What the comparisons have met.
    judged: Tally,
}

struct Side {
    running: Running,
    links: BTreeMap<Conn, Link>,
    creations: Creations,
    /// Registrations whose creation was looked at.
    followed: BTreeSet<Conn>,
}

/// One side's part of a connection.
struct Link {
    stream: Option<TcpStream>,
    seen: Seen,
    /// What it has registered and not yet given up.
    registered: Option<Vec<u8>>,
}

impl<'a> Pair<'a> {
    fn start(setup: &'a Setup, case: &'a Case) -> Result<Self, String> {
        let side = |program: &Program| -> Result<Side, String> {
            Ok(Side {
                running: program.start(next_port(), case.flags)?,
                links: BTreeMap::new(),
                creations: Creations::default(),
                followed: BTreeSet::new(),
            })
        };
        let [first, second] = &setup.programs;
        Ok(Self {
            setup,
            case,
            kernel: Kernel::new().expect("the kernel has sock_diag"),
            sides: [side(first)?, side(second)?],
            streams: BTreeMap::new(),
            ended_with: BTreeMap::new(),
            only_theirs: BTreeSet::new(),
            own: OWN,
            tally: Tally::default(),
            judged: Tally::default(),
        })
    }

    fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        match step {
            Step::Open(conn) => self.open(*conn),
            Step::Send(conn, segments, then) => self.send(*conn, segments, *then)?,
            Step::HalfClose(conn) => {
                if self.both_open(*conn) {
                    self.half_close(*conn);
                    self.settle(*conn);
                }
            }
            Step::Close(conn) => self.close(*conn),
            Step::Reset(conn) => self.reset(*conn),
            Step::OutWait(trickle) => self.out_wait(*trickle),
            Step::Table(names) => self.table(names)?,
        }
        if let Some(conn) = step.conn() {
            self.judge(conn)?;
        }
        self.catch_up();
        Ok(())
    }

    fn open(&mut self, conn: Conn) {
        self.tally.connections += 1;
        drop(self.streams.insert(conn, Stream::default()));
        for side in &mut self.sides {
            let stream = dial(side.running.port).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(TcpStream::from(socket))
            });
            let end = stream.is_err().then_some(End::Refused);
            let link = Link { stream: stream.ok(), seen: Seen { bytes: Vec::new(), end }, registered: None };
            drop(side.links.insert(conn, link));
        }
    }

    fn send(&mut self, conn: Conn, segments: &[Segment], then: Then) -> Result<(), Wrong> {
        for segment in segments {
            self.pump(Duration::ZERO);
            if !self.both_open(conn) || self.stream(conn).half_closed {
                break;
            }
            self.segment(conn, segment);
            if matches!(self.stream(conn).asked(), Asked::BadLength | Asked::Trailing) {
                // It closes now, and what is sent meanwhile may or may not be read.
                self.settle(conn);
            }
        }
        match then {
            _ if !self.both_open(conn) => {}
            Then::Wait => {}
            Then::HalfClose => self.half_close(conn),
            Then::Close | Then::Reset => {
                self.ended_with.insert(conn, EndedWith::Ourselves);
                if then == Then::Close { self.close(conn) } else { self.reset(conn) }
            }
        }
        self.settle(conn);
        self.judge(conn)?;
        self.consequences(conn)
    }

    fn segment(&mut self, conn: Conn, segment: &Segment) {
        self.tally.segments += 1;
        self.streams.entry(conn).or_default().sent(&segment.bytes);
        for side in &mut self.sides {
            side.links.entry(conn).and_modify(|link| link.write(&segment.bytes));
        }
        match segment.pause {
            Pause::None => {}
            Pause::Millis(count) => thread::sleep(Duration::from_millis(count.into())),
            Pause::Read => {
                self.until(DEADLINE, |pair| pair.sides.iter().all(|side| side.has_read(conn, &pair.kernel)))
            }
        }
    }

    /// What a request did to other connections, and to the programs.
    fn consequences(&mut self, conn: Conn) -> Result<(), Wrong> {
        match self.stream(conn).asked() {
            Asked::Alive2 { name, .. } => self.registrations(conn, &name)?,
            Asked::Stop(name) => self.until(DEADLINE, |pair| {
                let held = |side: &Side| {
                    let stopped = side.links.get(&conn).is_some_and(|link| link.seen.bytes == b"STOPPED");
                    let mut links = side.links.values().filter(|link| link.seen.end.is_none());
                    stopped && links.any(|link| link.registered.as_deref() == Some(&name))
                };
                !pair.sides.iter().any(held)
            }),
            Asked::Kill => self.after_kill(conn)?,
            _ => {}
        }
        Ok(())
    }

    fn registrations(&mut self, conn: Conn, name: &[u8]) -> Result<(), Wrong> {
        let mut accepted = [false; 2];
        for (at, accepts) in accepted.iter_mut().enumerate() {
            let seen = self.seen(conn, at);
            let side = &mut self.sides[at];
            let Some(reply) = Reply::read(&seen.bytes).filter(|reply| !reply.refuses()) else { continue };
            *accepts = true;
            if side.followed.insert(conn) {
                side.creations.follow(name, reply).map_err(|why| (Some(conn), why))?;
                side.links.entry(conn).and_modify(|link| link.registered = Some(name.to_vec()));
            }
        }
        if accepted == [true, false] {
            // A documented difference, or `judge` would have said so: the tables shall be the same again.
            self.only_theirs.insert(name.to_vec());
            self.close(conn);
        }
        Ok(())
    }

    fn after_kill(&mut self, conn: Conn) -> Result<(), Wrong> {
        let obeyed = |side: &Side| side.links.get(&conn).is_some_and(|link| link.seen.bytes == b"OK");
        // A connection that goes on sending after its KILL has ended only the programs that it spoke to.
        if !self.sides.iter().all(obeyed) || self.ended_with.get(&conn) == Some(&EndedWith::TheProcess) {
            return Ok(());
        }
        let status =
            self.sides.each_mut().map(|side| side.running.wait_exit().and_then(|status| status.code()));
        if status[0] != status[1] || status[0].is_none() {
            return Err((Some(conn), format!("after KILL the exit statuses are {status:?}")));
        }
        self.until(DEADLINE, |pair| pair.sides.iter().all(|side| side.open_links().next().is_none()));
        let conns: Vec<Conn> = self.streams.keys().copied().collect();
        for conn in conns {
            self.ended_with.entry(conn).or_insert(EndedWith::TheProcess);
        }
        for (side, program) in self.sides.iter_mut().zip(&self.setup.programs) {
            // On the same port, at once: the old connections may still be in TIME_WAIT.
            side.running =
                program.start(side.running.port, self.case.flags).map_err(|why| (Some(conn), why))?;
            side.creations = Creations::default();
            side.links.values_mut().for_each(|link| link.registered = None);
        }
        self.tally.restarts += 1;
        Ok(())
    }

    fn out_wait(&mut self, trickle: Option<Conn>) {
        let end = Instant::now() + TIMEOUTS;
        let waits = |side: &Side| {
            let mut open = side.open_links().filter(|(conn, _)| Some(**conn) != trickle);
            open.any(|(_, link)| Reply::read(&link.seen.bytes).is_none())
        };
        while Instant::now() < end && self.sides.iter().any(waits) {
            if let Some(conn) = trickle {
                self.streams.entry(conn).or_default().sent(b"t");
                for side in &mut self.sides {
                    side.links.entry(conn).and_modify(|link| link.write(b"t"));
                }
            }
            self.until(TRICKLE, |pair| !pair.sides.iter().any(waits));
        }
        if let Some(conn) = trickle {
            self.ended_with.insert(conn, EndedWith::TheTimeout);
        }
    }

    fn table(&mut self, names: &[Vec<u8>]) -> Result<(), Wrong> {
        let lookups = names.iter().map(|name| [b"z", name.as_slice()].concat());
        for body in [b"n".to_vec(), b"d".to_vec()].into_iter().chain(lookups) {
            let conn = Conn(self.own);
            self.own += 1;
            let bytes = [&(body.len() as u16).to_be_bytes(), body.as_slice()].concat();
            self.open(conn);
            self.send(conn, &[Segment { bytes, pause: Pause::None }], Then::Wait)?;
        }
        Ok(())
    }

    /// Waits once for all that is open, compares everything, and takes the table apart, name by name, because
    /// what ends at one time ends in any order.
    fn finish(&mut self) -> Result<(), Wrong> {
        self.until(QUIET, |_| false);
        let conns: Vec<Conn> = self.streams.keys().copied().collect();
        // Connections are judged after each step; only this last time counts.
        self.judged = Tally::default();
        for conn in &conns {
            self.judge(*conn)?;
            self.tally.asked(self.stream(*conn).asked().label());
        }
        self.tally.add(std::mem::take(&mut self.judged));
        self.catch_up();
        for conn in conns {
            self.close(conn);
            self.catch_up();
        }
        self.table(&[])?;
        let status = self.sides.each_mut().map(|side| side.running.exited());
        if status == [None; 2] {
            Ok(())
        } else {
            Err((None, format!("a program ended by itself: {status:?}")))
        }
    }

    fn half_close(&mut self, conn: Conn) {
        self.streams.entry(conn).or_default().half_closed = true;
        for side in &mut self.sides {
            if let Some(stream) = side.links.get(&conn).and_then(|link| link.stream.as_ref()) {
                drop(stream.shutdown(Shutdown::Write));
            }
        }
    }

    fn close(&mut self, conn: Conn) {
        self.pump(Duration::ZERO);
        for side in &mut self.sides {
            side.links.entry(conn).and_modify(Link::close);
        }
    }

    fn reset(&mut self, conn: Conn) {
        for side in &mut self.sides {
            if let Some(stream) = side.links.get(&conn).and_then(|link| link.stream.as_ref()) {
                drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
            }
        }
        self.close(conn);
    }

    fn both_open(&self, conn: Conn) -> bool {
        self.sides.iter().all(|side| side.links.get(&conn).is_some_and(|link| link.seen.end.is_none()))
    }

    fn stream(&self, conn: Conn) -> &Stream {
        &self.streams[&conn]
    }

    /// What a side did, with its fault.
    fn seen(&self, conn: Conn, at: usize) -> Seen {
        let mut seen = self.sides[at].links[&conn].seen.clone();
        if let (1, Some(fault)) = (at, self.setup.fault) {
            fault.falsify(&self.stream(conn).asked(), &mut seen);
        }
        seen
    }

    /// Compares what has been seen on a connection so far.
    fn judge(&mut self, conn: Conn) -> Result<(), Wrong> {
        let seen = [self.seen(conn, 0), self.seen(conn, 1)];
        let around = Around {
            ports: self.sides.each_ref().map(|side| side.running.port),
            only_theirs: &self.only_theirs,
            check: self.case.flags.check,
            ended_with: self.ended_with.get(&conn).copied().unwrap_or(EndedWith::Nothing),
        };
        compare(&self.streams[&conn], &seen, &around, &mut self.judged).map_err(|why| (Some(conn), why))
    }

    fn finding(&self, step: String, (conn, what): Wrong) -> Box<Finding> {
        let mut seen = String::new();
        if let Some(conn) = conn {
            seen.push_str(&format!("  {conn} sent       {}\n", shown(&self.stream(conn).bytes)));
            for (at, program) in self.setup.programs.iter().enumerate() {
                let Seen { bytes, end } = self.seen(conn, at);
                let end = end.map_or("open".to_owned(), |end| format!("{end:?}"));
                seen.push_str(&format!("  {:10}  {}, then {end}\n", program.label, shown(&bytes)));
            }
        }
        let printed = self.sides.each_ref().map(|side| side.running.said());
        Box::new(Finding { step, what, seen, printed })
    }

    /// Waits until both have done what a connection awaits.
    fn settle(&mut self, conn: Conn) {
        self.until(DEADLINE, |pair| {
            let awaits = pair.stream(conn).awaits();
            pair.sides.iter().all(|side| {
                let link = &side.links[&conn];
                let answered = || {
                    link.seen.bytes.first().is_some_and(|code| {
                        *code != 118 && *code != 121 || Reply::read(&link.seen.bytes).is_some()
                    })
                };
                link.seen.end.is_some()
                    || match awaits {
                        Awaits::Nothing => true,
                        Awaits::Registration => answered(),
                        Awaits::End => false,
                    }
            })
        });
    }

    /// Waits until registrations whose connection has ended are out of the tables.
    fn catch_up(&mut self) {
        for side in &mut self.sides {
            let port = side.running.port;
            for link in side.links.values_mut().filter(|link| link.seen.end.is_some()) {
                let Some(name) = link.registered.take() else { continue };
                let line = [b"name ", name.as_slice(), b" at port "].concat();
                let end = Instant::now() + DEADLINE;
                while Instant::now() < end
                    && names(port).is_ok_and(|text| text.windows(line.len()).any(|window| window == line))
                {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
    }

    /// Reads whatever comes until `done`, or until the deadline.
    fn until(&mut self, deadline: Duration, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + deadline;
        loop {
            self.pump(Duration::ZERO);
            let left = end.saturating_duration_since(Instant::now());
            if done(self) || left.is_zero() {
                return;
            }
            // What is no event of a connection, such as that the other side has read, is looked at as often.
            self.pump(left.min(Duration::from_millis(1)));
        }
    }

    /// Reads what there is on all open connections, and waits for it at most so long.
    fn pump(&mut self, wait: Duration) {
        let mut links: Vec<&mut Link> = self
            .sides
            .iter_mut()
            .flat_map(|side| side.links.values_mut())
            .filter(|link| link.seen.end.is_none())
            .collect();
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = links
                .iter()
                .filter_map(|link| link.stream.as_ref().map(|stream| PollFd::new(stream, PollFlags::IN)))
                .collect();
            let wait = Timespec::try_from(wait).expect("a wait is short");
            // A signal ends the wait early; the next look is near.
            poll(&mut polled, Some(&wait)).ok();
            polled.iter().map(|polled| !polled.revents().is_empty()).collect()
        };
        for (link, ready) in links.iter_mut().zip(ready) {
            if ready {
                link.read();
            }
        }
    }
}

impl Side {
    fn open_links(&self) -> impl Iterator<Item = (&Conn, &Link)> {
        self.links.iter().filter(|(_, link)| link.seen.end.is_none())
    }

    /// Whether the program has read all that was sent, or closed.
    fn has_read(&self, conn: Conn, kernel: &Kernel) -> bool {
        let Some(link) = self.links.get(&conn).filter(|link| link.seen.end.is_none()) else { return true };
        let client =
            link.stream.as_ref().and_then(|stream| stream.local_addr().ok()).map_or(0, |at| at.port());
        let unread = kernel.unread(self.running.port, client).expect("the kernel knows its connections");
        unread.is_none_or(|count| count == 0)
    }
}

impl Link {
    /// Whoever has closed does not take it; how he closed is seen by reading.
    fn write(&mut self, bytes: &[u8]) {
        let end = Instant::now() + DEADLINE;
        let Some(stream) = self.stream.as_mut().filter(|_| self.seen.end.is_none()) else { return };
        let mut rest = bytes;
        while !rest.is_empty() && Instant::now() < end {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(_) => return,
            }
        }
    }

    fn read(&mut self) {
        let Some(stream) = self.stream.as_mut() else { return };
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => self.seen.end = Some(End::Fin),
                Ok(count) => {
                    self.seen.bytes.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.seen.end = Some(End::Reset),
            }
            return;
        }
    }

    fn close(&mut self) {
        drop(self.stream.take());
        self.seen.end.get_or_insert(End::Ours);
    }
}

/// The answer to NAMES.
fn names(port: u16) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::from(dial(port)?);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&[0, 1, b'n'])?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
