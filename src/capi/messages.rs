//! Messages: make, format, empty, read and write.

use std::ffi::{c_char, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::slice;

use nix::errno::Errno;

use super::boundary::{call, call_on_memory, required, required_const, run_at_once, run_quickly};
use super::types::{ipc_message, msg_types};
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

/// A message with nothing in it.
pub(super) const EMPTY: ipc_message = ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() };

/// A received frame, as C will own it.
pub(super) fn from_frame(frame: Frame) -> ipc_message {
    let length = u32::try_from(frame.payload.len()).unwrap_or(0);
    ipc_message { r#type: frame.kind as c_char, length, payload: frame.payload.into_c() }
}

/// Frees a message's payload and takes the structure back, to be used again.
///
/// # Safety
/// `message` is NULL, or a message from malloc(3) that is not used any more.
pub(super) unsafe fn take_back(message: *mut ipc_message) -> Option<CBox<ipc_message>> {
    if !message.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { c_heap::free((*message).payload) };
    }
    // SAFETY: as promised by the caller.
    unsafe { CBox::from_c(message) }
}

/// A length that C gave: below 0 or over the maximum is no length.
fn length_of(length: libc::ssize_t) -> Result<usize, Error> {
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_PAYLOAD)
        .ok_or(Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE))
}

/// The header of a message that C wants to send, and where its payload is.
///
/// # Safety
/// `message` is a live message.
unsafe fn frame_of(
    message: *const ipc_message,
) -> Result<([u8; header::HEADER_SIZE], *const u8, usize), Error> {
    // SAFETY: as promised by the caller.
    let message = unsafe { *message };
    let too_long = Error::new(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__LENGTH, Errno::EMSGSIZE);
    let length = usize::try_from(message.length).map_err(|_| too_long)?;
    let header = Header { kind: message.r#type as u8, length }.encode().map_err(|_| too_long)?;
    if length > 0 && message.payload.is_null() {
        return Err(Error::argument(ipc_errors::IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS));
    }
    Ok((header, message.payload.cast_const().cast(), length))
}

/// The header and the payload of a message that C wants to send.
///
/// # Safety
/// `message` is a live message, which stays as it is for as long as the payload is used.
pub(super) unsafe fn parts<'a>(
    message: *const ipc_message,
) -> Result<([u8; header::HEADER_SIZE], &'a [u8]), Error> {
    // SAFETY: as promised by the caller.
    let (header, payload, length) = unsafe { frame_of(message) }?;
    if length == 0 {
        return Ok((header, &[]));
    }
    // SAFETY: the caller's promise: `length` bytes of payload.
    Ok((header, unsafe { slice::from_raw_parts(payload, length) }))
}

/// Puts a received message in the place of what `m` holds, whose payload is freed.
///
/// # Safety
/// `m` is a live message, whose payload is NULL or from malloc(3).
pub(super) unsafe fn replace(m: *mut ipc_message, frame: Frame) {
    // SAFETY: as promised by the caller.
    unsafe { c_heap::free(m.replace(from_frame(frame)).payload) };
}

/// Reads the next message of a descriptor into `m`, until `limit`.
///
/// # Safety
/// `m` is NULL or a live message, whose payload is NULL or from malloc(3). The caller has nothing to drop.
pub(super) unsafe fn read(m: *mut ipc_message, fd: Result<RawFd, Error>, limit: Deadline) -> ipc_errors {
    let quick = |read: &mut Read, guard: &EntryGuard, wait: &mut Wait| {
        if m.is_null() || fd.is_err() {
            return None;
        }
        let flow = read.quick(guard, wait)?;
        // SAFETY: the caller's message.
        Some(Ok(flow.map(|frame| unsafe { replace(m, frame) })))
    };
    let step = |read: &mut Read, guard: &mut EntryGuard, wait: &mut Wait| {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_READ__NO_MESSAGE_PARAM)?;
        fd?;
        let flow = read.step(guard, wait, &mut |_| Ok(()))?;
        // SAFETY: the caller's message.
        Ok(flow.map(|frame| unsafe { replace(m, frame) }))
    };
    let mut read = Read::new(fd.unwrap_or(-1), limit);
    // SAFETY: plain data in this frame and, as promised, in the caller's.
    unsafe { run_quickly(ipc_errors::IPC_ERROR_USOCK_RECV, &mut read, quick, step) }
}

/// Writes the message, and a descriptor if there is one, to a descriptor.
///
/// # Safety
/// `m` is NULL or a live message. The caller has nothing to drop.
pub(super) unsafe fn write(
    m: *const ipc_message,
    fd: Result<RawFd, Error>,
    descriptor: Option<RawFd>,
) -> ipc_errors {
    let mut header = [0; header::HEADER_SIZE];
    // SAFETY: plain data in this frame and, as promised, in the caller's.
    unsafe {
        let message = required_const(m, ipc_errors::IPC_ERROR_MESSAGE_WRITE__NO_MESSAGE_PARAM);
        let frame = message.and_then(|message| frame_of(message));
        let payload = match frame {
            Ok((head, payload, length)) if length > 0 => {
                header = head;
                slice::from_raw_parts(payload, length)
            }
            Ok((head, ..)) => {
                header = head;
                &[]
            }
            Err(_) => &[],
        };
        let target = frame.and(fd);
        send(target, Outgoing::new([&header, payload]).with(descriptor))
    }
}

/// Sends a frame to a descriptor, unless it is an error.
///
/// # Safety
/// The caller has nothing to drop.
pub(super) unsafe fn send<'a>(fd: Result<RawFd, Error>, frame: Outgoing<'a>) -> ipc_errors {
    let code = ipc_errors::IPC_ERROR_USOCK_SEND;
    let at_once =
        |write: &mut Option<Write<'a>>, guard: &EntryGuard| Write::at_once(guard, fd.ok()?, frame, write);
    let step = |write: &mut Option<Write<'a>>, guard: &mut EntryGuard, wait: &mut Wait| {
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

/// The thread ends while it waits in a write.
extern "C" fn abandon(write: *mut c_void) {
    // SAFETY: the write of the frame below, which is there until this has returned.
    let write = unsafe { &mut *write.cast::<Write<'_>>() };
    call(ipc_errors::IPC_ERROR_USOCK_SEND, |guard| {
        write.abandon(guard);
        Ok(())
    });
}

/// Makes a message of `paylen` zero bytes in `*m`; with 0 it has no payload (NULL). Both blocks are from
/// malloc(3) and yours: ipc_message_empty, then free.
///
/// Errors: IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM: `m` is NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: below 0 or over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_new(m: *mut *mut ipc_message, paylen: libc::ssize_t) -> ipc_errors {
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || {
        let m = required(m, ipc_errors::IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM)?;
        let mut message = CBox::new(EMPTY)?;
        message.set(from_frame(Frame::new(0, Block::zeroed(length_of(paylen)?)?)));
        // SAFETY: the caller's place for a pointer.
        unsafe { m.write(message.into_c()) };
        Ok(())
    })
}

/// Makes a message of a buffer that holds one whole frame of `msize` bytes, header included. The payload is
/// a copy, from malloc(3) and yours. A payload that `m` held before is freed: initialise the message with zeros.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE, IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER: NULL
/// (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE: `msize` is not the size of the frame that the buffer holds,
/// or the frame is larger than any may be (EBADMSG).
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

/// Writes the message as one frame to a buffer: if `*buf` is NULL, to a new buffer from malloc(3), yours to
/// free, else to `*buf`, which has room for IPC_HEADER_SIZE + length bytes. `*msize` becomes the frame's
/// size.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE, IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER,
/// IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: the length is over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: it has a length and no payload (EINVAL).
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
        // SAFETY: the caller's message.
        let (header, payload, length) = unsafe { frame_of(m) }?;
        let size = header.len() + length;
        // SAFETY: the caller's place for a pointer, and a buffer of the announced room, if any.
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

/// Writes a frame to a buffer of C. The payload may lie in the same buffer: no reference to it, which would
/// promise that it does not.
///
/// # Safety
/// `place` has room for header and payload, and the payload has `length` bytes.
pub(super) unsafe fn put_frame(
    place: *mut c_char,
    header: [u8; header::HEADER_SIZE],
    payload: *const u8,
    length: usize,
) {
    let place = place.cast::<u8>();
    // SAFETY: as promised by the caller.
    unsafe {
        if length > 0 {
            ptr::copy(payload, place.add(header.len()), length);
        }
        ptr::copy_nonoverlapping(header.as_ptr(), place, header.len());
    }
}

/// Reads the next message of the descriptor `fd` into `m`, as ipc_read does, with the same errors.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_message_read(fd: i32, m: *mut ipc_message) -> ipc_errors {
    // SAFETY: the caller's message.
    unsafe { read(m, Ok(fd), Deadline::NONE) }
}

/// Sends the message to the descriptor `fd`, as ipc_write does, with the same errors.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ipc_message_write(fd: i32, m: *const ipc_message) -> ipc_errors {
    // SAFETY: the caller's message.
    unsafe { write(m, Ok(fd), None) }
}

/// Sets type and payload of the message. With a payload, an earlier one is freed and replaced by a copy of
/// `length` bytes; without one (NULL and 0) the old pointer stays and length becomes 0. Initialise the
/// message with zeros before.
///
/// Errors: IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM: NULL (EINVAL).
/// IPC_ERROR_MESSAGE_FORMAT__LENGTH: below 0 or over IPC_MAX_MESSAGE_SIZE (EMSGSIZE).
/// IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS: length 0 with a payload, or a length with none (EINVAL).
/// IPC_ERROR_NOT_ENOUGH_MEMORY: ENOMEM; the message is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format(
    m: *mut ipc_message,
    r#type: c_char,
    payload: *const c_char,
    length: libc::ssize_t,
) -> ipc_errors {
    // SAFETY: the caller's message and payload.
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || unsafe { format(m, r#type, payload, length) })
}

unsafe fn format(
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
            // Copied before the old one is freed: it may be the same.
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
    call_on_memory(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, || unsafe { format(m, kind, payload, length) })
}

/// Makes it a message of the type MSG_TYPE_SERVER_CLOSE without payload, as ipc_message_format does.
///
/// Error: IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM: NULL (EINVAL).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ipc_message_format_server_close(m: *mut ipc_message) -> ipc_errors {
    let (kind, code) =
        (msg_types::MSG_TYPE_SERVER_CLOSE as c_char, ipc_errors::IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM);
    // SAFETY: the caller's message.
    call_on_memory(code, || unsafe { format(m, kind, ptr::null(), 0) })
}

/// Frees the message's payload and sets it to NULL, and the length to 0. The structure stays yours.
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
