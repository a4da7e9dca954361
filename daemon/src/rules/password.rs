//! The files of `auth`: users with hashes of their passwords, and tokens.

use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha_crypt::{PasswordVerifier as _, ShaCrypt};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// Above it, one wrong password would keep a CPU busy for seconds.
const BCRYPT_COST_MAX: u32 = 16;
const SHA_ROUNDS_MAX: u32 = 1_000_000;
/// bcrypt looks at no more; a longer password must not be the same as its beginning.
const BCRYPT_BYTES_MAX: usize = 72;

/// The hash of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    /// `$2y$…`
    Bcrypt(String),
    /// `$5$…` and `$6$…`
    ShaCrypt(String),
    /// `{SHA}…`: SHA-1 without salt. Cheap, for us and for thieves.
    Sha1([u8; 20]),
}

/// Users and their hashes, as htpasswd writes them.
///
/// # Errors
/// A line and what is wrong with it.
pub(crate) fn users(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut users: Vec<(String, String)> = Vec::new();
    for (number, line) in lines(text) {
        let fault = |why: &str| (number, why.to_owned());
        let (name, hash) = line.split_once(':').ok_or_else(|| fault("there is no colon"))?;
        if name.is_empty() {
            return Err(fault("there is no name"));
        }
        if users.iter().any(|(known, _)| known == name) {
            return Err((number, format!("{name} stands there twice")));
        }
        Hash::parse(hash).map_err(|why| fault(&why))?;
        users.push((name.to_owned(), hash.to_owned()));
    }
    if users.is_empty() { Err((1, "there is no user".to_owned())) } else { Ok(users) }
}

/// The digests of tokens.
///
/// # Errors
/// A line and what is wrong with it.
pub(crate) fn tokens(text: &str) -> Result<Vec<String>, (usize, String)> {
    let mut tokens = Vec::new();
    for (number, line) in lines(text) {
        let digest = match line.strip_prefix("sha256:") {
            Some(digest) => unhex(digest)
                .ok_or_else(|| (number, "64 hexadecimal digits follow `sha256:`".to_owned()))?,
            None if is_token(line) => digest(line.as_bytes()),
            None => {
                let why = "a token is made of letters, digits and -._~+/, with = at its end";
                return Err((number, why.to_owned()));
            }
        };
        tokens.push(hex(&digest));
    }
    if tokens.is_empty() { Err((1, "there is no token".to_owned())) } else { Ok(tokens) }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// RFC 6750 section 2.1.
fn is_token(line: &str) -> bool {
    let bare = line.trim_end_matches('=');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !bare.is_empty() && bare.bytes().all(fits)
}

impl Hash {
    /// # Errors
    /// Why this is no hash that can be verified.
    pub(crate) fn parse(text: &str) -> Result<Hash, String> {
        const AGAIN: &str = "write the line anew with htpasswd -B";
        if let Some(digest) = text.strip_prefix("{SHA}") {
            let digest = STANDARD.decode(digest).ok().and_then(|it| it.try_into().ok());
            return digest.map(Hash::Sha1).ok_or_else(|| format!("{{SHA}} is cut short; {AGAIN}"));
        }
        if text.starts_with("$2") {
            let parts = bcrypt::HashParts::from_str(text)
                .map_err(|error| format!("the bcrypt hash is broken ({error}); {AGAIN}"))?;
            if parts.get_cost() > BCRYPT_COST_MAX {
                return Err(format!("a cost above {BCRYPT_COST_MAX} is too much; {AGAIN}"));
            }
            return Ok(Hash::Bcrypt(text.to_owned()));
        }
        if text.starts_with("$5$") || text.starts_with("$6$") {
            let rounds = text[3..].strip_prefix("rounds=").and_then(|it| it.split('$').next());
            let rounds = rounds.map(|rounds| rounds.parse::<u32>().unwrap_or(u32::MAX));
            if rounds.is_some_and(|rounds| rounds > SHA_ROUNDS_MAX) {
                return Err(format!("more than {SHA_ROUNDS_MAX} rounds are too much; {AGAIN}"));
            }
            if sha_crypt::PasswordHashRef::new(text).is_err() {
                return Err(format!("the SHA-crypt hash is broken; {AGAIN}"));
            }
            return Ok(Hash::ShaCrypt(text.to_owned()));
        }
        let what = if text.starts_with("$apr1$") || text.starts_with("$1$") {
            "MD5 can be guessed too fast"
        } else {
            "the password is not hashed in a form that is known here"
        };
        Err(format!("{what}; {AGAIN}"))
    }

    /// Whether verifying it is quick.
    pub(crate) fn is_cheap(&self) -> bool {
        matches!(self, Hash::Sha1(_))
    }

    /// Whether this is the password.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        match self {
            Hash::Bcrypt(hash) => {
                password.len() <= BCRYPT_BYTES_MAX
                    && bcrypt::verify(password, hash).unwrap_or(false)
            }
            Hash::ShaCrypt(hash) => {
                ShaCrypt::default().verify_password(password, hash.as_str()).is_ok()
            }
            Hash::Sha1(digest) => bool::from(Sha1::digest(password)[..].ct_eq(&digest[..])),
        }
    }
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes in hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let pairs = text.as_bytes().as_chunks::<2>();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.0.iter().map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of "abc" in RFC 3174.
    const SHA1: &str = "{SHA}qZk+NkcGgWq6PiVxeFDCbJzQ2J0=";

    #[test]
    fn hashes_of_other_tools_are_verified() {
        // Made with `openssl passwd -5` and `-6`.
        let known = [
            ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
            (
                "Hello world!",
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBF\
                 dcbYEdFCoEOfaS35inz1",
            ),
            // Of the test suite of John the Ripper.
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ];
        for (password, hash) in known {
            let hash = Hash::parse(hash).unwrap();
            assert!(hash.verify(password.as_bytes()), "{hash:?}");
            assert!(!hash.verify(b"another"), "{hash:?}");
            assert!(!hash.is_cheap());
        }
        let sha1 = Hash::parse(SHA1).unwrap();
        assert!(sha1.is_cheap() && sha1.verify(b"abc") && !sha1.verify(b"abd"));
    }

    #[test]
    fn long_passwords_are_not_their_beginnings() {
        let long = "x".repeat(80);
        let hash = bcrypt::hash(&long[..72], 4).unwrap();
        assert!(Hash::parse(&hash).unwrap().verify(&long.as_bytes()[..72]));
        assert!(!Hash::parse(&hash).unwrap().verify(long.as_bytes()));
    }

    #[test]
    fn what_cannot_be_verified_is_refused_with_its_line() {
        for (text, line, part) in [
            ("", 1, "no user"),
            ("# none\n\n", 1, "no user"),
            ("a", 1, "colon"),
            (":{SHA}x", 1, "no name"),
            ("# one\na:plain", 2, "not hashed"),
            ("a:$apr1$x$y", 1, "MD5"),
            ("a:{SHA}AA==", 1, "cut short"),
            ("a:$2y$05$short", 1, "broken"),
            ("a:$2y$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", 1, "cost"),
            ("a:$6$rounds=99999999$salt$x", 1, "rounds"),
        ] {
            let (at, why) = users(text).unwrap_err();
            assert!(at == line && why.contains(part), "{text}: {at}: {why}");
        }
        let twice = format!("a:{SHA1}\na:{SHA1}\n");
        assert!(users(&twice).unwrap_err().1.contains("twice"));
    }

    #[test]
    fn tokens_are_kept_as_digests() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(tokens("# of RFC 6234\nabc\n").unwrap(), [digest]);
        assert_eq!(tokens(&format!("sha256:{digest}")).unwrap(), [digest]);
        for broken in ["", "a b", "sha256:12", "=", "h\u{f6}her"] {
            assert!(tokens(broken).is_err(), "{broken}");
        }
    }
}
