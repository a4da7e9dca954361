//! `[[files]]`, typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ember_http::coding::Coding;
use serde::{Deserialize, Serialize};

use super::model::nanos;
use super::rules::Rules;

/// `[[files]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The path below which a directory is served; none: one file is.
    pub prefix: Option<String>,
    /// The path of the one file.
    pub path: Option<String>,
    /// Its name in metrics and in `routes` of a listener.
    pub name: String,
    /// The hosts that it is for; empty: all.
    pub hosts: Vec<String>,
    /// The directory.
    pub root: Option<PathBuf>,
    /// The one file.
    pub file: Option<PathBuf>,
    /// Names that stand for their directory.
    pub index: Vec<String>,
    /// Whether directories without index are listed.
    pub listing: bool,
    /// Whether symbolic links beneath the root are followed.
    pub symlinks: bool,
    /// Whether names that begin with a dot are served.
    pub dotfiles: bool,
    /// Variants of files that may lie beside them, the most wanted first.
    pub precompressed: Vec<Precompressed>,
    /// Media types by extension, besides those that are known.
    pub content_types: Vec<(String, String)>,
    /// The media type of other extensions.
    pub default_type: String,
    /// The charset that text is said to be in; none: nothing is said.
    pub charset: Option<String>,
    /// Cache-Control by pattern; the first that matches holds.
    pub cache_control: Vec<(String, String)>,
    /// More header fields, in their order.
    pub headers: Vec<(String, String)>,
    /// How long a file is served without a look whether it has changed.
    #[serde(with = "nanos")]
    pub fresh: Duration,
    /// Files that a thread keeps at hand.
    pub open_files: u32,
    /// Bytes of memory that a thread spends on them.
    pub memory: u64,
    /// What is asked of requests and done to replies.
    pub rules: Rules,
}

/// Variants of a file that lie beside it, by their extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precompressed {
    /// Zstandard.
    Zst,
    /// Brotli.
    Br,
    /// gzip.
    Gz,
}

impl Files {
    /// The pattern that it serves, and whether all below it is meant.
    #[must_use]
    pub fn route(&self) -> (&str, bool) {
        match (&self.prefix, &self.path) {
            (Some(prefix), _) => (prefix, true),
            (None, path) => (path.as_deref().unwrap_or_default(), false),
        }
    }

    /// What is served: a directory, or one.
    #[must_use]
    pub fn source(&self) -> &Path {
        self.root.as_deref().or(self.file.as_deref()).unwrap_or(Path::new(""))
    }

    /// The directory that holds what is served, and the name in it where that is one file.
    #[must_use]
    pub fn place(&self) -> (PathBuf, Option<String>) {
        match (&self.root, &self.file) {
            (Some(root), _) => (root.clone(), None),
            (None, file) => {
                let file = file.as_deref().unwrap_or(Path::new(""));
                let parent = file.parent().unwrap_or(Path::new("")).to_owned();
                let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
                (parent, Some(name.unwrap_or_default()))
            }
        }
    }

    /// A directory with everything as it is where nothing is said.
    #[cfg(test)]
    pub(crate) fn of_root(root: &str) -> Files {
        let config = format!("[[files]]\nprefix = \"/\"\nroot = \"{root}\"\n");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), config).expect("written");
        let sources = super::Sources { file: Some(file.path().into()), ..Default::default() };
        super::load(&sources).expect("a config").config.files.remove(0)
    }
}

impl Precompressed {
    /// The coding and the extension.
    #[must_use]
    pub fn coding(self) -> (Coding, &'static str) {
        match self {
            Precompressed::Zst => (Coding::Zstd, "zst"),
            Precompressed::Br => (Coding::Brotli, "br"),
            Precompressed::Gz => (Coding::Gzip, "gz"),
        }
    }
}
