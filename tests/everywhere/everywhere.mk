# Included by the Makefile of the project, which sets TARGET and CARGO.

.PHONY: everywhere
everywhere: ## build for other machines and for musl and run the C tests; TARGETS="s390x musl-static" for some
	CARGO='$(CARGO)' EVERYWHERE_OUTPUT='$(abspath $(TARGET))/everywhere' tests/everywhere/run.sh $(TARGETS)
