//! The faults: each function that can fail, its errors, and how the fault may affect the program.

/// How a fault may affect the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Nothing: the library handles the fault itself.
    Nothing,
    /// Calls fail. The same calls succeed if they are repeated, and nothing is lost.
    Fail,
    /// A connection is lost, and its end is reported to the program.
    Break,
}

/// Faults of one function.
pub struct Row {
    pub call: &'static str,
    pub with: &'static [&'static str],
    pub may: May,
    /// How many calls fail in a row.
    pub bursts: &'static [u32],
}

const fn row(call: &'static str, with: &'static [&'static str], may: May, bursts: &'static [u32]) -> Row {
    Row { call, with, may, bursts }
}

/// The call transfers one byte.
const SHORT: &[&str] = &["short"];

/// Errors of calls that create a descriptor.
const NO_DESCRIPTOR: &[&str] = &["EMFILE", "ENFILE", "ENOMEM"];

/// Errors of a file system, and of a security module.
const NO_ACCESS: &[&str] = &["EACCES", "EIO"];

const ONE: &[u32] = &[1];
const SOME: &[u32] = &[1, 3];
const MANY: &[u32] = &[1, 8];

/// Every function that can fail, with its errors. The functions with the most calls are first.
pub const ROWS: &[Row] = &[
    row("malloc", &["ENOMEM"], May::Fail, MANY),
    row("realloc", &["ENOMEM"], May::Fail, MANY),
    row("calloc", &["ENOMEM"], May::Fail, MANY),
    row("poll", &["EINTR"], May::Fail, SOME),
    row("poll", &["ENOMEM"], May::Break, ONE),
    row("preadv2", SHORT, May::Nothing, ONE),
    row("preadv2", &["EOPNOTSUPP"], May::Nothing, ONE),
    row("preadv2", &["EINTR", "EIO"], May::Fail, ONE),
    row("recv", SHORT, May::Nothing, MANY),
    row("recv", &["EAGAIN", "EINTR"], May::Fail, SOME),
    row("recv", &["ECONNRESET", "ENOMEM", "EACCES"], May::Break, ONE),
    row("recvmsg", SHORT, May::Nothing, MANY),
    row("recvmsg", &["EAGAIN"], May::Fail, SOME),
    row("recvmsg", &["ECONNRESET", "ENOMEM", "EACCES"], May::Break, ONE),
    row("getsockopt", &["EACCES"], May::Break, SOME),
    row("setsockopt", &["EACCES"], May::Fail, SOME),
    row("ioctl", &["EACCES"], May::Nothing, ONE),
    row("sendmsg", SHORT, May::Nothing, MANY),
    row("sendmsg", &["EAGAIN"], May::Nothing, SOME),
    row("sendmsg", &["EINTR"], May::Fail, SOME),
    row("sendmsg", &["EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM", "EACCES"], May::Break, ONE),
    row("send", &["EINTR"], May::Fail, SOME),
    row("sendmsg", &["ETOOMANYREFS"], May::Fail, ONE),
    row("send", SHORT, May::Nothing, MANY),
    row("send", &["EAGAIN"], May::Nothing, SOME),
    row("send", &["EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM", "EACCES"], May::Break, ONE),
    row("epoll_ctl", &["ENOMEM", "ENOSPC"], May::Break, SOME),
    row("close", &["EINTR", "EIO"], May::Fail, ONE),
    row("fcntl", &["EACCES", "EMFILE"], May::Fail, ONE),
    row("socket", NO_DESCRIPTOR, May::Fail, ONE),
    row("socket", &["ENOBUFS", "EACCES"], May::Fail, ONE),
    row("accept4", &["EINTR", "EAGAIN", "ENOBUFS", "EPROTO", "EACCES", "EPERM"], May::Fail, SOME),
    row("accept4", NO_DESCRIPTOR, May::Fail, SOME),
    row("accept4", &["ECONNABORTED"], May::Nothing, SOME),
    row("getpeername", &["EACCES", "ENOBUFS"], May::Fail, ONE),
    row("connect", &["EINTR", "EAGAIN", "EACCES", "ENOMEM"], May::Fail, ONE),
    row("bind", &["EACCES", "ENOMEM", "ENOSPC", "EROFS", "EIO"], May::Fail, ONE),
    row("listen", &["EACCES", "ENOMEM"], May::Fail, ONE),
    row("epoll_create1", NO_DESCRIPTOR, May::Fail, SOME),
    row("timerfd_create", NO_DESCRIPTOR, May::Fail, SOME),
    row("pipe2", NO_DESCRIPTOR, May::Fail, SOME),
    // The number of a connection that was closed is then not held.
    row("dup3", &["EBUSY", "EINTR", "EMFILE"], May::Nothing, SOME),
    row("memfd_create", NO_DESCRIPTOR, May::Nothing, ONE),
    // The error in a sandbox that does not know the call.
    row("timerfd_settime", &["EPERM"], May::Fail, ONE),
    row("open", NO_DESCRIPTOR, May::Fail, ONE),
    row("open", &["EINTR", "EACCES", "EIO"], May::Fail, ONE),
    row("fchmod", &["EPERM", "EROFS", "EIO"], May::Fail, ONE),
    row("fchmodat", &["EPERM", "EROFS", "EIO"], May::Fail, ONE),
    row("fchownat", &["EPERM", "EROFS", "EIO"], May::Fail, ONE),
    row("getsockname", &["ENOBUFS"], May::Fail, ONE),
    // Without inotify the library checks for the service periodically.
    row("inotify_init1", NO_DESCRIPTOR, May::Nothing, SOME),
    row("inotify_add_watch", &["EACCES", "ENOENT", "ENOMEM", "ENOSPC"], May::Nothing, SOME),
    row("signalfd", NO_DESCRIPTOR, May::Fail, SOME),
    row("flock", &["EINTR", "EAGAIN", "ENOLCK", "EIO"], May::Nothing, SOME),
    row("fstat64", &["ENOMEM"], May::Fail, ONE),
    row("lstat64", NO_ACCESS, May::Fail, ONE),
    row("lstat64", &["ENOMEM"], May::Fail, ONE),
    row("mkdir", NO_ACCESS, May::Fail, ONE),
    row("mkdir", &["ENOSPC", "EROFS", "ENOMEM"], May::Fail, ONE),
    row("unlink", NO_ACCESS, May::Fail, ONE),
    row("unlink", &["EROFS", "EBUSY"], May::Fail, ONE),
    row("unlinkat", NO_ACCESS, May::Fail, ONE),
    row("linkat", NO_ACCESS, May::Fail, ONE),
    row("linkat", &["ENOSPC", "EMLINK"], May::Fail, ONE),
    row("read", SHORT, May::Nothing, ONE),
    row("read", &["EINTR", "EIO"], May::Fail, ONE),
];

/// Functions that the shim does not replace. If the library calls one of them, its failures are not tested.
pub const NOT_IN_THE_SHIM: &str = "aligned_alloc reallocarray strdup strndup asprintf mmap munmap_chunk socketpair \
    recvfrom sendto recvmmsg sendmmsg readv pread pread64 preadv preadv64 pwrite pwrite64 pwritev pwritev2 \
    select pselect epoll_create epoll_pwait epoll_pwait2 timerfd_gettime pipe eventfd \
    dup2 fcntl64 openat64 creat fstatat fstatat64 __xstat __lxstat __fxstat mkdirat rename renameat \
    renameat2 link symlink rmdir chmod chown fchown lchown ftruncate access faccessat fork vfork execve";

/// Errors that occur only for a send that waits, and so may not occur in a run.
pub const MAY_NEVER_OCCUR: &[(&str, &str)] = &[("send", "EINTR"), ("sendmsg", "EINTR")];

pub fn number(name: &str) -> i32 {
    match name {
        "EACCES" => libc::EACCES,
        "EAGAIN" => libc::EAGAIN,
        "EBUSY" => libc::EBUSY,
        "ECONNABORTED" => libc::ECONNABORTED,
        "ECONNRESET" => libc::ECONNRESET,
        "EINTR" => libc::EINTR,
        "EIO" => libc::EIO,
        "EMFILE" => libc::EMFILE,
        "EMLINK" => libc::EMLINK,
        "ENFILE" => libc::ENFILE,
        "ENOBUFS" => libc::ENOBUFS,
        "ENOENT" => libc::ENOENT,
        "ENOLCK" => libc::ENOLCK,
        "ENOMEM" => libc::ENOMEM,
        "ENOSPC" => libc::ENOSPC,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EPERM" => libc::EPERM,
        "EPIPE" => libc::EPIPE,
        "EPROTO" => libc::EPROTO,
        "EROFS" => libc::EROFS,
        "ETOOMANYREFS" => libc::ETOOMANYREFS,
        _ => panic!("no errno: {name}"),
    }
}
