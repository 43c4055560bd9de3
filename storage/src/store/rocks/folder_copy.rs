//! A copy of a data directory for inspection. It shows what a start would find, and leaves the directory as it
//! is.
//!
//! Opening a database changes it, even one that is only read. Therefore a copy is opened instead. Tables are
//! linked, since nothing ever writes to one; all other files are small and are copied.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::folder::{TITLE, at, format_text, in_use};
use super::{Location, RocksOptions, RocksStore, synced};
use crate::error::StoreError;

/// Files of the directory that hold no data.
const LEFT_OUT: [&str; 2] = ["LOCK", "RESERVE"];

/// A copy below the directory for temporary files, removed when this is dropped. The original stays locked as
/// long.
#[derive(Debug)]
pub struct FolderCopy {
    original: PathBuf,
    place: PathBuf,
    _lock: Option<File>,
}

impl FolderCopy {
    /// Copies the data directory `original`.
    ///
    /// # Errors
    /// [`StoreError::InUse`]; [`StoreError::Io`] if `original` is no data directory, or from the system.
    pub fn of(original: &Path) -> Result<Self, StoreError> {
        let original = original.canonicalize().map_err(at(original))?;
        if !original.join("rocksdb").is_dir() {
            let error = io::Error::new(io::ErrorKind::NotFound, "this is no data folder of Hearth");
            return Err(at(&original)(error));
        }
        let lock = lock(&original)?;
        let copy = Self {
            place: make_place()?,
            original,
            _lock: lock,
        };
        copy.fill()?;
        Ok(copy)
    }

    /// Opens the copy as a start would open the original.
    ///
    /// # Errors
    /// [`StoreError`]. Its text names the copy; [`Self::tell`] makes it name the original.
    pub fn open(&self) -> Result<RocksStore, StoreError> {
        self.open_with(false)
    }

    /// Opens as much as can be opened: past a log that is damaged in the middle, and without a list of tables.
    /// Calls `damaged` with each error that kept the copy from opening normally.
    ///
    /// # Errors
    /// [`StoreError`] if nothing can be opened.
    pub fn open_remains(&self, damaged: &mut dyn FnMut(&str)) -> Result<RocksStore, StoreError> {
        let is_damage = |error: &StoreError| {
            matches!(
                error,
                StoreError::Damaged { .. } | StoreError::Corrupt { .. } | StoreError::Rocks { .. }
            )
        };
        match self.open() {
            Err(error) if is_damage(&error) => damaged(&self.tell(&error)),
            opened => return opened,
        }
        self.refill()?;
        match self.open_with(true) {
            Err(error) if is_damage(&error) => damaged(&self.tell(&error)),
            opened => return opened,
        }
        self.refill()?;
        let database = self.place.join("rocksdb");
        rocksdb::DB::repair(&rocksdb::Options::default(), &database).map_err(|source| {
            StoreError::Rocks {
                path: self.original.clone(),
                source,
            }
        })?;
        self.open_with(true)
    }

    /// Returns `text` with the path of the copy replaced by that of the original.
    pub fn tell(&self, text: &impl ToString) -> String {
        let place = self.place.display().to_string();
        let original = self.original.display().to_string();
        text.to_string().replace(&place, &original)
    }

    fn open_with(&self, salvages: bool) -> Result<RocksStore, StoreError> {
        if salvages {
            forget_descriptions(&self.place).map_err(at(&self.place))?;
        }
        let options = RocksOptions {
            compacts: false,
            // The copy is inspected as it is.
            erase_pause: Duration::MAX,
            salvages,
            ..RocksOptions::default()
        };
        RocksStore::open(&Location::Folder(self.place.clone()), &options)
    }

    fn refill(&self) -> Result<(), StoreError> {
        fs::remove_dir_all(&self.place).map_err(at(&self.place))?;
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(&self.place)
            .map_err(at(&self.place))?;
        self.fill()
    }

    fn fill(&self) -> Result<(), StoreError> {
        fill(&self.original, &self.place)?;
        let (from, to) = (self.original.join("rocksdb"), self.place.join("rocksdb"));
        fs::create_dir(&to).map_err(at(&to))?;
        fill(&from, &to)
    }
}

impl Drop for FolderCopy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.place) {
            tracing::warn!(%error, place = %self.place.display(), "a copy to look into stays behind");
        }
    }
}

/// Locks a data directory without changing anything in it. Returns `None` if it has no lock file: it was never
/// open.
fn lock(folder: &Path) -> Result<Option<File>, StoreError> {
    let name = folder.join("LOCK");
    let file = match File::open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&name)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(in_use(folder, &file)),
        Err(TryLockError::Error(error)) => Err(at(&name)(error)),
    }
}

/// Repairs the files in which a damaged directory describes itself: removes `SYNCED`, and rewrites `CURRENT`
/// and `FORMAT` where they are unusable.
fn forget_descriptions(place: &Path) -> io::Result<()> {
    match fs::remove_file(place.join(synced::FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let database = place.join("rocksdb");
    if super::folder::manifest(&database).is_none()
        && let Some(newest) = newest_manifest(&database)?
    {
        fs::write(database.join("CURRENT"), format!("{newest}\n"))?;
    }
    let format = place.join("FORMAT");
    match fs::read_to_string(&format) {
        Ok(text) if text.starts_with(TITLE) => Ok(()),
        _ => fs::write(&format, format_text()),
    }
}

/// Returns the name of the newest manifest.
fn newest_manifest(database: &Path) -> io::Result<Option<String>> {
    let mut newest = None;
    for file in fs::read_dir(database)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_prefix("MANIFEST-")
            .and_then(|n| n.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, name)));
    }
    Ok(newest.map(|(_, name)| name))
}

/// Creates a new directory for this copy alone.
fn make_place() -> Result<PathBuf, StoreError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = parent.join(format!("hearth-copy-{}-{number}", std::process::id()));
        // The registered names are confidential, so only the owner can enter.
        match DirBuilder::new().mode(0o700).create(&place) {
            Ok(()) => return Ok(place),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(&place)(error)),
        }
    }
}

fn fill(from: &Path, to: &Path) -> Result<(), StoreError> {
    for file in fs::read_dir(from).map_err(at(from))? {
        let file = file.map_err(at(from))?;
        let (path, name) = (file.path(), file.file_name());
        if !file.file_type().map_err(at(&path))?.is_file()
            || LEFT_OUT.iter().any(|&left_out| name == left_out)
        {
            continue;
        }
        let copied = if path.extension().is_some_and(|e| e == "sst") {
            symlink(&path, to.join(&name))
        } else {
            fs::copy(&path, to.join(&name)).map(drop)
        };
        copied.map_err(at(&path))?;
    }
    Ok(())
}
