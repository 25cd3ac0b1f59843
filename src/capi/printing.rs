//! The message for an error code, and the functions that print to standard output. They use printf(3), so
//! that their lines appear in order with the program's lines. None of them is a cancellation point. No state.

use std::ffi::{CStr, c_char, c_uint};
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;

use super::boundary::without_cancellation;
use super::types::{ipc_connection_info, ipc_connection_infos, ipc_message};
use crate::error::{self, ipc_errors};
use crate::event_loop::List;

use super::list::CList;

/// Returns the message for the error code, a constant string that must not be freed; NULL if `e` is no code.
#[unsafe(no_mangle)]
pub extern "C" fn ipc_errors_get(e: MaybeUninit<ipc_errors>) -> *const c_char {
    // SAFETY: C passes an enumeration as an int. The int may be no code, so it is read as an int.
    let code = unsafe { e.as_ptr().cast::<i32>().read() };
    error::message(code).map_or(ptr::null(), CStr::as_ptr)
}

/// Prints the connection, one line.
///
/// # Safety
/// `info` points to a structure, whose path is NULL or a string.
unsafe fn print_connection(info: *const ipc_connection_info) {
    // SAFETY: as promised by the caller. The format fits the arguments.
    unsafe {
        let ipc_connection_info { version, index, fd, r#type, spath } = *info;
        let path = if spath.is_null() { c"-".as_ptr() } else { spath.cast_const() };
        let kind = if r#type == 0 { b'-' as c_char } else { r#type };
        libc::printf(
            c"connection: fd %d, type %c, index %u, version %u, path %s\n".as_ptr(),
            fd,
            i32::from(kind),
            index as c_uint,
            version as c_uint,
            path,
        );
    }
}

/// Prints the connection, in one line; prints nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connection_print(cinfo: *mut ipc_connection_info) {
    if !cinfo.is_null() {
        // SAFETY: the caller's structure.
        without_cancellation(|| unsafe { print_connection(cinfo) });
    }
}

/// Prints the connections of the list, one line each, with the index in the list, from 0; prints nothing for
/// NULL and for entries that are NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_connections_print(cinfos: *mut ipc_connection_infos) {
    if cinfos.is_null() {
        return;
    }
    // SAFETY: the caller's list.
    let list = unsafe { CList::new(cinfos, ptr::null()) };
    without_cancellation(|| {
        for index in 0..list.size() {
            if let Some(entry) = list.origin(index) {
                // SAFETY: an entry of the caller's list; the format fits the argument.
                unsafe {
                    libc::printf(c"%zu: ".as_ptr(), index);
                    print_connection(entry);
                }
            }
        }
    });
}

/// Prints nothing, as in 2019.
#[unsafe(no_mangle)]
pub extern "C" fn ipc_message_print(_: *const ipc_message) {}

/// Prints `size` bytes as hexadecimal numbers, sixteen per line, with `prefix` at the begin of each line.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn print_hexa(prefix: *const c_char, payload: *mut u8, size: usize) {
    // SAFETY: the caller's bytes and string; the formats fit their arguments.
    without_cancellation(|| unsafe {
        let prefix = if prefix.is_null() { c"".as_ptr() } else { prefix };
        let bytes = if payload.is_null() { &[] } else { slice::from_raw_parts(payload, size) };
        for line in bytes.chunks(16) {
            libc::printf(c"%s".as_ptr(), prefix);
            for byte in line {
                libc::printf(c" %02x".as_ptr(), c_uint::from(*byte));
            }
            libc::printf(c"\n".as_ptr());
        }
    });
}

/// Prints a line with the prefix and the number of bytes, and then the bytes as print_hexa does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprint_hexa(prefix: *mut c_char, buf: *mut u8, length: usize) {
    // SAFETY: the caller's bytes and string; the format fits its arguments.
    without_cancellation(|| unsafe {
        let name = if prefix.is_null() { c"".as_ptr() } else { prefix.cast_const() };
        libc::printf(c"%s: %zu bytes\n".as_ptr(), name, length);
        print_hexa(c"".as_ptr(), buf, length);
    });
}
