//! What the server says of itself: whole stories, in the form and from the level that it is told,
//! and no secret.

mod common;

use std::io::Read;
use std::process::Command;

use common::{Client, Server, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const SMALL: &str = "workers = { count = 1, threads = 1 }\nlimits = { drain_timeout = \"1s\" }";

/// The place of a line that has these words, among lines that all have to be there in order.
fn in_order(lines: &[String], wanted: &[&str]) {
    let mut rest = lines.iter();
    for words in wanted {
        assert!(
            rest.any(|line| line.contains(words)),
            "`{words}` is not there, or not in its place: {lines:#?}"
        );
    }
}

#[test]
fn start_and_end_are_told_as_a_whole() {
    let mut server = Server::start(SMALL);
    let mut client = Client::new(server.address);
    for _ in 0..3 {
        client.get("/hello").unwrap();
    }
    drop(client);
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    server.wait_for_line("ended after");
    let story = [
        "version ",
        "backend: ",
        "placement: ",
        "routes: ",
        "listening on http://",
        "metrics at http://",
        "ready in ",
        "draining, asked by SIGTERM",
        "generation 1 has left",
        ": 3 requests on 1 connections",
    ];
    in_order(&server.lines(), &story);
    assert!(server.lines().iter().all(|line| !line.contains('\u{1b}')), "no colour in a pipe");
}

#[test]
fn as_json_each_line_is_an_object_with_level_and_fields() {
    let config = format!("{SMALL}\nlog.format = \"json\"");
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.env_remove("EMBERD_LOG");
    let mut server = Server::launch(command, &config, &[]);
    server.wait_for_line("ready in");
    let worker = server.workers()[0];
    nix::sys::signal::kill(worker, Signal::SIGKILL).unwrap();
    server.wait_for_successor(worker);
    server.signal(Signal::SIGINT);
    server.wait();
    server.wait_for_line("ended after");
    let lines: Vec<Value> = server
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    for line in &lines {
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
        assert_eq!(line.get("span"), None);
    }
    let with = |words: &str| {
        let has = |line: &&Value| line["message"].as_str().unwrap().contains(words);
        lines.iter().find(has).unwrap_or_else(|| panic!("{words}: {lines:#?}"))
    };
    let death = with("was killed by signal 9");
    assert_eq!((&death["level"], &death["pid"]), (&"ERROR".into(), &worker.as_raw().into()));
    assert_eq!(with("listening on")["listener"], "web");
    assert!(with("ended after")["requests"].is_i64());
}

#[test]
fn the_level_changes_at_run_time_in_all_processes_and_a_reload_takes_it_back() {
    let server = Server::start(SMALL);
    assert_eq!(server.ask_well(&["log"]), "info\n");
    let debug = |server: &Server| server.lines().iter().filter(|it| it.contains("debug: ")).count();
    server.ask_well(&["status"]);
    assert_eq!(debug(&server), 0, "{:#?}", server.lines());
    assert_eq!(server.ask_well(&["log", "debug"]), "the log is at level debug\n");
    server.ask_well(&["status"]);
    server.wait_for_line("debug: asked over the control socket: Status");
    server.ask_well(&["upgrade"]);
    assert_eq!(server.ask_well(&["log"]), "info\n", "the upgrade took the config's");
    server.ask_well(&["log", "trace"]);
    assert_eq!(server.ask_well(&["log"]), "trace\n");
    server.ask_well(&["reload"]);
    assert_eq!(server.ask_well(&["log"]), "info\n");
    let before = debug(&server);
    server.ask_well(&["status"]);
    assert_eq!(debug(&server), before);
    let refused = server.ask(&["log", "loud"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[possible values: error, warn"));
}

#[test]
fn the_level_is_a_flag_a_variable_and_a_key() {
    let says = |config: &str, variable: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
        command.args(arguments);
        let mut server = Server::launch(command, &format!("{SMALL}\n{config}"), variable);
        let level = wait_until("it answers", || {
            let output = server.ask(&["log"]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        server.signal(Signal::SIGINT);
        server.wait();
        (level.trim().to_owned(), server.lines())
    };
    let (level, lines) = says("log.level = \"error\"", &[], &[]);
    assert_eq!((level.as_str(), lines), ("error", Vec::new()), "all went well");
    let (level, _) = says("log.level = \"error\"", &[("EMBERD_LOG", "warn")], &[]);
    assert_eq!(level, "warn");
    let (level, _) = says("log.level = \"error\"", &[("EMBERD_LOG", "warn")], &["--log", "debug"]);
    assert_eq!(level, "debug");
}

#[test]
fn a_refused_start_is_in_colour_on_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.toml");
    std::fs::write(&config, "colour = 1\n").unwrap();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
        command.arg("-c").arg(&config).env_remove("NO_COLOR");
        command
    };
    let plain = command().output().unwrap();
    let plain = String::from_utf8(plain.stderr).unwrap();
    assert!(plain.starts_with("error: unknown key") && !plain.contains('\u{1b}'), "{plain}");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let status = command().stderr(terminal.slave).status().unwrap();
    assert_eq!(status.code(), Some(78));
    let mut said = vec![0; 4096];
    let count = std::fs::File::from(terminal.master).read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..count]);
    assert!(said.contains('\u{1b}') && said.contains("unknown key"), "{said}");
}

#[test]
fn no_secret_is_in_the_log() {
    const SECRET: &str = "hunter2-in-the-clear";
    let config = |more: &str| {
        format!(
            "{SMALL}\n[[prepared]]\npath = \"/key\"\nbody = \"${{THE_SECRET}}\"\n\
             headers = {{ x-key = \"${{THE_SECRET}}\" }}\n{more}"
        )
    };
    let environment = [("THE_SECRET", SECRET), ("EMBERD_LOG", "trace")];
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_emberd"));
    let mut server = Server::start_program(program, &config(""), &environment);
    let mut client = Client::new(server.address);
    let reply = client.get("/key").unwrap();
    assert!(reply.body == SECRET && reply.head.contains(SECRET), "it is in force");
    client.get(&format!("/{SECRET}?token={SECRET}")).unwrap();
    server.write_config(&config("[[prepared]]\npath = \"/key\"\nbody = \"${THE_SECRET}\"\n"));
    assert!(!server.ask(&["reload"]).status.success(), "a path twice");
    server.write_config(&config("user = \"${THE_SECRET} \"\nstate_dir = \"${THE_SECRET}\"\n"));
    server.ask(&["reload"]);
    server.write_config(&config(""));
    server.ask_well(&["reload"]);
    server.signal(Signal::SIGTERM);
    server.wait();
    server.wait_for_line("ended after");
    let lines = server.lines();
    assert!(lines.iter().any(|line| line.contains("reload is refused")), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains(SECRET)), "{lines:#?}");
}
