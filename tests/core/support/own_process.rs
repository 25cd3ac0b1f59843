//! Runs each test in its own process.
//!
//! A test counts the open descriptors and the bytes of the heap, expects that the next file gets the number that it
//! has just closed, sets limits, forks, replaces handlers of signals. What it sees of its process has to be its own
//! doing. So `cargo test` runs the tests of this program as usual, side by side in threads, but each of them begins
//! with [`own_process!`], and that line is reached in two processes:
//!
//! * in the one that cargo has started, it starts the program once more for this test alone, waits, and returns from
//!   the test, which has failed if it failed there;
//! * in the one that was started so, the test goes on after that line. Nothing else runs there, and its time is limited.
//!
//! In the environment:
//! LIBIPC_TEST_OWN_PROCESS: the test that the process was made for;
//! LIBIPC_TEST_UNDER: a command, a word in each line, that runs the process of a test, such as valgrind;
//! LIBIPC_TEST_PATIENCE: how many times longer a test may take: a tool that slows it down says so.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TEST: &str = "LIBIPC_TEST_OWN_PROCESS";
const UNDER: &str = "LIBIPC_TEST_UNDER";

/// The first line of a test: the rest of it runs in a process of its own, which is ended after so many seconds.
macro_rules! own_process {
    ($seconds:expr) => {
        let Some(_limit) = ({
            fn here() {}
            $crate::support::enter(std::any::type_name_of_val(&here), $seconds)
        }) else {
            return;
        };
    };
}
pub(crate) use own_process;

/// For [`own_process!`]. `here` is the path of a function within the test; in the process of the test, its limit.
pub fn enter(here: &str, seconds: u64) -> Option<Limit> {
    // Without the program in front, and the function at the end: as the harness has it.
    let test = here.split_once("::").and_then(|(_, path)| path.rsplit_once("::")).unwrap().0;
    if std::env::var_os(TEST).is_none_or(|own| own != test) {
        run(test);
        return None;
    }
    // The process of the test ends if the whole test program is ended.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    Some(limit_of(test.to_owned(), seconds))
}

/// Runs the test in its own process. The output of the test is printed with the failure if the test has failed, and else
/// by [`say`].
fn run(test: &str) {
    // Files, not pipes: a process that outlives the test may keep them open.
    let [mut results, mut said] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let under = std::env::var(UNDER).unwrap_or_default();
    let program = std::env::current_exe().unwrap();
    let mut words = under.lines().map(Into::into).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(TEST, test).stdin(Stdio::null());
    command.stdout(results.try_clone().unwrap()).stderr(said.try_clone().unwrap());
    let status = command.status().unwrap();
    let (results, said) = (content(&mut results), content(&mut said));
    if status.success() && results.contains("test result: ok. 1 passed;") {
        say(said.trim_end());
        return;
    }
    eprintln!("{said}{test}, in a process of its own: {status}");
    // The panic has been reported, by the process of the test.
    std::panic::resume_unwind(Box::new("failed"));
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Prints a text that is shown even if the test succeeds.
pub fn say(text: &str) {
    if !text.is_empty() {
        // Past the harness, which keeps to itself what a test prints.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// How many times longer than at its own speed this program may take.
pub fn patience() -> u32 {
    std::env::var("LIBIPC_TEST_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Ends the process if what it is for takes longer: nothing here may wait for ever.
pub struct Limit(Option<(Sender<()>, JoinHandle<()>)>);

/// A limit for a part of a test, in the thread that has its name.
pub fn limit(seconds: u64) -> Limit {
    limit_of(thread::current().name().unwrap_or("a test").to_owned(), seconds)
}

fn limit_of(name: String, seconds: u64) -> Limit {
    let (alive, watch) = channel::<()>();
    let watching = thread::spawn(move || {
        let limit = Duration::from_secs(seconds) * patience();
        if watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            say(&format!("{name} has not ended within {limit:?}"));
            std::process::abort();
        }
    });
    Limit(Some((alive, watching)))
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some((alive, watching)) = self.0.take() {
            drop(alive);
            // Nothing of it is left for tools that look at the end of the process.
            let _ = watching.join();
        }
    }
}
