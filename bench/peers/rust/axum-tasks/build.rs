//! Tells the program the version of the library that it is linked with.

use std::fs;

fn main() {
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let lock = fs::read_to_string("../Cargo.lock").unwrap_or_default();
    let version = lock
        .split("[[package]]")
        .find_map(|package| {
            let rest = package.trim_start().strip_prefix("name = \"axum\"\nversion = \"")?;
            rest.split('"').next()
        })
        .unwrap_or("of unknown version");
    println!("cargo::rustc-env=PEER_VERSION={version}");
}
