//! The HTTP/1.1 server protocol of emberd, sans-IO: no clock, no socket, no unsafe.
//!
//! A [`Site`] is what is served: routes, prepared replies and limits, built once and shared. A
//! [`Conn`] is one connection's state machine: it is fed the bytes that were received and says
//! what to do. A [`Memo`] is what one thread remembers between requests. [`ReplyContext`] writes
//! the heads of replies that handlers make. [`upstream`] is the other side, for a gateway.
//!
//! The protocol is RFC 9110 and RFC 9112, read strictly: whatever two readers could take in two
//! ways is refused.
#![forbid(unsafe_code)]

mod bytes;
pub mod caching;
mod carry;
pub mod coding;
pub mod conditional;
mod conn;
pub mod date;
mod dispatch;
mod explain;
mod field_block;
mod framing;
mod head;
mod limits;
mod memo;
mod method;
mod owned;
mod pace;
mod prepared;
pub mod proxy_protocol;
pub mod range;
mod reason;
mod reply;
mod request;
mod route;
mod router;
mod site;
pub mod status;
mod target;
pub mod upstream;
mod variant;

pub use conn::{Conn, Event, Input, Phase, Refusal};
pub use dispatch::Answer;
pub use explain::{Explained, Explanation};
pub use field_block::FieldBlock;
pub use framing::BodyKind;
#[doc(hidden)]
pub use head::HeadReader;
pub use head::Version;
pub use limits::Limits;
pub use memo::Memo;
pub use method::{Method, Methods};
pub use owned::OwnedRequest;
pub use pace::{Pace, PaceLimits};
pub use prepared::Prepared;
pub use reason::Reason;
pub use reply::{
    After, CONTINUE, FieldError, LAST_CHUNK, Persist, ReplyContext, ReplyFraming, ReplyLength,
    chunk_head,
};
pub use request::Request;
pub use route::{HandlerId, Route, RouteId, RouteInfo, SiteError, SlashStrategy};
pub use router::{Converter, PatternError};
pub use site::{Site, SiteBuilder, normalise_host, normalise_path};
pub use target::{TargetForm, decode_part, encode_path};
pub use variant::{Variant, VariantId};
