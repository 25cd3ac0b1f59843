//! The connections of one list: whose turn it is, and what happened.
//!
//! The list is the program's: it may change the array by hand, set entries to NULL, close descriptors. A loop mirrors it
//! ([`members`]) and decides by five rules, each in one place:
//!
//! 1. *Locate* (`list_loop`): the entry at a member's place is the member's, by address, descriptor and kind; else the
//!    mirror is made anew as the list is.
//! 2. *Claim* (`registry`): a number has at most one live member in a list; the holder is verified first.
//! 3. *Verify* (`registry`): whether the number still is the file that was registered. It is asked before anything is
//!    read, written or reported from memory for a member.
//! 4. *Turn* (`list_loop`): locate, verify, then what the member's state and kind say.
//! 5. *Scan* (`scan`): rules 1 and 3 for the whole list, a part at a time, while a call waits.
//!
//! A loop never waits, and makes no system call that can wait. It says what is to be done without its lock, or what to
//! wait for ([`list_loop::Step`]).

mod accept;
pub mod allowance;
pub mod extra;
mod holders;
pub mod list;
pub mod list_loop;
pub mod loops;
pub mod members;
mod receive;
mod registry;
mod scan;
pub mod step;
mod turns;
mod upkeep;
mod verify;

pub use self::list::{Entry, Event, Kind, List, What};
