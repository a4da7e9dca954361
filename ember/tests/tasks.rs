//! The example application on a real PostgreSQL, with a real Redis.

mod common;

use std::time::{Duration, Instant};

use common::Example;
use common::services::{Postgres, Redis};
use serde_json::{Value, json};

fn start(postgres: &Postgres, cache: &str) -> Example {
    Example::start_with("tasks", &[("DATABASE_URL", &postgres.url()), ("TASKS_CACHE", cache)])
}

fn ask(example: &Example, line: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, said) = example.reply(line, "Content-Type: application/json\r\n", &body);
    (status, serde_json::from_str(&said).unwrap_or(Value::Null))
}

fn get(example: &Example, path: &str) -> (u16, Value) {
    ask(example, &format!("GET {path}"), &Value::Null)
}

/// Waits for the status, which is another one until something has been noticed.
fn wait_for(example: &Example, path: &str, status: u16) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (now, said) = get(example, path);
        if now == status {
            return said;
        }
        assert!(matches!(now, 200 | 503), "{now} {said}");
        assert!(Instant::now() < deadline, "{now} instead of {status}: {said}");
    }
}

#[test]
fn tasks_are_made_found_changed_and_deleted() {
    let Some(postgres) = Postgres::start() else { return };
    let example = start(&postgres, "off");
    let (status, made) = ask(&example, "POST /tasks", &json!({ "title": "One", "priority": 3 }));
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["completed"], false);
    let path = format!("/tasks/{}", made["id"].as_str().expect("an id"));
    assert_eq!(get(&example, &path), (200, made.clone()));
    let change = json!({ "completed": true, "description": "It's \"done\"" });
    let (status, changed) = ask(&example, &format!("PATCH {path}"), &change);
    assert_eq!((status, &changed["completed"]), (200, &json!(true)), "{changed}");
    assert_eq!(changed["description"], "It's \"done\"");
    assert_eq!((&changed["title"], &changed["priority"]), (&json!("One"), &json!(3)));
    assert_eq!(postgres.ask("SELECT count(*) FROM tasks WHERE completed"), "1");
    assert_eq!(ask(&example, &format!("DELETE {path}"), &Value::Null).0, 204);
    for method in ["GET", "DELETE"] {
        assert_eq!(ask(&example, &format!("{method} {path}"), &Value::Null).0, 404);
    }
    assert_eq!(ask(&example, &format!("PATCH {path}"), &change).0, 404);
    for wrong in [json!({}), json!({ "title": 1 }), json!({ "title": "a", "x": 1 })] {
        assert_eq!(ask(&example, "POST /tasks", &wrong).0, 400, "{wrong}");
    }
    assert_eq!(ask(&example, "POST /tasks", &json!({ "title": "" })).0, 422);
    assert_eq!(ask(&example, "POST /tasks", &json!({ "title": "a\0b" })).0, 422);
    for path in ["/tasks?page=0", "/tasks?limit=101", "/tasks?page=x"] {
        assert_eq!(get(&example, path).0, 400, "{path}");
    }
    assert_eq!(get(&example, "/tasks/7").0, 404);
}

#[test]
fn lists_come_in_pages_and_migrations_happen_once() {
    let Some(postgres) = Postgres::start() else { return };
    let example = start(&postgres, "off");
    wait_for(&example, "/tasks", 200);
    postgres.ask(
        "INSERT INTO tasks (title, created_at) SELECT 'Task ' || n, timestamptz '2025-01-01' + \
         n * interval '1 s' FROM generate_series(1, 45) n",
    );
    let titles = |path: &str| -> Vec<String> {
        let (status, list) = get(&example, path);
        assert_eq!((status, &list["total"]), (200, &json!(45)), "{list}");
        let tasks = list["tasks"].as_array().expect("tasks").iter();
        tasks.map(|task| task["title"].as_str().expect("a title").to_owned()).collect()
    };
    let first = titles("/tasks");
    assert_eq!((first.len(), &first[0][..], &first[19][..]), (20, "Task 45", "Task 26"));
    assert_eq!(titles("/tasks?page=3&limit=20").last().map(String::as_str), Some("Task 1"));
    assert_eq!(titles("/tasks?limit=7&page=2").first().map(String::as_str), Some("Task 38"));
    assert_eq!(titles("/tasks?page=4").len(), 0);
    drop(example);
    // A second program finds the tables as the first has left them.
    let again = start(&postgres, "off");
    assert_eq!(wait_for(&again, "/tasks", 200)["total"], 45);
    assert_eq!(postgres.ask("SELECT count(*), max(version) FROM migrations"), "2|2");
}

#[test]
fn a_restart_of_the_database_costs_no_more_than_its_time() {
    let Some(postgres) = Postgres::start() else { return };
    let example = start(&postgres, "off");
    wait_for(&example, "/tasks", 200);
    postgres.stop();
    let said = wait_for(&example, "/tasks", 503);
    assert_eq!(said["detail"], "the database is away", "{said}");
    assert_eq!(get(&example, "/health").0, 200);
    postgres.start_again();
    wait_for(&example, "/tasks", 200);
    assert_eq!(ask(&example, "POST /tasks", &json!({ "title": "After" })).0, 201);
}

#[test]
fn reads_are_kept_for_a_while() {
    let Some(postgres) = Postgres::start() else { return };
    let example = start(&postgres, "ttl");
    let (_, made) = ask(&example, "POST /tasks", &json!({ "title": "Kept" }));
    let path = format!("/tasks/{}", made["id"].as_str().expect("an id"));
    assert_eq!(get(&example, &path).1["title"], "Kept");
    // The program's own changes are seen at once, others when the second is over.
    ask(&example, &format!("PATCH {path}"), &json!({ "title": "Changed" }));
    assert_eq!(get(&example, &path).1["title"], "Changed");
    postgres.ask("UPDATE tasks SET title = 'By others'");
    let deadline = Instant::now() + Duration::from_secs(60);
    while get(&example, &path).1["title"] != "By others" {
        assert!(Instant::now() < deadline, "it is kept for ever");
    }
}

#[test]
fn a_redis_serves_several_programs_and_may_go_away() {
    let (Some(postgres), Some(mut redis)) = (Postgres::start(), Redis::start()) else { return };
    let url = format!("redis://127.0.0.1:{}/1", redis.port());
    let (one, other) = (start(&postgres, &url), start(&postgres, &url));
    wait_for(&one, "/tasks", 200);
    wait_for(&other, "/tasks", 200);
    // Whether the second program finds what the first has kept is a matter of its second.
    let deadline = Instant::now() + Duration::from_secs(60);
    for limit in (1..=100).cycle() {
        postgres.ask("DELETE FROM tasks; INSERT INTO tasks (title) VALUES ('before')");
        let path = format!("/tasks?limit={limit}");
        let first = get(&one, &path).1;
        postgres.ask("UPDATE tasks SET title = 'after'");
        if get(&other, &path).1 == first && first["tasks"][0]["title"] == "before" {
            break;
        }
        assert!(Instant::now() < deadline, "the programs share nothing");
    }
    redis.stop();
    for example in [&one, &other] {
        let (status, list) = get(example, "/tasks?limit=2");
        assert_eq!((status, &list["tasks"][0]["title"]), (200, &json!("after")), "{list}");
    }
    redis.start_again();
    wait_for(&one, "/tasks", 200);
}
