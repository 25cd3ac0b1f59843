#!/bin/sh
# Writes man/libipc.7 anew from libipc.7.md with pandoc: `make man` calls it.
#
# With --check it compares instead. That the page is of the source as it is now takes no tool: the page holds
# the source's checksum. That nobody has edited the page itself takes the pandoc that made it.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -eu
cd "$(dirname "$0")"

pandoc=${PANDOC:-pandoc}
sum=$(cksum < ../libipc.7.md)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version () {
    "$pandoc" --version 2>/dev/null | sed -n '1s/.* //p'
}

# The page, written to the file.
make_page () {
    "$pandoc" --standalone --from=markdown+mmd_title_block-smart --to=man --metadata title=LIBIPC \
        --output="$work/pandoc.7" ../libipc.7.md

    # Pandoc's output, made to what every reader of manual pages understands: bold in place of the fonts of
    # fixed width, which not all have; code in the page's own font, and not indented further; no identifier
    # is hyphenated.
    awk -v mark="Made of libipc.7.md (cksum $sum) by \"make man\" with pandoc $(version); do not edit." '
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
            print
        }
    ' "$work/pandoc.7" > "$1"
}

if [ "${1:-}" != --check ]; then
    make_page "$work/libipc.7"
    cat "$work/libipc.7" > libipc.7
    if command -v mandoc > /dev/null; then
        mandoc -T lint -W warning libipc.7
    fi
    exit 0
fi

stale () {
    echo "man/libipc.7 is not what libipc.7.md says; mend it with: make man" >&2
    exit 1
}

grep -qF "(cksum $sum)" libipc.7 || stale
used=$(sed -n 's/.* with pandoc \(.*\); do not edit\.$/\1/p' libipc.7)
if [ "$(version)" = "$used" ]; then
    make_page "$work/libipc.7"
    cmp -s "$work/libipc.7" libipc.7 || stale
else
    echo "SKIPPED: whether man/libipc.7 was edited by hand: that takes pandoc $used"
fi
