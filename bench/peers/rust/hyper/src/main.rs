//! hyper without a framework, on one thread.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[derive(serde::Serialize)]
struct User {
    id: u32,
    name: String,
}

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "--version" {
        println!("hyper {}", env!("PEER_VERSION"));
        return;
    }
    let port: u16 = argument.parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(port));
}

async fn serve(port: u16) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.expect("a free port");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(
            // Replies to pipelined requests leave together.
            http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let id = path.strip_prefix("/users/").and_then(|id| id.parse().ok()).filter(|id| *id > 0);
    if let Some(id) = id {
        let user = User { id, name: format!("user {id}") };
        let body = serde_json::to_vec(&user).expect("numbers and text");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        return Ok(response);
    }
    let mut response = match path {
        "/hello" => Response::new(Full::new(Bytes::from_static(b"Hello, World!"))),
        _ => {
            let mut missing = Response::new(Full::new(Bytes::new()));
            *missing.status_mut() = StatusCode::NOT_FOUND;
            missing
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
