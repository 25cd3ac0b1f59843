//! What commands print: records, each a line. Plain for people and scripts, or a JSON object with --json.
//!
//! Each line leaves at once. A payload is printed as text if it is UTF-8 without control characters, and else
//! in hexadecimal; in JSON it is "text" or "base64". Colour is for a terminal alone, and not if NO_COLOR is
//! set and not empty.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::time::SystemTime;

use crate::error::Error;
use crate::printable::{is_control, printable};
use crate::system;

/// A value of a record.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Not known, or not there: `-`, or null.
    None,
    /// A word or a sentence.
    Text(Cow<'a, str>),
    /// A number.
    Number(i64),
    /// Yes or no; in JSON true or false.
    Flag(bool),
    /// A number with so many digits after the point.
    Decimal(f64, usize),
    /// A moment: local time with microseconds, or seconds since 1970.
    Time(SystemTime),
    /// The payload of a message. In JSON its key is "text" or "base64", whatever the record calls it.
    Payload(&'a [u8]),
}

impl<'a> Value<'a> {
    /// A name that may have any bytes.
    pub fn name(name: &'a OsStr) -> Self {
        Self::Text(name.to_string_lossy())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

macro_rules! from_numbers {
    ($($number:ty)*) => { $(impl From<$number> for Value<'_> {
        fn from(number: $number) -> Self {
            i64::try_from(number).map_or(Self::None, Self::Number)
        }
    })* };
}
from_numbers!(u8 i32 u32 i64 u64 usize);

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// How a column of a plain line looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As it is.
    Plain,
    /// Less important.
    Dim,
    /// Good news.
    Green,
    /// Bad news.
    Red,
    /// One of two kinds.
    Cyan,
    /// The other of two kinds, or a warning.
    Yellow,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "\x1b[2m",
            Self::Green => "\x1b[32m",
            Self::Red => "\x1b[31m",
            Self::Cyan => "\x1b[36m",
            Self::Yellow => "\x1b[33m",
        }
    }
}

/// A value of a record, its name in JSON, and its width and colour in a plain line.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    name: &'static str,
    value: Value<'a>,
    width: usize,
    colour: Colour,
    is_for_json: bool,
    plain: Option<&'static str>,
}

/// A field. One without a name is for plain lines alone.
pub fn field<'a>(name: &'static str, value: impl Into<Value<'a>>) -> Field<'a> {
    Field { name, value: value.into(), width: 0, colour: Colour::Plain, is_for_json: false, plain: None }
}

impl Field<'_> {
    /// Has at least so many columns: text is put on the left of them, numbers on the right.
    pub fn width(mut self, width: usize) -> Self {
        self.width = width;
        self
    }

    /// How many columns it needs in a plain line.
    pub fn length(&self) -> usize {
        plain_value(&self.value).chars().count()
    }

    /// Is coloured on a terminal.
    pub fn colour(mut self, colour: Colour) -> Self {
        self.colour = colour;
        self
    }

    /// Is this in plain lines.
    pub fn plain(mut self, text: &'static str) -> Self {
        self.plain = Some(text);
        self
    }

    /// Is left out of plain lines.
    pub fn json_only(mut self) -> Self {
        self.is_for_json = true;
        self
    }
}

/// Where a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether each record is a JSON object.
    pub is_json: bool,
    has_colour: bool,
}

impl Output {
    /// Standard output.
    pub fn new(is_json: bool) -> Self {
        let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_json, has_colour: !is_json && may_colour && !is_dumb && io::stdout().is_terminal() }
    }

    /// Prints a record.
    pub fn record(&self, fields: &[Field<'_>]) -> Result<(), Error> {
        self.write(if self.is_json { json(fields) } else { self.plain(fields) }.as_bytes())
    }

    /// Prints records that are there all at once.
    pub fn records(&self, records: &[Vec<Field<'_>>]) -> Result<(), Error> {
        let lines: String = records
            .iter()
            .map(|fields| if self.is_json { json(fields) } else { self.plain(fields) })
            .collect();
        self.write(lines.as_bytes())
    }

    /// Prints a line that is for people: with --json nothing.
    pub fn heading(&self, line: &str) -> Result<(), Error> {
        if self.is_json { Ok(()) } else { self.write(format!("{line}\n").as_bytes()) }
    }

    /// Prints bytes as they are, and has them leave.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut output = io::stdout().lock();
        output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Error::output_closed(),
            _ => Error::io("standard output", "cannot write", &error),
        })
    }

    fn plain(&self, fields: &[Field<'_>]) -> String {
        let mut line = String::new();
        let mut shown = fields.iter().filter(|field| !field.is_for_json).peekable();
        while let Some(field) = shown.next() {
            let text = field.plain.map_or_else(|| plain_value(&field.value), str::to_owned);
            // A payload at the end of a line keeps its own blanks, and no others follow it.
            let is_last = shown.peek().is_none();
            if is_last && text.is_empty() {
                break;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            let room = " ".repeat(field.width.saturating_sub(text.chars().count()));
            let is_number = matches!(field.value, Value::Number(_) | Value::Decimal(..) | Value::None);
            let (before, after) = match (is_number, is_last) {
                (true, _) => (room.as_str(), ""),
                (false, true) => ("", ""),
                (false, false) => ("", room.as_str()),
            };
            let (on, off) = if self.has_colour && field.colour != Colour::Plain && !text.is_empty() {
                (field.colour.code(), "\x1b[0m")
            } else {
                ("", "")
            };
            let _ = write!(line, "{before}{on}{text}{off}{after}");
        }
        line.push('\n');
        line
    }
}

fn plain_value(value: &Value<'_>) -> String {
    match value {
        Value::None => "-".to_owned(),
        // One record is one line, and a name does nothing to a terminal.
        Value::Text(text) => printable(text),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Decimal(number, digits) => format!("{number:.digits$}"),
        Value::Time(moment) => {
            let (hour, minute, second) = system::local_time(*moment);
            format!("{hour:02}:{minute:02}:{second:02}.{:06}", since_1970(*moment).subsec_micros())
        }
        Value::Payload(bytes) => as_text(bytes).map_or_else(|| hexadecimal(bytes), str::to_owned),
    }
}

fn since_1970(moment: SystemTime) -> std::time::Duration {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The payload as text, if it is UTF-8 without control characters.
pub fn as_text(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload).ok().filter(|text| !text.chars().any(is_control))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // The macro write! would take a second for a large payload.
        let digits =
            [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        text.extend(digits);
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let number =
            (0..3).fold(0_usize, |number, at| number << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS.get(number >> (18 - 6 * at) & 63).copied().unwrap_or(b'=');
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn json(fields: &[Field<'_>]) -> String {
    let mut line = "{".to_owned();
    for (at, field) in fields.iter().filter(|field| !field.name.is_empty()).enumerate() {
        if at > 0 {
            line.push(',');
        }
        let mut member = |name: &str, value: &str| {
            let _ = write!(line, "{}:{value}", json_string(name));
        };
        match &field.value {
            Value::None => member(field.name, "null"),
            Value::Text(text) => member(field.name, &json_string(text)),
            Value::Number(number) => member(field.name, &number.to_string()),
            Value::Flag(flag) => member(field.name, &flag.to_string()),
            Value::Decimal(number, _) if !number.is_finite() => member(field.name, "null"),
            Value::Decimal(number, digits) => member(field.name, &format!("{number:.digits$}")),
            Value::Time(moment) => {
                let since = since_1970(*moment);
                member(field.name, &format!("{}.{:06}", since.as_secs(), since.subsec_micros()));
            }
            Value::Payload(bytes) => match as_text(bytes) {
                Some(text) => member("text", &json_string(text)),
                None => member("base64", &json_string(&base64(bytes))),
            },
        }
    }
    line.push_str("}\n");
    line
}

fn json_string(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            ' '..='!' | '#'..='[' | ']'..='~' => quoted.push(character),
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Those that end a line in JavaScript, and those that JSON forbids.
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { is_json: false, has_colour: false };

    #[test]
    fn payload_is_text_or_hexadecimal() {
        for (payload, text) in [
            (&b"hello world"[..], "hello world"),
            ("Grüße".as_bytes(), "Grüße"),
            (b"", ""),
            (b"two\nlines", "74776f0a6c696e6573"),
            (b"\xff\x00", "ff00"),
            ("\u{85}".as_bytes(), "c285"),
            ("\u{202e}x".as_bytes(), "e280ae78"),
        ] {
            assert_eq!(plain_value(&Value::Payload(payload)), text);
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn record_is_one_json_object() {
        let fields = [
            field("name", "a\"b\\\n\u{7f}"),
            field("pid", None::<i32>),
            field("uid", 7).json_only(),
            field("", "x"),
            field("mean", Value::Decimal(1.5, 2)),
            field("payload", Value::Payload(b"\0")),
        ];
        assert_eq!(
            json(&fields),
            "{\"name\":\"a\\\"b\\\\\\n\\u007f\",\"pid\":null,\"uid\":7,\"mean\":1.50,\"base64\":\"AA==\"}\n"
        );
        assert_eq!(json(&[field("payload", Value::Payload(b"x"))]), "{\"text\":\"x\"}\n");
    }

    #[test]
    fn record_is_one_plain_line() {
        let fields = [field("a", "x\ny").width(6), field("b", 5).width(3), field("c", "").width(4)];
        assert_eq!(PLAIN.plain(&fields), "x\\ny     5\n");
        assert_eq!(
            PLAIN.plain(&[field("a", "\"a\u{1b}[31m\\\u{9b}b\" is none")]),
            "\"a\\u{1b}[31m\\\\\\u{9b}b\" is none\n"
        );
        let fields = [field("a", "").width(1), field("b", Value::Payload(b" a ")).width(9)];
        assert_eq!(PLAIN.plain(&fields), "   a \n");
    }

    #[test]
    fn colour_leaves_widths_alone() {
        let output = Output { is_json: false, has_colour: true };
        let line = output.plain(&[field("a", "x").width(3).colour(Colour::Red), field("b", "y")]);
        assert_eq!(line, "\x1b[31mx\x1b[0m   y\n");
    }
}
