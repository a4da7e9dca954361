//! From the path of a request to a path below the root, before any file is touched.

/// Where a request points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Relative to the root, without a slash at either end; empty for the root itself.
    pub(super) path: String,
    /// The request's path ended with a slash: a directory is meant.
    pub(super) is_directory: bool,
}

/// What RFC 8615 keeps for well-known locations, though it begins with a dot.
const WELL_KNOWN: &str = ".well-known";

impl Place {
    /// Reads what lies below the route's prefix in a normalised path. `None` where that can name no
    /// file: an encoded slash, an empty segment, a dot segment, or a name that begins with a dot
    /// where those are not served.
    pub(super) fn of(below: &str, dotfiles: bool) -> Option<Place> {
        // An encoded slash is part of a name for the protocol, and no name of a file has one.
        if below.contains("%2F") || below.contains('\0') {
            return None;
        }
        let path = below.strip_suffix('/').unwrap_or(below);
        let is_directory = below.is_empty() || path.len() < below.len();
        if path.is_empty() {
            return below.is_empty().then(|| Place { path: String::new(), is_directory });
        }
        let path = path.replace("%25", "%");
        path.split('/')
            .all(|name| is_served(name, dotfiles))
            .then_some(Place { path, is_directory })
    }

    /// The path of something in this directory.
    pub(super) fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// Whether a name of a directory's entry may be part of a path.
pub(super) fn is_served(name: &str, dotfiles: bool) -> bool {
    let hidden = name.starts_with('.') && !dotfiles && name != WELL_KNOWN;
    !matches!(name, "" | "." | "..") && !hidden
}

#[cfg(test)]
mod tests {
    use ember_http::normalise_path;
    use proptest::prelude::*;

    use super::*;

    fn place(below: &str) -> Option<(String, bool)> {
        Place::of(below, false).map(|place| (place.path, place.is_directory))
    }

    #[test]
    fn what_can_name_a_file_and_what_cannot() {
        for (below, expected) in [
            ("", Some(("", true))),
            ("a", Some(("a", false))),
            ("a/", Some(("a", true))),
            ("a/b.txt", Some(("a/b.txt", false))),
            ("100%25.txt", Some(("100%.txt", false))),
            ("%252e%252e/x", Some(("%2e%2e/x", false))),
            (".well-known/acme", Some((".well-known/acme", false))),
            ("/", None),
            ("//", None),
            ("/etc/passwd", None),
            ("a//b", None),
            ("a//", None),
            ("a%2Fb", None),
            ("..", None),
            ("a/../b", None),
            ("./a", None),
            (".git/config", None),
            ("a/.env", None),
            ("..a", None),
        ] {
            let expected = expected.map(|(path, directory)| (path.to_owned(), directory));
            assert_eq!(place(below), expected, "{below}");
        }
        assert!(Place::of(".git/config", true).is_some());
        assert!(Place::of("..", true).is_none());
    }

    proptest! {
        /// Whatever a client sends, what comes out of both rules climbs nowhere.
        #[test]
        fn no_target_leaves_the_root(
            target in r"/([a-c./]|\.\.|%2[eEfF5]|%5[cC]|%00|//|\\|é){0,12}",
            dotfiles: bool,
        ) {
            let Some(path) = normalise_path(&target) else { return Ok(()) };
            let Some(place) = Place::of(path.trim_start_matches('/'), dotfiles) else {
                return Ok(());
            };
            prop_assert!(!place.path.starts_with('/') && !place.path.contains('\0'));
            for name in place.path.split('/').filter(|_| !place.path.is_empty()) {
                prop_assert!(!matches!(name, "" | "." | ".."), "{target} -> {place:?}");
                prop_assert!(dotfiles || !name.starts_with('.'));
            }
        }
    }
}
