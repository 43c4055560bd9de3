//! The rules of the name space: the effect of each [`Command`] on a registry.
//!
//! A [`Change`] accumulates the effects of [`Command`]s until they are committed. The effect of a command
//! depends only on the state and the command: no clock, no randomness, no order that differs between two nodes.
//! A refusal is a reply. A [`StoreError`] means that this node's storage is broken and says nothing about the
//! command.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::command::{Command, IfTaken, Refusal, Reply};
use crate::error::StoreError;
use crate::format;
use crate::model::{Entry, Extras, Name, Revision, Tags};
use crate::pattern::{Pattern, PatternError, Steps};
use crate::removal::{Removal, minimal_prefixes};
use crate::rules::{self, InForce};
use crate::store::{Batch, EntryChange, EntryVisitor, Store, StoredEntry};
use crate::summary::Summary;

/// Maximum number of names created after [`Command::RemoveListed`]'s `as_of` that are examined before the
/// command is refused. The value is part of the log's meaning: all nodes must agree on it.
const CREATED_COUNT_MAX: usize = 4096;

/// Limits up to which a removal is written as one change per name: the number of names, and the bytes of their
/// entries. A larger removal is a [`Removal`]. All nodes must agree on both values.
const SINGLE_COUNT_MAX: usize = 1000;
const SINGLE_LEN_MAX: usize = 64 << 10;

/// The effects of a sequence of commands on the registry before they are written. Each command sees the effects
/// of the commands before it; readers see none of them until [`crate::Registry::commit`].
pub struct Change {
    store: Arc<dyn Store>,
    /// Number of writes to the registry when the change began.
    base: u64,
    /// Rules in force after the commands applied so far.
    in_force: InForce,
    /// Summary of the committed state, without the entries that `removal` removes from it.
    summary: Summary,
    /// Revision of the first command.
    first: Option<Revision>,
    entries: BTreeMap<Name, Slot>,
    /// Approximate bytes of the entries that were read from the store into `entries`.
    read_len: usize,
    /// Entries of the store that are removed as a whole, in addition to the changes in `entries`. They are
    /// already subtracted from `summary`.
    removal: Option<Removal>,
    /// Extra records of the committed state.
    extras_before: Arc<Extras>,
    /// Extra records that the change writes; `None` removes the record.
    extras: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The entry of a name in the store, and its value after the change.
struct Slot {
    before: Option<Entry>,
    /// True if `before` is already subtracted from the summary.
    counted_out: bool,
    /// `None` while the entry is unchanged; `Some(None)` if it is removed.
    after: Option<Option<Entry>>,
}

impl Slot {
    fn current(&self) -> Option<&Entry> {
        match &self.after {
            Some(after) => after.as_ref(),
            None => self.before.as_ref(),
        }
    }
}

impl Change {
    /// Creates an empty change on the committed state of `store`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        base: u64,
        in_force: InForce,
        summary: Summary,
        extras_before: Arc<Extras>,
    ) -> Self {
        Self {
            store,
            base,
            in_force,
            summary,
            first: None,
            entries: BTreeMap::new(),
            read_len: 0,
            removal: None,
            extras_before,
            extras: BTreeMap::new(),
            meta: BTreeMap::new(),
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn in_force(&self) -> InForce {
        self.in_force
    }

    /// Returns the [rules] by which the next command is applied.
    pub fn rules(&self) -> u32 {
        self.in_force.rules
    }

    /// Applies one command and returns its reply. `revision` is the revision of the entries that the command
    /// writes: the index of its log entry and its position in that entry. Revisions increase from one command
    /// to the next.
    ///
    /// # Errors
    /// [`StoreError`]; the change must then be dropped.
    pub fn apply(&mut self, revision: Revision, command: &Command) -> Result<Reply, StoreError> {
        self.first.get_or_insert(revision);
        match command {
            Command::Register {
                name,
                uri,
                tags,
                if_taken,
            } => self.register(revision, name, uri, tags, *if_taken),
            Command::SetMetadata { name, tags } => self.set_metadata(revision, name, tags),
            Command::Remove { name } => self.remove_if(name, |_| true),
            Command::RemoveIf { name, uri } => self.remove_if(name, |entry| entry.uri == *uri),
            Command::RemovePrefix { prefixes } => self.remove_prefixes(revision, prefixes),
            Command::RemoveRegex { pattern } => self.remove_regex(revision, pattern),
            Command::UseRules { rules } => self.use_rules(revision, *rules),
            Command::RemoveIfUnchanged { name, revision } => {
                self.remove_if(name, |entry| entry.revision == *revision)
            }
            Command::RemoveListed {
                names,
                prefix,
                as_of,
            } => self.remove_listed(revision, names, prefix, *as_of),
        }
    }

    /// Returns the entry of `name` after the commands applied so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        match self.entries.get(name) {
            Some(slot) => Ok(slot.current().cloned()),
            None if covers(&self.removal, name) => Ok(None),
            None => self.store.entry(name),
        }
    }

    /// Returns the approximate bytes of the entries that were read from the store for the commands applied so
    /// far. These entries are in memory and can be much larger than the commands.
    pub fn read_len(&self) -> usize {
        self.read_len
    }

    /// Writes a meta record with the change.
    pub fn put_meta(&mut self, key: &[u8], value: Vec<u8>) {
        self.meta.insert(key.to_vec(), value);
    }

    /// Writes an extra record with the change. Extra records are part of the replicated state: they count in
    /// its hash and are part of its snapshots.
    pub fn put_extra(&mut self, key: &[u8], value: Vec<u8>) {
        self.extras.insert(key.to_vec(), Some(value));
    }

    /// Removes the extra record under `key` with the change, if there is one.
    pub fn remove_extra(&mut self, key: &[u8]) {
        self.extras.insert(key.to_vec(), None);
    }

    /// Returns the extra record under `key` after the change so far.
    pub fn extra(&self, key: &[u8]) -> Option<&[u8]> {
        match self.extras.get(key) {
            Some(after) => after.as_deref(),
            None => self.extras_before.get(key).map(Vec::as_slice),
        }
    }

    /// Returns the extra records whose keys start with `prefix` after the change so far.
    pub fn extras(&self, prefix: &[u8]) -> Extras {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let before = self.extras_before.range::<[u8], _>(from);
        let mut found: Extras = before
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, after) in self.extras.range::<[u8], _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            match after {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        found
    }

    fn register(
        &mut self,
        revision: Revision,
        name: &str,
        uri: &str,
        tags: &Tags,
        if_taken: IfTaken,
    ) -> Result<Reply, StoreError> {
        let in_force = self.in_force;
        let slot = self.slot(name)?;
        if if_taken == IfTaken::Refuse && slot.current().is_some() {
            return Ok(Reply::Refused(Refusal::name_taken()));
        }
        let (revision, created) = in_force.stamp(revision, slot.current());
        slot.after = Some(Some(Entry {
            uri: uri.to_owned(),
            tags: tags.clone(),
            revision,
            created,
        }));
        Ok(Reply::Done)
    }

    fn set_metadata(
        &mut self,
        revision: Revision,
        name: &str,
        tags: &Tags,
    ) -> Result<Reply, StoreError> {
        let in_force = self.in_force;
        let slot = self.slot(name)?;
        let Some(entry) = slot.current() else {
            return Ok(Reply::Refused(Refusal::UnknownName));
        };
        let (revision, created) = in_force.stamp(revision, Some(entry));
        slot.after = Some(Some(Entry {
            uri: entry.uri.clone(),
            tags: tags.clone(),
            revision,
            created,
        }));
        Ok(Reply::Done)
    }

    fn use_rules(&mut self, revision: Revision, rules: u32) -> Result<Reply, StoreError> {
        if rules > self.in_force.rules {
            let since = revision.index;
            let in_force = InForce {
                rules,
                since,
                ..self.in_force
            };
            self.put_in_force(in_force.check()?);
        }
        Ok(Reply::Done)
    }

    fn put_in_force(&mut self, in_force: InForce) {
        self.in_force = in_force;
        self.put_extra(rules::RECORD_KEY, in_force.to_record());
    }

    fn remove_listed(
        &mut self,
        revision: Revision,
        names: &[Name],
        prefix: &str,
        as_of: Revision,
    ) -> Result<Reply, StoreError> {
        if self.may_have_gained(prefix, as_of)? {
            return Ok(Reply::Refused(Refusal::Changed));
        }
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.remove_all(revision, &Target::Names(names.into_iter().collect()))
    }

    /// Returns true if a name with this prefix was created after `as_of`, or if finding out would take too
    /// long. The result is the same on every node, however the commands are grouped into changes: names are
    /// counted as they are after the commands applied so far.
    fn may_have_gained(&self, prefix: &str, as_of: Revision) -> Result<bool, StoreError> {
        // Entries created before these rules may be ordered differently on another node.
        let InForce {
            rules,
            since,
            emptied,
        } = self.in_force;
        if rules < 2 || as_of < Revision::end_of(since) || as_of < emptied {
            return Ok(true);
        }
        let is_changed = |slot: &Slot| slot.after.is_some();
        let mut count = 0;
        let mut gained = false;
        for (name, slot) in &self.entries {
            let new = slot.current().is_some_and(|entry| entry.created > as_of);
            if is_changed(slot) && new {
                count += 1;
                gained |= name.starts_with(prefix);
            }
        }
        self.store.view()?.created_since(as_of, &mut |_, name| {
            if !self.entries.get(name).is_some_and(is_changed) && !covers(&self.removal, name) {
                count += 1;
                gained |= name.starts_with(prefix);
            }
            Ok(if gained || count > CREATED_COUNT_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(gained || count > CREATED_COUNT_MAX)
    }

    fn remove_if(
        &mut self,
        name: &str,
        condition: impl FnOnce(&Entry) -> bool,
    ) -> Result<Reply, StoreError> {
        let slot = self.slot(name)?;
        let removes = slot.current().is_some_and(condition);
        if removes {
            slot.after = Some(None);
        }
        Ok(Reply::Removed(u64::from(removes)))
    }

    fn remove_prefixes(
        &mut self,
        revision: Revision,
        prefixes: &[String],
    ) -> Result<Reply, StoreError> {
        self.remove_all(revision, &Target::Prefixes(minimal_prefixes(prefixes)))
    }

    /// Removes the names that `pattern` matches. Only logs of earlier builds, and clusters with a node of an
    /// earlier build, contain this command. The result is the same on every node: all names share one budget of
    /// steps, and the first error refuses the command.
    fn remove_regex(&mut self, revision: Revision, pattern: &str) -> Result<Reply, StoreError> {
        let refused = |error: PatternError| Reply::Refused(Refusal::pattern(&error.to_string()));
        let pattern = match Pattern::parse(pattern) {
            Ok(pattern) => pattern,
            Err(error) => return Ok(refused(error)),
        };
        let mut search = pattern.search(Steps::default());
        let mut matching = Vec::new();
        for name in self.names(pattern.literal_prefix())? {
            match search.matches(&name) {
                Ok(true) => matching.push(name),
                Ok(false) => {}
                Err(error) => return Ok(refused(error)),
            }
        }
        let names = matching.iter().map(String::as_str).collect();
        self.remove_all(revision, &Target::Names(names))
    }

    /// Removes the entries that `target` covers: name by name, or as a whole if there are many.
    fn remove_all(&mut self, revision: Revision, target: &Target<'_>) -> Result<Reply, StoreError> {
        // Without positions, the entries of one log entry cannot be ordered by age.
        if self.in_force.rules >= 2 && self.is_large(target)? {
            return self.remove_at_once(revision, target);
        }
        let names = match target {
            Target::Names(names) => names.iter().map(|&name| name.to_owned()).collect(),
            Target::Prefixes(prefixes) => {
                let mut names = Vec::new();
                for prefix in prefixes {
                    names.append(&mut self.names(prefix)?);
                }
                names
            }
        };
        let mut removed = 0;
        for name in names {
            let slot = self.slot(&name)?;
            if slot.current().is_some() {
                slot.after = Some(None);
                removed += 1;
            }
        }
        Ok(Reply::Removed(removed))
    }

    /// Returns true if `target` covers more than is removed name by name. Stops as soon as a limit is exceeded.
    fn is_large(&self, target: &Target<'_>) -> Result<bool, StoreError> {
        let (mut count, mut len) = (0, 0);
        let mut add = |entry_len: usize| {
            count += 1;
            len += entry_len;
            count > SINGLE_COUNT_MAX || len > SINGLE_LEN_MAX
        };
        let changed = |(_, slot): (&Name, &Slot)| slot.current().map(format::entry_len);
        if target
            .slots(&self.entries)
            .filter_map(changed)
            .any(&mut add)
        {
            return Ok(true);
        }
        let mut large = false;
        self.for_each_stored(target, &mut |_, entry| {
            large = add(entry.len());
            Ok(if large {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(large)
    }

    /// Removes any number of names in little memory: the entries of the store are only scanned, to count them.
    fn remove_at_once(
        &mut self,
        revision: Revision,
        target: &Target<'_>,
    ) -> Result<Reply, StoreError> {
        let mut summary = self.summary;
        self.for_each_stored(target, &mut |name, entry| {
            summary.remove_entry(name, &entry.read()?);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut removed = self.summary.entry_count.wrapping_sub(summary.entry_count);
        self.summary = summary;
        target.for_each_slot(&mut self.entries, |slot| {
            if slot.current().is_some() {
                slot.after = Some(None);
                removed += 1;
            }
        });
        // Every entry in the store was created before this change.
        let before = self.first.unwrap_or(revision);
        let removal = self.removal.get_or_insert_with(|| Removal::new(before));
        match target {
            Target::Prefixes(prefixes) => removal.add_prefixes(prefixes.iter().copied()),
            Target::Names(names) => removal.add_names(names.iter().copied()),
        }
        self.put_in_force(InForce {
            emptied: revision,
            ..self.in_force
        });
        Ok(Reply::Removed(removed))
    }

    /// Visits the entries of the store that `target` covers and that no command so far has touched.
    fn for_each_stored(
        &self,
        target: &Target<'_>,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError> {
        let view = self.store.view()?;
        let is_untouched =
            |name: &str| !self.entries.contains_key(name) && !covers(&self.removal, name);
        let mut broken = false;
        match target {
            Target::Names(names) => {
                for name in names.iter().filter(|name| is_untouched(name)) {
                    if let Some(entry) = view.entry(name)?
                        && visit(name, StoredEntry::plain(&entry))?.is_break()
                    {
                        return Ok(());
                    }
                }
            }
            Target::Prefixes(prefixes) => {
                for prefix in prefixes {
                    view.entries(prefix, "", &mut |name, entry| {
                        if !is_untouched(name) {
                            return Ok(ControlFlow::Continue(()));
                        }
                        let flow = visit(name, entry)?;
                        broken = flow.is_break();
                        Ok(flow)
                    })?;
                    if broken {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the names with this prefix after the change so far, in ascending order.
    fn names(&self, prefix: &str) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        self.store.view()?.entries(prefix, "", &mut |name, _| {
            // A name that was touched after its removal is handled below.
            if self.entries.contains_key(name) || !covers(&self.removal, name) {
                names.push(name.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let changed = self
            .entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, slot)| slot.after.is_some());
        let mut gone = BTreeSet::new();
        let mut new = Vec::new();
        for (name, slot) in changed {
            match (&slot.before, slot.current()) {
                (Some(_), None) => {
                    gone.insert(name.as_str());
                }
                (None, Some(_)) => new.push(name.clone()),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        if !gone.is_empty() {
            names.retain(|name| !gone.contains(name.as_str()));
        }
        if !new.is_empty() {
            names.append(&mut new);
            names.sort_unstable();
        }
        Ok(names)
    }

    fn slot(&mut self, name: &str) -> Result<&mut Slot, StoreError> {
        match self.entries.entry(name.to_owned()) {
            btree_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            btree_map::Entry::Vacant(place) => {
                let before = self.store.entry(name)?;
                self.read_len += before.as_ref().map_or(0, format::entry_len);
                let is_removed = covers(&self.removal, name);
                Ok(place.insert(Slot {
                    before,
                    counted_out: is_removed,
                    after: is_removed.then_some(None),
                }))
            }
        }
    }

    pub(crate) fn into_batch(self) -> Batch {
        let mut summary = self.summary;
        let mut batch = Batch {
            removal: self.removal,
            meta: self.meta,
            ..Batch::default()
        };
        for (name, slot) in self.entries {
            let Some(after) = slot.after else { continue };
            if let Some(entry) = slot.before.as_ref().filter(|_| !slot.counted_out) {
                summary.remove_entry(&name, entry);
            }
            if let Some(entry) = &after {
                summary.add_entry(&name, entry);
            }
            if slot.before != after {
                let before = slot.before;
                batch.entries.insert(name, EntryChange { before, after });
            }
        }
        for (key, after) in self.extras {
            let before = self.extras_before.get(&key);
            if before == after.as_ref() {
                continue;
            }
            if let Some(value) = before {
                summary.remove_extra(&key, value);
            }
            if let Some(value) = &after {
                summary.add_extra(&key, value);
            }
            batch.extras.insert(key, after);
        }
        batch.summary = summary;
        batch
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("entries", &self.entries.len())
            .field("extras", &self.extras.len())
            .finish_non_exhaustive()
    }
}

/// The names that a command removes.
enum Target<'a> {
    /// All names that start with one of these prefixes. Sorted; no prefix covers another.
    Prefixes(Vec<&'a str>),
    /// These names. Sorted, without duplicates.
    Names(Vec<&'a str>),
}

type Slots = BTreeMap<Name, Slot>;

impl Target<'_> {
    /// Returns the slots of the names that the target covers.
    fn slots<'b>(
        &'b self,
        slots: &'b Slots,
    ) -> Box<dyn Iterator<Item = (&'b Name, &'b Slot)> + 'b> {
        match self {
            Self::Prefixes(prefixes) => Box::new(prefixes.iter().flat_map(move |&prefix| {
                slots
                    .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                    .take_while(move |(name, _)| name.starts_with(prefix))
            })),
            Self::Names(names) => Box::new(
                names
                    .iter()
                    .filter_map(move |&name| slots.get_key_value(name)),
            ),
        }
    }

    /// [`Self::slots`], to be changed.
    fn for_each_slot(&self, slots: &mut Slots, mut work: impl FnMut(&mut Slot)) {
        match self {
            Self::Prefixes(prefixes) => {
                for &prefix in prefixes {
                    let range = (Bound::Included(prefix), Bound::Unbounded);
                    slots
                        .range_mut::<str, _>(range)
                        .take_while(|(name, _)| name.starts_with(prefix))
                        .for_each(|(_, slot)| work(slot));
                }
            }
            Self::Names(names) => {
                for &name in names {
                    if let Some(slot) = slots.get_mut(name) {
                        work(slot);
                    }
                }
            }
        }
    }
}

fn covers(removal: &Option<Removal>, name: &str) -> bool {
    removal.as_ref().is_some_and(|removal| removal.covers(name))
}
