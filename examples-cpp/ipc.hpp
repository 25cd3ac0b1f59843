/*
 * libipc for C++17: constructors and destructors follow the rules of ipc.h for the ownership of memory.
 *
 * Errors are exceptions of the type ipc::Error. Every function of ipc.h and ipc_ext.h can be called with the
 * structures that get (), list (), service () and Event return; check () throws the exception for its code.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef IPC_HPP
#define IPC_HPP

#include <ipc_ext.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>

namespace ipc {

/* The code of the library, errno, and the messages for both. */
class Error : public std::runtime_error {
public:
    Error (const char *what, enum ipc_errors its_code, int its_number)
        : std::runtime_error (std::string (what) + ": " + ipc_errors_get (its_code) + " ("
                              + std::strerror (its_number) + ")"),
          code (its_code), number (its_number)
    {
    }

    const enum ipc_errors code;
    const int number; /* errno */
};

inline void check (const char *what, enum ipc_errors code)
{
    if (code != IPC_ERROR_NONE)
        throw Error (what, code, errno);
}

/* A message and its payload. */
class Message {
public:
    Message () = default;

    explicit Message (std::string_view bytes, char type = MSG_TYPE_DATA)
    {
        /* A message without payload has length 0 and no pointer. */
        const char *payload = bytes.empty () ? nullptr : bytes.data ();

        check ("making a message", ipc_message_format (&m, type, payload, static_cast<ssize_t> (bytes.size ())));
    }

    Message (Message &&other) noexcept : m (std::exchange (other.m, ipc_message {})) {}
    Message &operator= (Message &&other) noexcept
    {
        std::swap (m, other.m);
        return *this;
    }
    ~Message () { ipc_message_empty (&m); }

    char type () const { return m.type; }
    std::string_view bytes () const { return {m.payload, m.length}; }
    const struct ipc_message *get () const { return &m; }
    struct ipc_message *get () { return &m; }

private:
    friend class Connection;
    struct ipc_message m {};
};

/* A client's connection to a service. */
class Connection {
public:
    explicit Connection (const char *service, uint32_t index = 0, uint32_t version = 0)
    {
        c.index = index;
        c.version = version;
        check ("connecting", ipc_connection (environ, &c, service));
    }

    /* Waits for the service for at most timeout_ms milliseconds; below 0 without a timeout. */
    static Connection wait_for (const char *service, int timeout_ms, uint32_t index = 0, uint32_t version = 0)
    {
        Connection connection;

        connection.c.index = index;
        connection.c.version = version;
        check ("connecting", ipc_connection_timeout (&connection.c, service, timeout_ms));
        return connection;
    }

    Connection (Connection &&other) noexcept : c (std::exchange (other.c, closed ())) {}
    Connection &operator= (Connection &&other) noexcept
    {
        std::swap (c, other.c);
        return *this;
    }
    ~Connection ()
    {
        if (c.fd >= 0)
            ipc_close (&c);
    }

    void write (const Message &message) const { check ("sending", ipc_write (&c, message.get ())); }

    void write (std::string_view bytes, char type = MSG_TYPE_DATA) const
    {
        check ("sending", ipc_send (&c, type, bytes.data (), bytes.size ()));
    }

    /* Waits for the next message, for at most timeout_ms milliseconds; below 0 without a timeout. */
    Message read (int timeout_ms = -1) const
    {
        Message message;

        check ("reading", ipc_read_timeout (&c, &message.m, timeout_ms));
        return message;
    }

    const struct ipc_connection_info *get () const { return &c; }
    struct ipc_connection_info *get () { return &c; }

private:
    Connection () = default;

    static struct ipc_connection_info closed ()
    {
        struct ipc_connection_info none {};

        none.fd = -1;
        return none;
    }

    struct ipc_connection_info c = closed ();
};

/* An event of a server; valid until the next wait. */
struct Event {
    enum ipc_event_type type;
    struct ipc_connection_info *origin;
    const struct ipc_message *message; /* NULL for none */

    std::string_view bytes () const
    {
        return message == nullptr ? std::string_view {} : std::string_view {message->payload, message->length};
    }
};

/* A service and its clients. It cannot be copied or moved: the library identifies a list by its address. */
class Server {
public:
    explicit Server (const char *name, uint32_t index = 0, uint32_t version = 0)
    {
        srv.index = index;
        srv.version = version;
        enum ipc_errors error = ipc_server_init (environ, &srv, name);

        if (error != IPC_ERROR_NONE) {
            int reason = errno;

            /* This call frees the path. */
            ipc_server_close (&srv);
            errno = reason;
        }
        check ("opening the service", error);
    }

    Server (const Server &) = delete;
    Server &operator= (const Server &) = delete;

    /* The service is closed first, so that no new client connects. */
    ~Server ()
    {
        free_disconnected ();
        IPC_EVENT_CLEAN (&event);
        ipc_server_close (&srv);
        for (int32_t i = 0; i < clients.size; i++) {
            /* The descriptors of read_too () belong to the program. */
            if (clients.cinfos[i]->type != 'a')
                ipc_close (clients.cinfos[i]);
            std::free (clients.cinfos[i]);
        }
        ipc_connections_free (&clients);
    }

    const char *path () const { return srv.spath; }

    /* Makes wait () read this descriptor, too, and report its bytes as IPC_EVENT_TYPE_EXTRA_SOCKET. */
    void read_too (int fd) { check ("adding a descriptor", ipc_add_fd (&clients, fd)); }

    /* Waits for at most timeout_ms milliseconds, below 0 without a timeout. The type is
     * IPC_EVENT_TYPE_NOT_SET when the timeout has expired. */
    Event wait (int timeout_ms = -1)
    {
        enum ipc_errors code;

        free_disconnected ();
        /* If a signal handler has run, no event is lost: wait again. */
        do
            code = ipc_wait_event_timeout (&clients, &srv, &event, timeout_ms);
        while (code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR);
        check ("waiting", code);
        return {event.type, event.origin, static_cast<const struct ipc_message *> (event.m)};
    }

    struct ipc_connection_info *service () { return &srv; }
    struct ipc_connection_infos *list () { return &clients; }

    void write (const Event &to, const struct ipc_message *message) const
    {
        check ("answering", ipc_write (to.origin, message));
    }

private:
    /* The library has removed a closed connection from the list. Its structure is freed when the program has
     * handled the DISCONNECTION. */
    void free_disconnected ()
    {
        if (event.type == IPC_EVENT_TYPE_DISCONNECTION)
            std::free (event.origin);
        event.type = IPC_EVENT_TYPE_NOT_SET;
    }

    struct ipc_connection_info srv {};
    struct ipc_connection_infos clients {};
    struct ipc_event event {};
};

} // namespace ipc

#endif
