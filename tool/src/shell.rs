//! Commands of the shell that answer messages: a process for each message, with the payload on its standard
//! input. What it prints is the answer.
//!
//! ```text
//! Shell::start ──► waiting, if too many run ──► a thread: sh -c CMD ──► Shell::finished, or Shell::wait
//! ```
//!
//! The thread that serves never waits for a command: a descriptor becomes readable when one has ended.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{ExitStatus, Stdio};
use std::{io, thread};

use crate::libipc::MAX_PAYLOAD;
use crate::reports::{Reporter, Reports};
use crate::signals;

/// How many commands run at the same time; others wait for their turn.
const MAX_RUNNING: usize = 64;

/// A message for a command.
pub struct Job<T> {
    /// What its answer is known by.
    pub token: T,
    /// What the command reads.
    pub input: Vec<u8>,
    /// Variables for its environment.
    pub variables: Vec<(&'static str, String)>,
}

/// What a command has printed.
#[derive(Debug)]
pub struct Answer<T> {
    /// That of the job.
    pub token: T,
    /// What the command printed.
    pub output: Vec<u8>,
    /// Why this is no good answer.
    pub failure: Option<String>,
}

/// The commands that run, and those that wait.
pub struct Shell<T> {
    command: OsString,
    waiting: VecDeque<Job<T>>,
    running: usize,
    reporter: Reporter<Answer<T>>,
    answers: Reports<Answer<T>>,
}

impl<T: Copy + Send + 'static> Shell<T> {
    /// Runs this command for each message.
    pub fn new(command: &OsStr) -> nix::Result<Self> {
        let (reporter, answers) = Reports::channel()?;
        Ok(Self { command: command.to_owned(), waiting: VecDeque::new(), running: 0, reporter, answers })
    }

    /// Readable when a command has ended.
    pub fn ready_fd(&self) -> RawFd {
        self.answers.fd().as_raw_fd()
    }

    /// Runs the command for this message, as soon as not too many run.
    pub fn start(&mut self, job: Job<T>) {
        self.waiting.push_back(job);
        self.start_waiting();
    }

    fn start_waiting(&mut self) {
        while self.running < MAX_RUNNING {
            let Some(job) = self.waiting.pop_front() else { return };
            let (command, reporter) = (self.command.clone(), self.reporter.clone());
            let token = job.token;
            let report = move |(output, failure)| reporter.report(Answer { token, output, failure });
            self.running += 1;
            let run = {
                let report = report.clone();
                move || report(answer(&command, &job.input, job.variables))
            };
            if let Err(error) = thread::Builder::new().spawn(run) {
                report((Vec::new(), Some(format!("cannot start a thread: {error}"))));
            }
        }
    }

    /// A command that has ended, if there is one.
    pub fn finished(&mut self) -> Option<Answer<T>> {
        let answer = self.answers.next_now();
        self.note(answer)
    }

    /// Waits for a command to end; None if there is none.
    pub fn wait(&mut self) -> Option<Answer<T>> {
        let answer = if self.running == 0 { None } else { self.answers.wait() };
        self.note(answer)
    }

    fn note(&mut self, answer: Option<Answer<T>>) -> Option<Answer<T>> {
        if answer.is_some() {
            self.running -= 1;
            self.start_waiting();
        }
        answer
    }
}

/// What the command printed, and why that is no good answer.
fn answer(
    command: &OsStr,
    input: &[u8],
    variables: Vec<(&'static str, String)>,
) -> (Vec<u8>, Option<String>) {
    match run(command, input, variables) {
        Err(error) => (Vec::new(), Some(format!("the command cannot be run: {error}"))),
        Ok((output, _)) if output.len() > MAX_PAYLOAD => {
            (Vec::new(), Some(format!("the command printed more than {MAX_PAYLOAD} bytes")))
        }
        Ok((output, status)) if status.success() => (output, None),
        Ok((output, status)) => (output, Some(format!("the command failed: {status}"))),
    }
}

/// Runs the command: what it printed, at most one byte more than a message may have, and its status.
fn run(
    command: &OsStr,
    input: &[u8],
    variables: Vec<(&'static str, String)>,
) -> io::Result<(Vec<u8>, ExitStatus)> {
    let mut child = signals::command(OsStr::new("/bin/sh"))
        .arg("-c")
        .arg(command)
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = Vec::new();
    let result = thread::scope(|scope| {
        // A command that does not read all of its input is none that fails.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        let Some(stdout) = stdout else { return Ok(0) };
        let result = stdout.take(MAX_PAYLOAD as u64 + 1).read_to_end(&mut output);
        if output.len() > MAX_PAYLOAD {
            // It may wait for input, and never see that nothing reads its output.
            let _ = child.kill();
        }
        result
    });
    let status = child.wait()?;
    result.map(|_| (output, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(command: &str, input: &[u8]) -> (Vec<u8>, Option<String>) {
        answer(OsStr::new(command), input, vec![("IPC_CLIENT", "7".to_owned())])
    }

    #[test]
    fn answer_is_what_the_command_prints() {
        assert_eq!(ask("cat", b"a\0b"), (b"a\0b".to_vec(), None));
        assert_eq!(ask("printf %s \"$IPC_CLIENT\"", b""), (b"7".to_vec(), None));
        assert_eq!(ask(":", &vec![b'x'; 1 << 20]), (Vec::new(), None), "nothing reads the input");
        let longest = vec![b'x'; MAX_PAYLOAD];
        assert!(ask("cat", &longest) == (longest, None));
    }

    #[test]
    fn command_that_fails_has_a_reason() {
        assert_eq!(ask("echo a; exit 3", b"").0, b"a\n");
        assert!(ask("exit 3", b"").1.is_some_and(|reason| reason.contains("exit status: 3")));
        assert!(ask("kill -9 $$", b"").1.is_some_and(|reason| reason.contains("signal: 9")));
        let (output, failure) = ask("cat /dev/zero", b"");
        assert!(output.is_empty() && failure.is_some_and(|reason| reason.contains("more than")));
    }

    #[test]
    fn each_job_has_one_answer_however_many_there_are() {
        let mut shell = Shell::new(OsStr::new("cat")).unwrap();
        for token in 0..MAX_RUNNING + 10 {
            shell.start(Job { token, input: token.to_string().into_bytes(), variables: Vec::new() });
        }
        let mut tokens = Vec::new();
        while let Some(answer) = shell.wait() {
            assert_eq!(answer.output, answer.token.to_string().into_bytes());
            tokens.push(answer.token);
        }
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(0..MAX_RUNNING + 10));
        assert!(shell.finished().is_none());
    }
}
