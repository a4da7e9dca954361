//! A tree of files that stands for a host, and behaves as the kernel does where it matters to
//! the tuner: masks are cut or refused, channels make and unmake queues and interrupts, and any
//! access can be made to fail.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

pub mod machines;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ember_affinity::CpuSet;
use ember_sysctl::audit;
use ember_sysctl::ethtool::{Channels, CoalesceField, Feature, Rings};
use ember_sysctl::host::Host;
use ember_sysctl::netdev::{Napi, NapiField};
use ember_sysctl::qdisc::Qdiscs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A directory that is removed with its owner.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ember-tune-{name}-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("scratch directory");
        Scratch(fs::canonicalize(path).expect("scratch directory"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A failure to inject: accesses of paths that contain `part`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub part: &'static str,
    pub on_write: bool,
    pub errno: i32,
}

pub struct TreeHost {
    pub root: PathBuf,
    pub faults: RefCell<Vec<Fault>>,
    /// The step before which this process ends itself; none: never.
    pub kill_at: Option<u32>,
    pub steps: Cell<u32>,
    /// Paths and settings written to, in order.
    pub writes: RefCell<Vec<String>>,
    /// How many pauses pass until interrupts fire where they were moved to.
    pub quiet_for: Cell<u32>,
    /// What their new places are then.
    moved: RefCell<Vec<(String, String)>>,
}

impl TreeHost {
    pub fn new(root: &Path) -> TreeHost {
        TreeHost {
            root: root.to_path_buf(),
            faults: RefCell::default(),
            kill_at: None,
            steps: Cell::new(0),
            writes: RefCell::default(),
            quiet_for: Cell::default(),
            moved: RefCell::default(),
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Makes a file, and the directories above it.
    pub fn put(&self, path: &str, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, format!("{contents}\n")).expect("write");
    }

    /// Makes a symbolic link to a path of the tree.
    pub fn link(&self, path: &str, to: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        symlink(self.path(to), path).expect("symlink");
    }

    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("remove");
        } else {
            let _ = fs::remove_file(path);
        }
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect(path).trim_end().to_string()
    }

    pub fn fail(&self, part: &'static str, on_write: bool, errno: i32) {
        self.faults.borrow_mut().push(Fault { part, on_write, errno });
    }

    /// Every file of the tree with its bytes.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).expect("readdir") {
                let entry = entry.expect("entry");
                let kind = entry.file_type().expect("type");
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    files.insert(entry.path(), fs::read(entry.path()).expect("read"));
                }
            }
        }
        files
    }

    fn check(&self, what: &str, write: bool) -> io::Result<()> {
        if write {
            self.writes.borrow_mut().push(what.to_string());
        }
        let faults = self.faults.borrow();
        let fault = faults.iter().find(|f| f.on_write == write && what.contains(f.part));
        fault.map_or(Ok(()), |fault| Err(io::Error::from_raw_os_error(fault.errno)))
    }

    fn setting(&self, nic: &str, name: &str) -> io::Result<String> {
        self.check(&format!("ethtool {nic} {name}"), false)?;
        let text = fs::read_to_string(self.path(&format!("/ethtool/{nic}/{name}")));
        text.map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn set(&self, nic: &str, name: &str, value: &str) -> io::Result<()> {
        self.check(&format!("ethtool {nic} {name}"), true)?;
        self.setting(nic, name)?;
        fs::write(self.path(&format!("/ethtool/{nic}/{name}")), format!("{value}\n"))
    }

    fn online(&self) -> CpuSet {
        self.text("/sys/devices/system/cpu/online").parse().expect("online")
    }

    /// The kernel's way of printing a mask: as wide as the machine, the first group short.
    pub fn mask(&self, set: &CpuSet) -> String {
        let cpus = self.online().len() as u32;
        let digits = cpus.div_ceil(4) as usize + (cpus.div_ceil(32) as usize - 1);
        let wide = set.to_mask(cpus);
        wide[wide.len() - digits..].to_string()
    }

    pub fn all_cpus_mask(&self) -> String {
        self.mask(&self.online())
    }

    /// Makes a receive or transmit queue as the kernel makes a new one.
    pub fn make_queue(&self, nic: &str, queue: &str) {
        let base = format!("/sys/class/net/{nic}/queues/{queue}");
        let none = self.mask(&CpuSet::new());
        if queue.starts_with("rx-") {
            self.put(&format!("{base}/rps_cpus"), &none);
            self.put(&format!("{base}/rps_flow_cnt"), "0");
        } else {
            self.put(&format!("{base}/xps_cpus"), &none);
        }
    }

    /// Makes an interrupt, spread over all CPUs, listed among the device's own.
    pub fn make_irq(&self, irq: u32, action: &str, msi_of: Option<&str>) {
        self.put(&format!("/sys/kernel/irq/{irq}/actions"), action);
        self.put(&format!("/proc/irq/{irq}/smp_affinity"), &self.all_cpus_mask());
        self.put(
            &format!("/proc/irq/{irq}/effective_affinity"),
            &self.mask(&[0].into_iter().collect()),
        );
        if let Some(directory) = msi_of {
            self.put(&format!("{directory}/msi_irqs/{irq}"), "msix");
        }
    }

    fn drop_irq(&self, irq: u32, msi_of: Option<&str>) {
        self.remove(&format!("/sys/kernel/irq/{irq}"));
        self.remove(&format!("/proc/irq/{irq}"));
        if let Some(directory) = msi_of {
            self.remove(&format!("{directory}/msi_irqs/{irq}"));
        }
    }

    fn write_mask(&self, path: &str, value: &str) -> io::Result<()> {
        let set =
            CpuSet::from_mask(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let groups = self.text(path).split(',').count();
        if value.split(',').count() > groups {
            return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
        }
        let set = set.intersection(&self.online());
        if path.ends_with("smp_affinity") {
            if set.is_empty() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            let effective = path.replace("smp_affinity", "effective_affinity");
            let one = set.iter().take(1).collect();
            match self.quiet_for.get() {
                0 => self.put(&effective, &self.mask(&one)),
                _ => self.moved.borrow_mut().push((effective, self.mask(&one))),
            }
        }
        fs::write(self.path(path), format!("{}\n", self.mask(&set)))
    }

    /// What a driver does on `ethtool -L`: queues go and come, and with them their interrupts;
    /// the hash table is made anew.
    fn resize(&self, nic: &str, from: u32, to: u32) {
        for queue in to..from {
            for kind in ["rx", "tx"] {
                self.remove(&format!("/sys/class/net/{nic}/queues/{kind}-{queue}"));
            }
        }
        for queue in from..to {
            for kind in ["rx", "tx"] {
                self.make_queue(nic, &format!("{kind}-{queue}"));
            }
        }
        if let Ok(template) = self.setting(nic, "irq-template") {
            let (base, rest) = template.trim().split_once(' ').expect("template");
            let base: u32 = base.parse().expect("base");
            let (action, msi) = rest.split_once(' ').map_or((rest, None), |(a, m)| (a, Some(m)));
            (to..from).for_each(|queue| self.drop_irq(base + queue, msi));
            for queue in from..to {
                self.make_irq(base + queue, &action.replace("{}", &queue.to_string()), msi);
            }
        }
        if let Ok(table) = self.setting(nic, "rss") {
            let len = table.split_ascii_whitespace().count() as u32;
            let even: Vec<String> = (0..len).map(|entry| (entry % to).to_string()).collect();
            self.put(&format!("/ethtool/{nic}/rss"), &even.join(" "));
        }
    }
}

impl Host for TreeHost {
    fn read(&self, path: &str) -> io::Result<String> {
        self.check(path, false)?;
        Ok(fs::read_to_string(self.path(path))?.trim_end().to_string())
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        self.check(path, true)?;
        if !self.path(path).is_file() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        match path.rsplit('/').next() {
            Some("smp_affinity" | "rps_cpus" | "xps_cpus") => self.write_mask(path, value),
            Some("rps_flow_cnt") => {
                let count: u32 = value.parse().expect("count");
                let rounded = if count == 0 { 0 } else { count.next_power_of_two() };
                fs::write(self.path(path), format!("{rounded}\n"))
            }
            _ => fs::write(self.path(path), format!("{value}\n")),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.check(path, false)?;
        let entries = fs::read_dir(self.path(path))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn real(&self, path: &str) -> io::Result<String> {
        let real = fs::canonicalize(self.path(path))?;
        let below = real.strip_prefix(&self.root).expect("inside the tree");
        Ok(format!("/{}", below.display()))
    }

    fn channels(&self, nic: &str) -> io::Result<Channels> {
        Ok(serde_json::from_str(&self.setting(nic, "channels")?)?)
    }

    fn set_channels(&self, nic: &str, wanted: &Channels) -> io::Result<()> {
        let now = self.channels(nic)?;
        if wanted.combined > now.combined_max || wanted.rx > now.rx_max || wanted.tx > now.tx_max {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let new = Channels { rx: wanted.rx, tx: wanted.tx, combined: wanted.combined, ..now };
        self.set(nic, "channels", &serde_json::to_string(&new)?)?;
        self.resize(nic, now.combined + now.rx, new.combined + new.rx);
        Ok(())
    }

    fn rings(&self, nic: &str) -> io::Result<Rings> {
        Ok(serde_json::from_str(&self.setting(nic, "rings")?)?)
    }

    fn set_rings(&self, nic: &str, rings: &Rings) -> io::Result<()> {
        let now = self.rings(nic)?;
        if rings.rx > now.rx_max || rings.tx > now.tx_max {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // Drivers round to what their hardware can do.
        let round = |size: u32| size.div_ceil(8) * 8;
        let new = Rings { rx: round(rings.rx), tx: round(rings.tx), ..now };
        self.set(nic, "rings", &serde_json::to_string(&new)?)
    }

    fn coalesce(&self, nic: &str, field: CoalesceField) -> io::Result<u32> {
        let all: BTreeMap<String, u32> = serde_json::from_str(&self.setting(nic, "coalesce")?)?;
        all.get(field.name()).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn set_coalesce(&self, nic: &str, field: CoalesceField, value: u32) -> io::Result<()> {
        let mut all: BTreeMap<String, u32> = serde_json::from_str(&self.setting(nic, "coalesce")?)?;
        all.insert(field.name().to_string(), value);
        self.set(nic, "coalesce", &serde_json::to_string(&all)?)
    }

    fn features(&self, nic: &str) -> io::Result<Vec<Feature>> {
        Ok(serde_json::from_str(&self.setting(nic, "features")?)?)
    }

    fn set_feature(&self, nic: &str, name: &str, on: bool) -> io::Result<()> {
        let mut features = self.features(nic)?;
        let feature = features.iter_mut().find(|feature| feature.name == name);
        let feature = feature.filter(|feature| feature.changeable);
        feature.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?.on = on;
        self.set(nic, "features", &serde_json::to_string(&features)?)
    }

    fn rss_table(&self, nic: &str) -> io::Result<Vec<u32>> {
        let text = self.setting(nic, "rss")?;
        Ok(text.split_ascii_whitespace().map(|entry| entry.parse().expect("entry")).collect())
    }

    fn set_rss_table(&self, nic: &str, table: &[u32]) -> io::Result<()> {
        let queues = self.list(&format!("/sys/class/net/{nic}/queues"))?;
        let queues = queues.iter().filter(|name| name.starts_with("rx-")).count() as u32;
        if table.iter().any(|&queue| queue >= queues) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let text: Vec<String> = table.iter().map(u32::to_string).collect();
        self.set(nic, "rss", &text.join(" "))
    }

    /// The netdev family of a device whose driver names the interrupts of its queues: those of
    /// the template, as they are now.
    fn napis(&self, ifindex: u32) -> io::Result<Vec<Napi>> {
        for nic in self.list("/ethtool").unwrap_or_default() {
            let index = self.read(&format!("/sys/class/net/{nic}/ifindex"))?;
            if index != ifindex.to_string() || self.setting(&nic, "netdev").is_err() {
                continue;
            }
            let names_irqs = self.setting(&nic, "netdev")?.trim() == "irq";
            let template = self.setting(&nic, "irq-template")?;
            let base: u32 = template.split(' ').next().expect("base").parse().expect("base");
            let queues = self.list(&format!("/sys/class/net/{nic}/queues"))?;
            let queues = queues.iter().filter_map(|name| name.strip_prefix("rx-")?.parse().ok());
            return Ok(queues
                .map(|queue: u32| Napi {
                    id: 8000 + queue,
                    irq: names_irqs.then_some(base + queue),
                    rx_queues: vec![queue],
                    tx_queues: vec![queue],
                })
                .collect());
        }
        Ok(Vec::new())
    }

    fn napi_setting(&self, id: u32, field: NapiField) -> io::Result<u32> {
        let text = self.read(&format!("/napi/{id}-{}", field.name()));
        text.map_or(Ok(0), |text| Ok(text.parse().expect("number")))
    }

    fn set_napi(&self, id: u32, field: NapiField, value: u32) -> io::Result<()> {
        self.check(&format!("napi {id}"), true)?;
        match value {
            0 => self.remove(&format!("/napi/{id}-{}", field.name())),
            _ => self.put(&format!("/napi/{id}-{}", field.name()), &value.to_string()),
        }
        Ok(())
    }

    fn qdiscs(&self, ifindex: u32) -> io::Result<Qdiscs> {
        for nic in self.list("/ethtool").unwrap_or_default() {
            if self.read(&format!("/sys/class/net/{nic}/ifindex"))? == ifindex.to_string() {
                return Ok(serde_json::from_str(&self.setting(&nic, "qdiscs")?)?);
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// The kernel tells them to few: here to those who have put some.
    fn audit_rules(&self) -> io::Result<Vec<audit::Rule>> {
        let text = self.read("/audit-rules");
        let text = text.map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn irq_bans(&self) -> io::Result<Option<BTreeSet<u32>>> {
        match self.read("/irqbalance") {
            Ok(list) => ember_sysctl::target::parse_number_list(&list).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ban_irqs(&self, irqs: &BTreeSet<u32>) -> io::Result<()> {
        self.write("/irqbalance", &ember_sysctl::target::number_list(irqs))
    }

    fn session_nics(&self) -> Vec<String> {
        let text = self.read("/sessions").unwrap_or_default();
        text.split_ascii_whitespace().map(str::to_string).collect()
    }

    fn pause(&self, _time: Duration) {
        self.quiet_for.set(self.quiet_for.get().saturating_sub(1));
        if self.quiet_for.get() == 0 {
            self.moved.take().iter().for_each(|(path, mask)| self.put(path, mask));
        }
    }

    fn step(&self, _what: &str) {
        self.steps.set(self.steps.get() + 1);
        if self.kill_at == Some(self.steps.get()) {
            kill(Pid::this(), Signal::SIGKILL).expect("kill");
        }
    }
}
