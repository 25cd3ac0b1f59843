#include "server.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "sessions.h"

/* Other C libraries do not report the heap in use: then the resident memory is used. */
#ifdef __GLIBC__
#if __GLIBC_PREREQ (2, 33)
#define HAS_MALLINFO2
#endif
#endif

/* How many events one call receives. */
#define EVENTS 32

/* After how many waits the server changes its way of waiting. */
#define WAITS_OF_A_WAY 200

/* After how many ticks the timer is removed from the list, and added again. */
#define TICKS_OF_A_TIMER 20

/* How many events are handled at most before the next poll: a busy server would otherwise never poll. */
#define TURNS_OF_A_POLL 8

enum way { ONE, TIMED, MANY, POLLED, WAYS };

static struct ipc_connection_info service;
static struct ipc_connection_infos clients;
static struct ipc_event events[EVENTS];

static int control_fd, timer_fd, watched_fd;

/* Work that is done after the current events are handled. */
static bool is_to_measure, is_to_end, is_to_renew;

static uint64_t
resident_bytes (void)
{
    unsigned long pages = 0;
    FILE *file = fopen ("/proc/self/statm", "r");

    if (file == NULL || fscanf (file, "%*u %lu", &pages) != 1) {
        give_up ("/proc/self/statm");
    }
    fclose (file);
    return pages * (uint64_t) sysconf (_SC_PAGESIZE);
}

/* Without the descriptors with which the library holds numbers: they can only be closed. */
static uint64_t
open_descriptors (void)
{
    uint64_t number = 0;
    struct dirent *entry;
    DIR *dir = opendir ("/proc/self/fd");

    if (dir == NULL) {
        give_up ("/proc/self/fd");
    }
    while ((entry = readdir (dir)) != NULL) {
        int flags = entry->d_name[0] == '.' ? -1 : fcntl (atoi (entry->d_name), F_GETFL);

        number += flags >= 0 && (flags & O_PATH) == 0;
    }
    closedir (dir);
    return number - 1; /* that of the directory itself */
}

static void
look_at_heap (void)
{
#ifdef HAS_MALLINFO2
    struct mallinfo2 heap = mallinfo2 ();

    SET (shared->server.heap, heap.uordblks + heap.hblkhd);
#endif
}

static void
clean_events (void)
{
    for (int i = 0; i < EVENTS; i++) {
        IPC_EVENT_CLEAN (&events[i]);
    }
}

/* The memory in use without clients: the driver compares it with an earlier measurement. */
static void
measure (void)
{
    struct server_counts *counts = &shared->server;

    clean_events ();
    look_at_heap ();
#ifdef HAS_MALLINFO2
    malloc_trim (0);
#endif
    SET (counts->resident, resident_bytes ());
    SET (counts->open, open_descriptors ());
    ADD (counts->measured, 1);
}

static void
take_extra (const struct ipc_event *event)
{
    const struct ipc_message *m = event->m;
    uint64_t number;

    if (event->origin->fd == watched_fd) {
        if (m != NULL || read (watched_fd, &number, sizeof number) != sizeof number) {
            broken (CALLS, "ipc_watch_fd: reported without a cause");
            return;
        }
        ADD (shared->server.watched, number);
    } else if (m == NULL) {
        broken (CALLS, "ipc_add_fd: an event without bytes");
    } else if (event->origin->fd == timer_fd) {
        if (m->length != sizeof number) {
            broken (CALLS, "ipc_add_fd: %u bytes of a timer", (unsigned) m->length);
            return;
        }
        memcpy (&number, m->payload, sizeof number);
        ADD (shared->server.ticks, number);
        is_to_renew = GET (shared->server.ticks) % TICKS_OF_A_TIMER == 0;
        sessions_tick ();
        look_at_heap ();
    } else if (m->length == 0) {
        is_to_end = true;
    } else {
        is_to_measure = true;
    }
}

static void
take_event (const struct ipc_event *event)
{
    struct server_counts *counts = &shared->server;
    struct session *session;

    ADD (counts->events, 1);
    switch (event->type) {
    case IPC_EVENT_TYPE_CONNECTION:
        session_begin (event->origin);
        ADD (counts->connections, 1);
        break;
    case IPC_EVENT_TYPE_MESSAGE:
        session = session_of (event->origin, "a MESSAGE");
        if (session != NULL) {
            session_take (session, event->m);
        }
        break;
    case IPC_EVENT_TYPE_ERROR:
        ADD (counts->errors, 1);
        session = session_of (event->origin, "an ERROR");
        if (session == NULL) {
            break;
        }
        if (session->has_failed || ! may_go (session)) {
            broken (TURNS, "an ERROR of one process_name is %s%s", behaviour_names[session->behaviour],
                    session->has_failed ? ", after another" : "");
        }
        session->has_failed = true;
        break;
    case IPC_EVENT_TYPE_DISCONNECTION:
        session = session_of (event->origin, "a DISCONNECTION");
        if (session != NULL) {
            session_end (session);
        }
        ADD (counts->disconnections, 1);
        break;
    case IPC_EVENT_TYPE_EXTRA_SOCKET:
        take_extra (event);
        break;
    default:
        broken (CALLS, "an event of type %d", (int) event->type);
        break;
    }
}

/* Makes the changes that would be wrong while events are being handled. */
static void
tidy (void)
{
    sessions_drop (&clients);
    if (is_to_renew) {
        is_to_renew = false;
        good ("ipc_del_fd", ipc_del_fd (&clients, timer_fd));
        good ("ipc_add_fd", ipc_add_fd (&clients, timer_fd));
    }
    if (is_to_measure) {
        is_to_measure = false;
        measure ();
    }
}

/* Handles the pending events, several at once; waits for the first one for at most this time. Returns how many there
 * were. */
static size_t
take_many (int timeout)
{
    size_t taken = EVENTS;

    if (! good ("ipc_wait_events", ipc_wait_events (&clients, &service, events, &taken, timeout))) {
        return 0;
    }
    for (size_t i = 0; i < taken; i++) {
        take_event (&events[i]);
    }
    return taken;
}

static void
wait_by_poll (void)
{
    struct pollfd asked = {-1, POLLIN, 0};

    if (! good ("ipc_event_fd", ipc_event_fd (&clients, &service, &asked.fd))) {
        return;
    }
    if (poll (&asked, 1, LIMIT_SECONDS * 1000) != 1) {
        give_up ("poll: nothing happens, not even to the timer");
    }
    for (int i = 0; i < TURNS_OF_A_POLL && take_many (0) > 0; i++) {
        tidy ();
    }
}

static void
wait_in (enum way way)
{
    switch (way) {
    case MANY:
        take_many (-1);
        return;
    case POLLED:
        wait_by_poll ();
        return;
    case ONE:
        if (good ("ipc_wait_event", ipc_wait_event (&clients, &service, &events[0]))) {
            take_event (&events[0]);
        }
        return;
    default:
        if (good ("ipc_wait_event_timeout",
                  ipc_wait_event_timeout (&clients, &service, &events[0], TICK_MILLISECONDS / 2))
            && events[0].type != IPC_EVENT_TYPE_NOT_SET) {
            take_event (&events[0]);
        }
        return;
    }
}

static void
begin_timer (void)
{
    const struct timespec tick = {0, TICK_MILLISECONDS * 1000000L};
    const struct itimerspec ticks = {tick, tick};

    timer_fd = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer_fd == -1 || timerfd_settime (timer_fd, 0, &ticks, NULL) != 0) {
        give_up ("timerfd");
    }
}

static void
end (uint64_t open_before)
{
    good ("ipc_del_fd", ipc_del_fd (&clients, timer_fd));
    good ("ipc_del_fd", ipc_del_fd (&clients, watched_fd));
    good ("ipc_del_fd", ipc_del_fd (&clients, control_fd));
    close (timer_fd);
    clean_events ();
    if (clients.size != 0 || sessions_open () != 0) {
        broken (LEFT_BEHIND, "%d in the list, %d connections have not ended", (int) clients.size,
                sessions_open ());
    }
    ipc_connections_free (&clients);
    good ("ipc_server_close", ipc_server_close (&service));
    if (open_descriptors () != open_before) {
        broken (OPEN, "%d descriptors, and there were %d", (int) open_descriptors (), (int) open_before);
    }
}

int
serve (int control, int watched)
{
    uint64_t open_before = open_descriptors ();
    uint64_t broken_calls = GET (shared->broken[CALLS]);
    int event_fd;

    strcpy (process_name, "server");
    control_fd = control;
    watched_fd = watched;
    begin_timer ();
    if (! good ("ipc_server_init", ipc_server_init (environ, &service, SERVICE))
        || ! good ("ipc_add_fd", ipc_add_fd (&clients, control_fd))
        || ! good ("ipc_add_fd", ipc_add_fd (&clients, timer_fd))
        || ! good ("ipc_watch_fd", ipc_watch_fd (&clients, watched_fd))) {
        return EXIT_FAILURE;
    }
    /* From now on this process keeps its descriptors. */
    good ("ipc_event_fd", ipc_event_fd (&clients, &service, &event_fd));
    measure ();
    while (! is_to_end) {
        enum way way = (enum way) (GET (shared->server.waits) / WAITS_OF_A_WAY % WAYS);

        alarm (LIMIT_SECONDS);
        wait_in (way);
        ADD (shared->server.waits, 1);
        tidy ();
        if (GET (shared->broken[CALLS]) > broken_calls + 1000) {
            return EXIT_FAILURE;
        }
    }
    alarm (0);
    end (open_before);
    return EXIT_SUCCESS;
}
