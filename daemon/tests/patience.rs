//! Clients that take their time, in all the ways there are: each is let go of within the limits,
//! while others are served.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Load, Server, wait_until};

/// More than the buffers of both ends hold together.
const LARGE: usize = 16 << 20;

/// A server with a large reply and these limits, on a driver.
fn server(backend: &str, limits: &str) -> Server {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(LARGE as u64).unwrap();
    let config = format!(
        "workers = {{ count = 1, threads = 1 }}\nring = {{ backend = \"{backend}\" }}\n\
         limits = {{ {limits} }}\n\
         [[prepared]]\npath = \"/large\"\nbody_file = \"{}\"\n",
        file.path().display()
    );
    Server::start(&config) // the body is in memory from here on
}

/// The sum of the samples that begin so none where one is no number.
fn sum(server: &Server, beginning: &str) -> Option<f64> {
    let page = Client::new(server.address).get("/metrics").unwrap().body;
    let samples = page.lines().filter(|line| line.starts_with(beginning));
    samples.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn timeouts(server: &Server) -> f64 {
    let beginning =
        "emberd_connections_closed_total{listener=\"web\",worker=\"0\",reason=\"timeout\"";
    sum(server, beginning).unwrap()
}

/// None where the supervisor has not yet told the labels' names.
fn active(server: &Server) -> Option<f64> {
    sum(server, "emberd_connections_active{listener=\"web\"").filter(|&active| active > 0.0)
}

fn wait_for_timeouts(server: &Server, count: f64) {
    wait_until("slow clients are let go of", || (timeouts(server) >= count).then_some(()));
}

#[test]
fn who_does_not_read_is_let_go_of() {
    for backend in ["io_uring", "epoll"] {
        // The idle time is out of the way: it must be the write that ends it.
        let server = server(backend, "write_timeout = \"500ms\", idle_timeout = \"1h\"");
        let mut silent = Client::new(server.address);
        silent.send("/large").unwrap();
        let mut last = Client::new(server.address);
        let head = b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        last.0.write_all(head).unwrap();
        let mut piped = Client::new(server.address);
        // Replies before a request that a handler answers hold that handler back.
        for path in ["/large", "/metrics"] {
            piped.send(path).unwrap();
        }
        wait_for_timeouts(&server, 3.0);
        assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
    }
}

#[test]
fn who_reads_slowly_gets_all_of_it() {
    for backend in ["io_uring", "epoll"] {
        let limits = "write_timeout = \"2s\", idle_timeout = \"500ms\", rate_grace = \"1s\"";
        let server = server(backend, limits);
        let mut client = Client::new(server.address);
        client.send("/large").unwrap();
        let began = Instant::now();
        let mut got = 0;
        let mut piece = vec![0; LARGE / 64];
        // Longer than either limit, and never for long without a byte.
        while got < LARGE {
            thread::sleep(Duration::from_millis(50));
            match client.0.read(&mut piece).unwrap() {
                0 => panic!("{backend}: cut off after {got} bytes and {:?}", began.elapsed()),
                count => got += count,
            }
        }
        assert!(began.elapsed() > Duration::from_millis(2500), "not slow enough to tell");
        assert_eq!(timeouts(&server), 0.0);
    }
}

#[test]
fn who_drips_is_let_go_of() {
    for backend in ["io_uring", "epoll"] {
        let limits = "write_timeout = \"1s\", rate_grace = \"1s\", min_write_rate = \"64MiB\"";
        let server = server(backend, limits);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = Client::new(server.address);
                client.send("/large").unwrap();
                let mut piece = [0; 64 << 10];
                while !done.load(Ordering::Relaxed)
                    && client.0.read(&mut piece).is_ok_and(|n| n > 0)
                {
                    thread::sleep(Duration::from_millis(100));
                }
            });
            wait_for_timeouts(&server, 1.0);
            done.store(true, Ordering::Relaxed);
        });
    }
}

/// Slowloris, in each part of a request, and from clients that never read: all at once, beside
/// clients that lose nothing.
#[test]
fn slow_requests_end_within_the_limits_while_others_are_served() {
    const EACH: usize = 20;
    for backend in ["io_uring", "epoll"] {
        let server = server(
            backend,
            "header_timeout = \"1s\", body_timeout = \"1s\", write_timeout = \"1s\", \
             idle_timeout = \"1s\", rate_grace = \"1s\"",
        );
        let load = Load::start(server.address, 2, 2);
        let begun: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"", b"G"),
            (b"GET /hello HTTP/1.1\r\n", b"X: y\r\n"),
            (b"GET /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n", b"x"),
            (
                b"GET /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nx\r\n",
            ),
            (b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n", b""),
        ];
        let mut slow: Vec<(TcpStream, &[u8])> = Vec::new();
        for (first, drip) in begun.iter().cycle().take(begun.len() * EACH) {
            let mut stream = Client::new(server.address).0;
            stream.write_all(first).unwrap();
            stream.set_nonblocking(true).unwrap();
            slow.push((stream, drip));
        }
        // Those of the load, and the one that asks.
        let others = 5.0;
        wait_until("only the others are left", || {
            thread::sleep(Duration::from_millis(100)); // well below the lowest rates
            for (stream, drip) in &mut slow {
                let _ = stream.write(drip); // which may be closed, or full, by now
            }
            active(&server)?.le(&others).then_some(())
        });
        let tally = load.finish();
        assert!(tally.lost.is_empty(), "{backend}: {:?}", tally.lost);
        drop(slow); // open on this side until here
    }
}
