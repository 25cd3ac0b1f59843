//! Programs of a test's own. The test program starts itself anew in a role, which is played instead of main:
//! in a process with one thread and the default action for each signal, as a small C program is. It listens
//! to the test line by line on standard input and answers on standard output.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use crate::support::*;

const ROLE: &str = "LIBIPC_TEST_ROLE";

/// Makes these functions of a module roles that this test program can be started in.
macro_rules! roles {
    ($($role:ident),+ $(,)?) => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static PLAY: extern "C" fn() = {
            extern "C" fn play() {
                $crate::child::play(play, &[$((std::any::type_name_of_val(&$role), $role)),+]);
            }
            play
        };
    };
}
pub(crate) use roles;

unsafe extern "C" {
    static __init_array_start: [Option<extern "C" fn()>; 0];
    static __init_array_end: [Option<extern "C" fn()>; 0];
}

/// Runs the constructors that would come between `this` one and main.
fn construct_the_rest(this: extern "C" fn()) {
    let (start, end) = unsafe { (__init_array_start.as_ptr(), __init_array_end.as_ptr()) };
    let all = unsafe { std::slice::from_raw_parts(start, (end.addr() - start.addr()) / size_of::<usize>()) };
    let behind = all.iter().flatten().skip_while(|constructor| **constructor as usize != this as usize);
    behind.skip(1).for_each(|constructor| constructor());
}

/// Plays the role that this process was started in, if any, and ends with it, as by return from main.
pub fn play(this: extern "C" fn(), roles: &[(&str, fn())]) {
    let Some(reported) = std::env::var_os(ROLE) else { return };
    // It may be one of another module.
    let Some((_, role)) = roles.iter().find(|(name, _)| reported == *name) else { return };
    construct_the_rest(this);
    unsafe {
        std::env::remove_var(ROLE);
        // The child ends if the whole test has been ended.
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

/// A process in a role. It is killed when the test forgets it.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// The command that starts this program in a role, with the test's run directory. The argument is one that the harness
/// of the tests refuses: a function that no module has among its roles runs nothing.
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

/// The same with a heap that keeps nothing for later use, so that what is in use can be counted.
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

    /// Says a line to it.
    pub fn say(&mut self, line: impl AsRef<[u8]>) {
        self.input.as_mut().unwrap().write_all(&[line.as_ref(), b"\n"].concat()).unwrap();
    }

    /// Its next line.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the child said only {line:?}: {:?}", self.process.try_wait());
        line.trim_end().to_owned()
    }

    pub fn signal(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.id(), signal) }, 0);
    }

    /// Waits for its end. It finds its standard input closed.
    pub fn end(&mut self) -> ExitStatus {
        drop(self.input.take());
        self.process.wait().unwrap()
    }

    /// Whether it is at its end; what it has forked may go on.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Whether all its threads wait in the kernel for something to happen.
    pub fn sleeps(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        threads.into_iter().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            let (_, behind_the_name) = stat.rsplit_once(") ").unwrap();
            behind_the_name.starts_with('S')
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In a role: says a line to the test, without any buffer.
pub fn say(line: impl AsRef<[u8]>) {
    let line = [line.as_ref(), b"\n"].concat();
    assert_eq!(unsafe { libc::write(1, line.as_ptr().cast(), line.len()) }, line.len() as isize);
}

/// In a role: the next line of the test, read without any buffer.
pub fn hear() -> String {
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

/// In a role: a program that serves, under a name of this process.
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

/// usock_connect, which has to succeed.
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

/// Waits for a forked child; what waitpid(2) says of it.
pub fn wait_for(id: i32) -> i32 {
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(id, &mut status, 0) }, id);
    status
}
