//! A request that outlives the bytes it came in.

use crate::framing::BodyKind;
use crate::head::Head;
use crate::request::Request;
use crate::route::{HandlerId, RouteId};
use crate::router::ParamSpan;
use crate::site::Site;
use crate::target::{Target, TargetForm};

/// A copy of a request for a handler that does not answer at once. Its memory is reused: copying
/// into one that has held a request of this size before allocates nothing.
#[derive(Debug)]
pub struct OwnedRequest {
    head: Head,
    bytes: Vec<u8>,
    form: TargetForm,
    authority: Option<Part>,
    /// None where the target leaves it out.
    raw_path: Option<Part>,
    query: Option<Part>,
    path: String,
    params: Vec<ParamSpan>,
    /// The route.
    pub route: RouteId,
    /// The route's handler.
    pub handler: HandlerId,
    /// How its body comes.
    pub body: BodyKind,
    /// Whether the client waits for 100 (Continue).
    pub expects_continue: bool,
}

/// A range of the head's bytes, which are no more than 64 KiB.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: u16,
    len: u16,
}

impl OwnedRequest {
    /// Room for a request, as if `GET /` had been read.
    #[must_use]
    pub fn new() -> OwnedRequest {
        OwnedRequest {
            head: Head::new(),
            bytes: Vec::new(),
            form: TargetForm::Origin,
            authority: None,
            raw_path: None,
            query: None,
            path: String::new(),
            params: Vec::new(),
            route: RouteId(0),
            handler: HandlerId(0),
            body: BodyKind::None,
            expects_continue: false,
        }
    }

    /// Takes over a request.
    pub fn copy_from(&mut self, request: &Request<'_>) {
        self.head.copy_from(request.head);
        self.bytes.clear();
        self.bytes.extend_from_slice(request.bytes);
        let part = |of: &[u8]| Part::of(request.bytes, of);
        self.form = request.target.form;
        self.authority = request.target.authority.and_then(part);
        self.raw_path = part(request.target.path);
        self.query = request.target.query.and_then(part);
        self.path.clear();
        self.path.push_str(request.path);
        self.params.clear();
        self.params.extend_from_slice(request.params);
        self.route = request.route;
        self.handler = request.handler;
        self.body = request.body;
        self.expects_continue = request.expects_continue;
    }

    /// The request as it was dispatched. The site must be the one that it was dispatched by.
    ///
    /// # Panics
    /// Where the site has no such route.
    #[must_use]
    pub fn view<'a>(&'a self, site: &'a Site) -> Request<'a> {
        let of = |part: Part| part.bytes(&self.bytes);
        Request {
            head: &self.head,
            bytes: &self.bytes,
            target: Target {
                form: self.form,
                authority: self.authority.map(of),
                path: match (self.raw_path, self.form) {
                    (Some(part), _) => of(part),
                    // Not cut from the head, but the protocol's own words.
                    (None, TargetForm::Asterisk) => b"*",
                    (None, TargetForm::Authority) => b"",
                    (None, _) => b"/",
                },
                query: self.query.map(of),
            },
            path: &self.path,
            params: &self.params,
            info: site.route(self.route),
            route: self.route,
            handler: self.handler,
            body: self.body,
            expects_continue: self.expects_continue,
        }
    }
}

impl Default for OwnedRequest {
    fn default() -> Self {
        OwnedRequest::new()
    }
}

impl Part {
    /// Where a part lies in the whole that it was cut from, if it was.
    fn of(whole: &[u8], part: &[u8]) -> Option<Part> {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        if start.saturating_add(part.len()) > whole.len() {
            return None;
        }
        Some(Part { start: start as u16, len: part.len() as u16 })
    }

    fn bytes(self, whole: &[u8]) -> &[u8] {
        &whole[usize::from(self.start)..][..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::{Conn, Event, Input};
    use crate::memo::Memo;
    use crate::method::{Method, Methods};
    use crate::route::Route;
    use crate::site::SiteBuilder;

    fn look(request: &Request<'_>) -> String {
        let fields: Vec<_> = request.fields().collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            request.method(),
            request.target(),
            request.authority(),
            request.path(),
            request.raw_path(),
            request.query(),
            request.param("id"),
            request.body,
            fields,
        )
    }

    #[test]
    fn a_copy_reads_as_the_request_did() {
        let mut site = SiteBuilder::new();
        let methods = Methods::of(&[Method::Get, Method::Post]);
        site.dynamic(Route::new("user", "/users/{id}"), methods, HandlerId(3));
        site.dynamic(Route::new("root", "/"), methods, HandlerId(4));
        let site = site.build().unwrap();
        let mut owned = OwnedRequest::new();
        let requests: [&[u8]; 4] = [
            b"GET /users/7 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\nGET /x/../users/%41?q=%20 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX:  y \r\n\r\n",
            b"POST http://b:8/users/8?z HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
            b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for bytes in requests {
            let (mut conn, mut memo) = (Conn::new(0), Memo::new());
            let mut input = Input::new(bytes, 0);
            let Event::Request(request) = conn.next(&site, &mut memo, &mut input) else {
                panic!("{:?} is a request", bytes.escape_ascii().to_string());
            };
            owned.copy_from(&request);
            assert_eq!(look(&owned.view(&site)), look(&request));
        }
    }
}
