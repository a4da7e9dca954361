//! The grammars of strings: each gives the value's JSON form, or why not and what to do.

mod routed;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ember_affinity::CpuSet;
use ember_http::normalise_path;
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::keys::Syntax;

/// Why a string is not what its key takes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Ends the sentence "`key` …".
    pub(crate) why: String,
    /// The mend.
    pub(crate) help: Option<String>,
}

/// Room for a path in a unix socket's address, without the NUL at its end.
const UNIX_PATH_MAX: usize = 107;
/// `IFNAMSIZ` without the NUL at its end.
const DEVICE_MAX: usize = 15;
const NAME_MAX: usize = 128;
const HEADER_VALUE_MAX: usize = 4096;

fn fault(why: impl Into<String>) -> Fault {
    Fault { why: why.into(), help: None }
}

fn mend(why: impl Into<String>, help: impl Into<String>) -> Fault {
    Fault { why: why.into(), help: Some(help.into()) }
}

/// The value that `text` stands for.
pub(crate) fn read(syntax: Syntax, text: &str) -> Result<Json, Fault> {
    match syntax {
        Syntax::Any => Ok(text.into()),
        Syntax::Address => address(text),
        Syntax::Net => net(text),
        Syntax::Cpus => cpus(text),
        Syntax::UrlPath => url_path(text).map(Json::from),
        Syntax::Name => name(text).map(|()| text.into()),
        Syntax::File => file(text).map(|()| text.into()),
        Syntax::FileName => file_name(text).map(|()| text.into()),
        Syntax::Glob => glob(text).map(|()| text.into()),
        Syntax::HeaderName => header_name(text).map(|()| text.to_ascii_lowercase().into()),
        Syntax::HeaderValue => header_value(text).map(|()| text.into()),
        Syntax::Host => host(text).map(Json::from),
        Syntax::MediaType => media_type(text).map(|()| text.into()),
        Syntax::User => user(text).map(|()| text.into()),
        Syntax::Device => device(text).map(|()| text.into()),
        Syntax::Upstream => upstream(text).map(|()| text.into()),
        Syntax::HashBy => hash_by(text).map(|()| text.into()),
        Syntax::HostRule => host_rule(text).map(|()| text.into()),
        Syntax::FieldName => routed::field_name(text).map(Json::from),
        Syntax::Pattern => routed::pattern(text).map(|()| text.into()),
        Syntax::Location => routed::location(text).map(|()| text.into()),
        Syntax::Origin => routed::origin(text).map(Json::from),
        Syntax::Realm => routed::realm(text).map(|()| text.into()),
        Syntax::RateKey => routed::rate_key(text).map(|()| text.into()),
    }
}

/// A host's name in lower case, `*.` before it allowed.
fn host(text: &str) -> Result<String, Fault> {
    match ember_http::normalise_host(text) {
        Some(host) => Ok(host),
        None if text.contains([':', '/']) => Err(mend(
            "is not a host",
            "write the name alone, without scheme, port and path: example.org",
        )),
        None => Err(mend("is not a host", "write example.org, *.example.org or [::1]")),
    }
}

/// A duration such as `10s`, `1m 30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, Fault> {
    humantime::parse_duration(text.trim()).map_err(|_| {
        let number = text.trim().parse::<f64>().is_ok();
        if number {
            mend(
                "needs a unit",
                format!("write \"{}s\" for seconds; units are ms, s, m, h", text.trim()),
            )
        } else {
            mend(
                "is not a duration",
                "write a whole number and a unit: 500ms, 10s, 5m, 1h, \"1m 30s\"",
            )
        }
    })
}

/// A size such as `8KiB`; a number alone counts bytes.
pub(crate) fn size(text: &str) -> Result<u64, Fault> {
    let text = text.trim();
    // A sign, an exponent or infinity would pass as a float.
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(size) = ByteSize::from_str(text)
    {
        return Ok(size.as_u64());
    }
    Err(mend("is not a size", "write a number and a unit: 512B, 16KiB, 4MiB, 1GiB"))
}

/// Permissions such as `0660`.
pub(crate) fn mode(text: &str) -> Result<u32, Fault> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(mend("is not a file's permissions", "write octal digits such as \"0660\"")),
    }
}

fn address(text: &str) -> Result<Json, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(|()| json!({ "unix": path }));
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        let fits = |c: char| c.is_ascii_graphic() && c != ':';
        return if !name.is_empty() && name.len() <= 255 && name.chars().all(fits) {
            Ok(json!({ "systemd": name }))
        } else {
            Err(mend(
                "is not a name of passed sockets",
                "write \"systemd:NAME\" with the FileDescriptorName= of the socket unit",
            ))
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok(json!({ "tcp": address })),
        Err(_) => Err(bad_address(text)),
    }
}

fn upstream(text: &str) -> Result<(), Fault> {
    const WRITE: &str = "write \"10.0.0.1:9000\", \"name:9000\" or \"unix:/run/app.sock\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(mend("has port 0, to which nothing can connect", WRITE)),
            _ => Ok(()),
        };
    }
    if text.contains("://") {
        return Err(mend("is a URL; upstreams are spoken to in plain HTTP", WRITE));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| mend("has no port", WRITE))?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    match port {
        Some(_) if is_host_name(host) => Ok(()),
        _ => Err(mend("is no address to connect to", WRITE)),
    }
}

/// Labels of letters, digits, hyphens and underscores (RFC 1123 section 2.1, RFC 2181 section 11).
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    // All digits would be a mistyped address.
    let last = labels.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && labels.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

fn hash_by(text: &str) -> Result<(), Fault> {
    match text.split_once(':') {
        None if matches!(text, "ip" | "path") => Ok(()),
        Some(("header", name)) => header_name(name),
        _ => Err(mend("is nothing to hash by", "write \"ip\", \"path\" or \"header:NAME\"")),
    }
}

fn host_rule(text: &str) -> Result<(), Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if !text.is_empty() && text.bytes().all(fits) {
        return Ok(());
    }
    Err(mend("is no host", "write \"keep\", \"upstream\" or a name such as \"app.internal\""))
}

fn unix_path(path: &str) -> Result<(), Fault> {
    if path.len() > UNIX_PATH_MAX {
        let why = format!("has a socket path of {} bytes; {UNIX_PATH_MAX} fit", path.len());
        return Err(mend(why, "use a shorter path, for instance below /run"));
    }
    if path.chars().any(char::is_control) {
        return Err(fault("has a control character in its path"));
    }
    match path.strip_prefix('@') {
        Some("") => Err(fault("has an empty abstract name")),
        Some(_) => Ok(()),
        None if path.starts_with('/') && !path.ends_with('/') => Ok(()),
        None => Err(mend(
            "needs an absolute path",
            format!("write \"unix:/run/{}\"", path.trim_matches(['/', '.'])),
        )),
    }
}

fn bad_address(text: &str) -> Fault {
    let why = "is not an address to listen on";
    let bare = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').unwrap_or((bare, ""));
    let write = |text: String| mend(why, format!("write \"{text}\""));
    if let Ok(ip) = bare.trim_matches(['[', ']']).parse::<IpAddr>() {
        return mend("has no port", format!("write \"{}\"", SocketAddr::new(ip, 8080)));
    }
    if bare.parse::<SocketAddr>().is_ok() {
        return write(bare.to_owned());
    }
    if let Ok(port) = bare.parse::<u16>() {
        return write(format!("0.0.0.0:{port}"));
    }
    match port.parse::<u32>() {
        Ok(65_536..) => return mend(why, "a port is at most 65535"),
        Err(_) => {
            return mend(
                why,
                "write \"IP:PORT\", \"[IPV6]:PORT\", \"unix:/PATH\" or \"systemd:NAME\"",
            );
        }
        Ok(_) => {}
    }
    match host {
        "" | "*" => {
            mend(why, format!("write \"0.0.0.0:{port}\" for IPv4, \"[::]:{port}\" for both"))
        }
        "localhost" => mend(why, format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")),
        _ if host.contains(':') => mend(why, "an IPv6 address stands in brackets: \"[::1]:8080\""),
        _ => mend(why, "listeners take IP addresses, no names: \"0.0.0.0:8080\" or \"[::]:8080\""),
    }
}

fn net(text: &str) -> Result<Json, Fault> {
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            mend("is not a network", "write \"10.0.0.0/8\", \"2001:db8::/32\" or one address")
        })?,
    };
    if net.network() != net.addr() {
        return Err(mend(
            "has bits set beyond its prefix",
            format!(
                "write \"{}\" for the network, or \"{}\" for the address",
                net.trunc(),
                net.addr()
            ),
        ));
    }
    Ok(json!(net))
}

fn cpus(text: &str) -> Result<Json, Fault> {
    let set = text
        .parse::<CpuSet>()
        .map_err(|error| mend(format!("is not a set of CPUs: {error}"), "write \"0-3,8\""))?;
    if set.is_empty() { Err(fault("names no CPU")) } else { Ok(json!(set)) }
}

/// The path as requests are matched with it: decoded by the one rule of the protocol.
fn url_path(text: &str) -> Result<String, Fault> {
    if !text.starts_with('/') {
        return Err(mend("must begin with a slash", format!("write \"/{text}\"")));
    }
    if let Some(at) = text.find(['?', '#']) {
        let help = format!("routes match the path alone: write \"{}\"", &text[..at]);
        return Err(mend("is more than a path", help));
    }
    if text.contains(['{', '}', '*']) {
        return Err(mend("is a pattern", "this kind of route answers one exact path"));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        return Err(fault(format!("has {bad:?}, which cannot stand in a path")));
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(mend(
            "has dot segments",
            "requests are normalised first; write it without them",
        ));
    }
    normalise_path(text)
        .ok_or_else(|| mend("has a % without two hexadecimal digits", "write % itself as %25"))
}

fn name(text: &str) -> Result<(), Fault> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(fault(format!("must have 1 to {NAME_MAX} characters")));
    }
    if !text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')) {
        return Err(fault("must be of visible ASCII characters without quotes"));
    }
    Ok(())
}

fn file(text: &str) -> Result<(), Fault> {
    if text.is_empty() || text.contains('\0') { Err(fault("is not a path")) } else { Ok(()) }
}

fn file_name(text: &str) -> Result<(), Fault> {
    file(text)?;
    match text {
        "." | ".." => Err(fault("is not the name of a file")),
        _ if text.contains('/') => Err(mend("is a path", "write a name alone: \"index.html\"")),
        _ => Ok(()),
    }
}

fn glob(text: &str) -> Result<(), Fault> {
    match glob::Pattern::new(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = format!("is not a pattern: {}", error.msg);
            Err(mend(why, "write \"*.html\" or \"/assets/*\"; [*] is a star itself"))
        }
    }
}

/// Header fields that the server writes itself, each with why.
const RESERVED: &[(&str, &str)] = &[
    ("accept-ranges", "the server answers ranges of a body itself"),
    ("connection", "the server says itself whether a connection is kept"),
    ("content-encoding", "the server says itself which coding it has chosen"),
    ("content-length", "the server counts the body itself"),
    ("content-type", "use the key `content_type`"),
    ("date", "the server writes it anew each second"),
    ("etag", "the server makes it of the body"),
    ("keep-alive", "the server says itself whether a connection is kept"),
    ("last-modified", "the server says itself when the body was changed"),
    ("te", "it is no field of a reply"),
    ("trailer", "replies from the config have no trailers"),
    ("transfer-encoding", "the server frames the body itself"),
    ("upgrade", "no other protocol is spoken here"),
];

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn header_name(text: &str) -> Result<(), Fault> {
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(mend(
            "is not a header name",
            "letters, digits and hyphens, as in \"cache-control\"",
        ));
    }
    let lower = text.to_ascii_lowercase();
    match RESERVED.iter().find(|(name, _)| *name == lower) {
        Some((_, why)) => Err(mend(format!("cannot be set: {why}"), "take the line out")),
        None => Ok(()),
    }
}

fn header_value(text: &str) -> Result<(), Fault> {
    if text.contains(['\r', '\n', '\0']) {
        return Err(mend(
            "has a line break or NUL in it, which would forge further header lines",
            "put each field in an entry of its own",
        ));
    }
    if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return Err(fault("must be of visible ASCII characters"));
    }
    if text.trim() != text {
        return Err(mend("has spaces at an end", format!("write \"{}\"", text.trim())));
    }
    if text.len() > HEADER_VALUE_MAX {
        return Err(fault(format!("is longer than {HEADER_VALUE_MAX} bytes")));
    }
    Ok(())
}

fn media_type(text: &str) -> Result<(), Fault> {
    header_value(text)?;
    let kind = text.split(';').next().unwrap_or_default().trim_end();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(is_token);
    match kind.split_once('/') {
        Some((kind, sub)) if is_word(kind) && is_word(sub) => Ok(()),
        _ => Err(mend("is not a media type", "write \"text/html; charset=utf-8\" or the like")),
    }
}

fn user(text: &str) -> Result<(), Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if begins && text.len() <= 32 && text.chars().all(fits) {
        Ok(())
    } else {
        Err(fault("is not a user name"))
    }
}

fn device(text: &str) -> Result<(), Fault> {
    let fits = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if !text.is_empty() && text.len() <= DEVICE_MAX && text.chars().all(fits) {
        Ok(())
    } else {
        Err(mend(
            "is not a network device",
            "write its name as in /sys/class/net, such as \"eth0\"",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(syntax: Syntax, text: &str) -> String {
        let fault = read(syntax, text).unwrap_err();
        fault.help.unwrap_or(fault.why)
    }

    #[test]
    fn addresses() {
        for text in
            ["0.0.0.0:80", "[::]:8080", "127.0.0.1:0", "unix:/run/a.sock", "unix:@a", "systemd:web"]
        {
            assert!(read(Syntax::Address, text).is_ok(), "{text}");
        }
        for (text, mend) in [
            ("localhost:80", "127.0.0.1:80"),
            (":8080", "0.0.0.0:8080"),
            ("8080", "0.0.0.0:8080"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("[::1]", "[::1]:8080"),
            ("::1:8080:x", "IP:PORT"),
            ("1.2.3.4:99999", "at most 65535"),
            ("example.org:80", "no names"),
            ("http://127.0.0.1:80/", "\"127.0.0.1:80\""),
            ("unix:a.sock", "unix:/run/a.sock"),
            ("unix:", "unix:/run/"),
            ("systemd:", "FileDescriptorName"),
            ("", "IP:PORT"),
        ] {
            assert!(
                help(Syntax::Address, text).contains(mend),
                "{text}: {}",
                help(Syntax::Address, text)
            );
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(help(Syntax::Address, &long).contains("shorter"));
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("10").unwrap_err().help.unwrap().contains("\"10s\""));
        assert!(duration("ten seconds").is_err());
        assert_eq!(size("16KiB"), Ok(16384));
        assert_eq!(size("4 MiB"), Ok(4 << 20));
        assert_eq!(size("1kB"), Ok(1000));
        assert_eq!(size("100"), Ok(100));
        for bad in ["-1KiB", "inf", "NaN", "1e400", "12 parsecs", ""] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("1777").is_err() && mode("88").is_err());
    }

    #[test]
    fn headers_cannot_forge_lines_or_framing() {
        assert!(read(Syntax::HeaderValue, "a\r\nset-cookie: b").is_err());
        assert!(read(Syntax::HeaderValue, "a\0b").is_err());
        assert!(read(Syntax::HeaderName, "x y").is_err());
        assert!(read(Syntax::HeaderName, "x:y").is_err());
        assert_eq!(read(Syntax::HeaderName, "Cache-Control").unwrap(), "cache-control");
        for reserved in ["Content-Length", "date", "CONNECTION", "Transfer-Encoding"] {
            assert!(read(Syntax::HeaderName, reserved).is_err(), "{reserved}");
        }
        assert!(read(Syntax::MediaType, "text/html; charset=utf-8").is_ok());
        assert!(read(Syntax::MediaType, "html").is_err());
    }

    #[test]
    fn paths_and_nets() {
        for (good, plain) in
            [("/", "/"), ("/a/b", "/a/b"), ("/a%20b%2Fc", "/a b%2Fc"), ("/ä", "/ä"), ("/%61", "/a")]
        {
            assert_eq!(read(Syntax::UrlPath, good).unwrap(), plain);
        }
        for bad in ["", "a", "/a?b", "/a#", "/%zz", "/a%00", "/a/../b", "/.", "/{id}", "/a\n"] {
            assert!(read(Syntax::UrlPath, bad).is_err(), "{bad}");
        }
        assert_eq!(read(Syntax::Net, "::1").unwrap(), "::1/128");
        assert!(help(Syntax::Net, "10.1.2.3/8").contains("10.0.0.0/8"));
        assert!(read(Syntax::Net, "10.0.0.0/33").is_err());
    }
}
