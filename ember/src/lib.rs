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
//! Handlers of this version are plain functions that must not block: whatever they wait for, the
//! thread's other connections wait for too. A handler that panics is answered with 500, and
//! nobody else notices.

#![forbid(unsafe_code)]

mod app;
pub mod cache;
mod error;
mod prepared;
mod request;
mod response;

pub use app::{App, Handler, Route, RouteKind};
pub use ember_http::{Method, Methods, PatternError};
pub use error::{Error, Result};
pub use prepared::Prepared;
pub use request::Request;
pub use response::{Html, IntoResponse, Json, Redirect, Response};
