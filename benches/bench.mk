# Included by the Makefile of the project, which sets TARGET, BUILT, LIBRARIES, CARGO.

.PHONY: bench
bench: $(LIBRARIES) ## compare with bare sockets and other libraries, into target/bench; QUICK=1 takes seconds
	CC='$(CC)' CARGO='$(CARGO)' QUICK='$(QUICK)' CARGO_TARGET_DIR='$(abspath $(TARGET))' \
	    LIBIPC_BUILD='$(abspath $(BUILT))' benches/run.sh
