//! Files and ports out of reach (Landlock, Linux 5.13; ports 6.7).

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};

use crate::config::Config;

/// The newest kernel interface that is asked for; older kernels give what they have.
const INTERFACE: ABI = ABI::V6;

/// What a running worker reads besides the configured roots: its own and its siblings' numbers
/// for the process metrics, and what the C library looks up when threads start.
const READ_ALWAYS: [&str; 3] = ["/proc", "/sys/devices/system", "/dev/null"];

/// Leaves the calling thread, and those it starts, only the files that serving this config
/// needs, and no port to bind; says what holds.
pub(super) fn fence_off(config: &Config) -> io::Result<String> {
    let paths = READ_ALWAYS.iter().map(PathBuf::from).chain(roots(config));
    let paths: Vec<PathBuf> = paths.filter(|path| path.exists()).collect();
    let status = restrict(&paths).map_err(io::Error::other)?;
    Ok(match status {
        RulesetStatus::FullyEnforced => "Landlock".to_owned(),
        RulesetStatus::PartiallyEnforced => "Landlock as far as this kernel has it".to_owned(),
        RulesetStatus::NotEnforced => "no Landlock: this kernel has none".to_owned(),
    })
}

/// The trees that a config serves from.
fn roots(_config: &Config) -> impl Iterator<Item = PathBuf> {
    std::iter::empty()
}

fn restrict(readable: &[impl AsRef<Path>]) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(INTERFACE))?
        // Workers are given their listening sockets.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(INTERFACE))?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_fenced_thread_reads_what_it_may_and_nothing_else() {
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        for folder in [&inside, &outside] {
            fs::write(folder.path().join("file"), "text").unwrap();
        }
        let (readable, hidden) = (inside.path().to_owned(), outside.path().join("file"));
        let seen = std::thread::spawn(move || {
            let status = restrict(&[&readable]).unwrap();
            let file = readable.join("file");
            (
                status,
                fs::read(&file).is_ok(),
                fs::write(&file, "x").is_ok(),
                fs::read(hidden).is_ok(),
                TcpListener::bind("127.0.0.1:0").is_ok(),
            )
        });
        let (status, read, write, hidden, bind) = seen.join().unwrap();
        assert!(read);
        match status {
            RulesetStatus::NotEnforced => println!("skipped: this kernel has no Landlock"),
            RulesetStatus::FullyEnforced => assert!(!write && !hidden && !bind),
            // Binding is fenced off from Linux 6.7 on.
            RulesetStatus::PartiallyEnforced => assert!(!write && !hidden),
        }
        assert!(fs::read(outside.path().join("file")).is_ok(), "other threads are not concerned");
    }
}
