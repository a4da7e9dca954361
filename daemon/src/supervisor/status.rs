//! What `emberd status` shows.

use std::fmt::Write;
use std::time::Instant;

use ember_sysctl::alignment::Alignment;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::generation::{Generation, Stage, State, Worker};
use super::run::Supervisor;
use crate::tune::watch::Watcher;

impl Supervisor {
    /// Everything there is to know, as JSON.
    pub(super) fn status(&self, now: Instant) -> Value {
        let generations: Vec<Value> =
            self.generations.iter().map(|it| self.generation_status(it, now)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "state": self.state_word(),
            "uptime_s": seconds(self.started, now),
            "config": self.source.name(),
            "reloads": { "last_ok": self.counters.reloads.last_ok, "last_error": self.last_error },
            "listeners": self.listener_status(),
            "tuning": self.tuning_status(),
            "generations": generations,
        })
    }

    fn state_word(&self) -> &'static str {
        match (&self.ending, &self.change) {
            (Some(_), _) => "draining",
            (None, Some(_)) => "changing",
            (None, None) => "serving",
        }
    }

    fn listener_status(&self) -> Vec<Value> {
        let Some(latest) = self.generations.last() else { return Vec::new() };
        let listener = |wanted| {
            let bound = self.sockets.bound(wanted).map(ToString::to_string);
            json!({ "name": wanted.name, "address": bound, "url": self.url(wanted) })
        };
        latest.settings.wanted.iter().map(listener).collect()
    }

    /// What the watch over the tuning saw last; null where nothing is watched.
    fn tuning_status(&self) -> Value {
        let watched = |watcher: &Watcher| json!({ "drifted": watcher.drifted() });
        self.watcher.as_ref().map_or(Value::Null, watched)
    }

    fn generation_status(&self, generation: &Generation, now: Instant) -> Value {
        let stage = match generation.stage {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Leaving => "leaving",
        };
        let workers: Vec<Value> = generation
            .workers
            .iter()
            .zip(&generation.settings.workers)
            .map(|(worker, plan)| {
                let (state, age_s) = worker_state(worker, now);
                json!({
                    "worker": worker.index,
                    "pid": worker.pid(),
                    "state": state,
                    "age_s": age_s,
                    "node": plan.node,
                    "cpus": plan.cpus,
                    "threads": plan.cpus.len(),
                    "restarts": self.counters.restarts(worker.index),
                    "connections": self.counters.connections(&worker.pages),
                })
            })
            .collect();
        json!({
            "generation": generation.number,
            "stage": stage,
            "backend": generation.backend,
            "confinement": generation.notes,
            "granted": generation.settings.grounds.granted,
            "nics": generation.settings.grounds.nics,
            "workers": workers,
        })
    }
}

fn worker_state(worker: &Worker, now: Instant) -> (&'static str, Option<f64>) {
    match &worker.state {
        State::Running(running) => {
            (if running.ready { "ready" } else { "starting" }, Some(seconds(running.since, now)))
        }
        State::Waiting(_) => ("waiting", None),
        State::Gone => ("gone", None),
    }
}

fn seconds(since: Instant, now: Instant) -> f64 {
    let milliseconds = now.saturating_duration_since(since).as_millis();
    milliseconds as f64 / 1000.0
}

/// The status for people.
pub fn render_status(status: &Value) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "emberd {} (pid {}), {}, up {} s, config {}",
        text(&status["version"]),
        text(&status["pid"]),
        text(&status["state"]),
        text(&status["uptime_s"]),
        text(&status["config"]),
    );
    if status["reloads"]["last_error"].is_string() {
        let _ = writeln!(out, "last change refused: {}", text(&status["reloads"]["last_error"]));
    }
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "listener {}: {}", text(&listener["name"]), text(&listener["url"]));
    }
    if let Some(drifted) = status["tuning"]["drifted"].as_array() {
        let drifted: Vec<String> = drifted.iter().map(text).collect();
        let _ = match drifted.is_empty() {
            true => writeln!(out, "tuning: as planned"),
            false => writeln!(
                out,
                "tuning: drifted: {} (`emberd tune status` tells how)",
                drifted.join(", ")
            ),
        };
    } else {
        out.push_str(
            "tuning: nothing applied by this server; `emberd tune status` compares the host\n",
        );
    }
    for generation in status["generations"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "generation {} ({}): {}",
            text(&generation["generation"]),
            text(&generation["stage"]),
            text(&generation["backend"]),
        );
        for note in generation["confinement"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "  {}", text(note));
        }
        if let Value::String(granted) = &generation["granted"] {
            let _ = writeln!(out, "  {granted}");
        }
        for nic in generation["nics"].as_array().into_iter().flatten() {
            if let Ok(alignment) = Alignment::deserialize(nic) {
                let _ = writeln!(out, "  {alignment} at the start of this generation");
            }
        }
        for worker in generation["workers"].as_array().into_iter().flatten() {
            out.push_str(&worker_line(worker));
        }
    }
    out
}

fn worker_line(worker: &Value) -> String {
    let cpus = worker["cpus"].as_array().into_iter().flatten();
    let cpus: Vec<String> = cpus.map(text).collect();
    let since = match &worker["age_s"] {
        Value::Null => String::new(),
        age => format!(" for {age} s"),
    };
    let node = match &worker["node"] {
        Value::Null => "any node".to_owned(),
        node => format!("node {node}"),
    };
    let threads = match cpus.len() {
        1 => "1 thread on CPU".to_owned(),
        count => format!("{count} threads on CPUs"),
    };
    format!(
        "  worker {} (pid {}) {}{since}, {node}, {threads} {}, {} restarts, {} connections\n",
        text(&worker["worker"]),
        text(&worker["pid"]),
        text(&worker["state"]),
        cpus.join(","),
        text(&worker["restarts"]),
        text(&worker["connections"]),
    )
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_a_line_for_each_worker() {
        let status = json!({
            "version": "1.2.3", "pid": 7, "state": "serving", "uptime_s": 1.5, "config": "a.toml",
            "reloads": { "last_ok": false, "last_error": "line 3: no" },
            "listeners": [{ "name": "web", "address": "127.0.0.1:1", "url": "http://127.0.0.1:1" }],
            "tuning": { "drifted": ["irq"] },
            "generations": [{
                "generation": 2, "stage": "serving", "backend": "io_uring",
                "confinement": ["workers are confined: user nobody"],
                "granted": "the cgroup grants 2 CPUs' time",
                "nics": [{ "nic": "eth0", "queues": 4, "aligned": 3 }],
                "workers": [{
                    "worker": 0, "pid": 8, "state": "ready", "age_s": 1.0, "node": null,
                    "cpus": [0, 1], "restarts": 3, "connections": 12,
                }],
            }],
        });
        assert_eq!(
            render_status(&status),
            "emberd 1.2.3 (pid 7), serving, up 1.5 s, config a.toml\n\
             last change refused: line 3: no\n\
             listener web: http://127.0.0.1:1\n\
             tuning: drifted: irq (`emberd tune status` tells how)\n\
             generation 2 (serving): io_uring\n  \
             workers are confined: user nobody\n  \
             the cgroup grants 2 CPUs' time\n  \
             eth0: NIC queues aligned 3/4 at the start of this generation\n  \
             worker 0 (pid 8) ready for 1.0 s, any node, 2 threads on CPUs 0,1, 3 restarts, \
             12 connections\n"
        );
    }
}
