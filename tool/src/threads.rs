//! Threads that nothing waits for: they end with the program.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::thread;

use crate::error::Error;

/// Starts one. `about` is what an error names.
pub fn start(about: impl Display, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let started = thread::Builder::new().spawn(run);
    started.map(drop).map_err(|error| Error::io(about, "cannot start a thread", &error))
}
