//! The content of the headers: the functions that they declare, and the codes that each function returns.

use std::collections::{BTreeMap, BTreeSet};

use crate::staging::text_of;

/// The headers. Each declared function has a page in section 3 and an entry in libipc(7).
pub const HEADERS: [&str; 2] = ["include/ipc.h", "include/ipc_ext.h"];
/// Codes, each with its description.
pub type Errors = BTreeMap<String, String>;

pub struct Function {
    pub header: &'static str,
    /// The declaration: its tokens with one space between them.
    pub prototype: String,
    /// The comment before it, as one line.
    pub comment: String,
}

impl Function {
    pub fn returns_a_code(&self) -> bool {
        self.prototype.starts_with("enum ipc_errors ")
    }
}

/// Identifiers and single other characters.
pub fn tokens(text: &str) -> Vec<&str> {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end =
            if of_word(first) { rest.find(|c| !of_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    tokens
}

/// The code of a C text without its comments, and for each comment its position in the code.
pub fn without_comments(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut code, mut comments) = (String::new(), Vec::new());
    for (place, part) in text.split("/*").enumerate() {
        if place == 0 {
            code.push_str(part);
            continue;
        }
        let (comment, rest) = part.split_once("*/").expect("the end of a comment");
        let words = comment.lines().flat_map(|line| line.trim().trim_start_matches('*').split_whitespace());
        comments.push((code.len(), words.collect::<Vec<_>>().join(" ")));
        code.push_str(rest);
    }
    (code, comments)
}

/// Replaces preprocessor lines, and parts for C++ compilers alone, by empty ones.
pub fn without_preprocessor(code: &str) -> String {
    let mut continued = false;
    let mut kept = String::new();
    for line in code.split_inclusive('\n') {
        let of_preprocessor = continued || line.starts_with('#');
        continued = of_preprocessor && line.trim_end().ends_with('\\');
        let line_code = line.split("//").next().unwrap().trim_end();
        if of_preprocessor || line_code == "extern \"C\" {" || line_code == "}" {
            // The positions of the comments stay valid.
            kept.extend(std::iter::repeat_n(' ', line.len()));
        } else {
            kept.push_str(line);
        }
    }
    kept
}

/// The declarations, each with its position; the text after the last one is the last element.
pub fn declarations(code: &str) -> Vec<(usize, &str)> {
    let (mut declarations, mut start, mut depth) = (Vec::new(), 0, 0);
    for (place, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                declarations.push((start, &code[start..place]));
                start = place + 1;
            }
            _ => {}
        }
    }
    assert_eq!(depth, 0, "braces");
    declarations.push((start, &code[start..]));
    declarations
}

/// The name and the tokens of a declaration, if it declares a function.
pub fn prototype(declaration: &str) -> Option<(String, String)> {
    if declaration.contains('{') {
        return None;
    }
    let (before, rest) = declaration.split_once('(')?;
    let parameters = rest.rsplit_once(')').unwrap_or_else(|| panic!("no end: {declaration}")).0;
    let name = (*tokens(before).last()?).to_owned();
    Some((name, tokens(&format!("{before}({parameters})")).join(" ")))
}

/// The functions that the headers declare.
pub fn functions() -> BTreeMap<String, Function> {
    let mut functions = BTreeMap::new();
    for header in HEADERS {
        let (code, comments) = without_comments(&text_of(header));
        let code = without_preprocessor(&code);
        for (place, declaration) in declarations(&code) {
            let begin = place + declaration.len() - declaration.trim_start().len();
            if let Some((name, prototype)) = prototype(declaration) {
                // One comment may belong to several functions.
                let comment = comments.iter().rev().find(|(place, _)| *place <= begin).expect("a comment");
                let function = Function { header, prototype, comment: comment.1.clone() };
                assert!(functions.insert(name.clone(), function).is_none(), "{name} is declared twice");
            }
        }
    }
    assert!(functions.len() > 30, "too few functions: {:?}", functions.keys());
    functions
}

/// The codes and their numbers.
pub fn codes() -> BTreeMap<String, usize> {
    let (code, _) = without_comments(&text_of(HEADERS[0]));
    let (_, rest) = code.split_once("enum ipc_errors {").expect("enum ipc_errors");
    let (body, _) = rest.split_once('}').unwrap();
    let entries = body.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let codes: BTreeMap<_, _> = entries
        .map(|entry| entry.split_once(" = ").expect("a code with its number"))
        .map(|(code, number)| (code.to_owned(), number.parse().unwrap()))
        .collect();
    assert_eq!(codes.len(), 60);
    codes
}

pub fn is_code(token: &str) -> bool {
    token.starts_with("IPC_ERROR_") && token != "IPC_ERROR_NONE"
}

/// The codes that the comment itself names: `CODE, CODE: text CODE with ERRNO: text`.
pub fn errors_of_comment(comment: &str) -> Errors {
    let mut errors = Errors::new();
    let (mut current, mut in_list) = (Vec::new(), false);
    let words: Vec<&str> = comment.split(' ').collect();
    for (place, word) in words.iter().enumerate() {
        let code = word.trim_end_matches([',', ':', '.', ';', ')']);
        if is_code(code) {
            let ends_well = word.ends_with([',', ':']) || words.get(place + 1) == Some(&"with");
            assert!(ends_well, "what is said of {word}? {comment}");
            if !in_list {
                current.clear();
            }
            in_list = word.ends_with(',');
            current.push(code.to_owned());
            errors.entry(code.to_owned()).or_default();
            continue;
        }
        in_list = false;
        for code in &current {
            let text = errors.get_mut(code).unwrap();
            text.push_str(word);
            text.push(' ');
        }
    }
    errors
}

/// The text after the words, up to the position at which a function's name is expected.
pub fn names_after<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(words).map(|(place, words)| {
        let rest = &text[place + words.len()..];
        tokens(rest).first().copied().unwrap_or_default()
    })
}

/// Other functions whose errors, as the comment says, this function returns, too.
pub fn errors_are_those_of(comment: &str) -> Vec<String> {
    let mut others: Vec<&str> = Vec::new();
    others.extend(names_after(comment, "errors of "));
    others.extend(names_after(comment, "those of "));
    others.extend(names_after(comment, "Errors: as for "));
    if comment.contains("does, with the same errors") {
        others.extend(names_after(comment, ", as "));
    }
    // A function that calls another function with certain arguments.
    let typed = comment.split_once(" with the type ").map(|(first, _)| first);
    others.extend(typed.filter(|first| !first.contains(' ')));
    others.into_iter().map(str::to_owned).collect()
}

/// The codes that the function returns according to the header, each with its description.
pub fn errors_of_header(name: &str, functions: &BTreeMap<String, Function>) -> Errors {
    let comment = &functions[name].comment;
    let mut errors = errors_of_comment(comment);
    for (code, text) in &mut errors {
        let others: Vec<&str> =
            names_after(text, "as for ").filter(|other| functions.contains_key(*other)).collect();
        let of_other = |other: &&str| {
            let description = errors_of_header(other, functions).remove(code);
            description.unwrap_or_else(|| panic!("{name}: {code} as for {other}, which does not return it"))
        };
        let more: String = others.iter().map(of_other).collect();
        text.push_str(&more);
    }
    let others = errors_are_those_of(comment);
    for other in others.iter().filter(|other| functions.contains_key(*other)) {
        for (code, text) in errors_of_header(other, functions) {
            errors.entry(code).or_default().push_str(&text);
        }
    }
    errors
}

/// Values of errno.
pub fn errnos(text: &str) -> BTreeSet<&str> {
    let is_errno = |token: &&str| {
        token.len() > 3
            && token.starts_with('E')
            && token.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    tokens(text).into_iter().filter(is_errno).collect()
}
