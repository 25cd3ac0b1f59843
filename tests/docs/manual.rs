//! The manual pages agree with the headers: which functions exist, their prototypes, and their error codes.

mod header;
mod page;
mod rendering;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::staging::{answer, has, root, run, skipped, text_of};
use header::{codes, errnos, errors_of_comment, errors_of_header, functions, is_code, tokens};
use page::{Page, installed_pages, pages};

/// The sections of a page, in order. Each page has all of them, but EXAMPLES is optional.
const SECTIONS: [&str; 8] =
    ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "NOTES", "EXAMPLES", "SEE ALSO"];

const MANUAL: &str = "libipc.7.md";

/// The page of the program `ipc`.
const TOOL: &str = "man/ipc.1.md";

/// The elements that only one of the two has.
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
fn pages_have_the_usual_sections() {
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
fn prototypes_equal_those_of_the_headers() {
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
fn codes_on_the_pages_exist() {
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
fn codes_of_a_function_equal_those_of_the_header() {
    let functions = functions();
    for page in pages() {
        for (name, listed) in page.errors(&functions) {
            let expected = errors_of_header(&name, &functions);
            let function = &functions[&name];
            assert_eq!(
                function.returns_a_code(),
                !expected.is_empty(),
                "{}: {name}: errors?",
                function.header
            );
            let different = differences(listed.keys(), expected.keys());
            assert!(
                different.is_empty(),
                "{}: {name}: either in ERRORS, or in {}: {different:?}",
                page.file,
                function.header
            );
            for (code, text) in expected {
                let missing: Vec<_> = errnos(&text).difference(&errnos(&listed[&code])).copied().collect();
                assert!(missing.is_empty(), "{}: {name}: {code} without {missing:?}", page.file);
            }
        }
    }
}

/// ERRORS of libipc(7) is a list of codes: each code is there, with its number, in order, and with all
/// functions that return it.
#[test]
fn manual_names_the_functions_of_each_code() {
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

    // Success, and the codes that any function that needs memory returns.
    let of_all = ["IPC_ERROR_NONE", "IPC_ERROR_NOT_ENOUGH_MEMORY"];
    for ((_, text), (code, _)) in
        entries.iter().zip(&numbered).filter(|(_, (code, _))| !of_all.contains(&code.as_str()))
    {
        let words = text.split('`').skip(1).step_by(2);
        let named: BTreeSet<&str> = words.filter(|word| functions.contains_key(*word)).collect();
        let expected: BTreeSet<&str> = functions
            .keys()
            .map(String::as_str)
            .filter(|name| errors_of_header(name, &functions).contains_key(code))
            .collect();
        assert_eq!(named, expected, "{MANUAL}: functions that return {code}");
    }
}

/// If a page says "see X in libipc(7)", the section X exists, and each page of libipc that it names exists.
#[test]
fn references_have_targets() {
    let (pages, manual) = (pages(), Page::read(MANUAL));
    let installed = installed_pages();
    let headings: Vec<&str> = manual.sections.iter().map(|(heading, _)| heading.as_str()).collect();
    for page in pages.iter().chain([&manual, &Page::read(TOOL)]) {
        let text = page.sections.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ");
        let words: Vec<&str> = text.split_whitespace().collect();
        for (place, word) in words.iter().enumerate() {
            let word = word.trim_end_matches([',', '.', ';', ':', ')', '`']).trim_start_matches(['(', '`']);
            let is_ours = |name: &&str| {
                ["ipc_", "usock_", "log_", "service_"].iter().any(|ours| name.starts_with(ours))
            };
            if let Some(name) = word.strip_suffix("(3").filter(is_ours) {
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

/// A directory in which the pages are installed, as a reader has them.
fn directory_of_pages() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for section in ["man1", "man3", "man7"] {
        fs::create_dir(dir.path().join(section)).unwrap();
    }
    let copy = |from: &Path, section: &str| {
        fs::copy(from, dir.path().join(section).join(from.file_name().unwrap())).unwrap();
    };
    for name in installed_pages() {
        copy(&root().join(format!("man/{name}.3")), "man3");
    }
    copy(&root().join("man/ipc.1"), "man1");
    copy(&root().join("man/libipc.7"), "man7");
    dir
}

/// Several programs have this name; this one has the options that are used here.
fn has_man_db() -> bool {
    has("man")
        && Command::new("man")
            .arg("--version")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("man 2"))
}

#[test]
fn man_shows_all_pages_in_80_columns_without_warnings() {
    if !has_man_db() {
        return skipped("how the manual pages look", "man (of man-db)");
    }
    let dir = directory_of_pages();
    let names = installed_pages().into_iter().map(|name| ("3", name));
    for (section, name) in names.chain([("1", "ipc".to_owned()), ("7", "libipc".to_owned())]) {
        let mut man = Command::new("man");
        man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").env_remove("MANPAGER").env_remove("PAGER");
        man.args(["--warnings=w", "-M"]).arg(dir.path()).args([section, &name]);
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
fn mandoc_reports_nothing_for_the_pages() {
    if !has("mandoc") {
        return skipped("what mandoc says of the manual pages", "mandoc");
    }
    let mut mandoc = Command::new("mandoc");
    mandoc.current_dir(root()).args(["-T", "lint", "man/ipc.1", "man/libipc.7"]);
    for page in pages() {
        mandoc.arg(page.file.trim_end_matches(".md"));
    }
    let output = mandoc.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(output.status.success(), "{}", output.status);
}

/// Programs that index pages find each function, and the program, under its own name.
#[test]
fn index_of_manual_pages_has_every_name() {
    if !has("lexgrog") {
        return skipped("what the index of manual pages will have", "lexgrog (of man-db)");
    }
    for page in pages().into_iter().chain([Page::read(TOOL)]) {
        let output = answer(Command::new("lexgrog").arg(root().join(page.file.trim_end_matches(".md"))));
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), page.names().len(), "{}: {lines:?}", page.file);
        for (line, name) in lines.iter().zip(page.names()) {
            assert!(line.contains(&format!(": \"{name} - ")), "{line}");
        }
    }
}
