//! Finding the changes that the program has made in its list.
//!
//! A new array or size is found at the next call; a change within the array is found by the scan.

#![forbid(unsafe_code)]

use crate::error::Error;
use crate::event_loop::list::List;
use crate::event_loop::registry::Registry;
use crate::event_loop::scan::Scan;
use crate::process::entry_guard::EntryGuard;

/// What the loop has seen of the list.
#[derive(Default)]
pub struct Upkeep {
    /// The list's shape when the mirror was last synchronised; written by each step that reports an event,
    /// too.
    pub seen: (usize, usize),
    /// Whether the list was changed since all of its entries were last checked.
    pub is_unchecked: bool,
    /// How far the scan is.
    pub scan: Scan,
    /// How many services the process had opened when the service's socket was last registered.
    pub services: u32,
}

impl Upkeep {
    pub fn sync<L: List>(
        &mut self,
        guard: &EntryGuard,
        registry: &mut Registry,
        list: &L,
    ) -> Result<(), Error> {
        registry.drop_lost_set();
        registry.sync(guard, list)?;
        (self.seen, self.is_unchecked) = (list.shape(), true);
        Ok(())
    }

    /// Checks a part of the list for changes that leave the array and its size as they are: entries replaced,
    /// descriptors closed, their numbers used again.
    pub fn scan_part<L: List>(
        &mut self,
        guard: &EntryGuard,
        registry: &mut Registry,
        list: &L,
    ) -> Result<(), Error> {
        let (_, size) = list.shape();
        let part = self.scan.part(size);
        if part.start == 0 {
            if self.seen != list.shape() || registry.members.differs(list, 0..size) {
                self.sync(guard, registry, list)?;
            }
            registry.register_listener(guard)?;
        }
        Self::check(guard, registry, part)
    }

    /// The same for the whole list at once.
    pub fn check_all<L: List>(
        &mut self,
        guard: &EntryGuard,
        registry: &mut Registry,
        list: &L,
    ) -> Result<(), Error> {
        let (_, size) = list.shape();
        self.scan.finish();
        let listener = registry.register_listener(guard);
        Self::check(guard, registry, 0..size)?;
        // A socket that is no service any more fails this call, but must not keep later calls from the
        // connections.
        self.is_unchecked = false;
        listener
    }

    fn check(
        guard: &EntryGuard,
        registry: &mut Registry,
        mut places: std::ops::Range<usize>,
    ) -> Result<(), Error> {
        places.try_for_each(|index| match registry.members.at(index) {
            Some(slot) => registry.check(guard, slot),
            None => Ok(()),
        })
    }
}
