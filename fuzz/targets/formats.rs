//! One message through the functions that create it, that encode it as a frame, and that decode a frame, with
//! right and wrong lengths, against a model of the message.

use std::ffi::{c_char, c_void};
use std::ptr;

use ipc::capi::messages::*;
use ipc::capi::types::ipc_errors::{self, *};
use ipc::capi::types::{ipc_message, msg_types};

use super::script::{Script, append_pattern};
use super::stream::{HEADER, MOST, Next, Stream, any_header, frame};
use super::trace;

/// The value of errno before each call: a call that succeeds leaves it.
const UNTOUCHED: i32 = 4095;

/// The message as C has it, and the model of it.
struct Message {
    c: ipc_message,
    kind: u8,
    length: usize,
    /// The bytes that the pointer points to; `None` for NULL. `length` may be smaller.
    payload: Option<Vec<u8>>,
}

pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut message = Message {
        c: ipc_message { r#type: 0, length: 0, payload: ptr::null_mut() },
        kind: 0,
        length: 0,
        payload: None,
    };
    let mut large = 0;
    while let Some(step) = script.next() {
        message.play(step, &mut script, &mut large);
        message.check();
    }
    assert_eq!(call(|| unsafe { ipc_message_empty(&mut message.c) }), Ok(()));
    message.forget_payload();
    message.check();
}

/// The code of a failure, and errno after it. A call that succeeds leaves errno unchanged.
fn call(function: impl FnOnce() -> ipc_errors) -> Result<(), (ipc_errors, i32)> {
    unsafe { *libc::__errno_location() = UNTOUCHED };
    let code = function();
    let errno = unsafe { *libc::__errno_location() };
    trace!("  {code:?}, errno {errno}");
    if code == IPC_ERROR_NONE {
        assert_eq!(errno, UNTOUCHED, "errno after a success");
        return Ok(());
    }
    Err((code, errno))
}

impl Message {
    fn play(&mut self, step: u8, script: &mut Script<'_>, large: &mut usize) {
        trace!("step {}", step % 13);
        match step % 13 {
            0 | 1 => self.format(script, false),
            2 => self.format(script, true),
            3 => self.format_wrongly(script),
            4 => {
                assert_eq!(call(|| unsafe { ipc_message_format_server_close(&mut self.c) }), Ok(()));
                (self.kind, self.length) = (msg_types::MSG_TYPE_SERVER_CLOSE as u8, 0);
            }
            5 => {
                assert_eq!(call(|| unsafe { ipc_message_empty(&mut self.c) }), Ok(()));
                self.forget_payload();
            }
            6 => self.write_to_new(),
            7 => self.write_to_own(script),
            8 => self.write_wrongly(script),
            9 => self.read(script, false),
            10 => self.read(script, true),
            11 => self.null_pointers(script),
            // Large payloads take long.
            _ if *large < 2 && script.byte() == 0xA5 => {
                *large += 1;
                self.largest(script);
            }
            _ => new_message(script),
        }
    }

    /// The message in C equals the model.
    fn check(&self) {
        assert_eq!((self.c.r#type as u8, self.c.length as usize), (self.kind, self.length));
        assert_eq!(self.c.payload.is_null(), self.payload.is_none());
        if let Some(payload) = &self.payload {
            assert!(bytes_of(self.c.payload, payload.len()) == &payload[..], "another payload");
        }
    }

    fn forget_payload(&mut self) {
        (self.length, self.payload) = (0, None);
    }

    fn value(&self) -> &[u8] {
        &self.payload.as_deref().unwrap_or_default()[..self.length]
    }

    /// A payload that is part of the message's own, of another block, or NULL.
    fn format(&mut self, script: &mut Script<'_>, data: bool) {
        let kind = if data { msg_types::MSG_TYPE_DATA as u8 } else { script.byte() };
        let size = script.size();
        let own = self.payload.as_ref().filter(|_| script.coin()).map(Vec::len);
        let mut bytes = Vec::new();
        let source = match own {
            // A part of the message's present payload, which the call frees.
            Some(have) if have > 0 => {
                let (from, size) = (size % have, 1 + script.size() % (have - size % have));
                bytes.extend_from_slice(bytes_of(self.c.payload.wrapping_add(from), size));
                self.c.payload.wrapping_add(from).cast_const()
            }
            _ => {
                append_pattern(&mut bytes, size, usize::from(kind));
                bytes.as_ptr().cast()
            }
        };
        let source = if bytes.is_empty() { ptr::null() } else { source };
        let length = bytes.len() as isize;
        let result = call(|| unsafe {
            if data {
                ipc_message_format_data(&mut self.c, source, length)
            } else {
                ipc_message_format(&mut self.c, kind as c_char, source, length)
            }
        });
        assert_eq!(result, Ok(()));
        (self.kind, self.length) = (kind, bytes.len());
        // Without a payload the old pointer stays.
        if !bytes.is_empty() {
            self.payload = Some(bytes);
            self.assert_nul();
        }
    }

    /// A NUL follows a payload that the library has allocated.
    fn assert_nul(&self) {
        let after = bytes_of(self.c.payload.wrapping_add(self.length), 1);
        assert_eq!(after, [0], "the NUL after the payload");
    }

    fn format_wrongly(&mut self, script: &mut Script<'_>) {
        let text = b"never read".as_ptr().cast();
        let length_error = Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE));
        let inconsistent = Err((IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, libc::EINVAL));
        let (payload, length, expected): (*const c_char, isize, _) = match script.below(6) {
            0 => (text, -1 - (script.size() as isize), length_error),
            1 => (text, (MOST + 1 + script.size()) as isize, length_error),
            2 => (text, if script.coin() { isize::MIN } else { isize::MAX }, length_error),
            3 => (text, 0, inconsistent),
            4 => (ptr::null(), (1 + script.size()) as isize, inconsistent),
            _ => (ptr::null(), MOST as isize, inconsistent),
        };
        let result = call(|| unsafe {
            if script.coin() {
                ipc_message_format_data(&mut self.c, payload, length)
            } else {
                ipc_message_format(&mut self.c, 9, payload, length)
            }
        });
        assert_eq!(result, expected, "length {length}");
    }

    /// The expected frame of the message.
    fn frame(&self) -> Vec<u8> {
        let length = u32::try_from(self.length).unwrap().to_ne_bytes();
        [&[self.kind][..], &length, self.value()].concat()
    }

    /// Encodes into a buffer that the library allocates, and decodes it.
    fn write_to_new(&mut self) {
        let (mut buffer, mut size) = (ptr::null_mut(), -1);
        assert_eq!(call(|| unsafe { ipc_message_format_write(&self.c, &mut buffer, &mut size) }), Ok(()));
        assert_eq!(size, (HEADER + self.length) as isize);
        assert!(bytes_of(buffer, size as usize) == self.frame(), "another frame");
        let mut back = ipc_message { r#type: 1, length: 1, payload: ptr::null_mut() };
        assert_eq!(call(|| unsafe { ipc_message_format_read(&mut back, buffer, size) }), Ok(()));
        assert_eq!((back.r#type as u8, back.length as usize), (self.kind, self.length));
        assert_eq!(back.payload.is_null(), self.length == 0);
        if self.length > 0 {
            assert!(bytes_of(back.payload, self.length) == self.value());
            assert_eq!(bytes_of(back.payload, self.length + 1)[self.length], 0, "the NUL after the payload");
        }
        free(back.payload);
        free(buffer);
    }

    /// Encodes into a buffer of exactly the size of the frame; the message's payload may already be in that
    /// buffer.
    fn write_to_own(&mut self, script: &mut Script<'_>) {
        let (size, payload) = (HEADER + self.length, self.value().to_vec());
        // The bytes after it must not change.
        let mut buffer = vec![0xEE_u8; size + 8];
        let mut message = self.c;
        if script.coin() && self.length > 0 {
            let from = script.size() % (HEADER + 1);
            buffer[from..from + self.length].copy_from_slice(&payload);
            message.payload = buffer.as_mut_ptr().wrapping_add(from).cast();
        }
        let (mut place, mut written) = (buffer.as_mut_ptr().cast::<c_char>(), -1);
        let given = place;
        assert_eq!(call(|| unsafe { ipc_message_format_write(&message, &mut place, &mut written) }), Ok(()));
        assert_eq!((place, written), (given, size as isize));
        assert!(buffer[..size] == self.frame(), "another frame");
        assert_eq!(buffer[size..], [0xEE; 8], "written after the frame");
    }

    /// Invalid messages leave the buffer and its size unchanged.
    fn write_wrongly(&mut self, script: &mut Script<'_>) {
        let mut message = self.c;
        let expected = match script.below(3) {
            0 => {
                message.payload = ptr::null_mut();
                message.length = 1 + u32::try_from(script.size()).unwrap();
                (IPC_ERROR_MESSAGE_FORMAT__INCONSISTENT_PARAMS, libc::EINVAL)
            }
            1 => {
                message.length = u32::try_from(MOST + 1 + script.size()).unwrap();
                (IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)
            }
            _ => {
                message.length = u32::MAX - u32::from(script.byte());
                (IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)
            }
        };
        let mut room = [7; 4];
        let given = if script.coin() { ptr::null_mut() } else { room.as_mut_ptr() };
        let (mut buffer, mut size) = (given, -7);
        let result = call(|| unsafe { ipc_message_format_write(&message, &mut buffer, &mut size) });
        assert_eq!(result, Err(expected));
        assert_eq!((buffer, size, room), (given, -7, [7; 4]));
    }

    /// Decodes a buffer with a whole frame, a part of one, more than one, or none.
    fn read(&mut self, script: &mut Script<'_>, nearly: bool) {
        let mut bytes = if nearly {
            let mut bytes = frame(script.byte(), script.size(), 1);
            match script.below(4) {
                0 => bytes.truncate(bytes.len() - 1 - script.size() % bytes.len()),
                1 => bytes.extend_from_slice(script.bytes(3)),
                2 => bytes[1 + script.below(4)] ^= 1 << script.below(8),
                _ => {}
            }
            bytes
        } else {
            let count = script.below(64);
            script.bytes(count).to_vec()
        };
        if script.coin() {
            let header = any_header(script);
            let common = bytes.len().min(HEADER);
            bytes[..common].copy_from_slice(&header[..common]);
        }
        // No more bytes than the buffer has.
        let size = match script.below(4) {
            0 => -1 - (script.size() as isize),
            1 => (script.size() % (bytes.len() + 1)) as isize,
            _ => bytes.len() as isize,
        };
        self.read_from(&bytes, size);
    }

    fn read_from(&mut self, bytes: &[u8], size: isize) {
        let mut stream = Stream::default();
        stream.send(&bytes[..size.max(0) as usize]);
        let expected = match stream.next(stream.len()) {
            Next::Frame(kind, payload) if HEADER + payload.len() == stream.len() => Some((kind, payload)),
            _ => None,
        };
        // The old payload of the message is freed, unless the call fails.
        let before = self.c;
        let result = call(|| unsafe { ipc_message_format_read(&mut self.c, bytes.as_ptr().cast(), size) });
        let Some((kind, payload)) = expected else {
            assert_eq!(result, Err((IPC_ERROR_MESSAGE_FORMAT_READ__MESSAGE_SIZE, libc::EBADMSG)), "{size}");
            assert_eq!(self.c.payload, before.payload);
            return;
        };
        assert_eq!(result, Ok(()), "{size}");
        (self.kind, self.length) = (kind, payload.len());
        self.payload = (!payload.is_empty()).then(|| payload.to_vec());
        self.check();
        if !payload.is_empty() {
            self.assert_nul();
        }
    }

    /// A message of the maximum size, or one byte larger.
    fn largest(&mut self, script: &mut Script<'_>) {
        let (size, kind) = (MOST + script.below(2), script.byte());
        let mut bytes = frame(kind, size, 3);
        self.read_from(&bytes, bytes.len() as isize);
        let payload = bytes.split_off(HEADER);
        let (pointer, length) = (payload.as_ptr().cast(), size as isize);
        let result = call(|| unsafe { ipc_message_format_data(&mut self.c, pointer, length) });
        if size > MOST {
            assert_eq!(result, Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)));
        } else {
            assert_eq!(result, Ok(()));
            (self.kind, self.length) = (msg_types::MSG_TYPE_DATA as u8, size);
            self.payload = Some(payload);
            self.write_to_new();
        }
    }

    fn null_pointers(&mut self, script: &mut Script<'_>) {
        let (mut buffer, mut size) = (ptr::null_mut(), 0);
        let (no_message, text) = (ptr::null_mut::<ipc_message>(), c"12345".as_ptr());
        let result = call(|| unsafe {
            match script.below(10) {
                0 => ipc_message_format(no_message, 0, text, 5),
                1 => ipc_message_format_data(no_message, text, 5),
                2 => ipc_message_format_server_close(no_message),
                3 => ipc_message_empty(no_message),
                4 => ipc_message_new(ptr::null_mut(), 5),
                5 => ipc_message_format_read(no_message, text, 5),
                6 => ipc_message_format_read(&mut self.c, ptr::null(), 5),
                7 => ipc_message_format_write(no_message, &mut buffer, &mut size),
                8 => ipc_message_format_write(&self.c, ptr::null_mut(), &mut size),
                _ => ipc_message_format_write(&self.c, &mut buffer, ptr::null_mut()),
            }
        });
        let expected = [
            IPC_ERROR_MESSAGE_FORMAT__NO_MESSAGE_PARAM,
            IPC_ERROR_MESSAGE_EMPTY__EMPTY_MESSAGE_LIST,
            IPC_ERROR_MESSAGE_NEW__NO_MESSAGE_PARAM,
            IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_MESSAGE,
            IPC_ERROR_MESSAGE_FORMAT_READ__EMPTY_BUFFER,
            IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MESSAGE,
            IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_BUFFER,
            IPC_ERROR_MESSAGE_FORMAT_WRITE__EMPTY_MSIZE,
        ];
        let (code, errno) = result.unwrap_err();
        assert!(expected.contains(&code) && errno == libc::EINVAL, "{code:?}, errno {errno}");
        assert!(buffer.is_null() && size == 0);
    }
}

fn new_message(script: &mut Script<'_>) {
    let length = match script.below(4) {
        0 => -1 - (script.size() as isize),
        1 => (MOST + 1 + script.size()) as isize,
        _ => script.size() as isize,
    };
    let mut message = ptr::null_mut();
    let result = call(|| unsafe { ipc_message_new(&mut message, length) });
    if length < 0 || length > (MOST as isize) {
        assert_eq!(result, Err((IPC_ERROR_MESSAGE_FORMAT__LENGTH, libc::EMSGSIZE)));
        assert!(message.is_null());
        return;
    }
    assert_eq!(result, Ok(()));
    let (created, size) = (unsafe { *message }, length as usize);
    assert_eq!(created.length as usize, size);
    assert_eq!(created.payload.is_null(), size == 0);
    if size > 0 {
        // Including the NUL after it.
        assert!(bytes_of(created.payload, size + 1).iter().all(|byte| *byte == 0));
    }
    free(created.payload);
    free(message);
}

fn bytes_of<'a>(pointer: *const c_char, size: usize) -> &'a [u8] {
    unsafe { std::slice::from_raw_parts(pointer.cast(), size) }
}

fn free<T>(pointer: *mut T) {
    unsafe { libc::free(pointer.cast::<c_void>()) };
}
