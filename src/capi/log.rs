//! `log_error` and its kin, and the variable `message_types`.
//!
//! Functions with variable arguments are in `log.c`; what is exported here is one jump to each, which leaves
//! every argument where the caller has put it.

use std::arch::naked_asm;

use super::types::msg_types;

/// A variable that the header of 2019 defined in every file that included it. Nothing reads it.
#[unsafe(no_mangle)]
pub static mut message_types: msg_types = msg_types::MSG_TYPE_SERVER_CLOSE;

unsafe extern "C" {
    fn ipc_c_log_format();
    fn ipc_c_log_error();
    fn ipc_c_log_info();
    fn ipc_c_log_debug();
}

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    ($target:ident) => {
        naked_asm!("jmp {}", sym $target)
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    ($target:ident) => {
        naked_asm!("b {}", sym $target)
    };
}

/// Prints "date:tag: message" and a newline on standard output, the message as vprintf(3) does.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn log_format() {
    jump!(ipc_c_log_format)
}

/// log_format with the tag ERROR and the arguments of printf(3).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn log_error() {
    jump!(ipc_c_log_error)
}

/// log_format with the tag INFO and the arguments of printf(3).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn log_info() {
    jump!(ipc_c_log_info)
}

/// log_format with the tag DEBUG and the arguments of printf(3).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn log_debug() {
    jump!(ipc_c_log_debug)
}
