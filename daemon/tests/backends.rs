//! The other driver: asked for, or fallen back to when the kernel refuses the first.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use common::{Client, Server};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn backend_of(server: &Server) -> String {
    let metrics = Client::new(server.address).get("/metrics").unwrap().body;
    let line = metrics.lines().find(|line| line.starts_with("emberd_backend_info{"));
    line.expect("emberd_backend_info").to_owned()
}

fn works(server: &Server) {
    let mut client = Client::new(server.address);
    for _ in 0..20 {
        assert_eq!(client.get("/hello").unwrap().body, "Hello, World!");
    }
    assert_eq!(client.get("/none").unwrap().status, 404);
}

#[test]
fn each_backend_serves_when_asked_for() {
    for backend in ["io_uring", "epoll"] {
        let server = Server::start(&format!("ring = {{ backend = \"{backend}\" }}"));
        works(&server);
        assert!(server.wait_for_line("backend: ").contains(&format!("{backend} (asked for)")));
        let info = backend_of(&server);
        assert!(info.contains(&format!("backend=\"{backend}\"")), "{info}");
        assert!(info.contains("reason=\"asked for\""), "{info}");
    }
}

#[test]
fn each_form_of_links_serves() {
    for form in ["linked", "unlinked", "multishot"] {
        for poll_first in [false, true] {
            let ring = format!("ring = {{ form = \"{form}\", poll_first = {poll_first} }}");
            works(&Server::start(&ring));
        }
    }
}

/// A process without io_uring: a filter that is inherited refuses it to the whole server.
fn without_io_uring<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    let rules = BTreeMap::from([(nix::libc::SYS_io_uring_setup, Vec::new())]);
    let refuse = SeccompAction::Errno(nix::libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    thread::scope(|scope| {
        // The filter is the thread's own, and goes with it.
        let run = scope.spawn(move || {
            apply_filter(&program).unwrap();
            start()
        });
        run.join().unwrap()
    })
}

#[test]
fn epoll_takes_over_where_io_uring_is_refused() {
    let server = without_io_uring(|| Server::start(""));
    works(&server);
    let line = server.wait_for_line("backend: ");
    assert!(line.contains("epoll (io_uring is refused by"), "{line}");
    let info = backend_of(&server);
    assert!(info.contains("backend=\"epoll\"") && info.contains("refused by"), "{info}");
}

#[test]
fn a_refused_io_uring_that_was_asked_for_is_an_error_with_the_mend() {
    let program = Path::new(env!("CARGO_BIN_EXE_emberd"));
    let mut server = without_io_uring(|| {
        let command = std::process::Command::new(program);
        Server::launch(command, "ring = { backend = \"io_uring\" }", &[])
    });
    let line = server.wait_for_line("io_uring is refused");
    assert!(line.contains("--backend auto"), "{line}");
    assert!(!server.wait().success());
}
