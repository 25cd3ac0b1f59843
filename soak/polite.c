/*
 * Clients that send a request, wait for the answer, check every byte of it, and leave: polite clients, clients that the
 * server dismisses, clients that pass descriptors, and the first wave.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "client.h"

#include <unistd.h>

/* Messages that are queued before a flush. */
#define BATCH 16

static uint32_t
some_largest (struct client *client)
{
    static const uint32_t largest[] = {300, 4096, 4096, 65536, 65536, 1000000, 1000000, LARGEST};

    return largest[dice_below (&client->dice, sizeof largest / sizeof largest[0])];
}

/* With ipc_write and ipc_read. */
static void
ask_and_wait (struct client *client, uint32_t messages)
{
    while (messages-- > 0) {
        uint64_t begin = now ();

        client_send (client, dice_below (&client->dice, 4) == 0 ? QUEUE : ECHO, 0);
        if (! client_receive (client)) {
            return;
        }
        client_turn (client, begin);
    }
}

/* The client has a list of its own: its answers are events. */
static void
ask_and_wait_for_events (struct client *client, uint32_t messages)
{
    struct ipc_connection_infos list = {0};
    struct ipc_event event = {0};

    good ("ipc_add", ipc_add (&list, &client->info));
    while (messages-- > 0) {
        uint64_t begin = now ();

        client_send (client, ECHO, 0);
        if (! good ("ipc_wait_event", ipc_wait_event (&list, NULL, &event))) {
            break;
        }
        if (event.type != IPC_EVENT_TYPE_MESSAGE || event.origin != &client->info) {
            broken (TURNS, "an event of type %d instead of an answer", (int) event.type);
            break;
        }
        client_take (client, event.m);
        client_turn (client, begin);
    }
    IPC_EVENT_CLEAN (&event);
    good ("ipc_del", ipc_del (&list, &client->info));
    ipc_connections_free (&list);
}

/* With ipc_queue and ipc_flush; a batch is smaller than the socket buffer and the server's queue. */
static void
ask_in_batches (struct client *client, uint32_t messages)
{
    while (messages > 0) {
        uint32_t batch = 1 + dice_below (&client->dice, messages < BATCH ? messages : BATCH);

        messages -= batch;
        for (uint32_t i = 0; i < batch; i++) {
            struct ipc_message m = stream_next (&client->up[0], ECHO, 0, client->room);
            good ("ipc_queue", ipc_queue (&client->info, &m));
        }
        client_limit ();
        good ("ipc_flush", ipc_flush (&client->info, -1));
        for (uint32_t i = 0; i < batch; i++) {
            if (! client_receive (client)) {
                return;
            }
        }
    }
}

void
be_polite (struct client *client)
{
    uint32_t manner = dice_below (&client->dice, 3);
    uint32_t messages = 1 + dice_below (&client->dice, 100);

    client->hello.largest = manner == 2 ? 65536 : some_largest (client);
    client_begin (client);
    if (manner == 0) {
        ask_and_wait (client, messages);
    } else if (manner == 1) {
        ask_and_wait_for_events (client, messages);
    } else {
        ask_in_batches (client, messages);
    }
    client_has_all (client);
    client_close (client);
}

void
be_dismissed (struct client *client)
{
    client->hello.largest = 4096;
    client_begin (client);
    ask_and_wait (client, dice_below (&client->dice, 20));
    client_send (client, DROP, 0);
    client_receive (client);
    client_has_all (client);
    client_awaits_end (client);
    client_close (client);
}

/* Passes a file with a message; the server checks its content. */
static void
give (struct client *client)
{
    int fd = file_of (&client->up[0], client->up[0].next);
    struct ipc_message m = stream_next (&client->up[0], GIVE, 0, client->room);

    good ("ipc_write_fd", ipc_write_fd (&client->info, &m, fd));
    close (fd);
    client_receive (client);
}

/* Requests a file with the answer, and checks its content. */
static void
want (struct client *client)
{
    struct stream *back = &client->back[0];
    int fd;

    client_send (client, WANT, 0);
    if (client_receive (client) && good ("ipc_take_fd", ipc_take_fd (&client->info, &fd))) {
        check_file (back, back->next - 1, fd);
        close (fd);
    }
}

void
be_descriptors (struct client *client)
{
    uint32_t messages = 1 + dice_below (&client->dice, 60);

    client->hello.wants_descriptors = 1;
    client->hello.largest = 65536;
    client_begin (client);
    good ("ipc_allow_fds", ipc_allow_fds (&client->info));
    while (messages-- > 0) {
        switch (dice_below (&client->dice, 3)) {
        case 0:
            give (client);
            break;
        case 1:
            want (client);
            break;
        default:
            ask_and_wait (client, 1);
            break;
        }
    }
    client_has_all (client);
    client_close (client);
}

void
be_warming (struct client *client)
{
    /* The library shall keep all kinds of data for the connection. */
    client->hello.max_message = 1000000;
    client->hello.max_queue = 1000000;
    client->hello.wants_descriptors = 1;
    client->hello.largest = 300000;
    client_begin (client);
    ask_and_wait (client, 20);
    AWAIT (GET (shared->warm));
    client_close (client);
}
