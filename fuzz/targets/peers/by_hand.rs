//! Changes of the list by hand: the program changes the array, its size and its entries.

use std::ptr;

use ipc::capi::types::ipc_connection_info;

use super::connection::{Kind, State};
use super::world::World;
use crate::targets::script::Script;
use crate::targets::trace;

impl World {
    pub fn change_by_hand(&mut self, script: &mut Script<'_>) {
        let (way, choice, at_once) = (script.below(7), script.below(256), script.below(4) > 0);
        if !self.may_change(at_once) {
            return;
        }
        trace!("  the list is changed by hand, way {way}");
        match way {
            0 => self.replace_array(),
            1 => {
                self.here.listed.reverse();
                self.replace_array();
            }
            2 if self.here.listed.len() > 1 => {
                let last = self.here.listed.len() - 1;
                self.here.listed.swap(choice % last, last);
                self.write_entries();
            }
            // The entry is removed, and the others move up, in the same array or another one.
            3 | 4 => {
                if let Some(number) = self.choose(choice, Self::may_be_taken_out) {
                    self.prepare(number);
                    let place = self.place(number).unwrap();
                    self.here.listed.remove(place);
                    if way == 3 {
                        self.replace_array()
                    } else {
                        self.write_entries()
                    }
                    self.taken_out(number);
                }
            }
            5 => {
                if let Some(number) = self.choose(choice, Self::may_be_taken_out) {
                    self.prepare(number);
                    let place = self.place(number).unwrap();
                    self.here.listed[place] = None;
                    self.write_entries();
                    self.taken_out(number);
                }
            }
            6 => {
                if let Some(number) = self.choose(choice, Self::may_be_put_in) {
                    self.remove_dead(self.connections[number].fd);
                    match self.here.listed.iter().position(Option::is_none) {
                        Some(place) => {
                            self.here.listed[place] = Some(number);
                            self.write_entries();
                        }
                        None => {
                            self.here.listed.push(Some(number));
                            self.replace_array();
                        }
                    }
                    self.connections[number].forget_own_end();
                    self.connections[number].is_unnoticed = true;
                }
            }
            _ => {}
        }
        self.have_it_noticed(at_once);
    }

    /// Whether the program may change something by hand that the library notices at once, because the array
    /// then is another one, or after some milliseconds.
    pub fn may_change(&mut self, at_once: bool) -> bool {
        at_once || self.may_be_slow()
    }

    /// Makes the library scan the whole list in the next call, or not.
    pub fn have_it_noticed(&mut self, at_once: bool) {
        if at_once {
            self.here.changed = true;
            self.replace_array();
        } else {
            self.here.hidden = true;
        }
    }

    fn choose(&self, choice: usize, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let fits = |number: &usize| !self.connections[*number].is_elsewhere && fits(self, *number);
        let fitting: Vec<_> = (0..self.connections.len()).filter(fits).collect();
        (!fitting.is_empty()).then(|| fitting[choice % fitting.len()])
    }

    fn may_be_taken_out(&self, number: usize) -> bool {
        let connection = &self.connections[number];
        self.is_served(number) && matches!(connection.state, State::Open | State::Closed)
    }

    /// If the library has not noticed yet that the entry was removed, an end that was reported stays
    /// reported.
    fn may_be_put_in(&self, number: usize) -> bool {
        let connection = &self.connections[number];
        connection.may_be_added()
            && !self.is_listed(number)
            && !(connection.kind == Kind::Extra && connection.end_reported)
    }

    fn prepare(&mut self, number: usize) {
        if self.connections[number].state != State::Closed {
            self.remove_dead(self.connections[number].fd);
        }
    }

    fn taken_out(&mut self, number: usize) {
        self.is_unlisted(number);
    }

    fn pointers(&self) -> Vec<*mut ipc_connection_info> {
        let pointer = |number: usize| self.connections[number].info;
        self.here.listed.iter().map(|entry| entry.map_or(ptr::null_mut(), pointer)).collect()
    }

    /// Another array, with room for these entries only.
    fn replace_array(&mut self) {
        let (old, pointers) = (self.here.list.cinfos, self.pointers());
        unsafe {
            self.here.list.cinfos = libc::malloc(size_of_val(&pointers[..]).max(1)).cast();
            assert!(!self.here.list.cinfos.is_null());
            self.here.list.cinfos.copy_from_nonoverlapping(pointers.as_ptr(), pointers.len());
        }
        self.here.list.size = i32::try_from(pointers.len()).unwrap();
        self.here.replaced.push(old);
    }

    /// The same array.
    fn write_entries(&mut self) {
        let pointers = self.pointers();
        unsafe { self.here.list.cinfos.copy_from_nonoverlapping(pointers.as_ptr(), pointers.len()) };
        self.here.list.size = i32::try_from(pointers.len()).unwrap();
    }
}
