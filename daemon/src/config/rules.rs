//! `[[redirect]]` and the rules that routes share, typed.

use std::time::Duration;

use ember_http::{Method, Methods};
use serde::{Deserialize, Serialize};

use super::model::{nanos, nanos_or_none};

/// `[[redirect]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The pattern of paths that are redirected.
    pub path: String,
    /// Where to; parameters of the pattern in braces.
    pub to: String,
    /// Its name in metrics and in `routes` of a listener.
    pub name: String,
    /// The hosts that it is for; empty: all.
    pub hosts: Vec<String>,
    /// Status code.
    pub status: u16,
    /// Whether the query goes along.
    pub keep_query: bool,
    /// What is asked of requests and done to replies.
    pub rules: Rules,
}

/// What is asked of requests before a route answers, and done to its replies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Fields that are added.
    pub headers: Vec<(String, String)>,
    /// Fields that are taken out before.
    pub remove_headers: Vec<String>,
    /// Whether the fields that browsers go by are added.
    pub security_headers: bool,
    /// For how long the host is reached by TLS alone.
    #[serde(with = "nanos_or_none")]
    pub hsts: Option<Duration>,
    /// The methods that are answered; empty: those of the section.
    pub methods: Vec<String>,
    /// Pages of other origins.
    pub cors: Option<Cors>,
    /// Who may ask.
    pub auth: Option<Auth>,
    /// How often.
    pub rate_limit: Option<RateLimit>,
}

/// `cors` of a route
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins of pages that may read replies.
    pub origins: Vec<String>,
    /// Methods that they may use; empty: those that are answered.
    pub methods: Vec<String>,
    /// Request fields that they may set.
    pub headers: Vec<String>,
    /// Reply fields that they may read.
    pub expose: Vec<String>,
    /// Whether credentials may go along.
    pub credentials: bool,
    /// How long a preflight's answer holds.
    #[serde(with = "nanos")]
    pub max_age: Duration,
}

/// `auth` of a route, its files read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Users and the hashes of their passwords.
    pub users: Vec<(String, String)>,
    /// SHA-256 of each token, in hexadecimal.
    pub tokens: Vec<String>,
    /// What is protected.
    pub realm: String,
}

/// `rate_limit` of a route
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Who counts as one client: `ip`, `route` or `header:NAME`.
    pub key: String,
    /// Requests in each `per`.
    pub rate: u32,
    /// The time that the rate is for.
    #[serde(with = "nanos")]
    pub per: Duration,
    /// Requests that may come at once; none: as many as the rate.
    pub burst: Option<u32>,
}

/// The value of X-Frame-Options and the others of `security_headers`.
const SECURITY: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];

impl Rules {
    /// The methods that are answered where a section answers these.
    #[must_use]
    pub fn methods(&self, of_section: Methods) -> Methods {
        if self.methods.is_empty() { of_section } else { methods(&self.methods) }
    }

    /// Fields that each reply gets that has them not.
    #[must_use]
    pub fn defaults(&self) -> Vec<(String, String)> {
        let security = SECURITY.iter().filter(|_| self.security_headers);
        let security = security.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let hsts = self.hsts.map(|time| {
            ("strict-transport-security".to_owned(), format!("max-age={}", time.as_secs()))
        });
        security.chain(hsts).collect()
    }

    /// Whether a reply can be rendered ahead that follows them.
    #[must_use]
    pub fn can_be_rendered(&self) -> bool {
        let any_origin = |cors: &Cors| cors.origins.iter().any(|origin| origin == "*");
        self.auth.is_none()
            && self.rate_limit.is_none()
            && self.cors.as_ref().is_none_or(|cors| any_origin(cors) && !cors.credentials)
    }

    /// Fields of a rendered reply, besides its own of these names.
    #[must_use]
    pub fn rendered(&self, own: &[(String, String)]) -> Vec<(String, String)> {
        let has = |name: &str| own.iter().any(|(known, _)| known == name);
        let mut fields = own.to_vec();
        fields.extend(self.defaults().into_iter().filter(|(name, _)| !has(name)));
        if let Some(cors) = &self.cors {
            fields.push(("access-control-allow-origin".to_owned(), "*".to_owned()));
            if !cors.expose.is_empty() {
                let exposed = cors.expose.join(", ");
                fields.push(("access-control-expose-headers".to_owned(), exposed));
            }
        }
        fields
    }
}

/// A set of methods by their names.
#[must_use]
pub fn methods(names: &[String]) -> Methods {
    let each = names.iter().map(|name| Methods::of(&[Method::from_bytes(name.as_bytes())]));
    let all = each.fold(Methods::NONE, Methods::union);
    if all.contains(Method::Get) { all.union(Methods::of(&[Method::Head])) } else { all }
}
