#!/bin/sh
# Runs the examples against a libipc that is installed into a temporary directory: `make demo` calls it.
#
# It removes all files that it makes. It needs the C compiler, make and the files that make has built. Its
# exit status is 0 if server, client and `ipc` have printed and done what is expected.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$source/target}
server=
stage=
rundir=

# The flags of the make that called this script must not reach the make that it calls.
unset MAKEFLAGS MFLAGS MAKELEVEL

clean_up () {
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || :
    fi
    rm -rf "$stage" "$rundir"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step () {
    printf '\n== %s\n' "$*"
}

fail () {
    printf 'demo: FAILED: %s\n' "$*" >&2
    if [ -s "$stage/pongd.log" ]; then
        sed 's/^/  pongd| /' "$stage/pongd.log" >&2
    fi
    exit 1
}

# Waits until a condition holds, for at most ten seconds.
until_true () {
    what=$1
    shift
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || fail "timeout: waited for $what"
        sleep 0.1
    done
}

listening () {
    kill -0 "$server" 2>/dev/null || fail "the server has ended early"
    [ -S "$socket" ] && grep -q '^listening' "$stage/pongd.log"
}

removed () {
    [ ! -e "$socket" ]
}

# Runs a program, and shows its output after its name.
run () { # name, program, arguments
    name=$1
    program=$2
    shift 2
    timeout 30 "$program" "$@" > "$stage/$name.log" || fail "$name $* has failed"
    sed "s/^/  $(printf '%-4s' "$name") | /" "$stage/$name.log"
}

# Runs the client with the arguments, and checks its output; it inherits standard input.
client () {
    expected=$1
    shift
    run pong "$stage/pong" "$@"
    [ "$(cat "$stage/pong.log")" = "$expected" ] || fail "pong $* has printed something else than $expected"
}

# Runs the tool with the arguments, and checks that a line of its output begins with what is expected.
tool () {
    expected=$1
    shift
    run ipc "$stage/bin/ipc" "$@"
    grep -q "^$expected" "$stage/ipc.log" || fail "ipc $* has printed no line $expected"
}

mkdir -p "$target"
target=$(cd "$target" && pwd)
stage=$(mktemp -d "$target/demo.XXXXXX")
rundir=$(mktemp -d)

step "Installing into a staging directory"
make -C "$source" --no-print-directory install DESTDIR= PREFIX="$stage" LIBDIR="$stage/lib" \
    INCLUDEDIR="$stage/include" BINDIR="$stage/bin" MANDIR="$stage/share/man" BASHCOMPLETIONDIR="$stage/share/bash" \
    ZSHCOMPLETIONDIR="$stage/share/zsh" FISHCOMPLETIONDIR="$stage/share/fish" LDCONFIG= > "$stage/install.log" || {
    cat "$stage/install.log"
    fail "make install"
}
(cd "$stage" && find . ! -type d ! -name install.log | sort | sed 's/^\./  /')

step "Compiling the examples"
if command -v pkg-config > /dev/null; then
    PKG_CONFIG_PATH=$stage/lib/pkgconfig make -C "$source/examples-c" --no-print-directory BUILD="$stage"
else
    echo "There is no pkg-config here: these are the flags of libipc.pc."
    make -C "$source/examples-c" --no-print-directory BUILD="$stage" \
        LIBIPC_CFLAGS="-I$stage/include" LIBIPC_LIBS="-L$stage/lib -lipc"
fi

export IPC_RUNDIR="$rundir"
export LD_LIBRARY_PATH="$stage/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
socket=$rundir/pongd-0-0

step "Starting the server"
"$stage/pongd" > "$stage/pongd.log" 2>&1 &
server=$!
until_true "the server's socket" listening
ls -l "$socket"

step "One message: pong"
client hello

step "A line, a message: printf 'one\\ntwo\\nthree\\n' | pong -i"
lines=$(printf 'one\ntwo\nthree')
printf '%s\n' "$lines" > "$stage/input"
client "$lines" -i < "$stage/input"

step "The services here: ipc list"
tool pongd list

step "A message from the shell: ipc send -w 1 pongd 'from a shell'"
tool 'from a shell' send -w 1 pongd 'from a shell'

step "What the client and the server send each other: ipc monitor pongd -- pong"
tool '.* 5 *hello$' monitor pongd -- "$stage/pong"
[ "$(grep -c ' hello$' "$stage/ipc.log")" -eq 2 ] || fail "ipc monitor has not seen both messages"

step "Stopping the server with SIGTERM; its output:"
kill -TERM "$server"
until_true "the server to remove its socket" removed
status=0
wait "$server" || status=$?
server=
sed 's/^/  pongd| /' "$stage/pongd.log"
[ "$status" -eq 0 ] || fail "the server has ended with status $status"
[ "$(grep -c '^MESSAGE' "$stage/pongd.log")" -eq 6 ] || fail "the server has not seen six messages"
[ "$(tail -n 1 "$stage/pongd.log")" = ended ] || fail "the server has not ended as it should"

step "Good: every message was answered, the server has ended with status 0 and removed its socket"
