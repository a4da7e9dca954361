//! Extractors: what handlers take instead of the request.
//!
//! ```
//! use ember::extract::{Path, Query, State};
//! use ember::testing::Client;
//! use ember::{App, Json};
//!
//! #[derive(serde::Deserialize)]
//! struct Page {
//!     page: Option<u32>,
//! }
//!
//! struct Shop {
//!     name: &'static str,
//! }
//!
//! async fn items(
//!     State(shop): State<Shop>,
//!     Path(id): Path<u32>,
//!     Query(page): Query<Page>,
//! ) -> Json<serde_json::Value> {
//!     Json(serde_json::json!([shop.name, id, page.page.unwrap_or(1)]))
//! }
//!
//! let app = App::new().state(Shop { name: "a" }).get("/shelves/{id}/items", items);
//! let client = Client::new(app);
//! assert_eq!(client.get("/shelves/7/items?page=2").text(), r#"["a",7,2]"#);
//! assert_eq!(client.get("/shelves/x/items").status(), 400);
//! ```
//!
//! A handler whose arguments are no extractors is told so by the compiler:
//!
//! ```compile_fail
//! async fn count(number: u32) -> String {
//!     number.to_string()
//! }
//! ember::App::new().get("/count", count); // `u32` is no extractor
//! ```
//!
//! and so is one of whose extractors two want the body as it comes:
//!
//! ```compile_fail
//! use ember::extract::{BodyStream, Multipart};
//!
//! async fn twice(_: BodyStream, _: Multipart) {}
//! ember::App::new().post("/twice", twice);
//! ```

mod body;
mod client;
mod headers;
mod multipart;
mod path;

use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

pub use body::{BodyStream, Form, Query};
pub use client::ClientAddr;
pub use headers::{Cookies, Headers, LastEventId};
pub use multipart::{Field, Multipart};
pub use path::Path;

use crate::error::{Error, Result};
use crate::request::Request;

/// What an extractor needs of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyNeed {
    /// Nothing.
    None,
    /// It reads the whole.
    Whole,
    /// It takes the whole out.
    Taken,
    /// It takes the body as it comes.
    Stream,
}

/// What can be made of a request, to be an argument of a handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made of a request",
    label = "not an extractor",
    note = "extractors are `Path<T>`, `Query<T>`, `Json<T>`, `Form<T>`, `Headers`, `Cookies`, \
            `Vec<u8>`, `String`, `BodyStream`, `Multipart`, `State<T>`, `ThreadState<T>`, \
            `ClientAddr`, and `Option` or `Result` of one"
)]
pub trait FromRequest: Sized {
    /// What it needs of the body. The whole body has been received, within the route's limit, when
    /// [`FromRequest::from_request`] is called for one that wants it.
    const BODY: BodyNeed = BodyNeed::None;

    /// Makes it.
    ///
    /// # Errors
    /// What the client is told, mostly with status 400.
    fn from_request(request: &mut Request) -> impl Future<Output = Result<Self>>;
}

/// A state of the whole app (see [`App::state`](crate::App::state)), which all threads have.
#[derive(Debug)]
pub struct State<T: 'static>(pub Shared<T>);

/// A state of this thread (see [`App::thread_state`](crate::App::thread_state)).
#[derive(Debug)]
pub struct ThreadState<T>(pub Rc<T>);

/// A reference to a state of the app. A thread counts its own references, without a word to others.
#[derive(Debug)]
#[expect(clippy::redundant_allocation, reason = "the outer count is the thread's own")]
pub struct Shared<T>(Rc<Arc<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(state: Arc<T>) -> Shared<T> {
        Shared(Rc::new(state))
    }

    /// For other threads.
    #[must_use]
    pub fn arc(&self) -> Arc<T> {
        Arc::clone(&self.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Rc::clone(&self.0))
    }
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        State(self.0.clone())
    }
}

impl<T> Clone for ThreadState<T> {
    fn clone(&self) -> Self {
        ThreadState(Rc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for ThreadState<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> FromRequest for State<T> {
    async fn from_request(request: &mut Request) -> Result<Self> {
        request.state()
    }
}

impl<T: 'static> FromRequest for ThreadState<T> {
    async fn from_request(request: &mut Request) -> Result<Self> {
        request.thread_state()
    }
}

impl<T: FromRequest> FromRequest for Option<T> {
    const BODY: BodyNeed = T::BODY;

    async fn from_request(request: &mut Request) -> Result<Self> {
        Ok(T::from_request(request).await.ok())
    }
}

impl<T: FromRequest> FromRequest for Result<T, Error> {
    const BODY: BodyNeed = T::BODY;

    async fn from_request(request: &mut Request) -> Result<Self> {
        Ok(T::from_request(request).await)
    }
}

impl Request {
    /// The app's state of this type.
    ///
    /// # Errors
    /// 500 where the app has none.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<State<T>> {
        self.local().and_then(|local| local.state()).ok_or_else(no_state::<T>)
    }

    /// This thread's state of this type.
    ///
    /// # Errors
    /// 500 where the app has none.
    pub fn thread_state<T: 'static>(&self) -> Result<ThreadState<T>> {
        self.local().and_then(|local| local.state()).ok_or_else(no_state::<T>)
    }
}

pub(crate) fn no_state<T>() -> Error {
    let name = std::any::type_name::<T>();
    tracing::error!("a handler wants a state of type {name}, which the app has not: add it");
    Error::new(500, "the server lacks a state of its own")
}
