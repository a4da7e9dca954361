//! A small service with emberd's flags, config file and supervision:
//!
//!     cargo run --release -p ember --example hello -- --listen 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/users/7
//!     curl --data-binary @README.md http://127.0.0.1:8080/echo

use std::time::Duration;

use ember::{App, Error, Json, Prepared, Request, Response, Result};

fn main() -> Result<()> {
    emberd::run(
        App::new()
            .prepared("/hello", Prepared::text("Hello, World!"))
            .prepared("/health", Prepared::json(r#"{"status":"ok"}"#))
            .get("/users/{id:int}", user)
            .post("/echo", echo)
            .max_body(64 << 10)
            .get("/later/{ms:int}", later)
            .get("/panic", |_: &Request| -> Response { panic!("asked for") }),
    )
}

/// A reply made for the request.
fn user(request: &Request) -> Result<Json<serde_json::Value>> {
    let id = request.param("id").unwrap_or_default();
    match id.parse::<u32>() {
        Ok(id) if id > 0 => Ok(Json(serde_json::json!({ "id": id, "name": format!("user {id}") }))),
        _ => Err(Error::new(404, format!("no user {id}"))),
    }
}

/// A reply that is due after a while; the thread serves others meanwhile.
async fn later(request: &Request) -> Result<String> {
    let ms = request.param("ms").and_then(|ms| ms.parse().ok()).unwrap_or(u64::MAX);
    if ms > 10_000 {
        return Err(Error::new(400, "at most 10,000 milliseconds"));
    }
    ember::time::sleep(Duration::from_millis(ms)).await;
    Ok(format!("{ms} ms later"))
}

/// The body back as it came, with the media type that it came with.
fn echo(request: &Request) -> Response {
    let content_type = request.header("content-type").and_then(|v| std::str::from_utf8(v).ok());
    Response::new(200)
        .header("Content-Type", content_type.unwrap_or("application/octet-stream").to_owned())
        .body(request.body())
}
