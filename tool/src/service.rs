//! A service as the command line names it, `NAME[-INDEX-VERSION]`, and as its file is named,
//! `NAME-INDEX-VERSION`.
//!
//! Both are read from the right: a name may have hyphens and digits of its own. A service whose name ends as
//! if it had index and version is written with all: `log-1-2-0-0`. The library prints both numbers signed, so
//! those over 2147483647 have a second hyphen.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::system;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Its name: not empty, and without `/`.
    pub name: OsString,
    /// Its index.
    pub index: u32,
    /// Its version.
    pub version: u32,
}

impl Service {
    /// Reads what the command line says.
    pub fn parse(text: &OsStr) -> Result<Self, &'static str> {
        let service =
            Self::of_file_name(text).unwrap_or_else(|| Self { name: text.to_owned(), index: 0, version: 0 });
        if service.name.is_empty() {
            Err("the name of a service is not empty")
        } else if service.name.as_bytes().contains(&b'/') {
            Err("the name of a service has no '/'")
        } else {
            Ok(service)
        }
    }

    /// The service that has this file in the run directory; None if the library gives no file this name.
    pub fn of_file_name(file: &OsStr) -> Option<Self> {
        let (rest, version) = number_at_end(file.as_bytes())?;
        let (name, index) = number_at_end(rest)?;
        let name = OsString::from_vec(name.to_vec());
        (!name.is_empty()).then_some(Self { name, index, version })
    }

    /// The name of its file in the run directory.
    pub fn file_name(&self) -> OsString {
        let mut file = self.name.clone();
        file.push(format!("-{}-{}", self.index as i32, self.version as i32));
        file
    }

    /// The variable of the environment that says where connections to the service go.
    pub fn variable(&self) -> OsString {
        OsString::from_vec(ipc::internals::variable(self.name.as_bytes()).unwrap_or_default())
    }

    /// The name, for the library.
    pub fn c_name(&self) -> CString {
        system::c_string(&self.name)
    }
}

/// As the command line may have it, and errors name it.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = (self.index, self.version) == (0, 0) && Self::of_file_name(&self.name).is_none();
        let name = if is_plain { self.name.clone() } else { self.file_name() };
        write!(f, "{}", name.to_string_lossy().escape_debug())
    }
}

/// Cuts a hyphen and a number off, as the library prints it: an i32 without needless digits.
fn number_at_end(text: &[u8]) -> Option<(&[u8], u32)> {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, digits) = text.split_at_checked(text.len() - digits)?;
    let rest = rest.strip_suffix(b"-")?;
    let parse = |sign: &str| {
        let printed = format!("{sign}{}", std::str::from_utf8(digits).ok()?);
        printed.parse::<i32>().ok().filter(|number| number.to_string() == printed)
    };
    // Of "a--1" the number is -1: the library prints no name that ends in a hyphen more often than a number
    // that is so large.
    let negative = rest.strip_suffix(b"-").filter(|name| !name.is_empty()).zip(parse("-"));
    let (rest, number) = negative.or_else(|| Some(rest).zip(parse("")))?;
    Some((rest, number as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(String, u32, u32)> {
        let service = Service::parse(OsStr::new(text)).ok()?;
        Some((service.name.into_string().unwrap(), service.index, service.version))
    }

    #[test]
    fn service_is_read_from_the_right() {
        let cases: [(&str, (&str, u32, u32)); 9] = [
            ("pongd", ("pongd", 0, 0)),
            ("pongd-1-2", ("pongd", 1, 2)),
            ("my-svc.1", ("my-svc.1", 0, 0)),
            ("my-svc-1", ("my-svc-1", 0, 0)),
            ("my-svc-1-2-3", ("my-svc-1", 2, 3)),
            ("a-01-0", ("a-01-0", 0, 0)),
            ("a-99999999999-0", ("a-99999999999-0", 0, 0)),
            ("s--1--2147483648", ("s", u32::MAX, 1 << 31)),
            ("-1-2", ("-1-2", 0, 0)),
        ];
        for (text, (name, index, version)) in cases {
            assert_eq!(parse(text), Some((name.to_owned(), index, version)), "{text}");
        }
        for text in ["", "a/b", "/", "a/b-0-0"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn service_is_printed_as_it_is_read() {
        for text in ["pongd", "pongd-1-2", "log-1-2-0-0", "s--1--2147483648", "my-svc"] {
            let service = Service::parse(OsStr::new(text)).unwrap();
            assert_eq!(service.to_string(), text);
            let file = service.file_name();
            assert_eq!(Service::of_file_name(&file), Some(service));
        }
    }
}
