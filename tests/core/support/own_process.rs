//! Runs each test in its own process.
//!
//! A test counts open descriptors and bytes of the heap, expects that the next file gets the number that the
//! test has just closed, sets limits, forks, replaces signal handlers. No other test may change the process
//! meanwhile. So `cargo test` runs the tests of this program as usual, in parallel threads, but each test
//! begins with [`own_process!`], and this line is reached in two processes:
//!
//! * in the process that cargo has started, the macro starts the program again for this test alone, waits,
//!   and returns from the test, which fails if it failed there;
//! * in that second process, the test continues after the line. Nothing else runs there, and the time is
//!   limited.
//!
//! In the environment:
//! LIBIPC_TEST_OWN_PROCESS: the test that this process was started for;
//! LIBIPC_TEST_UNDER: a command, one word in each line, that runs the process of a test, such as valgrind;
//! LIBIPC_TEST_PATIENCE: by which factor all limits of time are longer, for tools that slow the program down.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TEST: &str = "LIBIPC_TEST_OWN_PROCESS";
const UNDER: &str = "LIBIPC_TEST_UNDER";

/// The first line of a test: the rest of the test runs in a process of its own, which is aborted after so
/// many seconds.
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

/// For [`own_process!`]. `here` is the path of a function within the test. Returns the limit in the test's
/// own process, and None in cargo's.
pub fn enter(here: &str, seconds: u64) -> Option<Limit> {
    // The test's name as the harness knows it: the path without the crate and without the inner function.
    let test = here.split_once("::").and_then(|(_, path)| path.rsplit_once("::")).unwrap().0;
    if std::env::var_os(TEST).is_none_or(|own| own != test) {
        run(test);
        return None;
    }
    // The kernel kills the test's process if the test program ends.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    Some(limit_of(test.to_owned(), seconds))
}

/// Runs the test in its own process. The test's output is printed with the failure if the test has failed,
/// and otherwise by [`say`].
fn run(test: &str) {
    // Files, not pipes: a process that outlives the test may keep them open.
    let [mut results, mut output] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    let under = std::env::var(UNDER).unwrap_or_default();
    let program = std::env::current_exe().unwrap();
    let mut words = under.lines().map(Into::into).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(TEST, test).stdin(Stdio::null());
    command.stdout(results.try_clone().unwrap()).stderr(output.try_clone().unwrap());
    let status = command.status().unwrap();
    let (results, output) = (content(&mut results), content(&mut output));
    if status.success() && results.contains("test result: ok. 1 passed;") {
        say(output.trim_end());
        return;
    }
    eprintln!("{output}{test}, in a process of its own: {status}");
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
        // Not by print!, whose output the harness captures.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// The factor of LIBIPC_TEST_PATIENCE, 1 if it is not set.
pub fn patience() -> u32 {
    std::env::var("LIBIPC_TEST_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Aborts the process if the value is not dropped in time, so that no test waits for ever.
pub struct Limit(Option<(Sender<()>, JoinHandle<()>)>);

/// A limit for a part of a test, named after the current thread.
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
            // No thread may be left for tools that inspect the end of the process.
            let _ = watching.join();
        }
    }
}
