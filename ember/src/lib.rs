//! HTTP services in Rust on the rings of emberd.
//!
//! An [`App`] is a list of routes: prepared ones, which are rendered once and answered by linked
//! chains without any code of yours, and handlers, which are called by the dispatch loop of the
//! worker thread that has the connection. Hand it to `emberd::run`, and the program has all of
//! emberd's flags, config file and supervision:
//!
//! ```
//! use ember::{App, Json, Prepared, Request};
//!
//! fn user(request: &Request) -> ember::Result<Json<serde_json::Value>> {
//!     let id: u32 = request.param("id").and_then(|id| id.parse().ok()).unwrap_or(0);
//!     if id == 0 {
//!         return Err(ember::Error::new(404, "no such user"));
//!     }
//!     Ok(Json(serde_json::json!({ "id": id })))
//! }
//!
//! let app = App::new()
//!     .prepared("/health", Prepared::json(r#"{"status":"ok"}"#))
//!     .get("/users/{id:int}", user)
//!     .post("/echo", |request: &Request| request.body().to_vec());
//! let client = ember::testing::Client::new(app);
//! assert_eq!(client.get("/users/7").text(), r#"{"id":7}"#);
//! assert_eq!(client.get("/users/0").status(), 404);
//! assert_eq!(client.post("/echo", "hello").text(), "hello");
//! ```
//!
//! Handlers are functions or `async fn`s, of a reference to the request or of the request itself
//! (see [`IntoHandler`]), or `async fn`s of what is [extracted](extract) from it. They stay on the
//! worker thread that has the connection and need not be `Send`. What blocks, blocks the thread's
//! other connections too: wait with [`time`], [`net`] and futures that any executor can run. A
//! handler that panics is answered with 500, and nobody else notices; one whose client goes away is
//! dropped.

#![forbid(unsafe_code)]

mod app;
mod blocking;
mod body;
pub mod cache;
pub mod channel;
mod context;
mod error;
pub mod extract;
mod file;
mod handler;
pub mod hooks;
pub mod middleware;
pub mod net;
mod prepared;
mod program;
mod request;
mod response;
pub mod rt;
pub mod sse;
mod table;
pub mod testing;
pub mod time;
#[cfg(feature = "tokio-runtime")]
pub mod tokio;

pub use app::{App, Scope};
pub use blocking::{BlockingPool, blocking};
pub use body::{Body, BodyFeed, BodyStream, Upgrade};
#[cfg(feature = "redis")]
pub use cache::RedisCache;
pub use cache::TtlCache;
pub use cookie::Cookie;
pub use ember_http::{Method, Methods, PatternError};
pub use ember_uring::{PeerAddr, Piece};
pub use error::{Error, Result};
pub use extract::{Form, FromRequest, Path, Query, State, ThreadState};
pub use file::File;
pub use handler::{Handler, IntoHandler, Middleware, Next, Slot};
pub use prepared::Prepared;
pub use program::{Program, Route, RouteKind};
pub use request::{PeerCell, Request, RequestBody};
pub use response::{AfterSent, Html, IntoResponse, Json, Redirect, Response, Text};
pub use rt::{JoinHandle, spawn};
pub use sse::Sse;

/// The guide's examples.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Guide;
