#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS, one after the other, or those that are named as arguments. What is
# built, the new inputs and the findings go to FUZZ_OUTPUT; the corpora that are checked in stay as they are.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
cd "$(dirname "$0")"

cargo=${CARGO:-cargo}
seconds=${FUZZ_SECONDS:-600}
output=${FUZZ_OUTPUT:-$PWD/../target/fuzz}
toolchain=${FUZZ_TOOLCHAIN:-nightly}
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(frames formats peers)

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

"$cargo" "+$toolchain" fuzz build --fuzz-dir .
summary=""
failed=0
for target in "${targets[@]}"; do
    corpus="$output/corpus/$target" log="$output/$target.log"
    mkdir -p "$corpus" "$output/findings"
    known=("corpus/$target")
    [ ! -d "regressions/$target" ] || known+=("regressions/$target")
    echo "$target: $seconds s, see $log"
    result=0
    "$cargo" "+$toolchain" fuzz run --fuzz-dir . "$target" "$corpus" "${known[@]}" -- \
        -artifact_prefix="$output/findings/$target-" -max_total_time="$seconds" \
        -timeout=10 -max_len=300 -print_final_stats=1 > "$log" 2>&1 || result=$?
    findings=$(grep -a -c '^artifact_prefix=.*Test unit written to' "$log" || true)
    if [ "$result" -ne 0 ]; then
        failed=1
        grep -a -A 4 -e ' panicked at ' -e '^==[0-9]*==ERROR' -e 'Test unit written to' "$log" || tail -n 20 "$log"
        echo "Once more, with its steps: FUZZ_TRACE=1 $cargo +$toolchain fuzz run --fuzz-dir fuzz $target INPUT"
    fi
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    summary+=$(printf '%-8s  %10s  %8s  %8s' "$target" "$(statistic "$log" number_of_executed_units)" \
        "${coverage:--}" "$findings")$'\n'
done
printf '%-8s  %10s  %8s  %8s\n%s' target executions edges findings "$summary"
exit "$failed"
