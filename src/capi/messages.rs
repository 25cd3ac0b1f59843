//! `struct ipc_message`: making, formatting, emptying, reading and writing messages.
//!
//! A message's payload is NULL or a block from malloc(3), which the message owns. Inside the library a
//! received frame owns its payload as a [`Block`]; `from_frame` hands the block to C, and `replace` frees the
//! payload that the message had before. A message to be sent is only read: its payload is borrowed until the
//! call returns.

use std::ffi::{c_char, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::slice;

use nix::errno::Errno;

use super::boundary::{call, call_on_memory, required, required_const, run_at_once, run_quickly};
use super::types::{ipc_message, msg_types};
use crate::calls::flow::Flow;
use crate::calls::outgoing::Outgoing;
use crate::calls::read::Read;
use crate::calls::write::Write;
use crate::connection::frame_decoder::Frame;
use crate::connection::table;
use crate::error::{Error, ipc_errors};
use crate::frame::c_heap::{self, Block, CBox};
use crate::frame::header::{self, Header, MAX_PAYLOAD};
use crate::kernel::deadline::Deadline;
use crate::kernel::wait::Wait;
use crate::process::entry_guard::EntryGuard;

/// A message of type 0 without payload.
pub(super) const EMPTY: ipc_message = ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() };

/// The message of a received frame; C owns its payload.
pub(super) fn from_frame(frame: Frame) -> ipc_message {
    let length = u32::try_from(frame.payload.len()).unwrap_or(0);
    ipc_message { r#type: frame.kind as c_char, length, payload: frame.payload.into_c() }
}

/// Frees a message's payload, and returns the structure for reuse.
///
/// # Safety
/// `message` is NULL, or a message from malloc(3) to which no other code refers.
pub(super) unsafe fn take_back(message: *mut ipc_message) -> Option<CBox<ipc_message>> {
    if !message.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { c_heap::free((*message).payload) };
    }
    // SAFETY: as promised by the caller.
    unsafe { CBox::from_c(message) }
}

/// A payload's length that C has passed; EMSGSIZE if the length is below 0 or over the maximum.
fn length_of(length: libc::ssize_t) -> Result<usize, Error> {
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_PAYLOAD)
        .ok_or(Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE))
}

/// Writes the header of a message that C wants to send to `header`; returns the address and length of its
/// payload.
///
/// # Safety
/// `message` is a live message.
#[inline]
unsafe fn frame_of(
    message: *const ipc_message,
    header: &mut [u8; header::HEADER_SIZE],
) -> Result<(*const u8, usize), Error> {
    // SAFETY: as promised by the caller.
    let message = unsafe { *message };
    let too_long = Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE);
    let length = usize::try_from(message.length).map_err(|_| too_long)?;
    Header { kind: message.r#type as u8, length }.write_to(header).map_err(|_| too_long)?;
    if length > 0 && message.payload.is_null() {
        return Err(Error::argument(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS));
    }
    Ok((message.payload.cast_const().cast(), length))
}

/// The header and the payload of a message that C wants to send.
///
/// # Safety
/// `message` is a live message, which is not changed as long as the payload is used.
pub(super) unsafe fn parts<'a>(
    message: *const ipc_message,
) -> Result<([u8; header::HEADER_SIZE], &'a [u8]), Error> {
    let mut header = [0; header::HEADER_SIZE];
    // SAFETY: as promised by the caller.
    let payload = unsafe { payload_of(message, &mut header) }?;
    Ok((header, payload))
}

/// [`frame_of`] with the payload as a slice.
///
/// # Safety
/// As for [`parts`].
#[inline]
unsafe fn payload_of<'a>(
    message: *const ipc_message,
    header: &mut [u8; header::HEADER_SIZE],
) -> Result<&'a [u8], Error> {
    // SAFETY: as promised by the caller: `length` bytes of payload.
    unsafe {
        let (payload, length) = frame_of(message, header)?;
        Ok(if length == 0 { &[] } else { slice::from_raw_parts(payload, length) })
    }
}

/// Frees the payload of `m`, and fills `m` with the received frame.
///
/// # Safety
/// `m` is a live message, whose payload is NULL or from malloc(3).
pub(super) unsafe fn replace(m: *mut ipc_message, frame: Frame) {
    // SAFETY: as promised by the caller.
    unsafe { c_heap::free(m.replace(from_frame(frame)).payload) };
}

/// Reads the next message of a descriptor into `m`, and waits for the message until the deadline.
///
/// # Safety
/// `m` is NULL or a live message, whose payload is NULL or from malloc(3). The caller has nothing to drop.
pub(super) unsafe fn read_message(
    m: *mut ipc_message,
    fd: Result<RawFd, Error>,
    deadline: Deadline,
) -> ipc_errors {
    let begin = move |read: &mut Read, guard: &EntryGuard, wait: &mut Wait| {
        let is_begun = !m.is_null() && fd.is_ok() && read.begin_quickly(guard, wait);
        is_begun.then_some(Flow::Wait)
    };
    let go_on = move |read: &mut Read, guard: &EntryGuard, wait: &mut Wait| {
        // The step before has found that the pointer is not NULL.
        let frame = read.take_quickly(guard, wait)?;
        // SAFETY: the caller's message.
        unsafe { replace(m, frame) };
        Some(Flow::Done(()))
    };
    let step = move |read: &mut Read, guard: &mut EntryGuard, wait: &mut Wait| {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM)?;
        fd?;
        let flow = read.step(guard, wait, &mut |_| Ok(()))?;
        // SAFETY: the caller's message.
        Ok(flow.map(|frame| unsafe { replace(m, frame) }))
    };
    let mut read = Read::new(fd.unwrap_or(-1), deadline);
    // SAFETY: this frame and, as promised, the caller's have plain data only.
    unsafe { run_quickly(ipc_errors::IPC_ERROR_USOCK_RECV, &mut read, begin, go_on, step) }
}

/// Writes the message to the connection `fd`, with `descriptor` if there is one to pass.
///
/// # Safety
/// `m` is NULL or a live message. The caller has nothing to drop.
#[inline(never)]
pub(super) unsafe fn write_message(
    m: *const ipc_message,
    fd: Result<RawFd, Error>,
    descriptor: Option<RawFd>,
) -> ipc_errors {
    let mut header = [0; header::HEADER_SIZE];
    // SAFETY: this frame and, as promised, the caller's have plain data only.
    unsafe {
        let message = required_const(m, ipc_errors::IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM);
        let payload = message.and_then(|message| payload_of(message, &mut header));
        let target = payload.and(fd);
        let pieces = [&header, payload.unwrap_or_default()];
        let frame = Outgoing::new(pieces).with(descriptor);
        let target_at_once = if descriptor.is_none() { target.ok() } else { None };
        send_by(target, frame, move |begun, guard| {
            Write::at_once(guard, target_at_once?, Outgoing::new(pieces), begun)
        })
    }
}

/// Sends a frame to the connection `fd`; if `fd` is an error, nothing is sent and the error is returned.
///
/// # Safety
/// The caller has nothing to drop.
pub(super) unsafe fn send_frame(fd: Result<RawFd, Error>, frame: Outgoing<'_>) -> ipc_errors {
    // SAFETY: as promised by the caller.
    unsafe { send_by(fd, frame, move |begun, guard| Write::at_once(guard, fd.ok()?, frame, begun)) }
}

/// [`send_frame`] with its shortcut: `at_once` is [`Write::at_once`] for the frame, compiled for what the caller
/// knows of it.
///
/// # Safety
/// The caller has nothing to drop.
#[inline(always)]
unsafe fn send_by<'a>(
    fd: Result<RawFd, Error>,
    frame: Outgoing<'a>,
    at_once: impl FnOnce(&mut Option<Write<'a>>, &EntryGuard) -> Option<Result<(), Error>>,
) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    let step = move |write: &mut Option<Write<'a>>, guard: &mut EntryGuard, wait: &mut Wait| {
        let to = fd?;
        if wait.is_first() {
            frame.check_descriptor().map_err(|errno| Error::new(code, errno))?;
        }
        let write = write.get_or_insert_with(|| Write::new(to, frame));
        let this = ptr::from_mut(write).cast();
        let flow = write.step(guard, wait)?;
        wait.if_cancelled(abandon, this);
        Ok(flow.map(|()| table::lock_unverified(guard, to).count_sent()))
    };
    // SAFETY: plain data in this frame and, as promised, in the caller's.
    unsafe { run_at_once(code, &mut None, at_once, step) }
}

/// Called if the thread is cancelled while it waits in a write.
extern "C" fn abandon(write: *mut c_void) {
    // SAFETY: the write is in the frame of `send_frame`, which exists until this function has returned.
    let write = unsafe { &mut *write.cast::<Write<'_>>() };
    call(ipc_errors::IPC_ERROR_USOCK_SEND, |guard| {
        write.abandon(guard);
        Ok(())
    });
}

/// Makes a message with a payload of `paylen` zero bytes; `*m` becomes the message. If `paylen` is 0, the
/// payload is NULL. Message and payload are from malloc(3) and yours: call ipc_message_empty, then free.
///
/// Errors: IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: `paylen` is below 0 or over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_new(m: *mut *mut ipc_message, paylen: libc::ssize_t) -> ipc_errors {
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM)?;
        let mut message = CBox::new(EMPTY)?;
        message.set(from_frame(Frame::new(0, Block::zeroed(length_of(paylen)?)?)));
        // SAFETY: the caller's room for a pointer.
        unsafe { m.write(message.into_c()) };
        Ok(())
    })
}

/// Fills the message from a buffer that holds one whole frame of `msize` bytes, including the header. The
/// payload is a copy, from malloc(3) and yours. A payload that `m` held before is freed: initialise the
/// message with zeros.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE, IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER: NULL
/// (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE: `msize` is not the size of the frame in the buffer, or the
/// frame announces more than IPC_MAX_MESSAGE_SIZE (EBADMSG).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM. On failure the message is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format_read(
    m: *mut ipc_message,
    buf: *const c_char,
    msize: libc::ssize_t,
) -> ipc_errors {
    call_on_memory(ipc_errors::IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, || {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE)?;
        let buf = required_const(buf, ipc_errors::IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER)?;
        let wrong = Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, Errno::EBADMSG);
        let size = usize::try_from(msize).map_err(|_| wrong)?;
        // SAFETY: the caller's buffer of `msize` bytes.
        let bytes = unsafe { slice::from_raw_parts(buf.cast::<u8>(), size) };
        let (header, payload) = header::parse_exact(bytes).ok_or(wrong)?;
        let frame = Frame::new(header.kind, Block::copy_of(payload)?);
        // SAFETY: the caller's message.
        unsafe { replace(m, frame) };
        Ok(())
    })
}

/// Writes the message as one frame to a buffer. If `*buf` is NULL, `*buf` becomes a new buffer from
/// malloc(3), yours to free; else the buffer `*buf` must have room for IPC_HEADER_SIZE + length bytes.
/// `*msize` becomes the frame's size.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE, IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER,
/// IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: the length is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: the message has a length and no payload (EINVAL).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format_write(
    m: *const ipc_message,
    buf: *mut *mut c_char,
    msize: *mut libc::ssize_t,
) -> ipc_errors {
    call_on_memory(ipc_errors::IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE, || {
        let m = required_const(m, ipc_errors::IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE)?;
        let buf = required(buf, ipc_errors::IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER)?;
        let msize = required(msize, ipc_errors::IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE)?;
        let mut header = [0; header::HEADER_SIZE];
        // SAFETY: the caller's message.
        let (payload, length) = unsafe { frame_of(m, &mut header) }?;
        let size = header.len() + length;
        // SAFETY: the caller's room for a pointer, and its buffer, if any, with room for the frame.
        unsafe {
            if (*buf).is_null() {
                let mut block = Block::with_capacity(size)?;
                block.push(&header);
                if length > 0 {
                    block.push(slice::from_raw_parts(payload, length));
                }
                buf.write(block.into_c());
            } else {
                put_frame(*buf, header, payload, length);
            }
            msize.write(size as isize);
        }
        Ok(())
    })
}

/// Writes a frame to a buffer of C. The payload may overlap the buffer; so the payload is a pointer and not a
/// reference, which would promise that it does not overlap.
///
/// # Safety
/// `buffer` has room for header and payload, and the payload has `length` bytes.
pub(super) unsafe fn put_frame(
    buffer: *mut c_char,
    header: [u8; header::HEADER_SIZE],
    payload: *const u8,
    length: usize,
) {
    let buffer = buffer.cast::<u8>();
    // SAFETY: as promised by the caller.
    unsafe {
        if length > 0 {
            ptr::copy(payload, buffer.add(header.len()), length);
        }
        ptr::copy_nonoverlapping(header.as_ptr(), buffer, header.len());
    }
}

/// Reads the next message of the descriptor `fd` into `m`, as ipc_read does, with the same errors.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_message_read(fd: i32, m: *mut ipc_message) -> ipc_errors {
    // SAFETY: the caller's message.
    unsafe { read_message(m, Ok(fd), Deadline::NONE) }
}

/// Sends the message to the descriptor `fd`, as ipc_write does, with the same errors.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_message_write(fd: i32, m: *const ipc_message) -> ipc_errors {
    // SAFETY: the caller's message.
    unsafe { write_message(m, Ok(fd), None) }
}

/// Sets type and payload of the message. A payload that the message has is freed and replaced by a copy of
/// the `length` bytes at `payload`. If `payload` is NULL and `length` is 0, the message keeps its payload and
/// its length becomes 0. Initialise the message with zeros before.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: `length` is below 0 or over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: `length` is 0 and `payload` is not NULL, or the reverse
/// (EINVAL).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the message is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format(
    m: *mut ipc_message,
    r#type: c_char,
    payload: *const c_char,
    length: libc::ssize_t,
) -> ipc_errors {
    // SAFETY: the caller's message and payload.
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || unsafe {
        format_message(m, r#type, payload, length)
    })
}

/// ipc_message_format without the boundary.
///
/// # Safety
/// `m` is NULL or a live message; `payload` is NULL or has `length` bytes.
unsafe fn format_message(
    m: *mut ipc_message,
    kind: c_char,
    payload: *const c_char,
    length: libc::ssize_t,
) -> Result<(), Error> {
    let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM)?;
    let length = length_of(length)?;
    if (length == 0) != payload.is_null() {
        return Err(Error::argument(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS));
    }
    // SAFETY: the caller's message, whose payload is NULL or from malloc(3), and `length` bytes of payload.
    unsafe {
        if length > 0 {
            // Copied before the old payload is freed: both may be the same block.
            let copy = Block::copy_of(slice::from_raw_parts(payload.cast(), length))?;
            c_heap::free((*m).payload);
            (*m).payload = copy.into_c();
        }
        (*m).r#type = kind;
        (*m).length = u32::try_from(length).unwrap_or(0);
    }
    Ok(())
}

/// ipc_message_format with the type MSG_TYPE_DATA.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format_data(
    m: *mut ipc_message,
    payload: *const c_char,
    length: libc::ssize_t,
) -> ipc_errors {
    let kind = msg_types::MSG_TYPE_DATA as c_char;
    // SAFETY: the caller's message and payload.
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || unsafe {
        format_message(m, kind, payload, length)
    })
}

/// Sets the type to MSG_TYPE_SERVER_CLOSE and the length to 0, as ipc_message_format does without a payload.
///
/// Error: IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM: NULL (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format_server_close(m: *mut ipc_message) -> ipc_errors {
    let (kind, code) =
        (msg_types::MSG_TYPE_SERVER_CLOSE as c_char, ipc_errors::IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM);
    // SAFETY: the caller's message.
    call_on_memory(code, || unsafe { format_message(m, kind, ptr::null(), 0) })
}

/// Frees the message's payload, and sets payload to NULL and length to 0. The structure stays yours.
///
/// Error: IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST: NULL (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_empty(m: *mut ipc_message) -> ipc_errors {
    call_on_memory(ipc_errors::IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST, || {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST)?;
        // SAFETY: the caller's message, whose payload is NULL or from malloc(3).
        unsafe {
            c_heap::free((*m).payload);
            (*m).payload = ptr::null_mut();
            (*m).length = 0;
        }
        Ok(())
    })
}
