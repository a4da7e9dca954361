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
//! assert_eq!(app.routes().len(), 3);
//! ```
//!
//! Handlers are functions or `async fn`s, of a reference to the request or of the request itself
//! (see [`IntoHandler`]). They stay on the worker thread that has the connection and need not be
//! `Send`. What blocks, blocks the thread's other connections too: wait with [`time`], [`net`] and
//! futures that any executor can run. A handler that panics is answered with 500, and nobody else
//! notices; one whose client goes away is dropped.

#![forbid(unsafe_code)]

mod app;
mod blocking;
mod body;
pub mod cache;
mod error;
mod handler;
pub mod net;
mod prepared;
mod request;
mod response;
pub mod rt;
pub mod time;
#[cfg(feature = "tokio-runtime")]
pub mod tokio;

pub use app::{App, Route, RouteKind};
pub use blocking::{BlockingPool, blocking};
pub use body::{Body, BodyFeed, BodyStream, Upgrade};
#[cfg(feature = "redis")]
pub use cache::RedisCache;
pub use cache::TtlCache;
pub use ember_http::{Method, Methods, PatternError};
pub use ember_uring::{PeerAddr, Piece};
pub use error::{Error, Result};
pub use handler::{Handler, IntoHandler, Slot};
pub use prepared::Prepared;
pub use request::{PeerCell, Request, RequestBody};
pub use response::{Html, IntoResponse, Json, Redirect, Response, Text};
pub use rt::{JoinHandle, spawn};
