//! Text that does nothing to a terminal, whatever a peer or an argument has put into it; and lines for people
//! on standard error.

#![forbid(unsafe_code)]

use std::io::{self, Write};

/// Whether the character changes how the text after it looks: a control character, or one that ends a line or
/// sets the direction of the text.
pub fn is_control(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    is_format || character.is_control()
}

/// Prints a line for people on standard error.
pub fn complain(line: &str) {
    let _ = io::stderr().lock().write_all(format!("ipc: {}\n", printable(line)).as_bytes());
}

/// Prints lines for people on standard error.
pub fn complain_at_length(lines: &str) {
    let text: String = lines
        .split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => printable(line) + "\n",
            None => printable(line),
        })
        .collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The text, with escapes in place of control characters, and then of backslashes. Quotes stay as they are.
pub fn printable(text: &str) -> String {
    if !text.chars().any(is_control) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_control(character) || character == '\\' {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}
