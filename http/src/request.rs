//! A request as its handler sees it: slices of the bytes that arrived.

use std::borrow::Cow;

use crate::coding::{self, Coding};
use crate::conditional::{self, Validators, Verdict};
use crate::framing::BodyKind;
use crate::head::{Head, Known, Version};
use crate::method::Method;
use crate::range::{self, Ranges};
use crate::route::{HandlerId, RouteId, RouteInfo};
use crate::router::ParamSpan;
use crate::target::{Target, TargetForm, decode_part};

/// A request that its route wants dispatched. Nothing of it is copied; it ends with the next call
/// of the connection.
pub struct Request<'a> {
    pub(crate) head: &'a Head,
    pub(crate) bytes: &'a [u8],
    pub(crate) target: Target<'a>,
    pub(crate) path: &'a str,
    pub(crate) params: &'a [ParamSpan],
    pub(crate) info: &'a RouteInfo,
    /// The route.
    pub route: RouteId,
    /// The route's handler.
    pub handler: HandlerId,
    /// How its body comes. Without one, no body event follows.
    pub body: BodyKind,
    /// Whether the client waits for 100 (Continue) before it sends the body; call
    /// [`Conn::want_body`](crate::Conn::want_body) when it is wanted.
    pub expects_continue: bool,
}

impl<'a> Request<'a> {
    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// The method as it was sent.
    #[must_use]
    pub fn method_bytes(&self) -> &'a [u8] {
        self.head.method_bytes(self.bytes)
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The whole target as it was sent.
    #[must_use]
    pub fn target(&self) -> &'a [u8] {
        self.head.target_bytes(self.bytes)
    }

    /// The target's form.
    #[must_use]
    pub fn target_form(&self) -> TargetForm {
        self.target.form
    }

    /// The path as it was sent, without the query.
    #[must_use]
    pub fn raw_path(&self) -> &'a [u8] {
        self.target.path
    }

    /// The normalised path: decoded but for `%2F` and `%25`, without dot segments.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The query as it was sent, without the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.target.query
    }

    /// The host and port that the request is for: of the target if it has them, else of the Host
    /// field. Empty if neither is there.
    #[must_use]
    pub fn authority(&self) -> &'a [u8] {
        let field = self.head.first(self.bytes, Known::Host);
        self.target.authority.or(field).unwrap_or_default()
    }

    /// What the site knows of the route.
    #[must_use]
    pub fn route_info(&self) -> &'a RouteInfo {
        self.info
    }

    /// A path parameter by name, decoded. A value of `{x:path}` can hold slashes that were
    /// encoded; whoever makes file names of it takes [`Request::raw_param`] and refuses `%2F`.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.info.params.iter().position(|param| param == name)?;
        self.raw_param(at).map(decode_part)
    }

    /// A path parameter by number, `%2F` and `%25` not decoded. That of a prefix route is what lies
    /// below the prefix, without the slash in between; there is none if the path is the prefix.
    #[must_use]
    pub fn raw_param(&self, at: usize) -> Option<&'a str> {
        let span = self.params.get(at)?;
        self.path.get(usize::from(span.start)..usize::from(span.end))
    }

    /// The field lines in order, as they were sent, values without the white space around them.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a> {
        let bytes = self.bytes;
        self.head.spans().iter().map(move |span| (span.name(bytes), span.value(bytes)))
    }

    /// The value of the first field line of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.field_values(name).next()
    }

    /// The values of all field lines of this name.
    pub fn field_values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The bytes of the whole head.
    #[must_use]
    pub fn head_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the preconditions come to (RFC 9110 section 13.2.2). Only for what would otherwise be
    /// answered with success.
    #[must_use]
    pub fn evaluate(&self, validators: &Validators<'_>) -> Verdict {
        conditional::evaluate(self.head, self.bytes, validators)
    }

    /// Which ranges of a representation of `len` bytes to send; to be asked after
    /// [`Request::evaluate`]. Range means something to GET only, and once.
    #[must_use]
    pub fn ranges(&self, validators: &Validators<'_>, len: u64) -> Ranges {
        ranges(self.head, self.bytes, validators, len)
    }

    /// Which of the codings the client wants most; see [`coding::negotiate`].
    #[must_use]
    pub fn negotiate(&self, offered: &[Coding]) -> Option<usize> {
        coding::negotiate(self.head.values(self.bytes, Known::AcceptEncoding), offered)
    }
}

pub(crate) fn ranges(head: &Head, bytes: &[u8], validators: &Validators<'_>, len: u64) -> Ranges {
    match head.first(bytes, Known::Range) {
        Some(value)
            if head.method == Method::Get
                && !head.is_repeated(Known::Range)
                && conditional::if_range(head, bytes, validators) =>
        {
            range::resolve(value, len)
        }
        _ => Ranges::Whole,
    }
}
