//! What the kernel's tracepoints say of a thread's ring. Needs root, and nothing else of ours: a
//! test of another crate can include this file by its path.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// A trace buffer of its own, in a mount of tracefs that only this process's namespace has.
pub struct Trace {
    instance: PathBuf,
    mounted: Option<PathBuf>,
}

/// A request that was linked after another, by the names of their operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub first: String,
    pub then: String,
}

const EVENTS: [&str; 2] = ["io_uring_submit_req", "io_uring_link"];

impl Trace {
    /// Records the rings of the thread or process with this id from now on. Fails where tracefs
    /// cannot be mounted or has no io_uring events; then the driver's own accounting is all there
    /// is.
    pub fn of(pid: u32) -> io::Result<Trace> {
        let (root, mounted) = match fs::metadata("/sys/kernel/tracing/instances") {
            Ok(_) => (PathBuf::from("/sys/kernel/tracing"), None),
            Err(_) => {
                let root = mount()?;
                (root.clone(), Some(root))
            }
        };
        let name = format!("ember-{}-{pid}", std::process::id());
        let trace = Trace { instance: root.join("instances").join(name), mounted };
        fs::create_dir(&trace.instance)?;
        trace.write("set_event_pid", &pid.to_string())?;
        for event in EVENTS {
            trace.write(&format!("events/io_uring/{event}/enable"), "1")?;
        }
        trace.write("tracing_on", "1")?;
        Ok(trace)
    }

    /// All links recorded so far, in their order.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        Ok(links_in(&fs::read_to_string(self.instance.join("trace"))?))
    }

    fn write(&self, file: &str, what: &str) -> io::Result<()> {
        fs::write(self.instance.join(file), what)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.write("tracing_on", "0");
        let _ = fs::remove_dir(&self.instance);
        if let Some(root) = &self.mounted {
            let _ = Command::new("umount").arg(root).status();
            let _ = fs::remove_dir(root);
        }
    }
}

fn mount() -> io::Result<PathBuf> {
    let root = std::env::temp_dir().join(format!("ember-tracefs-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    // A namespace of this thread's own, in which nothing spreads to the machine's.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
    run(Command::new("mount").args(["-t", "tracefs", "none"]).arg(&root))?;
    Ok(root)
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

/// The trace names each request by its address as it is submitted, and links by addresses.
fn links_in(trace: &str) -> Vec<Link> {
    let mut operations: HashMap<String, String> = HashMap::new();
    let mut links = Vec::new();
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        if let Some((_, event)) = line.split_once("io_uring_submit_req: ") {
            let request = after(event, "req ");
            let operation = after(event, "opcode ");
            if let (Some(request), Some(operation)) = (request, operation) {
                operations.insert(request.to_owned(), operation.to_owned());
            }
        } else if let Some((_, event)) = line.split_once("io_uring_link: ") {
            let (request, previous) = (after(event, "request "), after(event, "linked after "));
            let named = request.and_then(|request| operations.get(request));
            let before = previous.and_then(|previous| operations.get(previous));
            if let (Some(first), Some(then)) = (before.cloned(), named.cloned()) {
                links.push(Link { first, then });
            }
        }
    }
    links
}

/// The word behind a label.
fn after<'a>(event: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = event.split_once(label)?;
    rest.split([' ', ',']).next()
}
