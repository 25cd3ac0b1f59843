/*
 * Wrong arguments for every exported function: the code and the errno that ipc.h names, and never an abort.
 * Run by a test that also expects it to print nothing. IPC_RUNDIR names an empty directory.
 */
#include "check.h"
#include "undeclared.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static char *environment[] = { NULL };

/* A name, or a path, that is one byte longer than fits with its NUL. */
static char too_long[PATH_MAX + 1];

static struct ipc_connection_info service (uint32_t index)
{
	struct ipc_connection_info srv;
	memset (&srv, 0, sizeof srv);
	srv.index = index;
	srv.fd = -1;
	return srv;
}

/* The path of the service "errors" with this index, in a buffer that the next call reuses. */
static const char *path_of (uint32_t index)
{
	static char path[PATH_MAX];
	service_path (path, "errors", (int32_t) index, 0);
	return path;
}

/* The socket of a server that has died without removing the file. */
static void leave_dead_socket (const char *path)
{
	struct sockaddr_un address;
	int fd = socket (AF_UNIX, SOCK_STREAM, 0);

	memset (&address, 0, sizeof address);
	address.sun_family = AF_UNIX;
	CHECK (strlen (path) < sizeof address.sun_path);
	strcpy (address.sun_path, path);
	CHECK (bind (fd, (struct sockaddr *) &address, sizeof address) == 0);
	CHECK (close (fd) == 0);
}

static void leave_regular_file (const char *path)
{
	CHECK (close (open (path, O_WRONLY | O_CREAT, 0600)) == 0);
}

static void servers (void)
{
	struct ipc_connection_info srv = service (0), second = service (0), client = service (0);
	char rundir[PATH_MAX], missing[PATH_MAX];

	EXPECT (ipc_server_init (NULL, &srv, "errors"), IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM, EINVAL);
	EXPECT (ipc_server_init (environment, NULL, "errors"), IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM, EINVAL);
	EXPECT (ipc_server_init (environment, &srv, NULL), IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM, EINVAL);
	EXPECT (ipc_server_init (environment, &srv, too_long), IPC_ERROR_USOCK_INIT__EMPTY_PATH, ENAMETOOLONG);
	CHECK (srv.fd == -1 && srv.spath == NULL);

	/* The path of a living server is not taken. */
	EXPECT_OK (ipc_server_init (environment, &srv, "errors"));
	CHECK (strcmp (srv.spath, path_of (0)) == 0);
	EXPECT (ipc_server_init (environment, &second, "errors"), IPC_ERROR_USOCK_INIT__BIND, EADDRINUSE);
	EXPECT_OK (ipc_connection (environment, &client, "errors"));
	EXPECT_OK (ipc_close (&client));
	EXPECT (ipc_close (&client), IPC_ERROR_USOCK_CLOSE, EBADF);
	EXPECT_OK (ipc_server_close (&srv));
	CHECK (access (path_of (0), F_OK) == -1 && errno == ENOENT);

	/* The path of a dead server is taken. */
	leave_dead_socket (path_of (0));
	EXPECT (ipc_connection (environment, &client, "errors"), IPC_ERROR_USOCK_CONNECT__SOCKET, ECONNREFUSED);
	EXPECT_OK (ipc_server_init (environment, &srv, "errors"));

	/* If the file of a service is missing, the service is closed all the same. */
	CHECK (unlink (srv.spath) == 0);
	EXPECT (ipc_server_close (&srv), IPC_ERROR_USOCK_REMOVE__NO_FILE, ENOENT);
	CHECK (srv.spath == NULL && fcntl (srv.fd, F_GETFD) == -1 && errno == EBADF);
	EXPECT (ipc_server_close (NULL), IPC_ERROR_USOCK_CLOSE, EINVAL);
	EXPECT (ipc_server_close (&second), IPC_ERROR_USOCK_CLOSE, EBADF);

	/* A file that is not a socket is not replaced. */
	leave_regular_file (path_of (1));
	srv = service (1);
	EXPECT (ipc_server_init (environment, &srv, "errors"), IPC_ERROR_USOCK_INIT__BIND, EADDRINUSE);
	EXPECT (ipc_server_close (&srv), IPC_ERROR_USOCK_CLOSE, EBADF);
	CHECK (unlink (path_of (1)) == 0);

	/* The last directory of the run directory is created, the one above it is not. */
	CHECK (getenv ("IPC_RUNDIR") != NULL && strlen (getenv ("IPC_RUNDIR")) < PATH_MAX - 100);
	strcpy (rundir, getenv ("IPC_RUNDIR"));
	sprintf (missing, "%s/missing/too", getenv ("IPC_RUNDIR"));
	CHECK (setenv ("IPC_RUNDIR", missing, 1) == 0);
	EXPECT (ipc_server_init (environment, &srv, "errors"), IPC_ERROR_USOCK_INIT__BIND, ENOENT);
	CHECK (setenv ("IPC_RUNDIR", rundir, 1) == 0);
	/* The path that was tried stays in the structure, to be printed; closing the service that was not
	 * opened frees it. */
	CHECK (srv.fd == -1 && strstr (srv.spath, "/missing/too/") != NULL);
	EXPECT (ipc_server_close (&srv), IPC_ERROR_USOCK_CLOSE, EBADF);
	CHECK (srv.spath == NULL);
}

static void clients (void)
{
	struct ipc_connection_info srv = service (0), p = service (0);
	struct ipc_message m;

	EXPECT (ipc_connection (NULL, &p, "errors"), IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM, EINVAL);
	EXPECT (ipc_connection (environment, NULL, "errors"), IPC_ERROR_CONNECTION__NO_SERVER, EINVAL);
	EXPECT (ipc_connection (environment, &p, NULL), IPC_ERROR_CONNECTION__NO_SERVICE_NAME, EINVAL);
	EXPECT (ipc_connection (environment, &p, too_long), IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, ENAMETOOLONG);
	EXPECT (ipc_connection (environment, &p, "none"), IPC_ERROR_USOCK_CONNECT__SOCKET, ENOENT);
	CHECK (p.fd == -1);

	EXPECT (ipc_close (NULL), IPC_ERROR_USOCK_CLOSE, EINVAL);
	EXPECT (ipc_close (&p), IPC_ERROR_USOCK_CLOSE, EBADF);

	EXPECT (ipc_accept (NULL, &p), IPC_ERROR_ACCEPT__NO_SERVICE_PARAM, EINVAL);
	EXPECT (ipc_accept (&srv, NULL), IPC_ERROR_ACCEPT__NO_CLIENT_PARAM, EINVAL);
	EXPECT (ipc_accept (&srv, &p), IPC_ERROR_ACCEPT, EBADF);

	memset (&m, 0, sizeof m);
	EXPECT (ipc_read (NULL, &m), IPC_ERROR_USOCK_RECV, EINVAL);
	EXPECT (ipc_read (&p, NULL), IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_read (&p, &m), IPC_ERROR_USOCK_RECV, EBADF);
	EXPECT (ipc_write (NULL, &m), IPC_ERROR_USOCK_SEND, EINVAL);
	EXPECT (ipc_write (&p, NULL), IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_write (&p, &m), IPC_ERROR_USOCK_SEND, EBADF);
	m.length = 1;
	EXPECT (ipc_write (&p, &m), IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, EINVAL);
	m.length = IPC_MAX_MESSAGE_SIZE + 1;
	EXPECT (ipc_write (&p, &m), IPC_ERROR_MESSAGE_FORMAT__LENGTH, EMSGSIZE);
}

static void events (void)
{
	struct ipc_connection_infos list;
	struct ipc_connection_info srv = service (0);
	struct ipc_event event;
	struct ipc_message *left = NULL;
	int ends[2];

	memset (&list, 0, sizeof list);
	memset (&event, 0, sizeof event);
	CHECK (pipe (ends) == 0);

	EXPECT (ipc_wait_event (&list, &srv, NULL), IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM, EINVAL);
	EXPECT (ipc_wait_event (NULL, &srv, &event), IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, EINVAL);
	EXPECT (ipc_wait_event (&list, NULL, &event), IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM, EINVAL);
	EXPECT (ipc_wait_event (&list, &srv, &event), IPC_ERROR_WAIT_EVENT__SELECT, EBADF);

	/* A call that fails also frees the event's message, and sets its type to NOT_SET. */
	EXPECT_OK (ipc_message_new (&left, 5));
	IPC_EVENT_SET (&event, IPC_EVENT_TYPE_MESSAGE, left, &srv);
	srv.fd = ends[0];
	EXPECT (ipc_wait_event (&list, &srv, &event), IPC_ERROR_WAIT_EVENT__SELECT, ENOTSOCK);
	CHECK (event.type == IPC_EVENT_TYPE_NOT_SET && event.m == NULL && event.origin == NULL);

	CHECK (close (ends[0]) == 0 && close (ends[1]) == 0);
}

static void lists (void)
{
	struct ipc_connection_infos list;
	struct ipc_connection_info first = service (0), other = service (1);

	memset (&list, 0, sizeof list);
	EXPECT (ipc_add (NULL, &first), IPC_ERROR_ADD__NO_PARAM_CLIENTS, EINVAL);
	EXPECT (ipc_add (&list, NULL), IPC_ERROR_ADD__NO_PARAM_CLIENT, EINVAL);
	EXPECT (ipc_add_fd (NULL, 0), IPC_ERROR_ADD_FD__NO_PARAM_CINFOS, EINVAL);
	EXPECT (ipc_add_fd (&list, -1), IPC_ERROR_WAIT_EVENT__SELECT, EBADF);
	CHECK (list.cinfos == NULL && list.size == 0);
	EXPECT (ipc_del (NULL, &first), IPC_ERROR_DEL__NO_CLIENTS_PARAM, EINVAL);
	EXPECT (ipc_del (&list, NULL), IPC_ERROR_DEL__NO_CLIENT_PARAM, EINVAL);
	EXPECT (ipc_del (&list, &first), IPC_ERROR_DEL__EMPTY_LIST, ENOENT);

	/* A size that does not match the array. */
	list.size = 1;
	EXPECT (ipc_add (&list, &first), IPC_ERROR_ADD__EMPTY_LIST, EINVAL);
	EXPECT (ipc_add_fd (&list, 0), IPC_ERROR_ADD__EMPTY_LIST, EINVAL);
	EXPECT (ipc_del (&list, &first), IPC_ERROR_DEL__EMPTIED_LIST, EINVAL);
	list.size = -1;
	EXPECT (ipc_add (&list, &first), IPC_ERROR_ADD__EMPTY_LIST, EINVAL);
	EXPECT (ipc_add_fd (&list, 0), IPC_ERROR_ADD__EMPTY_LIST, EINVAL);
	EXPECT (ipc_del (&list, &first), IPC_ERROR_DEL__EMPTY_LIST, ENOENT);

	list.size = 0;
	EXPECT_OK (ipc_add (&list, &first));
	EXPECT (ipc_del (&list, &other), IPC_ERROR_DEL__CANNOT_FIND_CLIENT, ENOENT);
	CHECK (list.size == 1 && list.cinfos[0] == &first);
	EXPECT_OK (ipc_del (&list, &first));
	CHECK (list.size == 0 && list.cinfos == NULL);

	ipc_connections_free (NULL);
	ipc_connections_free (&list);
	CHECK (ipc_connection_copy (NULL) == NULL);
	CHECK (ipc_connection_eq (NULL, &first) == 0 && ipc_connection_eq (&first, NULL) == 0);
	EXPECT (ipc_connection_gen (NULL, 0, 0, 0, 'u'), IPC_ERROR_CONNECTION_GEN__NO_CINFO, EINVAL);
}

static void messages (void)
{
	struct ipc_message m;
	char frame[] = { 2, 0, 0, 0, 0 }, *buf = frame;
	ssize_t size;

	memset (&m, 0, sizeof m);
	EXPECT (ipc_message_new (NULL, 0), IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_format_read (NULL, frame, 5), IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE, EINVAL);
	EXPECT (ipc_message_format_read (&m, NULL, 5), IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER, EINVAL);
	EXPECT (ipc_message_format_read (&m, frame, 4), IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, EBADMSG);
	EXPECT (ipc_message_format_write (NULL, &buf, &size), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE, EINVAL);
	EXPECT (ipc_message_format_write (&m, NULL, &size), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER, EINVAL);
	EXPECT (ipc_message_format_write (&m, &buf, NULL), IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE, EINVAL);
	EXPECT (ipc_message_read (-1, NULL), IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_write (-1, NULL), IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_format (NULL, 2, frame, 5), IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_format_data (NULL, frame, 5), IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_format_server_close (NULL), IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM, EINVAL);
	EXPECT (ipc_message_empty (NULL), IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST, EINVAL);
}

static void sockets (void)
{
	char *buf = NULL;
	ssize_t len = 0, sent = 0;
	int32_t fd = -1;
	const char *file;

	EXPECT (usock_send (-1, "x", 1, &sent), IPC_ERROR_USOCK_SEND, EBADF);
	EXPECT (usock_send (-1, NULL, 1, &sent), IPC_ERROR_USOCK_SEND, EINVAL);
	EXPECT (usock_send (-1, "x", -1, &sent), IPC_ERROR_USOCK_SEND, EINVAL);
	EXPECT (usock_recv (-1, NULL, &len), IPC_ERROR_USOCK_RECV__NO_BUFFER, EINVAL);
	EXPECT (usock_recv (-1, &buf, NULL), IPC_ERROR_USOCK_RECV__NO_LENGTH, EINVAL);
	EXPECT (usock_recv (-1, &buf, &len), IPC_ERROR_USOCK_RECV, EBADF);
	CHECK (buf == NULL);
	EXPECT (usock_close (-1), IPC_ERROR_USOCK_CLOSE, EBADF);

	EXPECT (usock_connect (NULL, "x"), IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR, EINVAL);
	EXPECT (usock_connect (&fd, NULL), IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, EINVAL);
	EXPECT (usock_connect (&fd, ""), IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, EINVAL);
	EXPECT (usock_connect (&fd, too_long), IPC_ERROR_USOCK_CONNECT__EMPTY_PATH, ENAMETOOLONG);
	EXPECT (usock_connect (&fd, path_of (2)), IPC_ERROR_USOCK_CONNECT__SOCKET, ENOENT);

	EXPECT (usock_init (NULL, path_of (2)), IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR, EINVAL);
	EXPECT (usock_init (&fd, NULL), IPC_ERROR_USOCK_INIT__EMPTY_PATH, EINVAL);
	EXPECT (usock_init (&fd, ""), IPC_ERROR_USOCK_INIT__EMPTY_PATH, EINVAL);
	EXPECT (usock_init (&fd, too_long), IPC_ERROR_USOCK_INIT__EMPTY_PATH, ENAMETOOLONG);
	EXPECT (usock_init (&fd, "/missing/errors"), IPC_ERROR_USOCK_INIT__BIND, ENOENT);
	CHECK (fd == -1);

	EXPECT (usock_accept (-1, NULL), IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR, EINVAL);
	EXPECT (usock_accept (-1, &fd), IPC_ERROR_USOCK_ACCEPT, EBADF);

	EXPECT (usock_remove (NULL), IPC_ERROR_USOCK_REMOVE__UNLINK, EINVAL);
	EXPECT (usock_remove (path_of (2)), IPC_ERROR_USOCK_REMOVE__NO_FILE, ENOENT);
	EXPECT (usock_remove (too_long), IPC_ERROR_USOCK_REMOVE__UNLINK, ENAMETOOLONG);
	EXPECT (usock_remove ("/"), IPC_ERROR_USOCK_REMOVE__UNLINK, EISDIR);
	file = path_of (2);
	leave_regular_file (file);
	EXPECT_OK (usock_remove (file));
	CHECK (access (file, F_OK) == -1 && errno == ENOENT);
}

static void paths (void)
{
	char path[PATH_MAX];

	errno = UNTOUCHED;
	service_path (path, "errors", 1, 2);
	CHECK (errno == UNTOUCHED && strcmp (path + strlen (path) - strlen ("/errors-1-2"), "/errors-1-2") == 0);
	service_path (path, too_long, 0, 0);
	CHECK (errno == ENAMETOOLONG && path[0] == '\0');
	service_path (NULL, "errors", 0, 0);
	service_path (path, NULL, 0, 0);
}

static void undeclared (void)
{
	struct ipc_connection_info srv = service (0), *made = NULL;
	struct ipc_connection_infos list;

	memset (&list, 0, sizeof list);
	EXPECT (handle_new_connection (NULL, &list, &made), IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM, EINVAL);
	EXPECT (handle_new_connection (&srv, NULL, &made), IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM, EINVAL);
	EXPECT (handle_new_connection (&srv, &list, &made), IPC_ERROR_ACCEPT, EBADF);
	CHECK (made == NULL && list.size == 0);
	ipc_connections_free (&list);
}

static void call_log_format (const char *tag, const char *message, ...)
{
	va_list args;
	va_start (args, message);
	log_format (tag, message, args);
	va_end (args);
}

/* The functions that print print nothing for these arguments. */
static void printers (void)
{
	const char *volatile nothing = NULL;
	struct ipc_connection_infos list;

	memset (&list, 0, sizeof list);
	ipc_connection_print (NULL);
	ipc_connections_print (NULL);
	ipc_connections_print (&list);
	ipc_message_print (NULL);
	print_hexa (NULL, NULL, 0);
	print_hexa ("prefix", NULL, 16);
	log_error (nothing, 0);
	log_info (nothing, 0);
	log_debug (nothing, 0);
	call_log_format ("TAG", NULL);
	call_log_format (NULL, NULL);
	CHECK (ipc_errors_get ((enum ipc_errors) -1) == NULL);
	CHECK (ipc_errors_get ((enum ipc_errors) 60) == NULL);
	CHECK (ipc_errors_get ((enum ipc_errors) 0x7fffffff) == NULL);
}

int main (void)
{
	check_begin ();
	memset (too_long, 'n', sizeof too_long - 1);
	servers ();
	clients ();
	events ();
	lists ();
	messages ();
	sockets ();
	paths ();
	undeclared ();
	printers ();
	return 0;
}
