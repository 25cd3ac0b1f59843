#!/bin/sh
# Builds and runs all benchmarks, and makes a table and a picture of their figures: `make bench` calls it. README.md
# describes how to read them.
#
# Variables: CARGO_TARGET_DIR (target), LIBIPC_BUILD (its directory with the release library), CC, CARGO, PKG_CONFIG;
# QUICK=1 for a run of seconds. The exit status is nonzero only if something fails; a figure, however bad, is no
# failure.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$source/target}
mkdir -p "$target/bench/lib"
target=$(cd "$target" && pwd)
build=${LIBIPC_BUILD:-$target/release/c}
out=$target/bench
CC=${CC:-cc}
CARGO=${CARGO:-cargo}
PKG_CONFIG=${PKG_CONFIG:-pkg-config}
tab=$(printf '\t')

case ${QUICK:-} in
'' | 0) quick='' rounds=100 slice_ms=10 counted=1000 framing_seconds=0.5 ;;
*) quick=yes rounds=10 slice_ms=5 counted=200 framing_seconds=0.05 ;;
esac

rm -f "$out/results.tsv" "$out/skipped.txt" "$out/framing.txt" "$out/table.txt" "$out/plot.svg"
: > "$out/skipped.txt"

# The directory of the sockets, removed at exit.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say () {
    printf '%s\n' "$*" >&2
}

skip () {
    say "SKIPPED: $*"
    printf 'SKIPPED: %s\n' "$*" >> "$out/skipped.txt"
}

# Runs a command; its "SKIPPED:" lines go to the table, too.
noting_skips () {
    status=0
    "$@" 2> "$TMPDIR/errors" || status=$?
    cat "$TMPDIR/errors" >&2
    grep '^SKIPPED' "$TMPDIR/errors" >> "$out/skipped.txt" || :
    return "$status"
}

# The libraries that are installed, and the flags to compile with them.
peers=
peer_sources=
peer_flags=
peer_libs=

add_peer () { # name, its source, macro, compiler flags, libraries
    peers="$peers, $1"
    peer_sources="$peer_sources $source/benches/$2"
    peer_flags="$peer_flags -D$3 $4"
    peer_libs="$peer_libs $5"
}

find_peer () { # package of pkg-config, package of Debian, its name, its source, macro
    if $PKG_CONFIG --exists "$1" 2> /dev/null; then
        add_peer "$3 $($PKG_CONFIG --modversion "$1")" "$4" "$5" "$($PKG_CONFIG --cflags "$1")" \
            "$($PKG_CONFIG --libs "$1")"
    else
        skip "$3: $PKG_CONFIG does not find $1 (Debian: $2)"
    fi
}

# Debian's nng has no file for pkg-config: compile a test program.
find_nng () {
    if $PKG_CONFIG --exists nng 2> /dev/null; then
        find_peer nng libnng-dev nng nng.c HAVE_NNG
    elif printf '#include <nng/nng.h>\nint main (void) { return nng_strerror (0) == 0; }\n' |
        $CC -x c -o "$TMPDIR/nng" - -lnng 2> /dev/null; then
        add_peer "nng $(printf '#include <nng/nng.h>\nNNG_MAJOR_VERSION NNG_MINOR_VERSION NNG_PATCH_VERSION\n' |
            $CC -E -P - | tail -n 1 | tr ' ' '.')" nng.c HAVE_NNG "" -lnng
    else
        skip "nng: neither $PKG_CONFIG nor $CC finds it (Debian: libnng-dev)"
    fi
}

compile () {
    # A copy, so that a build during the run changes nothing.
    cp "$build/libipc.so" "$out/lib/libipc.so.0"
    ln -sf libipc.so.0 "$out/lib/libipc.so"
    set --
    for name in main bench measure bare full libipc messages connections instructions; do
        set -- "$@" "$source/benches/$name.c"
    done
    # shellcheck disable=SC2086 # these are lists
    $CC -std=c99 -O2 -Wall -Wextra -Wpedantic $peer_flags -I"$source/include" -o "$out/bench" "$@" \
        $peer_sources -L"$out/lib" -Wl,-rpath,"$out/lib" -lipc $peer_libs
}

cpu () {
    {
        lscpu 2> /dev/null | sed -n 's/^Model name: *//p'
        sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo
        uname -m
    } | head -n 1
}

commit () {
    git --no-optional-locks -C "$source" describe --always --dirty --exclude '*' 2> /dev/null
}

machine () {
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/Cargo.toml" | head -n 1)
    printf 'libipc %s' "$version"
    if name=$(commit); then
        printf ' (commit %s)' "$name"
    fi
    printf '; %s, %s cores; Linux %s %s' "$(cpu)" "$(nproc)" "$(uname -r)" "$(uname -m)"
    printf '; load before: %s\n' "$load"
}

# First one core, then two: this is their order in the table.
measure () {
    say "  $1"
    noting_skips "$out/bench" "$1" "$rounds" "$slice_ms" > "$TMPDIR/lines"
    for cores in 1 2; do
        awk -F '\t' -v cores="$cores" '$3 == cores' "$TMPDIR/lines" >> "$out/results.tsv"
    done
}

# The file names the object ("ob="), then each function's own instructions by line; after "calls=" those of a callee.
collected () { # transport, number of messages, pattern of objects whose instructions count, options of callgrind
    transport=$1
    count=$2
    objects=$3
    shift 3
    valgrind --tool=callgrind --callgrind-out-file="$TMPDIR/counts" --compress-strings=no --compress-pos=no "$@" \
        "$out/bench" instructions "$transport" "$count" 2> "$TMPDIR/callgrind" ||
        { cat "$TMPDIR/callgrind" >&2; exit 1; }
    awk -v objects="$objects" '
        /^ob=/ { counts = $0 ~ objects }
        /^calls=/ { of_callee = 1; next }
        /^[0-9]/ { if (counts && !of_callee) sum += $2; of_callee = 0 }
        END { printf "%d", sum }' "$TMPDIR/counts"
}

count_instructions () { # transport, what, how many of it a message has, pattern of objects, options of callgrind
    transport=$1
    what=$2
    each=$3
    objects=$4
    shift 4
    less=$(collected "$transport" 100 "$objects" "$@")
    more=$(collected "$transport" $((100 + counted)) "$objects" "$@")
    printf '%s\n' "instructions${tab}$what${tab}1${tab}$transport${tab}1$tab$(((more - less) / counted / each))${tab}0${tab}0${tab}0${tab}1" \
        >> "$out/results.tsv"
}

instructions () {
    if ! command -v valgrind > /dev/null; then
        skip "instructions of a message: valgrind is not installed"
        return
    fi
    say "  instructions"
    count_instructions libipc "of libipc.so" 1 'libipc\\.so'
    count_instructions bare "round trip" 1 .
    count_instructions libipc "round trip" 1 .
    count_instructions full "round trip" 1 .
    if [ -z "$quick" ]; then
        # A round trip has two writes.
        count_instructions libipc ipc_write 2 . --toggle-collect=ipc_write
        count_instructions libipc ipc_wait_event 1 . --toggle-collect=ipc_wait_event
        count_instructions libipc ipc_read 1 . --toggle-collect=ipc_read
    fi
}

# The size of the file as it is installed: stripped.
size () {
    if ! command -v strip > /dev/null; then
        skip "size of the library: strip is not installed"
        return
    fi
    strip --strip-unneeded -o "$TMPDIR/stripped" "$out/lib/libipc.so.0"
    printf '%s\n' "size${tab}libipc.so${tab}1${tab}libipc${tab}B$tab$(wc -c < "$TMPDIR/stripped")${tab}0${tab}0${tab}0${tab}1" \
        >> "$out/results.tsv"
}

# The framing alone, in Rust. In a directory of its own: it would put a library without link-time optimisation
# where cargo keeps the one to be installed.
framing () {
    say "  framing"
    (cd "$source" && $CARGO bench --quiet --locked --target-dir "$out/cargo" --bench framing -- \
        --max-time "$framing_seconds") > "$out/framing.txt"
}

table () {
    machine
    if [ -n "$peers" ]; then
        printf 'Peers: %s\n' "${peers#, }"
    fi
    awk -v rounds="$rounds" -v slice_ms="$slice_ms" -f "$source/benches/table.awk" \
        "$source/benches/targets.tsv" "$out/results.tsv"
    printf '\nFraming alone, a stream of frames by payload; copying is the baseline.\n'
    cat "$out/framing.txt"
    if [ -s "$out/skipped.txt" ]; then
        printf '\n'
        cat "$out/skipped.txt"
    fi
}

find_peer libzmq libzmq3-dev zeromq zeromq.c HAVE_ZEROMQ
find_peer libqb libqb-dev libqb libqb.c HAVE_LIBQB
find_nng
find_peer libsystemd libsystemd-dev sd-bus sdbus.c HAVE_SD_BUS
# sd-varlink is a public part of libsystemd from version 257 on.
find_peer 'libsystemd >= 257' 'libsystemd-dev, from Debian 13 on' sd-varlink sdvarlink.c HAVE_SD_VARLINK
say "Benchmarks: $rounds rounds of $slice_ms ms; libipc and bare sockets$peers"
compile
load=$(cut -d ' ' -f 1 /proc/loadavg)
for work in round-trip stream clients idle connect memory; do
    measure "$work"
done
instructions
size
framing

table > "$out/table.txt"
awk -v machine="$(machine)" -f "$source/benches/plot.awk" "$source/benches/targets.tsv" "$out/results.tsv" \
    > "$out/plot.svg"
cat "$out/table.txt"
say "In $out: table.txt, plot.svg, results.tsv"
