//! The route of a connection, from a service's name and the two variables, against a second implementation of
//! the rules: this one reads the text from its end, and checks for each byte what it may be.

use ipc::internals::{Errno, Route, route};

use super::trace;

const BRIDGE: &[u8] = b"network";

/// The input has the lengths of the service's name and of its own variable, then both texts, and IPC_NETWORK.
/// A length of 255 means that the variable is not set.
pub fn run(input: &[u8]) {
    let [name, own, rest @ ..] = input else { return };
    let (service, rest) = rest.split_at(rest.len().min(usize::from(*name)));
    let (own, all) = match own {
        255 => rest.split_at(0),
        length => rest.split_at(rest.len().min(usize::from(*length))),
    };
    let result = route(service, own, all);
    trace!("{:?} by {own:?} and {all:?}: {result:?}", service.escape_ascii().to_string());
    assert_eq!(result, expected(service, own, all));
    if service == BRIDGE {
        return;
    }
    if own.is_empty() {
        assert_eq!(route(service, b"", &only_for(service, all)).ok(), result.ok(), "other entries count");
    } else {
        assert_eq!(route(service, own, b""), result, "IPC_NETWORK counts");
    }
}

fn expected<'a>(service: &[u8], own: &'a [u8], all: &'a [u8]) -> Result<Route<'a>, Errno> {
    if service == BRIDGE {
        return Ok(Route::Direct);
    }
    if !own.is_empty() {
        return target(own);
    }
    let last = |wanted: &[u8]| entries(all).rev().find(|(name, _)| *name == wanted);
    last(service).or_else(|| last(b"*")).map_or(Ok(Route::Direct), |(_, text)| target(text))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 12)
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text {
        if !is_blank(*first) {
            break;
        }
        text = rest;
    }
    while let [rest @ .., last] = text {
        if !is_blank(*last) {
            break;
        }
        text = rest;
    }
    text
}

/// Names and targets, without empty ones.
fn entries(all: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
    all.split(|byte| *byte == b';').map(trim).filter(|entry| !entry.is_empty()).map(|entry| {
        let blank = (0..entry.len()).find(|index| is_blank(entry[*index])).unwrap_or(entry.len());
        (&entry[..blank], trim(&entry[blank..]))
    })
}

/// The entries of a service and of all services, and no other entries.
fn only_for(service: &[u8], all: &[u8]) -> Vec<u8> {
    let is_its = |(name, _): &(&[u8], &[u8])| *name == service || *name == b"*";
    entries(all)
        .filter(is_its)
        .flat_map(|(name, target)| [b" ", name, b"\t", target, b";"].concat())
        .collect()
}

fn target(text: &[u8]) -> Result<Route<'_>, Errno> {
    let is_plain = |byte: &u8| (0x21..0x7f).contains(byte) && !b";\"'\\`$".contains(byte);
    let is_name = |name: &[u8]| {
        (1..=1024).contains(&name.len()) && name.iter().all(|byte| is_plain(byte) && !b"/:".contains(byte))
    };
    let scheme = (0..text.len()).find(|index| text[*index..].starts_with(b"://"));
    if text == b"direct:" {
        Ok(Route::Direct)
    } else if text.starts_with(b"unix:///") {
        Ok(Route::Path(&text[7..]))
    } else if text.starts_with(b"unix://") && text.len() <= 1024 && is_name(&text[7..]) {
        Ok(Route::Service(&text[7..]))
    } else if text.starts_with(b"unix:/") && !text.starts_with(b"unix://") {
        Ok(Route::Path(&text[5..]))
    } else if is_name(text) {
        Ok(Route::Service(text))
    } else if scheme.is_some_and(|end| is_scheme(&text[..end]))
        && text.len() <= 1024
        && text.iter().all(is_plain)
    {
        Ok(Route::Bridge(text))
    } else {
        Err(Errno::EINVAL)
    }
}

fn is_scheme(text: &[u8]) -> bool {
    text != b"unix"
        && text.first().is_some_and(u8::is_ascii_lowercase)
        && text.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(byte))
}
