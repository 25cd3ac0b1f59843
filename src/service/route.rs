//! Rerouting: which socket a connection to a service goes to, according to the environment. Pure functions:
//! the caller reads the variables, and nothing is kept.
//!
//! The target is taken from the first of these that exists:
//!
//! 1. the variable `IPC_NETWORK_<SERVICE>`;
//! 2. the last entry of IPC_NETWORK with the service's name;
//! 3. the last entry of IPC_NETWORK with the name `*`;
//! 4. `direct:`.
//!
//! | target | route |
//! |---|---|
//! | `direct:` | the service itself |
//! | `unix:/PATH`, `unix:///PATH` | that socket |
//! | `NAME`, `unix://NAME` | another service of the run directory, with the same index and version |
//! | `SCHEME://...` | a target that only a bridge can reach |
//!
//! An invalid target is an error for its own service, and for no other service.

#![forbid(unsafe_code)]

use nix::errno::Errno;

/// The name of the bridge's own service, which is never rerouted.
const BRIDGE: &[u8] = b"network";

/// The length of the longest target in bytes; a path may be longer.
const MAX_TARGET: usize = 1024;

/// The destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The service itself.
    Direct,
    /// The socket at this path.
    Path(&'a [u8]),
    /// The service with this name.
    Service(&'a [u8]),
    /// A target that a bridge has to reach.
    Bridge(&'a [u8]),
}

/// The name of the variable for one service.
pub fn variable(service: &[u8]) -> Result<Vec<u8>, Errno> {
    const PREFIX: &[u8] = b"IPC_NETWORK_";
    let mut name = Vec::new();
    name.try_reserve_exact(PREFIX.len() + service.len()).map_err(|_| Errno::ENOMEM)?;
    name.extend_from_slice(PREFIX);
    name.extend(service.iter().map(|byte| match byte.to_ascii_uppercase() {
        known @ (b'A'..=b'Z' | b'0'..=b'9') => known,
        _ => b'_',
    }));
    Ok(name)
}

/// The route to a service. `own` is the value of the service's own variable, `all` that of IPC_NETWORK; an
/// unset variable is empty. EINVAL if the target is invalid.
pub fn route<'a>(service: &[u8], own: &'a [u8], all: &'a [u8]) -> Result<Route<'a>, Errno> {
    if service == BRIDGE {
        Ok(Route::Direct)
    } else if own.is_empty() {
        entry(service, all).map_or(Ok(Route::Direct), target)
    } else {
        target(own)
    }
}

/// The target of the entry of IPC_NETWORK for the service; None if no entry is for it.
fn entry<'a>(service: &[u8], all: &'a [u8]) -> Option<&'a [u8]> {
    let (mut exact, mut any) = (None, None);
    for entry in all.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        let end = entry.iter().position(u8::is_ascii_whitespace).unwrap_or(entry.len());
        let (name, target) = entry.split_at(end);
        if name == service {
            exact = Some(target.trim_ascii());
        } else if name == b"*" {
            any = Some(target.trim_ascii());
        }
    }
    exact.or(any)
}

/// The route that a target describes; EINVAL if the target is invalid.
fn target(text: &[u8]) -> Result<Route<'_>, Errno> {
    if text == b"direct:" {
        return Ok(Route::Direct);
    }
    if let Some(socket) = text.strip_prefix(b"unix:") {
        return match (socket, socket.strip_prefix(b"//")) {
            (_, Some(path @ [b'/', ..])) => Ok(Route::Path(path)),
            (_, Some(name)) if text.len() <= MAX_TARGET => service_name(name),
            (path @ [b'/', ..], None) => Ok(Route::Path(path)),
            _ => Err(Errno::EINVAL),
        };
    }
    match text.windows(3).position(|bytes| bytes == b"://") {
        None => service_name(text),
        Some(end) => {
            let is_scheme = matches!(text.get(..end), Some([b'a'..=b'z', rest @ ..])
                if rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'-')));
            let is_target = is_scheme && text.len() <= MAX_TARGET && text.iter().all(is_plain);
            if is_target { Ok(Route::Bridge(text)) } else { Err(Errno::EINVAL) }
        }
    }
}

/// The route to another service; EINVAL if this is not a valid service name.
fn service_name(name: &[u8]) -> Result<Route<'_>, Errno> {
    let is_part = |byte: &u8| is_plain(byte) && !matches!(byte, b'/' | b':');
    if (1..=MAX_TARGET).contains(&name.len()) && name.iter().all(is_part) {
        Ok(Route::Service(name))
    } else {
        Err(Errno::EINVAL)
    }
}

/// Whether the byte may be in a target: printable ASCII, except characters that are special to a shell, since
/// scripts may insert targets into commands.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b';' | b'"' | b'\'' | b'\\' | b'`' | b'$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(value: &[u8]) -> Result<Route<'_>, Errno> {
        route(b"audio", value, b"")
    }

    fn among(all: &'static [u8]) -> Result<Route<'static>, Errno> {
        route(b"audio", b"", all)
    }

    #[test]
    fn variable_has_only_capitals_digits_and_underscores() {
        for (service, name) in [
            (&b"audio"[..], &b"IPC_NETWORK_AUDIO"[..]),
            (b"my-svc.1", b"IPC_NETWORK_MY_SVC_1"),
            (b"a b\xff", b"IPC_NETWORK_A_B_"),
            (b"", b"IPC_NETWORK_"),
        ] {
            assert_eq!(variable(service).unwrap(), name);
        }
    }

    #[test]
    fn target_gives_the_route_of_the_table() {
        for (text, expected) in [
            (&b"direct:"[..], Route::Direct),
            (b"unix:/a;b $c", Route::Path(b"/a;b $c")),
            (b"unix:///a", Route::Path(b"/a")),
            (b"unix:////a", Route::Path(b"//a")),
            (b"unix://other", Route::Service(b"other")),
            (b"other-1.2", Route::Service(b"other-1.2")),
            (b"directly", Route::Service(b"directly")),
            (b"ssh://me@host:22/name", Route::Bridge(b"ssh://me@host:22/name")),
            (b"x-y+z.1://", Route::Bridge(b"x-y+z.1://")),
        ] {
            assert_eq!(own(text), Ok(expected));
        }
    }

    #[test]
    fn invalid_target_is_an_error_and_never_direct() {
        let long = [b"ssh://", &[b'x'; MAX_TARGET - 5][..]].concat();
        assert!(own(&long[..MAX_TARGET]).is_ok());
        for text in [
            &b"ssh:"[..],
            b"://x",
            b" ",
            b"\t",
            b" ssh://a",
            b"ssh://a ",
            b"ssh://a b",
            b"$(id)",
            b"ssh://$(id)",
            b"ssh://a;b",
            b"ssh://a\nb",
            b"ssh://\x7f",
            b"ssh://\xc3\xa4",
            b"ssh://\"",
            b"ssh://'",
            b"ssh://\\",
            b"ssh://`id`",
            b"Ssh://a",
            b"1x://a",
            b"unix:",
            b"unix:relative",
            b"unix://",
            b"unix://a/b",
            b"a/b",
            b"direct:x",
            b"direct",
            b"exec:id",
            &long,
        ] {
            let expected = if text == b"direct" { Ok(Route::Service(b"direct")) } else { Err(Errno::EINVAL) };
            assert_eq!(own(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn own_variable_precedes_exact_entry_and_star_entry() {
        let all = b"audio one;* two; audio three ;pong four";
        assert_eq!(route(b"audio", b"own", all), Ok(Route::Service(b"own")));
        assert_eq!(route(b"audio", b"", all), Ok(Route::Service(b"three")), "empty is as unset");
        assert_eq!(route(b"pong", b"", all), Ok(Route::Service(b"four")));
        assert_eq!(route(b"other", b"", all), Ok(Route::Service(b"two")));
        assert_eq!(among(b"* one;*   direct: "), Ok(Route::Direct));
        assert_eq!(among(b"audio direct:;* ssh://a"), Ok(Route::Direct));
        for none in [&b""[..], b";; ;", b"aud a", b"a a", b"audio2 a", b"Audio a", b"AUDIO a"] {
            assert_eq!(route(b"audio", b"", none), Ok(Route::Direct));
        }
    }

    #[test]
    fn invalid_entry_is_an_error_for_its_own_service_only() {
        let all = b"audio;pong ssh:;* $(id);fine good";
        assert_eq!(among(all), Err(Errno::EINVAL), "a name without a target");
        assert_eq!(route(b"pong", b"", all), Err(Errno::EINVAL));
        assert_eq!(route(b"other", b"", all), Err(Errno::EINVAL));
        assert_eq!(route(b"fine", b"", all), Ok(Route::Service(b"good")));
        assert_eq!(route(BRIDGE, b"ssh:", all), Ok(Route::Direct), "the bridge's own service");
    }
}
