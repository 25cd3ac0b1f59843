//! How to check whether a member's number still is the file that was registered: by the set, or without it by
//! the noted cookie, device and inode.

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
    pub fn verify(&self, slot: u32, member: &Member) -> bool {
        let Some(poller) = self.poller.filter(|_| !member.has(ALWAYS_READY)) else {
            return self.is_noted_file(slot, member);
        };
        if poller.is_watched(member.fd) {
            return true;
        }
        match poller.probe(member.fd) {
            Err(Errno::EEXIST) => true,
            // The probe failed for lack of memory or watches, which does not answer the question; a change
            // needs neither.
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
