//! Versions of the rules by which commands are applied.
//!
//! The rules are part of the meaning of a log, so a new program must not simply apply a log by new ones. While
//! a cluster is upgraded node by node, some nodes run the old program and some the new one, and their states
//! must not diverge. Therefore a command in the log, [`Command::UseRules`](crate::Command::UseRules), states
//! from where on newer rules hold; its proposer knows that every member has them. The rules in force are part
//! of the replicated state: an extra record, which is part of snapshots.
//!
//! | rules | meaning |
//! |---|---|
//! | 1 | the revision of a change is the index of its log entry; a change creates the entry anew |
//! | 2 | a revision has a position, too, and an entry keeps the revision of its creation |
//!
//! Raft's own records of node ids use the same number.

use crate::error::StoreError;
use crate::format::Reader;
use crate::model::{Entry, Revision};

/// The latest rules that this version knows.
pub const RULES: u32 = 2;

/// The key of the extra record of the rules in force. (It is sealed like every extra record, and the seal holds
/// the version of the layout.)
/// ```text
/// rules u32, since u64, emptied (index u64, position u32), big-endian
/// ```
pub(crate) const RECORD_KEY: &[u8] = b"registry/rules";

/// The rules in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) rules: u32,
    /// Index of the log entry that put them in force.
    pub(crate) since: u64,
    /// Revision of the last large [removal](crate::removal). The creation order is examined only behind it,
    /// because entries that a store has not erased yet come before it there.
    pub(crate) emptied: Revision,
}

impl Default for InForce {
    fn default() -> Self {
        Self {
            rules: 1,
            since: 0,
            emptied: Revision::default(),
        }
    }
}

impl InForce {
    /// Reads the record. Without one, the first rules are in force.
    pub(crate) fn from_record(record: Option<&[u8]>) -> Result<Self, StoreError> {
        let Some(record) = record else {
            return Ok(Self::default());
        };
        Self::read(record)
            .map_err(|reason| StoreError::corrupt("the record of the rules", reason))?
            .check()
    }

    fn read(record: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(record);
        let in_force = Self {
            rules: reader.u32()?,
            since: reader.u64()?,
            emptied: reader.revision()?,
        };
        reader.end()?;
        Ok(in_force)
    }

    /// Refuses rules that this version does not know.
    pub(crate) fn check(self) -> Result<Self, StoreError> {
        if self.rules <= RULES {
            return Ok(self);
        }
        Err(StoreError::NewerRules {
            found: self.rules,
            known: RULES,
        })
    }

    /// Returns the revision and the creation of an entry that a command at `revision` writes over `before`.
    pub(crate) fn stamp(self, revision: Revision, before: Option<&Entry>) -> (Revision, Revision) {
        if self.rules < 2 {
            let revision = Revision::new(revision.index, 0);
            return (revision, revision);
        }
        (revision, before.map_or(revision, |entry| entry.created))
    }

    pub(crate) fn to_record(self) -> Vec<u8> {
        let (rules, since) = (self.rules.to_be_bytes(), self.since.to_be_bytes());
        [&rules[..], &since, &self.emptied.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let in_force = InForce {
            rules: 2,
            since: 9,
            emptied: Revision::new(7, 1),
        };
        let record = in_force.to_record();
        assert_eq!(InForce::from_record(Some(&record)).unwrap(), in_force);
        assert_eq!(InForce::from_record(None).unwrap().rules, 1);
        assert!(InForce::from_record(Some(&record[1..])).is_err());
    }

    #[test]
    fn rules_of_a_later_version_are_refused() {
        let record = InForce {
            rules: 3,
            ..InForce::default()
        };
        let record = record.to_record();
        let error = InForce::from_record(Some(&record)).unwrap_err();
        assert!(matches!(
            error,
            StoreError::NewerRules { found: 3, known: 2 }
        ));
    }
}
