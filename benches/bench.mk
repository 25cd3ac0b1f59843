# Included by the Makefile of the project, which sets TARGET, BUILT, LIBRARIES, CARGO.

.PHONY: bench
bench: $(LIBRARIES) ## compare with bare sockets and other libraries, into target/bench; QUICK=1 takes seconds
	CC='$(CC)' CARGO='$(CARGO)' QUICK='$(QUICK)' CARGO_TARGET_DIR='$(abspath $(TARGET))' \
	    LIBIPC_BUILD='$(abspath $(BUILT))' benches/run.sh

.PHONY: bench-slow
bench-slow: $(LIBRARIES) ## what slow, late, greedy and stuck readers cost the other clients (three minutes)
	mkdir -p '$(TARGET)/bench/lib'
	cp '$(BUILT)/libipc.so' '$(TARGET)/bench/lib/libipc.so.$(MAJOR)'
	ln -sf 'libipc.so.$(MAJOR)' '$(TARGET)/bench/lib/libipc.so'
	$(CC) -std=c99 -O2 -Wall -Wextra -Wpedantic -Iinclude -o '$(TARGET)/bench/slow_readers' \
	    benches/slow_readers.c benches/slow_roles.c \
	    -L'$(TARGET)/bench/lib' -Wl,-rpath,'$(abspath $(TARGET))/bench/lib' -lipc
	'$(TARGET)/bench/slow_readers'
