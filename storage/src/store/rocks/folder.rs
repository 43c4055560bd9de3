//! The data folder around the database.
//!
//! ```text
//! FORMAT      "hearth data folder\nformat 2\n"
//! LOCK        locked while the folder is open; holds the process id
//! SYNCED      how much of the write-ahead log is durable (see `synced.rs`)
//! cut/        what the last power failure left behind that (see `tail.rs`), if it left anything
//! RESERVE     room put aside for a full disk, if anybody asked for it (see `space`)
//! rocksdb/    the database
//! ```
//! The format stands outside of the database, because opening that is already a change, and a later
//! format may be one that RocksDB as we set it up cannot open at all.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format::FOLDER_FORMAT;
use crate::space::Reserve;

pub(super) const TITLE: &str = "hearth data folder";

/// An open data folder; nobody else can open it until this is dropped.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if needed, locks it and checks its format.
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

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join("rocksdb")
    }

    /// Whether there is one.
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
            // Before anything in it has the new format: an earlier version must not meet that.
            Some(found) if found < FOLDER_FORMAT => self.write_format(),
            Some(_) => Ok(()),
            None => Err(StoreError::Damaged {
                path: file,
                reason: format!("it should say {TITLE:?} and a format, and says {text:?}"),
            }),
        }
    }

    /// Refuses to start afresh where tables or logs of an earlier database lie about: a node that forgot
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
            // The folder itself may be new.
            Some(parent) if parent != Path::new("") => sync_folder(parent).map_err(at(parent)),
            _ => Ok(()),
        }
    }
}

/// What FORMAT says in a folder of this version.
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

/// Somebody else holds the lock in this file.
pub(super) fn in_use(path: &Path, lock: &File) -> StoreError {
    let mut process = String::new();
    // The number is a help for people; the lock itself has answered.
    let _ = lock.take(32).read_to_string(&mut process);
    StoreError::InUse {
        path: path.to_owned(),
        holder: match process.trim() {
            "" => "another process".to_owned(),
            id => format!("process {id}"),
        },
    }
}

/// The write-ahead log that was begun last.
pub(super) fn newest_wal(database: &Path) -> Option<PathBuf> {
    wals(database).ok()?.pop()
}

/// The write-ahead logs of a database, oldest first.
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

/// The database's list of tables that is in force.
pub(super) fn manifest(database: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(database.join("CURRENT")).ok()?;
    let path = database.join(name.trim_end());
    path.exists().then_some(path)
}

/// Puts the path beside an error of the system.
/// Makes a folder that only its owner can look into, whatever the umask is; those above it as usual. One
/// that exists stays as it is.
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

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        path: path.to_owned(),
        source,
    }
}
