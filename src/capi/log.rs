//! Declarations of the log functions, which `log.c` defines, and the variable `message_types`. No state.

use std::ffi::{c_char, c_void};

use super::types::msg_types;

/// A variable that the header of 2019 defined in each file that included the header. No code reads it.
#[unsafe(no_mangle)]
pub static mut message_types: msg_types = msg_types::MSG_TYPE_SERVER_CLOSE;

unsafe extern "C" {
    /// Prints "date:tag: message" and a newline on standard output. The message is formatted as by
    /// vprintf(3); the last parameter is a `va_list`.
    pub fn log_format(tag: *const c_char, message: *const c_char, args: *mut c_void);
    /// log_format with the tag ERROR and the arguments of printf(3).
    pub fn log_error(message: *const c_char, ...);
    /// log_format with the tag INFO and the arguments of printf(3).
    pub fn log_info(message: *const c_char, ...);
    /// log_format with the tag DEBUG and the arguments of printf(3).
    pub fn log_debug(message: *const c_char, ...);
}
