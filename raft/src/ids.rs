//! Which node ids were ever given away, and to which data folder: an id is never used twice.
//!
//! A node that joins is given an id by an entry of the log ([`crate::type_config::Proposal::TakeId`]), and
//! the same again when it asks again. It becomes a member by a membership entry after that, and its id
//! stays taken when it has left. Everything here is a function of the log. [`NodeIds`] is the copy in
//! memory; the same is kept in the replicated extra records of the store:
//!
//! | key | value |
//! |---|---|
//! | `node/` id u64 | [`Holder`] |
//!
//! (Integers in keys are big-endian.) A membership that was written by a build without these records
//! counts as if it had them, and they are written with the first entry that touches any.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::session::RecordChange;
use crate::type_config::Membership;

/// Every record has a key that starts with this.
pub(crate) const KEY_PREFIX: &[u8] = b"node/";

/// The highest id. Programs that read numbers as floating point ones hold it exactly.
pub(crate) const ID_MAX: u64 = 1 << 53;

/// Who has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Holder {
    /// A node that will join under it.
    Reserved,
    /// The data folder with this incarnation, which is not a member yet.
    Given { incarnation: u128 },
    /// A member.
    Member { incarnation: u128 },
    /// A node that was a member.
    Removed { incarnation: u128 },
}

/// Why an id is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdRefusal {
    #[error("node ids go from 1 to {ID_MAX}, and this is {0}")]
    OutOfRange(u64),
    #[error("the id {0} is reserved already")]
    Reserved(u64),
    #[error(
        "the id {0} belongs to another node; leave it out, and the cluster chooses one that is free"
    )]
    Taken(u64),
    #[error(
        "node {0} was removed, and an id is never used again; leave it out, and the cluster chooses one \
         that is free"
    )]
    Removed(u64),
    #[error(
        "this data folder was given the id {given}, and asks for {wanted}; start it as {given}, or empty it"
    )]
    Another { given: u64, wanted: u64 },
    #[error("there is no id above {ID_MAX}; give one that is free")]
    Exhausted,
}

/// All ids that were ever given away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeIds {
    holders: BTreeMap<u64, Holder>,
    /// Ids whose holder changed since [`Self::finish_entry`].
    touched: BTreeSet<u64>,
}

impl NodeIds {
    /// Gives an id away: to the data folder with the incarnation `holder`, or as a reservation. `wanted` is
    /// the one that is asked for, or else the lowest above all others. A folder that has one gets it again.
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
        let taken = match holder {
            Some(incarnation) => Holder::Given { incarnation },
            None => Holder::Reserved,
        };
        self.set(id, taken);
        Ok(id)
    }

    /// Takes note of the members that there are now.
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
    }

    /// Who has `id`.
    pub(crate) fn holder(&self, id: u64) -> Option<Holder> {
        self.holders.get(&id).copied()
    }

    /// What the log entry changed in the records. To be called after each entry.
    pub(crate) fn finish_entry(&mut self) -> Vec<RecordChange> {
        let touched = std::mem::take(&mut self.touched);
        let change = |id| {
            let holder = self.holders.get(&id)?;
            Some((key(id), Some(codec::encode_record(holder))))
        };
        touched.into_iter().filter_map(change).collect()
    }

    /// The ids in the records that were kept, all of those whose keys start with [`KEY_PREFIX`], in any
    /// order.
    ///
    /// # Errors
    /// [`CodecError`] when they are not what [`Self::finish_entry`] gave.
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

    /// The id of the folder with this incarnation, and whether it was removed. Members that never had an
    /// incarnation are nobody's.
    fn held_by(&self, incarnation: u128) -> Option<(u64, bool)> {
        if incarnation == 0 {
            return None;
        }
        self.holders.iter().find_map(|(&id, holder)| match *holder {
            Holder::Given { incarnation: held } | Holder::Member { incarnation: held } => {
                (held == incarnation).then_some((id, false))
            }
            Holder::Removed { incarnation: held } => (held == incarnation).then_some((id, true)),
            Holder::Reserved => None,
        })
    }

    fn may_take(&self, id: u64, by_folder: bool) -> Result<u64, IdRefusal> {
        if !(1..=ID_MAX).contains(&id) {
            return Err(IdRefusal::OutOfRange(id));
        }
        match self.holders.get(&id) {
            None => Ok(id),
            Some(Holder::Reserved) if by_folder => Ok(id),
            Some(Holder::Reserved) => Err(IdRefusal::Reserved(id)),
            Some(Holder::Given { .. } | Holder::Member { .. }) => Err(IdRefusal::Taken(id)),
            Some(Holder::Removed { .. }) => Err(IdRefusal::Removed(id)),
        }
    }

    fn next(&self) -> Result<u64, IdRefusal> {
        let last = self.holders.last_key_value().map_or(0, |(&id, _)| id);
        match last.checked_add(1) {
            Some(id) if id <= ID_MAX => Ok(id),
            _ => Err(IdRefusal::Exhausted),
        }
    }

    fn set(&mut self, id: u64, holder: Holder) {
        if self.holders.insert(id, holder) != Some(holder) {
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
    use crate::type_config::Member;

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
        assert_eq!(
            ids.take(Some(5), Some(22)),
            Ok(5),
            "below one that is taken"
        );
        assert_eq!(ids.take(None, Some(23)), Ok(8));
        assert_eq!(ids.take(Some(ID_MAX), None), Ok(ID_MAX));
        assert_eq!(ids.take(None, None), Err(IdRefusal::Exhausted));
    }

    #[test]
    fn the_id_of_a_node_that_left_is_gone() {
        let mut ids = founded();
        ids.set_members(&membership(&[(1, 11), (3, 13)]));
        assert_eq!(ids.holder(2), Some(Holder::Removed { incarnation: 12 }));
        assert_eq!(ids.take(Some(2), Some(20)), Err(IdRefusal::Removed(2)));
        assert_eq!(ids.take(Some(2), None), Err(IdRefusal::Removed(2)));
        assert_eq!(ids.take(None, Some(12)), Err(IdRefusal::Removed(2)));
        ids.set_members(&membership(&[(1, 11)]));
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

    /// Bytes that this version writes.
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
                (id([0, 0, 0, 0, 0, 0, 0, 2]), Some(vec![2, 3, 12])),
                (id([0, 0, 0, 0, 0, 0, 0, 4]), Some(vec![2, 0])),
                (id([0, 0, 0, 0, 0, 0, 1, 2]), Some(vec![2, 1, 9])),
            ]
        );
        assert_eq!(ids.finish_entry(), []);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(Option<u64>, Option<u128>),
        Members(Vec<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let take = (prop::option::of(0u64..12), prop::option::of(1u128..8));
        prop_oneof![
            4 => take.prop_map(|(wanted, holder)| Step::Take(wanted, holder)),
            1 => prop::collection::vec(0u64..16, 0..4).prop_map(Step::Members),
        ]
    }

    proptest! {
        /// Whatever is asked, and wherever it is read again from its records: no id is given to two
        /// folders, no folder gets two ids, and what left stays away.
        #[test]
        fn no_id_is_used_twice(steps in prop::collection::vec(step(), 1..80), cut in 0usize..80) {
            let mut ids = founded();
            let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut owner: BTreeMap<u64, u128> = [(1, 11), (2, 12), (3, 13)].into();
            let mut members = owner.clone();
            let mut removed: BTreeSet<u64> = BTreeSet::new();
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Take(wanted, holder) => {
                        let taken = ids.take(wanted, holder);
                        if let (Ok(id), Some(holder)) = (&taken, holder) {
                            prop_assert!(!removed.contains(id));
                            prop_assert_eq!(*owner.entry(*id).or_insert(holder), holder);
                            let same = owner.values().filter(|&&other| other == holder).count();
                            prop_assert_eq!(same, 1);
                        }
                        if let (Ok(id), None) = (&taken, holder) {
                            prop_assert!(!owner.contains_key(id));
                        }
                        if let (Ok(id), Some(wanted)) = (taken, wanted) {
                            prop_assert_eq!(id, wanted);
                        }
                    }
                    // Node 1 stays; of the others, those that have an id come and go.
                    Step::Members(wish) => {
                        let wish: BTreeSet<u64> = wish.into_iter().chain([1]).collect();
                        let next: BTreeMap<u64, u128> = owner
                            .iter()
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
                    records.insert(key, value.expect("ids are never forgotten"));
                }
                let read = NodeIds::load(records.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))
                    .unwrap();
                prop_assert_eq!(&read, &ids);
                if at == cut {
                    ids = read;
                }
            }
        }
    }
}
