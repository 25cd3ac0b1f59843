# Included by the Makefile of the project, which sets TARGET, CARGO and VERSION.
#
# The packages are built in a copy of the source, since Debian's tools write beside what they work on, and with a
# cargo directory of their own, since they build with flags of their own. The copy leaves out directories that are
# marked, as cargo's are, with a CACHEDIR.TAG, and dh_clean removes from it what dpkg-buildpackage has left in the
# source, which it would take for the first half of this build. The tests are run by `make test`, not here. cargo need
# not be from a package of Debian, so the build dependencies are not checked.

DEB := $(TARGET)/deb
DEB_COPY = $(DEB)/build/libipc-$(VERSION)

.PHONY: deb
deb: ## build packages for Debian, into target/deb; takes debhelper and dpkg-dev
	@command -v dpkg-buildpackage > /dev/null && command -v dh > /dev/null || \
	    { echo 'make deb: there is no dpkg-buildpackage or no dh: apt-get install debhelper dpkg-dev' >&2; exit 1; }
	rm -rf '$(DEB)/build'
	rm -f '$(DEB)'/*.deb '$(DEB)'/*.changes '$(DEB)'/*.buildinfo
	mkdir -p '$(DEB_COPY)'
	echo 'Signature: 8a477f597d28d172789f06886806bc55' > '$(DEB)/CACHEDIR.TAG'
	tar --create --exclude-vcs --exclude-caches-all --exclude=./target . | tar --extract --directory='$(DEB_COPY)'
	cd '$(DEB_COPY)' && dh_clean --exclude=vendor/ && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL \
	    CARGO='$(CARGO)' CARGO_TARGET_DIR='$(abspath $(DEB))/cargo' DEB_BUILD_OPTIONS="nocheck $$DEB_BUILD_OPTIONS" \
	    dpkg-buildpackage --build=binary --no-check-builddeps --no-pre-clean --no-sign
	mv '$(DEB)'/build/*.deb '$(DEB)'/build/*.changes '$(DEB)'/build/*.buildinfo '$(DEB)'
	rm -rf '$(DEB)/build'
	@echo 'The packages:' && ls '$(abspath $(DEB))'/*.deb
