//! The content of the sources of the manual pages: their sections, their functions, and the codes of each
//! function.

use std::collections::BTreeMap;
use std::fs;

use super::header::{
    Errors, Function, HEADERS, declarations, prototype, tokens, without_comments, without_preprocessor,
};
use crate::staging::{root, text_of};

/// A source of a manual page: its sections, in order.
pub struct Page {
    pub file: String,
    pub sections: Vec<(String, String)>,
}

impl Page {
    pub fn read(file: &str) -> Self {
        let text = text_of(file);
        let mut sections: Vec<(String, String)> = Vec::new();
        let mut in_code = false;
        for line in text.lines() {
            in_code ^= line.starts_with("```");
            if let Some(heading) = line.strip_prefix("# ").filter(|_| !in_code) {
                sections.push((heading.to_owned(), String::new()));
            } else if let Some((_, section)) = sections.last_mut() {
                section.push_str(line);
                section.push('\n');
            }
        }
        Self { file: file.to_owned(), sections }
    }

    pub fn section(&self, heading: &str) -> &str {
        let found = self.sections.iter().find(|(other, _)| other == heading);
        &found.unwrap_or_else(|| panic!("{}: no section {heading}", self.file)).1
    }

    /// The functions of the page; the first is the page's own name.
    pub fn names(&self) -> Vec<String> {
        let text = self.section("NAME").split_whitespace().collect::<Vec<_>>().join(" ");
        let (names, _) =
            text.split_once(" - ").unwrap_or_else(|| panic!("{}: NAME has no \" - \"", self.file));
        names.split(", ").map(str::to_owned).collect()
    }

    /// The blocks of C in SYNOPSIS.
    pub fn synopsis(&self) -> String {
        let parts = self.section("SYNOPSIS").split("```c\n").skip(1);
        parts.map(|part| part.split_once("```").unwrap().0).collect()
    }

    /// The functions of the prototypes in SYNOPSIS. SYNOPSIS may also show macros of the header.
    pub fn prototypes(&self) -> BTreeMap<String, String> {
        let (code, _) = without_comments(&self.synopsis());
        let code = without_preprocessor(&code);
        let mut declarations = declarations(&code);
        let (_, macros) = declarations.pop().unwrap();
        for line in macros.lines().filter(|line| !line.is_empty()) {
            let name = tokens(line)[0];
            let defined = |header: &&str| text_of(header).contains(&format!("#define {name}"));
            assert!(
                HEADERS.iter().any(defined),
                "{}: {line}: no macro, and no end of a prototype",
                self.file
            );
        }
        declarations.into_iter().filter_map(|(_, declaration)| prototype(declaration)).collect()
    }

    /// The codes in ERRORS, for each function of NAME. Text before the first subsection applies to all
    /// functions that return the code.
    pub fn errors(&self, functions: &BTreeMap<String, Function>) -> BTreeMap<String, Errors> {
        let names = self.names();
        let mut errors: BTreeMap<String, Errors> =
            names.iter().map(|name| (name.clone(), Errors::new())).collect();
        let mut about: Vec<String> =
            names.iter().filter(|name| functions[*name].returns_a_code()).cloned().collect();
        let mut current = None;
        for line in self.section("ERRORS").lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                about = heading.split(", ").map(str::to_owned).collect();
                current = None;
            } else if let Some(code) = line.strip_prefix('`').filter(|term| term.starts_with("IPC_ERROR_")) {
                let code = code
                    .strip_suffix('`')
                    .unwrap_or_else(|| panic!("{}: one code a line: {line}", self.file));
                for name in &about {
                    let of_function = errors
                        .get_mut(name)
                        .unwrap_or_else(|| panic!("{}: {name} is not in NAME", self.file));
                    let before = of_function.insert(code.to_owned(), String::new());
                    assert!(before.is_none(), "{}: {code} twice for {name}", self.file);
                }
                current = Some(code.to_owned());
            } else if let Some(code) = &current {
                for name in &about {
                    let text = errors.get_mut(name).unwrap().get_mut(code).unwrap();
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        errors
    }
}

/// The pages of section 3.
pub fn pages() -> Vec<Page> {
    let dir = fs::read_dir(root().join("man")).unwrap();
    let mut files: Vec<String> = dir
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".3.md"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| Page::read(&format!("man/{file}"))).collect()
}

/// The installed pages: a file for each function.
pub fn installed_pages() -> Vec<String> {
    let dir = fs::read_dir(root().join("man")).unwrap();
    let names = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".3").map(str::to_owned)).collect();
    names.sort();
    names
}
