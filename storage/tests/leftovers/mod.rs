//! Data directories as a crash leaves them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_storage::{Location, RocksOptions, RocksStore, StoreError};

/// Copies a directory whose store may be open. The copy is what a kill at this moment would leave, as long as
/// nothing is written meanwhile.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), &target).unwrap();
        }
    }
}

pub(crate) fn open(path: &Path) -> Result<RocksStore, StoreError> {
    RocksStore::open(&Location::Folder(path.to_owned()), &RocksOptions::default())
}

/// Waits until all large removals are erased.
pub(crate) fn wait_until_erased(store: &RocksStore) {
    // The limit needs no clock: it is two minutes, and more on a busy machine.
    for _ in 0..24_000 {
        if store.hidden_removal_count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it is not erased");
}

/// Returns the files of the database with this extension, oldest first.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder.join("rocksdb"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort_unstable();
    found
}

/// Inverts bits of one byte of a file.
pub(crate) fn flip(file: &Path, at: usize, bits: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= bits;
    fs::write(file, bytes).unwrap();
}

/// An xorshift generator. Its seed makes a test reproducible and is printed with a failure.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
