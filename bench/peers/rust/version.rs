//! For the peers' build scripts.

use std::fs;

/// Gives the program the version of a library that it is linked with, as `PEER_VERSION`.
pub fn tell(library: &str) {
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rerun-if-changed=../version.rs");
    let lock = fs::read_to_string("../Cargo.lock").unwrap_or_default();
    let beginning = format!("name = \"{library}\"\nversion = \"");
    let version = lock
        .split("[[package]]")
        .find_map(|package| package.trim_start().strip_prefix(&beginning)?.split('"').next())
        .unwrap_or("of unknown version");
    println!("cargo::rustc-env=PEER_VERSION={version}");
}
