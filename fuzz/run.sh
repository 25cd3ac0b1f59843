#!/usr/bin/env bash
# Runs each fuzz target, or those that are named as arguments, for FUZZ_SECONDS: one after the other, or all at once
# with FUZZ_PARALLEL=1. Builds, new inputs and findings go to FUZZ_OUTPUT; the corpora that are checked in do not
# change. At the end it prints a line for each target.
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

# The length of the longest input in bytes, for targets for which 300 is too small.
declare -A longest=([routes]=3000)

if ! "$cargo" "+$toolchain" --version > /dev/null 2>&1; then
    echo "SKIPPED: fuzzing: there is no $toolchain compiler (rustup toolchain install $toolchain)"
    exit 0
fi
if ! "$cargo" "+$toolchain" fuzz --version > /dev/null 2>&1; then
    echo "SKIPPED: fuzzing: there is no cargo-fuzz (cargo install cargo-fuzz --locked)"
    exit 0
fi

# The targets bind thousands of sockets: in memory, if possible.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    export TMPDIR=/dev/shm
fi
export CARGO_TARGET_DIR="$output/build"

# Prints the number after a name in the statistics at the end of a run.
statistic () {
    sed -n "s/^stat::$2: *\([0-9]*\).*/\1/p" "$1" | tail -n 1
}

# Prints the number after a name in a line of progress: edges are "cov", features "ft".
column () {
    local value
    value=$(sed -n "s/.* $2: \([0-9]*\) .*/\1/p" <<< "$1")
    echo "${value:--}"
}

# Runs one target; its output goes to its log, its results to its line of the table.
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
    # An input that is only slow is kept, but is no finding.
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
