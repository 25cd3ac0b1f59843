#!/bin/sh
# Makes the libraries for C programs, libipc.so and libipc.a, of the archive that cargo has made, which holds the library, its
# crates and Rust's own library.
#
#   link.sh ARCHIVE DIRECTORY SONAME
#
# Both export the names of exports.txt and exports_ext.txt, and nothing else is visible in them: a static program may have
# functions of any other name, and link another library that is made by Rust. Of those names a program may define the ones that
# ipc.h does not declare, and log_*: in the static library they are weak.
#
# Variables: CC (cc), AR (ar), OBJCOPY (objcopy), LDFLAGS; VERBOSE shows the commands.
set -eu
[ -z "${VERBOSE:-}" ] || set -x

names="$(dirname "$0")"
archive=$1
directory=$2
soname=$3
mkdir -p "$directory"
work=$(mktemp -d "$directory/link.XXXXXX")
trap 'rm -rf "$work"' EXIT

cat "$names/exports.txt" "$names/exports_ext.txt" > "$work/exports"
cat "$names/exports_ext.txt" - > "$work/weak" << 'END'
handle_new_connection
ipc_message_print
log_debug
log_error
log_format
log_info
mprint_hexa
print_hexa
END
{
    echo '{ global:'
    sed 's/$/;/' "$work/exports"
    echo 'local: *; };'
} > "$work/map"

# What the exported functions need, in one object. Its sections are in no group any more: of two groups with one name, as any two
# libraries that are made by Rust have, the linker would keep one, and the names in it are ours alone. The linker
# removes nothing here (--gc-sections): for riscv64, GNU ld 2.40 removes parts of .eh_frame and leaves its relocations
# where they were, and a thread that is cancelled then ends the program.
# shellcheck disable=SC2046 # options, one for each name
${CC:-cc} -r -nostdlib -Wl,--force-group-allocation $(sed 's/^/-Wl,-u,/' "$work/exports") -o "$work/whole.o" "$archive"

# Before the shared library, too: what the C compiler brings on its own (__x86.get_pc_thunk.bx on i386) also stands in the files
# that it links to every library, and must not be there twice.
${OBJCOPY:-objcopy} --keep-global-symbols="$work/exports" "$work/whole.o" "$work/local.o"

# shellcheck disable=SC2086 # these are options
${CC:-cc} -shared ${LDFLAGS:-} -Wl,-soname,"$soname" -Wl,--version-script="$work/map" -Wl,--gc-sections \
    -Wl,-z,relro,-z,now,-z,defs -o "$work/libipc.so" "$work/local.o"

${OBJCOPY:-objcopy} --weaken-symbols="$work/weak" "$work/local.o" "$work/libipc.o"
${AR:-ar} rcsD "$work/libipc.a" "$work/libipc.o"

chmod 755 "$work/libipc.so"
mv -f "$work/libipc.so" "$work/libipc.a" "$directory"
