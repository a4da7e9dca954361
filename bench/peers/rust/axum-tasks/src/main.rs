//! The tasks application on axum and tokio-postgres, on one thread: the same statements as
//! ember/examples/tasks, with as many connections, pipelined.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Json, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

const LIST: &str =
    "SELECT json_build_object('tasks', (SELECT coalesce(json_agg(page), '[]') FROM (
         SELECT * FROM tasks ORDER BY created_at DESC, id LIMIT $2::bigint
         OFFSET ($1::bigint - 1) * $2::bigint) page),
         'total', (SELECT count(*) FROM tasks), 'page', $1::bigint, 'limit', $2::bigint)::text";
const GET: &str = "SELECT row_to_json(tasks)::text FROM tasks WHERE id = $1";
const CREATE: &str = "INSERT INTO tasks (id, title, description, completed, priority)
         VALUES ($1, $2, $3, $4, $5) RETURNING row_to_json(tasks)::text";

struct Database {
    connections: Vec<Connection>,
    next: AtomicUsize,
}

struct Connection {
    client: Client,
    list: Statement,
    get: Statement,
    create: Statement,
}

#[derive(Deserialize)]
struct Page {
    page: Option<i64>,
    limit: Option<i64>,
}

#[derive(Deserialize)]
struct NewTask {
    title: String,
    description: Option<String>,
    #[serde(default)]
    completed: bool,
    #[serde(default)]
    priority: i32,
}

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "--version" {
        println!("axum {}", env!("PEER_VERSION"));
        return;
    }
    let port: u16 = argument.parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(port));
}

async fn serve(port: u16) {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    let count = std::env::var("TASKS_CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut connections = Vec::new();
    for _ in 0..count {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a database");
        tokio::spawn(connection);
        let list = client.prepare(LIST).await.expect("a statement");
        let get = client.prepare(GET).await.expect("a statement");
        let create = client.prepare(CREATE).await.expect("a statement");
        connections.push(Connection { client, list, get, create });
    }
    let database = Arc::new(Database { connections, next: AtomicUsize::new(0) });
    let app = Router::new()
        .route("/tasks", get(list).post(create))
        .route("/tasks/{id}", get(task))
        .with_state(database);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.expect("serving goes on");
}

async fn list(State(database): State<Arc<Database>>, Query(page): Query<Page>) -> Response {
    let (page, limit) = (page.page.unwrap_or(1), page.limit.unwrap_or(20));
    database.answer(StatusCode::OK, |c| &c.list, &[&page, &limit]).await
}

async fn task(State(database): State<Arc<Database>>, Path(id): Path<Uuid>) -> Response {
    database.answer(StatusCode::OK, |c| &c.get, &[&id]).await
}

async fn create(State(database): State<Arc<Database>>, Json(task): Json<NewTask>) -> Response {
    let NewTask { title, description, completed, priority } = &task;
    let id = Uuid::new_v4();
    let parameters: [&(dyn ToSql + Sync); 5] = [&id, title, description, completed, priority];
    database.answer(StatusCode::CREATED, |c| &c.create, &parameters).await
}

impl Database {
    async fn answer(
        &self,
        status: StatusCode,
        statement: fn(&Connection) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Response {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let connection = &self.connections[at];
        match connection.client.query_opt(statement(connection), parameters).await {
            Ok(Some(row)) => {
                let text: String = row.get(0);
                (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
            }
            Ok(None) => StatusCode::NOT_FOUND.into_response(),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}
