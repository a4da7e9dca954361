//! From a head that was read to who answers it.

use crate::bytes::elements;
use crate::conditional::{self, Validators, Verdict};
use crate::date;
use crate::framing::{self, BodyKind};
use crate::head::{Head, Known, Version};
use crate::method::{Method, Methods};
use crate::prepared::{self, Rendered, Representation};
use crate::range::{self, Multipart, Ranges};
use crate::reason::Reason;
use crate::reply::{After, Persist};
use crate::request;
use crate::route::{Answers, RouteId, SlashStrategy};
use crate::router::{Lookup, ParamSpan};
use crate::site::Site;
use crate::target::{self, Target, TargetForm};
use crate::variant::{Kind, VariantId};

/// A reply that the protocol made for one request: 405 with Allow, redirects, OPTIONS, ranges of
/// prepared replies.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The whole reply, with a date of 1970.
    pub bytes: Vec<u8>,
    /// Where the Date value begins.
    pub date_at: usize,
    /// The status code.
    pub status: u16,
    /// The request's method.
    pub method: Method,
    /// The prepared route that it is a part of.
    pub route: Option<RouteId>,
    /// Why the protocol answered.
    pub reason: Reason,
    /// What the connection does behind it.
    pub after: After,
}

impl Answer {
    /// Sets the date.
    pub fn set_date(&mut self, date: &[u8; date::LEN]) {
        self.bytes[self.date_at..][..date::LEN].copy_from_slice(date);
    }
}

/// What a head says beside its target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) body: BodyKind,
    /// The client wants the connection to go on.
    pub(crate) keep_alive: bool,
    /// The client waits for 100 (Continue).
    pub(crate) expects_continue: bool,
}

/// Checks what the head's syntax alone does not (RFC 9112 sections 3.2, 6 and 9.3).
pub(crate) fn examine(head: &Head, bytes: &[u8]) -> Result<Facts, Reason> {
    if head.is_repeated(Known::Host) {
        return Err(Reason::HostRepeated);
    }
    match head.first_place(Known::Host) {
        Some(place) if !target::is_authority(bytes, &place) => return Err(Reason::Host),
        Some(_) => {}
        None if head.version == Version::Http11 => return Err(Reason::HostMissing),
        None => {}
    }
    let body = framing::body_kind(head, bytes)?;
    let expects_continue = expectation(head, bytes)? && body != BodyKind::None;
    Ok(Facts { body, keep_alive: keep_alive(head, bytes), expects_continue })
}

/// RFC 9112 section 9.3.
fn keep_alive(head: &Head, bytes: &[u8]) -> bool {
    let mut keep = head.version == Version::Http11;
    if !head.has(Known::Connection) {
        return keep;
    }
    if let Some(value) = head.first(bytes, Known::Connection)
        && !head.is_repeated(Known::Connection)
        && value.eq_ignore_ascii_case(b"keep-alive")
    {
        return true; // what browsers send
    }
    for option in head.values(bytes, Known::Connection).flat_map(elements) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep
}

/// RFC 9110 section 10.1.1.
fn expectation(head: &Head, bytes: &[u8]) -> Result<bool, Reason> {
    if !head.has(Known::Expect) || head.version == Version::Http10 {
        return Ok(false);
    }
    let known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
    if head.values(bytes, Known::Expect).all(known) { Ok(true) } else { Err(Reason::Expectation) }
}

/// Who answers.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A rendered reply. `exact` says that nothing but the bytes of the head decided.
    Prepared { variant: VariantId },
    /// A rendered error, or what the reason's status stands for.
    Error { reason: Reason },
    /// A reply made for this request.
    Answer(Box<Answer>),
    /// A handler.
    Dispatch { route: RouteId, path_in_scratch: bool },
}

/// What routing works on.
pub(crate) struct Routing<'r> {
    pub(crate) site: &'r Site,
    pub(crate) head: &'r Head,
    pub(crate) bytes: &'r [u8],
    pub(crate) persist: Persist,
}

impl Routing<'_> {
    /// Finds who answers. The path, if it had to be changed, is left in `scratch`.
    pub(crate) fn route(
        &self,
        scratch: &mut String,
        params: &mut Vec<ParamSpan>,
    ) -> Result<Outcome, Reason> {
        let method = self.head.method;
        let target = target::of_head(self.head, self.bytes)?;
        match target.form {
            // No tunnels: RFC 9110 section 9.3.6 leaves this to the server.
            TargetForm::Authority => return Err(Reason::MethodUnknown),
            TargetForm::Asterisk => return Ok(self.options(self.site.methods())),
            TargetForm::Origin | TargetForm::Absolute => {}
        }
        let path = if self.head.target_closer || target.form != TargetForm::Origin {
            target::normalise(target.path, scratch)?
        } else {
            std::str::from_utf8(target.path).map_err(|_| Reason::Path)?
        };
        let path_in_scratch = path.as_ptr() != target.path.as_ptr();
        let host = if self.site.has_hosts() { self.host(&target) } else { &[] };
        match self.site.find(method, host, path, params) {
            Lookup::Route(route) => Ok(self.found(RouteId(route), path_in_scratch)),
            Lookup::OtherMethods(methods) => Ok(self.other_methods(methods)),
            Lookup::Nothing => {
                let strict = self.site.slashes == SlashStrategy::Strict;
                let other = if strict { None } else { other_slash(path) };
                Ok(self.nothing(&target, host, other, scratch, params))
            }
        }
    }

    fn host<'t>(&'t self, target: &Target<'t>) -> &'t [u8] {
        let field = self.head.first(self.bytes, Known::Host);
        let authority = target.authority.or(field).unwrap_or_default();
        target::host_without_port(authority).unwrap_or_default()
    }

    fn found(&self, route: RouteId, path_in_scratch: bool) -> Outcome {
        match self.site.route(route).answers {
            Answers::Prepared(at) => self.prepared(usize::from(at), route),
            Answers::Handler(_) => Outcome::Dispatch { route, path_in_scratch },
        }
    }

    /// Chooses among a prepared route's replies: coding, then preconditions, then ranges
    /// (RFC 9110 section 13.2.2).
    fn prepared(&self, at: usize, route: RouteId) -> Outcome {
        let entry = &self.site.prepared[at];
        let rendered = &entry.rendered;
        let codings = &rendered.codings;
        let chosen = if codings.len() > 1 && self.head.has(Known::AcceptEncoding) {
            let values = self.head.values(self.bytes, Known::AcceptEncoding);
            crate::coding::negotiate(values, codings)
        } else {
            None
        };
        let chosen = chosen.unwrap_or(codings.len() - 1);
        let head_only = self.head.method == Method::Head;
        let mut kind = if head_only { Kind::HeadOnly } else { Kind::Whole };
        if rendered.is_conditional() {
            let representation = &rendered.representations[chosen];
            let validators = Validators {
                etag: representation.etag.as_deref(),
                last_modified: rendered.prepared.last_modified,
            };
            match conditional::evaluate(self.head, self.bytes, &validators) {
                Verdict::Failed => return Outcome::Error { reason: Reason::Precondition },
                Verdict::NotModified if head_only => kind = Kind::HeadNotModified,
                Verdict::NotModified => kind = Kind::NotModified,
                Verdict::Proceed if self.head.has(Known::Range) => {
                    let len = representation.body.len() as u64;
                    let ranges = request::ranges(self.head, self.bytes, &validators, len);
                    if let Some(answer) = self.partial(rendered, representation, &ranges, route) {
                        return answer;
                    }
                }
                Verdict::Proceed => {}
            }
        }
        Outcome::Prepared { variant: entry.variant(chosen, kind, self.persist) }
    }

    /// The 206 or 416 for ranges of a prepared reply.
    fn partial(
        &self,
        rendered: &Rendered,
        representation: &Representation,
        ranges: &Ranges,
        route: RouteId,
    ) -> Option<Outcome> {
        let body = &representation.body;
        let len = body.len() as u64;
        let content_type = rendered.prepared.content_type.as_deref();
        let slice = |range: &std::ops::Range<u64>| &body[range.start as usize..range.end as usize];
        let status = if *ranges == Ranges::Unsatisfiable { 416 } else { 206 };
        let mut head = prepared::Head::new(status, self.persist);
        let mut content = Vec::new();
        match ranges {
            Ranges::Whole => return None,
            Ranges::Unsatisfiable => head.field("Content-Range", &format!("bytes */{len}")),
            Ranges::One(range) => {
                if let Some(content_type) = content_type {
                    head.field("Content-Type", content_type);
                }
                rendered.describe_part(&mut head, representation);
                head.field("Content-Range", &range::content_range(range, len));
                content.extend_from_slice(slice(range));
            }
            Ranges::Many(ranges) => {
                let seed = prepared::content_hash(body);
                let multipart = Multipart::new(ranges, len, content_type, seed);
                head.field("Content-Type", &multipart.content_type());
                rendered.describe_part(&mut head, representation);
                for (part_head, range) in multipart.part_heads.iter().zip(ranges) {
                    content.extend_from_slice(part_head.as_bytes());
                    content.extend_from_slice(slice(range));
                }
                content.extend_from_slice(multipart.end.as_bytes());
            }
        }
        Some(self.answer(head, &content, status, Reason::Range, Some(route)))
    }

    fn other_methods(&self, methods: Methods) -> Outcome {
        match self.head.method {
            Method::Options => self.options(methods),
            // RFC 9110 section 9.1: unknown here, and not just to this path.
            Method::Other if !self.site.methods().contains(Method::Other) => {
                Outcome::Error { reason: Reason::MethodUnknown }
            }
            _ => {
                let mut head = prepared::Head::new(405, self.persist);
                head.field("Allow", &methods.served().allow());
                let text = b"405 Method Not Allowed\n";
                head.field("Content-Type", "text/plain; charset=utf-8");
                self.answer(head, text, 405, Reason::MethodNotAllowed, None)
            }
        }
    }

    fn options(&self, methods: Methods) -> Outcome {
        let mut head = prepared::Head::new(204, self.persist);
        head.field("Allow", &methods.served().allow());
        self.answer(head, b"", 204, Reason::Options, None)
    }

    fn nothing(
        &self,
        target: &Target<'_>,
        host: &[u8],
        other: Option<String>,
        scratch: &mut String,
        params: &mut Vec<ParamSpan>,
    ) -> Outcome {
        let reason = match self.head.method {
            Method::Other if !self.site.methods().contains(Method::Other) => Reason::MethodUnknown,
            _ => Reason::NotFound,
        };
        let Some(other) = other else { return Outcome::Error { reason } };
        match self.site.find(self.head.method, host, &other, params) {
            // A path of slashes alone, or one that begins with two, would name another host.
            Lookup::Route(_) if other.starts_with("//") => Outcome::Error { reason },
            Lookup::Route(route) if self.site.slashes == SlashStrategy::Ignore => {
                // The handler sees the path of its route, whose parameters are places in it.
                *scratch = other;
                self.found(RouteId(route), true)
            }
            Lookup::Route(_) => self.redirect(&other, target.query),
            _ => Outcome::Error { reason },
        }
    }

    fn redirect(&self, path: &str, query: Option<&[u8]>) -> Outcome {
        let mut location = target::encode_path(path);
        if let Some(query) = query {
            location.push('?');
            location.push_str(&String::from_utf8_lossy(query));
        }
        let mut head = prepared::Head::new(308, self.persist);
        head.field("Location", &location);
        self.answer(head, b"", 308, Reason::Slash, None)
    }

    fn answer(
        &self,
        mut head: prepared::Head,
        content: &[u8],
        status: u16,
        reason: Reason,
        route: Option<RouteId>,
    ) -> Outcome {
        if !crate::status::is_bodiless(status) {
            head.field("Content-Length", &content.len().to_string());
        }
        let mut head = head.end();
        let method = self.head.method;
        if method != Method::Head {
            head.bytes.extend_from_slice(content);
        }
        Outcome::Answer(Box::new(Answer {
            bytes: head.bytes,
            date_at: head.date_at,
            status,
            method,
            route,
            reason,
            after: After::Open,
        }))
    }
}

/// The path that differs in the slash at its end.
fn other_slash(path: &str) -> Option<String> {
    match path.strip_suffix('/') {
        Some("") => None,
        Some(shorter) => Some(shorter.to_owned()),
        None => Some(format!("{path}/")),
    }
}
