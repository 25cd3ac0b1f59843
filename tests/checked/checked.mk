# Included by the Makefile of the project, which sets TARGET and CARGO. TESTS names the modules of
# tests/core to run instead of all.

CHECKED = CARGO='$(CARGO)' CHECKED_OUTPUT='$(abspath $(TARGET))/checked' tests/checked

.PHONY: memcheck asan tsan miri
memcheck: ## run the tests under valgrind
	$(CHECKED)/run.sh memcheck $(TESTS)

asan: ## run the tests with AddressSanitizer in the library, too, with a nightly compiler
	$(CHECKED)/run.sh asan $(TESTS)

tsan: ## run the tests with ThreadSanitizer, with a nightly compiler that has rust-src
	$(CHECKED)/run.sh tsan $(TESTS)

miri: ## run the unit tests that need no kernel in Miri, with a nightly compiler that has miri
	$(CHECKED)/miri.sh
