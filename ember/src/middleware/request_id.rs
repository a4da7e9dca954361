//! Names of requests, for logs.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::Response;

/// Gives every request a name, which handlers find with `request.get::<RequestId>()` and clients in
/// `X-Request-Id`.
///
/// ```
/// use ember::middleware::{RequestId, RequestIds};
/// use ember::testing::Client;
/// use ember::{App, Request};
///
/// async fn name(request: &Request) -> String {
///     request.get::<RequestId>().unwrap().0.clone()
/// }
///
/// let client = Client::new(App::new().get("/", name).wrap(RequestIds::new().believe()));
/// let (one, two) = (client.get("/"), client.get("/"));
/// assert_eq!(one.header("x-request-id"), Some(one.text()));
/// assert_ne!(one.text(), two.text());
/// assert_eq!(client.send("GET", "/", &[("X-Request-Id", "abc-1")], "").text(), "abc-1");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestIds {
    believes: bool,
}

/// The name of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

impl RequestIds {
    /// New names for all requests.
    #[must_use]
    pub fn new() -> RequestIds {
        RequestIds::default()
    }

    /// A name that the client, or a proxy before this server, has given is kept, if it is at most 64
    /// letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn believe(mut self) -> RequestIds {
        self.believes = true;
        self
    }
}

impl Middleware for RequestIds {
    async fn handle(&self, mut request: Request, next: Next<'_>) -> Response {
        let given = request.header("x-request-id").filter(|_| self.believes).and_then(readable);
        let id = given.map_or_else(fresh, str::to_owned);
        request.insert(RequestId(id.clone()));
        next.run(request).await.set_header("X-Request-Id", id)
    }
}

fn readable(id: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(id).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=64).contains(&id.len()) && id.bytes().all(is_plain)).then_some(id)
}

/// A number of the thread's own, behind one that no other thread has: random bits of the system, as
/// the standard library seeds its maps with.
fn fresh() -> String {
    thread_local! {
        static STATE: (u64, Cell<u64>) = (RandomState::new().build_hasher().finish(), Cell::new(0));
    }
    STATE.with(|(thread, count)| {
        count.set(count.get() + 1);
        format!("{thread:016x}{:08x}", count.get())
    })
}
