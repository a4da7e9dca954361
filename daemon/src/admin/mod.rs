//! The pages of the admin listener that are not numbers.

use ember_http::Prepared;

/// The name of the status page in metrics.
pub(crate) const STATUS_PAGE: &str = "status";

/// The status page: one file with everything in it, which asks `/metrics` for its numbers.
const PAGE: &str = include_str!("page.html");

/// What the page may do: its own script and style, its icon, and questions to this server.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The status page as a prepared reply.
pub(crate) fn status_page() -> Prepared {
    let fields = [
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
    ];
    Prepared {
        fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Prepared::new("text/html; charset=utf-8", PAGE.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use ember_metrics::CATALOGUE;

    use super::*;

    #[test]
    fn the_page_asks_nobody_else() {
        for elsewhere in ["http:", "https:", "//cdn", "@import", "url(", "src="] {
            let found = PAGE.matches(elsewhere).count();
            // Names of the SVG namespace are no addresses that anybody asks.
            let namespaces = PAGE.matches("http://www.w3.org/2000/svg").count();
            let expected = if elsewhere == "http:" { namespaces } else { 0 };
            assert_eq!(found, expected, "{elsewhere}");
        }
        // What others say is shown as text, never as markup.
        for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!PAGE.contains(markup), "{markup}");
        }
    }

    #[test]
    fn the_page_shows_metrics_that_there_are() {
        let in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let names: Vec<&str> = PAGE
            .split(|letter| !in_name(letter))
            .filter(|word| word.starts_with("emberd_") || word.starts_with("process_"))
            .map(|word| word.trim_end_matches("_bucket"))
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(CATALOGUE.iter().any(|family| family.name == name), "{name}");
        }
    }
}
