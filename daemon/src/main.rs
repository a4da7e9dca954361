//! The `emberd` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    emberd::main()
}
