#include "client.h"

#include <unistd.h>

static void (*const behave[BEHAVIOURS]) (struct client *) = {
    [WARMING] = be_warming, [POLITE] = be_polite,           [FLOODING] = be_flooding,
    [THREADS] = be_threads, [DESCRIPTORS] = be_descriptors, [SLOW] = be_slow,
    [STUCK] = be_stuck,     [HOSTILE] = be_hostile,         [KILLED] = be_killed,
    [DISMISSED] = be_dismissed,
};

void
client_run (enum behaviour behaviour, int seat, uint64_t seed)
{
    struct client client = {0};

    client.behaviour = behaviour;
    client.seat = &shared->seats[seat];
    client.dice.state = seed;
    client.info.fd = -1;
    client.hello.seed = dice_roll (&client.dice);
    client.hello.behaviour = behaviour;
    client.hello.seat = (uint32_t) seat;
    snprintf (process_name, sizeof process_name, "a %s client, seat %d, seed %llu", behaviour_names[behaviour], seat,
              (unsigned long long) seed);
    client_limit ();
    behave[behaviour](&client);
    free (client.room);
}

void
client_limit (void)
{
    alarm (LIMIT_SECONDS);
}

void
client_connect (struct client *client)
{
    if (! good ("ipc_connection", ipc_connection (environ, &client->info, SERVICE))) {
        _exit (EXIT_SUCCESS); /* reported already */
    }
    ADD (shared->tallies[client->behaviour].connections, 1);
    SET (client->seat->connected, true);
}

static void
say_hello (struct client *client)
{
    struct ipc_message hello = {(char) HELLO, sizeof client->hello, (char *) &client->hello};
    struct ipc_message answer = {0};

    for (int lane = 0; lane < LANES; lane++) {
        client->up[lane] = client->back[lane] = up_stream (&client->hello, lane);
    }
    client->room = malloc (client->hello.largest + 1);
    if (client->room == NULL) {
        give_up ("memory");
    }
    if (! good ("ipc_write", ipc_write (&client->info, &hello)) || ! client_read (client, &answer)) {
        _exit (EXIT_SUCCESS);
    }
    count (&shared->tallies[client->behaviour].down, answer.length);
    if (answer.type != hello.type || answer.length != hello.length
        || memcmp (answer.payload, hello.payload, hello.length) != 0) {
        broken (CORRUPT, "the answer to hello");
    }
    ipc_message_empty (&answer);
}

void
client_begin (struct client *client)
{
    client_connect (client);
    say_hello (client);
}

void
client_send (struct client *client, enum verb verb, int lane)
{
    struct ipc_message m = stream_next (&client->up[lane], verb, lane, client->room);

    client_limit ();
    good ("ipc_write", ipc_write (&client->info, &m));
}

bool
client_read (struct client *client, struct ipc_message *m)
{
    client_limit ();
    return good ("ipc_read", ipc_read (&client->info, m));
}

void
client_take (struct client *client, const struct ipc_message *m)
{
    count (&shared->tallies[client->behaviour].down, m->length);
    stream_take (&client->back[lane_of (m)], m);
}

bool
client_receive (struct client *client)
{
    struct ipc_message m = {0, 0, NULL};

    if (! client_read (client, &m)) {
        return false;
    }
    client_take (client, &m);
    ipc_message_empty (&m);
    return true;
}

void
client_has_all (const struct client *client)
{
    for (int lane = 0; lane < LANES; lane++) {
        uint64_t asked = client->up[lane].next, answered = client->back[lane].next;

        if (asked != answered) {
            broken (LOST, "%llu answers to %llu messages", (unsigned long long) answered,
                    (unsigned long long) asked);
        }
    }
}

void
client_awaits_end (struct client *client)
{
    struct ipc_message m = {0, 0, NULL};
    enum ipc_errors code;

    client_limit ();
    code = ipc_read (&client->info, &m);
    if (code == IPC_ERROR_NONE) {
        broken (DOUBLED, "a message of %u bytes after the last one", (unsigned) m.length);
        ipc_message_empty (&m);
    } else if (code != IPC_ERROR_CLOSED_RECIPIENT) {
        broken (CALLS, "ipc_read at the end: %s (%s)", ipc_errors_get (code), strerror (errno));
    }
}

void
client_close (struct client *client)
{
    good ("ipc_close", ipc_close (&client->info));
}

void
client_turn (const struct client *client, uint64_t begin)
{
    keep_largest (&shared->tallies[client->behaviour].longest_turn, now () - begin);
}
