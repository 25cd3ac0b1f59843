# Included by the Makefile of the project, which sets TARGET, BUILT, LIBRARIES, MAJOR, INSTALL.

MINUTES ?= 10
CLIENTS ?= 200

SOAK_FLAGS = -std=c99 -O2 -g -Wall -Wextra -Wpedantic -pthread

# The library is copied, and a copy that is in use replaced: a build while this runs changes nothing.
.PHONY: soak
soak: $(LIBRARIES) ## a server and a crowd of CLIENTS (200) of all kinds for MINUTES (10); SEED repeats a run
	mkdir -p '$(TARGET)/soak'
	$(INSTALL) -m 755 '$(BUILT)/libipc.so' '$(TARGET)/soak/libipc.so.$(MAJOR)'
	ln -sf 'libipc.so.$(MAJOR)' '$(TARGET)/soak/libipc.so'
	$(CC) $(SOAK_FLAGS) -Iinclude -o '$(TARGET)/soak/soak' soak/*.c -L'$(TARGET)/soak' \
	    -Wl,-rpath,'$(abspath $(TARGET))/soak' -lipc
	'$(TARGET)/soak/soak' -m '$(MINUTES)' -c '$(CLIENTS)' $(if $(SEED),-s '$(SEED)')
