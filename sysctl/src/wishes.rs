//! What an operator asks of the tuner: the `[tune]` section of the config, and its options.

use std::collections::BTreeMap;

use crate::ethtool::CoalesceField;
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
    /// Size of the flow table where packets are spread by software; none: 32768.
    pub rps_flow_entries: Option<u32>,
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
                let on = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(format!("{name}: {value:?} is none of on, off, skip")),
                };
                self.features.insert(feature.to_string(), on);
            }
            _ if name.contains('.') && !name.contains([':', '/']) => {
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
        ] {
            wishes.set(name, value).expect(name);
        }
        assert_eq!(wishes.sysctl["net.ipv4.tcp_rmem"], "4096 131072 6291456");
        assert_eq!((wishes.channels, wishes.ring_rx), (ChannelsWish::Count(8), Some(4096)));
        assert_eq!(wishes.coalesce[&CoalesceField::RxUsecs], 8);
        assert_eq!(wishes.busy_poll[&NapiField::DeferHardIrqs], 2);
        assert!(!wishes.features["rx-gro"]);
        assert_eq!(wishes.skip, ["xps", "eth0:irq-rx-3"]);
        for (name, value) in [
            ("channels", "many"),
            ("channels", "0"),
            ("ring-rx", "big"),
            ("coalesce-sometimes", "8"),
            ("busypoll-x", "1"),
            ("feature-rx-gro", "1"),
            ("xps", "on"),
            ("eth0:irq-rx-3", "0-3"),
            ("/proc/sys/net.core.somaxconn", "1"),
        ] {
            let error = wishes.set(name, value).expect_err(name);
            assert!(error.starts_with(name), "{error}");
        }
    }
}
