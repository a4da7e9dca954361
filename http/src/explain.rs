//! Which route would answer, found out as a connection does: what `emberd explain` shows.

use std::fmt;

use crate::head::Head;
use crate::method::{Method, Methods};
use crate::reason::Reason;
use crate::route::{RouteId, SlashStrategy};
use crate::router::Lookup;
use crate::site::Site;
use crate::target::{self, TargetForm};

/// How a request would be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The host that routes were looked for, in the form in which it was sent.
    pub host: String,
    /// The normalised path, if there is one.
    pub path: Option<String>,
    /// Who answers.
    pub verdict: Explained,
}

/// Who would answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explained {
    /// A route, with the path parameters by name.
    Route(RouteId, Vec<(String, String)>),
    /// The path has routes, but for these methods.
    OtherMethods(Methods),
    /// The protocol answers OPTIONS with these methods.
    Options(Methods),
    /// A route has this path, which differs in the slash at its end; the strategy says whether it
    /// answers, is redirected to, or is not found.
    OtherSlash(String, SlashStrategy),
    /// The protocol refuses the request.
    Refused(Reason),
}

impl Site {
    /// Explains who answers a request for a target, in any of its forms, that comes with this Host
    /// field.
    #[must_use]
    pub fn explain(&self, method: &str, target: &str, host: &str) -> Explanation {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let refused = |reason| Explanation {
            host: host.to_owned(),
            path: None,
            verdict: Explained::Refused(reason),
        };
        let mut parsed = Head::new();
        match parsed.parse(head.as_bytes(), &self.limits) {
            // What was given must be one head and not hold another.
            Ok(Some(len)) if len == head.len() => {}
            Ok(_) => return refused(Reason::Target),
            Err(reason) => return refused(reason),
        }
        if let Err(reason) = crate::dispatch::examine(&parsed, head.as_bytes()) {
            return refused(reason);
        }
        self.explain_head(&parsed, target, host).unwrap_or_else(refused)
    }

    fn explain_head(&self, head: &Head, target: &str, host: &str) -> Result<Explanation, Reason> {
        let method = head.method;
        let target = target::split(method, target.as_bytes())?;
        let authority = target.authority.unwrap_or(host.as_bytes());
        let name = target::host_without_port(authority).unwrap_or_default();
        let host = String::from_utf8_lossy(authority).into_owned();
        match target.form {
            TargetForm::Authority => return Err(Reason::MethodUnknown),
            TargetForm::Asterisk => {
                let verdict = Explained::Options(self.methods().served());
                return Ok(Explanation { host, path: None, verdict });
            }
            TargetForm::Origin | TargetForm::Absolute => {}
        }
        let mut scratch = String::new();
        let path = target::normalise(target.path, &mut scratch)?.to_owned();
        let verdict = self.explain_path(method, name, &path);
        Ok(Explanation { host, path: Some(path), verdict })
    }

    fn explain_path(&self, method: Method, host: &[u8], path: &str) -> Explained {
        let mut params = Vec::new();
        match self.find(method, host, path, &mut params) {
            Lookup::Route(route) => {
                let route = RouteId(route);
                let values = params.iter().map(|span| {
                    let part = &path[usize::from(span.start)..usize::from(span.end)];
                    target::decode_part(part).into_owned()
                });
                let names = self.route(route).params.iter().cloned();
                Explained::Route(route, names.zip(values).collect())
            }
            Lookup::OtherMethods(methods) if method == Method::Options => {
                Explained::Options(methods.served())
            }
            Lookup::OtherMethods(methods) => Explained::OtherMethods(methods.served()),
            Lookup::Nothing => {
                let other = match path.strip_suffix('/') {
                    Some(shorter) => shorter.to_owned(),
                    None => format!("{path}/"),
                };
                match self.find(method, host, &other, &mut params) {
                    Lookup::Route(_) => Explained::OtherSlash(other, self.slashes),
                    _ => Explained::Refused(Reason::NotFound),
                }
            }
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Explained::Route(route, _) => write!(f, "route {}", route.0),
            Explained::OtherMethods(methods) => write!(f, "405: allowed is {}", methods.allow()),
            Explained::Options(methods) => write!(f, "204: allowed is {}", methods.allow()),
            Explained::OtherSlash(path, SlashStrategy::Redirect) => write!(f, "308 to {path}"),
            Explained::OtherSlash(path, SlashStrategy::Ignore) => {
                write!(f, "answered as {path} is")
            }
            Explained::OtherSlash(path, SlashStrategy::Strict) => {
                write!(f, "404: there is {path}, and slashes count")
            }
            Explained::Refused(reason) => write!(f, "{}: {reason}", reason.status()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HandlerId, Prepared, Route, SiteBuilder};

    #[test]
    fn explanations_are_what_a_connection_would_do() {
        let mut builder = SiteBuilder::new();
        let hello = builder.prepared(Route::new("hello", "/hello"), Prepared::new("a/b", *b""));
        let get = Methods::of(&[Method::Get]);
        let task = builder.dynamic(Route::new("task", "/t/{id:int}"), get, HandlerId(0));
        let site = builder.build().expect("a legal site");
        let verdict = |method, target| site.explain(method, target, "h").verdict;
        assert_eq!(verdict("GET", "/x/../hello?q"), Explained::Route(hello, vec![]));
        let params = vec![("id".to_owned(), "7".to_owned())];
        assert_eq!(verdict("HEAD", "http://other/t/7"), Explained::Route(task, params));
        assert_eq!(verdict("PUT", "/hello").to_string(), "405: allowed is GET, HEAD, OPTIONS");
        assert_eq!(verdict("OPTIONS", "*").to_string(), "204: allowed is GET, HEAD, OPTIONS");
        assert_eq!(
            verdict("GET", "/hello/").to_string(),
            "404: there is /hello, and slashes count"
        );
        assert_eq!(verdict("GET", "/t/x"), Explained::Refused(Reason::NotFound));
        assert_eq!(verdict("GET", "/%zz"), Explained::Refused(Reason::Path));
        assert_eq!(verdict("G T", "/"), Explained::Refused(Reason::Version));
        assert_eq!(verdict("GET", "/ HTTP/1.1\r\n\r\nGET /"), Explained::Refused(Reason::Target));
        assert_eq!(site.explain("GET", "/", "a b").verdict, Explained::Refused(Reason::Host));
        assert_eq!(site.explain("GET", "/a/./b", "h").path.as_deref(), Some("/a/b"));
    }
}
