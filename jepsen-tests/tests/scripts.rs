//! The build and test scripts: they check their requirements, report what they find, and count skipped tests
//! correctly.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../scripts")
        .join(name)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns a command for `scripts/cargo.sh` or `scripts/test.sh` with a shell script in place of cargo.
fn over_a_cargo(folder: &Path, text: &str, name: &str) -> Command {
    let cargo = folder.join("cargo");
    fs::write(&cargo, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(script(name));
    command
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env("CCACHE_DIR", folder.join("ccache"))
        .env_remove("ROCKSDB_LIB_DIR")
        .env_remove("CI");
    command
}

#[test]
fn the_library_of_graphics_drivers_is_not_taken_for_libclang() {
    let folder = tempfile::tempdir().unwrap();
    let needs = folder.path().join("needs");
    let compiled = Command::new("c++")
        .args(["-std=c++20", "-pthread", "-o"])
        .args([&needs, &script("needs.cc")])
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", errors(&compiled));
    let header = folder.path().join("header.h");
    fs::write(&header, "int a_function(int);\n").unwrap();
    let libraries = folder.path().join("lib");
    fs::create_dir(&libraries).unwrap();
    let look = || {
        let mut command = Command::new(&needs);
        command.arg("libclang").arg(&header);
        command.env("LIBCLANG_PATH", &libraries).output().unwrap()
    };

    // A file in the format of this machine that is not a library.
    let other = libraries.join("libclang-cpp.so.14");
    fs::copy(std::env::current_exe().unwrap(), &other).unwrap();
    let found = look();
    assert!(!found.status.success());
    assert!(errors(&found).contains("no libclang"), "{}", errors(&found));
    // The name is right now, but the file must also be loadable.
    fs::rename(&other, libraries.join("libclang-14.so.14")).unwrap();
    let found = look();
    assert!(!found.status.success());
    assert!(
        errors(&found).contains("libclang-14.so.14"),
        "{}",
        errors(&found)
    );
}

#[test]
fn a_port_that_is_taken_is_told_before_the_build() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let check = |args: &[&str]| {
        let mut command = Command::new(script("check_port.sh"));
        for name in [
            "HEARTH_HOST",
            "PYRO_HOST",
            "HEARTH_PORT",
            "PYRO_NS_PORT",
            "HEARTH_UNIXSOCKET",
            "HEARTH_CONFIG",
        ] {
            command.env_remove(name);
        }
        command.args(args);
        command
    };
    let forms = [
        format!("-p {port}"),
        format!("-p{port} -x"),
        format!("-n localhost --port={port}"),
        format!("-n 0.0.0.0 -xp {port}"),
        format!("-s rocksdb:somewhere --port {port}"),
    ];
    let args = |form: &'static str| form.split(' ').collect::<Vec<_>>();
    for form in forms {
        let output = check(&args(form.leak())).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = errors(&output);
        assert!(
            text.contains(&format!("port {port} of ")) && text.contains("ARGS="),
            "{text}"
        );
    }
    let mut by_environment = check(&[]);
    let output = by_environment.env("PYRO_NS_PORT", &port).output().unwrap();
    assert_eq!(output.status.code(), Some(1));

    for form in [
        format!("-u ./a-socket -p {port}"),
        "-p 0".to_owned(),
        "-p nonsense".to_owned(),
    ] {
        let output = check(&args(form.leak())).output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    }
    drop(listener);
    let output = check(&["-p", &port]).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

#[test]
fn what_cargo_prints_and_its_exit_code_stay() {
    let folder = tempfile::tempdir().unwrap();
    let text = "echo \"$@\"; echo 'warning: one' >&2; printf 'error: two' >&2; exit 101\n";
    let run = || {
        over_a_cargo(folder.path(), text, "cargo.sh")
            .args(["build", "--release"])
            .env("CARGO_BUILD_JOBS", "9")
            .output()
            .unwrap()
    };
    let output = run();
    assert_eq!(output.status.code(), Some(101));
    assert_eq!(output.stdout, b"build --release\n");
    let said = errors(&output);
    assert!(said.starts_with("RocksDB "), "{said}");
    assert!(said.contains("about 5 minutes on 9 cores"), "{said}");
    assert!(said.ends_with("\nwarning: one\nerror: two"), "{said}");

    // If RocksDB is compiled already, the script prints nothing of its own.
    let built = folder
        .path()
        .join("target/release/build/librocksdb-sys-1/out");
    fs::create_dir_all(&built).unwrap();
    fs::write(built.join("librocksdb.a"), "").unwrap();
    assert_eq!(errors(&run()), "warning: one\nerror: two");
}

#[test]
fn tests_that_skip_themselves_are_not_among_those_that_passed() {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("target/debug");
    fs::create_dir_all(&programs).unwrap();
    for program in ["hearthd", "hearth-jepsen-tests"] {
        fs::write(programs.join(program), "").unwrap();
    }
    let run = |skips: &str, ci: bool| {
        let text = format!(
            "case $* in *--no-fail-fast*) ;; *) exit 0 ;; esac\n\
             printf '{skips}' >> \"$HEARTH_SKIP_LOG\"\n\
             echo 'test compat::new ... ignored, replaces bytes'\n\
             echo 'test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured'\n\
             echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured'\n"
        );
        let mut command = over_a_cargo(folder.path(), &text, "test.sh");
        if ci {
            command.env("CI", "true");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().last().unwrap_or_default().to_owned();
        let skipped = text.lines().filter(|line| line.starts_with("skipped: "));
        let skipped: Vec<String> = skipped.map(str::to_owned).collect();
        (output.status.code(), skipped, last)
    };
    // One test that skipped two of its parts, and another test.
    let skips = "a rig one\\tno nft\\na rig one\\tno ip\\nb full_disk two\\tno root\\n";
    let (code, told, last) = run(skips, false);
    assert_eq!(last, "13 passed, 0 failed, 3 skipped");
    assert_eq!(code, Some(0));
    assert_eq!(
        told,
        [
            "skipped: compat::new, replaces bytes",
            "skipped: a rig one: no ip",
            "skipped: a rig one: no nft",
            "skipped: b full_disk two: no root",
        ]
    );
    assert_eq!(run(skips, true).0, Some(1));
    let earlier = "a acceptance up\\tHEARTH_PREVIOUS_BIN_DIR names no folder\\n";
    let (code, _, last) = run(earlier, true);
    assert_eq!(last, "14 passed, 0 failed, 2 skipped");
    assert_eq!(code, Some(0));
    assert_eq!(run("", true).2, "15 passed, 0 failed, 1 skipped");
}
