//! Child processes for tests. The test program starts itself again in a *role*: a function that runs instead
//! of main, in a process with one thread and the default action for each signal, like a small C program. Test
//! and child exchange lines: the child reads them from standard input and writes them to standard output.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::support::*;

const ROLE: &str = "LIBIPC_TEST_ROLE";

/// Declares these functions of a module as roles that this test program can be started in.
macro_rules! roles {
    ($($role:ident),+ $(,)?) => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static RUN_ROLE: extern "C" fn() = {
            extern "C" fn run_role() {
                $crate::child::run_role(run_role, &[$((std::any::type_name_of_val(&$role), $role)),+]);
            }
            run_role
        };
    };
}
pub(crate) use roles;

unsafe extern "C" {
    static __init_array_start: [Option<extern "C" fn()>; 0];
    static __init_array_end: [Option<extern "C" fn()>; 0];
}

/// Runs the constructors that would run after `this` one and before main.
fn construct_the_rest(this: extern "C" fn()) {
    let (start, end) = unsafe { (__init_array_start.as_ptr(), __init_array_end.as_ptr()) };
    let all = unsafe { std::slice::from_raw_parts(start, (end.addr() - start.addr()) / size_of::<usize>()) };
    let from_this = all.iter().flatten().skip_while(|constructor| **constructor as usize != this as usize);
    from_this.skip(1).for_each(|constructor| constructor());
}

/// Runs the role that this process was started in, if any, and then ends the process, as a return from main
/// does.
pub fn run_role(this: extern "C" fn(), roles: &[(&str, fn())]) {
    let Some(reported) = std::env::var_os(ROLE) else { return };
    // The role may belong to another module.
    let Some((_, role)) = roles.iter().find(|(name, _)| reported == *name) else { return };
    construct_the_rest(this);
    unsafe {
        std::env::remove_var(ROLE);
        // The kernel kills the child if the test's process ends first.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    let played = std::panic::catch_unwind(role);
    unsafe {
        match played {
            Ok(()) => libc::exit(0),
            Err(_) => libc::_exit(101),
        }
    }
}

/// A process in a role. The process is killed when the value is dropped.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// The command that starts this program in a role, with the test's run directory. The test harness refuses
/// the argument `--role`, so a function that no module declares as a role runs nothing.
pub fn command<R: Fn()>(_: R) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let role = std::any::type_name::<R>();
    command
        .arg(format!("--role={role}"))
        .env(ROLE, role)
        .env("IPC_RUNDIR", rundir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// The same, with malloc's per-thread cache off, so that the bytes in use can be counted.
pub fn command_with_plain_heap(role: impl Fn()) -> Command {
    let mut command = command(role);
    command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    command
}

impl Child {
    pub fn start(role: impl Fn()) -> Self {
        Self::run(&mut command(role))
    }

    pub fn run(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    pub fn id(&self) -> i32 {
        self.process.id() as i32
    }

    /// Sends a line to the child.
    pub fn send_line(&mut self, line: impl AsRef<[u8]>) {
        self.input.as_mut().unwrap().write_all(&[line.as_ref(), b"\n"].concat()).unwrap();
    }

    /// The child's next line.
    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the child wrote only {line:?}: {:?}", self.process.try_wait());
        line.trim_end().to_owned()
    }

    pub fn signal(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.id(), signal) }, 0);
    }

    /// Closes the child's standard input and waits until the child ends.
    pub fn end(&mut self) -> ExitStatus {
        drop(self.input.take());
        self.process.wait().unwrap()
    }

    /// Whether the child has ended; its own forked children may still run.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Whether all threads of the child sleep in the kernel.
    pub fn sleeps(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        threads.into_iter().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            let (_, after_the_name) = stat.rsplit_once(") ").unwrap();
            after_the_name.starts_with('S')
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In a role: sends a line to the test, unbuffered.
pub fn send_line(line: impl AsRef<[u8]>) {
    let line = [line.as_ref(), b"\n"].concat();
    assert_eq!(unsafe { libc::write(1, line.as_ptr().cast(), line.len()) }, line.len() as isize);
}

/// In a role: the next line of the test, read unbuffered.
pub fn read_line() -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = 0_u8;
        match unsafe { libc::read(0, (&raw mut byte).cast(), 1) } {
            1 if byte != b'\n' => line.push(byte),
            1 => return String::from_utf8(line).unwrap(),
            // The test has ended.
            _ => unsafe { libc::_exit(102) },
        }
    }
}

/// In a role: a server, whose service name contains the process id.
pub fn server() -> Box<Program> {
    let name = format!("child{}", std::process::id());
    let mut srv = EMPTY_INFO;
    let c_name = CString::new(name.as_str()).unwrap();
    let code = unsafe { ipc_server_init(env(), &mut srv, c_name.as_ptr()) };
    assert_eq!(code, IPC_ERROR_NONE, "{}", std::io::Error::last_os_error());
    let mut program = Program::client();
    program.path = PathBuf::from(std::env::var_os("IPC_RUNDIR").unwrap()).join(name + "-0-0");
    program.srv = Some(srv);
    program
}

/// usock_connect, which must succeed.
pub fn connect(path: &Path) -> i32 {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut fd = -1;
    let code = unsafe { usock_connect(&mut fd, path.as_ptr()) };
    assert_eq!(code, IPC_ERROR_NONE, "{}", std::io::Error::last_os_error());
    fd
}

/// fork(2); 0 in the child.
pub fn fork() -> i32 {
    let id = unsafe { libc::fork() };
    assert!(id >= 0);
    id
}

/// Waits for a forked child; its status from waitpid(2).
pub fn wait_for(id: i32) -> i32 {
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(id, &mut status, 0) }, id);
    status
}
