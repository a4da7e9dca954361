//! Workers die, hang and are replaced; nobody notices who need not.

mod common;

use std::process::Command;
use std::thread;

use common::{Client, Load, Server, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The drain is long enough never to matter.
const CONFIG: &str = "workers = { threads = 2 }\nlimits = { drain_timeout = \"60s\" }";

#[test]
fn a_killed_worker_is_replaced_and_costs_only_its_own_connections() {
    let server = Server::start(CONFIG);
    let load = Load::start(server.address, 2, 2);
    let mut killed = server.workers()[0];
    const KILLS: usize = 3;
    for _ in 0..KILLS {
        kill(killed, Signal::SIGKILL).unwrap();
        killed = server.wait_for_successor(killed);
    }
    let tally = load.finish();
    // Each client has one request under way at a time.
    assert!(tally.lost.len() <= 4 * KILLS, "{:?}", tally.lost);
    let refused = |lost: &&String| lost.starts_with("no connection");
    assert_eq!(tally.lost.iter().find(refused), None, "the sockets never close");
    assert_eq!(server.metric("emberd_worker_restarts_total{worker=\"0\"}"), KILLS as f64);
    server.wait_for_line("was killed by signal 9, SIGKILL; starting it again");
}

#[test]
fn counters_survive_the_worker_that_counted() {
    let server = Server::start(CONFIG);
    let ask = || {
        for _ in 0..5 {
            assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
        }
    };
    let hits = "emberd_http_requests_total{route=\"/hello\",method=\"GET\",code=\"200\",\
                path_kind=\"prepared\"}";
    ask();
    // Counts are written once a turn of the loop, so that a reply may be ahead of its count.
    wait_until("five requests are counted", || (server.metric(hits) == 5.0).then_some(()));
    let worker = server.workers()[0];
    kill(worker, Signal::SIGKILL).unwrap();
    server.wait_for_successor(worker);
    ask();
    wait_until("ten requests are counted", || (server.metric(hits) == 10.0).then_some(()));
}

#[test]
fn connections_that_wait_are_served_by_the_next_worker() {
    let server = Server::start(CONFIG);
    let worker = server.workers()[0];
    kill(worker, Signal::SIGSTOP).unwrap();
    wait_until("all of its threads have stopped", || all_stopped(worker).then_some(()));
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::new(server.address)).collect();
    for client in &mut waiting {
        client.send("/hello").unwrap();
    }
    kill(worker, Signal::SIGKILL).unwrap();
    for client in &mut waiting {
        assert_eq!(client.receive().unwrap().status, 200);
    }
}

fn all_stopped(worker: Pid) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.contains("State:\tT")
    })
}

#[test]
fn a_stuck_worker_is_noticed_and_replaced() {
    let server = Server::start("workers = { threads = 2, stuck_timeout = \"300ms\" }");
    // Also by a supervisor that took its workers over, or did so with their successors.
    for change in [None, Some("upgrade"), Some("reload")] {
        change.into_iter().for_each(|change| drop(server.ask_well(&[change])));
        let worker = server.workers()[0];
        kill(worker, Signal::SIGSTOP).unwrap();
        server.wait_for_successor(worker);
    }
    server.wait_for_line("was stuck: not all of its threads answered");
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
}

#[test]
fn a_worker_that_keeps_dying_is_started_ever_later() {
    let server = Server::start(CONFIG);
    let mut worker = server.workers()[0];
    for _ in 0..4 {
        kill(worker, Signal::SIGKILL).unwrap();
        worker = server.wait_for_successor(worker);
    }
    server.wait_for_line("in 100 ms, since it keeps ending");
}

#[test]
fn workers_are_gone_when_their_supervisor_is_killed() {
    let mut server = Server::start(CONFIG);
    let worker = server.workers()[0];
    server.signal(Signal::SIGKILL);
    server.wait();
    wait_until("the worker is gone", || kill(worker, None).is_err().then_some(()));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder() {
    let first = Server::start(CONFIG);
    let listener = format!("[[listener]]\nname = \"web\"\naddress = \"{}\"", first.address);
    let program = Command::new(env!("CARGO_BIN_EXE_emberd"));
    let mut second = Server::launch(program, &listener, &[]);
    assert_eq!(second.wait().code(), Some(1));
    let line = second.wait_for_line("cannot listen on");
    let holder = format!("process {} (emberd)", first.child.id());
    assert!(line.contains(&holder), "{line}");
}

#[test]
fn a_worker_in_the_supervisors_process_serves_and_reloads() {
    // As root this takes a word that rights are kept; elsewhere it is no more than a warning.
    let config = "user = \"root\"\nworkers = { threads = 1, in_process = true }";
    let mut server = Server::start(config);
    assert_eq!(server.workers(), [server.pid()]);
    let load = Load::start(server.address, 1, 1);
    server.ask_well(&["reload"]);
    assert_eq!(load.finish().lost, Vec::<String>::new());
    let refused = server.ask(&["upgrade"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in_process = false"));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_worker_in_a_process_of_root_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root has rights to give up");
        return;
    }
    let program = Command::new(env!("CARGO_BIN_EXE_emberd"));
    let mut server = Server::launch(program, "workers = { in_process = true }", &[]);
    assert_eq!(server.wait().code(), Some(78));
    server.wait_for_line("accept it with user = \"root\"");
}

#[test]
fn a_worker_has_given_up_what_it_does_not_need() {
    let server = Server::start(CONFIG);
    let worker = server.workers()[0];
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "a filter");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(field("CapBnd:"), "0000000000000000");
        assert!(field("Uid:").split_whitespace().all(|uid| uid != "0"), "{status}");
        assert!(field("Gid:").split_whitespace().all(|gid| gid != "0"), "{status}");
    }
    // All of its threads, not only the first.
    for task in std::fs::read_dir(format!("/proc/{worker}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    }
    server.wait_for_line("workers are confined: ");
}

#[test]
fn requests_under_way_are_answered_before_the_server_ends() {
    let mut server = Server::start(CONFIG);
    let mut idle = Client::new(server.address);
    assert!(!idle.get("/hello").unwrap().close);
    let mut under_way = Client::new(server.address);
    std::io::Write::write_all(&mut under_way.0, b"GET /hello HTTP/1.1\r\n").unwrap();
    server.signal(Signal::SIGTERM);
    server.wait_for_line("draining, asked by SIGTERM");
    wait_until("nothing is accepted any more", || Client::try_new(server.address).err());
    assert!(idle.is_closed());
    std::io::Write::write_all(&mut under_way.0, b"Host: test\r\n\r\n").unwrap();
    let reply = under_way.receive().unwrap();
    assert_eq!((reply.status, reply.close), (200, true));
    assert!(under_way.is_closed());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_server_says_not_ready_before_it_drains() {
    let config = "limits = { drain_delay = \"1h\" }\nadmin = { listen = \"127.0.0.1:0\" }";
    let mut server = Server::start(config);
    let status = server.status();
    let admin = status["listeners"].as_array().unwrap().last().unwrap()["address"].clone();
    let admin = admin.as_str().unwrap().parse().unwrap();
    assert_eq!(Client::new(admin).get("/readyz").unwrap().status, 200);
    server.ask_well(&["drain"]);
    let not_ready = || (Client::new(admin).get("/readyz").unwrap().status == 503).then_some(());
    wait_until("the server is not ready", not_ready);
    assert_eq!(Client::new(admin).get("/healthz").unwrap().status, 200);
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200, "it still serves");
    // Asked again, it waits no longer.
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn interrupted_it_stops_at_once_even_with_requests_under_way() {
    let mut server = Server::start(CONFIG);
    let mut under_way = Client::new(server.address);
    std::io::Write::write_all(&mut under_way.0, b"GET /hello HTTP/1.1\r\n").unwrap();
    let blocked = thread::spawn(move || under_way.receive().is_err());
    server.signal(Signal::SIGINT);
    assert_eq!(server.wait().code(), Some(0));
    assert!(blocked.join().unwrap());
}

/// However early it is asked to end, that is no failure.
#[test]
fn asked_to_end_while_it_starts_it_ends_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for _ in 0..5 {
            let program = Command::new(env!("CARGO_BIN_EXE_emberd"));
            let mut server = Server::launch(program, "", &[]);
            server.wait_for_line("version");
            server.signal(signal);
            assert!(server.wait().success());
        }
    }
}
