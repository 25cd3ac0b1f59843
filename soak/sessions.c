#include "sessions.h"

#include <unistd.h>

/* The bytes that the kernel may hold for a client that does not read, including bytes that were sent before. */
#define KERNEL_ROOM (4 << 20)

#define ALL_QUEUES ((size_t) 256 << 20)

static struct session **sessions;
static int count_of_sessions, room_for_sessions;

struct stream
up_stream (const struct hello *hello, int lane)
{
    struct stream stream = {hello->seed + (uint64_t) lane, hello->largest, hello->is_flat != 0, 0};

    return stream;
}

struct stream
down_stream (const struct hello *hello)
{
    struct stream stream = {hello->seed + LANES, 65536, false, 0};

    return stream;
}

static struct session *
find (const struct ipc_connection_info *origin)
{
    for (int i = 0; i < count_of_sessions; i++) {
        if (sessions[i]->origin == origin) {
            return sessions[i];
        }
    }
    return NULL;
}

struct session *
session_of (const struct ipc_connection_info *origin, const char *event)
{
    struct session *session = find (origin);

    if (session == NULL) {
        broken (TURNS, "%s of somebody process_name is not there", event);
    }
    return session;
}

void
session_begin (struct ipc_connection_info *origin)
{
    struct session *session = calloc (1, sizeof *session);

    if (find (origin) != NULL) {
        broken (TURNS, "a second CONNECTION of %d", origin->fd);
    }
    if (count_of_sessions == room_for_sessions) {
        room_for_sessions = 2 * room_for_sessions + 64;
        sessions = realloc (sessions, (size_t) room_for_sessions * sizeof sessions[0]);
    }
    if (session == NULL || sessions == NULL) {
        give_up ("memory");
    }
    session->origin = origin;
    sessions[count_of_sessions++] = session;
}

void
session_end (struct session *session)
{
    for (int i = 0; i < count_of_sessions; i++) {
        if (sessions[i] == session) {
            sessions[i] = sessions[--count_of_sessions];
            break;
        }
    }
    free (session->origin);
    free (session);
}

int
sessions_open (void)
{
    return count_of_sessions;
}

bool
may_go (const struct session *session)
{
    switch (session->behaviour) {
    case UNKNOWN:
    case STUCK:
    case HOSTILE:
    case KILLED:
        return true;
    default:
        return false;
    }
}

/* Checks the result of a write to the client, which began at that time; returns whether it was accepted. */
static bool
accepted (const struct session *session, const char *call, uint64_t begin, enum ipc_errors code)
{
    keep_largest (&shared->server.longest_write, now () - begin);
    if (code == IPC_ERROR_NONE) {
        return true;
    }
    if (code == IPC_ERROR_MESSAGE_WRITE__NOT_ENOUGH_DATA && errno == EAGAIN
        && (session->behaviour == STUCK || session->behaviour == HOSTILE)) {
        ADD (shared->server.refusals, 1);
    } else if (code == IPC_ERROR_USOCK_SEND && errno == EPIPE && may_go (session)) {
        ADD (shared->server.epipes, 1);
    } else {
        broken (CALLS, "%s to one process_name is %s: %s (%s)", call, behaviour_names[session->behaviour],
                ipc_errors_get (code), strerror (errno));
    }
    return false;
}

static bool
answer (const struct session *session, const struct ipc_message *m)
{
    uint64_t begin = now ();

    return accepted (session, "ipc_write", begin, ipc_write (session->origin, m));
}

static void
take_hello (struct session *session, const struct ipc_message *m)
{
    struct hello *hello = &session->hello;

    if (verb_of (m) != HELLO || m->length != sizeof *hello) {
        broken (CORRUPT, "%u bytes for a hello", (unsigned) m->length);
        return;
    }
    memcpy (hello, m->payload, sizeof *hello);
    session->behaviour = hello->behaviour < BEHAVIOURS ? (enum behaviour) hello->behaviour : HOSTILE;
    for (int lane = 0; lane < LANES; lane++) {
        session->up[lane] = up_stream (hello, lane);
    }
    session->down = down_stream (hello);
    if (hello->wants_descriptors != 0) {
        good ("ipc_allow_fds", ipc_allow_fds (session->origin));
    }
    good ("ipc_limits", ipc_limits (session->origin, hello->max_message, hello->max_queue));
    answer (session, m);
}

/* Checks the file that was passed with the message. */
static void
take_file (const struct session *session, int lane)
{
    int fd;

    if (! good ("ipc_take_fd", ipc_take_fd (session->origin, &fd))) {
        return;
    }
    check_file (&session->up[lane], session->up[lane].next - 1, fd);
    close (fd);
    ADD (shared->server.descriptors_in, 1);
    if (ipc_take_fd (session->origin, &fd) != IPC_ERROR_USOCK_RECV || errno != ENOENT || fd != -1) {
        broken (CALLS, "ipc_take_fd: a descriptor more than was sent");
    }
}

static void
give_file (const struct session *session, const struct ipc_message *m, int lane)
{
    int fd = file_of (&session->up[lane], session->up[lane].next - 1);

    if (accepted (session, "ipc_write_fd", now (), ipc_write_fd (session->origin, m, fd))) {
        ADD (shared->server.descriptors_out, 1);
    }
    close (fd);
}

/* Sends the number of accepted messages; it is sent later if the queue has no room for it. */
static void
tell_count (struct session *session)
{
    uint64_t accepted_messages = session->down.next;
    struct ipc_message m = {(char) FILLED, sizeof accepted_messages, (char *) &accepted_messages};

    session->owes_count = ! answer (session, &m) && errno == EAGAIN;
}

/* Sends to a client that does not read, until a message is refused. */
static void
fill (struct session *session)
{
    static char room[65536];
    const size_t own_limit = session->hello.max_queue, limit = own_limit == 0 ? ALL_QUEUES : own_limit;
    size_t bytes = 0, pending = 0;

    for (;;) {
        struct ipc_message m = stream_next (&session->down, SINK, 0, room);

        if (! answer (session, &m)) {
            session->down.next--;
            if (errno != EAGAIN) {
                return;
            }
            good ("ipc_pending", ipc_pending (session->origin, &pending));
            if (pending > limit || (own_limit > 0 && pending + m.length + IPC_HEADER_SIZE <= limit)) {
                broken (CALLS, "ipc_write: refused with %zu bytes queued, and the limit is %zu", pending, limit);
            }
            break;
        }
        bytes += m.length + IPC_HEADER_SIZE;
        if (bytes > limit + KERNEL_ROOM) {
            broken (CALLS, "ipc_write: %zu bytes accepted, and the limit is %zu", bytes, limit);
            break;
        }
    }
    SET (shared->seats[session->hello.seat].full, true);
    tell_count (session);
}

void
session_take (struct session *session, const struct ipc_message *m)
{
    int lane = lane_of (m);

    if (session->has_failed) {
        broken (TURNS, "a MESSAGE after the ERROR");
    }
    if (session->behaviour == UNKNOWN) {
        take_hello (session, m);
        count (&shared->tallies[session->behaviour].up, m->length);
        return;
    }
    count (&shared->tallies[session->behaviour].up, m->length);
    stream_take (&session->up[lane], m);
    switch (verb_of (m)) {
    case QUEUE:
        accepted (session, "ipc_queue", now (), ipc_queue (session->origin, m));
        break;
    case SINK:
        break;
    case WANT:
        give_file (session, m, lane);
        break;
    case FILL:
        fill (session);
        break;
    case GIVE:
        take_file (session, lane);
        answer (session, m);
        break;
    case DROP:
        answer (session, m);
        session->is_to_drop = true;
        break;
    default:
        answer (session, m);
        break;
    }
}

void
sessions_drop (struct ipc_connection_infos *clients)
{
    for (int i = count_of_sessions; i-- > 0;) {
        struct session *session = sessions[i];

        if (! session->is_to_drop) {
            continue;
        }
        session->is_to_drop = false;
        if (session->hello.seed % 2 == 0) {
            /* The event loop will report the disconnection. */
            session->is_dropped = true;
            good ("ipc_close", ipc_close (session->origin));
        } else {
            good ("ipc_del", ipc_del (clients, session->origin));
            good ("ipc_close", ipc_close (session->origin));
            session_end (session);
            ADD (shared->server.dismissed, 1);
        }
    }
}

void
sessions_tick (void)
{
    uint64_t queued = 0;

    for (int i = 0; i < count_of_sessions; i++) {
        size_t pending = 0;

        if (sessions[i]->owes_count) {
            tell_count (sessions[i]);
        }
        if (! sessions[i]->is_dropped) {
            good ("ipc_pending", ipc_pending (sessions[i]->origin, &pending));
        }
        queued += pending;
    }
    SET (shared->server.queued, queued);
}
