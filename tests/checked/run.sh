#!/usr/bin/env bash
# Runs the tests that call the library in their own process with a tool that checks every access to memory:
#
#   memcheck  under valgrind: no error, and no block that nothing points to at the end
#   asan      compiled with AddressSanitizer, the library as well, and some programs of tests/c
#   tsan      compiled with ThreadSanitizer, the library and Rust's standard library as well, and
#             tests/c/threads.c
#
# Further arguments are the tests to run instead of all: messages for the module tests/core/messages.rs,
# threads.c for tests/c/threads.c, ipc for the unit tests, event_loop_scarce for tests/event_loop_scarce.rs.
# left_out.tsv has the tests that a tool cannot run. CHECKED_OUTPUT is the directory for builds and reports,
# CHECKED_TOOLCHAIN the compiler that has the sanitizers.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/../.."

tool=${1:-}
[ "$#" -eq 0 ] || shift
cargo=${CARGO:-cargo}
toolchain=${CHECKED_TOOLCHAIN:-nightly}
output=${CHECKED_OUTPUT:-$PWD/target/checked}
reports=$output/$tool
lists=$PWD/tests/checked

skip () {
    echo "SKIPPED: the tests with $tool: $1"
    exit 0
}

# Multiplies the time limits of tests, which are for programs at full speed.
export LIBIPC_TEST_PATIENCE=20
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:allow_addr2line=1:allocator_may_return_null=1
export LSAN_OPTIONS=suppressions=$lists/leaks.supp:print_suppressions=0
# In some tests a process with threads forks. Handlers may use the heap when libipc(7) allows them to call the
# library.
export TSAN_OPTIONS=suppressions=$lists/threads.supp:print_suppressions=0:die_after_fork=0:report_signal_unsafe=0:allow_addr2line=1:allocator_may_return_null=1

# The begin of a report of the tools.
is_report='^==[0-9]*== .*\(Invalid \|ninitialised\|definitely lost\|indirectly lost\)\|\(ERROR\|WARNING\): [A-Z][a-z]*Sanitizer: '

# Whether the name is a module of tests/core, and not a test program.
is_module () {
    [ -e "tests/core/$1.rs" ] || [ -e "tests/core/$1/mod.rs" ]
}

# Runs a command under the tool, for the test of this name, and prints the result.
watched () {
    local name=$1 log=$reports/$1.log result=0
    shift
    SECONDS=0
    "$@" > "$log" 2>&1 || result=$?
    # A child process of a test may report an error although the test succeeds.
    if [ "$result" = 0 ] && grep -a -q "$is_report" "$log"; then
        result=report
    fi
    printf '%-24s %4d s  %s\n' "$name" "$SECONDS" "$(sed -n 's/^test result: \(.*\); 0 ignored.*/\1/p' "$log" | head -n 1)"
    if [ "$result" != 0 ]; then
        grep -a -e '^test .* FAILED$' -e ' panicked at ' -e ' has not ended ' "$log" || true
        grep -a -m 3 -A 40 "$is_report" "$log" || true
        echo "FAILED: $name, $result, see $log"
        return 1
    fi
}

# Runs one test program, or one module of tests/core: its name, and the path of the program.
test_program () {
    local name=$1 program=$2 under=() path test
    local -A left_out=()
    local -a paths=()
    while read -r test; do
        left_out[$test]=1
    done < <(sed -n "s/^$tool\t$name\t\([^\t]*\)\t.*/\1/p" "$lists/left_out.tsv")
    while read -r path; do
        [ -n "${left_out[${path##*::}]:-}" ] || paths+=("$path")
    done < <("$program" --list --format terse 2> /dev/null | sed -n 's/: test$//p' | if is_module "$name"; then grep "^$name::"; else cat; fi)
    if [ "${#paths[@]}" -eq 0 ] && [ "${#left_out[@]}" -gt 0 ]; then
        echo "$name: all its tests are left out"
        return
    elif [ "${#paths[@]}" -eq 0 ]; then
        echo "FAILED: $name: there is no test"
        return 1
    fi
    if [ "$tool" = memcheck ]; then
        # --fair-sched: a thread that computes does not keep the others waiting. Children of a test run
        # without valgrind: many are killed, or count their own blocks.
        under=(valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect
            --errors-for-leak-kinds=definite,indirect --num-callers=40 --fair-sched=try --trace-children=no
            "--suppressions=$lists/memcheck.supp")
    fi
    if [ "$name" != ipc ] && [ "${#under[@]}" -gt 0 ]; then
        # The process of each test runs under the tool.
        LIBIPC_TEST_UNDER=$(printf '%s\n' "${under[@]}")
        export LIBIPC_TEST_UNDER
        under=()
    fi
    watched "$name" "${under[@]}" "$program" --test-threads=1 --exact "${paths[@]}"
}

# One program of tests/c, with the library that was built for the tool.
c_program () {
    local name=$1 run=$reports/$1.run
    cc -std=c99 -g -Wall -Wextra -Wpedantic -Werror -pthread "${sanitizer[@]}" -Iinclude -c "tests/c/$name" \
        -o "$reports/$name.o" || return 1
    cc -pthread "$reports/$name.o" -o "$reports/$name.program" -L"$libraries" -lipc "${runtime[@]}" || return 1
    ln -sf "$libraries/libipc.so" "$reports/libipc.so.0"
    rm -rf "$run"
    mkdir "$run"
    IPC_RUNDIR=$run LD_LIBRARY_PATH=$reports watched "$name" "$reports/$name.program"
}

if [ "${1:-}" = --one ]; then
    test_program "$2" "$3"
    exit
fi

build=("$cargo")
flags=(--locked)
in_c=()
case $tool in
memcheck)
    command -v valgrind > /dev/null || skip "there is no valgrind here"
    ;;
asan | tsan)
    "$cargo" "+$toolchain" --version > /dev/null 2>&1 ||
        skip "there is no $toolchain compiler (rustup toolchain install $toolchain)"
    host=$(rustc "+$toolchain" -vV | sed -n 's/^host: //p')
    build+=("+$toolchain")
    flags+=(--target "$host")
    export CARGO_TARGET_DIR=$output/build-$tool
    libraries=$CARGO_TARGET_DIR/$host/debug
    if [ "$tool" = asan ]; then
        export RUSTFLAGS=-Zsanitizer=address
        sanitizer=(-fsanitize=address,undefined -fno-sanitize-recover=all)
        runtime=("${sanitizer[@]}")
        in_c=(messages.c errors.c crowd.c exchange.c threads.c)
    else
        export RUSTFLAGS=-Zsanitizer=thread
        sanitizer=(-fsanitize=thread)
        # The runtime of the Rust compiler: that of the C compiler lacks some functions.
        runtimes=("$(rustc "+$toolchain" --print target-libdir)"/librustc-*_rt.tsan.a)
        runtime=(-rdynamic -Wl,--whole-archive "${runtimes[0]}" -Wl,--no-whole-archive -ldl -lm)
        in_c=(threads.c)
        # The locks are code of the standard library: it must be compiled for the tool, too.
        [ -f "$(rustc "+$toolchain" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] ||
            skip "there is no source of the standard library (rustup component add rust-src --toolchain $toolchain)"
        flags+=(-Zbuild-std)
    fi
    ;;
*)
    echo "usage: $0 memcheck|asan|tsan [TEST]..." >&2
    exit 2
    ;;
esac

# The tests of the arguments, or all that call the library in their own process; other tests run programs and
# tools.
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    names=("${in_c[@]}" ipc)
    mapfile -O "${#names[@]}" -t names < <(
        sed -n 's/^mod \([a-z_]*\);$/\1/p' tests/core/main.rs | grep -v -x -e child -e support -e targets
        grep -l '^#\[path = "core/support/mod.rs"\]' tests/*.rs | sed 's|.*/||; s|\.rs$||'
    )
fi
tests=()
for name in "${names[@]}"; do
    if [[ $name = *.c ]]; then
        continue
    elif [ "$name" = ipc ]; then
        tests+=(--lib)
    elif is_module "$name"; then
        tests+=(--test core)
    else
        tests+=(--test "$name")
    fi
done

mkdir -p "$reports"
# The tests bind thousands of sockets: in memory, if possible.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
export CHECKED_OUTPUT=$output
if [ "$tool" != memcheck ]; then
    "${build[@]}" build "${flags[@]}" --lib
fi
: > "$reports/build.json"
if [ "${#tests[@]}" -gt 0 ]; then
    "${build[@]}" test "${flags[@]}" --no-run --message-format=json-render-diagnostics "${tests[@]}" \
        > "$reports/build.json"
fi

failed=0
programs=()
for name in "${names[@]}"; do
    if [[ $name = *.c ]]; then
        c_program "$name" || failed=1
    else
        target=$name
        if is_module "$name"; then
            target=core
        fi
        program=$(sed -n "s|.*\"executable\":\"\([^\"]*/$target-[0-9a-f]*\)\".*|\1|p" "$reports/build.json")
        programs+=("$name" "$program")
    fi
done
if [ "${#programs[@]}" -gt 0 ]; then
    printf '%s\n' "${programs[@]}" | xargs -P "$(nproc)" -n 2 "$0" "$tool" --one || failed=1
fi
exit "$failed"
