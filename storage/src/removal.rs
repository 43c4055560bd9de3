//! A removal of any number of names as one value.
//!
//! Removing millions of names one by one in a batch would take memory for each of them. A large removal
//! therefore states which names it covers, by prefix or by name, and how old their entries are. A store takes
//! it as a whole and need not touch all entries at once. Entries that are created later under the same names
//! are kept.

use crate::format::{self, Reader};
use crate::model::{Name, Revision};

/// A set of entries to remove: the entries of the given names that were created before a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// Sorted; no prefix covers another.
    prefixes: Vec<String>,
    /// Sorted, without duplicates.
    names: Vec<Name>,
    before: Revision,
}

impl Removal {
    /// Creates a removal that covers no name yet, of entries created before this revision.
    pub(crate) fn new(before: Revision) -> Self {
        Self {
            before,
            ..Self::default()
        }
    }

    /// Adds all names that start with one of these prefixes.
    pub(crate) fn add_prefixes<'a>(&mut self, prefixes: impl IntoIterator<Item = &'a str>) {
        let mut all = std::mem::take(&mut self.prefixes);
        all.extend(prefixes.into_iter().map(str::to_owned));
        self.prefixes = minimal_prefixes(&all)
            .into_iter()
            .map(str::to_owned)
            .collect();
    }

    /// Adds these names.
    pub(crate) fn add_names<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.names.extend(names.into_iter().map(str::to_owned));
        self.names.sort_unstable();
        self.names.dedup();
    }

    /// Returns true if the removal covers this name. Its entry is removed only if it is old enough, see
    /// [`Self::takes`].
    pub fn covers(&self, name: &str) -> bool {
        // A prefix of the name sorts at or before it. No prefix covers another, so only the last one at or
        // before the name can cover it.
        let end = self
            .prefixes
            .partition_point(|prefix| prefix.as_str() <= name);
        let prefix = end.checked_sub(1).and_then(|last| self.prefixes.get(last));
        prefix.is_some_and(|prefix| name.starts_with(prefix.as_str()))
            || self
                .names
                .binary_search_by(|known| known.as_str().cmp(name))
                .is_ok()
    }

    /// Returns true if the removal removes the entry of this name that was created at `created`.
    pub fn takes(&self, name: &str, created: Revision) -> bool {
        created < self.before && self.covers(name)
    }

    /// Returns the prefixes. Sorted; no prefix covers another.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// Returns the single names, sorted.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// Returns the revision before which the removed entries were created.
    pub fn before(&self) -> Revision {
        self.before
    }

    /// Appends the removal: `before` (index u64, position u32), prefix_count u32, then for each prefix: len
    /// u32, UTF-8; name_count u32, then for each name the same. Integers are big-endian; prefixes and names are
    /// sorted.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before.to_be_bytes());
        for texts in [&self.prefixes, &self.names] {
            out.extend_from_slice(&format::length(texts.len()).to_be_bytes());
            for text in texts {
                format::write_bytes(out, text.as_bytes());
            }
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(payload);
        let before = reader.revision()?;
        let prefixes = read_texts(&mut reader)?;
        let names = read_texts(&mut reader)?;
        reader.end()?;
        Ok(Self {
            prefixes,
            names,
            before,
        })
    }
}

fn read_texts(reader: &mut Reader<'_>) -> Result<Vec<String>, String> {
    let mut texts: Vec<String> = Vec::new();
    for _ in 0..reader.u32()? {
        let text = reader.text()?;
        if texts.last().is_some_and(|last| last.as_str() >= text) {
            return Err("its texts are not in order".to_owned());
        }
        texts.push(text.to_owned());
    }
    Ok(texts)
}

/// Returns `prefixes` without those that another one covers. The result is sorted, so that scanning one prefix
/// after the other visits each name once, in order.
pub(crate) fn minimal_prefixes(prefixes: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut minimal: Vec<&str> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        // The prefixes that a prefix covers follow it directly, so the last one kept is the only candidate.
        if !minimal.last().is_some_and(|last| prefix.starts_with(last)) {
            minimal.push(prefix);
        }
    }
    minimal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn prefixes_that_others_cover_go() {
        assert_eq!(
            minimal_prefixes(&owned(&["b", "ab", "a", "ab", "b.c", "c"])),
            ["a", "b", "c"]
        );
        assert_eq!(minimal_prefixes(&owned(&["x", "", "y"])), [""]);
        assert_eq!(
            minimal_prefixes(&owned(&["ab", "ab\u{10ffff}", "abc", "ac"])),
            ["ab", "ac"]
        );
        assert!(minimal_prefixes(&[]).is_empty());
    }

    #[test]
    fn it_takes_what_it_covers_and_nothing_that_came_later() {
        let before = Revision::new(5, 1);
        let mut removal = Removal::new(before);
        removal.add_prefixes(["b", "a.", "bc"]);
        removal.add_names(["x", "a", "x"]);
        removal.add_prefixes(["d"]);
        for name in ["a.", "a.z", "b", "bcd", "d\u{10ffff}", "x", "a"] {
            assert!(removal.takes(name, Revision::new(5, 0)), "{name}");
            assert!(!removal.takes(name, before), "{name}");
        }
        for name in ["", "a-", "a/", "aa", "c", "xx", "e"] {
            assert!(!removal.covers(name), "{name}");
        }
        let mut bytes = Vec::new();
        removal.write(&mut bytes);
        assert_eq!(Removal::read(&bytes), Ok(removal));
        assert!(Removal::read(&bytes[1..]).is_err());
        assert!(!Removal::default().covers(""));
    }
}
