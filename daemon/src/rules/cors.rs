//! Pages of other origins: who may read replies, as the Fetch standard has it ("CORS protocol").

use ember::{Request, Text};
use ember_http::{Method, Methods};

use crate::config;

/// The rules of a route.
#[derive(Debug)]
pub(crate) struct Cors {
    any: bool,
    /// Each as what stands before and behind its star; an empty end is none.
    origins: Vec<(String, Option<String>)>,
    methods: String,
    headers: String,
    expose: String,
    credentials: bool,
    max_age: String,
}

/// What a request says of where it comes from.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its origin, where that is one that may ask.
    origin: Option<String>,
    preflight: bool,
}

impl Cors {
    pub(crate) fn new(config: &config::Cors, methods: Methods) -> Cors {
        let methods = match config.methods.as_slice() {
            [] => methods.allow(),
            named => config::methods(named).allow(),
        };
        let split = |origin: &String| match origin.split_once('*') {
            Some((before, behind)) => (before.to_owned(), Some(behind.to_owned())),
            None => (origin.clone(), None),
        };
        Cors {
            any: config.origins.iter().any(|origin| origin == "*"),
            origins: config.origins.iter().map(split).collect(),
            methods,
            headers: config.headers.join(", "),
            expose: config.expose.join(", "),
            credentials: config.credentials,
            max_age: config.max_age.as_secs().to_string(),
        }
    }

    pub(crate) fn asked(&self, request: &Request) -> Asked {
        let origin = request.header("origin").and_then(|origin| std::str::from_utf8(origin).ok());
        let preflight = request.method() == Method::Options
            && origin.is_some()
            && request.header("access-control-request-method").is_some();
        let origin = origin.filter(|origin| self.is_allowed(origin)).map(str::to_owned);
        Asked { origin, preflight }
    }

    fn is_allowed(&self, origin: &str) -> bool {
        let matches = |(before, behind): &(String, Option<String>)| match behind {
            None => origin == before,
            Some(behind) => origin
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(behind.as_str()))
                // One that goes on with another host would end in this one's name.
                .is_some_and(|star| !star.is_empty() && !star.contains(['/', ':', '@'])),
        };
        self.any || self.origins.iter().any(matches)
    }

    /// Says whether the page may read this reply. What the handler said of that is taken out.
    pub(crate) fn allow(&self, fields: &mut Vec<(Text, Text)>, asked: &Asked) {
        let of_cors = |name: &str| {
            let prefix = name.get(.."access-control-".len());
            prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case("access-control-"))
        };
        fields.retain(|(name, _)| !of_cors(name));
        if !self.any {
            // Caches must not give one origin's reply to another.
            fields.push(("Vary".into(), "Origin".into()));
        }
        let Some(origin) = &asked.origin else { return };
        let named = if self.any { Text::Borrowed("*") } else { Text::Owned(origin.clone()) };
        let mut add = |name: &'static str, value: Text| fields.push((name.into(), value));
        add("Access-Control-Allow-Origin", named);
        if self.credentials {
            add("Access-Control-Allow-Credentials", "true".into());
        }
        if asked.preflight {
            add("Access-Control-Allow-Methods", self.methods.clone().into());
            if !self.headers.is_empty() {
                add("Access-Control-Allow-Headers", self.headers.clone().into());
            }
            add("Access-Control-Max-Age", self.max_age.clone().into());
        } else if !self.expose.is_empty() {
            add("Access-Control-Expose-Headers", self.expose.clone().into());
        }
    }
}

impl Asked {
    pub(crate) fn is_preflight(&self) -> bool {
        self.preflight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Cors::new(&config::Cors { origins, ..config::Cors::default() }, Methods::ANY)
    }

    #[test]
    fn an_origin_is_allowed_as_a_whole() {
        let one = cors(&["https://app.example.org"]);
        assert!(one.is_allowed("https://app.example.org"));
        for other in [
            "http://app.example.org",
            "https://app.example.org:444",
            "https://app.example.org.evil.example",
            "https://evil.example/https://app.example.org",
            "null",
            "",
        ] {
            assert!(!one.is_allowed(other), "{other}");
        }
        assert!(cors(&["*"]).is_allowed("null"));
    }

    #[test]
    fn a_star_is_a_part_of_the_host() {
        let below = cors(&["https://*.example.org"]);
        assert!(below.is_allowed("https://a.example.org"));
        assert!(below.is_allowed("https://a.b.example.org"));
        for other in [
            "https://example.org",
            "https://.example.org",
            "https://evil.example/.example.org",
            "https://user@evil.example.org",
            "https://evil:1.example.org",
            "http://a.example.org",
            "https://aexample.org",
        ] {
            assert!(!below.is_allowed(other), "{other}");
        }
    }
}
