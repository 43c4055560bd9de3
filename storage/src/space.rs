//! How much room is left where the data is, and a little of it put aside.
//!
//! A disk that somebody else fills to the last byte would leave no room even for removals, which need
//! a line in the log before they free anything. So a data folder may hold a [`Reserve`]: a file of
//! nothing that is given up when it is needed. This module measures and holds; when to do what is
//! decided by whoever writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Name of the reserve in a data folder.
const RESERVE: &str = "RESERVE";

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What this process may still take.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

impl DiskSpace {
    /// The room on the file system of `path`. One system call; nothing is read from the disk.
    ///
    /// # Errors
    /// The system's own.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = statvfs(path)?;
        let block_len = if found.f_frsize == 0 {
            found.f_bsize
        } else {
            found.f_frsize
        };
        Ok(Self {
            free: found.f_bavail.saturating_mul(block_len),
            total: found.f_blocks.saturating_mul(block_len),
        })
    }
}

/// A file that takes room so that there is some to give up.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the data folder `folder`. Changes nothing.
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(RESERVE),
        }
    }

    /// Bytes that it takes now.
    pub fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Whether it takes none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes exactly `len` bytes. False where the file system cannot put room aside; then it takes none.
    ///
    /// # Errors
    /// The system's own, a full disk among them; it takes none then.
    pub fn hold(&self, len: u64) -> io::Result<bool> {
        if len == 0 {
            self.release()?;
            return Ok(true);
        }
        if self.len() == len {
            return Ok(true);
        }
        // Afresh, so that what an interrupted attempt left is not taken for held.
        self.release()?;
        // Some file systems fill themselves up before they find out.
        if let Some(folder) = self.path.parent()
            && DiskSpace::of(folder)?.free < len
        {
            return Err(Errno::NOSPC.into());
        }
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(true),
            Err(errno) => {
                self.release()?;
                match errno {
                    Errno::OPNOTSUPP | Errno::NOSYS => Ok(false),
                    errno => Err(errno.into()),
                }
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// The system's own.
    pub fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the room back if there is less than that left without it: before a folder is opened, which
    /// needs room for a new log and for tables of what the old one holds.
    pub(crate) fn make_room(&self) {
        let len = self.len();
        let Ok(space) = DiskSpace::of(&self.path) else {
            return;
        };
        if len > 0 && space.free < len {
            match self.release() {
                Ok(()) => tracing::warn!(
                    free = space.free,
                    given_up = len,
                    "the disk is nearly full; its reserve is given up"
                ),
                Err(error) => tracing::warn!(%error, "cannot give up the disk's reserve"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_room_until_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(folder.path());
        assert!(reserve.is_empty());
        if !reserve.hold(3 << 20).unwrap() {
            return hearth_skipped::skipped("this file system cannot put room aside");
        }
        assert_eq!(reserve.len(), 3 << 20);
        // Room that is really taken, not a hole.
        let blocks = std::os::unix::fs::MetadataExt::blocks(
            &fs::metadata(folder.path().join(RESERVE)).unwrap(),
        );
        assert!(blocks * 512 >= 3 << 20, "{blocks} blocks of 512 bytes");
        assert!(reserve.hold(1 << 20).unwrap());
        assert_eq!(reserve.len(), 1 << 20);
        reserve.release().unwrap();
        assert_eq!(reserve.len(), 0);
        reserve.release().unwrap();
        assert!(reserve.hold(0).unwrap());
    }

    #[test]
    fn more_than_there_is_cannot_be_held() {
        let folder = tempfile::tempdir().unwrap();
        let space = DiskSpace::of(folder.path()).unwrap();
        assert!(0 < space.free && space.free <= space.total, "{space:?}");
        let reserve = Reserve::new(folder.path());
        let held = reserve.hold(space.total.saturating_mul(4));
        assert!(!matches!(held, Ok(true)), "{held:?}");
        assert!(reserve.is_empty());
    }
}
