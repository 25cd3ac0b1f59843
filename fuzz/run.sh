#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS, or those that are named as arguments: one after the other, or with
# FUZZ_PARALLEL=1 all at once. What is built, the new inputs and the findings go to FUZZ_OUTPUT; the corpora that
# are checked in stay as they are. At the end stands a line for each target.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
cd "$(dirname "$0")"

cargo=${CARGO:-cargo}
seconds=${FUZZ_SECONDS:-600}
output=${FUZZ_OUTPUT:-$PWD/../target/fuzz}
toolchain=${FUZZ_TOOLCHAIN:-nightly}
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(frames formats routes peers)

# Bytes of the longest input, where 300 are too few.
declare -A longest=([routes]=3000)

if ! "$cargo" "+$toolchain" --version > /dev/null 2>&1; then
    echo "SKIPPED: fuzzing: there is no $toolchain compiler (rustup toolchain install $toolchain)"
    exit 0
fi
if ! "$cargo" "+$toolchain" fuzz --version > /dev/null 2>&1; then
    echo "SKIPPED: fuzzing: there is no cargo-fuzz (cargo install cargo-fuzz --locked)"
    exit 0
fi

# Sockets are bound by the thousand: in memory, where that can be had.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
export CARGO_TARGET_DIR="$output/build"

# Prints the number behind a name in the statistics at the end of a run.
statistic () {
    sed -n "s/^stat::$2: *\([0-9]*\).*/\1/p" "$1" | tail -n 1
}

# Prints the number behind a name in a line of progress: edges are "cov", features "ft".
column () {
    local value
    value=$(sed -n "s/.* $2: \([0-9]*\) .*/\1/p" <<< "$1")
    echo "${value:--}"
}

# One target: what it does goes to its log, what it has done to its line of the table.
run_target () {
    local target=$1 corpus="$output/corpus/$1" log="$output/$1.log" begin=$SECONDS result=0 findings progress
    local known=("corpus/$target")
    [ ! -d "regressions/$target" ] || known+=("regressions/$target")
    mkdir -p "$corpus" "$output/findings"
    rm -f "$output/$target.line"
    echo "$target: $seconds s, see $log"
    "$cargo" "+$toolchain" fuzz run --fuzz-dir . "$target" "$corpus" "${known[@]}" -- \
        -artifact_prefix="$output/findings/$target-" -max_total_time="$seconds" \
        -timeout=60 -max_len="${longest[$target]:-300}" -entropic_scale_per_exec_time=1 -print_final_stats=1 > "$log" 2>&1 || result=$?
    # An input that is only slow is kept, and is none.
    findings=$(grep -a '^artifact_prefix=.*Test unit written to' "$log" | grep -a -v -c -e '-slow-unit-' || true)
    if [ "$result" -ne 0 ]; then
        grep -a -A 4 -e ' panicked at ' -e '^==[0-9]*==ERROR' -e 'Test unit written to' "$log" || tail -n 20 "$log"
        echo "Once more, with its steps: FUZZ_TRACE=1 $cargo +$toolchain fuzz run --fuzz-dir fuzz $target INPUT"
    fi
    progress=$(grep -a ' cov: ' "$log" | tail -n 1 || true)
    # shellcheck disable=SC2059 # the format is that of the head of the table
    printf "$row" "$target" $((SECONDS - begin)) "$(statistic "$log" number_of_executed_units)" \
        "$(column "$progress" cov)" "$(column "$progress" ft)" "$findings" > "$output/$target.line"
    return "$result"
}

row='%-8s  %7s  %10s  %8s  %8s  %8s\n'
"$cargo" "+$toolchain" fuzz build --fuzz-dir .
failed=0
runs=()
for target in "${targets[@]}"; do
    if [ -n "${FUZZ_PARALLEL:-}" ]; then
        run_target "$target" &
        runs+=($!)
    else
        run_target "$target" || failed=1
    fi
done
for run in ${runs[@]+"${runs[@]}"}; do
    wait "$run" || failed=1
done
# shellcheck disable=SC2059
printf "$row" target seconds executions edges features findings
for target in "${targets[@]}"; do
    cat "$output/$target.line"
done
exit "$failed"
