//! Replies rendered ahead.

use std::sync::Arc;

use crate::method::Method;
use crate::prepared::Rendered;
use crate::reply::Persist;
use crate::route::RouteId;

/// The number of a rendered reply of a [`Site`](crate::Site).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariantId(pub u16);

impl VariantId {
    /// As an index into a table of rendered replies.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A reply rendered ahead: one status, head or whole, in one coding and one persist.
#[derive(Clone, Debug)]
pub struct Variant {
    pub(crate) head: Vec<u8>,
    pub(crate) date_at: usize,
    pub(crate) body: Arc<[u8]>,
    pub(crate) status: u16,
    pub(crate) method: Method,
    pub(crate) route: Option<RouteId>,
    pub(crate) persist: Persist,
}

impl Variant {
    /// The head, with a date of 1970 at [`Variant::date_at`].
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Where the [`date::LEN`](crate::date::LEN) bytes of the Date value begin in the head.
    #[must_use]
    pub fn date_at(&self) -> usize {
        self.date_at
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The method that it was rendered for: GET or HEAD, although a reply to any method serves the
    /// others too.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The route, or none for the protocol's own replies.
    #[must_use]
    pub fn route(&self) -> Option<RouteId> {
        self.route
    }

    /// What it says about the connection.
    #[must_use]
    pub fn persist(&self) -> Persist {
        self.persist
    }

    /// The body; empty for replies without one. Shared between the variants of a route.
    #[must_use]
    pub fn body(&self) -> &Arc<[u8]> {
        &self.body
    }

    /// The length of head and body together.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a reply is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Kinds of rendered reply of one representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole,
    HeadOnly,
    NotModified,
    HeadNotModified,
}

impl Kind {
    pub(crate) fn method(self) -> Method {
        match self {
            Kind::Whole | Kind::NotModified => Method::Get,
            Kind::HeadOnly | Kind::HeadNotModified => Method::Head,
        }
    }
}

/// A prepared route's replies.
pub(crate) struct PreparedEntry {
    pub(crate) rendered: Rendered,
    pub(crate) first: u16,
    pub(crate) kinds: u16,
}

impl PreparedEntry {
    pub(crate) fn variant(&self, at: usize, kind: Kind, persist: Persist) -> VariantId {
        let of_representation = kind as u16 * 3 + persist as u16;
        VariantId(self.first + at as u16 * self.kinds * 3 + of_representation)
    }
}
