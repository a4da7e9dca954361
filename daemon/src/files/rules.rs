//! What the config says of the files of one route, ready to be asked.

use ember_http::coding::Coding;
use glob::Pattern;

use crate::config;

/// How files are found and what is said of them.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) index: Vec<String>,
    pub(super) listing: bool,
    pub(super) dotfiles: bool,
    /// Codings with the extensions of their files, the most wanted first.
    pub(super) precompressed: Vec<(Coding, &'static str)>,
    pub(super) headers: Vec<(String, String)>,
    content_types: Vec<(String, String)>,
    default_type: String,
    charset: Option<String>,
    cache_control: Vec<(Pattern, String)>,
}

impl Rules {
    pub(super) fn of(files: &config::Files) -> Rules {
        // What is no pattern was refused with the config.
        let pattern = |text: &String| Pattern::new(text).ok();
        let rules = files.cache_control.iter();
        Rules {
            index: files.index.clone(),
            listing: files.listing,
            dotfiles: files.dotfiles,
            precompressed: files.precompressed.iter().map(|one| one.coding()).collect(),
            headers: files.headers.clone(),
            content_types: files.content_types.clone(),
            default_type: files.default_type.clone(),
            charset: files.charset.clone(),
            cache_control: rules.filter_map(|(of, is)| Some((pattern(of)?, is.clone()))).collect(),
        }
    }

    /// The media type of a file by its extension.
    pub(super) fn content_type(&self, path: &str) -> String {
        let name = path.rsplit('/').next().unwrap_or_default();
        let Some((_, extension)) = name.rsplit_once('.') else { return self.default_type.clone() };
        let own = |(of, _): &&(String, String)| of.eq_ignore_ascii_case(extension);
        if let Some((_, own)) = self.content_types.iter().find(own) {
            return own.clone();
        }
        match (mime_guess::from_ext(extension).first_raw(), &self.charset) {
            (Some(text), Some(charset)) if text.starts_with("text/") => {
                format!("{text}; charset={charset}")
            }
            (Some(known), _) => known.to_owned(),
            (None, _) => self.default_type.clone(),
        }
    }

    /// The value of Cache-Control by the first pattern that matches. A pattern without a slash is
    /// held against the name, one with a slash against the whole path.
    pub(super) fn cache_control(&self, path: &str) -> Option<&str> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let fits = |pattern: &Pattern| {
            let text = pattern.as_str();
            match text.strip_prefix('/') {
                Some(_) => pattern.matches(&format!("/{path}")),
                None if text.contains('/') => pattern.matches(path),
                None => pattern.matches(name),
            }
        };
        self.cache_control
            .iter()
            .find(|(pattern, _)| fits(pattern))
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Rules::of(&config::Files {
            content_types: vec![pair(("wasm", "application/x-own"))],
            cache_control: [
                ("*.html", "no-cache"),
                ("/immutable/*", "max-age=31536000, immutable"),
                ("fonts/*.woff2", "max-age=600"),
                ("*", "max-age=60"),
            ]
            .map(pair)
            .to_vec(),
            ..config::Files::of_root("/srv")
        })
    }

    #[test]
    fn types_by_extension() {
        let rules = rules();
        for (path, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/STYLE.CSS", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("data.json", "application/json"),
            ("logo.svg", "image/svg+xml"),
            ("app.wasm", "application/x-own"),
            ("font.woff2", "font/woff2"),
            ("a.b/none", "application/octet-stream"),
            ("x.unheard-of", "application/octet-stream"),
        ] {
            assert_eq!(rules.content_type(path), expected, "{path}");
        }
    }

    #[test]
    fn the_first_cache_rule_that_fits_holds() {
        let rules = rules();
        for (path, expected) in [
            ("index.html", "no-cache"),
            ("immutable/index.html", "no-cache"),
            ("immutable/app.1234.js", "max-age=31536000, immutable"),
            ("not/immutable/app.js", "max-age=60"),
            ("fonts/a.woff2", "max-age=600"),
            ("app.js", "max-age=60"),
        ] {
            assert_eq!(rules.cache_control(path), Some(expected), "{path}");
        }
        assert_eq!(Rules::of(&config::Files::of_root("/srv")).cache_control("a"), None);
    }
}
