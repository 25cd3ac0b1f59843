//! The manual pages say what the headers say: which functions there are, how they are called, and with which
//! codes they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod staging;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use staging::{answer, has, root, run, skipped, text_of};

/// The headers. Each function that one of them declares has a page in section 3 and a place in libipc(7).
const HEADERS: [&str; 2] = ["include/ipc.h", "include/ipc_ext.h"];

/// The sections of a page. All but EXAMPLES are on each.
const SECTIONS: [&str; 8] =
    ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "NOTES", "EXAMPLES", "SEE ALSO"];

const MANUAL: &str = "libipc.7.md";

/// Codes and what is said of each.
type Errors = BTreeMap<String, String>;

struct Function {
    header: &'static str,
    /// The declaration, its tokens with one space between them.
    prototype: String,
    /// The comment before it, as one line.
    comment: String,
}

impl Function {
    fn returns_a_code(&self) -> bool {
        self.prototype.starts_with("enum ipc_errors ")
    }
}

/// Identifiers and single other characters.
fn tokens(text: &str) -> Vec<&str> {
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

/// The code of a text of C without its comments, and for each comment where in the code it stood.
fn without_comments(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut code, mut comments) = (String::new(), Vec::new());
    for (place, part) in text.split("/*").enumerate() {
        if place == 0 {
            code.push_str(part);
            continue;
        }
        let (comment, behind) = part.split_once("*/").expect("the end of a comment");
        let words = comment.lines().flat_map(|line| line.trim().trim_start_matches('*').split_whitespace());
        comments.push((code.len(), words.collect::<Vec<_>>().join(" ")));
        code.push_str(behind);
    }
    (code, comments)
}

/// The lines of the preprocessor, and what a C++ compiler alone sees, made empty.
fn without_preprocessor(code: &str) -> String {
    let mut continued = false;
    let mut kept = String::new();
    for line in code.split_inclusive('\n') {
        let of_preprocessor = continued || line.starts_with('#');
        continued = of_preprocessor && line.trim_end().ends_with('\\');
        let line_code = line.split("//").next().unwrap().trim_end();
        if of_preprocessor || line_code == "extern \"C\" {" || line_code == "}" {
            // The places of the comments stay what they are.
            kept.extend(std::iter::repeat_n(' ', line.len()));
        } else {
            kept.push_str(line);
        }
    }
    kept
}

/// The declarations, each with its place; what is behind the last one comes last.
fn declarations(code: &str) -> Vec<(usize, &str)> {
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

/// The name and the tokens of a declaration, if it is one of a function.
fn prototype(declaration: &str) -> Option<(String, String)> {
    if declaration.contains('{') {
        return None;
    }
    let (before, behind) = declaration.split_once('(')?;
    let parameters = behind.rsplit_once(')').unwrap_or_else(|| panic!("no end: {declaration}")).0;
    let name = (*tokens(before).last()?).to_owned();
    Some((name, tokens(&format!("{before}({parameters})")).join(" ")))
}

/// The functions that the headers declare.
fn functions() -> BTreeMap<String, Function> {
    let mut functions = BTreeMap::new();
    for header in HEADERS {
        let (code, comments) = without_comments(&text_of(header));
        let code = without_preprocessor(&code);
        for (place, declaration) in declarations(&code) {
            let begin = place + declaration.len() - declaration.trim_start().len();
            if let Some((name, prototype)) = prototype(declaration) {
                // One comment may be that of several functions.
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
fn codes() -> BTreeMap<String, usize> {
    let (code, _) = without_comments(&text_of(HEADERS[0]));
    let (_, behind) = code.split_once("enum ipc_errors {").expect("enum ipc_errors");
    let (body, _) = behind.split_once('}').unwrap();
    let entries = body.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let codes: BTreeMap<_, _> = entries
        .map(|entry| entry.split_once(" = ").expect("a code with its number"))
        .map(|(code, number)| (code.to_owned(), number.parse().unwrap()))
        .collect();
    assert_eq!(codes.len(), 60);
    codes
}

fn is_code(token: &str) -> bool {
    token.starts_with("IPC_ERROR_") && token != "IPC_ERROR_NONE"
}

/// What the comment itself tells of codes: `CODE, CODE: text CODE with ERRNO: text`.
fn errors_of_comment(comment: &str) -> Errors {
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

/// What the words are, up to the place where a function's name is expected.
fn names_after<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(words).map(|(place, words)| {
        let behind = &text[place + words.len()..];
        tokens(behind).first().copied().unwrap_or_default()
    })
}

/// Functions whose errors the comment says are its own function's, too.
fn errors_are_those_of(comment: &str) -> Vec<String> {
    let mut others: Vec<&str> = Vec::new();
    others.extend(names_after(comment, "errors of "));
    others.extend(names_after(comment, "those of "));
    others.extend(names_after(comment, "Errors: as for "));
    if comment.contains("does, with the same errors") {
        others.extend(names_after(comment, ", as "));
    }
    // A function that is another one with something given.
    if let Some((first, _)) = comment.split_once(" with the type ")
        && !first.contains(' ')
    {
        others.push(first);
    }
    others.into_iter().map(str::to_owned).collect()
}

/// The codes that the header says the function returns, and what it says of each.
fn errors_of_header(name: &str, functions: &BTreeMap<String, Function>) -> Errors {
    let comment = &functions[name].comment;
    let mut errors = errors_of_comment(comment);
    for (code, text) in &mut errors {
        let others: Vec<&str> =
            names_after(text, "as for ").filter(|other| functions.contains_key(*other)).collect();
        let of_other = |other: &&str| {
            let told = errors_of_header(other, functions).remove(code);
            told.unwrap_or_else(|| panic!("{name}: {code} as for {other}, which does not return it"))
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
fn errnos(text: &str) -> BTreeSet<&str> {
    let is_errno = |token: &&str| {
        token.len() > 3
            && token.starts_with('E')
            && token.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    tokens(text).into_iter().filter(is_errno).collect()
}

/// A source of a manual page: its sections, in order.
struct Page {
    file: String,
    sections: Vec<(String, String)>,
}

impl Page {
    fn read(file: &str) -> Self {
        let text = text_of(file);
        let mut sections: Vec<(String, String)> = Vec::new();
        let mut in_code = false;
        for line in text.lines() {
            in_code ^= line.starts_with("```");
            if let Some(heading) = line.strip_prefix("# ")
                && !in_code
            {
                sections.push((heading.to_owned(), String::new()));
            } else if let Some((_, section)) = sections.last_mut() {
                section.push_str(line);
                section.push('\n');
            }
        }
        Self { file: file.to_owned(), sections }
    }

    fn section(&self, heading: &str) -> &str {
        let found = self.sections.iter().find(|(other, _)| other == heading);
        &found.unwrap_or_else(|| panic!("{}: no section {heading}", self.file)).1
    }

    /// The functions that it is about; the first is the page's own name.
    fn names(&self) -> Vec<String> {
        let text = self.section("NAME").split_whitespace().collect::<Vec<_>>().join(" ");
        let (names, _) =
            text.split_once(" - ").unwrap_or_else(|| panic!("{}: NAME has no \" - \"", self.file));
        names.split(", ").map(str::to_owned).collect()
    }

    /// The blocks of C in SYNOPSIS.
    fn synopsis(&self) -> String {
        let parts = self.section("SYNOPSIS").split("```c\n").skip(1);
        parts.map(|part| part.split_once("```").unwrap().0).collect()
    }

    /// The functions of the prototypes in SYNOPSIS. Beside them there may be macros of the header.
    fn prototypes(&self) -> BTreeMap<String, String> {
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

    /// What ERRORS tells of the codes, for each function of NAME. What stands before the first subsection is
    /// said of all that return a code.
    fn errors(&self, functions: &BTreeMap<String, Function>) -> BTreeMap<String, Errors> {
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
fn pages() -> Vec<Page> {
    let folder = fs::read_dir(root().join("man")).unwrap();
    let mut files: Vec<String> = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".3.md"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| Page::read(&format!("man/{file}"))).collect()
}

/// The pages as they are installed: a file for each function.
fn installed_pages() -> Vec<String> {
    let folder = fs::read_dir(root().join("man")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".3").map(str::to_owned)).collect();
    names.sort();
    names
}

/// What is in one of the two only.
fn differences<'a>(
    one: impl IntoIterator<Item = &'a String>,
    other: impl IntoIterator<Item = &'a String>,
) -> Vec<&'a String> {
    let [one, other]: [BTreeSet<_>; 2] = [one.into_iter().collect(), other.into_iter().collect()];
    one.symmetric_difference(&other).copied().collect()
}

#[test]
fn every_function_has_a_page() {
    let declared: Vec<String> = functions().into_keys().collect();
    let named: Vec<String> = pages().iter().flat_map(Page::names).collect();
    let different = differences(&named, &declared);
    assert!(different.is_empty(), "either declared, or in NAME of a page: {different:?}");
    assert_eq!(named.len(), declared.len(), "a function is in NAME of two pages");
    let installed = installed_pages();
    let different = differences(&installed, &declared);
    assert!(
        different.is_empty(),
        "pages in man/ too many or too few: {different:?}; mend them with: make man"
    );
    for page in pages() {
        let own = page.file.strip_prefix("man/").unwrap().strip_suffix(".3.md").unwrap();
        assert_eq!(page.names()[0], own, "{}: the first name", page.file);
        for name in &page.names()[1..] {
            let link = text_of(format!("man/{name}.3"));
            assert_eq!(link, format!(".so man3/{own}.3\n"), "man/{name}.3; mend it with: make man");
        }
    }
}

#[test]
fn the_sections_of_the_pages_are_the_usual_ones() {
    for page in pages() {
        let headings: Vec<&str> = page.sections.iter().map(|(heading, _)| heading.as_str()).collect();
        let expected: Vec<&str> = SECTIONS
            .into_iter()
            .filter(|section| *section != "EXAMPLES" || headings.contains(section))
            .collect();
        assert_eq!(headings, expected, "{}", page.file);
    }
}

#[test]
fn the_prototypes_are_those_of_the_headers() {
    let functions = functions();
    let check = |page: &Page, name: &str, prototype: &str| {
        let declared = functions.get(name).unwrap_or_else(|| panic!("{}: {name} is not declared", page.file));
        assert_eq!(prototype, declared.prototype, "{}: SYNOPSIS, and {}", page.file, declared.header);
    };
    for page in pages() {
        let prototypes = page.prototypes();
        let names: BTreeSet<String> = page.names().into_iter().collect();
        assert_eq!(
            prototypes.keys().cloned().collect::<BTreeSet<_>>(),
            names,
            "{}: SYNOPSIS, NAME",
            page.file
        );
        for (name, prototype) in &prototypes {
            check(&page, name, prototype);
            let include = format!("#include <{}>", functions[name].header.strip_prefix("include/").unwrap());
            assert!(page.synopsis().lines().any(|line| line == include), "{}: no {include}", page.file);
        }
    }
    let manual = Page::read(MANUAL);
    let prototypes = manual.prototypes();
    prototypes.iter().for_each(|(name, prototype)| check(&manual, name, prototype));
    let missing = differences(prototypes.keys(), functions.keys());
    assert!(missing.is_empty(), "{MANUAL}: SYNOPSIS has no {missing:?}");
}

#[test]
fn the_codes_are_those_that_exist() {
    let (functions, codes) = (functions(), codes());
    for (name, function) in &functions {
        for code in errors_of_comment(&function.comment).keys() {
            assert!(codes.contains_key(code), "{}: {name}: there is no {code}", function.header);
        }
    }
    for page in pages() {
        for token in page.sections.iter().flat_map(|(_, text)| tokens(text)).filter(|token| is_code(token)) {
            assert!(codes.contains_key(token), "{}: there is no {token}", page.file);
        }
    }
}

#[test]
fn the_codes_of_a_function_are_those_that_the_header_names() {
    let functions = functions();
    for page in pages() {
        for (name, told) in page.errors(&functions) {
            let expected = errors_of_header(&name, &functions);
            let function = &functions[&name];
            assert_eq!(
                function.returns_a_code(),
                !expected.is_empty(),
                "{}: {name}: errors?",
                function.header
            );
            let different = differences(told.keys(), expected.keys());
            assert!(
                different.is_empty(),
                "{}: {name}: either in ERRORS, or in {}: {different:?}",
                page.file,
                function.header
            );
            for (code, text) in expected {
                let missing: Vec<_> = errnos(&text).difference(&errnos(&told[&code])).copied().collect();
                assert!(missing.is_empty(), "{}: {name}: {code} without {missing:?}", page.file);
            }
        }
    }
}

/// ERRORS of libipc(7) goes by codes: each is there, with its number, in order, and with all functions that
/// return it.
#[test]
fn the_manual_names_the_functions_of_each_code() {
    let (functions, manual) = (functions(), Page::read(MANUAL));
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in manual.section("ERRORS").lines() {
        if line.starts_with("`IPC_ERROR_") {
            entries.push((line.to_owned(), String::new()));
        } else if let Some((_, text)) = entries.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    let mut numbered: Vec<(String, usize)> = codes().into_iter().collect();
    numbered.sort_by_key(|(_, number)| *number);
    let terms: Vec<&String> = entries.iter().map(|(term, _)| term).collect();
    let expected: Vec<String> =
        numbered.iter().map(|(code, number)| format!("`{code}` ({number})")).collect();
    assert_eq!(terms, expected.iter().collect::<Vec<_>>(), "{MANUAL}");

    // Success, and what any function returns that needs memory.
    let of_all = ["IPC_ERROR_NONE", "IPC_ERROR_NOT_ENOUGH_MEMORY"];
    for ((_, text), (code, _)) in
        entries.iter().zip(&numbered).filter(|(_, (code, _))| !of_all.contains(&code.as_str()))
    {
        let words = text.split('`').skip(1).step_by(2);
        let told: BTreeSet<&str> = words.filter(|word| functions.contains_key(*word)).collect();
        let expected: BTreeSet<&str> = functions
            .keys()
            .map(String::as_str)
            .filter(|name| errors_of_header(name, &functions).contains_key(code))
            .collect();
        assert_eq!(told, expected, "{MANUAL}: functions that return {code}");
    }
}

/// Where a page says "see X in libipc(7)" there is an X, and where it names a page of ours there is one.
#[test]
fn references_lead_somewhere() {
    let (pages, manual) = (pages(), Page::read(MANUAL));
    let installed = installed_pages();
    let headings: Vec<&str> = manual.sections.iter().map(|(heading, _)| heading.as_str()).collect();
    for page in pages.iter().chain([&manual]) {
        let text = page.sections.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ");
        let words: Vec<&str> = text.split_whitespace().collect();
        for (place, word) in words.iter().enumerate() {
            let word = word.trim_end_matches([',', '.', ';', ':', ')', '`']).trim_start_matches(['(', '`']);
            if let Some(name) = word.strip_suffix("(3")
                && ["ipc_", "usock_", "log_", "service_"].iter().any(|ours| name.starts_with(ours))
            {
                assert!(installed.iter().any(|page| page == name), "{}: there is no {name}(3)", page.file);
            }
            if word == "libipc(7" && place > 0 && ["in", "of"].contains(&words[place - 1]) {
                let is_heading = |word: &&&str| word.chars().all(|c| c.is_ascii_uppercase() || c == ',');
                let mut heading: Vec<&str> =
                    words[..place - 1].iter().rev().take_while(is_heading).copied().collect();
                heading.reverse();
                let heading = heading.join(" ");
                assert!(headings.contains(&heading.as_str()), "{}: {MANUAL} has no {heading:?}", page.file);
            }
        }
        let name = page.file.trim_start_matches("man/").trim_end_matches(".3.md");
        let others = if page.file == MANUAL {
            pages.iter().map(|page| page.names().remove(0)).collect()
        } else {
            vec![]
        };
        for other in others {
            assert!(
                page.section("SEE ALSO").contains(&format!("{other}(3)")),
                "{name}: SEE ALSO has no {other}(3)"
            );
        }
    }
}

/// What a reader sees, for whom the pages are installed in a folder.
fn folder_of_pages() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for section in ["man3", "man7"] {
        fs::create_dir(folder.path().join(section)).unwrap();
    }
    let copy = |from: &Path, section: &str| {
        fs::copy(from, folder.path().join(section).join(from.file_name().unwrap())).unwrap();
    };
    for name in installed_pages() {
        copy(&root().join(format!("man/{name}.3")), "man3");
    }
    copy(&root().join("man/libipc.7"), "man7");
    folder
}

/// There are several programs with that name; this is the one that has the options used here.
fn has_man_db() -> bool {
    has("man")
        && Command::new("man")
            .arg("--version")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("man 2"))
}

#[test]
fn man_shows_the_pages_of_all_functions_within_80_columns_and_without_a_warning() {
    if !has_man_db() {
        return skipped("how the manual pages look", "man (of man-db)");
    }
    let folder = folder_of_pages();
    let names = installed_pages().into_iter().map(|name| ("3", name));
    for (section, name) in names.chain([("7", "libipc".to_owned())]) {
        let mut man = Command::new("man");
        man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").env_remove("MANPAGER").env_remove("PAGER");
        man.args(["--warnings=w", "-M"]).arg(folder.path()).args([section, &name]);
        let output = run(&mut man);
        let (shown, warnings) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
        assert_eq!(String::from_utf8_lossy(&warnings), "", "man {section} {name}");
        let mut text = shown.lines().skip_while(|line| *line != "NAME").skip(1);
        let head: String = text.by_ref().take_while(|line| !line.is_empty()).collect();
        assert!(head.contains(&name), "man {section} {name} shows: {shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "man {section} {name}: over 80 columns: {line}");
        }
    }
}

#[test]
fn mandoc_has_nothing_to_say_of_the_pages() {
    if !has("mandoc") {
        return skipped("what mandoc says of the manual pages", "mandoc");
    }
    let mut mandoc = Command::new("mandoc");
    mandoc.current_dir(root()).args(["-T", "lint", "man/libipc.7"]);
    for page in pages() {
        mandoc.arg(page.file.trim_end_matches(".md"));
    }
    let output = mandoc.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(output.status.success(), "{}", output.status);
}

/// Programs that index pages find each function under its own name.
#[test]
fn the_index_of_manual_pages_has_every_function() {
    if !has("lexgrog") {
        return skipped("what the index of manual pages will have", "lexgrog (of man-db)");
    }
    for page in pages() {
        let told = answer(Command::new("lexgrog").arg(root().join(page.file.trim_end_matches(".md"))));
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told.len(), page.names().len(), "{}: {told:?}", page.file);
        for (line, name) in told.iter().zip(page.names()) {
            assert!(line.contains(&format!(": \"{name} - ")), "{line}");
        }
    }
}
