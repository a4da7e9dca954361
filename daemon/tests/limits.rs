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
    // More than either thread's share: some of them wait until others are gone.
    let mut clients: Vec<Client> = (0..24).map(|_| Client::new(server.address)).collect();
    for client in &mut clients {
        client.send("/hello").unwrap();
    }
    let active = "emberd_connections_active{listener=\"web\",worker=\"0\"}";
    for mut client in clients {
        assert_eq!(client.receive().unwrap().status, 200);
        drop(client);
    }
    wait_until("all but the one that asks are gone", || {
        (server.metric(active) <= 1.0).then_some(())
    });
    let accepted =
        server.metric("emberd_connections_accepted_total{listener=\"web\",worker=\"0\"}");
    assert!(accepted >= 24.0, "{accepted}");
}
