//! Where a connection to a service goes, by the environment: what the library reads, in the same order, and
//! kept to be shown.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use ipc::internals::{self, PATH_MAX, Route};
use nix::errno::Errno;

use crate::rundir;
use crate::service::Service;

/// The variable for all services.
pub const FOR_ALL: &str = "IPC_NETWORK";

/// The service that is never rerouted.
pub const NEVER_REROUTED: &str = "network";

/// What has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing: the connection goes to the service itself.
    Nothing,
    /// The variable of the service.
    Own,
    /// An entry of [`FOR_ALL`]: its name, or `*`.
    Entry(OsString),
}

/// A target, as the library understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The service itself.
    Direct,
    /// The socket at a path.
    Path(OsString),
    /// Another service of the run directory.
    Service(OsString),
    /// What only a bridge reaches.
    Bridge(OsString),
}

/// Where a connection to a service goes.
#[derive(Debug)]
pub struct Way {
    /// The variable of the service, and what it holds.
    pub own: (OsString, Option<OsString>),
    /// What [`FOR_ALL`] holds.
    pub all: Option<OsString>,
    /// Which of the two counts.
    pub source: Source,
    /// The text of the target; empty if there is none.
    pub text: OsString,
    /// The target; EINVAL for a text that is none.
    pub target: Result<Target, Errno>,
    /// The path of the socket: EINVAL as above, ENETUNREACH for what only a bridge reaches, ENAMETOOLONG.
    pub path: Result<PathBuf, Errno>,
}

impl Way {
    /// Looks the service up in the environment.
    pub fn of(service: &Service) -> Self {
        let variable = service.variable();
        let (own, all) = (env::var_os(&variable), env::var_os(FOR_ALL));
        Self::by(service, (variable, own), all)
    }

    fn by(service: &Service, own: (OsString, Option<OsString>), all: Option<OsString>) -> Self {
        let name = service.name.as_bytes();
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let value = |value: &Option<OsString>| value.clone().unwrap_or_default().into_vec();
        let (of_own, of_all) = (value(&own.1), value(&all));
        let (source, text) = if service.name == NEVER_REROUTED {
            (Source::Nothing, OsString::new())
        } else if !of_own.is_empty() {
            (Source::Own, owned(&of_own))
        } else if let Some((entry, target)) = entry(name, &of_all) {
            (Source::Entry(owned(entry)), owned(target))
        } else {
            (Source::Nothing, OsString::new())
        };
        let target = internals::route(name, &of_own, &of_all).map(|route| match route {
            Route::Direct => Target::Direct,
            Route::Path(path) => Target::Path(owned(path)),
            Route::Service(other) => Target::Service(owned(other)),
            Route::Bridge(target) => Target::Bridge(owned(target)),
        });
        let path = match &target {
            Err(errno) => Err(*errno),
            Ok(Target::Direct) => rundir::path_of(&service.name, service),
            Ok(Target::Service(other)) => rundir::path_of(other, service),
            Ok(Target::Path(path)) if path.len() >= PATH_MAX => Err(Errno::ENAMETOOLONG),
            Ok(Target::Path(path)) => Ok(PathBuf::from(path)),
            Ok(Target::Bridge(_)) => Err(Errno::ENETUNREACH),
        };
        Self { own, all, source, text, target, path }
    }
}

/// The entry for the service, as the library finds it: the last one with its name, and else the last `*`.
fn entry<'a>(service: &[u8], all: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let entries =
        || all.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).rev();
    let split = |entry: &'a [u8]| {
        let end = entry.iter().position(u8::is_ascii_whitespace).unwrap_or(entry.len());
        let (name, target) = entry.split_at(end);
        (name, target.trim_ascii())
    };
    let last = |wanted: &[u8]| entries().map(split).find(|(name, _)| *name == wanted);
    last(service).or_else(|| last(b"*"))
}

/// Whether the text is a target that a variable may hold.
pub fn is_target(text: &OsStr) -> bool {
    !text.is_empty() && internals::route(b"-", text.as_bytes(), b"").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(own: Option<&str>, all: Option<&str>) -> Way {
        let service = Service::parse(OsStr::new("audio")).unwrap();
        Way::by(&service, (service.variable(), own.map(OsString::from)), all.map(OsString::from))
    }

    #[test]
    fn way_names_what_has_decided() {
        let cases: [(Option<&str>, Option<&str>, Source, &str); 5] = [
            (None, None, Source::Nothing, ""),
            (Some(""), Some("aud other; a *"), Source::Nothing, ""),
            (Some("other"), Some("audio pong"), Source::Own, "other"),
            (None, Some("* x; audio pong ;audio unix://y"), Source::Entry("audio".into()), "unix://y"),
            (None, Some("* direct:"), Source::Entry("*".into()), "direct:"),
        ];
        for (own, all, source, text) in cases {
            let way = way(own, all);
            assert_eq!((way.source, way.text), (source, OsString::from(text)), "{own:?} {all:?}");
        }
    }

    #[test]
    fn entry_is_the_one_that_the_library_takes() {
        let names = ["audio", "aud", "*", "audio;", "", " audio\t", "b"];
        let targets = [" one", " unix:/two", "\tdirect:  ", "", " ssh:", " a b ;"];
        let mut seed = 1_u32;
        let mut pick = |among: &[&str]| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            among[(seed >> 16) as usize % among.len()].to_owned()
        };
        for _ in 0..2000 {
            let entries: Vec<_> = (0..5).map(|_| pick(&names) + &pick(&targets)).collect();
            let all = entries.join(";");
            let by_library = internals::route(b"audio", b"", all.as_bytes());
            let by_entry = entry(b"audio", all.as_bytes()).map_or(Ok(Route::Direct), |(_, target)| {
                // Without a target there is no entry that says so in the variable of the service.
                if target.is_empty() { Err(Errno::EINVAL) } else { internals::route(b"audio", target, b"") }
            });
            assert_eq!(by_entry, by_library, "{all:?}");
        }
    }

    #[test]
    fn path_is_that_of_the_target() {
        assert_eq!(way(Some("unix:/tmp/s"), None).path, Ok(PathBuf::from("/tmp/s")));
        assert_eq!(way(Some("ssh://host"), None).path, Err(Errno::ENETUNREACH));
        assert_eq!(way(Some("ssh:"), None).path, Err(Errno::EINVAL));
        let longest = format!("unix:/{}", "x".repeat(PATH_MAX - 2));
        assert!(way(Some(&longest), None).path.is_ok());
        assert_eq!(way(Some(&format!("{longest}x")), None).path, Err(Errno::ENAMETOOLONG));
        assert!(way(Some("pong"), None).path.unwrap().ends_with("pong-0-0"));
    }

    #[test]
    fn targets_are_those_of_the_library() {
        for (text, is) in
            [("direct:", true), ("pong", true), ("unix:/x;y", true), ("", false), ("://x", false)]
        {
            assert_eq!(is_target(OsStr::new(text)), is, "{text}");
        }
    }
}
