#include "files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

char *environment[] = { NULL };
char top[200], rundir[500];

int entries_of (const char *path)
{
	DIR *dir = opendir (path);
	int count = -2;

	if (dir == NULL && errno == ENOENT)
		return 0;
	CHECK (dir != NULL);
	while (readdir (dir) != NULL)
		count++;
	closedir (dir);
	return count;
}

int is_fault_of (const char *function)
{
	const char *chosen = getenv ("FAULTS_CALL");

	return chosen != NULL && strcmp (chosen, function) == 0;
}

void open_service (struct ipc_connection_info *srv, const char *name)
{
	int descriptors = open_descriptors ();
	int files = entries_of (rundir);
	int code;

	srv->fd = -1;
	srv->spath = NULL;
	do {
		call_begins ("ipc_server_init");
		code = ipc_server_init (environment, srv, name);
		if (code != IPC_ERROR_NONE) {
			int number = errno;
			CHECK (srv->fd == -1 && (srv->spath != NULL || number == ENOMEM) && open_descriptors () == descriptors);
			CHECK (entries_of (rundir) <= files || is_fault_of ("unlink") || is_fault_of ("unlinkat"));
			errno = number;
		}
	} while (again (NULL, code));
	CHECK (srv->fd >= 0 && srv->spath != NULL && open_descriptors () == descriptors + 1);
	CHECK (access (srv->spath, F_OK) == 0);
}

void close_service (struct ipc_connection_info *srv)
{
	char path[PATH_MAX];
	int code, number;

	strcpy (path, srv->spath);
	call_begins ("ipc_server_close");
	code = ipc_server_close (srv);
	number = errno;
	CHECK (srv->spath == NULL && fcntl (srv->fd, F_GETFD) == -1);
	errno = number;
	call_ends (NULL, code);
	if (access (path, F_OK) == 0) {
		CHECK (code == IPC_ERROR_USOCK_REMOVE__UNLINK && unlink (path) == 0);
	}
}

void leave_dead_socket (const char *path)
{
	struct sockaddr_un address;
	int fd = socket (AF_UNIX, SOCK_STREAM, 0);

	memset (&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	CHECK (fd >= 0 && strlen (path) < sizeof address.sun_path);
	strcpy (address.sun_path, path);
	CHECK (bind (fd, (const struct sockaddr *) &address, sizeof address) == 0);
	CHECK (close (fd) == 0);
}

void files_begin (void)
{
	snprintf (top, sizeof top, "%s/%d", getenv ("IPC_RUNDIR"), (int) getpid ());
	CHECK (mkdir (top, 0755) == 0);
}

void files_end (void)
{
	CHECK (rmdir (top) == 0);
}

void set_rundir (const char *name)
{
	snprintf (rundir, sizeof rundir, "%s/%s", top, name);
	CHECK (setenv ("IPC_RUNDIR", rundir, 1) == 0);
}

void remove_rundir (void)
{
	CHECK (entries_of (rundir) == 0 && rmdir (rundir) == 0);
}
