//! What was there before: written ahead of every change, so that a crash at any moment leaves
//! all that revert needs.
//!
//! One JSON record a line, appended and synced. The first old value of a knob is the one that
//! counts: a later apply finds our own value there and must not take it for the operator's.
//! Another boot makes a journal void, for the kernel's state went with the old one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::target::Target;

/// The journal's file in the state directory.
const JOURNAL: &str = "tune.journal";
/// The lock beside it: who holds it may change the host.
const LOCK: &str = "tune.lock";
/// The layout of the records.
const VERSION: u32 = 1;

/// A record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub enum Record {
    /// The first line.
    Begin {
        /// Layout of the records.
        version: u32,
        /// The boot whose state this is.
        boot: String,
        /// The network namespace whose state this is.
        netns: String,
    },
    /// A value that a change to come may disturb, though it is not itself written.
    Capture {
        /// Number of the record.
        seq: u64,
        /// The knob.
        target: Target,
        /// Its value before.
        old: String,
    },
    /// A change that is about to be made.
    Intent {
        /// Number of the record.
        seq: u64,
        /// The knob.
        target: Target,
        /// Its value before.
        old: String,
        /// Its value to come.
        new: String,
    },
    /// What became of it.
    Result {
        /// Number of the intent.
        seq: u64,
        /// How it went.
        outcome: Outcome,
    },
    /// A knob was put back by a revert.
    Reverted {
        /// The knob.
        target: Target,
    },
}

/// How a change went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It reads back as written.
    Done,
    /// It reads back as something else.
    Adjusted(String),
    /// It was refused, and why.
    Refused(String),
}

/// What the journal knows of one knob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The knob.
    pub target: Target,
    /// The value before anything of ours.
    pub old: String,
    /// Every value that it may have by our doing.
    pub ours: Vec<String>,
    /// Whether it was captured before the queues were made anew.
    pub captured: bool,
    /// How its last change went; none: not known, since we were cut off.
    pub outcome: Option<Outcome>,
    /// Whether a revert has put it back.
    pub reverted: bool,
}

/// A journal that is open for writing, and the lock.
#[derive(Debug)]
pub struct Journal {
    file: File,
    directory: PathBuf,
    contents: Contents,
    _lock: Flock<File>,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    boot: String,
    netns: String,
    seq: u64,
    order: Vec<String>,
    entries: BTreeMap<String, Entry>,
}

/// Why the journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// Another process is tuning this host.
    Locked(PathBuf),
    /// It belongs to another network namespace.
    OtherNamespace(PathBuf),
    /// A record, not the last one, cannot be read.
    Damaged(PathBuf, usize),
    /// The file system said no.
    Io(PathBuf, io::Error),
}

impl Journal {
    /// Takes the lock and opens the journal of this boot, or begins one.
    ///
    /// # Errors
    /// Where another holds the lock, or the journal is not of this network namespace.
    pub fn open(host: &dyn Host, directory: &Path) -> Result<Journal, JournalError> {
        let path = directory.join(JOURNAL);
        let fail = |error| JournalError::Io(path.clone(), error);
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(fail)?;
        let lock = lock(directory)?;
        let begun = read(&path)?;
        let here = identity(host).map_err(fail)?;
        let contents = match begun {
            Some(contents) if contents.boot == here.boot => {
                if contents.netns != here.netns {
                    return Err(JournalError::OtherNamespace(path));
                }
                Some(contents)
            }
            _ => None,
        };
        let fresh = contents.is_none();
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        if fresh {
            // Void: of an earlier boot, or cut off before it began.
            let _ = fs::remove_file(&path);
        } else {
            cut_torn_line(&path).map_err(fail)?;
        }
        let file = options.open(&path).map_err(fail)?;
        let contents = contents.unwrap_or(here);
        let mut journal =
            Journal { file, directory: directory.to_path_buf(), contents, _lock: lock };
        if fresh {
            let (boot, netns) = (journal.contents.boot.clone(), journal.contents.netns.clone());
            journal.append(&Record::Begin { version: VERSION, boot, netns }).map_err(fail)?;
            // The name has to last as well as the contents.
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        }
        Ok(journal)
    }

    /// What it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Writes down values that a change to come may disturb.
    ///
    /// # Errors
    /// Then nothing may be changed.
    pub fn capture(&mut self, values: Vec<(Target, String)>) -> io::Result<()> {
        for (target, old) in values {
            if self.contents.entries.contains_key(&target.key()) {
                continue;
            }
            let seq = self.contents.seq + 1;
            self.write(&Record::Capture { seq, target, old })?;
        }
        self.file.sync_data()
    }

    /// Writes down a change that is about to be made, and returns its number.
    ///
    /// # Errors
    /// Then it must not be made.
    pub fn intend(&mut self, target: &Target, old: &str, new: &str) -> io::Result<u64> {
        let seq = self.contents.seq + 1;
        let (target, old, new) = (target.clone(), old.to_string(), new.to_string());
        self.append(&Record::Intent { seq, target, old, new })?;
        Ok(seq)
    }

    /// Writes down how the change went.
    ///
    /// # Errors
    /// Then the change stands, and revert will still find its intent.
    pub fn conclude(&mut self, seq: u64, outcome: Outcome) -> io::Result<()> {
        self.append(&Record::Result { seq, outcome })
    }

    /// Writes down that a knob was put back.
    ///
    /// # Errors
    /// Then a further revert will find it put back already.
    pub fn reverted(&mut self, target: &Target) -> io::Result<()> {
        self.append(&Record::Reverted { target: target.clone() })
    }

    /// Ends the journal: all that it knew of has been put back.
    ///
    /// # Errors
    /// Then a further revert will find everything put back already.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.directory.join(JOURNAL))?;
        File::open(&self.directory)?.sync_all()
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        self.write(record)?;
        self.file.sync_data()
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.contents.take(record.clone());
        Ok(())
    }
}

impl Contents {
    /// Reads the journal of this boot without the lock; none where there is none.
    ///
    /// # Errors
    /// Where it is damaged, cannot be read, or is of another network namespace.
    pub fn look(host: &dyn Host, directory: &Path) -> Result<Option<Contents>, JournalError> {
        let path = directory.join(JOURNAL);
        let here = identity(host).map_err(|error| JournalError::Io(path.clone(), error))?;
        match read(&path)?.filter(|found| found.boot == here.boot) {
            Some(found) if found.netns != here.netns => Err(JournalError::OtherNamespace(path)),
            found => Ok(found),
        }
    }

    /// Its knobs in the order in which they were first touched.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.order.iter().filter_map(|key| self.entries.get(key))
    }

    /// What it knows of a knob.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The change that was cut off: an intent without a result.
    pub fn unfinished(&self) -> Option<&Entry> {
        self.entries().find(|entry| !entry.ours.is_empty() && entry.outcome.is_none())
    }

    /// Whether a revert has put some knobs back and not all.
    pub fn half_reverted(&self) -> bool {
        self.entries.values().any(|entry| entry.reverted)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Begin { boot, netns, .. } => (self.boot, self.netns) = (boot, netns),
            Record::Capture { seq, target, old } => {
                self.seq = seq;
                self.entry_of(target, old).captured = true;
            }
            Record::Intent { seq, target, old, new } => {
                self.seq = seq;
                let entry = self.entry_of(target, old);
                entry.ours.push(new);
                entry.outcome = None;
                entry.reverted = false;
            }
            Record::Result { outcome, .. } => {
                // Results follow their intents: the process does one change at a time.
                let open = self.entries.values_mut();
                let open = open.filter(|entry| !entry.ours.is_empty() && entry.outcome.is_none());
                for entry in open {
                    if let Outcome::Adjusted(value) = &outcome {
                        entry.ours.push(value.clone());
                    }
                    entry.outcome = Some(outcome.clone());
                }
            }
            Record::Reverted { target } => {
                if let Some(entry) = self.entries.get_mut(&target.key()) {
                    entry.reverted = true;
                }
            }
        }
    }

    fn entry_of(&mut self, target: Target, old: String) -> &mut Entry {
        let key = target.key();
        if !self.entries.contains_key(&key) {
            self.order.push(key.clone());
        }
        self.entries.entry(key).or_insert_with(|| Entry {
            target,
            old,
            ours: Vec::new(),
            captured: false,
            outcome: None,
            reverted: false,
        })
    }
}

/// Takes the lock that tuning and reverting share.
fn lock(directory: &Path) -> Result<Flock<File>, JournalError> {
    let path = directory.join(LOCK);
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = open.map_err(|error| JournalError::Io(path.clone(), error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(JournalError::Locked(path)),
        Err((_, error)) => Err(JournalError::Io(path, error.into())),
    }
}

/// What the journal of this moment would begin with.
fn identity(host: &dyn Host) -> io::Result<Contents> {
    let boot = host.read("/proc/sys/kernel/random/boot_id")?;
    // The link's text names the namespace; where it cannot be read there is but one.
    let netns = host.real("/proc/self/ns/net").unwrap_or_default();
    let netns = netns.rsplit('/').next().unwrap_or_default().to_string();
    Ok(Contents { boot, netns, ..Contents::default() })
}

/// Reads a journal; none where there is none, or not even its first line is whole.
fn read(path: &Path) -> Result<Option<Contents>, JournalError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::Io(path.to_path_buf(), error)),
    };
    let mut contents = Contents::default();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        // A line without its end was cut off as it was written: what it tells of was not done.
        if !line.ends_with('\n') {
            break;
        }
        match serde_json::from_str(line) {
            Ok(record) => contents.take(record),
            Err(_) => return Err(JournalError::Damaged(path.to_path_buf(), number + 1)),
        }
    }
    Ok((!contents.boot.is_empty()).then_some(contents))
}

fn cut_torn_line(path: &Path) -> io::Result<()> {
    let text = fs::read(path)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    Ok(())
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JournalError::Locked(path) => {
                write!(f, "another emberd is tuning this host ({} is locked)", path.display())
            }
            JournalError::OtherNamespace(path) => write!(
                f,
                "{} is of another network namespace: run this there, or set EMBERD_STATE_DIR to \
                 keep this one's state apart",
                path.display()
            ),
            JournalError::Damaged(path, line) => write!(
                f,
                "{}, line {line}: not a record; what it says before that line can still be read \
                 by people: put those values back by hand and remove the file",
                path.display()
            ),
            JournalError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for JournalError {}
