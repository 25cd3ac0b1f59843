//! A socket that stands in for a service's, in a directory that only this user can enter.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::mkdtemp;

use crate::error::Error;
use crate::service::Service;
use crate::signals::{self, Cleanup, Kept};

/// The socket that stands in for the service's, in a directory that only this user can enter.
pub struct StandIn {
    path: PathBuf,
    /// Where the clients of the service connect. It does not wait.
    pub listener: UnixListener,
}

impl StandIn {
    /// Makes it. It is removed when the second of the two is dropped, or a signal ends the program.
    pub fn new(service: &Service) -> Result<(Self, Kept), Error> {
        signals::keep(|| {
            let directory = private_directory()
                .map_err(|errno| Error::failed(service, "cannot make a directory", errno))?;
            let path = directory.join("socket");
            let listener = UnixListener::bind(&path).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            let remove = {
                let path = path.clone();
                move || {
                    let _ = fs::remove_file(&path);
                    let _ = fs::remove_dir(&directory);
                }
            };
            match listener {
                Ok(listener) => Ok((Self { path, listener }, Box::new(remove) as Cleanup)),
                Err(error) => {
                    remove();
                    Err(Error::io(service, "cannot listen in its place", &error))
                }
            }
        })
    }

    /// What the variable of the service holds.
    pub fn target(&self) -> OsString {
        let mut target = OsString::from("unix:");
        target.push(&self.path);
        target
    }
}

/// Makes a directory with mode 0700, where a path of a socket in it has room in `sun_path`.
fn private_directory() -> nix::Result<PathBuf> {
    const NAME: &str = "ipc-monitor-XXXXXX";
    const LONGEST: usize = 107 - "//socket".len() - NAME.len();
    let places = [env::var_os("XDG_RUNTIME_DIR"), env::var_os("TMPDIR"), Some("/tmp".into())];
    let mut result = Err(Errno::ENOENT);
    for place in places.into_iter().flatten().filter(|place| place.len() <= LONGEST) {
        // A relative one would be another for the program.
        if !Path::new(&place).is_absolute() {
            continue;
        }
        result = mkdtemp(&Path::new(&place).join(NAME));
        if result.is_ok() {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stand_in_is_for_this_user_alone_and_removed() {
        let (stand_in, kept) = StandIn::new(&Service::parse(OsStr::new("s")).unwrap()).unwrap();
        let directory = stand_in.path.parent().unwrap().to_owned();
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(stand_in.path.as_os_str().len() <= 107);
        assert_eq!(stand_in.target(), format!("unix:{}", stand_in.path.display()).as_str());
        drop(kept);
        assert!(!directory.exists());
    }
}
