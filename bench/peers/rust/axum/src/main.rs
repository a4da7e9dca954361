//! axum on tokio's single-threaded runtime.

use std::net::Ipv4Addr;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

#[derive(serde::Serialize)]
struct User {
    id: u32,
    name: String,
}

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "--version" {
        println!("axum {}", env!("PEER_VERSION"));
        return;
    }
    let port: u16 = argument.parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let app = Router::new()
            .route("/hello", get(|| async { "Hello, World!" }))
            .route("/users/{id}", get(user));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, app).await.expect("serving goes on");
    });
}

async fn user(Path(id): Path<u32>) -> Result<Json<User>, StatusCode> {
    match id {
        0 => Err(StatusCode::NOT_FOUND),
        id => Ok(Json(User { id, name: format!("user {id}") })),
    }
}
