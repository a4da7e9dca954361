//! The limit of connections: accepting waits at it, says so, and goes on.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use common::{Client, Server, wait_until};

#[test]
fn accepting_waits_at_the_limit_and_goes_on_below_it() {
    for backend in ["io_uring", "epoll"] {
        let server = Server::start(&format!(
            "ring = {{ backend = \"{backend}\" }}\nworkers = {{ count = 1, threads = 1 }}\n\
             limits = {{ max_connections = 8 }}\n[admin]\nlisten = \"127.0.0.1:0\""
        ));
        let mut kept: Vec<Client> = (0..8).map(|_| Client::new(server.address)).collect();
        for client in &mut kept {
            assert_eq!(client.get("/hello").unwrap().status, 200);
        }
        // These two wait in the backlog, where the kernel has welcomed them.
        let mut waiting: Vec<Client> = (0..2).map(|_| Client::new(server.address)).collect();
        for client in &mut waiting {
            client.send("/hello").unwrap();
        }
        let metric = |client: &mut Client, name: &str| {
            let text = client.get("/metrics").unwrap().body;
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(|value| value.parse::<f64>().unwrap())
        };
        let labels = "listener=\"web\",worker=\"0\"";
        let paused = format!("emberd_connections_paused{{{labels}}}");
        let pauses = format!("emberd_connections_pauses_total{{{labels},reason=\"limit\"}}");
        wait_until("it says that it waits", || {
            (metric(&mut kept[0], &paused) == Some(1.0)).then_some(())
        });
        let before = metric(&mut kept[0], &pauses);
        assert!(before >= Some(1.0), "{before:?}");
        kept.truncate(4);
        for client in &mut waiting {
            assert_eq!(client.receive().unwrap().status, 200);
        }
        wait_until("it says that it goes on", || {
            (metric(&mut kept[0], &paused) == Some(0.0)).then_some(())
        });
    }
}

#[test]
fn the_limit_is_the_whole_servers() {
    let server =
        Server::start("workers = { count = 1, threads = 2 }\nlimits = { max_connections = 8 }");
    let mut watcher = Client::new(server.address);
    assert_eq!(watcher.get("/hello").unwrap().status, 200);
    // Far more than either thread's share, in whatever way the kernel spreads them.
    let crowd: Vec<Client> = (0..60).map(|_| Client::new(server.address)).collect();
    let mut active = 0.0;
    wait_until("both threads are full", || {
        let text = watcher.get("/metrics").unwrap().body;
        let of = |name: &str| {
            let name = format!("{name}{{listener=\"web\",worker=\"0\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
            value.map_or(0.0, |value| value.parse().unwrap())
        };
        active = of("emberd_connections_active");
        (of("emberd_connections_paused") == 2.0).then_some(())
    });
    assert_eq!(active, 8.0);
    drop(crowd);
}

#[test]
fn beyond_the_limit_of_requests_under_way_there_is_an_answer_at_once() {
    // An upstream that replies when it is told to.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let (asked, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in upstream.incoming() {
            let (mut stream, asked) = (stream.unwrap(), asked.clone());
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for end in lines.map_while(Result::ok).filter(|line| line.is_empty()) {
                    let (go_on, wait) = mpsc::channel::<()>();
                    if asked.send(go_on).is_err() || wait.recv().is_err() {
                        return;
                    }
                    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{end}");
                    stream.write_all(reply.as_bytes()).unwrap();
                }
            });
        }
    });
    let server = Server::start(&format!(
        "workers = {{ count = 1, threads = 1 }}\nlimits = {{ max_in_flight = 2 }}\n\
         [[proxy]]\nprefix = \"/slow\"\nname = \"slow\"\nupstreams = [\"{address}\"]\n"
    ));
    let mut clients: Vec<_> = (0..3).map(|_| Client::new(server.address)).collect();
    let mut held = Vec::new();
    for client in &mut clients[..2] {
        client.send("/slow").unwrap();
        held.push(requests.recv().unwrap());
    }
    for _ in 0..2 {
        let refused = clients[2].get("/slow").unwrap();
        assert_eq!(refused.status, 503);
        assert!(refused.head.contains("Retry-After: 1\r\n"), "{}", refused.head);
    }
    assert_eq!(clients[2].get("/hello").unwrap().status, 200, "what is prepared is served");
    let metrics = clients[2].get("/metrics").unwrap().body;
    assert!(metrics.contains("emberd_http_requests_shed_total{route=\"slow\"} 2\n"), "{metrics}");
    for (client, held) in clients.iter_mut().zip(held) {
        held.send(()).unwrap();
        assert_eq!(client.receive().unwrap().status, 200);
    }
    clients[2].send("/slow").unwrap();
    requests.recv().unwrap().send(()).unwrap();
    assert_eq!(clients[2].receive().unwrap().status, 200);
}
