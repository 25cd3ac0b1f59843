//! What a test looks at in its process: descriptors, memory, time spent.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Raises the limit of descriptors as far as it goes; how many that are.
pub fn raise_descriptor_limit() -> usize {
    let (_, most) = descriptor_limits();
    set_descriptor_limit(most);
    usize::try_from(most).unwrap()
}

fn descriptor_limits() -> (u64, u64) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits) }, 0);
    (limits.rlim_cur, limits.rlim_max)
}

/// From now on no descriptor gets a number of `limit` or more.
pub fn set_descriptor_limit(limit: u64) {
    let (_, most) = descriptor_limits();
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: most };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limits) }, 0);
}

/// How many descriptors this process has open, but for those that the library keeps to hold numbers (promise 41): they can
/// only be closed.
pub fn open_descriptors() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = all.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    // The directory itself is among them.
    1 + numbers.collect::<Vec<_>>().into_iter().filter(|fd| is_open(*fd)).count()
}

/// The same stream at a number that no other descriptor of the test gets by itself.
pub fn out_of_the_way(stream: UnixStream) -> UnixStream {
    let high = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 700) };
    assert!(high >= 700, "{}", std::io::Error::last_os_error());
    unsafe { UnixStream::from_raw_fd(high) }
}

/// Whether the thread with this id, of this process, waits in the kernel.
pub fn thread_sleeps(id: libc::c_long) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
    let (_, after_the_name) = stat.rsplit_once(") ").unwrap();
    after_the_name.starts_with('S')
}

/// Closes a descriptor as a program does that does not ask the library.
pub fn close(fd: RawFd) {
    assert_eq!(unsafe { libc::close(fd) }, 0, "{}", std::io::Error::last_os_error());
}

/// The open file gets another number, too, with dup2(2); what had that is closed.
pub fn at_number(fd: RawFd, number: RawFd) {
    assert_eq!(unsafe { libc::dup2(fd, number) }, number, "{}", std::io::Error::last_os_error());
}

/// Whether the number is that of an open descriptor which can be used. Until the next call for its list the number of a
/// connection whose end was reported is held, by one that can only be closed (promise 41).
pub fn is_open(fd: RawFd) -> bool {
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_PATH == 0
}

/// Bytes of the C heap in use, which Rust's own heap is a part of.
pub fn heap_in_use() -> usize {
    let heap = unsafe { libc::mallinfo2() };
    heap.uordblks + heap.hblkhd
}

/// The time that this thread has computed.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// What `wait` answers to bytes that come half a second later, and which part of that time it has computed
/// instead of waiting.
pub fn share_computed<T>(peer: &UnixStream, bytes: &[u8], wait: impl FnOnce() -> T) -> (T, f64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            (&*peer).write_all(bytes).unwrap();
        });
        let (begin, before) = (Instant::now(), computed());
        let answer = wait();
        (answer, (computed() - before).as_secs_f64() / begin.elapsed().as_secs_f64())
    })
}

/// Writes the same bytes again and again from another thread, until the stream is at its end.
pub fn write_until_the_end(mut stream: UnixStream, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || while stream.write_all(&bytes).is_ok() {})
}

/// The structure of a connection that the program has made itself.
pub fn connection(stream: &UnixStream) -> super::ipc_connection_info {
    super::ipc_connection_info { fd: stream.as_raw_fd(), ..super::EMPTY_INFO }
}
