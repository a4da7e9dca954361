//! Taking it back: backwards, and only what still holds our value.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::host::Host;
use crate::journal::{Contents, Entry, Journal, JournalError};

/// What revert did with a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Its key.
    pub key: String,
    /// The value that it had before anything of ours.
    pub old: String,
    /// What was done.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What was done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "detail", rename_all = "lowercase")]
pub enum Verdict {
    /// The old value was written and reads back.
    Restored,
    /// It had the old value.
    Already,
    /// Someone else has given it this value, and it was left alone.
    Foreign(String),
    /// The device, or what it belongs to, is gone.
    Gone(String),
    /// It could not be put back, and why; the journal is kept for another try.
    Failed(String),
}

/// Takes back what the journal of this boot knows of; an empty answer where there is none.
///
/// # Errors
/// Where the journal cannot be read or locked.
pub fn revert(host: &dyn Host, directory: &Path) -> Result<Vec<Taken>, JournalError> {
    if Contents::look(host, directory)?.is_none() {
        return Ok(Vec::new());
    }
    let mut journal = Journal::open(host, directory)?;
    let entries: Vec<Entry> = journal.contents().entries().cloned().collect();
    // All are judged before any is touched: putting channels back makes queues anew, and with
    // them values that are neither old nor ours.
    let judged: Vec<(Entry, Judgement)> =
        entries.into_iter().map(|entry| (entry.clone(), judge(host, &entry))).collect();
    let mut taken = Vec::new();
    for (entry, judgement) in judged.into_iter().rev() {
        let verdict = match judgement {
            Judgement::Foreign(value) => Verdict::Foreign(value),
            Judgement::Ours => restore(host, &mut journal, &entry),
        };
        taken.push(Taken { key: entry.target.key(), old: entry.old.clone(), verdict });
    }
    let failed = taken.iter().any(|taken| matches!(taken.verdict, Verdict::Failed(_)));
    if !failed {
        host.step("remove the journal");
        let path = directory.to_path_buf();
        journal.remove().map_err(|error| JournalError::Io(path, error))?;
    }
    Ok(taken)
}

enum Judgement {
    Ours,
    Foreign(String),
}

/// A captured knob that is not there now went with its queue, and will come back with it.
fn judge(host: &dyn Host, entry: &Entry) -> Judgement {
    match entry.target.read(host) {
        Ok(value) => {
            let known = value == entry.old || entry.ours.contains(&value);
            // What was only captured has whatever value the driver gave it.
            if known || entry.ours.is_empty() { Judgement::Ours } else { Judgement::Foreign(value) }
        }
        Err(_) => Judgement::Ours,
    }
}

fn restore(host: &dyn Host, journal: &mut Journal, entry: &Entry) -> Verdict {
    match entry.target.read(host) {
        Ok(value) if value == entry.old => return Verdict::Already,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Verdict::Gone(error.to_string());
        }
        Err(error) => return Verdict::Failed(format!("cannot be read: {error}")),
    }
    host.step("restore");
    if let Err(error) = entry.target.write(host, &entry.old) {
        // What was never ours to write, as a managed interrupt, is not ours to fail on.
        return match entry.ours.is_empty() {
            true => Verdict::Foreign(format!("kept by the driver or kernel: {error}")),
            false => Verdict::Failed(error.to_string()),
        };
    }
    host.step("note what was restored");
    match entry.target.read(host) {
        Ok(value) if value == entry.old => match journal.reverted(&entry.target) {
            Ok(()) => Verdict::Restored,
            Err(error) => Verdict::Failed(format!("restored, but not noted: {error}")),
        },
        Ok(value) => Verdict::Failed(format!("reads back as {value}")),
        Err(error) => Verdict::Failed(format!("cannot be read back: {error}")),
    }
}
