//! What only trying tells: a ring with this config's options, a plan for this machine.

use std::fs;
use std::io;
use std::path::Path;

use ember_affinity::plan::NicPlace;
use ember_affinity::{Limits, Topology, WorkerPlan, limits, plan};
use ember_sysctl::alignment::Alignment;
use ember_sysctl::nic::Nic;
use ember_uring::{Driver as _, FeatureState, Info, Uring};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use super::judge;
use crate::config::{Backend, Config};
use crate::supervisor::{rehearse_confinement, resolve_user};
use crate::tune;

/// Everything that is tried; nothing of it lasts.
pub(super) fn all(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.ring.backend != Backend::Epoll {
        findings.extend(ring(config));
    }
    findings.extend(placement(config));
    findings.push(user(config));
    if config.workers.sandbox {
        findings.push(sandbox(config));
    }
    findings.push(state_dir(&config.state_dir));
    findings
}

fn ring(config: &Config) -> Vec<Finding> {
    match Uring::new(config.driver_options(config.limits.max_connections)) {
        Ok(ring) => features(&ring.info()),
        Err(error) => vec![ring_refused(config, &error)],
    }
}

fn features(info: &Info) -> Vec<Finding> {
    const AREA: &str = "io_uring";
    let mut findings =
        vec![Finding::ok(AREA, format!("a ring for {} sockets was made", info.sockets_max))];
    findings.extend(info.features.iter().map(|feature| match feature.state {
        FeatureState::Used => Finding::ok(AREA, format!("{}: used", feature.name)),
        FeatureState::Unused => Finding::ok(AREA, format!("{}: there, not used", feature.name)),
        FeatureState::Absent { instead } => Finding::warn(
            AREA,
            format!("{}: not there; {instead} instead", feature.name),
            "a newer kernel has it",
        ),
    }));
    findings
}

/// Why the kernel made no ring, by the error that it gave.
fn ring_refused(config: &Config, error: &io::Error) -> Finding {
    let found = format!("no ring can be made: {error}");
    let mend = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => "use a kernel with io_uring, or a seccomp profile that allows it",
        Some(Errno::EPERM | Errno::EACCES) => {
            "sysctl kernel.io_uring_disabled=0, or a seccomp profile that allows io_uring"
        }
        Some(Errno::ENOMEM) => "raise LimitMEMLOCK, or use ring.profile = \"low-rss\"",
        Some(Errno::EMFILE | Errno::ENFILE) => "raise LimitNOFILE",
        _ if error.kind() == io::ErrorKind::InvalidInput => "change the option that it names",
        _ => "ring.backend = \"epoll\" does without",
    };
    judge::refused(config, found, mend.to_owned())
}

fn placement(config: &Config) -> Vec<Finding> {
    const AREA: &str = "placement";
    let topology = match Topology::detect() {
        Ok(topology) => topology,
        Err(error) => {
            let found = format!("the machine's topology cannot be read: {error}");
            return vec![Finding::bad(AREA, found, "mount /sys")];
        }
    };
    let (nodes, cpus) = (topology.nodes().len(), topology.usable_cpus());
    let mut findings = vec![Finding::ok(
        AREA,
        format!("{}, usable CPUs {cpus}, {}", count(nodes, "NUMA node"), cores(&topology)),
    )];
    let nics = match tune::nics(config) {
        Ok(nics) => nics,
        Err(error) => return vec![Finding::bad(AREA, error, "name another: tune.nic")],
    };
    let places: Vec<NicPlace> = nics.iter().map(|nic| nic.place.clone()).collect();
    match plan::workers(&topology, &config.placement(), &places) {
        Ok(workers) => {
            findings.push(Finding::ok(AREA, describe(&workers)));
            let threads: usize = workers.iter().map(|worker| worker.cpus.len()).sum();
            let limits = topology.limits();
            findings.extend(granted(limits));
            findings.extend(quota(limits.quota_cpus, threads));
            findings.extend(memory(limits.memory_bytes, threads, config.thread_bytes()));
            findings.extend(aligned(&workers, &nics));
        }
        Err(error) => findings.push(Finding::bad(
            AREA,
            format!("the workers cannot be placed: {error}"),
            "change [workers], or the cpuset of the service",
        )),
    }
    findings
}

fn cores(topology: &Topology) -> String {
    count(topology.cores().len(), "core")
}

fn describe(workers: &[WorkerPlan]) -> String {
    let one = |worker: &WorkerPlan| {
        let cpus: ember_affinity::CpuSet = worker.cpus.iter().copied().collect();
        let node = worker.node.map(|node| format!(" on node {node}")).unwrap_or_default();
        format!("{}{node} on CPUs {cpus}", count(worker.cpus.len(), "thread"))
    };
    let parts: Vec<String> = workers.iter().map(one).collect();
    format!("{}: {}", count(workers.len(), "worker"), parts.join("; "))
}

/// What the cgroup says, which the plan goes by.
fn granted(limits: &Limits) -> Option<Finding> {
    limits::words(limits).map(|words| Finding::ok("placement", words))
}

fn memory(bytes: Option<u64>, threads: usize, thread_bytes: u64) -> Option<Finding> {
    let needed = threads as u64 * thread_bytes;
    let bytes = bytes.filter(|bytes| *bytes < needed)?;
    Some(Finding::bad(
        "placement",
        format!(
            "{} take {} MiB before any connection, and the cgroup grants {} MiB",
            count(threads, "thread"),
            needed.div_ceil(1 << 20),
            bytes >> 20
        ),
        "raise MemoryMax, set workers.threads lower, or ring.profile = \"low-rss\"",
    ))
}

/// How the queues of the NICs fit the workers now.
fn aligned(workers: &[WorkerPlan], nics: &[Nic]) -> Vec<Finding> {
    const AREA: &str = "placement";
    let finding = |it: &Alignment| match it.aligned == it.queues {
        true => Finding::ok(AREA, it.to_string()),
        false => Finding::warn(AREA, it.to_string(), "emberd tune plan, then emberd tune apply"),
    };
    tune::alignment(workers, nics).iter().map(finding).collect()
}

fn quota(cpus: Option<f64>, threads: usize) -> Option<Finding> {
    let cpus = cpus.filter(|cpus| *cpus < threads as f64)?;
    Some(Finding::warn(
        "placement",
        format!("the cgroup grants {cpus} CPUs' time to {}", count(threads, "thread")),
        "raise CPUQuota, or set workers.threads lower: a thread that is out of time stalls its \
         connections",
    ))
}

/// Who workers would run as.
fn user(config: &Config) -> Finding {
    const AREA: &str = "rights";
    match resolve_user(config.user.as_deref()) {
        Ok((Some(user), None)) => Finding::ok(AREA, format!("workers run as {}", user.name)),
        Ok((None, None)) => Finding::ok(AREA, "workers run as the user that starts emberd"),
        Ok((_, Some(warning))) => match warning.split_once("; ") {
            Some((found, mend)) => Finding::warn(AREA, found, mend),
            None => Finding::warn(AREA, warning, "name an ordinary user: user = \"ember\""),
        },
        Err(error) => match error.split_once("; ") {
            Some((found, mend)) => Finding::bad(AREA, found, mend),
            None => Finding::bad(AREA, error, "name a user that exists"),
        },
    }
}

/// What holds of the fence around workers.
fn sandbox(config: &Config) -> Finding {
    const AREA: &str = "sandbox";
    match rehearse_confinement(config) {
        Ok(holds) => Finding::ok(AREA, format!("holds: {}", holds.join(", "))),
        Err(error) => {
            let mend = "allow it in the container's profile, or workers.sandbox = false";
            Finding::bad(AREA, format!("cannot be set up: {error}"), mend)
        }
    }
}

/// Whether the folder is there for us, or could be made.
fn state_dir(path: &Path) -> Finding {
    const AREA: &str = "state";
    let shown = path.display();
    let nearest = path.ancestors().find(|ancestor| fs::metadata(ancestor).is_ok());
    let writable = nearest.is_some_and(|folder| access(folder, AccessFlags::W_OK).is_ok());
    let is_folder = nearest.is_some_and(Path::is_dir);
    if writable && is_folder {
        return Finding::ok(AREA, format!("{shown} can be written"));
    }
    Finding::warn(
        AREA,
        format!("{shown} cannot be written: no control socket, no journal of tuning"),
        "EMBERD_STATE_DIR chooses another directory",
    )
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn a_refused_ring_is_bad_only_where_nothing_else_will_do() {
        let refused = |backend: &str, errno: Errno| {
            let set = vec![format!("ring.backend={backend}")];
            let config = load(&Sources { set, ..Sources::default() }).unwrap().config;
            ring_refused(&config, &io::Error::from(errno))
        };
        assert_eq!(refused("auto", Errno::ENOSYS).state, State::Warn);
        let bad = refused("io_uring", Errno::EPERM);
        assert_eq!(bad.state, State::Bad);
        assert!(bad.mend.unwrap().contains("io_uring_disabled"));
        assert!(refused("auto", Errno::ENOMEM).mend.unwrap().contains("LimitMEMLOCK"));
    }

    #[test]
    fn a_state_directory_that_can_be_made_is_well() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(state_dir(&folder.path().join("a/b")).state, State::Ok);
        assert_eq!(state_dir(Path::new("/proc/version/x")).state, State::Warn);
    }

    #[test]
    fn a_quota_below_the_threads_is_told() {
        assert_eq!(quota(Some(2.0), 2), None);
        assert_eq!(quota(None, 64), None);
        assert_eq!(memory(Some(64 << 20), 4, 16 << 20), None);
        assert_eq!(memory(Some((64 << 20) - 1), 4, 16 << 20).unwrap().state, State::Bad);
        assert!(quota(Some(0.5), 2).unwrap().found.contains("0.5 CPUs' time to 2 threads"));
    }
}
