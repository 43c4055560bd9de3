//! A file system of a few megabytes, made and removed by the test.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_storage::DiskSpace;

/// A small file system that is mounted for one test. Dropping it removes it and what is on it.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// One in memory. `Err` with the reason where this process may not mount.
    pub fn tmpfs(megabytes: u32) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={megabytes}m,mode=0700");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs"],
            folder_at(folder.path(), "disk"),
        )?;
        Ok(Self { folder })
    }

    /// ext4 on a file. `Err` with the reason where that cannot be.
    pub fn ext4(megabytes: u32) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(u64::from(megabytes) << 20)
            .map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0"], image.clone())?;
        let image = image.display().to_string();
        run(
            "mount",
            &["-o", "loop", &image],
            folder_at(folder.path(), "disk"),
        )?;
        Ok(Self { folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        DiskSpace::of(&self.path()).expect("it is mounted").free
    }

    /// Fills it with a file of nothing until no more than `free` bytes are left. Told to leave nothing, it
    /// goes on until the system refuses.
    pub fn fill(&self, free: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("there is room for a name");
        let mut chunk = vec![7; 64 << 10];
        while self.free() > free || free == 0 {
            match file.write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull && chunk.len() > 1 => {
                    chunk.truncate(chunk.len() / 2);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("cannot fill the disk: {error}"),
            }
        }
    }

    /// Takes away what [`Self::fill`] has put there.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open, a server that a failed test left, does not keep it.
        let _ = run("umount", &["-l"], self.path());
    }
}

fn folder_at(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).expect("a new folder");
    path
}

fn run(program: &str, args: &[&str], last: PathBuf) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .arg(last)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program}: {text}"))
}
