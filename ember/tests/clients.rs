//! Clients of other services on the ring, work elsewhere, and caches, in an example program.

mod common;

use common::Example;
use common::services::Redis;

#[test]
fn other_servers_are_asked_on_the_ring() {
    let (example, other) = (Example::start("clients"), Example::start("clients"));
    for host in ["127.0.0.1", "localhost"] {
        let line = format!("GET /fetch/{host}/{}/sum", other.port());
        assert_eq!(example.reply(&line, "", ""), (200, "499999500000\n".to_owned()), "{host}");
    }
    // Nobody listens where the port has just been given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (status, said) = example.reply(&format!("GET /fetch/127.0.0.1/{free}/sum"), "", "");
    assert_eq!(status, 502, "{said}");
    assert!(said.contains("Connection refused"), "{said}");
    let (status, said) = example.reply("GET /fetch/no-such-host.invalid/80/x", "", "");
    assert_eq!(status, 502, "{said}");
    assert!(said.contains("looking no-such-host.invalid up"), "{said}");
}

#[test]
fn work_is_done_on_other_threads() {
    let example = Example::start("clients");
    assert_eq!(example.reply("GET /sum", "", ""), (200, "499999500000\n".to_owned()));
    assert_eq!(example.reply("GET /tokio", "", ""), (200, "tokio\n".to_owned()));
}

#[test]
fn replies_are_kept_until_they_are_forgotten() {
    let example = Example::start("clients");
    let first = example.reply("GET /kept", "", "");
    assert_eq!(first.0, 200);
    assert_eq!(example.reply("GET /kept", "", ""), first);
    assert_ne!(example.reply("GET /kept?other", "", ""), first);
    assert_ne!(example.reply("GET /kept", "Authorization: x\r\n", ""), first);
    assert_eq!(example.reply("HEAD /kept", "", "").1, "");
    assert_eq!(example.reply("DELETE /kept", "", ""), (200, "3\n".to_owned()));
    assert_ne!(example.reply("GET /kept", "", ""), first);
    for (result, count) in [("hit", 1), ("miss", 4), ("bypass", 1)] {
        let label = format!("{{cache=\"/kept\",result=\"{result}\"}}");
        example.wait_for(&format!("emberd_cache_requests_total{label} {count}\n"));
    }
}

#[test]
fn a_redis_client_runs_on_the_ring() {
    let Some(redis) = Redis::start() else { return };
    let place = format!("127.0.0.1:{}", redis.port());
    let example = Example::start_with("clients", &[("REDIS", &place)]);
    assert_eq!(example.reply("GET /count", "", ""), (200, "1\n".to_owned()));
    assert_eq!(example.reply("GET /count", "", ""), (200, "2\n".to_owned()));
}
