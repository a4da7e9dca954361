//! Middleware: what stands around handlers.
//!
//! A middleware is a type that implements [`Middleware`](crate::Middleware), or an `async fn`:
//!
//! ```
//! use ember::testing::Client;
//! use ember::{App, Next, Request, Response};
//!
//! async fn timed(request: Request, next: Next<'_>) -> Response {
//!     let since = std::time::Instant::now();
//!     let response = next.run(request).await;
//!     response.header("Server-Timing", format!("all;dur={}", since.elapsed().as_millis()))
//! }
//!
//! let client = Client::new(App::new().get("/", async |_: &Request| "x").wrap(timed));
//! assert!(client.get("/").header("server-timing").is_some());
//! ```

mod auth;
mod compress;
mod cors;
mod limit;
mod request_id;
mod security;
mod trace;

pub use auth::{ApiKey, Bearer};
pub use compress::Compress;
pub use cors::Cors;
pub use limit::{Key, RateLimit, TokenBucket};
pub use request_id::{RequestId, RequestIds};
pub use security::SecurityHeaders;
pub use trace::Trace;
