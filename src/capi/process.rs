//! What the library asks of the process once: to be told of forks and of its end.

use crate::section::Section;
use crate::{connections, drain, event_loop, fork};

/// Run by the loader, before any function of the library: a handler that interrupts the program's first call
/// finds it done. Miri, which runs unit tests, has neither handler.
#[used]
#[cfg_attr(not(miri), unsafe(link_section = ".init_array"))]
pub static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: the handlers are functions that live as long as this library; libc forgets them when it is
    // unloaded. Without memory for them the library works, but for these two conveniences.
    unsafe {
        libc::pthread_atfork(Some(before_fork), Some(parent_after_fork), Some(child_after_fork));
        libc::atexit(at_exit);
    }
}

extern "C" fn before_fork() {
    fork::prepare();
}

extern "C" fn parent_after_fork() {
    fork::parent();
}

extern "C" fn child_after_fork() {
    fork::child();
}

extern "C" fn at_exit() {
    if let Some(mut section) = Section::enter() {
        drain::last_flush(&mut section, None);
        connections::release(&section);
        event_loop::release(&section);
    }
}
