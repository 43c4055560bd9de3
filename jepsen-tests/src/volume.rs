//! A small file system for one node's data, which can be filled without filling the machine's.
//!
//! ext4 on a file, by a loop device: syncs go the way that they go on a disk. It is unmounted with the run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_storage::DiskSpace;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::error::{Result, RigError};
use crate::programs;
use crate::run::Run;

/// One of them. It lives as long as its run.
#[derive(Debug, Clone)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Why this machine cannot have one, if so.
    pub fn why_not() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("file systems of the nodes' own need root".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("this system has no loop devices".into());
        }
        let found = Command::new("mkfs.ext4").arg("-V").output();
        found.err().map(|error| {
            format!("mkfs.ext4: {error} (scripts/setup.sh test installs it, in e2fsprogs)")
        })
    }

    /// Makes one of `len` bytes in a folder, or finds the one that is there.
    ///
    /// # Errors
    /// The system's. See [`Self::why_not`].
    pub fn at(run: &Run, folder: &Path, len: u64) -> Result<Self> {
        let path = folder.join("disk");
        let image = folder.join("disk-image");
        let volume = Self { path };
        if image.exists() {
            return Ok(volume);
        }
        let what = || RigError::system(image.display().to_string());
        let file = File::create(&image).map_err(what())?;
        file.set_len(len).map_err(what())?;
        fs::create_dir_all(&volume.path)
            .map_err(RigError::system(volume.path.display().to_string()))?;
        let mut make = Command::new("mkfs.ext4");
        programs::run(make.args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run.note_made("mount", &volume.path.display().to_string())?;
        let mut mount = Command::new("mount");
        programs::run(mount.args(["-o", "loop"]).arg(&image).arg(&volume.path))?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are free on it.
    ///
    /// # Errors
    /// The system's.
    pub fn free(&self) -> Result<u64> {
        let space = DiskSpace::of(&self.path).map_err(self.what())?;
        Ok(space.free)
    }

    /// Fills it until no more than `rest` bytes are free.
    ///
    /// # Errors
    /// The system's.
    pub fn fill(&self, rest: u64) -> Result<()> {
        let ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .map_err(self.what())?;
        loop {
            let surplus = self.free()?.saturating_sub(rest);
            if surplus == 0 {
                return Ok(());
            }
            let len = ballast.metadata().map_err(self.what())?.len();
            // A part of the rest goes into the file system's own records.
            let mut more = surplus;
            while let Err(error) = fallocate(&ballast, FallocateFlags::empty(), len, more) {
                if error != Errno::NOSPC {
                    return Err(self.what()(error.into()));
                }
                more /= 2;
                if more == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Takes away what [`Self::fill`] has put there.
    ///
    /// # Errors
    /// The system's.
    pub fn clear(&self) -> Result<()> {
        let ballast = self.ballast();
        if !ballast.exists() {
            return Ok(());
        }
        fs::remove_file(ballast).map_err(self.what())
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    fn what(&self) -> impl FnOnce(std::io::Error) -> RigError + use<> {
        RigError::system(self.path.display().to_string())
    }
}
