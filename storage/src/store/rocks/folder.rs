//! The data directory around the database.
//!
//! ```text
//! FORMAT      "hearth data folder\nformat 2\n"
//! LOCK        locked while the directory is open; holds the process id
//! SYNCED      how much of the write-ahead log is durable (see `synced.rs`)
//! cut/        log bytes behind that, cut off after the last power failure, if there were any (see `tail.rs`)
//! RESERVE     a preallocated file to give up when the disk is full, if the node holds one (see `space`)
//! rocksdb/    the database
//! ```
//! The format is stored outside the database: opening the database already changes it, and RocksDB with the
//! settings of this version may be unable to open the database of a later format at all.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format::FOLDER_FORMAT;
use crate::space::Reserve;

pub(super) const TITLE: &str = "hearth data folder";

/// An open data directory. Nothing else can open it until this is dropped.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the directory if needed, locks it, and checks its format.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(at(path))?;
        let folder = Self {
            path: path.to_owned(),
            _lock: lock(path)?,
        };
        folder.check_format()?;
        Reserve::new(path).make_room();
        let database = folder.database();
        create_private(&database).map_err(at(&database))?;
        Ok(folder)
    }

    /// Returns the path of the database.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join("rocksdb")
    }

    /// Returns true if there is a database.
    pub(super) fn has_database(&self) -> bool {
        self.database().join("CURRENT").exists()
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let file = self.path.join("FORMAT");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.refuse_remains("FORMAT")?;
                return self.write_format();
            }
            Err(error) => return Err(at(&file)(error)),
        };
        let found = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.trim().strip_prefix("format "))
            .and_then(|number| number.parse::<u32>().ok());
        match found {
            Some(found) if found > FOLDER_FORMAT => Err(StoreError::NewerFormat {
                path: self.path.clone(),
                found,
                known: FOLDER_FORMAT,
            }),
            Some(_) if !self.has_database() => {
                self.refuse_remains("rocksdb/CURRENT")?;
                self.write_format()
            }
            // The format is raised before anything in the directory has it: an earlier version must not open
            // such data.
            Some(found) if found < FOLDER_FORMAT => self.write_format(),
            Some(_) => Ok(()),
            None => Err(StoreError::Damaged {
                path: file,
                reason: format!("it should say {TITLE:?} and a format, and says {text:?}"),
            }),
        }
    }

    /// Refuses to start with a new database where tables or logs of an earlier one remain: a node that forgot
    /// its vote and its log could harm its cluster.
    fn refuse_remains(&self, missing: &str) -> Result<(), StoreError> {
        let Ok(files) = fs::read_dir(self.database()) else {
            return Ok(());
        };
        for file in files {
            let path = file.map_err(at(&self.path))?.path();
            if path.extension().is_some_and(|e| e == "sst" || e == "log") {
                return Err(StoreError::Damaged {
                    path: self.path.clone(),
                    reason: format!("{missing} is missing, but {} is there", path.display()),
                });
            }
        }
        Ok(())
    }

    fn write_format(&self) -> Result<(), StoreError> {
        let draft = self.path.join("FORMAT.draft");
        write_synced(&draft, format_text().as_bytes()).map_err(at(&draft))?;
        crash_point("format-drafted");
        fs::rename(&draft, self.path.join("FORMAT")).map_err(at(&draft))?;
        crash_point("format-written");
        sync_folder(&self.path).map_err(at(&self.path))?;
        match self.path.parent() {
            // The directory itself may be new.
            Some(parent) if parent != Path::new("") => sync_folder(parent).map_err(at(parent)),
            _ => Ok(()),
        }
    }
}

/// Returns the content of FORMAT in a data directory of this version.
pub(super) fn format_text() -> String {
    format!("{TITLE}\nformat {FOLDER_FORMAT}\n")
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let name = path.join("LOCK");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(at(&name))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(path, &file)),
        Err(TryLockError::Error(error)) => return Err(at(&name)(error)),
    }
    file.set_len(0).map_err(at(&name))?;
    writeln!(&file, "{}", std::process::id()).map_err(at(&name))?;
    Ok(file)
}

/// Returns the error for a data directory whose lock file is locked by another process or store.
pub(super) fn in_use(path: &Path, lock: &File) -> StoreError {
    let mut process = String::new();
    // The process id only helps operators. The lock itself has decided.
    let _ = lock.take(32).read_to_string(&mut process);
    StoreError::InUse {
        path: path.to_owned(),
        holder: match process.trim() {
            "" => "another process".to_owned(),
            id => format!("process {id}"),
        },
    }
}

/// Returns the newest write-ahead log.
pub(super) fn newest_wal(database: &Path) -> Option<PathBuf> {
    wals(database).ok()?.pop()
}

/// Returns the write-ahead logs of a database, oldest first.
pub(super) fn wals(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in fs::read_dir(database)? {
        let path = file?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        match (number, path.extension()) {
            (Some(number), Some(extension)) if extension == "log" => found.push((number, path)),
            _ => {}
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Returns the manifest (the database's list of tables) that is in force, if there is one.
pub(super) fn manifest(database: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(database.join("CURRENT")).ok()?;
    let path = database.join(name.trim_end());
    path.exists().then_some(path)
}

/// Creates a directory that only its owner can enter, whatever the umask is; its parents get the usual mode. A
/// directory that exists keeps its mode, with a warning if all users can enter it.
fn create_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if metadata.mode() & 0o007 != 0 {
        tracing::warn!(
            path = %path.display(),
            "all users of this machine can look into this data directory; chmod 700 keeps them out"
        );
    }
    Ok(())
}

/// Adds `path` to an error of the operating system.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        path: path.to_owned(),
        source,
    }
}
