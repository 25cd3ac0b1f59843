//! `struct ipc_connection_infos`, as the event loop sees it.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr;

use super::types::{ipc_connection_info, ipc_connection_infos};
use crate::error::Error;
use crate::event_loop::{Entry, List};
use crate::memory::{self, CBox, OutOfMemory};

/// The `type` of an entry that `ipc_add_fd` made.
pub const EXTRA: c_char = b'a'.cast_signed() as c_char;

/// A list of the program, which is not NULL.
pub struct CList {
    list: *mut ipc_connection_infos,
    /// What a new client's structure is made from.
    client: ipc_connection_info,
}

/// A structure with nothing set.
pub const EMPTY: ipc_connection_info =
    ipc_connection_info { version: 0, index: 0, fd: -1, r#type: 0, spath: ptr::null_mut() };

impl CList {
    /// # Safety
    /// `list` points to a list whose `size` entries of `cinfos` are NULL or point to live structures, for as
    /// long as this value is used. `service` is NULL or points to a live structure.
    pub unsafe fn new(list: *mut ipc_connection_infos, service: *const ipc_connection_info) -> Self {
        let client = if service.is_null() {
            EMPTY
        } else {
            // SAFETY: as promised by the caller.
            unsafe { ipc_connection_info { version: (*service).version, index: (*service).index, ..EMPTY } }
        };
        Self { list, client }
    }

    fn array(&self) -> *mut *mut ipc_connection_info {
        // SAFETY: promised in `new`.
        unsafe { (*self.list).cinfos }
    }

    /// How many entries there are, NULL ones included.
    pub fn size(&self) -> usize {
        // SAFETY: promised in `new`.
        let size = unsafe { (*self.list).size };
        if self.array().is_null() { 0 } else { usize::try_from(size).unwrap_or(0) }
    }

    fn set(&mut self, array: *mut *mut ipc_connection_info, size: usize) {
        // SAFETY: promised in `new`.
        unsafe {
            (*self.list).cinfos = array;
            (*self.list).size = i32::try_from(size).unwrap_or(i32::MAX);
        }
    }

    /// Makes room for one more.
    fn reserve(&mut self) -> Result<(), OutOfMemory> {
        let size = self.size();
        // SAFETY: the array is from malloc(3) by the contract of ipc_connection_infos.
        let array = unsafe { memory::resize_array(self.array(), size + 1) }?;
        self.set(array, size);
        Ok(())
    }

    /// Stores a pointer at the end, in the room that was made.
    fn store(&mut self, pointer: *mut ipc_connection_info) -> usize {
        let (array, size) = (self.array(), self.size());
        // SAFETY: `reserve` has made room for one more than `size`.
        unsafe { array.add(size).write(pointer) };
        self.set(array, size + 1);
        size
    }

    /// Appends a pointer; where it stands.
    pub fn append(&mut self, pointer: *mut ipc_connection_info) -> Result<usize, OutOfMemory> {
        self.reserve()?;
        Ok(self.store(pointer))
    }

    /// Where the pointer stands.
    pub fn position(&self, pointer: *const ipc_connection_info) -> Option<usize> {
        (0..self.size()).find(|index| {
            // SAFETY: `index` is below the size.
            ptr::eq(unsafe { *self.array().add(*index) }, pointer)
        })
    }

    /// Frees the array; the entries stay the program's.
    pub fn free(&mut self) {
        let array = self.array();
        self.forget();
        // SAFETY: the array is from malloc(3), and the list does not name it any more.
        unsafe { memory::free(array) };
    }

    /// Lets go of the array without freeing it.
    pub fn forget(&mut self) {
        self.set(ptr::null_mut(), 0);
    }
}

impl List for CList {
    type Origin = *mut ipc_connection_info;

    fn key(&self) -> usize {
        self.list.addr()
    }

    fn shape(&self) -> (usize, usize) {
        (self.array().addr(), self.size())
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let entry = self.origin(index)?;
        // SAFETY: an entry that is not NULL points to a live structure, as promised in `new`.
        let (fd, kind) = unsafe { ((*entry).fd, (*entry).r#type) };
        (fd >= 0).then_some(Entry { fd, identity: entry.addr(), extra: kind == EXTRA })
    }

    fn origin(&self, index: usize) -> Option<Self::Origin> {
        // SAFETY: `index` is below the size.
        let entry = (index < self.size()).then(|| unsafe { *self.array().add(index) })?;
        (!entry.is_null()).then_some(entry)
    }

    fn push(&mut self, make: impl FnOnce(usize, usize) -> Result<RawFd, Error>) -> Result<usize, Error> {
        self.reserve()?;
        let mut client = CBox::new(self.client)?;
        let fd = make(self.size(), client.as_ptr().addr())?;
        client.set(ipc_connection_info { fd, ..self.client });
        Ok(self.store(client.into_c()))
    }

    fn remove(&mut self, index: usize) {
        let (array, size) = (self.array(), self.size());
        if index >= size {
            return;
        }
        // SAFETY: both are below the size.
        unsafe { array.add(index).write(*array.add(size - 1)) };
        self.set(array, size - 1);
        if size == 1 {
            self.free();
        }
    }
}
