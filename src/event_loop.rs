//! The event loop of one list of connections: which member takes its turn, and which event is reported.
//!
//! The list belongs to the program: the program may change the array directly, set entries to NULL and close
//! descriptors. A loop keeps a mirror of the list ([`members`]) and decides by five rules, each implemented
//! in one place:
//!
//! 1. *Locate* (`list_loop`): the list entry at a member's place belongs to the member if address, descriptor
//!    and kind are equal; otherwise the mirror is synchronised with the list.
//! 2. *Claim* (`registry`): a descriptor number has at most one live member in a list; before a new member
//!    gets the number, the present holder is verified.
//! 3. *Verify* (`registry`): whether the number still refers to the file that was registered. This is checked
//!    before anything is read, written or reported from memory for a member.
//! 4. *Turn* (`list_loop`): locate, verify, then act by the member's state and kind.
//! 5. *Scan* (`scan`): rules 1 and 3 for the whole list, a part at a time, while a call waits.
//!
//! A loop never waits, and makes no system call that can block. Each step returns what the caller has to do
//! without the loop's lock, or what to wait for ([`step::Step`]).

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
