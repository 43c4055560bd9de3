//! Free space on the disk of the data directory, and a reserve of it.
//!
//! A disk that another program fills to the last byte has no room even for removals, which need a log entry
//! before they free anything. A data directory may therefore hold a [`Reserve`]: a preallocated file that is
//! given up when its space is needed. This module measures space and holds the reserve. Its callers decide when
//! to do so.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Name of the reserve in a data directory.
const RESERVE: &str = "RESERVE";

/// Space on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still use.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

impl DiskSpace {
    /// Returns the space on the file system of `path`. One system call; nothing is read from the disk.
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

/// A preallocated file whose space can be given up.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Returns the reserve of the data directory `folder`. Changes nothing.
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(RESERVE),
        }
    }

    /// Returns the bytes that the reserve takes now.
    pub fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Returns true if the reserve takes no space.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the reserve take exactly `len` bytes. Returns false if the file system cannot preallocate; the
    /// reserve is then empty.
    ///
    /// # Errors
    /// The system's own, including a full disk; the reserve is then empty.
    pub fn hold(&self, len: u64) -> io::Result<bool> {
        if len == 0 {
            self.release()?;
            return Ok(true);
        }
        if self.len() == len {
            return Ok(true);
        }
        // The file is created anew, so that the remains of an interrupted attempt do not count as held.
        self.release()?;
        // Some file systems fill up completely before they report that the space does not suffice.
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

    /// Gives up the reserve.
    ///
    /// # Errors
    /// The system's own.
    pub fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives up the reserve if the free space is smaller than it. Called before a data directory is opened,
    /// which takes room for a new log and for tables with the contents of the old one.
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
        // The space is really allocated, not a hole.
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
