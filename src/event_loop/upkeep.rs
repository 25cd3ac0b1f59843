//! What the program has changed in its list.
//!
//! A change of the array, or of its size, shows at the next call; what is changed in place shows when the list is looked
//! through.

#![forbid(unsafe_code)]

use crate::error::Error;
use crate::event_loop::list::List;
use crate::event_loop::registry::Registry;
use crate::event_loop::scan::Scan;
use crate::process::entry_guard::EntryGuard;

/// What the loop has seen of the list.
#[derive(Default)]
pub struct Upkeep {
    /// The list's shape when the mirror was last made as it is.
    pub seen: (usize, usize),
    /// Whether the program has changed its list, and not all of it was checked since.
    pub is_unchecked: bool,
    /// How far it was looked through.
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
        registry.forget_lost_set();
        registry.sync(guard, list)?;
        (self.seen, self.is_unchecked) = (list.shape(), true);
        Ok(())
    }

    /// Looks through a part of the list for what the program has changed without changing the array or its size: entries
    /// replaced, descriptors closed, their numbers in use again.
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
        // What is no service any more fails this call, and does not keep the next ones from the connections.
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
