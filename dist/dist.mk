# Included by the Makefile of the project, which sets TARGET, CARGO and VERSION.

.PHONY: dist
dist: ## make the archive of the source, in target/dist; with VENDOR=1 it builds without a network
	CARGO='$(CARGO)' VENDOR='$(filter-out 0,$(VENDOR))' dist/archive.sh '$(VERSION)' '$(TARGET)/dist'
