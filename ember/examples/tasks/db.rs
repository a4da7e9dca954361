//! The database: a few connections for each worker thread, on the thread's own ring.
//!
//! Each connection has a task that keeps it: connects, brings the tables up to date, prepares the
//! statements, waits for the connection's end, and begins again after a pause that grows. Requests
//! are pipelined: a statement is sent without waiting for the results of those before it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Poll, Waker};
use std::time::Duration;

use ember::net::{Address, Stream};
use ember::time::{sleep, timeout};
use ember::{Error, Result};
use tokio_postgres::config::Host;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Statement as Prepared};

/// How long connecting and preparing may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a request waits for a connection while there is none.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How long a statement may take.
const STATEMENT_MAX: Duration = Duration::from_secs(5);
/// The first pause before connecting is tried again; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// In the order of their numbers; what is here is never changed, only added to.
const MIGRATIONS: [&str; 2] =
    [include_str!("migrations/0001_tasks.sql"), include_str!("migrations/0002_tasks_by_age.sql")];
/// Held while the tables are brought up to date, so that one process does it. Any number will do.
const MIGRATION_LOCK: i64 = 0x7461_736b;

/// What is asked of the database. Each gives one text: PostgreSQL makes the JSON.
#[derive(Clone, Copy)]
pub(crate) enum Statement {
    List,
    Get,
    Create,
    Update,
    Delete,
}

const STATEMENTS: [&str; 5] = [
    "SELECT json_build_object('tasks', (SELECT coalesce(json_agg(page), '[]') FROM (
         SELECT * FROM tasks ORDER BY created_at DESC, id LIMIT $2::bigint OFFSET ($1::bigint - 1) * $2::bigint) page),
         'total', (SELECT count(*) FROM tasks), 'page', $1::bigint, 'limit', $2::bigint)::text",
    "SELECT row_to_json(tasks)::text FROM tasks WHERE id = $1",
    "INSERT INTO tasks (id, title, description, completed, priority)
         VALUES ($1, $2, $3, $4, $5) RETURNING row_to_json(tasks)::text",
    "UPDATE tasks SET title = coalesce($2, title), description = coalesce($3, description),
         completed = coalesce($4, completed), priority = coalesce($5, priority), updated_at = now()
         WHERE id = $1 RETURNING row_to_json(tasks)::text",
    "DELETE FROM tasks WHERE id = $1 RETURNING id::text",
];

pub(crate) struct Settings {
    config: Config,
    connections: usize,
}

struct Pool {
    live: RefCell<Vec<Rc<Connection>>>,
    next: Cell<usize>,
    /// Who waits for a connection.
    waiting: RefCell<Vec<Waker>>,
}

struct Connection {
    client: Client,
    statements: Vec<Prepared>,
}

thread_local! {
    static POOL: Rc<Pool> = Pool::start();
}

/// What the environment says.
pub(crate) fn settings() -> Result<&'static Settings> {
    static SETTINGS: OnceLock<std::result::Result<Settings, String>> = OnceLock::new();
    let settings = SETTINGS.get_or_init(|| {
        let url = std::env::var("DATABASE_URL")
            .unwrap_or_else(|_| "host=/var/run/postgresql dbname=tasks user=postgres".to_owned());
        let config: Config = url.parse().map_err(|error| format!("DATABASE_URL: {error}"))?;
        if config.get_hosts().is_empty() {
            return Err("DATABASE_URL: it names no host".to_owned());
        }
        let connections = match std::env::var("TASKS_CONNECTIONS") {
            Err(_) => 2,
            Ok(text) => {
                text.parse().ok().filter(|count| (1..=100).contains(count)).ok_or_else(|| {
                    format!("TASKS_CONNECTIONS: {text} is no number from 1 to 100")
                })?
            }
        };
        Ok(Settings { config, connections })
    });
    settings.as_ref().map_err(|why| Error::new(500, why.clone()))
}

/// The text that a statement gives; none where it finds nothing.
pub(crate) async fn text(
    statement: Statement,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Option<String>> {
    let connection = POOL.with(Rc::clone).connection().await?;
    let prepared = &connection.statements[statement as usize];
    let query = connection.client.query_opt(prepared, parameters);
    match timeout(STATEMENT_MAX, query).await {
        Ok(Ok(row)) => Ok(row.map(|row| row.get(0))),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(Error::new(503, "the database is too slow")),
    }
}

/// A database that goes or comes is no fault of the request: try it again.
fn told(error: &tokio_postgres::Error) -> Error {
    // Operator intervention, connection exceptions, insufficient resources.
    let passing = |code: &str| ["57P", "08", "53"].iter().any(|class| code.starts_with(class));
    match error.code() {
        None if error.is_closed() => Error::new(503, "the database is away"),
        Some(code) if passing(code.code()) => Error::new(503, "the database is away"),
        // A NUL, which PostgreSQL's texts cannot have.
        Some(code) if code.code() == "22021" => Error::new(422, "the text has a NUL in it"),
        _ => {
            eprintln!("tasks: a statement failed: {error:?}");
            Error::new(500, "the database refused the statement")
        }
    }
}

impl Pool {
    fn start() -> Rc<Pool> {
        let pool = Rc::new(Pool {
            live: RefCell::default(),
            next: Cell::new(0),
            waiting: RefCell::default(),
        });
        for _ in 0..settings().map_or(0, |settings| settings.connections) {
            drop(ember::spawn(Rc::clone(&pool).keep()));
        }
        pool
    }

    /// One of those that live, each in its turn.
    async fn connection(&self) -> Result<Rc<Connection>> {
        let any = poll_fn(|cx| {
            let live = self.live.borrow();
            if live.is_empty() {
                self.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            let next = self.next.get();
            self.next.set(next.wrapping_add(1));
            Poll::Ready(Rc::clone(&live[next % live.len()]))
        });
        let away = |_| Error::new(503, "the database is away");
        timeout(WAIT_MAX, any).await.map_err(away)
    }

    /// Keeps one connection.
    async fn keep(self: Rc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.live_once().await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => eprintln!("tasks: the database: {error}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects, and waits until the connection ends.
    async fn live_once(&self) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let settings = settings().map_err(|error| error.to_string())?;
        let connecting = async {
            let stream = connect(&settings.config).await?;
            let (mut client, connection) = settings.config.connect_raw(stream, NoTls).await?;
            let mut driver: Driver = Box::pin(async move { _ = connection.await });
            let prepared = beside(&mut driver, prepare(&mut client)).await?;
            Ok::<_, Box<dyn std::error::Error>>((client, prepared, driver))
        };
        let (client, statements, driver) = timeout(CONNECT_MAX, connecting).await??;
        let connection = Rc::new(Connection { client, statements });
        self.live.borrow_mut().push(Rc::clone(&connection));
        self.waiting.take().into_iter().for_each(Waker::wake);
        driver.await;
        self.live.borrow_mut().retain(|other| !Rc::ptr_eq(other, &connection));
        Ok(())
    }
}

type Driver = Pin<Box<dyn Future<Output = ()>>>;

/// Lets the connection go on while something is asked over it.
async fn beside<T>(
    driver: &mut Driver,
    ask: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> std::result::Result<T, tokio_postgres::Error> {
    let mut ask = std::pin::pin!(ask);
    let mut ended = false;
    poll_fn(move |cx| {
        // When it ends, what is asked fails.
        ended = ended || driver.as_mut().poll(cx).is_ready();
        ask.as_mut().poll(cx)
    })
    .await
}

/// The first of the hosts that can be connected to.
async fn connect(config: &Config) -> io::Result<Stream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (at, host) in config.get_hosts().iter().enumerate() {
        let ports = config.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let connected = match host {
            Host::Tcp(name) => Stream::connect_to(CONNECT_MAX, name, port).await,
            Host::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                Stream::connect_within(CONNECT_MAX, &Address::Unix(path)).await
            }
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn prepare(client: &mut Client) -> std::result::Result<Vec<Prepared>, tokio_postgres::Error> {
    migrate(client).await?;
    let mut prepared = Vec::new();
    for statement in STATEMENTS {
        prepared.push(client.prepare(statement).await?);
    }
    Ok(prepared)
}

/// Brings the tables up to date, in one transaction; a process that comes second finds it done.
async fn migrate(client: &mut Client) -> std::result::Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    let table = "CREATE TABLE IF NOT EXISTS migrations (
        version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
    transaction.batch_execute(table).await?;
    let newest = "SELECT coalesce(max(version), 0) FROM migrations";
    let newest: i32 = transaction.query_one(newest, &[]).await?.get(0);
    for (at, migration) in (1_i32..).zip(MIGRATIONS).filter(|(at, _)| *at > newest) {
        transaction.batch_execute(migration).await?;
        transaction.execute("INSERT INTO migrations (version) VALUES ($1)", &[&at]).await?;
    }
    transaction.commit().await
}
