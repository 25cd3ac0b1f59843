#!/usr/bin/env bash
# Runs the unit tests that make no system call in Miri: Miri interprets the program, reports each access to
# memory that Rust's rules forbid, and has no services, no sendmsg(2) with descriptors and no file system.
#
# Other tests need a real descriptor or path: received_fds, endpoint, some of send_queue, and
# the_last_directory_is_made... of service::path. Arguments are the tests to run instead of these.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
toolchain=${CHECKED_TOOLCHAIN:-nightly}
export CARGO_TARGET_DIR=${CHECKED_OUTPUT:-$PWD/target/checked}/build-miri
tests=("$@")
[ "${#tests[@]}" -gt 0 ] || tests=(
    c_heap::
    entry_guard::
    frame_decoder::
    send_queue::tests::queue_sends_in_order_and_refuses_whole_frames
    path::tests::numbers_are_printed_signed
    path::tests::the_default_has_two_slashes
    path::tests::the_longest_path_and_one_byte_more
    write::
    header::
)

if ! "$cargo" "+$toolchain" miri --version > /dev/null 2>&1; then
    echo "SKIPPED: the unit tests in Miri: the $toolchain compiler has none (rustup component add miri rust-src --toolchain $toolchain)"
    exit 0
fi
MIRIFLAGS="${MIRIFLAGS:--Zmiri-strict-provenance}" "$cargo" "+$toolchain" miri test --locked --lib -- "${tests[@]}"
