#!/bin/sh
# Makes the archive of the source, libipc-VERSION.tar.xz, of the commit that is checked out: `make dist` calls it. One
# commit makes the same bytes everywhere; with VENDOR by one version of cargo. The second name of the file,
# libipc_VERSION.orig.tar.xz, is the one that dpkg-buildpackage looks for beside the unpacked source.
#
#   archive.sh VERSION DIRECTORY
#
# Variables: VENDOR, if it is not empty, adds the crates of the library and the tool, so that cargo fetches nothing; those that
# only tests and benchmarks use are left out, and so are the lines of Cargo.toml, tool/Cargo.toml and Cargo.lock that ask for
# them. CARGO (cargo).
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -eu
export LC_ALL=C TZ=UTC0
umask 022

name=libipc-$1
mkdir -p "$2"
archive=$(cd "$2" && pwd)/$name.tar.xz
cd "$(dirname "$0")/.."

# Not that of a repository around it, which knows of this directory as a part of itself.
if ! prefix=$(git rev-parse --show-prefix) || [ -n "$prefix" ]; then
    echo 'make dist: the archive is made of a commit, and this is no repository of git' >&2
    exit 1
fi
if [ -n "$(git status --porcelain)" ]; then
    echo 'make dist: what is not committed is not in the archive' >&2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive --prefix="$name/" HEAD | tar --extract --directory="$work"

# The section of the manifest, and the comment before it.
without_dev_dependencies () {
    awk '
        /^(#|$)/ { held = held $0 "\n"; next }
        /^\[/ { left_out = /dev-dependencies/ }
        { if (! left_out) printf "%s%s\n", held, $0; held = "" }'
}

vendor () {
    mkdir -p "$work/whole/tool" .cargo
    cp Cargo.toml Cargo.lock "$work/whole"
    cp tool/Cargo.toml "$work/whole/tool"
    for manifest in Cargo.toml tool/Cargo.toml; do
        without_dev_dependencies < "$work/whole/$manifest" > "$manifest"
    done
    ${CARGO:-cargo} vendor vendor > .cargo/config.toml
    # cargo takes out of Cargo.lock what nothing asks for any more. It must not have put anything in its place.
    if grep '^checksum' Cargo.lock | grep -v -x -F -f "$work/whole/Cargo.lock"; then
        echo 'make dist: these crates are not those of Cargo.lock' >&2
        exit 1
    fi
}

if [ -n "${VENDOR:-}" ]; then
    (cd "$work/$name" && vendor)
fi

tar --create --directory="$work" --sort=name --format=ustar --owner=root:0 --group=root:0 --mode=u=rwX,go=rX \
    --mtime="@$(git log -1 --format=%ct)" "$name" | xz -9 --threads=1 > "$work/archive"
mv "$work/archive" "$archive"
ln -f "$archive" "${archive%/*}/libipc_$1.orig.tar.xz"
echo "The archive: $archive"
