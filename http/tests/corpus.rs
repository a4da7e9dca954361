//! The kept corpus of the fuzz targets, run without a fuzzer.

mod common;

use std::fs;
use std::path::PathBuf;

use common::harness;

fn run(target: &str, harness: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("the corpus is kept in the repository");
    let mut count = 0;
    for file in files {
        harness(&fs::read(file.expect("a readable folder").path()).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn connection() {
    run("connection", harness::connection);
}

#[test]
fn head() {
    run("head", harness::head);
}

#[test]
fn chunked() {
    run("chunked", harness::chunked);
}
