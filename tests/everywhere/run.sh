#!/usr/bin/env bash
# Builds the library for other machines and for musl, and runs the C tests and the examples there, in an emulator if need be.
#
#   run.sh [TARGET...]      names of targets.tsv or Rust's names; without any, all of them
#
# For each target: `make CARGO_BUILD_TARGET=...`, then the tests of the installed library that compile C programs, which run on
# this machine and start each C program for the other one. The last lines are a table. A target whose compiler, Rust library or
# emulator is missing is reported as "SKIPPED:" with the package to install. The status is 1 if anything has failed.
#
# Variables: CARGO; EVERYWHERE_OUTPUT, the directory for the logs; EVERYWHERE_TESTS, instead of all tests that can run.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

here=tests/everywhere
cargo=${CARGO:-cargo}
output=${EVERYWHERE_OUTPUT:-$PWD/target/everywhere}
read -ra modules <<< "${EVERYWHERE_TESTS:-c_programs static_programs examples:: examples_ext examples_services examples_transfers}"
mkdir -p "$output"
# The installed tests make the library anew if a flag of the calling make comes between.
unset MAKEFLAGS MFLAGS MAKELEVEL CARGO_BUILD_TARGET CC AR OBJCOPY STRIP LDFLAGS

table=()
status=0

row () {
    table+=("$(printf '%s\t%s\t%s\t%s' "$@")")
}

skipped () {
    echo "SKIPPED: $1: $2"
}

# Whether a C program with the shared C library runs here, with this command before it.
runs () {
    "$@" "$output/hello" > "$output/hello.out" 2> /dev/null && [ "$(cat "$output/hello.out")" = hello ]
}

one_target () {
    local name=$1 target=$2 prefix=$3 package=$4 emulator=$5 linkage=$6
    local log=$output/$name.log compiler=$prefix-gcc flags='' linker_flags='' runner='' left_out=() skip=() built variable nm

    echo "== $name ($target)"
    if ! command -v "$compiler" > /dev/null; then
        skipped "$name" "there is no $compiler: apt-get install $package"
        row "$name" SKIPPED - "all: no $compiler, apt-get install $package"
        return
    fi
    if [ ! -d "$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/$target/lib" ]; then
        skipped "$name" "Rust has no library for $target: rustup target add $target, or Debian's libstd-rust-dev:ARCHITECTURE"
        row "$name" SKIPPED - "all: rustup target add $target"
        return
    fi

    # What links libgcc_eh of a system with glibc to musl needs a function of glibc.
    case $target in
    *-musl)
        if ! "$compiler" -O2 -Wall -Wextra -fPIC -c "$here/dl_find_object.c" -o "$output/dl_find_object.o"; then
            row "$name" FAILED - "all"
            status=1
            return
        fi
        linker_flags=$output/dl_find_object.o
        flags=" $linker_flags"
        [ "$linkage" = shared ] || flags=" -static$flags"
        ;;
    esac

    printf '#include <stdio.h>\nint main (void)\n{\n\tputs ("hello");\n\treturn 0;\n}\n' > "$output/hello.c"
    # shellcheck disable=SC2086 # options
    if ! "$compiler" $flags "$output/hello.c" -o "$output/hello" 2> "$log"; then
        tail -n 3 "$log"
        skipped "$name" "$compiler makes no program, for lack of a C library: apt-get install --install-recommends $package"
        row "$name" SKIPPED - "all: no C library, apt-get install --install-recommends $package"
        return
    fi

    variable=$(echo "CARGO_TARGET_${target}_RUSTFLAGS" | tr a-z- A-Z_)
    local environment=("CARGO_BUILD_TARGET=$target" "LDFLAGS=$linker_flags")
    # The program `ipc` would need libgcc_s, which only a system of musl has. It is built with the static C library.
    [ "$linkage" != shared ] || environment+=("WITHOUT_TOOL=1")
    [ "$linkage" = both ] || environment+=("$variable=-C target-feature=$([ "$linkage" = shared ] && echo - || echo +)crt-static")

    if ! env "${environment[@]}" make --no-print-directory all CARGO="$cargo" > "$log" 2>&1; then
        tail -n 20 "$log"
        row "$name" FAILED - "all: see $log"
        status=1
        return
    fi
    built='libipc.so, libipc.a'

    if ! runs env; then
        runner="$emulator -L /usr/$prefix"
        # shellcheck disable=SC2086 # words
        if ! command -v "$emulator" > /dev/null || ! runs $runner; then
            skipped "$name: its tests" "this machine does not run its programs: apt-get install qemu-user"
            row "$name" "$built" - "all: apt-get install qemu-user"
            return
        fi
        # An emulator is slow, and a test ends only a program that hangs.
        flags+=' -DLIMIT_SECONDS=600'
    fi

    # That of gcc asks no plugin but gcc's.
    nm=$prefix-gcc-nm
    command -v "$nm" > /dev/null || nm=nm
    left_out+=("C++" valgrind sanitizers)
    [ "$linkage" != shared ] || left_out+=("the program ipc")
    skip+=(--skip _in_valgrind --skip ::in_valgrind --skip _with_sanitizers --skip ::with_sanitizers --skip sanitizers_report_planted_errors
        --skip _in_all_standards --skip every_c_program_has_a_test --skip old_names_are_hidden)
    while IFS=$'\t' read -r where test reason; do
        case $where in
        emulator) [ -n "$runner" ] || continue ;;
        "$name" | "$linkage") ;;
        *) continue ;;
        esac
        skip+=(--skip "$test")
        left_out+=("$test ($reason)")
    done < <(grep -v '^#' "$here/left_out.tsv")

    if env -u CARGO_BUILD_TARGET -u LDFLAGS "${environment[@]:2}" LIBIPC_TEST_TARGET="$target" LIBIPC_TEST_CC="$compiler$flags" \
        LIBIPC_TEST_NM="$nm" LIBIPC_TEST_RUNNER="$runner" "$cargo" test --locked --test installed -- "${modules[@]}" "${skip[@]}" >> "$log" 2>&1; then
        row "$name" "$built" "$(passed "$log")${runner:+, $emulator}" "$(join "${left_out[@]}")"
    else
        grep -E '^test .*FAILED|panicked at|^error' "$log"
        echo "FAILED: $name: see $log"
        row "$name" "$built" "FAILED: $(passed "$log")${runner:+, $emulator}" "$(join "${left_out[@]}")"
        status=1
    fi
}

# "30 of 30", of the last line of the tests.
passed () {
    sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$1" | tail -n 1 |
        { read -r good bad && echo "$good of $((good + bad))"; }
}

join () {
    local text
    text=$(printf '%s, ' "$@")
    echo "${text%, }"
}

unknown=("$@")
while IFS=$'\t' read -r name target rest; do
    wanted=$([ $# -eq 0 ] && echo 1)
    for word in "$@"; do
        if [ "$word" = "$name" ] || [ "$word" = "$target" ]; then
            wanted=1
            for i in "${!unknown[@]}"; do
                [ "${unknown[$i]}" != "$word" ] || unset "unknown[$i]"
            done
        fi
    done
    [ -z "$wanted" ] && continue
    IFS=$'\t' read -r prefix package emulator linkage <<< "$rest"
    one_target "$name" "$target" "$prefix" "$package" "$emulator" "$linkage" < /dev/null
done < <(grep -v '^#' "$here/targets.tsv")

for word in "${unknown[@]}"; do
    skipped "$word" "not one of $here/targets.tsv: what can be run for it is not known"
    row "$word" - - "all: not in $here/targets.tsv"
done

echo
{ printf 'target\tbuilds\ttests run\tleft out\n'; printf '%s\n' "${table[@]}"; } |
    awk -F '\t' '{ printf "%-13s%-21s%-27s%s\n", $1, $2, $3, $4 }'
exit "$status"
