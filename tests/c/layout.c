/*
 * The binary interface: sizes, offsets, values and macros of ipc.h. Nearly all checks are made by the
 * compiler. The header is included twice, to show that this is possible.
 */
#include <ipc.h>
#include <ipc.h>
#include <limits.h>
#include <stddef.h>

#ifdef __cplusplus
#define ASSERT(condition) static_assert (condition, #condition)
#else
#define ASSERT(condition) extern char asserted[(condition) ? 1 : -1]
#endif

#define SIZE(type, size) ASSERT (sizeof (type) == (size))
#define MEMBER(type, member, member_type, offset) \
	ASSERT (offsetof (type, member) == (offset) && sizeof (((type *) 0)->member) == sizeof (member_type))

/* 8, and 4 on 32-bit machines: there the members have the offsets that the same declarations give them, each
 * aligned to its size. */
#define POINTER sizeof (void *)
ASSERT (POINTER == 8 || POINTER == 4);

SIZE (struct ipc_connection_info, 16 + POINTER);
MEMBER (struct ipc_connection_info, version, uint32_t, 0);
MEMBER (struct ipc_connection_info, index, uint32_t, 4);
MEMBER (struct ipc_connection_info, fd, int32_t, 8);
MEMBER (struct ipc_connection_info, type, char, 12);
MEMBER (struct ipc_connection_info, spath, char *, 16);

SIZE (struct ipc_connection_infos, 2 * POINTER);
MEMBER (struct ipc_connection_infos, cinfos, struct ipc_connection_info **, 0);
MEMBER (struct ipc_connection_infos, size, int32_t, POINTER);

SIZE (struct ipc_message, 8 + POINTER);
MEMBER (struct ipc_message, type, char, 0);
MEMBER (struct ipc_message, length, uint32_t, 4);
MEMBER (struct ipc_message, payload, char *, 8);

SIZE (struct ipc_event, 3 * POINTER);
MEMBER (struct ipc_event, type, enum ipc_event_type, 0);
MEMBER (struct ipc_event, origin, struct ipc_connection_info *, POINTER);
MEMBER (struct ipc_event, m, void *, 2 * POINTER);

SIZE (enum ipc_errors, sizeof (int));
SIZE (enum ipc_event_type, sizeof (int));
SIZE (enum msg_types, sizeof (int));
SIZE (message_types, sizeof (enum msg_types));

ASSERT (MSG_TYPE_SERVER_CLOSE == 0);
ASSERT (MSG_TYPE_ERR == 1);
ASSERT (MSG_TYPE_DATA == 2);

ASSERT (IPC_EVENT_TYPE_NOT_SET == 0);
ASSERT (IPC_EVENT_TYPE_ERROR == 1);
ASSERT (IPC_EVENT_TYPE_EXTRA_SOCKET == 2);
ASSERT (IPC_EVENT_TYPE_CONNECTION == 3);
ASSERT (IPC_EVENT_TYPE_DISCONNECTION == 4);
ASSERT (IPC_EVENT_TYPE_MESSAGE == 5);

ASSERT (IPC_ERROR_NONE == 0);
ASSERT (IPC_ERROR_NOT_ENOUGH_MEMORY == 1);
ASSERT (IPC_ERROR_CLOSED_RECIPIENT == 2);
ASSERT (IPC_ERROR_SERVER_INIT__NO_ENVIRONMENT_PARAM == 3);
ASSERT (IPC_ERROR_SERVER_INIT__NO_SERVICE_PARAM == 4);
ASSERT (IPC_ERROR_SERVER_INIT__NO_SERVER_NAME_PARAM == 5);
ASSERT (IPC_ERROR_SERVER_INIT__MALLOC == 6);
ASSERT (IPC_ERROR_CONNECTION__NO_SERVER == 7);
ASSERT (IPC_ERROR_CONNECTION__NO_SERVICE_NAME == 8);
ASSERT (IPC_ERROR_CONNECTION__NO_ENVIRONMENT_PARAM == 9);
ASSERT (IPC_ERROR_CONNECTION_GEN__NO_CINFO == 10);
ASSERT (IPC_ERROR_ACCEPT__NO_SERVICE_PARAM == 11);
ASSERT (IPC_ERROR_ACCEPT__NO_CLIENT_PARAM == 12);
ASSERT (IPC_ERROR_ACCEPT == 13);
ASSERT (IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFO_PARAM == 14);
ASSERT (IPC_ERROR_HANDLE_NEW_CONNECTION__NO_CINFOS_PARAM == 15);
ASSERT (IPC_ERROR_WAIT_EVENT__SELECT == 16);
ASSERT (IPC_ERROR_WAIT_EVENT__NO_CLIENTS_PARAM == 17);
ASSERT (IPC_ERROR_WAIT_EVENT__NO_EVENT_PARAM == 18);
ASSERT (IPC_ERROR_HANDLE_NEW_CONNECTION__MALLOC == 19);
ASSERT (IPC_ERROR_ADD__EMPTY_LIST == 20);
ASSERT (IPC_ERROR_ADD__NO_PARAM_CLIENTS == 21);
ASSERT (IPC_ERROR_ADD__NO_PARAM_CLIENT == 22);
ASSERT (IPC_ERROR_ADD_FD__NO_PARAM_CINFOS == 23);
ASSERT (IPC_ERROR_DEL__EMPTY_LIST == 24);
ASSERT (IPC_ERROR_DEL__EMPTIED_LIST == 25);
ASSERT (IPC_ERROR_DEL__CANNOT_FIND_CLIENT == 26);
ASSERT (IPC_ERROR_DEL__NO_CLIENTS_PARAM == 27);
ASSERT (IPC_ERROR_DEL__NO_CLIENT_PARAM == 28);
ASSERT (IPC_ERROR_USOCK_SEND == 29);
ASSERT (IPC_ERROR_USOCK_CONNECT__SOCKET == 30);
ASSERT (IPC_ERROR_USOCK_CONNECT__WRONG_FILE_DESCRIPTOR == 31);
ASSERT (IPC_ERROR_USOCK_CONNECT__EMPTY_PATH == 32);
ASSERT (IPC_ERROR_USOCK_CLOSE == 33);
ASSERT (IPC_ERROR_USOCK_REMOVE__UNLINK == 34);
ASSERT (IPC_ERROR_USOCK_REMOVE__NO_FILE == 35);
ASSERT (IPC_ERROR_USOCK_INIT__EMPTY_FILE_DESCRIPTOR == 36);
ASSERT (IPC_ERROR_USOCK_INIT__WRONG_FILE_DESCRIPTOR == 37);
ASSERT (IPC_ERROR_USOCK_INIT__EMPTY_PATH == 38);
ASSERT (IPC_ERROR_USOCK_INIT__BIND == 39);
ASSERT (IPC_ERROR_USOCK_INIT__LISTEN == 40);
ASSERT (IPC_ERROR_USOCK_ACCEPT__PATH_FILE_DESCRIPTOR == 41);
ASSERT (IPC_ERROR_USOCK_ACCEPT == 42);
ASSERT (IPC_ERROR_USOCK_RECV__NO_BUFFER == 43);
ASSERT (IPC_ERROR_USOCK_RECV__NO_LENGTH == 44);
ASSERT (IPC_ERROR_USOCK_RECV == 45);
ASSERT (IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM == 46);
ASSERT (IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM == 47);
ASSERT (IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM == 48);
ASSERT (IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA == 49);
ASSERT (IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM == 50);
ASSERT (IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS == 51);
ASSERT (IPC_ERROR_MESSAGE_FORMAT__LENGTH == 52);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE == 53);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE == 54);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER == 55);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE == 56);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER == 57);
ASSERT (IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE == 58);
ASSERT (IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST == 59);

/* The preprocessor can compute with the numbers, as with those of a header written by hand. */
#if IPC_HEADER_SIZE != 5 || IPC_MAX_MESSAGE_SIZE != 7999995 || IPC_VERSION != 1
#error "a number of the protocol has changed"
#endif
#if PATH_MAX != 4096 || LISTEN_BACKLOG != 128
#error "a limit has changed"
#endif
#if !defined (IPC_WITH_UNIX_SOCKETS) || !defined (LOG)
#error "a macro is missing"
#endif
#if !defined (handle_error) || !defined (handle_err)
#error "a statement macro for errors is missing"
#endif
#if !defined (IPC_EVENT_SET) || !defined (IPC_EVENT_CLEAN)
#error "a statement macro for events is missing"
#endif
ASSERT (sizeof (RUNDIR) == sizeof ("/run/ipc/"));

int main (void)
{
	int code, other;

	if (strcmp (RUNDIR, "/run/ipc/") != 0) {
		fprintf (stderr, "%s:%d: RUNDIR is %s\n", __FILE__, __LINE__, RUNDIR);
		return 1;
	}
	/* Each code has its own message, and a number that is no code has none. */
	for (code = IPC_ERROR_NONE; code <= IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST; code++) {
		const char *sentence = ipc_errors_get ((enum ipc_errors) code);
		if (sentence == NULL || *sentence == '\0') {
			fprintf (stderr, "%s:%d: code %d has no sentence\n", __FILE__, __LINE__, code);
			return 1;
		}
		for (other = IPC_ERROR_NONE; other < code; other++) {
			if (strcmp (sentence, ipc_errors_get ((enum ipc_errors) other)) == 0) {
				fprintf (stderr, "%s:%d: codes %d and %d: %s\n", __FILE__, __LINE__, other, code, sentence);
				return 1;
			}
		}
	}
	return 0;
}
