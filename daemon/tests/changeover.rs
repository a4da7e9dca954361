//! Reloads and upgrades, under load: not one request is lost.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Client, Load, Server, Tally, copy_of_program, wait_until};
use nix::sys::signal::Signal;

/// Connections on which nothing is under way are kept for half of the drain: no client here
/// pauses for so long.
const CONFIG: &str = "workers = { threads = 2 }\nlimits = { drain_timeout = \"60s\" }";

/// Several clients of both kinds, some changes, nothing lost.
fn assert_loses_nothing(server: &Server, changes: impl FnOnce()) {
    let load = Load::start(server.address, 2, 3);
    changes();
    let Tally { answered, lost, connections } = load.finish();
    assert_eq!(lost, Vec::<String>::new(), "of {answered} on {connections} connections");
}

#[test]
fn fifty_reloads_in_a_row_lose_no_request() {
    let server = Server::start(CONFIG);
    assert_loses_nothing(&server, || {
        for reload in 0..50 {
            if reload % 2 == 0 {
                server.ask_well(&["reload"]);
            } else {
                let lines = server.lines().len();
                server.signal(Signal::SIGHUP);
                let done = || server.lines()[lines..].iter().any(|it| it.contains("reloaded in"));
                wait_until("the reload is done", || done().then_some(()));
            }
        }
    });
    let status = server.status();
    assert_eq!(status["generations"].as_array().unwrap().last().unwrap()["generation"], 51);
}

#[test]
fn threads_and_listeners_come_and_go_without_a_loss() {
    let server = Server::start(CONFIG);
    let web = format!("[[listener]]\nname = \"web\"\naddress = \"{}\"\n", server.address);
    let second = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n";
    let config = |threads: u32, second: &str| {
        format!(
            "workers = {{ threads = {threads} }}\nlimits = {{ drain_timeout = \"60s\" }}\n{web}{second}"
        )
    };
    assert_loses_nothing(&server, || {
        for (threads, more) in [(1, second), (2, ""), (1, ""), (2, second)] {
            server.write_config(&config(threads, more));
            server.ask_well(&["reload"]);
        }
    });
    let listeners = server.status()["listeners"].as_array().unwrap().clone();
    assert_eq!(listeners[1]["name"], "second");
    let second = listeners[1]["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(Client::new(second).get("/hello").unwrap().status, 200);
    server.write_config(&config(2, ""));
    server.ask_well(&["reload"]);
    wait_until("what is not listened on is refused", || Client::try_new(second).err());
}

#[test]
fn a_bad_config_is_refused_and_the_old_one_goes_on() {
    let server = Server::start(CONFIG);
    server.write_config("limits = { idle_timeuot = \"1s\" }");
    let refused = server.ask(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("idle_timeuot") && error.contains("idle_timeout"), "{error}");
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
    assert!(server.status()["reloads"]["last_error"].is_string());
    assert_eq!(server.metric("emberd_config_last_reload_success"), 0.0);
    // A config that is in order but cannot be brought about.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    server.write_config(&format!("[[listener]]\nname = \"web\"\naddress = \"{address}\""));
    let error = String::from_utf8_lossy(&server.ask(&["reload"]).stderr).into_owned();
    assert!(error.contains("cannot listen") && error.contains("process"), "{error}");
    server.write_config(CONFIG);
    server.ask_well(&["reload"]);
    assert_eq!(server.metric("emberd_config_last_reload_success"), 1.0);
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
}

#[test]
fn upgrades_keep_the_process_the_counters_and_every_request() {
    let server = Server::start(CONFIG);
    let pid = server.status()["pid"].clone();
    assert_loses_nothing(&server, || {
        for upgrade in 0..5 {
            if upgrade == 2 {
                server.signal(Signal::SIGUSR2);
                let done = || server.lines().iter().filter(|it| it.contains("upgraded to")).count();
                wait_until("the upgrade is done", || (done() == 3).then_some(()));
            } else {
                server.ask_well(&["upgrade"]);
            }
        }
        server.ask_well(&["reload"]);
    });
    let status = server.status();
    assert_eq!(status["pid"], pid);
    assert_eq!(status["generations"].as_array().unwrap().last().unwrap()["generation"], 7);
    let hits = "emberd_http_requests_total{route=\"/hello\",method=\"GET\",code=\"200\",\
                path_kind=\"prepared\"}";
    assert!(server.metric(hits) > 0.0);
}

#[test]
fn a_program_that_is_no_emberd_never_gets_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let program = copy_of_program(folder.path());
    let server = Server::start_program(&program, CONFIG, &[]);
    assert_loses_nothing(&server, || {
        for text in ["#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 1\n", "not a program\n"] {
            replace(&program, text);
            let refused = server.ask(&["upgrade"]);
            assert_eq!(refused.status.code(), Some(1));
            let error = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(error.contains("upgrade refused"), "{error}");
        }
    });
    assert_eq!(server.workers().len(), 1);
}

#[test]
fn an_upgrade_that_fails_after_the_takeover_goes_back_to_the_old_program() {
    let folder = tempfile::tempdir().unwrap();
    let program = copy_of_program(folder.path());
    let server = Server::start_program(&program, CONFIG, &[]);
    let worker = server.workers()[0];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // Fine as long as it only has to show what it can; then it wants a port that it cannot get.
    let script = format!(
        "#!/bin/sh\n[ \"$EMBERD_HANDOVER\" = take ] && export EMBERD_LISTEN={}\nexec {} \"$@\"\n",
        taken.local_addr().unwrap(),
        env!("CARGO_BIN_EXE_emberd"),
    );
    replace(&program, &script);
    assert_loses_nothing(&server, || {
        let refused = server.ask(&["upgrade"]);
        assert_eq!(refused.status.code(), Some(1));
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("cannot listen on"), "{error}");
    });
    server.wait_for_line("the upgrade failed, and the old program goes on");
    assert_eq!(server.workers(), [worker], "the workers never noticed");
    server.ask_well(&["reload"]);
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
}

/// Puts another program in the place of one that runs.
fn replace(program: &Path, text: &str) {
    let next = program.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(next, program).unwrap();
}
