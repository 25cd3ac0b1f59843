# Included by the Makefile of the project, which sets TARGET and CARGO.

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZ_SECONDS (600), with a nightly compiler and cargo-fuzz
	CARGO='$(CARGO)' FUZZ_SECONDS='$(FUZZ_SECONDS)' FUZZ_OUTPUT='$(abspath $(TARGET))/fuzz' fuzz/run.sh
