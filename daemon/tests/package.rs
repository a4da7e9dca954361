//! The Debian package: made of the program under test, then installed, run, removed and purged
//! in a root file system of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn the_debian_package_comes_and_goes() {
    let Some(cargo_deb) = cargo_deb() else {
        println!("skipped: no cargo-deb here; `make deb` installs it into target/tools");
        return;
    };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(cargo_deb).chain(std::env::split_paths(&folders));
    let mut make = script("deploy/package.sh");
    make.arg("deb").env("PATH", std::env::join_paths(folders).unwrap());
    let made = make.env("EMBERD_BINARY", env!("CARGO_BIN_EXE_emberd")).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let deb = String::from_utf8(made.stdout).unwrap();
    let tried = script("deploy/debian/try.sh").arg(deb.trim()).output().unwrap();
    match tried.status.code() {
        Some(0) => assert!(said(&tried).ends_with("well\n"), "{}", said(&tried)),
        // Its last line says "skipped: " and why.
        Some(77) => println!("{}", said(&tried)),
        _ => panic!("{}", said(&tried)),
    }
}

/// Where cargo-deb is.
fn cargo_deb() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(top().join("target/tools/bin"))
        .chain(std::env::split_paths(&folders))
        .find(|folder| folder.join("cargo-deb").is_file())
}

fn script(path: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(path).current_dir(top());
    command
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    both.concat()
}
