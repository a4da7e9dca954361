//! The `emberd` program.

fn main() {}
