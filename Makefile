# libipc: build, install, test. `make help` lists the targets.
#
# Variables, for the command line or the environment (`make install DESTDIR=/tmp/pkg PREFIX=/usr`):
#   DESTDIR           put before every path that is installed, for packages; no installed file contains it
#   PREFIX            /usr/local
#   LIBDIR            $(PREFIX)/lib
#   INCLUDEDIR        $(PREFIX)/include
#   BINDIR            $(PREFIX)/bin
#   MANDIR            $(PREFIX)/share/man
#   BASHCOMPLETIONDIR $(PREFIX)/share/bash-completion/completions
#   ZSHCOMPLETIONDIR  $(PREFIX)/share/zsh/site-functions
#   FISHCOMPLETIONDIR $(PREFIX)/share/fish/vendor_completions.d
#   STRIP             strip; empty keeps the symbols of what is installed
#   LDCONFIG          ldconfig, run by root's install without DESTDIR; empty runs none
#   WITHOUT_TOOL      1 builds and installs the libraries alone, without the program ipc
#   V                 1 shows the commands that cargo and the link script run, too
#   CARGO, CARGO_TARGET_DIR, CARGO_BUILD_TARGET, CC, CXX, AR, OBJCOPY, LDFLAGS, INSTALL, PANDOC

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
BASHCOMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPLETIONDIR ?= $(PREFIX)/share/zsh/site-functions
FISHCOMPLETIONDIR ?= $(PREFIX)/share/fish/vendor_completions.d
PKGCONFIGDIR = $(LIBDIR)/pkgconfig
MAN1DIR = $(MANDIR)/man1
MAN3DIR = $(MANDIR)/man3
MAN7DIR = $(MANDIR)/man7

CARGO ?= cargo
INSTALL ?= install
LDCONFIG ?= ldconfig

# For another machine (CARGO_BUILD_TARGET), tools that are not set are those with GNU's and Debian's name for the
# machine (aarch64-linux-gnu-gcc), or without such tools those of this machine. Rust has other names than GNU for
# some processors.
first_found = $(or $(firstword $(foreach tool,$(1),$(if $(shell command -v '$(tool)'),$(tool)))),$(lastword $(1)))
ifneq ($(CARGO_BUILD_TARGET),)
RUST_CPU := $(firstword $(subst -, ,$(CARGO_BUILD_TARGET)))
GNU_CPU := $(if $(filter armv% thumbv%,$(RUST_CPU)),arm,$(RUST_CPU:riscv64%=riscv64))
CROSS := $(patsubst $(RUST_CPU)-%,$(GNU_CPU)-%,$(subst -unknown,,$(CARGO_BUILD_TARGET)))-
ifeq ($(origin CC),default)
CC := $(call first_found,$(CROSS)gcc $(if $(findstring musl,$(CROSS)),musl-gcc) cc)
endif
# gcc's own ar first: ar(1) asks each plugin that is installed, and that of LLVM 14 aborts on ARM's attributes.
ifeq ($(origin AR),default)
AR := $(call first_found,$(CROSS)gcc-ar $(CROSS)ar ar)
endif
LINKER_OF_CARGO := CARGO_TARGET_$(shell echo '$(CARGO_BUILD_TARGET)' | tr a-z- A-Z_)_LINKER
export $(LINKER_OF_CARGO) := $(or $($(LINKER_OF_CARGO)),$(firstword $(CC)))
endif
STRIP ?= $(call first_found,$(CROSS)strip strip)
OBJCOPY ?= $(call first_found,$(CROSS)objcopy objcopy)

# Cargo.toml is where the version is written; the SONAME, in build.rs, has its first number.
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -n 1)
MAJOR := $(word 1,$(subst ., ,$(VERSION)))
MINOR := $(MAJOR).$(word 2,$(subst ., ,$(VERSION)))

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)$(if $(CARGO_BUILD_TARGET),/$(CARGO_BUILD_TARGET))/release
# What is made of cargo's archive: not beside it, since cargo takes what has its name there for its own.
BUILT := $(RELEASE)/c
LIBRARIES := $(BUILT)/libipc.so $(BUILT)/libipc.a
SOURCES := Cargo.toml Cargo.lock build.rs $(shell find src -type f)
WITH_TOOL := $(if $(filter-out 0,$(WITHOUT_TOOL)),,1)
TOOL := $(BUILT)/ipc
TOOL_SOURCES := $(SOURCES) tool/Cargo.toml $(shell find tool/src -type f)

VERBOSE := $(filter-out 0,$(V))

# Before cargo says of an older one that it does not know the edition.
RUST_NEEDED := $(shell sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml)
RUST_FOUND = $$($(CARGO) --version | cut -d ' ' -f 2)
RUST_IS = printf '%s\n' '$(1)' "$(RUST_FOUND)" | sort -C -V
CHECK_RUST = $(call RUST_IS,$(RUST_NEEDED)) || \
	{ echo "libipc needs Rust $(RUST_NEEDED), this is $(RUST_FOUND)" >&2; exit 1; }

# LLVM moves the begin of a function's frame into its branches, and copies it; on aarch64 the tables for unwinding are then wrong
# (ipc_write), and a thread that is cancelled there never ends. So it stays at the beginning.
UNWINDING := $(if $(filter x86_64% i386% i486% i586% i686%,$(or $(CARGO_BUILD_TARGET),$(shell uname -m))),,-C llvm-args=-enable-shrink-wrap=false)

# Without the library for Rust programs: beside one there is no optimisation across crates. What is for C programs alone is
# compiled with libipc_for_c.
define BUILD_LIBRARIES
	@$(CHECK_RUST)
	$(CARGO) rustc $(if $(VERBOSE),-vv) --release --locked -p libipc --lib --crate-type staticlib -- --cfg libipc_for_c $(UNWINDING)
	VERBOSE='$(VERBOSE)' CC='$(CC)' AR='$(AR)' OBJCOPY='$(OBJCOPY)' LDFLAGS='$(LDFLAGS)' \
	    src/capi/link.sh '$(RELEASE)/libipc.a' '$(BUILT)' 'libipc.so.$(MAJOR)'
endef

# The copy is newer than every source, which cargo's own file need not be: cargo leaves it as it is if only the time of a source
# has changed. install(1) replaces a program that runs.
define BUILD_TOOL
	@$(CHECK_RUST)
	$(CARGO) rustc $(if $(VERBOSE),-vv) --profile tool --locked --package libipc-tool --bin ipc
	mkdir -p '$(BUILT)'
	$(INSTALL) -m 755 '$(TARGET)$(if $(CARGO_BUILD_TARGET),/$(CARGO_BUILD_TARGET))/tool/ipc' '$(TOOL)'
endef

.DELETE_ON_ERROR:
.PHONY: all library tool install uninstall demo test test-core test-tool model check check-docs check-packages header man clean help

all: library $(if $(WITH_TOOL),tool) ## build the libraries and the tool ipc (default)

library: ## build the shared and the static library
	$(BUILD_LIBRARIES)

tool: ## build the tool ipc
	$(BUILD_TOOL)

# For install: root, who may have neither cargo nor a network, finds the libraries and the tool up to date and
# builds nothing.
$(LIBRARIES) &: $(SOURCES)
	$(BUILD_LIBRARIES)

$(TOOL): $(TOOL_SOURCES)
	$(BUILD_TOOL)

include benches/bench.mk
include debian/deb.mk
include dist/dist.mk
include fuzz/fuzz.mk
include soak/soak.mk
include tests/abi/abi.mk
include tests/checked/checked.mk
include tests/everywhere/everywhere.mk

# A page for each function; most of them lead to the page of another one.
FUNCTION_PAGES := $(wildcard man/*.3)

# Directories that packages alone use, and those that exist on every system.
TOOL_DIRECTORIES = $(MAN1DIR) $(BASHCOMPLETIONDIR) $(ZSHCOMPLETIONDIR) $(FISHCOMPLETIONDIR)
OWN_DIRECTORIES = $(PKGCONFIGDIR) $(MAN3DIR) $(MAN7DIR) $(if $(WITH_TOOL),$(TOOL_DIRECTORIES))
DIRECTORIES = $(LIBDIR) $(INCLUDEDIR) $(if $(WITH_TOOL),$(BINDIR)) $(OWN_DIRECTORIES)

# What is written into libipc.pc: paths below the prefix stay relative to it.
below_prefix = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))

install: $(LIBRARIES) $(if $(WITH_TOOL),$(TOOL)) ## install libraries, headers, libipc.pc, the tool ipc and manual pages
	$(INSTALL) -d $(foreach directory,$(DIRECTORIES),'$(DESTDIR)$(directory)')
	$(INSTALL) -m 755 $(BUILT)/libipc.so '$(DESTDIR)$(LIBDIR)/libipc.so.$(VERSION)'
	$(INSTALL) -m 644 $(BUILT)/libipc.a '$(DESTDIR)$(LIBDIR)/libipc.a'
ifneq ($(STRIP),)
	$(STRIP) --strip-unneeded '$(DESTDIR)$(LIBDIR)/libipc.so.$(VERSION)'
	$(STRIP) --strip-debug '$(DESTDIR)$(LIBDIR)/libipc.a'
endif
	ln -sf libipc.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/libipc.so.$(MINOR)'
	ln -sf libipc.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/libipc.so.$(MAJOR)'
	ln -sf libipc.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/libipc.so.0.1.0'
	ln -sf libipc.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/libipc.so'
	$(INSTALL) -m 644 include/ipc.h include/ipc_ext.h '$(DESTDIR)$(INCLUDEDIR)'
	$(INSTALL) -m 644 $(FUNCTION_PAGES) '$(DESTDIR)$(MAN3DIR)'
	$(INSTALL) -m 644 man/libipc.7 '$(DESTDIR)$(MAN7DIR)/libipc.7'
ifneq ($(WITH_TOOL),)
	$(INSTALL) -m 755 $(TOOL) '$(DESTDIR)$(BINDIR)/ipc'
ifneq ($(STRIP),)
	$(STRIP) '$(DESTDIR)$(BINDIR)/ipc'
endif
	$(INSTALL) -m 644 man/ipc.1 '$(DESTDIR)$(MAN1DIR)/ipc.1'
	$(INSTALL) -m 644 tool/completions/ipc.bash '$(DESTDIR)$(BASHCOMPLETIONDIR)/ipc'
	$(INSTALL) -m 644 tool/completions/_ipc '$(DESTDIR)$(ZSHCOMPLETIONDIR)/_ipc'
	$(INSTALL) -m 644 tool/completions/ipc.fish '$(DESTDIR)$(FISHCOMPLETIONDIR)/ipc.fish'
endif
	rm -f '$(DESTDIR)$(PKGCONFIGDIR)/libipc.pc'
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' \
	    -e 's|@LIBDIR@|$(call below_prefix,$(LIBDIR))|' \
	    -e 's|@INCLUDEDIR@|$(call below_prefix,$(INCLUDEDIR))|' \
	    libipc.pc.in > '$(DESTDIR)$(PKGCONFIGDIR)/libipc.pc'
	chmod 644 '$(DESTDIR)$(PKGCONFIGDIR)/libipc.pc'
	$(UPDATE_LOADER)

# The loader looks into /usr/local/lib through its cache alone.
UPDATE_LOADER = $(if $(and $(LDCONFIG),$(if $(DESTDIR),,1)), \
	if [ "$$(id -u)" = 0 ]; then PATH="$$PATH:/usr/sbin:/sbin" $(LDCONFIG); fi)

INSTALLED_FILES = \
	$(LIBDIR)/libipc.so $(LIBDIR)/libipc.so.$(MAJOR) $(LIBDIR)/libipc.so.$(MINOR) $(LIBDIR)/libipc.so.$(VERSION) \
	$(LIBDIR)/libipc.so.0.1.0 $(BINDIR)/ipc $(MAN1DIR)/ipc.1 \
	$(BASHCOMPLETIONDIR)/ipc $(ZSHCOMPLETIONDIR)/_ipc $(FISHCOMPLETIONDIR)/ipc.fish \
	$(LIBDIR)/libipc.a $(INCLUDEDIR)/ipc.h $(INCLUDEDIR)/ipc_ext.h $(PKGCONFIGDIR)/libipc.pc $(MAN7DIR)/libipc.7 \
	$(FUNCTION_PAGES:man/%=$(MAN3DIR)/%)

# The folders that an installation may have made: below DESTDIR all of them; on the machine itself those
# that only hold what packages put there. Folders that still hold something stay.
uninstall: ## remove what install has put there
	rm -f $(foreach file,$(INSTALLED_FILES),'$(DESTDIR)$(file)')
ifneq ($(DESTDIR),)
	if [ -d '$(DESTDIR)' ]; then cd '$(DESTDIR)' && \
	for each in $(foreach directory,$(DIRECTORIES),'$(directory)'); do \
	    if [ -d ".$$each" ]; then rmdir -p --ignore-fail-on-non-empty "$${each#/}"; fi; \
	done; fi
else
	for each in $(foreach directory,$(OWN_DIRECTORIES),'$(directory)'); do \
	    if [ -d "$$each" ]; then rmdir --ignore-fail-on-non-empty "$$each"; fi; \
	done
endif
	$(UPDATE_LOADER)

demo: all ## build, install into a staging directory, compile the examples, run server and client
	CC='$(CC)' CARGO_TARGET_DIR='$(abspath $(TARGET))' examples-c/demo.sh

# An archive that was made with VENDOR=1 has the library's crates alone, and Cargo.toml asks for no others.
ifneq ($(shell sed -n '/^\[dev-dependencies\]/p' Cargo.toml),)

# Tests call make themselves: they get no job server and no flag of this make.
CARGO_TEST = env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(CARGO) test --locked

# Built for another machine, the test programs in Rust do not run here; the C programs do, perhaps in an emulator.
ifneq ($(filter-out $(shell $(CARGO) -vV | sed -n 's/^host: //p'),$(CARGO_BUILD_TARGET)),)
test:
	CARGO='$(CARGO)' EVERYWHERE_OUTPUT='$(abspath $(TARGET))/everywhere' tests/everywhere/run.sh '$(CARGO_BUILD_TARGET)'
	@echo 'SKIPPED: the unit tests and all test programs but the C programs and examples: they are built for $(CARGO_BUILD_TARGET); make test without CARGO_BUILD_TARGET runs them'
else
# Its last lines repeat, after much output, what was left out because a tool is missing.
test: all check ## run every test; what is left out because a tool is missing is reported as "SKIPPED:"
	man/generate.sh --check
	$(CARGO_TEST) --no-fail-fast
	$(CARGO_TEST) --package libipc-tool
	$(MAKE) --no-print-directory model
	@for tool in abidiff valgrind pkg-config groff man mandoc lexgrog dpkg-buildpackage dh lintian git xz python3 cmake meson $(firstword $(CXX)); do \
	    command -v "$$tool" > /dev/null || echo "SKIPPED: the tests that need $$tool, which is not installed"; \
	done
	CARGO='$(CARGO)' WITHOUT_TOOL=1 EVERYWHERE_OUTPUT='$(abspath $(TARGET))/everywhere/test' \
	    EVERYWHERE_TESTS='c_programs::messages c_programs::errors c_programs::exchange c_programs::layout promise_33 static_programs' \
	    tests/everywhere/run.sh i386 musl-static
endif

# A build of its own, in which the model checker decides which thread goes on. That needs a later Rust than the library.
RUST_OF_MODEL := 1.87
model: ## try what threads share in thousands of orders, with a concurrency model checker
	@if $(call RUST_IS,$(RUST_OF_MODEL)); then set -x; \
	    RUSTFLAGS='--cfg libipc_model' CARGO_TARGET_DIR='$(abspath $(TARGET))/model' \
	    $(CARGO_TEST) --lib -- capi::model --test-threads=1; \
	else echo "SKIPPED: the concurrency model: its checker needs Rust $(RUST_OF_MODEL)"; fi

test-tool: ## run the unit tests of the tool ipc, and those that use it as it is installed
	$(CARGO_TEST) --package libipc-tool
	$(CARGO_TEST) --test tool

test-core: ## run the unit tests and those of the library itself, while it is being changed
	$(CARGO_TEST) --lib --test architecture --test core

check-docs: all ## run the tests of the documents and of the manual
	man/generate.sh --check
	$(CARGO_TEST) --test docs

check-packages: ## build the packages for Debian and try them
	$(CARGO_TEST) --test packages

check: ## what the compiler's companions say of the source
	@if $(CARGO) fmt --version > /dev/null 2>&1; then $(CARGO) fmt --all --check; \
	else echo "SKIPPED: how the source is formatted: there is no rustfmt"; fi
	@if $(CARGO) clippy --version > /dev/null 2>&1; then \
	    $(CARGO) clippy --locked --workspace --lib --bins --tests --benches -- --deny warnings; \
	else echo "SKIPPED: what clippy says: it is not installed"; fi

header: ## write the headers in include anew from the source
	LIBIPC_WRITE_HEADER=1 $(CARGO) test --locked --test header

else

test test-core: demo
test test-core test-tool model check check-docs check-packages header:
	@echo "SKIPPED: make $@: this archive has only the crates of the library; the archive without them has all tests"

endif

man: ## write the pages in man anew from their sources, with pandoc
	man/generate.sh

clean: ## remove what was built
	$(CARGO) clean
	$(MAKE) -C examples-c clean
	rm -f examples-cpp/pongd examples-cpp/pong

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
