//! The real worker loop on the simulated driver, under seeds.
//!
//! A seed decides the network (late, split, full, exhausted, broken), the clients (their requests,
//! how they cut and pipeline them, whether they read or leave), when the wall clock steps, and when
//! a reload begins: a second server beside the first, which drains. Whatever happens, replies match
//! requests in order, none comes before its request, every buffer, slot and payload comes back, and
//! the counters add up. `SEEDS=n` runs so many, `SEED=n` one again.

mod client;

use std::fs::File;
use std::future::Future as _;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ember::rt::Runtime;
use ember_affinity::WorkerPlan;
use ember_metrics::{Family, Names, Pages};
use ember_uring::{Completion, Driver as _, ListenerId, Options, Sim, SimNet, SimOptions};

use self::client::{
    APART_BYTES, Client, LARGE_BYTES, LATER, METRICS, PIECE_BYTES, PIECES, Random, SMALL, World,
};
use super::clock::{Clock, Simulated};
use super::functions::{Functions, Services};
use super::scribe::{Job, Scribe};
use super::site::Sites;
use super::tally::Tally;
use super::thread::{Parts, Thread};
use crate::boot::{Order, Seat};
use crate::config::{Config, Sources, load};

/// Seeds that `cargo test` runs, each twice: with and without faults.
const SEEDS: u64 = 1_500;
/// Far more turns than any run takes.
const TURNS_MAX: usize = 60_000;
const CLIENTS_MAX: usize = 12;
const WALL: u64 = 1_700_000_000;

/// What is served, which is the same for all seeds.
struct Setting {
    sites: Arc<Sites>,
    names: Names,
    requests_max: usize,
}

fn settings() -> &'static [Setting; 2] {
    static SETTINGS: OnceLock<[Setting; 2]> = OnceLock::new();
    SETTINGS.get_or_init(|| [setting(1_000_000), setting(3)])
}

fn setting(requests_max: usize) -> Setting {
    let config = config(requests_max);
    let app = ember::App::new()
        .post("/echo", |request: &ember::Request| request.body().to_vec())
        .get("/later", later)
        .get("/pieces", pieces);
    let program = app.build().unwrap();
    let own: Vec<&ember::Route> = program.routes().iter().collect();
    let sites = Arc::new(Sites::with(&config, &own).unwrap());
    let mut names = Names::new();
    super::intern(&mut names, &config);
    for name in ["/echo", "/later", "/pieces"] {
        names.intern(name);
    }
    Setting { sites, names, requests_max }
}

/// A handler that suspends, and works beside itself.
async fn later(_: &ember::Request) -> ember::Response {
    let task = ember::spawn(ember::time::sleep(Duration::from_millis(3)));
    ember::time::sleep(Duration::from_millis(2)).await;
    let done = task.await.is_ok();
    ember::Response::text(if done { 200 } else { 500 }, LATER)
}

/// A reply that is made while it goes out, now at once, now later.
struct Pieces {
    left: usize,
    wait: Option<ember::time::Sleep>,
}

async fn pieces(_: &ember::Request) -> ember::Response {
    let stream = Pieces { left: PIECES, wait: None };
    ember::Response::new(200).with_body(ember::Body::stream(stream))
}

impl ember::BodyStream for Pieces {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<ember::Piece>>> {
        if let Some(wait) = &mut self.wait {
            std::task::ready!(Pin::new(wait).poll(cx));
            self.wait = None;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        if self.left % 3 == 1 {
            self.wait = Some(ember::time::sleep(Duration::from_millis(1)));
        }
        Poll::Ready(Some(Ok(ember::Piece::Owned(vec![b'p'; PIECE_BYTES]))))
    }

    fn length(&self) -> Option<u64> {
        Some((PIECES * PIECE_BYTES) as u64)
    }
}

fn config(requests_max: usize) -> Config {
    let (large, apart) = ("l".repeat(LARGE_BYTES), "a".repeat(APART_BYTES));
    let text = format!(
        "limits = {{ max_requests = {requests_max}, header_timeout = \"60s\", \
             idle_timeout = \"60s\", body_timeout = \"60s\", \
             half_close_timeout = \"60s\", min_body_rate = 0 }}\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:1\"\n\
         [[listener]]\nname = \"beacon\"\naddress = \"127.0.0.1:2\"\nreply = {{ status = 204 }}\n\
         [[prepared]]\npath = \"/small\"\nbody = \"{SMALL}\"\n\
         [[prepared]]\npath = \"/large\"\nbody = \"{large}\"\n\
         [[prepared]]\npath = \"/apart\"\nbody = \"{apart}\"\n\
         [[metrics]]\npath = \"/metrics\"\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emberd.toml");
    std::fs::write(&file, text).unwrap();
    load(&Sources { file: Some(file), ..Sources::default() }).unwrap().config
}

/// One generation: a worker's thread and the network around it.
struct Server {
    thread: Thread<Sim>,
    runtime: Runtime,
    net: SimNet,
    listeners: [ListenerId; 2],
    clock: Rc<Simulated>,
    order: Box<dyn Fn(Order)>,
    questions: Receiver<Job>,
    unanswered: Vec<Job>,
    done: Vec<Completion>,
    buffers: u16,
}

impl Server {
    fn new(setting: &Setting, page: ember_metrics::Page, sim: SimOptions, r: &mut Random) -> Self {
        let options = Options {
            buffers: [2, 8][r.below(2)],
            buffer_size: [32, 256, 4096][r.below(3)],
            sockets_max: [4, 64][r.below(2)],
            ..Options::default()
        };
        let mut driver = Sim::new(&options, sim).unwrap();
        let net = driver.net();
        let listeners = [(); 2]
            .map(|()| driver.accept(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap());
        let clock = Simulated::new(net.clone(), WALL);
        let (mut seat, order) = Seat::alone().unwrap();
        let waker = driver.waker();
        let runtime = Runtime::new({
            let waker = waker.clone();
            move || waker.wake()
        });
        seat.ready(move || waker.wake(), "sim".to_owned());
        let plan = WorkerPlan { node: None, cpus: vec![0] };
        let (scribe, questions) = Scribe::of_test();
        let parts = Parts {
            sites: Arc::clone(&setting.sites),
            tally: Tally::new(page, setting.names.clone(), 0, &plan, &setting.sites),
            functions: Arc::new(Functions::new(
                &setting.sites,
                &Services {
                    scribe,
                    proxies: Arc::default(),
                    limits: None,
                    names: setting.names.clone(),
                },
            )),
            runtime: runtime.clone(),
            recorder: None,
            seat,
            listeners: vec![(listeners[0], 0), (listeners[1], 1)],
            sockets_max: options.sockets_max as usize,
            clock: Clock::Simulated(Rc::clone(&clock)),
        };
        Server {
            thread: Thread::new(driver, parts).unwrap(),
            runtime,
            net,
            listeners,
            clock,
            order: Box::new(order),
            questions,
            unanswered: Vec::new(),
            done: Vec::new(),
            buffers: options.buffers,
        }
    }

    /// A turn of the thread, and now and then an answer of the scribe, in any order. Time may leap
    /// where nothing is due but the end of a drain, and there the scribe answers at once.
    fn turn(&mut self, leaving: bool, random: &mut Random) {
        let entered = self.runtime.enter();
        self.thread.turn(&mut self.done).unwrap();
        drop(entered);
        self.unanswered.extend(self.questions.try_iter());
        if !self.unanswered.is_empty() && (leaving || random.chance(500)) {
            let at = random.below(self.unanswered.len());
            let (_, asker) = self.unanswered.swap_remove(at);
            // The one who asked may have gone.
            let _ = asker.send(METRICS.into());
        }
    }

    fn drain(&self, patience: Duration) {
        let now = Clock::Simulated(Rc::clone(&self.clock)).now();
        (self.order)(Order::Drain { idle_at: now + patience / 2, deadline: now + patience });
    }

    fn assert_nothing_left(&self) {
        let driver = self.thread.assert_nothing_left();
        assert_eq!(driver.stats().sockets, 0, "sockets of the driver");
        assert_eq!(driver.buffers_free(), usize::from(self.buffers), "receive buffers");
    }
}

fn run(seed: u64, gentle: bool) {
    let mut random = Random::new(seed);
    let setting = &settings()[random.below(2)];
    let pages = Pages::create(2, 1024).unwrap();
    let network = |seed| if gentle { SimOptions::gentle(seed) } else { SimOptions::rough(seed) };
    let mut servers =
        vec![Server::new(setting, pages.page(0).unwrap(), network(seed), &mut random)];
    let mut draining = vec![false];
    let mut clients: Vec<Client> = (0..1 + random.below(CLIENTS_MAX))
        .map(|number| Client::new(number, gentle, &mut random))
        .collect();
    let reload_at = random.chance(500).then(|| random.below(200));
    let mut dates = vec![Vec::<String>::new()];
    for turn in 0.. {
        assert!(
            turn < TURNS_MAX,
            "no end in sight: {:?}",
            clients.iter().filter(|c| !c.is_done()).map(Client::describe).collect::<Vec<_>>()
        );
        if reload_at == Some(turn) {
            let page = pages.page(1).unwrap();
            servers.push(Server::new(setting, page, network(!seed), &mut random));
            draining.push(false);
            dates.push(Vec::new());
            servers[0].drain(Duration::from_secs(600));
            draining[0] = true;
        }
        for ((server, &leaving), dates) in servers.iter_mut().zip(&draining).zip(&mut dates) {
            if random.chance(2) {
                server.clock.step(WALL - 1_000 + random.below(100_000) as u64);
            }
            if !server.thread.finished() {
                server.turn(leaving, &mut random);
            }
            let second = Clock::Simulated(Rc::clone(&server.clock)).wall_second();
            let date = String::from_utf8(ember_http::date::format(second).to_vec()).unwrap();
            if dates.last() != Some(&date) {
                dates.push(date);
            }
        }
        let (last, newest) = (servers.len() - 1, &servers[servers.len() - 1]);
        let requests_max = setting.requests_max;
        let world = World { gentle, requests_max, draining: &draining, dates: &dates };
        for client in &mut clients {
            if client.wants_to_connect() && random.chance(500) {
                let listener = newest.listeners[client.door() as usize];
                client.connect(newest.net.connect(listener), last, &dates[last]);
            }
            client.step(&world, &mut random);
        }
        if clients.iter().all(Client::is_done) {
            break;
        }
    }
    finish(&mut servers, &mut random);
    let answered: usize = clients.iter().map(Client::answered).sum();
    // Of a reply that was armed and a request that then broke off nobody knows.
    let unknown: usize = if gentle { 0 } else { clients.iter().map(Client::unsure).sum() };
    assert_counters(&pages, answered - unknown.min(answered), gentle && reload_at.is_none());
}

/// Drains what still runs, and looks that nothing is left.
fn finish(servers: &mut [Server], random: &mut Random) {
    for server in servers {
        server.drain(Duration::from_secs(600));
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the drain does not end");
            if server.thread.finished() {
                break;
            }
            server.turn(true, random);
        }
        server.assert_nothing_left();
    }
}

fn assert_counters(pages: &Pages, answered: usize, exact: bool) {
    let sum = |family| pages.sum(family, 0..pages.threads());
    let accepted = sum(Family::ConnectionsAccepted);
    assert_eq!(accepted, sum(Family::ConnectionsClosed), "accepted and closed");
    assert_eq!(sum(Family::ConnectionsActive), 0, "active");
    assert_eq!(sum(Family::HttpRequestsInFlight), 0, "in flight");
    assert_eq!(sum(Family::ConnectionsPaused), 0, "paused");
    let counted = sum(Family::HttpRequests) as usize;
    // Without faults each reply was read by somebody; with them some were lost on the way.
    assert!(counted == answered || counted > answered && !exact, "{counted} of {answered}");
}

#[test]
fn the_worker_keeps_its_promises_under_any_seed() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        for gentle in [true, false] {
            let run = std::panic::catch_unwind(|| run(seed, gentle));
            if let Err(panic) = run {
                eprintln!("failed with SEED={seed} (gentle: {gentle}); make sim SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
