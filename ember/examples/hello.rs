//! A small service with emberd's flags, config file and supervision:
//!
//!     cargo run --release -p ember --example hello -- --listen 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/users/7
//!     curl --data-binary @README.md http://127.0.0.1:8080/echo
//!     curl -N http://127.0.0.1:8080/clock
//!     websocat ws://127.0.0.1:8080/ws

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::Role;
use async_tungstenite::tungstenite::{Error as WsError, Message};
use ember::extract::{BodyStream, Headers, LastEventId};
use ember::net::Stream;
use ember::sse::Event;
use ember::{
    App, Body, Error, IntoResponse, Json, Path, Prepared, Request, Response, Result, Sse, Upgrade,
};

fn main() -> Result<()> {
    emberd::run(
        App::new()
            .prepared("/hello", Prepared::text("Hello, World!"))
            .prepared("/health", Prepared::json(r#"{"status":"ok"}"#))
            .get("/users/{id:int}", user)
            .post("/echo", echo)
            .max_body(64 << 10)
            .get("/clock", clock)
            .get("/ws", websocket)
            .get("/later/{ms:int}", later)
            .get("/panic", |_: &Request| -> Response { panic!("asked for") }),
    )
}

/// A reply made for the request.
async fn user(Path(id): Path<u32>) -> Result<Json<serde_json::Value>> {
    if id == 0 {
        return Err(Error::new(404, "no user 0"));
    }
    Ok(Json(serde_json::json!({ "id": id, "name": format!("user {id}") })))
}

/// The body back as it comes, with the media type that it has. It is never here as a whole.
async fn echo(headers: Headers, body: BodyStream) -> Response {
    let content_type = headers.get("content-type").unwrap_or("application/octet-stream");
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let body = match length {
        Some(length) => Body::from_stream_of(length, body),
        None => Body::from_stream(body),
    };
    Response::new(200).header("Content-Type", content_type.to_owned()).with_body(body)
}

/// The seconds since 1970, one event each. A client that comes again is told those it has missed.
async fn clock(LastEventId(seen): LastEventId) -> Response {
    let seen: Option<u64> = seen.and_then(|id| id.parse().ok());
    let (events, sse) = Sse::channel(4);
    ember::spawn(async move {
        let hello = Event::comment("seconds since 1970").retry(Duration::from_secs(2));
        if events.send(hello).await.is_err() {
            return;
        }
        // No further back than a minute, whatever the client says.
        let mut next = seen.map_or(u64::MAX, |id| id + 1).clamp(second() - 60, second());
        loop {
            let event = Event::new(next.to_string()).id(next).event("second");
            if events.send(event).await.is_err() {
                return; // the client is gone
            }
            next += 1;
            while second() < next {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let left = Duration::from_secs(next).saturating_sub(since);
                ember::time::sleep(left).await;
            }
        }
    });
    sse.heartbeat(Duration::from_secs(15)).into_response()
}

fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A WebSocket (RFC 6455) by a library that works on any stream of `futures-io`.
async fn websocket(headers: Headers) -> Result<Response> {
    let is = |name, wanted: &str| {
        headers.all(name).flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
    };
    let key = headers.get("sec-websocket-key");
    let Some(key) = key.filter(|_| is("upgrade", "websocket") && is("connection", "upgrade"))
    else {
        return Err(Error::new(426, "this is a WebSocket").header("Upgrade", "websocket"));
    };
    if headers.get("sec-websocket-version") != Some("13") {
        let error = Error::new(400, "version 13 is spoken here");
        return Err(error.header("Sec-WebSocket-Version", "13"));
    }
    let upgrade = Upgrade::new(|stream: Stream| async move {
        // The peer is gone: nobody is left to tell.
        let _ = echo_messages(stream).await;
    });
    Ok(Response::new(101)
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Accept", derive_accept_key(key.as_bytes()))
        .with_body(Body::Upgrade(upgrade)))
}

async fn echo_messages(stream: Stream) -> Result<(), WsError> {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(message) = next(&mut socket).await {
        // Pings are answered, and closes too, by the library.
        if let message @ (Message::Text(_) | Message::Binary(_)) = message? {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn next<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_next(cx)).await
}

/// A reply that is due after a while; the thread serves others meanwhile.
async fn later(Path(ms): Path<u64>) -> Result<String> {
    if ms > 10_000 {
        return Err(Error::new(400, "at most 10,000 milliseconds"));
    }
    ember::time::sleep(Duration::from_millis(ms)).await;
    Ok(format!("{ms} ms later"))
}
