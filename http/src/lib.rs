//! The HTTP/1.1 server protocol of emberd, sans-IO: bytes in, events out.
//!
//! There is no clock here, no socket and no unsafe code; time and bytes are arguments. A [`Site`]
//! holds what is served: read-only tables that any number of threads share. A [`Conn`] is one
//! connection's machine: give it what was received as an [`Input`], call [`Conn::next`] until it
//! asks for more, and do what each [`Event`] says.
//!
//! What a peer sends never panics and is never read in two ways: a head that RFC 9112 does not
//! allow is refused with the connection closed, not guessed at.

#![forbid(unsafe_code)]

mod body;
mod conn;
pub mod date;
mod head;
mod memo;
pub mod path;
mod refusal;
pub mod reply;
mod site;

pub use conn::{Conn, Event, Input, Phase, Request};
pub use head::{Head, HeadError, Header, Method, Version};
pub use memo::Memo;
pub use refusal::{Reason, Refusal};
pub use reply::Persist;
pub use site::{
    HandlerId, Limits, PreparedSource, RouteId, RouteKind, Site, SiteBuilder, SiteError, Variant,
    VariantId,
};
