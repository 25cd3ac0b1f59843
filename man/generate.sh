#!/bin/sh
# Writes the manual pages anew from their sources in Markdown with pandoc: `make man` calls it.
#
#   ../libipc.7.md   makes libipc.7
#   NAME.3.md        makes NAME.3, and a page that leads there for each further name in its section NAME
#
# With --check it compares instead. That the pages are of the sources as they are now takes no tool: each page
# holds its source's checksum. That nobody has edited the pages themselves takes the pandoc that made them.
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
    printf '%s\n' ../libipc.7.md ./*.3.md
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

# The page of a source, written to a folder.
make_page () {
    page=$(basename "$1" .md)
    title=$(echo "${page%.*}" | tr '[:lower:]' '[:upper:]')
    "$pandoc" --standalone --from=markdown+mmd_title_block-smart --to=man --metadata title="$title" \
        --output="$work/pandoc" "$1"
    mark="Made of $page.md (cksum $(sum "$1")) by \"make man\" with pandoc $(version); do not edit."

    # Pandoc's output, made to what every reader of manual pages understands: bold in place of the fonts of
    # fixed width, which not all have; code in the page's own font, and not indented further; no identifier
    # is hyphenated. The names of other pages are bold. Lines of text are no longer than 80 bytes.
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
        FNR == 1 && /^'\''\\"/     { print; next }
        /^\.TH /                   { print ".\\\" " mark; print; print ".nh"; print ".ad l"; body = 1; next }
        ! body || $0 == ".hy"      { next }
        code && /^\\f\[[CVR]+\]$/  { next }
        $0 == ".IP"                { before_code = 1; next }
        before_code && $0 != ".nf" { print ".IP" }
        before_code && $0 == ".nf" && ! after_heading { print ".PP" }
                                   { before_code = 0 }
        /^\.PP$/ && after_heading  { next }
        $0 == ".nf"                { code = 1 }
        $0 == ".fi"                { code = 0 }
        {
            after_heading = /^\.S[HS]/
            gsub(/\\f\[[CV]R?\]/, "\\f[B]")
            gsub(/\\f\[[CV]B\]/, "\\f[B]")
            gsub(/\\f\[[CV]I\]/, "\\f[I]")
            if (code)
                print
            else
                print_text(with_bold_names($0))
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
used=$(sed -n 's/.* with pandoc \(.*\); do not edit\.$/\1/p' libipc.7)
if [ "$(version)" = "$used" ]; then
    make_pages
    for page in "$work"/pages/*; do
        cmp -s "$page" "$(basename "$page")" || stale "$(basename "$page")"
    done
else
    echo "SKIPPED: whether a page in man/ was edited by hand: that takes pandoc $used"
fi
