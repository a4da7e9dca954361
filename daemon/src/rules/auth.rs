//! Who may ask: Basic (RFC 7617) and Bearer (RFC 6750) credentials.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ember::Response;
use futures_channel::oneshot;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::password::{Hash, digest, unhex};
use super::verifier::{self, Remembered, Work};
use crate::config;

/// Who may ask for a route.
pub(crate) struct Auth {
    users: Vec<(String, Hash)>,
    tokens: Vec<[u8; 32]>,
    realm: String,
}

/// What came of a look at somebody's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// Too many are being verified.
    Busy,
}

thread_local! {
    /// What this thread has seen verified.
    static RIGHT: RefCell<Remembered> = RefCell::default();
}

impl Auth {
    pub(crate) fn new(config: &config::Auth) -> Auth {
        // What cannot be parsed was refused with the config.
        let user = |(name, hash): &(String, String)| Some((name.clone(), Hash::parse(hash).ok()?));
        Auth {
            users: config.users.iter().filter_map(user).collect(),
            tokens: config.tokens.iter().filter_map(|token| unhex(token)).collect(),
            realm: config.realm.clone(),
        }
    }

    /// Looks at the value of an Authorization field.
    pub(crate) async fn check(&self, field: Option<&[u8]>) -> Verdict {
        let Some((scheme, rest)) = field.and_then(split) else { return Verdict::Denied };
        if scheme.eq_ignore_ascii_case("bearer") {
            return if self.has_token(rest) { Verdict::Allowed } else { Verdict::Denied };
        }
        if !scheme.eq_ignore_ascii_case("basic") || self.users.is_empty() {
            return Verdict::Denied;
        }
        let Ok(pair) = STANDARD.decode(rest) else { return Verdict::Denied };
        let Some(colon) = pair.iter().position(|byte| *byte == b':') else {
            return Verdict::Denied;
        };
        let (name, password) = (&pair[..colon], &pair[colon + 1..]);
        let known = self.users.iter().find(|(user, _)| user.as_bytes() == name);
        // For a name that is not there a hash is verified too: the time must not tell which are.
        let (user, hash) = known.unwrap_or(&self.users[0]);
        let right = self.is_right(user, hash, password).await;
        match (right, known) {
            (Some(true), Some(_)) => Verdict::Allowed,
            (Some(_), _) => Verdict::Denied,
            (None, _) => Verdict::Busy,
        }
    }

    fn has_token(&self, token: &str) -> bool {
        let token = digest(token.as_bytes());
        let each = self.tokens.iter().map(|known| known[..].ct_eq(&token[..]));
        bool::from(each.fold(Choice::from(0), |any, one| any | one))
    }

    async fn is_right(&self, user: &str, hash: &Hash, password: &[u8]) -> Option<bool> {
        if hash.is_cheap() {
            return Some(hash.verify(password));
        }
        let digest = remembered_by(user, hash, password);
        if RIGHT.with_borrow(|right| right.has(&digest)) {
            return Some(true);
        }
        let (answer, answered) = oneshot::channel();
        let work = Work { hash: hash.clone(), password: password.to_vec(), digest, answer };
        if !verifier::begin(work) {
            return None;
        }
        let right = answered.await.ok()?;
        if right {
            RIGHT.with_borrow_mut(|known| known.add(digest));
        }
        Some(right)
    }

    /// The reply to whoever may not ask.
    pub(crate) fn challenge(&self) -> Response {
        let mut response = Response::text(401, "401 Unauthorized\n");
        let realm = &self.realm;
        if !self.users.is_empty() {
            let basic = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            response = response.header("WWW-Authenticate", basic);
        }
        if !self.tokens.is_empty() {
            response = response.header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""));
        }
        response
    }
}

/// The scheme and what follows it.
fn split(field: &[u8]) -> Option<(&str, &str)> {
    let (scheme, rest) = std::str::from_utf8(field).ok()?.split_once(' ')?;
    Some((scheme, rest.trim_matches(' ')))
}

/// What a right password is remembered by: a digest that is of no use elsewhere, nor when the file
/// has another hash.
fn remembered_by(user: &str, hash: &Hash, password: &[u8]) -> [u8; 32] {
    static SECRET: OnceLock<[u64; 4]> = OnceLock::new();
    let secret = SECRET.get_or_init(|| [(); 4].map(|()| RandomState::new().hash_one(0)));
    let mut digest = Sha256::new();
    for word in secret {
        digest.update(word.to_le_bytes());
    }
    let hash = match hash {
        Hash::Bcrypt(text) | Hash::ShaCrypt(text) => text.as_bytes(),
        Hash::Sha1(digest) => &digest[..],
    };
    for part in [user.as_bytes(), hash, password] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

impl fmt::Debug for Auth {
    /// Without anything that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("realm", &self.realm).finish_non_exhaustive()
    }
}
