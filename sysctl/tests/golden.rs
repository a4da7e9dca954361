//! The plan for each fake machine, compared with the text kept in tests/golden. To keep a new
//! text after looking at it: EMBER_BLESS=1 cargo test -p ember-sysctl --test golden.

mod common;

use std::fs;
use std::path::Path;

use common::machines;
use ember_sysctl::render;

#[test]
fn plans_are_as_kept() {
    let mut wrong = Vec::new();
    for name in machines::ALL {
        let machine = machines::machine(name);
        let text = render::human(&machine.plan());
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
        if std::env::var_os("EMBER_BLESS").is_some() {
            fs::create_dir_all(kept.parent().expect("parent")).expect("mkdir");
            fs::write(&kept, &text).expect("write");
        }
        if fs::read_to_string(&kept).unwrap_or_default() != text {
            wrong.push(name);
            println!("{name}:\n{text}");
        }
    }
    assert!(wrong.is_empty(), "plans that differ from tests/golden: {wrong:?}");
}
