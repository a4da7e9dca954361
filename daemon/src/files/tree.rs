//! Opening files beneath a root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;

/// A directory that nothing leads out of (openat2, Linux 5.6).
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    resolve: ResolveFlags,
}

/// Whether a disk may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Only what the kernel has in memory: `WouldBlock` otherwise (Linux 5.12).
    Never,
    /// As long as it takes: not on a thread that has a ring to serve.
    Allowed,
}

/// What is served of a tree.
#[derive(Debug)]
pub(super) enum Node {
    File(File, Stamp),
    Directory,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) len: u64,
    /// Seconds and nanoseconds of the last change to the content.
    pub(super) modified: (i64, u32),
    /// The same, of the last change to the inode.
    changed: (i64, u32),
}

impl Tree {
    /// Opens the root, which may itself be reached by symbolic links.
    ///
    /// # Errors
    /// When it is no directory that can be read.
    pub(super) fn open(root: &Path, symlinks: bool) -> io::Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(root, flags, Mode::empty())?;
        let links = if symlinks { ResolveFlags::NO_MAGICLINKS } else { ResolveFlags::NO_SYMLINKS };
        Ok(Tree { root, resolve: ResolveFlags::BENEATH | links })
    }

    /// Opens a file, or finds a directory; anything else is `NotFound`.
    ///
    /// # Errors
    /// Of the system; `WouldBlock` where a disk would have to be waited for.
    pub(super) fn node(&self, path: &str, wait: Wait) -> io::Result<Node> {
        // Without O_PATH, opening a device could do something and opening a FIFO could wait: look
        // first. What is put there between the two calls is opened without waiting, and refused.
        let found = self.stat(path, wait)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Node::Directory),
            _ => return Err(Errno::NOENT.into()),
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.at(path, flags, wait)?;
        let opened = fstat(&file)?;
        if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
            return Err(Errno::NOENT.into());
        }
        Ok(Node::File(file.into(), Stamp::of(&opened)))
    }

    /// What a regular file is like; anything else is `NotFound`.
    ///
    /// # Errors
    /// As [`Tree::node`].
    pub(super) fn stamp(&self, path: &str, wait: Wait) -> io::Result<Stamp> {
        let found = self.stat(path, wait)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok(Stamp::of(&found)),
            _ => Err(Errno::NOENT.into()),
        }
    }

    /// What there is, whatever it is.
    ///
    /// # Errors
    /// As [`Tree::node`].
    pub(super) fn stat(&self, path: &str, wait: Wait) -> io::Result<Stat> {
        Ok(fstat(self.at(path, OFlags::PATH, wait)?)?)
    }

    /// Opens a directory for reading its entries.
    ///
    /// # Errors
    /// As [`Tree::node`].
    pub(super) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.at(path, OFlags::RDONLY | OFlags::DIRECTORY, Wait::Allowed)
    }

    fn at(&self, path: &str, flags: OFlags, wait: Wait) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = match wait {
            Wait::Never => self.resolve | ResolveFlags::CACHED,
            Wait::Allowed => self.resolve,
        };
        let flags = flags | OFlags::CLOEXEC;
        loop {
            match openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve) {
                // A rename somewhere on the system came between (openat2(2)).
                Err(Errno::AGAIN) if wait == Wait::Allowed => {}
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl Stamp {
    #[expect(clippy::useless_conversion, reason = "the widths differ between architectures")]
    fn of(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
            len: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime.into(), stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime.into(), stat.st_ctime_nsec as u32),
        }
    }

    /// Of an open file.
    ///
    /// # Errors
    /// Of the system.
    pub(super) fn of_file(file: &File) -> io::Result<Stamp> {
        Ok(Stamp::of(&fstat(file)?))
    }
}

/// Whether a root can be served from: for the check of a config.
///
/// # Errors
/// When it is no directory that can be opened.
pub(crate) fn is_directory(root: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, root, flags, Mode::empty()).map(drop).map_err(io::Error::from)
}

/// Whether there is one file to serve: for the check of a config.
///
/// # Errors
/// When it is no regular file, or a link where those are not followed.
pub(crate) fn is_file(path: &Path, symlinks: bool) -> io::Result<()> {
    let found = if symlinks { rustix::fs::stat(path)? } else { rustix::fs::lstat(path)? };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => {
            Err(io::Error::other("it is a symbolic link, and `symlinks` is false"))
        }
        _ => Err(io::Error::other("it is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::sync::LazyLock;

    use nix::sys::stat::Mode as Permissions;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;

    use super::*;

    fn found(tree: &Tree, path: &str) -> Result<&'static str, io::ErrorKind> {
        match tree.node(path, Wait::Allowed) {
            Ok(Node::File(..)) => Ok("file"),
            Ok(Node::Directory) => Ok("directory"),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn nothing_leads_out_and_nothing_strange_is_opened() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "text").unwrap();
        symlink("sub/file", root.join("inside")).unwrap();
        symlink(outside.path().join("secret"), root.join("absolute")).unwrap();
        symlink("../../etc/passwd", root.join("sub/climbing")).unwrap();
        symlink(outside.path(), root.join("folder")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        symlink("/dev/null", root.join("device")).unwrap();
        mkfifo(&root.join("fifo"), Permissions::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();

        for symlinks in [false, true] {
            let tree = Tree::open(root, symlinks).unwrap();
            assert_eq!(found(&tree, "sub/file"), Ok("file"));
            assert_eq!(found(&tree, "sub"), Ok("directory"));
            assert_eq!(found(&tree, ""), Ok("directory"));
            for out in [
                "absolute",
                "sub/climbing",
                "folder/secret",
                "magic",
                "device",
                "fifo",
                "socket",
                "..",
                "../",
                "sub/../../x",
                "/etc/passwd",
                "missing",
                "sub/file/x",
            ] {
                assert!(found(&tree, out).is_err(), "{out} with symlinks {symlinks}");
            }
            assert_eq!(found(&tree, "inside").is_ok(), symlinks);
        }
    }

    #[test]
    fn a_stamp_tells_of_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "one").unwrap();
        let tree = Tree::open(dir.path(), false).unwrap();
        let first = tree.stamp("file", Wait::Allowed).unwrap();
        assert_eq!(tree.stamp("file", Wait::Allowed).unwrap(), first);
        let other = dir.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        let second = tree.stamp("file", Wait::Allowed).unwrap();
        assert_ne!(second, first);
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(2).unwrap();
        assert_ne!(tree.stamp("file", Wait::Allowed).unwrap(), second);
    }

    proptest! {
        /// What is opened lies in the root, by the C library's own word, whatever links say.
        #[test]
        fn whatever_is_opened_lies_inside(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "b", "file", "up", "down", "self", "out", "home", "..", ".", "", "fifo",
                ]),
                0..8,
            ),
        ) {
            let tree = labyrinth();
            let path = parts.join("/");
            let opened = tree.1.node(&path, Wait::Allowed);
            let real = fs::canonicalize(tree.0.path().join(&path));
            let inside = real.as_ref().is_ok_and(|real| real.starts_with(tree.0.path()));
            if let Ok(Node::File(_, stamp)) = opened {
                prop_assert!(inside && !path.starts_with('/'), "{path} is {real:?}");
                let metadata = fs::metadata(real.unwrap()).unwrap();
                prop_assert_eq!(stamp.inode, metadata.ino());
            } else if inside && real.is_ok_and(|real| real.is_file()) {
                // Refused though it ends inside: only where the way leads over the outside.
                let climbs = ["..", "out", "home", "up"].iter().any(|part| parts.contains(part));
                prop_assert!(climbs || path.starts_with('/'), "{path}");
            }
        }
    }

    /// A root full of links.
    fn labyrinth() -> &'static (tempfile::TempDir, Tree) {
        static MADE: LazyLock<(tempfile::TempDir, Tree)> = LazyLock::new(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            fs::create_dir_all(at("a/b")).unwrap();
            fs::create_dir(at("b")).unwrap();
            for file in ["file", "a/file", "a/b/file"] {
                fs::write(at(file), file).unwrap();
            }
            for (to, name) in [
                ("..", "a/up"),
                ("../..", "a/b/up"),
                ("a/b", "down"),
                ("../a/b", "b/down"),
                (".", "self"),
                (".", "a/self"),
                ("..", "out"),
                ("../../..", "a/b/out"),
            ] {
                symlink(to, at(name)).unwrap();
            }
            symlink(dir.path(), at("home")).unwrap();
            mkfifo(&at("fifo"), Permissions::S_IRWXU).unwrap();
            let tree = Tree::open(dir.path(), true).unwrap();
            (dir, tree)
        });
        &MADE
    }
}
