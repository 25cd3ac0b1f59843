//! A list of the program, `struct ipc_connection_infos`, as the [`List`] that the event loop uses.
//!
//! The array and its entries belong to the program, which may change them between calls; a signal handler may
//! also change them during a call, for example free the list. So no reference to the array is kept: each
//! function reads array and size anew. The library changes the list only here, and writes a pointer to a new
//! array before it frees the old array.

use std::ffi::c_char;
use std::os::fd::RawFd;
use std::ptr;

use super::types::{ipc_connection_info, ipc_connection_infos};
use crate::event_loop::{Entry, Kind, List};
use crate::frame::c_heap::{self, CBox, OutOfMemory};

/// The `type` of an entry that `ipc_add_fd` made.
pub const EXTRA: c_char = b'a' as c_char;

/// A list of the program; the pointer is not NULL.
#[derive(Clone, Copy)]
pub struct CList {
    list: *mut ipc_connection_infos,
    /// The structure of a new client, but for its descriptor: version and index of the service, set by `new`.
    client: ipc_connection_info,
}

/// A structure without descriptor, type and path.
pub const EMPTY: ipc_connection_info =
    ipc_connection_info { version: 0, index: 0, fd: -1, r#type: 0, spath: ptr::null_mut() };

/// The kind of an entry by its `type`. Entries of ipc_watch_fd, signals and timers also have the type of
/// [`Kind::Extra`]; the event loop keeps their true kinds.
///
/// # Safety
/// `entry` points to a live structure.
pub unsafe fn kind_of(entry: *const ipc_connection_info) -> Kind {
    // SAFETY: as promised by the caller.
    if unsafe { (*entry).r#type } == EXTRA { Kind::Extra } else { Kind::Connection }
}

impl CList {
    /// # Safety
    /// `list` points to a list. As long as this value is used, each of the `size` entries of `cinfos` is NULL
    /// or points to a live structure. `service` is NULL or points to a live structure.
    pub unsafe fn new(list: *mut ipc_connection_infos, service: *const ipc_connection_info) -> Self {
        let client = if service.is_null() {
            EMPTY
        } else {
            // SAFETY: as promised by the caller.
            unsafe { ipc_connection_info { version: (*service).version, index: (*service).index, ..EMPTY } }
        };
        Self { list, client }
    }

    /// The array and the number of its entries: 0 if the array is NULL or the size is below 0. Each member is
    /// read once, since a signal handler may change it between two reads.
    fn parts(&self) -> (*mut *mut ipc_connection_info, usize) {
        // SAFETY: promised in `new`.
        let (array, size) = unsafe { ((&raw const (*self.list).cinfos).read_volatile(), (*self.list).size) };
        (array, if array.is_null() { 0 } else { usize::try_from(size).unwrap_or(0) })
    }

    /// The number of entries, including those that are NULL.
    pub fn size(&self) -> usize {
        self.parts().1
    }

    fn set_parts(&mut self, array: *mut *mut ipc_connection_info, size: usize) {
        // SAFETY: promised in `new`.
        unsafe {
            (*self.list).cinfos = array;
            (*self.list).size = i32::try_from(size).unwrap_or(i32::MAX);
        }
    }

    /// Makes room for one more entry, always in a new array: the program may have allocated the array, and
    /// malloc(3) does not report how large the array is. The old array is freed last, so that the list never
    /// points to freed memory, to which a signal handler could write.
    fn reserve(&mut self) -> Result<(), OutOfMemory> {
        let (array, size) = self.parts();
        // SAFETY: the array is from malloc(3) by the contract of ipc_connection_infos, and has `size`
        // entries.
        unsafe {
            let larger = c_heap::array_with(array, size, size + 1)?;
            self.set_parts(larger, size);
            c_heap::free(array);
        }
        Ok(())
    }

    /// Stores a pointer at the end, in the room that `reserve` has made. `None` if a signal handler has freed
    /// the list meanwhile.
    fn store(&mut self, pointer: *mut ipc_connection_info) -> Option<usize> {
        let (array, size) = self.parts();
        if array.is_null() {
            return None;
        }
        // SAFETY: `reserve` has made room for `size + 1` entries.
        unsafe { array.add(size).write(pointer) };
        self.set_parts(array, size + 1);
        Some(size)
    }

    /// Appends a pointer and returns its index.
    pub fn append(&mut self, pointer: *mut ipc_connection_info) -> Result<usize, OutOfMemory> {
        self.reserve()?;
        self.store(pointer).ok_or(OutOfMemory)
    }

    /// The index of the pointer.
    pub fn position(&self, pointer: *const ipc_connection_info) -> Option<usize> {
        let (array, size) = self.parts();
        // SAFETY: `index` is below the size.
        (0..size).find(|index| ptr::eq(unsafe { *array.add(*index) }, pointer))
    }

    /// Frees the array; the structures in it stay the program's.
    pub fn free(&mut self) {
        let (array, _) = self.parts();
        self.forget();
        // SAFETY: the array is from malloc(3), and the list no longer points to it.
        unsafe { c_heap::free(array) };
    }

    /// Makes the list empty without freeing the array.
    pub fn forget(&mut self) {
        self.set_parts(ptr::null_mut(), 0);
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

    fn at(&self, index: usize) -> Option<(Entry, Self::Origin)> {
        let (array, size) = self.parts();
        // SAFETY: `index` is below the size.
        let entry = (index < size).then(|| unsafe { *array.add(index) })?;
        if entry.is_null() {
            return None;
        }
        // SAFETY: an entry that is not NULL points to a live structure, as promised in `new`.
        let (fd, kind) = unsafe { ((*entry).fd, kind_of(entry)) };
        Some((Entry { fd, addr: entry.addr(), kind }, entry))
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
            // SAFETY: `push` has stored the pointer, and the program has not seen it.
            drop(unsafe { CBox::from_c(client) });
        }
    }

    fn remove_entry(&mut self, index: usize) {
        let (array, size) = self.parts();
        if index >= size {
            return;
        }
        // SAFETY: both indices are below the size.
        unsafe { array.add(index).write(*array.add(size - 1)) };
        self.set_parts(array, size - 1);
        if size == 1 {
            self.free();
        }
    }
}
