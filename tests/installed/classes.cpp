// What examples-cpp/ipc.hpp gives can be passed to every function of the headers.

#include "ipc.hpp"

#include <iostream>

static int destroyed;

static void destroy (void *)
{
    destroyed++;
}

static void expect (bool condition, const char *what)
{
    if (! condition) {
        std::cerr << "not so: " << what << '\n';
        std::exit (EXIT_FAILURE);
    }
}

#define EXPECT(condition) expect (condition, #condition)

static void serve ()
{
    ipc::Server server ("classes");
    ipc::Connection client = ipc::Connection::wait_for ("classes", 1000);
    struct ipc_status status {};
    struct ipc_peer peer {};
    enum ipc_reason reason = IPC_REASON_NONE;
    int data = 7;

    EXPECT (server.wait (0).type == IPC_EVENT_TYPE_CONNECTION);
    EXPECT (server.wait (1).type == IPC_EVENT_TYPE_NOT_SET);
    ipc::check ("limits", ipc_limits (server.service (), 1000, 0));
    ipc::check ("timer", ipc_add_timer (server.list (), 0, 0, nullptr));
    ipc::Event event = server.wait ();
    EXPECT (event.type == IPC_EVENT_TYPE_EXTRA_SOCKET && event.message->type == IPC_MSG_TIMER);
    client.write ("one", 7);
    event = server.wait ();
    EXPECT (event.type == IPC_EVENT_TYPE_MESSAGE && event.bytes () == "one" && event.message->type == 7);
    ipc::check ("data", ipc_set_data (event.origin, &data, destroy));
    EXPECT (ipc_data (event.origin) == &data);
    ipc::check ("peer", ipc_peer (event.origin, &peer));
    EXPECT (peer.pid == getpid ());
    ipc::check ("status", ipc_status (server.list (), &status));
    EXPECT (status.clients == 1 && status.received == 1);
    server.write (event, event.message);
    ipc::check ("broadcast", ipc_broadcast (server.list (), event.message, nullptr, nullptr));
    EXPECT (client.read (1000).bytes () == "one" && client.read ().type () == 7);
    try {
        client.read (1);
        EXPECT (! "a message");
    } catch (const ipc::Error &error) {
        EXPECT (error.code == IPC_ERROR_USOCK_RECV && error.number == ETIMEDOUT);
    }
    ipc::check ("end", ipc_end (server.list (), event.origin, 0));
    event = server.wait ();
    EXPECT (event.type == IPC_EVENT_TYPE_DISCONNECTION);
    ipc::check ("why", ipc_why (event.origin, &reason));
    EXPECT (reason == IPC_REASON_CLOSED && destroyed == 0);
    EXPECT (server.wait (0).type == IPC_EVENT_TYPE_NOT_SET && destroyed == 1);
}

int main ()
{
    try {
        serve ();
    } catch (const ipc::Error &error) {
        std::cerr << error.what () << '\n';
        return EXIT_FAILURE;
    }
    std::cout << "ok\n";
    return EXIT_SUCCESS;
}
