//! Where the programs under test are.
//!
//! `HEARTH_BIN_DIR` names the folder. Without it they are those of the cargo target folder that this
//! program lies in, brought up to date once by `cargo build`, so that a test never judges an old build.
//! A program that cargo did not start (as root it may have none) takes those beside it as they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::error::{Result, RigError};

/// The folder with the programs under test.
pub const BIN_DIR: &str = "HEARTH_BIN_DIR";

/// The folder with the programs of an earlier build, for tests of an upgrade.
pub const PREVIOUS_BIN_DIR: &str = "HEARTH_PREVIOUS_BIN_DIR";

/// The folder that holds `hearthd` and `nsctl`.
///
/// # Errors
/// When they cannot be built.
pub fn folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(|| find().map_err(|error| error.to_string())) {
        Ok(folder) => Ok(folder),
        Err(reason) => Err(RigError::Command {
            command: "cargo build".into(),
            status: "no programs to test".into(),
            stderr: reason.clone(),
        }),
    }
}

/// The folder of an earlier build, if one was given.
pub fn previous_folder() -> Option<PathBuf> {
    std::env::var_os(PREVIOUS_BIN_DIR).map(PathBuf::from)
}

/// The Python that has the real Pyro4 and Pyro5: `HEARTH_TEST_PYTHON`, or the one that `scripts/setup.sh test`
/// makes (`HEARTH_VENV`).
///
/// # Errors
/// Why there is none, and the way out.
pub fn python() -> std::result::Result<&'static Path, String> {
    static PYTHON: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    PYTHON
        .get_or_init(find_python)
        .as_deref()
        .map_err(Clone::clone)
}

fn find_python() -> std::result::Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || {
        let home = || variable("HOME").map(|home| home.join(".cache"));
        Some(
            variable("XDG_CACHE_HOME")
                .or_else(home)?
                .join("hearth/venv"),
        )
    };
    let python = variable("HEARTH_TEST_PYTHON")
        .or_else(|| Some(variable("HEARTH_VENV").or_else(cache)?.join("bin/python")))
        .ok_or("neither HEARTH_TEST_PYTHON nor HOME is set")?;
    let hint = "scripts/setup.sh test installs one, HEARTH_TEST_PYTHON names another";
    let mut command = Command::new(&python);
    crate::node::clear_environment(&mut command);
    match command.args(["-c", "import Pyro4, Pyro5"]).output() {
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or_default();
            Err(format!("{}: {last} ({hint})", python.display()))
        }
        Err(error) => Err(format!("{}: {error} ({hint})", python.display())),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BIN_DIR) {
        let folder = PathBuf::from(folder);
        for program in ["hearthd", "nsctl"] {
            let path = folder.join(program);
            std::fs::metadata(&path)
                .map_err(RigError::system(format!("{BIN_DIR}: {}", path.display())))?;
        }
        return Ok(folder);
    }
    let own = std::env::current_exe().map_err(RigError::system("the path of this program"))?;
    // target/PROFILE/deps/test-1234, target/PROFILE/examples/x or target/PROFILE/program.
    let is_inner = |name: &std::ffi::OsStr| name == "deps" || name == "examples";
    let folder = match own.parent() {
        Some(folder) if folder.file_name().is_some_and(is_inner) => folder.parent(),
        other => other,
    };
    let folder = folder.unwrap_or(Path::new(".")).to_owned();
    let has_cargo = std::env::var_os("CARGO").is_some();
    if has_cargo || !folder.join("hearthd").exists() || !folder.join("nsctl").exists() {
        build(&folder)?;
    }
    Ok(folder)
}

fn build(folder: &Path) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--quiet", "--package", "hearth-node"])
        .args(["--package", "hearth-cli", "--bins"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    run(&mut command).map(drop)
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}");
    let output = command
        .output()
        .map_err(RigError::system(format!("cannot run {text}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(RigError::Command {
        command: text,
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
