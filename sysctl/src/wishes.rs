//! What an operator asks of the tuner: the `[tune]` section of the config, and its options.

use std::collections::BTreeMap;

use ember_affinity::CpuSet;

use crate::ethtool::CoalesceField;
use crate::irqs::Role;
use crate::netdev::NapiField;

/// What is asked. The default tunes what is safe on any host and leaves the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The interfaces that requests come in by; empty: those of the default routes.
    pub nics: Vec<String>,
    /// Just these groups, sysctls or knob keys; empty: all.
    pub only: Vec<String>,
    /// Not these groups, sysctls or knob keys.
    pub skip: Vec<String>,
    /// Another value for a sysctl than the plan's own, or a further sysctl.
    pub sysctl: BTreeMap<String, String>,
    /// Offloads to turn on or off besides the plan's own, by the kernel's names.
    pub features: BTreeMap<String, bool>,
    /// How many queues.
    pub channels: ChannelsWish,
    /// Receive descriptors; none: leave them.
    pub ring_rx: Option<u32>,
    /// Transmit descriptors; none: leave them.
    pub ring_tx: Option<u32>,
    /// Coalescing settings; those not named are left.
    pub coalesce: BTreeMap<CoalesceField, u32>,
    /// Per-NAPI busy-poll settings; those not named are left.
    pub busy_poll: BTreeMap<NapiField, u32>,
    /// Frequency governor of the workers' CPUs; none: leave it.
    pub governor: Option<String>,
    /// Whether NICs shall move flows to their workers' queues by themselves.
    pub arfs: bool,
    /// Other values for single knobs of a NIC, by key: CPU lists for `eth0:irq-rx-3` and its
    /// like, numbers for `eth0:rfs-3`.
    pub own: BTreeMap<String, Own>,
    /// Size of the flow table where packets are spread by software; none: 32768.
    pub rps_flow_entries: Option<u32>,
}

/// A value for a single knob of a NIC's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The interface.
    pub nic: String,
    /// Which of its queues.
    pub queue: u32,
    /// What of it.
    pub item: OwnItem,
}

/// What can be given another value for a single queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnItem {
    /// The CPUs of its interrupt.
    Irq(Role, CpuSet),
    /// The CPUs to spread over.
    Rps(CpuSet),
    /// The size of its flow table.
    RpsFlows(u32),
    /// The CPUs that send by it.
    Xps(CpuSet),
}

/// How many queues a NIC shall have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelsWish {
    /// One a worker thread; left alone where the operator's own session goes over the NIC.
    #[default]
    Auto,
    /// One a worker thread, whatever goes over the NIC.
    Always,
    /// As they are.
    Keep,
    /// So many.
    Count(u32),
}

/// The word that leaves an item of the plan out.
const SKIP: &str = "skip";
/// The word for no CPU at all, which turns spreading off.
const NO_CPUS: &str = "none";

impl Wishes {
    /// Takes one entry of `[tune] set`: an item of the plan and its value, or `skip`.
    ///
    /// # Errors
    /// In words, for a value that the item cannot have.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if value == SKIP {
            self.skip.push(name.to_string());
            return Ok(());
        }
        let number = || {
            let wrong = |_| format!("{name}: {value:?} is neither a number nor \"skip\"");
            value.parse::<u32>().map_err(wrong)
        };
        match name {
            "channels" => self.channels = value.parse()?,
            "ring-rx" => self.ring_rx = Some(number()?),
            "ring-tx" => self.ring_tx = Some(number()?),
            "rps-flow-entries" => self.rps_flow_entries = Some(number()?),
            "arfs" => self.arfs = on_or_off(name, value)?,
            "governor" => self.governor = Some(value.to_string()),
            _ if let Some(field) = name.strip_prefix("coalesce-") => {
                let known = CoalesceField::ALL.into_iter().find(|known| known.name() == field);
                let names = || CoalesceField::ALL.map(CoalesceField::name).join(", ");
                let field = known.ok_or_else(|| format!("{name}: it is one of {}", names()))?;
                self.coalesce.insert(field, number()?);
            }
            _ if let Some(field) = name.strip_prefix("busypoll-") => {
                let known = NapiField::ALL.into_iter().find(|known| known.name() == field);
                let names = || NapiField::ALL.map(NapiField::name).join(", ");
                let field = known.ok_or_else(|| format!("{name}: it is one of {}", names()))?;
                self.busy_poll.insert(field, number()?);
            }
            _ if let Some(feature) = name.strip_prefix("feature-") => {
                self.features.insert(feature.to_string(), on_or_off(name, value)?);
            }
            _ if let Some((nic, item)) = name.split_once(':') => {
                let own = Own::parse(nic, item, value).map_err(|why| format!("{name}: {why}"))?;
                self.own.insert(name.to_string(), own);
            }
            _ if name.contains('.') && !name.contains('/') => {
                self.sysctl.insert(name.to_string(), value.to_string());
            }
            _ => {
                return Err(format!(
                    "{name}: the plan has no such item that could be given a value; sysctls go by \
                     their dotted names, and any group or key can be set to \"skip\""
                ));
            }
        }
        Ok(())
    }
}

impl Own {
    fn parse(nic: &str, item: &str, value: &str) -> Result<Own, String> {
        let unknown = || {
            "only irq-rx-N, irq-tx-N, rps-N, rfs-N and xps-N of a queue N take values of their \
             own; any key can be set to \"skip\""
                .to_string()
        };
        let (kind, queue) = item.rsplit_once('-').ok_or_else(unknown)?;
        let queue: u32 = queue.parse().map_err(|_| unknown())?;
        let cpus = || match value {
            NO_CPUS => Ok(CpuSet::new()),
            _ => match value.parse::<CpuSet>() {
                Ok(cpus) if !cpus.is_empty() => Ok(cpus),
                _ => Err(format!("{value:?} is neither a CPU list such as 0-3,8, none, nor skip")),
            },
        };
        let item = match kind {
            "irq-rx" | "irq-tx" => {
                let role = if kind == "irq-rx" { Role::Rx } else { Role::Tx };
                let cpus = cpus()?;
                if cpus.is_empty() {
                    return Err("an interrupt needs a CPU: give a CPU list such as 0-3,8".into());
                }
                OwnItem::Irq(role, cpus)
            }
            "rps" => OwnItem::Rps(cpus()?),
            "xps" => OwnItem::Xps(cpus()?),
            "rfs" => OwnItem::RpsFlows(
                value.parse().map_err(|_| format!("{value:?} is neither a number nor \"skip\""))?,
            ),
            _ => return Err(unknown()),
        };
        Ok(Own { nic: nic.to_string(), queue, item })
    }

    /// The CPUs that it names.
    pub fn cpus(&self) -> Option<&CpuSet> {
        match &self.item {
            OwnItem::Irq(_, cpus) | OwnItem::Rps(cpus) | OwnItem::Xps(cpus) => Some(cpus),
            OwnItem::RpsFlows(_) => None,
        }
    }

    /// The value as the knob has it.
    pub fn value(&self) -> String {
        match &self.item {
            OwnItem::Irq(_, cpus) | OwnItem::Rps(cpus) | OwnItem::Xps(cpus) => cpus.to_string(),
            // As the kernel rounds it, so that it reads back the same.
            OwnItem::RpsFlows(0) => "0".to_string(),
            OwnItem::RpsFlows(flows) => {
                flows.checked_next_power_of_two().unwrap_or(1 << 31).to_string()
            }
        }
    }
}

fn on_or_off(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name}: {value:?} is none of on, off, skip")),
    }
}

impl std::str::FromStr for ChannelsWish {
    type Err = String;

    fn from_str(text: &str) -> Result<ChannelsWish, String> {
        match text {
            "auto" => Ok(ChannelsWish::Auto),
            "always" => Ok(ChannelsWish::Always),
            "keep" => Ok(ChannelsWish::Keep),
            number => match number.parse() {
                Ok(count) if count > 0 => Ok(ChannelsWish::Count(count)),
                _ => Err(format!(
                    "channels: {text:?} is none of auto, always, keep, skip, or a number"
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_takes_its_values_and_no_others() {
        let mut wishes = Wishes::default();
        for (name, value) in [
            ("net.core.somaxconn", "4096"),
            ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
            ("channels", "8"),
            ("ring-rx", "4096"),
            ("coalesce-rx-usecs", "8"),
            ("busypoll-defer-hard-irqs", "2"),
            ("feature-rx-gro", "off"),
            ("governor", "performance"),
            ("rps-flow-entries", "65536"),
            ("xps", "skip"),
            ("eth0:irq-rx-3", "skip"),
            ("arfs", "on"),
            ("eth0:irq-rx-2", "3,2"),
            ("eth0.7:rps-0", "none"),
            ("eth0:rfs-1", "5000"),
            ("eth0:xps-11", "0-3"),
        ] {
            wishes.set(name, value).expect(name);
        }
        assert_eq!(wishes.sysctl["net.ipv4.tcp_rmem"], "4096 131072 6291456");
        assert_eq!((wishes.channels, wishes.ring_rx), (ChannelsWish::Count(8), Some(4096)));
        assert_eq!(wishes.coalesce[&CoalesceField::RxUsecs], 8);
        assert_eq!(wishes.busy_poll[&NapiField::DeferHardIrqs], 2);
        assert!(!wishes.features["rx-gro"]);
        assert_eq!(wishes.skip, ["xps", "eth0:irq-rx-3"]);
        assert!(wishes.arfs);
        let own = |key: &str| (wishes.own[key].queue, wishes.own[key].value());
        assert_eq!(own("eth0:irq-rx-2"), (2, "2-3".to_string()));
        assert_eq!(own("eth0.7:rps-0"), (0, String::new()));
        assert_eq!(own("eth0:rfs-1"), (1, "8192".to_string()));
        assert_eq!(own("eth0:xps-11"), (11, "0-3".to_string()));
        for (name, value) in [
            ("channels", "many"),
            ("channels", "0"),
            ("ring-rx", "big"),
            ("coalesce-sometimes", "8"),
            ("busypoll-x", "1"),
            ("feature-rx-gro", "1"),
            ("xps", "on"),
            ("arfs", "yes"),
            ("eth0:irq-rx-3", "none"),
            ("eth0:irq-rx-3", ""),
            ("eth0:irq-rx-3", "3-1"),
            ("eth0:irq-3", "1"),
            ("eth0:xps-x", "1"),
            ("eth0:rfs-0", "0-3"),
            ("eth0:channels", "4"),
            ("/proc/sys/net.core.somaxconn", "1"),
        ] {
            let error = wishes.set(name, value).expect_err(name);
            assert!(error.starts_with(name), "{error}");
        }
    }
}
