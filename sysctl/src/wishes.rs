//! What an operator asks of the tuner: the `[tune]` section of the config.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ethtool::CoalesceField;

/// The `[tune]` section. The default tunes what TUNING.md calls safe and leaves the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wishes {
    /// The interfaces that requests come in by; empty: those of the default routes.
    pub nics: Vec<String>,
    /// Just these groups, sysctls or knob keys; empty: all.
    pub only: Vec<String>,
    /// Not these groups, sysctls or knob keys.
    pub skip: Vec<String>,
    /// Another value for a sysctl than the plan's own, or a further sysctl.
    pub sysctl: BTreeMap<String, SysctlValue>,
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
    /// Per-NAPI busy-poll settings; none: leave them.
    pub busy_poll: Option<BusyPoll>,
    /// Frequency governor of the workers' CPUs; none: leave it.
    pub governor: Option<String>,
    /// Size of the flow table where packets are spread by software; none: 32768.
    pub rps_flow_entries: Option<u32>,
}

/// A sysctl's value: a number, or a text where the kernel wants several numbers or a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlValue(pub String);

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

/// Interrupts off while the application polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusyPoll {
    /// Empty polls before interrupts are turned on again.
    pub defer_hard_irqs: u32,
    /// Nanoseconds after which polling goes on without an interrupt.
    pub gro_flush_timeout_ns: u32,
    /// Nanoseconds for which interrupts stay off while the application polls.
    #[serde(default)]
    pub irq_suspend_timeout_ns: u32,
}

impl Serialize for SysctlValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SysctlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SysctlValue, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = SysctlValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number or a text")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(value.to_string()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(value.to_string()))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<SysctlValue, E> {
                Ok(SysctlValue(value.to_string()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for ChannelsWish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ChannelsWish::Auto => serializer.serialize_str("auto"),
            ChannelsWish::Always => serializer.serialize_str("always"),
            ChannelsWish::Keep => serializer.serialize_str("keep"),
            ChannelsWish::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl<'de> Deserialize<'de> for ChannelsWish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChannelsWish, D::Error> {
        let SysctlValue(text) = SysctlValue::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
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
                _ => Err(format!("{text:?} is none of auto, always, keep, or a number")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_reads_and_writes_back() {
        let text = r#"{"nics":["eth0"],"skip":["xps"],"sysctl":{"net.core.somaxconn":4096,
            "net.ipv4.tcp_rmem":"4096 131072 6291456"},"channels":8,
            "coalesce":{"rx-usecs":8,"adaptive-rx":0}}"#;
        let wishes: Wishes = serde_json::from_str(text).expect("wishes");
        assert_eq!(wishes.channels, ChannelsWish::Count(8));
        assert_eq!(wishes.sysctl["net.core.somaxconn"], SysctlValue("4096".to_string()));
        assert_eq!(wishes.coalesce[&CoalesceField::AdaptiveRx], 0);
        let again = serde_json::to_string(&wishes).expect("text");
        assert_eq!(serde_json::from_str::<Wishes>(&again).expect("again"), wishes);
        assert!(serde_json::from_str::<Wishes>(r#"{"channels":"many"}"#).is_err());
        assert!(serde_json::from_str::<Wishes>(r#"{"nic":"eth0"}"#).is_err());
    }
}
