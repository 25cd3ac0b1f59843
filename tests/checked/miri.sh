#!/usr/bin/env bash
# Runs the unit tests that make no system call in Miri: Miri interprets the program, reports each access to
# memory that Rust's rules forbid, and has no services, no sendmsg(2) with descriptors and no file system.
#
# The others need a real descriptor or path: received_fds, endpoint, descriptor_leaves_with_first_byte...
# of send_queue, and rundir_is_made_when_... of service::path. Arguments are the tests to run instead of these.
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
    path::tests::index_and_version_are_printed_signed
    path::tests::default_path_has_two_slashes
    path::tests::path_is_refused_when_it_exceeds_path_max
    write::
    header::
)

if ! "$cargo" "+$toolchain" miri --version > /dev/null 2>&1; then
    echo "SKIPPED: the unit tests in Miri: the $toolchain compiler has none (rustup component add miri rust-src --toolchain $toolchain)"
    exit 0
fi
MIRIFLAGS="${MIRIFLAGS:--Zmiri-strict-provenance}" "$cargo" "+$toolchain" miri test --locked --lib -- "${tests[@]}"
