#!/bin/sh
# Writes the manual pages anew from their sources in Markdown with pandoc: `make man` calls it.
#
#   ../libipc.7.md   makes libipc.7
#   ipc.1.md         makes ipc.1
#   NAME.3.md        makes NAME.3, and a page that leads there for each further name in its section NAME
#
# With --check it compares instead. That the pages are of the sources as they are now takes no tool: each page
# holds its source's checksum. To show that the pages themselves were not edited takes one of the versions of pandoc
# that are known to make the same pages: 2.17 (Debian 12), 3.1 (Debian 13) and 3.11.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"

pandoc=${PANDOC:-pandoc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/links" "$work/pages"

sources () {
    printf '%s\n' ../libipc.7.md ./*.1.md ./*.3.md
}

version () {
    "$pandoc" --version 2>/dev/null | sed -n '1s/.* //p'
}

sum () {
    cksum < "$1"
}

# The names that a page has: its own is the first.
names () {
    awk '/^# / { here = $0 == "# NAME"; next } here { text = text " " $0 }
         END { sub(/ - .*/, "", text); gsub(/,/, " ", text); print text }' "$1"
}

# The page of a source, written to a directory.
make_page () {
    page=$(basename "$1" .md)
    title=$(echo "${page%.*}" | tr '[:lower:]' '[:upper:]')
    mark="Made of $page.md (cksum $(sum "$1")) by \"make man\"; do not edit."
    # The blocks without their language: some versions of pandoc highlight it.
    sed 's/^\( *```\)[a-z]*$/\1/' "$1" > "$work/source"
    "$pandoc" --standalone --wrap=none --from=markdown+mmd_title_block-smart --to=man --metadata title="$title" \
        --output="$work/pandoc" "$work/source"

    # Pandoc's output, made to what every reader of manual pages understands, whichever version wrote it: .nf in
    # place of .EX; bold in place of the fonts of fixed width, which not all have; code in the page's own font,
    # and not indented further. The names of other pages are bold. Lines of text are no longer than 80 bytes.
    # \% before each name, as groff 1.24 forgets .nh at the next macro; \- in names and code: a hyphen may end
    # a line, and some readers show another character for it, which cannot be pasted into a shell.
    awk -v mark="$mark" '
        function with_bold_names(text,    before, name) {
            before = ""
            while (match(text, /[a-z_][a-z0-9_-]*\([1-8]\)/)) {
                name = substr(text, RSTART, RLENGTH - 3)
                before = before substr(text, 1, RSTART - 1) "\\f[B]" name "\\f[R]" substr(text, RSTART + length(name), 3)
                text = substr(text, RSTART + RLENGTH)
            }
            return before text
        }
        function with_minus_signs(text) {
            gsub(/-/, "\\-", text)
            return text
        }
        # Words that are set in a font, and those that look like a name: with "_" or "/", main.c, SIGPIPE, libipc, -1.
        function with_whole_names(text, name,    words, count, i, in_font, result) {
            count = split(text, words, " ")
            result = ""
            in_font = 0
            for (i = 1; i <= count; i++) {
                if (in_font || words[i] ~ name)
                    words[i] = "\\%" with_minus_signs(words[i])
                if (match(words[i], /.*\\f\[/))
                    in_font = substr(words[i], RLENGTH + 1, 1) != "R"
                result = result (i > 1 ? " " : "") words[i]
            }
            return result
        }
        function print_text(text,    end) {
            while (length(text) > 80 && ! term && text !~ /^\./) {
                for (end = 80; end > 1; end--)
                    if (substr(text, end - 1, 3) ~ /[^\\] [^.'\'']/)
                        break
                if (end == 1)
                    break
                print substr(text, 1, end - 1)
                text = substr(text, end + 1)
            }
            print text
        }
        {
            gsub(/\\-/, "-")
            while (match($0, /\\\([a-z][a-z]/))
                $0 = substr($0, 1, RSTART - 1) "\\[" substr($0, RSTART + 2, 2) "]" substr($0, RSTART + 4)
            sub(/^\.EX$/, ".nf")
            sub(/^\.EE$/, ".fi")
        }
        FNR == 1 && /^'\''\\"/     { print; next }
        /^\.TH /                   { print ".\\\" " mark; print; print ".ad l"; body = 1; next }
        ! body || $0 == ".hy"      { next }
        code && /^\\f\[[CVR]+\]$/  { next }
        $0 == ".IP"                { before_code = 1; next }
        before_code && $0 != ".nf" { print ".IP" }
        before_code && $0 == ".nf" && ! after_heading { print ".PP" }
                                   { before_code = 0 }
        after_rs && /^[^.]/        { print ".PP" }
        /^\.PP$/ && after_heading  { next }
        $0 == ".nf"                { code = 1 }
        $0 == ".fi"                { code = 0 }
        {
            after_name = $0 == ".SH NAME" || after_name && $0 !~ /^\.SH/
            after_heading = /^\.S[HS]/
            after_rs = $0 == ".RS"
            gsub(/\\f\[[CV]R?\]/, "\\f[B]")
            gsub(/\\f\[[CV]B\]/, "\\f[B]")
            gsub(/\\f\[[CV]I\]/, "\\f[I]")
            if (code)
                print with_minus_signs($0)
            else if (/^\.S[HS]/)
                print with_whole_names($0, "_")
            else if (/^\./)
                print
            else {
                if (after_name)
                    sub(/ - /, " \\- ")
                print_text(with_whole_names(with_bold_names($0),
                    "\\\\f\\[|^-|[_/]|[a-z0-9][.][a-z]|[A-Z][A-Z][A-Z]|[a-z][0-9]|^libipc"))
            }
            term = $0 == ".TP"
        }
    ' "$work/pandoc" > "$2/$page"
}

make_pages () {
    for source in $(sources); do
        make_page "$source" "$work/pages"
    done
}

make_links () {
    for source in ./*.3.md; do
        page=$(basename "$source" .md)
        for name in $(names "$source"); do
            [ "$name.3" = "$page" ] || echo ".so man3/$page" > "$work/links/$name.3"
        done
    done
}

# Pages of functions that nothing makes any more.
left_over () {
    for page in *.3; do
        [ -e "$page.md" ] || [ -e "$work/links/$page" ] || [ ! -e "$page" ] || echo "$page"
    done
}

make_links
if [ "${1:-}" != --check ]; then
    make_pages
    for page in "$work"/pages/* "$work"/links/*; do
        cat "$page" > "$(basename "$page")"
    done
    for page in $(left_over); do
        rm "$page"
    done
    if command -v mandoc > /dev/null; then
        mandoc -T lint $(cd "$work/pages" && echo *)
    fi
    exit 0
fi

stale () {
    echo "man/$1 is not what its source says; mend it with: make man" >&2
    exit 1
}

for source in $(sources); do
    page=$(basename "$source" .md)
    grep -qsF "(cksum $(sum "$source"))" "$page" || stale "$page"
done
for page in "$work"/links/*; do
    cmp -s "$page" "$(basename "$page")" || stale "$(basename "$page")"
done
for page in $(left_over); do
    stale "$page"
done
case $(version) in
2.17.* | 3.1.* | 3.11 | 3.11.*)
    make_pages
    for page in "$work"/pages/*; do
        cmp -s "$page" "$(basename "$page")" || stale "$(basename "$page")"
    done
    ;;
*)
    echo "SKIPPED: whether a page in man/ was edited by hand: that takes pandoc 2.17, 3.1 or 3.11"
    ;;
esac
