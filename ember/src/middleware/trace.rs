//! Spans of requests.

use tracing::Instrument as _;
use tracing::field::Empty;

use super::request_id::RequestId;
use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::Response;

/// Runs handlers in a `tracing` span `request` with the fields `method`, `route`, `path`, `id`
/// (inside of [`RequestIds`](super::RequestIds)) and `status`. Where nobody wants spans it costs a
/// comparison.
///
/// ```
/// use ember::middleware::{RequestIds, Trace};
/// use ember::{App, Request};
///
/// let app = App::new()
///     .get("/", async |_: &Request| "x")
///     .wrap_all(Trace)
///     .wrap_all(RequestIds::new());
/// # assert_eq!(ember::testing::Client::new(app).get("/").status(), 200);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Trace;

impl Middleware for Trace {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let span = tracing::info_span!(
            "request",
            method = request.method().as_str(),
            route = request.route(),
            path = request.path(),
            id = request.get::<RequestId>().map(|id| id.0.as_str()),
            status = Empty
        );
        if span.is_disabled() {
            return next.run(request).await;
        }
        let response = next.run(request).instrument(span.clone()).await;
        span.record("status", response.status());
        response
    }
}
