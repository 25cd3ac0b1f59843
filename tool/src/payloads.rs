//! Payloads from files and from standard input, and the answers to them, for `send` and `chat`.
//!
//! A payload is read up to the maximum and one byte more, never further: what is too long costs no memory,
//! and nothing of it is sent.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use nix::errno::Errno;

use crate::error::Error;
use crate::libipc::{MAX_PAYLOAD, Message};
use crate::output::{Output, Value, field};

/// The name of standard input, on the command line.
pub const STANDARD_INPUT: &str = "-";

type Source = Box<dyn Read + Send>;

fn open(file: &OsStr) -> Result<(String, Source), Error> {
    if file == STANDARD_INPUT {
        return Ok(("standard input".to_owned(), Box::new(io::stdin())));
    }
    let name = file.to_string_lossy().into_owned();
    match File::open(file) {
        Ok(open) => Ok((name, Box::new(open))),
        Err(error) => Err(Error::io(name, "cannot open", &error)),
    }
}

fn too_long(about: &str, what: &str) -> Error {
    Error::failed(about, format!("{what} is over the maximum of {MAX_PAYLOAD} bytes"), Errno::EMSGSIZE)
}

/// One byte more than a message may have.
const LIMIT: u64 = MAX_PAYLOAD as u64 + 1;

/// All that the file holds.
pub fn read_file(file: &OsStr) -> Result<Vec<u8>, Error> {
    let (name, source) = open(file)?;
    let mut bytes = Vec::new();
    source.take(LIMIT).read_to_end(&mut bytes).map_err(|error| Error::io(&name, "cannot read", &error))?;
    if bytes.len() > MAX_PAYLOAD { Err(too_long(&name, "the payload")) } else { Ok(bytes) }
}

/// The lines of a file, without the newline. They are read as they come.
pub struct Lines {
    name: String,
    source: BufReader<Source>,
    number: u64,
}

impl Lines {
    /// Opens the file.
    pub fn open(file: &OsStr) -> Result<Self, Error> {
        let (name, source) = open(file)?;
        Ok(Self { name, source: BufReader::with_capacity(1 << 16, source), number: 0 })
    }

    /// Whether a further line has been read already: [`Lines::read`] does not wait, nor fail.
    pub fn has_next(&self) -> bool {
        self.source.buffer().contains(&b'\n')
    }

    /// The next line; None at the end. The last one may lack its newline.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = Vec::new();
        self.number += 1;
        // With the newline, a line of the maximum has the limit's length.
        (&mut self.source)
            .take(LIMIT)
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::io(&self.name, "cannot read", &error))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > MAX_PAYLOAD {
            return Err(too_long(&self.name, &format!("line {}", self.number)));
        }
        Ok(Some(line))
    }
}

/// Prints a message that the service has sent: its payload, a line; with `is_raw` the payload and nothing
/// else.
pub fn print_answer(output: &Output, answer: &Message, is_raw: bool) -> Result<(), Error> {
    if is_raw {
        return output.write(&answer.payload);
    }
    output.record(&[
        field("type", answer.kind).json_only(),
        field("length", answer.payload.len()).json_only(),
        field("payload", Value::Payload(&answer.payload)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
        let file = file_of(bytes);
        let mut lines = Lines::open(file.path().as_os_str()).unwrap();
        std::iter::from_fn(|| lines.read().unwrap()).collect()
    }

    #[test]
    fn lines_are_cut_at_newlines_alone() {
        for (bytes, lines) in [
            (&b""[..], &[][..]),
            (b"a", &[&b"a"[..]]),
            (b"a\n", &[b"a"]),
            (b"a\n\nb\r\n", &[b"a", b"", b"b\r"]),
            (b"\0\n\xff", &[b"\0", b"\xff"]),
            (b"\n", &[b""]),
        ] {
            assert_eq!(lines_of(bytes), lines);
        }
    }

    #[test]
    fn line_over_the_maximum_is_an_error() {
        let longest = vec![b'x'; MAX_PAYLOAD];
        assert_eq!(lines_of(&[&longest[..], b"\nnext"].concat()), [&longest[..], b"next"]);
        assert_eq!(lines_of(&longest), [&longest[..]]);
        let file = file_of(&[&b"short\n"[..], &longest, b"x\n"].concat());
        let mut lines = Lines::open(file.path().as_os_str()).unwrap();
        assert_eq!(lines.read().unwrap().as_deref(), Some(&b"short"[..]));
        let expected = Error::failed(
            file.path().display(),
            "line 2 is over the maximum of 7999995 bytes",
            Errno::EMSGSIZE,
        );
        assert_eq!(lines.read(), Err(expected));
    }

    #[test]
    fn file_is_one_payload_up_to_the_maximum() {
        let longest = vec![b'x'; MAX_PAYLOAD];
        assert_eq!(read_file(file_of(&longest).path().as_os_str()).unwrap(), longest);
        let file = file_of(&vec![b'x'; MAX_PAYLOAD + 1]);
        assert!(read_file(file.path().as_os_str()).is_err());
        assert!(read_file(OsStr::new("/")).is_err(), "a directory");
        assert!(read_file(OsStr::new("/nonexistent")).is_err());
    }
}
