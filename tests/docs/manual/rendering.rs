//! How groff, man and mandoc show a page, on a narrow, a usual and a wide terminal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::has_man_db;
use super::page::pages;
use crate::staging::{has, root, skipped, text_of};

const NARROW: &str = "40";
const WIDTHS: [&str; 3] = [NARROW, "80", "200"];

#[derive(Clone, Copy, Debug)]
enum Tool {
    Groff,
    Man,
    Mandoc,
}

impl Tool {
    /// The installed tools; each missing tool is reported as skipped.
    fn installed() -> Vec<Self> {
        let tools = [
            (Self::Groff, "groff", has("groff")),
            (Self::Man, "man (of man-db)", has_man_db()),
            (Self::Mandoc, "mandoc", has("mandoc")),
        ];
        for (_, name, _) in tools.iter().filter(|(.., installed)| !installed) {
            skipped(&format!("how {name} shows the manual pages"), name);
        }
        tools.into_iter().filter_map(|(tool, _, installed)| installed.then_some(tool)).collect()
    }

    /// The text as it is shown, without its fonts, and the warnings. On a narrow terminal a name longer than
    /// a line is not an error of the page: warnings about line ends are then ignored.
    fn render(self, page: &Path, width: &str) -> (String, String) {
        let mut command;
        match self {
            Self::Groff => {
                command = Command::new("groff");
                command.args(["-ww", "-man", "-Tutf8", "-P-c"]).arg(format!("-rLL={width}n"));
            }
            Self::Man => {
                command = Command::new("man");
                command.env("MANWIDTH", width).env_remove("MANPAGER").env_remove("PAGER");
                command.args(["--warnings=w", "-l"]);
            }
            Self::Mandoc => {
                command = Command::new("mandoc");
                command.args(["-T", "utf8", "-O"]).arg(format!("width={width}"));
            }
        }
        let output =
            command.env("LC_ALL", "C.UTF-8").env_remove("MAN_KEEP_FORMATTING").arg(page).output().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr);
        let is_of_width = |warning: &&str| warning.contains("break line") || warning.contains("adjust line");
        let warnings = warnings.lines().filter(|warning| width != NARROW || !is_of_width(warning));
        let warnings: Vec<&str> = warnings.collect();
        (without_fonts(&String::from_utf8(output.stdout).unwrap()), warnings.join("\n"))
    }
}

/// A bold letter is the letter, a backspace and the letter again.
fn without_fonts(shown: &str) -> String {
    let mut text = String::new();
    for character in shown.chars() {
        if character == '\u{8}' {
            text.pop();
        } else {
            text.push(character);
        }
    }
    text
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().map(|word| word.trim_matches(['(', ')', ',', ';', ':', '.', '"', '*']))
}

/// A name anywhere in a text: `ipc_read`, `/run/ipc`, `connect(2)`, `SIGPIPE`, `libipc`.
fn is_name(word: &str) -> bool {
    let starts_well = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_upper = || word.chars().all(|c| c.is_ascii_uppercase());
    starts_well && (word.contains(['_', '/', '(']) || is_upper() || word == "libipc")
}

/// The parts of a source that each renderer must keep.
struct Source {
    /// The lines of code.
    code: Vec<String>,
    /// The names in its paragraphs, and how often each occurs.
    names: BTreeMap<String, usize>,
}

impl Source {
    fn read(source: &str) -> Self {
        let body = source.split_once("\n# ").unwrap().1;
        let (mut text, mut code, mut in_code) = (String::new(), Vec::new(), false);
        for line in body.lines() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if in_code {
                code.push(line.trim().to_owned());
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        code.retain(|line| !line.is_empty());
        // Names are in code, or look like a name. `connect` in code is a name; the plain word is not, and may
        // occur more often.
        let mut names = BTreeMap::new();
        for (place, part) in text.split('`').enumerate() {
            for word in words(part).filter(|word| word.len() > 3 && (place % 2 == 1 || is_name(word))) {
                *names.entry(word.to_owned()).or_default() += 1;
            }
        }
        Self { code, names }
    }
}

/// How often the name occurs, as a word or at the begin of a word, before a character that is not part of a
/// name.
fn count(text: &str, name: &str) -> usize {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    words(text).filter(|word| word.strip_prefix(name).is_some_and(ends)).count()
}

/// The errors of the page as the tool shows it.
fn faults(tool: Tool, page: &Path, source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let code = source.code.join("\n");
    for width in WIDTHS {
        let (shown, warnings) = tool.render(page, width);
        let mut fault = |what: String| faults.push(format!("{} at width {width}: {what}", page.display()));
        if !warnings.is_empty() {
            fault(format!("warned: {warnings}"));
        }
        let lines: Vec<&str> = shown.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // The title may take two lines on a narrow terminal.
        if width != NARROW && lines.get(1) != Some(&"NAME") {
            fault(format!("NAME is not first: {:?}", lines.get(1)));
        }
        for line in source.code.iter().filter(|line| !lines.contains(&line.as_str())) {
            fault(format!("no line of code: {line}"));
        }
        for (name, in_text) in &source.names {
            let expected = in_text + count(&code, name);
            let found = count(&shown, name);
            if found < expected {
                fault(format!("{name} is whole {found} times of {expected}"));
            }
        }
    }
    faults
}

/// Names and code with a character that a reader cannot copy: groff without Debian's changes shows `-` as
/// U+2010, a quote as U+2019 and so on.
fn characters_that_change(page: &str) -> Vec<String> {
    let (mut found, mut in_code) = (Vec::new(), false);
    for line in page.lines() {
        match line {
            ".nf" => in_code = true,
            ".fi" => in_code = false,
            _ if in_code => found.extend(has_bare(line).then(|| line.to_owned())),
            _ if line.starts_with(".\\\"") || line.starts_with(".TH ") => {}
            _ => {
                let names = line.split(' ').filter(|word| word.starts_with("\\%"));
                found.extend(names.filter(|word| has_bare(word)).map(str::to_owned));
            }
        }
    }
    found
}

fn has_bare(text: &str) -> bool {
    let rest = text.replace("\\-", "");
    rest.contains(['-', '\'', '`', '^', '~'])
}

fn files() -> impl Iterator<Item = (String, Source)> {
    let functions = pages().into_iter().map(|page| page.file);
    functions.chain([super::TOOL.to_owned(), super::MANUAL.to_owned()]).map(|file| {
        let page = file.trim_start_matches("man/").trim_end_matches(".md");
        (format!("man/{page}"), Source::read(&text_of(&file)))
    })
}

#[test]
fn pages_are_shown_whole_at_every_width() {
    for tool in Tool::installed() {
        for (page, source) in files() {
            let faults = faults(tool, &root().join(page), &source);
            assert!(faults.is_empty(), "{}", faults.join("\n"));
        }
    }
}

#[test]
fn names_and_code_of_pages_can_be_copied() {
    for (page, _) in files() {
        let found = characters_that_change(&text_of(&page));
        assert!(found.is_empty(), "{page}: {found:?}");
    }
}

/// Each kind of error, planted in a page, is found by the tests above, each for its own reason.
#[test]
fn faults_planted_in_a_page_are_found() {
    let (source, page) = (Source::read(&text_of("man/ipc_read.3.md")), text_of("man/ipc_read.3"));
    let planted = [
        ("is whole", page.replace("\\%", "")),
        ("is whole", page.replace("ipc_message_read", "ipc_mes-\n.br\nsage_read")),
        ("no line of code", page.replace("\n.nf\n", "\n").replace("\n.fi\n", "\n")),
        ("no line of code", page.replace("p\\->fd", "p\\[en]>fd")),
        ("NAME is not first", page.replacen(".SH NAME", "Text.\n.SH NAME", 1)),
        ("warned", page.replacen(".SH NAME", ".NoSuchMacro\n.SH NAME", 1)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ipc_read.3");
    let tools = Tool::installed();
    for (place, (reason, broken)) in planted.iter().enumerate() {
        assert_ne!(*broken, page, "fault {place}");
        fs::write(&file, broken).unwrap();
        for tool in &tools {
            // mandoc does not hyphenate, and warns only with -T lint.
            let is_seen = !matches!((tool, place), (Tool::Mandoc, 0 | 5));
            let found = faults(*tool, &file, &source);
            let is_found = found.iter().any(|fault| fault.contains(reason));
            assert_eq!(is_found, is_seen, "fault {place}, {tool:?}: {reason}: {found:?}");
        }
    }
    assert!(!characters_that_change(&page.replacen("p\\->fd", "p->fd", 1)).is_empty());
    assert!(!characters_that_change(&page.replacen("\\%", "\\%'", 1)).is_empty());
}
