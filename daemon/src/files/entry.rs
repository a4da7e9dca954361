//! A file as it is offered: itself, its precompressed variants, and what is said of each.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ember_http::coding::Coding;
use ember_http::conditional::Validators;
use ember_http::date;

use super::content::Content;
use super::place::Place;
use super::rules::Rules;
use super::tree::{Node, Stamp, Tree, Wait};

/// A header field of a reply.
pub(super) type Field = (Cow<'static, str>, Cow<'static, str>);

/// What a place leads to.
#[derive(Debug)]
pub(super) enum Found {
    File(Box<Entry>),
    /// A directory asked for without its slash.
    Slash,
    /// A directory without an index, to be listed.
    Listing,
}

/// A file with its variants.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) plain: Representation,
    /// Precompressed variants, in the order in which they are preferred.
    pub(super) coded: Vec<Representation>,
    /// The codings of those, for negotiation.
    pub(super) codings: Vec<Coding>,
    /// All that it was made of: if one of these changes, it must be made anew.
    pub(super) watched: Arc<[Watched]>,
}

/// One form of a file.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) content: Content,
    pub(super) len: u64,
    pub(super) etag: String,
    modified: Option<u64>,
    pub(super) content_type: String,
    /// What goes with 200 and 206.
    pub(super) fields: Vec<Field>,
    /// What goes with 304 (RFC 9110 section 15.4.5).
    pub(super) cache_fields: Vec<Field>,
    stamp: Stamp,
}

/// A path and what was there.
#[derive(Debug)]
pub(super) struct Watched {
    path: String,
    stamp: Option<Stamp>,
}

impl Found {
    /// Finds out what a place leads to.
    ///
    /// # Errors
    /// Of the system; `WouldBlock` where a disk would have to be waited for.
    pub(super) fn of(tree: &Tree, rules: &Rules, place: &Place, wait: Wait) -> io::Result<Found> {
        if !place.is_directory {
            return match tree.node(&place.path, wait)? {
                Node::Directory => Ok(Found::Slash),
                Node::File(file, stamp) => {
                    let seen = Seen { tree, rules, wait, watched: Vec::new() };
                    seen.entry(&place.path, file, stamp)
                }
            };
        }
        let mut seen = Seen { tree, rules, wait, watched: Vec::new() };
        for name in &rules.index {
            let path = place.join(name);
            match tree.node(&path, wait) {
                Ok(Node::File(file, stamp)) => {
                    return seen.entry(&path, file, stamp);
                }
                Ok(Node::Directory) => {}
                Err(error) if is_missing(&error) => {
                    seen.watched.push(Watched { path, stamp: None })
                }
                Err(error) => return Err(error),
            }
        }
        match tree.node(&place.path, wait)? {
            Node::Directory if rules.listing => Ok(Found::Listing),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// What was looked at on the way to an entry.
struct Seen<'a> {
    tree: &'a Tree,
    rules: &'a Rules,
    wait: Wait,
    watched: Vec<Watched>,
}

impl Seen<'_> {
    fn entry(mut self, path: &str, file: std::fs::File, stamp: Stamp) -> io::Result<Found> {
        self.watched.push(Watched { path: path.to_owned(), stamp: Some(stamp) });
        let mut variants = Vec::new();
        for (coding, extension) in &self.rules.precompressed {
            let path = format!("{path}.{extension}");
            match self.tree.node(&path, self.wait) {
                Ok(Node::File(file, stamp)) => {
                    self.watched.push(Watched { path, stamp: Some(stamp) });
                    variants.push((*coding, file, stamp));
                }
                Ok(Node::Directory) => {}
                Err(error) if is_missing(&error) => {
                    self.watched.push(Watched { path, stamp: None });
                }
                Err(error) => return Err(error),
            }
        }
        let varies = !variants.is_empty();
        let one = |coding, file, stamp: Stamp| {
            let content = Content::of(file, &stamp, self.wait)?;
            Ok::<_, io::Error>(Representation::new(
                self.rules, path, content, stamp, coding, varies,
            ))
        };
        let plain = one(Coding::Identity, file, stamp)?;
        let codings = variants.iter().map(|(coding, ..)| *coding).collect();
        let coded: io::Result<_> =
            variants.into_iter().map(|(coding, file, stamp)| one(coding, file, stamp)).collect();
        let entry = Entry { plain, coded: coded?, codings, watched: self.watched.into() };
        Ok(Found::File(Box::new(entry)))
    }
}

impl Watched {
    /// Whether all is still as it was.
    ///
    /// # Errors
    /// `WouldBlock` where a disk would have to be waited for.
    pub(super) fn are_as_they_were(all: &[Watched], tree: &Tree, wait: Wait) -> io::Result<bool> {
        for Watched { path, stamp } in all {
            let now = match tree.stamp(path, wait) {
                Ok(now) => Some(now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => None,
            };
            if now != *stamp {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Entry {
    /// One of its forms: the plain one first, then those that are coded.
    pub(super) fn form(&self, number: usize) -> &Representation {
        number.checked_sub(1).map_or(&self.plain, |coded| &self.coded[coded])
    }

    /// Bytes of memory that it takes, roughly.
    pub(super) fn memory(&self) -> usize {
        let all = std::iter::once(&self.plain).chain(&self.coded);
        all.map(|one| size_of::<Representation>() + 512 + one.content.memory()).sum()
    }
}

impl Representation {
    fn new(
        rules: &Rules,
        path: &str,
        content: Content,
        stamp: Stamp,
        coding: Coding,
        varies: bool,
    ) -> Representation {
        let etag = etag(&stamp, coding);
        let modified = last_modified(&stamp);
        let content_type = rules.content_type(path);
        let mut cache_fields: Vec<Field> = vec![("ETag".into(), etag.clone().into())];
        if let Some(cache_control) = rules.cache_control(path) {
            cache_fields.push(("Cache-Control".into(), cache_control.to_owned().into()));
        }
        if varies {
            cache_fields.push(("Vary".into(), "Accept-Encoding".into()));
        }
        let mut fields: Vec<Field> = vec![("Content-Type".into(), content_type.clone().into())];
        if coding != Coding::Identity {
            fields.push(("Content-Encoding".into(), coding.as_str().into()));
        }
        if let Some(modified) = modified {
            let text = String::from_utf8_lossy(&date::format(modified)).into_owned();
            fields.push(("Last-Modified".into(), text.into()));
        }
        fields.push(("Accept-Ranges".into(), "bytes".into()));
        fields.extend(cache_fields.iter().cloned());
        let more = rules.headers.iter();
        fields.extend(more.map(|(name, value)| (name.clone().into(), value.clone().into())));
        let len = stamp.len;
        Representation { content, len, etag, modified, content_type, fields, cache_fields, stamp }
    }

    /// What conditions are held against.
    pub(super) fn validators(&self) -> Validators<'_> {
        Validators { etag: Some(&self.etag), last_modified: self.modified }
    }

    /// Whether the file is as it was when it was opened. What lies in memory always is.
    pub(super) fn is_unchanged(&self) -> bool {
        let now = self.content.file().map(Stamp::of_file);
        now.is_none_or(|now| {
            now.is_ok_and(|now| (now.len, now.modified) == (self.len, self.stamp.modified))
        })
    }

    /// Whether the file still has so many bytes.
    pub(super) fn reaches(&self, end: u64) -> bool {
        let now = self.content.file().map(Stamp::of_file);
        now.is_none_or(|now| now.is_ok_and(|now| now.len >= end))
    }
}

/// Made of what changes with the content, the same on every machine that has the same file. The
/// codings of one content are different representations, so their tags differ (RFC 9110 section
/// 8.8.3.3).
fn etag(stamp: &Stamp, coding: Coding) -> String {
    let (seconds, nanos) = stamp.modified;
    match coding {
        Coding::Identity => format!("\"{seconds:x}-{nanos:x}-{:x}\"", stamp.len),
        coding => format!("\"{seconds:x}-{nanos:x}-{:x}-{}\"", stamp.len, coding.as_str()),
    }
}

/// A date in the future is no date of a change (RFC 9110 section 8.8.2.1), nor is one before 1970.
fn last_modified(stamp: &Stamp) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    u64::try_from(stamp.modified.0).ok().filter(|&modified| modified <= now)
}

/// Whether there is nothing to serve. A link that leads out or is not followed is as if it were not
/// there: what it leads to is nobody's business.
pub(super) fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::NAMETOOLONG];
    error.kind() == io::ErrorKind::NotFound
        || missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
