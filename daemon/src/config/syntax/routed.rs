//! The grammars of redirections and rules.

use super::{Fault, fault, header_value, is_token, mend};
use crate::rules::redirect::{Target, TargetFault, pattern_params};

/// Fields by which a message is framed or a connection kept.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn field_name(text: &str) -> Result<String, Fault> {
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(mend(
            "is not a header name",
            "letters, digits and hyphens, as in \"x-powered-by\"",
        ));
    }
    let lower = text.to_ascii_lowercase();
    if FRAMING.contains(&lower.as_str()) {
        return Err(mend("is the server's own: messages are framed by it", "take it out"));
    }
    Ok(lower)
}

pub(super) fn pattern(text: &str) -> Result<(), Fault> {
    if text.contains(['?', '#', '*']) || text.contains(char::is_whitespace) {
        return Err(mend("is not a path", "write \"/old/{name}\" or \"/old/{rest:path}\""));
    }
    pattern_params(text).map(drop).map_err(|why| fault(format!("is not a path: {why}")))
}

pub(super) fn location(text: &str) -> Result<(), Fault> {
    header_value(text)?;
    if text.contains([' ', '\t', '"', '<', '>', '\\']) {
        return Err(mend("has a character that no URL has", "percent-encode it"));
    }
    match Target::parse(text) {
        Ok(_) => Ok(()),
        Err(TargetFault::Start) => Err(mend(
            "does not say where to begin: whoever asks could name any host",
            "begin with one slash, or with https:// and a host",
        )),
        Err(TargetFault::Host) => Err(mend(
            "has a parameter in its host: whoever asks could name any host",
            "write the host out; parameters go behind its slash",
        )),
        Err(TargetFault::Brace) => {
            Err(mend("has a brace that stands alone", "write {name}, or %7B for the brace itself"))
        }
    }
}

pub(super) fn origin(text: &str) -> Result<String, Fault> {
    const WRITE: &str = "write \"https://app.example.org\", \"https://*.example.org\" or \"*\"";
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "*" | "null") {
        return Ok(lower);
    }
    let host = lower
        .split_once("://")
        .map(|(_, host)| host)
        .ok_or_else(|| mend("is no origin: it has no scheme", WRITE))?;
    let bare = host.strip_prefix("*.").unwrap_or(host);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if bare.is_empty() || !bare.bytes().all(fits) {
        return Err(mend("is no origin: scheme, host and port, and nothing behind them", WRITE));
    }
    Ok(lower)
}

pub(super) fn realm(text: &str) -> Result<(), Fault> {
    header_value(text)?;
    if text.contains(['"', '\\']) {
        return Err(fault("must be without quotes and backslashes"));
    }
    Ok(())
}

pub(super) fn rate_key(text: &str) -> Result<(), Fault> {
    match text.split_once(':') {
        None if matches!(text, "ip" | "route") => Ok(()),
        Some(("header", name)) if !name.is_empty() && name.bytes().all(is_token) => Ok(()),
        _ => Err(mend("says not who is counted", "write \"ip\", \"header:NAME\" or \"route\"")),
    }
}
