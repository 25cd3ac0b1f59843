#!/bin/sh
# Makes the libraries for C programs, libipc.so and libipc.a, from the archive that cargo has made. The
# archive holds the library, its crates and Rust's standard library.
#
#   link.sh ARCHIVE DIRECTORY SONAME
#
# Both export the names in exports.txt and exports_ext.txt, and no other name is visible: a static program may
# define functions of any other name, and link another library that is written in Rust. A static program may
# also define the names that ipc.h does not declare, and log_*: these names are weak in the static library.
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

# One object with all that the exported functions need. Its sections are taken out of their groups: any two
# libraries written in Rust have groups of the same name, of which the linker would keep only one, although
# its symbols are local to one library. The linker removes no section here (--gc-sections): for riscv64, GNU
# ld 2.40 removes parts of .eh_frame and leaves their relocations, and a thread that is cancelled then ends
# the program.
# shellcheck disable=SC2046 # options, one for each name
${CC:-cc} -r -nostdlib -Wl,--force-group-allocation $(sed 's/^/-Wl,-u,/' "$work/exports") -o "$work/whole.o" "$archive"

# Symbols are made local before the shared library is linked, too: a function that the C compiler adds
# (__x86.get_pc_thunk.bx on i386) is also in the files that it links to every library, and must not be defined
# twice.
${OBJCOPY:-objcopy} --keep-global-symbols="$work/exports" "$work/whole.o" "$work/local.o"

# shellcheck disable=SC2086 # these are options
${CC:-cc} -shared ${LDFLAGS:-} -Wl,-soname,"$soname" -Wl,--version-script="$work/map" -Wl,--gc-sections \
    -Wl,-z,relro,-z,now,-z,defs -o "$work/libipc.so" "$work/local.o"

${OBJCOPY:-objcopy} --weaken-symbols="$work/weak" "$work/local.o" "$work/libipc.o"
${AR:-ar} rcsD "$work/libipc.a" "$work/libipc.o"

chmod 755 "$work/libipc.so"
mv -f "$work/libipc.so" "$work/libipc.a" "$directory"
