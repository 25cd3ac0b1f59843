/*
 * A program that was kept in the tree of the library, and included its header like this. It compiles
 * unchanged if src/ipc.h of its tree is a link to the installed header.
 */
#include "../src/ipc.h"

int main (void)
{
	char path[PATH_MAX];

	service_path (path, "in_tree", 1, 2);
	if (strcmp (path + strlen (path) - strlen ("/in_tree-1-2"), "/in_tree-1-2") != 0) {
		fprintf (stderr, "%s:%d: %s\n", __FILE__, __LINE__, path);
		return 1;
	}
	return 0;
}
