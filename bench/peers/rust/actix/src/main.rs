//! actix-web with one worker.

use std::net::Ipv4Addr;
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "--version" {
        println!("actix-web {}", env!("PEER_VERSION"));
        return Ok(());
    }
    let port: u16 = argument.parse().expect("a port");
    HttpServer::new(|| App::new().route("/hello", web::get().to(hello)))
        .workers(1)
        .backlog(4096)
        .max_connections(20_000)
        .keep_alive(Duration::from_secs(300))
        .bind((Ipv4Addr::LOCALHOST, port))?
        .run()
        .await
}

async fn hello() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("Hello, World!")
}
