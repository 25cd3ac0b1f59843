/*
 * libipc for C++17: the rules of ipc.h about who frees what, as constructors and destructors.
 *
 * Errors are exceptions of the type ipc::Error. Every function of ipc.h and ipc_ext.h can be
 * called with the structures that get () and Event give.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef IPC_HPP
#define IPC_HPP

#include <ipc.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>

namespace ipc {

/* The code of the library, errno, and the sentences for both. */
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

    /* Waits for the next message. */
    Message read () const
    {
        Message message;

        check ("reading", ipc_read (&c, &message.m));
        return message;
    }

    const struct ipc_connection_info *get () const { return &c; }

private:
    static struct ipc_connection_info closed ()
    {
        struct ipc_connection_info none {};

        none.fd = -1;
        return none;
    }

    struct ipc_connection_info c = closed ();
};

/* What a server is told; good until it waits again. */
struct Event {
    enum ipc_event_type type;
    const struct ipc_connection_info *origin;
    const struct ipc_message *message; /* NULL for none */

    std::string_view bytes () const
    {
        return message == nullptr ? std::string_view {} : std::string_view {message->payload, message->length};
    }
};

/* A service and its clients. It is not copied and not moved: the library knows a list by its address. */
class Server {
public:
    explicit Server (const char *name, uint32_t index = 0, uint32_t version = 0)
    {
        service.index = index;
        service.version = version;
        enum ipc_errors error = ipc_server_init (environ, &service, name);

        if (error != IPC_ERROR_NONE) {
            int reason = errno;

            /* It frees the path. */
            ipc_server_close (&service);
            errno = reason;
        }
        check ("opening the service", error);
    }

    Server (const Server &) = delete;
    Server &operator= (const Server &) = delete;

    /* The service first: no new client finds it. */
    ~Server ()
    {
        free_the_gone ();
        IPC_EVENT_CLEAN (&event);
        ipc_server_close (&service);
        for (int32_t i = 0; i < list.size; i++) {
            /* The descriptors of read_too () are not ours to close. */
            if (list.cinfos[i]->type != 'a')
                ipc_close (list.cinfos[i]);
            std::free (list.cinfos[i]);
        }
        ipc_connections_free (&list);
    }

    const char *path () const { return service.spath; }

    /* Has wait () read this descriptor too and tell what it gives, as IPC_EVENT_TYPE_EXTRA_SOCKET. */
    void read_too (int fd) { check ("adding a descriptor", ipc_add_fd (&list, fd)); }

    Event wait ()
    {
        enum ipc_errors code;

        free_the_gone ();
        /* Stopped and continued: nothing is lost. */
        do
            code = ipc_wait_event (&list, &service, &event);
        while (code == IPC_ERROR_WAIT_EVENT__SELECT && errno == EINTR);
        check ("waiting", code);
        return {event.type, event.origin, static_cast<const struct ipc_message *> (event.m)};
    }

    void write (const Event &to, const struct ipc_message *message) const
    {
        check ("answering", ipc_write (to.origin, message));
    }

private:
    /* Who has left is out of the list, and his structure ours to free, once the program has seen it. */
    void free_the_gone ()
    {
        if (event.type == IPC_EVENT_TYPE_DISCONNECTION)
            std::free (event.origin);
        event.type = IPC_EVENT_TYPE_NOT_SET;
    }

    struct ipc_connection_info service {};
    struct ipc_connection_infos list {};
    struct ipc_event event {};
};

} // namespace ipc

#endif
