//! Prepared replies: rendered once, sent as they are but for their Date.

use std::sync::Arc;

use crate::bytes::{TOKEN, all, is_control};
use crate::coding::Coding;
use crate::date;
use crate::method::Methods;
use crate::reply::Persist;
use crate::status;

/// What a prepared route answers with.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The status code.
    pub status: u16,
    /// The value of Content-Type, if there is to be one.
    pub content_type: Option<String>,
    /// Further fields. Those that the framing owns (Date, Content-Length, Transfer-Encoding,
    /// Connection, Content-Encoding, ETag, Last-Modified, Accept-Ranges) are refused.
    pub fields: Vec<(String, String)>,
    /// The body as it is.
    pub body: Arc<[u8]>,
    /// The body in other codings, the best first. Those not shorter than the body are left out.
    pub coded: Vec<(Coding, Arc<[u8]>)>,
    /// Seconds since 1970 of the last modification.
    pub last_modified: Option<u64>,
    /// The methods that are answered. GET brings HEAD with it.
    pub methods: Methods,
}

impl Prepared {
    /// A reply of status 200 to GET and HEAD.
    #[must_use]
    pub fn new(content_type: &str, body: impl Into<Arc<[u8]>>) -> Prepared {
        Prepared {
            status: 200,
            content_type: Some(content_type.to_owned()),
            fields: Vec::new(),
            body: body.into(),
            coded: Vec::new(),
            last_modified: None,
            methods: Methods::of(&[crate::Method::Get]),
        }
    }

    /// A redirect, whatever the method.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Prepared {
        Prepared {
            status,
            content_type: None,
            fields: vec![("Location".to_owned(), location.to_owned())],
            body: Arc::from([]),
            coded: Vec::new(),
            last_modified: None,
            methods: Methods::ANY,
        }
    }
}

/// Fields that are the protocol's own.
const OWNED: [&str; 9] = [
    "date",
    "content-length",
    "transfer-encoding",
    "connection",
    "content-encoding",
    "etag",
    "last-modified",
    "accept-ranges",
    "content-type",
];

/// Fields of a 200 that its 304 repeats (RFC 9110 section 15.4.5).
const IN_NOT_MODIFIED: [&str; 4] = ["cache-control", "content-location", "expires", "vary"];

/// The offending field of a prepared reply, if there is one.
pub(crate) fn bad_field(prepared: &Prepared) -> Option<&str> {
    let content_type = prepared.content_type.as_ref().map(|value| ("content-type", value.as_str()));
    if let Some((name, value)) = content_type
        && value.bytes().any(is_control)
    {
        return Some(name);
    }
    prepared.fields.iter().find_map(|(name, value)| {
        let legal = !name.is_empty()
            && all(name.as_bytes(), TOKEN)
            && !value.bytes().any(is_control)
            && !OWNED.iter().any(|owned| name.eq_ignore_ascii_case(owned));
        (!legal).then_some(name.as_str())
    })
}

/// One representation of a prepared reply: the body in one coding and what describes it.
#[derive(Clone, Debug)]
pub(crate) struct Representation {
    pub(crate) coding: Coding,
    pub(crate) body: Arc<[u8]>,
    pub(crate) etag: Option<String>,
}

/// A prepared reply in all its codings.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) prepared: Prepared,
    /// The identity representation is last.
    pub(crate) representations: Vec<Representation>,
    pub(crate) codings: Vec<Coding>,
    pub(crate) vary: Option<String>,
}

impl Rendered {
    pub(crate) fn new(prepared: Prepared) -> Rendered {
        let tagged = prepared.status == 200;
        let hash = content_hash(&prepared.body);
        let mut representations = Vec::new();
        for (coding, body) in &prepared.coded {
            if *coding != Coding::Identity && body.len() < prepared.body.len() {
                let etag = tagged.then(|| format!("\"{hash:016x}-{}\"", coding.as_str()));
                representations.push(Representation { coding: *coding, body: body.clone(), etag });
            }
        }
        let vary = vary(&prepared.fields, !representations.is_empty());
        representations.push(Representation {
            coding: Coding::Identity,
            body: prepared.body.clone(),
            etag: tagged.then(|| format!("\"{hash:016x}\"")),
        });
        let codings = representations.iter().map(|one| one.coding).collect();
        Rendered { prepared, representations, codings, vary }
    }

    /// Whether preconditions and ranges apply (RFC 9110 section 13.2.1: only to what would
    /// otherwise be a success).
    pub(crate) fn is_conditional(&self) -> bool {
        self.prepared.status == 200
    }

    /// The head of the whole representation.
    pub(crate) fn head(&self, representation: &Representation, persist: Persist) -> Head {
        let mut head = Head::new(self.prepared.status, persist);
        self.describe(&mut head, representation);
        if !status::is_bodiless(self.prepared.status) {
            head.field("Content-Length", &representation.body.len().to_string());
        }
        head.end()
    }

    /// The head of the 304.
    pub(crate) fn not_modified(&self, representation: &Representation, p: Persist) -> Head {
        let mut head = Head::new(304, p);
        self.validators(&mut head, representation);
        for (name, value) in &self.prepared.fields {
            let kept = IN_NOT_MODIFIED.iter().any(|kept| name.eq_ignore_ascii_case(kept));
            if kept && !name.eq_ignore_ascii_case("vary") {
                head.field(name, value);
            }
        }
        head.end()
    }

    /// The fields of a 200 or 206 that describe the representation, Content-Type apart.
    pub(crate) fn describe_part(&self, head: &mut Head, representation: &Representation) {
        if representation.coding != Coding::Identity {
            head.field("Content-Encoding", representation.coding.as_str());
        }
        self.validators(head, representation);
        if let Some(modified) = self.prepared.last_modified {
            let date = date::format(modified);
            head.field("Last-Modified", std::str::from_utf8(&date).unwrap_or_default());
        }
        for (name, value) in &self.prepared.fields {
            if !name.eq_ignore_ascii_case("vary") {
                head.field(name, value);
            }
        }
    }

    fn describe(&self, head: &mut Head, representation: &Representation) {
        if let Some(content_type) = &self.prepared.content_type {
            head.field("Content-Type", content_type);
        }
        self.describe_part(head, representation);
        if self.is_conditional() && !self.prepared.body.is_empty() {
            head.field("Accept-Ranges", "bytes");
        }
    }

    fn validators(&self, head: &mut Head, representation: &Representation) {
        if let Some(etag) = &representation.etag {
            head.field("ETag", etag);
        }
        if let Some(vary) = &self.vary {
            head.field("Vary", vary);
        }
    }
}

/// The configured Vary, with Accept-Encoding in it where the coding is negotiated.
fn vary(fields: &[(String, String)], negotiated: bool) -> Option<String> {
    let configured: Vec<&str> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("vary"))
        .map(|(_, value)| value.as_str())
        .collect();
    let mut vary = configured.join(", ");
    let named = |name: &str| vary.split(',').any(|item| item.trim().eq_ignore_ascii_case(name));
    if negotiated && !named("accept-encoding") && !named("*") {
        if !vary.is_empty() {
            vary.push_str(", ");
        }
        vary.push_str("Accept-Encoding");
    }
    (!vary.is_empty()).then_some(vary)
}

/// FNV-1a of 64 bits: stable from build to build, so that every worker, and every run, gives the
/// same content the same entity tag.
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A rendered reply head, with the place of its Date value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) date_at: usize,
}

impl Head {
    /// The status line, Date, and the Connection field that the persist wants.
    pub(crate) fn new(status: u16, persist: Persist) -> Head {
        let mut bytes = format!("HTTP/1.1 {status} {}\r\nDate: ", status::phrase(status));
        let date_at = bytes.len();
        bytes.push_str("Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        debug_assert_eq!(bytes.len(), date_at + date::LEN + 2);
        let mut head = Head { bytes: bytes.into_bytes(), date_at };
        if let Some(option) = persist.option() {
            head.field("Connection", option);
        }
        head
    }

    pub(crate) fn field(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
    }

    pub(crate) fn end(mut self) -> Head {
        self.bytes.extend_from_slice(b"\r\n");
        self
    }
}
