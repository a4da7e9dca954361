//! Time limits, waiting clients, and ends of connections.

mod common;

use common::{Client, builder, site};
use ember_http::{Conn, Event, Input, Limits, Memo, Phase, Reason};

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_dripping_head_ends_at_its_limit_however_often_a_byte_comes() {
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let head_ms_max = u64::from(site.limits().head_ms_max);
    // The first head is timed from the accept.
    for now_ms in (0..head_ms_max).step_by(500) {
        let left = u64::from(conn.time_left(&site, now_ms).expect("a limit"));
        assert_eq!(left, head_ms_max - now_ms);
        assert!(matches!(conn.next(&site, &mut memo, &mut Input::new(b"G", now_ms)), Event::More));
    }
    assert_eq!(conn.phase(), Phase::Head);
    assert_eq!(conn.time_left(&site, head_ms_max), Some(0));
    let refusal = conn.handle_timeout(&site, head_ms_max).expect("a reply for a begun request");
    assert_eq!(refusal.reason, Reason::HeadTimeout);
    assert_eq!(site.variant(refusal.variant).status(), 408);
    assert_eq!(conn.phase(), Phase::Linger);
}

#[test]
fn an_idle_connection_closes_without_a_word() {
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let mut input = Input::new(HELLO, 1000);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Prepared { .. }));
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::More));
    assert_eq!(conn.phase(), Phase::Idle);
    assert_eq!(conn.time_left(&site, 1000), Some(site.limits().idle_ms_max));
    assert_eq!(conn.handle_timeout(&site, 50_000), None);
    let mut input = Input::new(HELLO, 50_000);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Close));
}

#[test]
fn a_body_below_the_lowest_rate_is_refused() {
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let head = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
    let mut input = Input::new(head, 0);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Request(_)));
    let mut now_ms = 0;
    while conn.time_left(&site, now_ms) != Some(0) {
        now_ms += 1000;
        let mut input = Input::new(b"x", now_ms);
        assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Body(b"x")));
        assert!(now_ms < 60_000, "a byte a second is too slow");
    }
    assert!(now_ms >= u64::from(site.limits().rate_grace_ms));
    let refusal = conn.handle_timeout(&site, now_ms).expect("a reply");
    assert_eq!(refusal.reason, Reason::BodyTimeout);
}

#[test]
fn lingering_drops_what_comes_up_to_its_limits() {
    let mut builder = builder();
    builder.limits(Limits { linger_bytes_max: 100, ..Limits::default() });
    let site = builder.build().expect("a legal site");
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let mut input = Input::new(b"BAD\r\n", 0);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Refuse(_)));
    assert_eq!(conn.time_left(&site, 0), Some(site.limits().linger_ms_max));
    for _ in 0..3 {
        let mut input = Input::new(HELLO, 10);
        assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::More));
    }
    let mut input = Input::new(HELLO, 10);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Close));
}

#[test]
fn the_last_request_by_number_age_or_drain_says_so() {
    let mut builder = builder();
    builder.limits(Limits { requests_max: 3, age_ms_max: 1000, ..Limits::default() });
    let mut client = Client::new(builder.build().expect("a legal site"));
    client.send(&HELLO.repeat(5));
    let replies = String::from_utf8(client.sent.clone()).expect("ASCII");
    assert_eq!(replies.matches("HTTP/1.1 200").count(), 3);
    assert_eq!(replies.matches("Connection: close").count(), 1);
    assert!(client.log.ends_with("after Linger\n"), "{}", client.log);

    client.reconnect();
    client.send(HELLO);
    client.now_ms = 1001;
    client.send(HELLO);
    // It did not ask for the end and may have sent more: a reset could overtake the reply.
    assert!(client.log.ends_with("after Linger\n"), "{}", client.log);

    client.reconnect();
    client.send(HELLO);
    assert!(client.conn.is_idle());
    client.conn.drain();
    client.send(HELLO);
    assert!(client.log.ends_with("after Linger\n"), "{}", client.log);

    client.reconnect();
    client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(client.log.ends_with("after Close\nclose\n"), "{}", client.log);
}

#[test]
fn a_client_that_waits_is_told_to_go_on_when_the_body_is_wanted() {
    // RFC 9110 section 10.1.1.
    let head =
        b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut client = Client::new(site());
    client.send(head);
    assert_eq!(client.sent, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"ab");
    assert!(client.log.ends_with("body \"ab\"\n"), "{}", client.log);
    // Whoever does not wait is not told.
    client.reconnect();
    client.send(&[&head[..], b"ab"].concat());
    assert!(client.sent.starts_with(b"HTTP/1.1 200"));
    // A reply without the body: it may or may not come, so that the connection cannot go on.
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let mut input = Input::new(head, 0);
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Request(_)));
    assert!(conn.reply_context(&site).persist.closes());
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::More));
    conn.replied(&site, false, 0);
    assert_eq!(conn.phase(), Phase::Linger);
}

#[test]
fn what_is_behind_a_request_under_way_waits() {
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let bytes = [b"GET /tasks/1 HTTP/1.1\r\nHost: h\r\n\r\n", HELLO, HELLO].concat();
    let mut input = Input::new(&bytes, 0);
    match conn.next(&site, &mut memo, &mut input) {
        Event::Request(request) => assert_eq!(request.param("id").as_deref(), Some("1")),
        _ => panic!("a handler's request"),
    }
    assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Wait));
    assert!(input.rest().is_empty());
    assert_eq!(conn.time_left(&site, 0), None);
    assert!(conn.is_dispatched());
    conn.handle_eof();
    conn.replied(&site, false, 0);
    // A client that has only shut its sending side down is still answered.
    let mut count = 0;
    loop {
        match conn.next(&site, &mut memo, &mut Input::none(0)) {
            Event::Prepared { count: hits, .. } => count += hits,
            Event::Close => break,
            _ => panic!("two prepared hits, then the end"),
        }
    }
    assert_eq!(count, 2);
}

#[test]
fn a_pipelined_run_is_one_event_and_idle_needs_no_memory() {
    let site = site();
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let bytes = HELLO.repeat(17);
    let mut input = Input::new(&bytes, 0);
    let mut counts = Vec::new();
    while let Event::Prepared { count, .. } = conn.next(&site, &mut memo, &mut input) {
        counts.push(count);
    }
    assert_eq!(counts, [1, 16]);
    assert!(conn.is_idle());
    assert!(size_of::<Conn>() <= 64);
}

#[test]
fn a_memo_is_not_used_for_another_site() {
    let (one, other) = (site(), builder().build().expect("a legal site"));
    let mut memo = Memo::new();
    let mut conn = Conn::new(0);
    let _ = conn.next(&one, &mut memo, &mut Input::new(HELLO, 0));
    let mut empty = ember_http::SiteBuilder::new();
    empty.prepared(
        ember_http::Route::new("else", "/else"),
        ember_http::Prepared::new("text/plain", *b"else"),
    );
    let empty = empty.build().expect("a legal site");
    let mut conn = Conn::new(0);
    let _ = conn.next(&other, &mut memo, &mut Input::new(HELLO, 0));
    let mut conn = Conn::new(0);
    let twice = HELLO.repeat(2);
    let event = conn.next(&empty, &mut memo, &mut Input::new(&twice, 0));
    assert!(matches!(event, Event::Refuse(refusal) if refusal.reason == Reason::NotFound));
}
