//! `ember-bench load`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use ember_bench::load::{
    self, Arrivals, Body, Expect, Fields, Held, Mode, Options, Outcome, Refill, Request,
};

use super::Error;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// What to ask for, as http://HOST:PORT/PATH
    url: String,
    /// Connections that work
    #[arg(short, long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(short, long, default_value_t = 1)]
    pipeline: u32,
    /// Send again when all of a connection's requests are answered, or as many as were answered
    #[arg(long, value_enum, default_value_t = RefillArg::Batch)]
    refill: RefillArg,
    /// Open loop: requests a second, over all connections; latency counts from when each was due
    #[arg(short, long)]
    rate: Option<f64>,
    /// Spacing of an open loop's requests
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Even)]
    arrivals: ArrivalsArg,
    /// A new connection for each request
    #[arg(long, conflicts_with_all = ["rate", "pipeline"])]
    churn: bool,
    /// Connections held open and idle besides
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Send what a browser sends (about 460 bytes) instead of a short head
    #[arg(long)]
    browser: bool,
    /// Seconds of load before the measured window
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Seconds measured
    #[arg(short, long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds that a reply may take
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Faults that end the run early
    #[arg(long, default_value_t = 100)]
    faults_max: u64,
    /// Threads
    #[arg(short, long, default_value_t = 1)]
    threads: usize,
    /// CPUs to pin the threads to, in turn
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// The status that every reply must have
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// The body that every reply must have
    #[arg(long)]
    body: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RefillArg {
    Batch,
    Each,
}

#[derive(Clone, Copy, ValueEnum)]
enum ArrivalsArg {
    Even,
    Poisson,
}

/// Fails when any reply was wrong or missing.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let (host, target, path) = split_url(&args.url)?;
    let expect = Expect {
        status: args.status,
        body: args.body.as_ref().map_or(Body::Any, |body| Body::Exact(body.as_bytes().into())),
    };
    let fields = if args.browser { Fields::Browser } else { Fields::Plain };
    let request = Request::get(&host, &path, fields, args.churn, expect);
    let held = Held::open(target, &request, args.idle)?;
    let outcome = load::run(&options(args, target, request), &mut |_| {});
    print(args, &outcome);
    let lost = held.lost();
    if lost > 0 {
        println!("faults    {lost} of {} idle connections were closed", held.count());
    }
    let failed = outcome.faults_total() > 0 || lost > 0 || outcome.replies == 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn options(args: &Args, target: SocketAddr, request: Request) -> Options {
    let refill = match args.refill {
        RefillArg::Batch => Refill::Batch,
        RefillArg::Each => Refill::Each,
    };
    let arrivals = match args.arrivals {
        ArrivalsArg::Even => Arrivals::Even,
        ArrivalsArg::Poisson => Arrivals::Poisson,
    };
    Options {
        target,
        requests: vec![request],
        connections: args.connections,
        depth: args.pipeline,
        mode: match args.rate {
            Some(rate) => Mode::Open(rate, arrivals),
            None if args.churn => Mode::Churn,
            None => Mode::Closed(refill),
        },
        warmup: Duration::from_secs_f64(args.warmup),
        window: Duration::from_secs_f64(args.duration),
        timeout: Duration::from_secs_f64(args.timeout),
        faults_max: args.faults_max,
        threads: args.threads,
        cpus: args.cpus.clone(),
    }
}

/// The Host field, the address and the path of `http://HOST:PORT/PATH`.
fn split_url(url: &str) -> Result<(String, SocketAddr, String), Error> {
    let rest = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let target = with_port
        .to_socket_addrs()
        .map_err(|error| format!("{host}: {error}"))?
        .next()
        .ok_or_else(|| format!("{host}: no address"))?;
    Ok((host.to_owned(), target, format!("/{path}")))
}

fn print(args: &Args, outcome: &Outcome) {
    let seconds = outcome.elapsed.as_secs_f64();
    println!("replies   {} in {seconds:.2} s", outcome.replies);
    println!("rate      {:.0} requests/s", outcome.rate());
    println!("received  {:.1} MB/s", outcome.bytes as f64 / seconds / 1e6);
    let quantiles =
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
    let latencies: Vec<String> = quantiles
        .iter()
        .map(|(name, quantile)| format!("{name} {:.1}", outcome.latency_us(*quantile)))
        .collect();
    let max_us = outcome.latency.max() as f64 / 1000.0;
    println!("latency   {}, max {max_us:.1} us", latencies.join(", "));
    if args.rate.is_some() {
        let late_us = outcome.lateness.value_at_quantile(0.99) as f64 / 1000.0;
        println!("lateness  p99 {late_us:.1} us of the generator; {} not sent", outcome.unsent);
    }
    if outcome.reconnects > 0 {
        println!("reconnect {}", outcome.reconnects);
    }
    let limit = if outcome.generator_limits() { ": the generator is the limit" } else { "" };
    println!("generator {:.0}% of {} CPU{limit}", outcome.busy() * 100.0, outcome.threads);
    for (fault, count) in &outcome.faults {
        println!("faults    {count} {fault}");
    }
}
