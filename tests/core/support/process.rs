//! What a test measures or changes in its process: descriptors, memory, CPU time.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Raises the limit of descriptors to the hard limit, and returns it.
pub fn raise_descriptor_limit() -> usize {
    let (_, most) = descriptor_limits();
    set_descriptor_limit(most);
    usize::try_from(most).unwrap()
}

/// The soft and the hard limit of descriptors.
pub fn descriptor_limits() -> (u64, u64) {
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

/// Calls `act` while malloc(3) fails for blocks of `size` bytes and more: such memory is taken, and the process
/// gets no more. `act` must not allocate anything itself.
pub fn without_memory<R>(size: usize, act: impl FnOnce() -> R) -> R {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let mut taken: *mut *mut libc::c_void = std::ptr::null_mut();
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &mut limits), 0);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur: 0, ..limits }), 0);
        for size in (0..=20).rev().map(|power| size << power).filter(|size| *size <= 1 << 20) {
            loop {
                let block: *mut *mut libc::c_void = libc::malloc(size).cast();
                if block.is_null() {
                    break;
                }
                block.write(taken.cast());
                taken = block;
            }
        }
        let result = act();
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limits), 0);
        while !taken.is_null() {
            let next = taken.read().cast();
            libc::free(taken.cast());
            taken = next;
        }
        result
    }
}

/// How many descriptors this process has open. Numbers that the library holds (promise 41) do not count.
pub fn open_descriptors() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = all.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    // The directory's own descriptor was among the names, and is closed now: it counts as 1.
    1 + numbers.collect::<Vec<_>>().into_iter().filter(|fd| is_open(*fd)).count()
}

/// The same stream at a number of 700 or more, which no other descriptor of the test gets from the kernel.
pub fn at_high_number(stream: UnixStream) -> UnixStream {
    let high = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 700) };
    assert!(high >= 700, "{}", std::io::Error::last_os_error());
    unsafe { UnixStream::from_raw_fd(high) }
}

/// Whether the thread with this id, of this process, sleeps in the kernel.
pub fn thread_sleeps(id: libc::c_long) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap();
    let (_, after_the_name) = stat.rsplit_once(") ").unwrap();
    after_the_name.starts_with('S')
}

/// Closes a descriptor with close(2), without the library.
pub fn close(fd: RawFd) {
    assert_eq!(unsafe { libc::close(fd) }, 0, "{}", std::io::Error::last_os_error());
}

/// The open file of `fd` also gets `number`, by dup2(2), which closes what was open there.
pub fn at_number(fd: RawFd, number: RawFd) {
    assert_eq!(unsafe { libc::dup2(fd, number) }, number, "{}", std::io::Error::last_os_error());
}

/// Whether the number is open. A number that the library holds does not count: after an end was reported, the
/// number belongs to the library's placeholder (`O_PATH`) until the next call for the list (promise 41).
pub fn is_open(fd: RawFd) -> bool {
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_PATH == 0
}

/// Bytes of the C heap in use; Rust allocates there, too.
pub fn heap_in_use() -> usize {
    let heap = unsafe { libc::mallinfo2() };
    heap.uordblks + heap.hblkhd
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Sends the bytes after half a second. Returns the result of `wait`, and the CPU time that `wait` has used
/// as a share of the time that it has taken.
pub fn share_computed<T>(peer: &UnixStream, bytes: &[u8], wait: impl FnOnce() -> T) -> (T, f64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            (&*peer).write_all(bytes).unwrap();
        });
        let (begin, before) = (Instant::now(), cpu_time());
        let answer = wait();
        (answer, (cpu_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64())
    })
}

/// Writes the same bytes again and again in another thread, until writing fails.
pub fn write_until_the_end(mut stream: UnixStream, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || while stream.write_all(&bytes).is_ok() {})
}

/// A structure for a connection that the program has made itself.
pub fn connection(stream: &UnixStream) -> super::ipc_connection_info {
    super::ipc_connection_info { fd: stream.as_raw_fd(), ..super::EMPTY_INFO }
}
