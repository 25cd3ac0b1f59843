/*
 * Clients that send much before they read: flooding clients, clients that write from several threads, and clients that
 * do not read at all, or only after the server could queue no more.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "client.h"

#include <pthread.h>
#include <sys/socket.h>

#define WRITERS 3

/* All answers together are well below the limit of the server's queue. */
#define FLOOD 4000

void
be_flooding (struct client *client)
{
    uint32_t messages = 1000 + dice_below (&client->dice, FLOOD - 1000);
    bool says_no_more = dice_below (&client->dice, 2) == 0;
    enum verb verb = dice_below (&client->dice, 2) == 0 ? ECHO : QUEUE;

    client->hello.largest = 4096;
    client_begin (client);
    for (uint32_t i = 0; i < messages; i++) {
        client_send (client, verb, 0);
    }
    if (says_no_more) {
        shutdown (client->info.fd, SHUT_WR);
    }
    for (uint32_t i = 0; i < messages; i++) {
        if (! client_receive (client)) {
            break;
        }
    }
    client_has_all (client);
    if (says_no_more) {
        client_awaits_end (client);
    }
    client_close (client);
}

/* One of several threads that write to the same connection. */
struct writer {
    pthread_t thread;
    struct ipc_connection_info *info;
    struct stream *stream;
    int lane;
    uint32_t messages;
};

static void *
write_all (void *argument)
{
    struct writer *writer = argument;
    char *room = malloc (writer->stream->largest);

    if (room == NULL) {
        give_up ("memory");
    }
    for (uint32_t i = 0; i < writer->messages; i++) {
        struct ipc_message m = stream_next (writer->stream, i % 2 == 0 ? ECHO : QUEUE, writer->lane, room);
        good ("ipc_write", ipc_write (writer->info, &m));
    }
    free (room);
    return NULL;
}

void
be_threads (struct client *client)
{
    struct writer writers[WRITERS];
    uint32_t messages = 0;

    client->hello.largest = 65536;
    client_begin (client);
    for (int i = 0; i < WRITERS; i++) {
        struct writer *writer = &writers[i];

        writer->info = ipc_connection_copy (&client->info);
        writer->stream = &client->up[i];
        writer->lane = i;
        writer->messages = 1 + dice_below (&client->dice, 200);
        messages += writer->messages;
        if (writer->info == NULL || pthread_create (&writer->thread, NULL, write_all, writer) != 0) {
            give_up ("a thread");
        }
    }
    while (messages-- > 0 && client_receive (client)) {
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join (writers[i].thread, NULL);
        free (writers[i].info);
    }
    client_has_all (client);
    client_close (client);
}

/* Reads the messages that the server has accepted for this client; the server says how many there must be. */
static void
read_late (struct client *client)
{
    struct stream down = down_stream (&client->hello);
    struct ipc_message m = {0, 0, NULL};
    uint64_t accepted;

    while (client_read (client, &m)) {
        count (&shared->tallies[client->behaviour].down, m.length);
        if (verb_of (&m) == FILLED && m.length == sizeof accepted) {
            memcpy (&accepted, m.payload, sizeof accepted);
            ipc_message_empty (&m);
            if (accepted != down.next) {
                broken (LOST, "%llu messages have come of %llu that were accepted",
                        (unsigned long long) down.next, (unsigned long long) accepted);
            }
            return;
        }
        stream_take (&down, &m);
        ipc_message_empty (&m);
    }
}

void
be_stuck (struct client *client)
{
    bool reads_late = dice_below (&client->dice, 2) == 0;

    client->hello.max_queue = dice_below (&client->dice, 2) == 0 ? 0 : 256 << 10;
    SET (client->seat->full, false);
    client->hello.largest = 64;
    client_begin (client);
    client_send (client, FILL, 0);
    AWAIT (GET (client->seat->full));
    if (! GET (client->seat->full)) {
        broken (HUNG, "one process_name does not read is not refused");
    }
    pause_ms (dice_below (&client->dice, 1000));
    if (reads_late) {
        read_late (client);
        /* The connection can be used like any other. */
        client->back[0].next = client->up[0].next;
        for (int i = 0; i < 10; i++) {
            client_send (client, ECHO, 0);
            client_receive (client);
        }
        client_has_all (client);
    }
    client_close (client);
}
