//! A program that runs while a test does.
//!
//! Owns the child and what it prints. Never decides where and as whom it runs: that is in the [`Command`],
//! made by [`super::host::Host`].

use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
pub use rustix::process::Signal;

use super::eventually::{eventually, within};

/// A running program with its output. Dropping it kills it, and shows its output if the test failed.
#[derive(Debug)]
pub struct Daemon {
    label: String,
    pid: u32,
    child: Mutex<Child>,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    ended: AtomicBool,
}

/// A position in a program's output, to look only at what comes later.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub const START: Self = Self(0);
}

impl Daemon {
    /// Starts a program with nothing on its standard input.
    ///
    /// # Panics
    ///
    /// When it cannot be started. `ip netns exec` can always be; a program that it does not find ends at
    /// once, and says so in its output.
    #[must_use]
    #[track_caller]
    pub fn spawn(label: impl Into<String>, mut command: Command) -> Self {
        command.stdin(Stdio::null());
        Self::start(label.into(), command)
    }

    /// Starts a program and gives its standard input; closing that is left to the caller.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn_with_input(label: impl Into<String>, mut command: Command) -> (Self, ChildStdin) {
        command.stdin(Stdio::piped());
        let daemon = Self::start(label.into(), command);
        let stdin = daemon.child().stdin.take().expect("the standard input was asked for");
        (daemon, stdin)
    }

    #[track_caller]
    fn start(label: String, mut command: Command) -> Self {
        // One pipe for both outputs keeps their lines in order.
        let (reader, writer) = std::io::pipe().expect("making a pipe");
        command.stdout(writer.try_clone().expect("copying the end of a pipe")).stderr(writer);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {label}: {error}: {command:?}"));
        // The command holds the ends of the pipe that are written to: while it lives, the output has no end.
        drop(command);
        let output = Arc::new(Output::default());
        let collector = Arc::clone(&output);
        thread::spawn(move || collector.collect(reader));
        Self { label, pid: child.id(), child: Mutex::new(child), output }
    }

    /// The process id, of the program itself: `ip netns exec` and `setpriv` replace themselves with it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// All lines printed so far, on either output.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().clone()
    }

    /// The position after the last line so far.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.output.lines().len())
    }

    /// Waits for a line, also among those printed already.
    ///
    /// # Panics
    ///
    /// When the deadline passes, or the program ends, and no such line came.
    #[track_caller]
    pub fn wait_line(&self, what: &str, deadline: Duration, is_it: impl FnMut(&str) -> bool) -> String {
        self.wait_line_after(Mark::START, what, deadline, is_it)
    }

    /// Waits for a line that was printed after a [`Self::mark`].
    ///
    /// # Panics
    ///
    /// When the deadline passes, or the program ends, and no such line came.
    #[track_caller]
    pub fn wait_line_after(
        &self,
        mark: Mark,
        what: &str,
        deadline: Duration,
        is_it: impl FnMut(&str) -> bool,
    ) -> String {
        match self.find_line_after(mark, deadline, is_it) {
            Ok(line) => line,
            Err(why) => panic!("{}: {what}: {why}", self.label),
        }
    }

    /// Like [`Self::wait_line_after`], for those who do not want to panic; the error says why there is no
    /// such line.
    ///
    /// # Errors
    ///
    /// When the deadline passes, or the program ends, and no such line came.
    pub fn find_line_after(
        &self,
        mark: Mark,
        deadline: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<String, String> {
        let mut next = mark.0;
        let found = within(deadline, || {
            // Asked first: after the end no line comes, so one look at the lines then settles it.
            let ended = self.output.ended.load(Ordering::Acquire);
            let lines = self.output.lines();
            let found = lines.iter().skip(next).find(|line| is_it(line)).cloned();
            next = lines.len();
            match found {
                None if !ended => Err(lines.last().cloned().unwrap_or_else(|| "no output".to_owned())),
                settled => Ok(settled),
            }
        });
        match found {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(format!("its output ended without that line:\n{}", self.lines().join("\n"))),
            Err(last) => Err(format!("no such line within {deadline:?}; the last one is: {last}")),
        }
    }

    /// Sends a signal; none if the program has ended.
    pub fn signal(&self, signal: Signal) {
        // Under the lock, and only while the child is not waited for: its pid cannot be another process's
        // meanwhile.
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None)) {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it still runs after the deadline.
    #[track_caller]
    pub fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        eventually(&format!("the end of {}", self.label), deadline, || {
            self.exit_status().ok_or_else(|| format!("running as {}", self.pid))
        })
    }

    /// Waits for its end, and gives all that it printed until then.
    ///
    /// # Panics
    ///
    /// When it still runs after the deadline.
    #[track_caller]
    pub fn finish(&self, deadline: Duration) -> (ExitStatus, String) {
        let status = self.wait_exit(deadline);
        self.wait_output();
        (status, self.lines().join("\n"))
    }

    /// Waits for the last lines of a program that has ended. The deadline is short and its passing no fault,
    /// because a process that the program left behind may hold the pipe open.
    fn wait_output(&self) {
        drop(within(Duration::from_millis(500), || self.output.ended.load(Ordering::Acquire).then_some(())));
    }

    /// Kills it and waits until it is gone, its sockets with it.
    pub fn kill(&self) {
        let mut child = self.child();
        // `Child::kill` leaves a child alone that was waited for already.
        drop(child.kill());
        drop(child.wait());
    }

    /// A panic of another thread does not matter to the child.
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            // What a daemon says last explains most.
            self.wait_output();
            for line in self.output.lines().iter() {
                eprintln!("{} | {line}", self.label);
            }
        }
    }
}

impl Output {
    fn collect(&self, reader: PipeReader) {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            self.lines().push(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        }
        self.ended.store(true, Ordering::Release);
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
