//! Clients of other services on the worker's own ring: an HTTP client (hyper) and a Redis client
//! (redis-rs), which know nothing of ember; work on other threads; and a tokio runtime for what
//! insists on one.
//!
//!     REDIS=127.0.0.1:6379 cargo run --release -p ember --example clients -- --listen 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/fetch/127.0.0.1/8080/sum
//!     curl http://127.0.0.1:8080/count

use std::time::Duration;

use ember::net::{SendStream, Stream};
use ember::{App, Error, Request, Result, TtlCache};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};

const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let cache = TtlCache::secs(60);
    let forget = cache.clone();
    emberd::run(
        App::new()
            .get("/fetch/{host}/{port:int}/{path:path}", fetch)
            .get("/count", count)
            .get("/sum", sum)
            .get("/tokio", on_tokio)
            .get("/kept", |_: &Request| format!("{:?}\n", std::time::Instant::now()))
            .cache(cache)
            .delete("/kept", move |_: &Request| format!("{}\n", forget.invalidate("/kept"))),
    )
}

/// The body of another server's reply.
async fn fetch(request: &Request) -> Result<Vec<u8>> {
    let away = |error: &dyn std::fmt::Display| Error::new(502, error.to_string());
    let host = request.param("host").unwrap_or_default();
    let port = request.param("port").and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| Error::new(400, "no such port"))?;
    let path = format!("/{}", request.param("path").unwrap_or_default());
    let stream = Stream::connect_to(PATIENCE, &host, port).await.map_err(|e| away(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| away(&e))?;
    drop(ember::spawn(connection));
    let ask = hyper::Request::get(path).header("host", &*host).body(Empty::<&[u8]>::new());
    let reply = sender.send_request(ask.map_err(|e| away(&e))?).await.map_err(|e| away(&e))?;
    let body = reply.into_body().collect().await.map_err(|e| away(&e))?;
    Ok(body.to_bytes().to_vec())
}

/// Counts in Redis.
async fn count(_: &Request) -> Result<String> {
    let away = |error: &dyn std::fmt::Display| Error::new(503, error.to_string());
    let place = std::env::var("REDIS").unwrap_or_else(|_| "127.0.0.1:6379".to_owned());
    let (host, port) = place.rsplit_once(':').unwrap_or((&place, ""));
    let port = port.parse().map_err(|_| Error::new(500, "REDIS has the form host:port"))?;
    let stream = Stream::connect_to(PATIENCE, host, port).await.map_err(|e| away(&e))?;
    // Its own time limit is one of tokio's timers; ours is `ember::time::timeout`.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let talk = async {
        let stream = SendStream::from(stream);
        let who = RedisConnectionInfo::default();
        let (mut redis, driver) =
            MultiplexedConnection::new_with_config(&who, stream, config).await?;
        drop(ember::spawn(driver));
        redis::cmd("INCR").arg("ember:count").query_async::<u64>(&mut redis).await
    };
    let counted = ember::time::timeout(PATIENCE, talk).await.map_err(|e| away(&e))?;
    Ok(format!("{}\n", counted.map_err(|e| away(&e))?))
}

/// CPU work elsewhere; the thread serves others meanwhile.
async fn sum(_: &Request) -> Result<String> {
    let sum = ember::blocking(|| (0..1_000_000_u64).fold(0, u64::wrapping_add)).await?;
    Ok(format!("{sum}\n"))
}

/// What only runs on tokio.
async fn on_tokio(_: &Request) -> Result<String> {
    ember::tokio::run(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let thread = std::thread::current();
        format!("{}\n", thread.name().unwrap_or_default())
    })
    .await
}
