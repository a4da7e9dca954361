//! The machine a run was made on, for its record.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What decides how figures of one machine compare with those of another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs online.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Whether it runs under a hypervisor.
    pub virtual_machine: bool,
    /// The frequency governor, where there is one.
    pub governor: Option<String>,
    /// How user and system time are told apart.
    pub accounting: Accounting,
}

/// How the kernel divides CPU time into user and system time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounting {
    /// Each change between user and kernel mode takes the time; else each timer tick a sample.
    pub precise: bool,
    /// Timer ticks a second.
    pub hz: f64,
    /// Where that was read; empty where it was assumed.
    pub source: String,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = first_line("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_total(),
            system: system_name(),
            virtual_machine: cpuinfo
                .lines()
                .any(|line| line.starts_with("flags") && line.contains(" hypervisor")),
            governor: first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            accounting: Accounting::detect(&kernel),
            kernel,
        }
    }
}

impl Accounting {
    fn detect(kernel: &str) -> Self {
        let packed = Command::new("zcat").arg("/proc/config.gz").output().ok();
        if let Some(packed) = packed.filter(|output| output.status.success()) {
            return Self::parse(&String::from_utf8_lossy(&packed.stdout), "/proc/config.gz");
        }
        let path = format!("/boot/config-{kernel}");
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            // 250 is the kernel's own default, and tick accounting what distributions build.
            Err(_) => Self { precise: false, hz: 250.0, source: String::new() },
        }
    }

    fn parse(config: &str, source: &str) -> Self {
        let set = |name: &str| config.lines().any(|line| line == format!("{name}=y"));
        let hz = config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ=")?.parse().ok());
        // VIRT_CPU_ACCOUNTING_GEN is precise only while context tracking runs, that is with
        // nohz_full= on the command line; NATIVE always is.
        let nohz_full = first_line("/sys/devices/system/cpu/nohz_full");
        let tracking = nohz_full.is_some_and(|cpus| !cpus.is_empty() && cpus != "(null)");
        Self {
            precise: set("CONFIG_VIRT_CPU_ACCOUNTING_NATIVE")
                || (set("CONFIG_VIRT_CPU_ACCOUNTING_GEN") && tracking),
            hz: hz.unwrap_or(250.0),
            source: source.into(),
        }
    }
}

fn first_line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = field(&text, "MemTotal").unwrap_or_default();
    total.trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

fn system_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounting_is_read_from_a_kernel_config() {
        let tick = Accounting::parse("CONFIG_TICK_CPU_ACCOUNTING=y\nCONFIG_HZ=1000\n", "x");
        assert_eq!(tick, Accounting { precise: false, hz: 1000.0, source: "x".into() });
        let native = Accounting::parse("CONFIG_VIRT_CPU_ACCOUNTING_NATIVE=y\n", "x");
        assert!(native.precise);
    }

    #[test]
    fn this_machine_has_a_cpu_memory_and_a_kernel() {
        let machine = Machine::detect();
        assert!(machine.cpus > 0 && machine.memory > 0 && !machine.kernel.is_empty());
    }
}
