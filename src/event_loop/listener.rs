//! The service's socket: whom it brings, and when it is left alone for a while.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::{Batch, Entry, Event, EventLoop, Kind, List, State, Token, What, failed};
use crate::connection::table;
use crate::error::{Error, ipc_errors as Code};
use crate::kernel::deadline::Limit;
use crate::kernel::fd;
use crate::kernel::socket;
use crate::process::entry_guard::Section;

/// How long no client is accepted after descriptors or memory ran out, unless one comes free here.
pub(super) const PAUSE_MS: i32 = 100;

/// The socket that a program waits for clients at.
#[derive(Clone, Copy)]
pub struct Listener {
    /// Its descriptor.
    pub fd: RawFd,
    generation: u32,
    /// Until when no client is accepted, for want of descriptors or memory.
    paused: Option<Limit>,
}

impl Listener {
    pub(super) fn token(self) -> Token {
        Token { fd: self.fd, generation: self.generation }
    }

    /// Whether no client is accepted for now.
    pub(super) fn is_paused(self) -> bool {
        self.paused.is_some()
    }
}

impl EventLoop {
    pub(super) fn is_listener(&self, token: Token) -> bool {
        self.listener.is_some_and(|listener| token == listener.token())
    }

    /// The program waits for clients of this service, or of none; whether it is another one than before.
    pub(super) fn watch_listener(&mut self, fd: Option<RawFd>) -> Result<bool, Error> {
        if self.listener.map(|listener| listener.fd) == fd {
            return Ok(false);
        }
        if let Some(old) = self.listener.take() {
            self.unregister(old.fd);
        }
        if let Some(fd) = fd {
            socket::prepare_listener(fd).map_err(failed)?;
            self.ready.try_reserve(self.members.len() + 2)?;
            // A connection that had the number is closed.
            self.lose(fd);
            self.listener = Some(Listener { fd, generation: self.next_generation(), paused: None });
            self.register_listener()?;
        }
        Ok(true)
    }

    pub(super) fn register_listener(&self) -> Result<(), Error> {
        let (Some(listener), Some(set)) = (self.listener, self.own_set()) else { return Ok(()) };
        let interest = if listener.is_paused() { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let token = listener.token().data();
        match set.change(listener.fd, token, interest) {
            // The set is new, or the number is another socket's by now.
            Err(Errno::ENOENT) => socket::prepare_listener(listener.fd)
                .and_then(|()| set.add(listener.fd, token, interest))
                .map_err(failed),
            result => result.map_err(failed),
        }
    }

    /// Whether the number is that of the service: it is no connection's, whatever the list says.
    pub(super) fn is_service(&self, fd: RawFd) -> bool {
        self.listener.is_some_and(|listener| listener.fd == fd)
    }

    fn set_pause(&mut self, paused: Option<Limit>) {
        if let Some(listener) = &mut self.listener
            && std::mem::replace(&mut listener.paused, paused) != paused
        {
            // Should it fail, the next audit tries again.
            let _ = self.register_listener();
        }
    }

    /// Descriptors or memory have run out.
    pub(super) fn pause_listener(&mut self) {
        self.set_pause(Some(Limit::of(PAUSE_MS)));
    }

    /// A descriptor has come free.
    pub(super) fn resume_listener(&mut self) {
        self.set_pause(None);
    }

    /// One may have come free elsewhere.
    pub(super) fn retry_listener(&mut self) {
        if self.listener.and_then(|listener| listener.paused).is_some_and(|pause| pause.left() == 0) {
            self.resume_listener();
        }
    }

    /// Takes one client in, and tells of it.
    pub(super) fn accept<L: List>(
        &mut self,
        section: &Section,
        list: &mut L,
    ) -> Result<Option<Event<L::Origin>>, Error> {
        let Some(listener) = self.listener else { return Ok(None) };
        let mut accepted = None;
        // Before the client is taken: one that finds no memory waits in the kernel's queue.
        let settings = table::lock(section, listener.fd).settings();
        if self.make_room().is_err() || table::reserve(section, settings).is_err() {
            self.pause_listener();
            return Ok(None);
        }
        let pushed = list.push(|index, identity| {
            let fd =
                socket::accept(listener.fd).map_err(|errno| Error::new(Code::IPC_ERROR_ACCEPT, errno))?;
            accepted = Some(fd);
            table::adopt(section, fd, settings).map_err(failed)?;
            self.admit(section, Entry { fd, identity, kind: Kind::Peer }, index, State::Fresh)?;
            Ok(fd)
        });
        if let (Some(fd), Err(_)) = (accepted, &pushed) {
            self.members.remove(&fd);
            let _ = fd::close(fd);
        }
        match pushed {
            Ok(index) => Ok(self.announce(list, index)),
            // Another process took the client, or it has gone.
            Err(Error { errno: Errno::EAGAIN | Errno::EINTR | Errno::EPROTO, .. }) => Ok(None),
            // It is no service.
            Err(Error { errno: errno @ (Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK), .. }) => {
                Err(failed(errno))
            }
            // Descriptors, watches or memory have run out, or somebody forbids it: the established go on, the new
            // ones wait.
            Err(_) => {
                self.pause_listener();
                Ok(None)
            }
        }
    }

    /// Tells of the client that was taken in at `index`. Where its number was that of another one, whose
    /// descriptor the program has closed, the end of that is told first.
    fn announce<L: List>(&mut self, list: &mut L, index: usize) -> Option<Event<L::Origin>> {
        if !self.gone.is_empty() {
            // Then it, before any who have come later: it was queued just now.
            self.ready.rotate_right(1);
            self.old += usize::from(self.old > 0);
            if self.batch == Batch::Goes {
                self.batch = Batch::Over;
            }
            return None;
        }
        let (fd, origin) = (list.entry(index)?.fd, list.origin(index)?);
        self.update(fd, |member| {
            member.state = State::Open;
            member.readable = false;
        });
        Some(Event { origin, what: What::Connection })
    }
}
