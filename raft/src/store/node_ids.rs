//! The assignment of node ids to data directories. An id is never used twice.
//!
//! A node that joins is assigned an id by a log entry ([`crate::types::Proposal::TakeId`]), and the same
//! id when it asks again. A membership entry after that makes it a member. Ids only increase. The *mark* is the
//! highest id that a node was ever given. An id at or below the mark belongs to a present holder, or is never
//! given again. The records and the work for an entry therefore grow with the members, and not with the ids
//! that were ever given. Reservations are not nodes and do not move the mark.
//!
//! Everything here is a function of the log. [`NodeIds`] is the copy in memory. The same is kept in the
//! replicated extra records of the store:
//!
//! | key | value |
//! |---|---|
//! | `node/` id u64 | [`Holder`] |
//!
//! (Integers in keys are big-endian.) A membership that was written by a build without these records counts as
//! if it had them. They are written with the first entry that touches any of them.
//!
//! That ids only increase, and the limits below, are part of the [rules](hearth_storage::rules) from
//! [`RULES_MIN`] on. Under earlier rules any id that was never used could be taken, and the records of all
//! removed nodes were kept. The first later entry that touches any record removes those.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::store::session::RecordChange;
use crate::types::{DISTANCE_MAX, ID_MAX, IdRefusal, Membership, RESERVED_COUNT_MAX};

/// Prefix of the keys of all records.
pub(crate) const KEY_PREFIX: &[u8] = b"node/";

/// The first version of the rules under which ids only increase.
const RULES_MIN: u32 = 2;

/// Maximum number of ids at once whose nodes are not members yet. A further one replaces the lowest, which is
/// the oldest. There is one for each join that the leader has begun and not finished.
const GIVEN_COUNT_MAX: usize = 16;

/// The holder of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Holder {
    /// A node that will join under this id.
    Reserved,
    /// The data directory with this incarnation. Its node is not a member yet.
    Given { incarnation: u128 },
    /// The member with this incarnation.
    Member { incarnation: u128 },
    /// A former member. Under the newer rules it is kept at the mark only.
    Removed { incarnation: u128 },
}

/// All ids with a holder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeIds {
    /// The holders by id. Under the newer rules at most one is a removed node: that at the mark.
    holders: BTreeMap<u64, Holder>,
    /// Ids whose record changed since the last [`Self::finish_entry`].
    touched: BTreeSet<u64>,
    /// True if ids only increase.
    is_ascending: bool,
}

impl NodeIds {
    /// Switches to this version of the rules, for everything from now on.
    pub(crate) fn use_rules(&mut self, rules: u32) {
        self.is_ascending = rules >= RULES_MIN;
    }

    /// Gives an id to the data directory with the incarnation `holder`, or reserves it if that is `None`.
    /// `wanted` is the requested id; `None` requests the next free one. A directory that has an id gets the
    /// same one again.
    ///
    /// # Errors
    /// [`IdRefusal`].
    pub(crate) fn take(
        &mut self,
        wanted: Option<u64>,
        holder: Option<u128>,
    ) -> Result<u64, IdRefusal> {
        if let Some((given, removed)) = holder.and_then(|incarnation| self.held_by(incarnation)) {
            return match wanted {
                _ if removed => Err(IdRefusal::Removed(given)),
                Some(wanted) if wanted != given => Err(IdRefusal::Another { given, wanted }),
                _ => Ok(given),
            };
        }
        let id = match wanted {
            Some(id) => self.may_take(id, holder.is_some())?,
            None => self.next()?,
        };
        if holder.is_none() {
            self.may_reserve()?;
        }
        let taken = match holder {
            Some(incarnation) => Holder::Given { incarnation },
            None => Holder::Reserved,
        };
        self.set(id, taken);
        self.forget();
        Ok(id)
    }

    /// Records the present members.
    pub(crate) fn set_members(&mut self, membership: &Membership) {
        let members: BTreeMap<u64, u128> = membership
            .nodes()
            .map(|(&id, member)| (id, member.incarnation))
            .collect();
        for (&id, &incarnation) in &members {
            self.set(id, Holder::Member { incarnation });
        }
        let left: Vec<(u64, u128)> = self
            .holders
            .iter()
            .filter_map(|(&id, holder)| match *holder {
                Holder::Member { incarnation } if !members.contains_key(&id) => {
                    Some((id, incarnation))
                }
                _ => None,
            })
            .collect();
        for (id, incarnation) in left {
            self.set(id, Holder::Removed { incarnation });
        }
        self.forget();
    }

    /// Returns the holder of `id`. An id that was used and has no holder any more counts as that of a removed
    /// node.
    pub(crate) fn holder(&self, id: u64) -> Option<Holder> {
        let used = || {
            let removed = Holder::Removed { incarnation: 0 };
            let is_used = self.is_ascending && (1..=self.mark()).contains(&id);
            is_used.then_some(removed)
        };
        self.holders.get(&id).copied().or_else(used)
    }

    /// Returns the record changes of the log entry. Must be called after each entry.
    pub(crate) fn finish_entry(&mut self) -> Vec<RecordChange> {
        let touched = std::mem::take(&mut self.touched);
        let change = |id| (key(id), self.holders.get(&id).map(codec::encode_record));
        touched.into_iter().map(change).collect()
    }

    /// Restores the ids from their records: all records whose keys start with [`KEY_PREFIX`], in any order.
    ///
    /// # Errors
    /// [`CodecError`] if the records are not those that [`Self::finish_entry`] returned.
    pub(crate) fn load<'a>(
        records: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, CodecError> {
        let mut ids = Self::default();
        for (key, value) in records {
            let id = key
                .strip_prefix(KEY_PREFIX)
                .and_then(|id| id.try_into().ok());
            let id = id.map(u64::from_be_bytes).ok_or_else(|| {
                CodecError::new("the record of a node id", "its key has a wrong length")
            })?;
            let holder = codec::decode_record("the record of a node id", value)?;
            ids.holders.insert(id, holder);
        }
        Ok(ids)
    }

    /// Returns the mark: the highest id that a node was ever given.
    fn mark(&self) -> u64 {
        let mut nodes = self.holders.iter().rev();
        let highest = nodes.find(|(_, holder)| **holder != Holder::Reserved);
        highest.map_or(0, |(&id, _)| id)
    }

    /// Returns the id of the data directory with this incarnation, and true if its node was removed. Members
    /// without an incarnation belong to no directory.
    fn held_by(&self, incarnation: u128) -> Option<(u64, bool)> {
        if incarnation == 0 {
            return None;
        }
        self.holders.iter().find_map(|(&id, holder)| match *holder {
            Holder::Given { incarnation: held } | Holder::Member { incarnation: held } => {
                (held == incarnation).then_some((id, false))
            }
            // The newer rules forget most removed nodes, so this directory counts as a new one.
            Holder::Removed { incarnation: held } => {
                (held == incarnation && !self.is_ascending).then_some((id, true))
            }
            Holder::Reserved => None,
        })
    }

    fn may_take(&self, id: u64, by_folder: bool) -> Result<u64, IdRefusal> {
        if !(1..=ID_MAX).contains(&id) {
            return Err(IdRefusal::OutOfRange(id));
        }
        let mark = self.mark();
        if self.is_ascending && id > mark.saturating_add(DISTANCE_MAX) {
            return Err(IdRefusal::TooFar { id, mark });
        }
        match self.holders.get(&id) {
            Some(Holder::Reserved) if by_folder => Ok(id),
            Some(Holder::Reserved) => Err(IdRefusal::Reserved(id)),
            Some(Holder::Given { .. } | Holder::Member { .. }) => Err(IdRefusal::Taken(id)),
            Some(Holder::Removed { .. }) if !self.is_ascending => Err(IdRefusal::Removed(id)),
            Some(Holder::Removed { .. }) => Err(IdRefusal::Used { id, mark }),
            None if self.is_ascending && id <= mark => Err(IdRefusal::Used { id, mark }),
            None => Ok(id),
        }
    }

    fn may_reserve(&self) -> Result<(), IdRefusal> {
        let mut reserved = self.reserved();
        match reserved.next() {
            Some(lowest) if self.is_ascending && 1 + reserved.count() >= RESERVED_COUNT_MAX => {
                Err(IdRefusal::TooManyReserved { lowest })
            }
            _ => Ok(()),
        }
    }

    fn reserved(&self) -> impl Iterator<Item = u64> {
        let reserved = self.holders.iter();
        let reserved = reserved.filter(|(_, holder)| **holder == Holder::Reserved);
        reserved.map(|(&id, _)| id)
    }

    fn next(&self) -> Result<u64, IdRefusal> {
        let last = match self.is_ascending {
            true => self.mark(),
            false => self.holders.last_key_value().map_or(0, |(&id, _)| id),
        };
        let mut above = last.saturating_add(1)..=ID_MAX;
        let free = above.find(|id| !self.holders.contains_key(id));
        free.ok_or(IdRefusal::Exhausted)
    }

    fn set(&mut self, id: u64, holder: Holder) {
        if self.holders.insert(id, holder) != Some(holder) {
            self.touched.insert(id);
        }
    }

    /// Removes three kinds of holders: removed nodes below the mark; the lowest ids given to nodes that have
    /// not joined, if there are too many; and reservations of an earlier build that are too many or too far
    /// above the mark.
    fn forget(&mut self) {
        if !self.is_ascending {
            return;
        }
        let mark = self.mark();
        let far = mark.saturating_add(DISTANCE_MAX);
        let gone = self.holders.extract_if(.., |&id, holder| match holder {
            Holder::Removed { .. } => id != mark,
            Holder::Reserved => id > far,
            Holder::Given { .. } | Holder::Member { .. } => false,
        });
        self.touched.extend(gone.map(|(id, _)| id));
        self.drop_lowest(RESERVED_COUNT_MAX, |holder| *holder == Holder::Reserved);
        self.drop_lowest(GIVEN_COUNT_MAX, |holder| {
            matches!(holder, Holder::Given { .. })
        });
    }

    /// Removes the lowest holders of a kind of which there are more than `count_max`. None of them is at the
    /// mark, because the highest of its kind stays.
    fn drop_lowest(&mut self, count_max: usize, is: impl Fn(&Holder) -> bool) {
        let of_kind = || self.holders.iter().filter(|(_, holder)| is(holder));
        let surplus = of_kind().count().saturating_sub(count_max);
        let lowest: Vec<u64> = of_kind().take(surplus).map(|(&id, _)| id).collect();
        for id in lowest {
            self.holders.remove(&id);
            self.touched.insert(id);
        }
    }
}

fn key(id: u64) -> Vec<u8> {
    [KEY_PREFIX, &id.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Member;

    fn membership(members: &[(u64, u128)]) -> Membership {
        let voters = members.iter().take(1).map(|&(id, _)| id).collect();
        let nodes: BTreeMap<u64, Member> = members
            .iter()
            .map(|&(id, incarnation)| {
                let member = Member {
                    incarnation,
                    ..Member::default()
                };
                (id, member)
            })
            .collect();
        Membership::new(vec![voters], nodes).unwrap()
    }

    fn founded() -> NodeIds {
        let mut ids = NodeIds::default();
        ids.use_rules(RULES_MIN);
        ids.set_members(&membership(&[(1, 11), (2, 12), (3, 13)]));
        ids
    }

    #[test]
    fn a_new_node_gets_the_next_id_and_the_same_again() {
        let mut ids = founded();
        assert_eq!(ids.take(None, Some(20)), Ok(4));
        assert_eq!(ids.take(None, Some(20)), Ok(4));
        assert_eq!(ids.take(Some(4), Some(20)), Ok(4));
        assert_eq!(
            ids.take(Some(9), Some(20)),
            Err(IdRefusal::Another {
                given: 4,
                wanted: 9
            })
        );
        assert_eq!(ids.take(None, Some(21)), Ok(5));
    }

    #[test]
    fn an_id_of_ones_own_choice_is_free_or_reserved() {
        let mut ids = founded();
        assert_eq!(ids.take(Some(7), None), Ok(7));
        assert_eq!(ids.take(Some(7), None), Err(IdRefusal::Reserved(7)));
        assert_eq!(ids.take(Some(7), Some(20)), Ok(7));
        assert_eq!(ids.take(Some(7), Some(21)), Err(IdRefusal::Taken(7)));
        assert_eq!(ids.take(Some(2), Some(21)), Err(IdRefusal::Taken(2)));
        assert_eq!(ids.take(Some(0), None), Err(IdRefusal::OutOfRange(0)));
        assert_eq!(
            ids.take(Some(ID_MAX + 1), None),
            Err(IdRefusal::OutOfRange(ID_MAX + 1))
        );
        let below = IdRefusal::Used { id: 5, mark: 7 };
        assert_eq!(ids.take(Some(5), Some(22)), Err(below), "passed over");
        assert_eq!(ids.take(Some(9), None), Ok(9));
        assert_eq!(ids.take(None, Some(23)), Ok(8));
        assert_eq!(ids.take(None, Some(24)), Ok(10), "the next is reserved");
        assert_eq!(ids.take(Some(9), Some(25)), Ok(9));
    }

    #[test]
    fn ids_cannot_be_pushed_ahead() {
        let mut ids = founded();
        let far = |id, mark| Err(IdRefusal::TooFar { id, mark });
        assert_eq!(ids.take(Some(ID_MAX), None), far(ID_MAX, 3));
        assert_eq!(ids.take(Some(1004), Some(20)), far(1004, 3));
        for _ in 0..100 {
            let _ = ids.take(Some(1003), None);
            assert_eq!(ids.take(Some(1004), None), far(1004, 3), "by no detour");
        }
        assert_eq!(ids.take(None, Some(20)), Ok(4));
        assert_eq!(ids.take(Some(1004), Some(21)), Ok(1004));
        let text = ids.take(Some(1 << 53), None).unwrap_err().to_string();
        assert!(
            text.contains("the highest of a node so far is 1004"),
            "{text}"
        );
    }

    #[test]
    fn ids_that_an_earlier_build_used_up_are_there_again() {
        let mut ids = founded();
        ids.set(ID_MAX, Holder::Reserved);
        ids.finish_entry();
        let far = IdRefusal::TooFar {
            id: ID_MAX,
            mark: 3,
        };
        assert_eq!(ids.take(Some(ID_MAX), Some(20)), Err(far));
        assert_eq!(ids.take(None, Some(20)), Ok(4));
        let given = codec::encode_record(Holder::Given { incarnation: 20 });
        assert_eq!(
            ids.finish_entry(),
            [(key(4), Some(given)), (key(ID_MAX), None)]
        );
        // The ids of these members are gone for good, and nothing breaks.
        for id in [ID_MAX, u64::MAX] {
            ids.set(id, Holder::Member { incarnation: 9 });
            assert_eq!(ids.take(None, None), Err(IdRefusal::Exhausted));
        }
    }

    #[test]
    fn a_reservation_ends_with_its_use_and_there_are_so_many() {
        let mut ids = founded();
        for id in 4..20 {
            assert_eq!(ids.take(None, None), Ok(id));
        }
        for wanted in [None, Some(20)] {
            let many = IdRefusal::TooManyReserved { lowest: 4 };
            assert_eq!(ids.take(wanted, None), Err(many));
        }
        assert_eq!(ids.take(None, Some(30)), Ok(20), "nodes come all the same");
        assert_eq!(ids.take(Some(4), Some(31)), Ok(4));
        assert_eq!(ids.take(None, None), Ok(21));
        assert_eq!(ids.take(Some(5), Some(32)), Ok(5));
    }

    #[test]
    fn reservations_of_an_earlier_build_become_few() {
        let mut ids = NodeIds::default();
        ids.set_members(&membership(&[(1, 11)]));
        for id in 2..3000 {
            assert_eq!(ids.take(None, None), Ok(id));
        }
        ids.use_rules(RULES_MIN);
        assert_eq!(ids.take(None, Some(20)), Ok(3000));
        assert_eq!(ids.reserved().count(), RESERVED_COUNT_MAX);
        assert_eq!(ids.take(Some(2999), Some(21)), Ok(2999));
    }

    /// Learners without a disk, which return as new nodes again and again, with reservations in between.
    #[test]
    fn what_is_kept_grows_with_the_members_and_not_with_the_ids() {
        let mut ids = founded();
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for incarnation in 100..5000 {
            let id = ids.take(None, Some(incarnation)).unwrap();
            if incarnation % 3 != 0 {
                let members = [(1, 11), (2, 12), (3, 13), (id, incarnation)];
                ids.set_members(&membership(&members));
            }
            let _ = ids.take(None, None);
            for (key, value) in ids.finish_entry() {
                match value {
                    Some(value) => records.insert(key, value),
                    None => records.remove(&key),
                };
            }
            let most = 4 + RESERVED_COUNT_MAX + GIVEN_COUNT_MAX + 1;
            assert!(ids.holders.len() <= most, "{}", ids.holders.len());
            assert_eq!(records.len(), ids.holders.len());
        }
        assert!(ids.mark() >= 3 + 4900, "{}", ids.mark());
    }

    /// The earlier rules, as the build before the newer ones applies the same log.
    #[test]
    fn the_earlier_rules_hold_until_the_newer_ones_are_in_force() {
        let mut ids = NodeIds::default();
        ids.set_members(&membership(&[(1, 11), (2, 12), (3, 13)]));
        assert_eq!(ids.take(Some(7000), None), Ok(7000));
        assert_eq!(
            ids.take(Some(5), Some(22)),
            Ok(5),
            "below one that is taken"
        );
        assert_eq!(ids.holder(6), None);
        ids.set_members(&membership(&[(1, 11)]));
        assert_eq!(ids.holder(2), Some(Holder::Removed { incarnation: 12 }));
        assert_eq!(ids.take(Some(2), Some(20)), Err(IdRefusal::Removed(2)));
        assert_eq!(ids.take(None, Some(12)), Err(IdRefusal::Removed(2)));
        ids.finish_entry();
        ids.use_rules(RULES_MIN);
        assert_eq!(ids.finish_entry(), []);
        let used = IdRefusal::Used { id: 4, mark: 5 };
        assert_eq!(ids.take(Some(4), Some(20)), Err(used));
        assert_eq!(ids.finish_entry(), [], "nothing was touched");
        assert_eq!(ids.take(None, Some(12)), Ok(6), "a new one");
        let given = codec::encode_record(Holder::Given { incarnation: 12 });
        assert_eq!(
            ids.finish_entry(),
            [
                (key(2), None),
                (key(3), None),
                (key(6), Some(given)),
                (key(7000), None)
            ]
        );
    }

    #[test]
    fn the_id_of_a_node_that_left_is_gone() {
        let mut ids = founded();
        ids.set_members(&membership(&[(1, 11), (3, 13)]));
        assert!(matches!(ids.holder(2), Some(Holder::Removed { .. })));
        let used = IdRefusal::Used { id: 2, mark: 3 };
        assert_eq!(ids.take(Some(2), Some(20)), Err(used.clone()));
        assert_eq!(ids.take(Some(2), Some(12)), Err(used.clone()));
        assert_eq!(ids.take(Some(2), None), Err(used));
        ids.set_members(&membership(&[(1, 11)]));
        assert_eq!(ids.holder(3), Some(Holder::Removed { incarnation: 13 }));
        assert_eq!((ids.holder(0), ids.holder(4)), (None, None));
        assert_eq!(
            ids.take(None, None),
            Ok(4),
            "not 3, though it was the highest"
        );
    }

    #[test]
    fn members_of_old_builds_have_no_incarnation() {
        let mut ids = NodeIds::default();
        ids.set_members(&membership(&[(1, 0)]));
        assert_eq!(ids.take(None, Some(0)), Ok(2), "it is not node 1");
    }

    #[test]
    fn bad_records_are_errors() {
        let good = codec::encode_record(Holder::Reserved);
        for (key, value) in [
            (&b"node/"[..], &good[..]),
            (b"node/1234567", &good),
            (b"node/123456789", &good),
            (b"node/12345678", b""),
            (b"node/12345678", &[2, 4, 1]),
        ] {
            assert!(
                NodeIds::load([(key, value)].into_iter()).is_err(),
                "{key:?}"
            );
        }
        let key = &b"node/12345678"[..];
        assert!(NodeIds::load([(key, &good[..])].into_iter()).is_ok());
    }

    /// The bytes that this version writes.
    #[test]
    fn the_records_stay_as_they_are() {
        let mut ids = founded();
        ids.finish_entry();
        ids.take(None, None).unwrap();
        ids.take(Some(258), Some(9)).unwrap();
        ids.set_members(&membership(&[(1, 11), (3, 13)]));
        let id = |bytes: [u8; 8]| [KEY_PREFIX, &bytes].concat();
        assert_eq!(
            ids.finish_entry(),
            [
                (id([0, 0, 0, 0, 0, 0, 0, 2]), None),
                (id([0, 0, 0, 0, 0, 0, 0, 4]), Some(vec![2, 0])),
                (id([0, 0, 0, 0, 0, 0, 1, 2]), Some(vec![2, 1, 9])),
            ]
        );
        assert_eq!(ids.finish_entry(), []);
        ids.set_members(&membership(&[(1, 11), (3, 13), (258, 9)]));
        ids.set_members(&membership(&[(1, 11), (3, 13)]));
        assert_eq!(
            ids.finish_entry(),
            [(id([0, 0, 0, 0, 0, 0, 1, 2]), Some(vec![2, 3, 9]))],
            "the mark stays"
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(Option<u64>, Option<u128>),
        Members(Vec<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let take = (prop::option::of(0u64..40), prop::option::of(1u128..40));
        prop_oneof![
            4 => take.prop_map(|(wanted, holder)| Step::Take(wanted, holder)),
            1 => prop::collection::vec(0u64..40, 0..4).prop_map(Step::Members),
        ]
    }

    proptest! {
        /// For any requests, and any point at which the ids are restored from their records: no id is given to
        /// two data directories, no member gets a second id, and removed nodes stay removed.
        #[test]
        fn no_id_is_used_twice(steps in prop::collection::vec(step(), 1..80), cut in 0usize..80) {
            let mut ids = founded();
            let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut owner: BTreeMap<u64, u128> = [(1, 11), (2, 12), (3, 13)].into();
            let mut members = owner.clone();
            let mut latest: BTreeMap<u128, u64> = owner.iter().map(|(&id, &inc)| (inc, id)).collect();
            let mut removed: BTreeSet<u64> = BTreeSet::new();
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Take(wanted, holder) => {
                        let taken = ids.take(wanted, holder);
                        if let (Ok(id), Some(holder)) = (&taken, holder) {
                            prop_assert!(!removed.contains(id));
                            prop_assert_eq!(*owner.entry(*id).or_insert(holder), holder);
                            let mut present = members.iter().filter(|&(_, other)| *other == holder);
                            prop_assert!(present.all(|(member, _)| member == id));
                            latest.insert(holder, *id);
                        }
                        if let (Ok(id), None) = (&taken, holder) {
                            prop_assert!(!owner.contains_key(id));
                        }
                        if let (Ok(id), Some(wanted)) = (taken, wanted) {
                            prop_assert_eq!(id, wanted);
                        }
                    }
                    // Node 1 stays. The other nodes with an id come and go. A data directory joins with the
                    // last id that it was given.
                    Step::Members(wish) => {
                        let wish: BTreeSet<u64> = wish.into_iter().chain([1]).collect();
                        let next: BTreeMap<u64, u128> = owner
                            .iter()
                            .filter(|&(id, incarnation)| latest[incarnation] == *id)
                            .filter(|(id, _)| wish.contains(*id) && !removed.contains(*id))
                            .map(|(&id, &incarnation)| (id, incarnation))
                            .collect();
                        removed.extend(members.keys().filter(|id| !next.contains_key(id)));
                        let list: Vec<_> = next.iter().map(|(&id, &inc)| (id, inc)).collect();
                        ids.set_members(&membership(&list));
                        members = next;
                    }
                }
                for (key, value) in ids.finish_entry() {
                    match value {
                        Some(value) => records.insert(key, value),
                        None => records.remove(&key),
                    };
                }
                let read = records.iter().map(|(k, v)| (k.as_slice(), v.as_slice()));
                let mut read = NodeIds::load(read).unwrap();
                read.use_rules(RULES_MIN);
                prop_assert_eq!(&read, &ids);
                if at == cut {
                    ids = read;
                }
            }
        }
    }
}
