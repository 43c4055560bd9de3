//! One run: its folder, its number, and the guardian that takes everything away when it is over.
//!
//! Whatever a run makes outside of its own process (other processes, network namespaces, a bridge, files) is
//! noted in its folder as it is made. A guardian, a small shell in a process group of its own, waits for the
//! other end of a pipe to close. That happens when the run is dropped, and just so when it panics, is
//! interrupted or is killed with -9, because the system closes it. Then the guardian ends and removes what
//! is noted. The next run does the same for a run that lost its guardian, too.
//!
//! ```text
//! $TMPDIR/hearth-rig-UID/lock          held while a number is taken
//! $TMPDIR/hearth-rig-UID/NUMBER/owner  process id and start of the run
//!                              /pid-N  a process, with its start (ids are used again, starts are not)
//!                              /made   what to remove: `netns NAME`, `link NAME` or `mount PATH`, a line each
//!                              /...    data and logs of the nodes
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, RigError};

/// Keeps the folder of a run that failed, or of every run with the value `always`.
pub const KEEP: &str = "HEARTH_KEEP";

/// Where the folders of runs are made instead of the system's folder for temporary files.
pub const RUNS_DIR: &str = "HEARTH_RUNS_DIR";

/// Numbers that runs can have; the second byte of a subnet is made of them.
const NUMBERS: std::ops::Range<u8> = 1..250;

/// Ends and removes what a run has noted in the folder `$1`, once standard input has ended.
const CLEAN_UP: &str = r#"
folder=$1
cat > /dev/null
start_of() {
    stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
    set -- ${stat##*) }
    [ "$1" != Z ] && echo "${20}"
}
for round in 1 2 3 4 5 6 7 8 9 10; do
    alive=no
    for file in "$folder"/pid-*; do
        [ -e "$file" ] || continue
        pid=${file##*/pid-}
        read -r start < "$file"
        if [ "$(start_of "$pid")" = "$start" ]; then
            kill -9 "$pid"
            alive=yes
        fi
    done
    [ $alive = no ] && break
    sleep 0.05
done
if [ -e "$folder/made" ]; then
    while read -r kind name; do
        if [ "$kind" = netns ]; then
            ip netns pids "$name" 2> /dev/null | xargs -r kill -9
            ip netns delete "$name"
        elif [ "$kind" = mount ]; then
            # Also while somebody has a file of it open.
            umount -l "$name"
        else
            ip link delete "$name"
        fi
        # Some of it goes on in the kernel afterwards, and the next run may want the same name.
        for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            [ -e "/sys/class/net/$name" ] || [ -e "/run/netns/$name" ] || break
            sleep 0.05
        done
    done < "$folder/made"
fi 2> /dev/null
if [ -e "$folder/keep" ]; then
    rm -f "$folder/made" "$folder"/pid-*
    mv "$folder" "$folder-kept-$(date +%s)-$$"
else
    rm -rf "$folder"
fi
"#;

/// A run. Dropping it ends and removes all that belongs to it.
#[derive(Debug)]
pub struct Run {
    name: String,
    number: u8,
    folder: PathBuf,
    guardian: Child,
    /// Closing this is what the guardian waits for.
    alive: Option<ChildStdin>,
    processes: Mutex<BTreeMap<u32, String>>,
}

impl Run {
    /// Begins one, and clears away what dead ones left behind.
    ///
    /// # Errors
    /// The system's, and when all numbers are taken.
    pub fn begin(name: &str) -> Result<Arc<Self>> {
        let base = std::env::var_os(RUNS_DIR).map_or_else(std::env::temp_dir, PathBuf::from);
        let base = base.join(format!("hearth-rig-{}", rustix::process::getuid().as_raw()));
        fs::create_dir_all(&base).map_err(RigError::system(base.display().to_string()))?;
        let lock = File::create(base.join("lock")).map_err(RigError::system("lock"))?;
        lock.lock().map_err(RigError::system("lock"))?;
        clear_dead_runs(&base)?;
        let (number, folder) = NUMBERS
            .map(|number| (number, base.join(number.to_string())))
            .find(|(_, folder)| fs::create_dir(folder).is_ok())
            .ok_or_else(|| RigError::NotInTime {
                what: format!("a free number in {}", base.display()),
                waited: std::time::Duration::ZERO,
                seen: format!("all of {NUMBERS:?} are taken"),
            })?;
        let own = std::process::id();
        let owner = format!("{own} {}\n", start_of(own).unwrap_or_default());
        fs::write(folder.join("owner"), owner).map_err(RigError::system("owner"))?;
        let mut guardian = clean_up(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(RigError::system("cannot start the guardian (sh)"))?;
        let alive = guardian.stdin.take();
        Ok(Arc::new(Self {
            name: name.to_owned(),
            number,
            folder,
            guardian,
            alive,
            processes: Mutex::default(),
        }))
    }

    /// What it is called in texts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, which no other run of this machine's user has while it lives.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Notes a process that the guardian is to end, and what it is.
    pub(crate) fn note_process(&self, id: u32, name: &str) -> Result<()> {
        self.processes().insert(id, name.to_owned());
        let start = start_of(id).unwrap_or_default();
        let file = self.folder.join(format!("pid-{id}"));
        fs::write(file, format!("{start}\n")).map_err(RigError::system("note a process"))
    }

    /// The processes that are noted, with what they are.
    pub(crate) fn processes(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes that note back, once the process has ended.
    pub(crate) fn forget_process(&self, id: u32) {
        self.processes().remove(&id);
        // A note that stays does no harm: the start of another process differs.
        let _ = fs::remove_file(self.folder.join(format!("pid-{id}")));
    }

    /// Notes a network namespace, a link or a mount that the guardian is to remove.
    pub(crate) fn note_made(&self, kind: &str, name: &str) -> Result<()> {
        File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("made"))
            .and_then(|mut file| file.write_all(format!("{kind} {name}\n").as_bytes()))
            .map_err(RigError::system("note what was made"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let keep = std::env::var_os(KEEP);
        let keeps = match keep {
            Some(value) if value == "always" => true,
            Some(_) => std::thread::panicking(),
            None => false,
        };
        if keeps {
            eprintln!(
                "rig: the folder of run {:?} is kept beside {:?}",
                self.name, self.folder
            );
            let _ = fs::write(self.folder.join("keep"), "");
        }
        drop(self.alive.take());
        let _ = self.guardian.wait();
    }
}

fn clean_up(folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", CLEAN_UP, "hearth-rig-guardian"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Cleans up after runs whose process has gone and whose guardian did not do it.
fn clear_dead_runs(base: &Path) -> Result<()> {
    for number in NUMBERS {
        let folder = base.join(number.to_string());
        let Ok(owner) = fs::read_to_string(folder.join("owner")) else {
            continue;
        };
        let mut words = owner.split_whitespace();
        let id = words.next().and_then(|id| id.parse().ok());
        let is_alive = id.is_some_and(|id| start_of(id).as_deref() == words.next());
        if !is_alive {
            clean_up(&folder)
                .stdin(Stdio::null())
                .status()
                .map_err(RigError::system("clean up after a dead run"))?;
        }
    }
    Ok(())
}

/// When a process started, in the system's own unit; `None` if there is none.
fn start_of(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    // Field 22 of the file; the state after the name is field 3.
    after_name.split(' ').nth(19).map(str::to_owned)
}
