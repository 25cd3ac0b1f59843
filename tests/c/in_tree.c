/*
 * Programs that stood in the tree of the library said this. It compiles unchanged where src/ipc.h of their
 * tree is a link to the installed header.
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
