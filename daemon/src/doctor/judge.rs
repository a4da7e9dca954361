//! What the facts mean for a server with this config. Pure, so that hosts which nobody has here
//! can be judged in tests.

use super::Finding;
use super::facts::{Capability, Facts, Limit};
use crate::config::{Address, Backend, Config};

/// Kernels from here on are served; what an older one has to offer is not tried.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Descriptors of a worker that are no connections: rings, listeners, shared memory.
const FILES_BESIDE: u64 = 64;

/// Memory below which a server with default buffers gets into trouble.
const MEMORY_MIN: u64 = 64 << 20;

/// Everything that can be said without trying.
pub(super) fn all(facts: &Facts, config: &Config) -> Vec<Finding> {
    let parts: [fn(&Facts, &Config) -> Vec<Finding>; 6] =
        [kernel, io_uring, limits, rights, listeners, sandbox];
    parts.iter().flat_map(|part| part(facts, config)).collect()
}

fn kernel(facts: &Facts, _: &Config) -> Vec<Finding> {
    const AREA: &str = "kernel";
    let release = &facts.release;
    vec![match facts.version() {
        Some(version) if version >= KERNEL_MIN => Finding::ok(AREA, format!("Linux {release}")),
        Some(_) => Finding::warn(
            AREA,
            format!("Linux {release} is older than what emberd is tested on"),
            format!("run {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
        None => Finding::warn(AREA, "the kernel's version cannot be read", "mount /proc"),
    }]
}

fn io_uring(facts: &Facts, config: &Config) -> Vec<Finding> {
    const AREA: &str = "io_uring";
    if config.ring.backend == Backend::Epoll {
        return vec![Finding::ok(AREA, "not asked for: ring.backend is \"epoll\"")];
    }
    let mend = "sysctl kernel.io_uring_disabled=0";
    let mut findings = vec![match facts.io_uring_disabled {
        None | Some(0) => Finding::ok(AREA, "kernel.io_uring_disabled does not forbid it"),
        Some(1) => Finding::warn(
            AREA,
            "kernel.io_uring_disabled is 1: only for CAP_SYS_ADMIN and one group",
            format!("{mend}, or make the user a member of kernel.io_uring_group"),
        ),
        Some(value) => {
            let found = format!("kernel.io_uring_disabled is {value}: refused to all");
            refused(config, found, mend.to_owned())
        }
    }];
    if facts.seccomp == 2 {
        findings.push(Finding::warn(
            AREA,
            "a seccomp filter is on this process; whether it allows io_uring shows below",
            "in a container, use a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register",
        ));
    }
    findings
}

/// io_uring cannot be had: a loss where another driver may take over, else the end.
pub(super) fn refused(config: &Config, found: String, mend: String) -> Finding {
    match config.ring.backend {
        Backend::IoUring => Finding::bad("io_uring", found, mend),
        _ => Finding::warn("io_uring", found, mend),
    }
}

fn limits(facts: &Facts, config: &Config) -> Vec<Finding> {
    const AREA: &str = "limits";
    let wanted = u64::from(config.limits.max_connections) + FILES_BESIDE;
    let Limit { hard, .. } = facts.open_files;
    let files = match hard {
        Some(hard) if hard < wanted => Finding::warn(
            AREA,
            format!(
                "{hard} open files at most: fewer than limits.max_connections = {}",
                config.limits.max_connections
            ),
            format!("LimitNOFILE={wanted} in the unit, or ulimit -Hn {wanted}"),
        ),
        _ => Finding::ok(AREA, format!("{} open files", number(hard))),
    };
    let needed = config.thread_bytes();
    let locked = facts.locked_memory.soft;
    let memlock = match locked {
        Some(soft) if soft < needed && !facts.can(Capability::IpcLock) => Finding::warn(
            AREA,
            format!(
                "{} KiB may be locked; prepared replies and buffers of a thread take about {} KiB",
                soft >> 10,
                needed.div_ceil(1024)
            ),
            format!("LimitMEMLOCK={needed} in the unit, or ulimit -l {}", needed.div_ceil(1024)),
        ),
        _ => Finding::ok(AREA, "memory may be locked as far as prepared replies need it"),
    };
    let mut findings = vec![files, memlock];
    if let Some(max) = facts.memory_max.filter(|max| *max < MEMORY_MIN) {
        findings.push(Finding::warn(
            AREA,
            format!("the cgroup grants {} MiB of memory", max >> 20),
            "MemoryMax=64M or more, or ring.profile = \"low-rss\"",
        ));
    }
    findings
}

fn rights(facts: &Facts, config: &Config) -> Vec<Finding> {
    const AREA: &str = "rights";
    let mut findings = Vec::new();
    if let Some(user) = config.user.as_ref().filter(|_| facts.effective_uid != 0) {
        findings.push(Finding::warn(
            AREA,
            format!("user = \"{user}\" has no effect: only root can change the user"),
            "start as root, or take it out",
        ));
    }
    let nice = i64::from(config.workers.nice);
    let lowest = facts.nice.soft.map_or(-20, |limit| 20 - i64::try_from(limit).unwrap_or(20));
    if nice < 0 && !facts.can(Capability::SysNice) && nice < lowest {
        findings.push(Finding::warn(
            AREA,
            format!("workers.nice = {nice} is not allowed and will be left out"),
            format!("CAP_SYS_NICE, or LimitNICE={nice} in the unit"),
        ));
    }
    findings
}

fn listeners(facts: &Facts, config: &Config) -> Vec<Finding> {
    const AREA: &str = "listeners";
    let mut findings = Vec::new();
    let low_port = facts.unprivileged_port_start.unwrap_or(1024);
    let may_bind_low = facts.can(Capability::NetBindService);
    for listener in &config.listeners {
        if let Address::Tcp(address) = listener.address
            && (1..low_port).contains(&address.port())
            && !may_bind_low
        {
            findings.push(Finding::bad(
                AREA,
                format!("listener \"{}\" may not have port {}", listener.name, address.port()),
                "start as root, give CAP_NET_BIND_SERVICE, or use systemd:NAME",
            ));
        }
        if let Some(somaxconn) = facts.somaxconn.filter(|cap| *cap < listener.backlog) {
            findings.push(Finding::warn(
                AREA,
                format!(
                    "the backlog of listener \"{}\" is cut from {} to net.core.somaxconn = \
                     {somaxconn}",
                    listener.name, listener.backlog
                ),
                format!("emberd tune apply, or sysctl -w net.core.somaxconn={}", listener.backlog),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, "ports and backlogs are granted"));
    }
    findings
}

fn sandbox(facts: &Facts, config: &Config) -> Vec<Finding> {
    const AREA: &str = "sandbox";
    if !config.workers.sandbox {
        return vec![Finding::warn(AREA, "off by config", "workers.sandbox = true")];
    }
    let landlock = facts.lsm.as_ref().map(|names| names.split(',').any(|name| name == "landlock"));
    if landlock != Some(false) {
        // What holds is tried.
        return Vec::new();
    }
    vec![Finding::warn(
        AREA,
        "Landlock is not among the kernel's security modules",
        "boot with lsm=…,landlock; workers still drop capabilities and system calls",
    )]
}

fn number(limit: Option<u64>) -> String {
    limit.map_or("any number of".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::config::{Sources, load};

    fn config(set: &[&str]) -> Config {
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        load(&Sources { set, ..Sources::default() }).unwrap().config
    }

    /// A host on which all is well, for root.
    fn good() -> Facts {
        Facts {
            release: "6.12.1".to_owned(),
            effective_uid: 0,
            capabilities: u64::MAX,
            somaxconn: Some(65535),
            lsm: Some("capability,landlock,yama".to_owned()),
            ..Facts::default()
        }
    }

    fn ordinary() -> Facts {
        Facts { effective_uid: 1000, capabilities: 0, ..good() }
    }

    /// The one finding that is not well.
    fn wrong(facts: &Facts, set: &[&str]) -> Finding {
        let findings = all(facts, &config(set));
        let mut wrong = findings.into_iter().filter(|finding| finding.state != State::Ok);
        let first = wrong.next().expect("nothing is wrong");
        assert_eq!(wrong.next(), None);
        assert!(first.mend.is_some());
        first
    }

    #[test]
    fn on_a_good_host_all_is_well() {
        let findings = all(&good(), &config(&["user=ember"]));
        assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:?}");
        let plain = ["workers.nice=0", "listener.0.backlog=128"];
        let findings = all(&ordinary(), &config(&plain));
        assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:?}");
    }

    #[test]
    fn each_lack_is_found_with_its_mend() {
        let root = ["user=ember"];
        let old = Facts { release: "5.15.0-91-generic".to_owned(), ..good() };
        assert_eq!(wrong(&old, &root).area, "kernel");
        let disabled = Facts { io_uring_disabled: Some(2), ..good() };
        assert_eq!(wrong(&disabled, &root).state, State::Warn);
        let needed = ["user=ember", "ring.backend=io_uring"];
        assert_eq!(wrong(&disabled, &needed).state, State::Bad);
        let filtered = Facts { seccomp: 2, ..good() };
        assert!(wrong(&filtered, &root).mend.unwrap().contains("io_uring_setup"));
        let few = Limit { soft: Some(1024), hard: Some(4096) };
        let few = Facts { open_files: few, ..good() };
        assert!(wrong(&few, &root).mend.unwrap().contains("LimitNOFILE=65600"));
        let locked = Limit { soft: Some(64 << 10), hard: Some(64 << 10) };
        let locked = Facts { locked_memory: locked, ..ordinary() };
        assert!(wrong(&locked, &["workers.nice=0"]).mend.unwrap().contains("LimitMEMLOCK="));
        let small = Facts { memory_max: Some(32 << 20), ..good() };
        assert!(wrong(&small, &root).found.contains("32 MiB"));
        let queue = Facts { somaxconn: Some(128), ..good() };
        assert!(wrong(&queue, &root).found.contains("cut from 65535"));
        assert!(wrong(&ordinary(), &["workers.nice=0", "user=x"]).found.contains("no effect"));
        let no_nice = Facts { nice: Limit { soft: Some(0), hard: Some(0) }, ..ordinary() };
        assert!(wrong(&no_nice, &[]).found.contains("workers.nice = -10"));
        let low = ["workers.nice=0", "listener.0.address=127.0.0.1:80"];
        assert_eq!(wrong(&ordinary(), &low).state, State::Bad);
        let fence = Facts { lsm: Some("capability".to_owned()), ..good() };
        assert_eq!(wrong(&fence, &root).area, "sandbox");
    }
}
