//! Tasks in PostgreSQL: lists, single ones, creation, changes and deletion, over the connections
//! that each worker thread has on its own ring.
//!
//!     DATABASE_URL=postgres://me@localhost/tasks \
//!         cargo run --release -p ember --example tasks -- --listen 127.0.0.1:8080
//!     curl -d '{"title":"Write it down"}' http://127.0.0.1:8080/tasks
//!     curl 'http://127.0.0.1:8080/tasks?page=1'
//!
//! Environment: `DATABASE_URL` (a URL or `host=… dbname=…`; a host that begins with `/` is the
//! directory of a unix socket), `TASKS_CONNECTIONS` for each thread (2), `TASKS_CACHE`, which is
//! `ttl` (replies to reads are kept for a second), `off`, or the URL of a Redis server. Tables are
//! made and brought up to date with the first connection.

mod db;

use std::borrow::Cow;
use std::time::Duration;

use ember::cache::RouteCache;
use ember::{App, Error, Handler, Prepared, RedisCache, Request, Response, Result};
use ember::{Body, TtlCache};
use serde::Deserialize;
use uuid::Uuid;

use db::Statement;

/// How long replies to reads are kept.
const KEEP: Duration = Duration::from_secs(1);
/// Tasks of a page, if the request does not say.
const PAGE_LIMIT: i64 = 20;
const PAGE_LIMIT_MAX: i64 = 100;
const TITLE_CHARS_MAX: usize = 500;
const BODY_BYTES_MAX: u64 = 64 << 10;

/// What keeps replies to reads.
#[derive(Clone)]
enum Cache {
    Off,
    Ttl(TtlCache),
    Redis(RedisCache),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    title: String,
    description: Option<String>,
    #[serde(default)]
    completed: bool,
    #[serde(default)]
    priority: i32,
}

/// What is absent stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    title: Option<String>,
    description: Option<String>,
    completed: Option<bool>,
    priority: Option<i32>,
}

fn main() -> Result<()> {
    let cache = Cache::from_env()?;
    db::settings()?; // a wrong setting is told now, not by the first request
    let (changed, deleted) = (cache.clone(), cache.clone());
    emberd::run(
        App::new()
            .prepared("/health", Prepared::json(r#"{"status":"ok"}"#))
            .get("/tasks", list)
            .cache(cache.clone())
            .post("/tasks", create)
            .max_body(BODY_BYTES_MAX)
            .get("/tasks/{id:uuid}", get_task)
            .cache(cache)
            .patch("/tasks/{id:uuid}", async move |request: &Request| {
                let reply = change(request).await?;
                changed.forget(request.path()).await;
                Ok::<_, Error>(reply)
            })
            .delete("/tasks/{id:uuid}", async move |request: &Request| {
                delete(request).await?;
                deleted.forget(request.path()).await;
                Ok::<_, Error>(())
            })
            .max_body(BODY_BYTES_MAX),
    )
}

/// A page of tasks and how many there are, in one statement.
async fn list(request: &Request) -> Result<Response> {
    let page = query_number(request, "page", 1, i64::MAX / PAGE_LIMIT_MAX)?;
    let limit = query_number(request, "limit", PAGE_LIMIT, PAGE_LIMIT_MAX)?;
    let found = db::text(Statement::List, &[&page, &limit]).await?;
    Ok(json(200, found.unwrap_or_default()))
}

async fn get_task(request: &Request) -> Result<Response> {
    let id = id(request)?;
    let found = db::text(Statement::Get, &[&id]).await?;
    Ok(json(200, found.ok_or_else(|| no_task(&id))?))
}

async fn create(request: &Request) -> Result<Response> {
    let task: NewTask = request.json()?;
    check_title(&task.title)?;
    let id = Uuid::new_v4();
    let NewTask { title, description, completed, priority } = &task;
    let made = db::text(Statement::Create, &[&id, title, description, completed, priority]).await?;
    Ok(json(201, made.unwrap_or_default()).header("Location", format!("/tasks/{id}")))
}

async fn change(request: &Request) -> Result<Response> {
    let id = id(request)?;
    let change: Change = request.json()?;
    change.title.as_deref().map_or(Ok(()), check_title)?;
    let Change { title, description, completed, priority } = &change;
    let made = db::text(Statement::Update, &[&id, title, description, completed, priority]).await?;
    Ok(json(200, made.ok_or_else(|| no_task(&id))?))
}

async fn delete(request: &Request) -> Result<()> {
    let id = id(request)?;
    db::text(Statement::Delete, &[&id]).await?.map(drop).ok_or_else(|| no_task(&id))
}

fn json(status: u16, text: String) -> Response {
    let body = Body::Bytes(text.into_bytes());
    Response::new(status).header("Content-Type", "application/json").with_body(body)
}

fn id(request: &Request) -> Result<Uuid> {
    let id = request.param("id").unwrap_or(Cow::Borrowed(""));
    Uuid::parse_str(&id).map_err(|_| Error::new(404, format!("no task {id}")))
}

fn no_task(id: &Uuid) -> Error {
    Error::new(404, format!("no task {id}"))
}

fn check_title(title: &str) -> Result<()> {
    match title.chars().count() {
        1..=TITLE_CHARS_MAX => Ok(()),
        _ => Err(Error::new(422, format!("title: 1 to {TITLE_CHARS_MAX} characters"))),
    }
}

fn query_number(request: &Request, name: &str, default: i64, max: i64) -> Result<i64> {
    let query = request.query().unwrap_or_default();
    let mut pairs = query.split(|byte| *byte == b'&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let Some(value) = value else { return Ok(default) };
    let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
    let number = number.filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| Error::new(400, format!("{name}: a number from 1 to {max}")))
}

impl Cache {
    fn from_env() -> Result<Cache> {
        match std::env::var("TASKS_CACHE").as_deref() {
            Err(_) | Ok("ttl") => Ok(Cache::Ttl(TtlCache::new(KEEP))),
            Ok("off") => Ok(Cache::Off),
            Ok(url) => match RedisCache::new(url, KEEP) {
                Ok(cache) => Ok(Cache::Redis(cache.prefix("tasks"))),
                Err(error) => Err(Error::new(500, format!("TASKS_CACHE: {error}"))),
            },
        }
    }

    /// Of a task that has changed. Lists, and other processes, are behind for a second at most.
    async fn forget(&self, path: &str) {
        match self {
            Cache::Off => {}
            Cache::Ttl(cache) => _ = cache.invalidate(path),
            // Where Redis is away, what it keeps is old in a second.
            Cache::Redis(cache) => _ = cache.invalidate(path).await,
        }
    }
}

impl RouteCache for Cache {
    fn wrap(&self, handler: Handler) -> Handler {
        match self {
            Cache::Off => handler,
            Cache::Ttl(cache) => cache.wrap(handler),
            Cache::Redis(cache) => cache.wrap(handler),
        }
    }
}
