//! The cache of an application, on a runtime that only these tests drive.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use ember_http::{Conn, Event, HandlerId, Input, Memo, Method, Methods, Site, SiteBuilder};
use ember_uring::Piece;

use super::*;
use crate::body::Body;
use crate::response::{IntoResponse as _, Response};
use crate::rt::Runtime;
use crate::rt::tests::run;
use crate::{JoinHandle, Request};

/// Calls of a handler, which the test answers.
#[derive(Default)]
struct Calls {
    open: VecDeque<Rc<RefCell<Call>>>,
    count: usize,
}

#[derive(Default)]
struct Call {
    answer: Option<Response>,
    waker: Option<Waker>,
    dropped: bool,
}

thread_local! {
    static CALLS: RefCell<Calls> = RefCell::default();
}

struct Guard(Rc<RefCell<Call>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.borrow_mut().dropped = true;
    }
}

fn handler() -> Handler {
    Handler::new(|_: Request| {
        let call = Rc::new(RefCell::new(Call::default()));
        CALLS.with_borrow_mut(|calls| {
            calls.open.push_back(Rc::clone(&call));
            calls.count += 1;
        });
        async move {
            let guard = Guard(call);
            std::future::poll_fn(|cx| {
                let mut call = guard.0.borrow_mut();
                call.waker = Some(cx.waker().clone());
                call.answer.take().map_or(Poll::Pending, Poll::Ready)
            })
            .await
        }
    })
}

struct Bench {
    runtime: Runtime,
    site: Arc<Site>,
    handler: Handler,
}

impl Bench {
    fn new(cache: &impl RouteCache) -> Bench {
        let mut site = SiteBuilder::new();
        let methods = Methods::of(&[Method::Get, Method::Post]);
        site.dynamic(ember_http::Route::new("any", "/{rest:path}"), methods, HandlerId(0));
        CALLS.set(Calls::default());
        Bench {
            runtime: Runtime::new(|| {}),
            site: Arc::new(site.build().unwrap()),
            handler: cache.wrap(handler()),
        }
    }

    fn request(&self, line: &str, fields: &str) -> Request {
        let bytes = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (mut conn, mut memo) = (Conn::new(0), Memo::new());
        let mut input = Input::new(bytes.as_bytes(), 0);
        let Event::Request(head) = conn.next(&self.site, &mut memo, &mut input) else {
            panic!("{bytes} is a request")
        };
        Request::of_head(&head, &self.site, self.runtime.reserve(), None)
    }

    fn ask(&self, line: &str, fields: &str) -> JoinHandle<String> {
        let _entered = self.runtime.enter();
        let (handler, request) = (self.handler.clone(), self.request(line, fields));
        let handle = crate::spawn(async move { said(handler.call(request).await) });
        run(&self.runtime);
        handle
    }

    /// Answers the oldest call of the handler.
    fn answer(&self, response: Response) {
        let _entered = self.runtime.enter();
        let call = CALLS.with_borrow_mut(|calls| calls.open.pop_front()).expect("a call");
        call.borrow_mut().answer = Some(response);
        let waker = call.borrow_mut().waker.take();
        waker.expect("a call that waits").wake();
        run(&self.runtime);
    }

    fn end(&self, handle: JoinHandle<String>) -> String {
        let _entered = self.runtime.enter();
        assert!(handle.is_finished(), "it should have been answered");
        let told = Rc::new(RefCell::new(String::new()));
        let to = Rc::clone(&told);
        drop(crate::spawn(async move { *to.borrow_mut() = handle.await.unwrap() }));
        run(&self.runtime);
        told.take()
    }

    /// A request that the cache answers.
    fn hit(&self, line: &str, fields: &str) -> String {
        let before = calls();
        let handle = self.ask(line, fields);
        assert_eq!(calls(), before, "{line} {fields} should be answered by the cache");
        self.end(handle)
    }

    /// A request for which the handler is called.
    fn miss(&self, line: &str, fields: &str, response: Response) -> String {
        let before = calls();
        let handle = self.ask(line, fields);
        assert_eq!(calls(), before + 1, "{line} {fields} should not be answered by the cache");
        self.answer(response);
        self.end(handle)
    }
}

fn calls() -> usize {
    CALLS.with_borrow(|calls| calls.count)
}

fn said(mut response: Response) -> String {
    let body = match response.take_body() {
        Body::Static(bytes) => bytes.to_vec(),
        Body::Bytes(bytes) => bytes,
        Body::Piece(Piece::Shared(bytes)) => bytes.to_vec(),
        other => panic!("{other:?}"),
    };
    format!("{} {}", response.status(), String::from_utf8(body).unwrap())
}

fn text(body: &str) -> Response {
    Response::text(200, body.to_owned())
}

fn failed() -> Response {
    crate::Error::new(503, "away").into_response()
}

#[test]
fn replies_are_told_apart_by_method_path_query_and_chosen_fields() {
    let bench = Bench::new(&TtlCache::secs(600).vary(["Accept", "X-B"]));
    let asks = [
        ("GET /a", ""),
        ("HEAD /a", ""),
        ("GET /a?", ""),
        ("GET /a?q", ""),
        ("GET /b", ""),
        ("GET /a", "Accept: text/html\r\n"),
        ("GET /a", "Accept: text/html\r\nAccept: text/plain\r\n"),
        ("GET /a", "Accept: text/html\r\nX-B: text/plain\r\n"),
        ("GET /a", "X-B:\r\n"),
    ];
    for (at, (line, fields)) in asks.iter().enumerate() {
        assert_eq!(bench.miss(line, fields, text(&at.to_string())), format!("200 {at}"));
    }
    for (at, (line, fields)) in asks.iter().enumerate() {
        assert_eq!(bench.hit(line, fields), format!("200 {at}"));
    }
    assert_eq!(bench.hit("GET /a", "X-C: other\r\n"), "200 0");
}

#[test]
fn what_is_nobody_elses_business_goes_past() {
    let cache = TtlCache::secs(600);
    let bench = Bench::new(&cache);
    for fields in ["Cookie: a=b\r\n", "Authorization: Basic x\r\n", "If-Match: \"x\"\r\n"] {
        for _ in 0..2 {
            assert_eq!(bench.miss("GET /a", fields, text("mine")), "200 mine");
        }
    }
    assert_eq!(bench.miss("POST /a", "Content-Length: 0\r\n", text("done")), "200 done");
    assert_eq!(cache.stats().bypassed, 7);
    assert!(cache.is_empty());
    let told_apart = Bench::new(&TtlCache::secs(600).vary(["Cookie"]));
    for user in ["a", "b"] {
        told_apart.miss("GET /a", &format!("Cookie: {user}\r\n"), text(user));
    }
    assert_eq!(told_apart.hit("GET /a", "Cookie: a\r\n"), "200 a");
    let shared = Bench::new(&TtlCache::secs(600).shared_between_users());
    shared.miss("GET /a", "Cookie: a\r\n", text("all"));
    assert_eq!(shared.hit("GET /a", "Authorization: b\r\n"), "200 all");
}

#[test]
fn one_call_serves_all_who_ask_meanwhile() {
    let cache = TtlCache::secs(600);
    let bench = Bench::new(&cache);
    let all: Vec<_> = (0..5).map(|_| bench.ask("GET /a", "")).collect();
    assert_eq!(calls(), 1);
    bench.answer(text("once"));
    for handle in all {
        assert_eq!(bench.end(handle), "200 once");
    }
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.coalesced, stats.hits), (1, 4, 0));
}

#[test]
fn a_leader_that_fails_or_leaves_is_followed_by_one_of_those_who_wait() {
    let bench = Bench::new(&TtlCache::secs(600));
    let all: Vec<_> = (0..4).map(|_| bench.ask("GET /a", "")).collect();
    bench.answer(failed());
    assert!(all[0].is_finished() && calls() == 2, "one of the others leads");
    {
        // The second leader's client goes away.
        let _entered = bench.runtime.enter();
        all[1].abort();
        run(&bench.runtime);
    }
    let dropped = CALLS.with_borrow_mut(|calls| calls.open.pop_front()).expect("its call");
    assert!(dropped.borrow().dropped && calls() == 3, "its work has ended, and one more leads");
    bench.answer(text("at last"));
    let mut said = all.into_iter().enumerate();
    assert!(bench.end(said.next().unwrap().1).starts_with("503"));
    for (_, handle) in said.skip(1) {
        assert_eq!(bench.end(handle), "200 at last");
    }
    assert_eq!(calls(), 3);
}

#[test]
fn what_is_not_cacheable_is_asked_for_by_everybody() {
    let bench = Bench::new(&TtlCache::secs(600));
    let all: Vec<_> = (0..3).map(|_| bench.ask("GET /a", "")).collect();
    bench.answer(text("mine").header("Set-Cookie", "a=b"));
    assert_eq!(calls(), 3, "those who waited do not wait for one another");
    bench.answer(text("2").header("Set-Cookie", "a=c"));
    bench.answer(text("3").header("Set-Cookie", "a=d"));
    let said: Vec<_> = all.into_iter().map(|handle| bench.end(handle)).collect();
    assert_eq!(said, ["200 mine", "200 2", "200 3"]);
}

#[test]
fn a_stale_reply_is_used_while_one_refreshes_it_and_where_the_handler_fails() {
    let cache = TtlCache::new(Duration::ZERO);
    let bench = Bench::new(&cache.clone().stale(Duration::from_secs(600)));
    bench.miss("GET /a", "", text("old"));
    let refreshing = bench.ask("GET /a", "");
    assert_eq!((bench.end(refreshing), calls()), ("200 old".to_owned(), 2));
    assert_eq!(bench.hit("GET /a", ""), "200 old", "one refresh at a time");
    bench.answer(text("new"));
    let handle = bench.ask("GET /a", "");
    assert_eq!(bench.end(handle), "200 new");

    let bench = Bench::new(&TtlCache::new(Duration::ZERO).stale_if_error(Duration::from_secs(600)));
    bench.miss("GET /a", "", text("old"));
    assert_eq!(bench.miss("GET /a", "", failed()), "200 old");
    assert_eq!(bench.miss("GET /a", "", text("new")), "200 new");
    assert!(bench.miss("GET /b", "", failed()).starts_with("503"));
}

#[test]
fn replies_are_forgotten_by_path_and_by_prefix() {
    let cache = TtlCache::secs(600);
    let bench = Bench::new(&cache);
    for line in ["GET /t", "GET /t?page=2", "GET /t/1", "GET /tt"] {
        bench.miss(line, "", text(line));
    }
    assert_eq!(cache.invalidate("/t"), 2);
    bench.miss("GET /t", "", text("again"));
    assert_eq!(bench.hit("GET /t/1", ""), "200 GET /t/1");
    assert_eq!(cache.invalidate_prefix("/t/"), 1);
    assert_eq!(bench.hit("GET /tt", ""), "200 GET /tt");
    // A reply that was being made when it was forgotten is not kept.
    let before = bench.ask("GET /u", "");
    cache.invalidate("/u");
    bench.answer(text("outdated"));
    assert_eq!(bench.end(before), "200 outdated");
    assert_eq!(bench.miss("GET /u", "", text("up to date")), "200 up to date");
}

#[test]
fn bounds_on_entries_and_bytes_hold() {
    let limits = StoreLimits { entries_max: 2, bytes_max: 10_000, value_bytes_max: 1000 };
    let cache = TtlCache::secs(600).limits(limits);
    let bench = Bench::new(&cache);
    for line in ["GET /1", "GET /2", "GET /3"] {
        bench.miss(line, "", text(line));
    }
    assert_eq!(cache.len(), 2);
    bench.miss("GET /1", "", text("again"));
    bench.miss("GET /large", "", text(&"x".repeat(1000)));
    bench.miss("GET /large", "", text(&"x".repeat(1000)));
}
