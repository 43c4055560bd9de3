//! A disk that fails on command, for one `hearthd`. The shim is the one of the rig, `failing_disk.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The shim, compiled, and its orders.
pub struct FailingDisk {
    folder: tempfile::TempDir,
}

impl FailingDisk {
    /// `Err` with the reason where there is no C compiler.
    pub fn compile() -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../jepsen-tests/src/shim/failing_disk.c");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        // A compiler that does not like our source is a mistake of ours, and no reason to skip.
        assert!(output.status.success(), "{text}");
        Ok(Self { folder })
    }

    /// Has the calls of `command` on files below `data` under control.
    pub fn put_under(&self, command: &mut Command, data: &Path) {
        command
            .env("LD_PRELOAD", self.folder.path().join("shim.so"))
            .env("FAILING_DISK_FOLDER", data)
            .env("FAILING_DISK_ORDER", self.order())
            .env("FAILING_DISK_LOG", self.log());
    }

    /// Lets the next `times` calls of a kind, `sync` or `write`, fail with this error of the system.
    pub fn fail(&self, kind: &str, errno: i32, times: u32) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, format!("{kind} {errno} {times}\n")).expect("its own folder");
        fs::rename(&draft, self.order()).expect("its own folder");
    }

    /// What it did, line by line.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn order(&self) -> PathBuf {
        self.folder.path().join("order")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}
