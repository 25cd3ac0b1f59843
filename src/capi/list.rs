//! `struct ipc_connection_infos`, as the event loop sees it.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr;

use super::types::{ipc_connection_info, ipc_connection_infos};
use crate::event_loop::{Entry, Kind, List};
use crate::frame::c_heap::{self, CBox, OutOfMemory};

/// The `type` of an entry that `ipc_add_fd` made.
pub const EXTRA: c_char = b'a' as c_char;

/// A list of the program, which is not NULL.
#[derive(Clone, Copy)]
pub struct CList {
    list: *mut ipc_connection_infos,
    /// What a new client's structure is made from.
    client: ipc_connection_info,
}

/// A structure with nothing set.
pub const EMPTY: ipc_connection_info =
    ipc_connection_info { version: 0, index: 0, fd: -1, r#type: 0, spath: ptr::null_mut() };

/// The kind of an entry, as far as its `type` says.
///
/// # Safety
/// `entry` points to a live structure.
pub unsafe fn kind_of(entry: *const ipc_connection_info) -> Kind {
    // SAFETY: as promised by the caller.
    if unsafe { (*entry).r#type } == EXTRA { Kind::Extra } else { Kind::Connection }
}

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

    /// The array and how many entries it has. Each is read once: a signal handler may change them in between.
    fn parts(&self) -> (*mut *mut ipc_connection_info, usize) {
        // SAFETY: promised in `new`.
        let (array, size) = unsafe { ((&raw const (*self.list).cinfos).read_volatile(), (*self.list).size) };
        (array, if array.is_null() { 0 } else { usize::try_from(size).unwrap_or(0) })
    }

    /// How many entries there are, NULL ones included.
    pub fn size(&self) -> usize {
        self.parts().1
    }

    fn set(&mut self, array: *mut *mut ipc_connection_info, size: usize) {
        // SAFETY: promised in `new`.
        unsafe {
            (*self.list).cinfos = array;
            (*self.list).size = i32::try_from(size).unwrap_or(i32::MAX);
        }
    }

    /// Makes room for one more. The array may be the program's own, and malloc(3) does not say how large it is: so there is
    /// a new one each time. The old array is freed last: at no moment does the list name freed memory, which a signal
    /// handler might write to.
    fn reserve(&mut self) -> Result<(), OutOfMemory> {
        let (array, size) = self.parts();
        // SAFETY: the array is from malloc(3) by the contract of ipc_connection_infos, and has `size` entries.
        unsafe {
            let larger = c_heap::array_with(array, size, size + 1)?;
            self.set(larger, size);
            c_heap::free(array);
        }
        Ok(())
    }

    /// Stores a pointer at the end, in the room that was made. None if a signal handler has freed the
    /// list meanwhile.
    fn store(&mut self, pointer: *mut ipc_connection_info) -> Option<usize> {
        let (array, size) = self.parts();
        if array.is_null() {
            return None;
        }
        // SAFETY: `reserve` has made room for one more than `size`.
        unsafe { array.add(size).write(pointer) };
        self.set(array, size + 1);
        Some(size)
    }

    /// Appends a pointer; where it stands.
    pub fn append(&mut self, pointer: *mut ipc_connection_info) -> Result<usize, OutOfMemory> {
        self.reserve()?;
        self.store(pointer).ok_or(OutOfMemory)
    }

    /// Where the pointer stands.
    pub fn position(&self, pointer: *const ipc_connection_info) -> Option<usize> {
        let (array, size) = self.parts();
        // SAFETY: `index` is below the size.
        (0..size).find(|index| ptr::eq(unsafe { *array.add(*index) }, pointer))
    }

    /// Frees the array; the entries stay the program's.
    pub fn free(&mut self) {
        let (array, _) = self.parts();
        self.forget();
        // SAFETY: the array is from malloc(3), and the list does not name it any more.
        unsafe { c_heap::free(array) };
    }

    /// Lets go of the array without freeing it.
    pub fn forget(&mut self) {
        self.set(ptr::null_mut(), 0);
    }
}

impl List for CList {
    type Origin = *mut ipc_connection_info;
    type Client = CBox<ipc_connection_info>;

    fn key(&self) -> usize {
        self.list.addr()
    }

    fn shape(&self) -> (usize, usize) {
        let (array, size) = self.parts();
        (array.addr(), size)
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let entry = self.origin(index)?;
        // SAFETY: an entry that is not NULL points to a live structure, as promised in `new`.
        let (fd, kind) = unsafe { ((*entry).fd, kind_of(entry)) };
        Some(Entry { fd, addr: entry.addr(), kind })
    }

    fn origin(&self, index: usize) -> Option<Self::Origin> {
        let (array, size) = self.parts();
        // SAFETY: `index` is below the size.
        let entry = (index < size).then(|| unsafe { *array.add(index) })?;
        (!entry.is_null()).then_some(entry)
    }

    fn prepare(&mut self) -> Result<Self::Client, OutOfMemory> {
        self.reserve()?;
        CBox::new(self.client)
    }

    fn push(&mut self, mut client: Self::Client, fd: RawFd) -> Option<usize> {
        client.set(ipc_connection_info { fd, ..self.client });
        let index = self.store(client.as_ptr())?;
        let _owned_by_the_list = client.into_c();
        Some(index)
    }

    fn take_back(&mut self, index: usize) {
        if let Some(client) = self.origin(index) {
            self.remove_entry(index);
            // SAFETY: from `push`, and the program has not seen the pointer.
            drop(unsafe { CBox::from_c(client) });
        }
    }

    fn remove_entry(&mut self, index: usize) {
        let (array, size) = self.parts();
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
