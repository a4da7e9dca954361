//! What a request costs of the heap. One test: the counts are of the whole process.

use std::alloc::System;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ember::rt::Runtime;
use ember::{App, Next, Request, Response, RouteKind, State};
use ember_http::{Conn, Event, HandlerId, Input, Memo, Methods, Site, SiteBuilder};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

struct Word(&'static str);

async fn plain(request: &Request) -> Response {
    Response::new(if request.path() == "/plain" { 204 } else { 500 })
}

async fn extracting(State(word): State<Word>) -> Response {
    Response::new(if word.0 == "w" { 204 } else { 500 })
}

async fn around(request: Request, next: Next<'_>) -> Response {
    next.run(request).await
}

async fn allocating(request: &Request) -> Response {
    Response::text(200, request.path().to_owned())
}

fn site(routes: &[ember::Route]) -> Arc<Site> {
    let mut builder = SiteBuilder::new();
    for (at, route) in routes.iter().enumerate() {
        let declared = ember_http::Route::new(&route.name, &route.pattern);
        builder.dynamic(declared, Methods::ANY, HandlerId(at as u16));
    }
    Arc::new(builder.build().unwrap())
}

#[test]
fn a_handler_that_does_not_suspend_allocates_nothing() {
    let app = App::new()
        .state(Word("w"))
        .get("/plain", plain)
        .get("/extracting", extracting)
        .get("/around", extracting)
        .wrap(around)
        .wrap(around)
        .timeout(std::time::Duration::from_secs(1))
        .get("/allocating", allocating);
    let program = app.build().unwrap();
    let site = site(program.routes());
    let runtime = Runtime::new(|| ());
    let _entered = runtime.enter();
    for (at, route) in program.routes().iter().enumerate() {
        let RouteKind::Handlers(handlers) = &route.kind else { unreachable!() };
        let mut slot = handlers[0].1.slot();
        let bytes = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", route.pattern);
        let (mut conn, mut memo) = (Conn::new(0), Memo::new());
        let mut count = 0;
        // The first call makes what the thread keeps.
        for _ in 0..3 {
            let mut input = Input::new(bytes.as_bytes(), 0);
            let Event::Request(head) = conn.next(&site, &mut memo, &mut input) else {
                panic!("a request")
            };
            let region = Region::new(GLOBAL);
            let task = runtime.reserve();
            slot.start(Request::of_head(&head, &site, task, None));
            let polled = slot.poll(&mut Context::from_waker(Waker::noop()));
            runtime.release(task);
            let change = region.change();
            count = change.allocations + change.reallocations;
            let Poll::Ready(response) = polled else { panic!("{} suspends", route.pattern) };
            assert!(response.status() < 300);
            drop(response);
            conn.replied(&site, false, 0);
        }
        // The last one shows that they are counted at all.
        assert_eq!(count == 0, at < 3, "{}: {count} allocations", route.pattern);
    }
}
