//! Every kind of handler: plain and asynchronous ones, bodies that come and go in pieces, and a
//! connection that is taken over.
//!
//!     cargo run --release -p ember --example handlers -- --listen 127.0.0.1:8080
//!     curl http://127.0.0.1:8080/count/5
//!     curl -T Cargo.lock http://127.0.0.1:8080/length

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ember::net::Stream;
use ember::{App, Body, BodyStream, Error, Piece, Request, Response, Result, Upgrade};

fn main() -> Result<()> {
    emberd::run(
        App::new()
            .get("/plain", |_: &Request| "at once\n")
            .get("/later/{ms:int}", later)
            .put("/length", length)
            .put("/loaded", loaded)
            .get("/count/{to:int}", count)
            .get("/broken", broken)
            .get("/spawned", spawned)
            .get("/never", async |_: &Request| std::future::pending::<&'static str>().await)
            .get("/shout", shout)
            .get("/who", who),
    )
}

/// A reply that is due after a while; the thread serves others meanwhile.
async fn later(request: &Request) -> Result<String> {
    let ms = request.param("ms").and_then(|ms| ms.parse().ok()).unwrap_or(u64::MAX);
    if ms > 10_000 {
        return Err(Error::new(400, "at most 10,000 milliseconds"));
    }
    ember::time::sleep(Duration::from_millis(ms)).await;
    Ok(format!("{ms} ms later\n"))
}

/// Reads a body of any length in pieces, without keeping it.
async fn length(mut request: Request) -> Result<String> {
    let mut len = 0;
    while let Some(piece) = request.next_piece().await {
        len += piece?.len();
    }
    Ok(format!("{len}\n"))
}

/// A handler that borrows its request finds the body complete.
async fn loaded(request: &Request) -> String {
    ember::time::yield_now().await;
    format!(
        "{} {}\n",
        request.body().len(),
        request.body().iter().map(|b| u64::from(*b)).sum::<u64>()
    )
}

/// Numbers, one line each, made while they go out.
struct Count {
    next: u64,
    to: u64,
}

impl BodyStream for Count {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        if self.next >= self.to {
            return Poll::Ready(None);
        }
        self.next += 1;
        if self.next.is_multiple_of(1000) {
            // As if the next ones had to be waited for.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Some(Ok(Piece::Owned(format!("{}\n", self.next).into_bytes()))))
    }
}

async fn count(request: &Request) -> Response {
    let to = request.param("to").and_then(|to| to.parse().ok()).unwrap_or(0);
    Response::new(200)
        .header("Content-Type", "text/plain; charset=utf-8")
        .with_body(Body::stream(Count { next: 0, to }))
}

/// A body that cannot be completed: the client finds the connection closed.
struct Broken(bool);

impl BodyStream for Broken {
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Piece>>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        Poll::Ready(Some(Ok(Piece::Owned(b"the first half".to_vec()))))
    }
}

async fn broken(_: &Request) -> Response {
    Response::new(200).with_body(Body::stream(Broken(false)))
}

/// Work beside the handler.
async fn spawned(_: &Request) -> Result<String> {
    let tasks: Vec<_> = (1..=3)
        .map(|n| {
            ember::spawn(async move {
                ember::time::sleep(Duration::from_millis(4 - n)).await;
                n
            })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.map_err(|error| Error::new(500, error.to_string()))?;
    }
    Ok(format!("{sum}\n"))
}

/// Another protocol on the same connection: lines come back in capitals.
async fn shout(_: &Request) -> Response {
    Response::new(101).header("Upgrade", "shout").with_body(Body::Upgrade(Upgrade::new(
        |stream: Stream| async move {
            // The peer is gone: nobody is left to tell.
            let _ = answer_loudly(stream).await;
        },
    )))
}

async fn answer_loudly(mut stream: Stream) -> io::Result<()> {
    loop {
        let bytes = stream.buffer().to_ascii_uppercase();
        stream.consume(bytes.len());
        if !bytes.is_empty() {
            stream.send(bytes).await?;
        } else if stream.fill().await? == 0 {
            return stream.shutdown().await;
        }
    }
}

/// The address of the client.
async fn who(request: &Request) -> Result<String> {
    Ok(format!("{:?}\n", request.peer().await?))
}
