//! How a command ends: its exit status, and one line on standard error.
//!
//! | status | when |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: `ipc: SERVICE: message (ERRNO)` |
//! | 2 | wrong usage |
//! | 124 | the time of --timeout is over, as timeout(1) has it |
//! | 126, 127 | `run`, `monitor`: the program cannot be run, or does not exist |
//! | 130, 143, 129 | a signal: 128 and its number |
//! | 141 | standard output was closed; without a line, as for programs that SIGPIPE ends |

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use nix::errno::Errno;

use crate::printable::complain;

/// A command that ends without success.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    status: u8,
    line: Option<String>,
}

impl Error {
    /// The command failed. `about` is the service, the file or the program.
    pub fn failed(about: impl Display, message: impl Display, errno: Errno) -> Self {
        Self::with_status(1, format!("{about}: {message}: {}", describe(errno)))
    }

    /// The command failed, and no system call has said why.
    pub fn plain(about: impl Display, message: impl Display) -> Self {
        Self::with_status(1, format!("{about}: {message}"))
    }

    /// A system call failed, by std's account.
    pub fn io(about: impl Display, message: impl Display, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::failed(about, message, Errno::from_raw(errno)),
            None => Self::plain(about, format!("{message}: {error}")),
        }
    }

    /// The arguments make no sense together, or one of them none at all.
    pub fn usage(message: impl Display) -> Self {
        Self::with_status(2, message.to_string())
    }

    /// The time of --timeout is over.
    pub fn timeout(about: impl Display, message: impl Display) -> Self {
        Self::with_status(124, format!("{about}: {message}"))
    }

    /// With a status of its own.
    pub fn with_status(status: u8, line: String) -> Self {
        Self { status, line: Some(line) }
    }

    /// The reader of standard output has closed it.
    pub fn output_closed() -> Self {
        Self { status: 141, line: None }
    }

    /// Prints the line; the status that the program ends with.
    pub fn report(&self) -> ExitCode {
        if let Some(line) = &self.line {
            complain(line);
        }
        ExitCode::from(self.status)
    }
}

/// The errno of a system call that failed by std's account.
pub fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// The message for an errno, and its name.
pub fn describe(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_service_message_and_errno() {
        let error = Error::failed("pongd", "cannot connect", Errno::ECONNREFUSED);
        assert_eq!(error.line.as_deref(), Some("pongd: cannot connect: Connection refused (ECONNREFUSED)"));
        assert_eq!(error.status, 1);
    }
}
