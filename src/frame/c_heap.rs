//! The C heap: memory from malloc(3) that the program frees with free(3). Everything that the library gives
//! to the program to free is allocated here. An allocation that fails returns [`OutOfMemory`].
//!
//! A [`Block`] (bytes) and a [`CBox`] (one structure) belong to the library and are freed when they are
//! dropped, until `into_c` gives the memory to the program. The memory of a raw pointer belongs to the
//! program; [`CBox::from_c`] and [`free`] take it back.

use std::collections::TryReserveError;
use std::ffi::{c_char, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};
use std::slice;

use nix::errno::Errno;

use crate::error::{Error, ipc_errors};

/// malloc(3) returned NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::new(ipc_errors::IPC_ERROR_NOT_ENOUGH_MEMORY, Errno::ENOMEM)
    }
}

/// A growable array of bytes that can be given to the program. One byte more than the capacity is allocated,
/// for the NUL that [`Block::into_c`] writes after the bytes.
#[derive(Default)]
pub struct Block {
    /// The memory from malloc(3); None while the capacity is 0.
    start: Option<NonNull<u8>>,
    /// How many bytes from `start` on are initialised and held, at most `capacity`.
    length: usize,
    /// How many bytes fit; `capacity` + 1 bytes are allocated.
    capacity: usize,
}

// SAFETY: a block owns its memory alone, like a Vec<u8>; malloc(3) and free(3) work from any thread.
unsafe impl Send for Block {}

impl Block {
    /// An empty block with room for at least `capacity` bytes; for 0 nothing is allocated.
    pub fn with_capacity(capacity: usize) -> Result<Self, OutOfMemory> {
        let mut block = Self::default();
        block.reserve(capacity)?;
        Ok(block)
    }

    /// A block that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let mut block = Self::with_capacity(bytes.len())?;
        block.push(bytes);
        Ok(block)
    }

    /// A block of `length` zero bytes.
    pub fn zeroed(length: usize) -> Result<Self, OutOfMemory> {
        if length == 0 {
            return Ok(Self::default());
        }
        // SAFETY: calloc takes any sizes.
        let start = unsafe { libc::calloc(length.saturating_add(1), 1) };
        let start = NonNull::new(start.cast()).ok_or(OutOfMemory)?;
        Ok(Self { start: Some(start), length, capacity: length })
    }

    /// Makes room for `capacity` bytes in total.
    pub fn reserve(&mut self, capacity: usize) -> Result<(), OutOfMemory> {
        if capacity <= self.capacity {
            return Ok(());
        }
        let old = self.start.map_or(ptr::null_mut(), |start| start.as_ptr().cast());
        // SAFETY: `old` is NULL or a block of this heap that only `self` owns.
        let start = unsafe { libc::realloc(old, capacity.saturating_add(1)) };
        self.start = Some(NonNull::new(start.cast()).ok_or(OutOfMemory)?);
        self.capacity = capacity;
        Ok(())
    }

    /// Frees the room that is not used. If realloc(3) fails, the block stays as it is.
    pub fn shrink(&mut self) {
        if let (Some(start), 1..) = (self.start, self.length) {
            // SAFETY: `start` is a block of this heap that only `self` owns.
            let smaller = unsafe { libc::realloc(start.as_ptr().cast(), self.length + 1) };
            if let Some(smaller) = NonNull::new(smaller.cast()) {
                self.start = Some(smaller);
                self.capacity = self.length;
            }
        } else {
            *self = Self::default();
        }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The bytes held.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `length` bytes from `start` on are initialised and `self` owns them.
        self.start.map_or(&[], |start| unsafe { slice::from_raw_parts(start.as_ptr(), self.length) })
    }

    fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        let (length, room) = (self.length, self.capacity - self.length);
        // SAFETY: `capacity` bytes from `start` on belong to `self`; uninitialised ones are typed so.
        self.start.map_or(&mut [], |start| unsafe {
            slice::from_raw_parts_mut(start.as_ptr().add(length).cast(), room)
        })
    }

    /// Appends as many of `bytes` as have room, and returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let count = spare.len().min(bytes.len());
        // SAFETY: `spare` has `count` bytes of room, and cannot overlap a shared slice.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), spare.as_mut_ptr().cast(), count) };
        self.length += count;
        count
    }

    /// The block with these pieces appended, as far as there is room.
    pub fn filled_with(mut self, pieces: [&[u8]; 2]) -> Self {
        for piece in pieces {
            self.push(piece);
        }
        self
    }

    /// Lets `source` write at most `most` bytes into the free room, and returns how many bytes it has
    /// appended. `source` proves what it has written by returning it: the front of the slice that it was
    /// given. Any other slice counts as 0 bytes.
    #[inline(always)]
    pub fn fill<E>(
        &mut self,
        most: usize,
        source: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], E>,
    ) -> Result<usize, E> {
        let spare = self.spare();
        let room = spare.len().min(most);
        let (spare, _) = spare.split_at_mut(room);
        let front: *const u8 = spare.as_ptr().cast();
        let written = source(spare)?;
        let count = if ptr::eq(written.as_ptr(), front) { written.len().min(room) } else { 0 };
        self.length += count;
        Ok(count)
    }

    /// Empties the block and keeps its memory.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Gives the memory to the program, which frees it: NULL for an empty block, else the bytes and a NUL.
    pub fn into_c(self) -> *mut c_char {
        if self.length == 0 {
            return ptr::null_mut();
        }
        let block = ManuallyDrop::new(self);
        let Some(start) = block.start else { return ptr::null_mut() };
        // SAFETY: one byte more than `capacity` is allocated, and `length` is at most `capacity`.
        unsafe { start.as_ptr().add(block.length).write(0) };
        start.as_ptr().cast()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: `start` is a block of this heap that only `self` owns.
            unsafe { libc::free(start.as_ptr().cast()) };
        }
    }
}

/// One structure on the C heap: freed when the box is dropped, unless [`CBox::into_c`] gives it to the
/// program.
pub struct CBox<T: Copy>(NonNull<T>);

impl<T: Copy> CBox<T> {
    /// `value`, moved to the C heap.
    pub fn new(value: T) -> Result<Self, OutOfMemory> {
        // SAFETY: malloc takes any size.
        let place = unsafe { libc::malloc(size_of::<T>()) };
        let place = NonNull::new(place.cast::<T>()).ok_or(OutOfMemory)?;
        // SAFETY: malloc aligns for every type, and the block has the size of a T.
        unsafe { place.write(value) };
        Ok(Self(place))
    }

    /// Takes back a structure that the program owned.
    ///
    /// # Safety
    /// `pointer` is NULL or a live block of malloc(3) with room for a T, and is not used afterwards.
    pub unsafe fn from_c(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// Replaces the value.
    pub fn set(&mut self, value: T) {
        // SAFETY: `self` owns a block of the size of a T.
        unsafe { self.0.write(value) };
    }

    /// The structure's address; the box keeps the ownership.
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Gives the structure to the program, which frees it.
    pub fn into_c(self) -> *mut T {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl<T: Copy> Drop for CBox<T> {
    fn drop(&mut self) {
        // SAFETY: the block is from malloc, and `into_c` did not give it away.
        unsafe { libc::free(self.0.as_ptr().cast()) };
    }
}

/// Frees memory that the program owned.
///
/// # Safety
/// `pointer` is NULL or a live block of malloc(3), and is not used afterwards.
pub unsafe fn free<T>(pointer: *mut T) {
    // SAFETY: as promised by the caller.
    unsafe { libc::free(pointer.cast::<c_void>()) };
}

/// A new array with room for `capacity` pointers, which begins with a copy of the first `count` pointers of
/// `array`.
///
/// # Safety
/// `array` has `count` pointers, and `capacity` is more than `count`.
pub unsafe fn array_with<T>(
    array: *mut *mut T,
    count: usize,
    capacity: usize,
) -> Result<*mut *mut T, OutOfMemory> {
    let size = capacity.checked_mul(size_of::<*mut T>()).ok_or(OutOfMemory)?;
    // SAFETY: malloc takes any size.
    let new = NonNull::new(unsafe { libc::malloc(size) }.cast::<*mut T>()).ok_or(OutOfMemory)?.as_ptr();
    if count > 0 {
        // SAFETY: as promised by the caller; the new block does not overlap the old one.
        unsafe { ptr::copy_nonoverlapping(array, new, count) };
    }
    Ok(new)
}

/// A source of bytes for tests: writes `bytes` to the front of `room`.
#[cfg(test)]
pub fn write_front<'a>(room: &'a mut [MaybeUninit<u8>], bytes: &[u8]) -> &'a mut [u8] {
    let (front, _) = room.split_at_mut(bytes.len());
    for (place, byte) in front.iter_mut().zip(bytes) {
        place.write(*byte);
    }
    // SAFETY: the loop has written every byte of `front`.
    unsafe { &mut *(ptr::from_mut(front) as *mut [u8]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn block_grows_and_ends_in_nul_outside_its_length() {
        let mut block = Block::with_capacity(3).unwrap();
        assert_eq!(block.push(b"abcd"), 3);
        block.reserve(5).unwrap();
        assert_eq!(block.push(b"de"), 2);
        assert_eq!((block.bytes(), block.len()), (&b"abcde"[..], 5));
        let c = block.into_c();
        // SAFETY: into_c has ended the string with a NUL.
        assert_eq!(unsafe { CStr::from_ptr(c) }, c"abcde");
        // SAFETY: into_c has given the memory to this test.
        unsafe { free(c) };
    }

    #[test]
    fn empty_block_becomes_null() {
        assert!(Block::with_capacity(9).unwrap().into_c().is_null());
        assert!(Block::zeroed(0).unwrap().into_c().is_null());
    }

    #[test]
    fn fill_counts_only_bytes_in_its_own_room() {
        let mut block = Block::with_capacity(4).unwrap();
        let count = block.fill(2, |room| Ok::<_, ()>(write_front(room, &[7, 7]))).unwrap();
        assert_eq!((count, block.bytes()), (2, &[7, 7][..]));
        let place = Box::into_raw(Box::new([1_u8, 2]));
        // SAFETY: no other code has the pointer, and the array lives until it is dropped below.
        let elsewhere = block.fill(2, |_| Ok::<_, ()>(unsafe { &mut *place }));
        // SAFETY: the pointer is from `into_raw`, and the reference is not used any more.
        drop(unsafe { Box::from_raw(place) });
        assert_eq!((elsewhere, block.len()), (Ok(0), 2));
    }

    #[test]
    fn allocation_fails_when_size_is_too_large() {
        assert!(Block::with_capacity(usize::MAX).is_err());
        assert!(Block::zeroed(usize::MAX).is_err());
    }
}
