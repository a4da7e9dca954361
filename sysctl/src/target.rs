//! The knobs themselves: what identifies one, how it is read and written, and its value's one
//! canonical text, so that two values are the same exactly when their texts are.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use ember_affinity::CpuSet;
use serde::{Deserialize, Serialize};

use crate::ethtool::{Channels, CoalesceField};
use crate::host::Host;
use crate::irqs::{self, Device, QueueIrq, Role};
use crate::netdev::NapiField;
use crate::nic::DeviceId;

/// One knob of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A file below /proc/sys, by its dotted name.
    Sysctl(String),
    /// The frequency governor of a CPU.
    Governor(u32),
    /// The ban list of irqbalance.
    IrqBans,
    /// Something of a network device.
    Nic(DeviceId, NicKnob),
}

/// A knob of a network device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicKnob {
    /// How many queues: `rx 0 tx 0 combined 8`.
    Channels,
    /// The size of the receive rings.
    RxRing,
    /// The size of the transmit rings.
    TxRing,
    /// A coalescing setting.
    Coalesce(CoalesceField),
    /// An offload: `on` or `off`.
    Feature(String),
    /// The hash indirection table: `even 4 of 128`, or the queue of each entry.
    RssTable,
    /// The CPUs to spread a receive queue over.
    Rps(u32),
    /// The flow table of a receive queue.
    RpsFlows(u32),
    /// The CPUs that use a transmit queue.
    Xps(u32),
    /// The CPUs of a queue's interrupt, and where that was last seen.
    Irq(QueueId, Option<LastIrq>),
    /// A file in the device's directory in /sys.
    File(String),
    /// A setting of the NAPI instance that polls a receive queue.
    Napi(u32, NapiField),
}

/// A queue of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueId {
    /// Its direction.
    pub role: Role,
    /// Its number.
    pub queue: u32,
}

/// An interrupt as it was last seen. The action's name identifies it; the number is where to
/// look first, since drivers that ask for their interrupts again may get others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LastIrq {
    /// Its number then.
    pub irq: u32,
    /// Its action's name.
    pub action: String,
}

impl LastIrq {
    /// What is remembered of a queue's interrupt.
    pub fn of(irq: &QueueIrq) -> Option<LastIrq> {
        irq.action.as_ref().map(|action| LastIrq { irq: irq.irq, action: action.clone() })
    }

    fn number_now(&self, host: &dyn Host) -> Option<u32> {
        let here = irqs::actions(host, self.irq).contains(&self.action);
        if here { Some(self.irq) } else { irqs::irq_of_action(host, &self.action) }
    }
}

impl Target {
    /// The knob's short, stable name: in `--only`, `--skip`, the journal and the drift metric.
    pub fn key(&self) -> String {
        match self {
            Target::Sysctl(name) => name.clone(),
            Target::Governor(cpu) => format!("governor:cpu{cpu}"),
            Target::IrqBans => "irqbalance".to_string(),
            Target::Nic(device, knob) => format!("{}:{knob}", device.name),
        }
    }

    /// Where an operator finds it.
    pub fn place(&self, host: &dyn Host) -> String {
        match self {
            Target::Sysctl(name) => sysctl_path(name),
            Target::Governor(cpu) => governor_path(*cpu),
            Target::IrqBans => "irqbalance's socket".to_string(),
            Target::Nic(device, knob) => {
                let name = &device.name;
                match knob {
                    NicKnob::Channels => format!("ethtool -L {name}"),
                    NicKnob::RxRing | NicKnob::TxRing => format!("ethtool -G {name}"),
                    NicKnob::Coalesce(field) => format!("ethtool -C {name} {}", field.name()),
                    NicKnob::Feature(feature) => format!("ethtool -K {name} {feature}"),
                    NicKnob::RssTable => format!("ethtool -X {name}"),
                    NicKnob::Napi(..) => format!("netdev napi-set {name}"),
                    NicKnob::Irq(queue, last) => {
                        match find_irq(host, name, device.ifindex, *queue, last) {
                            Ok(irq) => affinity_path(irq),
                            Err(_) => format!("interrupt of {name} {knob}"),
                        }
                    }
                    NicKnob::Rps(_) | NicKnob::RpsFlows(_) | NicKnob::Xps(_) | NicKnob::File(_) => {
                        file_path(name, knob).unwrap_or_default()
                    }
                }
            }
        }
    }

    /// Reads the knob.
    ///
    /// # Errors
    /// `NotFound` where it is not there, and what the host says.
    pub fn read(&self, host: &dyn Host) -> io::Result<String> {
        match self {
            Target::Sysctl(name) => Ok(spaced(&host.read(&sysctl_path(name))?)),
            Target::Governor(cpu) => host.read(&governor_path(*cpu)),
            Target::IrqBans => match host.irq_bans()? {
                Some(irqs) => Ok(number_list(&irqs)),
                None => Err(not_found("irqbalance does not run")),
            },
            Target::Nic(device, knob) => knob.read(host, device),
        }
    }

    /// Writes the knob.
    ///
    /// # Errors
    /// What the host says, and `InvalidInput` for a text that is no value of this knob.
    pub fn write(&self, host: &dyn Host, value: &str) -> io::Result<()> {
        match self {
            Target::Sysctl(name) => host.write(&sysctl_path(name), value),
            Target::Governor(cpu) => host.write(&governor_path(*cpu), value),
            Target::IrqBans => host.ban_irqs(&parse_number_list(value)?),
            Target::Nic(device, knob) => knob.write(host, device, value),
        }
    }
}

impl NicKnob {
    fn read(&self, host: &dyn Host, device: &DeviceId) -> io::Result<String> {
        let name = &device.present_name(host)?;
        match self {
            NicKnob::Channels => Ok(channels_text(&host.channels(name)?)),
            NicKnob::RxRing => Ok(host.rings(name)?.rx.to_string()),
            NicKnob::TxRing => Ok(host.rings(name)?.tx.to_string()),
            NicKnob::Coalesce(field) => Ok(host.coalesce(name, *field)?.to_string()),
            NicKnob::Feature(feature) => {
                let features = host.features(name)?;
                let found = features.iter().find(|known| known.name == *feature);
                let found = found.ok_or_else(|| not_found("this kernel has no such feature"))?;
                Ok(if found.on { "on" } else { "off" }.to_string())
            }
            NicKnob::RssTable => Ok(rss_text(&host.rss_table(name)?)),
            NicKnob::Rps(_) | NicKnob::Xps(_) => read_mask(host, &file_path(name, self)?),
            NicKnob::Irq(queue, last) => {
                let irq = find_irq(host, name, device.ifindex, *queue, last)?;
                read_mask(host, &affinity_path(irq))
            }
            NicKnob::RpsFlows(_) | NicKnob::File(_) => host.read(&file_path(name, self)?),
            NicKnob::Napi(queue, field) => {
                Ok(host.napi_setting(napi_of(host, device, *queue)?, *field)?.to_string())
            }
        }
    }

    fn write(&self, host: &dyn Host, device: &DeviceId, value: &str) -> io::Result<()> {
        let name = &device.present_name(host)?;
        match self {
            NicKnob::Channels => {
                let wanted = parse_channels(value)?;
                host.set_channels(name, &wanted)
            }
            NicKnob::RxRing => {
                let rings = host.rings(name)?;
                host.set_rings(name, &crate::ethtool::Rings { rx: parse(value)?, ..rings })
            }
            NicKnob::TxRing => {
                let rings = host.rings(name)?;
                host.set_rings(name, &crate::ethtool::Rings { tx: parse(value)?, ..rings })
            }
            NicKnob::Coalesce(field) => host.set_coalesce(name, *field, parse(value)?),
            NicKnob::Feature(feature) => host.set_feature(name, feature, value == "on"),
            NicKnob::RssTable => host.set_rss_table(name, &parse_rss(value)?),
            NicKnob::Rps(_) | NicKnob::Xps(_) => write_mask(host, &file_path(name, self)?, value),
            NicKnob::Irq(queue, last) => {
                let irq = find_irq(host, name, device.ifindex, *queue, last)?;
                write_mask(host, &affinity_path(irq), value)
            }
            NicKnob::RpsFlows(_) | NicKnob::File(_) => host.write(&file_path(name, self)?, value),
            NicKnob::Napi(queue, field) => {
                host.set_napi(napi_of(host, device, *queue)?, *field, parse(value)?)
            }
        }
    }
}

impl fmt::Display for NicKnob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NicKnob::Channels => write!(f, "channels"),
            NicKnob::RxRing => write!(f, "ring-rx"),
            NicKnob::TxRing => write!(f, "ring-tx"),
            NicKnob::Coalesce(field) => write!(f, "coalesce-{}", field.name()),
            NicKnob::Feature(feature) => write!(f, "feature-{feature}"),
            NicKnob::RssTable => write!(f, "rss"),
            NicKnob::Rps(queue) => write!(f, "rps-{queue}"),
            NicKnob::RpsFlows(queue) => write!(f, "rfs-{queue}"),
            NicKnob::Xps(queue) => write!(f, "xps-{queue}"),
            NicKnob::Irq(QueueId { role: Role::Rx, queue }, _) => write!(f, "irq-rx-{queue}"),
            NicKnob::Irq(QueueId { role: Role::Tx, queue }, _) => write!(f, "irq-tx-{queue}"),
            NicKnob::File(file) => write!(f, "{file}"),
            NicKnob::Napi(queue, field) => write!(f, "napi-{queue}-{}", field.name()),
        }
    }
}

/// The text of channels as knobs hold them.
pub fn channels_text(channels: &Channels) -> String {
    format!("rx {} tx {} combined {}", channels.rx, channels.tx, channels.combined)
}

/// The text of a hash indirection table; an even spread has a short one.
pub fn rss_text(table: &[u32]) -> String {
    let queues = table.iter().max().map_or(0, |most| most + 1);
    match even_table(queues, table.len()) == table {
        true => format!("even {queues} of {}", table.len()),
        false => table.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// A table that spreads evenly over the first queues.
pub fn even_table(queues: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|entry| entry % queues.max(1)).collect()
}

/// The text of a set of interrupts.
pub fn number_list(numbers: &BTreeSet<u32>) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Reads the text of a set of interrupts.
///
/// # Errors
/// `InvalidInput` for anything else.
pub fn parse_number_list(text: &str) -> io::Result<BTreeSet<u32>> {
    text.split_ascii_whitespace().map(parse).collect()
}

/// The file of a sysctl.
pub fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// The file of an interrupt's affinity.
pub(crate) fn affinity_path(irq: u32) -> String {
    format!("/proc/irq/{irq}/smp_affinity")
}

/// The number that the interrupt of a queue has now.
pub(crate) fn find_irq(
    host: &dyn Host,
    name: &str,
    ifindex: u32,
    queue: QueueId,
    last: &Option<LastIrq>,
) -> io::Result<u32> {
    if let Some(irq) = last.as_ref().and_then(|last| last.number_now(host)) {
        return Ok(irq);
    }
    let directory = host.real(&format!("/sys/class/net/{name}/device"));
    let device = Device { name, ifindex, directory: directory.as_deref().ok() };
    let irqs = irqs::queue_irqs(host, device);
    let found = irqs.iter().find(|irq| irq.id() == queue);
    found.map(|irq| irq.irq).ok_or_else(|| not_found("the queue has no interrupt now"))
}

fn governor_path(cpu: u32) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")
}

fn file_path(name: &str, knob: &NicKnob) -> io::Result<String> {
    let base = format!("/sys/class/net/{name}");
    match knob {
        NicKnob::Rps(queue) => Ok(format!("{base}/queues/rx-{queue}/rps_cpus")),
        NicKnob::RpsFlows(queue) => Ok(format!("{base}/queues/rx-{queue}/rps_flow_cnt")),
        NicKnob::Xps(queue) => Ok(format!("{base}/queues/tx-{queue}/xps_cpus")),
        NicKnob::File(file) => Ok(format!("{base}/{file}")),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

fn napi_of(host: &dyn Host, device: &DeviceId, queue: u32) -> io::Result<u32> {
    let napis = host.napis(device.ifindex)?;
    // Drivers that do not say which instance polls which queue (veth) have them in order; all
    // queues get the same settings, so no more than the count matters.
    let untold = napis.iter().all(|napi| napi.rx_queues.is_empty());
    let found = match untold {
        true => napis.get(queue as usize),
        false => napis.iter().find(|napi| napi.rx_queues.contains(&queue)),
    };
    found.map(|napi| napi.id).ok_or_else(|| not_found("the queue has no NAPI instance now"))
}

/// Masks are kept as CPU lists, whatever width the kernel prints them in.
fn read_mask(host: &dyn Host, path: &str) -> io::Result<String> {
    let text = host.read(path)?;
    let set = CpuSet::from_mask(&text).map_err(|error| invalid(&error.to_string()))?;
    Ok(set.to_string())
}

/// Writes as many 32-bit groups as the kernel prints: a mask that is wider than its count of
/// CPUs is answered with EOVERFLOW.
fn write_mask(host: &dyn Host, path: &str, list: &str) -> io::Result<()> {
    let set: CpuSet = list.parse().map_err(|_| invalid("not a CPU list"))?;
    let groups = host.read(path)?.split(',').count();
    host.write(path, &set.to_mask(groups as u32 * 32))
}

fn parse_channels(text: &str) -> io::Result<Channels> {
    match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["rx", rx, "tx", tx, "combined", combined] => Ok(Channels {
            rx: parse(rx)?,
            tx: parse(tx)?,
            combined: parse(combined)?,
            ..Channels::default()
        }),
        _ => Err(invalid("not channel counts")),
    }
}

fn parse_rss(text: &str) -> io::Result<Vec<u32>> {
    match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
        ["even", queues, "of", len] => Ok(even_table(parse(queues)?, parse::<usize>(len)?)),
        ref entries => entries.iter().map(|entry| parse(entry)).collect(),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| invalid("not a number"))
}

/// The kernel separates the numbers of a sysctl by tabs and takes spaces.
fn spaced(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn not_found(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, why.to_string())
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_one_text_that_reads_back() {
        for table in [vec![0, 1, 2, 3, 0, 1, 2, 3], vec![0, 0, 0], vec![2, 1, 0], vec![]] {
            assert_eq!(parse_rss(&rss_text(&table)).expect("table"), table);
        }
        assert_eq!(rss_text(&even_table(3, 128)), "even 3 of 128");
        let channels = Channels { combined: 8, ..Channels::default() };
        assert_eq!(parse_channels(&channels_text(&channels)).expect("channels"), channels);
        assert!(parse_channels("combined 8").is_err());
        let irqs = BTreeSet::from([40, 9]);
        assert_eq!(number_list(&irqs), "9 40");
        assert_eq!(parse_number_list("9 40").expect("list"), irqs);
        assert!(parse_number_list("9,x").is_err());
    }
}
