//! Whether a member's descriptor number still refers to the file that was registered. No state.
//!
//! A connection or a service is compared by cookie. Any other number, and one whose cookie the kernel does not
//! report, is probed with the set, if the set's own number still is the set: registered, and removed at once
//! if that succeeds. Without a set, and for a regular file, which is in no set: an extra or watched descriptor
//! is compared by device and inode, a signal or timer descriptor by its mark (`is_public`). A service without
//! a cookie is not compared then.

#![forbid(unsafe_code)]

use nix::errno::Errno;

use crate::event_loop::list::Kind;
use crate::event_loop::members::{ALWAYS_READY, Member, Token};
use crate::kernel::file::FileId;
use crate::kernel::internal_fds;
use crate::kernel::poller::Poller;
use crate::process::sharded::NumberMap;

/// What the check uses: the set, and the noted files of extra descriptors by slot.
pub struct Instruments<'a> {
    pub poller: Option<&'a Poller>,
    pub files: &'a NumberMap<u32, FileId>,
}

impl Instruments<'_> {
    /// Whether the member's number still is the file that was registered.
    #[inline(always)]
    pub fn verify(&self, slot: u32, member: &Member) -> bool {
        member.cookie.compare(member.fd).unwrap_or_else(|| self.probe(slot, member))
    }

    #[inline(never)]
    fn probe(&self, slot: u32, member: &Member) -> bool {
        let Some(poller) = self.poller.filter(|_| !member.has(ALWAYS_READY)) else {
            return self.is_noted_file(slot, member);
        };
        if !poller.is_intact() {
            return false;
        }
        // The common answer; only another answer needs the error of a second probe.
        if poller.is_watched(member.fd) {
            return true;
        }
        match poller.probe(member.fd) {
            Err(Errno::EEXIST) => true,
            // ENOMEM, ENOSPC (too many watches): not answered. EPOLL_CTL_MOD allocates nothing, and fails if
            // the number is not registered.
            Err(Errno::ENOMEM | Errno::ENOSPC) => {
                let token = Token::of_member(slot, member).data();
                poller.change(member.fd, token, member.interest()).is_ok()
            }
            _ => false,
        }
    }

    /// The same without the set, by what was noted when the member was registered.
    pub fn is_noted_file(&self, slot: u32, member: &Member) -> bool {
        match member.kind {
            Kind::Connection => !member.cookie.is_some() || member.cookie.is_of(member.fd),
            Kind::Signals | Kind::Timer => internal_fds::is_public(member.fd),
            Kind::Extra | Kind::Watched => match FileId::of(member.fd) {
                Ok(now) => self.files.get(&slot).is_none_or(|file| now == *file),
                Err(errno) => errno != Errno::EBADF,
            },
            Kind::Listener => true,
        }
    }
}
