//! The mirror compared with a model: whatever the program does with its list, each entry keeps the member
//! that it had before, if it had one, and each member has an entry.

use std::collections::BTreeMap;

use super::*;

/// The program's list: places with the address of a structure, and the structures.
#[derive(Default)]
struct Program {
    places: Vec<Option<usize>>,
    structures: BTreeMap<usize, (RawFd, Kind)>,
    next: usize,
}

impl Program {
    /// A structure at a new address.
    fn make(&mut self, fd: RawFd, kind: Kind) -> usize {
        self.next += 8;
        self.structures.insert(self.next, (fd, kind));
        self.next
    }

    fn add(&mut self, fd: RawFd, kind: Kind) -> usize {
        let addr = self.make(fd, kind);
        self.places.push(Some(addr));
        addr
    }
}

impl List for Program {
    type Origin = usize;
    type Client = ();

    fn key(&self) -> usize {
        8
    }

    fn shape(&self) -> (usize, usize) {
        (16, self.places.len())
    }

    fn at(&self, index: usize) -> Option<(Entry, usize)> {
        let addr = self.places.get(index).copied().flatten()?;
        let (fd, kind) = self.structures[&addr];
        Some((Entry { fd, addr, kind }, addr))
    }

    fn prepare(&mut self) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn push(&mut self, (): (), _: RawFd) -> Option<usize> {
        None
    }

    fn take_back(&mut self, _: usize) {}

    fn remove_entry(&mut self, index: usize) {
        self.places.swap_remove(index);
    }
}

/// Synchronises the mirror with the list, and handles the changes as the registry does: each new member gets
/// its number, if no other member holds it.
fn sync(members: &mut Members, list: &Program, is_same_file: bool) -> Changes {
    let changes = members.sync(list, |_, _| is_same_file).unwrap();
    for (slot, entry) in &changes.replaced {
        members.rebind(*slot, *entry, State::Waiting);
    }
    let waiting = members.slots().filter(|(_, member)| member.state == State::Waiting);
    let waiting: Vec<_> = waiting.map(|(slot, member)| (slot, member.fd)).collect();
    for (slot, fd) in waiting {
        if members.holder(fd).is_none() {
            members.hold(slot);
            members.get_mut(slot).unwrap().state = State::Open;
        }
    }
    changes
}

/// Asserts what must be true of a mirror at any time.
fn assert_is_mirror(members: &Members, list: &Program) {
    let entries = (0..list.places.len()).filter_map(|index| Some((index, list.entry(index)?)));
    let mut count = 0;
    for (index, entry) in entries {
        let slot = members.at(index).expect("an entry has a member");
        let member = members.get(slot).unwrap();
        assert_ne!(slot, LISTENER);
        assert!(member.is(entry) && member.index() == index, "{member:?} at {index} for {entry:?}");
        count += 1;
    }
    assert_eq!((members.count(), members.slots().count()), (count, count));
    assert!((list.places.len()..list.places.len() + 4).all(|index| members.at(index).is_none()));
    for (slot, member) in members.slots() {
        let holder = members.holder(member.fd);
        assert_eq!(holder == Some(slot), member.is_registered(), "{member:?}");
    }
}

#[test]
fn member_follows_its_structure_to_any_place() {
    let (mut members, mut list) = (Members::new(), Program::default());
    for fd in 3..6 {
        list.add(fd, Kind::Connection);
    }
    let added = sync(&mut members, &list, true).added;
    assert_eq!(added.len(), 3);
    let slots = [0, 1, 2].map(|index| members.at(index).unwrap());
    list.places.reverse();
    list.places.insert(0, None);
    let changes = sync(&mut members, &list, true);
    assert!(changes.added.is_empty() && changes.removed.is_empty() && changes.replaced.is_empty());
    assert_eq!([3, 2, 1].map(|index| members.at(index).unwrap()), slots);
    assert_is_mirror(&members, &list);
}

#[test]
fn copy_of_a_structure_is_the_member_if_the_file_is_the_same() {
    for is_same_file in [true, false] {
        let (mut members, mut list) = (Members::new(), Program::default());
        let addr = list.add(3, Kind::Connection);
        sync(&mut members, &list, true);
        let slot = members.at(0).unwrap();
        let token = Token::of_member(slot, members.get(slot).unwrap());
        list.structures.remove(&addr);
        list.places.clear();
        list.add(3, Kind::Connection);
        let changes = sync(&mut members, &list, is_same_file);
        assert_eq!((changes.added.len(), changes.removed.len()), if is_same_file { (0, 0) } else { (1, 1) });
        assert_eq!(members.find(token).is_some(), is_same_file);
        assert_is_mirror(&members, &list);
    }
}

#[test]
fn structure_with_another_number_is_replaced() {
    let (mut members, mut list) = (Members::new(), Program::default());
    let addr = list.add(3, Kind::Connection);
    sync(&mut members, &list, true);
    list.structures.insert(addr, (7, Kind::Connection));
    let changes = members.sync(&list, |_, _| true).unwrap();
    let slot = members.at(0).unwrap();
    assert_eq!(changes.replaced, [(slot, Entry { fd: 7, addr, kind: Kind::Connection })]);
    members.rebind(slot, changes.replaced[0].1, State::Waiting);
    assert_eq!((members.holder(3), members.holder(7)), (None, None));
    members.hold(slot);
    assert_eq!(members.holder(7), Some(slot));
}

#[test]
fn token_of_another_registration_finds_nothing() {
    let (mut members, mut list) = (Members::new(), Program::default());
    list.add(3, Kind::Connection);
    sync(&mut members, &list, true);
    let slot = members.at(0).unwrap();
    let token = Token::of_member(slot, members.get(slot).unwrap());
    assert_eq!(Token::of(token.data()), token);
    members.get_mut(slot).unwrap().set(QUEUED | READABLE, true);
    members.hold(slot);
    let member = *members.get(slot).unwrap();
    assert!(members.find(token).is_none() && !member.has(READABLE) && member.has(QUEUED));
    let token = Token::of_member(slot, members.get(slot).unwrap());
    list.remove_entry(0);
    assert!(members.swap_remove(0).is_some());
    list.add(4, Kind::Extra);
    sync(&mut members, &list, true);
    assert_eq!(members.at(0), Some(slot), "the slot is used again");
    assert!(members.find(token).is_none());
    assert!(members.get(slot).unwrap().has(QUEUED), "the slot stands in the queue, whose member it may be");
    members.unqueue(slot);
    assert!(!members.get(slot).unwrap().has(QUEUED));
}

#[test]
fn forgotten_address_finds_no_member() {
    let (mut members, mut list) = (Members::new(), Program::default());
    let addr = list.add(3, Kind::Connection);
    sync(&mut members, &list, true);
    members.clear_address(addr);
    let changes = sync(&mut members, &list, false);
    assert_eq!((changes.added.len(), changes.removed.len()), (1, 1));
    assert_is_mirror(&members, &list);
}

#[test]
fn service_is_a_member_without_an_entry() {
    let mut members = Members::new();
    assert!(members.is_empty());
    members.make_room().unwrap();
    members.set_listener(Some(9));
    members.hold(LISTENER);
    assert_eq!((members.count(), members.is_empty(), members.holder(9)), (0, false, Some(LISTENER)));
    assert_eq!(members.slots().count(), 0);
    members.set_listener(None);
    assert!(members.is_empty() && members.holder(9).is_none());
}

/// A fixed sequence of pseudo-random numbers.
struct Script(u64);

impl Script {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % limit
    }
}

/// One direct change of the list by the program.
fn change(script: &mut Script, list: &mut Program) {
    let size = list.places.len();
    let place = script.below(size.max(1));
    let fd = 3 + script.below(6) as RawFd;
    let kind = if script.below(4) == 0 { Kind::Extra } else { Kind::Connection };
    match script.below(9) {
        0 | 1 if size < 12 => _ = list.add(fd, kind),
        2 if size > 0 => list.remove_entry(place),
        3 if size > 0 => _ = list.places.remove(place),
        4 if size > 0 => list.places[place] = None,
        5 if size > 0 => list.places.swap(place, size - 1),
        // Another number or kind in the same structure.
        6 => {
            if let Some(addr) = list.origin(place) {
                list.structures.insert(addr, (fd, kind));
            }
        }
        // A copy of the structure replaces it.
        7 => {
            if let Some(Entry { fd, kind, .. }) = list.entry(place) {
                list.places[place] = Some(list.make(fd, kind));
            }
        }
        8 if size > 4 => list.places.truncate(place),
        _ => {}
    }
}

#[test]
fn mirror_equals_list_after_any_changes() {
    let mut script = Script(0x9E37_79B9_7F4A_7C15);
    for _ in 0..400 {
        let (mut members, mut list) = (Members::new(), Program::default());
        for _ in 0..40 {
            let before: BTreeMap<usize, (u32, Member)> =
                members.slots().map(|(slot, member)| (member.addr, (slot, *member))).collect();
            for _ in 0..=script.below(3) {
                change(&mut script, &mut list);
            }
            let is_same_file = script.below(2) == 0;
            let changes = sync(&mut members, &list, is_same_file);
            assert_is_mirror(&members, &list);
            assert!(!members.differs(&list, 0..list.places.len()));
            for (slot, member) in members.slots() {
                let is_added = changes.added.contains(&slot);
                let is_replaced = changes.replaced.iter().any(|(replaced, _)| *replaced == slot);
                match before.get(&member.addr) {
                    // A structure that is still there keeps its slot, and the rest of its member if it was
                    // not changed.
                    Some((old, was)) => {
                        assert_eq!((slot, is_added), (*old, false));
                        let has_changed =
                            !was.is(Entry { fd: member.fd, addr: member.addr, kind: member.kind });
                        assert_eq!(is_replaced, has_changed);
                        let may_begin = was.state == State::Waiting || has_changed;
                        assert!(may_begin || member.registration == was.registration);
                    }
                    // A new structure, or a copy of one that was removed.
                    None => assert!(
                        is_added
                            != before
                                .values()
                                .any(|(old, was)| *old == slot && is_same_file && was.fd == member.fd)
                    ),
                }
            }
            for (slot, member) in &changes.removed {
                assert!(before.contains_key(&member.addr) && !list.places.contains(&Some(member.addr)));
                assert!(members.find(Token::of_member(*slot, member)).is_none());
            }
        }
    }
}
