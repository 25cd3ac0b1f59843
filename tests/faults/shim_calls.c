/*
 * The library's system calls.
 */
#include "shim_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* A function that fails or succeeds as a whole. */
#define WRAP(result_type, name, parameters, arguments) \
	result_type name parameters \
	{ \
		static struct function here = FUNCTION (#name); \
		result_type (*real) parameters; \
		*(void **) &real = real_of (&here); \
		if (fails (&here, CALLER, fault != SHORT)) \
			return -1; \
		return real arguments; \
	}

/* The parameters for addresses have the types that glibc's own header gives them. */
WRAP (int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP (int, bind, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), (fd, address, size))
WRAP (int, listen, (int fd, int backlog), (fd, backlog))
WRAP (int, connect, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), (fd, address, size))
WRAP (int, accept, (int fd, __SOCKADDR_ARG address, socklen_t *size), (fd, address, size))
WRAP (int, accept4, (int fd, __SOCKADDR_ARG address, socklen_t *size, int flags), (fd, address, size, flags))
WRAP (int, shutdown, (int fd, int how), (fd, how))
WRAP (int, getsockname, (int fd, __SOCKADDR_ARG address, socklen_t *size), (fd, address, size))
WRAP (int, getpeername, (int fd, __SOCKADDR_ARG address, socklen_t *size), (fd, address, size))
WRAP (int, getsockopt, (int fd, int level, int name, void *value, socklen_t *size), (fd, level, name, value, size))
WRAP (int, setsockopt, (int fd, int level, int name, const void *value, socklen_t size),
	(fd, level, name, value, size))
WRAP (int, epoll_create1, (int flags), (flags))
WRAP (int, timerfd_create, (clockid_t clock, int flags), (clock, flags))
WRAP (int, timerfd_settime, (int fd, int flags, const struct itimerspec *new, struct itimerspec *old),
	(fd, flags, new, old))
WRAP (int, pipe2, (int fds[2], int flags), (fds, flags))
WRAP (ssize_t, writev, (int fd, const struct iovec *pieces, int count), (fd, pieces, count))
WRAP (int, dup, (int fd), (fd))
WRAP (int, dup3, (int fd, int number, int flags), (fd, number, flags))
WRAP (int, memfd_create, (const char *name, unsigned int flags), (name, flags))
WRAP (int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP (int, unlink, (const char *path), (path))
WRAP (int, unlinkat, (int directory, const char *path, int flags), (directory, path, flags))
WRAP (int, linkat, (int from_directory, const char *from, int to_directory, const char *to, int flags),
	(from_directory, from, to_directory, to, flags))
WRAP (int, stat, (const char *path, struct stat *file), (path, file))
WRAP (int, lstat, (const char *path, struct stat *file), (path, file))
WRAP (int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP (int, fchmodat, (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags))
WRAP (int, fchownat, (int directory, const char *path, uid_t user, gid_t group, int flags),
	(directory, path, user, group, flags))
WRAP (int, inotify_init1, (int flags), (flags))
WRAP (int, inotify_add_watch, (int watch, const char *path, uint32_t events), (watch, path, events))
WRAP (int, signalfd, (int fd, const sigset_t *signals, int flags), (fd, signals, flags))
WRAP (int, fstat, (int fd, struct stat *file), (fd, file))
WRAP (int, stat64, (const char *path, struct stat64 *file), (path, file))
WRAP (int, lstat64, (const char *path, struct stat64 *file), (path, file))
WRAP (int, fstat64, (int fd, struct stat64 *file), (fd, file))

/* A signal interrupts the call only if it has nothing to report. */
int poll (struct pollfd *fds, nfds_t number, int timeout)
{
	static struct function here = FUNCTION ("poll");
	int (*real) (struct pollfd *, nfds_t, int);

	*(void **) &real = real_of (&here);
	if (fault == EINTR && is_library (CALLER)) {
		int ready = real (fds, number, 0);
		if (ready != 0) {
			fails (&here, CALLER, 0);
			return ready;
		}
	}
	return fails (&here, CALLER, fault != SHORT) ? -1 : real (fds, number, timeout);
}

int ppoll (struct pollfd *fds, nfds_t number, const struct timespec *limit, const sigset_t *mask)
{
	static struct function here = FUNCTION ("ppoll");
	int (*real) (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);

	*(void **) &real = real_of (&here);
	if (fault == EINTR && is_library (CALLER)) {
		struct timespec none = { 0, 0 };
		int ready = real (fds, number, &none, mask);
		if (ready != 0) {
			fails (&here, CALLER, 0);
			return ready;
		}
	}
	return fails (&here, CALLER, fault != SHORT) ? -1 : real (fds, number, limit, mask);
}

/* Unlocking does not wait. */
int flock (int fd, int operation)
{
	static struct function here = FUNCTION ("flock");
	int (*real) (int, int);
	int waits = (operation & LOCK_UN) == 0;

	*(void **) &real = real_of (&here);
	if (fails (&here, CALLER, fault != SHORT && (waits || (fault != EINTR && fault != EAGAIN))))
		return -1;
	return real (fd, operation);
}

/* The third argument of these functions may be missing; the value that is read in its place is then not
 * used. */
#define WRAP_VARIADIC(name, parameters, arguments, before) \
	int name parameters \
	{ \
		static struct function here = FUNCTION (#name); \
		int (*real) parameters; \
		va_list list; \
		void *extra; \
		va_start (list, before); \
		extra = va_arg (list, void *); \
		va_end (list); \
		*(void **) &real = real_of (&here); \
		if (fails (&here, CALLER, fault != SHORT)) \
			return -1; \
		return real arguments; \
	}

WRAP_VARIADIC (fcntl, (int fd, int command, ...), (fd, command, extra), command)
WRAP_VARIADIC (ioctl, (int fd, unsigned long request, ...), (fd, request, extra), request)
WRAP_VARIADIC (open, (const char *path, int flags, ...), (path, flags, extra), flags)
WRAP_VARIADIC (open64, (const char *path, int flags, ...), (path, flags, extra), flags)
WRAP_VARIADIC (openat, (int directory, const char *path, int flags, ...), (directory, path, flags, extra), flags)

/* Linux frees the number even if close reports a failure. */
int close (int fd)
{
	static struct function here = FUNCTION ("close");
	int (*real) (int);
	int result;

	*(void **) &real = real_of (&here);
	result = real (fd);
	return result == 0 && fails (&here, CALLER, fault != SHORT) ? -1 : result;
}

/* Only EPOLL_CTL_ADD can fail for lack of resources, and only if the descriptor is not registered yet. */
int epoll_ctl (int set, int operation, int fd, struct epoll_event *event)
{
	static struct function here = FUNCTION ("epoll_ctl");
	int (*real) (int, int, int, struct epoll_event *);
	int result;

	*(void **) &real = real_of (&here);
	result = real (set, operation, fd, event);
	if (!fails (&here, CALLER, operation == EPOLL_CTL_ADD && result == 0 && fault != SHORT))
		return result;
	real (set, EPOLL_CTL_DEL, fd, event);
	errno = fault;
	return -1;
}

/* Returns whether a transfer with these flags can fail with this errno: a call that does not wait is not
 * interrupted. */
static int can_fail (int flags)
{
	return fault != EINTR || (flags & MSG_DONTWAIT) == 0;
}

/* A transfer fails: the connection is put into the state that the errno describes. */
static ssize_t failed (int fd)
{
	if (fault == EPIPE || fault == ECONNRESET)
		shutdown (fd, SHUT_RDWR);
	errno = fault;
	return -1;
}

static ssize_t recv_from (const void *caller, int fd, void *room, size_t size, int flags)
{
	static struct function here = FUNCTION ("recv");
	ssize_t (*real) (int, void *, size_t, int);

	*(void **) &real = real_of (&here);
	if (fails (&here, caller, can_fail (flags))) {
		if (fault != SHORT)
			return failed (fd);
		size = size > 0;
	}
	return real (fd, room, size, flags);
}

ssize_t recv (int fd, void *room, size_t size, int flags)
{
	return recv_from (CALLER, fd, room, size, flags);
}

static ssize_t send_from (const void *caller, int fd, const void *bytes, size_t size, int flags)
{
	static struct function here = FUNCTION ("send");
	ssize_t (*real) (int, const void *, size_t, int);

	*(void **) &real = real_of (&here);
	if (fails (&here, caller, can_fail (flags))) {
		if (fault != SHORT)
			return failed (fd);
		size = size > 0;
	}
	return real (fd, bytes, size, flags);
}

ssize_t send (int fd, const void *bytes, size_t size, int flags)
{
	return send_from (CALLER, fd, bytes, size, flags);
}

/* The first byte of the pieces. */
static struct iovec first_byte (const struct iovec *pieces, size_t number)
{
	struct iovec byte = { NULL, 0 };
	size_t i;

	for (i = 0; i < number && byte.iov_len == 0; i++) {
		byte.iov_base = pieces[i].iov_base;
		byte.iov_len = pieces[i].iov_len > 0;
	}
	return byte;
}

static ssize_t recvmsg_from (const void *caller, int fd, struct msghdr *message, int flags)
{
	static struct function here = FUNCTION ("recvmsg");
	ssize_t (*real) (int, struct msghdr *, int);
	struct msghdr shorter = *message;
	struct iovec byte = first_byte (message->msg_iov, message->msg_iovlen);
	ssize_t result;

	*(void **) &real = real_of (&here);
	if (!fails (&here, caller, can_fail (flags)))
		return real (fd, message, flags);
	if (fault != SHORT)
		return failed (fd);
	shorter.msg_iov = &byte;
	shorter.msg_iovlen = 1;
	result = real (fd, &shorter, flags);
	message->msg_controllen = shorter.msg_controllen;
	message->msg_namelen = shorter.msg_namelen;
	message->msg_flags = shorter.msg_flags;
	return result;
}

ssize_t recvmsg (int fd, struct msghdr *message, int flags)
{
	return recvmsg_from (CALLER, fd, message, flags);
}

static ssize_t sendmsg_from (const void *caller, int fd, const struct msghdr *message, int flags)
{
	static struct function here = FUNCTION ("sendmsg");
	ssize_t (*real) (int, const struct msghdr *, int);
	struct msghdr shorter = *message;
	struct iovec byte = first_byte (message->msg_iov, message->msg_iovlen);

	*(void **) &real = real_of (&here);
	if (!fails (&here, caller, can_fail (flags)))
		return real (fd, message, flags);
	if (fault != SHORT)
		return failed (fd);
	shorter.msg_iov = &byte;
	shorter.msg_iovlen = 1;
	return real (fd, &shorter, flags);
}

ssize_t sendmsg (int fd, const struct msghdr *message, int flags)
{
	return sendmsg_from (CALLER, fd, message, flags);
}

/* The library also makes the calls above by their system call numbers. */
long syscall (long number, ...)
{
	static struct function here = FUNCTION ("syscall");
	long (*real) (long, ...);
	long of[6];
	va_list arguments;
	int i;

	va_start (arguments, number);
	for (i = 0; i < 6; i++)
		of[i] = va_arg (arguments, long);
	va_end (arguments);
	switch (number) {
	case SYS_recvfrom:
		return recv_from (CALLER, (int) of[0], (void *) of[1], (size_t) of[2], (int) of[3]);
	case SYS_sendto:
		return send_from (CALLER, (int) of[0], (const void *) of[1], (size_t) of[2], (int) of[3]);
	case SYS_recvmsg:
		return recvmsg_from (CALLER, (int) of[0], (struct msghdr *) of[1], (int) of[2]);
	case SYS_sendmsg:
		return sendmsg_from (CALLER, (int) of[0], (const struct msghdr *) of[1], (int) of[2]);
	}
	*(void **) &real = real_of (&here);
	return real (number, of[0], of[1], of[2], of[3], of[4], of[5]);
}

ssize_t read (int fd, void *room, size_t size)
{
	static struct function here = FUNCTION ("read");
	ssize_t (*real) (int, void *, size_t);

	*(void **) &real = real_of (&here);
	if (fails (&here, CALLER, 1)) {
		ssize_t result;
		if (fault != SHORT)
			return -1;
		/* A record that must be read as a whole is not read in part: signals, a count of expirations. */
		result = real (fd, room, size > 0);
		if (result >= 0 || errno != EINVAL)
			return result;
	}
	return real (fd, room, size);
}

ssize_t write (int fd, const void *bytes, size_t size)
{
	static struct function here = FUNCTION ("write");
	ssize_t (*real) (int, const void *, size_t);

	*(void **) &real = real_of (&here);
	if (fails (&here, CALLER, 1)) {
		if (fault != SHORT)
			return -1;
		size = size > 0;
	}
	return real (fd, bytes, size);
}

ssize_t preadv2 (int fd, const struct iovec *pieces, int number, off_t offset, int flags)
{
	static struct function here = FUNCTION ("preadv2");
	ssize_t (*real) (int, const struct iovec *, int, off_t, int);
	struct iovec byte = first_byte (pieces, (size_t) number);

	*(void **) &real = real_of (&here);
	if (!fails (&here, CALLER, 1))
		return real (fd, pieces, number, offset, flags);
	return fault == SHORT ? real (fd, &byte, 1, offset, flags) : -1;
}
