//! Programs that know nothing of rerouting, compiled with the header of 2019 alone, go where the environment says, for each kind of
//! target; without a variable they go to the service.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::staging::examples::{Under, command, frame};
use crate::staging::{outcome, printed, text_of};

/// A service that answers each client with one message, its own name.
struct Named {
    path: PathBuf,
    /// The first message of each client.
    clients: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Named {
    fn open(path: PathBuf, name: &'static str) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let clients = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&clients);
        // The thread ends with the test program.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut first = vec![0; frame(b"hello").len()];
                if stream.read_exact(&mut first).is_ok() {
                    seen.lock().unwrap().push(first);
                    let _ = stream.write_all(&frame(name.as_bytes()));
                }
            }
        });
        Self { path, clients }
    }

    fn clients(&self) -> usize {
        self.clients.lock().unwrap().len()
    }
}

fn pong(rundir: &Path, variables: &[(&str, &str)]) -> Command {
    let mut pong = command("pong", rundir, Under::Nothing);
    for variable in ["IPC_NETWORK", "IPC_NETWORK_PONGD"] {
        pong.env_remove(variable);
    }
    pong.envs(variables.iter().copied()).stdin(Stdio::null());
    pong
}

#[test]
fn unchanged_program_is_rerouted_by_each_target() {
    assert!(!text_of("examples-c/pong.c").contains("ipc_ext.h"), "it shall know the header of 2019 alone");
    let [rundir, elsewhere] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let service = |name| Named::open(rundir.path().join(format!("{name}-0-0")), name);
    let (pongd, other) = (service("pongd"), service("other"));
    let path = Named::open(elsewhere.path().join("socket"), "path");
    let at = path.path.to_str().unwrap();
    let [short, long, entry] = [format!("unix:{at}"), format!("unix://{at}"), format!("pongd unix:{at}")];
    let routes: [(&[(&str, &str)], &str); 10] = [
        (&[], "pongd"),
        (&[("IPC_NETWORK_PONGD", "")], "pongd"),
        (&[("IPC_NETWORK_PONGD", "direct:")], "pongd"),
        (&[("IPC_NETWORK", "* other; pongd direct:")], "pongd"),
        (&[("IPC_NETWORK_PONGD", "other")], "other"),
        (&[("IPC_NETWORK_PONGD", "unix://other")], "other"),
        (&[("IPC_NETWORK", "pong nobody; * other")], "other"),
        (&[("IPC_NETWORK_PONGD", &short)], "path"),
        (&[("IPC_NETWORK_PONGD", &long), ("IPC_NETWORK", "pongd other")], "path"),
        (&[("IPC_NETWORK", &entry)], "path"),
    ];
    for (variables, expected) in routes {
        assert_eq!(printed(&mut pong(rundir.path(), variables)), format!("{expected}\n"), "{variables:?}");
    }
    assert_eq!([pongd.clients(), other.clients(), path.clients()], [4, 3, 3]);
    for (target, expected) in [
        ("ssh:", "Invalid argument"),
        ("$(id)", "Invalid argument"),
        ("ssh://host/pongd", "Network is unreachable"),
        ("tor://host/pongd", "Network is unreachable"),
        ("nobody", "No such file or directory"),
    ] {
        let (said, errors, status) = outcome(&mut pong(rundir.path(), &[("IPC_NETWORK_PONGD", target)]));
        assert_eq!((said.as_str(), status.code()), ("", Some(1)), "{target}");
        assert!(errors.contains(&format!("no connection to the service ({expected})")), "{target}: {errors}");
    }
    assert_eq!(pongd.clients(), 4, "never in silence to the service itself");
}
