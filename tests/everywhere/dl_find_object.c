/*
 * _dl_find_object of glibc 2.35, for programs with musl: the libgcc_eh.a of a system with glibc finds the code that it unwinds
 * with it. Systems with musl have a libgcc_eh.a of their own, which needs nothing of this.
 */
#define _GNU_SOURCE
#include <link.h>
#include <string.h>

/* As in glibc's dlfcn.h. */
struct dl_find_object {
	unsigned long long flags;
	void *map_start;
	void *map_end;
	void *link_map;
	/* Of .eh_frame_hdr. */
	void *eh_frame;
	unsigned long long reserved[7];
};

struct search {
	uintptr_t address;
	struct dl_find_object *found;
};

static int look_at (struct dl_phdr_info *object, size_t size, void *argument)
{
	struct search *search = argument;
	struct dl_find_object found;
	int is_there = 0;

	(void) size;
	memset (&found, 0, sizeof found);
	for (int i = 0; i < object->dlpi_phnum; i++) {
		const ElfW (Phdr) *part = &object->dlpi_phdr[i];
		uintptr_t start = object->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_GNU_EH_FRAME) {
			found.eh_frame = (void *) start;
		} else if (part->p_type == PT_LOAD && search->address - start < part->p_memsz) {
			is_there = 1;
			found.map_start = (void *) start;
			found.map_end = (void *) (start + part->p_memsz);
		}
	}
	if (!is_there || found.eh_frame == NULL)
		return 0;
	*search->found = found;
	return 1;
}

int _dl_find_object (void *address, struct dl_find_object *found);

int _dl_find_object (void *address, struct dl_find_object *found)
{
	struct search search = { (uintptr_t) address, found };

	return dl_iterate_phdr (look_at, &search) == 1 ? 0 : -1;
}
