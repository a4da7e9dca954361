//! The limit of connections: accepting waits at it, says so, and goes on.

mod common;

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
