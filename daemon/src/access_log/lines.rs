//! How a line looks.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::record::Entry;
use super::told;
use crate::client::client_address;
use crate::config::{AccessField, AccessFormat, AccessLog};

/// The names of the paths in the server, in the order of their numbers.
const KINDS: [&str; 6] = ["prepared", "armed", "files", "proxy", "dynamic", "error"];

/// What lines are made with.
pub(super) struct Lines {
    format: AccessFormat,
    fields: Vec<AccessField>,
    /// The names of the routes of each site.
    names: Vec<Vec<String>>,
    trusted: Vec<IpNet>,
}

/// A request's head, as far as lines tell of it.
#[derive(Default)]
struct Head<'h> {
    request_line: &'h [u8],
    method: &'h [u8],
    target: &'h [u8],
    version: &'h [u8],
    fields: Vec<(&'h [u8], &'h [u8])>,
}

impl Lines {
    pub(super) fn new(settings: &AccessLog, names: Vec<Vec<String>>, trusted: Vec<IpNet>) -> Lines {
        Lines { format: settings.format, fields: settings.fields.clone(), names, trusted }
    }

    /// Appends the lines of these records.
    pub(super) fn make(&self, mut records: &[u8], out: &mut Vec<u8>) {
        while let Some(entry) = Entry::decode(&mut records) {
            let head = Head::of(entry.head);
            let start = out.len();
            match self.format {
                AccessFormat::Json => self.json(&entry, &head, out),
                AccessFormat::Combined => self.combined(&entry, &head, out),
            }
            let line = start..out.len();
            for _ in 1..entry.count {
                out.extend_from_within(line.clone());
            }
        }
    }

    fn client(&self, entry: &Entry<'_>, head: &Head<'_>) -> String {
        match &entry.peer {
            None => "-".to_owned(),
            Some(peer) => told(client_address(peer, &self.trusted, head.fields.iter().copied())),
        }
    }

    fn json(&self, entry: &Entry<'_>, head: &Head<'_>, out: &mut Vec<u8>) {
        let mut line = Map::new();
        for field in &self.fields {
            let value = match field {
                AccessField::Time => Value::from(time(entry.time_ms)),
                AccessField::Client => Value::from(self.client(entry, head)),
                AccessField::Method => text(head.method),
                AccessField::Target => text(head.target),
                AccessField::Version => text(head.version),
                AccessField::Host => head.field("host"),
                AccessField::Status => Value::from(entry.status),
                AccessField::Bytes => Value::from(entry.bytes),
                AccessField::DurationUs => Value::from(entry.micros),
                AccessField::Route => Value::from(self.route(entry)),
                AccessField::PathKind => Value::from(KINDS.get(usize::from(entry.kind)).copied()),
                AccessField::Referer => head.field("referer"),
                AccessField::UserAgent => head.field("user-agent"),
            };
            line.insert(field.name().to_owned(), value);
        }
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *out, &Value::Object(line));
        out.push(b'\n');
    }

    /// The format that Apache and nginx call "combined".
    fn combined(&self, entry: &Entry<'_>, head: &Head<'_>, out: &mut Vec<u8>) {
        let client = self.client(entry, head);
        let _ = write!(out, "{client} - - [{}] \"", common_time(entry.time_ms));
        escape(head.request_line, out);
        let _ = write!(out, "\" {} {} \"", entry.status, entry.bytes);
        escape(head.bytes("referer").unwrap_or(b"-"), out);
        out.extend_from_slice(b"\" \"");
        escape(head.bytes("user-agent").unwrap_or(b"-"), out);
        out.extend_from_slice(b"\"\n");
    }

    fn route(&self, entry: &Entry<'_>) -> &str {
        let name = entry
            .route
            .and_then(|(site, route)| self.names.get(usize::from(site))?.get(usize::from(route)));
        name.map_or("unmatched", String::as_str)
    }
}

impl<'h> Head<'h> {
    fn of(bytes: &'h [u8]) -> Head<'h> {
        let mut lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let request_line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        let mut words = request_line.splitn(3, |&byte| byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (method, target, version) = (word(), word(), word());
        let fields = lines.filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        });
        Head { request_line, method, target, version, fields: fields.collect() }
    }

    fn bytes(&self, name: &str) -> Option<&'h [u8]> {
        let named = |field: &[u8]| field.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(|(field, _)| named(field)).map(|(_, value)| *value)
    }

    fn field(&self, name: &str) -> Value {
        self.bytes(name).map_or(Value::Null, text)
    }
}

/// Empty bytes are what was not there.
fn text(bytes: &[u8]) -> Value {
    match bytes {
        [] => Value::Null,
        bytes => Value::from(String::from_utf8_lossy(bytes)),
    }
}

/// RFC 3339 in UTC, with milliseconds.
fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// `22/Nov/2026:23:40:00 +0000`
fn common_time(ms: u64) -> String {
    // An IMF-fixdate has all the parts: `Sun, 22 Nov 2026 23:40:00 GMT`.
    let date = ember_http::date::format(ms / 1000);
    let part = |range: std::ops::Range<usize>| String::from_utf8_lossy(&date[range]).into_owned();
    format!("{}/{}/{}:{} +0000", part(5..7), part(8..11), part(12..16), part(17..25))
}

/// What could end the quotation or the line is told by its number.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let _ = write!(out, "\\x{byte:02X}");
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(head: &'static [u8]) -> Entry<'static> {
        Entry {
            time_ms: 1_795_390_800_123,
            count: 1,
            route: Some((0, 0)),
            status: 200,
            bytes: 321,
            micros: Some(17),
            kind: 4,
            peer: Some(ember_uring::PeerAddr::Inet("10.0.0.1:9".parse().unwrap())),
            head,
        }
    }

    fn made(format: AccessFormat, entry: &Entry<'_>) -> String {
        let loaded = crate::config::load(&crate::config::Sources {
            environment: [("EMBERD_LOG_ACCESS_FORMAT".to_owned(), "json".to_owned())].into(),
            ..Default::default()
        });
        let defaults = loaded.unwrap().config.log.access.unwrap();
        let settings = AccessLog { format, ..defaults };
        let names = vec![vec!["/users/{id}".to_owned()]];
        let lines = Lines::new(&settings, names, vec!["10.0.0.0/8".parse().unwrap()]);
        let (mut records, mut out) = (Vec::new(), Vec::new());
        entry.encode(&mut records);
        lines.make(&records, &mut out);
        String::from_utf8(out).unwrap()
    }

    const HEAD: &[u8] = b"GET /users/7?x=\"y\" HTTP/1.1\r\nHost: a\r\nUser-Agent: t\"\\\r\n\
        X-Forwarded-For: 192.0.2.9\r\nReferer: http://r/\r\n\r\n";

    #[test]
    fn a_line_of_json_has_every_field() {
        let line = made(AccessFormat::Json, &entry(HEAD));
        let value: Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(value["time"], "2026-11-22T23:40:00.123Z");
        assert_eq!(value["client"], "192.0.2.9");
        assert_eq!(value["target"], "/users/7?x=\"y\"");
        assert_eq!(value["route"], "/users/{id}");
        assert_eq!(value["path_kind"], "dynamic");
        assert_eq!(value["duration_us"], 17);
        assert_eq!(value["user_agent"], "t\"\\");
    }

    #[test]
    fn a_combined_line_cannot_be_broken_out_of() {
        let line = made(AccessFormat::Combined, &entry(HEAD));
        assert_eq!(
            line,
            "192.0.2.9 - - [22/Nov/2026:23:40:00 +0000] \"GET /users/7?x=\\x22y\\x22 HTTP/1.1\" \
             200 321 \"http://r/\" \"t\\x22\\x5C\"\n"
        );
    }

    #[test]
    fn runs_are_as_many_lines_and_what_is_unknown_is_said() {
        let many = Entry { count: 3, route: None, peer: None, micros: None, ..entry(b"") };
        let lines = made(AccessFormat::Json, &many);
        assert_eq!(lines.lines().count(), 3);
        let value: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(value["route"], "unmatched");
        assert_eq!(value["client"], "-");
        assert_eq!((&value["target"], &value["duration_us"]), (&Value::Null, &Value::Null));
    }
}
